package layer1

import (
	"fmt"
	"testing"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// The Layer 2 list changes by ordinary sessions. A session whose steps a node originated before it was removed is
// committed all the same, in a later block and in the same one; a node that was never listed gets nothing in.
func TestRemovedOriginator(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	second := key("second")
	list := fmt.Sprintf(`{"key":%q,"organisation":"other"}`, wire.PublicKeyOf(second).DID())
	by := func(who string, origin string, calls ...call) []byte {
		d := w.draft(who, calls...)
		d.originator = key(origin)
		return d.bytes(t)
	}
	w.wantCode(w.try(w.nodes[0], by("ann", "second", post("/add/x", ""))), refusal.OriginatorUnknown)

	w.block(w.session("root", call{"POST", "/tandem/v1/layer2", list}))
	old := w.session("ann", post("/add/x", "")) // originated by w.origin
	same := w.session("bob", post("/add/y", ""))
	removal := by("root", "second", call{"DELETE", "/tandem/v1/layer2/" + wire.PublicKeyOf(w.origin).DID(), ""})
	w.block(removal, same)
	w.block(old)
	if len(w.settled) != 4 {
		t.Fatalf("%d sessions are settled, not 4", len(w.settled))
	}
	w.check()
}
