package layer2

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"tandem/internal/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The road: open, steps, commit, status, bodies for the receipt.
func TestSessionIsCommitted(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	u := w.user("alice")
	u.do("POST", "/set/a", "one", 201)
	u.do("GET", "/get/a", "", 200)
	a := u.do("POST", "/add/a", "", 200)
	if a.Endorsements != 1 || a.Of != 1 || a.Signed.Get(HeaderEndorsements) != "1/1" || a.Signed.Get(HeaderFingerprint) == "" {
		t.Errorf("the answer says %d/%d, headers %v", a.Endorsements, a.Of, a.Signed)
	}
	out, err := u.commit()
	if err != nil {
		t.Fatal(err)
	}
	if out.Status != session.Committed || out.Height != 2 || out.Steps != 3 || out.Transcript != u.head {
		t.Errorf("outcome %+v", out)
	}
	if got := w.value("a"); got != "xxxx" {
		t.Errorf("committed value %q", got)
	}
	s := u.status()
	if s.Status != session.Committed || len(s.Steps) != 3 || s.Height != 2 || s.Elsewhere {
		t.Errorf("status %+v", s)
	}
	c, err := w.engine.Committed(context.Background(), u.id, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Bodies) != 3 || string(c.Transaction) != string(w.ledger.applied[u.id]) {
		t.Errorf("committed %+v", c)
	}
}
