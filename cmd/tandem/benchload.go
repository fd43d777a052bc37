package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/internal/bench"
)

// benchNetwork are the flags that describe the network of a measurement.
type benchNetwork struct {
	validators, layer2 int
	inProcess          bool
	dir                string
}

func (f *benchNetwork) add(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.validators, "validators", 4, "validators of the network")
	cmd.Flags().IntVar(&f.layer2, "layer2", 1, "Layer 2 nodes of the network")
	cmd.Flags().BoolVar(&f.inProcess, "in-process", false, "run all nodes in this process instead of a process for each")
	cmd.Flags().StringVar(&f.dir, "dir", "", "directory in which the network's data is kept while it runs, which should be on the disk to be measured (default: the system's temporary folder)")
}

func (f *benchNetwork) options() (bench.NetworkOptions, error) {
	if f.validators < 1 || f.layer2 < 1 || f.validators+f.layer2 > 64 {
		return bench.NetworkOptions{}, misused("--validators %d --layer2 %d: at least one of each, at most 64 nodes together", f.validators, f.layer2)
	}
	return bench.NetworkOptions{Validators: f.validators, Layer2: f.layer2, InProcess: f.inProcess, Dir: f.dir}, nil
}

// benchLoadFlags are the flags of `tandem bench load`.
type benchLoadFlags struct {
	network benchNetwork
	o       bench.LoadOptions
	clients int
	rate    float64
	levels  string
	out     string
	asJSON  bool
}

func newBenchLoadCommand() *cobra.Command {
	var f benchLoadFlags
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Put load on a network: throughput, latencies, conflicts, shed requests",
		Long: `Starts a network and puts load on it: sessions of the paper's workflow (open, create, scan, validate, quality check, label, commit: seven
operations) with the real client, which signs each request and checks each answer.

  --mode closed   --clients clients, each of which begins a session when its last one has ended
  --mode open     sessions begin at --rate per second, whatever became of those before, at random moments
                  (--arrivals poisson) or evenly (constant). Latency counts from the moment at which a session was
                  meant to begin, so that a stall shows in all sessions that had to wait (no coordinated omission)
  --ramp          begin with --clients or --rate and double until no more gets done, then look half way beside the best level
  --zipf S        sessions choose among --packages packages that they share, the k-th in proportion to 1/k^S, so that some
                  work on one package at the same time and conflict; 0: no session shares anything

Prints for each level: sessions and steps per second (done within the measured time; a step is any answered operation); sent =
committed + conflicted + shed + failed, of the sessions meant to begin within it; latencies in ms (p50, p90, p99, p99.9, max) by
operation; CPU time in ms. Shed means that a node answered 503 with Retry-After: the session is given up and is no failure. What
did not commit is listed with its first reason.

With --out: summary.json, seconds.csv (a row for each second), levels.csv, .hgrm files (HdrHistogram percentiles), charts (SVG)
and report.html. Interrupted (Ctrl-C), what was measured until then is printed and written, and the exit code is 1. Exit code 1
also if sessions failed.`,
		Example: `  tandem bench load --ramp --out load
  tandem bench load --mode open --rate 50 --duration 30s
  tandem bench load --clients 16 --zipf 0.99 --packages 100 --json
  tandem bench load --in-process --clients 32 --cpuprofile cpu.out`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	l := &f.o.Level
	f.network.add(cmd)
	cmd.Flags().StringVar(&l.Mode, "mode", bench.Closed, "closed or open loop")
	cmd.Flags().IntVar(&f.clients, "clients", 8, "clients of a closed loop; of a ramp, those it begins with")
	cmd.Flags().Float64Var(&f.rate, "rate", 20, "sessions per second of an open loop; of a ramp, those it begins with")
	cmd.Flags().StringVar(&l.Arrivals, "arrivals", bench.Poisson, "how sessions of an open loop arrive: poisson or constant")
	cmd.Flags().DurationVar(&l.Warmup, "warmup", 3*time.Second, "time before each level's measured time, not counted; in a closed loop it lasts until each client has ended a session")
	cmd.Flags().DurationVar(&l.Duration, "duration", 15*time.Second, "measured time of each level")
	cmd.Flags().DurationVar(&l.Drain, "drain", 15*time.Second, "time after it for what is under way to end; what has not ended then has failed")
	cmd.Flags().IntVar(&l.Each, "sessions", 0, "let each client of a closed loop make so many sessions and stop, instead of measuring for a time")
	cmd.Flags().IntVar(&l.AtOnce, "at-once", 2000, "sessions of an open loop under way at once; what is beyond waits, and its latency counts on")
	cmd.Flags().Uint64Var(&l.Seed, "seed", 1, "seed of arrivals and choices of packages")
	cmd.Flags().BoolVar(&f.o.Ramp, "ramp", false, "step the load up to saturation")
	cmd.Flags().Float64Var(&f.o.Most, "most", 1024, "the highest load of a ramp: clients, or sessions per second")
	cmd.Flags().StringVar(&f.levels, "levels", "", "loads to measure, in this order, as a comma list, instead of a ramp")
	cmd.Flags().Float64Var(&f.o.Zipf, "zipf", 0, "exponent with which sessions choose among shared packages; 0: nothing is shared")
	cmd.Flags().IntVar(&f.o.Packages, "packages", 100, "packages that are shared, with --zipf")
	cmd.Flags().StringVar(&f.out, "out", "", "directory for the result files")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print the result as JSON")
	return cmd
}

func (f *benchLoadFlags) run(cmd *cobra.Command) (err error) {
	if f.o.Network, err = f.network.options(); err != nil {
		return err
	}
	f.o.Progress = cmd.ErrOrStderr()
	f.o.Level.Load = float64(f.clients)
	if f.o.Level.Mode == bench.Open {
		f.o.Level.Load = f.rate
	}
	if f.o.Levels, err = parseNumbers("--levels", f.levels); err != nil {
		return err
	}
	if err := f.o.Check(); err != nil {
		return misused("%v", err)
	}
	report, err := bench.RunLoad(cmd.Context(), f.o)
	if report == nil || len(report.Levels) == 0 {
		return either(err, context.Canceled)
	}
	err = errors.Join(err, showResults(cmd.OutOrStdout(), report, f.out, f.asJSON))
	failed, sent := 0, 0
	for _, l := range report.Levels {
		failed, sent = failed+l.Failed, sent+l.Sent
	}
	switch {
	case err != nil:
		return err
	case report.Interrupted:
		return errors.New("interrupted: what was measured until then is above, and in --out if it was given")
	case failed > 0:
		return fmt.Errorf("%d of %d sessions failed; the reasons are above", failed, sent)
	}
	return nil
}

// results are what a benchmark came to.
type results interface {
	WriteFiles(dir string) error
	WriteText(w io.Writer) error
}

// showResults prints results, and writes them into dir if there is one.
func showResults(w io.Writer, r results, dir string, asJSON bool) error {
	if dir != "" {
		if err := r.WriteFiles(dir); err != nil {
			return err
		}
	}
	if asJSON {
		return printJSON(w, r)
	}
	return r.WriteText(w)
}

// either is err, or otherwise if there is none.
func either(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// parseNumbers reads a comma list of numbers such as "1,10,1e3"; empty: none.
func parseNumbers(what, list string) ([]float64, error) {
	if list == "" {
		return nil, nil
	}
	var all []float64
	for text := range strings.SplitSeq(list, ",") {
		v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil {
			return nil, misused("%s: %q is no number", what, text)
		}
		all = append(all, v)
	}
	return all, nil
}
