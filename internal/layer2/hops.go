package layer2

import (
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

// longestHop is the mean time for which goroutines may wait for a processor before nobody is let in: a step has dozens of
// such waits, and takes some 20 ms then. mostReady is how many goroutines may wait at one moment, for each processor: the mean, of a
// few milliseconds ago, does not know yet of a thousand requests that have just arrived.
const (
	longestHop = 300 * time.Microsecond
	mostReady  = 32
)

// hops measures from the runtime's own books whether processors are what this process waits for: how long goroutines waited for
// one before they ran, the mean over the last few milliseconds, and how many are waiting. Safe for concurrent use.
type hops struct {
	read   atomic.Int64 // when, in nanoseconds since the start
	mean   atomic.Int64 // nanoseconds
	ready  atomic.Int64 // goroutines
	mu     sync.Mutex   // held while reading; guards what follows
	sample [2]metrics.Sample
	before []uint64 // the histogram's counts at the last reading
}

var processStart = time.Now()

// hopWindow is what a mean is taken over, at least.
const hopWindow = 2 * time.Millisecond

// long reports whether goroutines wait for long.
func (h *hops) long() bool {
	now := int64(time.Since(processStart))
	if now-h.read.Load() >= int64(hopWindow) && h.mu.TryLock() {
		defer h.mu.Unlock()
		h.sample[0].Name, h.sample[1].Name = "/sched/latencies:seconds", "/sched/goroutines/runnable:goroutines"
		metrics.Read(h.sample[:])
		if v := h.sample[0].Value; v.Kind() == metrics.KindFloat64Histogram {
			h.take(v.Float64Histogram())
		}
		if v := h.sample[1].Value; v.Kind() == metrics.KindUint64 {
			h.ready.Store(int64(v.Uint64()))
		}
		h.read.Store(now)
	}
	return time.Duration(h.mean.Load()) > longestHop || h.ready.Load() > int64(mostReady*runtime.GOMAXPROCS(0))
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
