// Package receipt proves, offline, that a session was committed: to anyone who has the network's genesis file and
// nothing else.
//
// A receipt is one JSON file. It holds the header of the block that the session is in, the validators' signatures on
// that block, the path from the session's transaction to the header's data hash, the transaction itself and the body of every
// response. [Verify] follows the chain of reasons from the genesis file down:
//
//	genesis file        names the chain and its validators, whom the reader trusts (more than two thirds of them)
//	signatures          more than two thirds of their power signed this block, on this chain, at this height
//	header              its hash is what they signed; it holds the time and the root of the block's transactions
//	path                leads from the transaction to that root
//	transaction         the session, or its part since the checkpoint before: its user's signature on the opening, on every step
//	                    and on the commit, each covering all before it
//	response bodies     have the digests that the transaction records
//
// A block is only signed if every honest validator replayed each session in it and got the recorded responses, so inclusion is the proof
// that the session was committed and that what the user saw is what was committed.
//
// A session may be committed in parts (checkpoints), each with a receipt of its own. Layer 1 accepts a part only behind the part
// before it, so the receipt of part k also proves that there are parts 1 to k-1, which end where it starts.
//
// The file is canonical: the same receipt has the same bytes, everything in it is bound by a hash or a signature, and nothing is said
// twice. So a file with any byte changed does not verify. docs/format/receipt.md describes it.
//
// Limits, on purpose: the validator set is the genesis file's; a block signed by another set is refused. Names of actors come from the
// genesis file, so an actor registered later is known by its key alone.
package receipt

import (
	"bytes"
	"fmt"
	"time"

	"tandem/internal/session"
	"tandem/internal/wire"
)

// Proof is what a receipt proves. All hashes are lower-case hex.
type Proof struct {
	// ChainID, Height, Time and BlockHash say in which block of which chain; Time is the block's, which more than two thirds of the validators agreed on.
	ChainID   string    `json:"chain_id"`
	Height    int64     `json:"height"`
	Time      time.Time `json:"time"`
	BlockHash string    `json:"block_hash"`
	// TransactionHash is the SHA-256 of the transaction's bytes, as the ledger names it.
	TransactionHash string `json:"transaction_hash"`
	// Session is the session's id, Transcript its transcript head after the last step here, Fingerprint that of the service that the user opened it for.
	Session     string `json:"session"`
	Transcript  string `json:"transcript"`
	Fingerprint string `json:"fingerprint"`
	// Checkpoint counts the session's commits, from 1: which of them this is. Final says that it closes the session, FirstStep
	// and LastStep which steps it holds; LastStep is FirstStep - 1 if it holds none.
	Checkpoint uint64 `json:"checkpoint"`
	Final      bool   `json:"final"`
	FirstStep  uint64 `json:"first_step"`
	LastStep   uint64 `json:"last_step"`
	// Supersedes is the id of the session that this one replaced, or empty.
	Supersedes string `json:"supersedes,omitempty"`
	// Actor says who.
	Actor Actor `json:"actor"`
	// Steps say what, in order.
	Steps []Step `json:"steps"`
	// Signers of Validators signed the block in this receipt, with Power of TotalPower. A receipt holds no more signatures
	// than it needs, so the block itself may have more.
	Signers    int   `json:"signers"`
	Validators int   `json:"validators"`
	Power      int64 `json:"power"`
	TotalPower int64 `json:"total_power"`
}

// Actor is who signed the session's requests.
type Actor struct {
	// Key is the did:key that verified every request of the session.
	Key string `json:"key"`
	// ID, Organisation and Delegate are what the genesis file says about the key, and empty when it does not know it. Delegate says that the
	// key is one that the actor has delegated to a node (custody): the node signed on the actor's behalf.
	ID           string `json:"id,omitempty"`
	Organisation string `json:"organisation,omitempty"`
	Delegate     bool   `json:"delegate,omitempty"`
}

// Step is one request and the response that its user saw and that every validator reproduced.
type Step struct {
	Sequence    uint64    `json:"sequence"`
	Method      string    `json:"method"`
	Target      string    `json:"target"` // path and query, raw
	ContentType string    `json:"content_type"`
	Request     []byte    `json:"request"` // body
	Status      int       `json:"status"`
	Headers     []Header  `json:"headers,omitempty"`
	Response    []byte    `json:"response"`   // body
	Time        time.Time `json:"time"`       // the originator's clock, agreed to by the user's next signature
	Originator  string    `json:"originator"` // did:key of the Layer 2 node that answered
}

// Header is one recorded response header.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Verify checks a receipt file against a genesis file (a CometBFT genesis document, as GET /tandem/v1/genesis serves it) and
// returns what it proves. The error says which link is broken; then nothing in the receipt is to be believed. It uses neither network nor
// clock. The genesis file is trusted: get it from someone you trust, once.
func Verify(genesisJSON, receiptJSON []byte) (*Proof, error) {
	g, err := readGenesis(genesisJSON)
	if err != nil {
		return nil, fmt.Errorf("genesis file: %w", err)
	}
	f, err := decodeFile(receiptJSON)
	if err != nil {
		return nil, fmt.Errorf("receipt file: %w", err)
	}
	return verify(g, f)
}

func verify(g *genesis, f *file) (*Proof, error) {
	header, signed, err := g.trust.Verify(&f.Header, &f.Commit)
	if err != nil {
		return nil, err
	}
	p := &Proof{
		ChainID: header.ChainID, Height: header.Height, Time: header.Time, BlockHash: fmt.Sprintf("%x", []byte(header.Hash())),
		Signers: signed.Signers, Validators: signed.Validators, Power: signed.Power, TotalPower: signed.TotalPower,
	}
	hash := wire.Sum(f.Transaction)
	root, err := f.root(hash)
	if err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	if !bytes.Equal(root, header.DataHash) {
		return nil, fmt.Errorf("path: the transaction %s is not in block %d", hash, header.Height)
	}
	p.TransactionHash = hash.String()
	if err := verifySession(g, f, p); err != nil {
		return nil, err
	}
	return p, nil
}

// verifySession checks the session by itself and fills in who and what.
func verifySession(g *genesis, f *file, p *Proof) error {
	c, err := wire.DecodeSessionCommit(f.Transaction)
	if err != nil {
		return fmt.Errorf("transaction: %w", err)
	}
	proven, err := session.Verify(&c)
	if err != nil {
		return fmt.Errorf("session: %w", err)
	}
	if proven.Open.ChainID != g.chainID {
		return fmt.Errorf("session: opened for chain %q, not %q", proven.Open.ChainID, g.chainID)
	}
	if len(f.Bodies) != len(c.Transactions) {
		return fmt.Errorf("response bodies: %d for %d steps", len(f.Bodies), len(c.Transactions))
	}
	p.Session, p.Transcript = proven.ID.String(), proven.Head.String()
	p.Checkpoint, p.Final = proven.Start.Checkpoints+1, proven.Final
	p.FirstStep, p.LastStep = proven.Start.Sequence+1, proven.Steps
	p.Fingerprint = proven.Open.Fingerprint.String()
	if proven.Open.Supersedes != nil {
		p.Supersedes = proven.Open.Supersedes.String()
	}
	p.Actor = g.actor(proven.Key)
	p.Steps = make([]Step, 0, len(c.Transactions))
	for i := range c.Transactions {
		tx := &c.Transactions[i]
		if wire.Sum(f.Bodies[i]) != tx.Response.Body {
			return fmt.Errorf("response bodies: that of step %d is not the one that was committed", tx.Sequence)
		}
		p.Steps = append(p.Steps, stepOf(tx, f.Bodies[i]))
	}
	return nil
}

func stepOf(tx *wire.Transaction, body []byte) Step {
	s := Step{
		Sequence: tx.Sequence, Method: tx.Request.Method, Target: tx.Request.Path, ContentType: tx.Request.ContentType,
		Request: tx.Request.Body, Status: tx.Response.Status, Response: body,
		Time: time.UnixMilli(tx.Time).UTC(), Originator: tx.Originator.DID(),
	}
	if tx.Request.Query != "" {
		s.Target += "?" + tx.Request.Query
	}
	for _, h := range tx.Response.Headers {
		s.Headers = append(s.Headers, Header{Name: h.Name, Value: h.Value})
	}
	return s
}
