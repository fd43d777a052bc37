package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"tandem/client"
	"tandem/evidence"
	"tandem/examples/supplychain"
	"tandem/node"
)

func newEvidenceMakeCommand() *cobra.Command {
	var place profile
	var genesis, dir string
	cmd := &cobra.Command{
		Use:   "make --genesis GENESIS SESSION",
		Short: "Find out which nodes have signed falsehoods to a session, and prove it",
		Long: `Has every answer and every endorsement that nodes have signed to a session of this home (an id, or "current") judged by the
nodes it knows: each runs the session again on the state that the signature is for. Against each node that has signed a
falsehood, as originator or as endorser, one evidence file is written, which "tandem evidence verify" checks offline. A file is
verified before it is written, with the genesis file and this program, so the node that made it need not be believed.

Use it when a commit is refused with response-differs and no other session came first. If all that was signed is true, it
says so and exits 1. In custody the node signs, and its client has nothing to show: "tandem evidence get" is all there is then.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := os.ReadFile(genesis)
			if err != nil {
				return fmt.Errorf("genesis file: %w", err)
			}
			id, err := place.sessionID(args[0])
			if err != nil {
				return err
			}
			saved, err := place.load(id)
			if err != nil {
				return err
			}
			if saved.State == nil {
				return fmt.Errorf("session %s is in custody: its node has the signatures, not this home", id)
			}
			if cmd.Flags().Changed("url") {
				saved.URLs = place.urls
			}
			c, err := client.New(client.Config{URLs: saved.URLs, Genesis: g, Patience: place.wait})
			if err != nil {
				return &usageError{err}
			}
			s, err := c.Resume(saved.State)
			if err != nil {
				return err
			}
			judge := node.Judge(supplychain.Service())
			files, failed := s.Accuse(cmd.Context(), judge)
			if len(files) == 0 {
				if failed == nil {
					failed = fmt.Errorf("no evidence: all that nodes have signed to session %s is true", id)
				}
				return failed
			}
			var out bytes.Buffer
			for i, file := range files {
				name := filepath.Join(dir, fmt.Sprintf("evidence-%s-%d.json", id, i+1))
				if err := writeNewFile(name, file); err != nil {
					return err
				}
				f, err := evidence.VerifyWith(cmd.Context(), g, file, judge)
				if err != nil {
					return err
				}
				fmt.Fprintf(&out, "%s  %s, step %d, %s\n", name, f.Kind, f.Sequence, f.Culprit.Key)
			}
			_, err = cmd.OutOrStdout().Write(out.Bytes())
			return errors.Join(err, failed)
		},
	}
	place.addHome(cmd)
	place.addURL(cmd)
	cmd.Flags().StringVar(&genesis, "genesis", "", "the network's genesis file, which you trust")
	cmd.Flags().StringVarP(&dir, "dir", "d", ".", "write the files into this folder")
	if err := cmd.MarkFlagRequired("genesis"); err != nil {
		panic(err)
	}
	return cmd
}
