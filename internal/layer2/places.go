package layer2

import (
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
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
// How long is too long depends on the crowd. With few open sessions and few requests a short wait costs their users less than to
// come back a second later; they wait calmPatience times MaxWait. In a crowd, which would keep any queue
// full, three things are bounded so that who is let in is also answered soon:
//
//   - the steps under way, from the moment they are let in to their answers, by tide;
//   - the wait for a place, by MaxWait from the moment at which the request came to this machine, and how many wait;
//   - and since requests also queue where this program does not see it unless it looks, in the scheduler's queue of goroutines, at
//     which each of the dozens of hops of a step from goroutine to goroutine waits, nobody is let in while goroutines wait for long.
type places struct {
	most      int           // MaxWorking
	wait      time.Duration // MaxWait
	unvouched atomic.Int64  // steps on disk that wait for endorsements
	behind    func() bool   // goroutines wait long for a processor
	sessions  func() bool   // many sessions are open

	mu       sync.Mutex // guards what follows
	working  int        // requests that hold a place
	underWay int        // requests that were let in and are not answered
	tide     tide
	queue    []*waiter // in the order of arrival
	crowd    bool      // when last looked
	flood    time.Time // when there were last very many requests at once
	sweeping bool      // sweep will be called
	second   time.Time // the one that is counted
	shed     [2]int    // requests shed in the second before and in this one
}

// waiter is a request that waits for a place.
type waiter struct {
	came time.Time
	done chan struct{} // closed when the wait is over
	turn *turn         // then: the request has been let in; guarded by places.mu until done
}

// turn is a request that has been let in.
type turn struct {
	p     *places
	since time.Time
	place bool // it holds a place; guarded by p.mu
	ended bool // guarded by p.mu
}

// workingPerProcessor is the default of MaxWorking for each processor.
const workingPerProcessor = 12

// crowdPerProcessor is how many open sessions, or requests at once, are a crowd, for each processor; with fewer, requests wait
// calmPatience times MaxWait.
const (
	crowdPerProcessor = 64
	calmPatience      = 20
)

// fewPerProcessor is how many requests are let in, for each processor, whatever their answers take: else nothing would tell when it
// takes less again.
const fewPerProcessor = 1

// waitersPerTurn is how many may wait in a crowd, for each request that may be under way: whoever comes behind them would be late.
const waitersPerTurn = 2

// unvouchedPerPlace is how many steps may wait for endorsements, for each place. With nodes 100 ms apart and 2 processors, that
// is some 2,500 steps a second.
const unvouchedPerPlace = 8

// For each shedPerSecond requests that a processor has to shed in a second, those shed are to stay away for a second longer, up to
// longestRetryAfter seconds on the average.
const (
	shedPerSecond     = 100
	longestRetryAfter = 5
)

// recheck is how often those who wait are looked at.
const recheck = hopWindow

func defaultWorking() int { return workingPerProcessor * runtime.GOMAXPROCS(0) }

func (p *places) open(o Options, sessions func() bool) {
	p.sessions = sessions
	p.most, p.wait, p.behind = o.MaxWorking, o.MaxWait, new(hops).long
	p.tide = tide{limit: float64(o.MaxWorking), least: float64(fewPerProcessor * runtime.GOMAXPROCS(0)), most: float64(unvouchedPerPlace * o.MaxWorking)}
}

// Admit takes a place for a request that came to this machine at arrived, waiting at most until MaxWait later for one, and returns the
// context to make the request with and the function that ends it, which is to be called when the answer is ready and may be called more
// than once. Error: overloaded.
func (e *Engine) Admit(ctx context.Context, arrived time.Time) (context.Context, func(), error) {
	t, err := e.places.take(ctx, arrived)
	if err != nil {
		if refusal.Has(err, refusal.Overloaded) {
			e.counts.shed.Add(1)
		}
		return ctx, nil, err
	}
	return context.WithValue(ctx, turnKey{}, t), t.end, nil
}

func (p *places) take(ctx context.Context, arrived time.Time) (*turn, error) {
	many := p.sessions()
	now := time.Now()
	p.mu.Lock()
	if n := p.unvouched.Load(); n >= int64(unvouchedPerPlace*p.most) {
		defer p.mu.Unlock()
		return nil, p.refuse("%d steps wait for the endorsements of other nodes", n)
	}
	p.look(now, many)
	if p.crowd && now.Sub(arrived) >= p.wait {
		defer p.mu.Unlock()
		return nil, p.refuse("this node has so much to do that it read the request only after %v", now.Sub(arrived).Round(time.Millisecond))
	}
	if len(p.queue) == 0 && p.room() {
		defer p.mu.Unlock()
		return p.letIn(arrived), nil
	}
	if p.crowd && len(p.queue) >= int(waitersPerTurn*p.tide.limit) {
		defer p.mu.Unlock()
		return nil, p.refuse("%d requests are being worked on, and %d wait", p.underWay, len(p.queue))
	}
	w := &waiter{came: arrived, done: make(chan struct{})}
	p.queue = append(p.queue, w)
	p.sweepLater(now)
	p.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.queue, w); i >= 0 { // its client is gone
		p.queue = slices.Delete(p.queue, i, i+1)
		return nil, context.Cause(ctx)
	}
	if w.turn == nil {
		return nil, p.refuse("%d requests are being worked on, and none ended within %v", p.underWay, time.Since(w.came).Round(time.Millisecond))
	}
	return w.turn, nil
}

// look finds out whether there is a crowd. So many requests at once are one for a second: those shed will be back. mu is held.
func (p *places) look(now time.Time, sessions bool) {
	if len(p.queue)+p.underWay > crowdPerProcessor*runtime.GOMAXPROCS(0) {
		p.flood = now
	}
	p.crowd = sessions || now.Sub(p.flood) < time.Second
}

// room reports whether a request may be let in. mu is held.
func (p *places) room() bool {
	switch {
	case p.working >= p.most:
		return false
	case !p.crowd || p.underWay < int(p.tide.least):
		return true
	case float64(p.underWay) >= p.tide.limit:
		p.tide.reached = true
		return false
	}
	return !p.behind()
}

func (p *places) letIn(arrived time.Time) *turn {
	p.working++
	p.underWay++
	return &turn{p: p, since: arrived, place: true}
}

// serve lets those in for whom there is room. mu is held.
func (p *places) serve() {
	for len(p.queue) > 0 && p.room() {
		w := p.queue[0]
		p.queue = slices.Delete(p.queue, 0, 1)
		w.turn = p.letIn(w.came)
		close(w.done)
	}
}

// crop ends the wait of those who have waited for too long. mu is held.
func (p *places) crop(now time.Time) {
	n := 0
	for n < len(p.queue) && now.Sub(p.queue[n].came) >= p.patience() {
		close(p.queue[n].done)
		n++
	}
	p.queue = slices.Delete(p.queue, 0, n)
}

// patience is how long requests wait now. mu is held.
func (p *places) patience() time.Duration {
	if p.crowd {
		return p.wait
	}
	return calmPatience * p.wait
}

// sweepLater has sweep called as long as anybody waits. mu is held.
func (p *places) sweepLater(now time.Time) {
	if len(p.queue) == 0 || p.sweeping {
		return
	}
	p.sweeping = true
	time.AfterFunc(min(recheck, p.patience()-now.Sub(p.queue[0].came)), p.sweep)
}

func (p *places) sweep() {
	many := p.sessions()
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweeping = false
	p.look(now, many)
	p.serve()
	p.crop(now)
	p.sweepLater(now)
}

// giveBack gives the place of the request back, which waits for others from now on.
func (t *turn) giveBack() {
	p := t.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.place {
		t.place = false
		p.working--
		p.serve()
	}
}

// end ends the request.
func (t *turn) end() {
	t.giveBack()
	p := t.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.ended {
		return
	}
	t.ended = true
	now := time.Now()
	p.underWay--
	p.tide.answered(now, now.Sub(t.since))
	p.serve()
}

// vouched takes in how long a step had to wait for endorsements.
func (p *places) vouched(took time.Duration) {
	p.unvouched.Add(-1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tide.vouched(time.Now(), took)
}

// refuse sheds a request. The more are shed, the later they are to come back: refusing costs processors too. How late, is chance, or
// those who were shed together would come back together. mu is held.
func (p *places) refuse(format string, args ...any) *refusal.Refusal {
	switch now := time.Now(); {
	case now.Sub(p.second) >= 2*time.Second:
		p.second, p.shed = now, [2]int{}
	case now.Sub(p.second) >= time.Second:
		p.second, p.shed = now, [2]int{p.shed[1], 0}
	}
	p.shed[1]++
	after := min(1+max(p.shed[0], p.shed[1])/(shedPerSecond*runtime.GOMAXPROCS(0)), longestRetryAfter)
	soonest, latest := (after+1)/2, after+after/2
	return refusal.New(refusal.Overloaded, format, args...).With("retry_after_seconds", soonest+rand.N(latest-soonest+1))
}

// turnKey is the context key of a request's turn.
type turnKey struct{}

// giveBack gives the place of a request back, if it was admitted.
func giveBack(ctx context.Context) {
	if t, ok := ctx.Value(turnKey{}).(*turn); ok {
		t.giveBack()
	}
}
