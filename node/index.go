package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	comettypes "github.com/cometbft/cometbft/types"

	"tandem/internal/wire"
)

// index finds a transaction by its hash. It holds nothing that the block store does not: it is written without sync, and
// after a crash, or when the directory has been removed, catchUp reads the missing blocks again. Where its files turn out
// to be damaged it is made anew.
//
// Keys: "x" + hash -> height, index (8 + 4 bytes, big endian); "h" -> height up to which it is complete.
// The deliver goroutine is the only writer; reads come from anywhere.
type index struct {
	dir     string
	logger  *slog.Logger
	mu      sync.RWMutex // held for writing while db is exchanged
	db      *pebble.DB
	damaged atomic.Bool // found by pebble while it ran; catchUp makes the index anew
	blocks  blockReader
	done    int64 // height up to which the index is complete; owned by the deliver goroutine
}

// blockReader is what is needed of CometBFT's block store.
type blockReader interface {
	Base() int64
	Height() int64
	LoadBlock(height int64) *comettypes.Block
}

var indexHeight = []byte("h")

func openIndex(dir string, blocks blockReader, logger *slog.Logger) (*index, error) {
	x := &index{dir: dir, logger: logger, blocks: blocks}
	err := x.open()
	if wrongContent(err) {
		logger.Warn("the transaction index is damaged and is made anew", "dir", dir, "error", err)
		err = x.remake()
	}
	if err != nil {
		return nil, fmt.Errorf("transaction index: %w (it holds nothing that cannot be made again: remove %s)", err, dir)
	}
	return x, nil
}

// open opens the database and reads how far it goes. After an error it is closed.
func (x *index) open() error {
	db, err := pebble.Open(x.dir, &pebble.Options{
		Logger: quiet{x.logger},
		EventListener: &pebble.EventListener{
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				if x.damaged.CompareAndSwap(false, true) {
					x.logger.Warn("the transaction index is damaged and is made anew at the next block", "file", info.Path, "error", info.Details)
				}
			},
			BackgroundError: func(err error) {
				if !x.damaged.Load() {
					x.logger.Warn("transaction index", "error", err)
				}
			},
		},
	})
	if err != nil {
		return err
	}
	x.done = 0
	v, closer, err := db.Get(indexHeight)
	switch {
	case err == nil:
		x.done = int64(binary.BigEndian.Uint64(v))
		err = closer.Close()
	case errors.Is(err, pebble.ErrNotFound):
		err = nil
	}
	if err != nil {
		return errors.Join(err, db.Close())
	}
	if x.done > x.blocks.Height() { // the blocks are another network's, or were reset
		x.done = 0
	}
	x.db = db
	return nil
}

// remake begins an empty index.
func (x *index) remake() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.db != nil {
		_ = x.db.Close() // what it says of its damaged files is of no use
		x.db = nil
	}
	if err := os.RemoveAll(x.dir); err != nil {
		return err
	}
	x.damaged.Store(false)
	return x.open()
}

// wrongContent reports whether err says that the files do not hold what was written.
func wrongContent(err error) bool {
	return pebble.IsCorruptionError(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, fs.ErrNotExist)
}

// catchUp indexes every stored block up to height that is missing.
func (x *index) catchUp(height int64) error {
	if x.damaged.Load() {
		if err := x.remake(); err != nil {
			return fmt.Errorf("transaction index: %w", err)
		}
	}
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
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.db == nil {
		return 0, 0, false, errors.New("transaction index: it could not be made anew; see the log")
	}
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

func (x *index) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.db == nil {
		return nil
	}
	return x.db.Close()
}

// quiet drops pebble's chatter; its fatal errors come back as errors of the operations.
type quiet struct{ logger *slog.Logger }

func (quiet) Infof(string, ...any)                {}
func (q quiet) Errorf(format string, args ...any) { q.logger.Warn(fmt.Sprintf(format, args...)) }
func (q quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
