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

func newTestPlaces(working int, behind func() bool) *places {
	p := &places{}
	p.open(Options{MaxWorking: working, MaxWait: 25 * time.Millisecond}, func() bool { return true })
	p.behind = behind
	return p
}

func idle() bool { return false }

// The waits below are those of synctest's clock, which stands still until everybody waits.

// A request beyond the places waits for its turn, gets it when another has ended, and is shed with Retry-After when that takes too
// long.
func TestPlacesQueueThenShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPlaces(2, idle)
		var turn *turn
		for range 2 {
			var err error
			if turn, err = p.take(t.Context(), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		time.AfterFunc(10*time.Millisecond, turn.end)
		if _, err := p.take(t.Context(), time.Now()); err != nil || time.Since(began) != 10*time.Millisecond {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		began = time.Now()
		_, err := p.take(t.Context(), time.Now())
		r, ok := refusal.As(err)
		if !ok || r.Code != refusal.Overloaded || r.Fields["retry_after_seconds"] != 1 || time.Since(began) != 25*time.Millisecond {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		cancel(gone)
		if _, err := p.take(ctx, time.Now()); !errors.Is(err, gone) || len(p.queue) > 0 {
			t.Fatalf("a request whose client is gone: %v", err)
		}
	})
}

// With few sessions requests wait longer before they are shed, and whatever the processors do.
func TestPlacesWithoutACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPlaces(1, func() bool { return true })
		p.sessions = func() bool { return false }
		if _, err := p.take(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := p.take(t.Context(), time.Now()); !refusal.Has(err, refusal.Overloaded) || time.Since(began) != calmPatience*25*time.Millisecond {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
	})
}

// Nobody is let in while goroutines wait long for a processor, although there are places.
func TestPlacesWaitForProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var behind atomic.Bool
		behind.Store(true)
		p := newTestPlaces(16, behind.Load)
		for range int(p.tide.least) { // what few requests wait for is others' work
			if _, err := p.take(t.Context(), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.take(t.Context(), time.Now()); !refusal.Has(err, refusal.Overloaded) {
			t.Fatalf("%v", err)
		}
		began := time.Now()
		go func() {
			<-time.After(5 * time.Millisecond)
			behind.Store(false)
		}()
		if _, err := p.take(t.Context(), time.Now()); err != nil || time.Since(began) > 5*time.Millisecond+2*recheck {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
	})
}

// Nobody is let in while the other nodes are far behind with their endorsements.
func TestPlacesWaitForEndorsements(t *testing.T) {
	p := newTestPlaces(2, idle)
	p.unvouched.Store(2 * unvouchedPerPlace)
	if _, err := p.take(t.Context(), time.Now()); !refusal.Has(err, refusal.Overloaded) {
		t.Fatalf("%v", err)
	}
	p.unvouched.Add(-1)
	if _, err := p.take(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
}

// In a crowd a request is not let in, however much room there is, if it has been on this machine for MaxWait before it is looked at;
// and no more wait than can soon be let in.
func TestPlacesShedAtOnceInACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPlaces(2, idle)
		var crowd atomic.Bool
		crowd.Store(true)
		p.sessions = crowd.Load
		if _, err := p.take(t.Context(), time.Now().Add(-25*time.Millisecond)); !refusal.Has(err, refusal.Overloaded) {
			t.Fatalf("an old request: %v", err)
		}
		for range 2 {
			if _, err := p.take(t.Context(), time.Now().Add(-24*time.Millisecond)); err != nil {
				t.Fatal(err)
			}
		}
		for range int(waitersPerTurn * p.tide.limit) {
			go p.take(t.Context(), time.Now())
		}
		synctest.Wait()
		began := time.Now()
		if _, err := p.take(t.Context(), time.Now()); !refusal.Has(err, refusal.Overloaded) || time.Since(began) != 0 {
			t.Fatalf("one too many: %v after %v", err, time.Since(began))
		}
		synctest.Wait()
		crowd.Store(false)
		if _, err := p.take(t.Context(), time.Now()); !refusal.Has(err, refusal.Overloaded) || time.Since(began) != calmPatience*25*time.Millisecond {
			t.Fatalf("without a crowd: %v after %v", err, time.Since(began))
		}
	})
}

// A thousand openings at once are a crowd before any of them is open.
func TestPlacesCrowdOfRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPlaces(1, idle)
		p.sessions = func() bool { return false }
		began := time.Now()
		var shed atomic.Int64
		for range 1000 {
			go func() {
				if _, err := p.take(t.Context(), began); refusal.Has(err, refusal.Overloaded) {
					shed.Add(1)
				}
			}()
		}
		<-time.After(25*time.Millisecond + recheck)
		synctest.Wait()
		if n := shed.Load(); n != 999 {
			t.Fatalf("%d were shed", n)
		}
	})
}

// Fewer are let in as soon as answers take long, more again when they do not, and what the way to the other nodes takes is not held
// against the steps.
func TestTide(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	d := tide{limit: 24, least: 2, most: 192}
	window := func(took time.Duration, reached bool) {
		now = now.Add(tideWindow)
		d.reached = reached
		for range tideAnswers + 1 {
			d.answered(now, took)
		}
	}
	window(slack, false)
	for range 50 {
		window(10*slack, true)
	}
	if d.limit != d.least {
		t.Errorf("with slow answers %v", d.limit)
	}
	for range 20 {
		window(slack/2, false)
	}
	if d.limit != d.least {
		t.Errorf("with quick answers, and nobody kept out, %v", d.limit)
	}
	for range 200 {
		window(slack/2, true)
	}
	if d.limit != d.most {
		t.Errorf("with quick answers %v", d.limit)
	}
	d.vouched(now, 100*time.Millisecond)
	d.vouched(now, 250*time.Millisecond)
	window(100*time.Millisecond+slack, true)
	if d.limit != d.most {
		t.Errorf("with quick answers and distant nodes %v", d.limit)
	}
	now = now.Add(2*nearEpoch + 1)
	d.vouched(now, time.Millisecond)
	if d.distance() != time.Millisecond {
		t.Errorf("a distance long ago counts: %v", d.distance())
	}
}

// The more requests are shed, the longer those shed stay away; a quiet moment later it is a second again.
func TestPlacesRetryLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPlaces(1, idle)
		after := func() int { return p.refuse("busy").Fields["retry_after_seconds"].(int) }
		soonest, latest := (longestRetryAfter+1)/2, longestRetryAfter+longestRetryAfter/2
		times := map[int]int{}
		for i := range 100_000 {
			if got := after(); i > 90_000 {
				times[got]++
			}
		}
		for s, n := range times {
			if s < soonest || s > latest || n < 10_000/(2*(latest-soonest+1)) {
				t.Errorf("after very many: %d s for %d", s, n)
			}
		}
		if len(times) != latest-soonest+1 {
			t.Errorf("after very many they come back together: %v", times)
		}
		<-time.After(time.Second)
		if got := after(); got < soonest {
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
	w.engine.places.behind, w.engine.places.sessions = idle, func() bool { return true }
	ctx, done, err := w.engine.Admit(t.Context(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.engine.Admit(t.Context(), time.Now()); !refusal.Has(err, refusal.Overloaded) || w.engine.Stats().Shed != 1 {
		t.Fatalf("%v, %d shed", err, w.engine.Stats().Shed)
	}
	giveBack(ctx)
	_, second, err := w.engine.Admit(t.Context(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	done() // must not give the second one's place back
	if _, _, err := w.engine.Admit(t.Context(), time.Now()); !refusal.Has(err, refusal.Overloaded) {
		t.Fatalf("%v", err)
	}
	second()
	giveBack(t.Context()) // of a request that was not admitted: nothing
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
	h = &hops{}
	if h.long(); h.before == nil || h.sample[1].Value.Kind() != metrics.KindUint64 {
		t.Error("the runtime's own books cannot be read")
	}
}
