package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tandem"
	"tandem/client"
	"tandem/internal/exec"
	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// TestCurlWalk: the README's walk, with nothing but unsigned requests.
func TestCurlWalk(t *testing.T) {
	w := newWorld(t)
	open := w.do("POST", "/tandem/v1/sessions", "")
	id, _ := open.json["session_id"].(string)
	if open.status != 201 || open.header.Get("Location") != "/tandem/v1/sessions/"+id || open.json["chain_id"] != chain ||
		open.json["fingerprint"] != w.print.String() || open.json["transcript"] != open.header.Get("Tandem-Transcript") || open.json["expires_at"] == nil {
		t.Fatalf("%d %s", open.status, open.text)
	}
	put := w.do("PUT", "/notes/a", `{"text":1}`, "Tandem-Session", id, "Content-Type", "application/x-www-form-urlencoded")
	if put.status != 201 || put.json["by"] != "OPR-001" || put.json["type"] != "application/json" || put.header.Get("Location") != "/notes/a" {
		t.Fatalf("%d %s", put.status, put.text)
	}
	for name, want := range map[string]string{
		"Tandem-Session": id, "Tandem-Sequence": "1", "Tandem-Height": "1", "Tandem-Endorsements": "1/1",
		"Tandem-Originator": wire.PublicKeyOf(key("node")).DID(), "Tandem-Fingerprint": w.print.String(), "Content-Type": "application/json",
		"Cache-Control": "", "X-Content-Type-Options": "nosniff",
	} {
		if got := put.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if _, err := httpsig.VerifyAnswer(put.header, put.status, []byte(put.text)); err != nil {
		t.Errorf("the answer's signature: %v", err)
	}
	again := w.do("PUT", "/notes/a", `{"text":1}`, "Tandem-Session", id, "Tandem-Sequence", "1", "Content-Type", "application/json")
	if again.text != put.text || again.header.Get("Tandem-Transcript") != put.header.Get("Tandem-Transcript") {
		t.Errorf("a retry got another answer: %s", again.text)
	}
	if in := w.do("GET", "/notes/a", "", "Tandem-Session", id); in.text != `{"text":1}` || in.header.Get("Tandem-Sequence") != "2" {
		t.Errorf("in the session: %d %s", in.status, in.text)
	}
	if out := w.do("GET", "/notes/a", ""); out.status != 404 || out.text != "no such note" || out.header.Get("Tandem-Height") != "1" || out.header.Get("Tandem-Sequence") != "" {
		t.Errorf("outside of it: %d %s", out.status, out.text)
	}
	if no := w.do("GET", "/notes/b", "", "Tandem-Session", id); no.status != 404 || no.text != "no such note" || no.header.Get("Tandem-Sequence") != "2" {
		t.Errorf("a handler's no is its answer: %d %s", no.status, no.text)
	}
	commit := w.do("POST", "/tandem/v1/sessions/"+id+"/commit", "{}")
	hash, _ := commit.json["transaction_hash"].(string)
	if commit.status != 200 || commit.json["status"] != "committed" || commit.json["height"] != 2.0 || len(hash) != 64 {
		t.Fatalf("%d %s", commit.status, commit.text)
	}
	if twice := w.do("POST", "/tandem/v1/sessions/"+id+"/commit", "{}"); twice.text != commit.text {
		t.Errorf("a second commit: %d %s", twice.status, twice.text)
	}
	w.problem("a step after commit", w.do("GET", "/any", "", "Tandem-Session", id), 409, "session-closed")
	status := w.do("GET", "/tandem/v1/sessions/"+id, "")
	if steps, _ := status.json["steps"].([]any); status.json["status"] != "committed" || len(steps) != 2 {
		t.Errorf("%s", status.text)
	}
	if read := w.do("GET", "/notes/a", "", "Tandem-Min-Height", "2"); read.text != `{"text":1}` || read.header.Get("Tandem-Height") != "2" {
		t.Errorf("read your writes: %d %s", read.status, read.text)
	}
	if tx := w.do("GET", "/tandem/v1/transactions/"+strings.ToUpper(hash), ""); tx.json["session_id"] != id {
		t.Errorf("%s", tx.text)
	}
	receipt := w.do("GET", "/tandem/v1/sessions/"+id+"/receipt", "")
	if receipt.status != 200 || !strings.Contains(receipt.header.Get("Content-Disposition"), "receipt-"+id) {
		t.Errorf("%d %v", receipt.status, receipt.header)
	}
}

// TestOneStep: a write without a session is answered when it is committed, and not before.
func TestOneStep(t *testing.T) {
	w := newWorld(t)
	rep := w.do("PUT", "/notes/a", "hello", "Content-Type", "text/plain")
	if rep.status != 201 || rep.header.Get("Tandem-Sequence") != "1" || len(rep.header.Get("Tandem-Transaction")) != 64 || rep.header.Get("Tandem-Committed-Height") != "2" {
		t.Fatalf("%d %s %v", rep.status, rep.text, rep.header)
	}
	if read := w.do("GET", "/notes/a", ""); read.text != "hello" || read.header.Get("Content-Type") != "text/plain" {
		t.Errorf("%s", read.text)
	}
	before, _, _ := w.ledger.store.Version()
	if rep := w.do("POST", "/empty", ""); rep.status != 204 || rep.text != "" {
		t.Errorf("%d %q", rep.status, rep.text)
	}
	w.problem("nothing to commit after a 500", w.do("POST", "/panic", ""), 500, "handler-panic")
	if after, _, _ := w.ledger.store.Version(); after != before+1 {
		t.Errorf("%d commits, want the one of the 204", after-before)
	}
	w.ledger.mu.Lock()
	w.ledger.hold = true
	w.ledger.mu.Unlock()
	late := w.do("PUT", "/notes/b", "secret answer", "Prefer", "respond-async")
	if late.status != 202 || late.json["status"] != "committing" || strings.Contains(late.text, `"by"`) {
		t.Errorf("the handler's answer was given before the commit: %d %s", late.status, late.text)
	}
	w.ledger.release()
}

// TestCommitWaits: 202 while Layer 1 does not decide, the outcome when it has; both commits of a pair get it.
func TestCommitWaits(t *testing.T) {
	w := newWorld(t)
	id := w.open()
	w.do("PUT", "/notes/a", "x", "Tandem-Session", id)
	w.ledger.mu.Lock()
	w.ledger.hold = true
	w.ledger.mu.Unlock()
	target := "/tandem/v1/sessions/" + id + "/commit"
	for _, prefer := range []string{"respond-async", "respond-async, wait=5", "wait=0"} {
		rep := w.do("POST", target, "{}", "Prefer", prefer)
		if rep.status != 202 || rep.json["status"] != "committing" || rep.header.Get("Retry-After") != "1" || !strings.Contains(rep.text, "waiting for Layer 1") ||
			rep.header.Get("Preference-Applied") == "" || rep.header.Get("Location") != "/tandem/v1/sessions/"+id {
			t.Errorf("Prefer %s: %d %s %v", prefer, rep.status, rep.text, rep.header)
		}
	}
	replies := make(chan reply)
	for range 2 {
		go func() { replies <- w.do("POST", target, "{}") }()
	}
	w.ledger.release()
	a, b := <-replies, <-replies
	if a.status != 200 || a.json["status"] != "committed" || a.text != b.text {
		t.Errorf("%d %s\n%d %s", a.status, a.text, b.status, b.text)
	}
	if n := w.ledger.settledCount(); n != 1 {
		t.Errorf("%d sessions in blocks", n)
	}
}

func (l *layer1) settledCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.settled)
}

// TestConflict: another session came first; the commit says so as a conflict, with step, key and winner.
func TestConflict(t *testing.T) {
	w := newWorld(t)
	first, second := w.open(), w.open()
	for _, id := range []string{first, second} {
		w.do("GET", "/notes/a", "", "Tandem-Session", id)
		if rep := w.do("GET", "/any", "", "Tandem-Session", id); rep.status != 200 {
			t.Fatal(rep.text)
		}
	}
	if rep := w.do("PUT", "/notes/a", "new"); rep.status != 201 {
		t.Fatal(rep.text)
	}
	// What a refused read saw is part of no step; one that was recorded is.
	third := w.open()
	w.do("GET", "/notes/a", "", "Tandem-Session", third)
	if rep := w.do("PUT", "/notes/a", "newer"); rep.status != 201 {
		t.Fatal(rep.text)
	}
	rep := w.do("POST", "/tandem/v1/sessions/"+third+"/commit", "{}")
	w.problem("conflict", rep, 409, "conflict")
	if rep.json["step"] != 1.0 || rep.json["keys"] == nil || rep.header.Get("Retry-After") != "" {
		t.Errorf("%s", rep.text)
	}
	if s := w.do("GET", "/tandem/v1/sessions/"+third, ""); s.json["status"] != "conflicted" || s.json["conflict"] == nil {
		t.Errorf("%s", s.text)
	}
}

// TestAbandon: in custody and signed; twice is no error.
func TestAbandon(t *testing.T) {
	w := newWorld(t)
	id := w.open()
	for range 2 {
		if rep := w.do("DELETE", "/tandem/v1/sessions/"+id, ""); rep.status != 200 || rep.json["status"] != "abandoned" {
			t.Errorf("%d %s", rep.status, rep.text)
		}
	}
	w.problem("a step after it", w.do("GET", "/any", "", "Tandem-Session", id), 409, "session-closed")
	w.problem("a commit after it", w.do("POST", "/tandem/v1/sessions/"+id+"/commit", ""), 409, "session-closed")
}

// TestClient: the public client, which recomputes the transcript from what is sent here, believes all of it.
func TestClient(t *testing.T) {
	w := newWorld(t)
	k, err := client.KeyFromSeed(key("alice").Seed())
	if err != nil {
		t.Fatal(err)
	}
	genesis := fmt.Appendf(nil, `{"chain_id":%q,"app_state":{"tandem":{"layer2":[{"key":%q}]}}}`, chain, wire.PublicKeyOf(key("node")))
	c, err := client.New(client.Config{URLs: []string{w.url}, Key: k, Genesis: genesis})
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		method, target, body string
		status               int
	}{
		{"PUT", "/notes/a", "text", 201}, {"GET", "/notes/a", "", 200}, {"GET", "/notes/none", "", 404}, {"HEAD", "/notes/a", "", 200},
		{"POST", "/empty", "", 204}, {"GET", "/bare", "", 200}, {"POST", "/nowhere", "", 405}, {"POST", "/panic", "", 500},
		{"GET", "/any?x=1&y=%C3%A9", "", 200}, {"GET", "/tandem/v1/actors/alice", "", 200}, {"GET", "/tandem/v1/actors/nobody", "", 404},
		{"OPTIONS", "/notes/a", "", 405},
	} {
		a, err := s.Call(t.Context(), test.method, test.target, "text/plain", []byte(test.body))
		if err != nil || a.Status != test.status || a.Recorded != (test.status < 400) {
			t.Errorf("%s %s: %+v %v", test.method, test.target, a, err)
		}
	}
	o, err := s.Commit(t.Context())
	if err != nil || !o.Committed() {
		t.Fatalf("%+v %v", o, err)
	}
	if a, err := c.Get(t.Context(), "/notes/a"); err != nil || string(a.Body) != "text" || a.Height != o.Height {
		t.Errorf("%+v %v", a, err)
	}
	var p *client.Problem
	if _, err := c.Get(t.Context(), "/tandem/v1/nonsense"); !errors.As(err, &p) || p.Code != "not-found" {
		t.Errorf("a read of no route: %v", err)
	}
	if a, err := c.Get(t.Context(), "/notes/none"); err != nil || a.Status != 404 {
		t.Errorf("a read that the handler answers with 404: %+v %v", a, err)
	}
	gone, err := c.Open(t.Context(), client.Superseding(s.ID()))
	if err == nil {
		err = gone.Abandon(t.Context())
	}
	if err == nil && gone.Status() != "abandoned" {
		t.Error(gone.Status())
	}
	if _, o, _, err := c.Do(t.Context(), "PUT", "/notes/b", "", []byte("{}")); err != nil || !o.Committed() {
		t.Errorf("%+v %v", o, err)
	}
}

// TestPlaceWithoutSession: who names a place in a session means a step, not a commit of its own.
func TestPlaceWithoutSession(t *testing.T) {
	w := newWorld(t)
	w.problem("sequence", w.do("PUT", "/notes/a", "x", "Tandem-Sequence", "2"), 400, "bad-request")
	w.problem("transcript", w.do("GET", "/notes/a", "", "Tandem-Transcript", strings.Repeat("0", 64)), 400, "bad-request")
	if rep := w.do("GET", "/notes/a", ""); rep.status != 404 {
		t.Errorf("something was written: %d %s", rep.status, rep.text)
	}
}

// TestHeadAndOptions: HEAD is GET without the body; OPTIONS names the methods.
func TestHeadAndOptions(t *testing.T) {
	w := newWorld(t)
	w.do("PUT", "/notes/a", "hello")
	for _, path := range []string{"/notes/a", "/notes/none", "/nowhere", "/tandem/v1/status", "/healthz", "/tandem/v1/errors", "/tandem/v1/actors"} {
		get, head := w.do("GET", path, ""), w.do("HEAD", path, "")
		if head.status != get.status || head.text != "" || head.header.Get("Content-Type") != get.header.Get("Content-Type") {
			t.Errorf("HEAD %s: %d %q %v", path, head.status, head.text, head.header)
		}
		if n := head.header.Get("Content-Length"); path != "/healthz" && n != strconv.Itoa(len(get.text)) { // whose text holds the time
			t.Errorf("HEAD %s: Content-Length %q, GET sends %d bytes", path, n, len(get.text))
		}
	}
	id := w.open()
	if rep := w.do("HEAD", "/notes/a", "", "Tandem-Session", id); rep.status != 200 || len(rep.header["Content-Length"]) > 0 {
		t.Errorf("HEAD as a step: %d %v; the length of what GET answers is not known", rep.status, rep.header)
	}
	for path, allow := range map[string]string{
		"/notes/a": "GET, HEAD, OPTIONS, PUT", "/tandem/v1/sessions": "OPTIONS, POST", "/tandem/v1/actors": "GET, HEAD, OPTIONS, POST",
		"/tandem/v1/sessions/x": "DELETE, GET, HEAD, OPTIONS, PUT", "/healthz": "GET, HEAD, OPTIONS",
	} {
		if rep := w.do("OPTIONS", path, ""); rep.status != 204 || rep.header.Get("Allow") != allow || rep.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("OPTIONS %s: %d %v", path, rep.status, rep.header)
		}
	}
	w.problem("OPTIONS of nothing", w.do("OPTIONS", "/tandem/v1/nonsense", ""), 404, "not-found")
	res, _ := raw(t, w.addr, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", false)
	if res.StatusCode != 204 {
		t.Errorf("OPTIONS *: %d", res.StatusCode)
	}
	res, text := raw(t, w.addr, "PUT /notes/c HTTP/1.1\r\nHost: "+w.addr+"\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", false)
	if res.StatusCode != 100 {
		t.Errorf("100-continue: %d %s", res.StatusCode, text)
	}
}

// TestAnswersAreSentAsRecorded: nothing is added to the headers that a client takes for recorded ones, and no body
// where there is none.
func TestAnswersAreSentAsRecorded(t *testing.T) {
	w := newWorld(t)
	id := w.open()
	rep := w.do("GET", "/bare", "", "Tandem-Session", id)
	if rep.text != "<html>HTTP/1.1 400 Bad Request" {
		t.Errorf("%d %s", rep.status, rep.text)
	}
	rep = w.do("POST", "/empty", "{}", "Tandem-Session", id)
	if rep.status != 204 || rep.text != "" {
		t.Errorf("%d %s", rep.status, rep.text)
	}
	for _, name := range exec.RecordedHeaders() {
		if values, ok := rep.header[name]; ok {
			t.Errorf("%s: %q, which nobody recorded", name, values)
		}
	}
}

// TestCatalogue: GET /tandem/v1/errors is the catalogue.
func TestCatalogue(t *testing.T) {
	w := newWorld(t)
	var doc struct {
		Errors []catalogueEntry `json:"errors"`
	}
	if err := json.Unmarshal([]byte(w.do("GET", "/tandem/v1/errors", "").text), &doc); err != nil {
		t.Fatal(err)
	}
	want := refusal.Catalogue()
	if len(doc.Errors) != len(want) {
		t.Fatalf("%d entries, want %d", len(doc.Errors), len(want))
	}
	for i, e := range doc.Errors {
		if e.Code != string(want[i].Code) || e.Status != want[i].Status || e.Remedy != want[i].Remedy {
			t.Errorf("entry %d: %+v", i, e)
		}
	}
}

// TestOperations: health, readiness and metrics say what is so.
func TestOperations(t *testing.T) {
	w := newWorld(t)
	w.health.set(Health{Live: true, Reasons: []string{"the newest block is 31 s old"}, Height: 7, LagMillis: 31000})
	if rep := w.do("GET", "/healthz", ""); rep.status != 200 || rep.json["live"] != true {
		t.Errorf("%d %s", rep.status, rep.text)
	}
	if rep := w.do("GET", "/readyz", ""); rep.status != 503 || rep.header.Get("Retry-After") == "" || !strings.Contains(rep.text, "31 s old") {
		t.Errorf("%d %s", rep.status, rep.text)
	}
	id := w.open()
	w.do("GET", "/any", "", "Tandem-Session", id)
	w.do("GET", "/any", "")
	w.do("GET", "/tandem/v1/nonsense", "")
	w.do("POST", "/tandem/v1/sessions/"+id+"/commit", "")
	text := w.do("GET", "/metrics", "").text
	for _, line := range []string{
		`tandem_http_requests_total{method="GET",route="step",status="200"} 1`,
		`tandem_http_requests_total{method="GET",route="read",status="200"} 1`,
		`tandem_http_requests_total{method="GET",route="refused",status="404"} 1`,
		`tandem_http_requests_total{method="POST",route="POST /tandem/v1/sessions",status="201"} 1`,
		`tandem_refusals_total{code="not-found",kind="answer"} 1`,
		`tandem_commits_total{outcome="committed"} 1`,
		`tandem_step_seconds_count 1`, `tandem_sessions_open 0`, `tandem_height 7`, `tandem_ready 0`, `tandem_block_lag_seconds 31`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	w.health.set(Health{Reasons: []string{"consensus has failed"}})
	if rep := w.do("GET", "/healthz", ""); rep.status != 503 {
		t.Errorf("%d", rep.status)
	}
}

// TestConstruction: what cannot work is refused when the node is put together; two nodes fit one process.
func TestConstruction(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("no error without a ledger")
	}
	w := newWorld(t)
	o := Options{Engine: w.engine, Ledger: w.ledger, Runner: w.ledger.runner, Health: w.health}
	if _, err := New(o); err != nil {
		t.Error(err)
	}
	o.Origins = []string{"not an origin"}
	if _, err := New(o); err == nil {
		t.Error("no error for an origin that is none")
	}
	for _, pattern := range []string{"/tandem/", "GET /tandem/v1/x", "POST /tandem", "/healthz", "GET /metrics", "GET /tandem/{x...}"} {
		var reg tandem.Registry
		reg.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
		o := Options{Ledger: w.ledger, Runner: w.ledger.runner, Health: w.health, Service: tandem.Service{Registry: &reg}}
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), pattern) {
			t.Errorf("pattern %q: %v", pattern, err)
		}
	}
}

// FuzzClassify: whatever the target and headers, the handler answers without a panic; what is refused as ambiguous never
// reaches a handler; every refusal is a problem document; and a target that is served has one spelling.
func FuzzClassify(f *testing.F) {
	for _, seed := range []string{
		"/notes/a", "/notes/a%2Fb", "//x", "/a/../b", "*", "http://x/y", "/tandem/v1/status", "/tandem/v1/sessions/x?y", "/%41", "/a?", "/a#b", "",
		"/tandem/v1/blocks/1", "/tandem/v1/transactions/00", "/healthz", "/tandem", "/notes/%C3%A9?q=%2F", "/a;b", "/a\x00", "/a\x7f",
	} {
		f.Add("GET", seed, "", "")
		f.Add("PUT", seed, "Tandem-Session", "aaaaaaaaaaaaaaaaaaaaaaaaaa")
		f.Add("OPTIONS", seed, "Signature", "x")
	}
	f.Add("POST", "/tandem/v1/sessions", "Prefer", "wait=99, respond-async")
	f.Add("GET", "/any", "Tandem-Min-Height", "18446744073709551616")
	w := newWorld(f)
	h, err := New(Options{Engine: w.engine, Ledger: w.ledger, Runner: watch{w.ledger.runner}, Health: w.health, HeightWait: 1, CommitWait: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, target, name, value string) {
		r := httptest.NewRequest(http.MethodGet, "/", strings.NewReader(""))
		r.Method, r.RequestURI = method, target
		if u, err := url.ParseRequestURI(target); err == nil {
			r.URL = u // as net/http does; what it cannot parse never gets here
		}
		if name != "" {
			r.Header[http.CanonicalHeaderKey(name)] = []string{value}
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		res := rec.Result()
		body, _ := io.ReadAll(res.Body)
		if res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Error("no nosniff")
		}
		if strings.Contains(string(body), "internal") && res.StatusCode == 500 {
			t.Errorf("%s %q %s=%q: %s", method, target, name, value, body)
		}
		if _, _, err := splitTarget(target); err != nil && target != "*" {
			if res.StatusCode != 400 || res.Header.Get("Content-Type") != refusal.ContentType || !bytes.Contains(body, []byte(`"code":"bad-target"`)) {
				t.Errorf("%s %q: %d %s", method, target, res.StatusCode, body)
			}
			return
		}
		if res.StatusCode >= 400 && res.Header.Get("Tandem-Height") == "" && res.Header.Get("Content-Type") != refusal.ContentType && method != "HEAD" &&
			!slices.Contains([]string{"/readyz", "/healthz", "/metrics"}, strings.SplitN(target, "?", 2)[0]) {
			t.Errorf("%s %q: %d without a problem document: %s", method, target, res.StatusCode, body)
		}
	})
}

// watch fails a lookup for a path that is not in its one form.
type watch struct{ *exec.Runner }

func (w watch) Lookup(method, path string) ([]string, bool) {
	if err := wire.CheckTarget(path, ""); err != nil {
		panic("routed before it was checked: " + path)
	}
	return w.Runner.Lookup(method, path)
}

// TestDocumented: docs/http.md names every route, and every request header that is known.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	h, err := New(Options{Engine: w.engine, Ledger: w.ledger, Runner: w.ledger.runner, Health: w.health})
	if err != nil {
		t.Fatal(err)
	}
	names := append(h.(*api).routes.Patterns(), ledger.Routes().Patterns()...)
	for name := range known {
		names = append(names, name)
	}
	names = append(names, exec.RecordedHeaders()...)
	families, err := h.(*api).metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "tandem_") {
			names = append(names, f.GetName())
		}
	}
	for _, name := range names {
		if !bytes.Contains(page, []byte("`"+name)) {
			t.Errorf("docs/http.md does not name %s", name)
		}
	}
	for _, code := range regexp.MustCompile("(?:problem|40[0-9]|41[0-9]|431|500|503) `([a-z0-9-]+)`").FindAllSubmatch(page, -1) {
		if _, ok := refusal.Lookup(refusal.Code(code[1])); !ok {
			t.Errorf("docs/http.md names %s, which is not in the catalogue", code[1])
		}
	}
}

// BenchmarkStep: a custody step over TCP and back, engine included, log in memory.
func BenchmarkStep(b *testing.B) {
	w := newWorld(b)
	c := &http.Client{}
	defer c.CloseIdleConnections()
	id := ""
	for i := 0; b.Loop(); i++ {
		if i%200 == 0 {
			id = w.open()
		}
		r, err := http.NewRequest("GET", w.url+"/any", nil)
		if err != nil {
			b.Fatal(err)
		}
		r.Header.Set("Tandem-Session", id)
		res, err := c.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 {
			b.Fatal(res.Status, err)
		}
		_ = res.Body.Close()
	}
}
