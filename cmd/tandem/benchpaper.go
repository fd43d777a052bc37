package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"tandem/internal/bench"
)

// newBenchPaperCommand is `tandem bench paper`.
func newBenchPaperCommand() *cobra.Command {
	var (
		o       bench.PaperOptions
		configs []string
		one     int
		asJSON  bool
	)
	var all []string
	for _, size := range bench.PaperSizes() {
		all = append(all, size.String())
	}
	cmd := &cobra.Command{
		Use:   "paper",
		Short: "Measure what the paper measured, and draw its figures with the paper's numbers beside",
		Long: `Starts a network for each configuration "validators-layer2nodes" and carries packages through the paper's workflow on it, one request
after the other: open a session, create, scan, validate, quality-check, label, commit. Between them, spread evenly, the same steps on one
layer: each step a session of its own that Layer 1 commits before the next. All nodes run on this machine, each a process of this program,
with their data on disk in a temporary folder (set TMPDIR to choose the disk) that is removed at the end.

Method: one client; each request is signed, each answer checked; a latency runs from before the signature to after the check; --warmup
workflows on each network are not counted; nothing pauses inside the measured time; a request that fails is a row, and its workflow is
counted as failed.

Writes into --out:
  requests.csv            a row for each request: config, iteration, step, layer, start, latency_ns, height, endorsements, error
  requests-one-layer.csv  the same for one layer
  summary.json            for each configuration medians, means, percentiles (ms), failures, CPU time (ms) and memory (bytes) per node
  *.svg                   the paper's figures, the paper's numbers dashed
  report.html             all of it in one file, with machine, versions and method

Ctrl-C keeps what has been measured and writes the files; the same command with --resume then measures only what is missing, on new
networks. It refuses to go on with what another version of this program has measured.

Exit code 1 if a workflow or a network failed, or after Ctrl-C.`,
		Example: `  tandem bench paper
  tandem bench paper -n 20 --configs 4-1,4-2 --out quick
  tandem bench paper --out quick --configs 4-1,4-2,7-1 -n 20 --resume`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sizes, err := bench.ParseSizes(configs)
			if err != nil {
				return misused("--configs: %v", err)
			}
			if o.Runs < 1 || o.Runs > 100_000 || o.Warmup < 0 || o.Warmup > 10_000 || one > 100_000 {
				return misused("-n %d --warmup %d --one-layer %d: from 1, 0 and 0 to 100000, 10000 and 100000", o.Runs, o.Warmup, one)
			}
			o.Sizes, o.OneLayer, o.Progress = sizes, one, cmd.ErrOrStderr()
			if one < 0 {
				o.OneLayer = (o.Runs + 3) / 4
			}
			summary, err := bench.Paper(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), summary)
			} else {
				err = printPaper(cmd.OutOrStdout(), summary, o.Out)
			}
			return errors.Join(err, paperVerdict(summary, o.Out))
		},
	}
	cmd.Flags().IntVarP(&o.Runs, "runs", "n", 100, "measured workflows on each network")
	cmd.Flags().StringSliceVar(&configs, "configs", all, "networks to measure: validators-layer2nodes")
	cmd.Flags().StringVar(&o.Out, "out", "bench-paper", "directory for the results")
	cmd.Flags().BoolVar(&o.InProcess, "in-process", false, "run all nodes in this process: less memory; CPU and memory are then told for all together")
	cmd.Flags().BoolVar(&o.Resume, "resume", false, "go on with the results in --out: measure only what is missing there")
	cmd.Flags().IntVar(&o.Warmup, "warmup", 5, "workflows on each network before, not counted")
	cmd.Flags().IntVar(&one, "one-layer", -1, "workflows on one layer on each network; -1: a quarter of -n, 0: none")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the summary as JSON")
	return cmd
}

// printPaper prints a line for each configuration.
func printPaper(w io.Writer, s *bench.PaperSummary, out string) error {
	if _, err := fmt.Fprintf(w, "%-8s %9s %9s %12s %12s %12s %12s %8s   (medians, ms)\n", "config", "workflows", "failures", "step", "commit", "workflow", "one layer", "ratio"); err != nil {
		return err
	}
	for _, size := range s.Listed() {
		c := s.Configs[size.String()]
		if _, err := fmt.Fprintf(w, "%-8s %9d %9d %12.3f %12.3f %12.3f %12.3f %8.2f   %s\n", size, c.Workflows, c.Failures+c.OneLayerFailures,
			c.StepMedian, c.CommitMedian, c.WorkflowMedian, c.OneLayer["workflow"].Median, c.OneLayerRatio, c.Error); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "report: %s\n", filepath.Join(out, "report.html"))
	return err
}

// paperVerdict is the command's error: what failed, or that it was interrupted.
func paperVerdict(s *bench.PaperSummary, out string) error {
	workflows, networks := s.Failures()
	switch {
	case s.Interrupted:
		return fmt.Errorf("interrupted: what was measured is in %s; the same command with --resume measures the rest", out)
	case workflows+networks > 0:
		return fmt.Errorf("%s failed, %s failed", count(workflows, "workflow"), count(networks, "network"))
	}
	return nil
}
