package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"tandem/internal/bench"
)

// benchScaleFlags are the flags of `tandem bench scale`.
type benchScaleFlags struct {
	network benchNetwork
	o       bench.ScaleOptions
	axes    []string
	points  map[string]*string // by axis
	out     string
	asJSON  bool
}

func newBenchScaleCommand() *cobra.Command {
	f := benchScaleFlags{points: map[string]*string{}}
	cmd := &cobra.Command{
		Use:   "scale",
		Short: "Measure how costs grow with validators, open sessions, steps, state, bodies, clients",
		Long: `Varies one size at a time and measures steps, commits and whole sessions with the real client:

  validators   validators of the network, all on this machine
  open         other sessions open at the node, each with one step; a network with one is measured in turn
  steps        steps in one session
  state        keys in the state; each step reads and changes a random one
  body         bytes of a step's body, which the state keeps
  clients      clients at once, in a closed loop

Each point is measured in --rounds rounds of --workflows sessions; the points take turns where one network serves them all or all
networks fit the machine. state and body need a service with routes of their own and run in this process, state with one
validator; the others run a process for each node.

Prints medians and p99 in ms, and for each of them the power law that fits best (least squares of log y on log n): the exponent,
what it means in words, R2, and the ratio of the last point to the first; then the project's targets for such ratios. With
--out: summary.json, scale.csv, a chart (SVG) for each axis and report.html. Interrupted (Ctrl-C), what was measured until then
is printed and written, and the exit code is 1. Exit code 1 also if sessions failed.`,
		Example: `  tandem bench scale --out scale
  tandem bench scale --axis validators --validators-at 4,16 --rounds 5
  tandem bench scale --axis open,state --open-at 1,10000 --state-at 1e3,1e6`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.network.add(cmd)
	cmd.Flags().StringSliceVar(&f.axes, "axis", bench.Axes(), "axes to measure")
	for _, name := range bench.Axes() {
		def := strings.Trim(strings.ReplaceAll(fmt.Sprint(bench.DefaultPoints(name)), " ", ","), "[]")
		f.points[name] = cmd.Flags().String(name+"-at", def, "points of the axis "+name)
	}
	cmd.Flags().IntVar(&f.o.Rounds, "rounds", 3, "how often each point is measured")
	cmd.Flags().IntVarP(&f.o.Workflows, "workflows", "n", 20, "sessions for each point and round; fewer where sessions are long")
	cmd.Flags().Uint64Var(&f.o.Seed, "seed", 1, "seed of the choice of keys")
	cmd.Flags().StringVar(&f.out, "out", "", "directory for the result files")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print the result as JSON")
	return cmd
}

func (f *benchScaleFlags) run(cmd *cobra.Command) (err error) {
	if f.o.Network, err = f.network.options(); err != nil {
		return err
	}
	f.o.Progress = cmd.ErrOrStderr()
	f.o.Points = map[string][]float64{}
	for _, name := range f.axes {
		list, ok := f.points[name]
		if !ok {
			return misused("--axis: there is no axis %q, only %s", name, strings.Join(bench.Axes(), ", "))
		}
		if f.o.Points[name], err = parseNumbers("--"+name+"-at", *list); err != nil {
			return err
		}
	}
	if err := f.o.Check(); err != nil {
		return misused("%v", err)
	}
	report, err := bench.RunScale(cmd.Context(), f.o)
	if report == nil || len(report.Axes) == 0 {
		return either(err, context.Canceled)
	}
	err = errors.Join(err, showResults(cmd.OutOrStdout(), report, f.out, f.asJSON))
	failed := 0
	for _, a := range report.Axes {
		for _, p := range a.Points {
			failed += p.Failures
		}
	}
	switch {
	case err != nil:
		return err
	case report.Interrupted:
		return errors.New("interrupted: what was measured until then is above, and in --out if it was given")
	case failed > 0:
		return fmt.Errorf("%d sessions failed; the first reasons are above", failed)
	}
	return nil
}
