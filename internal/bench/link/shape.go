package link

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// segment is how many bytes a TCP segment holds on an Ethernet path.
const segment = 1460

// maxLosses is how often one segment is lost in a row at most; with probability 0.5 that is one segment in 64.
const maxLosses = 6

// minRTO is the least that Linux adds to the round trip before it sends a segment again.
const minRTO = 200 * time.Millisecond

// shaper says when chunks arrive. It is one direction of one connection and belongs to the goroutine that reads; it looks at no
// clock, so that the same calls give the same times.
type shaper struct {
	random *rand.Rand
	free   time.Time // when the wire has sent what it was given before (bandwidth)
	last   time.Time // when the chunk before arrives: nothing overtakes
}

func newShaper(seed, connection uint64, direction int) *shaper {
	return &shaper{random: rand.New(rand.NewPCG(seed, connection<<1|uint64(direction)))}
}

// arrives returns when n bytes that were sent at now arrive, under conditions c of this direction and a delay of the other
// one, and how many segments were lost on the way. n is 0 for a FIN or RST, which is lost as a segment is.
func (s *shaper) arrives(now time.Time, n int, c Conditions, other time.Duration) (due time.Time, lost int) {
	start := now
	if c.Bandwidth > 0 {
		if s.free.After(start) {
			start = s.free
		}
		start = start.Add(time.Duration(float64(n) / float64(c.Bandwidth) * float64(time.Second)))
		s.free = start
	}
	due = start.Add(c.Delay)
	if c.Jitter > 0 {
		due = due.Add(time.Duration(s.random.Int64N(2*int64(c.Jitter)+1)) - c.Jitter)
	}
	if c.Loss > 0 {
		var late time.Duration
		for range max((n+segment-1)/segment, 1) {
			d, times := s.retransmit(c, other)
			late, lost = max(late, d), lost+times // the segments of a chunk are sent, and sent again, side by side
		}
		due = due.Add(late)
	}
	if due.Before(s.last) {
		due = s.last
	}
	s.last = due
	return due, lost
}

// retransmit draws the fate of one segment: how often it is lost, and what that costs, the timeout doubling each time.
func (s *shaper) retransmit(c Conditions, other time.Duration) (late time.Duration, lost int) {
	timeout := c.RTO
	if timeout == 0 {
		timeout = c.Delay + other + minRTO
	}
	for lost < maxLosses && s.random.Float64() < c.Loss {
		late += timeout
		timeout *= 2
		lost++
	}
	return late, lost
}

// schedule is arrives with the link's present conditions; it counts what is lost.
func (p *path) schedule(s *shaper, direction int, now time.Time, n int) time.Time {
	c := p.now.Load()
	due, lost := s.arrives(now, n, c[direction], c[1-direction].Delay)
	if lost > 0 {
		add(&p.lost, lost)
	}
	return due
}

func add(counter *atomic.Int64, n int) { counter.Add(int64(n)) }
