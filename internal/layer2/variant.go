package layer2

import (
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Two answers to one signed step.
//
// session/variant.go has the rules: a node moves to the variant with the smaller head, keeps those that it has stood at, and the
// client's next signature decides. Here is how nodes hear of each other's variants:
//
//   - An originator sends its variant as every step. A peer that stands at a smaller one dissents with position-taken and names its
//     head, and the originator fetches it; a peer that stands at a larger one moves, endorses, and passes the variant on.
//   - When a connection comes up both sides list their tips; who has the larger head fetches.
//   - Who is asked for a session's steps (a fetch) sends the variants it keeps too, so that a request which signs over one of
//     them can be gone on with at any node.
//
// The crash story of a replacement: it is one atomic write of the new last step, this node's endorsement of it, and the old last
// step as a variant beside it. A crash before its fsync leaves the old one, and nobody has heard of an endorsement; a crash after it
// leaves both, whichever of them a client was answered with. The variants that became void are deleted with some write after the
// one that recorded the step behind them; a crash in between leaves records that loading passes over.

// loadVariant reads a variant record back. It continues the transcript up to the step before it, if it is one of the last step.
func loadVariant(key, b []byte, m *session.Machine) (*stored, error) {
	s, err := decodeStep(key, b)
	if err != nil {
		return nil, err
	}
	n := s.tx.Sequence
	if s.head != wire.Digest(key[26:]) {
		return nil, damagedRecord(key, "is of another head than its key")
	}
	if n > 0 && n <= m.Len() && wire.TranscriptNext(m.HeadAt(n-1), s.tx) != s.head {
		return nil, damagedRecord(key, "does not continue the transcript of the step before it")
	}
	return s, nil
}

// variant reads a variant of the last step back.
func (o *owner) variant(head wire.Digest) (*stored, error) {
	key := keyVariant(o.id, o.machine.Len(), head)
	b, ok, err := o.e.journal.get(key)
	if err == nil && !ok {
		err = damagedRecord(key, "is missing")
	}
	if err != nil {
		return nil, o.e.diskRefusal(err)
	}
	s, err := decodeStep(key, b)
	if err != nil {
		return nil, o.e.diskRefusal(err)
	}
	return s, nil
}

// isPicked reports whether a variant of the last step is the one that the client has signed over in a request to this node.
func (o *owner) isPicked(sequence uint64, head wire.Digest) bool {
	return sequence > 0 && sequence == o.machine.Len() && head != o.machine.Head() && sequence > o.machine.Start().Sequence &&
		o.picked.Sequence == sequence+1 && o.picked.Transcript == head
}

// sameRequest reports whether a recorded step is a variant of the last one: the same signed request.
func (o *owner) sameRequest(r *wire.Recorded) bool {
	last, err := o.stored(o.machine.Len())
	return err == nil && last.tx.Request.Digest() == r.Transaction.Request.Digest()
}

// choose puts the variant of the last step that the client has signed over back into its place.
func (o *owner) choose(a session.Choose) error {
	s, err := o.variant(a.Head)
	if err != nil {
		return err
	}
	r := s.recorded()
	return o.moveTo(&r, o.machine.HeadAt(a.Sequence-1), a.Head, true)
}

// moveTo is replaceTip; if that fails the session is run again as it stands, so that what its last step has read is watched again.
func (o *owner) moveTo(r *wire.Recorded, previous, head wire.Digest, chosen bool) error {
	err := o.replaceTip(r, previous, head, chosen)
	if err != nil && o.refused == nil && o.overlay == nil && o.machine.State() == session.Open {
		if again := o.refresh(false); again != nil {
			o.e.o.Logger.Debug("session run again at its own variant", "session", o.id, "result", again)
		}
	}
	return err
}

// replaceTip puts a variant of the last step in the place of the one that is here, which is kept. chosen says that the client has
// signed over it; otherwise it is the one that all nodes come to stand at, and is passed on.
func (o *owner) replaceTip(r *wire.Recorded, previous, head wire.Digest, chosen bool) error {
	if o.machine.State() != session.Open {
		return o.explain(refusal.New(refusal.SessionClosed, "the session is %s", o.machine.State()))
	}
	if err := o.verify(r, previous, head); err != nil {
		return err
	}
	n := r.Transaction.Sequence
	old, err := o.stored(n)
	if err != nil {
		return err
	}
	if err := o.mayReproduce(r); err != nil {
		return err
	}
	s, child, err := o.rerunForTip(r, head)
	if err != nil {
		o.overlay = nil // what is there still has its old tip: run it again before the next step
		o.e.setDirty(o)
		return err
	}
	p := o.unpend()
	o.size -= transactionSize(&old.tx)
	o.votes = o.votes[:n-1]
	if err := o.adopted(s, child, old); err != nil {
		return err
	}
	if p != nil {
		for _, reply := range p.replies {
			if chosen {
				reply(nil, refusal.New(refusal.PositionTaken, "the client has gone on from another node's answer to this step").With("session", o.id.String()))
			} else {
				reply(o.answer(s, true), nil)
			}
		}
	}
	if !chosen {
		o.e.cluster.sendAll(wire.PeerStep{Session: o.id, Previous: previous, Head: head, Step: s.recorded()}.Encode())
	}
	return nil
}

// rerunForTip runs the session without its last step, and then the step in its place.
func (o *owner) rerunForTip(r *wire.Recorded, head wire.Digest) (*stored, *state.Overlay, error) {
	n := r.Transaction.Sequence
	for range 8 {
		o.e.takeDirty(o)
		v, err := o.e.newest()
		if err != nil {
			return nil, nil, err
		}
		was := o.base
		diff, err := o.rerunTo(v, n-1)
		if err != nil {
			return nil, nil, err
		}
		if diff != nil {
			return nil, nil, o.different(diff, was, v.Height())
		}
		if !o.e.register(o, o.overlay.Reads(), nil, true) {
			continue
		}
		o.e.hints.replace(o, o.overlay.Changes())
		s, child, err := o.compare(r, head)
		if err != nil {
			return nil, nil, err
		}
		if o.e.register(o, child.Reads(), o.overlay.Reads(), false) {
			return s, child, nil
		}
	}
	return nil, nil, refusal.New(refusal.Overloaded, "blocks change what this session reads faster than it can be run again")
}

// survives looks, when the last step would now answer otherwise, whether another variant of it would not: the client may have got
// that one, and has not said. Then the session stands at it, and is not overtaken.
func (o *owner) survives(d *difference) bool {
	if d.step != o.machine.Len() || d.code != refusal.Conflict || !o.machine.Undecided() {
		return false
	}
	for _, head := range o.machine.Variants() {
		s, err := o.variant(head)
		if err != nil {
			return false
		}
		r := s.recorded()
		if o.replaceTip(&r, o.machine.HeadAt(d.step-1), head, false) == nil {
			return true
		}
		if o.machine.State() != session.Open {
			return true // overtaken in an earlier step, meanwhile
		}
	}
	return false
}

// settledOtherwise is what a request gets after survives: nothing, if the session is open and stands at another variant.
func (o *owner) settledOtherwise() error {
	if o.machine.State() == session.Open {
		return nil
	}
	return o.settlement().err
}

// sendVariants sends a peer that asks for the steps from some on the variants of the last one that are kept here.
func (o *owner) sendVariants(to wire.PublicKey, from uint64) {
	n := o.machine.Len()
	if o.refused != nil || n == 0 || from > n {
		return
	}
	for _, head := range o.machine.Variants() {
		if s, err := o.variant(head); err == nil {
			o.e.cluster.send(to, wire.PeerStep{Session: o.id, Previous: o.machine.HeadAt(n - 1), Head: head, Step: s.recorded()}.Encode())
		}
	}
}

// kept are the variants of a step that this node has on disk beside it.
type kept struct {
	sequence uint64
	heads    []wire.Digest
}

// follow notes which variants are kept now, and has those deleted that a new step has made void.
func (o *owner) follow() {
	n := o.machine.Len()
	if o.kept.sequence != n {
		for _, head := range o.kept.heads {
			o.e.journal.later(op{keyVariant(o.id, o.kept.sequence, head), nil})
		}
	}
	o.kept = kept{n, o.machine.Variants()}
}
