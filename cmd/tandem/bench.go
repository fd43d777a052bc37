package main

import (
	"github.com/spf13/cobra"
)

// newBenchCommand is `tandem bench`: the measurements. Each is a subcommand in a file of its own.
func newBenchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure",
		Long: `Measures networks that it starts itself, with the real client: requests are signed, answers are checked, a warm-up is not counted,
and a request that fails is counted and shown. docs/benchmarks.md says how to read the results.`,
	}
	cmd.AddCommand(newBenchLoadCommand(), newBenchScaleCommand())
	return cmd
}
