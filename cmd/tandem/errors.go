package main

import (
	"github.com/spf13/cobra"

	"tandem/internal/refusal"
)

func newErrorsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "errors",
		Short: "Print the catalogue of refusals: code, status, cause, remedy",
		Long: `Prints every code that a node's problem documents can carry, with its HTTP status, cause and remedy, as Markdown.
This is docs/errors.md.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return refusal.WriteMarkdown(cmd.OutOrStdout()) },
	}
}
