// Package exec runs a service handler on a signed request and a view of the state. It is the only caller of handlers,
// on Layer 2 and on Layer 1, and so the one place that must make a handler's answer a function of what all nodes agree
// on: the signed fields of the request, the actor, the step's place and time, and the state.
//
// A handler sees an *http.Request built from nothing else, a ResponseWriter that records, and a State that counts. All
// it can do wrong has one answer, the same bytes on every node: a panic, too many state operations, a response that is
// too large, use of the state from another goroutine are problem documents with status 500, and a route that does not
// exist is one with 404 or 405. A status of 400 or more, from the handler or from here, drops the step's writes.
//
// Two things are not answers and never become one. A handler that runs longer than Limits.Watchdog is abandoned and Run
// returns the refusal step-too-long: the clock can make a node refuse, never accept. An error from the node's own
// state is a StateError: the node, not the handler, is in doubt.
//
// Each handler runs in a goroutine of its own, for three reasons: runtime.Goexit in a handler must not take the caller
// along, a handler that does not end must not keep the caller, and the same call is how exec itself ends a handler that
// has used up its budget: unlike a panic it cannot be recovered, so even a handler that swallows everything stops at
// its next state operation. What exec cannot stop: a loop without state operations (it is abandoned and goes on using a
// CPU, see Runner.Abandoned), a panic in a goroutine that the handler started, unbounded recursion, os.Exit.
package exec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"tandem"
	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Limits bound one step. The counts are deterministic and must be equal on all nodes; they come from the ledger's
// parameters. A zero field means its default.
type Limits struct {
	// Operations is the number of state operations: one for each Get, Set, Delete and Scan, and one for each entry a
	// Scan yields. Default 100,000.
	Operations uint64
	// Bytes is the sum of the keys and values read and written. Default 32 MiB.
	Bytes uint64
	// Response is the size of a response body in bytes. Default and most: wire.MaxResponse.
	Response int
	// Watchdog is how long a handler may run before the step is refused. 0 means for ever; it has no default because
	// only callers that may refuse (never FinalizeBlock) may look at a clock.
	Watchdog time.Duration
}

// The defaults of Limits.
const (
	DefaultOperations = 100_000
	DefaultBytes      = 32 << 20
)

// Options say how a Runner runs handlers.
type Options struct {
	Limits Limits
	// Framework holds the routes under /tandem/, which run as steps like the service's own but on the framework's
	// state. It may be nil.
	Framework *tandem.Registry
	// Go runs a handler on a goroutine of its own. Default: one that has run a handler before, if there is one.
	Go func(handler func())
	// Logger receives what does not belong into answers, such as the text of a panic. nil discards it.
	Logger *slog.Logger
}

// frameworkPath is where the framework's routes live; the service never sees requests for it.
const frameworkPath = "/tandem/"

// The key prefixes of the two parts of the state.
const (
	frameworkPrefix = "t/"
	servicePrefix   = "a/"
)

// Runner runs the handlers of one service. It is immutable and safe for concurrent use.
type Runner struct {
	service, framework *tandem.Registry
	fingerprint        wire.Digest
	limits             Limits
	logger             *slog.Logger
	abandoned          *atomic.Int64 // shared with the Runners that With made
	start              func(func())  // Options.Go
}

// New returns a runner for the service. Its registry must not change any more.
func New(svc tandem.Service, o Options) *Runner {
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	start := o.Go
	if start == nil {
		start = newCrew().do
	}
	return &Runner{
		service:     svc.Registry,
		framework:   o.Framework,
		fingerprint: wire.Digest(svc.Fingerprint()),
		limits:      o.Limits.withDefaults(),
		logger:      logger,
		abandoned:   new(atomic.Int64),
		start:       start,
	}
}

// With returns a runner for the same service under other limits.
func (r *Runner) With(l Limits) *Runner {
	other := *r
	other.limits = l.withDefaults()
	return &other
}

// Limits returns the limits in force, defaults filled in.
func (r *Runner) Limits() Limits { return r.limits }

func (l Limits) withDefaults() Limits {
	if l.Operations == 0 {
		l.Operations = DefaultOperations
	}
	if l.Bytes == 0 {
		l.Bytes = DefaultBytes
	}
	if l.Response <= 0 || l.Response > wire.MaxResponse {
		l.Response = wire.MaxResponse
	}
	return l
}

// Fingerprint returns the service's fingerprint.
func (r *Runner) Fingerprint() wire.Digest { return r.fingerprint }

// Abandoned returns the number of handlers that a watchdog gave up and that have not ended since. Each may be using a
// CPU; a node where the number stays above zero needs a restart and its service a correction.
func (r *Runner) Abandoned() int64 { return r.abandoned.Load() }

// Lookup reports whether there is a handler for the method and the raw path. If not, allowed are the methods that have
// one, sorted; none for an unknown path.
func (r *Runner) Lookup(method, path string) (allowed []string, ok bool) {
	reg, _ := r.registry(path)
	if _, _, ok := reg.Lookup(method, path); ok {
		return nil, true
	}
	return reg.Allowed(path), false
}

// registry returns the registry that answers for a path, and the prefix of its part of the state.
func (r *Runner) registry(path string) (*tandem.Registry, string) {
	if strings.HasPrefix(path, frameworkPath) {
		return r.framework, frameworkPrefix
	}
	return r.service, servicePrefix
}

// Step is what a handler's answer depends on, beside the state.
type Step struct {
	// Request is signed, or made by custody; exec reads its method, path, query, content type and body.
	Request *wire.Request
	Actor   tandem.Actor
	// Session and Sequence are zero for a read of committed state.
	Session  wire.SessionID
	Sequence uint64
	// Time is the agreed time in milliseconds since 1970.
	Time int64
}

// Result is what a run of a handler gave.
type Result struct {
	// Response is what is recorded and hashed; Body are the bytes behind Response.Body.
	Response wire.Response
	Body     []byte
	// Length is that of the body, for HEAD of the body that was left out; 0 if that is not known.
	Length int
	// Recorded is true for a status below 400: the step becomes part of its session and its writes were kept.
	Recorded bool
	// Cause is set if exec answered in the handler's place with a 500. It is for logs and operators: its detail can hold
	// the text of a panic, which may differ from node to node and is never part of the response.
	Cause *refusal.Refusal
	// Operations and Bytes are what the step used of its limits.
	Operations, Bytes uint64
}

// StateError says that the node's own state could not be read: the node is in doubt, not the step.
type StateError struct{ Err error }

func (e *StateError) Error() string { return "state: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *StateError) Unwrap() error { return e.Err }

// Run runs the step's handler on o. The handler's reads are recorded in o always, its writes are put into o only if
// the result is Recorded. Equal steps on equal states give equal results.
//
// The error is the refusal step-too-long (the watchdog), ctx's cause if it ended first, or a *StateError. After an error
// nothing was written to o, the handler can no longer touch it, and whatever it still answers is dropped. The handler's
// own context never shows how ctx fares as long as its answer counts.
//
// The caller's goroutine must not be locked to its thread.
func (r *Runner) Run(ctx context.Context, o *state.Overlay, s Step) (Result, error) {
	child := o.Child()
	res, err := r.run(ctx, child, s, false)
	switch {
	case err != nil:
	case res.Recorded:
		child.Merge()
	default:
		child.Discard() // but what was read decided the answer
	}
	return res, err
}

// Read runs a handler on committed state, outside any session. A handler that writes fails with a 500. Errors are as
// for Run. base may be shared if it may be read from several goroutines.
func (r *Runner) Read(ctx context.Context, base state.Reader, s Step) (Result, error) {
	return r.run(ctx, state.NewOverlay(base), s, true)
}

// run runs the handler on an overlay of its own.
func (r *Runner) run(ctx context.Context, o *state.Overlay, s Step, readOnly bool) (Result, error) {
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	reg, prefix := r.registry(s.Request.Path)
	h, pattern, ok := reg.Lookup(s.Request.Method, s.Request.Path)
	if !ok {
		return noRoute(reg, s.Request), nil
	}
	rn := &run{
		overlay: o, prefix: prefix, readOnly: readOnly, limits: r.limits,
		head: s.Request.Method == http.MethodHead, header: make(http.Header),
		ended: make(chan struct{}), left: r.abandoned,
	}
	// Not ctx: neither its values nor its end are agreed on. This one ends when the result is known not to count.
	own, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.start(func() { rn.serve(h, request(own, s, rn)) })
	if err := r.wait(ctx, rn); err != nil {
		r.logger.Warn("handler abandoned", "pattern", pattern, "session", s.Session, "sequence", s.Sequence, "error", err)
		return Result{}, err
	}
	if rn.broken != nil {
		return Result{}, &StateError{rn.broken}
	}
	res := rn.result()
	if res.Cause != nil {
		r.logger.Warn("handler failed", "pattern", pattern, "session", s.Session, "sequence", s.Sequence,
			"code", res.Cause.Code, "detail", res.Cause.Detail, "stack", rn.stack)
	}
	return res, nil
}

// wait returns nil once the handler has ended, or the reason why it was abandoned.
func (r *Runner) wait(ctx context.Context, rn *run) error {
	var late <-chan time.Time
	if r.limits.Watchdog > 0 {
		timer := time.NewTimer(r.limits.Watchdog)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-rn.ended:
		return nil
	case <-late:
		if rn.abandon() {
			return refusal.New(refusal.StepTooLong, "the handler ran longer than %v", r.limits.Watchdog)
		}
	case <-ctx.Done():
		if rn.abandon() {
			return context.Cause(ctx)
		}
	}
	<-rn.ended // it had finished already: only its goroutine's last instructions are outstanding
	return nil
}

// noRoute answers for a path or method that has no handler.
func noRoute(reg *tandem.Registry, req *wire.Request) Result {
	allowed := reg.Allowed(req.Path)
	if len(allowed) == 0 {
		return problem(refusal.New(refusal.NotFound, "no handler for this path"), req.Method == http.MethodHead)
	}
	res := problem(refusal.New(refusal.MethodNotAllowed, "this path takes %s", strings.Join(allowed, ", ")),
		req.Method == http.MethodHead)
	res.Response.Headers = append([]wire.Header{{Name: "Allow", Value: strings.Join(allowed, ", ")}},
		res.Response.Headers...)
	return res
}

// problem is a problem document as a result.
func problem(f *refusal.Refusal, head bool) Result {
	status, body := f.Problem()
	length := len(body)
	if head {
		body = nil
	}
	return Result{
		Response: wire.Response{
			Status:  status,
			Headers: []wire.Header{{Name: "Content-Type", Value: refusal.ContentType}},
			Body:    wire.Sum(body),
		},
		Body:   body,
		Length: length,
	}
}

// Compare says whether a replayed result is the recorded response and, if not, names the first field that differs:
// "status", "header Location" or "body".
func Compare(recorded wire.Response, replayed Result) (field string, same bool) {
	got := replayed.Response
	if recorded.Status != got.Status {
		return "status", false
	}
	a, b := recorded.Headers, got.Headers
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Name < b[0].Name:
			return "header " + a[0].Name, false
		case len(a) == 0 || b[0].Name < a[0].Name:
			return "header " + b[0].Name, false
		case a[0].Value != b[0].Value:
			return "header " + a[0].Name, false
		}
		a, b = a[1:], b[1:]
	}
	if recorded.Body != got.Body {
		return "body", false
	}
	return "", true
}

// errPanicInState wraps a panic of the state package, which is no fault of the handler's.
var errPanicInState = errors.New("panic while reading the state")

func panicInState(v any) error { return fmt.Errorf("%w: %v", errPanicInState, v) }

// actor returns a copy that the handler may change without harm.
func actor(a tandem.Actor) tandem.Actor {
	a.Roles = slices.Clone(a.Roles)
	return a
}
