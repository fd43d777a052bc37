package state

import (
	"bytes"
	"crypto/sha256"

	"github.com/cockroachdb/pebble/v2"
	ics23 "github.com/cosmos/ics23/go"

	"tandem/internal/proof"
	"tandem/internal/wire"
)

// Prove returns a proof, against the root of the version at height, that key has its value or that it is absent. Stock
// ICS-23 verifies it: ics23.VerifyMembership(ics23.SmtSpec, root, proof, key, Committed(value)) or
// ics23.VerifyNonMembership(ics23.SmtSpec, root, proof, key). An absence is proved by the two keys next to it in the
// order of their hashes, with their values. Errors: [ErrEmptyTree], [ErrNoVersion], [ErrPruned], [ErrDamaged], [ErrClosed].
func (s *Store) Prove(height int64, key []byte) (*ics23.CommitmentProof, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	v, err := s.versionAt(height)
	if err != nil {
		return nil, err
	}
	p, err := s.prove(v, key)
	if err != nil && err != ErrEmptyTree {
		return nil, s.explain(height, err)
	}
	return p, err
}

func (s *Store) prove(v *version, key []byte) (*ics23.CommitmentProof, error) {
	if v.root == nil {
		return nil, ErrEmptyTree
	}
	path := sha256.Sum256(key)
	way, err := s.descend(v.root, path)
	if err != nil {
		return nil, err
	}
	if way.end != nil && bytes.Equal(way.end.key, key) {
		exist, err := s.exist(v, way)
		return &ics23.CommitmentProof{Proof: &ics23.CommitmentProof_Exist{Exist: exist}}, err
	}
	absence := &ics23.NonExistenceProof{Key: key}
	if absence.Left, err = s.neighbour(v, way, path, false); err != nil {
		return nil, err
	}
	if absence.Right, err = s.neighbour(v, way, path, true); err != nil {
		return nil, err
	}
	return &ics23.CommitmentProof{Proof: &ics23.CommitmentProof_Nonexist{Nonexist: absence}}, nil
}

// Trace returns key's value at a height and the proof of it, or of its absence, against the root of that version: what
// package proof checks. Errors: [ErrNoVersion], [ErrPruned], [ErrDamaged], [ErrClosed].
func (s *Store) Trace(height int64, key []byte) (proof.Known, error) {
	if err := s.enter(); err != nil {
		return proof.Known{}, err
	}
	defer s.leave()
	v, err := s.versionAt(height)
	if err != nil {
		return proof.Known{}, err
	}
	known, err := s.trace(v, key)
	if err != nil {
		return proof.Known{}, s.explain(height, err)
	}
	return known, nil
}

func (s *Store) trace(v *version, key []byte) (proof.Known, error) {
	known := proof.Known{Key: bytes.Clone(key)}
	way, err := s.descend(v.root, sha256.Sum256(key))
	if err != nil {
		return known, err
	}
	for _, sibling := range way.siblings {
		known.Proof.Siblings = append(known.Proof.Siblings, hashOf(sibling))
	}
	if way.end == nil {
		return known, nil
	}
	path := wire.Digest(sha256.Sum256(way.end.key))
	value, err := valueOf(s.db, v, path, way.end)
	if err != nil {
		return known, err
	}
	if bytes.Equal(way.end.key, key) {
		known.Value, known.Present = value, true
	} else {
		known.Proof.Other = &proof.Leaf{Path: path, Value: proof.ValueHash(value)}
	}
	return known, nil
}

// descent is the way from the root towards a path: the siblings passed, uppermost first, and what stands at its end.
type descent struct {
	path     wire.Digest
	siblings []*node
	end      *node // nil, or a leaf, of this path or of another
}

// descend follows path from the root of a version.
func (s *Store) descend(n *node, path wire.Digest) (*descent, error) {
	way := &descent{path: path}
	for depth := 0; n != nil && n.kind != leaf; depth++ {
		if n.kind == child {
			root, err := s.load(place{prefix(&path, depth), depth}, n)
			if err != nil {
				return nil, err
			}
			n = root
		}
		if bit(&path, depth) == 0 {
			way.siblings, n = append(way.siblings, n.right), n.left
		} else {
			way.siblings, n = append(way.siblings, n.left), n.right
		}
	}
	way.end = n
	return way, nil
}

// exist returns the proof of the leaf at the end of a way. It is checked against the stored value, so that a damaged
// value is found here and not by whoever verifies the proof.
func (s *Store) exist(v *version, way *descent) (*ics23.ExistenceProof, error) {
	key := way.end.key
	value, err := valueOf(s.db, v, way.path, way.end)
	if err != nil {
		return nil, err
	}
	spec := ics23.SmtSpec
	p := &ics23.ExistenceProof{Key: bytes.Clone(key), Value: Committed(value), Leaf: &ics23.LeafOp{
		Hash:         spec.LeafSpec.Hash,
		PrehashKey:   spec.LeafSpec.PrehashKey,
		PrehashValue: spec.LeafSpec.PrehashValue,
		Length:       spec.LeafSpec.Length,
		Prefix:       []byte{0},
	}}
	for depth := len(way.siblings) - 1; depth >= 0; depth-- {
		sibling := hashOf(way.siblings[depth])
		step := &ics23.InnerOp{Hash: spec.InnerSpec.Hash, Prefix: []byte{1}}
		if bit(&way.path, depth) == 0 {
			step.Suffix = sibling[:]
		} else {
			step.Prefix = append(step.Prefix, sibling[:]...)
		}
		p.Path = append(p.Path, step)
	}
	return p, nil
}

// valueOf returns the value of a leaf, with its height and its hash checked.
func valueOf(r pebble.Reader, v *version, path wire.Digest, n *node) ([]byte, error) {
	value, at, ok, err := find(r, n.key, v.height)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, malformed("key %q is in the trie and has no value", n.key)
	case at != n.version:
		return nil, malformed("value of key %q is of height %d, the trie says %d", n.key, at, n.version)
	case leafHash(path, value) != n.hash:
		return nil, malformed("value of key %q has another hash than its leaf", n.key)
	}
	return value, nil
}

// neighbour returns the proof of the key next to path, which is absent, on the right or on the left; nil if there is none.
func (s *Store) neighbour(v *version, way *descent, path wire.Digest, right bool) (*ics23.ExistenceProof, error) {
	next := way.end
	if next != nil {
		other := sha256.Sum256(next.key)
		if bytes.Compare(other[:], path[:]) > 0 != right {
			next = nil
		}
	}
	// The nearest subtree beside the way that is not empty, and in it the outermost leaf that looks our way.
	for depth := len(way.siblings) - 1; depth >= 0 && next == nil; depth-- {
		if sibling := way.siblings[depth]; sibling != nil && (bit(&path, depth) == 0) == right {
			at := prefix(&path, depth)
			if right {
				at = withBit(at, depth)
			}
			var err error
			if next, err = s.outermost(sibling, place{at, depth + 1}, !right); err != nil {
				return nil, err
			}
		}
	}
	if next == nil {
		return nil, nil
	}
	to, err := s.descend(v.root, sha256.Sum256(next.key))
	if err != nil {
		return nil, err
	}
	if to.end == nil || !bytes.Equal(to.end.key, next.key) {
		return nil, malformed("leaf of key %q stands in a wrong place", next.key)
	}
	return s.exist(v, to)
}

// outermost returns the last leaf of a subtree, or the first one.
func (s *Store) outermost(n *node, at place, last bool) (*node, error) {
	for n.kind != leaf {
		if n.kind == child {
			root, err := s.load(at, n)
			if err != nil {
				return nil, err
			}
			n = root
		}
		right := last && n.right != nil || n.left == nil
		if right {
			n, at.path = n.right, withBit(at.path, at.depth)
		} else {
			n = n.left
		}
		at.depth++
	}
	return n, nil
}
