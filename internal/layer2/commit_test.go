package layer2

import (
	"context"
	"sync"
	"testing"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// Promise 4: at most one commit per session, whoever submits it, however often.
func TestDoubleCommit(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	var all sync.WaitGroup
	outs := make([]Outcome, 8)
	for i := range outs {
		all.Go(func() {
			req := u.commitRequest()
			req.Request.Created -= int64(i) // each connection signs for itself
			httpsig.Sign(u.priv, httpsig.TagCommit, &req.Request, req.Place)
			out, err := w.engine.Commit(context.Background(), req)
			if err != nil {
				t.Error(err)
			}
			outs[i] = out
		})
	}
	eventually(t, "submitted", func() bool {
		w.ledger.mu.Lock()
		defer w.ledger.mu.Unlock()
		return len(w.ledger.pool) > 0
	})
	w.ledger.cut()
	all.Wait()
	for _, out := range outs {
		if out != outs[0] || out.Status != session.Committed || out.Height != 2 {
			t.Errorf("outcomes differ: %+v and %+v", out, outs[0])
		}
	}
	if got := w.value("a"); got != "x" {
		t.Errorf("committed %q", got)
	}
	if out, err := u.commit(); err != nil || out != outs[0] { // and long after
		t.Errorf("%+v, %v", out, err)
	}
	_, err := u.send(u.sign("POST", "/add/a", "", ""))
	wantCode(t, err, refusal.SessionClosed)
	if sent, err := u.send(&u.last); err != nil || !sent.Repeated {
		t.Errorf("a retry after the commit got %+v, %v", sent, err)
	}
}

// A step after the commit was requested is refused; the commit stays what it was.
func TestStepAfterCommit(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	out, err := w.engine.Commit(ended(), u.commitRequest())
	if err != nil || out.Status != session.Committing || out.TransactionHash.IsZero() {
		t.Fatalf("%+v, %v", out, err)
	}
	_, err = u.send(u.sign("POST", "/add/a", "", ""))
	wantCode(t, err, refusal.SessionClosed)
	_, err = w.engine.Abandon(context.Background(), u.abandonRequest())
	wantCode(t, err, refusal.SessionClosed)
	w.settleDown()
	w.ledger.cut()
	w.settleDown()
	if s := u.status(); s.Status != session.Committed || s.Transaction != out.TransactionHash.String() || s.Sequence != 1 {
		t.Errorf("status %+v", s)
	}
}

func (u *user) abandonRequest() *httpsig.Parsed {
	return u.sign("DELETE", session.PathOpen+"/"+u.id.String(), "", "")
}

// Faults of the way to Layer 1, each twice: it failed and did not arrive; it failed but arrived.
func TestSubmissionFails(t *testing.T) {
	for name, fault := range map[string]func(l *fakeLedger, on bool){
		"did not arrive": func(l *fakeLedger, on bool) { l.lose = on },
		"arrived":        func(l *fakeLedger, on bool) { l.loseAnswer = on },
	} {
		for _, restart := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, func(o *Options) { o.ResubmitBlocks = 1 })
				u := w.user("alice")
				u.do("POST", "/add/a", "", 200)
				fault(w.ledger, true)
				out, err := w.engine.Commit(ended(), u.commitRequest())
				if err != nil || out.Status != session.Committing {
					t.Fatalf("while Layer 1 is down: %+v, %v", out, err)
				}
				w.settleDown()
				if restart {
					w.crash()
				}
				fault(w.ledger, false)
				done := make(chan Outcome)
				go func() {
					out, err := u.commit() // the client asks again, and waits
					if err != nil {
						t.Error(err)
					}
					done <- out
				}()
				for { // blocks come, with and without it, until the resubmission is in one
					w.ledger.cut()
					w.settleDown()
					select {
					case out := <-done:
						if out.Status != session.Committed || w.value("a") != "x" || len(w.ledger.applied) != 1 {
							t.Errorf("%+v, value %q, %d applied", out, w.value("a"), len(w.ledger.applied))
						}
						return
					default:
					}
				}
			})
		}
	}
}

// A commit whose block came while this node was down is found at the start.
func TestCommittedWhileDown(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	if _, err := w.engine.Commit(ended(), u.commitRequest()); err != nil {
		t.Fatal(err)
	}
	w.settleDown()
	w.stop()
	w.ledger.cut()
	w.start()
	if out, err := u.commit(); err != nil || out.Status != session.Committed || out.Height != 2 {
		t.Errorf("%+v, %v", out, err)
	}
	if c, err := w.engine.Committed(context.Background(), u.id, 0); err != nil || len(c.Bodies) != 1 {
		t.Errorf("bodies for the receipt: %+v, %v", c, err)
	}
}

// Without blocks it is the clock that has a commit submitted again.
func TestResubmittedByTheTicker(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.ResubmitEvery = 200 * time.Millisecond })
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	w.ledger.mu.Lock()
	w.ledger.lose = true
	w.ledger.mu.Unlock()
	if _, err := w.engine.Commit(ended(), u.commitRequest()); err != nil {
		t.Fatal(err)
	}
	w.settleDown()
	w.ledger.mu.Lock()
	w.ledger.lose = false
	n := w.ledger.submissions
	w.ledger.mu.Unlock()
	w.clock.advance(time.Second)
	eventually(t, "submitted again", func() bool {
		w.ledger.mu.Lock()
		defer w.ledger.mu.Unlock()
		return w.ledger.submissions > n
	})
}

// DESIGN: a nondeterministic handler is named, and costs nobody else anything.
func TestNondeterministicHandler(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	u.do("GET", "/luck/a", "", 200)
	_, err := u.commit()
	r := wantCode(t, err, refusal.Nondeterministic)
	if r.Fields["step"] != uint64(2) || r.Fields["field"] != "body" {
		t.Errorf("the refusal does not name step 2 and the body: %v", r.Fields)
	}
	s := u.status()
	if s.Status != session.Open || s.Fault == nil {
		t.Errorf("status %+v", s)
	}
	_, err = u.send(u.sign("GET", "/get/a", "", ""))
	wantCode(t, err, refusal.Nondeterministic)
	_, err = u.commit()
	wantCode(t, err, refusal.Nondeterministic)
	w.crash() // the fault is remembered
	_, err = u.commit()
	if r := wantCode(t, err, refusal.Nondeterministic); r.Fields["step"] != uint64(2) {
		t.Errorf("after a restart: %v", r.Fields)
	}
	if s, err := w.engine.Abandon(context.Background(), u.abandonRequest()); err != nil || s.Status != session.Abandoned {
		t.Errorf("%+v, %v", s, err)
	}
	v := w.user("alice")
	v.do("POST", "/add/a", "", 200)
	if _, err := v.commit(); err != nil {
		t.Errorf("another session: %v", err)
	}
}

// A session that a block has touched and whose handler is not deterministic is not called conflicted when what the step
// read is as before.
func TestNondeterminismIsToldFromConflict(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("GET", "/get/a", "", 200)
	u.do("GET", "/luck/b", "", 200)
	w.ledger.write("b", "changed")
	w.settleDown()
	if s := u.status(); s.Status != session.Conflicted { // here the key read had changed: a conflict it is
		t.Errorf("status %+v", s)
	}
	v := w.user("alice")
	v.do("GET", "/luck/b", "", 200)
	v.do("GET", "/get/c", "", 200)
	w.ledger.write("c", "changed") // touches step 2; step 1 then differs though its key did not change
	w.settleDown()
	s := v.status()
	if s.Status != session.Open || s.Fault == nil || s.Fault.Code != refusal.Nondeterministic || s.Fault.Fields["step"] != uint64(1) {
		t.Errorf("status %+v", s)
	}
}

// Layer 1's quarantine becomes a refusal of the commit; the session stays open until abandoned or expired.
func TestQuarantine(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.ResubmitBlocks = 1 })
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	out, err := w.engine.Commit(ended(), u.commitRequest())
	if err != nil {
		t.Fatal(err)
	}
	w.settleDown()
	w.ledger.mu.Lock()
	w.ledger.pool = nil
	w.ledger.quarantine[out.TransactionHash] = refusal.New(refusal.ResponseDiffers, "step 1 answered otherwise").With("step", uint64(1)).With("field", "body")
	w.ledger.mu.Unlock()
	done := make(chan error)
	go func() { _, err := u.commit(); done <- err }()
	eventually(t, "the second commit waits", func() bool {
		o, err := w.engine.find(u.id)
		if err != nil {
			return false
		}
		n, err := ask(o, func() (int, error) { return len(o.waiters), nil })
		return err == nil && n == 1
	})
	w.ledger.cut()
	if r := wantCode(t, <-done, refusal.Nondeterministic); r.Fields["step"] != uint64(1) {
		t.Errorf("fields %v", r.Fields)
	}
	if s := u.status(); s.Status != session.Open {
		t.Errorf("status %+v", s)
	}
	// Layer 1 outranks all this: should a block hold it after all, it is committed.
	w.ledger.mu.Lock()
	w.ledger.quarantine = nil
	w.ledger.pool = [][]byte{mustTransaction(t, w, u.id)}
	w.ledger.mu.Unlock()
	w.ledger.cut()
	w.settleDown()
	if s := u.status(); s.Status != session.Committed || s.Elsewhere {
		t.Errorf("status %+v", s)
	}
}

func mustTransaction(t tb, w *world, id wire.SessionID) []byte {
	t.Helper()
	o, err := w.engine.find(id)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := ask(o, o.transaction)
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

// CheckTx refusals: for now (submitted again) or for good (the commit is refused).
func TestLayer1Refuses(t *testing.T) {
	for _, c := range []struct {
		code  refusal.Code
		state session.State
		tells refusal.Code
	}{
		{refusal.MempoolFull, session.Committing, ""},
		{refusal.Layer1Unavailable, session.Committing, ""},
		{refusal.WrongTime, session.Committing, ""},
		{refusal.SessionTooLarge, session.Open, refusal.SessionTooLarge},
		{refusal.Quarantined, session.Open, refusal.Nondeterministic},
	} {
		t.Run(string(c.code), func(t *testing.T) {
			w := newWorld(t, nil)
			u := w.user("alice")
			u.do("POST", "/add/a", "", 200)
			w.ledger.refuse = refusal.New(c.code, "no")
			out, err := w.engine.Commit(ended(), u.commitRequest())
			w.settleDown()
			if s := u.status(); s.Status != c.state {
				t.Errorf("status %v, want %v", s.Status, c.state)
			}
			if c.tells != "" {
				_, err := u.commit()
				wantCode(t, err, c.tells)
			} else if err != nil || out.Status != session.Committing {
				t.Errorf("%+v, %v", out, err)
			}
		})
	}
}

// The life of a session may end by its client or by time.
func TestAbandonAndExpire(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	bad := u.abandonRequest()
	bad.Request.Path = "/tandem/v1/sessions/other"
	httpsig.Sign(u.priv, httpsig.TagStep, &bad.Request, bad.Place)
	_, err := w.engine.Abandon(context.Background(), bad)
	wantCode(t, err, refusal.WrongSession)
	for range 2 { // twice is no error
		if s, err := w.engine.Abandon(context.Background(), u.abandonRequest()); err != nil || s.Status != session.Abandoned {
			t.Fatalf("%+v, %v", s, err)
		}
	}
	_, err = u.commit()
	wantCode(t, err, refusal.SessionClosed)

	v := w.userWith("alice", w.openBody(time.Minute))
	v.do("POST", "/add/a", "", 200)
	waiting := w.userWith("alice", w.openBody(time.Minute))
	waiting.do("POST", "/add/a", "", 200)
	w.ledger.mu.Lock()
	w.ledger.lose = true
	w.ledger.mu.Unlock()
	if _, err := w.engine.Commit(ended(), waiting.commitRequest()); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(61 * time.Second)
	_, err = v.send(v.sign("POST", "/add/a", "", ""))
	wantCode(t, err, refusal.SessionExpired)
	_, err = v.commit()
	wantCode(t, err, refusal.SessionExpired)
	if s := v.status(); s.Status != session.Open { // only a block expires it finally
		t.Errorf("status %v", s.Status)
	}
	w.ledger.cut()
	w.settleDown()
	for _, u := range []*user{v, waiting} {
		if s := u.status(); s.Status != session.Expired {
			t.Errorf("status %v", s.Status)
		}
		_, err = u.commit()
		wantCode(t, err, refusal.SessionExpired)
	}
	w.crash()
	if s := v.status(); s.Status != session.Expired {
		t.Errorf("after a restart: %v", s.Status)
	}
	if s := w.engine.Stats(); s.Open != 0 || s.Committing != 0 {
		t.Errorf("stats %+v", s)
	}
}

// The ledger outranks what this node thinks: a session committed through another node is committed here, whatever its
// state was.
func TestCommittedThroughAnotherNode(t *testing.T) {
	for _, before := range []session.State{session.Open, session.Abandoned, session.Conflicted} {
		t.Run(before.String(), func(t *testing.T) { committedElsewhere(t, before, false) })
		t.Run(before.String()+", while this one was down", func(t *testing.T) { committedElsewhere(t, before, true) })
	}
}

func committedElsewhere(t *testing.T, before session.State, down bool) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	tx := u.elsewhere()
	switch before {
	case session.Abandoned:
		if _, err := w.engine.Abandon(context.Background(), u.abandonRequest()); err != nil {
			t.Fatal(err)
		}
	case session.Conflicted:
		w.ledger.write("a", "xx")
		w.settleDown()
		if s := u.status(); s.Status != session.Conflicted {
			t.Fatalf("status %v", s.Status)
		}
		w.ledger.write("a", "") // the change is undone: Layer 1 can take the session again
	}
	w.ledger.mu.Lock()
	w.ledger.pool = append(w.ledger.pool, tx)
	w.ledger.mu.Unlock()
	if down {
		w.stop()
	}
	w.ledger.cut()
	if down {
		w.start()
	}
	w.settleDown()
	if s := u.status(); s.Status != session.Committed || !s.Elsewhere {
		t.Errorf("status %+v", s)
	}
	if out, err := u.commit(); err != nil || out.Status != session.Committed {
		t.Errorf("%+v, %v", out, err)
	}
	w.crash()
	if s := u.status(); s.Status != session.Committed {
		t.Errorf("after a restart: %v", s.Status)
	}
}

// elsewhere builds the session's transaction as another node would, from this node's records.
func (u *user) elsewhere() []byte {
	o, err := u.w.engine.find(u.id)
	if err != nil {
		u.w.t.Fatal(err)
	}
	req := u.commitRequest()
	tx, err := ask(o, func() ([]byte, error) {
		o.commit = &req.Request
		defer func() { o.commit = nil }()
		return o.transaction()
	})
	if err != nil {
		u.w.t.Fatal(err)
	}
	return tx
}

// A ledger that settles one session twice stops the node.
func TestContradictingLedgerHalts(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	if _, err := u.commit(); err != nil {
		t.Fatal(err)
	}
	w.ledger.mu.Lock()
	w.ledger.commit(Block{Height: 3, Time: w.ledger.Time() + 1, Sessions: []Settled{{ID: u.id, Transaction: wire.Sum([]byte("other")), Part: 1, Final: true}}})
	w.ledger.mu.Unlock()
	if err := <-w.halted; err == nil {
		t.Error("no reason given")
	}
}

// A session that supersedes another and is committed ends the other, whose commit is refused.
func TestSupersedes(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	u := w.user("alice")
	u.do("POST", "/set/a", "one", 201)
	body := w.openBody(time.Minute)
	body.Supersedes = &u.id
	v := w.userWith("alice", body)
	v.do("POST", "/set/b", "two", 201)
	if _, err := v.commit(); err != nil {
		t.Fatal(err)
	}
	w.settleDown()
	if s := u.status(); s.Status != session.Conflicted || s.Conflict.Code != refusal.Superseded || s.Conflict.Winner != v.id.String() {
		t.Errorf("status %v, conflict %+v", s.Status, s.Conflict)
	}
	_, err := u.commit()
	wantCode(t, err, refusal.Superseded)
	if v.status().Supersedes != u.id.String() {
		t.Error("the status does not say what the session supersedes")
	}
}

// A session without steps can be committed.
func TestEmptySession(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	u := w.user("alice")
	if out, err := u.commit(); err != nil || out.Status != session.Committed || out.Steps != 0 {
		t.Errorf("%+v, %v", out, err)
	}
}

// Commit refusals by name.
func TestCommitRefusals(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	for name, c := range map[string]struct {
		change func(p *httpsig.Parsed)
		sign   bool
		code   refusal.Code
	}{
		"head":      {func(p *httpsig.Parsed) { p.Place.Transcript = wire.TranscriptStart(u.open) }, true, refusal.WrongTranscript},
		"sequence":  {func(p *httpsig.Parsed) { p.Place.Sequence++ }, true, refusal.WrongSequence},
		"early":     {func(p *httpsig.Parsed) { p.Place.Sequence-- }, true, refusal.WrongSequence},
		"path":      {func(p *httpsig.Parsed) { p.Request.Path = "/elsewhere" }, true, refusal.WrongSession},
		"body":      {func(p *httpsig.Parsed) { p.Request.Body = []byte(`{"x":1}`) }, true, refusal.BadRequest},
		"stale":     {func(p *httpsig.Parsed) { p.Request.Created -= 400 }, true, refusal.StaleSignature},
		"signature": {func(p *httpsig.Parsed) { p.Request.Signature[0] ^= 1 }, false, refusal.SignatureInvalid},
		"tag":       {func(p *httpsig.Parsed) { p.Tag = httpsig.TagStep }, true, refusal.WrongTag},
		"session":   {func(p *httpsig.Parsed) { p.Place.Session[3] ^= 1 }, true, refusal.SessionNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			p := u.commitRequest()
			c.change(p)
			if c.sign {
				httpsig.Sign(u.priv, p.Tag, &p.Request, p.Place)
			}
			_, err := w.engine.Commit(context.Background(), p)
			wantCode(t, err, c.code)
			if s := u.status(); s.Status != session.Open {
				t.Errorf("status %v", s.Status)
			}
		})
	}
}
