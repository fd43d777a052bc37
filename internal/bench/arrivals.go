package bench

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// The kinds of arrivals of an open loop.
const (
	// Poisson arrivals are independent of each other, as those of many users are: the gaps are exponentially distributed.
	Poisson = "poisson"
	// Constant arrivals come like a metronome.
	Constant = "constant"
)

// Arrivals gives the moments at which an open loop's sessions are meant to start, as offsets from the loop's start, in
// ascending order. What the network does has no influence on them. The same seed gives the same moments. It belongs to
// one goroutine.
type Arrivals struct {
	rate float64
	rand *rand.Rand // nil: constant
	last float64    // seconds
	n    int
}

// NewArrivals makes arrivals of the kind (Poisson or Constant) at so many per second, above 0 and at most 1,000,000.
func NewArrivals(kind string, rate float64, r *rand.Rand) (*Arrivals, error) {
	if !(rate > 0 && rate <= 1e6) {
		return nil, fmt.Errorf("bench: %v arrivals per second; above 0 and at most 1000000", rate)
	}
	switch kind {
	case Poisson:
		return &Arrivals{rate: rate, rand: r}, nil
	case Constant:
		return &Arrivals{rate: rate}, nil
	}
	return nil, fmt.Errorf("bench: arrivals %q are neither %s nor %s", kind, Poisson, Constant)
}

// Next returns the next moment.
func (a *Arrivals) Next() time.Duration {
	if a.rand == nil {
		// From the count, not by adding up gaps: a rounded gap would drift.
		at := float64(a.n) / a.rate
		a.n++
		return time.Duration(at * float64(time.Second))
	}
	a.last += a.rand.ExpFloat64() / a.rate
	return time.Duration(a.last * float64(time.Second))
}

// stream returns the n-th independent source of randomness of a run's seed.
func stream(seed, n uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, n)) }
