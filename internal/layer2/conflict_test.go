package layer2

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
)

// DESIGN: "Same responses: nothing happens. Different: the session is conflicted, the client is told: which step, which
// keys, who won, old and new response."
func TestConflictIsNamed(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	u, winner, third := w.user("alice"), w.user("bob"), w.user("alice")
	u.do("GET", "/get/z", "", 200)
	old := u.do("GET", "/get/a", "", 200)
	third.do("GET", "/get/b", "", 200)
	winner.do("POST", "/set/a", "taken", 201)
	if _, err := winner.commit(); err != nil {
		t.Fatal(err)
	}
	w.settleDown()
	s := u.status()
	c := s.Conflict
	if s.Status != session.Conflicted || c == nil {
		t.Fatalf("status %+v", s)
	}
	if c.Step != 2 || c.Field != "body" || c.Code != refusal.Conflict || !slices.Equal(c.Keys, []string{"a/kv/a"}) {
		t.Errorf("the conflict names %+v", c)
	}
	if c.Winner != winner.id.String() || c.WinnerActor != "bob" || c.Height != 2 || c.Candidates != 1 {
		t.Errorf("the winner is %+v", c)
	}
	if string(c.OldBody) != string(old.Body) || !strings.Contains(string(c.NewBody), "taken") || c.OldDigest == c.NewDigest {
		t.Errorf("old %s, new %s", c.OldBody, c.NewBody)
	}
	for _, ask := range []func() error{
		func() error { _, err := u.send(u.sign("GET", "/get/a", "", "")); return err },
		func() error { _, err := u.commit(); return err },
	} {
		r := wantCode(t, ask(), refusal.Conflict)
		_, doc := r.Problem()
		var p map[string]any
		if err := json.Unmarshal(doc, &p); err != nil || p["step"] != float64(2) || p["winner"] == nil || p["new"] == nil {
			t.Errorf("the problem document: %s", doc)
		}
	}
	if s := third.status(); s.Status != session.Open {
		t.Errorf("a session that nobody touched is %v", s.Status)
	}
	w.crash()
	if s := u.status(); s.Status != session.Conflicted || s.Conflict == nil || s.Conflict.Winner != c.Winner {
		t.Errorf("after a restart: %+v", s)
	}
}

// A session that is touched but answers the same goes on, on the new state, and can be committed.
func TestTouchedWithSameResponses(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	u := w.user("alice")
	u.do("POST", "/set/a", "mine", 201) // does not read a
	u.do("GET", "/get/b", "", 200)
	before := w.engine.Stats().Reexecuted
	w.ledger.write("b", "") // found: false -> true
	w.settleDown()
	if got := w.engine.Stats().Reexecuted - before; got != 1 {
		t.Errorf("run again %d times, want 1", got)
	}
	if s := u.status(); s.Status != session.Conflicted {
		t.Errorf("status %v: a key that appeared is a change", s.Status)
	}
	v := w.user("alice")
	v.do("POST", "/set/a", "mine", 201)
	v.do("GET", "/get/a", "", 200)
	w.ledger.write("a", "theirs") // v wrote a before it read it: not read from the ledger
	w.settleDown()
	v.do("GET", "/get/a", "", 200)
	if _, err := v.commit(); err != nil || w.value("a") != "mine" {
		t.Errorf("commit: %v, value %q", err, w.value("a"))
	}
	x := w.user("alice")
	x.do("GET", "/list", "", 200)
	w.ledger.write("a", "other value, same keys")
	w.settleDown()
	if s := x.status(); s.Status != session.Open {
		t.Errorf("a touched session with the same responses is %v", s.Status)
	}
	x.do("GET", "/get/a", "", 200)
	if _, err := x.commit(); err != nil {
		t.Errorf("commit: %v", err)
	}
}

// A scan is a read of the range: a new key in it is a conflict, one outside is not.
func TestRangesConflict(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.write("p1", "", "q1", "")
	u := w.user("alice")
	a, err := u.send(u.sign("GET", "/list", "prefix=p", ""))
	if err != nil || !strings.Contains(string(a.Body), "kv/p1") || strings.Contains(string(a.Body), "q1") {
		t.Fatalf("%s, %v", a.Body, err)
	}
	w.ledger.write("q2", "")
	w.settleDown()
	if s := u.status(); s.Status != session.Open {
		t.Fatalf("a key outside the range: %v", s.Status)
	}
	w.ledger.write("p2", "")
	w.settleDown()
	s := u.status()
	if s.Status != session.Conflicted || !slices.Equal(s.Conflict.Keys, []string{"a/kv/p2"}) {
		t.Errorf("a key inside: %v, %+v", s.Status, s.Conflict)
	}
}

// DESIGN: a block costs only the sessions that it touches.
func TestOnlyTouchedSessionsAreRunAgain(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 200 {
		u := w.user("alice")
		u.do("GET", fmt.Sprintf("/get/k%d", i), "", 200)
		u.do("POST", fmt.Sprintf("/set/k%d", i), "v", 201)
	}
	before := w.engine.Stats().Reexecuted
	w.ledger.write("k7", "x", "k8", "x", "k9", "x", "unread", "x")
	w.settleDown()
	s := w.engine.Stats()
	if got := s.Reexecuted - before; got != 3 || s.Conflicts != 3 {
		t.Errorf("%d sessions run again, %d conflicts, want 3 and 3", got, s.Conflicts)
	}
}

// The race of replay.go: a block arrives while a step that has read the old value is running. The step is run again before
// anybody sees its answer.
func TestBlockDuringStep(t *testing.T) {
	w := newWorld(t, nil)
	w.moods.gate, w.moods.began = make(chan struct{}), make(chan struct{})
	u := w.user("alice")
	done := make(chan *Answer)
	p := u.sign("GET", "/slow/a", "", "")
	go func() {
		a, err := u.send(p)
		if err != nil {
			t.Error(err)
		}
		done <- a
	}()
	<-w.moods.began // it has read a
	w.ledger.write("a", "new")
	w.moods.gate <- struct{}{}
	<-w.moods.began // it runs again
	w.moods.gate <- struct{}{}
	if a := <-done; a == nil || !strings.Contains(string(a.Body), "new") || a.Height != 2 {
		t.Errorf("the answer is %+v", a)
	}
	if s := u.status(); s.Status != session.Open || s.Sequence != 1 {
		t.Errorf("status %+v", s)
	}
}

// The same race, but the block changes what an earlier step has read: the step in flight is refused with the conflict.
func TestBlockOverturnsEarlierStepDuringStep(t *testing.T) {
	w := newWorld(t, nil)
	w.moods.gate, w.moods.began = make(chan struct{}), make(chan struct{})
	u := w.user("alice")
	u.do("GET", "/get/b", "", 200)
	done := make(chan error)
	p := u.sign("GET", "/slow/a", "", "")
	go func() { _, err := u.send(p); done <- err }()
	<-w.moods.began
	w.ledger.write("b", "new")
	w.moods.gate <- struct{}{}
	wantCode(t, <-done, refusal.Conflict)
	if s := u.status(); s.Status != session.Conflicted || s.Sequence != 1 {
		t.Errorf("status %+v", s)
	}
}

// So many blocks during one step that the state under it is no longer kept: the step is run again, nothing is refused.
func TestStateIsPrunedDuringStep(t *testing.T) {
	w := newWorld(t, nil)
	w.moods.gate, w.moods.began = make(chan struct{}), make(chan struct{})
	u := w.user("alice")
	done := make(chan error)
	p := u.sign("GET", "/slow/a", "", "")
	go func() { _, err := u.send(p); done <- err }()
	<-w.moods.began
	for i := range 120 { // the fixture's state keeps 100
		w.ledger.write("unrelated", strings.Repeat("x", i))
	}
	w.moods.gate <- struct{}{}
	<-w.moods.began
	w.moods.gate <- struct{}{}
	if err := <-done; err != nil {
		t.Errorf("the step got %v", err)
	}
}

// A commit that waits hears of the conflict at once.
func TestCommittingIsOvertaken(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("GET", "/get/a", "", 200)
	w.ledger.mu.Lock()
	w.ledger.lose = true
	w.ledger.mu.Unlock()
	if _, err := w.engine.Commit(ended(), u.commitRequest()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { _, err := u.commit(); done <- err }()
	w.ledger.write("a", "new")
	wantCode(t, <-done, refusal.Conflict)
}

// A block that holds the session and changes what it has read is its own block, no conflict.
func TestOwnBlockIsNoConflict(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	u.do("POST", "/add/a", "", 200)
	if _, err := w.engine.Commit(ended(), u.commitRequest()); err != nil {
		t.Fatal(err)
	}
	w.settleDown()
	w.ledger.mu.Lock()
	w.ledger.engine = nil // the block is in the state before the engine is told of it
	b := w.ledger.block()
	w.ledger.engine = w.engine
	w.ledger.mu.Unlock()
	o, err := w.engine.find(u.id)
	if err != nil {
		t.Fatal(err)
	}
	w.engine.late.Store(b.Height) // do not wait for OnBlock
	if _, err := ask(o, func() (struct{}, error) { return struct{}{}, o.refresh(true) }); err != nil {
		t.Errorf("run again on the state after its own block: %v", err)
	}
	w.engine.OnBlock(b)
	w.settleDown()
	if s := u.status(); s.Status != session.Committed || s.Height != b.Height {
		t.Errorf("status %+v", s)
	}
}

// Blocks that the engine was not told of make it run every session again.
func TestMissedBlocks(t *testing.T) {
	w := newWorld(t, nil)
	u, v := w.user("alice"), w.user("alice")
	u.do("GET", "/get/a", "", 200)
	v.do("GET", "/get/b", "", 200)
	w.ledger.mu.Lock()
	w.ledger.engine = nil
	w.ledger.mu.Unlock()
	w.ledger.write("a", "new")
	w.ledger.mu.Lock()
	w.ledger.engine = w.engine
	w.ledger.mu.Unlock()
	w.ledger.write("c", "new")
	w.settleDown()
	if s := u.status(); s.Status != session.Conflicted {
		t.Errorf("the touched session is %v", s.Status)
	}
	if s := v.status(); s.Status != session.Open {
		t.Errorf("the other is %v", s.Status)
	}
	if err := w.engine.WaitHeight(context.Background(), 3); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	wantCode(t, w.engine.WaitHeight(ctx, 4), refusal.HeightNotReached)
}

// Who of several sessions in a block won is told by the keys they wrote, if the ledger tells; otherwise all are counted.
func TestWinnerAmongSeveral(t *testing.T) {
	for _, told := range []bool{true, false} {
		w := newWorld(t, nil)
		u, x, y := w.user("alice"), w.user("bob"), w.user("root")
		u.do("GET", "/get/a", "", 200)
		x.do("POST", "/set/b", "", 201)
		y.do("POST", "/set/a", "", 201)
		for _, v := range []*user{x, y} {
			if _, err := w.engine.Commit(ended(), v.commitRequest()); err != nil {
				t.Fatal(err)
			}
			w.settleDown()
		}
		w.ledger.mu.Lock()
		w.ledger.engine = nil
		b := w.ledger.block()
		if !told {
			for i := range b.Sessions {
				b.Sessions[i].Keys = nil
			}
		}
		w.ledger.engine = w.engine
		w.ledger.mu.Unlock()
		w.engine.OnBlock(b)
		w.settleDown()
		c := u.status().Conflict
		if c == nil || told && (c.WinnerActor != "root" || c.Candidates != 1) || !told && c.Candidates != 2 {
			t.Errorf("told %v: %+v", told, c)
		}
	}
}

// divergence: the same question with another answer is a change of the state; another question is not.
func TestDivergence(t *testing.T) {
	q := func(key, answer uint64) question { return question{askedKey, key, answer} }
	for name, c := range map[string]struct {
		old, new []question
		want     []int
	}{
		"equal":           {[]question{q(1, 1), q(2, 2)}, []question{q(1, 1), q(2, 2)}, nil},
		"changed":         {[]question{q(1, 1), q(2, 2)}, []question{q(1, 1), q(2, 3)}, []int{1}},
		"other question":  {[]question{q(1, 1), q(2, 2)}, []question{q(1, 1), q(3, 9)}, nil},
		"fewer":           {[]question{q(1, 1), q(2, 2)}, []question{q(1, 1)}, nil},
		"changed, others": {[]question{q(1, 1), q(2, 2)}, []question{q(1, 5), q(7, 7)}, []int{0}},
	} {
		if got := divergence(c.old, c.new); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// The index finds by key and by range, and forgets what is dropped.
func TestIndex(t *testing.T) {
	x := newIndex()
	a, b := &owner{}, &owner{}
	read := func(keys []string, from, to string) *state.ReadSet {
		o := state.NewOverlay(nothing{})
		for _, k := range keys {
			_, _, _ = o.Get([]byte(k))
		}
		if from != "" {
			var end []byte
			if to != "" {
				end = []byte(to)
			}
			for range o.Scan([]byte(from), end) {
			}
		}
		return o.Reads()
	}
	x.add(a, read([]string{"k1", "k2"}, "m", "n"), nil)
	x.add(b, read([]string{"k2"}, "x", ""), nil)
	for key, want := range map[string][]*owner{"k1": {a}, "k2": {a, b}, "k3": nil, "m": {a}, "mm": {a}, "n": nil, "x": {b}, "zzz": {b}} {
		got := x.touched([]state.Change{{Key: []byte(key)}})
		if len(got) != len(want) {
			t.Errorf("%s touches %d sessions, want %d", key, len(got), len(want))
		}
		for _, o := range want {
			if _, ok := got[o]; !ok {
				t.Errorf("%s does not touch a reader", key)
			}
		}
	}
	x.drop(a)
	x.drop(b)
	if len(x.keys) != 0 || len(x.ranges) != 0 || len(a.reads.keys) != 0 {
		t.Errorf("after dropping all: %d keys, %d ranges", len(x.keys), len(x.ranges))
	}
}

type nothing struct{}

func (nothing) Get([]byte) ([]byte, bool, error) { return nil, false, nil }
func (nothing) Scan(_, _ []byte) iter.Seq2[state.Entry, error] {
	return func(func(state.Entry, error) bool) {}
}
