package supplychain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem"
)

// world is the service on a state in memory, as an author tests it: net/http/httptest and nothing of the framework
// beyond the root package.
type world struct {
	t       testing.TB
	service tandem.Service
	state   tandem.State
	session string
	step    uint64
}

// start is the agreed time of the first step; each step is a second later.
var start = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

// fresh is one service and its first state, made once for all tests; services are read only and states are copied.
var fresh = sync.OnceValues(func() (tandem.Service, tandem.State) {
	service, state := Service(), tandem.NewMapState()
	if err := service.Genesis(state, DemoGenesis()); err != nil {
		panic(err)
	}
	return service, state
})

func newWorld(t testing.TB) *world {
	service, state := fresh()
	return &world{t: t, service: service, state: clone(state), session: "session-one"}
}

// answer is a recorded response.
type answer struct {
	t      testing.TB
	what   string
	status int
	header http.Header
	body   []byte
}

// actor returns the demo actor of that id; "" is nobody.
func actor(id string) tandem.Actor {
	for _, a := range DemoActors() {
		if a.ID == id {
			return tandem.Actor{ID: a.ID, Organisation: a.Organisation, Roles: a.Roles}
		}
	}
	return tandem.Actor{ID: id}
}

// as sends a request as an actor. The content type is curl's default unless header says otherwise.
func (w *world) as(who, method, target, body string, header ...string) answer {
	w.t.Helper()
	w.step++
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	r = r.WithContext(tandem.WithStep(r.Context(), &tandem.Step{
		State:    w.state,
		Now:      start.Add(time.Duration(w.step) * time.Second),
		Actor:    actor(who),
		Position: tandem.Position{Session: w.session, Sequence: w.step},
	}))
	rec := httptest.NewRecorder()
	w.service.Registry.ServeHTTP(rec, r)
	return answer{t: w.t, what: method + " " + target, status: rec.Code, header: rec.Header(), body: rec.Body.Bytes()}
}

// do sends a request as OPR-001, who has the roles operator and quality.
func (w *world) do(method, target, body string) answer {
	w.t.Helper()
	return w.as("OPR-001", method, target, body)
}

// want checks the status.
func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: status %d, want %d: %s", a.what, a.status, status, a.body)
	}
	return a
}

// refused checks that the answer is a problem document with this code, and the status the catalogue gives it.
func (a answer) refused(code string) Problem {
	a.t.Helper()
	var p Problem
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		a.t.Fatalf("%s: status %d, not a problem document: %v: %s", a.what, a.status, err, a.body)
	}
	want := problems[code]
	if p.Code != code || a.status != want.status || p.Status != want.status || p.Title != want.title || p.Detail == "" ||
		p.Type != "urn:tandem:supplychain:"+code || a.header.Get("Content-Type") != "application/problem+json" {
		a.t.Fatalf("%s: status %d %s, want refusal %s: %s", a.what, a.status, a.header.Get("Content-Type"), code, a.body)
	}
	return p
}

// into reads the answer's body.
func (a answer) into(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%s: %v: %s", a.what, err, a.body)
	}
}

// text returns one string member of the answer.
func (a answer) text(member string) string {
	a.t.Helper()
	var m map[string]any
	a.into(&m)
	s, ok := m[member].(string)
	if !ok {
		a.t.Fatalf("%s: no text %q in %s", a.what, member, a.body)
	}
	return s
}

// demoPackage is DemoPackage as a string.
func demoPackage(t testing.TB, reference string) string {
	t.Helper()
	b, err := DemoPackage(reference)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// registered registers a new demo package and returns its id and its supplier's signature.
func (w *world) registered(reference string) (id, signature string) {
	w.t.Helper()
	body := demoPackage(w.t, reference)
	var p PackageRequest
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		w.t.Fatal(err)
	}
	return w.do("POST", "/packages", body).want(http.StatusCreated).text("package_id"), p.Signature
}

// at brings a new package to a status.
func (w *world) at(status Status, reference string) (id, signature string) {
	w.t.Helper()
	id, signature = w.registered(reference)
	path := "/packages/" + id
	if status == StatusRegistered {
		return id, signature
	}
	w.do("POST", path+"/scan", "").want(http.StatusOK)
	if status == StatusScanned {
		return id, signature
	}
	w.do("POST", path+"/validate", fmt.Sprintf(`{"signature":%q}`, signature)).want(http.StatusOK)
	if status == StatusValidated {
		return id, signature
	}
	w.do("POST", path+"/quality-check", fmt.Sprintf(`{"passed":%v,"issues":[]}`, status != StatusFailed)).want(http.StatusOK)
	if status == StatusLabelled {
		w.do("POST", path+"/label", goodLabel).want(http.StatusOK)
	}
	return id, signature
}

const goodLabel = `{"destination":"Pier 4, Rotterdam","priority":"express","courier_id":"COU-001"}`

// recorded is a State that remembers which keys were read and written, as an overlay of the framework does.
type recorded struct {
	tandem.State
	reads, writes map[string]bool
}

func record(st tandem.State) *recorded {
	return &recorded{State: st, reads: map[string]bool{}, writes: map[string]bool{}}
}

func (r *recorded) Get(key []byte) ([]byte, bool) {
	r.reads[string(key)] = true
	return r.State.Get(key)
}
func (r *recorded) Set(key, value []byte) { r.writes[string(key)] = true; r.State.Set(key, value) }
func (r *recorded) Delete(key []byte)     { r.writes[string(key)] = true; r.State.Delete(key) }
func (r *recorded) Scan(start, end []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		for k, v := range r.State.Scan(start, end) {
			r.reads[string(k)] = true
			if !yield(k, v) {
				return
			}
		}
	}
}

// meets returns the keys that r read and o wrote, sorted.
func (r *recorded) meets(o *recorded) []string {
	var keys []string
	for k := range r.reads {
		if o.writes[k] {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// clone copies a state.
func clone(st tandem.State) *tandem.MapState {
	c := tandem.NewMapState()
	for k, v := range st.Scan(nil, nil) {
		c.Set(k, v)
	}
	return c
}
