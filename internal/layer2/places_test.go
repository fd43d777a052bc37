package layer2

import (
	"context"
	"errors"
	"math"
	"runtime/metrics"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tandem/internal/refusal"
)

func newTestPlaces(working int, hop func() time.Duration) *places {
	p := &places{}
	p.open(Options{MaxWorking: working, MaxWait: 25 * time.Millisecond}, func() bool { return true })
	p.hop = hop
	return p
}

func idle() time.Duration { return 0 }

// The waits below are those of synctest's clock, which stands still until everybody waits.

// A request beyond the places waits for its turn, gets it when another has ended, and is shed with Retry-After when that takes too
// long.
func TestPlacesQueueThenShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPlaces(2, idle)
		for range 2 {
			if err := p.take(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		go func() {
			<-time.After(10 * time.Millisecond)
			<-p.free
		}()
		if err := p.take(t.Context()); err != nil || time.Since(began) != 10*time.Millisecond {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		began = time.Now()
		err := p.take(t.Context())
		r, ok := refusal.As(err)
		if !ok || r.Code != refusal.Overloaded || r.Fields["retry_after_seconds"] != 1 || time.Since(began) != 25*time.Millisecond {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		cancel(gone)
		if err := p.take(ctx); !errors.Is(err, gone) {
			t.Fatalf("a request whose client is gone: %v", err)
		}
	})
}

// With few sessions requests wait longer before they are shed, and whatever the processors do.
func TestPlacesWithoutACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPlaces(1, func() time.Duration { return time.Hour })
		p.crowd = func() bool { return false }
		if err := p.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := p.take(t.Context()); !refusal.Has(err, refusal.Overloaded) || time.Since(began) != calmPatience*25*time.Millisecond {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
	})
}

// Nobody is let in while goroutines wait long for a processor, although there are places.
func TestPlacesWaitForProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hop atomic.Int64
		hop.Store(int64(2 * longestHop))
		p := newTestPlaces(16, func() time.Duration { return time.Duration(hop.Load()) })
		for range 2 { // what few requests wait for is others' work
			if err := p.take(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.take(t.Context()); !refusal.Has(err, refusal.Overloaded) {
			t.Fatalf("%v", err)
		}
		began := time.Now()
		go func() {
			<-time.After(5 * time.Millisecond)
			hop.Store(0)
		}()
		if err := p.take(t.Context()); err != nil || time.Since(began) > 5*time.Millisecond+2*recheck {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
	})
}

// Nobody is let in while the other nodes are far behind with their endorsements.
func TestPlacesWaitForEndorsements(t *testing.T) {
	p := newTestPlaces(2, idle)
	p.unvouched.Store(2 * unvouchedPerPlace)
	if err := p.take(t.Context()); !refusal.Has(err, refusal.Overloaded) {
		t.Fatalf("%v", err)
	}
	p.unvouched.Add(-1)
	if err := p.take(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The more requests are shed, the longer those shed stay away; a quiet moment later it is a second again.
func TestPlacesRetryLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPlaces(1, idle)
		after := func() int { return p.refuse("busy").Fields["retry_after_seconds"].(int) }
		for range 100_000 {
			after()
		}
		if got := after(); got != longestRetryAfter {
			t.Errorf("after very many: %d s", got)
		}
		<-time.After(time.Second)
		if got := after(); got != longestRetryAfter {
			t.Errorf("in the second after it: %d s", got)
		}
		<-time.After(3 * time.Second)
		if got := after(); got != 1 {
			t.Errorf("later: %d s", got)
		}
	})
}

// A place is given back once, however often its request says so, and as soon as the request waits for others only.
func TestAdmitGivesBack(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxWorking = 1; o.MaxWait = time.Millisecond })
	w.engine.places.hop, w.engine.places.crowd = idle, func() bool { return true }
	ctx, done, err := w.engine.Admit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.engine.Admit(t.Context()); !refusal.Has(err, refusal.Overloaded) || w.engine.Stats().Shed != 1 {
		t.Fatalf("%v, %d shed", err, w.engine.Stats().Shed)
	}
	giveBack(ctx)()
	_, second, err := w.engine.Admit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done() // must not give the second one's place back
	if _, _, err := w.engine.Admit(t.Context()); !refusal.Has(err, refusal.Overloaded) {
		t.Fatalf("%v", err)
	}
	second()
	giveBack(t.Context())() // of a request that was not admitted: nothing
}

// The mean is over what happened since the last reading, not since the start.
func TestHops(t *testing.T) {
	h := &hops{}
	counts := &metrics.Float64Histogram{Buckets: []float64{math.Inf(-1), 0, 0.001, 0.004}, Counts: []uint64{0, 1000, 0}}
	h.take(counts)
	if got := time.Duration(h.mean.Load()); got != 0 {
		t.Errorf("%v", got)
	}
	counts.Counts[1], counts.Counts[2] = 1010, 10
	h.take(counts)
	if got := time.Duration(h.mean.Load()).Round(time.Microsecond); got != 500*time.Microsecond {
		t.Errorf("%v: 10 at 0 and 10 at 1 ms", got)
	}
	h.take(counts)
	if got := time.Duration(h.mean.Load()).Round(time.Microsecond); got != 500*time.Microsecond {
		t.Errorf("%v: nothing has happened since", got)
	}
	if new(hops).delay() < 0 {
		t.Error("the runtime's own histogram cannot be read")
	}
}
