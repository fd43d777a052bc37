package state

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"tandem/internal/wire"
)

// frozen reads pages from one state of the database, past the cache: what is checked or exported is what is on disk, and
// pruning meanwhile takes nothing away.
type frozen struct{ r pebble.Reader }

func (f frozen) load(at place, n *node) (*node, error) {
	return readPage(f.r, pageID{n.version, at}, n.hash)
}

// freeze calls use with a snapshot of the database and the version of a kept height in it.
func (s *Store) freeze(height int64, use func(r pebble.Reader, v *version) error) (err error) {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	snapshot := s.db.NewSnapshot()
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	record, err := read(snapshot, versionKey(uint64(height)))
	if errors.Is(err, pebble.ErrNotFound) {
		if err := s.kept(height); err != nil {
			return err
		}
		return fmt.Errorf("%w: %d", ErrNoVersion, height)
	}
	if err == nil {
		var v *version
		if v, err = parseVersion(height, record); err == nil {
			err = use(snapshot, v)
		}
	}
	if errors.Is(err, pebble.ErrNotFound) || wrongContent(err) {
		return s.damaged(err)
	}
	return err
}

// Verify reads the whole version of a height from disk and checks that every hash from the root down is right, that
// every key in the trie has the value that its leaf commits to, and that no other key has a value. It takes about 10 s
// for a million keys and may run beside everything else. Errors: [ErrDamaged], [ErrNoVersion], [ErrPruned], [ErrClosed].
func (s *Store) Verify(height int64) error {
	return s.freeze(height, func(r pebble.Reader, v *version) error {
		committed := 0
		err := walk(frozen{r}, v.root, place{}, func(path wire.Digest, n *node) error {
			committed++
			_, err := valueOf(r, v, path, n)
			return err
		})
		if err != nil {
			return err
		}
		// Each leaf has its key's value. If there are as many values as leaves, there is no value without a leaf.
		values := 0
		err = scan(r, nil, nil, height, func() error { return nil }, func(Entry) bool { values++; return true })
		if err == nil && values != committed {
			err = malformed("%d keys have a value at height %d, the trie commits to %d", values, height, committed)
		}
		return err
	})
}
