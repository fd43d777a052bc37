package main

import (
	"fmt"
	"io"
	"time"

	"tandem/client"
	"tandem/internal/bench"
	"tandem/receipt"
)

// demoReport collects what `tandem demo` measures. With live set it prints each operation as it happens.
type demoReport struct {
	url       string
	about     client.Status
	live      io.Writer
	iteration int // the workflow under way, from 1
	samples   []bench.Sample
	verified  int
	fewest    int // endorsements of a step, of so many nodes
	of        int
	failures  int
	first     error // the first failure
}

func newDemoReport(url string, about client.Status) *demoReport {
	return &demoReport{url: url, about: about}
}

// begin notes that a workflow begins.
func (r *demoReport) begin() { r.iteration++ }

// measured notes one operation of the workflow.
func (r *demoReport) measured(a bench.Sample) {
	a.Iteration = r.iteration
	r.samples = append(r.samples, a)
	if a.Err != "" {
		return
	}
	if a.Of > 0 {
		if r.of == 0 || a.Endorsements < r.fewest {
			r.fewest = a.Endorsements
		}
		r.of = max(r.of, a.Of)
	}
	r.tell(a.Operation, a.Latency, a.Detail)
}

// end notes how the workflow ended.
func (r *demoReport) end(err error) {
	if err != nil {
		r.fail(err)
		return
	}
	if took, _ := bench.Workflows(r.samples[len(r.samples)-len(bench.Operations):]); len(took) == 1 {
		r.tell("workflow", took[0], "")
	}
}

// tell prints an operation as it happens.
func (r *demoReport) tell(name string, took time.Duration, what string) {
	if r.live != nil {
		fmt.Fprintf(r.live, "%-14s %9s ms  %s\n", name, milliseconds(took), what)
	}
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
	URL            string          `json:"url"`
	ChainID        string          `json:"chain_id"`
	Validators     int             `json:"validators"`
	Layer2         int             `json:"layer2"`
	Workflows      int             `json:"workflows"` // committed
	Failures       int             `json:"failures"`
	FirstFailure   string          `json:"first_failure,omitempty"`
	Receipts       int             `json:"receipts_verified"`
	Endorsed       int             `json:"endorsements_least"` // of a step: so many nodes at least, whose signatures were verified
	EndorsedOf     int             `json:"endorsements_of"`    // of so many nodes
	StepMedian     float64         `json:"step_median_ms"`     // over all steps of all workflows
	CommitMedian   float64         `json:"commit_median_ms"`
	WorkflowMedian float64         `json:"workflow_median_ms"` // from before open to after commit
	Operations     []demoOperation `json:"operations"`
}

// demoOperation is the latencies of one operation.
type demoOperation struct {
	Name string `json:"name"`
	bench.Distribution
}

// result sums up.
func (r *demoReport) result() demoResult {
	took := func(keep func(bench.Sample) bool) bench.Distribution {
		return bench.Distribute(bench.Latencies(r.samples, keep))
	}
	workflows, _ := bench.Workflows(r.samples)
	whole := bench.Distribute(workflows)
	out := demoResult{
		URL: r.url, ChainID: r.about.ChainID, Validators: len(r.about.Validators), Layer2: len(r.about.Layer2),
		Workflows: whole.Count, Failures: r.failures, Receipts: r.verified,
		Endorsed: r.fewest, EndorsedOf: r.of,
		StepMedian:     took(func(a bench.Sample) bool { return bench.IsStep(a.Operation) }).Median,
		WorkflowMedian: whole.Median,
	}
	if r.first != nil {
		out.FirstFailure = r.first.Error()
	}
	for _, o := range bench.Operations {
		d := took(func(a bench.Sample) bool { return a.Operation == o.Name })
		out.Operations = append(out.Operations, demoOperation{o.Name, d})
		if o.Name == "commit" {
			out.CommitMedian = d.Median
		}
	}
	out.Operations = append(out.Operations, demoOperation{"workflow", whole})
	return out
}

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
