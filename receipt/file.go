package receipt

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	cmtversion "github.com/cometbft/cometbft/proto/tendermint/version"
	"github.com/cometbft/cometbft/types"

	"tandem/internal/wire"
)

// Format is the first member of every receipt file; a new version of the format gets a new one.
const Format = "tandem receipt 1"

// MaxSize bounds a receipt file, in bytes.
const MaxSize = 512 << 20

// file is the receipt file. Its members stand in this order; docs/format/receipt.md describes them.
type file struct {
	Format      string   `json:"format"`
	Header      header   `json:"header"`
	Commit      commit   `json:"commit"`
	Path        []turn   `json:"path"`
	Transaction []byte   `json:"transaction"`
	Bodies      [][]byte `json:"bodies"`
}

// header is the CometBFT block header; its hash covers every member.
type header struct {
	BlockVersion       uint64    `json:"block_version"`
	AppVersion         uint64    `json:"app_version"`
	ChainID            string    `json:"chain_id"`
	Height             int64     `json:"height"`
	Time               time.Time `json:"time"`
	LastBlockHash      hexBytes  `json:"last_block_hash"`
	LastBlockParts     parts     `json:"last_block_parts"`
	LastCommitHash     hexBytes  `json:"last_commit_hash"`
	DataHash           hexBytes  `json:"data_hash"`
	ValidatorsHash     hexBytes  `json:"validators_hash"`
	NextValidatorsHash hexBytes  `json:"next_validators_hash"`
	ConsensusHash      hexBytes  `json:"consensus_hash"`
	AppHash            hexBytes  `json:"app_hash"`
	LastResultsHash    hexBytes  `json:"last_results_hash"`
	EvidenceHash       hexBytes  `json:"evidence_hash"`
	ProposerAddress    hexBytes  `json:"proposer_address"`
}

// parts names the parts that a block was gossiped in; validators sign it along with the block's hash.
type parts struct {
	Total uint32   `json:"total"`
	Hash  hexBytes `json:"hash"`
}

// commit is the validators' word on the block. Its height and block hash are the header's.
type commit struct {
	Round      int32       `json:"round"`
	Parts      parts       `json:"parts"`
	Signatures []signature `json:"signatures"` // in the order of the validator set, no more than needed
}

type signature struct {
	Validator hexBytes  `json:"validator"` // address
	Time      time.Time `json:"time"`      // the vote's
	Signature []byte    `json:"signature"`
}

// turn is one step up the block's Merkle tree: the sibling and the side it stands on. CometBFT's own proofs carry index and total instead,
// which are not bound by the root: a proof for 3 items may pass as one for 4.
type turn struct {
	Side string   `json:"side"` // "left" or "right"
	Hash hexBytes `json:"hash"`
}

// hexBytes is lower-case hex in JSON.
type hexBytes []byte

// MarshalText writes lower-case hex.
func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// UnmarshalText reads hex; that it was lower case is seen when the file is encoded again.
func (h *hexBytes) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	*h = raw
	return err
}

// encode returns the only bytes of the receipt: JSON indented by two spaces and one newline at the end.
func (f *file) encode() ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(f); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// decodeFile reads what encode wrote, and only that: it encodes what it read and compares, so unknown and duplicate members, other
// orders, white space, escapes, letter case and number forms all fail.
func decodeFile(raw []byte) (*file, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("%d bytes, more than %d", len(raw), MaxSize)
	}
	var f file
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return nil, err
	}
	if f.Format != Format {
		return nil, fmt.Errorf("the format is %.40q, not %q", f.Format, Format)
	}
	if f.Path == nil || f.Bodies == nil || f.Transaction == nil || f.Commit.Signatures == nil {
		return nil, errors.New("a member is missing")
	}
	for i, body := range f.Bodies {
		if body == nil { // null, where the empty body is ""
			return nil, fmt.Errorf("body %d is missing", i+1)
		}
	}
	again, err := f.encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, raw) {
		return nil, fmt.Errorf("not in canonical form, from byte %d", firstDifference(again, raw))
	}
	return &f, nil
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// maxPath bounds the path: a block of 4 MiB has far fewer than 2^32 transactions.
const maxPath = 32

// root folds the path: CometBFT's tree is RFC 6962's, SHA-256 with 0 before a leaf and 1 before two children, and a
// block's leaves are the hashes of its transactions.
func (f *file) root(transaction wire.Digest) ([]byte, error) {
	if len(f.Path) > maxPath {
		return nil, fmt.Errorf("%d turns, more than %d", len(f.Path), maxPath)
	}
	node := sha256.Sum256(append([]byte{0}, transaction[:]...))
	for i, t := range f.Path {
		if len(t.Hash) != sha256.Size {
			return nil, fmt.Errorf("turn %d has %d bytes of hash", i+1, len(t.Hash))
		}
		buf := append(make([]byte, 0, 1+2*sha256.Size), 1)
		switch t.Side {
		case "left":
			buf = append(append(buf, t.Hash...), node[:]...)
		case "right":
			buf = append(append(buf, node[:]...), t.Hash...)
		default:
			return nil, fmt.Errorf("turn %d has side %.20q", i+1, t.Side)
		}
		node = sha256.Sum256(buf)
	}
	return node[:], nil
}

func headerOf(h *types.Header) header {
	return header{
		BlockVersion: h.Version.Block, AppVersion: h.Version.App,
		ChainID: h.ChainID, Height: h.Height, Time: h.Time.UTC(),
		LastBlockHash:  hexBytes(h.LastBlockID.Hash),
		LastBlockParts: parts{Total: h.LastBlockID.PartSetHeader.Total, Hash: hexBytes(h.LastBlockID.PartSetHeader.Hash)},
		LastCommitHash: hexBytes(h.LastCommitHash), DataHash: hexBytes(h.DataHash),
		ValidatorsHash: hexBytes(h.ValidatorsHash), NextValidatorsHash: hexBytes(h.NextValidatorsHash),
		ConsensusHash: hexBytes(h.ConsensusHash), AppHash: hexBytes(h.AppHash), LastResultsHash: hexBytes(h.LastResultsHash),
		EvidenceHash: hexBytes(h.EvidenceHash), ProposerAddress: hexBytes(h.ProposerAddress),
	}
}

func (h *header) toComet() (*types.Header, error) {
	out := &types.Header{
		Version: cmtversion.Consensus{Block: h.BlockVersion, App: h.AppVersion},
		ChainID: h.ChainID, Height: h.Height, Time: h.Time,
		LastBlockID: types.BlockID{
			Hash:          []byte(h.LastBlockHash),
			PartSetHeader: types.PartSetHeader{Total: h.LastBlockParts.Total, Hash: []byte(h.LastBlockParts.Hash)},
		},
		LastCommitHash: []byte(h.LastCommitHash), DataHash: []byte(h.DataHash),
		ValidatorsHash: []byte(h.ValidatorsHash), NextValidatorsHash: []byte(h.NextValidatorsHash),
		ConsensusHash: []byte(h.ConsensusHash), AppHash: []byte(h.AppHash), LastResultsHash: []byte(h.LastResultsHash),
		EvidenceHash: []byte(h.EvidenceHash), ProposerAddress: []byte(h.ProposerAddress),
	}
	if err := out.ValidateBasic(); err != nil {
		return nil, err
	}
	if len(out.Hash()) != sha256.Size {
		return nil, errors.New("it has no hash")
	}
	return out, nil
}

// toComet builds the commit that CometBFT's verifier takes: one entry per validator, absent where the receipt holds no
// signature. Addresses are compared here, because nothing signs them.
func (c *commit) toComet(h *types.Header, validators *types.ValidatorSet) (*types.Commit, error) {
	out := &types.Commit{
		Height: h.Height, Round: c.Round,
		BlockID:    types.BlockID{Hash: h.Hash(), PartSetHeader: types.PartSetHeader{Total: c.Parts.Total, Hash: []byte(c.Parts.Hash)}},
		Signatures: make([]types.CommitSig, validators.Size()),
	}
	for i := range out.Signatures {
		out.Signatures[i] = types.NewCommitSigAbsent()
	}
	last := int32(-1)
	for _, s := range c.Signatures {
		index, validator := validators.GetByAddress([]byte(s.Validator))
		if validator == nil {
			return nil, fmt.Errorf("%x is no validator of the genesis file", []byte(s.Validator))
		}
		if index <= last {
			return nil, errors.New("they are not in the order of the validator set")
		}
		last = index
		out.Signatures[index] = types.CommitSig{
			BlockIDFlag: types.BlockIDFlagCommit, ValidatorAddress: validator.Address, Timestamp: s.Time, Signature: s.Signature,
		}
	}
	if err := out.ValidateBasic(); err != nil {
		return nil, err
	}
	return out, out.BlockID.ValidateBasic()
}

// signedPower adds up the power of the validators that signed the block.
func signedPower(validators *types.ValidatorSet, c *types.Commit) int64 {
	var power int64
	for i, s := range c.Signatures {
		if s.BlockIDFlag == types.BlockIDFlagCommit {
			power += validators.Validators[i].VotingPower
		}
	}
	return power
}

// enough is CometBFT's rule, more than two thirds, in the same arithmetic.
func enough(power, total int64) bool { return power > total*2/3 }

// minimal refuses a commit that holds a signature it does not need: then leaving that signature out would be a change to the file that
// goes unnoticed.
func minimal(validators *types.ValidatorSet, c *types.Commit) error {
	power, total := signedPower(validators, c), validators.TotalVotingPower()
	for i, s := range c.Signatures {
		if s.BlockIDFlag == types.BlockIDFlagCommit && enough(power-validators.Validators[i].VotingPower, total) {
			return fmt.Errorf("that of %s is more than a receipt needs", validators.Validators[i].Address)
		}
	}
	return nil
}
