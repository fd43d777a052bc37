package layer2

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

func (u *user) checkpointRequest() *httpsig.Parsed {
	p := u.commitRequest()
	p.Request.Body = []byte(session.BodyCheckpoint)
	httpsig.Sign(u.priv, httpsig.TagCommit, &p.Request, p.Place)
	return p
}

// begin hands a checkpoint to Layer 1 and does not wait.
func (u *user) begin() *httpsig.Parsed {
	u.w.t.Helper()
	p := u.checkpointRequest()
	if out, err := u.w.engine.Commit(ended(), p); err != nil || out.Status != session.Committing || out.Steps != u.n || out.Transcript != u.head {
		u.w.t.Fatalf("%+v, %v", out, err)
	}
	u.w.settleDown()
	return p
}

// again asks for the outcome of a commit that a block holds.
func (u *user) again(p *httpsig.Parsed) Outcome {
	u.w.t.Helper()
	out, err := u.w.engine.Commit(context.Background(), p)
	if err != nil {
		u.w.t.Fatal(err)
	}
	return out
}

// Issue 3, part 7: a long session commits what it has and stays open; each checkpoint is atomic and in order. The session
// goes on while a checkpoint is under way, and there is a receipt for each.
func TestCheckpoints(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	u.do("POST", "/add/a", "", 200)
	var requests []*httpsig.Parsed
	for k := uint64(1); k <= 3; k++ {
		p := u.begin()
		requests = append(requests, p)
		steps := u.n
		u.do("POST", "/add/a", "", 200) // goes on
		w.ledger.cut()
		w.settleDown()
		out := u.again(p)
		if out.Status != session.Committed || out.Checkpoint != k || out.Steps != steps || out.Transcript != p.Place.Transcript || out.Height == 0 {
			t.Fatalf("checkpoint %d: %+v", k, out)
		}
		s := u.status()
		if s.Status != session.Open || s.Settled != steps || uint64(len(s.Checkpoints)) != k || s.Checkpoints[k-1].Steps != steps || s.Sequence != steps+1 {
			t.Fatalf("checkpoint %d: status %+v", k, s)
		}
		if got := w.value("a"); got != strings.Repeat("x", int(steps)) {
			t.Fatalf("checkpoint %d: committed %q", k, got)
		}
	}
	p := u.commitRequest()
	var out Outcome
	var all sync.WaitGroup
	all.Go(func() {
		var err error
		if out, err = w.engine.Commit(context.Background(), p); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "submitted", func() bool { w.ledger.mu.Lock(); defer w.ledger.mu.Unlock(); return len(w.ledger.pool) > 0 })
	w.ledger.cut()
	all.Wait()
	if out.Status != session.Committed || out.Checkpoint != 0 || out.Steps != 5 {
		t.Fatalf("%+v", out)
	}
	for i, p := range requests { // asked again long after: the same outcomes
		if out := u.again(p); out.Checkpoint != uint64(i)+1 {
			t.Errorf("%+v", out)
		}
	}
	from := uint64(0)
	for part := uint64(1); part <= 4; part++ {
		c, err := w.engine.Committed(context.Background(), u.id, part)
		if err != nil {
			t.Fatal(err)
		}
		tx, err := wire.DecodeSessionCommit(c.Transaction)
		if err != nil {
			t.Fatal(err)
		}
		proven, err := session.Verify(&tx)
		if err != nil || proven.Start.Checkpoints != part-1 || proven.Start.Sequence != from || proven.Final != (part == 4) || len(c.Bodies) != len(tx.Transactions) {
			t.Errorf("part %d: %+v, %v", part, proven, err)
		}
		from = proven.Steps
	}
	_, err := w.engine.Committed(context.Background(), u.id, 5)
	wantCode(t, err, refusal.NotCommitted)
}

// Steps that a checkpoint holds are in the state: what they read is no conflict any more, and they are not run again.
func TestSettledReadsLeave(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("GET", "/get/a", "", 200)
	u.begin()
	w.ledger.cut()
	w.settleDown()
	u.do("GET", "/get/b", "", 200)
	before := w.engine.Stats().Reexecuted
	w.ledger.write("a", "other")
	w.settleDown()
	if s := u.status(); s.Status != session.Open {
		t.Fatalf("%+v", s)
	}
	if after := w.engine.Stats().Reexecuted; after != before {
		t.Errorf("run again %d times for what was settled", after-before)
	}
	if a := u.do("GET", "/get/a", "", 200); !strings.Contains(string(a.Body), "other") {
		t.Errorf("the session sees %q", a.Body)
	}
	w.ledger.write("b", "other")
	w.settleDown()
	if s := u.status(); s.Status != session.Conflicted || s.Settled != 1 || len(s.Checkpoints) != 1 || s.Conflict.Step != 2 {
		t.Errorf("%+v", s)
	}
}

// A key that the session wrote before its checkpoint and another has written since: the session sees the newest.
func TestOverlayRebases(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	u.begin()
	w.ledger.cut()
	w.ledger.write("a", "new")
	w.settleDown()
	if a := u.do("GET", "/get/a", "", 200); !strings.Contains(string(a.Body), "new") {
		t.Errorf("the session sees %q", a.Body)
	}
}

// A conflict while a checkpoint is under way conflicts the session, whose checkpoint Layer 1 refuses.
func TestConflictOfCheckpoint(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("GET", "/get/a", "", 200)
	p := u.begin()
	w.ledger.write("a", "other")
	w.settleDown()
	_, err := w.engine.Commit(context.Background(), p)
	wantCode(t, err, refusal.Conflict)
	w.ledger.cut()
	w.settleDown()
	if s := u.status(); s.Status != session.Conflicted || s.Settled != 0 {
		t.Errorf("%+v", s)
	}
}

// Checkpoints and the final commit asked for at once, over many connections: each has its one outcome, in order.
func TestCheckpointsAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	first := u.checkpointRequest()
	var all sync.WaitGroup
	ask := func(p *httpsig.Parsed, check func(Outcome) bool) {
		all.Go(func() {
			if out, err := w.engine.Commit(context.Background(), p); err != nil || !check(out) {
				t.Errorf("%+v, %v", out, err)
			}
		})
	}
	waiting := func() int { w.ledger.mu.Lock(); defer w.ledger.mu.Unlock(); return len(w.ledger.pool) }
	for range 4 {
		ask(first, func(o Outcome) bool { return o.Checkpoint == 1 && o.Steps == 1 })
	}
	eventually(t, "submitted", func() bool { return waiting() == 1 })
	u.do("POST", "/add/a", "", 200)
	for range 4 {
		ask(u.checkpointRequest(), func(o Outcome) bool { return o.Steps == 2 && o.Height > 0 })
		ask(u.commitRequest(), func(o Outcome) bool { return o.Steps == 2 && o.Height > 0 && o.Checkpoint == 0 })
	}
	eventually(t, "blocks hold it all", func() bool {
		w.ledger.cut()
		return u.status().Status == session.Committed
	})
	all.Wait()
	if got := w.value("a"); got != "xx" {
		t.Errorf("committed %q", got)
	}
}

// A crash at any point between checkpoint and block: the checkpoint is submitted again, and the session goes on.
func TestCrashDuringCheckpoint(t *testing.T) {
	for _, lost := range []bool{false, true} {
		w := newWorld(t, nil)
		u := w.user("alice")
		u.do("POST", "/add/a", "", 200)
		p := u.begin()
		u.do("POST", "/add/a", "", 200)
		w.settleDown()
		if lost {
			w.ledger.mu.Lock()
			clear(w.ledger.pool)
			w.ledger.pool = w.ledger.pool[:0]
			w.ledger.mu.Unlock()
			w.crash()
			w.clock.advance(3 * time.Second)
			eventually(t, "submitted again", func() bool { w.ledger.mu.Lock(); defer w.ledger.mu.Unlock(); return len(w.ledger.pool) > 0 })
			w.ledger.cut()
		} else { // the block comes while the engine is down
			after := w.fs
			w.stop()
			w.fs = after
			w.ledger.block()
			w.start()
		}
		w.settleDown()
		if out := u.again(p); out.Checkpoint != 1 || out.Steps != 1 {
			t.Errorf("%+v", out)
		}
		u.do("POST", "/add/a", "", 200)
		w.crash()
		if s := u.status(); s.Status != session.Open || s.Settled != 1 || s.Sequence != 3 {
			t.Errorf("after a restart: %+v", s)
		}
		out, err := w.engine.Commit(ended(), u.commitRequest())
		if err != nil || out.Status != session.Committing {
			t.Fatalf("%+v %v", out, err)
		}
		w.settleDown()
		w.ledger.cut()
		w.settleDown()
		if got := w.value("a"); got != "xxx" || u.status().Status != session.Committed {
			t.Errorf("committed %q, %+v", got, u.status())
		}
	}
}

// The limit of a commit counts the steps that are not settled: a session may be longer in all.
func TestLongSession(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	body := strings.Repeat("y", 200<<10)
	full := 0
	for i := range 12 {
		p := u.sign("POST", fmt.Sprintf("/set/k%d", i), "", body)
		a, err := u.send(p)
		if refusal.Has(err, refusal.SessionFull) {
			full++
			u.begin()
			w.ledger.cut()
			w.settleDown()
			a, err = u.send(p)
		}
		if err != nil || a.Status != 201 {
			t.Fatalf("step %d: %v %+v", i, err, a)
		}
	}
	if full < 2 {
		t.Errorf("full %d times", full)
	}
}

// Hostile and useless bodies, and a checkpoint of nothing.
func TestCheckpointRefused(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	_, err := w.engine.Commit(context.Background(), u.checkpointRequest())
	wantCode(t, err, refusal.BadRequest)
	u.do("POST", "/add/a", "", 200)
	for _, body := range []string{`{"final": false}`, `{"final":0}`, `{"final":false,"final":true}`, `[]`, `false`, ` {}`, `{"final":false}x`, strings.Repeat("{", 1000)} {
		p := u.commitRequest()
		p.Request.Body = []byte(body)
		httpsig.Sign(u.priv, httpsig.TagCommit, &p.Request, p.Place)
		_, err := w.engine.Commit(context.Background(), p)
		wantCode(t, err, refusal.BadRequest)
	}
	p := u.checkpointRequest() // a checkpoint's signature closes nothing
	p.Request.Body = []byte(session.BodyFinal)
	_, err = w.engine.Commit(context.Background(), p)
	wantCode(t, err, refusal.SignatureInvalid)
	p = u.checkpointRequest()
	p.Place.Sequence = 0
	httpsig.Sign(u.priv, httpsig.TagCommit, &p.Request, p.Place)
	_, err = w.engine.Commit(context.Background(), p)
	wantCode(t, err, refusal.WrongSequence)
	if s := u.status(); s.Status != session.Open {
		t.Errorf("%+v", s)
	}
}

// The operator's policy has custody sessions commit what they have, after so many steps or so long; not those of others.
func TestCheckpointPolicy(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.CheckpointSteps, o.CheckpointEvery = 2, time.Minute })
	ctx := context.Background()
	a, err := w.engine.OpenCustody(ctx, "carol", nil)
	if err != nil {
		t.Fatal(err)
	}
	step := func() {
		t.Helper()
		if _, err := w.engine.StepCustody(ctx, a.Session, "carol", "POST", "/add/c", "", "", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	settled := func() uint64 {
		w.settleDown()
		w.ledger.cut()
		w.settleDown()
		s, err := w.engine.Session(ctx, a.Session)
		if err != nil || s.Status != session.Open {
			t.Fatal(s, err)
		}
		return s.Settled
	}
	u := w.user("alice")
	for range 4 {
		u.do("POST", "/add/a", "", 200)
	}
	step()
	if n := settled(); n != 0 {
		t.Errorf("%d steps settled after one", n)
	}
	step()
	if n := settled(); n != 2 {
		t.Errorf("%d steps settled after two", n)
	}
	step()
	w.clock.advance(2 * time.Minute)
	eventually(t, "a checkpoint by time", func() bool { return settled() == 3 })
	if s := u.status(); s.Settled != 0 {
		t.Errorf("a client's session was committed by the operator's policy: %+v", s)
	}
	out, err := w.engine.CheckpointCustody(ctx, a.Session, "") // nothing new: the newest is the answer
	if err != nil || out.Checkpoint != 2 || out.Steps != 3 {
		t.Errorf("%+v, %v", out, err)
	}
}
