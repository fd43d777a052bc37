package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"tandem/examples/supplychain"
)

// versionOf is what `tandem version` tells.
type versionOf struct {
	Module      string `json:"module"`
	Version     string `json:"version"`
	Revision    string `json:"revision,omitempty"` // of the source, if the build recorded it
	Modified    bool   `json:"modified,omitempty"` // the source had changes that are not in the revision
	Go          string `json:"go"`
	Platform    string `json:"platform"`
	Service     string `json:"service"`
	Fingerprint string `json:"fingerprint"` // of the service, as sessions and the ledger carry it; hex
}

func newVersionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary and the fingerprint of its service",
		Long: `Prints the module's version, the Go version and the fingerprint of the service in this binary. Nodes of one network
must have the same fingerprint; a node refuses a session that was opened for another one.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := currentVersion()
			if asJSON {
				return printJSON(cmd.OutOrStdout(), v)
			}
			revision := ""
			if v.Revision != "" {
				revision = " (" + v.Revision + ")"
			}
			if v.Modified {
				revision += " modified"
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s%s\n%s %s\nservice %s\nfingerprint %s\n",
				v.Module, v.Version, revision, v.Go, v.Platform, v.Service, v.Fingerprint)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func currentVersion() versionOf {
	service := supplychain.Service()
	print := service.Fingerprint()
	v := versionOf{
		Module:      "tandem",
		Version:     "(devel)",
		Go:          runtime.Version(),
		Platform:    runtime.GOOS + "/" + runtime.GOARCH,
		Service:     service.Name + " " + service.Version,
		Fingerprint: hex.EncodeToString(print[:]),
	}
	if build, ok := debug.ReadBuildInfo(); ok {
		if build.Main.Path != "" {
			v.Module = build.Main.Path
		}
		if build.Main.Version != "" {
			v.Version = build.Main.Version
		}
		for _, s := range build.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Revision = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	return v
}

// printJSON prints a value as indented JSON.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
