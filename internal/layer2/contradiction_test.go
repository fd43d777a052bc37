package layer2

import (
	"testing"

	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// However many lies a node tells, what is kept against it is bounded; another node's share is its own.
func TestEvidenceIsBounded(t *testing.T) {
	e := &Engine{}
	kept := 0
	for range 100 {
		if e.mayKeep(wire.PublicKey{1}, 4<<20) {
			kept += 4 << 20
		}
	}
	if kept != maxProofs {
		t.Errorf("%d bytes are kept, want %d", kept, maxProofs)
	}
	if !e.mayKeep(wire.PublicKey{2}, 1) {
		t.Error("nothing is kept against another node")
	}
}

// A block that OnBlock is late to tell of is not signed for unseen: a step on the state after it is answered only if the steps
// before it, run on that state too, answer as they did. Otherwise an honest node would sign what a replay contradicts.
func TestStepAheadOfOnBlock(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("GET", "/get/a", "", 200)
	e := w.ledger.engine
	w.ledger.mu.Lock()
	w.ledger.engine = nil // it is not told
	w.ledger.mu.Unlock()
	late := w.ledger.write("a", "taken")
	_, err := u.send(u.sign("GET", "/get/b", "", ""))
	wantCode(t, err, refusal.Conflict)
	e.OnBlock(late)
	w.ledger.mu.Lock()
	w.ledger.engine = e
	w.ledger.mu.Unlock()
	if s := u.status(); s.Status != session.Conflicted {
		t.Errorf("status %+v", s)
	}
}
