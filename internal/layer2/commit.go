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

// Commit commits a session with its client's signature over the final head, and waits for Layer 1 or ctx, whichever is
// first. On ctx's end it returns Outcome{Status: committing} and no error: nothing is lost, the commit is on disk and is
// submitted again until a block holds it or the session expires. Any number of calls, also at once, get the one outcome.
func (e *Engine) Commit(ctx context.Context, p *httpsig.Parsed) (Outcome, error) {
	leave, err := e.enter()
	if err != nil {
		return Outcome{}, err
	}
	release := once(leave)
	defer release()
	if p.Tag != httpsig.TagCommit {
		return Outcome{}, refusal.New(refusal.WrongTag, "a commit is signed with the tag %s, not %.64q", httpsig.TagCommit, p.Tag)
	}
	o, err := e.findAnywhere(ctx, p.Place.Session)
	if err != nil {
		return e.committedElsewhere(p.Place.Session, err)
	}
	if err := o.signed(p); err != nil {
		return Outcome{}, err
	}
	return o.await(ctx, release, func(w chan<- settlement) error { return o.commitWith(&p.Request, p.Place, w, true) })
}

// await runs request on the owner's goroutine and waits for the settlement that it arranges.
func (o *owner) await(ctx context.Context, release func(), request func(w chan<- settlement) error) (Outcome, error) {
	w := make(chan settlement, 1)
	if _, err := ask(o, func() (struct{}, error) { return struct{}{}, request(w) }); err != nil {
		return Outcome{}, err
	}
	release()
	select {
	case s := <-w:
		return s.outcome, s.err
	case <-ctx.Done():
	case <-o.e.stopping:
	}
	now, err := ask(o, func() (settlement, error) { return o.unsettledYet(w), nil })
	select {
	case s := <-w: // settled just now
		return s.outcome, s.err
	default:
	}
	if err != nil { // the engine stops: what is known is that it was being committed
		return Outcome{Session: o.id, Status: session.Committing}, nil
	}
	return now.outcome, now.err
}

func without(list []chan<- settlement, w chan<- settlement) []chan<- settlement {
	for i, x := range list {
		if x == w {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// commitWith decides about a commit whose signature is good and arranges for w to get the settlement. With seek, steps
// that are missing here are looked for at other nodes first.
func (o *owner) commitWith(req *wire.Request, place httpsig.Place, w chan<- settlement, seek bool) error {
	if o.refused != nil {
		return o.refused
	}
	o.followPolicy()
	if final, err := session.ParseCommitBody(req.Body); err != nil {
		return err
	} else if !final {
		return o.checkpointWith(req, place, w, seek)
	}
	msg := session.CommitRequested{Sequence: place.Sequence, Transcript: place.Transcript, Request: req.Digest()}
	o.cp.wait(w, msg)
	acts := o.machine.Step(msg)
	for _, a := range acts {
		switch a := a.(type) {
		case session.Refuse:
			o.noteError(auditRefused, place.Sequence, a.Refusal)
			o.suspectClient(httpsig.TagCommit, req, place)
			return o.explain(a.Refusal)
		case session.Tell: // committed already
			w <- o.settlement()
			return nil
		case session.Await:
			o.waiters = append(o.waiters, w)
			return nil
		case session.Later: // behind the checkpoint under way
			o.cp.putOff(w, func() error { return o.commitWith(req, place, w, seek) })
			return nil
		case session.Choose:
			if err := o.choose(a); err != nil {
				return err
			}
			return o.commitWith(req, place, w, seek)
		case session.Seek:
			o.seek(a.From, place, seek, func(_ *Answer, err error) { w <- settlement{err: err} }, func() {
				if err := o.commitWith(req, place, w, false); err != nil {
					w <- settlement{err: err}
				}
			})
			return nil
		}
	}
	if err := o.mayCommit(req); err != nil {
		return err
	}
	if err := o.refresh(true); err != nil {
		return err
	}
	if o.machine.State() == session.Committed { // found in a block while looking
		w <- o.settlement()
		return nil
	}
	o.commit = req
	tx, err := o.transaction()
	if err != nil {
		return err
	}
	if len(tx) > wire.MaxTransaction {
		o.commit = nil
		return refusal.New(refusal.SessionTooLarge, "the session takes %d bytes; a commit has %d", len(tx), wire.MaxTransaction).With("session", o.id.String())
	}
	o.hash = wire.Sum(tx)
	// The commit is on disk before Layer 1 sees it: a crash after this line submits it again at the next start, a crash
	// before it leaves an open session.
	if _, err := o.do(o.machine.Step(session.Rechecked{Request: req.Digest()}), o.payload); err != nil {
		return err
	}
	o.waiters = append(o.waiters, w)
	o.e.committing(o)
	o.e.cluster.sendAll(o.endMessage(req).Encode()) // so that any node has the receipt
	o.submit(tx)
	return nil
}

// mayCommit refuses a commit request for reasons that need no state.
func (o *owner) mayCommit(req *wire.Request) error {
	if now := o.e.now(); now >= o.body.ExpiresAt {
		return refusal.New(refusal.SessionExpired, "the session expired at %d, it is %d", o.body.ExpiresAt, now).With("session", o.id.String())
	} else if err := fresh(req.Created, now); err != nil {
		return err
	}
	if o.body.Fingerprint != o.e.o.Runner.Fingerprint() {
		return o.e.wrongFingerprint(o.body.Fingerprint)
	}
	if want := session.PathCommit(o.id); req.Method != "POST" || req.Path != want || req.Query != "" {
		return refusal.New(refusal.WrongSession, "a commit of this session is POST %s, not %s %.100s", want, req.Method, req.Path)
	}
	_, err := session.ParseCommitBody(req.Body)
	return err
}

// transaction builds the session's Layer 1 transaction from the disk.
func (o *owner) transaction() ([]byte, error) { return o.transactionOf(o.commit, o.machine.Len()) }

// submitTime bounds one submission to Layer 1.
const submitTime = 10 * time.Second

// submit hands the transaction to Layer 1 on a goroutine of its own; the answer comes back as work for the owner.
func (o *owner) submit(tx []byte) {
	o.submitting, o.submitted, o.submittedTime = true, o.e.Height(), o.e.now()
	o.e.counts.submitted.Add(1)
	o.note(auditRecord{Event: auditSubmitted, Height: o.submitted})
	if !o.e.owners.add() {
		return
	}
	go func() {
		defer o.e.owners.Done()
		ctx, cancel := context.WithTimeout(o.e.ctx, submitTime)
		defer cancel()
		err := o.e.o.Ledger.Submit(ctx, tx)
		_ = o.post(false, func() { o.submissionEnded(err) })
	}()
}

// submissionEnded draws the conclusion from what Layer 1's doorkeeper said. Whatever it said, the transaction may sit in
// a mempool, from this submission or another: a block that holds it still settles the session.
func (o *owner) submissionEnded(err error) {
	o.submitting = false
	if req, _ := o.inFlight(); err == nil || req == nil {
		return
	}
	o.noteError(auditResult, 0, err)
	r, ok := refusal.As(err)
	if !ok {
		o.e.o.Logger.Warn("commit not submitted, will try again", "session", o.id, "error", err)
		return
	}
	switch r.Code {
	case refusal.Layer1Unavailable, refusal.MempoolFull, refusal.Overloaded, refusal.HeightNotReached, refusal.ShuttingDown,
		refusal.Internal, refusal.StepTooLong,
		refusal.WrongTime,      // the newest block's time is old; the next one's is not
		refusal.SessionExpired, // the block that says so ends the session
		refusal.WrongStart,     // a block holds another checkpoint, or will hold the one before
		refusal.AlreadySettled: // the block that says so is on its way
		o.e.o.Logger.Info("commit refused for now, will try again", "session", o.id, "code", r.Code, "detail", r.Detail)
		return
	}
	o.refusedByLayer1(r)
}

// refusedByLayer1 is for refusals that will not go away: run the session again to see why. If it has been overtaken it is
// conflicted; if it answers as before and Layer 1 still does not accept it, the commit is refused.
func (o *owner) refusedByLayer1(r *refusal.Refusal) {
	if err := o.refresh(true); err != nil {
		return
	}
	if req, _ := o.inFlight(); req == nil {
		return
	}
	code := r.Code
	if code == refusal.Quarantined || code == refusal.ResponseDiffers || code == refusal.Conflict {
		code = refusal.Nondeterministic
	}
	fault := refusal.New(code, "Layer 1 does not accept the session: %s", r.Detail)
	fault.Fields = r.Fields
	step, _ := r.Fields["step"].(uint64)
	field, _ := r.Fields["field"].(string)
	_ = o.faulted(fault, step, field)
}

// resubmit submits a committing session again if it is time to.
func (o *owner) resubmit() {
	req, hash := o.inFlight()
	if req == nil || o.submitting {
		return
	}
	if r, ok := o.e.o.Ledger.Quarantined(*hash); ok {
		o.refusedByLayer1(&refusal.Refusal{Code: refusal.Quarantined, Detail: r.Detail, Fields: r.Fields})
		return
	}
	blocks := o.e.Height() - o.submitted
	waited := time.Duration(o.e.now()-o.submittedTime) * time.Millisecond
	if blocks < o.e.o.ResubmitBlocks && waited < o.e.o.ResubmitEvery {
		return
	}
	tx, err := o.inFlightTransaction()
	if err != nil {
		return
	}
	o.submit(tx)
}

// settle takes in that a block holds the session.
func (o *owner) settle(s Settled, height, time int64) {
	if o.refused != nil || o.machine.State() == session.Committed && o.ended != nil && o.ended.Transaction == s.Transaction {
		return
	}
	if !s.Final {
		o.settleCheckpoint(s, height, time)
		return
	}
	number := uint64(0)
	if o.ended != nil {
		number = o.ended.Number
	}
	o.whichCommit(s.Transaction)
	o.ended = &endRecord{State: session.Committed.String(), Height: height, Transaction: s.Transaction, Time: time, Number: number, Ours: s.Transaction == o.hash}
	_, _ = o.do(o.machine.Step(session.Settled{Height: height, Transaction: s.Transaction}), o.payload)
}

// whichCommit finds out which signed commit the block's transaction was made with: the one that this node submitted, or
// one that another node has told of. The receipt needs it.
func (o *owner) whichCommit(transaction wire.Digest) {
	mine := o.commit
	if mine != nil {
		o.endings = append([]wire.Request{*mine}, o.endings...)
	}
	for i := range o.endings {
		o.commit = &o.endings[i]
		tx, err := o.transaction()
		if err != nil {
			break
		}
		if o.hash = wire.Sum(tx); o.hash == transaction {
			return
		}
	}
	o.commit = mine
}

// inView settles the session, or a part of it, if the ledger's record of it is in the view already. The block itself may be
// told later. It reports whether the session is closed.
func (o *owner) inView(r ledger.Reader) bool {
	s, ok, err := ledger.SettledOf(r, o.id)
	if err != nil || !ok {
		return false
	}
	part := s.Checkpoints
	if s.Final {
		part++
	}
	o.settle(Settled{ID: o.id, Transaction: s.Transaction, Actor: s.Actor, Part: part, Steps: s.Steps, Head: s.Head, Final: s.Final}, s.Height, s.Time)
	return s.Final
}

// committedElsewhere answers a commit of a session that this node does not hold, if the ledger does.
func (e *Engine) committedElsewhere(id wire.SessionID, notFound error) (Outcome, error) {
	v, err := e.o.Ledger.View()
	if err != nil {
		return Outcome{}, notFound
	}
	s, ok, err := ledger.SettledOf(v, id)
	if err != nil || !ok || !s.Final {
		return Outcome{}, notFound
	}
	return Outcome{
		Session: id, Status: session.Committed, Height: s.Height, TransactionHash: s.Transaction, Time: s.Time, Steps: s.Steps, Transcript: s.Head,
	}, nil
}

func once(f func()) func() {
	done := false
	return func() {
		if !done {
			done = true
			f()
		}
	}
}
