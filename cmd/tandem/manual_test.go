package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// writeManual writes docs/cli.md from the command tree.
func writeManual(w io.Writer, root *cobra.Command) error {
	var b strings.Builder
	b.WriteString("# The command line\n\nPrinted by `go test ./cmd/tandem -update` from the program itself; do not edit by hand.\n\n")
	for _, cmd := range tree(root) {
		fmt.Fprintf(&b, "## %s\n\n%s.\n\n", cmd.CommandPath(), cmd.Short)
		if cmd.Runnable() {
			fmt.Fprintf(&b, "    %s\n\n", cmd.UseLine())
		}
		if cmd.Long != "" {
			fmt.Fprintf(&b, "%s\n\n", indentless(cmd.Long))
		}
		if cmd.Example != "" {
			fmt.Fprintf(&b, "Examples:\n\n```sh\n%s\n```\n\n", dedent(cmd.Example))
		}
		if flags := flagsOf(cmd); len(flags) > 0 {
			b.WriteString("| flag | default | |\n|---|---|---|\n")
			for _, f := range flags {
				name := "`--" + f.Name + "`"
				if f.Shorthand != "" {
					name = "`-" + f.Shorthand + "`, " + name
				}
				kind, usage := pflag.UnquoteUsage(f)
				if kind != "" {
					name += " " + kind
				}
				def := ""
				if f.DefValue != "" && f.DefValue != "[]" && f.DefValue != "false" {
					def = "`" + f.DefValue + "`"
				}
				fmt.Fprintf(&b, "| %s | %s | %s |\n", name, def, strings.ReplaceAll(usage, "|", "\\|"))
			}
			b.WriteString("\n")
		}
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}

// tree lists a command and all below it, in order, without what cobra adds.
func tree(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, sub := range cmd.Commands() {
		if sub.Name() != "help" && sub.Name() != "completion" && !sub.Hidden {
			all = append(all, tree(sub)...)
		}
	}
	return all
}

// flagsOf lists a command's own flags by name.
func flagsOf(cmd *cobra.Command) []*pflag.Flag {
	var all []*pflag.Flag
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && !f.Hidden {
			all = append(all, f)
		}
	})
	return all
}

// indentless turns the indented lines of a description into a code block and keeps the rest.
func indentless(text string) string {
	var out []string
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if code := strings.HasPrefix(line, "  "); code != inside {
			out = append(out, "```")
			inside = code
		}
		out = append(out, strings.TrimPrefix(line, "  "))
	}
	if inside {
		out = append(out, "```")
	}
	return strings.Join(out, "\n")
}

// dedent takes the two spaces of an example away.
func dedent(text string) string {
	return strings.TrimPrefix(strings.ReplaceAll(text, "\n  ", "\n"), "  ")
}
