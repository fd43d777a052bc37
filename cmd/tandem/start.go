package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"tandem/examples/supplychain"
	"tandem/node"
)

// newStartCommand is `tandem start`: one node.
func newStartCommand() *cobra.Command {
	var home, level, profile string
	cmd := &cobra.Command{
		Use:   "start --home DIR",
		Short: "Run one node",
		Long: `start runs the node whose home is DIR (tandem testnet init writes homes) until it gets SIGTERM or SIGINT; it then ends
within five seconds. It logs to standard error. Its exit code is 70 when it stopped because its own state is in doubt: look at the log
before you start it again, docs/operations.md says what at.

--pprof serves Go's profiles of this node, on a loopback address only, since they have no access control.`,
		Example: `  tandem start --home ./network/node0
  tandem start --home ./network/node0 --pprof 127.0.0.1:6060
  go tool pprof -top http://127.0.0.1:6060/debug/pprof/profile?seconds=10`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (failed error) {
			if home == "" {
				return misused("--home is missing")
			}
			cfg, err := node.Load(home)
			if err != nil {
				return err
			}
			if level != "" {
				cfg.Log.Level = level
			}
			if profile != "" {
				stop, err := servePprof(profile, cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				defer func() { failed = errors.Join(failed, stop()) }()
			}
			n, err := node.New(cfg, supplychain.Service(), node.WithHalt(func(halt *node.HaltError) {
				// At once, before anything else goes on: what is in doubt must not be built upon.
				fmt.Fprintf(cmd.ErrOrStderr(), "tandem: %v\n", halt)
				os.Exit(exitHalt)
			}))
			if err != nil {
				return err
			}
			return n.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&home, "home", "", "the node's home directory")
	cmd.Flags().StringVar(&level, "log-level", "", "debug, info, warn or error; overrides the configuration")
	cmd.Flags().StringVar(&profile, "pprof", "", "serve Go's profiles at /debug/pprof/ on this loopback address and port, such as 127.0.0.1:6060 (default off)")
	return cmd
}
