package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tandem"
	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// memory is a state.Reader over a map.
type memory map[string]string

func (m memory) Get(key []byte) ([]byte, bool, error) {
	v, ok := m[string(key)]
	return []byte(v), ok, nil
}

func (m memory) Scan(start, end []byte) iter.Seq2[state.Entry, error] {
	return func(yield func(state.Entry, error) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if k < string(start) || end != nil && k >= string(end) {
				continue
			}
			if !yield(state.Entry{Key: []byte(k), Value: []byte(m[k])}, nil) {
				return
			}
		}
	}
}

// runner returns a Runner of one handler at "/".
func runner(h http.HandlerFunc, o Options) *Runner {
	var reg tandem.Registry
	reg.HandleFunc("/", h)
	return New(tandem.Service{Name: "test", Version: "1", Registry: &reg}, o)
}

func step(method, target, body string) Step {
	path, query, _ := strings.Cut(target, "?")
	return Step{
		Request: &wire.Request{Method: method, Path: path, Query: query, ContentType: "text/plain", Body: []byte(body)},
		Actor:   tandem.Actor{ID: "OPR-001", Organisation: "ORG", Roles: []string{"operator"}},
		Session: wire.SessionID{1}, Sequence: 3, Time: 1_700_000_000_123,
	}
}

func run1(t *testing.T, r *Runner, o *state.Overlay, s Step) Result {
	t.Helper()
	res, err := r.Run(context.Background(), o, s)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	if err := res.Response.Check(); err != nil {
		t.Fatalf("the result cannot be recorded: %v", err)
	}
	if res.Response.Body != wire.Sum(res.Body) {
		t.Fatal("Response.Body is not the digest of Body")
	}
	return res
}

// wantProblem checks that exec answered in the handler's place, in a way that depends on nothing but the code.
func wantProblem(t *testing.T, res Result, code refusal.Code) {
	t.Helper()
	if res.Cause == nil || res.Cause.Code != code {
		t.Fatalf("cause %v, want %s (status %d, body %s)", res.Cause, code, res.Response.Status, res.Body)
	}
	if res.Response.Status != 500 || res.Recorded {
		t.Fatalf("status %d recorded %t, want 500 and not recorded", res.Response.Status, res.Recorded)
	}
	want := []wire.Header{{Name: "Content-Type", Value: "application/problem+json"}}
	if diff := cmp.Diff(want, res.Response.Headers); diff != "" {
		t.Fatalf("headers (-want +got):\n%s", diff)
	}
	if p, ok := refusal.ParseProblem(res.Body); !ok || p.Code != code {
		t.Fatalf("body %s is no problem document with code %s", res.Body, code)
	}
}

// The handler sees the signed fields and what is agreed, and nothing else.
func TestHandlerSeesOnlySignedFields(t *testing.T) {
	var reg tandem.Registry
	checked := false
	reg.HandleFunc("POST /things/{id}/{rest...}", func(w http.ResponseWriter, r *http.Request) {
		checked = true
		body, err := io.ReadAll(r.Body)
		for _, c := range []struct {
			what      string
			got, want any
		}{
			{"method", r.Method, "POST"},
			{"RequestURI", r.RequestURI, "/things/a%2Fb/c%20d/e?q=1&q=2"},
			{"URL.Path", r.URL.Path, "/things/a/b/c d/e"},
			{"URL.RawPath", r.URL.RawPath, "/things/a%2Fb/c%20d/e"},
			{"query", fmt.Sprint(r.URL.Query()["q"]), "[1 2]"},
			{"URL.Host", r.URL.Host, ""},
			{"Host", r.Host, "tandem"},
			{"Proto", r.Proto, "HTTP/1.1"},
			{"header", fmt.Sprint(r.Header), "map[Content-Type:[text/plain]]"},
			{"RemoteAddr", r.RemoteAddr, ""},
			{"TLS", r.TLS == nil, true},
			{"ContentLength", r.ContentLength, int64(5)},
			{"body", string(body), "hello"},
			{"body error", err, nil},
			{"PathValue one segment, decoded", r.PathValue("id"), "a/b"},
			{"PathValue rest", r.PathValue("rest"), "c d/e"},
			{"Pattern", r.Pattern, "POST /things/{id}/{rest...}"},
			{"actor", tandem.ActorOf(r.Context()).ID, "OPR-001"},
			{"session", tandem.SessionOf(r.Context()), tandem.Position{Session: wire.SessionID{1}.String(), Sequence: 3}},
			{"now", tandem.Now(r.Context()), time.UnixMilli(1_700_000_000_123).UTC()},
		} {
			if c.got != c.want {
				t.Errorf("%s is %v, want %v", c.what, c.got, c.want)
			}
		}
		if _, has := r.Context().Deadline(); has {
			t.Error("the handler's context shows a deadline")
		}
		if v := r.Context().Value(outsider{}); v != nil {
			t.Error("the handler's context shows a value of the caller's")
		}
	})
	r := New(tandem.Service{Registry: &reg}, Options{})
	ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), outsider{}, 1), time.Hour)
	defer cancel()
	res, err := r.Run(ctx, state.NewOverlay(memory{}), step("POST", "/things/a%2Fb/c%20d/e?q=1&q=2", "hello"))
	if err != nil || res.Response.Status != 200 || !checked {
		t.Fatalf("status %d, %v", res.Response.Status, err)
	}
}

type outsider struct{}

// An empty body is http.NoBody, as a server gives it; a read outside a session has no position.
func TestEmptyBodyAndNoSession(t *testing.T) {
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != http.NoBody || r.ContentLength != 0 {
			t.Errorf("body %v, length %d", r.Body, r.ContentLength)
		}
		if p := tandem.SessionOf(r.Context()); p != (tandem.Position{}) {
			t.Errorf("position %v", p)
		}
	}, Options{})
	s := step("GET", "/", "")
	s.Session, s.Sequence = wire.SessionID{}, 0
	if _, err := r.Read(t.Context(), memory{}, s); err != nil {
		t.Fatal(err)
	}
}

// Service handlers live under "a/", framework routes under "t/"; neither can name a key of the other.
func TestPartsOfTheState(t *testing.T) {
	list := func(w http.ResponseWriter, r *http.Request) {
		st := tandem.StateOf(r.Context())
		for k, v := range st.Scan(nil, nil) {
			fmt.Fprintf(w, "%s=%s ", k, v)
		}
		if v, ok := st.Get([]byte("k")); ok {
			fmt.Fprintf(w, "k:%s", v)
		}
		st.Set([]byte("new"), []byte("x"))
	}
	var service, framework tandem.Registry
	service.HandleFunc("GET /{all...}", list)
	framework.HandleFunc("GET /tandem/v1/list", list)
	r := New(tandem.Service{Registry: &service}, Options{Framework: &framework})
	base := memory{"a/k": "app", "a/\xff": "last", "a0": "beyond", "a": "before", "t/k": "own", "t0": "beyond"}

	o := state.NewOverlay(base)
	if got := string(run1(t, r, o, step("GET", "/any", "")).Body); got != "k=app \xff=last k:app" {
		t.Errorf("the service sees %q", got)
	}
	if got := string(run1(t, r, o, step("GET", "/tandem/v1/list", "")).Body); got != "k=own k:own" {
		t.Errorf("the framework sees %q", got)
	}
	if diff := cmp.Diff([]string{"a/new", "t/new"}, changedKeys(o)); diff != "" {
		t.Errorf("changed keys (-want +got):\n%s", diff)
	}
	if res := run1(t, r, o, step("GET", "/tandem/unknown", "")); res.Response.Status != 404 {
		t.Errorf("a service's catch-all answered under /tandem/: %d", res.Response.Status)
	}
}

func changedKeys(o *state.Overlay) (keys []string) {
	for _, c := range o.Changes() {
		keys = append(keys, string(c.Key))
	}
	return keys
}

// A scan shows the state as it was when it began, own writes included, while the handler writes.
func TestScanWhileWriting(t *testing.T) {
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		st := tandem.StateOf(r.Context())
		st.Set([]byte("c"), []byte("own"))
		st.Delete([]byte("d"))
		for k, v := range st.Scan(nil, nil) {
			fmt.Fprintf(w, "%s=%s ", k, v)
			st.Delete([]byte("e"))
			st.Set([]byte("f"), []byte("late"))
			clear(k) // the slices are the handler's
			clear(v)
		}
		for k := range st.Scan([]byte("b"), []byte("d")) {
			fmt.Fprintf(w, "| %s", k)
			break
		}
	}, Options{})
	o := state.NewOverlay(memory{"a/a": "1", "a/d": "4", "a/e": "5"})
	if got := string(run1(t, r, o, step("GET", "/", "")).Body); got != "a=1 c=own e=5 | c" {
		t.Fatalf("scans gave %q", got)
	}
}

// DESIGN: a status of 400 or more rolls the step's writes back and the step is not recorded. Its reads stay recorded.
func TestRollback(t *testing.T) {
	for _, status := range []int{200, 201, 204, 303, 399, 400, 404, 409, 500, 599} {
		o := state.NewOverlay(memory{"a/seen": "1"})
		o.Set([]byte("a/before"), []byte("1"))
		r := runner(func(w http.ResponseWriter, r *http.Request) {
			st := tandem.StateOf(r.Context())
			st.Get([]byte("seen"))
			st.Set([]byte("k"), []byte("v"))
			st.Delete([]byte("before"))
			w.WriteHeader(status)
		}, Options{})
		res := run1(t, r, o, step("POST", "/", ""))
		if res.Response.Status != status || res.Recorded != (status < 400) {
			t.Errorf("%d: status %d, recorded %t", status, res.Response.Status, res.Recorded)
		}
		want := []string{"a/before"}
		if status < 400 {
			want = []string{"a/before", "a/k"}
		}
		if diff := cmp.Diff(want, changedKeys(o)); diff != "" {
			t.Errorf("%d: changes (-want +got):\n%s", status, diff)
		}
		if _, read := o.Reads().Present([]byte("a/seen")); !read {
			t.Errorf("%d: the read was not recorded", status)
		}
	}
}

// PAPER: lookup L(m, p) -> H. No handler is an answer too, the same on all nodes.
func TestNoRoute(t *testing.T) {
	var reg tandem.Registry
	reg.HandleFunc("GET /a/{id}", func(http.ResponseWriter, *http.Request) {})
	reg.HandleFunc("POST /a/{id}", func(http.ResponseWriter, *http.Request) {})
	r := New(tandem.Service{Registry: &reg}, Options{})
	o := state.NewOverlay(memory{})

	res := run1(t, r, o, step("GET", "/b", ""))
	if p, _ := refusal.ParseProblem(res.Body); res.Response.Status != 404 || p == nil || p.Code != refusal.NotFound || res.Recorded {
		t.Errorf("unknown path: %d %s", res.Response.Status, res.Body)
	}
	res = run1(t, r, o, step("PUT", "/a/1", ""))
	if p, _ := refusal.ParseProblem(res.Body); res.Response.Status != 405 || p == nil || p.Code != refusal.MethodNotAllowed || res.Recorded {
		t.Errorf("wrong method: %d %s", res.Response.Status, res.Body)
	}
	if h := res.Response.Headers[0]; h != (wire.Header{Name: "Allow", Value: "GET, HEAD, POST"}) {
		t.Errorf("first header is %v", h)
	}
	if res = run1(t, r, o, step("HEAD", "/b", "")); res.Response.Status != 404 || len(res.Body) != 0 {
		t.Errorf("HEAD of an unknown path: %d with %d bytes", res.Response.Status, len(res.Body))
	}
	for _, path := range []string{"/a/1/", "/a//1", "/a/./1", "/a/../a/1", "a/1", "", "*", "/a/%zz"} {
		if res := run1(t, r, o, step("GET", path, "")); res.Response.Status != 404 {
			t.Errorf("path %q: %d, want 404", path, res.Response.Status)
		}
	}
	if allowed, ok := r.Lookup("PUT", "/a/1"); ok || !slices.Equal(allowed, []string{"GET", "HEAD", "POST"}) {
		t.Errorf("Lookup gives %v, %t", allowed, ok)
	}
	if _, ok := r.Lookup("HEAD", "/a/1"); !ok {
		t.Error("Lookup does not find HEAD where GET is")
	}
}

// addressed has an address in its text, which differs from run to run.
type addressed struct{ p *int }

func (a addressed) Error() string { return fmt.Sprintf("at %p", a.p) }

// A panic of any value gives one answer, whose bytes do not depend on it; the text goes to the log.
func TestHandlerPanic(t *testing.T) {
	var bodies []string
	for name, do := range map[string]func(){
		"text":     func() { panic("secret") },
		"error":    func() { panic(addressed{new(int)}) },
		"nil":      func() { panic(nil) },
		"abort":    func() { panic(http.ErrAbortHandler) },
		"runtime":  func() { nilMap()["x"] = 1 },
		"index":    func() { s := []int{}; _ = s[len(s)] },
		"nil call": func() { var f func(); f() },
		"goexit":   func() { runtime.Goexit() },
		"in defer": func() { defer func() { panic("second") }(); panic("first") },
		"goexit in defer of panic": func() {
			defer runtime.Goexit()
			panic("lost")
		},
		"bad stringer": func() { panic(badText{}) },
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			r := runner(func(w http.ResponseWriter, r *http.Request) {
				tandem.StateOf(r.Context()).Set([]byte("k"), nil)
				w.Header().Set("Etag", "1")
				w.WriteHeader(201)
				fmt.Fprint(w, "half an answer")
				do()
			}, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			o := state.NewOverlay(memory{})
			res := run1(t, r, o, step("POST", "/", ""))
			wantProblem(t, res, refusal.HandlerPanic)
			if len(o.Changes()) != 0 {
				t.Error("writes were kept")
			}
			if name == "text" && (!strings.Contains(log.String(), "secret") || !strings.Contains(res.Cause.Detail, "secret")) {
				t.Errorf("the panic's text is not in the log: %s", &log)
			}
			bodies = append(bodies, string(res.Body))
		})
	}
	if slices.Sort(bodies); len(slices.Compact(bodies)) != 1 {
		t.Error("the answer depends on what was panicked")
	}
}

func nilMap() map[string]int { return nil }

type badText struct{}

func (badText) String() string { panic("no text") }

// The budget's boundaries: the last operation and byte allowed, and the first that is not.
func TestBudgetBoundaries(t *testing.T) {
	type do = func(tandem.State)
	get := func(key string) do { return func(st tandem.State) { st.Get([]byte(key)) } }
	set := func(key, v string) do { return func(st tandem.State) { st.Set([]byte(key), []byte(v)) } }
	del := func(key string) do { return func(st tandem.State) { st.Delete([]byte(key)) } }
	scan := func(a, b string) do {
		return func(st tandem.State) {
			for range st.Scan([]byte(a), []byte(b)) {
			}
		}
	}
	for _, c := range []struct {
		name       string
		do         do
		ops, bytes uint64
	}{
		{"get present", get("five"), 1, 4 + 5},
		{"get absent", get("none"), 1, 4},
		{"set", set("key", "value"), 1, 3 + 5},
		{"delete", del("key"), 1, 3},
		{"scan nothing", scan("x", "y"), 1, 2},
		{"scan two", scan("f", "h"), 1 + 2, 2 + (4 + 5) + (3 + 2)},
		{"set, get own", func(st tandem.State) { set("k", "vv")(st); get("k")(st) }, 2, 3 + 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := memory{"a/five": "55555", "a/gee": "gg"}
			h := func(w http.ResponseWriter, r *http.Request) { c.do(tandem.StateOf(r.Context())) }
			run := func(ops, bytes uint64) Result {
				return run1(t, runner(h, Options{Limits: Limits{Operations: ops, Bytes: bytes}}), state.NewOverlay(base), step("POST", "/", ""))
			}
			res := run(c.ops, c.bytes)
			if !res.Recorded || res.Operations != c.ops || res.Bytes != c.bytes {
				t.Errorf("exactly within: recorded %t, %d operations, %d bytes, want %d and %d; %v",
					res.Recorded, res.Operations, res.Bytes, c.ops, c.bytes, res.Cause)
			}
			wantProblem(t, run(c.ops, c.bytes-1), refusal.BudgetExceeded)
			if c.ops > 1 {
				wantProblem(t, run(c.ops-1, c.bytes), refusal.BudgetExceeded)
			}
		})
	}
}

// No recover helps against a used-up budget, and what the handler does then has no effect.
func TestBudgetIsSticky(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"swallows panics": func(w http.ResponseWriter, r *http.Request) {
			for {
				func() {
					defer func() { _ = recover() }()
					tandem.StateOf(r.Context()).Get([]byte("k"))
				}()
			}
		},
		"works in defer": func(w http.ResponseWriter, r *http.Request) {
			st := tandem.StateOf(r.Context())
			defer func() {
				_ = recover()
				defer st.Set([]byte("k"), nil)
				w.WriteHeader(200)
			}()
			for {
				st.Get([]byte("k"))
			}
		},
		"scans for ever": func(w http.ResponseWriter, r *http.Request) {
			for {
				for range tandem.StateOf(r.Context()).Scan(nil, nil) {
				}
			}
		},
		"writes for ever": func(w http.ResponseWriter, r *http.Request) {
			for i := 0; ; i++ {
				tandem.StateOf(r.Context()).Set(fmt.Append(nil, i), nil)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := state.NewOverlay(memory{"a/x": "1"})
			r := runner(h, Options{Limits: Limits{Operations: 1000}})
			wantProblem(t, run1(t, r, o, step("POST", "/", "")), refusal.BudgetExceeded)
			if len(o.Changes()) != 0 {
				t.Error("writes were kept")
			}
		})
	}
}

// Keys have 1 to 1,024 bytes, values at most 1 MiB; the framework's prefix does not count.
func TestKeyAndValueLimits(t *testing.T) {
	key, value := bytes.Repeat([]byte("k"), tandem.MaxKey), make([]byte, tandem.MaxValue)
	for name, c := range map[string]struct {
		do func(tandem.State)
		ok bool
	}{
		"longest key, largest value": {func(st tandem.State) { st.Set(key, value); st.Get(key); st.Delete(key) }, true},
		"set empty key":              {func(st tandem.State) { st.Set(nil, nil) }, false},
		"get empty key":              {func(st tandem.State) { st.Get(nil) }, false},
		"delete empty key":           {func(st tandem.State) { st.Delete([]byte{}) }, false},
		"key too long":               {func(st tandem.State) { st.Get(append(key, 'x')) }, false},
		"value too large":            {func(st tandem.State) { st.Set(key, append(value, 'x')) }, false},
		"scan bound too long": {func(st tandem.State) {
			for range st.Scan(nil, append(key, 'x')) {
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := runner(func(w http.ResponseWriter, r *http.Request) { c.do(tandem.StateOf(r.Context())) }, Options{})
			res := run1(t, r, state.NewOverlay(memory{}), step("POST", "/", ""))
			if c.ok && !res.Recorded {
				t.Fatal(res.Cause)
			}
			if !c.ok {
				wantProblem(t, res, refusal.BudgetExceeded)
			}
		})
	}
}

// DESIGN: a read of committed state cannot write.
func TestWriteInRead(t *testing.T) {
	for name, do := range map[string]func(tandem.State){
		"set":    func(st tandem.State) { st.Set([]byte("k"), nil) },
		"delete": func(st tandem.State) { st.Delete([]byte("k")) },
	} {
		r := runner(func(w http.ResponseWriter, r *http.Request) { do(tandem.StateOf(r.Context())) }, Options{})
		res, err := r.Read(t.Context(), memory{}, step("GET", "/", ""))
		if err != nil {
			t.Fatal(name, err)
		}
		wantProblem(t, res, refusal.WriteInRead)
	}
}

// broken fails as a disk does.
type broken struct{ how func() error }

func (b broken) Get([]byte) ([]byte, bool, error) { return nil, false, b.how() }

func (b broken) Scan(start, end []byte) iter.Seq2[state.Entry, error] {
	return func(yield func(state.Entry, error) bool) { yield(state.Entry{}, b.how()) }
}

// An error of the node's own state is no answer: Run returns it, and the handler never sees a made-up value.
func TestStateError(t *testing.T) {
	disk := errors.New("disk")
	for how, fail := range map[string]func() error{
		"error": func() error { return disk },
		"panic": func() error { panic(disk) },
	} {
		for name, read := range map[string]func(tandem.State){
			"get": func(st tandem.State) { st.Get([]byte("k")) },
			"scan": func(st tandem.State) {
				for range st.Scan(nil, nil) {
				}
			},
		} {
			t.Run(how+" in "+name, func(t *testing.T) {
				r := runner(func(w http.ResponseWriter, r *http.Request) {
					defer func() { _ = recover() }()
					read(tandem.StateOf(r.Context()))
					t.Error("the handler went on")
				}, Options{})
				o := state.NewOverlay(broken{how: fail})
				_, err := r.Run(t.Context(), o, step("POST", "/", ""))
				var se *StateError
				if !errors.As(err, &se) || how == "error" && !errors.Is(err, disk) {
					t.Fatalf("Run gives %v, want a StateError", err)
				}
				if _, refused := refusal.As(err); refused {
					t.Fatal("a StateError passes for a refusal")
				}
			})
		}
	}
}

// STYLE 8: the handlers that must not be used, and what names them.
func TestCompareNamesWhatDiffers(t *testing.T) {
	count := 0
	for name, c := range map[string]struct {
		h     http.HandlerFunc
		field string
	}{
		"same":     {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, tandem.NewID(r.Context(), "X-")) }, ""},
		"clock":    {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, time.Now().UnixNano()) }, "body"},
		"random":   {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, rand.Uint64()) }, "body"},
		"location": {func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Location", fmt.Sprint(rand.Uint64())) }, "header Location"},
		"map order": {func(w http.ResponseWriter, r *http.Request) {
			m := map[int]bool{}
			for i := range 1000 {
				m[i] = true
			}
			for i := range m {
				fmt.Fprint(w, i, " ")
			}
		}, "body"},
		"global": {func(w http.ResponseWriter, r *http.Request) { count++; w.WriteHeader(200 + count%2) }, "status"},
		"header sometimes": {func(w http.ResponseWriter, r *http.Request) {
			if count++; count%2 == 0 {
				w.Header().Set("Etag", "1")
			}
		}, "header Etag"},
	} {
		t.Run(name, func(t *testing.T) {
			r := runner(c.h, Options{})
			a := run1(t, r, state.NewOverlay(memory{}), step("GET", "/", ""))
			b := run1(t, r, state.NewOverlay(memory{}), step("GET", "/", ""))
			if field, same := Compare(a.Response, b); field != c.field || same != (c.field == "") {
				t.Errorf("Compare gives %q, %t; want %q", field, same, c.field)
			}
		})
	}
}

// Compare says "same" exactly if the responses are equal, whichever way around.
func TestCompareAgreesWithEquality(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) wire.Response {
			r := wire.Response{Status: rapid.IntRange(200, 201).Draw(t, label+" status")}
			for _, name := range []string{"Allow", "Etag", "Link"} {
				if v := rapid.IntRange(0, 2).Draw(t, label+name); v > 0 {
					r.Headers = append(r.Headers, wire.Header{Name: name, Value: fmt.Sprint(v)})
				}
			}
			r.Body[0] = rapid.Byte().Draw(t, label+" body") % 2
			return r
		}
		a, b := draw("a"), draw("b")
		field, same := Compare(a, Result{Response: b})
		back, _ := Compare(b, Result{Response: a})
		if same != cmp.Equal(a, b) || field != back || same != (field == "") {
			t.Fatalf("Compare(%v, %v) = %q, %t; the other way %q", a, b, field, same, back)
		}
	})
}

// Equal steps on equal states give equal results and equal writes (promise 7), for handlers that do anything allowed.
func TestRunIsAFunction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := memory{}
		for i := range rapid.IntRange(0, 20).Draw(t, "entries") {
			base[fmt.Sprintf("a/%02d", i)] = rapid.StringN(0, 9, 9).Draw(t, "value")
		}
		program := rapid.SliceOfN(rapid.IntRange(0, 1<<12), 0, 40).Draw(t, "program")
		r := runner(func(w http.ResponseWriter, r *http.Request) { interpret(w, r, program) },
			Options{Limits: Limits{Operations: 60, Bytes: 400, Response: 300}})
		s := step("POST", "/x?y", "body")
		a, b := state.NewOverlay(base), state.NewOverlay(base)
		first, err1 := r.Run(context.Background(), a, s)
		second, err2 := r.Run(context.Background(), b, s)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if err := first.Response.Check(); err != nil {
			t.Fatalf("not recordable: %v", err)
		}
		if c := first.Cause; c != nil && c.Code == refusal.HandlerPanic && second.Cause != nil {
			second.Cause.Detail = c.Detail // holds the text of the panic, here an address
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Fatalf("results differ:\n%s", diff)
		}
		if diff := cmp.Diff(a.Changes(), b.Changes()); diff != "" {
			t.Fatalf("writes differ:\n%s", diff)
		}
		if diff := cmp.Diff(a.Reads().Keys(), b.Reads().Keys()); diff != "" {
			t.Fatalf("reads differ:\n%s", diff)
		}
		if diff := cmp.Diff(a.Reads().Ranges(), b.Reads().Ranges()); diff != "" {
			t.Fatalf("ranges read differ:\n%s", diff)
		}
		if !first.Recorded && len(a.Changes()) > 0 {
			t.Fatal("a step that is not recorded left writes")
		}
	})
}

// interpret does what the numbers say.
func interpret(w http.ResponseWriter, r *http.Request, program []int) {
	st := tandem.StateOf(r.Context())
	for _, op := range program {
		key := fmt.Appendf(nil, "%02d", op>>4%24)
		switch op % 16 {
		case 0, 1, 2:
			v, ok := st.Get(key)
			fmt.Fprintf(w, "%s %t ", v, ok)
		case 3, 4, 5:
			st.Set(key, fmt.Append(nil, op))
		case 6, 7:
			st.Delete(key)
		case 8, 9:
			for k, v := range st.Scan(key, nil) {
				fmt.Fprintf(w, "%s=%s ", k, v)
				st.Set(append(k, '!'), v)
				if op&1 == 0 {
					break
				}
			}
		case 10:
			w.Header().Set("Etag", string(key))
		case 11:
			fmt.Fprint(w, tandem.NewID(r.Context(), ""))
		case 12:
			w.Header().Add("Link", string(key))
		case 13:
			w.WriteHeader(200 + op>>4)
		case 14:
			if op>>4%8 == 0 {
				panic(fmt.Sprintf("%p", &op))
			}
		case 15:
			if op>>4%8 == 0 {
				return
			}
		}
	}
}

func TestRunnerWithOtherLimits(t *testing.T) {
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		tandem.StateOf(r.Context()).Get([]byte("k"))
		tandem.StateOf(r.Context()).Get([]byte("k"))
	}, Options{})
	tight := r.With(Limits{Operations: 1})
	if tight.Limits().Bytes != DefaultBytes || tight.Limits().Operations != 1 || r.Limits().Operations != DefaultOperations {
		t.Errorf("limits %+v and %+v", tight.Limits(), r.Limits())
	}
	if tight.Fingerprint() != r.Fingerprint() || r.Fingerprint() == (wire.Digest{}) {
		t.Error("fingerprints")
	}
	wantProblem(t, run1(t, tight, state.NewOverlay(memory{}), step("GET", "/", "")), refusal.BudgetExceeded)
	if res := run1(t, r, state.NewOverlay(memory{}), step("GET", "/", "")); !res.Recorded {
		t.Error(res.Cause)
	}
}
