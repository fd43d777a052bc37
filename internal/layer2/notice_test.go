package layer2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/internal/events"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// told is an event as tests look at it.
type told struct {
	kind    events.Kind
	session string
	actor   string
	data    map[string]any
}

// listen returns everything that the world's log holds, as a list that grows.
func listen(t tb, w *world) (*events.Log, func() []told) {
	t.Helper()
	log := w.options().Events.(*events.Log)
	r := log.ReadKept(events.Filter{})
	var all []told
	return log, func() []told {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		for {
			found, err := r.Next(ctx)
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				return all
			}
			for _, e := range found {
				x := told{kind: e.Kind, session: e.Session, actor: e.Actor}
				if err := json.Unmarshal(e.Data, &x.data); err != nil {
					t.Fatal(err)
				}
				all = append(all, x)
			}
		}
	}
}

// eventWorld is a world whose engine publishes.
func eventWorld(t tb) *world {
	log := events.New(events.Options{Node: "00000001", Epoch: 1})
	return newWorld(t, func(o *Options) { o.Events = log })
}

// states are the states that were told of a session, in order.
func states(all []told, id wire.SessionID) (list []string) {
	for _, e := range all {
		if e.kind == events.Session && e.session == id.String() {
			list = append(list, fmt.Sprint(e.data["status"]))
		}
	}
	return list
}

func conflicts(all []told) (list []told) {
	for _, e := range all {
		if e.kind == events.Conflict {
			list = append(list, e)
		}
	}
	return list
}

// "the client is told at once (SSE and on its next call): which step, which keys, who won, old and new response", before
// it tries to commit; and "unchanged responses: silent".
func TestLoserIsToldBeforeItTriesToCommit(t *testing.T) {
	w := eventWorld(t)
	w.ledger.auto = true
	_, all := listen(t, w)
	loser, winner, silent := w.user("alice"), w.user("bob"), w.user("alice")
	loser.do("GET", "/get/z", "", 200)
	loser.do("GET", "/get/a", "", 200)
	silent.do("GET", "/list", "", 200) // reads a's key, not its value
	silent.do("POST", "/set/own", "x", 201)
	winner.do("POST", "/set/a", "taken", 201)
	w.ledger.write("a", "") // the key is there from now on: the listing changes for all, so begin again
	w.settleDown()
	if got := len(conflicts(all())); got != 2 {
		t.Fatalf("%d conflicts, want 2: a key appeared", got)
	}

	loser, silent = w.user("alice"), w.user("alice")
	loser.do("GET", "/get/z", "", 200)
	old := loser.do("GET", "/get/a", "", 200)
	silent.do("GET", "/list", "", 200)
	before, ran := len(all()), w.engine.Stats().Reexecuted
	if _, err := winner.commit(); err != nil {
		t.Fatal(err)
	}
	w.settleDown()
	news := all()[before:]
	if got := w.engine.Stats().Reexecuted - ran; got < 3 {
		t.Errorf("%d sessions run again: the silent one has to be among them", got)
	}
	for _, e := range news {
		if e.session == silent.id.String() {
			t.Errorf("a session with the same responses is told: %+v", e)
		}
	}
	told := conflicts(news)
	if len(told) != 1 || told[0].session != loser.id.String() || told[0].actor != "alice" {
		t.Fatalf("told %+v", news)
	}
	d := told[0].data
	who, _ := d["winner"].(map[string]any)
	was, _ := d["old"].(map[string]any)
	is, _ := d["new"].(map[string]any)
	if d["session_id"] != loser.id.String() || d["code"] != "conflict" || d["step"] != float64(2) || d["field"] != "body" ||
		fmt.Sprint(d["keys"]) != "[a/kv/a]" || who["session_id"] != winner.id.String() || who["actor"] != "bob" || who["height"] != float64(3) ||
		was["digest"] != wire.Sum(old.Body).String() || !strings.Contains(fmt.Sprint(is["body"]), "taken") {
		t.Errorf("the notice: %v", d)
	}
	if got := states(news, loser.id); !slices.Equal(got, []string{"conflicted"}) {
		t.Errorf("states told: %v", got)
	}
	// The next call gets the same members in its problem document.
	_, err := loser.commit()
	r := wantCode(t, err, refusal.Conflict)
	_, doc := r.Problem()
	var p map[string]any
	if err := json.Unmarshal(doc, &p); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"code", "detail", "step", "field", "keys", "height", "winner", "old", "new"} {
		if fmt.Sprint(p[name]) != fmt.Sprint(d[name]) || p[name] == nil {
			t.Errorf("%s: the event says %v, the problem %v", name, d[name], p[name])
		}
	}
	if s := silent.status(); s.Status != session.Open {
		t.Errorf("the silent session is %v", s.Status)
	}
}

// Every change of a session's state is told, in order, and once.
func TestStatesAreTold(t *testing.T) {
	w := eventWorld(t)
	_, all := listen(t, w)
	committed, abandoned, expired, faulty := w.user("alice"), w.user("alice"), w.userWith("bob", w.openBody(time.Minute)), w.user("bob")
	faulty.do("GET", "/luck/a", "", 200)
	committed.do("POST", "/set/b", "x", 201)
	if _, err := w.engine.Commit(ended(), committed.commitRequest()); err != nil {
		t.Fatal(err)
	}
	abandoned.w.engine.mu.Lock()
	o := w.engine.sessions[abandoned.id]
	w.engine.mu.Unlock()
	if _, err := ask(o, func() (struct{}, error) {
		_, err := o.do(o.machine.Step(session.AbandonRequested{Sequence: 1, Transcript: abandoned.head}), o.payload)
		return struct{}{}, err
	}); err != nil {
		t.Fatal(err)
	}
	w.settleDown()
	w.ledger.cut()
	w.settleDown()
	if _, err := faulty.commit(); !refusal.Has(err, refusal.Nondeterministic) {
		t.Fatalf("commit of a session by luck: %v", err)
	}
	w.clock.advance(2 * time.Minute)
	w.ledger.write("unrelated", "x")
	w.settleDown()
	for _, c := range []struct {
		of   *user
		want []string
	}{
		{committed, []string{"open", "committing", "committed"}},
		{abandoned, []string{"open", "abandoned"}},
		{expired, []string{"open", "expired"}},
		{faulty, []string{"open", "open"}},
	} {
		if got := states(all(), c.of.id); !slices.Equal(got, c.want) {
			t.Errorf("states told of %s: %v, want %v", c.of.id, got, c.want)
		}
	}
	for _, e := range all() {
		if e.session == faulty.id.String() && e.data["fault"] != nil && e.data["fault"] != "nondeterministic-handler" {
			t.Errorf("the fault: %v", e.data)
		}
		if e.session == committed.id.String() && e.data["status"] == "committed" && (e.data["height"] != float64(2) || e.data["transaction_hash"] == nil) {
			t.Errorf("the commit: %v", e.data)
		}
	}
	// A session that this node has never seen, in a block.
	stranger := wire.SessionID{1, 2, 3}
	height := w.engine.Height()
	w.engine.OnBlock(Block{Height: height + 1, Time: w.clock.ms.Load(), Sessions: []Settled{{ID: stranger, Actor: "carol"}}})
	got := all()[len(all())-1]
	if got.session != stranger.String() || got.actor != "carol" || got.data["elsewhere"] != true || got.data["status"] != "committed" {
		t.Errorf("a session committed elsewhere: %+v", got)
	}
}

// A session that conflicted while the node was down is told of at the start.
func TestConflictFoundAtTheStartIsTold(t *testing.T) {
	w := eventWorld(t)
	_, all := listen(t, w)
	u := w.user("alice")
	u.do("GET", "/get/a", "", 200)
	w.stop()
	w.ledger.write("a", "new")
	w.start()
	if c := conflicts(all()); len(c) != 1 || c[0].session != u.id.String() || c[0].data["winner"] != nil {
		t.Errorf("told %+v", c)
	}
}

func TestBlockEvent(t *testing.T) {
	b := Block{Height: 7, Time: 99}
	for i := range 150 {
		b.Sessions = append(b.Sessions, Settled{ID: wire.SessionID{byte(i)}, Actor: "alice"})
	}
	e := BlockEvent(b)
	var n BlockNotice
	if err := json.Unmarshal(e.Data, &n); err != nil || e.Kind != events.Block || n.Height != 7 || n.Count != 150 || len(n.Sessions) != 100 {
		t.Errorf("%s, %v", e.Data, err)
	}
}

// DESIGN: "Base state moves with L1": GET .../conflict previews the whole replay and changes nothing.
func TestPreview(t *testing.T) {
	w := eventWorld(t)
	_, all := listen(t, w)
	w.ledger.auto = true
	u, winner := w.user("alice"), w.user("bob")
	u.do("POST", "/set/x", "mine", 201)
	u.do("POST", "/add/a", "", 200)
	u.do("GET", "/get/x", "", 200)
	u.do("POST", "/add/a", "", 200)
	p, err := w.engine.Preview(t.Context(), u.id)
	if err != nil || p.Conflict || p.First != nil || len(p.Steps) != 4 || p.Status != session.Open || p.Height != 1 {
		t.Fatalf("of a session that is fine: %+v, %v", p, err)
	}
	for _, s := range p.Steps {
		if s.Changed || s.New == nil || s.Old.Digest != s.New.Digest || string(s.Old.Body) != string(s.New.Body) || s.Field != "" {
			t.Errorf("step %d of a session that is fine: %+v", s.Sequence, s)
		}
	}
	winner.do("POST", "/add/a", "", 200)
	if _, err := winner.commit(); err != nil {
		t.Fatal(err)
	}
	w.settleDown()
	before, ran := len(all()), w.engine.Stats()
	status := u.status()
	for range 2 {
		p, err = w.engine.Preview(t.Context(), u.id)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Conflict || p.Status != session.Conflicted || p.Height != 2 || len(p.Steps) != 4 {
			t.Fatalf("the preview: %+v", p)
		}
		var changed []bool
		for _, s := range p.Steps {
			changed = append(changed, s.Changed)
		}
		if !slices.Equal(changed, []bool{false, true, false, true}) {
			t.Errorf("changed steps: %v", changed)
		}
		second := p.Steps[1]
		if second.Field != "body" || second.Method != "POST" || second.Target != "/add/a" || !strings.Contains(string(second.Old.Body), `"count":1`) ||
			!strings.Contains(string(second.New.Body), `"count":2`) || !strings.Contains(string(p.Steps[3].New.Body), `"count":3`) {
			t.Errorf("step 2: %+v, step 4: %s", second, p.Steps[3].New.Body)
		}
		for _, c := range []*Conflict{p.First, p.Noticed} {
			if c == nil || c.Step != 2 || c.Field != "body" || !slices.Equal(c.Keys, []string{"a/kv/a"}) || c.Winner != winner.id.String() || c.WinnerActor != "bob" || c.Height != 2 {
				t.Errorf("the difference: %+v", c)
			}
		}
	}
	if now := u.status(); now.Status != status.Status || now.Sequence != status.Sequence || now.Transcript != status.Transcript ||
		len(all()) != before || w.engine.Stats().Reexecuted != ran.Reexecuted {
		t.Error("a preview has changed something")
	}
	if p, err := w.engine.Preview(t.Context(), winner.id); err != nil || p.Conflict || p.Status != session.Committed || len(p.Steps) != 0 {
		t.Errorf("of a committed session: %+v, %v", p, err)
	}
	_, err = w.engine.Preview(t.Context(), wire.SessionID{9})
	wantCode(t, err, refusal.SessionNotFound)
	w.crash()
	if p, err := w.engine.Preview(t.Context(), u.id); err != nil || !p.Conflict || p.First.Winner != winner.id.String() {
		t.Errorf("after a restart: %+v, %v", p, err)
	}
}

// A preview does not wait for the session, nor the session for it; too many at once are refused.
func TestPreviewsAreBounded(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	w.moods.gate, w.moods.began = make(chan struct{}), make(chan struct{})
	first := make(chan error)
	p := u.sign("GET", "/slow/a", "", "")
	go func() { _, err := u.send(p); first <- err }()
	<-w.moods.began
	w.moods.gate <- struct{}{}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	previews := make(chan error, maxPreviews)
	for range maxPreviews {
		go func() { _, err := w.engine.Preview(context.Background(), u.id); previews <- err }()
		<-w.moods.began // it stands in the handler
	}
	_, err := w.engine.Preview(t.Context(), u.id)
	wantCode(t, err, refusal.Overloaded)
	u.do("GET", "/get/b", "", 200) // the session goes on meanwhile
	for range maxPreviews {
		w.moods.gate <- struct{}{}
		if err := <-previews; err != nil {
			t.Error(err)
		}
	}
}

// Connections to other Layer 2 nodes are told.
func TestPeersAreTold(t *testing.T) {
	w := eventWorld(t)
	_, all := listen(t, w)
	peer := wire.PublicKeyOf(key("peer"))
	w.engine.cluster.Up(peer)
	w.engine.cluster.Down(peer)
	var got []string
	for _, e := range all() {
		if e.kind == events.Node && e.data["peer"] == peer.DID() {
			got = append(got, fmt.Sprint(e.data["state"]))
		}
	}
	if !slices.Equal(got, []string{"up", "down"}) {
		t.Errorf("told %v", got)
	}
}
