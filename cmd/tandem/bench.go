package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"

	"github.com/spf13/cobra"
)

// newBenchCommand is `tandem bench`: the measurements. Each is a subcommand in a file of its own.
func newBenchCommand() *cobra.Command {
	var p profiles
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure networks that it starts itself",
		Long: `Measures networks that it starts itself, with the real client: requests are signed, answers are checked, a warm-up is not counted,
and a request that fails is counted and shown. docs/benchmarks.md says how to read the results.

--cpuprofile and --memprofile profile this program: the client, and all nodes too where they run in this process (--in-process).
A node that is a process of its own is profiled with "tandem start --pprof".`,
	}
	cmd.PersistentFlags().StringVar(&p.cpu, "cpuprofile", "", "write a CPU profile of this program to this file (go tool pprof reads it)")
	cmd.PersistentFlags().StringVar(&p.memory, "memprofile", "", "write a profile of this program's memory, allocations since its start included, to this file at the end")
	cmd.AddCommand(
		newBenchPaperCommand(),
		newBenchCompareCommand(),
		newBenchLoadCommand(),
		newBenchScaleCommand(),
		newBenchWANCommand(),
	)
	for _, sub := range cmd.Commands() {
		inner := sub.RunE
		sub.RunE = func(c *cobra.Command, args []string) error {
			return p.around(func() error { return inner(c, args) })
		}
	}
	return cmd
}

// profiles are files for profiles of a subcommand; empty: none.
type profiles struct{ cpu, memory string }

// around runs something and writes the profiles of it, also if it fails or is interrupted.
func (p *profiles) around(run func() error) error {
	if p.cpu != "" {
		f, err := os.Create(p.cpu)
		if err != nil {
			return fmt.Errorf("--cpuprofile: %w", err)
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return errors.Join(fmt.Errorf("--cpuprofile: %w", err), f.Close())
		}
		inner := run
		run = func() error {
			err := inner()
			pprof.StopCPUProfile()
			return errors.Join(err, f.Close())
		}
	}
	if p.memory != "" {
		f, err := os.Create(p.memory) // before anything is measured: what cannot be written should be known first
		if err != nil {
			return fmt.Errorf("--memprofile: %w", err)
		}
		inner := run
		run = func() error {
			err := inner()
			runtime.GC() // so that what is in use is what is still needed
			return errors.Join(err, pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
		}
	}
	return run()
}
