package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tandem/internal/bench"
)

// compareFlags are the flags of `tandem bench compare`.
type compareFlags struct {
	o             bench.ComparisonOptions
	processes     bool
	check, asJSON bool
}

func newBenchCompareCommand() *cobra.Command {
	var f compareFlags
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Measure Tandem beside its alternatives, in one run",
		Long: `Carries packages through the paper's workflow in several ways that take turns, A B C A B C ..., on the same machine and disk:

  session            Tandem: the steps in a session, each signed, endorsed and on disk, then one commit on Layer 1
  one-layer          Tandem in one-layer mode, as DeWS works: each step is committed on Layer 1 before the next
  postgresql         the same handlers as an ordinary net/http service: one serializable SQL transaction a request, no signatures
  cometbft           the bytes of a session commit through CometBFT with a trivial application whose hash changes: the floor of a commit
  cometbft-constant  the same with a constant application hash
  floor              HTTP round trip, one Ed25519 signature made and verified, fsync, with the bytes of the same requests

Prints the medians of each operation, in milliseconds, and how many times longer one takes than another: the ratio within each
round, its median over the rounds, and an interval that encloses the true median with a probability of at least 95 %. A "step"
is the mean of a workflow's five steps. Nothing sleeps inside measured time; what fails is counted and shown.

PostgreSQL's server is started by the bench in a temporary directory, on a Unix socket only, as user postgres or nobody if this
program runs as root, and removed at the end. A machine without it skips that part and says so (Debian: apt-get install postgresql).

With --check the exit code is 1 if a ratio breaks its bound, or anything failed: a bound is broken when the whole interval lies on
the wrong side of it, so that other work on the machine does not break it by chance; five milliseconds more in a step do. A bound
of 0 is not checked. The machine's load changes all contenders alike, so the ratios mean more than the times.`,
		Example: `  tandem bench compare
  tandem bench compare -n 100 --out compare-results
  tandem bench compare --check --max-commit-cometbft 1.3 --min-one-layer 5
  tandem bench compare --skip one-layer,cometbft-constant --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.IntVarP(&f.o.Rounds, "rounds", "n", 50, "rounds: how often each does the workflow")
	flags.IntVar(&f.o.Warmup, "warmup", 3, "rounds before that, which are not counted")
	flags.DurationVar(&f.o.Pause, "pause", 100*time.Millisecond, "pause between two turns, outside measured time, so that none pays for what another leaves behind")
	flags.IntVar(&f.o.Network.Validators, "validators", 4, "validators, of Tandem's network and of the bare engine's")
	flags.IntVar(&f.o.Network.Layer2, "layer2", 1, "Layer 2 nodes; in the bare engine's network so many nodes only follow")
	flags.BoolVar(&f.processes, "processes", false, "run Tandem's nodes as processes of their own instead of in this process, where the bare engine runs too")
	flags.StringVar(&f.o.Network.Dir, "dir", "", "existing directory for everybody's data, on the disk to be measured (default: the system's for temporary files, $TMPDIR)")
	flags.StringVar(&f.o.Postgres, "postgres", "", "directory with PostgreSQL's programs initdb and postgres (default: the newest below /usr/lib/postgresql, or $PATH)")
	flags.StringSliceVar(&f.o.Leave, "skip", nil, "contenders to leave out, as a comma list")
	flags.StringVar(&f.o.Out, "out", "", "directory for samples.csv (one row a request), summary.json, comparison.html and an SVG for each figure")
	flags.BoolVar(&f.asJSON, "json", false, "print the result as JSON; times are in ms")
	flags.BoolVar(&f.check, "check", false, "exit with code 1 if a ratio breaks its bound or anything failed")
	d := bench.DefaultBounds()
	flags.Float64Var(&f.o.Bounds.StepFloor, "max-step-floor", d.StepFloor, "bound: a step in a session against the floor, at most; held for the mean and for each of the five steps")
	flags.Float64Var(&f.o.Bounds.StepPostgres, "max-step-postgresql", d.StepPostgres, "bound: the mean step in a session against the ordinary service's on PostgreSQL, at most")
	flags.Float64Var(&f.o.Bounds.CommitEngine, "max-commit-cometbft", d.CommitEngine, "bound: a session's commit against bare CometBFT whose application hash changes, at most")
	flags.Float64Var(&f.o.Bounds.OneLayer, "min-one-layer", d.OneLayer, "bound: a whole workflow in one-layer mode against one in a session, at least")
	return cmd
}

func (f *compareFlags) run(cmd *cobra.Command) error {
	o := &f.o
	if err := f.usable(); err != nil {
		return err
	}
	o.Network.InProcess = !f.processes
	stdout, stderr := cmd.OutOrStdout(), cmd.ErrOrStderr()
	o.Progress = stderr
	fmt.Fprintf(stderr, "starting what is compared, network %d-%d ...\n", o.Network.Validators, o.Network.Layer2)
	c, err := bench.RunComparison(cmd.Context(), *o)
	if c.Rounds == 0 {
		return err
	}
	if err != nil && cmd.Context().Err() != nil {
		fmt.Fprintf(stderr, "interrupted after %s; what was measured so far follows%s\n", count(c.Rounds, "round"), map[bool]string{true: " and is in " + o.Out}[o.Out != ""])
	}
	if f.asJSON {
		err = errors.Join(err, printJSON(stdout, c))
	} else {
		err = errors.Join(err, writeComparison(stdout, c))
	}
	if err != nil {
		return err
	}
	broken := c.Broken()
	for _, words := range broken {
		fmt.Fprintf(stderr, "broken: %s\n", words)
	}
	switch {
	case f.check && len(broken) > 0:
		return fmt.Errorf("the check has failed: %s", count(len(broken), "bound or workflow"))
	case c.Failures() > 0:
		return fmt.Errorf("%s failed", count(c.Failures(), "workflow"))
	}
	return nil
}

// usable refuses flags that make no sense.
func (f *compareFlags) usable() error {
	o := &f.o
	known := []string{bench.InSession, bench.OneLayer, bench.OnPostgres, bench.OnEngine, bench.OnEngineConstant, bench.AtTheFloor}
	for _, name := range o.Leave {
		if !slices.Contains(known, name) {
			return misused("--skip %q is none of %s", name, strings.Join(known, ", "))
		}
	}
	if o.Rounds < 1 || o.Rounds > 100_000 || o.Warmup < 0 || o.Warmup > 1000 {
		return misused("-n %d --warmup %d: from 1 to 100000 rounds, from 0 to 1000 before", o.Rounds, o.Warmup)
	}
	if o.Network.Validators < 1 || o.Network.Layer2 < 1 || o.Network.Validators+o.Network.Layer2 > 64 {
		return misused("--validators %d --layer2 %d: at least one of each, at most 64 nodes together", o.Network.Validators, o.Network.Layer2)
	}
	if o.Pause < 0 || o.Pause > time.Minute {
		return misused("--pause %s: from 0 to 1m", o.Pause)
	}
	if b := o.Bounds; min(b.StepFloor, b.StepPostgres, b.CommitEngine, b.OneLayer) < 0 {
		return misused("a bound is a ratio above 0, or 0 for none")
	}
	return nil
}

// writeComparison prints what was found as tables.
func writeComparison(w io.Writer, c bench.Comparison) error {
	m := c.Machine
	if _, err := fmt.Fprintf(w, "network %s, %s, session commits of %d bytes; %d cores, load %.2f at the start, data on %s\n\n",
		c.Network, count(c.Rounds, "round"), c.CommitSize, m.Cores, m.Load, m.FileSystem); err != nil {
		return err
	}
	for _, x := range c.Contenders {
		if _, err := fmt.Fprintf(w, "%-18s %s\n", x.Name, x.About); err != nil {
			return err
		}
		if x.Failures > 0 {
			if _, err := fmt.Fprintf(w, "%-18s %d FAILED, the first: %s\n", "", x.Failures, x.FirstFailure); err != nil {
				return err
			}
		}
	}
	for name, why := range c.Skipped { // there is one contender that can lack what it needs
		if _, err := fmt.Fprintf(w, "%-18s skipped: %s\n", name, why); err != nil {
			return err
		}
	}
	for _, t := range []bench.Table{c.MedianTable(), c.RatioTable()} {
		if _, err := fmt.Fprintf(w, "\n%s\n", t.Caption); err != nil {
			return err
		}
		columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, row := range append([][]string{t.Head}, t.Rows...) {
			fmt.Fprintln(columns, strings.Join(row, "\t"))
		}
		if err := columns.Flush(); err != nil {
			return err
		}
	}
	return nil
}
