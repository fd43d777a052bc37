package httpapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/layer2"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// TestHostileBytes: requests as bytes, since net/http's client would tidy them up. Each gets the right problem document
// and changes nothing.
func TestHostileBytes(t *testing.T) {
	w := newWorld(t)
	id := w.open()
	long := strings.Repeat("a", 9000)
	for _, test := range []struct {
		name, request string
		status        int
		code          string
	}{
		{"encoded slash", "GET /notes/a%2Fb HTTP/1.1\r\n", 400, "bad-target"},
		{"encoded slash, lower case", "GET /notes/a%2fb HTTP/1.1\r\n", 400, "bad-target"},
		{"encoded backslash", "GET /notes/a%5Cb HTTP/1.1\r\n", 400, "bad-target"},
		{"backslash", "GET /notes/a\\b HTTP/1.1\r\n", 400, "bad-target"},
		{"dot segment", "GET /notes/../healthz HTTP/1.1\r\n", 400, "bad-target"},
		{"single dot", "GET /notes/./a HTTP/1.1\r\n", 400, "bad-target"},
		{"encoded dots", "GET /notes/%2E%2E/healthz HTTP/1.1\r\n", 400, "bad-target"},
		{"dots at the end", "GET /notes/.. HTTP/1.1\r\n", 400, "bad-target"},
		{"empty segment", "GET //notes/a HTTP/1.1\r\n", 400, "bad-target"},
		{"empty segment inside", "GET /notes//a HTTP/1.1\r\n", 400, "bad-target"},
		{"needless encoding", "GET /notes/%61 HTTP/1.1\r\n", 400, "bad-target"},
		{"lower-case encoding", "GET /notes/%c3%a9 HTTP/1.1\r\n", 400, "bad-target"},
		{"half an encoding", "GET /notes/%4 HTTP/1.1\r\n", 400, "bad-request"},
		{"encoded NUL", "GET /notes/%00 HTTP/1.1\r\n", 400, "bad-target"},
		{"encoded newline", "GET /notes/a%0D%0Ab HTTP/1.1\r\n", 400, "bad-target"},
		{"bytes above ASCII", "GET /notes/\xc3\xa9 HTTP/1.1\r\n", 400, "bad-target"},
		{"absolute form", "GET http://evil.example/notes/a HTTP/1.1\r\n", 400, "bad-target"},
		{"authority form", "CONNECT evil.example:443 HTTP/1.1\r\n", 400, "bad-target"},
		{"asterisk", "GET * HTTP/1.1\r\n", 400, "bad-target"},
		{"fragment", "GET /notes/a#b HTTP/1.1\r\n", 400, "bad-target"},
		{"bare question mark", "GET /notes/a? HTTP/1.1\r\n", 400, "bad-target"},
		{"target too long", "GET /" + long + " HTTP/1.1\r\n", 400, "bad-target"},
		{"framework path by dots", "GET /x/../tandem/v1/status HTTP/1.1\r\n", 400, "bad-target"},
		{"two Tandem-Session", "GET /any HTTP/1.1\r\nTandem-Session: " + id + "\r\nTandem-Session: " + id + "\r\n", 400, "bad-request"},
		{"two in other case", "GET /any HTTP/1.1\r\ntandem-session: " + id + "\r\nTANDEM-SESSION: x\r\n", 400, "bad-request"},
		{"two Signature", "GET /any HTTP/1.1\r\nSignature: a\r\nSignature: b\r\n", 400, "bad-request"},
		{"two Signature-Input", "GET /any HTTP/1.1\r\nSignature-Input: a\r\nSignature-Input: b\r\n", 400, "bad-request"},
		{"two Content-Digest", "GET /any HTTP/1.1\r\nContent-Digest: a\r\nContent-Digest: a\r\n", 400, "bad-request"},
		{"two Content-Type", "GET /any HTTP/1.1\r\nContent-Type: a/b\r\nContent-Type: a/b\r\n", 400, "bad-request"},
		{"unknown Tandem header", "GET /any HTTP/1.1\r\nTandem-Sesion: " + id + "\r\n", 400, "bad-request"},
		{"two Hosts", "GET /any HTTP/1.1\r\nHost: a\r\n", 400, "bad-request"},
		{"length and chunks", "PUT /notes/a HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", 411, "length-required"},
		{"chunks", "PUT /notes/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", 411, "length-required"},
		{"chunks with trailer", "PUT /notes/a HTTP/1.1\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n", 411, "length-required"},
		{"odd transfer encoding", "PUT /notes/a HTTP/1.1\r\nTransfer-Encoding: gzip\r\n", 411, "length-required"},
		{"two transfer encodings", "PUT /notes/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 411, "length-required"},
		{"two lengths", "PUT /notes/a HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n", 400, "bad-request"},
		{"negative length", "PUT /notes/a HTTP/1.1\r\nContent-Length: -5\r\n", 400, "bad-request"},
		{"huge length", "PUT /notes/a HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n", 400, "bad-request"},
		{"body over the limit", fmt.Sprintf("PUT /notes/a HTTP/1.1\r\nContent-Length: %d\r\n", 100*wire.MaxBody), 413, "body-too-large"},
		{"body over the limit, announced", fmt.Sprintf("PUT /notes/a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n", wire.MaxBody+1), 413, "body-too-large"},
		{"body cut off", "PUT /notes/a HTTP/1.1\r\nContent-Length: 500\r\n\r\nabc", 400, "bad-request"},
		{"upgrade", "GET /any HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", 400, "bad-request"},
		{"h2c upgrade", "GET /any HTTP/1.1\r\nConnection: keep-alive, upgrade\r\n", 400, "bad-request"},
		{"packed body", "PUT /notes/a HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n", 415, "unsupported-media-type"},
		{"unknown expectation", "PUT /notes/a HTTP/1.1\r\nExpect: teapot\r\nContent-Length: 2\r\n", 400, "bad-request"},
		{"headers too large", "GET /any HTTP/1.1\r\nX-Long: " + strings.Repeat("x", 40<<10) + "\r\n", 431, "header-too-large"},
		{"not HTTP", "hello\r\n", 400, "bad-request"},
		{"HTTP/3.7", "GET / HTTP/3.7\r\n", 400, "bad-request"},
		{"space in header name", "GET /any HTTP/1.1\r\nContent-Length : 5\r\n", 400, "bad-request"},
		{"line fold", "GET /any HTTP/1.1\r\nX: a\r\n b\r\n", 200, ""},
		{"TRACE", "TRACE /notes/a HTTP/1.1\r\n", 405, "method-not-allowed"},
		{"unknown method", "FROB /notes/a HTTP/1.1\r\n", 405, "method-not-allowed"},
		{"lower-case method", "get /notes/a HTTP/1.1\r\n", 405, "method-not-allowed"},
	} {
		request := test.request
		if test.name != "HTTP/3.7" && !strings.HasPrefix(request, "hello") {
			request = strings.Replace(request, "HTTP/1.1\r\n", "HTTP/1.1\r\nHost: "+w.addr+"\r\n", 1)
		}
		res, text := raw(t, w.addr, request+"\r\n", true)
		if test.code == "" {
			if res.StatusCode != test.status {
				t.Errorf("%s: %d %s", test.name, res.StatusCode, text)
			}
			continue
		}
		problemIs(t, test.name, res.StatusCode, res.Header, text, test.status, test.code)
		if ambiguous := test.code != "method-not-allowed"; ambiguous && !res.Close && res.Header.Get("Connection") != "close" {
			t.Errorf("%s: the connection goes on after a request that can be read in two ways", test.name)
		}
	}
	if s, err := w.engine.Session(t.Context(), mustID(t, id)); err != nil || s.Sequence != 0 {
		t.Errorf("a hostile request became a step: %+v %v", s, err)
	}
}

func mustID(t *testing.T, text string) wire.SessionID {
	t.Helper()
	id, err := wire.ParseSessionID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestNothingBehindARefusedRequest: what follows a chunked request on its connection is not taken for another one.
func TestNothingBehindARefusedRequest(t *testing.T) {
	w := newWorld(t)
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = fmt.Fprintf(c, "PUT /notes/a HTTP/1.1\r\nHost: %s\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+
		"GET /tandem/v1/status HTTP/1.1\r\nHost: %s\r\n\r\n", w.addr, w.addr)
	all, _ := io.ReadAll(c)
	if n := strings.Count(string(all), "HTTP/1.1 "); n != 1 || !strings.Contains(string(all), "411") {
		t.Errorf("%d answers:\n%s", n, all)
	}
	_, text := raw(t, w.addr, "GET /any HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\nGET /tandem/v1/status HTTP/1.1\r\n\r\n", true)
	if strings.Contains(text, "HTTP/1.1") {
		t.Errorf("an HTTP/1.0 connection went on: %s", text)
	}
}

// TestHostileRequests: well-formed requests that the framework refuses, each with its problem, nothing recorded.
func TestHostileRequests(t *testing.T) {
	w := newWorld(t)
	id := w.open()
	unknown := "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	deep := strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100)
	sessions, commit := "/tandem/v1/sessions", "/tandem/v1/sessions/"+id+"/commit"
	for _, test := range []struct {
		name, method, target, body string
		headers                    []string
		status                     int
		code                       string
	}{
		{"malformed JSON", "POST", sessions, `{`, nil, 400, "bad-json"},
		{"JSON twice", "POST", sessions, `{}{}`, nil, 400, "bad-json"},
		{"duplicate key", "POST", sessions, `{"expires_at":1,"expires_at":2}`, nil, 400, "bad-json"},
		{"unknown key", "POST", sessions, `{"expires":1}`, nil, 400, "bad-json"},
		{"key in other case", "POST", sessions, `{"Expires_At":1}`, nil, 400, "bad-json"},
		{"over-deep", "POST", sessions, deep, nil, 400, "bad-json"},
		{"array", "POST", sessions, `[]`, nil, 400, "bad-json"},
		{"null", "POST", sessions, `null`, nil, 400, "bad-json"},
		{"float", "POST", sessions, `{"expires_at":1e3}`, nil, 400, "bad-json"},
		{"not UTF-8", "POST", sessions, "{\"supersedes\":\"\xff\"}", nil, 400, "bad-json"},
		{"oversized JSON", "POST", sessions, `{"supersedes":"` + strings.Repeat("x", wire.MaxBody) + `"}`, nil, 413, "body-too-large"},
		{"commit with a body", "POST", commit, `{"x":1}`, nil, 400, "bad-json"},
		{"unknown route of the framework", "GET", "/tandem/v1/nonsense", "", nil, 404, "not-found"},
		{"the framework's prefix, although the service catches all", "GET", "/tandem", "", nil, 404, "not-found"},
		{"unknown route", "POST", "/nonsense", "", nil, 405, "method-not-allowed"},
		{"wrong method", "DELETE", "/tandem/v1/status", "", nil, 405, "method-not-allowed"},
		{"wrong method of a service route", "DELETE", "/notes/a", "", nil, 405, "method-not-allowed"},
		{"write to health", "POST", "/healthz", "", nil, 405, "method-not-allowed"},
		{"unknown session", "GET", sessions + "/" + unknown, "", nil, 404, "session-not-found"},
		{"no session id", "GET", sessions + "/nonsense", "", nil, 404, "session-not-found"},
		{"commit of an unknown session", "POST", sessions + "/" + unknown + "/commit", "{}", nil, 404, "session-not-found"},
		{"step in an unknown session", "GET", "/any", "", []string{"Tandem-Session", unknown}, 404, "session-not-found"},
		{"step in no session", "GET", "/any", "", []string{"Tandem-Session", "nonsense"}, 404, "session-not-found"},
		{"wrong sequence", "GET", "/any", "", []string{"Tandem-Session", id, "Tandem-Sequence", "9"}, 409, "wrong-sequence"},
		{"sequence zero", "GET", "/any", "", []string{"Tandem-Session", id, "Tandem-Sequence", "0"}, 409, "wrong-sequence"},
		{"sequence that is none", "GET", "/any", "", []string{"Tandem-Session", id, "Tandem-Sequence", "01"}, 400, "bad-request"},
		{"wrong transcript", "GET", "/any", "", []string{"Tandem-Session", id, "Tandem-Transcript", strings.Repeat("0", 64)}, 409, "wrong-transcript"},
		{"another actor", "GET", "/any", "", []string{"Tandem-Session", id, "Tandem-Actor", "alice"}, 403, "forbidden"},
		{"actor that this node does not hold", "POST", sessions, "", []string{"Tandem-Actor", "alice"}, 403, "actor-unknown"},
		{"other session in the header", "POST", commit, "{}", []string{"Tandem-Session", unknown}, 400, "wrong-session"},
		{"open inside a session", "POST", sessions, "{}", []string{"Tandem-Session", id}, 400, "bad-request"},
		{"half a signature", "GET", "/any", "", []string{"Signature", "tandem=:AAAA:"}, 400, "bad-request"},
		{"half a signature in a session", "GET", "/any", "", []string{"Tandem-Session", id, "Signature", "tandem=:AAAA:"}, 401, "signature-malformed"},
		{"block of the future", "GET", "/tandem/v1/blocks/99", "", nil, 404, "block-not-found"},
		{"block zero-padded", "GET", "/tandem/v1/blocks/01", "", nil, 400, "bad-request"},
		{"block of no height", "GET", "/tandem/v1/blocks/x", "", nil, 400, "bad-request"},
		{"block over 64 bits", "GET", "/tandem/v1/blocks/99999999999999999999", "", nil, 400, "bad-request"},
		{"unknown transaction", "GET", "/tandem/v1/transactions/" + strings.Repeat("0", 64), "", nil, 404, "transaction-not-found"},
		{"no transaction hash", "GET", "/tandem/v1/transactions/xyz", "", nil, 400, "bad-request"},
		{"receipt too early", "GET", sessions + "/" + id + "/receipt", "", nil, 404, "not-committed"},
		{"height not reached", "GET", "/any", "", []string{"Tandem-Min-Height", "99"}, 503, "height-not-reached"},
		{"height that is none", "GET", "/any", "", []string{"Tandem-Min-Height", "-1"}, 400, "bad-request"},
		{"cross-site post", "POST", sessions, "{}", []string{"Sec-Fetch-Site", "cross-site"}, 403, "cross-origin"},
		{"other origin", "POST", sessions, "{}", []string{"Origin", "https://evil.example"}, 403, "cross-origin"},
		{"cross-site one-step", "PUT", "/notes/a", "x", []string{"Sec-Fetch-Site", "cross-site"}, 403, "cross-origin"},
		{"cross-site abandon", "DELETE", sessions + "/" + id, "", []string{"Origin", "null"}, 403, "cross-origin"},
	} {
		rep := w.do(test.method, test.target, test.body, test.headers...)
		w.problem(test.name, rep, test.status, test.code)
		if test.code == "method-not-allowed" && rep.header.Get("Allow") == "" {
			t.Errorf("%s: no Allow", test.name)
		}
	}
	if s := w.do("GET", sessions+"/"+id, ""); s.json["status"] != "open" || len(s.json["steps"].([]any)) != 0 {
		t.Errorf("something was recorded: %s", s.text)
	}
}

// TestHostileSignatures: signed requests with one thing wrong.
func TestHostileSignatures(t *testing.T) {
	w := newWorld(t)
	w.problem("unregistered key", w.signer("mallory").sendOpen(), 403, "key-not-registered")
	w.problem("other chain", w.signer("alice", func(b *wire.OpenBody, _ *wire.Request) { b.ChainID = "other" }).sendOpen(), 400, "wrong-chain")
	w.problem("other code", w.signer("alice", func(b *wire.OpenBody, _ *wire.Request) { b.Fingerprint[0] ^= 1 }).sendOpen(), 409, "wrong-fingerprint")
	w.problem("expired", w.signer("alice", func(b *wire.OpenBody, _ *wire.Request) { b.ExpiresAt = 1000 }).sendOpen(), 409, "session-expired")
	w.problem("old signature", w.signer("alice", func(_ *wire.OpenBody, r *wire.Request) { r.Created -= 3600 }).sendOpen(), 401, "stale-signature")
	w.problem("signature of the future", w.signer("alice", func(_ *wire.OpenBody, r *wire.Request) { r.Created += 3600 }).sendOpen(), 401, "stale-signature")

	s := w.signer("alice")
	if rep := s.sendOpen(); rep.status != 201 {
		t.Fatalf("%d %s", rep.status, rep.text)
	}
	s.step("GET", "/any", "")
	step := func(change func(*wire.Request, *httpsig.Place)) *httpsig.Parsed {
		return s.sign(httpsig.TagStep, "PUT", "/notes/a", "{}", change)
	}
	smallOrder := "did:key:z6MkeTG3bFFSLYVU7VqhgZxqr6YzpaGrQtFMh1uvqGy1vDnP" // the key of all zeros
	for _, test := range []struct {
		name   string
		p      *httpsig.Parsed
		change func(*http.Request)
		status int
		code   string
	}{
		{"wrong sequence", step(func(_ *wire.Request, p *httpsig.Place) { p.Sequence = 7 }), nil, 409, "wrong-sequence"},
		{"wrong transcript", step(func(_ *wire.Request, p *httpsig.Place) { p.Transcript[0] ^= 1 }), nil, 409, "wrong-transcript"},
		{"another session", step(func(_ *wire.Request, p *httpsig.Place) { p.Session[0] ^= 1 }), nil, 404, "session-not-found"},
		{"commit's tag on a step", s.sign(httpsig.TagCommit, "PUT", "/notes/a", "{}", nil), nil, 401, "wrong-tag"},
		{"step's tag on a commit", s.sign(httpsig.TagStep, "POST", "/tandem/v1/sessions/"+s.id.String()+"/commit", "{}", nil), nil, 401, "wrong-tag"},
		{"stale", step(func(r *wire.Request, _ *httpsig.Place) { r.Created -= 7200 }), nil, 401, "stale-signature"},
		{"body changed on the way", step(nil), func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("[]")), 2 }, 400, "wrong-digest"},
		{"digest of another body", step(nil), func(r *http.Request) {
			r.Header.Set("Content-Digest", httpsig.ContentDigest(wire.Sum([]byte("x"))))
		}, 400, "wrong-digest"},
		{"target changed on the way", step(nil), func(r *http.Request) { r.URL.Path = "/notes/b" }, 401, "signature-invalid"},
		{"method changed on the way", step(nil), func(r *http.Request) { r.Method = "GET" }, 401, "signature-invalid"},
		{"query added on the way", step(nil), func(r *http.Request) { r.URL.RawQuery = "a=1" }, 401, "signature-invalid"},
		{"content type changed on the way", step(nil), func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 401, "signature-invalid"},
		{"place changed on the way", step(nil), func(r *http.Request) { r.Header.Set("Tandem-Sequence", "3") }, 401, "signature-invalid"},
		{"no digest", step(nil), func(r *http.Request) { r.Header.Del("Content-Digest") }, 401, "signature-malformed"},
		{"two signatures in one", step(nil), func(r *http.Request) {
			r.Header.Set("Signature", r.Header.Get("Signature")+", other=:AAAA:")
		}, 401, "signature-malformed"},
		{"small-order key", step(nil), func(r *http.Request) {
			in := r.Header.Get("Signature-Input")
			at := strings.Index(in, "did:key:")
			r.Header.Set("Signature-Input", in[:at]+smallOrder+in[at+strings.Index(in[at:], `"`):])
		}, 400, "key-weak"},
		{"signed, and for another actor", step(nil), func(r *http.Request) { r.Header.Set("Tandem-Actor", "OPR-001") }, 400, "bad-request"},
		{"unsigned in a signed session", step(nil), func(r *http.Request) {
			for name := range r.Header {
				if strings.HasPrefix(name, "Signature") {
					r.Header.Del(name)
				}
			}
		}, 401, "signature-required"},
		{"signed without a session", step(nil), func(r *http.Request) { r.Header.Del("Tandem-Session") }, 400, "bad-request"},
	} {
		w.problem(test.name, s.http(test.p, test.change), test.status, test.code)
	}
	first := s.sign(httpsig.TagStep, "GET", "/any", "", nil)
	if rep := s.http(first, nil); rep.status != 200 {
		t.Fatal(rep.text)
	}
	w.problem("another request at a taken place", s.http(s.sign(httpsig.TagStep, "GET", "/notes/x", "", nil), nil), 409, "equivocation")
	if rep := s.http(first, nil); rep.status != 200 {
		t.Errorf("a repeated request is no equivocation: %s", rep.text)
	}
}

// TestHandlersThatMisbehave: a panic is the handler's answer, deterministic and not recorded; the node goes on.
func TestHandlersThatMisbehave(t *testing.T) {
	w := newWorld(t)
	id := w.open()
	w.problem("panic in a step", w.do("POST", "/panic", "{}", "Tandem-Session", id), 500, "handler-panic")
	w.problem("panic in a one-step session", w.do("POST", "/panic", "{}"), 500, "handler-panic")
	if rep := w.do("PUT", "/notes/a", "x", "Tandem-Session", id); rep.status != 201 || rep.header.Get("Tandem-Sequence") != "1" {
		t.Errorf("after the panic: %d %s", rep.status, rep.text)
	}
}

// broken is an engine with faults of our own making.
type broken struct {
	Engine
	mu    sync.Mutex // guards err and panic
	err   error
	panic any
	enter chan struct{} // closed when a step has arrived, if not nil
	leave chan struct{} // a step waits for it, if not nil
}

func (b *broken) StepCustody(ctx context.Context, id wire.SessionID, actor, method, path, query, contentType string, body []byte, sequence *uint64) (*layer2.Answer, error) {
	if b.enter != nil {
		close(b.enter)
		<-b.leave
	}
	b.mu.Lock()
	err, p := b.err, b.panic
	b.mu.Unlock()
	if p != nil {
		panic(p)
	}
	return nil, err
}

// fail has the steps from now on panic with p, or end with err.
func (b *broken) fail(p any, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.panic, b.err = p, err
}

// TestFaultsOfOurOwn: a panic or an unexpected error of the node's own code is "internal", in the log, and tells the
// client nothing of the node's insides.
func TestFaultsOfOurOwn(t *testing.T) {
	fault := &broken{}
	w := newWorld(t, func(o *Options) { fault.Engine = o.Engine; o.Engine = fault })
	step := func() reply { return w.do("GET", "/any", "", "Tandem-Session", "aaaaaaaaaaaaaaaaaaaaaaaaaa") }
	fault.fail("secret of the node", nil)
	rep := step()
	w.problem("panic", rep, 500, "internal")
	fault.fail(nil, errors.New("secret of the disk"))
	rep2 := step()
	w.problem("error", rep2, 500, "internal")
	if strings.Contains(rep.text+rep2.text, "secret") {
		t.Error("the client was told what is in the log only")
	}
	if log := w.log.String(); !strings.Contains(log, "secret of the node") || !strings.Contains(log, "secret of the disk") || !strings.Contains(log, "stack") {
		t.Errorf("log: %s", log)
	}
	fault.fail(nil, refusal.New(refusal.ShuttingDown, ""))
	w.problem("shutting down", step(), 503, "shutting-down")
	fault.fail(nil, context.DeadlineExceeded)
	w.problem("deadline", step(), 503, "overloaded")
}

// TestOverload: one request more than there are places is an outage; health and metrics still answer.
func TestOverload(t *testing.T) {
	slow := &broken{enter: make(chan struct{}), leave: make(chan struct{}), err: refusal.New(refusal.SessionBusy, "")}
	w := newWorld(t, func(o *Options) { slow.Engine = o.Engine; o.Engine = slow; o.MaxInFlight = 1 })
	done := make(chan reply)
	go func() { done <- w.do("GET", "/any", "", "Tandem-Session", "aaaaaaaaaaaaaaaaaaaaaaaaaa") }()
	<-slow.enter
	w.problem("no place", w.do("GET", "/any", ""), 503, "overloaded")
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if rep := w.do("GET", path, ""); rep.status != 200 {
			t.Errorf("%s: %d", path, rep.status)
		}
	}
	close(slow.leave)
	w.problem("the one that had the place", <-done, 409, "session-busy")
	if rep := w.do("GET", "/any", ""); rep.status != 200 {
		t.Errorf("the place was not given back: %s", rep.text)
	}
}

// TestConnectionLimit: one connection more than allowed is told so; a closed one makes room.
func TestConnectionLimit(t *testing.T) {
	addr := serve(t, NewServer(http.NotFoundHandler()), 1)
	first, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	answer := func(c net.Conn) *http.Response {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := answer(first); res.StatusCode != 404 { // it is accepted now
		t.Fatal(res.Status)
	}
	second, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	_ = second.SetDeadline(time.Now().Add(10 * time.Second))
	text, _ := io.ReadAll(second)
	if !strings.HasPrefix(string(text), "HTTP/1.1 503 ") || !strings.Contains(string(text), `"code":"overloaded"`) {
		t.Errorf("%s", text)
	}
}

// TestSlowloris: who sends headers slowly loses the connection; who sends the body slowly, too.
func TestSlowloris(t *testing.T) {
	read := make(chan error, 1)
	srv := NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		read <- err
	}))
	if srv.ReadHeaderTimeout <= 0 || srv.ReadTimeout <= 0 || srv.WriteTimeout <= maxWait || srv.IdleTimeout <= 0 || srv.MaxHeaderBytes != 16<<10 || srv.ReadTimeout <= maxWait {
		t.Errorf("limits: %+v", srv)
	}
	srv.ReadHeaderTimeout, srv.ReadTimeout = 50*time.Millisecond, 100*time.Millisecond
	addr := serve(t, srv, 0)
	for _, request := range []string{"GET /any HTTP/1.1\r\nHost: a\r\nX-Slow: ", "GET "} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, request)
		if _, err := io.ReadAll(c); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			t.Errorf("%q: still connected", request)
		}
		_ = c.Close()
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
	if err := <-read; !isTimeout(err) {
		t.Errorf("a body that does not come: %v", err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// TestHandlersBytesAreLeftAlone: the connection replaces what net/http says by itself, and never what a handler says.
func TestHandlersBytesAreLeftAlone(t *testing.T) {
	body := "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
	big := strings.Repeat(body, 2000)
	addr := serve(t, NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(400)
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, body)
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, big)
	})), 0)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(c)
	for range 2 { // the second on a connection that has been idle
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		if err != nil || string(text) != body+big {
			t.Fatalf("%d bytes, %v: not what the handler wrote", len(text), err)
		}
	}
	_, _ = io.WriteString(c, "nonsense\r\n\r\n") // and net/http's own answer after that is ours
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body)
	problemIs(t, "nonsense", res.StatusCode, res.Header, string(text), 400, "bad-request")
}

// TestRebinding: a web page whose name points to 127.0.0.1 cannot use custody; names the operator lists can.
func TestRebinding(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Hosts = []string{"node.example"} })
	for host, code := range map[string]string{
		"evil.example": "cross-origin", "evil.example:80": "cross-origin", "127.0.0.1.evil.example": "cross-origin", "10.0.0.1": "cross-origin",
		"localhost:1": "", "LOCALHOST": "", "127.0.0.1": "", "[::1]:80": "", "node.example:443": "",
	} {
		res, text := raw(t, w.addr, "POST /tandem/v1/sessions HTTP/1.1\r\nHost: "+host+"\r\nContent-Length: 0\r\n\r\n", false)
		if code == "" && res.StatusCode != 201 {
			t.Errorf("%s: %d %s", host, res.StatusCode, text)
		}
		if code != "" {
			problemIs(t, host, res.StatusCode, res.Header, text, 403, code)
		}
	}
}

// TestNoEngine: a node without the Layer 2 role reads and refuses the rest, as an outage.
func TestNoEngine(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Engine = nil })
	for _, r := range []reply{
		w.do("POST", "/tandem/v1/sessions", "{}"), w.do("PUT", "/notes/a", "x"), w.do("GET", "/tandem/v1/sessions/aaaaaaaaaaaaaaaaaaaaaaaaaa", ""),
		w.do("GET", "/any", "", "Tandem-Session", "aaaaaaaaaaaaaaaaaaaaaaaaaa"),
	} {
		w.problem("no engine", r, 503, "no-layer2")
	}
	w.problem("height", w.do("GET", "/any", "", "Tandem-Min-Height", "99"), 503, "height-not-reached")
	if rep := w.do("GET", "/any", "", "Tandem-Min-Height", "1"); rep.status != 200 || rep.text != "caught /any" {
		t.Errorf("%d %s", rep.status, rep.text)
	}
}
