package layer2

import (
	"context"
	"slices"
	"time"

	"tandem/internal/exec"
	"tandem/internal/httpsig"
	"tandem/internal/ledger"
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
	o, err := e.findAnywhere(ctx, p.Place.Session)
	if err != nil {
		return nil, err
	}
	if err := o.signed(p); err != nil {
		return nil, err
	}
	return e.signed(askStep(ctx, o, func(reply stepReply) { o.step(&p.Request, p.Place, reply, true) }))
}

// signed checks that the session's key signed a request that came from its client. It needs nothing that changes, so it
// runs on the caller's goroutine.
func (o *owner) signed(p *httpsig.Parsed) error {
	if err := o.fromClient(&p.Request); err != nil {
		return err
	}
	return p.Verify()
}

// signedBy is signed for a request that came some other way.
func (o *owner) signedBy(tag string, req *wire.Request, place httpsig.Place) error {
	if err := o.fromClient(req); err != nil {
		return err
	}
	return httpsig.Verify(tag, req, place)
}

func (o *owner) fromClient(req *wire.Request) error {
	if err := req.Check(); err != nil {
		return err
	}
	if req.Key != o.open.Key {
		return refusal.New(refusal.SignatureInvalid, "signed by %s in a session that %s opened", req.Key, o.open.Key).With("session", o.id.String())
	}
	return nil
}

// stepReply takes the answer to a step, exactly once, on the owner's goroutine.
type stepReply func(*Answer, error)

// askStep runs work on the owner's goroutine and waits for the answer, which may come later than work returns. While it does,
// the request holds no place.
func askStep(ctx context.Context, o *owner, work func(reply stepReply)) (*Answer, error) {
	type answered struct {
		a   *Answer
		err error
	}
	c := make(chan answered, 1)
	if err := o.postHere(func() { work(func(a *Answer, err error) { c <- answered{a, err} }) }); err != nil {
		return nil, err
	}
	giveBack(ctx)()
	select {
	case r := <-c:
		return r.a, r.err
	case <-o.e.ctx.Done():
	}
	select {
	case r := <-c:
		return r.a, r.err
	default:
		return nil, shuttingDown()
	}
}

// step decides about a request whose signature is good, on the owner's goroutine. With seek, steps that are missing here
// are looked for at other nodes first.
func (o *owner) step(req *wire.Request, place httpsig.Place, reply stepReply, seek bool) {
	if o.refused != nil {
		reply(nil, o.refused)
		return
	}
	o.followPolicy()
	acts := o.machine.Step(session.StepRequested{Sequence: place.Sequence, Transcript: place.Transcript, Request: req.Digest()})
	rest, err := o.do(acts, func(session.Record) []op { return o.evidence(req, place.Sequence) })
	if err != nil {
		o.suspectClient(httpsig.TagStep, req, place)
		reply(nil, err)
		return
	}
	for _, a := range rest {
		switch a := a.(type) {
		case session.Replay:
			s, err := o.whole(a.Sequence)
			if err != nil {
				reply(nil, err)
				return
			}
			reply(o.answer(s, true), nil)
			return
		case session.Join:
			if o.join(a.Sequence, reply) {
				return
			}
		case session.Choose:
			if err := o.choose(a); err != nil {
				reply(nil, err)
				return
			}
			o.step(req, place, reply, seek)
			return
		case session.Seek:
			o.seek(a.From, place, seek, reply, func() { o.step(req, place, reply, false) })
			return
		case session.Execute:
			o.execute(req, a.Sequence, reply)
			return
		}
	}
	reply(nil, refusal.New(refusal.SessionBusy, "this step waits for endorsements").With("session", o.id.String()))
}

func (o *owner) evidence(req *wire.Request, sequence uint64) []op {
	o.e.o.Logger.Warn("equivocation", "session", o.id, "step", sequence, "key", req.Key)
	return []op{{keyNumbered(o.id, partEvidence, sequence), encodeRecord(evidenceRecord{Request: req.Encode()})}}
}

// execute runs the step at the session's next position and, if its answer is to be recorded, has it on disk, and with
// enough peers, before it is answered.
//
// A crash before the append's fsync leaves no trace here; nobody was answered, and a peer that has the step gives its answer
// to the client's retry. A crash after it leaves a recorded step whose answer may not have arrived; the retry gets it.
func (o *owner) execute(req *wire.Request, sequence uint64, reply stepReply) {
	s, child, unrecorded, err := o.originate(req, sequence)
	switch {
	case err != nil:
		o.noteError(auditRefused, sequence, err)
		reply(nil, err)
	case unrecorded != nil:
		reply(unrecorded, nil)
	default:
		o.record(s, child, reply)
	}
}

// originate runs a new step on a child of the session's overlay, and enters its reads. The answer is not nil if it is not
// to be recorded.
func (o *owner) originate(req *wire.Request, sequence uint64) (*stored, *state.Overlay, *Answer, error) {
	if err := o.mayStep(req); err != nil {
		return nil, nil, nil, err
	}
	for range 8 {
		if err := o.refresh(false); err != nil {
			return nil, nil, nil, err
		}
		if o.machine.State() != session.Open { // found in a block while looking
			return nil, nil, nil, o.explain(refusal.New(refusal.SessionClosed, "the session is %s", o.machine.State()))
		}
		now := o.e.now()
		time := max(o.machine.Time(), now)
		if err := fresh(req.Created, time); err != nil {
			return nil, nil, nil, err
		}
		child := o.overlay.Child()
		o.source.take()
		if err := ledger.Originator(o.source.base, o.e.self); err != nil { // taken off the list, it originates nothing new; no question of the step's
			return nil, nil, nil, o.e.stateRefusal(err)
		}
		result, refused, err := o.run(child, req, sequence, time, o.e.self)
		asked := o.source.take()
		switch {
		case err == errStale:
			continue
		case err != nil:
			return nil, nil, nil, err
		case refused != nil:
			return nil, nil, nil, refused.With("session", o.id.String())
		case !result.Recorded:
			return nil, nil, o.unrecorded(result, time), nil
		}
		s := &stored{
			tx:     wire.Transaction{Sequence: sequence, Request: *req, Response: result.Response, Originator: o.e.self, Time: time},
			height: o.base, body: result.Body, questions: asked,
		}
		if err := o.fits(transactionSize(&s.tx)); err != nil {
			return nil, nil, nil, err
		}
		if !o.e.register(o, child.Reads(), o.overlay.Reads(), false) {
			continue // a block came meanwhile and changed what the step has read
		}
		o.hint(sequence, child)
		return s, child, nil, nil
	}
	return nil, nil, nil, refusal.New(refusal.Overloaded, "blocks change what this step reads faster than it can be run").With("retry_after_seconds", 1)
}

// record takes an executed step into the session: machine, peers, disk, overlay. The peers work on it while this node's
// disk does.
func (o *owner) record(s *stored, child *state.Overlay, reply stepReply) {
	previous := o.machine.Head()
	s.head = wire.TranscriptNext(previous, s.tx)
	s.seal = httpsig.SealAnswer(o.e.o.Key, s.tx.Time/1000, o.seen(s))
	acts := o.machine.Step(session.Executed{Sequence: s.tx.Sequence, Request: s.tx.Request.Digest(), Head: s.head, Time: s.tx.Time})
	var absent []wire.PublicKey
	p := &pending{step: s, replies: []stepReply{reply}}
	if slices.ContainsFunc(acts, isSend) {
		p.sent = time.Now()
		absent = o.e.cluster.sendStep(o, previous, s)
	}
	if _, err := o.do(acts, func(session.Record) []op {
		return []op{{keyNumbered(o.id, partStep, s.tx.Sequence), s.encode()}}
	}); err != nil {
		o.refused = err // the machine is ahead of the disk: nobody may use this session any more
		reply(nil, err)
		return
	}
	o.take(s, child)
	o.e.counts.steps.Add(1)
	o.pending = p
	o.waits.Store(true)
	for _, n := range absent {
		o.voted(o.machine.Step(session.Dissented{Sequence: s.tx.Sequence, Node: n, Reason: refusal.Layer1Unavailable}))
	}
	o.voted(o.machine.Step(session.Endorsed{Sequence: s.tx.Sequence, Node: o.e.self, Head: s.head}))
	if o.pending == p {
		p.wait(o)
	}
}

func isSend(a session.Action) bool {
	_, ok := a.(session.Send)
	return ok
}

// take moves the session behind a step that is on disk.
func (o *owner) take(s *stored, child *state.Overlay) {
	child.Merge()
	o.size += transactionSize(&s.tx)
	o.newest = max(o.newest, s.height)
	o.asked = append(o.asked, s.questions...)
	o.askedTo = append(o.askedTo, len(o.asked))
	o.votes = append(o.votes, nil)
	o.autoCheckpoint(s)
	o.signers.add(s.tx.Originator)
	o.follow()
	o.mu.Lock()
	o.tip = tip{s.tx.Sequence, s.head}
	o.mu.Unlock()
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
	if o.unsettledSteps() >= most {
		return refusal.New(refusal.SessionFull, "the session has %d steps that are not committed, as many as one commit may have; commit them", most).With("session", o.id.String())
	}
	return o.fits(len(req.Encode()) + stepOverhead)
}

// fits refuses what would make the session too large for one Layer 1 transaction.
func (o *owner) fits(more int) error {
	used := len(o.open.Encode()) + o.size + commitReserve
	if used+more > wire.MaxTransaction {
		return refusal.New(refusal.SessionFull, "with this step the session would take %d bytes; a commit has %d. Commit what there is",
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
