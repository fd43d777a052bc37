package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// "A session opened with supersedes replays the steps (client: one call, asks a callback about changed answers)".
func TestSupersede(t *testing.T) {
	shared := newSessions()
	nd := startNode(t, shared, 1)
	world := "old"
	shared.handler = func(r *wire.Request) (int, []wire.Header, []byte) {
		headers := []wire.Header{{Name: "Content-Type", Value: "text/plain"}}
		switch {
		case strings.HasSuffix(r.Path, "/same"):
			return 200, headers, []byte("same " + r.Query + string(r.Body) + r.ContentType)
		case strings.HasSuffix(r.Path, "/gone") && world == "new":
			return 409, headers, []byte("taken")
		case strings.HasSuffix(r.Path, "/etag") && world == "new":
			return 200, append(headers, wire.Header{Name: "Etag", Value: `"2"`}), []byte("body")
		case strings.HasSuffix(r.Path, "/etag"):
			return 200, append(headers, wire.Header{Name: "Etag", Value: `"1"`}), []byte("body")
		}
		return 200, headers, []byte(world)
	}
	c := newClient(t, nd)
	s, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range [][3]string{{"POST", "/a/same?x=1", "body"}, {"GET", "/a/value", ""}, {"POST", "/a/gone", ""}, {"GET", "/a/etag", ""}, {"GET", "/a/same", ""}} {
		if a, err := s.Call(t.Context(), step[0], step[1], "text/x", []byte(step[2])); err != nil || !a.Recorded {
			t.Fatal(a, err)
		}
	}
	world = "new"
	shared.mu.Lock()
	shared.open[s.id].status = "conflicted"
	shared.mu.Unlock()

	// Nobody is asked: the first change ends it.
	next, err := s.Supersede(t.Context(), nil)
	var changed *ChangedError
	if !errors.As(err, &changed) || changed.Step != 2 || string(changed.Old.Body) != "old" || string(changed.New.Body) != "new" || next == nil || next.Sequence() != 2 {
		t.Fatalf("without a callback: %v", err)
	}
	if next.body.Supersedes == nil || *next.body.Supersedes != s.id {
		t.Errorf("the new session supersedes %v", next.body.Supersedes)
	}

	// All is accepted: what is answered 400 or more now is left out.
	var asked []int
	next, err = s.Supersede(t.Context(), func(step int, old, new *Answer) error {
		asked = append(asked, step)
		if old.Session != s.ID() || new.Session == s.ID() || old.Sequence != uint64(step) || !old.Recorded || old.Body == nil {
			t.Errorf("step %d: old %+v, new %+v", step, old, new)
		}
		if step == 4 && (old.Header.Get("Etag") != `"1"` || new.Header.Get("Etag") != `"2"`) {
			t.Errorf("headers: %v, %v", old.Header, new.Header)
		}
		return nil
	})
	if err != nil || !slices.Equal(asked, []int{2, 3, 4}) || next.Sequence() != 4 {
		t.Fatalf("asked about %v, %v", asked, err)
	}
	if o, err := next.Commit(t.Context()); err != nil || !o.Committed() {
		t.Fatal(o, err)
	}

	// The callback's error ends it.
	no := errors.New("no")
	next, err = s.Supersede(t.Context(), func(step int, _, _ *Answer) error {
		if step == 3 {
			return no
		}
		return nil
	})
	if !errors.Is(err, no) || next == nil || next.Status() != "open" {
		t.Errorf("%v", err)
	}
	if err := next.Abandon(t.Context()); err != nil {
		t.Error(err)
	}

	// What no node shows any more: the rest of the answer is still known.
	shared.mu.Lock()
	delete(shared.open, s.id)
	shared.mu.Unlock()
	s.proofs = nil
	next, err = s.Supersede(t.Context(), func(step int, old, _ *Answer) error {
		if old.Body != nil || old.Status != 200 || old.Header.Get("Content-Type") != "text/plain" {
			t.Errorf("%+v", old)
		}
		return no
	})
	if !errors.Is(err, no) || next == nil {
		t.Errorf("%v", err)
	}

	// A refusal in the middle: the session so far is returned.
	nd.mu.Lock()
	nd.refuse = func(_ int, r *http.Request) *refusal.Refusal {
		if strings.HasSuffix(r.URL.Path, "/value") {
			return refusal.New(refusal.BudgetExceeded, "")
		}
		return nil
	}
	nd.mu.Unlock()
	next, err = s.Supersede(t.Context(), nil)
	var problem *Problem
	if !errors.As(err, &problem) || !strings.Contains(err.Error(), "step 2") || next == nil || next.Sequence() != 1 {
		t.Errorf("refused: %v", err)
	}
	s.status = statusCommitted
	if _, err := s.Supersede(t.Context(), nil); fmt.Sprint(err) != (&EndedError{Status: "committed"}).Error() {
		t.Errorf("of a committed session: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.status = statusOpen
	if _, err := s.Supersede(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
