package node

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	comettypes "github.com/cometbft/cometbft/types"

	"tandem/internal/wire"
)

// blocksOf is a block store in memory; block h holds the transactions of element h-1.
type blocksOf [][]string

func (b blocksOf) Base() int64   { return min(1, b.Height()) }
func (b blocksOf) Height() int64 { return int64(len(b)) }
func (b blocksOf) LoadBlock(h int64) *comettypes.Block {
	if h < 1 || h > b.Height() {
		return nil
	}
	block := &comettypes.Block{}
	for _, tx := range b[h-1] {
		block.Txs = append(block.Txs, comettypes.Tx(tx))
	}
	return block
}

// TestIndexCatchesUp: the index may be lost or old at any time; it is complete after catchUp.
func TestIndexCatchesUp(t *testing.T) {
	dir := t.TempDir()
	blocks := blocksOf{{"root 1", "a", "b"}, {"root 2"}, {"root 3", "c"}}
	x, err := openIndex(dir, blocks, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := x.catchUp(2); err != nil {
		t.Fatal(err)
	}
	find := func(tx string, wantHeight int64, wantPlace int, wantOK bool) {
		t.Helper()
		h, place, ok, err := x.find(wire.Sum([]byte(tx)))
		if err != nil || h != wantHeight || place != wantPlace || ok != wantOK {
			t.Errorf("%q is at %d, %d, %v (%v); want %d, %d, %v", tx, h, place, ok, err, wantHeight, wantPlace, wantOK)
		}
	}
	find("b", 1, 2, true)
	find("root 2", 2, 0, true)
	find("c", 0, 0, false)
	if err := x.close(); err != nil {
		t.Fatal(err)
	}
	if x, err = openIndex(dir, blocks, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if err := x.catchUp(3); err != nil {
		t.Fatal(err)
	}
	find("a", 1, 1, true)
	find("c", 3, 1, true)
	if err := x.catchUp(4); err == nil {
		t.Error("a block that is not stored was indexed")
	}
	if err := x.close(); err != nil {
		t.Fatal(err)
	}
}

// TestIndexDamaged: whatever byte of its files is wrong, the index is right after at most one more block, and nothing
// panics.
func TestIndexDamaged(t *testing.T) {
	dir := t.TempDir()
	logger := slog.New(slog.DiscardHandler)
	var blocks blocksOf
	for i := range 200 {
		blocks = append(blocks, []string{fmt.Sprint("root ", i), fmt.Sprint("tx ", i)})
	}
	for _, height := range []int64{100, 200, 200} { // each opening writes what is in the log into a table
		x, err := openIndex(dir, blocks, logger)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(x.catchUp(height), x.close()); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	tables := 0
	for _, e := range entries {
		whole, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(e.Name(), ".sst") {
			tables++
		} else if !strings.HasPrefix(e.Name(), "MANIFEST") {
			continue
		}
		for _, at := range []int{1, len(whole) / 4, len(whole) / 2, len(whole) * 3 / 4, len(whole) - 1} {
			hurt := t.TempDir()
			if err := os.CopyFS(hurt, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			bad := slices.Clone(whole)
			bad[at] ^= 0x10
			if err := os.WriteFile(filepath.Join(hurt, e.Name()), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			x, err := openIndex(hurt, blocks, logger)
			if err != nil {
				t.Errorf("%s, byte %d: %v", e.Name(), at, err)
				continue
			}
			for range 2 { // the first round finds the damage
				for i := range 200 {
					h, _, ok, err := x.find(wire.Sum([]byte(fmt.Sprint("tx ", i))))
					if err == nil && ok && h != int64(i+1) {
						t.Errorf("%s, byte %d: transaction %d is said to be in block %d", e.Name(), at, i, h)
					}
				}
				if err := x.catchUp(200); err != nil {
					t.Errorf("%s, byte %d: %v", e.Name(), at, err)
				}
			}
			for i := range 200 {
				if h, place, ok, err := x.find(wire.Sum([]byte(fmt.Sprint("tx ", i)))); err != nil || !ok || h != int64(i+1) || place != 1 {
					t.Fatalf("%s, byte %d: transaction %d: %d %d %v %v", e.Name(), at, i, h, place, ok, err)
				}
			}
			if err := x.close(); err != nil {
				t.Errorf("%s, byte %d: %v", e.Name(), at, err)
			}
		}
	}
	if tables == 0 {
		t.Fatal("no table was written")
	}
}
