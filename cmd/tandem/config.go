package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"tandem/node"
)

// newConfigCommand is `tandem config`: the configuration file, explained.
func newConfigCommand() *cobra.Command {
	var markdown bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print a configuration file with every key, its meaning and its default",
		Long: `config prints a configuration file for a node: every key with its meaning and its default. The output is a valid
config.toml; docs/config.toml is this output, docs/config.md the output with --markdown.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if markdown {
				return writeConfigPage(cmd.OutOrStdout())
			}
			_, err := io.WriteString(cmd.OutOrStdout(), node.Sample())
			return err
		},
	}
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print the page docs/config.md")
	return cmd
}

// writeConfigPage writes docs/config.md.
func writeConfigPage(w io.Writer) error {
	_, err := fmt.Fprintf(w, "# Configuration of a node\n\n"+
		"This page is printed by `tandem config --markdown`; `tandem config` prints the file alone. A node reads it as `config.toml` in "+
		"its home directory. `tandem testnet init` writes one for every node.\n\n```toml\n%s```\n", node.Sample())
	return err
}
