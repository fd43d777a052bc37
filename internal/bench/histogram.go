package bench

import (
	"fmt"
	"io"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Bounds of what a Histogram keeps: from 1 µs to 20 minutes with three digits. What is longer counts as 20 minutes.
const (
	shortest = time.Microsecond
	longest  = 20 * time.Minute
	digits   = 3
)

// Histogram is an HDR histogram of latencies: it takes any number of them in a fixed amount of memory and keeps each
// percentile right to three digits, the far ones too. It is not safe for concurrent use.
type Histogram struct{ h *hdrhistogram.Histogram }

// NewHistogram makes an empty one.
func NewHistogram() *Histogram {
	return &Histogram{hdrhistogram.New(1, int64(longest/shortest), digits)}
}

// Record counts one latency.
func (l *Histogram) Record(d time.Duration) {
	// In range by construction, so RecordValue has no error to give.
	_ = l.h.RecordValue(int64(min(max(d, shortest), longest) / shortest))
}

// Merge adds all that other has counted.
func (l *Histogram) Merge(other *Histogram) { l.h.Merge(other.h) }

// Count is how many were recorded.
func (l *Histogram) Count() int64 { return l.h.TotalCount() }

// At is the latency, in ms, that a share of all, in percent, did not exceed; 0 if nothing was recorded.
func (l *Histogram) At(percent float64) float64 { return micros(l.h.ValueAtPercentile(percent)) }

// Percentiles sums up under a name.
func (l *Histogram) Percentiles(name string) Percentiles {
	return Percentiles{
		Name: name, Count: l.Count(), Mean: l.h.Mean() / 1000,
		P50: l.At(50), P90: l.At(90), P99: l.At(99), P999: l.At(99.9), Max: micros(l.h.Max()),
	}
}

// WriteHGRM writes the percentile distribution in HdrHistogram's text form (.hgrm), in ms, as its plotters read it.
func (l *Histogram) WriteHGRM(w io.Writer) error {
	_, err := l.h.PercentilesPrint(w, 5, float64(time.Millisecond/shortest))
	if err != nil {
		return fmt.Errorf("bench: percentiles: %w", err)
	}
	return nil
}

// Curve is the latency, in ms, by percentile, at the percentiles where it changes: X is 1/(1 - percentile/100), that is
// "one in so many is slower", which spreads the far percentiles out on a logarithmic axis.
func (l *Histogram) Curve() []Point {
	var points []Point
	for _, b := range l.h.CumulativeDistributionWithTicks(5) {
		if b.Quantile < 100 && b.Count > 0 {
			points = append(points, Point{X: 1 / (1 - b.Quantile/100), Y: micros(b.ValueAt)})
		}
	}
	return points
}

// micros turns µs into ms.
func micros(n int64) float64 { return float64(n) / 1000 }

// Percentiles describes the latencies of one operation, in ms.
type Percentiles struct {
	Name  string  `json:"name"`
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p99_9_ms"`
	Max   float64 `json:"max_ms"`
}
