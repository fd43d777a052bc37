package layer1

import (
	"context"
	"fmt"
	"testing"

	abci "github.com/cometbft/cometbft/abci/types"

	"tandem/internal/state"
)

// sevenSteps is a session like the paper's workflow: six operations and what belongs to them.
func (w *world) sevenSteps(actor string, i int) []byte {
	k := fmt.Sprint(i)
	return w.session(actor, post("/put/p"+k, "package"), call{"GET", "/get/" + k, ""}, post("/add/"+k, ""), post("/put/q"+k, "checked"),
		post("/put/l"+k, "label"), post("/add/"+k, ""), call{"GET", "/get/" + k, ""})
}

// BenchmarkCheck is the replay of a seven-step session whose signatures are known ("known") or not ("new").
func BenchmarkCheck(b *testing.B) {
	w := newWorld(b, 1)
	defer w.close()
	n := w.nodes[0]
	tx := w.sevenSteps("ann", 1)
	height, at := w.next()
	slot := Slot{Height: height, Time: at.UnixMilli()}
	for _, c := range []struct {
		name  string
		rules Rules
	}{
		{"known", n.app.rules},
		{"new", Rules{Runner: n.runner}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Check(context.Background(), c.rules, state.NewOverlay(n.store.Latest()), slot, tx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCheckTx is what each transaction costs on its way into the mempool, signatures known.
func BenchmarkCheckTx(b *testing.B) {
	w := newWorld(b, 1)
	defer w.close()
	tx := w.sevenSteps("ann", 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.nodes[0].app.CheckTx(context.Background(), &abci.RequestCheckTx{Tx: tx}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPrepareProposal makes a proposal of 100 seven-step sessions that were in CheckTx before.
func BenchmarkPrepareProposal(b *testing.B) {
	w := newWorld(b, 1)
	defer w.close()
	n := w.nodes[0]
	var txs [][]byte
	for i := range 100 {
		txs = append(txs, w.sevenSteps([]string{"ann", "bob", "eve"}[i%3], i))
		if r := w.checkTx(n, txs[i]); r != nil {
			b.Fatal(r)
		}
	}
	height, at := w.next()
	b.ReportAllocs()
	for b.Loop() {
		res, err := n.app.PrepareProposal(context.Background(), &abci.RequestPrepareProposal{MaxTxBytes: 3 << 20, Txs: txs, Height: height, Time: at})
		if err != nil || len(res.Txs) != 101 {
			b.Fatalf("%d transactions, %v", len(res.Txs), err)
		}
	}
}
