package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"tandem/receipt"
)

func newReceiptCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "receipt",
		Short: "Fetch and verify receipts, the offline proofs of commits",
	}
	cmd.AddCommand(newReceiptGetCommand(), newReceiptVerifyCommand())
	return cmd
}

func newReceiptGetCommand() *cobra.Command {
	var place profile
	var out string
	var checkpoint uint64
	cmd := &cobra.Command{
		Use:   "get SESSION",
		Short: "Fetch the receipt of a committed session",
		Long: `Fetches the receipt of a committed session (an id, or "current") from a node and prints it, or writes it to a new file
with --out. A session that is committed in parts has a receipt for each: --checkpoint says which, counted from 1; the newest is the
default. The receipt is not verified here: that is what "tandem receipt verify" does, with no network.`,
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
			target := "/tandem/v1/sessions/" + id + "/receipt"
			if checkpoint > 0 {
				target += fmt.Sprintf("?checkpoint=%d", checkpoint)
			}
			body, err := fetch(cmd.Context(), urls, place.wait, target)
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
	cmd.Flags().Uint64Var(&checkpoint, "checkpoint", 0, "the receipt of this part of the session, counted from 1 (default the newest)")
	cmd.Flags().StringVarP(&out, "out", "o", "", "write the receipt to this new file")
	return cmd
}

func newReceiptVerifyCommand() *cobra.Command {
	var genesis string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify --genesis GENESIS RECEIPT",
		Short: "Verify a receipt offline, with the genesis file alone",
		Long: `Verifies a receipt file ("-" reads standard input) with nothing but the network's genesis file: the validators'
signatures on the block, the transaction in the block, every signature of the user, the transcript and every response
body. Uses no network. Prints who committed what, when, and exits 0; or prints the reason and exits 1.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := os.ReadFile(genesis)
			if err != nil {
				return fmt.Errorf("genesis file: %w", err)
			}
			var r []byte
			if args[0] == "-" {
				r, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), receipt.MaxSize+1))
			} else {
				r, err = os.ReadFile(args[0])
			}
			if err != nil {
				return fmt.Errorf("receipt: %w", err)
			}
			proof, err := receipt.Verify(g, r)
			if err != nil {
				return fmt.Errorf("the receipt proves nothing: %w", err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), proof)
			}
			return proof.WriteSummary(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&genesis, "genesis", "", "the network's genesis file, which you trust")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the proof as JSON")
	if err := cmd.MarkFlagRequired("genesis"); err != nil {
		panic(err)
	}
	return cmd
}

// writeNewFile writes a file that must not exist yet.
func writeNewFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}
