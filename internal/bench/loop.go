package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// The kinds of load.
const (
	// Closed: so many clients, each of which begins a session when its last one has ended. A network that gets slower gets
	// less to do: a closed loop finds the throughput, but its latencies are those of patient clients.
	Closed = "closed"
	// Open: sessions begin at given moments, whatever became of those before. Latency counts from the moment at which a
	// session was meant to begin. If the network stalls, the sessions that had to wait show it, as users would feel it: to
	// leave that out is called coordinated omission.
	Open = "open"
)

// LoadLevel says how much load is put on a network, and for how long.
type LoadLevel struct {
	// Mode is Closed or Open; Load is the number of clients, or sessions per second.
	Mode string
	Load float64
	// Arrivals of an open loop: Poisson or Constant.
	Arrivals string
	// Warmup comes first and is not counted (in a closed loop it lasts until each client has ended a session, at most Drain
	// longer); Duration is. Then nothing new begins, and what is under way has Drain to end.
	Warmup, Duration, Drain time.Duration
	// Each, if above 0, has each client of a closed loop make so many sessions and stop, without warm-up: Duration and Drain
	// mean nothing then.
	Each int
	// AtOnce bounds the sessions of an open loop that are under way at once; what is beyond waits, and its latency counts on.
	AtOnce int
	// Seed makes arrivals and choices of keys repeatable.
	Seed uint64
}

// loop drives one level: it decides when sessions begin, and counts how they end. What a session is, it does not know.
type loop struct {
	LoadLevel
	// draw chooses what a session works on.
	draw func(*rand.Rand) int
	// carry carries one session to its end. It calls note after each operation.
	carry func(ctx context.Context, place int, note func(Sample)) error
	// judge says what an error of carry means: Conflicted or Failed, with a kind.
	judge func(error) (e Ending, kind string)
	// edge is called at the start and at the end of the measured window.
	edge func(start bool)
}

// Why a session that is cut short ended.
var (
	errDrained     = errors.New("it had not ended when the time to drain was over")
	errInterrupted = errors.New("interrupted by the user")
)

// run drives the level to its end, or until ctx ends: then what is under way is cut short and counts as failed.
func (l *loop) run(ctx context.Context) *tally {
	t := newTally(time.Now())
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if l.Each > 0 {
		t.window(t.begin, t.begin.AddDate(1, 0, 0))
		l.edge(true)
		l.closed(inner, t, func() {})
		t.cut(time.Now())
		l.edge(false)
		return t
	}
	var warm sync.WaitGroup // clients whose first session has not ended
	if l.Mode == Open {
		t.window(t.begin.Add(l.Warmup), t.begin.Add(l.Warmup+l.Duration))
	} else {
		warm.Add(int(l.Load))
	}
	var watch sync.WaitGroup
	watch.Go(func() { l.watch(inner, t, &warm, cancel) })
	if l.Mode == Open {
		l.open(inner, t)
	} else {
		l.closed(inner, t, warm.Done)
	}
	cancel(nil) // all sessions have ended; the watch may still wait if ctx has ended
	watch.Wait()
	t.cut(time.Now())
	return t
}

// watch calls edge at both ends of the measured window, and ends what is under way when the time to drain is over.
//
// The window of a closed loop begins when the warm-up is over and the first session of each client has ended: these begin all at
// once, which is no state that lasts, and in a network with more to do than it can they would be the slow ones
// that no measured session stands for. Clients that take longer than the warm-up and the time to drain are not waited for.
func (l *loop) watch(ctx context.Context, t *tally, warm *sync.WaitGroup, cancel context.CancelCauseFunc) {
	if !waitUntil(ctx, t.begin.Add(l.Warmup)) {
		return
	}
	if l.Mode == Closed {
		all := make(chan struct{})
		go func() {
			warm.Wait() // each client ends, and so does this
			close(all)
		}()
		enough := time.NewTimer(l.Drain)
		defer enough.Stop()
		select {
		case <-all:
		case <-enough.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		t.window(now, now.Add(l.Duration))
	}
	l.edge(true)
	_, to := t.measured()
	waitUntil(ctx, to) // at an early end, too, the second reading belongs to the first
	l.edge(false)
	if waitUntil(ctx, to.Add(l.Drain)) {
		cancel(errDrained)
	}
}

// waitUntil waits for a moment and reports whether it came before the end of ctx.
func waitUntil(ctx context.Context, at time.Time) bool {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// longestPause bounds for how long a client obeys a node that wants to be left alone: as long as the client library.
const longestPause = 10 * time.Second

// closed lets the clients work, each in a goroutine of its own with randomness of its own. Each calls first once, after its
// first session.
func (l *loop) closed(ctx context.Context, t *tally, first func()) {
	var all sync.WaitGroup
	for i := range int(l.Load) {
		all.Go(func() {
			r := stream(l.Seed, uint64(i)+1)
			once := sync.OnceFunc(first)
			defer once()
			for n := 0; l.Each == 0 || n < l.Each; n++ {
				now := time.Now()
				if ctx.Err() != nil || t.over(now) {
					return
				}
				pause := l.one(ctx, t, now, l.draw(r))
				once()
				// A client that is shed leaves the node alone for as long as it asks to be and, like the client library, up to as much
				// again by chance.
				if pause = min(pause, longestPause); pause > 0 && !waitUntil(ctx, time.Now().Add(pause+time.Duration(r.Int64N(int64(pause))))) {
					return
				}
			}
		})
	}
	all.Wait()
}

// open begins sessions when their moments come.
func (l *loop) open(ctx context.Context, t *tally) {
	arrivals, err := NewArrivals(l.Arrivals, l.Load, stream(l.Seed, 0))
	if err != nil {
		panic(err) // the caller has checked the level
	}
	keys := stream(l.Seed, 1)
	room := make(chan struct{}, l.AtOnce)
	var all sync.WaitGroup
	defer all.Wait()
	_, to := t.measured()
	for {
		at, place := t.begin.Add(arrivals.Next()), l.draw(keys)
		if !at.Before(to) {
			waitUntil(ctx, to) // the window is as long as it was meant to be, whenever the last session ends
			return
		}
		if !waitUntil(ctx, at) && time.Now().Before(at) {
			return // interrupted before this one's moment came
		}
		select {
		case <-ctx.Done():
			t.never(at)
			continue
		case room <- struct{}{}:
			if ctx.Err() != nil { // both came at once
				t.never(at)
				continue
			}
		}
		all.Go(func() {
			defer func() { <-room }()
			l.one(ctx, t, at, place)
		})
	}
}

// one carries one session that was meant to begin at the intended moment, and counts it. It returns how long the node
// wants to be left alone.
func (l *loop) one(outer context.Context, t *tally, intended time.Time, place int) time.Duration {
	ctx, shed, done := watchShedding(outer)
	defer done()
	measured := t.started(intended, time.Now())
	last := intended
	err := l.carry(ctx, place, func(a Sample) {
		now := time.Now()
		if a.Err == "" {
			t.answered(measured, a.Operation, last, now)
		}
		last = now
	})
	now := time.Now()
	requests, pause := shed.told()
	switch {
	case err == nil:
		t.ended(measured, intended, now, Committed, "", "", requests)
	case errors.Is(context.Cause(ctx), errShed):
		t.ended(measured, intended, now, Shed, "shed", errShed.Error(), requests)
	case errors.Is(context.Cause(outer), errDrained):
		t.ended(measured, intended, now, Failed, "not-drained", fmt.Sprintf("%v: %v", errDrained, err), requests)
	case outer.Err() != nil:
		t.ended(measured, intended, now, Failed, "interrupted", fmt.Sprintf("%v: %v", errInterrupted, err), requests)
	default:
		e, kind := l.judge(err)
		t.ended(measured, intended, now, e, kind, err.Error(), requests)
	}
	return pause
}
