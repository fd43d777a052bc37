package testnet_test

import (
	"testing"
	"time"
)

// BenchmarkWorkflow carries one package through the paper's workflow at 4-1, over HTTP with custody, commit included. It
// reports what a step and a commit take on average, and is what to profile: -bench Workflow -cpuprofile cpu.out.
func BenchmarkWorkflow(b *testing.B) {
	w := start(b, demo(4, 1))
	layer2 := web{w.URLs()[0]}
	ctx := within(b, 10*time.Minute)
	var steps, commits time.Duration
	for b.Loop() {
		begin := time.Now()
		session, _, err := layer2.prepare(ctx)
		if err != nil {
			b.Fatal(err)
		}
		prepared := time.Now()
		if _, err := layer2.commit(ctx, session); err != nil {
			b.Fatal(err)
		}
		steps += prepared.Sub(begin)
		commits += time.Since(prepared)
	}
	const perSession = 6 // open, create, scan, validate, quality check, label
	b.ReportMetric(float64(steps.Microseconds())/1000/float64(b.N)/perSession, "ms/step")
	b.ReportMetric(float64(commits.Microseconds())/1000/float64(b.N), "ms/commit")
}
