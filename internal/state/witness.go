package state

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// witness is a small file beside Pebble's that says which height was committed last. Pebble takes damage in the last
// 32 KiB of its log for an end that a crash tore off, silently goes back to the commit before it, which can be many
// small commits, and does not miss a log that is gone. The witness does: a store that recovers below it is damaged.
//
// It is written after a commit is on disk, so it never says too much, and not synced, so it costs microseconds; after a
// power failure it may say too little, and then only says nothing. Two slots are written in turn: a torn write spoils one.
type witness struct{ file vfs.File }

const (
	witnessName = "HEIGHT"
	witnessSlot = 32 // height, 8 bytes big endian, and the first 24 bytes of its SHA-256
)

// openWitness opens the witness in dir, or makes one, and returns the height it says, or -1.
func openWitness(files vfs.FS, dir string) (*witness, int64, error) {
	file, err := files.OpenReadWrite(files.PathJoin(dir, witnessName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, 0, fmt.Errorf("state: open %s: %w", dir, err)
	}
	slots := make([]byte, 2*witnessSlot)
	n, err := file.ReadAt(slots, 0)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, 0, errors.Join(fmt.Errorf("state: read %s: %w", witnessName, err), file.Close())
	}
	return &witness{file}, parseWitness(slots[:n]), nil
}

// parseWitness returns the greatest height in a slot that is whole, or -1.
func parseWitness(slots []byte) int64 {
	height := int64(-1)
	for ; len(slots) >= witnessSlot; slots = slots[witnessSlot:] {
		h := binary.BigEndian.Uint64(slots)
		if h <= math.MaxInt64 && [witnessSlot]byte(slots) == slotOf(int64(h)) {
			height = max(height, int64(h))
		}
	}
	return height
}

func slotOf(height int64) (slot [witnessSlot]byte) {
	binary.BigEndian.PutUint64(slot[:], uint64(height))
	sum := sha256.Sum256(slot[:8])
	copy(slot[8:], sum[:])
	return slot
}

// write notes a height that is committed.
func (w *witness) write(height int64) error {
	slot := slotOf(height)
	_, err := w.file.WriteAt(slot[:], height%2*witnessSlot)
	return err
}

func (w *witness) close() error { return errors.Join(w.file.Sync(), w.file.Close()) }
