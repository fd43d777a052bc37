package layer2

import (
	"context"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"tandem/internal/refusal"
)

// places bounds the requests that this node works on at once, and how long others wait for their turn.
//
// More at once than keeps the processors and the disk's group commit busy makes every step slower and none faster; a step
// that would have to wait longer than MaxWait is shed with 503 and Retry-After before anything was done for it, and its client goes to
// another node or comes back. What waits for others holds no place: a step for endorsements, a session that is asked for
// elsewhere. But nobody is let in while very many steps wait for endorsements: then it is the other nodes that are behind.
//
// Requests queue in a second place, which this program does not see unless it looks: with many connections it is the
// scheduler's queue of goroutines that can run that grows, and each of the dozen hops of a step waits there. So nobody is let in
// either while it is long.
type places struct {
	free      chan struct{}
	wait      time.Duration
	unvouched atomic.Int64 // steps on disk that wait for endorsements
	runnable  func() int   // goroutines that wait for a processor

	mu     sync.Mutex // guards what follows
	second time.Time  // the one that is counted
	shed   [2]int     // requests shed in the second before and in this one
}

// For each processor: the default of MaxWorking, and how many goroutines may wait for one before nobody is let in. A goroutine runs
// for some 0.1 ms at a time here, so that this many delay a hop by about 3 ms.
const (
	workingPerProcessor  = 12
	runnablePerProcessor = 16
)

// unvouchedPerPlace is how many steps may wait for endorsements, for each place. With nodes 100 ms apart and 2 processors, that
// is some 2,500 steps a second.
const unvouchedPerPlace = 8

// For each shedPerSecond requests that a processor has to shed in a second, those shed are to stay away for a second longer, up to
// longestRetryAfter seconds.
const (
	shedPerSecond     = 100
	longestRetryAfter = 5
)

// recheck is how often a request that waits for the scheduler's queue to shorten looks again.
const recheck = 2 * time.Millisecond

func defaultWorking() int { return workingPerProcessor * runtime.GOMAXPROCS(0) }

func (p *places) open(o Options) {
	p.free, p.wait, p.runnable = make(chan struct{}, o.MaxWorking), o.MaxWait, new(runQueue).length
}

// Admit takes a place for a request, waiting at most MaxWait for one, and returns the context to make the request with and the
// function that ends it; that may be called more than once. Error: overloaded.
func (e *Engine) Admit(ctx context.Context) (context.Context, func(), error) {
	if err := e.places.take(ctx); err != nil {
		if refusal.Has(err, refusal.Overloaded) {
			e.counts.shed.Add(1)
		}
		return ctx, nil, err
	}
	done := sync.OnceFunc(func() { <-e.places.free })
	return context.WithValue(ctx, placeKey{}, done), done, nil
}

func (p *places) take(ctx context.Context) error {
	if n := p.unvouched.Load(); n >= int64(unvouchedPerPlace*cap(p.free)) {
		return p.refuse("%d steps wait for the endorsements of other nodes", n)
	}
	busy := p.runnable() > runnablePerProcessor*runtime.GOMAXPROCS(0)
	if !busy {
		select {
		case p.free <- struct{}{}:
			return nil
		default:
		}
	}
	end := time.Now().Add(p.wait)
	timer := time.NewTimer(p.wait)
	defer timer.Stop()
	for busy {
		timer.Reset(min(recheck, time.Until(end)))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		if busy = p.runnable() > runnablePerProcessor*runtime.GOMAXPROCS(0); busy && !time.Now().Before(end) {
			return p.refuse("this node's processors had too much to do for %v", p.wait)
		}
	}
	timer.Reset(time.Until(end))
	select {
	case p.free <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return p.refuse("%d requests are being worked on, and none was finished within %v", cap(p.free), p.wait)
	}
}

// refuse sheds a request. The more are shed, the later they are to come back: refusing costs processors too.
func (p *places) refuse(format string, args ...any) *refusal.Refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch now := time.Now(); {
	case now.Sub(p.second) >= 2*time.Second:
		p.second, p.shed = now, [2]int{}
	case now.Sub(p.second) >= time.Second:
		p.second, p.shed = now, [2]int{p.shed[1], 0}
	}
	p.shed[1]++
	after := min(1+max(p.shed[0], p.shed[1])/(shedPerSecond*runtime.GOMAXPROCS(0)), longestRetryAfter)
	return refusal.New(refusal.Overloaded, format, args...).With("retry_after_seconds", after)
}

// placeKey is the context key of the function that gives a place back.
type placeKey struct{}

// giveBack returns the function that gives the place of a request back; it does nothing for one that was not admitted.
func giveBack(ctx context.Context) func() {
	if done, ok := ctx.Value(placeKey{}).(func()); ok {
		return done
	}
	return func() {}
}

// runQueue reads the length of the scheduler's queue, at most once a millisecond: reading it takes the scheduler's lock.
type runQueue struct {
	read   atomic.Int64 // nanoseconds since the start
	last   atomic.Int64
	mu     sync.Mutex // held while reading
	sample [1]metrics.Sample
}

var processStart = time.Now()

func (q *runQueue) length() int {
	now := int64(time.Since(processStart))
	if now-q.read.Load() < int64(time.Millisecond) || !q.mu.TryLock() {
		return int(q.last.Load())
	}
	defer q.mu.Unlock()
	q.sample[0].Name = "/sched/goroutines/runnable:goroutines"
	metrics.Read(q.sample[:])
	if v := q.sample[0].Value; v.Kind() == metrics.KindUint64 {
		q.last.Store(int64(v.Uint64()))
	}
	q.read.Store(now)
	return int(q.last.Load())
}
