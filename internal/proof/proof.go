// Package proof is what a state root proves, without a store: that a key has a value, that it is absent, or what the
// whole state is. A verifier who has a root from a signed block header needs nothing else; package state makes what is
// checked here, and hashes with these functions.
//
// The tree is the one that docs/format/state.md describes. A key's path is SHA-256(key), its bits the way down from the
// root. A [Proof] is the list of subtrees beside that way: whoever hashes the key's leaf with them, from the bottom up, gets
// the root. A key is absent if its way ends at nothing, or at the leaf of another key. It is shorter than an ICS-23 absence,
// which shows two whole neighbours, and has one form only.
//
// The order of paths is not the order of keys. So no list of such proofs says that a range of keys was complete; only the
// whole state does ([Whole]).
package proof

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"

	"tandem/internal/wire"
)

// Entry is one key of a state with its value.
type Entry struct {
	Key, Value []byte
}

// LeafHash returns the hash of the leaf with this path whose committed value has the digest.
func LeafHash(path, value wire.Digest) wire.Digest { return hash(0, path, value) }

// InnerHash returns the hash of an inner node.
func InnerHash(left, right wire.Digest) wire.Digest { return hash(1, left, right) }

func hash(mark byte, a, b wire.Digest) wire.Digest {
	var preimage [65]byte
	preimage[0] = mark
	copy(preimage[1:], a[:])
	copy(preimage[33:], b[:])
	return sha256.Sum256(preimage[:])
}

// emptyValue is what the trie commits to in place of an empty value.
const emptyValue = "tandem:empty"

// Committed returns the bytes that the trie commits to for a value: the value itself, but for one family. Neither
// celestiaorg/smt (where an empty value means deletion) nor ICS-23 (which refuses leaves without a value) knows a present
// empty value, so "" is committed as "tandem:empty"; to keep the mapping one to one, that text itself is committed twice
// over, and so on: n copies as n+1 copies. Only who verifies proofs of such values ever needs this function.
func Committed(value []byte) []byte {
	rest := value
	for bytes.HasPrefix(rest, []byte(emptyValue)) {
		rest = rest[len(emptyValue):]
	}
	if len(rest) > 0 {
		return value
	}
	return append([]byte(emptyValue), value...)
}

// ValueHash is the digest of a value as the trie commits to it.
func ValueHash(value []byte) wire.Digest { return sha256.Sum256(Committed(value)) }

// Bit returns bit i of a path, counted from the most significant one.
func Bit(path *wire.Digest, i int) byte { return path[i/8] >> (7 - i%8) & 1 }

// Proof leads from a key to the root.
type Proof struct {
	// Siblings are the hashes of the subtrees beside the way, the uppermost first; zero for an empty one.
	Siblings []wire.Digest
	// Other is the leaf at which the way of an absent key ends; nil if it ends at nothing, or the key is present.
	Other *Leaf
}

// Leaf is a leaf as its hash sees it.
type Leaf struct {
	Path, Value wire.Digest // SHA-256 of the key, and of the committed value
}

// Known is a key that a state is proved to hold with a value, or not to hold.
type Known struct {
	Key     []byte
	Value   []byte // empty if absent
	Present bool
	Proof   Proof
}

// Root returns the root of the state that the proof speaks of, or why it is no proof.
func (k *Known) Root() (wire.Digest, error) {
	path := wire.Digest(sha256.Sum256(k.Key))
	var node wire.Digest
	switch other := k.Proof.Other; {
	case len(k.Proof.Siblings) > 8*len(path):
		return node, fmt.Errorf("%d siblings, more than a path has bits", len(k.Proof.Siblings))
	case k.Present && other != nil:
		return node, errors.New("a present key has another's leaf")
	case k.Present:
		node = LeafHash(path, ValueHash(k.Value))
	case len(k.Value) > 0:
		return node, errors.New("an absent key has a value")
	case other != nil && other.Path == path:
		return node, errors.New("the other leaf is the key's own")
	case other != nil:
		for i := range k.Proof.Siblings {
			if Bit(&path, i) != Bit(&other.Path, i) {
				return node, errors.New("the other leaf does not stand on the key's way")
			}
		}
		node = LeafHash(other.Path, other.Value)
	}
	for i := len(k.Proof.Siblings) - 1; i >= 0; i-- {
		if Bit(&path, i) == 0 {
			node = InnerHash(node, k.Proof.Siblings[i])
		} else {
			node = InnerHash(k.Proof.Siblings[i], node)
		}
	}
	return node, nil
}

// ErrUnproven says that something was read that is neither proved to be there nor to be absent.
var ErrUnproven = errors.New("proof: a key or range was read that is not proved")

// View is a state as far as it is proved. It implements state.Reader; reading what is not proved is [ErrUnproven]. It
// belongs to one goroutine.
type View struct {
	known map[string]*Known // nil: whole
	read  map[string]bool   // of known
	whole []Entry           // in the order of keys
}

// Keys returns the view that proves these keys, each once and in the order of keys, under root.
func Keys(root wire.Digest, keys []Known) (*View, error) {
	v := &View{known: make(map[string]*Known, len(keys)), read: map[string]bool{}}
	for i := range keys {
		k := &keys[i]
		if i > 0 && bytes.Compare(keys[i-1].Key, k.Key) >= 0 {
			return nil, fmt.Errorf("key %d is not behind the one before it", i+1)
		}
		got, err := k.Root()
		if err == nil && got != root {
			err = errors.New("it leads to another root")
		}
		if err != nil {
			return nil, fmt.Errorf("proof of key %q: %w", clip(k.Key), err)
		}
		v.known[string(k.Key)] = k
	}
	return v, nil
}

func clip(key []byte) []byte { return key[:min(len(key), 80)] }

// Pack appends an entry to a packed state: the entries in the order of their paths, each as uvarint length and key, uvarint
// length and value. A snapshot's chunks, one behind the other, are a packed state.
func Pack(b []byte, e Entry) []byte {
	b = append(binary.AppendUvarint(b, uint64(len(e.Key))), e.Key...)
	return append(binary.AppendUvarint(b, uint64(len(e.Value))), e.Value...)
}

// Whole returns the view of a packed state, if root is its root.
func Whole(root wire.Digest, packed []byte) (*View, error) {
	v := &View{}
	var leaves []Leaf
	for rest := packed; len(rest) > 0; {
		var e Entry
		var ok bool
		if e.Key, rest, ok = take(rest); ok {
			e.Value, rest, ok = take(rest)
		}
		if !ok || len(e.Key) == 0 {
			return nil, errors.New("the packed state is cut short or malformed")
		}
		leaf := Leaf{sha256.Sum256(e.Key), ValueHash(e.Value)}
		if n := len(leaves); n > 0 && bytes.Compare(leaves[n-1].Path[:], leaf.Path[:]) >= 0 {
			return nil, errors.New("the packed state is not in the order of its paths")
		}
		leaves, v.whole = append(leaves, leaf), append(v.whole, e)
	}
	if rootOf(leaves, 0) != root {
		return nil, errors.New("the packed state has another root")
	}
	slices.SortFunc(v.whole, func(a, b Entry) int { return bytes.Compare(a.Key, b.Key) })
	return v, nil
}

// take reads a length, in its shortest form, and as many bytes.
func take(b []byte) (text, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || size > 1 && b[size-1] == 0 || n > uint64(len(b)-size) {
		return nil, nil, false
	}
	return b[size : size+int(n)], b[size+int(n):], true
}

// rootOf returns the hash of the subtree at depth that holds exactly these leaves, which are sorted by path.
func rootOf(leaves []Leaf, depth int) wire.Digest {
	switch len(leaves) {
	case 0:
		return wire.Digest{}
	case 1:
		return LeafHash(leaves[0].Path, leaves[0].Value)
	}
	split := sort.Search(len(leaves), func(i int) bool { return Bit(&leaves[i].Path, depth) == 1 })
	return InnerHash(rootOf(leaves[:split], depth+1), rootOf(leaves[split:], depth+1))
}

// Get returns the value of a proved key.
func (v *View) Get(key []byte) (value []byte, ok bool, err error) {
	if v.known == nil {
		i, found := slices.BinarySearchFunc(v.whole, key, func(e Entry, key []byte) int { return bytes.Compare(e.Key, key) })
		if !found {
			return nil, false, nil
		}
		return clone(v.whole[i].Value), true, nil
	}
	k, proved := v.known[string(key)]
	if !proved {
		return nil, false, ErrUnproven
	}
	v.read[string(key)] = true
	if !k.Present {
		return nil, false, nil
	}
	return clone(k.Value), true, nil
}

// clone copies a value, an empty one too: present and empty is not nil.
func clone(value []byte) []byte { return append(make([]byte, 0, len(value)), value...) }

// Scan yields the entries of a range, if the whole state is proved.
func (v *View) Scan(start, end []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if v.known != nil {
			yield(Entry{}, ErrUnproven)
			return
		}
		i, _ := slices.BinarySearchFunc(v.whole, start, func(e Entry, key []byte) int { return bytes.Compare(e.Key, key) })
		for _, e := range v.whole[i:] {
			if end != nil && bytes.Compare(e.Key, end) >= 0 || !yield(Entry{bytes.Clone(e.Key), clone(e.Value)}, nil) {
				return
			}
		}
	}
}

// Unread returns a proved key that was never read, if there is one.
func (v *View) Unread() (key []byte, ok bool) {
	for k := range v.known {
		if !v.read[k] {
			return []byte(k), true
		}
	}
	return nil, false
}
