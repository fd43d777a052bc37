package servicetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tandem"
)

// recorder is a testing.TB that keeps what a Tester reports.
type recorder struct {
	testing.TB
	out    bytes.Buffer
	failed bool
	fatal  bool
}

func (r *recorder) Helper()           {}
func (r *recorder) Output() io.Writer { return &r.out }
func (r *recorder) Errorf(format string, args ...any) {
	r.failed = true
	fmt.Fprintf(&r.out, format+"\n", args...)
}
func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	r.fatal = true
	runtime.Goexit()
}

// report runs a script against a service of one handler and returns what the Tester found.
func report(t *testing.T, svc tandem.Service, o Options, script func(*Tester)) *recorder {
	t.Helper()
	rec := &recorder{TB: t}
	done := make(chan struct{})
	go func() { // Fatalf ends it
		defer close(done)
		script(start(rec, t, svc, o))
	}()
	<-done
	return rec
}

func service(h http.HandlerFunc) tandem.Service {
	var reg tandem.Registry
	reg.HandleFunc("/{path...}", h)
	return tandem.Service{Name: "test", Version: "1", Registry: &reg}
}

var operator = tandem.Actor{ID: "OPR-001", Organisation: "ORG", Roles: []string{"operator"}}

func TestFindsNondeterminism(t *testing.T) {
	var count atomic.Int64
	left := make(chan struct{})
	t.Cleanup(func() { close(left) })
	started := time.Now()
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		want string // in the report; empty for a good service
	}{
		"good": {func(w http.ResponseWriter, r *http.Request) {
			ctx := r.Context()
			tandem.StateOf(ctx).Set([]byte(tandem.NewID(ctx, "k")), fmt.Append(nil, tandem.Now(ctx)))
			json.NewEncoder(w).Encode(map[string]any{"b": 1, "a": tandem.SessionOf(ctx), "c": tandem.ActorOf(ctx)})
		}, ""},
		"clock, nanoseconds": {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, time.Now().UnixNano()) }, "differ in body"},
		"clock, years":       {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, time.Now().Year()) }, "It follows the clock"},
		"clock, hours":       {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, time.Now().Hour()) }, "It follows the clock"},
		"uptime": {func(w http.ResponseWriter, r *http.Request) {
			if time.Since(started) > time.Hour {
				w.WriteHeader(http.StatusAccepted)
			}
		}, "differ in status"},
		"random": {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "x", rand.Uint64()) }, "Suspect random numbers"},
		"map order": {func(w http.ResponseWriter, r *http.Request) {
			for k := range map[string]int{"a": 1, "b": 2} {
				fmt.Fprint(w, k)
			}
		}, "differ in body"},
		"select": {func(w http.ResponseWriter, r *http.Request) {
			a, b := make(chan int, 1), make(chan int, 1)
			a <- 1
			b <- 2
			s := ""
			for range 20 {
				select {
				case v := <-a:
					a <- v
					s += "a"
				case v := <-b:
					b <- v
					s += "b"
				}
			}
			w.Header().Set("Etag", s)
		}, "differ in header Etag"},
		"address":          {func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%p", r) }, "differ in body"},
		"package variable": {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, count.Add(1)) }, "package variables"},
		"random write": {func(w http.ResponseWriter, r *http.Request) {
			tandem.StateOf(r.Context()).Set([]byte("k"), fmt.Append(nil, rand.Uint64()))
		}, `differ in the write to key "k"`},
		"random key": {func(w http.ResponseWriter, r *http.Request) {
			tandem.StateOf(r.Context()).Set(fmt.Append(nil, "k", rand.Uint64()), nil)
		}, `(not written)`},
		"cache": {func(w http.ResponseWriter, r *http.Request) {
			if count.Add(1)%2 == 0 {
				tandem.StateOf(r.Context()).Get([]byte("k"))
			}
		}, "outside the State"},
		"panic":      {func(w http.ResponseWriter, r *http.Request) { panic("the reason") }, "panic: the reason"},
		"write-less": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusConflict) }, ""},
		"budget": {func(w http.ResponseWriter, r *http.Request) {
			for {
				tandem.StateOf(r.Context()).Get([]byte("k"))
			}
		}, "budget-exceeded"},
		"state in goroutine": {func(w http.ResponseWriter, r *http.Request) {
			done := make(chan struct{})
			go func() { tandem.StateOf(r.Context()).Get([]byte("k")); close(done) }()
			<-done
		}, "handler-goroutine"},
		"goroutine left": {func(w http.ResponseWriter, r *http.Request) {
			go func() { <-left }()
		}, "left a goroutine running"},
	} {
		t.Run(name, func(t *testing.T) {
			rec := report(t, service(c.h), Options{Operations: 1000, Runs: 200}, func(t *Tester) { t.As(operator).Do("POST", "/x", "body") })
			if rec.failed != (c.want != "") || !strings.Contains(rec.out.String(), c.want) {
				t.Errorf("reported:\n%s\nwant something with %q", &rec.out, c.want)
			}
			if c.want != "" && !strings.Contains(rec.out.String(), "step 1, POST /x") {
				t.Errorf("the report does not name the step:\n%s", &rec.out)
			}
		})
	}
}

// The step that differs is named, not a later one that follows from it.
func TestNamesTheFirstStepThatDiffers(t *testing.T) {
	svc := service(func(w http.ResponseWriter, r *http.Request) {
		st := tandem.StateOf(r.Context())
		switch r.PathValue("path") {
		case "bad":
			st.Set([]byte("k"), fmt.Append(nil, rand.Uint64()))
		case "show":
			v, _ := st.Get([]byte("k"))
			w.Write(v)
		}
	})
	rec := report(t, svc, Options{}, func(t *Tester) {
		u := t.As(operator)
		u.Do("GET", "/good", nil)
		u.Do("POST", "/bad", nil)
		u.Do("GET", "/show", nil)
	})
	if got := rec.out.String(); strings.Count(got, "servicetest:") != 1 || !strings.Contains(got, "step 2, POST /bad") {
		t.Errorf("reported:\n%s", got)
	}
}

// A script goes through sessions as users do: a refused step takes no place, time moves on, a new session begins at 1.
func TestScript(t *testing.T) {
	svc := service(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if r.PathValue("path") == "refuse" {
			w.WriteHeader(http.StatusConflict)
		}
		body, _ := io.ReadAll(r.Body)
		json.NewEncoder(w).Encode([]any{tandem.SessionOf(ctx).Sequence, tandem.SessionOf(ctx).Session, tandem.Now(ctx).Unix(),
			tandem.ActorOf(ctx).ID, r.Header.Get("Content-Type"), string(body), r.URL.RawQuery})
	})
	tester := New(t, svc, Options{Start: time.Unix(100, 0)})
	u := tester.As(operator)
	var first, second string
	check := func(r *Response, want string, session *string) {
		t.Helper()
		var got []any
		r.JSON(&got)
		*session = got[1].(string)
		got[1] = ""
		if s := fmt.Sprint(got); s != want {
			t.Errorf("%s, want %s", s, want)
		}
	}
	check(u.Do("POST", "/a?q", map[string]int{"x": 1}).Want(200), `[1  100 OPR-001 application/json {"x":1} q]`, &first)
	check(u.Do("POST", "/refuse", nil).Want(409), `[2  101 OPR-001 application/json  ]`, &first)
	check(u.DoAs("POST", "/a", "text/plain", []byte("raw")), `[2  102 OPR-001 text/plain raw ]`, &first)
	check(u.Read("/a"), `[0  103 OPR-001 application/json  ]`, &second)
	tester.Open()
	tester.Advance(time.Minute)
	check(u.Do("POST", "/a", "text"), `[1  164 OPR-001 application/json text ]`, &second)
	if first == second || len(first) != 26 {
		t.Errorf("sessions %q and %q", first, second)
	}
	if r := u.Do("GET", "/refuse", nil); r.Recorded {
		t.Error("a 409 is recorded")
	}
}

// A write in a read, a handler that does not end, a request that no node takes, a wrong status, a body that does not fit.
func TestMisuse(t *testing.T) {
	write := service(func(w http.ResponseWriter, r *http.Request) { tandem.StateOf(r.Context()).Set([]byte("k"), nil) })
	for name, c := range map[string]struct {
		do   func(*User)
		want string
	}{
		"write in read": {func(u *User) { u.Read("/x") }, "write-in-read"},
		"bad target":    {func(u *User) { u.Do("GET", "/a/../b", nil) }, "cannot be sent to a node"},
		"large body":    {func(u *User) { u.Do("POST", "/a", make([]byte, 1<<20)) }, "cannot be sent to a node"},
		"no JSON":       {func(u *User) { u.Do("POST", "/a", func() {}) }, "cannot be sent to a node"},
		"status":        {func(u *User) { u.Do("POST", "/a", nil).Want(201) }, "status 200, want 201"},
		"body":          {func(u *User) { u.Do("POST", "/a", nil).JSON(new(int)) }, "EOF"},
	} {
		rec := report(t, write, Options{}, func(t *Tester) { c.do(t.As(operator)) })
		if !rec.failed || !strings.Contains(rec.out.String(), c.want) {
			t.Errorf("%s: reported:\n%s", name, &rec.out)
		}
	}
	wait := service(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	rec := report(t, wait, Options{Watchdog: time.Millisecond}, func(t *Tester) { t.As(operator).Do("POST", "/a", nil) })
	if !rec.fatal || !strings.Contains(rec.out.String(), "step-too-long") {
		t.Errorf("reported:\n%s", &rec.out)
	}
}

func TestGenesis(t *testing.T) {
	show := func(w http.ResponseWriter, r *http.Request) {
		for k, v := range tandem.StateOf(r.Context()).Scan(nil, nil) {
			fmt.Fprintf(w, "%s=%s;", k, v)
		}
	}
	for name, c := range map[string]struct {
		genesis func(tandem.State, json.RawMessage) error
		want    string
	}{
		"good":  {func(st tandem.State, raw json.RawMessage) error { st.Set([]byte("k"), raw); return nil }, ""},
		"error": {func(tandem.State, json.RawMessage) error { return errors.New("the reason") }, "the reason"},
		"panic": {func(tandem.State, json.RawMessage) error { panic("the reason") }, "the reason"},
		"random": {func(st tandem.State, _ json.RawMessage) error {
			st.Set(fmt.Append(nil, rand.Uint64()), nil)
			return nil
		}, "not deterministic"},
		"clock": {func(st tandem.State, _ json.RawMessage) error {
			st.Set([]byte("year"), fmt.Append(nil, time.Now().Year()))
			return nil
		}, `"year" = "\"20`},
	} {
		svc := service(show)
		svc.Genesis = c.genesis
		rec := report(t, svc, Options{Seed: json.RawMessage(`{"a":1}`)}, func(tester *Tester) {
			if got := string(tester.As(operator).Do("GET", "/", nil).Body); got != `k={"a":1};` {
				t.Errorf("%s: state %s", name, got)
			}
		})
		if rec.failed != (c.want != "") || !strings.Contains(rec.out.String(), c.want) {
			t.Errorf("%s: reported:\n%s\nwant %q", name, &rec.out, c.want)
		}
	}
}

// A benchmark or a fuzz target may use a Tester too; only the clock stands where it stands.
func TestWithoutAnotherClock(t *testing.T) {
	rec := &recorder{TB: t}
	svc := service(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, rand.Uint64()) })
	New(rec, svc, Options{Runs: 2}).As(operator).Do("GET", "/", nil)
	if !strings.Contains(rec.out.String(), "not deterministic") {
		t.Errorf("reported:\n%s", &rec.out)
	}
}

// A handler that looks at one part of the clock only is found at every time of day: the three clocks share no part.
func TestLaterSharesNothing(t *testing.T) {
	day := time.Date(2026, 11, 23, 0, 0, 0, 123, time.UTC)
	for s := range 24 * 60 * 60 {
		now := day.Add(time.Duration(s) * time.Second)
		late := later(now)
		h, m, sec := late.Clock()
		nh, nm, ns := now.Clock()
		if h == 0 || m == 0 || sec == 0 || h == nh || m == nm || sec == ns || late.Year() == now.Year() {
			t.Fatalf("at %s the late clock stands at %s", now, late)
		}
	}
}
