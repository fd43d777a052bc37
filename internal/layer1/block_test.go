package layer1

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	cmttypes "github.com/cometbft/cometbft/types"
	"pgregory.net/rapid"

	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// Process(Prepare(x)) = ACCEPT for every x (DESIGN, "Layer 1 rules"), over random mixtures of good, conflicting,
// expired, malformed, truncated, nondeterministic, oversized, repeated and poisonous transactions. The second node has
// a store and a process of its own, and the third finalizes without having seen the proposal.
func TestProcessOfPrepareAccepts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, 3)
		defer w.close()
		w.nodes[1].quirk.set("not calm at all")
		var pastTxs [][]byte
		for range rapid.IntRange(1, 4).Draw(t, "blocks") {
			var txs [][]byte
			for range rapid.IntRange(0, 8).Draw(t, "transactions") {
				txs = append(txs, w.draw(t, append(slices.Clone(pastTxs), txs...)))
			}
			// What was rehearsed gives what is replayed anew: the third node rehearses nothing.
			for _, n := range w.nodes[:2] {
				for _, tx := range append(slices.Clone(pastTxs), txs...) {
					if rapid.Bool().Draw(t, "rehearsed") {
						n.app.Rehearse(tx)
					}
				}
			}
			max := rapid.SampledFrom([]int64{60, 1000, 4000, 3 << 20}).Draw(t, "max bytes")
			height, at := w.next()
			res, err := w.nodes[0].app.PrepareProposal(context.Background(), &abci.RequestPrepareProposal{MaxTxBytes: max, Txs: txs, Height: height, Time: at})
			if err != nil {
				t.Fatalf("PrepareProposal: %v", err)
			}
			// What CometBFT does to a proposal (state/execution.go, CreateProposalBlock).
			if err := cmttypes.ToTxs(res.Txs).Validate(max); err != nil {
				t.Fatalf("CometBFT would panic: %v", err)
			}
			if !w.process(w.nodes[0], "node0", res.Txs) {
				t.Fatalf("the proposer rejects its own proposal")
			}
			// Node 1's world is another one for handlers that look beside their request: then, and only then, it rejects.
			odd := slices.ContainsFunc(res.Txs, func(tx []byte) bool { return bytes.Contains(tx, []byte("-quirk")) })
			if !w.process(w.nodes[1], "node0", res.Txs) {
				if !odd {
					t.Fatalf("another node rejects an honest proposal")
				}
				return // TestNondeterministicHandler goes on from here
			}
			pastTxs = append(pastTxs, txs...)
			w.decide(res.Txs)
		}
	})
}

// draw makes a random transaction of any kind.
func (w *world) draw(t *rapid.T, seen [][]byte) []byte {
	actor := rapid.SampledFrom([]string{"ann", "bob", "eve"}).Draw(t, "actor")
	k := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key")
	good := func() *draftSession {
		var calls []call
		for range rapid.IntRange(0, 3).Draw(t, "steps") {
			calls = append(calls, rapid.SampledFrom([]call{
				post("/add/"+k, ""), post("/put/"+k, "v"), {"GET", "/get/" + k, ""}, {"GET", "/tandem/v1/actors", ""},
			}).Draw(t, "call"))
		}
		return w.draft(actor, calls...)
	}
	switch rapid.IntRange(0, 13).Draw(t, "kind") {
	case 0:
		return rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes")
	case 1:
		b := good().bytes(t)
		return b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]
	case 2:
		b := good().bytes(t)
		b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		return b
	case 3:
		if len(seen) > 0 {
			return rapid.SampledFrom(seen).Draw(t, "again")
		}
		return nil
	case 4:
		d := good()
		d.open.ExpiresAt = w.time + rapid.Int64Range(-5000, 5000).Draw(t, "expires")
		return d.bytes(t)
	case 5:
		d := good()
		d.stepTime = w.time + rapid.Int64Range(-2*3600_000, 2*MaxAheadMillis).Draw(t, "step time")
		return d.bytes(t)
	case 6:
		d := w.draft(actor, post("/add/"+k, ""))
		d.tamper = func(_ int, r *wire.Response) { r.Body[0] ^= 1 }
		return d.bytes(t)
	case 7:
		return wire.RootStatement{Height: w.height() + 1}.Encode()
	case 8:
		d := good()
		d.priv = key("nobody")
		return d.bytes(t)
	case 9:
		d := w.draft(actor, post("/add/"+k, ""), call{"DELETE", "/tandem/v1/actors/" + actor, ""})
		return d.bytes(t)
	case 10:
		if len(seen) > 0 {
			if c, err := wire.DecodeSessionCommit(rapid.SampledFrom(seen).Draw(t, "superseded")); err == nil {
				d := good()
				id := idOf(t, c.Encode())
				d.open.Supersedes = &id
				return d.bytes(t)
			}
		}
		return nil
	case 11:
		return w.session(actor, post("/put/"+k, strings.Repeat("x", rapid.IntRange(0, 5000).Draw(t, "size"))))
	case 12:
		return w.session(actor, post(rapid.SampledFrom([]string{"/answer-quirk", "/write-quirk/" + k, "/panic-quirk"}).Draw(t, "quirk"), ""))
	default:
		return good().bytes(t)
	}
}

// Every block states its result, also one without sessions, and within the bytes CometBFT grants.
func TestPrepareRespectsRoom(t *testing.T) {
	w := newWorld(t, 1)
	defer w.close()
	n := w.nodes[0]
	if made := w.block(); len(made) != 1 {
		t.Fatalf("empty block has %d transactions", len(made))
	}
	if s, err := wire.DecodeRootStatement(w.block()[0]); err != nil || s.Height != 2 || !bytes.Equal(s.Root[:], w.last) {
		t.Fatalf("statement %v %v", s, err)
	}
	var txs [][]byte
	for i := range 3 {
		txs = append(txs, w.session("ann", post(fmt.Sprintf("/put/%d", i), strings.Repeat("x", 500*(3-i)))))
	}
	height, at := w.next()
	for _, want := range []struct{ fits []int }{{nil}, {[]int{2}}, {[]int{0}}, {[]int{0, 2}}, {[]int{0, 1, 2}}} {
		room := protoSize(wire.RootStatement{Height: height}.Encode())
		for _, i := range want.fits {
			room += protoSize(txs[i])
		}
		res, err := n.app.PrepareProposal(context.Background(), &abci.RequestPrepareProposal{MaxTxBytes: room, Txs: txs, Height: height, Time: at})
		if err != nil || len(res.Txs) != len(want.fits)+1 {
			t.Fatalf("%d bytes: %d transactions, %v; want sessions %v", room, len(res.Txs), err, want.fits)
		}
		for i, at := range want.fits {
			if !bytes.Equal(res.Txs[i+1], txs[at]) {
				t.Errorf("%d bytes: not session %d at place %d", room, at, i)
			}
		}
		if err := cmttypes.ToTxs(res.Txs).Validate(room); err != nil {
			t.Error(err)
		}
		if len(want.fits) == 0 {
			continue
		}
		res, err = n.app.PrepareProposal(context.Background(), &abci.RequestPrepareProposal{MaxTxBytes: room - 1, Txs: txs, Height: height, Time: at})
		if err != nil || cmttypes.ToTxs(res.Txs).Validate(room-1) != nil {
			t.Errorf("%d bytes, one too few: %d transactions, %v", room-1, len(res.Txs), err)
		}
	}
}

// Proposals that are not what an honest proposer makes are REJECTed, with a nil error, without a change, and without
// putting the honest sessions in them into quarantine.
func TestByzantineProposals(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	// The reader saw a counter that the adder changes: only in this order both are good.
	reader, adder := w.session("ann", call{"GET", "/get/a", ""}), w.session("bob", post("/add/a", ""))
	lone := w.session("bob", post("/put/z", "z"))
	honest := w.prepare(w.nodes[0], reader, adder, lone)
	if len(honest) != 4 {
		t.Fatalf("the honest proposal has %d transactions", len(honest))
	}
	liar := w.draft("eve", post("/put/y", "y"))
	liar.tamper = func(_ int, r *wire.Response) { r.Status = 200 }
	diverging := liar.bytes(t)
	height, _ := w.next()
	var root wire.Digest
	root[0] = 1
	flipped := bytes.Clone(honest[1])
	flipped[len(flipped)-1] ^= 1
	statement := honest[0]
	stated, err := wire.DecodeRootStatement(statement)
	if err != nil {
		t.Fatal(err)
	}
	for name, txs := range map[string][][]byte{
		"no transactions":       {},
		"nil list":              nil,
		"missing root":          honest[1:],
		"wrong root":            append([][]byte{wire.RootStatement{Height: height, Root: root}.Encode()}, honest[1:]...),
		"root of another block": {statement, honest[1]},
		"other height":          append([][]byte{wire.RootStatement{Height: height + 1, Root: stated.Root}.Encode()}, honest[1:]...),
		"two roots":             slices.Concat([][]byte{statement}, honest),
		"root last":             append(slices.Clone(honest[1:]), statement),
		"reordered":             {statement, honest[2], honest[1], honest[3]},
		"session twice":         append(slices.Clone(honest), honest[1]),
		"diverging session":     append(slices.Clone(honest), diverging),
		"left out":              {statement, honest[1], honest[3]},
		"unknown kind":          append(slices.Clone(honest), []byte{0x84, 9, 1}),
		"garbage":               append(slices.Clone(honest), []byte("garbage")),
		"empty transaction":     append(slices.Clone(honest), nil),
		"extra byte":            {statement, append(bytes.Clone(honest[1]), 0), honest[2], honest[3]},
		"extra byte in root":    slices.Concat([][]byte{append(bytes.Clone(statement), 0)}, honest[1:]),
		"signature flipped":     {statement, flipped, honest[2], honest[3]},
		"truncated":             {statement, honest[1][:50]},
		"oversized":             append(slices.Clone(honest), make([]byte, wire.MaxTransaction+1)),
	} {
		t.Run(name, func(t *testing.T) {
			for i, n := range w.nodes {
				if w.process(n, "liar", txs) {
					t.Errorf("node %d accepts", i)
				}
				for _, q := range n.app.Quarantined() {
					if q.Transaction != wire.Sum(diverging) {
						t.Errorf("node %d: an honest session is in quarantine: %+v", i, q)
					}
				}
			}
		})
	}
	// After all that, the honest proposal is as good as ever.
	for i, n := range w.nodes {
		if !w.process(n, "node0", honest) {
			t.Fatalf("node %d rejects the honest proposal", i)
		}
	}
	w.decide(honest)
}

// A decided block is finalized by a node that has never seen the proposal, by one that restarted in between (at every
// point), and by one that replays the whole ledger, with the same roots.
func TestFinalizeAfterRestart(t *testing.T) {
	w := newWorld(t, 3)
	defer w.close()
	late := newWorld(t, 1) // its node joins at the end and replays
	defer late.close()
	var ledgerTxs [][][]byte
	for b := range 4 {
		made := w.prepare(w.nodes[0], w.session("ann", post("/add/a", "")), w.session("bob", post(fmt.Sprintf("/put/%d", b), "v")))
		if !w.process(w.nodes[1], "node0", made) {
			t.Fatal("rejected")
		}
		w.restart(w.nodes[1]) // knows nothing of the proposal any more; node 2 never did
		if b == 2 {           // a crash between FinalizeBlock and Commit
			height, at := w.next()
			if _, err := w.nodes[2].app.FinalizeBlock(context.Background(), &abci.RequestFinalizeBlock{Txs: made, Height: height, Time: at}); err != nil {
				t.Fatal(err)
			}
			w.restart(w.nodes[2])
		}
		w.decide(made)
		ledgerTxs = append(ledgerTxs, made)
	}
	for _, txs := range ledgerTxs {
		late.decide(txs)
	}
	if !bytes.Equal(late.last, w.last) {
		t.Errorf("replaying the ledger gives root %x, not %x", late.last, w.last)
	}
}

// FinalizeBlock uses the result of Prepare or Process and does not replay; a handler tells how often it ran.
func TestExecutesOnce(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	tx := w.session("ann", post("/answer-quirk", ""))
	before := [2]int{w.nodes[0].quirk.count, w.nodes[1].quirk.count}
	w.block(tx)
	for i, n := range w.nodes {
		if ran := n.quirk.count - before[i]; ran != 1 {
			t.Errorf("node %d ran the handler %d times, want once", i, ran)
		}
	}
}

// A decided block that this node cannot replay puts its own state in doubt: it halts, once, and says which transaction.
func TestFinalizeOfForeignResultHalts(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	w.nodes[1].quirk.set("other")
	made := w.prepare(w.nodes[0], w.session("ann", post("/answer-quirk", "")))
	height, at := w.next()
	_, err := w.nodes[1].app.FinalizeBlock(context.Background(), &abci.RequestFinalizeBlock{Txs: made, Height: height, Time: at})
	if err == nil || len(w.nodes[1].halted) != 1 {
		t.Fatalf("error %v, halted %v", err, w.nodes[1].halted)
	}
	w.wantCode(err, refusal.ResponseDiffers)
	if h, _, _ := w.nodes[1].store.Version(); h != 0 {
		t.Error("and it has written")
	}
}

// A store that fails is a halt and never a verdict on content.
func TestStateErrorsHalt(t *testing.T) {
	for name, do := range map[string]func(w *world, a *App, txs [][]byte) error{
		"prepare": func(w *world, a *App, txs [][]byte) error {
			height, at := w.next()
			_, err := a.PrepareProposal(context.Background(), &abci.RequestPrepareProposal{MaxTxBytes: 1 << 20, Txs: txs[1:], Height: height, Time: at})
			return err
		},
		"process": func(w *world, a *App, txs [][]byte) error {
			height, at := w.next()
			_, err := a.ProcessProposal(context.Background(), &abci.RequestProcessProposal{Txs: txs, Height: height, Time: at})
			return err
		},
		"finalize": func(w *world, a *App, txs [][]byte) error {
			height, at := w.next()
			_, err := a.FinalizeBlock(context.Background(), &abci.RequestFinalizeBlock{Txs: txs, Height: height, Time: at})
			return err
		},
		"commit": func(w *world, a *App, txs [][]byte) error {
			a.pending = &execution{slot: Slot{Height: w.height() + 1}, staged: nil}
			_, err := a.Commit(context.Background(), &abci.RequestCommit{})
			return err
		},
		"commit without a block": func(w *world, a *App, txs [][]byte) error {
			_, err := a.Commit(context.Background(), &abci.RequestCommit{})
			return err
		},
		"a block out of order": func(w *world, a *App, txs [][]byte) error {
			_, err := a.FinalizeBlock(context.Background(), &abci.RequestFinalizeBlock{Txs: txs, Height: 7, Time: time.UnixMilli(startTime)})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			defer w.close()
			made := w.prepare(w.nodes[0], w.session("ann", post("/add/a", "")))
			n := w.nodes[1]
			if err := n.store.Close(); err != nil {
				t.Fatal(err)
			}
			if err := do(w, n.app, made); err == nil {
				t.Error("no error")
			}
			if len(n.halted) != 1 {
				t.Errorf("halted %v", n.halted)
			}
		})
	}
}

// InitChain: deterministic, repeatable until the first block, and clear about a genesis that does not fit.
func TestInitChain(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	if _, root, _ := w.nodes[1].store.Version(); !bytes.Equal(root[:], w.last) {
		t.Fatal("two nodes, two roots")
	}
	n := w.nodes[0]
	w.restart(n)
	if info, _ := n.app.Info(context.Background(), nil); info.LastBlockHeight != 0 || len(info.LastBlockAppHash) != 0 {
		t.Errorf("before the first block: %v", info)
	}
	res, err := n.app.InitChain(context.Background(), w.initChain())
	if err != nil || !bytes.Equal(res.AppHash, w.last) {
		t.Errorf("the second time: %v %v", res, err)
	}
	p, err := ledger.ParametersOf(n.store.Latest())
	if err != nil || p.ChainID != testChain || p.MaxSteps != 64 {
		t.Errorf("parameters %+v %v", p, err)
	}
	for name, c := range map[string]struct {
		change func(r *abci.RequestInitChain)
		want   []string
	}{
		"other fingerprint": {func(r *abci.RequestInitChain) {
			fp := n.runner.Fingerprint().String()
			r.AppStateBytes = bytes.Replace(r.AppStateBytes, []byte(fp), []byte(strings.Repeat("ab", 32)), 1)
		}, []string{"wrong-fingerprint", strings.Repeat("ab", 32), n.runner.Fingerprint().String()}},
		"other service": {func(r *abci.RequestInitChain) {
			r.AppStateBytes = bytes.Replace(r.AppStateBytes, []byte(`"service_name": "layer1-test"`), []byte(`"service_name": "bakery"`), 1)
		}, []string{"genesis-invalid", "bakery", "layer1-test"}},
		"other seed": {func(r *abci.RequestInitChain) {
			r.AppStateBytes = bytes.Replace(r.AppStateBytes, []byte(`"hello": 1`), []byte(`"hello": 2`), 1)
		}, []string{"genesis-invalid", "another ledger"}},
		"other chain id": {func(r *abci.RequestInitChain) { r.ChainId = "other" }, []string{"another ledger"}},
		"bad chain id":   {func(r *abci.RequestInitChain) { r.ChainId = "a b" }, []string{"genesis-invalid", "chain_id"}},
		"no JSON":        {func(r *abci.RequestInitChain) { r.AppStateBytes = []byte("{") }, []string{"bad-json"}},
		"initial height": {func(r *abci.RequestInitChain) { r.InitialHeight = 5 }, []string{"initial_height is 5"}},
	} {
		req := w.initChain()
		c.change(req)
		_, err := n.app.InitChain(context.Background(), req)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, s := range c.want {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %v does not say %q", name, err, s)
			}
		}
	}
	if len(n.halted) > 0 {
		t.Errorf("halted: %v", n.halted)
	}
	// White space in the file changes nothing: the seed has one form.
	other := newWorld(t, 1)
	defer other.close()
	other.nodes[0].fs, other.genesis = nil, bytes.ReplaceAll(other.genesis, []byte("\n"), []byte("\n  "))
	req := other.initChain()
	if res, err := other.nodes[0].app.InitChain(context.Background(), req); err != nil || !bytes.Equal(res.AppHash, w.last) {
		t.Errorf("indented genesis: %v", err)
	}
}

// OnBlock tells what the block settled and changed, in order.
func TestOnBlock(t *testing.T) {
	w := newWorld(t, 1)
	defer w.close()
	a, b := w.session("ann", post("/put/a", "1")), w.session("bob", post("/put/b", "2"))
	w.block(a, b)
	w.block()
	got := w.nodes[0].blocks
	if len(got) != 2 || got[0].Height != 1 || got[1].Height != 2 || len(got[1].Sessions) != 0 || len(got[1].Changes) != 0 {
		t.Fatalf("%+v", got)
	}
	for i, tx := range [][]byte{a, b} {
		s := got[0].Sessions[i]
		if s.ID != idOf(t, tx) || s.Transaction != wire.Sum(tx) || s.Index != i+1 || s.Actor != []string{"ann", "bob"}[i] || s.Key != wire.PublicKeyOf(key(s.Actor)) {
			t.Errorf("session %d: %+v", i, s)
		}
		want := []string{"a/v/" + string(rune('a'+i)), string(ledger.SettledKey(s.ID))}
		var keys []string
		for _, k := range s.Keys {
			keys = append(keys, string(k))
		}
		if !slices.Equal(keys, want) {
			t.Errorf("session %d wrote %q, want %q", i, keys, want)
		}
	}
	if len(got[0].Changes) != 4 {
		t.Errorf("%d changes", len(got[0].Changes))
	}
}

func TestConsensusParams(t *testing.T) {
	p := ConsensusParams()
	if err := p.ValidateBasic(); err != nil {
		t.Fatal(err)
	}
	if p.Block.MaxBytes != 4<<20 || p.Version.App != AppVersion || p.ABCI.VoteExtensionsEnableHeight != 0 {
		t.Errorf("%+v", p)
	}
	if room := cmttypes.MaxDataBytes(p.Block.MaxBytes, p.Evidence.MaxBytes, 64); room < 2*wire.MaxTransaction {
		t.Errorf("%d bytes for transactions beside evidence and 64 validators' votes", room)
	}
}
