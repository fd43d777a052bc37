package client

import (
	"encoding/json"
	"net/http"
	"strconv"
	"testing"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// far is a height that no node will reach.
const far = int64(1) << 40

// heightened makes a node answer as a node does that is asked for a state that it has not got.
func heightened(n *node) {
	n.refuse = func(_ int, r *http.Request) *refusal.Refusal {
		n.sessions.mu.Lock()
		defer n.sessions.mu.Unlock()
		if least, err := strconv.ParseInt(r.Header.Get("Tandem-Min-Height"), 10, 64); err == nil && least > n.height+1 {
			return refusal.New(refusal.HeightNotReached, "height %d was not reached", least)
		}
		return nil
	}
}

// A lone liar that tells of a commit in a block far away cannot make the client ask everybody else for that block: the others
// deny it, and the client goes on with them. What two nodes tell is asked for.
func TestForgedCommitHeight(t *testing.T) {
	liar, honest := startNode(t, newSessions(), 1), startNode(t, newSessions(), 2)
	heightened(honest)
	liar.tamper = func(tag string, _ uint64, a *answer) {
		if tag == httpsig.TagCommit {
			a.body, _ = json.Marshal(Outcome{Status: "committed", Height: far})
		}
	}
	c := newClient(t, liar, honest)
	s := mustOpen(t, c)
	mustCall(t, s, "/first")
	if o, err := s.Commit(t.Context()); err != nil || o.Height != far {
		t.Fatalf("%+v, %v", o, err)
	}
	liar.refuse = func(int, *http.Request) *refusal.Refusal { return refusal.New(refusal.Overloaded, "no more") }
	next := mustOpen(t, c)
	mustCall(t, next, "/second")
	if o, err := next.Commit(t.Context()); err != nil || o.Height >= far {
		t.Fatalf("%+v, %v", o, err)
	}
	if least := c.seen.least(); least <= 0 || least >= far {
		t.Errorf("reads ask for height %d", least)
	}
}

// Nor can one that signs a height far away to an opening, or to an answer that is no step.
func TestForgedAnswerHeight(t *testing.T) {
	shared := newSessions()
	liar, honest := startNode(t, shared, 1), startNode(t, shared, 2)
	heightened(honest)
	liar.tamper = func(_ string, _ uint64, a *answer) { a.about.Height = far }
	liar.handler = func(*wire.Request) (int, []wire.Header, []byte) { return 404, nil, nil }
	s := mustOpen(t, newClient(t, liar, honest))
	if a, err := s.Call(t.Context(), "GET", "/missing", "", nil); err != nil || a.Recorded || a.Height != far {
		t.Fatalf("%+v, %v", a, err)
	}
	liar.refuse = func(int, *http.Request) *refusal.Refusal { return refusal.New(refusal.Overloaded, "no more") }
	mustCall(t, s, "/first")
	if a, err := s.Commit(t.Context()); err != nil || a.Height >= far {
		t.Errorf("%+v, %v", a, err)
	}
}

// Heights: one node's word alone stands until it is denied by all who can be reached; two nodes' word stands.
func TestHeights(t *testing.T) {
	a, b, c := &asked{url: "a"}, &asked{url: "b"}, &asked{url: "c"}
	all := []*asked{a, b, c}
	var h heights
	h.saw(100, "a")
	if got := h.denied(all); got != 100 {
		t.Errorf("nobody denies: %d", got)
	}
	b.short = true
	if got := h.denied(all); got != 100 {
		t.Errorf("one has not answered: %d", got)
	}
	c.failed = true
	if got := h.denied(all); got != 0 {
		t.Errorf("all who can be reached deny: %d", got)
	}
	h.saw(100, "a")
	h.saw(90, "b")
	c.short = true
	if got := h.denied(all); got != 90 || h.least() != 90 {
		t.Errorf("two have told 90: %d", got)
	}
	h.saw(95, "c")
	if b.short = false; h.denied(all) != 95 {
		t.Errorf("95 is denied by a alone: %d", h.least())
	}
	var alone heights
	alone.saw(5, "a")
	if got := alone.denied([]*asked{a}); got != 5 {
		t.Errorf("there is no other node: %d", got)
	}
}
