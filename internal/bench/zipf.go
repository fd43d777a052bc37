package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
)

// maxRanks bounds the number of keys a Zipf chooses from: its table has one float for each.
const maxRanks = 1_000_000

// Zipf draws ranks 0 to n-1, of which rank k comes up in proportion to 1/(k+1)^s: few are hot, many are cold. With s = 0
// all come up alike. math/rand's generator wants s > 1; what is seen in practice (and in YCSB, 0.99) lies below.
// A Zipf holds no state of its own and may be shared; the randomness is the caller's.
type Zipf struct {
	up []float64 // up[k] is the probability of a rank of at most k
}

// NewZipf makes the distribution of n ranks, 1 to 1,000,000, with exponent s, 0 to 10.
func NewZipf(n int, s float64) (*Zipf, error) {
	if n < 1 || n > maxRanks {
		return nil, fmt.Errorf("bench: %d shared keys; between 1 and %d", n, maxRanks)
	}
	if !(s >= 0 && s <= 10) {
		return nil, fmt.Errorf("bench: Zipf exponent %v; between 0 and 10", s)
	}
	z := &Zipf{up: make([]float64, n)}
	sum := 0.0
	for k := range z.up {
		sum += math.Pow(float64(k+1), -s)
		z.up[k] = sum
	}
	for k := range z.up {
		z.up[k] /= sum
	}
	z.up[n-1] = 1 // whatever rounding left
	return z, nil
}

// Draw returns a rank.
func (z *Zipf) Draw(r *rand.Rand) int {
	u := r.Float64() // below 1, so below the last entry
	return sort.Search(len(z.up), func(k int) bool { return z.up[k] > u })
}

// Probability is how likely a rank is.
func (z *Zipf) Probability(rank int) float64 {
	if rank == 0 {
		return z.up[0]
	}
	return z.up[rank] - z.up[rank-1]
}
