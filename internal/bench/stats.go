package bench

import (
	"slices"
	"time"
)

// Distribution describes latencies, in milliseconds to the microsecond. Percentiles are by nearest rank; the median of an
// even number is between the middle two. Of nothing, all is 0.
type Distribution struct {
	Count  int     `json:"count"`
	Min    float64 `json:"min_ms"`
	Median float64 `json:"median_ms"`
	Mean   float64 `json:"mean_ms"`
	P90    float64 `json:"p90_ms"`
	P95    float64 `json:"p95_ms"`
	P99    float64 `json:"p99_ms"`
	Max    float64 `json:"max_ms"`
}

// Distribute describes latencies. It does not change took.
func Distribute(took []time.Duration) Distribution {
	d := Distribution{Count: len(took)}
	if len(took) == 0 {
		return d
	}
	sorted := slices.Sorted(slices.Values(took))
	var sum time.Duration
	for _, t := range sorted {
		sum += t
	}
	rank := func(percent int) float64 { return Millis(sorted[max((percent*len(sorted)+99)/100, 1)-1]) }
	d.Min, d.Max, d.Mean = Millis(sorted[0]), Millis(sorted[len(sorted)-1]), Millis(sum/time.Duration(len(sorted)))
	d.P90, d.P95, d.P99 = rank(90), rank(95), rank(99)
	middle := len(sorted) / 2
	d.Median = Millis(sorted[middle])
	if len(sorted)%2 == 0 {
		d.Median = Millis((sorted[middle-1] + sorted[middle]) / 2)
	}
	return d
}

// Millis is a duration in milliseconds, to the microsecond.
func Millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Latencies are the latencies of the samples that keep says yes to and that did not fail.
func Latencies(samples []Sample, keep func(Sample) bool) []time.Duration {
	var took []time.Duration
	for _, a := range samples {
		if a.Err == "" && keep(a) {
			took = append(took, a.Latency)
		}
	}
	return took
}

// Workflows are the durations of the whole workflows among samples of one configuration, from the start of the first
// operation to the end of the last, in the order in which they ended; failed counts those in which an operation failed.
func Workflows(samples []Sample) (took []time.Duration, failed int) {
	type span struct {
		start, end time.Time
		failed     bool
	}
	spans := map[int]*span{}
	var order []int
	for _, a := range samples {
		end := a.Start.Add(a.Latency)
		s := spans[a.Iteration]
		if s == nil {
			s = &span{start: a.Start, end: end}
			spans[a.Iteration] = s
			order = append(order, a.Iteration)
		}
		if a.Start.Before(s.start) {
			s.start = a.Start
		}
		if end.After(s.end) {
			s.end = end
		}
		s.failed = s.failed || a.Err != ""
	}
	for _, i := range order {
		if s := spans[i]; s.failed {
			failed++
		} else {
			took = append(took, s.end.Sub(s.start))
		}
	}
	return took, failed
}
