package layer1

import (
	"testing"
	"time"
)

// forEver is longer than any test: what waits for its end hangs.
const forEver = time.Hour

// A proposal for which the mempool offers nothing takes the session that CheckTx lets in while it waits.
func TestPrepareLingersForASession(t *testing.T) {
	w := newWorld(t, 2, func(o *Options) { o.Linger = forEver })
	defer w.close()
	for i, path := range []string{"/add/a", "/add/b", "/add/c"} {
		tx := w.session("ann", post(path, ""))
		admitted := make(chan struct{})
		if i > 0 { // while it waits, or before: both happen
			go func() {
				defer close(admitted)
				if r := w.checkTx(w.nodes[0], tx); r != nil {
					t.Errorf("refused: %v", r)
				}
			}()
		} else {
			if r := w.checkTx(w.nodes[0], tx); r != nil {
				t.Fatalf("refused: %v", r)
			}
			close(admitted)
		}
		made := w.block() // nothing is offered
		<-admitted
		if len(made) != 2 || string(made[1]) != string(tx) {
			t.Fatalf("the proposal has %d transactions, want the root and the session", len(made))
		}
		w.check()
	}
}

// Without a session the wait ends, and the block proves the root alone; what is offered is not waited for.
func TestPrepareLingersNotForEver(t *testing.T) {
	w := newWorld(t, 1, func(o *Options) { o.Linger = time.Millisecond })
	defer w.close()
	if made := w.block(); len(made) != 1 {
		t.Errorf("%d transactions in an empty block", len(made))
	}
	w = newWorld(t, 1, func(o *Options) { o.Linger = forEver })
	defer w.close()
	if made := w.block(w.session("ann", post("/add/a", ""))); len(made) != 2 {
		t.Errorf("%d transactions in a block with a session", len(made))
	}
}
