// Command tandem runs and uses a Tandem network: a two-layer, Byzantine fault tolerant home for a plain net/http service.
//
// This binary carries the supply-chain service of examples/supplychain. Each subcommand stands in the file of its name
// and does nothing but read flags, call the packages and print. docs/cli.md is printed by `go test ./cmd/tandem -update`.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"tandem/evidence"
	"tandem/node"
)

// The exit codes of every subcommand.
const (
	exitOK     = 0
	exitFailed = 1             // it was refused or it failed; standard error says why and what helps
	exitUsage  = 2             // the command line makes no sense
	exitJudge  = 3             // evidence that this program cannot judge: neither proved nor refuted
	exitHalt   = node.ExitHalt // 70: a node's own state is in doubt; an operator has to look before it is started again
)

func main() { os.Exit(run()) }

// run is main with deferred calls.
func run() int {
	useMemory()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root, started := newRootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	code := exitCode(err, *started)
	switch code {
	case exitOK:
	case exitUsage:
		explainUsage(stderr, root, args, err)
	default:
		explain(stderr, err)
	}
	return code
}

// exitCode is the exit code for a command's error; started says whether the command itself ran.
func exitCode(err error, started bool) int {
	var usage *usageError
	var halt *node.HaltError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage) || !started:
		return exitUsage
	case errors.As(err, &halt):
		return exitHalt
	case errors.Is(err, evidence.ErrCannotJudge):
		return exitJudge
	}
	return exitFailed
}
