package bench

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestZipfFollowsItsLaw: rank k comes up in proportion to 1/(k+1)^s, for exponents below 1 too, and each draw is a rank.
func TestZipfFollowsItsLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 2000).Draw(t, "n")
		s := rapid.Float64Range(0, 4).Draw(t, "s")
		z, err := NewZipf(n, s)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		for k := range n {
			p := z.Probability(k)
			sum += p
			if want := z.Probability(0) * math.Pow(float64(k+1), -s); math.Abs(p-want) > 1e-9 {
				t.Fatalf("rank %d has probability %v, the law says %v", k, p, want)
			}
		}
		if math.Abs(sum-1) > 1e-9 {
			t.Fatalf("the probabilities add up to %v", sum)
		}
		seed := rapid.Uint64().Draw(t, "seed")
		a, b := stream(seed, 1), stream(seed, 1)
		for range 50 {
			k := z.Draw(a)
			if k < 0 || k >= n {
				t.Fatalf("rank %d of %d", k, n)
			}
			if again := z.Draw(b); again != k {
				t.Fatalf("the same seed drew %d and %d", k, again)
			}
		}
	})
}

// TestZipfDrawsAsOftenAsItSays: over many draws of one seed each rank's share is near its probability.
func TestZipfDrawsAsOftenAsItSays(t *testing.T) {
	for _, s := range []float64{0, 0.99, 2} {
		z, err := NewZipf(50, s)
		if err != nil {
			t.Fatal(err)
		}
		const draws = 200_000
		seen := make([]float64, 50)
		for r := stream(1, uint64(s*100)); seen[0]+rest(seen) < draws; {
			seen[z.Draw(r)]++
		}
		for k := range seen {
			p := z.Probability(k)
			if sigma := math.Sqrt(p * (1 - p) / draws); math.Abs(seen[k]/draws-p) > 5*sigma+1e-9 {
				t.Errorf("exponent %v: rank %d came up with share %v, not %v", s, k, seen[k]/draws, p)
			}
		}
	}
}

func rest(all []float64) (sum float64) {
	for _, n := range all[1:] {
		sum += n
	}
	return sum
}

// TestZipfRefuses what is no distribution.
func TestZipfRefuses(t *testing.T) {
	for _, c := range []struct {
		n int
		s float64
	}{{0, 1}, {maxRanks + 1, 1}, {10, -0.1}, {10, 11}, {10, math.NaN()}} {
		if _, err := NewZipf(c.n, c.s); err == nil {
			t.Errorf("NewZipf(%d, %v) gave no error", c.n, c.s)
		}
	}
}

// TestArrivals: moments ascend, the same seed gives the same, a constant rate keeps its step without drift, and Poisson's
// gaps have the mean and the spread of an exponential distribution (both are 1/rate).
func TestArrivals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]string{Poisson, Constant}).Draw(t, "kind")
		rate := rapid.Float64Range(0.1, 5000).Draw(t, "rate")
		seed := rapid.Uint64().Draw(t, "seed")
		a, err := NewArrivals(kind, rate, stream(seed, 0))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := NewArrivals(kind, rate, stream(seed, 0))
		const n = 4000
		last, sum, squares := time.Duration(0), 0.0, 0.0
		for k := range n {
			at := a.Next()
			if again := b.Next(); again != at {
				t.Fatalf("the same seed gave %v and %v", at, again)
			}
			if at < last {
				t.Fatalf("arrival %d at %v comes after one at %v", k, at, last)
			}
			gap := (at - last).Seconds() * rate
			sum, squares, last = sum+gap, squares+gap*gap, at
			if want := float64(k) / rate * 1e9; kind == Constant && math.Abs(float64(at)-want) > 1 {
				t.Fatalf("arrival %d at %v, not at %v ns", k, at, want)
			}
		}
		if kind == Constant {
			return
		}
		mean := sum / n
		spread := math.Sqrt(squares/n - mean*mean)
		if math.Abs(mean-1) > 0.12 || math.Abs(spread-1) > 0.25 {
			t.Fatalf("gaps times rate have mean %v and standard deviation %v, both should be near 1", mean, spread)
		}
	})
}

// TestArrivalsRefuses what is no rate and no kind.
func TestArrivalsRefuses(t *testing.T) {
	for _, rate := range []float64{0, -1, math.NaN(), 2e6} {
		if _, err := NewArrivals(Poisson, rate, stream(0, 0)); err == nil {
			t.Errorf("a rate of %v gave no error", rate)
		}
	}
	if _, err := NewArrivals("bursts", 1, stream(0, 0)); err == nil {
		t.Error("an unknown kind gave no error")
	}
}

// TestShelf: without sharing no two sessions get one package; with sharing those at one place do until it is gone, and
// saying twice that it is gone takes one away.
func TestShelf(t *testing.T) {
	own := newShelf("R", 0)
	if a, b := own.take(0), own.take(0); a.Reference == b.Reference {
		t.Errorf("two sessions got package %s", a.Reference)
	}
	s := newShelf("R", 3)
	a, b, other := s.take(1), s.take(1), s.take(2)
	if a.Reference != b.Reference || a.Reference == other.Reference {
		t.Errorf("places 1, 1, 2 hold %s, %s, %s", a.Reference, b.Reference, other.Reference)
	}
	s.gone(a)
	next := s.take(1)
	s.gone(b) // a late loser
	if again := s.take(1); next.Reference == a.Reference || again.Reference != next.Reference {
		t.Errorf("after %s is gone the place holds %s, then %s", a.Reference, next.Reference, again.Reference)
	}
}

// TestFitGrowth finds the exponent and the coefficient that points were made with.
func TestFitGrowth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := rapid.Float64Range(-2, 3).Draw(t, "exponent")
		c := rapid.Float64Range(0.01, 1000).Draw(t, "coefficient")
		n := rapid.IntRange(2, 8).Draw(t, "points")
		var points []Point
		for k := range n {
			x := math.Pow(3, float64(k+1))
			points = append(points, Point{x, c * math.Pow(x, e)})
		}
		g, err := FitGrowth(points)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(g.Exponent-e) > 1e-6 || math.Abs(g.Coefficient/c-1) > 1e-6 {
			t.Fatalf("%v * x^%v was fitted as %v * x^%v", c, e, g.Coefficient, g.Exponent)
		}
		if want := points[n-1].Y / points[0].Y; math.Abs(g.Ratio/want-1) > 1e-9 {
			t.Fatalf("ratio %v, not %v", g.Ratio, want)
		}
	})
}

// TestGrowthInWords: what a reader is told.
func TestGrowthInWords(t *testing.T) {
	for _, c := range []struct {
		exponent float64
		words    string
	}{
		{0, "constant"}, {0.005, "constant"}, {0.05, "~ n^0.05 (1.58x over the axis)"}, {0.3, "~ n^0.3"}, {0.95, "~ n (linear)"},
		{1.5, "~ n^1.5"}, {2.02, "~ n^2 (quadratic)"}, {-0.5, "~ n^-0.5"},
	} {
		var points []Point
		for _, x := range []float64{1, 10, 100, 1000, 10_000} {
			points = append(points, Point{x, math.Pow(x, c.exponent)})
		}
		g, err := FitGrowth(points)
		if err != nil || g.Words != c.words {
			t.Errorf("exponent %v: %q, %v; want %q", c.exponent, g.Words, err, c.words)
		}
	}
	for _, points := range [][]Point{nil, {{1, 1}}, {{1, 1}, {1, 2}}, {{0, 1}, {1, 1}}, {{1, 0}, {2, 1}}, {{1, math.Inf(1)}, {2, 1}}} {
		if g, err := FitGrowth(points); err == nil {
			t.Errorf("%v was fitted: %+v", points, g)
		}
	}
}

// TestRampFindsTheKnee: against networks that do so much and no more, the ramp comes near the most, ends, and never repeats
// a load.
func TestRampFindsTheKnee(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := rapid.Bool().Draw(t, "closed")
		capacity := rapid.Float64Range(5, 3000).Draw(t, "capacity")
		each := capacity / rapid.Float64Range(1, 200).Draw(t, "knee") // what one client gets done alone
		collapse := rapid.Float64Range(0, 0.3).Draw(t, "collapse")    // what overload costs
		rate := func(load float64) float64 {
			if whole {
				load *= each
			}
			if load <= capacity {
				return load
			}
			return capacity * (1 - collapse*(1-capacity/load))
		}
		var done []rung
		best := 0.0
		for {
			load, more := nextLoad(done, 1, 4096, whole)
			if !more {
				break
			}
			if len(done) > 40 {
				t.Fatalf("no end: %v", done)
			}
			for _, r := range done {
				if r.Load == load {
					t.Fatalf("load %v twice: %v", load, done)
				}
			}
			if whole && load != math.Round(load) || load < 1 || load > 4096 {
				t.Fatalf("load %v", load)
			}
			done = append(done, rung{load, rate(load)})
			best = max(best, rate(load))
		}
		if best < 0.69*min(capacity, rate(4096), capacity) && best < 0.69*capacity*(1-collapse) {
			t.Fatalf("found %v of %v: %v", best, capacity, done)
		}
	})
}
