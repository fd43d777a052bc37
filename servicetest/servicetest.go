// Package servicetest lets the author of a service prove in `go test` that it is deterministic: that each answer and
// each write is a function of the signed request and the state, as every node of a network must find it to be.
//
// A test drives the service as its users would, step by step. Behind each step the handler runs several times, each
// time on a state of its own, through the very code that nodes use: once as it comes; several at once, on a machine
// whose clock stands in the year 2000; several one after the other, more than a year from now. All runs must give the
// same status, headers, body, writes and count of state operations. If they do not, the test fails and says which step
// and which field differ, with both values, and whether they follow the clock.
//
//	func TestParcelWorkflow(t *testing.T) {
//		op := servicetest.New(t, parcels.Service(), servicetest.Options{}).As(tandem.Actor{ID: "OPR-001"})
//		var parcel struct{ ID string }
//		op.Do("POST", "/parcels", nil).Want(201).JSON(&parcel)
//		op.Do("POST", "/parcels/"+parcel.ID+"/send", nil).Want(204)
//		op.Do("POST", "/parcels/"+parcel.ID+"/send", nil).Want(409)
//	}
//
// What it finds: time.Now, random numbers, the order of maps, goroutines and select, addresses in output, package
// variables that one run leaves behind for the next, results kept outside the State, panics, goroutines left running,
// writes in reads, a used-up budget. Under `go test -race` also unguarded package variables, since nodes run many
// sessions at once. What it cannot find is what is the same for all runs in one process: a value drawn when the
// program starts, the environment, the machine.
package servicetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"tandem"
	"tandem/internal/exec"
	"tandem/internal/wire"
)

// Options say how a service is tested. The zero value is good.
type Options struct {
	// Seed is the genesis file's "service" member, for the service's Genesis.
	Seed json.RawMessage
	// Runs is how often each step is run, at least 2. Default 50. Go's maps are lazier than they are said to be: two
	// entries come out in their usual order 7 times of 8, so that 10 runs would miss every fourth such handler and 50
	// miss one of 800.
	Runs int
	// Start is the agreed time of the first step; each later one is a second later. Default 2026-01-05 09:00 UTC.
	Start time.Time
	// Operations and Bytes are a step's budget, as a network's parameters set it. Default as for a network.
	Operations, Bytes uint64
	// Watchdog ends a test whose handler does not end. Default 10 s.
	Watchdog time.Duration
}

// Tester is a service under test, with the state that the steps so far have made. It belongs to the test's goroutine.
type Tester struct {
	tb      testing.TB
	bubble  *testing.T // for runs under another clock; nil if the test is no *testing.T
	worlds  []*world
	now     time.Time
	session wire.SessionID
	next    uint64 // sequence of the next step
	steps   int
	over    bool // a difference was reported: later ones only follow from it
}

// New starts a service on its genesis state. A Seed that Genesis refuses, or a Genesis that does not do the same each
// time, ends the test.
func New(tb testing.TB, svc tandem.Service, o Options) *Tester {
	tb.Helper()
	t, _ := tb.(*testing.T)
	return start(tb, t, svc, o)
}

func start(tb testing.TB, bubble *testing.T, svc tandem.Service, o Options) *Tester {
	tb.Helper()
	if o.Runs == 0 {
		o.Runs = 50
	}
	if o.Start.IsZero() {
		o.Start = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)
	}
	if o.Watchdog == 0 {
		o.Watchdog = 10 * time.Second
	}
	t := &Tester{tb: tb, bubble: bubble, now: o.Start, next: 1, session: wire.SessionID{15: 1}}
	limits := exec.Limits{Operations: o.Operations, Bytes: o.Bytes, Watchdog: o.Watchdog}
	for i := range max(o.Runs, 2) {
		options := exec.Options{Limits: limits}
		if i == 0 {
			options.Logger = slog.New(slog.NewTextHandler(tb.Output(), nil))
		}
		options.Go = func(handler func()) { go handler() } // a new one: it has the labels by which labelled finds what it leaves behind
		t.worlds = append(t.worlds, &world{runner: exec.New(svc, options)})
	}
	t.genesis(svc, o.Seed)
	return t
}

// Open begins a new session: the next step is its first. What was done before stands, as if it had been committed.
func (t *Tester) Open() {
	t.session[14]++
	if t.session[14] == 0 {
		t.session[13]++
	}
	t.next = 1
}

// Advance lets agreed time pass.
func (t *Tester) Advance(d time.Duration) { t.now = t.now.Add(d) }

// As returns a user who signs as the actor.
func (t *Tester) As(a tandem.Actor) *User { return &User{tester: t, actor: a} }

// User takes steps as one actor.
type User struct {
	tester *Tester
	actor  tandem.Actor
}

// Do takes a step. The target is path and query, percent-encoded. The body is nil for none, a string or []byte to be
// sent as it is, or anything else to be sent as JSON; its content type is application/json. Do fails the test if the
// runs differ, or if the framework had to answer in the handler's place (a panic, a used-up budget and the like).
func (u *User) Do(method, target string, body any) *Response {
	u.tester.tb.Helper()
	return u.send(method, target, "application/json", body, false)
}

// DoAs is Do with a body of another content type.
func (u *User) DoAs(method, target, contentType string, body any) *Response {
	u.tester.tb.Helper()
	return u.send(method, target, contentType, body, false)
}

// Read makes a GET of committed state, outside a session, in which a handler must not write.
func (u *User) Read(target string) *Response {
	u.tester.tb.Helper()
	return u.send(http.MethodGet, target, "application/json", nil, true)
}

func (u *User) send(method, target, contentType string, body any, read bool) *Response {
	t := u.tester
	t.tb.Helper()
	raw, err := encode(body)
	path, query, _ := strings.Cut(target, "?")
	if err == nil {
		err = wire.CheckTarget(path, query)
	}
	if err == nil && len(raw) > wire.MaxBody {
		err = fmt.Errorf("a body of %d bytes; a request has at most %d", len(raw), wire.MaxBody)
	}
	if err != nil {
		t.tb.Fatalf("servicetest: %s %s cannot be sent to a node: %v", method, target, err)
	}
	t.steps++
	s := exec.Step{
		Request: &wire.Request{Method: method, Path: path, Query: query, ContentType: contentType, Body: raw},
		Actor:   u.actor, Time: t.now.UnixMilli(),
	}
	if !read {
		s.Session, s.Sequence = t.session, t.next
	}
	res := t.run(s, read)
	t.now = t.now.Add(time.Second)
	if res.Recorded && !read {
		t.next++
	}
	header := make(http.Header)
	for _, h := range res.Response.Headers {
		header[h.Name] = []string{h.Value}
	}
	return &Response{Status: res.Response.Status, Header: header, Body: res.Body, Recorded: res.Recorded && !read,
		tb: t.tb, what: t.title(s)}
}

func encode(body any) ([]byte, error) {
	switch b := body.(type) {
	case nil:
		return nil, nil
	case string:
		return []byte(b), nil
	case []byte:
		return b, nil
	case url.Values:
		return []byte(b.Encode()), nil
	}
	return json.Marshal(body)
}

// Response is the answer to a step.
type Response struct {
	Status int
	// Header holds the headers that are recorded; whatever else the handler set is not part of the answer.
	Header http.Header
	Body   []byte
	// Recorded is true if the step became part of its session: a status below 400.
	Recorded bool

	tb   testing.TB
	what string
}

// Want ends the test if the status is another.
func (r *Response) Want(status int) *Response {
	r.tb.Helper()
	if r.Status != status {
		r.tb.Fatalf("servicetest: %s: status %d, want %d; body: %s", r.what, r.Status, status, r.Body)
	}
	return r
}

// JSON decodes the body into v, and ends the test if it does not fit.
func (r *Response) JSON(v any) *Response {
	r.tb.Helper()
	if err := json.NewDecoder(bytes.NewReader(r.Body)).Decode(v); err != nil {
		r.tb.Fatalf("servicetest: %s: %v; body: %s", r.what, err, r.Body)
	}
	return r
}

func (t *Tester) title(s exec.Step) string {
	target := s.Request.Path
	if s.Request.Query != "" {
		target += "?" + s.Request.Query
	}
	return fmt.Sprintf("step %d, %s %s", t.steps, s.Request.Method, target)
}

// run takes the step in all worlds and reports what is wrong.
func (t *Tester) run(s exec.Step, read bool) exec.Result {
	t.tb.Helper()
	first := t.worlds[0]
	var leaked string
	if leaked = labelled(func() { first.take(s, read) }); first.err != nil {
		t.tb.Fatalf("servicetest: %s: %v", t.title(s), first.err)
	}
	switch {
	case t.over:
		return first.result
	case leaked != "":
		t.over = true
		t.tb.Errorf("servicetest: %s: the handler returned but left a goroutine running; nodes cannot agree on what it does:\n%s",
			t.title(s), leaked)
		return first.result
	case first.result.Cause != nil:
		t.over = true
		t.tb.Errorf("servicetest: %s: the framework answers in the handler's place: %v", t.title(s), first.result.Cause)
		return first.result
	}
	t.others(func(w *world) { w.take(s, read) })
	for _, w := range t.worlds[1:] {
		if d := difference(first, w); d != nil {
			t.over = true
			t.tb.Errorf("servicetest: %s: the service is not deterministic: runs of this step differ in %s.\n"+
				"one run:     %s\nanother run: %s\n%s", t.title(s), d.field, d.a, d.b, t.suspects(d.field))
			break
		}
	}
	return first.result
}

// background is the context of all runs: exec gives handlers one of its own.
var background = context.Background()
