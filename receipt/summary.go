package receipt

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// WriteSummary writes the proof as text for people: who committed what, when, and by whose word. What came from the
// user (targets, names) is quoted where it could disturb a terminal.
func (p *Proof) WriteSummary(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "session      %s\n", p.Session)
	if p.Checkpoint > 1 || !p.Final {
		fmt.Fprintf(&b, "part         %s\n", p.part())
	}
	if p.Supersedes != "" {
		fmt.Fprintf(&b, "supersedes   %s\n", p.Supersedes)
	}
	fmt.Fprintf(&b, "committed    in block %d of %s at %s\n", p.Height, plain(p.ChainID), p.Time.UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "signed by    %d of %d validators (power %d of %d; more than two thirds)\n", p.Signers, p.Validators, p.Power, p.TotalPower)
	fmt.Fprintf(&b, "by           %s\n", p.Actor.describe())
	fmt.Fprintf(&b, "key          %s\n", p.Actor.Key)
	fmt.Fprintf(&b, "transaction  %s\n", p.TransactionHash)
	fmt.Fprintf(&b, "block        %s\n", p.BlockHash)
	fmt.Fprintf(&b, "transcript   %s\n", p.Transcript)
	fmt.Fprintf(&b, "service      %s\n", p.Fingerprint)
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "step %-7d %s  %s %s -> %d\n", s.Sequence, s.Time.UTC().Format("15:04:05.000"), s.Method, plain(s.Target), s.Status)
	}
	if len(p.Steps) == 0 {
		b.WriteString("no steps\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// part says which part of a session that is committed in parts this is.
func (p *Proof) part() string {
	steps := "no steps"
	if p.LastStep >= p.FirstStep {
		steps = fmt.Sprintf("steps %d-%d", p.FirstStep, p.LastStep)
	}
	if p.Final {
		return fmt.Sprintf("checkpoint %d, %s, closes the session", p.Checkpoint, steps)
	}
	return fmt.Sprintf("checkpoint %d, %s, the session stays open", p.Checkpoint, steps)
}

func (a Actor) describe() string {
	if a.ID == "" {
		return "an actor that the genesis file does not name"
	}
	text := plain(a.ID)
	if a.Organisation != "" {
		text += " of " + plain(a.Organisation)
	}
	if a.Delegate {
		text += " (signed by a node in custody)"
	}
	return text
}

// plain quotes a text that holds anything but printable characters.
func plain(s string) string {
	q := fmt.Sprintf("%q", s)
	if q == `"`+s+`"` {
		return s
	}
	return q
}
