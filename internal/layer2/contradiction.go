package layer2

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"tandem/evidence"
	"tandem/internal/judge"
	"tandem/internal/ledger"
	"tandem/internal/proof"
	"tandem/internal/refusal"
	"tandem/internal/signedblock"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// A peer's step that answers otherwise here. Most often the two nodes stood on different states, and nobody has lied. To tell,
// the session is run again on the state at the very height that the peer has signed. If that contradicts it too, this node
// makes an evidence file: the steps, the peer's seal, what the run read of the state with the proofs, and the header of the next
// block, which holds the state's root. That block may not be there yet: then the file waits for it in memory.
//
// It works on the owner's goroutine. A run and its proofs cost a few times what the step costs, and only for a step that is
// refused; of each kind a session has one file at most, and of one node no more than maxProofs bytes are kept in one life of
// the engine, since one proof is enough.

// Proofs gives the engine what an auditor will ask for. All methods are safe for concurrent use.
type Proofs interface {
	// Genesis is the network's genesis file.
	Genesis() []byte
	// At returns the state at a height that is still kept.
	At(height int64) (*state.View, error)
	// Trace proves a key, or its absence, at a height that is still kept.
	Trace(height int64, key []byte) (proof.Known, error)
	// Export writes the whole state at a height that is still kept, in chunks.
	Export(height int64, write func(index int, chunk []byte) error) (state.Manifest, error)
	// SignedBlock returns the block's header with the signatures on it; [ErrNoBlock] if there is none yet.
	SignedBlock(height int64) (signedblock.Header, signedblock.Commit, error)
}

// ErrNoBlock says that a block is not there yet.
var ErrNoBlock = errors.New("layer2: no such block yet")

// maxProofs bounds the evidence of wrong answers that is kept against one node, in bytes, until the engine is started again.
const maxProofs = 32 << 20

// accusations are what the engine has against peers. It is guarded by Engine.mu.
type accusations struct {
	waiting map[*owner][]evidence.Contradiction // for the next block
	size    map[wire.PublicKey]int              // bytes kept, by culprit
}

// suspectAnswer looks whether a peer's step, refused here for reason, contradicts the state at its own height.
func (o *owner) suspectAnswer(r *wire.Recorded, previous wire.Digest, reason error) {
	tx := &r.Transaction
	if o.e.o.Proofs == nil || o.refused != nil || tx.Originator == o.e.self || !refusal.Has(reason, refusal.ResponseDiffers) && !refusal.Has(reason, refusal.Conflict) {
		return
	}
	if tx.Sequence < 1 || tx.Sequence > o.machine.Len()+1 || o.machine.HeadAt(tx.Sequence-1) != previous || o.haveProof(evidence.WrongAnswer) {
		return
	}
	c := evidence.Contradiction{
		Open: o.open, Claim: evidence.Claim{Node: tx.Originator, Height: r.Height, Created: r.Seal.Created, Signature: r.Seal.Signature},
	}
	view, err := o.e.o.Proofs.At(r.Height)
	if err == nil {
		c.Start, err = o.startIn(view)
	}
	if err == nil && c.Start.Sequence < tx.Sequence {
		err = o.eachStoredIn(c.Start.Sequence, tx.Sequence-1, func(s *stored) error {
			c.Steps = append(c.Steps, s.tx)
			return nil
		})
		c.Steps = append(c.Steps, *tx)
	}
	if err == nil && len(c.Steps) > 0 {
		err = o.accuse(c)
	}
	if err != nil {
		o.e.o.Logger.Info("a node's answer differs and cannot be judged", "session", o.id, "step", tx.Sequence, "node", tx.Originator, "height", r.Height, "error", err)
	}
}

// startIn is where the steps begin that a state does not hold.
func (o *owner) startIn(view *state.View) (evidence.Start, error) {
	s, ok, err := ledger.SettledOf(view, o.id)
	if err != nil || !ok {
		return evidence.Start{Head: o.machine.HeadAt(0)}, err
	}
	if s.Steps > o.machine.Len() || o.machine.HeadAt(s.Steps) != s.Head {
		return evidence.Start{}, errors.New("the ledger holds steps of the session that this node has not")
	}
	return evidence.Start{Sequence: s.Steps, Head: s.Head}, nil
}

// accuse runs the steps on the state that the claim names. If it is contradicted the file that proves it is made, or waits for
// the block.
func (o *owner) accuse(c evidence.Contradiction) error {
	lied, err := o.e.contradicts(o.id, o.body, &c)
	if err != nil || !lied {
		return err
	}
	return o.prove(c)
}

// contradicts runs the steps on the state that the claim names, and says whether they answer otherwise there. Then it adds to
// c what the run read of the state, with the proofs. The error wraps evidence.ErrCannotJudge if nobody can tell, and
// errUnprovable if the claim is false and that cannot be shown.
func (e *Engine) contradicts(id wire.SessionID, body wire.OpenBody, c *evidence.Contradiction) (bool, error) {
	proofs := e.o.Proofs
	view, err := proofs.At(c.Claim.Height)
	if err != nil {
		return false, err
	}
	read := &recording{base: view, keys: map[string]bool{}}
	d, err := judge.Of(e.o.Runner).Run(e.ctx, &evidence.Case{
		Session: id, Key: c.Open.Key, Open: body, Start: c.Start, Steps: c.Steps,
	}, read)
	if err != nil || d == nil {
		return false, err
	}
	if !read.scanned {
		for _, key := range slices.Sorted(maps.Keys(read.keys)) {
			k, err := proofs.Trace(c.Claim.Height, []byte(key))
			if err != nil {
				return true, err
			}
			c.Keys = append(c.Keys, k)
		}
		return true, nil
	}
	_, err = proofs.Export(c.Claim.Height, func(_ int, chunk []byte) error {
		if len(c.Packed)+len(chunk) > evidence.MaxState {
			return fmt.Errorf("%w: its steps scan, and the state is larger than the %d bytes that an evidence file may hold", errUnprovable, evidence.MaxState)
		}
		c.Packed = append(c.Packed, chunk...)
		return nil
	})
	return true, err
}

// errUnprovable says that a claim is false and that no evidence file can show it.
var errUnprovable = errors.New("the answer is false and cannot be proved so")

// recording notes what is read of a state.
type recording struct {
	base    state.Reader
	keys    map[string]bool
	scanned bool
}

// Get implements state.Reader.
func (r *recording) Get(key []byte) ([]byte, bool, error) {
	r.keys[string(key)] = true
	return r.base.Get(key)
}

// Scan implements state.Reader.
func (r *recording) Scan(start, end []byte) iter.Seq2[state.Entry, error] {
	r.scanned = true
	return r.base.Scan(start, end)
}

// prove makes the evidence file and keeps it, or has it wait for the block that holds the state's root.
func (o *owner) prove(c evidence.Contradiction) error {
	file, finding, err := o.e.proven(&c)
	if errors.Is(err, ErrNoBlock) {
		o.e.mu.Lock()
		defer o.e.mu.Unlock()
		if o.e.accused.waiting == nil {
			o.e.accused.waiting = map[*owner][]evidence.Contradiction{}
		}
		if at := o.e.accused.waiting[o]; len(at) < 4 && len(o.e.accused.waiting) < 256 {
			o.e.accused.waiting[o] = append(at, c)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if !o.e.mayKeep(c.Claim.Node, len(file)) {
		return errors.New("as much is kept against this node already as one needs")
	}
	o.keep(finding.Kind, finding.Sequence, func() ([]byte, error) { return file, nil })
	return nil
}

// proven makes the evidence file of a claim that is contradicted, and checks its bytes as an auditor will: nothing else is
// handed out. Error: ErrNoBlock, while the block after the claim's height is not there.
func (e *Engine) proven(c *evidence.Contradiction) ([]byte, *evidence.Finding, error) {
	var err error
	if c.Header, c.Commit, err = e.o.Proofs.SignedBlock(c.Claim.Height + 1); err != nil {
		return nil, nil, err
	}
	file, err := evidence.OfClaim(*c)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errUnprovable, err)
	}
	finding, err := evidence.VerifyWith(context.WithoutCancel(e.ctx), e.o.Proofs.Genesis(), file, judge.Of(e.o.Runner))
	return file, finding, err
}

// accusing returns the block that evidence about a session waits for, 0 if none does.
func (e *Engine) accusing(o *owner) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.accused.waiting[o] {
		return c.Claim.Height + 1
	}
	return 0
}

// mayKeep counts what is kept against a node.
func (e *Engine) mayKeep(culprit wire.PublicKey, size int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.accused.size == nil {
		e.accused.size = map[wire.PublicKey]int{}
	}
	if e.accused.size[culprit]+size > maxProofs {
		return false
	}
	e.accused.size[culprit] += size
	return true
}

// provable has the files made that waited for the block at height. Callers hold Engine.mu and start what is returned
// without it.
func (a *accusations) provable(height int64) []func() {
	var ready []func()
	for o, all := range a.waiting {
		if slices.ContainsFunc(all, func(c evidence.Contradiction) bool { return c.Claim.Height >= height }) {
			continue
		}
		delete(a.waiting, o)
		ready = append(ready, func() {
			_ = o.post(false, func() {
				for _, c := range all {
					if err := o.prove(c); err != nil {
						o.e.o.Logger.Info("a node's wrong answer cannot be proved", "session", o.id, "node", c.Claim.Node, "error", err)
					}
				}
			})
		})
	}
	return ready
}
