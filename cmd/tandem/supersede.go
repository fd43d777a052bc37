package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/client"
)

func newSessionSupersedeCommand() *cobra.Command {
	var place profile
	var life time.Duration
	var accept, asJSON bool
	cmd := &cobra.Command{
		Use:   "supersede [SESSION]",
		Short: "Repeat a session's steps in a new session that takes its place",
		Long: `Opens a session that supersedes SESSION, most often one that has conflicted, and repeats its steps there with the same
requests on the newest state. Of the two, Layer 1 takes at most one. The new session becomes the current one; commit it.

Each answer that is not what it was is shown on standard error. Without --accept-changes the first one ends it: the new
session is abandoned, and the exit code is 1. With it the replay goes on; a step that is now answered 400 or more is left
out. Only signed sessions can be superseded in this way.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if life < 0 || life > 0 && life < time.Second {
				return misused("--life %v: a session lives at least a second", life)
			}
			h, err := place.hold(cmd, sessionArgument(args))
			if err != nil {
				return err
			}
			next, changed, err := h.supersede(cmd, life, accept)
			if err := h.release(err); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"session_id": next.ID, "supersedes": h.ID, "steps": next.Steps, "changed": changed})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), next.ID)
			return err
		},
	}
	place.addHome(cmd)
	place.addURL(cmd)
	cmd.Flags().DurationVar(&life, "life", 0, "how long the new session may stay open (default: the client's, 15m)")
	cmd.Flags().BoolVar(&accept, "accept-changes", false, "go on when a step is answered otherwise than it was")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// supersede replaces the held session and saves the new one as the current one. changed are the steps whose answers are
// not what they were.
func (h *held) supersede(cmd *cobra.Command, life time.Duration, accept bool) (_ savedSession, changed []int, err error) {
	old, ok := h.voice.(*client.Session)
	if !ok {
		return savedSession{}, nil, misused("session %s is signed by its node: open another with the node and repeat the calls", h.ID)
	}
	var options []client.OpenOption
	if life > 0 {
		options = append(options, client.WithLife(life))
	}
	changed = []int{}
	next, err := old.Supersede(cmd.Context(), func(step int, was, is *client.Answer) error {
		changed = append(changed, step)
		fmt.Fprintf(cmd.ErrOrStderr(), "step %d: was %d %s\n", step, was.Status, brief(was.Body))
		fmt.Fprintf(cmd.ErrOrStderr(), "step %d: is  %d %s\n", step, is.Status, brief(is.Body))
		if accept {
			return nil
		}
		return &client.ChangedError{Step: step, Old: was, New: is}
	}, options...)
	if err != nil {
		if next != nil {
			err = errors.Join(err, next.Abandon(cmd.Context()))
		}
		return savedSession{}, changed, err
	}
	s := savedSession{ID: next.ID(), URLs: h.URLs, Key: h.Key, Status: "open", Opened: time.Now().UTC(), Steps: int(next.Sequence())}
	if s.State, err = next.Marshal(); err == nil {
		err = h.profile.save(s)
	}
	if err == nil {
		err = h.profile.setCurrent(s.ID)
	}
	return s, changed, err
}

// brief is a body in one short line.
func brief(body []byte) string {
	text := strings.Join(strings.Fields(strings.ToValidUTF8(string(body), "?")), " ")
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "") + "..."
	}
	return text
}
