package layer2

import (
	"testing"

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
