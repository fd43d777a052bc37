package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"tandem/client"
	"tandem/receipt"
)

// demoOperations are what a workflow consists of, in order; the steps are the requests that a handler answers.
var (
	demoSteps      = []string{"create", "scan", "validate", "quality-check", "label"}
	demoOperations = slices.Concat([]string{"open"}, demoSteps, []string{"commit", "workflow"})
)

// demoReport collects what `tandem demo` measures. With live set it prints each operation as it happens.
type demoReport struct {
	url      string
	about    client.Status
	live     io.Writer
	took     map[string][]time.Duration
	verified int
	fewest   int // endorsements of a step, of so many nodes
	of       int
	failures int
	first    error // the first failure
}

func newDemoReport(url string, about client.Status) *demoReport {
	return &demoReport{url: url, about: about, took: map[string][]time.Duration{}}
}

// measured notes one operation.
func (r *demoReport) measured(name string, took time.Duration, what string) {
	r.took[name] = append(r.took[name], took)
	if r.live != nil {
		fmt.Fprintf(r.live, "%-14s %9s ms  %s\n", name, milliseconds(took), what)
	}
}

// endorsed notes who has endorsed a step.
func (r *demoReport) endorsed(a *client.Answer) {
	if r.of == 0 || a.Endorsed < r.fewest {
		r.fewest = a.Endorsed
	}
	r.of = max(r.of, a.Of)
}

// fail notes a workflow that failed, or whose receipt did.
func (r *demoReport) fail(err error) {
	r.failures++
	if r.first == nil {
		r.first = err
	}
}

// receipt notes a receipt's verdict.
func (r *demoReport) receipt(proof *receipt.Proof, err error) {
	if err != nil {
		r.fail(fmt.Errorf("receipt: %w", err))
		if r.live != nil {
			fmt.Fprintf(r.live, "%-14s does not verify\n", "receipt")
		}
		return
	}
	r.verified++
	if r.live != nil {
		fmt.Fprintf(r.live, "%-14s verified offline: %d steps of %s, block %d signed by %d of %d validators (%d of %d votes)\n",
			"receipt", len(proof.Steps), proof.Actor.ID, proof.Height, proof.Signers, proof.Validators, proof.Power, proof.TotalPower)
	}
}

// demoResult is what --json prints. Times are in milliseconds.
type demoResult struct {
	URL            string         `json:"url"`
	ChainID        string         `json:"chain_id"`
	Validators     int            `json:"validators"`
	Layer2         int            `json:"layer2"`
	Workflows      int            `json:"workflows"` // committed
	Failures       int            `json:"failures"`
	FirstFailure   string         `json:"first_failure,omitempty"`
	Receipts       int            `json:"receipts_verified"`
	Endorsed       int            `json:"endorsements_least"` // of a step: so many nodes at least, whose signatures were verified
	EndorsedOf     int            `json:"endorsements_of"`    // of so many nodes
	StepMedian     float64        `json:"step_median_ms"`     // over all steps of all workflows
	CommitMedian   float64        `json:"commit_median_ms"`
	WorkflowMedian float64        `json:"workflow_median_ms"` // from before open to after commit
	Operations     []distribution `json:"operations"`
}

// distribution describes the latencies of one operation. Percentiles are by nearest rank.
type distribution struct {
	Name   string  `json:"name"`
	Count  int     `json:"count"`
	Min    float64 `json:"min_ms"`
	Median float64 `json:"median_ms"`
	Mean   float64 `json:"mean_ms"`
	P90    float64 `json:"p90_ms"`
	P95    float64 `json:"p95_ms"`
	P99    float64 `json:"p99_ms"`
	Max    float64 `json:"max_ms"`
}

// result sums up.
func (r *demoReport) result() demoResult {
	var steps []time.Duration
	for _, name := range demoSteps {
		steps = append(steps, r.took[name]...)
	}
	out := demoResult{
		URL: r.url, ChainID: r.about.ChainID, Validators: len(r.about.Validators), Layer2: len(r.about.Layer2),
		Workflows: len(r.took["workflow"]), Failures: r.failures, Receipts: r.verified,
		Endorsed: r.fewest, EndorsedOf: r.of,
		StepMedian:     distribute("step", steps).Median,
		CommitMedian:   distribute("commit", r.took["commit"]).Median,
		WorkflowMedian: distribute("workflow", r.took["workflow"]).Median,
	}
	if r.first != nil {
		out.FirstFailure = r.first.Error()
	}
	for _, name := range demoOperations {
		out.Operations = append(out.Operations, distribute(name, r.took[name]))
	}
	return out
}

// distribute describes latencies; of none, all is 0.
func distribute(name string, took []time.Duration) distribution {
	d := distribution{Name: name, Count: len(took)}
	if len(took) == 0 {
		return d
	}
	sorted := slices.Sorted(slices.Values(took))
	var sum time.Duration
	for _, t := range sorted {
		sum += t
	}
	rank := func(percent int) float64 { return millis(sorted[max((percent*len(sorted)+99)/100, 1)-1]) }
	d.Min, d.Max, d.Mean = millis(sorted[0]), millis(sorted[len(sorted)-1]), millis(sum/time.Duration(len(sorted)))
	d.P90, d.P95, d.P99 = rank(90), rank(95), rank(99)
	middle := len(sorted) / 2
	d.Median = millis(sorted[middle])
	if len(sorted)%2 == 0 {
		d.Median = millis((sorted[middle-1] + sorted[middle]) / 2)
	}
	return d
}

// millis is a duration in milliseconds, to the microsecond.
func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// count writes a number of things.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// writeHead prints which network this is.
func (r *demoReport) writeHead(w io.Writer) error {
	_, err := fmt.Fprintf(w, "network %s, chain %s, height %d: %s, %s\n",
		r.url, r.about.ChainID, r.about.Height, count(len(r.about.Validators), "validator"), count(len(r.about.Layer2), "Layer 2 node"))
	return err
}

// writeTable prints the distributions.
func (r *demoReport) writeTable(w io.Writer) error {
	if err := r.writeHead(w); err != nil {
		return err
	}
	out := r.result()
	if _, err := fmt.Fprintf(w, "%-14s %7s %9s %9s %9s %9s %9s %9s   (ms)\n", "operation", "count", "min", "median", "mean", "p90", "p99", "max"); err != nil {
		return err
	}
	for _, d := range out.Operations {
		if _, err := fmt.Fprintf(w, "%-14s %7d %9.3f %9.3f %9.3f %9.3f %9.3f %9.3f\n", d.Name, d.Count, d.Min, d.Median, d.Mean, d.P90, d.P99, d.Max); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "step median %.3f ms, commit median %.3f ms, workflow median %.3f ms, %d receipts verified, %d failures\n",
		out.StepMedian, out.CommitMedian, out.WorkflowMedian, out.Receipts, out.Failures)
	return err
}
