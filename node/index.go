package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	comettypes "github.com/cometbft/cometbft/types"

	"tandem/internal/wire"
)

// index finds a transaction by its hash. It holds nothing that the block store does not: it is written without sync, and
// after a crash, or when the directory has been removed, catchUp reads the missing blocks again.
//
// Keys: "x" + hash -> height, index (8 + 4 bytes, big endian); "h" -> height up to which it is complete.
// The deliver goroutine is the only writer; reads come from anywhere.
type index struct {
	db     *pebble.DB
	blocks blockReader
	done   int64 // height up to which the index is complete; owned by the deliver goroutine
}

// blockReader is what is needed of CometBFT's block store.
type blockReader interface {
	Base() int64
	Height() int64
	LoadBlock(height int64) *comettypes.Block
}

var indexHeight = []byte("h")

func openIndex(dir string, blocks blockReader, logger *slog.Logger) (*index, error) {
	db, err := pebble.Open(dir, &pebble.Options{Logger: quiet{logger}})
	if err != nil {
		return nil, fmt.Errorf("transaction index: %w (it holds nothing that cannot be made again: remove %s)", err, dir)
	}
	x := &index{db: db, blocks: blocks}
	v, closer, err := db.Get(indexHeight)
	switch {
	case err == nil:
		x.done = int64(binary.BigEndian.Uint64(v))
		err = closer.Close()
	case errors.Is(err, pebble.ErrNotFound):
		err = nil
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("transaction index: %w", err), db.Close())
	}
	if x.done > blocks.Height() { // the blocks are another network's, or were reset
		x.done = 0
	}
	return x, nil
}

// catchUp indexes every stored block up to height that is missing.
func (x *index) catchUp(height int64) error {
	for h := max(x.done+1, x.blocks.Base(), 1); h <= height; h++ {
		block := x.blocks.LoadBlock(h)
		if block == nil {
			return fmt.Errorf("transaction index: block %d is not in the block store", h)
		}
		b := x.db.NewBatch()
		for i, tx := range block.Txs {
			hash := wire.Sum(tx)
			var v [12]byte
			binary.BigEndian.PutUint64(v[:8], uint64(h))
			binary.BigEndian.PutUint32(v[8:], uint32(i))
			if err := b.Set(append([]byte("x"), hash[:]...), v[:], nil); err != nil {
				return fmt.Errorf("transaction index: %w", err)
			}
		}
		if err := b.Set(indexHeight, binary.BigEndian.AppendUint64(nil, uint64(h)), nil); err != nil {
			return fmt.Errorf("transaction index: %w", err)
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			return fmt.Errorf("transaction index: %w", err)
		}
		x.done = h
	}
	return nil
}

// find returns where the transaction is, ok false if no block holds it.
func (x *index) find(hash wire.Digest) (height int64, place int, ok bool, err error) {
	v, closer, err := x.db.Get(append([]byte("x"), hash[:]...))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, 0, false, nil
	}
	if err != nil {
		return 0, 0, false, fmt.Errorf("transaction index: %w", err)
	}
	height, place = int64(binary.BigEndian.Uint64(v)), int(binary.BigEndian.Uint32(v[8:]))
	return height, place, true, closer.Close()
}

func (x *index) close() error { return x.db.Close() }

// quiet drops pebble's chatter; its fatal errors come back as errors of the operations.
type quiet struct{ logger *slog.Logger }

func (quiet) Infof(string, ...any)                {}
func (q quiet) Errorf(format string, args ...any) { q.logger.Warn(fmt.Sprintf(format, args...)) }
func (q quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
