package layer1

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	abci "github.com/cometbft/cometbft/abci/types"

	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// CheckTx is cheap: no handler runs. What it refuses, and how, is the catalogue's.
func TestCheckTx(t *testing.T) {
	w := newWorld(t, 1)
	defer w.close()
	n := w.nodes[0]
	tx := w.session("ann", post("/answer-quirk", ""))
	ran := n.quirk.count
	if r := w.checkTx(n, tx); r != nil {
		t.Fatalf("refused: %v", r)
	}
	if r := w.checkTx(n, tx); r != nil {
		t.Errorf("the second time: %v", r)
	}
	if n.quirk.count != ran {
		t.Error("CheckTx ran a handler")
	}
	expired := w.draft("ann", post("/put/a", ""))
	expired.open.ExpiresAt = w.time - 1
	stranger := w.draft("ann", post("/put/a", ""))
	stranger.priv = key("nobody")
	for name, c := range map[string]struct {
		tx   []byte
		code refusal.Code
	}{
		"garbage":   {[]byte("x"), refusal.UnknownKind},
		"root":      {wire.RootStatement{Height: 1}.Encode(), refusal.UnknownKind},
		"truncated": {tx[:len(tx)-1], refusal.NonCanonical},
		"expired":   {expired.bytes(t), refusal.SessionExpired},
		"stranger":  {stranger.bytes(t), refusal.KeyNotRegistered},
	} {
		res, err := n.app.CheckTx(context.Background(), &abci.RequestCheckTx{Tx: c.tx})
		if err != nil {
			t.Fatal(err)
		}
		r := w.wantCode(asError(CheckTxRefusal(res)), c.code)
		if res.Code != uint32(r.Status()) || res.Codespace != Codespace {
			t.Errorf("%s: code %d %s", name, res.Code, res.Codespace)
		}
	}
	if r := CheckTxRefusal(&abci.ResponseCheckTx{Code: 5, Log: "from elsewhere"}); r == nil || r.Code != refusal.Internal {
		t.Errorf("a foreign code: %v", r)
	}
	if r := CheckTxRefusal(&abci.ResponseCheckTx{}); r != nil {
		t.Errorf("an accepted transaction: %v", r)
	}
}

// After an outage the next block still carries an old time. A step made meanwhile waits in the mempool for the block
// after it instead of being refused or evicted.
func TestStepsAheadOfAnOldBlockWait(t *testing.T) {
	w := newWorld(t, 1)
	defer w.close()
	n := w.nodes[0]
	d := w.draft("ann", post("/put/a", ""))
	d.stepTime = w.time + 5*MaxAheadMillis
	d.open.ExpiresAt = d.stepTime + 60_000
	tx := d.bytes(t)
	if r := w.checkTx(n, tx); r != nil {
		t.Fatalf("refused: %v", r)
	}
	if made := w.block(tx); len(made) != 1 {
		t.Fatal("a block takes a step from its future")
	}
	if r := w.recheck(n, tx); r != nil {
		t.Fatalf("evicted: %v", r)
	}
	w.time += 4 * MaxAheadMillis
	if made := w.block(tx); len(made) != 2 {
		t.Error("not committed when the time has come")
	}
}

// The recheck after a block evicts what can never, or not soon, be committed any more.
func TestRecheckEvicts(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	n := w.nodes[0]
	settled := w.session("ann", post("/put/a", "1"))
	old := w.session("ann", post("/put/b", "1"))
	d := w.draft("ann", post("/put/c", "1"))
	oldID := idOf(t, old)
	d.open.Supersedes = &oldID
	successor := d.bytes(t)
	d = w.draft("bob", post("/put/d", "1"))
	d.open.ExpiresAt = w.time + 500
	expiring := d.bytes(t)
	revoked := w.session("eve", post("/put/e", "1"))
	revoke := w.session("root", call{"DELETE", "/tandem/v1/actors/eve", ""})
	conflicting := w.session("bob", call{"GET", "/get/n", ""})
	adder := w.session("ann", post("/add/n", ""))
	staying := w.session("bob", post("/put/f", "1"))
	all := [][]byte{settled, old, successor, expiring, revoked, revoke, conflicting, adder, staying}
	for i, tx := range all {
		if r := w.checkTx(n, tx); r != nil {
			t.Fatalf("transaction %d: %v", i, r)
		}
	}
	// Node 0 proposes it all but the staying one, in this order; what cannot be replayed in it is dropped.
	made := w.block(settled, successor, old, expiring, revoke, revoked, adder, conflicting)
	if len(made) != 5 {
		t.Fatalf("%d transactions in the block", len(made))
	}
	for name, c := range map[string]struct {
		tx   []byte
		code refusal.Code
	}{
		"settled":                            {settled, refusal.AlreadySettled},
		"superseded":                         {old, refusal.Superseded},
		"expired":                            {expiring, refusal.SessionExpired},
		"revoked":                            {revoked, refusal.KeyRevoked},
		"refused in an own, decided Prepare": {conflicting, refusal.ResponseDiffers},
	} {
		r := w.recheck(n, c.tx)
		if r == nil || r.Code != c.code {
			t.Errorf("%s: %v, want %s", name, r, c.code)
		}
	}
	if r := w.recheck(n, staying); r != nil {
		t.Errorf("evicted without a reason: %v", r)
	}
	for actor, want := range map[string]int{"ann": 0, "bob": 1, "eve": 0, "root": 0} {
		if got := n.app.pool.size(actor); got != want {
			t.Errorf("%s: %d transactions counted, want %d", actor, got, want)
		}
	}
	// Quarantined sessions are evicted too.
	n.app.quarantine(Quarantine{Transaction: wire.Sum(staying), Session: idOf(t, staying), Height: w.height(), Reason: refusal.ResponseDiffers})
	if r := w.recheck(n, staying); r == nil || r.Code != refusal.Quarantined {
		t.Errorf("quarantined: %v", r)
	}
	if got := n.app.pool.size("bob"); got != 0 {
		t.Errorf("%d transactions of bob counted", got)
	}
}

// What failed in an own proposal that was not decided is not evicted: on the block decided instead it may be good.
func TestRefusedInVainStays(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	n := w.nodes[0]
	adder, reader := w.session("ann", post("/add/n", "")), w.session("bob", call{"GET", "/get/n", ""})
	for _, tx := range [][]byte{adder, reader} {
		if r := w.checkTx(n, tx); r != nil {
			t.Fatal(r)
		}
	}
	if made := w.prepare(n, adder, reader); len(made) != 2 {
		t.Fatal("not as planned")
	}
	made := w.prepare(w.nodes[1])
	w.decide(made)
	if r := w.recheck(n, reader); r != nil {
		t.Errorf("evicted: %v", r)
	}
}

// One actor has a limited number of sessions waiting; commits and evictions release them.
func TestMempoolPerActor(t *testing.T) {
	w := newWorld(t, 1, func(o *Options) { o.MempoolPerActor = 3 })
	defer w.close()
	n := w.nodes[0]
	var txs [][]byte
	for i := range 5 {
		txs = append(txs, w.session("ann", post(fmt.Sprintf("/put/%d", i), "")))
	}
	for i, tx := range txs {
		if r := w.checkTx(n, tx); (r != nil) != (i >= 3) || r != nil && r.Code != refusal.MempoolFull {
			t.Errorf("transaction %d: %v", i, r)
		}
	}
	if r := w.checkTx(n, txs[0]); r != nil {
		t.Errorf("one that waits already: %v", r)
	}
	if r := w.checkTx(n, w.session("bob", post("/put/x", ""))); r != nil {
		t.Errorf("another actor: %v", r)
	}
	w.block(txs[0])
	for _, tx := range txs[1:3] {
		if r := w.recheck(n, tx); r != nil {
			t.Errorf("recheck: %v", r)
		}
	}
	if r := w.checkTx(n, txs[3]); r != nil {
		t.Errorf("after a commit: %v", r)
	}
	if r := w.checkTx(n, txs[4]); r == nil {
		t.Error("the limit is gone")
	}
	// CometBFT drops a transaction without telling: it is no longer rechecked, and released a block later.
	w.block()
	for _, tx := range [][]byte{txs[1], txs[3]} {
		if r := w.recheck(n, tx); r != nil {
			t.Errorf("recheck: %v", r)
		}
	}
	w.block()
	if got := n.app.pool.size("ann"); got != 2 {
		t.Errorf("%d counted, two were rechecked", got)
	}
	if r := w.checkTx(n, txs[4]); r != nil {
		t.Errorf("after a drop: %v", r)
	}
}

// CheckTx and the queries run beside consensus (go test -race).
func TestConcurrentCheckTx(t *testing.T) {
	w := newWorld(t, 1)
	defer w.close()
	n := w.nodes[0]
	var txs [][]byte
	for i := range 20 {
		txs = append(txs, w.session("ann", post(fmt.Sprintf("/put/%d", i), "")))
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range txs {
				kind := abci.CheckTxType(g % 2)
				if _, err := n.app.CheckTx(context.Background(), &abci.RequestCheckTx{Tx: txs[i], Type: kind}); err != nil {
					t.Error(err)
				}
				n.app.Quarantined()
				if _, err := n.app.Query(context.Background(), &abci.RequestQuery{Path: "/root"}); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	for i := range 10 {
		w.block(txs[2*i], txs[2*i+1])
	}
	wg.Wait()
}

// A closed store is a node that shuts down, not one in doubt; before genesis there is no ledger.
func TestCheckTxWithoutState(t *testing.T) {
	w := newWorld(t, 1)
	tx := w.session("ann", post("/put/a", ""))
	w.close()
	if r := w.checkTx(w.nodes[0], tx); r == nil || r.Code != refusal.ShuttingDown || len(w.nodes[0].halted) > 0 {
		t.Errorf("closed: %v, halted %v", r, w.nodes[0].halted)
	}
	fresh := &node{quirk: &quirk{}, fs: vfs.NewMem()}
	w.start(fresh)
	defer func() { _ = fresh.store.Close() }()
	if r := w.checkTx(fresh, tx); r == nil || r.Code != refusal.Layer1Unavailable {
		t.Errorf("fresh: %v", r)
	}
	if res, err := fresh.app.Query(context.Background(), &abci.RequestQuery{Path: "/root"}); err != nil || res.Code != 503 {
		t.Errorf("query: %v %v", res, err)
	}
	if _, ok, err := ledger.SettledOf(fresh.store.Latest(), wire.SessionID{}); ok || err != nil {
		t.Errorf("settled in nothing: %v %v", ok, err)
	}
}
