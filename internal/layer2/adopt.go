package layer2

import (
	"context"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// Going on with a session that was begun elsewhere.
//
// A transcript comes from a peer that was asked for it, or from the client, who has every signed request and every signed
// answer. Either way nothing of it is believed: each step is verified and run, and must give the recorded response.
//
// One signed step may have been answered twice, at two originators, at different times: two variants of one position. See
// variant.go. Only the last step can be replaced; what the client has signed over stays.

// adoptOpening takes over a session that was opened elsewhere. A session that is known already is returned as it is.
func (e *Engine) adoptOpening(open *wire.Request) (*owner, error) {
	if e.closing.Load() {
		return nil, shuttingDown()
	}
	proven, err := session.VerifyOpen(open)
	if err != nil {
		return nil, err
	}
	o, err := e.find(proven.ID)
	if !refusal.Has(err, refusal.SessionNotFound) {
		return o, err
	}
	actor, height, err := e.mayAdopt(open, proven)
	if err != nil {
		return nil, err
	}
	o, _, err = e.enlist(open, proven, actor, height)
	return o, err
}

// transcript takes in what a peer has sent of a session.
func (c *cluster) transcript(from wire.PublicKey, m wire.PeerTranscript) {
	id := httpsig.SessionID(&m.Opened.Open)
	defer c.found(id)
	o, err := c.e.adoptOpening(&m.Opened.Open)
	if err != nil {
		c.e.o.Logger.Debug("a session is not taken over", "session", id, "peer", from, "error", err)
		return
	}
	c.post(o, func(o *owner) {
		if err := o.adopt(m.Steps, m.Ended, from); err != nil {
			c.e.o.Logger.Info("a session is not taken over as another node has it", "session", id, "peer", from, "error", err)
		}
		if m.Ended != nil {
			o.endedElsewhere(from, *m.Ended, false)
		}
		o.sought()
	})
}

// adopt takes in steps that another node, or the client, has. The steps follow each other; those that are here already are
// passed over. ended, if there is one, is a signature over the last of them. A peer gets endorsements of what it sent.
func (o *owner) adopt(steps []wire.Recorded, ended *wire.PeerEnded, from wire.PublicKey) error {
	if o.refused != nil {
		return o.refused
	}
	o.followPolicy()
	if err := o.catchUp(steps); err != nil {
		return err
	}
	for i := range steps {
		r := &steps[i]
		n := r.Transaction.Sequence
		if n > o.machine.Len()+1 {
			return refusal.New(refusal.TranscriptMissing, "step %d is missing", o.machine.Len()+1)
		}
		previous := o.machine.HeadAt(n - 1)
		head := wire.TranscriptNext(previous, r.Transaction)
		switch {
		case n <= o.machine.Len() && o.machine.HeadAt(n) == head: // here already
		case n == o.machine.Len()+1:
			if err := o.appendStep(r, previous, head); err != nil {
				o.dissentTo(from, n, head, err)
				o.suspectAnswer(r, previous, err)
				return err
			}
		case n == o.machine.Len() && n > o.machine.Start().Sequence && o.chosen(steps[i+1:], ended, n+1, head):
			if err := o.moveTo(r, previous, head, true); err != nil {
				o.dissentTo(from, n, head, err)
				return err
			}
		case n == o.machine.Len() && o.machine.Yields(n, head) && o.sameRequest(r):
			if err := o.moveTo(r, previous, head, false); err != nil {
				o.dissentTo(from, n, head, err)
				o.suspectAnswer(r, previous, err)
				return err
			}
		case n == o.machine.Len():
			return refusal.New(refusal.PositionTaken, "this node has step %d as another node answered it", n)
		default:
			if rest := steps[i+1:]; len(rest) > 0 { // what follows it signs over it
				o.suspectClient(httpsig.TagStep, &rest[0].Transaction.Request, httpsig.Place{Session: o.id, Sequence: n + 1, Transcript: head})
			}
			return refusal.New(refusal.Equivocation, "step %d differs from what this node has, and the client has signed over that", n)
		}
		if from != (wire.PublicKey{}) {
			o.vouch(from, n)
		}
	}
	return nil
}

func (o *owner) dissentTo(from wire.PublicKey, sequence uint64, head wire.Digest, err error) {
	if from != (wire.PublicKey{}) {
		o.dissent(from, sequence, head, err)
	}
}

// chosen reports whether the client has signed over head: with the next step, or with the session's end.
func (o *owner) chosen(next []wire.Recorded, ended *wire.PeerEnded, sequence uint64, head wire.Digest) bool {
	place := httpsig.Place{Session: o.id, Sequence: sequence, Transcript: head}
	switch {
	case len(next) > 0:
		return o.signedBy(httpsig.TagStep, &next[0].Transaction.Request, place) == nil
	case ended != nil:
		return o.signedBy(httpsig.TagCommit, &ended.Request, place) == nil || o.signedBy(httpsig.TagStep, &ended.Request, place) == nil
	}
	return o.picked.Sequence == sequence && o.picked.Transcript == head
}

// appendStep verifies, runs and records another originator's step behind the last one.
func (o *owner) appendStep(r *wire.Recorded, previous, head wire.Digest) error {
	if err := o.verify(r, previous, head); err != nil {
		return err
	}
	tx := &r.Transaction
	acts := o.machine.Step(session.Replicated{Sequence: tx.Sequence, Previous: previous, Request: tx.Request.Digest(), Head: head})
	if _, err := o.do(acts, o.payload); err != nil {
		return err
	}
	return o.reproduce(r, head)
}

// seeking is a search for steps at other nodes, and the requests that wait for it.
type seeking struct {
	left    int // nodes that have not answered
	waiting []seeker
	timer   *time.Timer
}

// seeker is a request that signs over what this node does not have.
type seeker struct {
	place httpsig.Place
	run   func() // decides about the request, without seeking again
}

// seek looks for missing steps at the other nodes and decides about the request when they are here or cannot be had. The
// request's signature, at this place, is good.
func (o *owner) seek(from uint64, place httpsig.Place, seek bool, reply stepReply, run func()) {
	missing := o.behind(place)
	o.picked = place
	if !seek {
		reply(nil, missing)
		return
	}
	if o.seeking == nil {
		left := len(o.e.cluster.sendAll(wire.PeerFetch{Session: o.id, From: from}.Encode()))
		if left == 0 {
			reply(nil, missing)
			return
		}
		s := &seeking{left: left}
		s.timer = time.AfterFunc(patience, func() {
			_ = o.post(false, func() {
				if o.seeking == s {
					s.left = 0
					o.sought()
				}
			})
		})
		o.seeking = s
	}
	o.seeking.waiting = append(o.seeking.waiting, seeker{place, run})
}

// behind is the refusal of a request that signs over what this node does not have.
func (o *owner) behind(place httpsig.Place) *refusal.Refusal {
	return refusal.New(refusal.TranscriptMissing, "the request stands at sequence %d over transcript %s; this node has %d steps with head %s",
		place.Sequence, place.Transcript, o.machine.Len(), o.machine.Head()).
		With("session", o.id.String()).With("sequence", o.machine.Len()).With("transcript", o.machine.Head().String())
}

// sought looks, after a node has answered, who of those that wait need wait no longer.
func (o *owner) sought() {
	s := o.seeking
	if s == nil {
		return
	}
	s.left--
	var ready, still []seeker
	for _, w := range s.waiting {
		if s.left > 0 && (w.place.Sequence > o.machine.Len()+1 || w.place.Transcript != o.machine.HeadAt(w.place.Sequence-1)) {
			still = append(still, w)
		} else {
			ready = append(ready, w)
		}
	}
	s.waiting = still
	if len(still) == 0 {
		s.timer.Stop()
		o.seeking = nil
	}
	for _, w := range ready {
		w.run()
	}
}

// Upload takes a session from its client: the signed opening, and every signed step with the originator's signed answer.
// Everything is verified and run again; what is here already is passed over, so that uploading twice is no error. The session
// then goes on at this node. Refusals: those of session.VerifyOpen and of Step, wrong-chain, wrong-fingerprint,
// response-differs when a step would be answered otherwise now, position-taken when this node has another variant of the
// last step and the client has not yet sent a request here that signs over this one, equivocation.
func (e *Engine) Upload(ctx context.Context, t wire.Transcript) (Session, error) {
	leave, err := e.enter()
	if err != nil {
		return Session{}, err
	}
	defer leave()
	id := httpsig.SessionID(&t.Open)
	if v, err := e.o.Ledger.View(); err != nil {
		return Session{}, e.stateRefusal(err)
	} else if s, settled, err := ledger.SettledOf(v, id); err != nil {
		return Session{}, e.stateRefusal(err)
	} else if settled && s.Final {
		return e.session(id)
	}
	o, err := e.adoptOpening(&t.Open)
	if err != nil {
		return Session{}, err
	}
	return ask(o, func() (Session, error) {
		if o.refused != nil {
			return Session{}, o.refused
		}
		if o.machine.State() == session.Open {
			if err := o.adopt(t.Steps, nil, wire.PublicKey{}); err != nil {
				return Session{}, err
			}
			o.share()
		}
		return o.status()
	})
}

// share tells the peers of a session that was uploaded here.
func (o *owner) share() {
	if t, err := o.transcriptFrom(1); err == nil {
		o.e.cluster.sendAll(t.Encode())
	}
}

// endedElsewhere takes in that the client has signed the session's end at another node. An abandoning ends it here too. A
// commit is remembered, for the receipt: the block will say whether it came about.
func (o *owner) endedElsewhere(from wire.PublicKey, m wire.PeerEnded, fetch bool) {
	if o.refused != nil || o.machine.State().Ended() && (o.machine.State() != session.Committed || o.ended.Ours) {
		return
	}
	if m.Sequence != o.machine.Len()+1 || m.Head != o.machine.Head() {
		if fetch {
			o.e.cluster.send(from, wire.PeerFetch{Session: o.id, From: max(1, o.machine.Len())}.Encode())
		}
		return
	}
	place := httpsig.Place{Session: o.id, Sequence: m.Sequence, Transcript: m.Head}
	switch req := m.Request; {
	case req.Method == "DELETE" && req.Path == session.PathOpen+"/"+o.id.String() && o.signedBy(httpsig.TagStep, &req, place) == nil:
		if o.machine.State() == session.Open {
			o.leaving = &req
			_, _ = o.do(o.machine.Step(session.AbandonRequested{Sequence: m.Sequence, Transcript: m.Head}), o.payload)
		}
	case req.Path == session.PathCommit(o.id) && len(o.endings) < 4 && o.signedBy(httpsig.TagCommit, &req, place) == nil:
		o.endings = append(o.endings, req)
		if o.machine.State() == session.Committed { // the block was faster
			if o.whichCommit(o.ended.Transaction); o.hash == o.ended.Transaction {
				o.ended.Ours = true
				if err := o.e.journal.append(o.endPayload(o.machine.End())...); err != nil {
					o.e.o.Logger.Error("the end of a session is not written", "session", o.id, "error", err)
				}
			}
		}
	}
}
