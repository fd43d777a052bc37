package testnet_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"tandem/client"
	"tandem/examples/supplychain"
	"tandem/internal/testnet"
)

// The numbers, as `go test -run '^$' -bench Cluster ./internal/testnet/`: whole nodes in one process, over loopback HTTP and
// gRPC, data on disk.

// steps makes n steps in a session of its own and returns how long each took.
func steps(ctx context.Context, c *client.Client, n int) ([]time.Duration, error) {
	s, err := c.Open(ctx)
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	for range n {
		begin := time.Now()
		a, err := s.Call(ctx, "GET", "/suppliers/SUP-001", "", nil)
		if err != nil {
			return took, err
		}
		if a.Status != http.StatusOK {
			return took, fmt.Errorf("%d %s", a.Status, a.Body)
		}
		took = append(took, time.Since(begin))
	}
	return took, nil
}

func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)-1, int(q*float64(len(all))))]
}

// BenchmarkClusterStep: the median of a step with 1, 2 and 3 Layer 2 nodes; each answer waits for two endorsements if there are two
// nodes. Target: two nodes at most 1.5 times one.
func BenchmarkClusterStep(b *testing.B) {
	for _, nodes := range []int{1, 2, 3} {
		b.Run(fmt.Sprintf("layer2=%d", nodes), func(b *testing.B) {
			w := start(b, demo(1, nodes))
			c := operatorAt(b, w.Dir(), w.URLs()...)
			if _, err := steps(b.Context(), c, 50); err != nil { // warm, and connected
				b.Fatal(err)
			}
			var all []time.Duration
			b.ResetTimer()
			for len(all) < b.N {
				took, err := steps(b.Context(), c, min(200, b.N-len(all)))
				if err != nil {
					b.Fatal(err)
				}
				all = append(all, took...)
			}
			b.ReportMetric(float64(quantile(all, 0.5).Microseconds()), "median-µs")
			b.ReportMetric(float64(quantile(all, 0.99).Microseconds()), "p99-µs")
		})
	}
}

// stopwatch times each request with a Tandem-Session: those that were answered and those that were shed with 503 and Retry-After. It
// stands at the network, so that a client's pause before it comes back counts as what it is.
type stopwatch struct {
	*http.Transport
	mu             sync.Mutex
	answered, shed []time.Duration
}

// RoundTrip implements http.RoundTripper.
func (w *stopwatch) RoundTrip(r *http.Request) (*http.Response, error) {
	begin := time.Now()
	res, err := w.Transport.RoundTrip(r)
	if took := time.Since(begin); err == nil && r.Header.Get("Tandem-Session") != "" {
		w.mu.Lock()
		if res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") != "" {
			w.shed = append(w.shed, took)
		} else {
			w.answered = append(w.answered, took)
		}
		w.mu.Unlock()
	}
	return res, err
}

// crowd has so many clients make so many steps each, all at once. It returns the time of each request that was answered and of each
// that was shed, and how many sessions gave up because they were shed for too long. Every other end of a session is an error.
func crowd(ctx context.Context, t testing.TB, w *testnet.Network, clients, each int) (transport *stopwatch, refused int, errs []error) {
	transport = &stopwatch{Transport: &http.Transport{MaxIdleConnsPerHost: clients, MaxConnsPerHost: 0}}
	t.Cleanup(transport.CloseIdleConnections)
	genesis, err := os.ReadFile(testnet.GenesisFile(w.Dir()))
	if err != nil {
		t.Fatal(err)
	}
	key, err := client.KeyFromSeed(supplychain.DemoKey("OPR-001").Seed())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range clients {
		urls := w.URLs()
		c, err := client.New(client.Config{
			URLs: append(urls[i%len(urls):], urls[:i%len(urls)]...), Key: key, Genesis: genesis, HTTP: &http.Client{Transport: transport}, Patience: 20 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			_, err := steps(ctx, c, each)
			var problem *client.Problem
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
			case errors.As(err, &problem) && problem.Outage() && problem.Status == http.StatusServiceUnavailable:
				refused++
			default:
				errs = append(errs, err)
			}
		})
	}
	all.Wait()
	return transport, refused, errs
}

// TestCrowd: 1,000 concurrent sessions: every request ends with an answer or is shed as overloaded; none ends in silence, and every
// session gets through in the end.
func TestCrowd(t *testing.T) {
	w := start(t, demo(1, 2))
	at, refused, errs := crowd(within(t, 90*time.Second), t, w, 1000, 3)
	if len(errs) > 0 {
		t.Errorf("%d of 1000 sessions ended in silence or worse, such as: %v", len(errs), errs[0])
	}
	if len(at.answered)+len(at.shed) == 0 || refused == 0 && len(at.answered) < 3000 {
		t.Fatalf("%d steps were answered and %d shed, and nobody was refused", len(at.answered), len(at.shed))
	}
	t.Logf("%d steps answered, p50 %s, p99 %s; %d requests shed, p99 %s; %d sessions gave up", len(at.answered), quantile(at.answered, 0.5),
		quantile(at.answered, 0.99), len(at.shed), quantile(at.shed, 0.99), refused)
}

// BenchmarkClusterCrowd: 1,000 concurrent sessions without a pause of their own, at once from the first moment: what an answered step
// takes, and how soon a request that is too much is shed.
func BenchmarkClusterCrowd(b *testing.B) {
	w := start(b, demo(1, 2))
	each := max(3, b.N/1000)
	b.ResetTimer()
	at, refused, errs := crowd(b.Context(), b, w, 1000, each)
	if len(errs) > 0 {
		b.Fatal(errs[0])
	}
	ms := func(all []time.Duration, q float64) float64 { return float64(quantile(all, q).Microseconds()) / 1000 }
	b.ReportMetric(ms(at.answered, 0.5), "p50-ms")
	b.ReportMetric(ms(at.answered, 0.99), "p99-ms")
	b.ReportMetric(float64(len(at.answered)), "answered")
	b.ReportMetric(ms(at.shed, 0.99), "shed-p99-ms")
	b.ReportMetric(float64(len(at.shed)), "shed")
	b.ReportMetric(float64(refused), "gave-up")
}
