package evidence

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cometbft/cometbft/types"

	"tandem/internal/httpsig"
	"tandem/internal/proof"
	"tandem/internal/session"
	"tandem/internal/signedblock"
	"tandem/internal/wire"
)

// What a node said that a replay contradicts. The file holds the session's steps up to the accused one, as far as the
// state at the stated height does not hold them already; the header of the block after that height, signed, whose app hash is
// that state's root; and what the replay reads of the state, proved against the root. The verifier runs the handlers
// itself: the Judge.

// Claim is a node's signed word that a session, run on the state at Height, answers as its transcript says.
type Claim struct {
	Node      wire.PublicKey
	Height    int64
	Created   int64 // seconds since 1970, of a sealed answer; 0 for an endorsement
	Signature wire.Signature
}

// Case is a claim and what it takes to judge it.
type Case struct {
	Session wire.SessionID
	Key     wire.PublicKey // the client's
	Open    wire.OpenBody
	Start   Start
	// Steps are those after Start, as recorded; the last is the one that the claim is about. Their requests are the client's.
	Steps []wire.Transaction
	// State is the state at the claim's height, as far as it is proved.
	State *proof.View
}

// Start is where the steps that the state does not hold begin: Sequence of them are settled there, with the transcript
// head after them. A session of which nothing is settled starts at 0, with its first head.
type Start struct {
	Sequence uint64      `json:"sequence"`
	Head     wire.Digest `json:"head"`
}

// Difference is where a replay leaves the transcript.
type Difference struct {
	Step  uint64 // the first that differs
	Field string // "status", "header Location", "body", or "actor": the client may not act
	// Status and Body are what the replay answers; 0 if it refuses, for the reason in Code.
	Status int
	Body   wire.Digest
	Code   string
}

// Judge runs a case's steps with the service's code, as a Layer 2 node does. It returns nil if they answer as recorded. The
// error wraps ErrCannotJudge if this program cannot tell; any other error says why the case is none.
type Judge interface {
	Judge(ctx context.Context, c *Case) (*Difference, error)
}

// ErrCannotJudge says that the file may be sound, but that this program cannot tell: it runs other service code, or its
// handlers do not give the same answer twice. It is neither "a lie" nor "no lie".
var ErrCannotJudge = errors.New("this program cannot judge it")

// Contradiction is what [OfClaim] makes an evidence file of.
type Contradiction struct {
	Open  wire.Request
	Start Start
	Steps []wire.Transaction
	Claim Claim
	// Endorsed says that the claim is an endorsement, not the originator's sealed answer.
	Endorsed bool
	Header   signedblock.Header
	Commit   signedblock.Commit
	// Keys are what the replay reads, in the order of keys. If it scans they are not enough: then Packed is the whole state.
	Keys   []proof.Known
	Packed []byte
}

// OfClaim makes the evidence file. Whether it proves something is for [VerifyWith] to say, and for the caller to ask
// before it hands the file out.
func OfClaim(c Contradiction) ([]byte, error) {
	f := &claimFile{
		Format: Format, Kind: WrongAnswer, Open: c.Open.Encode(), Start: c.Start, Transactions: [][]byte{},
		Claim:  claim{Node: c.Claim.Node.DID(), Height: c.Claim.Height, Created: c.Claim.Created, Signature: c.Claim.Signature[:]},
		Header: c.Header, Commit: c.Commit, Keys: []known{}, State: append([]byte{}, c.Packed...),
	}
	if c.Endorsed {
		f.Kind = WrongEndorsement
	}
	for i := range c.Steps {
		f.Transactions = append(f.Transactions, c.Steps[i].Encode())
	}
	for _, k := range c.Keys {
		own := known{Key: k.Key, Present: k.Present, Value: append([]byte{}, k.Value...), Siblings: append([]wire.Digest{}, k.Proof.Siblings...), Other: []wire.Digest{}}
		if k.Proof.Other != nil {
			own.Other = []wire.Digest{k.Proof.Other.Path, k.Proof.Other.Value}
		}
		f.Keys = append(f.Keys, own)
	}
	raw, err := f.encode()
	if err == nil && len(raw) > MaxSize {
		err = fmt.Errorf("it would take %d bytes, more than %d", len(raw), MaxSize)
	}
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return raw, nil
}

// claimFile is the evidence file of these kinds. Its members stand in this order.
type claimFile struct {
	Format       string             `json:"format"`
	Kind         Kind               `json:"kind"`
	Open         []byte             `json:"open"`
	Start        Start              `json:"start"`
	Transactions [][]byte           `json:"transactions"` // encoded
	Claim        claim              `json:"claim"`
	Header       signedblock.Header `json:"header"`
	Commit       signedblock.Commit `json:"commit"`
	Keys         []known            `json:"keys"`
	State        []byte             `json:"state"` // packed, or empty
}

type claim struct {
	Node      string `json:"node"` // did:key
	Height    int64  `json:"height"`
	Created   int64  `json:"created"`
	Signature []byte `json:"signature"`
}

// known is a key with its proof.
type known struct {
	Key      []byte        `json:"key"`
	Present  bool          `json:"present"`
	Value    []byte        `json:"value"`
	Siblings []wire.Digest `json:"siblings"` // uppermost first
	Other    []wire.Digest `json:"other"`    // empty, or the path and value digest of the leaf where an absent key's way ends
}

func (f *claimFile) encode() ([]byte, error) { return encode(f) }

// decodeClaim reads a file of these kinds.
func decodeClaim(raw []byte) (*claimFile, error) {
	var f claimFile
	if err := decode(raw, &f); err != nil {
		return nil, err
	}
	missing := f.Open == nil || f.Transactions == nil || f.Claim.Signature == nil || f.Commit.Signatures == nil || f.Keys == nil || f.State == nil ||
		slices.ContainsFunc(f.Transactions, func(b []byte) bool { return b == nil }) ||
		slices.ContainsFunc(f.Keys, func(k known) bool {
			return k.Key == nil || k.Value == nil || k.Siblings == nil || k.Other == nil || len(k.Other) != 0 && len(k.Other) != 2
		})
	if missing {
		return nil, errors.New("a member is missing")
	}
	return &f, nil
}

// verify checks the file and has the judge run it.
func (f *claimFile) verify(ctx context.Context, genesisJSON []byte, judge Judge) (*Finding, error) {
	trust, err := signedblock.ReadGenesis(genesisJSON)
	if err != nil {
		return nil, fmt.Errorf("genesis file: %w", err)
	}
	finding, c, err := f.check(trust)
	if err != nil {
		return nil, err
	}
	if judge == nil {
		return nil, fmt.Errorf("%w: it takes the service's own program to run the steps again", ErrCannotJudge)
	}
	d, err := judge.Judge(ctx, c)
	switch {
	case errors.Is(err, proof.ErrUnproven):
		return nil, fmt.Errorf("the evidence is incomplete: %w", err)
	case err != nil:
		return nil, err
	case d == nil:
		return nil, errors.New("run again at the stated height, the steps answer as the node said: it did not lie")
	}
	if key, extra := c.State.Unread(); extra {
		return nil, fmt.Errorf("key %q is proved and not read", key)
	}
	f.found(finding, c, d)
	return finding, nil
}

// check checks everything but the answers: who signed what, over which steps, and what of the state is proved.
func (f *claimFile) check(trust *signedblock.Trust) (*Finding, *Case, error) {
	open, err := wire.DecodeRequest(f.Open)
	if err != nil {
		return nil, nil, fmt.Errorf("opening: %w", err)
	}
	proven, err := session.VerifyOpen(&open)
	if err != nil {
		return nil, nil, fmt.Errorf("opening: %w", err)
	}
	if proven.Open.ChainID != trust.ChainID {
		return nil, nil, fmt.Errorf("the session was opened for chain %q, not the genesis file's %q", proven.Open.ChainID, trust.ChainID)
	}
	c := &Case{Session: proven.ID, Key: proven.Key, Open: proven.Open, Start: f.Start}
	head, err := f.steps(&proven, c)
	if err != nil {
		return nil, nil, err
	}
	last := &c.Steps[len(c.Steps)-1]
	culprit, err := f.Claim.verify(f.Kind, &proven, last, head)
	if err != nil {
		return nil, nil, err
	}
	header, signed, err := trust.Verify(&f.Header, &f.Commit)
	if err != nil {
		return nil, nil, err
	}
	if header.Height != f.Claim.Height+1 {
		return nil, nil, fmt.Errorf("the state at height %d is in the header of block %d, not of block %d", f.Claim.Height, f.Claim.Height+1, header.Height)
	}
	if c.State, err = f.state(header); err != nil {
		return nil, nil, err
	}
	previous := f.Start.Head
	for i := range c.Steps[:len(c.Steps)-1] {
		previous = wire.TranscriptNext(previous, c.Steps[i])
	}
	purpose := httpsig.TagAnswer
	if f.Kind == WrongEndorsement {
		purpose = endorsement
	}
	return &Finding{
		Kind: f.Kind, ChainID: trust.ChainID, Session: proven.ID.String(), Sequence: last.Sequence, Conclusive: true,
		Culprit: Culprit{Key: culprit.DID(), Role: "layer-2 node"},
		Signed: []Signed{{
			Purpose: purpose, Target: target(&last.Request), Request: last.Request.Digest().String(), Over: previous.String(), Head: head.String(),
			Status: last.Response.Status, Response: last.Response.Body.String(), TimeMillis: last.Time, Height: f.Claim.Height, Created: f.Claim.Created,
		}},
		Replay: &Replay{
			BlockHash: fmt.Sprintf("%x", []byte(header.Hash())), BlockHeight: header.Height, StateRoot: fmt.Sprintf("%x", []byte(header.AppHash)),
			Signers: signed.Signers, Validators: signed.Validators, Power: signed.Power, TotalPower: signed.TotalPower,
		},
	}, c, nil
}

// endorsement is what an endorsement's signature is for, in a finding.
const endorsement = "tandem-endorsement-v1"

// steps checks that the steps follow each other and that each is the client's, and returns the head after them.
func (f *claimFile) steps(proven *session.Proven, c *Case) (wire.Digest, error) {
	head := f.Start.Head
	if n := len(f.Transactions); n < 1 || n > wire.MaxSteps {
		return head, fmt.Errorf("%d steps, where 1 to %d are possible", n, wire.MaxSteps)
	}
	if f.Start.Sequence == 0 && head != proven.Head {
		return head, errors.New("the steps do not start at the session's first transcript head")
	}
	for i, raw := range f.Transactions {
		tx, err := wire.DecodeTransaction(raw)
		if err != nil {
			return head, fmt.Errorf("step %d: %w", i+1, err)
		}
		if tx.Sequence-f.Start.Sequence != uint64(i)+1 || tx.Response.Status >= 400 {
			return head, fmt.Errorf("step %d is not the recorded step behind the one before it", i+1)
		}
		place := httpsig.Place{Session: proven.ID, Sequence: tx.Sequence, Transcript: head}
		if err := signedAt(proven, httpsig.TagStep, &tx.Request, place); err != nil {
			return head, fmt.Errorf("step %d: %w", tx.Sequence, err)
		}
		c.Steps = append(c.Steps, tx)
		head = wire.TranscriptNext(head, tx)
	}
	return head, nil
}

// verify checks that the node signed the claim, and returns its key.
func (l *claim) verify(kind Kind, proven *session.Proven, last *wire.Transaction, head wire.Digest) (wire.PublicKey, error) {
	node, err := wire.ParseDID(l.Node)
	if err != nil {
		return node, fmt.Errorf("claim: %w", err)
	}
	if len(l.Signature) != len(wire.Signature{}) || l.Height < 0 || l.Created < 0 {
		return node, errors.New("claim: it is none")
	}
	if kind == WrongEndorsement {
		if l.Created != 0 {
			return node, errors.New("claim: an endorsement says no time")
		}
		e := wire.Endorsement{Node: node, Height: l.Height, Signature: wire.Signature(l.Signature)}
		if err := e.Verify(proven.Open.ChainID, proven.ID, last.Sequence, head); err != nil {
			return node, fmt.Errorf("endorsement: %w", err)
		}
		return node, nil
	}
	if node != last.Originator {
		return node, errors.New("claim: the answer is another node's")
	}
	err = httpsig.VerifySeal(httpsig.Answer{
		Status: last.Response.Status, Body: last.Response.Body, Session: proven.ID, Sequence: last.Sequence, Transcript: head,
		Height: l.Height, Time: last.Time, Originator: node,
	}, wire.Seal{Created: l.Created, Signature: wire.Signature(l.Signature)})
	if err != nil {
		return node, fmt.Errorf("seal: %w", err)
	}
	return node, nil
}

// state is what the file proves of the state under the header's app hash.
func (f *claimFile) state(header *types.Header) (*proof.View, error) {
	if len(header.AppHash) != len(wire.Digest{}) {
		return nil, errors.New("state: the block's app hash is no root")
	}
	root := wire.Digest(header.AppHash)
	if len(f.State) > 0 {
		if len(f.Keys) > 0 {
			return nil, errors.New("state: said twice")
		}
		v, err := proof.Whole(root, f.State)
		if err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
		return v, nil
	}
	keys := make([]proof.Known, len(f.Keys))
	for i, k := range f.Keys {
		keys[i] = proof.Known{Key: k.Key, Value: k.Value, Present: k.Present, Proof: proof.Proof{Siblings: k.Siblings}}
		if len(k.Other) == 2 {
			keys[i].Proof.Other = &proof.Leaf{Path: k.Other[0], Value: k.Other[1]}
		}
	}
	v, err := proof.Keys(root, keys)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return v, nil
}

// found adds to a finding what the replay gave.
func (f *claimFile) found(finding *Finding, c *Case, d *Difference) {
	r := finding.Replay
	r.Step, r.Field, r.Status, r.Code = d.Step, d.Field, d.Status, d.Code
	said := &c.Steps[d.Step-c.Start.Sequence-1]
	r.Target, r.Recorded, r.RecordedResponse = target(&said.Request), said.Response.Status, said.Response.Body.String()
	if d.Code == "" {
		r.Response = d.Body.String()
	}
	verb := "answered"
	if f.Kind == WrongEndorsement {
		verb = "endorsed"
	}
	finding.Proves = fmt.Sprintf("the node %s step %d on the state at height %d; run again on that state, step %d gives another answer (%s)",
		verb, finding.Sequence, f.Claim.Height, d.Step, d.Field)
}
