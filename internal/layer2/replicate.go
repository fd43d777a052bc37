package layer2

import (
	"context"
	"crypto/ed25519"
	"time"

	"tandem/internal/exec"
	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Simulation consensus, as a peer sees it.
//
// A step that another node has originated is judged as if the client had sent it here: signature, place, actor, limits. Then
// its handler is run, at the originator's time, on a state at least as new as the originator's; if the response is the
// recorded one, the step goes to disk and is endorsed. What a peer keeps is a whole session, with which the client can go
// on here. It trusts the originator with nothing but the step's time, and with that within limits.

// received leaves a peer's step to its session, or asks for the session if there is none.
func (c *cluster) received(from wire.PublicKey, m wire.PeerStep) {
	if c.forOwner(m.Session, func(o *owner) { o.replicate(from, m) }) {
		return
	}
	o, err := c.e.find(m.Session)
	switch {
	case err == nil: // it has ended here
		c.post(o, func(o *owner) { o.replicate(from, m) })
	case refusal.Has(err, refusal.SessionNotFound):
		c.send(from, wire.PeerFetch{Session: m.Session}.Encode())
	}
}

// replicate decides about a peer's step and answers it.
func (o *owner) replicate(from wire.PublicKey, m wire.PeerStep) {
	sequence := m.Step.Transaction.Sequence
	again, err := o.replicated(from, m)
	if again {
		return
	}
	if err == nil {
		o.vouch(from, sequence)
		if by := m.Step.Transaction.Originator; by != from { // passed on by one who has moved to it
			o.vouch(by, sequence)
		}
		return
	}
	o.suspectNode(&m.Step, m.Previous)
	o.dissent(from, sequence, m.Head, err)
	o.suspectAnswer(&m.Step, m.Previous, err)
}

// replicated takes a peer's step into the session. With again it cannot yet: it has asked the peer for what is missing, and
// the step comes again with that.
func (o *owner) replicated(from wire.PublicKey, m wire.PeerStep) (again bool, err error) {
	if o.refused != nil {
		return false, o.refused
	}
	tx := &m.Step.Transaction
	if o.machine.Len() < tx.Sequence || o.machine.HeadAt(tx.Sequence) != m.Head {
		if tx.Originator != from && tx.Sequence > o.machine.Len() { // a variant may come from whoever moved to it
			return false, refusal.New(refusal.OriginatorUnknown, "the step is %s's", tx.Originator)
		}
		if err := o.verify(&m.Step, m.Previous, m.Head); err != nil {
			return false, err
		}
	}
	o.followPolicy()
	if o.isPicked(tx.Sequence, m.Head) {
		return false, o.moveTo(&m.Step, m.Previous, m.Head, true)
	}
	acts := o.machine.Step(session.Replicated{Sequence: tx.Sequence, Previous: m.Previous, Request: tx.Request.Digest(), Head: m.Head})
	rest, err := o.do(acts, func(session.Record) []op { return o.evidence(&tx.Request, tx.Sequence) })
	if err != nil {
		o.suspectClient(httpsig.TagStep, &tx.Request, httpsig.Place{Session: o.id, Sequence: tx.Sequence, Transcript: m.Previous})
		return false, err
	}
	for _, a := range rest {
		switch a := a.(type) {
		case session.Seek:
			return o.e.cluster.send(from, wire.PeerFetch{Session: o.id, From: a.From}.Encode()), nil
		case session.Execute:
			return false, o.reproduce(&m.Step, m.Head)
		case session.Supplant:
			return false, o.moveTo(&m.Step, m.Previous, m.Head, false)
		}
	}
	return false, nil
}

// verify checks what a recorded step proves by itself at its place: the client's signature, the times, the head after it, and
// the originator's signature on the answer.
func (o *owner) verify(r *wire.Recorded, previous, head wire.Digest) error {
	tx := &r.Transaction
	sealed := make(chan error, 1) // two signatures, verified side by side: the client waits for this
	go func() { sealed <- httpsig.VerifySeal(answerOf(o.id, *r, head), r.Seal) }()
	if err := o.signedBy(httpsig.TagStep, &tx.Request, httpsig.Place{Session: o.id, Sequence: tx.Sequence, Transcript: previous}); err != nil {
		return err
	}
	if s := tx.Response.Status; s < 200 || s >= 400 {
		return refusal.New(refusal.NonCanonical, "an answer with status %d is never recorded", s)
	}
	if wire.TranscriptNext(previous, *tx) != head {
		return refusal.New(refusal.WrongTranscript, "step %d does not lead to the head that comes with it", tx.Sequence)
	}
	if fresh(tx.Request.Created, tx.Time) != nil || tx.Time > o.e.now()+maxAhead.Milliseconds() {
		return refusal.New(refusal.WrongTime, "time %d is too far from created, %d, or ahead of this node's clock", tx.Time, tx.Request.Created)
	}
	return <-sealed
}

// maxAhead is how far a peer's step may lie ahead of this node's clock; Layer 1 allows as much between step and block.
const maxAhead = 60 * time.Second

// lag is how long a step waits here for the block that its originator had.
const lag = 100 * time.Millisecond

// reproduce runs a step that is another originator's at the session's next position and records it, if the response is the
// recorded one.
//
// A crash before the append's fsync leaves no trace, and no endorsement was sent. A crash after it leaves the step, and the
// endorsement beside it.
func (o *owner) reproduce(r *wire.Recorded, head wire.Digest) error {
	if err := o.mayReproduce(r); err != nil {
		return err
	}
	for range 8 {
		if err := o.refresh(false); err != nil {
			return err
		}
		if o.machine.State() != session.Open {
			return o.explain(refusal.New(refusal.SessionClosed, "the session is %s", o.machine.State()))
		}
		s, child, err := o.compare(r, head)
		if err != nil {
			return err
		}
		if !o.e.register(o, child.Reads(), o.overlay.Reads(), false) {
			continue
		}
		return o.adopted(s, child, nil)
	}
	return refusal.New(refusal.Overloaded, "blocks change what this step reads faster than it can be run")
}

// mayReproduce refuses another originator's step for reasons that need no run, and waits for the block it stands on.
func (o *owner) mayReproduce(r *wire.Recorded) error {
	tx := &r.Transaction
	if err := o.mayStep(&tx.Request); err != nil {
		return err
	}
	if err := o.fits(transactionSize(tx)); err != nil {
		return err
	}
	if before := tx.Sequence - 1; before > 0 && tx.Time < o.timeAt(before) {
		return refusal.New(refusal.WrongTime, "time %d is before the step before it", tx.Time)
	}
	if o.e.Height() < r.Height {
		ctx, cancel := context.WithTimeout(o.e.ctx, lag)
		defer cancel()
		return o.e.WaitHeight(ctx, r.Height)
	}
	return nil
}

func (o *owner) timeAt(sequence uint64) int64 {
	if sequence == o.machine.Len() {
		return o.machine.Time()
	}
	s, err := o.stored(sequence)
	if err != nil {
		return wire.MaxTime
	}
	return s.tx.Time
}

// compare runs the step on a child of the session's overlay and compares the response with the recorded one.
func (o *owner) compare(r *wire.Recorded, head wire.Digest) (*stored, *state.Overlay, error) {
	tx := &r.Transaction
	child := o.overlay.Child()
	o.source.take()
	result, refused, err := o.run(child, &tx.Request, tx.Sequence, tx.Time, tx.Originator)
	asked := o.source.take()
	switch {
	case err != nil:
		return nil, nil, err
	case refused != nil:
		return nil, nil, refused
	}
	if field, same := exec.Compare(tx.Response, result); !same {
		return nil, nil, refusal.New(refusal.ResponseDiffers, "run here on height %d, step %d answers otherwise (%s)", o.base, tx.Sequence, field).
			With("session", o.id.String()).With("step", tx.Sequence).With("field", field).With("response", result.Response.Body.String())
	}
	return &stored{tx: *tx, head: head, height: r.Height, seal: r.Seal, body: result.Body, questions: asked}, child, nil
}

// endorse signs this node's endorsement of a step that it has run on its newest state.
func (o *owner) endorse(sequence uint64, head wire.Digest, height int64) wire.Endorsement {
	v := wire.Endorsement{Node: o.e.self, Height: max(o.base, height)}
	v.Signature = wire.Signature(ed25519.Sign(o.e.o.Key, wire.EndorsementBytes(o.e.o.ChainID, o.id, sequence, head, v.Height)))
	return v
}

// adopted records a step that was run here with the recorded response, and this node's endorsement of it. If it takes the place
// of another variant, that is kept.
func (o *owner) adopted(s *stored, child *state.Overlay, kept *stored) error {
	tx := &s.tx
	vote := o.endorse(tx.Sequence, s.head, s.height)
	votes := votesRecord{Head: s.head}
	if tx.Originator != o.e.self { // its own answer, come back: the seal is its endorsement
		votes.Endorsements = []wire.Endorsement{vote}
	}
	acts := o.machine.Step(session.Reproduced{
		Sequence: tx.Sequence, Request: tx.Request.Digest(), Head: s.head, Time: tx.Time, Originator: tx.Originator,
	})
	if _, err := o.do(acts, func(session.Record) []op {
		ops := []op{
			{keyNumbered(o.id, partStep, tx.Sequence), s.encode()},
			{keyNumbered(o.id, partVotes, tx.Sequence), encodeRecord(votes)},
		}
		if kept != nil {
			ops = append(ops, op{keyVariant(o.id, tx.Sequence, s.head), nil}, op{keyVariant(o.id, tx.Sequence, kept.head), kept.encode()})
		}
		return ops
	}); err != nil {
		o.refused = err // the machine is ahead of the disk: nobody may use this session any more
		return err
	}
	o.hint(tx.Sequence, child)
	o.take(s, child)
	o.newest = max(o.newest, vote.Height)
	o.votes[tx.Sequence-1] = votes.Endorsements
	o.e.counts.replicated.Add(1)
	o.voted(o.machine.Step(session.Endorsed{Sequence: tx.Sequence, Node: o.e.self, Head: s.head}))
	return nil
}

// vouch sends this node's endorsement of a step that it has. Of a step that it has originated, and now hears of from a peer,
// there is none to send: the answer's signature is it.
func (o *owner) vouch(to wire.PublicKey, sequence uint64) {
	if o.refused != nil || sequence > uint64(len(o.votes)) {
		return
	}
	for _, v := range o.votes[sequence-1] {
		if v.Node == o.e.self {
			o.e.cluster.send(to, wire.PeerEndorse{
				Session: o.id, Sequence: sequence, Head: o.machine.HeadAt(sequence), Height: v.Height, Signature: v.Signature,
			}.Encode())
		}
	}
}

// Lagging is the reason of a dissent by a node that has not got the block the step stands on. It is no disagreement.
const Lagging = "lagging"

// dissent tells a peer why its step is not endorsed here.
func (o *owner) dissent(to wire.PublicKey, sequence uint64, head wire.Digest, err error) {
	m := wire.PeerDissent{Session: o.id, Sequence: sequence, Head: head, Reason: string(refusal.Internal), Height: o.e.Height()}
	if r, ok := refusal.As(err); ok {
		m.Reason, m.Detail = string(r.Code), r.Detail[:min(len(r.Detail), wire.MaxDetail)]
		if r.Code == refusal.HeightNotReached {
			m.Reason = Lagging
		}
		if text, ok := r.Fields["response"].(string); ok {
			m.Response, _ = wire.ParseDigest(text)
		}
	}
	o.noteFrom(to, auditRecord{Event: auditDissent, Sequence: sequence, Code: m.Reason, Height: m.Height, Detail: m.Detail})
	if o.refused == nil && sequence <= o.machine.Len() {
		m.Mine = o.machine.HeadAt(sequence)
	}
	o.e.cluster.send(to, m.Encode())
}
