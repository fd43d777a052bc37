package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/client"
)

func newSessionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "session",
		Short: "Open, look at, commit and abandon sessions",
		Long: `A session is a task of several steps: each is answered at once (endorsed by Layer 2), and all are committed together to
Layer 1. The state of a session is kept in the client's home, so that each step may be an invocation of its own:

  tandem session open --demo-key OPR-001
  tandem demo package | tandem call POST /packages --data @- --session current
  tandem session commit current`,
	}
	cmd.AddCommand(newSessionOpenCommand(), newSessionShowCommand(), newSessionCommitCommand(), newSessionAbandonCommand(), newSessionSupersedeCommand(), newSessionListCommand())
	return cmd
}

func newSessionOpenCommand() *cobra.Command {
	var place profile
	var life time.Duration
	var supersedes string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "open",
		Short: "Open a session and make it the current one",
		Long: `Opens a session, prints its id and makes it the current one. The session's requests are signed with --key or
--demo-key, or by the node with --custody.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if life < 0 || life > 0 && life < time.Second {
				return misused("--life %v: a session lives at least a second", life)
			}
			ref, signed, err := place.who.ref(cmd)
			if err != nil {
				return err
			}
			s := savedSession{URLs: place.nodes(cmd), Actor: place.who.actor, Status: "open", Opened: time.Now().UTC()}
			if signed {
				err = place.openSigned(cmd, &s, ref, life, supersedes)
			} else if supersedes != "" {
				return misused("--supersedes needs a signed session")
			} else {
				c := newCustody(s.URLs, place.who.actor, place.wait)
				err = c.open(cmd.Context(), life)
				s.ID = c.session
			}
			if err != nil {
				return err
			}
			if err := place.save(s); err != nil {
				return err
			}
			if err := place.setCurrent(s.ID); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"session_id": s.ID, "signed": signed, "urls": s.URLs})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), s.ID)
			return err
		},
	}
	place.addHome(cmd)
	place.addURL(cmd)
	place.addSigner(cmd)
	cmd.Flags().DurationVar(&life, "life", 0, "how long the session may stay open, such as 10m (default: the client's, 15m, or in custody the node's)")
	cmd.Flags().StringVar(&supersedes, "supersedes", "", "take the place of this session, most often a conflicted one")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// openSigned opens a session that a key of ours signs.
func (p *profile) openSigned(cmd *cobra.Command, s *savedSession, ref keyRef, life time.Duration, supersedes string) error {
	ref, err := p.resolve(ref)
	if err != nil {
		return err
	}
	key, err := p.key(cmd, ref)
	if err != nil {
		return err
	}
	c, err := p.client(s.URLs, key)
	if err != nil {
		return err
	}
	var options []client.OpenOption
	if life > 0 {
		options = append(options, client.WithLife(life))
	}
	if supersedes != "" {
		id, err := p.sessionID(supersedes)
		if err != nil {
			return err
		}
		options = append(options, client.Superseding(id))
	}
	session, err := c.Open(cmd.Context(), options...)
	if err != nil {
		return err
	}
	s.ID, s.Key, s.URLs = session.ID(), &ref, c.URLs() // with those that were learned
	s.State, err = session.Marshal()
	return err
}

func newSessionShowCommand() *cobra.Command {
	var place profile
	cmd := &cobra.Command{
		Use:   "show [SESSION]",
		Short: "Show what the node says about a session, as JSON",
		Long: `Shows a session's status and steps as a node tells them, and for each step that was made from this home the Layer 2 nodes
that have endorsed it: nodes whose signatures this program has verified. SESSION is an id or "current", which is the default.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := place.sessionID(sessionArgument(args))
			if err != nil {
				return err
			}
			urls := place.nodes(cmd)
			saved, err := place.load(id)
			if ours := err == nil; ours && !cmd.Flags().Changed("url") {
				urls = saved.URLs
			}
			body, err := fetch(cmd.Context(), urls, place.wait, "/tandem/v1/sessions/"+id)
			if err != nil {
				return err
			}
			if saved.State != nil {
				if body, err = withEndorsers(body, saved); err != nil {
					return err
				}
			}
			return printJSON(cmd.OutOrStdout(), json.RawMessage(body))
		},
	}
	place.addHome(cmd)
	place.addURL(cmd)
	return cmd
}

// withEndorsers adds to what a node says about a session who has endorsed its steps, as this home has it on record and
// verifies again.
func withEndorsers(body []byte, saved savedSession) ([]byte, error) {
	c, err := client.New(client.Config{URLs: saved.URLs})
	if err != nil {
		return nil, err
	}
	s, err := c.Resume(saved.State)
	if err != nil {
		return nil, err
	}
	type endorsed struct {
		Step  int               `json:"step"`
		Nodes []client.Endorser `json:"nodes"`
	}
	steps := []endorsed{}
	for i, nodes := range s.Endorsements() {
		steps = append(steps, endorsed{i + 1, nodes})
	}
	list, err := json.Marshal(steps)
	if err != nil {
		return nil, err
	}
	text := strings.TrimRight(string(body), " \n")
	if !strings.HasSuffix(text, "}") {
		return nil, fmt.Errorf("the node's answer is no object: %.100q", text)
	}
	return fmt.Appendf(nil, `%s,"endorsed_by":%s}`, text[:len(text)-1], list), nil
}

// sessionArgument is the session named on the command line, by default the current one.
func sessionArgument(args []string) string {
	if len(args) == 0 {
		return "current"
	}
	return args[0]
}

func newSessionCommitCommand() *cobra.Command {
	var place profile
	var asJSON, checkpoint bool
	cmd := &cobra.Command{
		Use:   "commit [SESSION]",
		Short: "Commit a session to Layer 1 and wait for the block",
		Long: `Signs the transcript of everything seen, hands the session to Layer 1 and waits until it is in a block. If Layer 1 has
not decided in time, this says so and exits 1; run it again to go on waiting. Nothing is committed twice.

With --checkpoint, what there is so far is committed and the session stays open. Each checkpoint has a receipt of its own.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := place.hold(cmd, sessionArgument(args))
			if err != nil {
				return err
			}
			hand := h.voice.CommitAsync
			if checkpoint {
				hand = h.voice.CheckpointAsync
			}
			o, err := commit(cmd.Context(), hand, place.wait)
			if err == nil && !checkpoint {
				h.Status = o.Status
			}
			if err := h.release(err); err != nil {
				return err
			}
			if asJSON {
				about := map[string]any{"session_id": h.ID, "status": o.Status, "height": o.Height, "transaction_hash": o.TransactionHash}
				if o.Checkpoint > 0 {
					about["checkpoint"] = o.Checkpoint
				}
				if err := printJSON(cmd.OutOrStdout(), about); err != nil {
					return err
				}
			} else {
				what := o.Status
				if o.Checkpoint > 0 {
					what = fmt.Sprintf("%s %d", what, o.Checkpoint)
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s height %d transaction %s\n", what, o.Height, o.TransactionHash); err != nil {
					return err
				}
			}
			if o.Height == 0 {
				return fmt.Errorf("session %s is still %s: Layer 1 has not put it into a block; run this again to go on waiting", h.ID, o.Status)
			}
			return nil
		},
	}
	place.addHome(cmd)
	place.addURL(cmd)
	cmd.Flags().BoolVar(&checkpoint, "checkpoint", false, "commit what there is and leave the session open")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// commitPoll is how often a commit is asked for.
const commitPoll = 50 * time.Millisecond

// commit hands a session to Layer 1 and asks again until it is in a block or the wait is over; then the outcome says
// that it is still committing.
func commit(ctx context.Context, hand func(context.Context) (client.Outcome, error), wait time.Duration) (client.Outcome, error) {
	limit := time.NewTimer(wait)
	defer limit.Stop()
	pause := time.NewTicker(commitPoll)
	defer pause.Stop()
	for {
		o, err := hand(ctx)
		if err != nil || o.Height > 0 {
			return o, err
		}
		select {
		case <-pause.C:
		case <-limit.C:
			return o, nil
		case <-ctx.Done():
			return o, ctx.Err()
		}
	}
}

func newSessionAbandonCommand() *cobra.Command {
	var place profile
	cmd := &cobra.Command{
		Use:   "abandon [SESSION]",
		Short: "End a session without committing it",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := place.hold(cmd, sessionArgument(args))
			if err != nil {
				return err
			}
			err = h.voice.Abandon(cmd.Context())
			if err == nil {
				h.Status = "abandoned"
			}
			if err := h.release(err); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "abandoned")
			return err
		},
	}
	place.addHome(cmd)
	place.addURL(cmd)
	return cmd
}

func newSessionListCommand() *cobra.Command {
	var place profile
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the sessions opened from this home, newest first",
		Long: `Lists the sessions opened from this home with their status as this program last knew it. It asks no node; "session
show" does.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := place.sessions()
			if err != nil {
				return err
			}
			if asJSON {
				for i := range all {
					all[i].State = nil
				}
				return printJSON(cmd.OutOrStdout(), all)
			}
			for _, s := range all {
				who := "custody"
				switch {
				case s.Key != nil && s.Key.Demo != "":
					who = "demo key " + s.Key.Demo
				case s.Key != nil:
					who = s.Key.File
				case s.Actor != "":
					who = "custody for " + s.Actor
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %-10s  %3d steps  %s  %s\n", s.ID, s.Status, s.Steps, s.Opened.Format(time.RFC3339), who); err != nil {
					return err
				}
			}
			return nil
		},
	}
	place.addHome(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
