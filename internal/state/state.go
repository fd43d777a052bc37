// Package state is the ledger's key-value store: flat keys for speed, a sparse Merkle trie over them for one root hash
// that all validators compare, and every kept block's version of both.
//
// # How to think of it
//
// A [Store] holds one version per block. A version is a map from raw keys to values together with its root, the hash
// of a trie that commits to every entry. [Store.Stage] takes the writes of a block and computes the root the block
// results in, without touching the disk, so that a proposer can state it and validators can compare it.
// [Store.Commit] makes a staged version the last one with a single synced write: after a crash the store holds
// either the old version or the new one, never a part.
//
// A [View] reads one version. Views are plain values that hold nothing open: thousands of sessions may each keep one.
// An [Overlay] is where a handler's writes go: it reads through to a view (or to another overlay), keeps writes to
// itself, and remembers what was really read, so that somebody else's block can be tested against it ([ReadSet.Meets]).
//
// The root is, bit for bit, that of github.com/celestiaorg/smt v0.3.0, whose proofs the stock ICS-23 verifier accepts
// with ics23.SmtSpec. docs/format/state.md gives every byte on disk, docs/format/snapshot.md those of a snapshot.
//
// The package is deterministic: it reads no clock and no environment, draws no random numbers and starts no goroutine
// of its own (Pebble's background compaction changes no answer).
package state

import (
	"errors"
	"fmt"
	"iter"

	"tandem/internal/proof"
)

// Sizes that the store accepts. Callers that take keys and values from outside refuse larger ones before they get here:
// Stage treats a violation as a bug of the caller.
const (
	// MaxKey is the longest raw key in bytes, prefix included. Keys are at least one byte.
	MaxKey = 4096
	// MaxValue is the longest value in bytes. A value may be empty: an empty value is present.
	MaxValue = 8 << 20
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrNoVersion says that the asked height was never committed here, or is not committed yet.
	ErrNoVersion = errors.New("state: no version at this height")
	// ErrPruned says that the asked height was committed but is no longer kept. A view held for too long returns it too.
	ErrPruned = errors.New("state: version was pruned")
	// ErrStale says that a Staged was computed on a version that is no longer the current one: stage again.
	ErrStale = errors.New("state: staged on a version that is not the current one")
	// ErrHeight says that a commit's height is not above the last one.
	ErrHeight = errors.New("state: height is not above the last committed one")
	// ErrEmptyTree says that there is nothing to prove a key's absence with: the version holds no key at all, its root is
	// 32 zero bytes, and that root itself is the proof.
	ErrEmptyTree = errors.New("state: the version is empty; its root of 32 zero bytes proves that every key is absent")
	// ErrDamaged says that what is on disk is not what was written. The store must not be used further: see the error's
	// text for what to do. It is a halt, never a refusal: own state is in doubt.
	ErrDamaged = errors.New("state: the store on disk is damaged")
	// ErrDoubt says that an earlier write failed in a way that leaves open what is on disk. Close and open again: the
	// store is then at the old or at the new version.
	ErrDoubt = errors.New("state: an earlier write failed and its outcome is unknown; close and open the store again")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("state: store is closed")
	// ErrSnapshot says that a manifest or a chunk is not what an export wrote.
	ErrSnapshot = errors.New("state: snapshot refused")
	// ErrExists says that there is a store already where a snapshot should be imported.
	ErrExists = errors.New("state: a store exists already")
)

// Entry is one key with its value.
type Entry = proof.Entry

// Reader reads one state. The returned slices belong to the caller.
type Reader interface {
	// Get returns the value of key; ok tells a present empty value from an absent key.
	Get(key []byte) (value []byte, ok bool, err error)
	// Scan yields the entries with start <= key < end in the order of their raw bytes. A nil end means to the last key.
	// After an error it yields nothing more.
	Scan(start, end []byte) iter.Seq2[Entry, error]
}

// Change is one write of a block: Key gets Value, or is removed if Delete is set. Lists of changes are sorted by key
// and name each key once.
type Change struct {
	Key, Value []byte
	Delete     bool
}

// damaged wraps a cause into ErrDamaged with what the operator should do.
func damaged(dir string, cause error) error {
	if errors.Is(cause, ErrDamaged) {
		return cause
	}
	return fmt.Errorf("%w: %s: %w. Stop this node, keep the directory for inspection, check the disk, then remove the "+
		"directory and restore the state: import a snapshot of another node or let this node replay the ledger", ErrDamaged, dir, cause)
}
