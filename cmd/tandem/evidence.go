package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"tandem/evidence"
	"tandem/examples/supplychain"
	"tandem/internal/refusal"
	"tandem/node"
)

func newEvidenceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "evidence",
		Short: "Fetch, make and verify evidence of misbehaviour",
	}
	cmd.AddCommand(newEvidenceGetCommand(), newEvidenceMakeCommand(), newEvidenceVerifyCommand())
	return cmd
}

func newEvidenceGetCommand() *cobra.Command {
	var place profile
	var out string
	cmd := &cobra.Command{
		Use:   "get SESSION",
		Short: "Fetch the evidence that a node holds about a session",
		Long: `Fetches what a node holds about a session (an id, or "current") and prints it, or writes it to a new file with --out.
Most sessions have none: the node then says so and the command exits 1.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := place.sessionID(args[0])
			if err != nil {
				return err
			}
			urls := place.nodes(cmd)
			if saved, err := place.load(id); err == nil && !cmd.Flags().Changed("url") {
				urls = saved.URLs
			}
			body, err := fetchEvidence(cmd.Context(), urls, place.wait, id)
			if err != nil {
				return err
			}
			if out == "" {
				_, err = cmd.OutOrStdout().Write(body)
				return err
			}
			return writeNewFile(out, body)
		},
	}
	place.addHome(cmd)
	place.addURL(cmd)
	cmd.Flags().StringVarP(&out, "out", "o", "", "write the evidence to this new file")
	return cmd
}

// fetchEvidence asks again while the evidence waits for a block.
func fetchEvidence(ctx context.Context, urls []string, wait time.Duration, id string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		body, err := fetch(ctx, urls, wait, "/tandem/v1/sessions/"+id+"/evidence")
		if !refusal.Has(err, refusal.HeightNotReached) {
			return body, err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func newEvidenceVerifyCommand() *cobra.Command {
	var genesis string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify --genesis GENESIS EVIDENCE",
		Short: "Verify an evidence file offline, with the genesis file alone",
		Long: `Verifies an evidence file ("-" reads standard input) with nothing but the network's genesis file. Uses no network. Prints
who signed what, and whether somebody who behaves may have signed it too, and exits 0; or prints why the file proves
nothing and exits 1.

Whether a node's answer was false (kinds wrong-answer and wrong-endorsement) is found out by running the session's steps again, in this
program, on the state that the file proves. It takes the network's own program: one with another fingerprint (tandem version)
cannot judge the file, says so and exits 3, which means neither a lie nor none.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := os.ReadFile(genesis)
			if err != nil {
				return fmt.Errorf("genesis file: %w", err)
			}
			var file []byte
			if args[0] == "-" {
				file, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), evidence.MaxSize+1))
			} else {
				file, err = os.ReadFile(args[0])
			}
			if err != nil {
				return fmt.Errorf("evidence: %w", err)
			}
			finding, err := evidence.VerifyWith(cmd.Context(), g, file, node.Judge(supplychain.Service()))
			if errors.Is(err, evidence.ErrCannotJudge) {
				return err
			}
			if err != nil {
				return fmt.Errorf("the file proves nothing: %w", err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), finding)
			}
			return finding.WriteSummary(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&genesis, "genesis", "", "the network's genesis file, which you trust")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the finding as JSON")
	if err := cmd.MarkFlagRequired("genesis"); err != nil {
		panic(err)
	}
	return cmd
}
