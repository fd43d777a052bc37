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
// More at once than keeps the processors and the disk's group commit busy makes every step slower and none faster. A request that
// would have to wait too long is shed with 503 and Retry-After before anything was done for it, and its client goes to another node
// or comes back. What waits for others holds no place: a step for endorsements, a session that is asked for elsewhere. But
// nobody is let in while very many steps wait for endorsements: then it is the other nodes that are behind.
//
// How long is too long depends on the crowd. With few open sessions a short wait costs their users less than to come back a
// second later, and the queue cannot become long. With many, each waits MaxWait at most; and since requests then also queue where
// this program does not see it unless it looks, in the scheduler's queue of goroutines, at which each of the dozens of hops of a step
// from goroutine to goroutine waits, nobody is let in either while a hop takes long.
type places struct {
	free      chan struct{}
	wait      time.Duration
	unvouched atomic.Int64         // steps on disk that wait for endorsements
	hop       func() time.Duration // how long goroutines wait for a processor
	crowd     func() bool          // many sessions are open

	mu     sync.Mutex // guards what follows
	second time.Time  // the one that is counted
	shed   [2]int     // requests shed in the second before and in this one
}

// workingPerProcessor is the default of MaxWorking for each processor.
const workingPerProcessor = 12

// crowdPerProcessor is how many open sessions are many, for each processor; with fewer, requests wait calmPatience times MaxWait.
const (
	crowdPerProcessor = 64
	calmPatience      = 20
)

// longestHop is the mean time for which goroutines may wait for a processor before nobody is let in: a step has dozens of
// them, and takes some 20 ms then.
const longestHop = 300 * time.Microsecond

// unvouchedPerPlace is how many steps may wait for endorsements, for each place. With nodes 100 ms apart and 2 processors, that
// is some 2,500 steps a second.
const unvouchedPerPlace = 8

// For each shedPerSecond requests that a processor has to shed in a second, those shed are to stay away for a second longer, up to
// longestRetryAfter seconds.
const (
	shedPerSecond     = 100
	longestRetryAfter = 5
)

// recheck is how often a request that waits for hops to become shorter looks again.
const recheck = hopWindow

func defaultWorking() int { return workingPerProcessor * runtime.GOMAXPROCS(0) }

func (p *places) open(o Options, crowd func() bool) {
	p.crowd = crowd
	p.free, p.wait, p.hop = make(chan struct{}, o.MaxWorking), o.MaxWait, new(hops).delay
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
	wait, crowd := p.wait, p.crowd()
	if !crowd {
		wait *= calmPatience
	}
	busy := crowd && p.busy()
	if !busy {
		select {
		case p.free <- struct{}{}:
			return nil
		default:
		}
	}
	end := time.Now().Add(wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for busy {
		timer.Reset(min(recheck, time.Until(end)))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		if busy = p.busy(); busy && !time.Now().Before(end) {
			return p.refuse("this node's processors had too much to do for %v", wait)
		}
	}
	timer.Reset(time.Until(end))
	select {
	case p.free <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return p.refuse("%d requests are being worked on, and none was finished within %v", cap(p.free), wait)
	}
}

// busy reports whether processors are what requests wait for.
func (p *places) busy() bool { return 8*len(p.free) >= cap(p.free) && p.hop() > longestHop }

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

// hops measures how long goroutines of this process wait for a processor before they run: the mean over the last few milliseconds,
// from the runtime's own histogram. Safe for concurrent use.
type hops struct {
	read   atomic.Int64 // when, in nanoseconds since the start
	mean   atomic.Int64 // nanoseconds
	mu     sync.Mutex   // held while reading; guards what follows
	sample [1]metrics.Sample
	before []uint64 // the histogram's counts at the last reading
}

var processStart = time.Now()

// hopWindow is what a mean is taken over, at least.
const hopWindow = 5 * time.Millisecond

// delay returns the mean.
func (h *hops) delay() time.Duration {
	now := int64(time.Since(processStart))
	if now-h.read.Load() >= int64(hopWindow) && h.mu.TryLock() {
		defer h.mu.Unlock()
		h.sample[0].Name = "/sched/latencies:seconds"
		metrics.Read(h.sample[:])
		if v := h.sample[0].Value; v.Kind() == metrics.KindFloat64Histogram {
			h.take(v.Float64Histogram())
		}
		h.read.Store(now)
	}
	return time.Duration(h.mean.Load())
}

// take takes in what the histogram counts since the last reading.
func (h *hops) take(counts *metrics.Float64Histogram) {
	if len(h.before) != len(counts.Counts) {
		h.before = make([]uint64, len(counts.Counts))
	}
	var n uint64
	var seconds float64
	for i, c := range counts.Counts {
		if d := c - h.before[i]; d > 0 {
			n += d
			seconds += float64(d) * max(0, counts.Buckets[i]) // the bucket's lower end
		}
		h.before[i] = c
	}
	if n > 0 {
		h.mean.Store(int64(seconds / float64(n) * 1e9))
	}
}
