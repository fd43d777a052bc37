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

// crowd has so many clients make so many steps each, all at once, and returns the times of the steps answered, and how many
// requests were refused as an outage. Every other end of a request is an error.
func crowd(ctx context.Context, t testing.TB, w *testnet.Network, clients, each int) (took []time.Duration, refused int, errs []error) {
	transport := &http.Transport{MaxIdleConnsPerHost: clients, MaxConnsPerHost: 0}
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
			mine, err := steps(ctx, c, each)
			var problem *client.Problem
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
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
	return took, refused, errs
}

// TestCrowd: 1,000 concurrent sessions: every request ends with an answer or is shed as overloaded; none ends in silence.
func TestCrowd(t *testing.T) {
	w := start(t, demo(1, 2))
	took, refused, errs := crowd(within(t, 90*time.Second), t, w, 1000, 3)
	if len(errs) > 0 {
		t.Errorf("%d of 1000 sessions ended in silence or worse, such as: %v", len(errs), errs[0])
	}
	if len(took) == 0 {
		t.Fatal("no step was answered")
	}
	t.Logf("%d steps answered, p50 %s, p99 %s; %d sessions refused as overloaded", len(took), quantile(took, 0.5), quantile(took, 0.99), refused)
}

// BenchmarkClusterCrowd: the p99 of a step with 1,000 concurrent sessions.
func BenchmarkClusterCrowd(b *testing.B) {
	w := start(b, demo(1, 2))
	each := max(3, b.N/1000)
	b.ResetTimer()
	took, refused, errs := crowd(b.Context(), b, w, 1000, each)
	if len(errs) > 0 {
		b.Fatal(errs[0])
	}
	b.ReportMetric(float64(quantile(took, 0.5).Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(quantile(took, 0.99).Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(refused), "refused")
}
