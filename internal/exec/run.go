package exec

import (
	"fmt"
	"iter"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"tandem"
	"tandem/internal/refusal"
	"tandem/internal/state"
)

// phase says who may still use a run.
type phase uint8

const (
	running   phase = iota // the handler
	finished               // the caller: the handler has ended and its result counts
	abandoned              // nobody: the caller went away, the handler ends at its next use
)

// run is one execution of a handler, and the gate between it and everything that outlives it. While it is running, the
// handler's goroutine (and any that it wrongly started) may call in; each call takes mu and looks at the phase, so that
// after abandon, which takes mu too, no call can reach the state any more.
type run struct {
	overlay  *state.Overlay // of this step alone; guarded by mu while the handler runs
	prefix   string         // of the keys that the handler may see
	readOnly bool
	head     bool
	limits   Limits
	ended    chan struct{} // closed when the handler's goroutine is through
	left     *atomic.Int64 // counts the abandoned handlers that go on

	mu      sync.Mutex // guards what follows, and overlay
	phase   phase
	handler uintptr // current() of the handler's goroutine
	failure *refusal.Refusal
	broken  error // of the node's own state
	stack   string
	scans   []*scan // open

	operations, bytes uint64

	header http.Header // the map itself belongs to the handler's goroutine
	status int         // 0 until WriteHeader
	fixed  fixedHeader
	body   []byte
}

// serve runs the handler. It is the body of the handler's goroutine.
func (r *run) serve(h http.Handler, req *http.Request) {
	returned := false
	defer close(r.ended)
	defer func() {
		v := recover()
		var text, stack string
		if v != nil {
			text, stack = fmt.Sprintf("panic: %.1000v", v), string(debug.Stack())
		}
		r.finish(returned, text, stack)
	}()
	r.mu.Lock()
	r.handler = current()
	r.mu.Unlock()
	h.ServeHTTP(writer{r}, req)
	returned = true
}

// finish ends the run, on the handler's goroutine.
func (r *run) finish(returned bool, panicked, stack string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase == abandoned {
		r.left.Add(-1)
		return
	}
	r.phase = finished
	r.closeScans()
	if r.failure == nil && !returned {
		if panicked == "" {
			panicked = "the handler called runtime.Goexit"
		}
		r.failure, r.stack = refusal.New(refusal.HandlerPanic, "%s", panicked), stack
	}
	if r.failure == nil && r.status == 0 {
		r.fixHeader(http.StatusOK)
	}
}

// abandon cuts the handler off for good; false if it has finished.
func (r *run) abandon() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase == finished {
		return false
	}
	r.phase = abandoned
	r.left.Add(1)
	r.closeScans()
	return true
}

// enter begins a call into the run. If it returns true, mu is held and the caller is the handler's goroutine in a run
// that counts. If it returns false, the call must have no effect. If the step has failed, or nobody waits for it any
// more, enter does not return: it ends the handler's goroutine.
func (r *run) enter() bool {
	r.mu.Lock()
	mine := current() == r.handler
	switch {
	case r.phase == finished:
		// The handler has returned; its goroutine's number may belong to another by now.
	case !mine:
		if r.phase == running && r.failure == nil {
			r.failure = refusal.New(refusal.HandlerGoroutine, "the handler used its State or ResponseWriter from another goroutine")
		}
	case r.phase == abandoned || r.failure != nil || r.broken != nil:
		r.mu.Unlock()
		runtime.Goexit()
	default:
		return true
	}
	r.mu.Unlock()
	return false
}

// fail records why the step fails and ends the handler. It does not return. Callers hold mu and unlock it by defer.
func (r *run) fail(f *refusal.Refusal) {
	r.failure = f
	runtime.Goexit()
}

// spend counts operations and bytes against the limits.
func (r *run) spend(operations, bytes int) {
	r.operations += uint64(operations)
	r.bytes += uint64(bytes)
	if r.operations > r.limits.Operations {
		r.fail(refusal.New(refusal.BudgetExceeded, "more than %d state operations", r.limits.Operations))
	}
	if r.bytes > r.limits.Bytes {
		r.fail(refusal.New(refusal.BudgetExceeded, "more than %d bytes read and written", r.limits.Bytes))
	}
}

func (r *run) checkKey(key []byte) {
	if len(key) == 0 || len(key) > tandem.MaxKey {
		r.fail(refusal.New(refusal.BudgetExceeded, "a key of %d bytes; a key has 1 to %d", len(key), tandem.MaxKey))
	}
}

// view is the State that the handler sees.
type view struct{ *run }

// Get implements tandem.State.
func (v view) Get(key []byte) ([]byte, bool) {
	if !v.enter() {
		return nil, false
	}
	defer v.mu.Unlock()
	v.checkKey(key)
	v.spend(1, len(key))
	value, ok := v.read(v.prefix + string(key))
	v.spend(0, len(value))
	return value, ok
}

// read asks the state. What goes wrong there is not for the handler to see: it ends.
func (r *run) read(key string) (value []byte, ok bool) {
	defer r.guard()
	value, ok, err := r.overlay.Get([]byte(key))
	if err != nil {
		r.broken = err
		runtime.Goexit()
	}
	return value, ok
}

// guard turns a panic in the state package into an error of the node's own.
func (r *run) guard() {
	if v := recover(); v != nil {
		r.broken = panicInState(v)
		runtime.Goexit()
	}
}

// Set implements tandem.State.
func (v view) Set(key, value []byte) {
	if !v.enter() {
		return
	}
	defer v.mu.Unlock()
	v.checkWrite(key)
	if len(value) > tandem.MaxValue {
		v.fail(refusal.New(refusal.BudgetExceeded, "a value of %d bytes; a value has at most %d", len(value), tandem.MaxValue))
	}
	v.spend(1, len(key)+len(value))
	v.overlay.Set([]byte(v.prefix+string(key)), value)
}

// Delete implements tandem.State.
func (v view) Delete(key []byte) {
	if !v.enter() {
		return
	}
	defer v.mu.Unlock()
	v.checkWrite(key)
	v.spend(1, len(key))
	v.overlay.Delete([]byte(v.prefix + string(key)))
}

func (v view) checkWrite(key []byte) {
	v.checkKey(key)
	if v.readOnly {
		v.fail(refusal.New(refusal.WriteInRead, "the handler wrote to the state in a read of committed state"))
	}
}

// Scan implements tandem.State.
func (v view) Scan(start, end []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		s := v.openScan(start, end)
		if s == nil {
			return
		}
		defer v.closeScan(s)
		for {
			key, value, ok := v.nextEntry(s)
			if !ok || !yield(key, value) {
				return
			}
		}
	}
}

// scan is a loop over the state that is under way. Its entries are pulled, one by one and under the run's mu, so that
// the handler's loop body runs outside the overlay's code and abandon can close the scan while the body is still busy.
type scan struct {
	next func() (state.Entry, error, bool)
	stop func()
}

func (v view) openScan(start, end []byte) *scan {
	if !v.enter() {
		return nil
	}
	defer v.mu.Unlock()
	if len(start) > tandem.MaxKey || len(end) > tandem.MaxKey {
		v.fail(refusal.New(refusal.BudgetExceeded, "a scan bound of %d bytes; a key has at most %d",
			max(len(start), len(end)), tandem.MaxKey))
	}
	v.spend(1, len(start)+len(end))
	from, to := v.prefix+string(start), v.prefix[:len(v.prefix)-1]+"0" // '0' is the byte after '/'
	if end != nil {
		to = v.prefix + string(end)
	}
	s := new(scan)
	s.next, s.stop = iter.Pull2(v.overlay.Scan([]byte(from), []byte(to)))
	v.scans = append(v.scans, s)
	return s
}

func (v view) nextEntry(s *scan) (key, value []byte, ok bool) {
	if !v.enter() {
		return nil, nil, false
	}
	defer v.mu.Unlock()
	defer v.guard()
	e, err, ok := s.next()
	if err != nil {
		v.broken = err
		runtime.Goexit()
	}
	if !ok {
		return nil, nil, false
	}
	key = e.Key[len(v.prefix):]
	v.spend(1, len(key)+len(e.Value))
	return key, e.Value, true
}

func (v view) closeScan(s *scan) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if i := slices.Index(v.scans, s); i >= 0 {
		v.scans = slices.Delete(v.scans, i, i+1)
		s.stop()
	}
}

// closeScans closes what the handler left open.
func (r *run) closeScans() {
	for _, s := range r.scans {
		s.stop()
	}
	r.scans = nil
}
