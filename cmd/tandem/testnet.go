package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"tandem/internal/bench"
	"tandem/internal/testnet"
)

// newTestnetCommand is `tandem testnet`.
func newTestnetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "testnet",
		Short: "Make networks whose nodes run as processes of their own",
	}
	cmd.AddCommand(newTestnetInitCommand())
	return cmd
}

// newTestnetInitCommand is `tandem testnet init`: homes, keys and the genesis file.
func newTestnetInitCommand() *cobra.Command {
	var (
		validators, layer2, basePort int
		out, host                    string
		custody, asJSON              bool
	)
	cmd := &cobra.Command{
		Use:   "init --out DIR",
		Short: "Write one home per node, the genesis file and the demo actors",
		Long: `init writes the homes DIR/node0, DIR/node1, ... (validators first, then Layer 2 nodes), each with its configuration and keys,
and the genesis file DIR/genesis.json, which is all that a client needs to verify receipts. Start each node with
"tandem start --home DIR/nodeN".

Node N listens on BASE-PORT+10N for its peers and on BASE-PORT+10N+1 for HTTP. The demo actors' keys are derived from a published
seed: a network made by this command proves nothing about who acted.`,
		Example: "  tandem testnet init --validators 4 --layer2 2 --out ./network",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return misused("--out is missing")
			}
			if basePort < 0 || basePort+10*(validators+layer2) > 65535 {
				return misused("--base-port %d does not leave room for %d nodes", basePort, validators+layer2)
			}
			o := bench.DemoNetwork(validators, layer2)
			o.BasePort, o.Host = basePort, host
			if custody {
				o.Custody, o.DefaultActor = true, "OPR-001"
			}
			configs, err := testnet.Init(out, o)
			if err != nil {
				return err
			}
			type line struct {
				Home  string   `json:"home"`
				Roles []string `json:"roles"`
				HTTP  string   `json:"http"`
				P2P   string   `json:"p2p"`
			}
			var lines []line
			for _, c := range configs {
				lines = append(lines, line{c.Home, c.Roles, "http://" + c.HTTP.Listen, c.P2P.Listen})
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return json.NewEncoder(w).Encode(map[string]any{"genesis": testnet.GenesisFile(out), "nodes": lines})
			}
			fmt.Fprintf(w, "genesis %s\n", testnet.GenesisFile(out))
			for _, l := range lines {
				fmt.Fprintf(w, "%s %v http %s peers %s\n", l.Home, l.Roles, l.HTTP, l.P2P)
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&validators, "validators", 4, "number of Layer 1 validators")
	cmd.Flags().IntVar(&layer2, "layer2", 1, "number of Layer 2 nodes")
	cmd.Flags().StringVar(&out, "out", "", "directory to write the network into")
	cmd.Flags().IntVar(&basePort, "base-port", 26600, "first port; 0 takes free ones")
	cmd.Flags().StringVar(&host, "host", "127.0.0.1", "address that the nodes listen on and find each other at")
	cmd.Flags().BoolVar(&custody, "custody", false, "let the Layer 2 nodes sign unsigned requests for every demo actor")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
