package evidence

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// WriteSummary writes the finding as text for people: who did what. What came from outside is quoted where it could
// disturb a terminal.
func (f *Finding) WriteSummary(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "evidence     %s\n", f.Kind)
	fmt.Fprintf(&b, "against      %s\n", f.Culprit.describe())
	fmt.Fprintf(&b, "key          %s\n", f.Culprit.Key)
	fmt.Fprintf(&b, "session      %s on %s, place %d\n", f.Session, plain(f.ChainID), f.Sequence)
	fmt.Fprintf(&b, "proves       %s\n", f.Proves)
	if !f.Conclusive {
		b.WriteString("conclusive   no: ask the client for the node's answer to the one that was given up\n")
	}
	for i, s := range f.Signed {
		fmt.Fprintf(&b, "signed %-5d %s", i+1, plain(s.Target))
		if s.Status != 0 {
			fmt.Fprintf(&b, " -> %d, at height %d, %s", s.Status, s.Height, time.UnixMilli(s.TimeMillis).UTC().Format(time.RFC3339))
		}
		when := ""
		if s.Created > 0 { // an endorsement says no time
			when = " " + time.Unix(s.Created, 0).UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(&b, "\n             signed%s for %s\n", when, plain(s.Purpose))
		fmt.Fprintf(&b, "             request %s\n             over %s\n", s.Request, s.Over)
		if s.Head != "" {
			fmt.Fprintf(&b, "             head %s\n             response %s\n", s.Head, s.Response)
		}
	}
	if r := f.Replay; r != nil {
		fmt.Fprintf(&b, "state        %s in block %d, signed by %d of %d validators (power %d of %d; more than two thirds)\n",
			r.StateRoot, r.BlockHeight, r.Signers, r.Validators, r.Power, r.TotalPower)
		fmt.Fprintf(&b, "step %-7d %s -> %d, response %s\n", r.Step, plain(r.Target), r.Recorded, r.RecordedResponse)
		if r.Code != "" {
			fmt.Fprintf(&b, "run again    refused: %s\n", r.Code)
		} else {
			fmt.Fprintf(&b, "run again    -> %d, response %s (%s differs)\n", r.Status, r.Response, r.Field)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (c Culprit) describe() string {
	text := "the " + c.Role
	switch {
	case c.ID != "" && c.Organisation != "":
		text += " " + plain(c.ID) + " of " + plain(c.Organisation)
	case c.ID != "":
		text += " " + plain(c.ID)
	case c.Organisation != "":
		text += " of " + plain(c.Organisation)
	default:
		text += ", whom the genesis file does not name"
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
