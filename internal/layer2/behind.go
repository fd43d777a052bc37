package layer2

import (
	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// Steps that a checkpoint holds and this node lacks.
//
// session/behind.go has the argument: the ledger's record of the session names the head at which its last checkpoint ended, and
// steps that lead to it are those in the block, whoever sends them. They come from a peer that is asked for them, as soon as the
// block is told, or from the client's upload; they are not run, since the state holds what they did. All that is not under that
// head, the originators' seals, is verified. The bodies of the responses do not come along: the answer to a retry of such a step,
// and the receipt of its checkpoint, are had from the nodes that have run it.

// catchUp takes the settled steps that this node lacks from a transcript, if it is behind a checkpoint. One atomic write has the steps
// and the checkpoint: a crash before its fsync leaves a node that is behind, and finds out at its next look at the ledger.
func (o *owner) catchUp(steps []wire.Recorded) error {
	if err := o.lookBehind(); err != nil {
		return err
	}
	b := o.machine.Behind()
	if b == nil {
		return nil
	}
	all, err := o.settledSteps(steps, b)
	if err != nil {
		return err
	}
	var msg session.SettledSteps
	for _, s := range all {
		msg.Steps = append(msg.Steps, session.StepRecord{
			Sequence: s.tx.Sequence, Request: s.tx.Request.Digest(), Head: s.head, Time: s.tx.Time, Originator: s.tx.Originator,
		})
	}
	acts := o.machine.Step(msg)
	rec := checkpointRecord{Number: b.Number, Height: b.Height, Transaction: b.Transaction}
	if s, ok, err := o.settledRecord(); err == nil && ok && s.Steps == b.Steps {
		rec.Time = s.Time
	}
	if _, err := o.do(acts, func(session.Record) []op {
		ops := []op{{keyNumbered(o.id, partCheckpoint, b.Steps), encodeRecord(rec)}}
		for _, s := range all {
			ops = append(ops, op{keyNumbered(o.id, partStep, s.tx.Sequence), s.encode()})
		}
		return ops
	}); err != nil {
		if r, ok := refusal.As(err); !ok || r.Code != refusal.TranscriptMissing {
			o.refused = err // the machine is ahead of the disk: nobody may use this session any more
		}
		return err
	}
	o.tookSettled(all)
	return nil
}

// settledSteps finds in a transcript the steps that this node lacks up to the checkpoint that it is behind, and checks them.
func (o *owner) settledSteps(steps []wire.Recorded, b *session.CheckpointSettled) ([]*stored, error) {
	var all []*stored
	var previous wire.Digest
	for i := range steps {
		tx := &steps[i].Transaction
		n := tx.Sequence
		if n > b.Steps {
			break
		}
		if len(all) == 0 {
			if n == 0 || n > o.machine.Len()+1 {
				break
			}
			previous = o.machine.HeadAt(n - 1)
		} else if n != all[len(all)-1].tx.Sequence+1 {
			break
		}
		head := wire.TranscriptNext(previous, *tx)
		if len(all) == 0 && n <= o.machine.Len() && head == o.machine.HeadAt(n) {
			continue // here already
		}
		all = append(all, &stored{tx: *tx, head: head, height: steps[i].Height, seal: steps[i].Seal, bare: true})
		previous = head
	}
	if len(all) == 0 || all[len(all)-1].head != b.Head {
		return nil, refusal.New(refusal.TranscriptMissing, "the ledger holds a checkpoint of %d steps of this session, and these steps do not lead to it", b.Steps).
			With("session", o.id.String()).With("sequence", o.machine.Len()).With("transcript", o.machine.Head().String())
	}
	for _, s := range all {
		if err := httpsig.VerifySeal(answerOf(o.id, s.recorded(), s.head), s.seal); err != nil {
			return nil, err
		}
		if s.tx.Response.Body == wire.Sum(nil) {
			s.bare = false
		}
	}
	return all, nil
}

// tookSettled brings what the owner knows in line with the steps that were taken over.
func (o *owner) tookSettled(all []*stored) {
	first := all[0].tx.Sequence - 1
	if p := o.unpend(); p != nil {
		for _, reply := range p.replies {
			reply(nil, refusal.New(refusal.PositionTaken, "the client has gone on from another node's answer to this step").With("session", o.id.String()))
		}
	}
	o.votes = o.votes[:min(first, uint64(len(o.votes)))]
	o.askedTo = o.askedTo[:min(first, uint64(len(o.askedTo)))]
	if n := len(o.askedTo); n > 0 {
		o.asked = o.asked[:o.askedTo[n-1]]
	} else {
		o.asked = nil
	}
	for _, s := range all {
		o.signers.add(s.tx.Originator)
		o.newest = max(o.newest, s.height)
		o.votes = append(o.votes, nil)
		o.askedTo = append(o.askedTo, len(o.asked))
	}
	o.follow()
	o.mu.Lock()
	o.tip = tip{o.machine.Len(), o.machine.Head()}
	o.mu.Unlock()
	o.e.o.Logger.Info("steps of a checkpoint taken over", "session", o.id, "steps", len(all), "of", o.machine.Len())
	o.checkpointed()
}

// lookBehind looks whether the ledger holds a part of the session that this node knows nothing of.
func (o *owner) lookBehind() error {
	s, ok, err := o.settledRecord()
	if err != nil {
		return err
	}
	if ok && !s.Final && s.Checkpoints > o.machine.Start().Checkpoints && o.machine.Behind() == nil {
		if v, err := o.e.o.Ledger.View(); err == nil {
			o.inView(v)
		}
	}
	return nil
}

// settledRecord is the ledger's record of the session.
func (o *owner) settledRecord() (s ledger.Settled, ok bool, err error) {
	v, err := o.e.o.Ledger.View()
	if err == nil {
		s, ok, err = ledger.SettledOf(v, o.id)
	}
	if err != nil {
		return s, false, o.e.stateRefusal(err)
	}
	return s, ok, nil
}

// whole is stored, for a step whose response's body is needed.
func (o *owner) whole(sequence uint64) (*stored, error) {
	s, err := o.stored(sequence)
	if err == nil && s.bare {
		return nil, refusal.New(refusal.TranscriptMissing, "a block holds step %d; its answer is at the nodes that have run it", sequence).
			With("session", o.id.String()).With("sequence", o.machine.Len()).With("transcript", o.machine.Head().String())
	}
	return s, err
}
