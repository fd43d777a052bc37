package bench

import (
	"testing"
	"time"
)

// Percentiles are by nearest rank, the median of an even number is between the middle two, and nothing is divided by
// zero.
func TestDistribute(t *testing.T) {
	ms := func(values ...int) (all []time.Duration) {
		for _, v := range values {
			all = append(all, time.Duration(v)*time.Millisecond)
		}
		return all
	}
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = 100 - i
	}
	for _, c := range []struct {
		took []time.Duration
		want Distribution
	}{
		{nil, Distribution{}},
		{ms(7), Distribution{1, 7, 7, 7, 7, 7, 7, 7}},
		{ms(4, 1), Distribution{2, 1, 2.5, 2.5, 4, 4, 4, 4}},
		{ms(3, 9, 1), Distribution{3, 1, 3, 4.333, 9, 9, 9, 9}},
		{ms(hundred...), Distribution{100, 1, 50.5, 50.5, 90, 95, 99, 100}},
	} {
		if got := Distribute(c.took); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.took, got, c.want)
		}
	}
}
