package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// teller is a node that tells of events: a script of connections.
type teller struct {
	*httptest.Server
	mu      sync.Mutex
	script  []string // what each connection gets before it ends; "!" refuses it with 503, "-" keeps it open after it
	queries []string // of each connection
}

func startTeller(t *testing.T, script ...string) *teller {
	t.Helper()
	n := &teller{script: script}
	n.Server = httptest.NewServer(n)
	t.Cleanup(n.Close)
	return n
}

func (n *teller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	n.queries = append(n.queries, r.URL.RawQuery)
	text := "!"
	if len(n.script) > 0 {
		text, n.script = n.script[0], n.script[1:]
	}
	n.mu.Unlock()
	if text == "!" {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	text, open := strings.CutSuffix(text, "-")
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, "retry: 1000\n"+text)
	if open {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

func (n *teller) asked() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.queries)
}

func told(id int, kind string) string {
	return fmt.Sprintf("id: 0000abcd.1.%d\nevent: %s\ndata: {\"session_id\":\"s\",\"actor\":\"a\",\"n\":%d}\n\n", id, kind, id)
}

// follow collects events until there are enough.
func follow(t *testing.T, c *Client, f EventFilter, enough int) (list []string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for e, err := range c.Events(ctx, f) {
		if err != nil {
			return list, err
		}
		list = append(list, e.Kind+" "+e.ID)
		if e.Kind != "gap" && (e.Session != "s" || e.Actor != "a" || len(e.Data) == 0 || e.URL == "") {
			t.Errorf("event %+v", e)
		}
		if len(list) == enough {
			return list, nil
		}
	}
	return list, errors.New("the events ended")
}

// A broken connection is made again behind the last event, also behind one that was only a place.
func TestEventsGoOn(t *testing.T) {
	n := startTeller(t,
		"id: 0000abcd.1.4\n\n"+told(5, "block")+told(6, "conflict")+"id: 0000abcd.1.7\nevent: blo", // cut off: 7 does not count
		"!",
		": heartbeat\nid: 0000abcd.1.9\n\n",
		told(10, "session")+"-")
	c, err := New(Config{URLs: []string{n.URL}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := follow(t, c, EventFilter{Session: "s", Actor: "a", Kinds: []string{"block", "conflict"}}, 3)
	if want := []string{"block 0000abcd.1.5", "conflict 0000abcd.1.6", "session 0000abcd.1.10"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	base := "actor=a&kind=block%2Cconflict&session=s"
	want := []string{base, "actor=a&after=0000abcd.1.6&kind=block%2Cconflict&session=s", "actor=a&after=0000abcd.1.6&kind=block%2Cconflict&session=s", "actor=a&after=0000abcd.1.9&kind=block%2Cconflict&session=s"}
	if got := n.asked(); !slices.Equal(got, want) {
		t.Errorf("asked %q", got)
	}
}

// Another node's ids mean nothing: it is followed from now on, after a gap.
func TestEventsGoOnElsewhere(t *testing.T) {
	one, two := startTeller(t, told(1, "block")), startTeller(t, told(900, "block")+"-")
	c, err := New(Config{URLs: []string{one.URL, two.URL}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := follow(t, c, EventFilter{After: "0"}, 3)
	if want := []string{"block 0000abcd.1.1", "gap ", "block 0000abcd.1.900"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got := two.asked(); !slices.Equal(got, []string{""}) {
		t.Errorf("the other was asked %q", got)
	}
}

func TestEventsEnd(t *testing.T) {
	n := startTeller(t)
	c, err := New(Config{URLs: []string{n.URL}, Patience: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var unreachable *UnreachableError
	if _, err := follow(t, c, EventFilter{}, 1); !errors.As(err, &unreachable) {
		t.Errorf("nobody there: %v", err)
	}
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(400)
		_, _ = io.WriteString(w, `{"type":"urn:tandem:problem:bad-request","status":400,"code":"bad-request","detail":"no such kind"}`)
	}))
	t.Cleanup(refuses.Close)
	c, err = New(Config{URLs: []string{refuses.URL}})
	if err != nil {
		t.Fatal(err)
	}
	var problem *Problem
	if _, err := follow(t, c, EventFilter{Kinds: []string{"x"}}, 1); !errors.As(err, &problem) || problem.Code != "bad-request" {
		t.Errorf("refused: %v", err)
	}
	open := startTeller(t, told(1, "block")+"-")
	c, err = New(Config{URLs: []string{open.URL}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	for e, err := range c.Events(ctx, EventFilter{}) {
		if err == nil && e.Kind == "block" {
			cancel()
			continue
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%+v, %v", e, err)
		}
	}
	cancel()
}
