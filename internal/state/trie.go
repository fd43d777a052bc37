package state

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"sort"

	"tandem/internal/proof"
	"tandem/internal/wire"
)

// The trie. A key's place is its path, SHA-256 of the raw key, read bit by bit from the most significant one. Hashes are
// those of github.com/celestiaorg/smt v0.3.0:
//
//	empty subtree                  32 zero bytes
//	subtree with exactly one key   SHA-256(0x00 || path || SHA-256(value)), at whatever depth
//	any other subtree              SHA-256(0x01 || left || right)
//
// The shape therefore follows from the set of keys alone, whatever order they came in: a subtree with one key is that
// key's leaf, and a deletion that leaves one key pulls its leaf up. Every function here keeps to that form, and page
// decoding refuses anything else.
//
// Nodes are immutable once a version is committed. A new version shares every untouched node with the one before.

// pageBits is how many levels one page holds. Pages are what is stored and cached: one record per node would cost a
// Pebble key each (about 8 per update at 100,000 keys); pages of 4 bits need about 2, of at most 16 entries each.
const pageBits = 4

// kind tells the three sorts of nodes apart. The empty subtree is a nil *node.
type kind uint8

const (
	leaf  kind = 1
	inner kind = 2
	child kind = 3 // an inner node at a page boundary, which stands for the page below it
)

// pendingVersion stands for the height of the commit that a staged node is written by, while that is not known.
const pendingVersion = ^uint64(0)

// node is one node of the trie.
type node struct {
	hash wire.Digest
	// left and right are the subtrees of an inner node. In a child that is not committed yet, left is the root of the page.
	left, right *node
	key         []byte // of a leaf: the raw key, so that an absence proof can name its neighbours
	version     uint64 // of a leaf: the height its value was written at; of a child: the height its page was written at
	kind        kind
}

// hashOf returns n's hash, of the empty subtree too.
func hashOf(n *node) wire.Digest {
	if n == nil {
		return wire.Digest{}
	}
	return n.hash
}

// leafHash returns the hash of the leaf of a key with this path and value.
func leafHash(path wire.Digest, value []byte) wire.Digest {
	return proof.LeafHash(path, proof.ValueHash(value))
}

// Committed returns the bytes that the trie commits to for a value; see [proof.Committed].
func Committed(value []byte) []byte { return proof.Committed(value) }

// bit returns bit i of path, counted from the most significant one.
func bit(path *wire.Digest, i int) byte { return proof.Bit(path, i) }

// prefix returns path with all bits from the given depth on cleared.
func prefix(path *wire.Digest, depth int) wire.Digest {
	var p wire.Digest
	copy(p[:], path[:(depth+7)/8])
	if depth%8 != 0 {
		p[depth/8] &= 0xff << (8 - depth%8)
	}
	return p
}

// withBit returns p with bit i set.
func withBit(p wire.Digest, i int) wire.Digest {
	p[i/8] |= 1 << (7 - i%8)
	return p
}

// combine returns the canonical subtree of two subtrees: see the head of this file.
func combine(left, right *node) *node {
	switch {
	case left == nil && right == nil:
		return nil
	case left == nil && right.kind == leaf:
		return right
	case right == nil && left.kind == leaf:
		return left
	}
	return &node{kind: inner, hash: proof.InnerHash(hashOf(left), hashOf(right)), left: left, right: right}
}

// place is where in the trie a page stands: its depth, a multiple of pageBits, and the path bits above it, the rest zero.
type place struct {
	path  wire.Digest
	depth int
}

// pageID names one version of one page; no two pages ever have the same.
type pageID struct {
	version uint64
	place
}

// pages loads the page that a committed child node stands for.
type pages interface {
	load(at place, n *node) (*node, error)
}

// edit is one change on its way down the trie. A nil leaf removes the key.
type edit struct {
	path  wire.Digest
	leaf  *node
	index int // in the list of changes
}

// effect is a change that really changes something.
type effect struct {
	index int
	// previous is the height at which the value that is replaced or removed was written; had tells whether there was one.
	previous uint64
	had      bool
}

// freshPage is a page that a staged version has to write.
type freshPage struct {
	place
	child *node // its left is the page's root until it is committed
}

// update applies edits to a version and collects what a commit has to write and what it makes superfluous.
type update struct {
	from    pages
	effects []effect
	fresh   []freshPage
	stale   []pageID
}

// apply returns the subtree n, whose root is at depth, with the edits done. The edits are sorted by path, name each path
// once and all lie in this subtree. The very node n is returned if nothing changes.
func (u *update) apply(n *node, depth int, edits []edit) (*node, error) {
	if len(edits) == 0 {
		return n, nil
	}
	if n == nil || n.kind == leaf {
		return u.plant(n, depth, edits), nil
	}
	root, at := n, place{}
	if n.kind == child {
		at = place{prefix(&edits[0].path, depth), depth}
		if root = n.left; root == nil { // committed: a pending child still holds its page
			var err error
			if root, err = u.from.load(at, n); err != nil {
				return nil, err
			}
		}
	}
	split := sort.Search(len(edits), func(i int) bool { return bit(&edits[i].path, depth) == 1 })
	left, err := u.apply(root.left, depth+1, edits[:split])
	if err != nil {
		return nil, err
	}
	right, err := u.apply(root.right, depth+1, edits[split:])
	if err != nil {
		return nil, err
	}
	if left == root.left && right == root.right {
		return n, nil
	}
	if n.kind == child && n.version != pendingVersion {
		u.stale = append(u.stale, pageID{n.version, at})
	}
	return u.bound(combine(left, right), depth, &edits[0].path), nil
}

// plant applies edits to a subtree that is empty or the single leaf n.
func (u *update) plant(n *node, depth int, edits []edit) *node {
	leaves := make([]located, 0, len(edits)+1)
	keep := n != nil // whether n is still to be put among the leaves
	var path wire.Digest
	if n != nil {
		path = sha256.Sum256(n.key)
	}
	before := len(u.effects)
	for i := range edits {
		e := &edits[i]
		if keep && bytes.Compare(path[:], e.path[:]) < 0 {
			leaves, keep = append(leaves, located{path, n}), false
		}
		switch same := keep && path == e.path; {
		case same && e.leaf != nil && e.leaf.hash == n.hash: // the same value again
			leaves, keep = append(leaves, located{path, n}), false
		case same:
			u.effects = append(u.effects, effect{index: e.index, previous: n.version, had: true})
			if keep = false; e.leaf != nil {
				leaves = append(leaves, located{e.path, e.leaf})
			}
		case e.leaf != nil:
			u.effects = append(u.effects, effect{index: e.index})
			leaves = append(leaves, located{e.path, e.leaf})
		}
	}
	if len(u.effects) == before {
		return n
	}
	if keep {
		leaves = append(leaves, located{path, n})
	}
	return u.grow(leaves, depth)
}

// located is a leaf with its path.
type located struct {
	path wire.Digest
	leaf *node
}

// grow returns the subtree at depth that holds exactly these leaves, which are sorted by path.
func (u *update) grow(leaves []located, depth int) *node {
	switch len(leaves) {
	case 0:
		return nil
	case 1:
		return leaves[0].leaf
	}
	split := sort.Search(len(leaves), func(i int) bool { return bit(&leaves[i].path, depth) == 1 })
	return u.bound(combine(u.grow(leaves[:split], depth+1), u.grow(leaves[split:], depth+1)), depth, &leaves[0].path)
}

// bound makes n a page of its own if it is an inner node at a page boundary.
func (u *update) bound(n *node, depth int, path *wire.Digest) *node {
	if n == nil || n.kind != inner || depth%pageBits != 0 {
		return n
	}
	c := &node{kind: child, hash: n.hash, left: n, version: pendingVersion}
	u.fresh = append(u.fresh, freshPage{place{prefix(path, depth), depth}, c})
	return c
}

// editsOf turns changes into edits sorted by path. Keys are copied, since nodes outlive the caller's slices.
func editsOf(changes []Change) []edit {
	edits := make([]edit, len(changes))
	for i, c := range changes {
		edits[i] = edit{path: sha256.Sum256(c.Key), index: i}
		if !c.Delete {
			edits[i].leaf = &node{kind: leaf, hash: leafHash(edits[i].path, c.Value), key: bytes.Clone(c.Key), version: pendingVersion}
		}
	}
	slices.SortFunc(edits, func(a, b edit) int { return bytes.Compare(a.path[:], b.path[:]) })
	return edits
}

// walk calls visit for every leaf of the subtree n at the given place, in path order, until it returns an error.
func walk(from pages, n *node, at place, visit func(path wire.Digest, n *node) error) error {
	switch {
	case n == nil:
		return nil
	case n.kind == leaf:
		path := wire.Digest(sha256.Sum256(n.key))
		if prefix(&path, at.depth) != at.path {
			return malformed("leaf of key %q stands at depth %d of path %x", n.key, at.depth, at.path)
		}
		return visit(path, n)
	case n.kind == child:
		root, err := from.load(at, n)
		if err != nil {
			return err
		}
		n = root
	}
	if err := walk(from, n.left, place{at.path, at.depth + 1}, visit); err != nil {
		return err
	}
	return walk(from, n.right, place{withBit(at.path, at.depth), at.depth + 1}, visit)
}
