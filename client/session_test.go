package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tandem/internal/exec"
	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

func mustOpen(t *testing.T, c *Client, opts ...OpenOption) *Session {
	t.Helper()
	s, err := c.Open(t.Context(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustCall(t *testing.T, s *Session, target string) *Answer {
	t.Helper()
	a, err := s.Call(t.Context(), "POST", target, "", []byte(`{}`))
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	return a
}

// TestRecordedNames: client and exec must agree which headers are part of the transcript.
func TestRecordedNames(t *testing.T) {
	if diff := cmp.Diff(exec.RecordedHeaders(), recordedNames); diff != "" {
		t.Error(diff)
	}
}

// TestWorkflow: open, steps, a refused step, commit, with every answer checked.
func TestWorkflow(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	n.handler = func(r *wire.Request) (int, []wire.Header, []byte) {
		if r.Path == "/no" {
			return 409, []wire.Header{{Name: "Content-Type", Value: "text/plain"}}, []byte("no")
		}
		if r.Path == "/elsewhere" {
			return 303, []wire.Header{{Name: "Location", Value: "/there"}}, nil
		}
		return 200, []wire.Header{{Name: "Content-Type", Value: "text/x"}, {Name: "Etag", Value: `"1"`}}, []byte(r.Path + "?" + r.Query)
	}
	c := newClient(t, n)
	s := mustOpen(t, c)
	a := mustCall(t, s, "/one?x=1")
	if !a.Recorded || a.Sequence != 1 || string(a.Body) != "/one?x=1" || a.Endorsed != 1 || a.Of != 1 || a.Height != 7 {
		t.Errorf("answer %+v", a)
	}
	if got := a.Header.Get("Etag"); got != `"1"` || a.Header.Get("Tandem-Session") != "" {
		t.Errorf("headers %v: want the recorded ones and no others", a.Header)
	}
	if a := mustCall(t, s, "/no"); a.Recorded || a.Status != 409 || a.Sequence != 1 || string(a.Body) != "no" {
		t.Errorf("an answer of the handler's is no error: %+v", a)
	}
	if a := mustCall(t, s, "/elsewhere"); a.Status != 303 || a.Header.Get("Location") != "/there" || !a.Recorded {
		t.Errorf("a redirect is an answer, not to be followed: %+v", a)
	}
	if s.Sequence() != 2 {
		t.Errorf("%d steps", s.Sequence())
	}
	o, err := s.Commit(t.Context())
	if err != nil || !o.Committed() || o.Height != 8 || len(o.TransactionHash) != 64 {
		t.Fatalf("%+v %v", o, err)
	}
	if again, err := s.Commit(t.Context()); err != nil || again != o {
		t.Errorf("a second commit: %+v %v", again, err)
	}
	if _, err := s.Call(t.Context(), "GET", "/x", "", nil); !errors.As(err, new(*EndedError)) {
		t.Errorf("a step after commit: %v", err)
	}
	read, err := c.Get(t.Context(), "/read")
	if err != nil || string(read.Body) != "8" || read.Height != 8 {
		t.Errorf("a read after the commit must ask for at least its height: %+v %v", read, err)
	}
}

// TestLies: whatever a node, or one between, changes in an answer is found and named.
func TestLies(t *testing.T) {
	other := testKey(9).Private()
	onStep := func(f func(*answer)) func(string, uint64, *answer) {
		return func(tag string, _ uint64, a *answer) {
			if tag == httpsig.TagStep {
				f(a)
			}
		}
	}
	after := func(f func(status *int, h http.Header, body []byte) []byte) func(string, uint64, *answer) {
		return onStep(func(a *answer) { a.after = f })
	}
	for name, test := range map[string]struct {
		tamper func(tag string, sequence uint64, a *answer)
		field  string
	}{
		"body changed on the way": {after(func(_ *int, _ http.Header, b []byte) []byte { return append(b, 'x') }), "body"},
		"body and digest changed": {after(func(_ *int, h http.Header, _ []byte) []byte {
			b := []byte("other")
			h.Set("Content-Digest", httpsig.ContentDigest(wire.Sum(b)))
			return b
		}), "signature"},
		"another body signed":       {onStep(func(a *answer) { a.body = []byte("other") }), "transcript"},
		"status changed on the way": {after(func(s *int, _ http.Header, b []byte) []byte { *s = 201; return b }), "signature"},
		"another status signed":     {onStep(func(a *answer) { a.status = 201 }), "transcript"},
		"success shown as failure":  {onStep(func(a *answer) { a.status = 500 }), "sequence"},
		"recorded header changed": {after(func(_ *int, h http.Header, b []byte) []byte {
			h.Set("Content-Type", "text/html")
			return b
		}), "transcript"},
		"recorded header added": {after(func(_ *int, h http.Header, b []byte) []byte { h.Set("Location", "/evil"); return b }), "transcript"},
		"recorded header twice": {after(func(_ *int, h http.Header, b []byte) []byte { h.Add("Content-Type", "x/y"); return b }), "headers"},
		"wrong transcript":      {onStep(func(a *answer) { a.about.Transcript[0] ^= 1 }), "transcript"},
		"sequence skipped":      {onStep(func(a *answer) { a.about.Sequence++ }), "sequence"},
		"sequence of before":    {onStep(func(a *answer) { a.about.Sequence-- }), "sequence"},
		"another session":       {onStep(func(a *answer) { a.about.Session[0] ^= 1 }), "session"},
		"height goes back":      {onStep(func(a *answer) { a.about.Height = 6 }), "height"},
		"time changed":          {onStep(func(a *answer) { a.about.Time++ }), "transcript"},
		"time goes back":        {onStep(func(a *answer) { a.about.Time = 3 }), "time"},
		"unknown originator":    {onStep(func(a *answer) { a.signer = other }), "originator"},
		"no signature": {after(func(_ *int, h http.Header, b []byte) []byte {
			h.Del("Signature")
			h.Del("Signature-Input")
			return b
		}), "signature"},
		"signature of something else": {after(func(_ *int, h http.Header, b []byte) []byte {
			signature := []byte(h.Get("Signature"))
			at := len("tandem=:") // its first character
			signature[at] = map[bool]byte{true: 'B', false: 'A'}[signature[at] == 'A']
			h.Set("Signature", string(signature))
			return b
		}), "signature"},
		"originator not the signer": {after(func(_ *int, h http.Header, b []byte) []byte {
			h.Set("Tandem-Originator", wire.PublicKeyOf(other).DID())
			return b
		}), "signature"},
		"other code": {after(func(_ *int, h http.Header, b []byte) []byte {
			h.Set("Tandem-Fingerprint", wire.Sum(nil).String())
			return b
		}), "fingerprint"},
		"more endorsements than nodes": {after(func(_ *int, h http.Header, b []byte) []byte {
			h.Set("Tandem-Endorsements", "3/2")
			return b
		}), "endorsements"},
		"open: wrong head": {func(tag string, _ uint64, a *answer) {
			if tag == httpsig.TagOpen {
				a.about.Transcript[5] ^= 1
			}
		}, "transcript"},
		"open: unknown originator": {func(tag string, _ uint64, a *answer) {
			if tag == httpsig.TagOpen {
				a.signer = other
			}
		}, "originator"},
		"commit: of another head": {func(tag string, _ uint64, a *answer) {
			if tag == httpsig.TagCommit {
				a.about.Transcript[5] ^= 1
			}
		}, "transcript"},
		"commit: fewer steps": {func(tag string, _ uint64, a *answer) {
			if tag == httpsig.TagCommit {
				a.about.Sequence--
			}
		}, "sequence"},
		"commit: open all the same": {func(tag string, _ uint64, a *answer) {
			if tag == httpsig.TagCommit {
				a.body = []byte(`{"status":"open"}`)
			}
		}, "status"},
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, newSessions(), 1)
			n.handler = func(r *wire.Request) (int, []wire.Header, []byte) {
				return 200, []wire.Header{{Name: "Content-Type", Value: "text/plain"}}, []byte("hello")
			}
			c := newClient(t, n)
			run := func() error {
				s, err := c.Open(t.Context())
				if err != nil {
					return err
				}
				for i := range 2 { // the second step is the one that is tampered with
					if i == 1 {
						n.mu.Lock()
						n.tamper = test.tamper
						n.mu.Unlock()
					}
					if _, err := s.Call(t.Context(), "POST", "/x", "", []byte("{}")); err != nil {
						if s.Sequence() != uint64(i) {
							t.Errorf("an answer that was not believed counts as a step")
						}
						return err
					}
				}
				_, err = s.Commit(t.Context())
				return err
			}
			if strings.HasPrefix(name, "open") {
				n.tamper = test.tamper
			}
			err := run()
			var lie *AnswerError
			if !errors.As(err, &lie) || lie.Field != test.field {
				t.Errorf("error %v, want an AnswerError about %s", err, test.field)
			}
		})
	}
}

// TestStatusOfAnotherChain: with a genesis file no session is opened on another chain or for other code.
func TestStatusOfAnotherChain(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	c := newClient(t, n)
	var lie *AnswerError
	n.chain = "other"
	if _, err := c.Open(t.Context()); !errors.As(err, &lie) || lie.Field != "chain_id" {
		t.Errorf("%v", err)
	}
	n.chain, n.print = "test-chain", wire.Sum([]byte("other code"))
	if _, err := c.Open(t.Context()); !errors.As(err, &lie) || lie.Field != "fingerprint" {
		t.Errorf("%v", err)
	}
}

// TestLostAnswers: an answer that is lost is asked for again with the same bytes; each step happens once.
func TestLostAnswers(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	n.lose = func(count int) bool { return count%3 != 0 }
	ran := 0
	n.handler = func(*wire.Request) (int, []wire.Header, []byte) { ran++; return 200, nil, nil }
	s := mustOpen(t, newClient(t, n))
	for i := range 4 {
		mustCall(t, s, fmt.Sprintf("/step/%d", i))
	}
	if o, err := s.Commit(t.Context()); err != nil || !o.Committed() {
		t.Fatal(o, err)
	}
	if ran != 4 {
		t.Errorf("the handler ran %d times for 4 steps", ran)
	}
	n.onePerPosition(t)
}

// TestFailover: a node that does not answer, or does not know the session, is left for the next one.
func TestFailover(t *testing.T) {
	shared := newSessions()
	dead, stranger, alive := startNode(t, shared, 1), startNode(t, newSessions(), 2), startNode(t, shared, 3)
	stranger.refuse = func(_ int, r *http.Request) *refusal.Refusal {
		if r.Method == http.MethodPut {
			return refusal.New(refusal.MethodNotAllowed, "it takes no transcripts")
		}
		return nil
	}
	c := newClient(t, dead, stranger, alive)
	s := mustOpen(t, c)
	mustCall(t, s, "/one")
	dead.srv.Close()
	if a := mustCall(t, s, "/two"); a.Originator != wire.PublicKeyOf(alive.key).DID() {
		t.Errorf("answered by %s", a.Originator)
	}
	if c.URL() != alive.srv.URL {
		t.Errorf("the client does not stay with the node that answers")
	}
	if o, err := s.Commit(t.Context()); err != nil || !o.Committed() {
		t.Fatal(o, err)
	}
	shared.onePerPosition(t)
}

// TestNobodyKnowsTheSession: when every node says so, that is the answer, and at once.
func TestNobodyKnowsTheSession(t *testing.T) {
	shared := newSessions()
	one, two := startNode(t, shared, 1), startNode(t, shared, 2)
	s := mustOpen(t, newClient(t, one, two))
	clear(shared.open)
	shared.closed = true
	_, err := s.Call(t.Context(), "POST", "/x", "", nil)
	var p *Problem
	if !errors.As(err, &p) || p.Code != "session-not-found" || p.Kind != "refusal" {
		t.Errorf("%v", err)
	}
}

// TestOutages: 503 is waited out; when patience ends the outage is the error, as a Problem, and the outcome unknown.
func TestOutages(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	down := 3
	n.refuse = func(_ int, r *http.Request) *refusal.Refusal {
		if down > 0 {
			down--
			return refusal.New(refusal.Overloaded, "")
		}
		return nil
	}
	c := newClient(t, n)
	s := mustOpen(t, c)
	down = 2
	mustCall(t, s, "/x")
	down = 1 << 30
	ctx, cancel := context.WithCancel(t.Context())
	first := n.count
	n.lose = nil
	n.refuse = func(count int, r *http.Request) *refusal.Refusal {
		if count > first+2 {
			cancel()
		}
		return refusal.New(refusal.Overloaded, "")
	}
	_, err := s.Call(ctx, "POST", "/y", "", nil)
	var p *Problem
	if !errors.As(err, &p) || !p.Outage() || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := s.Withdraw(); !errors.As(err, new(*PendingError)) {
		t.Errorf("a step with unknown outcome was withdrawn: %v", err)
	}
	n.mu.Lock()
	n.refuse = nil
	n.mu.Unlock()
	mustYet(t, s, "/z")
	if _, err := s.Call(t.Context(), "POST", "/y", "", nil); err != nil {
		t.Error(err)
	}
	n.onePerPosition(t)
}

// mustYet expects that another step must be settled first.
func mustYet(t *testing.T, s *Session, target string) {
	t.Helper()
	if _, err := s.Call(t.Context(), "POST", target, "", nil); !errors.As(err, new(*PendingError)) {
		t.Errorf("%s: %v, want a PendingError", target, err)
	}
	if _, err := s.Commit(t.Context()); !errors.As(err, new(*PendingError)) {
		t.Errorf("commit: %v, want a PendingError", err)
	}
}

// TestRefusals: a refused step is sent again as it was, withdrawn, or the session abandoned.
func TestRefusals(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	s := mustOpen(t, newClient(t, n))
	refused := true
	n.refuse = func(_ int, r *http.Request) *refusal.Refusal {
		if refused && r.URL.Path == "/x" {
			return refusal.New(refusal.KeyRevoked, "since height 3").With("height", 3)
		}
		return nil
	}
	call := func(target string) error {
		_, err := s.Call(t.Context(), "POST", target, "", nil)
		return err
	}
	var p *Problem
	if err := call("/x"); !errors.As(err, &p) || p.Code != "key-revoked" || p.Status != 403 || p.Detail != "since height 3" || p.Fields["height"] != 3.0 || p.Remedy == "" {
		t.Fatalf("%#v", p)
	}
	mustYet(t, s, "/y")
	if err := call("/x"); !errors.As(err, &p) {
		t.Error(err)
	}
	n.onePerPosition(t)
	if err := s.Withdraw(); err != nil {
		t.Fatal(err)
	}
	if err := call("/y"); err != nil {
		t.Fatal(err)
	}
	if err := call("/x"); !errors.As(err, &p) {
		t.Error(err)
	}
	if err := s.Abandon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Abandon(t.Context()); err != nil {
		t.Errorf("abandoning twice: %v", err)
	}
	if n.open[s.id].status != "abandoned" || s.Status() != "abandoned" {
		t.Error("not abandoned")
	}
}

// TestAbandonWithUnknownStep: a step whose answer was lost is found out before the session is given up, so that the
// position after it is signed.
func TestAbandonWithUnknownStep(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	s := mustOpen(t, newClient(t, n))
	ctx, cancel := context.WithCancel(t.Context())
	n.lose = func(int) bool { cancel(); return true }
	if _, err := s.Call(ctx, "POST", "/x", "", nil); err == nil {
		t.Fatal("no error")
	}
	n.lose = nil
	if err := s.Abandon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.Sequence() != 1 {
		t.Errorf("%d steps", s.Sequence())
	}
	n.onePerPosition(t)
}

// TestCommitAnswerLost: the answer was lost and the node only says that the session is closed; the client finds out
// what became of it.
func TestCommitAnswerLost(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	s := mustOpen(t, newClient(t, n))
	mustCall(t, s, "/x")
	n.lose = func(int) bool {
		clear(n.open[s.id].answers) // so that the retry is not answered from there
		n.lose = nil
		return true
	}
	o, err := s.Commit(t.Context())
	if err != nil || !o.Committed() || o.Height != 8 || s.Status() != "committed" {
		t.Errorf("%+v %v", o, err)
	}
	n.onePerPosition(t)
}

// TestCommitWaits: 202 is not the end of it.
func TestCommitWaits(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	s := mustOpen(t, newClient(t, n))
	mustCall(t, s, "/x")
	waits := 3
	n.tamper = func(tag string, _ uint64, a *answer) {
		if tag == httpsig.TagCommit && waits > 0 {
			waits--
			a.status, a.body = 202, []byte(`{"status":"committing"}`)
		}
	}
	if o, err := s.CommitAsync(t.Context()); err != nil || o.Status != "committing" || s.Status() != "committing" {
		t.Errorf("%+v %v", o, err)
	}
	if o, err := s.Commit(t.Context()); err != nil || !o.Committed() || waits != 0 {
		t.Errorf("%+v %v, %d waits left", o, err, waits)
	}
	n.onePerPosition(t)
}

// TestCommitSaysHowLong: the node is told to answer before the client has gone.
func TestCommitSaysHowLong(t *testing.T) {
	for _, c := range []struct {
		left time.Duration
		want string
	}{{400 * time.Millisecond, "wait=0"}, {10 * time.Second, "wait=9"}, {time.Hour, ""}} {
		n := startNode(t, newSessions(), 1) // its own: a request may be under way at a node when its client has given it up
		s := mustOpen(t, newClient(t, n))
		mustCall(t, s, "/x")
		s.c.patience = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), c.left)
		var prefer atomic.Value
		n.refuse = func(_ int, r *http.Request) *refusal.Refusal {
			prefer.Store(r.Header.Get("Prefer"))
			return nil
		}
		n.tamper = func(_ string, _ uint64, a *answer) {
			a.status, a.body = 202, []byte(`{"status":"committing"}`)
			if c.left > time.Second {
				cancel() // the node has seen the request
			}
		}
		if o, err := s.Commit(ctx); err == nil || c.left < time.Second && o.Status != "committing" {
			t.Errorf("%v left: %+v %v", c.left, o, err)
		}
		cancel()
		if got := prefer.Load(); got != c.want {
			t.Errorf("%v left: Prefer %q, want %q", c.left, got, c.want)
		}
	}
}

// TestConflict: a conflict is a Problem of that kind, and the session is over.
func TestConflict(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	s := mustOpen(t, newClient(t, n))
	mustCall(t, s, "/x")
	n.refuse = func(_ int, r *http.Request) *refusal.Refusal {
		if r.Method == "POST" {
			n.open[s.id].status = "conflicted"
			return refusal.New(refusal.Conflict, "").With("step", 1).With("keys", []string{"a/x"})
		}
		return nil
	}
	_, err := s.Commit(t.Context())
	var p *Problem
	if !errors.As(err, &p) || !p.Conflict() || p.Outage() || s.Status() != "conflicted" {
		t.Errorf("%v, session %s", err, s.Status())
	}
	n.refuse = nil
	again := mustOpen(t, s.c, Superseding(s.ID()))
	if again.body.Supersedes == nil || *again.body.Supersedes != s.id {
		t.Error("the new session does not supersede the conflicted one")
	}
}

// TestConflictAtAStep: a step of a session that was overtaken says so, and the session is over.
func TestConflictAtAStep(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	s := mustOpen(t, newClient(t, n))
	mustCall(t, s, "/x")
	n.refuse = func(_ int, r *http.Request) *refusal.Refusal {
		if r.Method == "POST" {
			n.open[s.id].status = "conflicted"
			return refusal.New(refusal.Conflict, "").With("step", 1)
		}
		return nil
	}
	_, err := s.Call(t.Context(), "POST", "/y", "", nil)
	if p, ok := err.(*Problem); !ok || !p.Conflict() || s.Status() != "conflicted" {
		t.Errorf("%v, session %s", err, s.Status())
	}
	if _, err := s.Commit(t.Context()); !errors.As(err, new(*EndedError)) {
		t.Errorf("%v", err)
	}
}

// TestReceiptThatDoesNotVerify: what a node gives out as a receipt is checked against the genesis file.
func TestReceiptThatDoesNotVerify(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	c := newClient(t, n)
	s := mustOpen(t, c)
	var lie *AnswerError
	n.open[s.id].status = "committed"
	if _, err := c.Receipt(t.Context(), s.ID()); !errors.As(err, &lie) || lie.Field != "receipt" {
		t.Errorf("%v", err)
	}
	if _, _, err := s.Receipt(t.Context(), nil); !errors.As(err, &lie) || lie.Field != "receipt" {
		t.Errorf("%v", err)
	}
}

// TestDo: one step, committed; a handler's no is an answer and commits nothing.
func TestDo(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	c := newClient(t, n)
	a, o, _, err := c.Do(t.Context(), "POST", "/x", "", []byte(`{"a":1}`))
	if err != nil || !o.Committed() || a.Status != 200 {
		t.Errorf("%+v %+v %v", a, o, err)
	}
	n.handler = func(*wire.Request) (int, []wire.Header, []byte) { return 422, nil, []byte("no") }
	a, o, s, err := c.Do(t.Context(), "POST", "/x", "", nil)
	if err != nil || o != (Outcome{}) || a.Status != 422 || s.Status() != "abandoned" {
		t.Errorf("%+v %+v %v", a, o, err)
	}
}

// TestReadGoesBack: a read that shows an older ledger than the client has seen is refused.
func TestReadGoesBack(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	c := newClient(t, n)
	c.seen.saw(9, n.srv.URL)
	_, err := c.Get(t.Context(), "/x")
	var lie *AnswerError
	if !errors.As(err, &lie) || lie.Field != "height" {
		t.Errorf("%v", err)
	}
}

// TestSavedBeforeSent: the signed request is in the saved session before a node has it, so a program that dies in
// between does not sign another.
func TestSavedBeforeSent(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	var last []byte
	save := func(text []byte) error { last = slices.Clone(text); return nil }
	n.refuse = func(_ int, r *http.Request) *refusal.Refusal {
		if p, _ := httpsig.FromHTTP(r, nil); p != nil && p.Tag == httpsig.TagStep {
			resumed, err := newClient(t, n).Resume(last)
			if err != nil {
				t.Errorf("resume: %v", err)
			} else if resumed.pending == nil || resumed.pending.parsed.Request.Signature != p.Request.Signature {
				t.Errorf("the request on its way is not the one that was saved")
			}
		}
		return nil
	}
	s := mustOpen(t, newClient(t, n), WithSave(save))
	for range 3 {
		if _, err := s.Call(t.Context(), "GET", "/x", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	full := errors.New("disk full")
	s.save = func([]byte) error { return full }
	before := n.count
	if _, err := s.Call(t.Context(), "GET", "/x", "", nil); !errors.Is(err, full) || n.count != before {
		t.Errorf("%v; %d requests were sent although nothing could be saved", err, n.count-before)
	}
}

// TestResume: a session goes on in another process at any point, also with an answer lost and before the open's answer.
func TestResume(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	again := func(s *Session) *Session {
		t.Helper()
		text, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		s, err = newClient(t, n).Resume(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var first []byte
	if _, err := newClient(t, n).Open(t.Context(), WithSave(func(b []byte) error {
		if first != nil {
			return errors.New("died")
		}
		first = slices.Clone(b)
		return nil
	})); err == nil {
		t.Fatal("no error")
	}
	clear(n.open) // as if the opening request never arrived
	s, err := newClient(t, n).Resume(first)
	if err != nil {
		t.Fatal(err)
	}
	mustCall(t, s, "/one")
	s = again(s)
	ctx, cancel := context.WithCancel(t.Context())
	n.lose = func(int) bool { cancel(); return true }
	if _, err := s.Call(ctx, "POST", "/two", "", nil); err == nil {
		t.Fatal("no error")
	}
	n.lose = nil
	s = again(s)
	mustYet(t, s, "/three")
	if a, err := s.Call(t.Context(), "POST", "/two", "", nil); err != nil || a.Sequence != 2 {
		t.Fatal(a, err)
	}
	s = again(s)
	if o, err := s.Commit(t.Context()); err != nil || !o.Committed() {
		t.Fatal(o, err)
	}
	s = again(s)
	if s.Status() != "committed" || s.Outcome().Height != 8 {
		t.Errorf("%s %+v", s.Status(), s.Outcome())
	}
	n.onePerPosition(t)
}

// TestResumeRefuses: a saved session that was tampered with, or is another's, is not taken up.
func TestResumeRefuses(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	c := newClient(t, n)
	s := mustOpen(t, c)
	mustCall(t, s, "/one")
	mustCall(t, s, "/two")
	good, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := New(Config{URLs: []string{"http://x"}, Key: testKey(77)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Resume(good); err == nil {
		t.Error("another key took the session up")
	}
	elsewhere, err := New(Config{URLs: []string{"http://x"}, Key: c.key, Genesis: bytes.Replace(n.genesis(), []byte("test-chain"), []byte("test-other"), 1)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := elsewhere.Resume(good); err == nil {
		t.Error("another chain took the session up")
	}
	lines := strings.Split(string(good), "\n")
	for i, line := range lines {
		if !strings.Contains(line, `": "`) && !strings.HasPrefix(line, `    "`) {
			continue
		}
		start := strings.LastIndex(strings.TrimRight(line, `",`), `"`) + 1
		at := start + (len(line)-start)/2
		bad := slices.Clone(lines)
		swap := byte('Q')
		if line[at] == swap {
			swap = 'R'
		}
		bad[i] = line[:at] + string(swap) + line[at+1:]
		if _, err := c.Resume([]byte(strings.Join(bad, "\n"))); err == nil && !strings.Contains(line, `"key"`) && !strings.Contains(line, "http://") {
			t.Errorf("taken up although line %d was changed: %s", i, bad[i])
		}
	}
	short := withoutFirstStep(string(good))
	if _, err := c.Resume([]byte(short)); err == nil {
		t.Error("taken up although the first step was dropped")
	}
}

// withoutFirstStep drops the first of the saved steps.
func withoutFirstStep(text string) string {
	before, rest, _ := strings.Cut(text, "\"steps\": [\n")
	_, rest, _ = strings.Cut(rest, "\n")
	return before + "\"steps\": [\n" + rest
}

// TestBadCalls: what nodes would refuse is refused before it is signed.
func TestBadCalls(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	s := mustOpen(t, newClient(t, n))
	before := n.count
	for _, test := range []struct {
		method, target, contentType string
		body                        []byte
	}{
		{"POST", "no-slash", "", nil}, {"POST", "/a/../b", "", nil}, {"POST", "/a%2Fb", "", nil}, {"POST", "/x?", "", nil},
		{"post", "/x", "", nil}, {"POST", "/x", "text/\x01", nil}, {"POST", "/x", "", make([]byte, wire.MaxBody+1)},
		{"GET", "/tandem/v1/status", "", nil},
	} {
		if _, err := s.Call(t.Context(), test.method, test.target, test.contentType, test.body); err == nil {
			t.Errorf("%s %s %q: no error", test.method, test.target, test.contentType)
		}
	}
	if n.count != before || s.pending != nil {
		t.Error("something was sent or signed")
	}
}

// FuzzResume: no saved text makes Resume panic, and what it takes up can be saved again as it was.
func FuzzResume(f *testing.F) {
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":1,"session_id":"a","key":"k","status":"open","opened":true,"height":1,"open":"gA==","steps":[]}`))
	f.Add([]byte(`{"version":1,"steps":["AA=="],"pending":{"tag":"tandem-step","request":""}}`))
	c, err := New(Config{URLs: []string{"http://x"}, Key: testKey(200)})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, err := c.Resume(text); err == nil {
			if _, err := s.Marshal(); err != nil {
				t.Error(err)
			}
		}
	})
}
