package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tandem/client"
	"tandem/internal/refusal"
)

// newRootCommand builds the tree of subcommands. started becomes true as soon as a subcommand's own code runs: what goes
// wrong before is a mistake in the command line.
func newRootCommand() (root *cobra.Command, started *bool) {
	root = &cobra.Command{
		Use:   "tandem",
		Short: "Make a plain Go web service Byzantine fault tolerant without making its users wait",
		Long: `tandem runs and uses a two-layer network. Layer 2 answers each step of a user's session at once; Layer 1, a BFT
network, replays the whole session when it is committed and accepts it only if it gets the same answers.

Begin with "tandem dev" (a network on this machine) and "tandem demo" (the supply-chain workflow against it).

Exit codes: 0 done; 1 refused or failed, standard error says why and what helps; 2 the command line makes no sense;
3 evidence that this program cannot judge; 70 a node stopped because its own state is in doubt.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		newDevCommand(),
		newDemoCommand(),
		newBenchCommand(),
		newPlanCommand(),
		newTestnetCommand(),
		newStartCommand(),
		newConfigCommand(),
		newKeysCommand(),
		newSessionCommand(),
		newCallCommand(),
		newEventsCommand(),
		newReceiptCommand(),
		newEvidenceCommand(),
		newErrorsCommand(),
		newVersionCommand(),
	)
	started = new(bool)
	markStart(root, started)
	return root, started
}

// markStart makes every command of the tree note that it runs. A command that only groups others refuses an unknown word
// instead of printing its help as if nothing had happened.
func markStart(cmd *cobra.Command, started *bool) {
	if inner := cmd.RunE; inner != nil {
		cmd.RunE = func(c *cobra.Command, args []string) error {
			*started = true
			return inner(c, args)
		}
	} else if cmd.Run == nil && cmd.HasSubCommands() {
		cmd.Args = cobra.NoArgs
		cmd.RunE = func(c *cobra.Command, _ []string) error {
			return &usageError{fmt.Errorf("%s needs a subcommand", c.CommandPath())}
		}
	}
	for _, sub := range cmd.Commands() {
		markStart(sub, started)
	}
}

// usageError is a mistake in the command line that only the subcommand itself could see.
type usageError struct{ cause error }

func (e *usageError) Error() string { return e.cause.Error() }
func (e *usageError) Unwrap() error { return e.cause }

// misused makes a usageError.
func misused(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// explainUsage prints what is wrong with the command line and where to read on.
func explainUsage(w io.Writer, root *cobra.Command, args []string, err error) {
	at := root
	if found, _, findErr := root.Find(args); findErr == nil && found != nil {
		at = found
	}
	fmt.Fprintf(w, "tandem: %v\n", err)
	fmt.Fprintf(w, "Usage: %s\nSee:   %s --help\n", at.UseLine(), at.CommandPath())
}

// explain prints an error; for a refusal of a node or of this program also its code, cause and remedy, and what else it
// tells.
func explain(w io.Writer, err error) {
	var problem *client.Problem
	var r *refusal.Refusal
	switch {
	case errors.As(err, &problem):
		fmt.Fprintf(w, "tandem: %s\n", withoutFields(err, problem))
		explainMore(w, problem.Code, problem.Cause, problem.Remedy, problem.Fields)
	case errors.As(err, &r):
		entry := r.Entry()
		fmt.Fprintf(w, "tandem: %v\n", err)
		explainMore(w, string(r.Code), entry.Cause, entry.Remedy, r.Fields)
	case errors.Is(err, context.Canceled):
		fmt.Fprintf(w, "tandem: interrupted\n")
	default:
		fmt.Fprintf(w, "tandem: %v\n", err)
	}
}

// withoutFields is the error's text with the problem's further members left out, which follow line by line.
func withoutFields(err error, problem *client.Problem) string {
	short := *problem
	short.Fields = nil
	return strings.ReplaceAll(err.Error(), problem.Error(), short.Error())
}

func explainMore(w io.Writer, code, cause, remedy string, fields map[string]any) {
	fmt.Fprintf(w, "  code:   %s\n", code)
	if cause != "" {
		fmt.Fprintf(w, "  cause:  %s\n  remedy: %s\n", cause, remedy)
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value, err := json.Marshal(fields[name])
		if err != nil {
			value = fmt.Append(nil, fields[name])
		}
		if len(value) > 400 {
			value = append([]byte(strings.ToValidUTF8(string(value[:400]), "")), "..."...)
		}
		fmt.Fprintf(w, "  %s: %s\n", name, value)
	}
}
