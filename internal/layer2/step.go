package layer2

import (
	"context"

	"tandem/internal/exec"
	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Step runs a signed step. An application's answer of 400 or more is an Answer with Recorded false, no error; it is no
// step of the session and its position stays free. The same signed request again gets the stored answer, also
// after the session has ended.
func (e *Engine) Step(ctx context.Context, p *httpsig.Parsed) (*Answer, error) {
	leave, err := e.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if p.Tag != httpsig.TagStep {
		return nil, refusal.New(refusal.WrongTag, "a step is signed with the tag %s, not %.64q", httpsig.TagStep, p.Tag)
	}
	o, err := e.find(p.Place.Session)
	if err != nil {
		return nil, err
	}
	if err := o.signedBy(httpsig.TagStep, &p.Request, p.Place); err != nil {
		return nil, err
	}
	a, err := ask(o, func() (*Answer, error) { return o.step(&p.Request, p.Place) })
	return e.signed(a, err)
}

// signedBy checks that the session's key signed the request for this place. It needs nothing that changes, so it runs on
// the caller's goroutine.
func (o *owner) signedBy(tag string, req *wire.Request, place httpsig.Place) error {
	if err := req.Check(); err != nil {
		return err
	}
	if req.Key != o.open.Key {
		return refusal.New(refusal.SignatureInvalid, "signed by %s in a session that %s opened", req.Key, o.open.Key).With("session", o.id.String())
	}
	return httpsig.Verify(tag, req, place)
}

// step decides about a request whose signature is good, on the owner's goroutine.
func (o *owner) step(req *wire.Request, place httpsig.Place) (*Answer, error) {
	if o.refused != nil {
		return nil, o.refused
	}
	acts := o.machine.Step(session.StepRequested{Sequence: place.Sequence, Transcript: place.Transcript, Request: req.Digest()})
	rest, err := o.do(acts, func(session.Record) []op { return o.evidence(req, place.Sequence) })
	if err != nil {
		return nil, err
	}
	for _, a := range rest {
		switch a := a.(type) {
		case session.Replay:
			s, err := o.stored(a.Sequence)
			if err != nil {
				return nil, err
			}
			return o.answer(s, true), nil
		case session.Execute:
			return o.execute(req, a.Sequence)
		}
	}
	return nil, refusal.New(refusal.SessionBusy, "this step waits for endorsements").With("session", o.id.String())
}

func (o *owner) evidence(req *wire.Request, sequence uint64) []op {
	o.e.o.Logger.Warn("equivocation", "session", o.id, "step", sequence, "key", req.Key)
	return []op{{keyNumbered(o.id, partEvidence, sequence), encodeRecord(evidenceRecord{Request: req.Encode()})}}
}

// execute runs the step at the session's next position and, if its answer is to be recorded, has it on disk before it
// returns.
//
// A crash before the append's fsync leaves no trace; nobody was answered. A crash after it leaves a recorded step whose
// answer may not have arrived; the client's retry gets it.
func (o *owner) execute(req *wire.Request, sequence uint64) (*Answer, error) {
	if err := o.mayStep(req); err != nil {
		return nil, err
	}
	for range 8 {
		if err := o.refresh(false); err != nil {
			return nil, err
		}
		if o.machine.State() != session.Open { // found in a block while looking
			return nil, o.explain(refusal.New(refusal.SessionClosed, "the session is %s", o.machine.State()))
		}
		now := o.e.now()
		time := max(o.machine.Time(), now)
		if err := fresh(req.Created, time); err != nil {
			return nil, err
		}
		child := o.overlay.Child()
		o.source.take()
		result, refused, err := o.run(child, req, sequence, time)
		asked := o.source.take()
		switch {
		case err == errStale:
			continue
		case err != nil:
			return nil, err
		case refused != nil:
			return nil, refused.With("session", o.id.String())
		case !result.Recorded:
			return o.unrecorded(result, time), nil
		}
		s := &stored{
			tx:     wire.Transaction{Sequence: sequence, Request: *req, Response: result.Response, Originator: o.e.self, Time: time},
			height: o.base, body: result.Body, questions: asked,
		}
		size := transactionSize(&s.tx)
		if err := o.fits(size); err != nil {
			return nil, err
		}
		if !o.e.register(o, child.Reads(), o.overlay.Reads(), false) {
			continue // a block came meanwhile and changed what the step has read
		}
		return o.record(s, child, size)
	}
	return nil, refusal.New(refusal.Overloaded, "blocks change what this step reads faster than it can be run").With("retry_after_seconds", 1)
}

// record takes an executed step into the session: machine, disk, endorsement, overlay.
func (o *owner) record(s *stored, child *state.Overlay, size int) (*Answer, error) {
	s.head = wire.TranscriptNext(o.machine.Head(), s.tx)
	acts := o.machine.Step(session.Executed{Sequence: s.tx.Sequence, Request: s.tx.Request.Digest(), Head: s.head, Time: s.tx.Time})
	if _, err := o.do(acts, func(session.Record) []op {
		return []op{{keyNumbered(o.id, partStep, s.tx.Sequence), s.encode()}}
	}); err != nil {
		return nil, err
	}
	child.Merge()
	o.size += size
	o.newest = max(o.newest, s.height)
	o.asked = append(o.asked, s.questions...)
	o.askedTo = append(o.askedTo, len(o.asked))
	o.e.counts.steps.Add(1)
	for _, a := range o.machine.Step(session.Endorsed{Sequence: s.tx.Sequence, Node: o.e.self, Head: s.head}) {
		if _, ok := a.(session.Reply); ok {
			return o.answer(s, false), nil
		}
	}
	return nil, refusal.New(refusal.SessionBusy, "this step waits for endorsements").With("session", o.id.String())
}

// mayStep refuses a step for reasons that need no state.
func (o *owner) mayStep(req *wire.Request) error {
	if now := o.e.now(); now >= o.body.ExpiresAt {
		return refusal.New(refusal.SessionExpired, "the session expired at %d, it is %d", o.body.ExpiresAt, now).With("session", o.id.String())
	}
	if o.body.Fingerprint != o.e.o.Runner.Fingerprint() {
		return o.e.wrongFingerprint(o.body.Fingerprint)
	}
	most := uint64(wire.MaxSteps)
	if p, err := o.e.parameters(); err == nil && p.MaxSteps > 0 {
		most = min(most, p.MaxSteps)
	}
	if o.machine.Len() >= most {
		return refusal.New(refusal.SessionFull, "the session has %d steps, as many as one may have; commit it", most).With("session", o.id.String())
	}
	return o.fits(len(req.Encode()) + stepOverhead)
}

// fits refuses what would make the session too large for one Layer 1 transaction.
func (o *owner) fits(more int) error {
	used := len(o.open.Encode()) + o.size + commitReserve
	if used+more > wire.MaxTransaction {
		return refusal.New(refusal.SessionFull, "with this step the session would take %d bytes; a commit has %d. Commit it and open another",
			used+more, wire.MaxTransaction).With("session", o.id.String())
	}
	return nil
}

// unrecorded is the answer of a step that is not recorded: it stands at the position before it.
func (o *owner) unrecorded(r exec.Result, time int64) *Answer {
	return &Answer{
		Status: r.Response.Status, Headers: r.Response.Headers, Body: r.Body,
		Session: o.id, Sequence: o.machine.Len(), Transcript: o.machine.Head(), Height: o.base, Time: time, Originator: o.e.self,
	}
}

// fresh refuses a signature whose created (seconds) is too far from the time (milliseconds).
func fresh(created, time int64) error {
	if skew := time - created*1000; skew > session.MaxSkewSeconds*1000 || skew < -session.MaxSkewSeconds*1000 {
		return refusal.New(refusal.StaleSignature, "signed at %d, it is %d: more than %d s apart", created, time/1000, session.MaxSkewSeconds).
			With("created", created).With("now", time/1000)
	}
	return nil
}
