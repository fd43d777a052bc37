package wire

import (
	"encoding/binary"
	"sync/atomic"

	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"
)

// checkedKey is a key that [CheckKey] has passed, with its text, and with its multiples for verifying signatures (1.5 KiB).
type checkedKey struct {
	key      PublicKey
	did      string
	expanded *voi.ExpandedPublicKey
}

// keySlots is the size of each of the two tables, a power of two. A key that is not in them is checked again, so their size
// and what else falls into a slot decide nothing but the time.
const keySlots = 1024

// keyCache remembers keys that have passed, by key and by text: two direct-mapped tables of fixed size, so that a stranger who
// sends ever new keys can push others out, but neither fill memory nor get a bad key in. Safe for concurrent use.
type keyCache struct {
	byKey, byText [keySlots]atomic.Pointer[checkedKey]
}

var checkedKeys keyCache

// of returns the entry of a key, nil if it has none.
func (c *keyCache) of(k PublicKey) *checkedKey {
	if e := c.byKey[keySlot(k)].Load(); e != nil && e.key == k {
		return e
	}
	return nil
}

// named returns the entry of a key's text, nil if it has none.
func (c *keyCache) named(did string) *checkedKey {
	if e := c.byText[textSlot(did)].Load(); e != nil && e.did == did {
		return e
	}
	return nil
}

// add enters a key that has passed.
func (c *keyCache) add(k PublicKey) {
	e := remembered(k)
	c.byKey[keySlot(k)].Store(e)
	c.byText[textSlot(e.did)].Store(e)
}

func remembered(k PublicKey) *checkedKey {
	expanded, err := voi.NewExpandedPublicKey(k[:])
	if err != nil {
		panic("wire: a key that has passed is no point: " + err.Error())
	}
	return &checkedKey{k, didOf(k), expanded}
}

func keySlot(k PublicKey) uint32 { return binary.LittleEndian.Uint32(k[:]) % keySlots }

// textSlot takes the last characters, in which all of the key's bytes have their part (FNV-1a).
func textSlot(did string) uint32 {
	h := uint32(2166136261)
	for i := max(0, len(did)-12); i < len(did); i++ {
		h = (h ^ uint32(did[i])) * 16777619
	}
	return h % keySlots
}
