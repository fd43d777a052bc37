package bench

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// drive runs a level against a network that exists in words only, by the bubble's clock.
func drive(ctx context.Context, level LoadLevel, carry func(context.Context, int, func(Sample)) error) *tally {
	l := loop{
		LoadLevel: level, carry: carry, draw: func(*rand.Rand) int { return 0 }, edge: func(bool) {},
		judge: func(err error) (Ending, string) {
			if errors.Is(err, errOvertaken) {
				return Conflicted, "overtaken"
			}
			return Failed, "other"
		},
	}
	return l.run(ctx)
}

var errOvertaken = errors.New("overtaken")

// takes is a session that takes so long and is committed.
func takes(d time.Duration) func(context.Context, int, func(Sample)) error {
	return func(ctx context.Context, _ int, note func(Sample)) error {
		if err := pause(ctx, d); err != nil {
			return err
		}
		note(Sample{Operation: "commit"})
		return nil
	}
}

func pause(ctx context.Context, d time.Duration) error {
	if !waitUntil(ctx, time.Now().Add(d)) {
		return context.Cause(ctx)
	}
	return nil
}

// adds checks that each session that was sent ended in one way.
func adds(t *testing.T, l *tally, sent int) {
	t.Helper()
	sum := 0
	for _, n := range l.endings {
		sum += n
	}
	if l.sent != sum || l.sent != sent {
		t.Errorf("sent %d, ended %d (%v); want %d", l.sent, sum, l.endings, sent)
	}
	reasons := 0
	for _, r := range l.reasons {
		reasons += r.Count
	}
	if want := sum - l.endings[Committed]; reasons != want {
		t.Errorf("%d sessions did not commit, %d reasons are given: %v", want, reasons, l.reasons)
	}
}

// TestOpenLoopDoesNotHideAStall: the network stands still for a second. A client that measures from when it sends would see one
// slow session; measured from the intended start, each session that had to wait was as slow as its user saw it.
func TestOpenLoopDoesNotHideAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		stall, end := begin.Add(4*time.Second), begin.Add(5*time.Second)
		// One at a time is let through, 1 ms each; in the stall nobody is.
		l := drive(t.Context(), LoadLevel{Mode: Open, Load: 100, Arrivals: Constant, Duration: 10 * time.Second, Drain: time.Minute, AtOnce: 1},
			func(ctx context.Context, _ int, note func(Sample)) error {
				if now := time.Now(); !now.Before(stall) && now.Before(end) {
					if err := pause(ctx, end.Sub(now)); err != nil {
						return err
					}
				}
				return takes(time.Millisecond)(ctx, 0, note)
			})
		adds(t, l, 1000)
		// 100 of 1,000 arrivals fell into the stall, and waited 1 s at most; they were then served at 1 ms each, while
		// about ten more came.
		h := l.took[sessionOperation]
		if got := h.At(85); got > 1.5 {
			t.Errorf("p85 is %v ms; outside of the stall a session takes 1 ms", got)
		}
		if got := h.At(94.5); got < 400 || got > 600 {
			t.Errorf("p94.5 is %v ms; about half of those who waited waited for more than half a second", got)
		}
		if got := h.Percentiles("").Max; math.Abs(got-1001) > 2 {
			t.Errorf("the slowest took %v ms; the first of the stall waited all of it, 1001 ms", got)
		}
		if late := l.late.Percentiles("").Max; late < 900 {
			t.Errorf("sent at most %v ms late", late)
		}
		// Each operation's latency, the first one's too, begins where the user's wait began.
		if got := l.took["commit"].Percentiles("").Max; math.Abs(got-1001) > 2 {
			t.Errorf("the slowest first operation took %v ms, not 1001", got)
		}
	})
}

// TestOpenLoopOverload: twice as many sessions come as can be served. The throughput is what was done within the window, not what was
// offered; what had not ended when the time to drain was over has failed, sent or not.
func TestOpenLoopOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := drive(t.Context(), LoadLevel{
			Mode: Open, Load: 20, Arrivals: Constant, Warmup: 2 * time.Second, Duration: 10 * time.Second, Drain: 3 * time.Second, AtOnce: 4,
		}, takes(400*time.Millisecond)) // 4 at once, 0.4 s each: 10 per second
		adds(t, l, 200)
		if l.done != 100 {
			t.Errorf("%d sessions were committed within 10 s, not 100", l.done)
		}
		// By the end of draining, 15 s at 10 per second have ended; the first 40 were meant for the warm-up.
		if got := l.endings[Committed]; got < 106 || got > 110 {
			t.Errorf("%d of those measured were committed, not about 110", got)
		}
		if l.most != 4 {
			t.Errorf("%d sessions at once, not 4", l.most)
		}
		kinds := map[string]int{}
		for _, r := range l.reasons {
			kinds[r.Kind] = r.Count
		}
		if kinds["not-sent"] < 80 || kinds["not-drained"] > 4 {
			t.Errorf("reasons %v", l.reasons)
		}
	})
}

// TestOpenLoopKeepsItsRate: what the network does has no influence on when sessions are sent, as long as there is room.
func TestOpenLoopKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := drive(t.Context(), LoadLevel{
			Mode: Open, Load: 50, Arrivals: Poisson, Warmup: time.Second, Duration: 20 * time.Second, Drain: 5 * time.Second, AtOnce: 1000, Seed: 7,
		}, takes(2*time.Second))
		if l.sent < 900 || l.sent > 1100 {
			t.Errorf("%d sessions were sent in 20 s at 50 per second", l.sent)
		}
		adds(t, l, l.sent)
		if got := l.late.Percentiles("").Max; got > 0.001 {
			t.Errorf("a session was sent %v ms late", got)
		}
		if p := l.took[sessionOperation].Percentiles(""); p.P50 < 1990 || p.Max > 2010 {
			t.Errorf("sessions of 2 s took %+v", p)
		}
	})
}

// TestClosedLoop: each client begins a session when its last one has ended; warm-up is not counted.
func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The window begins and ends where no session does, so that which of two things at one moment comes first does not matter.
		l := drive(t.Context(), LoadLevel{Mode: Closed, Load: 5, Warmup: 2050 * time.Millisecond, Duration: 10 * time.Second, Drain: time.Second},
			takes(100*time.Millisecond))
		adds(t, l, 500)
		if l.done != 500 || l.steps != 500 || l.most != 5 {
			t.Errorf("%d done, %d steps, %d at once; want 500, 500, 5", l.done, l.steps, l.most)
		}
		for _, s := range l.seconds {
			if s.Second > 0 && s.Second < 12 && s.Committed != 50 {
				t.Errorf("second %d: %d committed, not 50", s.Second, s.Committed)
			}
		}
	})
}

// TestClosedLoopWaitsUntilEachClientIsWarm: sessions take longer than the warm-up. The window begins when each client has ended one, so
// that none of those that all began at once is the slow one that no measured session stands for; and it is as long as it was meant to be.
func TestClosedLoopWaitsUntilEachClientIsWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var n atomic.Int64
		l := drive(t.Context(), LoadLevel{Mode: Closed, Load: 4, Warmup: time.Second, Duration: 10 * time.Second, Drain: 30 * time.Second},
			func(ctx context.Context, _ int, note func(Sample)) error {
				if n.Add(1) <= 4 {
					return takes(7*time.Second)(ctx, 0, note) // the herd
				}
				return takes(2*time.Second)(ctx, 0, note)
			})
		if from, to := l.measured(); from.Sub(begin) != 7*time.Second || to.Sub(from) != 10*time.Second {
			t.Errorf("the window is from %v to %v", from.Sub(begin), to.Sub(begin))
		}
		if l.sent < 16 || l.sent > 20 || l.took[sessionOperation].Percentiles("").Max > 2001 {
			t.Errorf("%d sessions, %+v", l.sent, l.took[sessionOperation].Percentiles(""))
		}
		adds(t, l, l.sent)
	})
}

// TestClosedLoopCountsEachEnding: conflicts and failures are no commits, and are told with their first reason.
func TestClosedLoopCountsEachEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		l := drive(t.Context(), LoadLevel{Mode: Closed, Load: 1, Each: 9}, func(ctx context.Context, _ int, note func(Sample)) error {
			n++
			switch n % 3 {
			case 0:
				return errOvertaken
			case 1:
				note(Sample{Operation: "open"})
				note(Sample{Operation: "create", Err: "broken"})
				return errors.New("broken")
			}
			return takes(time.Millisecond)(ctx, 0, note)
		})
		adds(t, l, 9)
		if l.endings[Committed] != 3 || l.endings[Conflicted] != 3 || l.endings[Failed] != 3 {
			t.Errorf("endings %v", l.endings)
		}
		if l.took["create"] != nil || l.took["open"].Count() != 3 {
			t.Error("a failed operation counts as answered, or an answered one does not")
		}
		if len(l.reasons) != 2 || l.reasons[0].First != "broken" || l.reasons[1].Kind != "overtaken" {
			t.Errorf("reasons %+v", l.reasons)
		}
	})
}

// TestShedIsNoFailure: a session whose request is shed ends at once as shed, and its client leaves the node alone for as long
// as that asks to be, and up to as much again.
func TestShedIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := drive(t.Context(), LoadLevel{Mode: Closed, Load: 2, Duration: 10 * time.Second, Drain: time.Second},
			func(ctx context.Context, _ int, _ func(Sample)) error {
				s := ctx.Value(sheddingKey{}).(*shedding)
				s.mu.Lock()
				s.requests, s.pause = 1, time.Second
				s.mu.Unlock()
				s.giveUp(errShed)
				return ctx.Err()
			})
		n := l.sent
		adds(t, l, n)
		if l.endings[Shed] != n || l.shed != n {
			t.Errorf("endings %v, %d requests shed", l.endings, l.shed)
		}
		if n < 8 || n > 18 { // two clients, once in one to two seconds; the first session of each was the warm-up
			t.Errorf("%d sessions", n)
		}
	})
}

// TestInterruptedLoadKeepsWhatItHas: at the end of the context everything that was sent is counted, and the window ends there.
func TestInterruptedLoadKeepsWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 4050*time.Millisecond)
		defer cancel()
		l := drive(ctx, LoadLevel{Mode: Open, Load: 10, Arrivals: Constant, Duration: time.Minute, Drain: time.Minute, AtOnce: 100}, takes(time.Second))
		adds(t, l, 41)
		if l.endings[Committed] != 31 || l.endings[Failed] != 10 {
			t.Errorf("endings %v; 31 had ended, 10 were under way", l.endings)
		}
		if got := l.to.Sub(l.from); got != 4050*time.Millisecond {
			t.Errorf("the window is %v long", got)
		}
	})
}

// TestReasonsAreBounded: however many causes there are, each session is counted under one.
func TestReasonsAreBounded(t *testing.T) {
	now := time.Now()
	l := newTally(now)
	l.window(now, now.Add(time.Hour))
	for i := range 100 {
		l.ended(l.started(now, now), now, now, Failed, string(rune('a'+i)), "x", 0)
	}
	adds(t, l, 100)
	if len(l.reasons) != maxReasons {
		t.Errorf("%d reasons", len(l.reasons))
	}
}
