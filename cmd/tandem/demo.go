package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"tandem/client"
	"tandem/examples/supplychain"
	"tandem/internal/bench"
	"tandem/internal/testnet"
)

// demoWait bounds one operation of the demo, all attempts together.
const demoWait = 30 * time.Second

// demoFlags are the flags of `tandem demo`.
type demoFlags struct {
	urls               []string
	genesis            string
	actor              string
	validators, layer2 int
	runs               int
	asJSON             bool
}

func newDemoCommand() *cobra.Command {
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Carry packages through the supply-chain workflow and measure it",
		Long: `Carries a package through the paper's workflow: open a session, create, scan, validate, quality-check, label, commit; then
fetches the receipt and verifies it offline. Every request is signed with a demo actor's published key and every answer is
checked, the endorsements of each step too: "endorsed by 2 of 3" are signatures that were verified. With --url it uses a running demo network; without, it starts one in this process, with its data on disk in a
temporary folder.

Prints each step's latency, the block's height, the transaction's hash and the receipt's verdict; with -n the medians
and percentiles of that many workflows. Exit code 1 if anything failed.`,
		Example: `  tandem demo
  tandem demo --url http://127.0.0.1:8080 -n 100
  tandem demo -n 100 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	cmd.Flags().StringSliceVar(&f.urls, "url", nil, "base URL of a running demo network's Layer 2 node; several, as a comma list or one --url each, are tried in order")
	cmd.Flags().StringVar(&f.genesis, "genesis", "", "the network's genesis file, to check nodes and receipts with (default: ask the node for it)")
	cmd.Flags().StringVar(&f.actor, "demo-key", "OPR-001", "the demo actor who signs; it needs the roles operator and quality")
	cmd.Flags().IntVar(&f.validators, "validators", 4, "validators of a network started here")
	cmd.Flags().IntVar(&f.layer2, "layer2", 1, "Layer 2 nodes of a network started here")
	cmd.Flags().IntVarP(&f.runs, "runs", "n", 1, "number of workflows, one after the other")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print the result as JSON")
	cmd.AddCommand(newDemoPackageCommand())
	return cmd
}

func newDemoPackageCommand() *cobra.Command {
	var reference string
	cmd := &cobra.Command{
		Use:   "package",
		Short: "Print a new package of supplier SUP-001 as POST /packages takes it",
		Long: `Prints the JSON of a package of supplier SUP-001, signed with that supplier's published demo key, as POST /packages takes
it. Each call makes a new package: a supplier's reference can be registered once, and the reference is random unless
--reference gives it.`,
		Example: `  tandem demo package | curl -s -X POST http://127.0.0.1:8080/packages -H "Tandem-Session: $S" -d @-`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if reference == "" {
				reference = bench.NewReference()
			}
			body, err := supplychain.DemoPackage(reference)
			if err != nil {
				return misused("--reference: %v", err)
			}
			_, err = cmd.OutOrStdout().Write(append(body, '\n'))
			return err
		},
	}
	cmd.Flags().StringVar(&reference, "reference", "", "the supplier's reference: 1 to 64 characters of A-Z a-z 0-9 . _ -")
	return cmd
}

func (f *demoFlags) run(cmd *cobra.Command) (err error) {
	if f.runs < 1 || f.runs > 1_000_000 {
		return misused("-n %d: from 1 to 1000000 workflows", f.runs)
	}
	if f.validators < 1 || f.layer2 < 1 || f.validators+f.layer2 > 64 {
		return misused("--validators %d --layer2 %d: at least one of each, at most 64 nodes together", f.validators, f.layer2)
	}
	ctx, stderr := cmd.Context(), cmd.ErrOrStderr()
	key, err := demoKey(f.actor)
	if err != nil {
		return err
	}
	urls := f.urls
	if len(urls) == 0 {
		network, err := f.startNetwork(ctx, stderr)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, network.Close()) }()
		urls = network.URLs()
	}
	genesis, err := f.readGenesis(ctx, urls)
	if err != nil {
		return err
	}
	c, err := client.New(client.Config{URLs: urls, Key: key, Genesis: genesis, Patience: demoWait})
	if err != nil {
		return misused("%v", err)
	}
	about, err := c.Status(ctx)
	if err != nil {
		return err
	}
	report := newDemoReport(c.URL(), about) // the node that has answered
	if f.runs == 1 && !f.asJSON {
		report.live = cmd.OutOrStdout()
		if err := report.writeHead(report.live); err != nil {
			return err
		}
	}
	if err := f.carry(ctx, c, genesis, report, stderr); err != nil {
		return err
	}
	switch {
	case f.asJSON:
		err = printJSON(cmd.OutOrStdout(), report.result())
	case f.runs > 1:
		err = report.writeTable(cmd.OutOrStdout())
	}
	if err == nil && report.failures > 0 {
		err = fmt.Errorf("%d of %d workflows failed; the first: %w", report.failures, f.runs, report.first)
	}
	return err
}

// startNetwork starts a demo network in this process.
func (f *demoFlags) startNetwork(ctx context.Context, stderr io.Writer) (*testnet.Network, error) {
	fmt.Fprintf(stderr, "starting a network of %s and %s in this process ...\n", count(f.validators, "validator"), count(f.layer2, "Layer 2 node"))
	start, cancel := context.WithTimeout(ctx, devStart)
	defer cancel()
	return testnet.Start(start, testnet.StartOptions{Options: bench.DemoNetwork(f.validators, f.layer2)})
}

// readGenesis reads the genesis file that answers and receipts are checked with.
func (f *demoFlags) readGenesis(ctx context.Context, urls []string) ([]byte, error) {
	if f.genesis != "" {
		return os.ReadFile(f.genesis)
	}
	return fetch(ctx, urls, demoWait, "/tandem/v1/genesis")
}

// carry runs the workflows one after the other. The receipts are verified at the end, so that fetching them does not
// disturb what is measured.
func (f *demoFlags) carry(ctx context.Context, c *client.Client, genesis []byte, report *demoReport, stderr io.Writer) error {
	bar := demoProgress(stderr, f.runs, f.runs, "workflows")
	defer func() { bar.Done() }()
	var committed []*client.Session
	for range f.runs {
		report.begin()
		session, err := bench.Carry(ctx, c, bench.NewReference(), report.measured)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		report.end(err)
		if err == nil {
			committed = append(committed, session)
		}
		bar.Add(1)
	}
	bar.Done()
	bar = demoProgress(stderr, f.runs, len(committed), "receipts")
	for _, session := range committed {
		_, proof, err := session.Receipt(ctx, genesis)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		report.receipt(proof, err)
		bar.Add(1)
	}
	return nil
}

// demoProgress shows the progress of many workflows; of one it shows nothing, since each operation is printed.
func demoProgress(w io.Writer, runs, n int, what string) *bench.Progress {
	if runs == 1 {
		w = io.Discard
	}
	return bench.NewProgress(w, n, what)
}
