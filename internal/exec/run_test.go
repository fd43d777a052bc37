package exec

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tandem"
	"tandem/internal/refusal"
	"tandem/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// late is a watchdog short enough for a test: every handler here waits for it, none races with it.
const late = time.Millisecond

// ended waits until no abandoned handler is left.
func ended(t *testing.T, r *Runner) {
	t.Helper()
	for r.Abandoned() != 0 {
		if t.Context().Err() != nil {
			t.Fatal("an abandoned handler did not end")
		}
		runtime.Gosched()
	}
}

func wantTooLong(t *testing.T, res Result, err error) {
	t.Helper()
	if !refusal.Has(err, refusal.StepTooLong) {
		t.Fatalf("Run gives %v, want step-too-long", err)
	}
	if res.Response.Status != 0 || res.Recorded {
		t.Fatalf("a refused step has the result %+v", res)
	}
}

// A handler that never ends is refused; its context tells it so.
func TestWatchdogCancelsContext(t *testing.T) {
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		tandem.StateOf(r.Context()).Set([]byte("k"), nil)
		<-r.Context().Done()
	}, Options{Limits: Limits{Watchdog: late}})
	o := state.NewOverlay(memory{})
	res, err := r.Run(t.Context(), o, step("POST", "/", ""))
	wantTooLong(t, res, err)
	if len(o.Changes()) != 0 {
		t.Error("writes were kept")
	}
	ended(t, r)
}

// An abandoned handler that goes on using its state is ended at the next use, whatever it recovers, and cannot touch
// the overlay, which its caller goes on using (the race detector watches).
func TestWatchdogCutsStateOff(t *testing.T) {
	spin := map[string]func(http.ResponseWriter, tandem.State){
		"get":    func(_ http.ResponseWriter, st tandem.State) { st.Get([]byte("k")) },
		"set":    func(_ http.ResponseWriter, st tandem.State) { st.Set([]byte("k"), []byte("v")) },
		"delete": func(_ http.ResponseWriter, st tandem.State) { st.Delete([]byte("k")) },
		"scan": func(_ http.ResponseWriter, st tandem.State) {
			for range st.Scan(nil, nil) {
			}
		},
		"header": func(w http.ResponseWriter, _ tandem.State) { w.Header().Get("X") },
		"write":  func(w http.ResponseWriter, _ tandem.State) { w.Write(nil) },
		"status": func(w http.ResponseWriter, _ tandem.State) { w.WriteHeader(200) },
	}
	for name, once := range spin {
		t.Run(name, func(t *testing.T) {
			r := runner(func(w http.ResponseWriter, r *http.Request) {
				for {
					func() {
						defer func() { _ = recover() }()
						once(w, tandem.StateOf(r.Context()))
					}()
				}
			}, Options{Limits: Limits{Watchdog: late, Operations: 1 << 62, Bytes: 1 << 62}})
			o := state.NewOverlay(memory{"a/k": "1", "a/l": "2"})
			res, err := r.Run(t.Context(), o, step("POST", "/", ""))
			for i := range 1000 {
				o.Set(fmt.Append(nil, i), nil)
				o.Reads().Keys()
			}
			wantTooLong(t, res, err)
			if n := len(o.Changes()); n != 1000 {
				t.Errorf("%d changes, want the caller's 1000", n)
			}
			ended(t, r)
		})
	}
}

// A handler abandoned inside a scan's loop leaves no iterator open: abandon closes it while the body still runs.
func TestWatchdogClosesScans(t *testing.T) {
	base := &counting{memory: memory{"a/1": "", "a/2": "", "a/3": ""}}
	release := make(chan struct{})
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		for range tandem.StateOf(r.Context()).Scan(nil, nil) {
			for range tandem.StateOf(r.Context()).Scan([]byte("2"), nil) {
				<-release
			}
		}
	}, Options{Limits: Limits{Watchdog: late}})
	o := state.NewOverlay(base)
	res, err := r.Run(t.Context(), o, step("POST", "/", ""))
	wantTooLong(t, res, err)
	if base.open != 0 || base.opened != 2 {
		t.Errorf("%d of %d iterators are open when Run returns", base.open, base.opened)
	}
	close(release)
	ended(t, r)
}

// A handler that leaves scans open (iter.Pull without stop) leaves none open after Run.
func TestScansAreClosedAtTheEnd(t *testing.T) {
	base := &counting{memory: memory{"a/1": "", "a/2": ""}}
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		for range tandem.StateOf(r.Context()).Scan(nil, nil) {
			panic("in the loop")
		}
	}, Options{})
	wantProblem(t, run1(t, r, state.NewOverlay(base), step("POST", "/", "")), refusal.HandlerPanic)
	if base.open != 0 || base.opened != 1 {
		t.Errorf("%d of %d iterators are open", base.open, base.opened)
	}
}

// counting counts the scans under way.
type counting struct {
	memory
	open, opened int
}

func (c *counting) Scan(start, end []byte) iter.Seq2[state.Entry, error] {
	return func(yield func(state.Entry, error) bool) {
		c.open++
		c.opened++
		defer func() { c.open-- }()
		c.memory.Scan(start, end)(yield)
	}
}

// A scan reads no further than the handler looks, so that it conflicts with no more.
func TestScanReadsOnlyWhatIsLookedAt(t *testing.T) {
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		n := 0
		for range tandem.StateOf(r.Context()).Scan(nil, nil) {
			if n++; n == 2 {
				break
			}
		}
	}, Options{})
	o := state.NewOverlay(memory{"a/1": "", "a/2": "", "a/3": ""})
	run1(t, r, o, step("GET", "/", ""))
	ranges := o.Reads().Ranges()
	if len(ranges) != 1 || string(ranges[0].Start) != "a/" || string(ranges[0].End) != "a/2\x00" {
		t.Errorf("ranges %q, want a/ to a/2", ranges)
	}
}

// The caller's own end abandons the handler too, with the caller's reason.
func TestCallerGoesAway(t *testing.T) {
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		cancel(gone)
		<-r.Context().Done()
	}, Options{})
	if _, err := r.Run(ctx, state.NewOverlay(memory{}), step("POST", "/", "")); !errors.Is(err, gone) {
		t.Fatalf("Run gives %v, want the caller's reason", err)
	}
	ended(t, r)

	ran := false
	r = runner(func(http.ResponseWriter, *http.Request) { ran = true }, Options{})
	if _, err := r.Run(ctx, state.NewOverlay(memory{}), step("POST", "/", "")); !errors.Is(err, gone) || ran {
		t.Fatalf("Run for a caller that is gone gives %v, ran the handler: %t", err, ran)
	}
}

// A handler that ended in time counts, even if the watchdog fires before its goroutine is through: late means that
// the handler had not returned.
func TestFinishedIsNotAbandoned(t *testing.T) {
	left := new(atomic.Int64)
	rn := &run{ended: make(chan struct{}), left: left}
	rn.serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), new(http.Request))
	if rn.abandon() {
		t.Error("a finished run was abandoned")
	}
	rn = &run{ended: make(chan struct{}), left: left}
	rn.serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if !rn.abandon() {
			t.Error("a running run was not abandoned")
		}
	}), new(http.Request))
	if rn.phase != abandoned || rn.failure != nil || left.Load() != 0 {
		t.Error("an abandoned run was finished late")
	}
}

// State and ResponseWriter belong to the handler's goroutine: another one's use has no effect and fails the step.
func TestOtherGoroutine(t *testing.T) {
	for name, use := range map[string]func(http.ResponseWriter, tandem.State){
		"get": func(_ http.ResponseWriter, st tandem.State) {
			if v, ok := st.Get([]byte("k")); ok || v != nil {
				panic("Get has an effect")
			}
		},
		"set":    func(_ http.ResponseWriter, st tandem.State) { st.Set([]byte("n"), nil) },
		"delete": func(_ http.ResponseWriter, st tandem.State) { st.Delete([]byte("k")) },
		"scan": func(_ http.ResponseWriter, st tandem.State) {
			for range st.Scan(nil, nil) {
				panic("Scan has an effect")
			}
		},
		"header": func(w http.ResponseWriter, _ tandem.State) { w.Header().Set("Etag", "x") },
		"write":  func(w http.ResponseWriter, _ tandem.State) { w.Write([]byte("x")) },
		"status": func(w http.ResponseWriter, _ tandem.State) { w.WriteHeader(99) },
	} {
		t.Run(name, func(t *testing.T) {
			r := runner(func(w http.ResponseWriter, r *http.Request) {
				st := tandem.StateOf(r.Context())
				var wg sync.WaitGroup
				wg.Go(func() { use(w, st) })
				wg.Wait()
			}, Options{})
			o := state.NewOverlay(memory{"a/k": "1"})
			wantProblem(t, run1(t, r, o, step("POST", "/", "")), refusal.HandlerGoroutine)
			if len(o.Changes()) != 0 || len(o.Reads().Keys()) != 0 {
				t.Error("the other goroutine had an effect")
			}
		})
	}
}

// After a violation was noticed the handler ends at its next operation.
func TestOtherGoroutineEndsTheHandler(t *testing.T) {
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		st := tandem.StateOf(r.Context())
		done := make(chan struct{})
		go func() { st.Get([]byte("k")); close(done) }()
		<-done
		st.Get([]byte("k"))
		t.Error("the handler went on")
	}, Options{})
	wantProblem(t, run1(t, r, state.NewOverlay(memory{}), step("POST", "/", "")), refusal.HandlerGoroutine)
}

// A scan driven by iter.Pull runs on a goroutine of its own, and so fails the step on every node alike.
func TestPulledScan(t *testing.T) {
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		next, stop := iter.Pull2(tandem.StateOf(r.Context()).Scan(nil, nil))
		defer stop()
		next()
	}, Options{})
	wantProblem(t, run1(t, r, state.NewOverlay(memory{"a/k": ""}), step("POST", "/", "")), refusal.HandlerGoroutine)
}

// What a goroutine does after the handler has returned has no effect on a result that stands, nor on the overlay.
func TestGoroutineThatOutlivesTheHandler(t *testing.T) {
	release, done := make(chan struct{}), make(chan struct{})
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		st := tandem.StateOf(r.Context())
		fmt.Fprint(w, "answer")
		go func() {
			defer close(done)
			<-release
			for range 1000 {
				st.Set([]byte("late"), nil)
				if _, ok := st.Get([]byte("k")); ok {
					t.Error("Get has an effect")
				}
				for range st.Scan(nil, nil) {
					t.Error("Scan has an effect")
				}
				w.Header().Set("Etag", "late")
				w.Write([]byte("late"))
			}
		}()
	}, Options{})
	o := state.NewOverlay(memory{"a/k": "1"})
	res := run1(t, r, o, step("POST", "/", ""))
	close(release)
	for i := range 1000 {
		o.Set(fmt.Append(nil, i), nil)
	}
	<-done
	if string(res.Body) != "answer" || !res.Recorded || len(o.Changes()) != 1000 {
		t.Errorf("body %q, %d changes", res.Body, len(o.Changes()))
	}
}

// Many goroutines at once, while the handler works and as it returns: no data race, whatever the outcome.
func TestGoroutinesUnderTheRaceDetector(t *testing.T) {
	var left sync.WaitGroup
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		st := tandem.StateOf(r.Context())
		for range 4 {
			left.Go(func() {
				for range 100 {
					st.Set([]byte("k"), []byte("v"))
					for range st.Scan(nil, nil) {
					}
					w.Write([]byte("x"))
					w.Header().Set("Etag", "x")
					tandem.NewID(r.Context(), "")
				}
			})
		}
		for range 100 {
			st.Set([]byte("own"), []byte("v"))
			for range st.Scan(nil, nil) {
			}
			fmt.Fprint(w, tandem.NewID(r.Context(), ""))
		}
	}, Options{})
	for range 20 {
		res := run1(t, r, state.NewOverlay(memory{"a/1": ""}), step("POST", "/", ""))
		if res.Cause != nil {
			wantProblem(t, res, refusal.HandlerGoroutine)
		}
		left.Wait()
	}
}

// Runners are shared: many steps at once on one base.
func TestRunsInParallel(t *testing.T) {
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		for k, v := range tandem.StateOf(r.Context()).Scan(nil, nil) {
			fmt.Fprintf(w, "%s=%s", k, v)
		}
		fmt.Fprint(w, r.URL.RawQuery)
	}, Options{Limits: Limits{Watchdog: time.Hour}})
	base := memory{"a/k": "v"}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				res, err := r.Run(context.Background(), state.NewOverlay(base), step("GET", fmt.Sprint("/?", i), ""))
				if want := fmt.Sprint("k=v", i); err != nil || string(res.Body) != want {
					t.Errorf("%s, %v, want %s", res.Body, err, want)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkRunTrivial(b *testing.B) {
	benchmarkRun(b, Limits{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"ok":true}`))
	})
}

func BenchmarkRunTrivialWatched(b *testing.B) {
	benchmarkRun(b, Limits{Watchdog: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"ok":true}`))
	})
}

func BenchmarkRunTenOperations(b *testing.B) {
	benchmarkRun(b, Limits{}, func(w http.ResponseWriter, r *http.Request) {
		st := tandem.StateOf(r.Context())
		for i := range byte(5) {
			st.Get([]byte{i})
			st.Set([]byte{i}, []byte("value"))
		}
	})
}

func BenchmarkRunScanHundred(b *testing.B) {
	benchmarkRun(b, Limits{}, func(w http.ResponseWriter, r *http.Request) {
		for range tandem.StateOf(r.Context()).Scan(nil, nil) {
		}
	})
}

func benchmarkRun(b *testing.B, l Limits, h http.HandlerFunc) {
	base := memory{}
	if strings.Contains(b.Name(), "Scan") {
		for i := range 100 {
			base[fmt.Sprintf("a/%03d", i)] = "value"
		}
	}
	r, s := runner(h, Options{Limits: l}), step("POST", "/packages/1/scan", `{"a":1}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Run(context.Background(), state.NewOverlay(base), s); err != nil {
			b.Fatal(err)
		}
	}
}
