package layer2

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/internal/refusal"
	"tandem/internal/session"
)

// Unsigned requests: the node signs with a key that the actor has delegated to it; neither sequence nor transcript is needed.
func TestCustody(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	ctx := context.Background()
	a, err := w.engine.OpenCustody(ctx, "", []byte("{}"))
	if err != nil || a.Actor != "carol" {
		t.Fatalf("%+v, %v", a, err)
	}
	if !strings.Contains(string(a.Body), `"session_id":"`+a.Session.String()+`"`) || a.Signed.Get("Location") == "" {
		t.Errorf("the answer: %s %v", a.Body, a.Signed)
	}
	step, err := w.engine.StepCustody(ctx, a.Session, "", "POST", "/add/a", "", "", nil, nil)
	if err != nil || step.Sequence != 1 || !strings.Contains(string(step.Body), `"by":"carol"`) {
		t.Fatalf("%+v, %v", step, err)
	}
	one := uint64(1)
	again, err := w.engine.StepCustody(ctx, a.Session, "carol", "POST", "/add/a", "", "", nil, &one)
	if err != nil || !again.Repeated || string(again.Body) != string(step.Body) {
		t.Errorf("a retry with its sequence: %+v, %v", again, err)
	}
	_, err = w.engine.StepCustody(ctx, a.Session, "", "POST", "/add/b", "", "", nil, &one)
	wantCode(t, err, refusal.WrongSequence)
	five := uint64(5)
	_, err = w.engine.StepCustody(ctx, a.Session, "", "POST", "/add/b", "", "", nil, &five)
	wantCode(t, err, refusal.WrongSequence)
	_, err = w.engine.StepCustody(ctx, a.Session, "alice", "POST", "/add/b", "", "", nil, nil)
	wantCode(t, err, refusal.Forbidden)
	out, err := w.engine.CommitCustody(ctx, a.Session, "")
	if err != nil || out.Status != session.Committed || out.Steps != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	u := w.user("alice")
	_, err = w.engine.StepCustody(ctx, u.id, "", "POST", "/add/b", "", "", nil, nil)
	wantCode(t, err, refusal.SignatureRequired)
	_, err = w.engine.CommitCustody(ctx, u.id, "")
	wantCode(t, err, refusal.SignatureRequired)
	_, err = w.engine.AbandonCustody(ctx, u.id, "")
	wantCode(t, err, refusal.SignatureRequired)
	_, err = w.engine.OpenCustody(ctx, "nobody", nil)
	wantCode(t, err, refusal.ActorUnknown)
	for _, bad := range []string{`{"x":1}`, `{`, `{} {}`, `{"expires_at":-1}`, `{"expires_at":"soon"}`, `{"expires_at":1,"expires_at":1}`, `null`} {
		_, err = w.engine.OpenCustody(ctx, "", []byte(bad))
		wantCode(t, err, refusal.BadJSON)
	}
	b, err := w.engine.OpenCustody(ctx, "carol", nil)
	if err != nil || b.ExpiresAt != w.clock.ms.Load()+(15*time.Minute).Milliseconds() {
		t.Errorf("%+v, %v", b, err)
	}
	if s, err := w.engine.AbandonCustody(ctx, b.Session, ""); err != nil || s.Status != session.Abandoned {
		t.Errorf("%+v, %v", s, err)
	}
}

// A custody session goes on at every node that holds the same delegated key, also when the node that opened it is gone; the others
// say which nodes those are.
func TestCustodyGoesOnElsewhere(t *testing.T) {
	m := newMany(t, 3, func(i int, o *Options) {
		if i == 2 {
			o.Custody, o.DefaultActor = nil, ""
		}
	})
	ctx := context.Background()
	s, err := m.nodes[0].engine.OpenCustody(ctx, "carol", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if a, err := m.nodes[i].engine.StepCustody(ctx, s.Session, "", "POST", "/add/a", "", "", nil, nil); err != nil || a.Sequence != uint64(i+1) || a.Endorsements < 2 {
			t.Fatalf("node %d: %+v, %v", i, a, err)
		}
		eventually(t, "all have the step", func() bool {
			for _, n := range m.nodes {
				if got, err := n.engine.session(s.Session); err != nil || got.Sequence != uint64(i+1) {
					return false
				}
			}
			return true
		})
	}
	for _, again := range []bool{false, true} {
		if again {
			m.down(2)
			m.up(2)
			m.connected()
		}
		_, err = m.nodes[2].engine.StepCustody(ctx, s.Session, "", "POST", "/add/a", "", "", nil, nil)
		wantCode(t, err, refusal.CustodyElsewhere)
		r, _ := refusal.As(err)
		var keys []string
		for _, n := range r.Fields["nodes"].([]map[string]string) {
			keys = append(keys, n["key"])
		}
		if want := []string{m.nodes[0].key().DID(), m.nodes[1].key().DID()}; !slices.Equal(keys, want) {
			t.Errorf("it names %v, want %v", keys, want)
		}
	}
	_, err = m.nodes[2].engine.CommitCustody(ctx, s.Session, "")
	wantCode(t, err, refusal.CustodyElsewhere)
	m.kill(0)
	m.wipe(0)
	if out, err := m.nodes[1].engine.CommitCustody(ctx, s.Session, ""); err != nil || out.Status != session.Committed || out.Steps != 2 {
		t.Fatalf("%+v, %v", out, err)
	}
	u := m.nodes[1].user("alice")
	_, err = m.nodes[2].engine.StepCustody(ctx, u.id, "", "POST", "/add/b", "", "", nil, nil)
	wantCode(t, err, refusal.SignatureRequired)
}

// A node without custody refuses unsigned requests in words.
func TestCustodyDisabled(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Custody = nil })
	_, err := w.engine.OpenCustody(context.Background(), "", nil)
	wantCode(t, err, refusal.CustodyDisabled)
	w.stop()
	w.opts = func(o *Options) { o.DefaultActor = "" }
	w.start()
	_, err = w.engine.OpenCustody(context.Background(), "", nil)
	wantCode(t, err, refusal.CustodyDisabled)
}

// DeWS's request-compute-consensus-log-response: one step, committed before the answer.
func TestOneStep(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	ctx := context.Background()
	a, out, err := w.engine.OneStep(ctx, "", "POST", "/add/a", "", "", nil)
	if err != nil || a.Status != 200 || out.Status != session.Committed || w.value("a") != "x" {
		t.Fatalf("%+v, %+v, %v", a, out, err)
	}
	a, out, err = w.engine.OneStep(ctx, "", "POST", "/refuse/a", "", "", nil)
	if err != nil || a.Status != 409 || out.Status != 0 {
		t.Errorf("%+v, %+v, %v", a, out, err)
	}
	if s := w.engine.Stats(); s.Open != 0 || s.Committing != 0 {
		t.Errorf("sessions are left: %+v", s)
	}
	w.ledger.mu.Lock()
	w.ledger.lose = true
	w.ledger.mu.Unlock()
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	a, out, err = w.engine.OneStep(short, "", "POST", "/add/a", "", "", nil)
	if err != nil || a.Status != 200 || out.Status != session.Committing {
		t.Errorf("while Layer 1 is down: %+v, %+v, %v", a, out, err)
	}
}

// A one-step session that is overtaken is run again in one that supersedes it; of the two only one can be committed.
func TestOneStepIsRunAgainWhenOvertaken(t *testing.T) {
	w := newWorld(t, nil)
	type result struct {
		a   *Answer
		out Outcome
		err error
	}
	done := make(chan result)
	w.ledger.mu.Lock()
	w.ledger.lose = true
	w.ledger.mu.Unlock()
	go func() {
		a, out, err := w.engine.OneStep(context.Background(), "", "POST", "/add/a", "", "", nil)
		done <- result{a, out, err}
	}()
	eventually(t, "committing", func() bool { return w.engine.Stats().Committing == 1 })
	w.settleDown()
	w.ledger.mu.Lock()
	w.ledger.lose, w.ledger.auto = false, true
	w.ledger.mu.Unlock()
	w.ledger.write("a", "xxxx")
	r := <-done
	if r.err != nil || r.out.Status != session.Committed || !strings.Contains(string(r.a.Body), `"count":5`) || w.value("a") != "xxxxx" {
		t.Fatalf("%+v, %q", r, w.value("a"))
	}
	s, err := w.engine.Session(context.Background(), r.out.Session)
	if err != nil || s.Supersedes == "" {
		t.Errorf("%+v, %v", s, err)
	}
}
