package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// prepare checks the options and fills in what has a default.
func (a *api) prepare() error {
	o := &a.o
	if o.Ledger == nil || o.Runner == nil || o.Health == nil {
		return errors.New("httpapi: Options need Ledger, Runner and Health")
	}
	for _, p := range o.Service.Registry.Patterns() {
		if path := p[strings.Index(p, "/"):]; claimed(path) {
			return fmt.Errorf("httpapi: the service registers %q, but /tandem/, /healthz, /readyz and /metrics belong to the framework", p)
		}
	}
	o.CommitWait = bounded(o.CommitWait, defaultCommitWait)
	o.HeightWait = bounded(o.HeightWait, defaultHeightWait)
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = defaultInFlight
	}
	if o.MaxStreams <= 0 {
		o.MaxStreams = defaultStreams
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = defaultHeartbeat
	}
	if o.StreamStuck <= 0 {
		o.StreamStuck = defaultStuck
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a.log = o.Logger
	a.inFlight = make(chan struct{}, o.MaxInFlight)
	a.cross = http.NewCrossOriginProtection()
	for _, origin := range o.Origins {
		if err := a.cross.AddTrustedOrigin(origin); err != nil {
			return fmt.Errorf("httpapi: trusted origin: %w", err)
		}
	}
	a.metrics = newMetrics(*o)
	a.metrics.gauge("tandem_event_streams", "Open streams of events.", func() float64 { return float64(a.streams.Load()) })
	return nil
}

// bounded is a wait from the options: its default if there is none, never longer than a request may take.
func bounded(wait, otherwise time.Duration) time.Duration {
	if wait <= 0 {
		wait = otherwise
	}
	return min(wait, maxWait)
}

// claimed reports whether a path, or pattern of a path, belongs to the framework whatever a service registers.
func claimed(path string) bool {
	switch path {
	case "/tandem", "/healthz", "/readyz", "/metrics":
		return true
	}
	return strings.HasPrefix(path, "/tandem/")
}

// ServeHTTP serves one request.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ex := &exchange{ResponseWriter: w, class: "refused", start: a.o.Clock()}
	defer func() {
		if v := recover(); v != nil {
			a.panicked(ex, r, v)
		}
		took := a.o.Clock().Sub(ex.start)
		a.metrics.served(ex.class, r.Method, ex.status, took)
		if a.log.Enabled(r.Context(), slog.LevelDebug) { // the arguments cost something in any case
			a.log.Debug("served", "method", r.Method, "target", r.RequestURI, "route", ex.class, "status", ex.status, "took", took)
		}
	}()
	setSafety(w.Header())
	if !r.ProtoAtLeast(1, 1) {
		w.Header().Set("Connection", "close") // HTTP/1.0 hides Transfer-Encoding; nothing may follow on this connection
	}
	if r.RequestURI == "*" && r.Method == http.MethodOptions {
		ex.class = "options"
		w.WriteHeader(http.StatusNoContent)
		return
	}
	path, query, err := checkRequest(r)
	if err != nil {
		w.Header().Set("Connection", "close")
		a.fail(ex, r, err)
		return
	}
	a.route(ex, r, target{path: path, query: query})
}

// target is a request's checked raw target.
type target struct{ path, query string }

// targetKey is the context key of the target.
type targetKey struct{}

// targetOf returns the checked target of a request that is being routed.
func targetOf(r *http.Request) target {
	t, _ := r.Context().Value(targetKey{}).(target)
	return t
}

// route finds who answers. Framework paths win over a service's patterns.
func (a *api) route(w *exchange, r *http.Request, t target) {
	ours := claimed(t.path)
	if ours {
		if h, pattern, ok := a.routes.Lookup(r.Method, t.path); ok {
			w.class = pattern
			if urgent(t.path) {
				h.ServeHTTP(w, r)
			} else {
				a.limited(w, r, t, h)
			}
			return
		}
	}
	runs := !ours || strings.HasPrefix(t.path, "/tandem/") // the ledger's own handlers live there
	if runs && len(r.Header["Signature"]) > 0 && len(r.Header["Tandem-Session"]) > 0 {
		// A signed step goes to the engine even if there is no route: its signer has used up a position, so the answer
		// must be one that the engine signs.
		a.limited(w, r, t, http.HandlerFunc(a.service))
		return
	}
	var allowed []string
	if runs {
		var ok bool
		if allowed, ok = a.o.Runner.Lookup(r.Method, t.path); ok {
			a.limited(w, r, t, http.HandlerFunc(a.service))
			return
		}
	}
	if ours {
		allowed = append(a.routes.Allowed(t.path), allowed...)
	}
	switch {
	case r.Method == http.MethodOptions && len(allowed) > 0:
		w.class = "options"
		w.Header().Set("Allow", allow(allowed))
		w.WriteHeader(http.StatusNoContent)
	case len(allowed) > 0:
		w.Header().Set("Allow", allow(allowed))
		a.fail(w, r, refusal.New(refusal.MethodNotAllowed, "%s is not among the methods of this path", shorten(r.Method)))
	default:
		a.fail(w, r, refusal.New(refusal.NotFound, "there is no route for this path"))
	}
}

// urgent reports whether a path is answered however busy the node is: operators ask it because the node is busy.
func urgent(path string) bool {
	return path == "/healthz" || path == "/readyz" || path == "/metrics"
}

// allow is the value of an Allow header. OPTIONS is answered for every path that exists.
func allow(methods []string) string {
	methods = append(slices.Clone(methods), http.MethodOptions)
	slices.Sort(methods)
	return strings.Join(slices.Compact(methods), ", ")
}

// limited serves a request if there is a place for it.
func (a *api) limited(w *exchange, r *http.Request, t target, h http.Handler) {
	select {
	case a.inFlight <- struct{}{}:
	default:
		a.fail(w, r, refusal.New(refusal.Overloaded, "%d requests are being worked on, this node's limit", cap(a.inFlight)))
		return
	}
	defer func() { <-a.inFlight }()
	h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), targetKey{}, t)))
}

// exchange is one request being answered: it remembers what was sent, for metrics and for a panic that comes too late.
type exchange struct {
	http.ResponseWriter
	class  string // route class for metrics: a pattern of ours, or "step", "read", "one-step", "options", "refused"
	status int    // 0 until the header is written
	start  time.Time
}

// WriteHeader remembers the status.
func (w *exchange) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write remembers that a status of 200 went out unsaid.
func (w *exchange) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController through.
func (w *exchange) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// panicked answers for a panic in the framework's own code. Handlers' panics are exec's business and never get here.
func (a *api) panicked(w *exchange, r *http.Request, v any) {
	if v == http.ErrAbortHandler {
		panic(v)
	}
	a.log.Error("panic while answering", "method", r.Method, "target", r.RequestURI, "panic", v, "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler) // half an answer is out; only cutting the connection tells the client so
	}
	clear(w.Header())
	setSafety(w.Header())
	a.problem(w, r, refusal.New(refusal.Internal, "the node failed on this request; its log says how"))
}

// drained is how large a body that is refused for its size may be, in bytes, and still be read to its end.
const drained = 8 * wire.MaxBody

// smallBody is how large a body may be, in bytes, for which memory is set aside before it has come.
const smallBody = 4 << 10

// tooLarge refuses a body of more than most bytes. One of up to drain bytes is read to its end: a client that is still sending when the
// connection is closed may never see why.
func tooLarge(w http.ResponseWriter, r *http.Request, most, drain int64) error {
	if len(r.Header["Expect"]) > 0 || r.ContentLength > drain {
		w.Header().Set("Connection", "close")
	} else {
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, drain))
	}
	return refusal.New(refusal.BodyTooLarge, "the body has more than %d bytes", most)
}

// body reads the request's body within the limit. Errors: body-too-large; bad-request when it is cut off.
func (a *api) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > wire.MaxBody {
		return nil, tooLarge(w, r, wire.MaxBody, drained)
	}
	var body []byte
	var err error
	if r.ContentLength <= smallBody { // checkFraming has refused what has no length
		body = make([]byte, r.ContentLength)
		_, err = io.ReadFull(r.Body, body)
	} else {
		body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxBody))
	}
	if err != nil {
		w.Header().Set("Connection", "close")
		return nil, refusal.New(refusal.BadRequest, "the body ended before its Content-Length")
	}
	return body, nil
}
