package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/client"
)

// callFlags are the flags of `tandem call`.
type callFlags struct {
	place       profile
	session     string
	data        string
	contentType string
	quiet       bool
	asJSON      bool
}

func newCallCommand() *cobra.Command {
	var f callFlags
	cmd := &cobra.Command{
		Use:   "call METHOD PATH",
		Short: "Send one request to the service: a step of a session, or a request of its own",
		Long: `Sends one request to a route of the service and prints the answer's body; a line about it goes to standard error.

With --session ID or --session current it is a step of that session, with the signer the session was opened with.
Without --session a GET reads committed state, and anything else is a session of one step that is committed before the
answer is printed; that one needs a signer.

--data takes the body as it is, @FILE takes it from a file, @- from standard input. Exit code 1 if the service answers
400 or more; the body is printed all the same.`,
		Example: `  tandem call GET /suppliers
  tandem demo package | tandem call POST /packages --data @- --session current
  tandem call POST /packages/PKG-.../quality-check --data '{"passed":true,"issues":[]}' --session current`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, strings.ToUpper(args[0]), args[1]) },
	}
	f.place.addHome(cmd)
	f.place.addURL(cmd)
	f.place.addSigner(cmd)
	cmd.Flags().StringVar(&f.session, "session", "", `session id, or "current" (default $TANDEM_SESSION, or no session)`)
	cmd.Flags().StringVarP(&f.data, "data", "d", "", "request body; @FILE or @- (standard input) reads it from there")
	cmd.Flags().StringVar(&f.contentType, "content-type", "application/json", "the body's media type")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "print the body only")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print the whole answer as JSON")
	return cmd
}

var methodName = regexp.MustCompile(`^[A-Z]{1,16}$`)

func (f *callFlags) run(cmd *cobra.Command, method, target string) error {
	if !methodName.MatchString(method) || !strings.HasPrefix(target, "/") {
		return misused("give a method such as POST and a path that begins with /, not %q %q", method, target)
	}
	body, err := readData(f.data, cmd.InOrStdin())
	if err != nil {
		return err
	}
	began := time.Now()
	answer, outcome, err := f.send(cmd, method, target, body)
	took := time.Since(began)
	if answer != nil {
		if printErr := f.print(cmd, answer, outcome, took); printErr != nil {
			return errors.Join(err, printErr)
		}
	}
	if err == nil && answer.Status >= 400 {
		err = fmt.Errorf("the service answered %d %s", answer.Status, http.StatusText(answer.Status))
	}
	return err
}

// send makes the request in the way the flags say.
func (f *callFlags) send(cmd *cobra.Command, method, target string, body []byte) (*client.Answer, client.Outcome, error) {
	ctx := cmd.Context()
	if f.session == "" {
		f.session = os.Getenv("TANDEM_SESSION")
	}
	if f.session != "" {
		for _, name := range []string{"key", "demo-key", "custody", "actor"} {
			if cmd.Flags().Changed(name) {
				return nil, client.Outcome{}, misused("--%s has no place in a session: who opened it signs its steps", name)
			}
		}
		h, err := f.place.hold(cmd, f.session)
		if err != nil {
			return nil, client.Outcome{}, err
		}
		answer, err := callAnew(ctx, h.voice, method, target, f.contentType, body)
		if err == nil && answer.Recorded {
			h.Steps = int(answer.Sequence)
		}
		return answer, client.Outcome{}, h.release(err)
	}
	ref, signed, err := f.place.who.ref(cmd)
	switch {
	case method == http.MethodGet && !f.place.who.custody:
		c, err := f.place.client(f.place.nodes(cmd), client.Key{})
		if err != nil {
			return nil, client.Outcome{}, err
		}
		answer, err := c.Get(ctx, target)
		return answer, client.Outcome{}, err
	case err != nil:
		return nil, client.Outcome{}, err
	case !signed:
		return newCustody(f.place.nodes(cmd), f.place.who.actor, f.place.wait).one(ctx, method, target, f.contentType, body)
	}
	key, err := f.place.key(cmd, ref)
	if err != nil {
		return nil, client.Outcome{}, err
	}
	c, err := f.place.client(f.place.nodes(cmd), key)
	if err != nil {
		return nil, client.Outcome{}, err
	}
	answer, outcome, _, err := c.Do(ctx, method, target, f.contentType, body)
	return answer, outcome, err
}

// callAnew makes a step. An earlier one that the framework refused for certain is withdrawn first, since each invocation
// is a new intention of the person who types; one whose outcome is unknown stays in the way.
func callAnew(ctx context.Context, v voice, method, target, contentType string, body []byte) (*client.Answer, error) {
	answer, err := v.Call(ctx, method, target, contentType, body)
	signed, ok := v.(*client.Session)
	var pending *client.PendingError
	if !ok || !errors.As(err, &pending) || !pending.Refused {
		return answer, err
	}
	if err := signed.Withdraw(); err != nil {
		return nil, err
	}
	return signed.Call(ctx, method, target, contentType, body)
}

// print shows an answer: its body on standard output, what the network says about it on standard error.
func (f *callFlags) print(cmd *cobra.Command, a *client.Answer, o client.Outcome, took time.Duration) error {
	if f.asJSON {
		return printJSON(cmd.OutOrStdout(), answerJSON(a, o, took))
	}
	out := a.Body
	if len(out) > 0 && !bytes.HasSuffix(out, []byte("\n")) {
		out = append(bytes.Clone(out), '\n')
	}
	if _, err := cmd.OutOrStdout().Write(out); err != nil || f.quiet {
		return err
	}
	line := fmt.Sprintf("%d %s", a.Status, http.StatusText(a.Status))
	switch {
	case o.Committed():
		line += fmt.Sprintf(", committed at height %d, transaction %s", o.Height, o.TransactionHash)
	case a.Recorded && a.Session != "":
		line += fmt.Sprintf(", step %d of session %s, endorsed by %d of %d on height %d", a.Sequence, a.Session, a.Endorsed, a.Of, a.Height)
	case a.Session != "":
		line += fmt.Sprintf(", not recorded: session %s stands at step %d", a.Session, a.Sequence)
	default:
		line += fmt.Sprintf(", committed state of height %d", a.Height)
	}
	line += fmt.Sprintf(", %s ms\n", milliseconds(took))
	if a.Hint != "" {
		line += fmt.Sprintf("hint: open sessions that have written what this step touched, and may come first: %#q\n", a.Hint)
	}
	_, err := io.WriteString(cmd.ErrOrStderr(), line)
	return err
}

// answerJSON is an answer as --json prints it. A JSON body stands in it as JSON, another as text.
func answerJSON(a *client.Answer, o client.Outcome, took time.Duration) any {
	var body any = string(a.Body)
	if json.Valid(a.Body) {
		body = json.RawMessage(a.Body)
	}
	out := struct {
		Status      int               `json:"status"`
		ContentType string            `json:"content_type,omitempty"`
		Body        any               `json:"body"`
		Session     string            `json:"session_id,omitempty"`
		Sequence    uint64            `json:"sequence,omitempty"`
		Transcript  string            `json:"transcript,omitempty"`
		Recorded    bool              `json:"recorded"`
		Height      int64             `json:"height"`
		Time        *time.Time        `json:"time,omitempty"`
		Originator  string            `json:"originator,omitempty"`
		Endorsed    int               `json:"endorsed"`
		Of          int               `json:"of"`
		Endorsers   []client.Endorser `json:"endorsers,omitempty"` // verified; none in custody
		Hint        string            `json:"hint,omitempty"`
		Outcome     *client.Outcome   `json:"outcome,omitempty"`
		TookMillis  json.Number       `json:"took_ms"`
	}{
		Status: a.Status, ContentType: a.Header.Get("Content-Type"), Body: body, Session: a.Session, Sequence: a.Sequence,
		Transcript: a.Transcript, Recorded: a.Recorded, Height: a.Height, Originator: a.Originator, Endorsed: a.Endorsed, Of: a.Of,
		Endorsers: a.Endorsers, Hint: a.Hint, TookMillis: milliseconds(took),
	}
	if !a.Time.IsZero() {
		out.Time = &a.Time
	}
	if o.Status != "" {
		out.Outcome = &o
	}
	return out
}

// readData is the body that --data names.
func readData(data string, stdin io.Reader) ([]byte, error) {
	const most = 1 << 20 // nodes take less
	name, isFile := strings.CutPrefix(data, "@")
	if !isFile {
		return []byte(data), nil
	}
	in := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, most+1))
	if err == nil && len(b) > most {
		err = fmt.Errorf("the body has more than %d bytes", most)
	}
	return b, err
}

// milliseconds writes a duration as milliseconds with three decimals.
func milliseconds(d time.Duration) json.Number {
	return json.Number(fmt.Sprintf("%d.%03d", d.Microseconds()/1000, d.Microseconds()%1000))
}
