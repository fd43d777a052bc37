package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/spf13/cobra"

	"tandem/internal/bench"
	"tandem/internal/testnet"
)

// devStart bounds the start of a development network; it takes about two seconds on two cores.
const devStart = 60 * time.Second

// newDevCommand is `tandem dev`: a whole network in this process.
func newDevCommand() *cobra.Command {
	var (
		address            string
		validators, layer2 int
		home, level        string
	)
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole network in one process, to try things out",
		Long: `dev runs validators and Layer 2 nodes with the supply-chain service in one process, on loopback addresses. It prints one
line "ready http://HOST:PORT" on standard output when the first step can be served, and runs until it is interrupted.

The Layer 2 nodes hold keys that the demo actors have delegated to them, so that plain curl works: an unsigned request acts
as the operator OPR-001, or as the actor that the header Tandem-Actor names. EVERYBODY WHO REACHES THE ADDRESS CAN ACT AS ANY
DEMO ACTOR. It is for trying things out only.

Without --home everything is in a temporary directory that is removed at the end. With --home DIR the network is kept there and
resumed the next time.`,
		Example: `  tandem dev
  tandem dev --http 127.0.0.1:9000 --validators 7 --layer2 2 --home ./my-network`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if validators < 1 || layer2 < 1 || validators+layer2 > 64 {
				return misused("--validators %d --layer2 %d: at least one of each, at most 64 nodes together", validators, layer2)
			}
			if _, _, err := net.SplitHostPort(address); err != nil {
				return misused("--http %q is not host:port", address)
			}
			logger, err := logTo(cmd.ErrOrStderr(), level)
			if err != nil {
				return err
			}
			if err := free(address); err != nil {
				return err
			}
			o := bench.DemoNetwork(validators, layer2)
			o.Custody, o.DefaultActor, o.HTTP = true, "OPR-001", address
			flags := cmd.Flags()
			return dev(cmd.Context(), testnet.StartOptions{
				Options: o, Dir: home, Logger: logger,
				Expect: flags.Changed("validators") || flags.Changed("layer2"),
			}, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&address, "http", "127.0.0.1:8080", "address of the first Layer 2 node; others take free ports")
	cmd.Flags().IntVar(&validators, "validators", 4, "number of Layer 1 validators")
	cmd.Flags().IntVar(&layer2, "layer2", 1, "number of Layer 2 nodes")
	cmd.Flags().StringVar(&home, "home", "", "directory to keep the network in, and to resume it from")
	cmd.Flags().StringVar(&level, "log-level", "error", "debug, info, warn or error; the log goes to standard error")
	return cmd
}

// dev runs the network until ctx ends or a node halts.
func dev(ctx context.Context, o testnet.StartOptions, stdout, stderr io.Writer) (err error) {
	start, cancel := context.WithTimeout(ctx, devStart)
	defer cancel()
	network, err := testnet.Start(start, o)
	if err != nil {
		if ctx.Err() != nil { // interrupted while starting: nothing was promised yet
			return nil
		}
		return err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	for i := range network.Size() {
		fmt.Fprintf(stderr, "%s %v %s\n", network.Config(i).Name, network.Config(i).Roles, network.URL(i))
	}
	fmt.Fprintf(stdout, "ready %s\n", network.URLs()[0])
	if i, halt := network.Halted(ctx); halt != nil {
		return fmt.Errorf("node %d: %w", i, halt)
	}
	return nil
}

// free says in words when an address is taken, before anything is started.
func free(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("--http %s cannot be used, choose another one: %w", address, err)
	}
	return l.Close()
}

// logTo returns a logger of the given level.
func logTo(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, misused("--log-level %q is none of debug, info, warn, error", level)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}
