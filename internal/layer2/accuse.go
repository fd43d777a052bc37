package layer2

import (
	"context"
	"errors"

	"tandem/evidence"
	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// A client accuses. Endorsements reach nobody but the client of a session, so a node that endorses what it has not run is
// found out only if the client comes with its endorsement to a node that has the state: this one judges it, and hands out the
// evidence file if the endorsement, or the originator's seal, is of a false answer.
//
// Nothing is believed, recorded or kept: whoever asks again gets the file made again. The session need not be known here.

// maxAccusations bounds the accusations judged at once; each runs as many handlers as its session has steps, two or three times.
const maxAccusations = 2

// Accuse judges a node's signed word about a session that its client brings, and returns the evidence file (wrong-answer or
// wrong-endorsement) against that node. Refusals: no-evidence if the node has told the truth, or this one cannot show that it
// has not; height-not-reached until the block after the stated height is here; block-not-found if the state at that height is
// no longer kept; wrong-chain, wrong-fingerprint, originator-unknown if the accused was never on the list, signature-invalid
// and the like if the client or the accused has not signed this; overloaded.
func (e *Engine) Accuse(_ context.Context, a wire.Accusation) ([]byte, error) {
	leave, err := e.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if e.charges.Add(1) > maxAccusations {
		e.charges.Add(-1)
		return nil, refusal.New(refusal.Overloaded, "%d accusations are being judged already", maxAccusations).With("retry_after_seconds", 1)
	}
	defer e.charges.Add(-1)
	proven, err := session.VerifyOpen(&a.Open)
	if err != nil {
		return nil, err
	}
	c, heads, err := e.charge(&a, &proven)
	if err != nil {
		return nil, err
	}
	view, err := e.o.Proofs.At(c.Claim.Height)
	switch {
	case err != nil && c.Claim.Height > e.Height():
		return nil, e.notReached(c.Claim.Height)
	case errors.Is(err, state.ErrPruned), errors.Is(err, state.ErrNoVersion):
		return nil, refusal.New(refusal.BlockNotFound, "the state at height %d is no longer kept here", c.Claim.Height)
	case err != nil:
		return nil, e.stateRefusal(err)
	}
	if err := ledger.Originated(view, c.Claim.Node); err != nil {
		return nil, err
	}
	if err := begin(&c, view, proven.ID, heads); err != nil {
		return nil, err
	}
	lied, err := e.contradicts(proven.ID, proven.Open, &c)
	switch {
	case errors.Is(err, evidence.ErrCannotJudge), errors.Is(err, errUnprovable):
		return nil, noEvidence("%v", err)
	case err != nil:
		return nil, e.stateRefusal(err)
	case !lied:
		return nil, noEvidence("run again on the state at height %d, the steps answer as %s has signed", c.Claim.Height, c.Claim.Node)
	}
	file, finding, err := e.proven(&c)
	switch {
	case errors.Is(err, ErrNoBlock):
		return nil, e.notReached(c.Claim.Height + 1)
	case err != nil:
		return nil, noEvidence("%v", err)
	}
	e.o.Logger.Warn("evidence made for a client", "session", proven.ID, "step", finding.Sequence, "kind", finding.Kind, "node", c.Claim.Node)
	return file, nil
}

// charge checks who has signed what, and makes of it what is to be judged. heads are the transcript heads, the first one first.
func (e *Engine) charge(a *wire.Accusation, proven *session.Proven) (c evidence.Contradiction, heads []wire.Digest, err error) {
	switch {
	case e.o.Proofs == nil:
		return c, nil, noEvidence("this node keeps no proofs")
	case proven.Open.ChainID != e.o.ChainID:
		return c, nil, refusal.New(refusal.WrongChain, "the session is of chain %q, this is %q", proven.Open.ChainID, e.o.ChainID)
	case proven.Open.Fingerprint != e.o.Runner.Fingerprint():
		return c, nil, e.wrongFingerprint(proven.Open.Fingerprint)
	}
	head := proven.Head
	heads = []wire.Digest{head}
	for i := range a.Steps {
		tx := &a.Steps[i].Transaction
		place := httpsig.Place{Session: proven.ID, Sequence: tx.Sequence, Transcript: head}
		if err := tx.Request.Check(); err != nil {
			return c, nil, err
		}
		if tx.Request.Key != proven.Key {
			return c, nil, refusal.New(refusal.SignatureInvalid, "step %d is not signed with the session's key", tx.Sequence)
		}
		if err := httpsig.Verify(httpsig.TagStep, &tx.Request, place); err != nil {
			return c, nil, err
		}
		head = wire.TranscriptNext(head, *tx)
		heads = append(heads, head)
		c.Steps = append(c.Steps, *tx)
	}
	last := &a.Steps[len(a.Steps)-1]
	tx := &last.Transaction
	c.Open = a.Open
	if v := a.Endorsement; v != nil {
		c.Endorsed, c.Claim = true, evidence.Claim{Node: v.Node, Height: v.Height, Signature: v.Signature}
		err = v.Verify(proven.Open.ChainID, proven.ID, tx.Sequence, head)
	} else {
		c.Claim = evidence.Claim{Node: tx.Originator, Height: last.Height, Created: last.Seal.Created, Signature: last.Seal.Signature}
		err = httpsig.VerifySeal(httpsig.Answer{
			Status: tx.Response.Status, Body: tx.Response.Body, Session: proven.ID, Sequence: tx.Sequence, Transcript: head,
			Height: last.Height, Time: tx.Time, Originator: tx.Originator,
		}, last.Seal)
	}
	return c, heads, err
}

// begin leaves out the steps that the state holds already.
func begin(c *evidence.Contradiction, view *state.View, id wire.SessionID, heads []wire.Digest) error {
	c.Start = evidence.Start{Head: heads[0]}
	s, ok, err := ledger.SettledOf(view, id)
	if err != nil || !ok {
		return err
	}
	if s.Final || s.Steps >= uint64(len(c.Steps)) || s.Head != heads[s.Steps] {
		return noEvidence("the state at height %d holds the step already, or another history of the session", c.Claim.Height)
	}
	c.Start, c.Steps = evidence.Start{Sequence: s.Steps, Head: s.Head}, c.Steps[s.Steps:]
	return nil
}

func noEvidence(format string, args ...any) *refusal.Refusal {
	return refusal.New(refusal.NoEvidence, format, args...)
}

func (e *Engine) notReached(height int64) *refusal.Refusal {
	return refusal.New(refusal.HeightNotReached, "this needs block %d; this node has %d", height, e.Height()).With("retry_after_seconds", 1)
}
