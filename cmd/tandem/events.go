package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tandem/client"
)

func newEventsCommand() *cobra.Command {
	var place profile
	var f client.EventFilter
	var count int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Follow what happens at a node: blocks, sessions, conflicts",
		Long: `Prints a line for each event: its id, its kind and its data as JSON (docs/format/events.md). It goes on until it is
interrupted, over broken connections too; after a "gap" events may be missing.`,
		Example: `  tandem events
  tandem events --session current --kind conflict --count 1     # wait until somebody else was faster`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if count < 0 {
				return misused("--count %d: a number of events", count)
			}
			for _, kind := range f.Kinds {
				if !slices.Contains([]string{"block", "conflict", "node", "session"}, kind) {
					return misused("--kind %q is none of block, conflict, node, session", kind)
				}
			}
			if f.Session != "" {
				id, err := place.sessionID(f.Session)
				if err != nil {
					return err
				}
				f.Session = id
			}
			c, err := place.client(place.nodes(cmd), client.Key{})
			if err != nil {
				return err
			}
			return follow(cmd, c, f, count, asJSON)
		},
	}
	place.addHome(cmd)
	place.addURL(cmd)
	cmd.Flags().StringVar(&f.Session, "session", "", `only events about this session: an id, or "current"`)
	cmd.Flags().StringVar(&f.Actor, "actor", "", "only events about this actor's sessions")
	cmd.Flags().StringSliceVar(&f.Kinds, "kind", nil, "only events of these kinds: block, conflict, node, session")
	cmd.Flags().StringVar(&f.After, "after", "", "begin behind the event with this id; 0 for everything that the node keeps")
	cmd.Flags().IntVar(&count, "count", 0, "end after so many events; 0 goes on")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object per event")
	return cmd
}

// follow prints events. To be interrupted is the ordinary end.
func follow(cmd *cobra.Command, c *client.Client, f client.EventFilter, count int, asJSON bool) error {
	seen := 0
	for e, err := range c.Events(cmd.Context(), f) {
		if err != nil {
			if cmd.Context().Err() != nil {
				return nil
			}
			return err
		}
		line := fmt.Sprintf("%s %s %s", e.ID, e.Kind, e.Data)
		if asJSON {
			line = fmt.Sprintf(`{"id":%q,"kind":%q,"data":%s}`, e.ID, e.Kind, e.Data)
		}
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), strings.ToValidUTF8(line, "?")); err != nil {
			return err
		}
		if seen++; seen == count && e.Kind != "gap" {
			return nil
		}
	}
	return errors.New("the events have ended")
}
