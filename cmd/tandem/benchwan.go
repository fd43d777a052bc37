package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/internal/bench"
	"tandem/internal/bench/distance"
	"tandem/internal/bench/link"
)

// distanceFlags say where nodes and client are; `tandem bench wan` and `tandem plan` share them.
type distanceFlags struct {
	matrices       []string
	delays         []time.Duration
	client, jitter time.Duration
	loss, mbit     float64
	printMatrix    bool
}

func (f *distanceFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.matrices, "matrix", nil, `TOML file with sites and the delays between them ("continents": the built-in one, which --print-matrix prints)`)
	cmd.Flags().DurationSliceVar(&f.delays, "delay", nil, "one-way delay between any two nodes, the same everywhere")
	cmd.Flags().DurationVar(&f.client, "client-delay", time.Millisecond, "with --delay: one-way delay between the client and each node")
	cmd.Flags().BoolVar(&f.printMatrix, "print-matrix", false, "print the built-in matrix, with every key explained, and do nothing else")
}

// scenarios reads the distances; builtin is used if none are given.
func (f *distanceFlags) scenarios(builtin bool) ([]bench.Scenario, error) {
	var all []bench.Scenario
	for _, name := range f.matrices {
		s, err := readMatrix(name)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	for _, d := range f.delays {
		m, err := distance.Uniform(link.Conditions{Delay: d, Jitter: f.jitter, Loss: f.loss, Bandwidth: int64(f.mbit * 125_000)}, link.Conditions{Delay: f.client})
		if err != nil {
			return nil, misused("--delay %s: %v", d, err)
		}
		all = append(all, bench.Scenario{Name: d.String(), Map: m})
	}
	if len(all) == 0 && builtin {
		all = append(all, bench.Scenario{Name: "continents", Map: distance.Continents()})
	}
	names := map[string]bool{bench.LocalScenario: true}
	for _, s := range all {
		if names[s.Name] {
			return nil, misused("two sets of distances are called %s", s.Name)
		}
		names[s.Name] = true
	}
	return all, nil
}

func readMatrix(name string) (bench.Scenario, error) {
	if name == "continents" {
		return bench.Scenario{Name: name, Map: distance.Continents()}, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return bench.Scenario{}, err
	}
	m, err := distance.Parse(text)
	if err != nil {
		return bench.Scenario{}, fmt.Errorf("%s: %w", name, err)
	}
	return bench.Scenario{Name: strings.TrimSuffix(filepath.Base(name), ".toml"), Map: m}, nil
}

// newBenchWANCommand is `tandem bench wan`.
func newBenchWANCommand() *cobra.Command {
	var (
		o      bench.WANOptions
		f      distanceFlags
		config string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "wan",
		Short: "Measure the workflow over emulated distances: steps stay local, only the commit pays",
		Long: `Starts a network and carries packages through the paper's workflow while its nodes seem to be far apart: every connection between two
nodes, and from the client to a Layer 2 node, goes through a TCP proxy of this process that hands each byte on after the way's one-way
delay. No privileges are needed. Without --matrix or --delay it emulates four validators on four continents, the Layer 2 node and its
client in Frankfurt. Several distances are measured in one run, in turns, always beside "local": the same network and proxies without
distance between nodes.

Method: one network; --rounds rounds, in each of which each set of distances has its turn; after each change one workflow is not counted.
Requests are signed, answers checked; nothing pauses inside the measured time; failures are counted. Before a workflow in a session it
waits until the ledger is quiet, since a commit right after another one waits for the block between them (--busy). Beside each figure stands what
distance alone must cost: a step the round trips to the Layer 2 node (and between Layer 2 nodes, if two have to endorse it), a commit the
ways of transaction, proposal, prevotes and precommits, with the real proposer of each block.

Proxies keep order and are no brake (delay does not lower the throughput); jitter is even and seeded (--seed); a lost segment costs one
retransmission timeout, the round trip + 200 ms, as on a quiet TCP connection; there is no congestion control.

Writes into --out: requests.csv (a row for each request, latency in ns), summary.json (times in ms), latency.svg, workflow.svg, distance.svg
and report.html. Ctrl-C keeps what has been measured and writes the files. Exit code 1 if a workflow failed, or after Ctrl-C.`,
		Example: `  tandem bench wan
  tandem bench wan --delay 10ms,50ms,100ms -n 20
  tandem bench wan --config 7-1 --delay 40ms --jitter 4ms --loss 0.001
  tandem bench wan --print-matrix > mine.toml && tandem bench wan --matrix mine.toml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.printMatrix {
				_, err := io.WriteString(cmd.OutOrStdout(), distance.ContinentsTOML())
				return err
			}
			if n, err := fmt.Sscanf(config, "%d-%d", &o.Validators, &o.Layer2); n != 2 || err != nil || fmt.Sprintf("%d-%d", o.Validators, o.Layer2) != config ||
				o.Validators < 1 || o.Layer2 < 1 || o.Validators+o.Layer2 > 32 {
				return misused("--config %q is none such as 4-1: validators, then Layer 2 nodes, at least one of each, at most 32 together", config)
			}
			if o.Runs < 1 || o.Runs > 100_000 || o.OneLayer < 0 || o.OneLayer > 100_000 || o.Rounds < 1 || o.Rounds > 1000 {
				return misused("-n %d --one-layer %d --rounds %d: from 1, 0 and 1 to 100000, 100000 and 1000", o.Runs, o.OneLayer, o.Rounds)
			}
			if len(f.delays) == 0 && (f.jitter != 0 || f.loss != 0 || f.mbit != 0) {
				return misused("--jitter, --loss and --mbit go with --delay; a matrix has its own")
			}
			var err error
			if o.Scenarios, err = f.scenarios(true); err != nil {
				return err
			}
			o.Progress = cmd.ErrOrStderr()
			summary, err := bench.WAN(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), summary)
			} else {
				err = printWAN(cmd.OutOrStdout(), summary, o.Out)
			}
			return errors.Join(err, wanVerdict(summary, o.Out))
		},
	}
	cmd.Flags().StringVar(&config, "config", "4-1", "the network: validators-layer2nodes")
	f.add(cmd)
	cmd.Flags().DurationVar(&f.jitter, "jitter", 0, "with --delay: each delay is drawn evenly from so much less to so much more")
	cmd.Flags().Float64Var(&f.loss, "loss", 0, "with --delay: probability that a segment between nodes is lost, 0 to 0.5")
	cmd.Flags().Float64Var(&f.mbit, "mbit", 0, "with --delay: bandwidth of each connection between nodes, megabits per second; 0: unlimited")
	cmd.Flags().IntVarP(&o.Runs, "runs", "n", 50, "measured workflows for each set of distances")
	cmd.Flags().IntVar(&o.OneLayer, "one-layer", 10, "workflows on one layer for each set of distances; 0: none")
	cmd.Flags().IntVar(&o.Rounds, "rounds", 5, "in how many turns")
	cmd.Flags().BoolVar(&o.Busy, "busy", false, "begin each workflow right after the one before, without waiting until the ledger is quiet")
	cmd.Flags().Uint64Var(&o.Seed, "seed", 1, "decides jitter and loss")
	cmd.Flags().StringVar(&o.Out, "out", "bench-wan", "directory for the results; it must not hold any")
	cmd.Flags().BoolVar(&o.InProcess, "in-process", false, "run all nodes in this process")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the summary as JSON")
	return cmd
}

// printWAN prints a line for each set of distances.
func printWAN(w io.Writer, s *bench.WANSummary, out string) error {
	if _, err := fmt.Fprintf(w, "%-12s %9s %8s %9s %9s %9s %9s %9s %9s %9s %10s %9s %6s   (medians, ms)\n", "distances", "workflows", "failures",
		"step", "at least", "- local", "commit", "at least", "over it", "/ local", "workflow", "1 layer", "ratio"); err != nil {
		return err
	}
	for _, c := range s.Scenarios {
		if _, err := fmt.Fprintf(w, "%-12s %9d %8d %9.3f %9.3f %9.3f %9.2f %9.2f %9.2f %9.2f %10.2f %9.1f %6.2f\n", c.Name, c.Workflows, c.Failures+c.OneLayerFailures,
			c.StepMedian, c.StepFloor, c.StepOverLocal, c.CommitMedian, c.CommitFloor, c.CommitOverFloor, c.CommitRatio,
			c.WorkflowMedian, c.OneLayerWorkflowMedian, c.OneLayerRatio); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "report: %s\n", filepath.Join(out, "report.html"))
	return err
}

// wanVerdict is the command's error: what failed, or that it was interrupted.
func wanVerdict(s *bench.WANSummary, out string) error {
	switch failed := s.Failures(); {
	case s.Interrupted:
		return fmt.Errorf("interrupted: what was measured is in %s", out)
	case s.Error != "":
		return fmt.Errorf("the measurement ended early: %s; what was measured is in %s", s.Error, out)
	case failed > 0:
		return fmt.Errorf("%s failed", count(failed, "workflow"))
	}
	return nil
}
