package state

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"tandem/internal/wire"
)

// Staged is a version that was computed and not written. It belongs to the store it was staged on, can be committed
// once at most, and costs only memory if it is dropped. Its methods may be called at the same time as the store's.
type Staged struct {
	base    *version
	root    *node
	changes []Change
	update  update
}

// Root returns the root hash of the staged version.
func (st *Staged) Root() wire.Digest { return hashOf(st.root) }

// Stage computes the version that results from changes, sorted by key and unique, on the last committed version. It
// writes nothing. Removing an absent key and setting a value again change nothing. The changes' slices must not be
// modified until the Staged is committed or dropped. Errors: changes that are out of order or too large (a bug of the
// caller), [ErrStale] if a commit came in between, [ErrDamaged].
func (s *Store) Stage(changes []Change) (*Staged, error) {
	for i, c := range changes {
		switch {
		case len(c.Key) == 0 || len(c.Key) > MaxKey:
			return nil, fmt.Errorf("state: change %d has a key of %d bytes, want 1 to %d", i, len(c.Key), MaxKey)
		case len(c.Value) > MaxValue:
			return nil, fmt.Errorf("state: change %d has a value of %d bytes, at most %d", i, len(c.Value), MaxValue)
		case i > 0 && bytes.Compare(changes[i-1].Key, c.Key) >= 0:
			return nil, fmt.Errorf("state: changes %d and %d are out of order", i-1, i)
		}
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	if err := s.faulty(); err != nil {
		return nil, err
	}
	base := s.head.Load()
	st := &Staged{base: base, changes: changes, update: update{from: s}}
	root, err := st.update.apply(base.root, 0, editsOf(changes))
	if err != nil {
		if s.head.Load() != base { // its pages may have been pruned meanwhile
			return nil, ErrStale
		}
		return nil, s.explain(base.height, err)
	}
	st.root = root
	return st, nil
}

// Commit makes a staged version the last one, with one synced write that holds everything: values, trie pages, root,
// height, block time, and the pruning of what falls out of the kept window. Height must be above the last one and, like the first
// commit's, not negative. blockTime is kept as it is, in whatever unit the caller chose.
//
// A crash before the write is on disk leaves the old version, a crash after it the new one. An error that wraps
// [ErrDoubt] or [ErrDamaged] leaves open which of them is on disk: nothing more is written, and the process should end. Errors that
// change nothing: [ErrStale] if the Staged was made on another version, [ErrHeight], [ErrClosed].
func (s *Store) Commit(height int64, blockTime int64, st *Staged) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.commit.Lock()
	defer s.commit.Unlock()
	if err := s.faulty(); err != nil {
		return err
	}
	head := s.head.Load()
	if st.base != head {
		return ErrStale
	}
	if height <= head.height || height < 0 {
		return fmt.Errorf("%w: %d, the last is %d", ErrHeight, height, head.height)
	}
	next := &version{height: height, blockTime: blockTime, previous: head.height, root: st.root}
	st.settle(uint64(height))
	oldest := s.oldest.Load()
	if head.height < 0 {
		oldest = height
	}
	err := s.apply(func(b *pebble.Batch) (err error) {
		superfluous, err := st.write(b, uint64(height))
		if err != nil {
			return err
		}
		if err := b.Set(versionKey(uint64(height)), next.encode(), nil); err != nil {
			return err
		}
		if head.height >= 0 {
			if err := b.Set(staleKey(uint64(height)), superfluous.encode(), nil); err != nil {
				return err
			}
		}
		if oldest, err = s.prune(b, oldest, next, superfluous); err == nil {
			s.oldest.Store(oldest) // before the deletions can be seen
		}
		return err
	})
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrDoubt) {
			err = fmt.Errorf("%w: commit of height %d: %w", ErrDoubt, height, err)
		}
		s.fail(err)
		return err
	}
	for _, f := range st.update.fresh {
		root := f.child.left
		f.child.left = nil // from here on the page is found through the cache, and the version shared
		s.pages.put(pageID{uint64(height), f.place}, root)
	}
	s.pages.drop(st.update.stale)
	s.advance(next)
	return nil
}

// advance makes a version that is on disk the last one.
func (s *Store) advance(next *version) {
	if err := s.height.write(next.height); err != nil {
		// Nothing is lost: the version is committed. Only damage to the log would be found a little later.
		s.logger.Warn("state: "+witnessName+" not written", "dir", s.dir, "height", next.height, "error", err)
	}
	s.head.Store(next)
}

// settle puts the commit's height into all nodes that wait for it.
func (st *Staged) settle(height uint64) {
	if st.root != nil && st.root.version == pendingVersion {
		st.root.version = height
	}
	for _, f := range st.update.fresh {
		f.child.version = height
		settleLeaves(f.child.left, height)
	}
}

// settleLeaves does it for the leaves of one page.
func settleLeaves(n *node, height uint64) {
	switch {
	case n == nil:
	case n.kind == inner:
		settleLeaves(n.left, height)
		settleLeaves(n.right, height)
	case n.kind == leaf && n.version == pendingVersion:
		n.version = height
	}
}

// write puts the values and pages of a settled version into b and returns what they replace.
func (st *Staged) write(b *pebble.Batch, height uint64) (*stale, error) {
	superfluous := &stale{pages: st.update.stale}
	var key, record []byte
	for _, e := range st.update.effects {
		c := st.changes[e.index]
		key = valueKey(key, c.Key, height)
		if c.Delete {
			record = append(record[:0], markRemoved)
		} else {
			record = append(append(record[:0], markPresent), c.Value...)
		}
		if err := b.Set(key, record, nil); err != nil {
			return nil, err
		}
		if e.had {
			superfluous.values = append(superfluous.values, staleValue{c.Key, e.previous, c.Delete})
		}
	}
	for _, f := range st.update.fresh {
		key = pageKey(key, pageID{height, f.place})
		record = appendNode(record[:0], f.child.left)
		if err := b.Set(key, record, nil); err != nil {
			return nil, err
		}
	}
	return superfluous, nil
}

// prune puts into b the deletions that let the versions from oldest on go which fall out of the kept window once next is
// committed, and returns the height of the oldest version left.
func (s *Store) prune(b *pebble.Batch, oldest int64, next *version, nextStale *stale) (left int64, err error) {
	if s.keep == 0 || oldest > next.height-s.keep {
		return oldest, nil
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: staleKey(uint64(oldest) + 1), UpperBound: []byte{keyStale + 1}})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	it.First()
	for n := 0; n < pruneAtOnce && oldest <= next.height-s.keep && oldest != next.height; n++ {
		// The version after oldest; what it replaced is needed by oldest at most.
		after, list := next.height, nextStale
		if it.Valid() {
			if after, err = heightOf(it.Key()); err == nil {
				list, err = parseStale(it.Value())
			}
			if err != nil {
				return 0, s.damaged(err)
			}
		} else if err := it.Error(); err != nil {
			return 0, err
		}
		if err := list.delete(b, uint64(after)); err != nil {
			return 0, err
		}
		if err := b.Delete(versionKey(uint64(oldest)), nil); err != nil {
			return 0, err
		}
		oldest = after
		it.Next()
	}
	return oldest, nil
}

// delete puts into b the deletion of what the version at height made superfluous, and of the list itself.
func (s *stale) delete(b *pebble.Batch, height uint64) error {
	var key []byte
	for _, id := range s.pages {
		key = pageKey(key, id)
		if err := b.Delete(key, nil); err != nil {
			return err
		}
	}
	for _, v := range s.values {
		key = valueKey(key, v.key, v.height)
		if err := b.Delete(key, nil); err != nil {
			return err
		}
		if v.removed { // nothing is left that the mark would hide
			key = valueKey(key, v.key, height)
			if err := b.Delete(key, nil); err != nil {
				return err
			}
		}
	}
	return b.Delete(staleKey(height), nil)
}

// apply fills one batch, writes it and waits until it is on disk.
func (s *Store) apply(fill func(*pebble.Batch) error) (err error) {
	b := s.db.NewBatch()
	if err := fill(b); err != nil {
		return errors.Join(err, b.Close())
	}
	if err := s.db.Apply(b, pebble.Sync); err != nil {
		return err
	}
	// Pebble reports a write that failed to its log, as fatal, and returns nil.
	if err := s.faulty(); err != nil {
		return err
	}
	return b.Close()
}
