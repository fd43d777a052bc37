package node

import (
	"log/slog"
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
