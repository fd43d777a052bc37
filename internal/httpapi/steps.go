package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"tandem/internal/exec"
	"tandem/internal/httpsig"
	"tandem/internal/layer2"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// service serves a route that a handler answers: one of the service's, or one of the ledger's own (actors).
func (a *api) service(w http.ResponseWriter, r *http.Request) {
	if err := a.awaitHeight(r); err != nil {
		a.fail(w, r, err)
		return
	}
	ex, _ := w.(*exchange)
	switch {
	case len(r.Header["Tandem-Session"]) > 0:
		ex.class = "step"
		a.step(w, r)
	case len(r.Header["Tandem-Sequence"])+len(r.Header["Tandem-Transcript"]) > 0:
		a.fail(w, r, refusal.New(refusal.BadRequest, "Tandem-Sequence and Tandem-Transcript are a place in a session; they need Tandem-Session"))
	case len(r.Header["Signature"])+len(r.Header["Signature-Input"]) > 0:
		a.fail(w, r, refusal.New(refusal.BadRequest, "a signed request is a step of a session; it needs Tandem-Session").
			With("remedy_path", "/tandem/v1/sessions"))
	case r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions:
		ex.class = "read"
		a.read(w, r)
	default:
		ex.class = "one-step"
		a.oneStep(w, r)
	}
}

// awaitHeight waits for the height in Tandem-Min-Height, if there is one. Errors: height-not-reached, bad-request.
func (a *api) awaitHeight(r *http.Request) error {
	text := r.Header.Get("Tandem-Min-Height")
	if text == "" {
		return nil
	}
	height, err := decimal("Tandem-Min-Height", text)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), a.o.HeightWait)
	defer cancel()
	if a.o.Engine != nil {
		err = a.o.Engine.WaitHeight(ctx, height)
	} else {
		err = a.o.Ledger.WaitHeight(ctx, height)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return refusal.New(refusal.HeightNotReached, "height %d was not reached in %v", height, a.o.HeightWait).With("height", height)
	}
	return err
}

// step runs a request inside a session.
func (a *api) step(w http.ResponseWriter, r *http.Request) {
	p, body, ctx, done, err := a.admitted(w, r, httpsig.TagStep)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	defer done()
	start := a.o.Clock()
	var answer *layer2.Answer
	if p != nil {
		answer, err = a.o.Engine.Step(ctx, p)
	} else {
		answer, err = a.custodyStep(ctx, r, body)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.metrics.stepped(a.o.Clock().Sub(start))
	a.writeAnswer(w, r, answer)
}

// custodyStep runs a step that this node signs. Neither sequence nor transcript is needed; if they are there they must
// be right.
func (a *api) custodyStep(ctx context.Context, r *http.Request, body []byte) (*layer2.Answer, error) {
	id, err := sessionID(r.Header.Get("Tandem-Session"))
	if err != nil {
		return nil, err
	}
	var sequence *uint64
	if text := r.Header.Get("Tandem-Sequence"); text != "" {
		n, err := decimal("Tandem-Sequence", text)
		if err != nil {
			return nil, err
		}
		s := uint64(n)
		sequence = &s
	}
	if head := r.Header.Get("Tandem-Transcript"); head != "" {
		s, err := a.o.Engine.Session(ctx, id)
		if err != nil {
			return nil, err
		}
		if s.Transcript != head && (sequence == nil || *sequence > s.Sequence) { // a repeated step has an older head
			return nil, refusal.New(refusal.WrongTranscript, "Tandem-Transcript is not the session's head").
				With("session", id).With("expected", s.Transcript)
		}
	}
	t := targetOf(r)
	return a.o.Engine.StepCustody(ctx, id, r.Header.Get("Tandem-Actor"), r.Method, t.path, t.query, contentType(r, body), body, sequence)
}

// oneStep runs a request as a session of its own and answers when Layer 1 has committed it.
func (a *api) oneStep(w http.ResponseWriter, r *http.Request) {
	_, body, err := a.signed(w, r, httpsig.TagStep)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	ctx, cancel := a.patience(w, r)
	defer cancel()
	t := targetOf(r)
	answer, o, err := a.o.Engine.OneStep(ctx, r.Header.Get("Tandem-Actor"), r.Method, t.path, t.query, contentType(r, body), body)
	if err == nil && answer != nil && !answer.Recorded {
		a.writeAnswer(w, r, answer) // the handler said no: nothing to commit
		return
	}
	a.metrics.committed(o, err)
	switch {
	case err != nil:
		a.fail(w, r, err)
	case o.Status != session.Committed:
		a.writeOutcome(w, r, o) // 202: the handler's answer is not given away before Layer 1 has it
	default:
		w.Header().Set("Tandem-Transaction", o.TransactionHash.String())
		w.Header().Set("Tandem-Committed-Height", strconv.FormatInt(o.Height, 10))
		a.writeAnswer(w, r, answer)
	}
}

// read runs a handler on the newest committed state.
func (a *api) read(w http.ResponseWriter, r *http.Request) {
	body, err := a.body(w, r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	view, err := a.o.Ledger.View()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	now := a.o.Ledger.Time()
	t := targetOf(r)
	// A client that has closed its side after the request still waits for the answer, but net/http takes it for gone.
	result, err := a.o.Runner.Read(context.WithoutCancel(r.Context()), view, exec.Step{
		Request: &wire.Request{Method: r.Method, Path: t.path, Query: t.query, ContentType: contentType(r, body), Body: body},
		Time:    now,
	})
	if err != nil {
		a.fail(w, r, err)
		return
	}
	h := w.Header()
	setRecorded(h, result.Response.Headers)
	if len(h["Cache-Control"]) == 0 {
		h.Set("Cache-Control", "no-cache")
	}
	h.Set("Vary", "Tandem-Session, Tandem-Min-Height")
	h.Set("Tandem-Height", strconv.FormatInt(view.Height(), 10))
	h.Set("Tandem-Time", strconv.FormatInt(now, 10))
	h.Set("Tandem-Fingerprint", a.o.Fingerprint.String())
	if r.Method == http.MethodHead && result.Length > 0 {
		h.Set("Content-Length", strconv.Itoa(result.Length))
	}
	send(w, r, result.Response.Status, result.Body)
}

// writeAnswer sends an endorsed answer as the engine signed it.
func (a *api) writeAnswer(w http.ResponseWriter, r *http.Request, answer *layer2.Answer) {
	h := w.Header()
	setRecorded(h, nil)
	h.Set("Expires", "0") // for caches; Cache-Control is a recorded header, so it is the handler's alone
	h.Set("Vary", "Tandem-Session, Signature")
	for name, values := range answer.Signed {
		h[name] = values
	}
	send(w, r, answer.Status, answer.Body)
}

// setRecorded sets a handler's recorded headers. Those it did not set stay away: net/http would guess a Content-Type,
// and a client that recomputes the transcript could not tell it from a recorded one.
func setRecorded(h http.Header, headers []wire.Header) {
	h["Content-Type"] = nil
	for _, f := range headers {
		h[f.Name] = append(h[f.Name], f.Value)
	}
}

// send writes a handler's status and body. An answer to HEAD says nothing of a length unless the caller has set it: 0
// would be a lie about what GET answers (RFC 9110 section 8.6).
func send(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	w.Header().Set("Content-Security-Policy", "object-src 'none'; base-uri 'none'; frame-ancestors 'none'")
	if r.Method != http.MethodHead && bodyAllowed(status) {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead && bodyAllowed(status) {
		_, _ = w.Write(body) // the client may have gone; the step is recorded all the same, and a retry gets this answer
	}
}

// bodyAllowed reports whether an answer with this status has a body (RFC 9110 section 6.4.1).
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// contentType is the content type of an unsigned request as its handler sees it; none is application/json. curl -d
// calls everything a form; a JSON value is none, so it is called what it is.
func contentType(r *http.Request, body []byte) string {
	t := r.Header.Get("Content-Type")
	if t == "" {
		return "application/json"
	}
	if kind, _, _ := mime.ParseMediaType(t); kind == "application/x-www-form-urlencoded" {
		if start := bytes.TrimLeft(body, " \t\r\n"); len(start) > 0 && (start[0] == '{' || start[0] == '[') && json.Valid(body) {
			return "application/json"
		}
	}
	return t
}

// checkCustody refuses what would let another site's page act through this node's custody by way of a visitor's
// browser. Signed requests need none of it. Error: cross-origin.
func (a *api) checkCustody(r *http.Request) error {
	if err := a.cross.Check(r); err != nil {
		return refusal.New(refusal.CrossOrigin, "%v", err)
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return nil
	}
	if at, err := netip.ParseAddrPort(local.String()); err != nil || !at.Addr().Unmap().IsLoopback() {
		return nil
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	ip, err := netip.ParseAddr(host)
	if err == nil && ip.IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost") || slices.Contains(a.o.Hosts, host) {
		return nil
	}
	return refusal.New(refusal.CrossOrigin, "this node listens on a loopback address and does not know itself by the name %q", shorten(host))
}
