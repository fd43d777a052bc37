package state

import (
	"errors"
	"iter"
	"log/slog"

	"github.com/cockroachdb/pebble/v2/vfs"
	ics23 "github.com/cosmos/ics23/go"

	"tandem/internal/wire"
)

// Options are what a store can be opened with; the zero value keeps every version on the real file system.
type Options struct {
	// FS is the file system; nil means the operating system's.
	FS vfs.FS
	// Keep is how many heights stay readable, the last one included; 0 keeps all.
	Keep int
	// Logger takes the store's few messages; nil discards them.
	Logger *slog.Logger
}

// Store is a versioned, Merkleised key-value store in one directory. All methods may be called at the same time.
type Store struct{}

func Open(dir string, o Options) (*Store, error)                            { return nil, errors.ErrUnsupported }
func (s *Store) Version() (height int64, root wire.Digest, blockTime int64) { return }
func (s *Store) Fresh() bool                                                { return true }
func (s *Store) At(height int64) (*View, error)                             { return nil, errors.ErrUnsupported }
func (s *Store) Latest() *View                                              { return nil }
func (s *Store) Stage(changes []Change) (*Staged, error)                    { return nil, errors.ErrUnsupported }
func (s *Store) Commit(height int64, blockTime int64, st *Staged) error     { return errors.ErrUnsupported }
func (s *Store) Prove(height int64, key []byte) (*ics23.CommitmentProof, error) {
	return nil, errors.ErrUnsupported
}
func (s *Store) Verify(height int64) error { return errors.ErrUnsupported }
func (s *Store) Export(height int64, write func(index int, chunk []byte) error) (Manifest, error) {
	return Manifest{}, errors.ErrUnsupported
}
func Import(dir string, o Options, m Manifest, read func(index int) ([]byte, error)) error {
	return errors.ErrUnsupported
}
func (s *Store) Close() error { return nil }

type Manifest struct {
	Height    int64
	Root      wire.Digest
	BlockTime int64
	Keys      uint64
	Chunks    []wire.Digest
}

type Staged struct{ root wire.Digest }

func (st *Staged) Root() wire.Digest { return st.root }

type View struct{ height int64 }

func (v *View) Height() int64                                     { return v.height }
func (v *View) Get(key []byte) (value []byte, ok bool, err error) { return nil, false, nil }
func (v *View) Scan(start, end []byte) iter.Seq2[Entry, error] {
	return func(func(Entry, error) bool) {}
}
