package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	cometcrypto "github.com/cometbft/cometbft/crypto"
	"github.com/cometbft/cometbft/libs/protoio"
	"github.com/cometbft/cometbft/privval"
	cometproto "github.com/cometbft/cometbft/proto/tendermint/types"
	comettypes "github.com/cometbft/cometbft/types"
)

// signer is a validator's key with the protection against signing twice: nothing is signed for a height, round and step
// below the last, and at the same place only the same again. It decides as CometBFT's own privval.FilePV does, whose
// comparison of places it uses; what it does in another way is how the last place gets to the disk, since that is waited
// for three times in each block. CometBFT writes a new file, syncs it twice and renames it, which makes the file system
// commit its journal each time; this one overwrites a place in a file of constant size and syncs the data (measured: a
// quarter of the time, and less for whoever else syncs at that moment; docs/benchmarks.md).
//
// The file has two slots, written in turn. Crash story: a record is on disk before its signature is given away. A crash
// while one slot is written leaves the other, which holds the signature given away last; the torn one fails its check and
// is of a signature nobody has seen. docs/format/sign-state.md describes the bytes.
type signer struct {
	key cometcrypto.PrivKey

	mu   sync.Mutex
	name string
	file *os.File // guarded by mu, as all below; nil once closed
	next uint64   // number of the record to be written next; its slot is the number's parity
	last privval.FilePVLastSignState
}

const signSlot = 4096 // bytes of a slot: a page, so that overwriting one reads and writes nothing of the other

// signRecord is a slot's content: the fields of CometBFT's priv_validator_state.json, the record's number, and at the end
// a check that this type does not have, see encode.
type signRecord struct {
	Number    uint64 `json:"number"`
	Height    int64  `json:"height"`
	Round     int32  `json:"round"`
	Step      int8   `json:"step"`
	Signature []byte `json:"signature,omitempty"`
	SignBytes []byte `json:"sign_bytes,omitempty"`
}

const signCheck = `,"check":"`

// encode returns the record as a slot's bytes: JSON whose last member is the SHA-256 of all before it, then spaces and a
// line feed.
func (r signRecord) encode() ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	text = text[:len(text)-1]
	sum := sha256.Sum256(text)
	text = fmt.Appendf(text, "%s%x\"}", signCheck, sum)
	if len(text) >= signSlot {
		return nil, fmt.Errorf("a record of %d bytes does not fit into a slot of %d", len(text), signSlot)
	}
	slot := bytes.Repeat([]byte{' '}, signSlot)
	copy(slot, text)
	slot[signSlot-1] = '\n'
	return slot, nil
}

// decodeSignRecord reads a slot; ok is false if it is not what encode has written, which an empty slot is not either.
func decodeSignRecord(slot []byte) (r signRecord, ok bool) {
	text := bytes.TrimRight(slot, " \n")
	at := bytes.LastIndex(text, []byte(signCheck))
	if at < 0 {
		return r, false
	}
	sum := sha256.Sum256(text[:at])
	if string(text[at+len(signCheck):]) != hex.EncodeToString(sum[:])+`"}` {
		return r, false
	}
	return r, json.Unmarshal(append(text[:at:at], '}'), &r) == nil
}

// createSigner makes the file name, which is to hold the place given, and opens it. A file of that name is replaced in one
// atomic step.
func createSigner(key cometcrypto.PrivKey, name string, last privval.FilePVLastSignState) (*signer, error) {
	first, err := signRecord{Height: last.Height, Round: last.Round, Step: last.Step, Signature: last.Signature, SignBytes: last.SignBytes}.encode()
	if err != nil {
		return nil, err
	}
	empty := bytes.Repeat([]byte{' '}, signSlot)
	empty[signSlot-1] = '\n'
	if err := writeFile(name, append(first, empty...), 0o600); err != nil {
		return nil, err
	}
	return openSigner(key, name)
}

// openSigner opens a file that createSigner has made.
func openSigner(key cometcrypto.PrivKey, name string) (*signer, error) {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	s := &signer{key: key, name: name, file: file}
	if err := s.read(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return s, nil
}

// read finds the newest record that is whole.
func (s *signer) read() error {
	text := make([]byte, 2*signSlot+1)
	n, err := s.file.ReadAt(text, 0)
	if n != 2*signSlot { // an error, or another size
		return fmt.Errorf("not a file of two slots (%d bytes, %v)", n, err)
	}
	found := false
	for i := range uint64(2) {
		r, ok := decodeSignRecord(text[i*signSlot : (i+1)*signSlot])
		if !ok || r.Number%2 != i || found && r.Number < s.next {
			continue
		}
		found, s.next = true, r.Number+1
		s.last = privval.FilePVLastSignState{Height: r.Height, Round: r.Round, Step: r.Step, Signature: r.Signature, SignBytes: r.SignBytes}
	}
	if !found {
		return errors.New("neither slot holds a whole record: what was signed last is not known")
	}
	return nil
}

// GetPubKey implements comettypes.PrivValidator.
func (s *signer) GetPubKey() (cometcrypto.PubKey, error) { return s.key.PubKey(), nil }

// The steps of a round in the order in which they are signed, as CometBFT numbers them.
const (
	stepPropose   int8 = 1
	stepPrevote   int8 = 2
	stepPrecommit int8 = 3
)

// SignVote implements comettypes.PrivValidator. A vote for the place that was signed last gets the signature, and the
// time, that were given then, if nothing else differs.
func (s *signer) SignVote(chainID string, vote *cometproto.Vote) error {
	step := stepPrevote
	switch vote.Type {
	case cometproto.PrevoteType:
	case cometproto.PrecommitType:
		step = stepPrecommit
	default:
		return fmt.Errorf("signing a vote: unknown type %d", vote.Type)
	}
	if len(vote.Extension) > 0 {
		return errors.New("signing a vote: it has an extension, and no Tandem network has those")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text := comettypes.VoteSignBytes(chainID, vote)
	again, err := s.last.CheckHRS(vote.Height, vote.Round, step)
	if err != nil {
		return fmt.Errorf("signing a vote: %w", err)
	}
	if !again {
		vote.Signature, err = s.sign(vote.Height, vote.Round, step, text)
		return err
	}
	var then, now cometproto.CanonicalVote
	if err := errors.Join(protoio.UnmarshalDelimited(s.last.SignBytes, &then), protoio.UnmarshalDelimited(text, &now)); err != nil {
		return fmt.Errorf("signing a vote: %w", err)
	}
	now.Timestamp = then.Timestamp
	if text, err := protoio.MarshalDelimited(&now); err != nil || !bytes.Equal(text, s.last.SignBytes) {
		return fmt.Errorf("signing a vote: another was signed at height %d, round %d, step %d", vote.Height, vote.Round, step)
	}
	vote.Timestamp, vote.Signature = then.Timestamp, s.last.Signature
	return nil
}

// SignProposal implements comettypes.PrivValidator, as SignVote does for votes.
func (s *signer) SignProposal(chainID string, proposal *cometproto.Proposal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := comettypes.ProposalSignBytes(chainID, proposal)
	again, err := s.last.CheckHRS(proposal.Height, proposal.Round, stepPropose)
	if err != nil {
		return fmt.Errorf("signing a proposal: %w", err)
	}
	if !again {
		proposal.Signature, err = s.sign(proposal.Height, proposal.Round, stepPropose, text)
		return err
	}
	var then, now cometproto.CanonicalProposal
	if err := errors.Join(protoio.UnmarshalDelimited(s.last.SignBytes, &then), protoio.UnmarshalDelimited(text, &now)); err != nil {
		return fmt.Errorf("signing a proposal: %w", err)
	}
	now.Timestamp = then.Timestamp
	if text, err := protoio.MarshalDelimited(&now); err != nil || !bytes.Equal(text, s.last.SignBytes) {
		return fmt.Errorf("signing a proposal: another was signed at height %d, round %d", proposal.Height, proposal.Round)
	}
	proposal.Timestamp, proposal.Signature = then.Timestamp, s.last.Signature
	return nil
}

// sign signs text, and gives the signature away only when it is on disk. The caller holds mu.
//
// A validator that cannot note down what it signs panics, as CometBFT's own does: the engine would take an error for a
// reason not to vote this time and go on. Its consensus goroutine turns the panic into the failure that halts the node.
func (s *signer) sign(height int64, round int32, step int8, text []byte) ([]byte, error) {
	if s.file == nil {
		return nil, errors.New("the validator has stopped")
	}
	signature, err := s.key.Sign(text)
	if err != nil {
		return nil, err
	}
	if err := s.note(signRecord{Number: s.next, Height: height, Round: round, Step: step, Signature: signature, SignBytes: text}); err != nil {
		panic(fmt.Sprintf("what was signed last cannot be noted down in %s: %v", s.name, err))
	}
	s.next++
	s.last.Height, s.last.Round, s.last.Step, s.last.Signature, s.last.SignBytes = height, round, step, signature, text
	return signature, nil
}

// note writes a record into its slot and waits until it is on disk.
func (s *signer) note(r signRecord) error {
	slot, err := r.encode()
	if err != nil {
		return err
	}
	// Written to a file that somebody has moved away or replaced, a record would not be found at the next start.
	own, err := s.file.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(s.name)
	if err != nil {
		return err
	}
	if !os.SameFile(own, named) {
		return errors.New("another file lies in its place")
	}
	if _, err := s.file.WriteAt(slot, int64(r.Number%2)*signSlot); err != nil {
		return err
	}
	return syncData(s.file)
}

// close closes the file; from now on nothing is signed any more. It may be called more than once.
func (s *signer) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	file := s.file
	s.file = nil
	return file.Close()
}
