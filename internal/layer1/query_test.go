package layer1

import (
	"bytes"
	"context"
	"encoding/hex"
	"os"
	"testing"

	abci "github.com/cometbft/cometbft/abci/types"
	ics23 "github.com/cosmos/ics23/go"

	"tandem/internal/ledger"
	"tandem/internal/wire"
)

// Query answers with proofs that the stock ICS-23 verifier accepts against the root in the header.
func TestQuery(t *testing.T) {
	w := newWorld(t, 1)
	defer w.close()
	n := w.nodes[0]
	tx := w.session("ann", post("/put/a", "hello"))
	w.block(tx)
	root1 := bytes.Clone(w.last)
	w.block(w.session("ann", post("/put/a", "changed")))
	query := func(path string, height int64, prove bool) *abci.ResponseQuery {
		t.Helper()
		res, err := n.app.Query(context.Background(), &abci.RequestQuery{Path: path, Height: height, Prove: prove})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := query("/root", 0, false); !bytes.Equal(res.Value, w.last) || res.Height != 2 || res.Code != 0 {
		t.Errorf("/root: %v", res)
	}
	for _, c := range []struct {
		path   string
		height int64
		root   []byte
		key    []byte
		value  string
		code   uint32
	}{
		{"/state/" + hex.EncodeToString([]byte("a/v/a")), 0, w.last, []byte("a/v/a"), "changed", 0},
		{"/state/" + hex.EncodeToString([]byte("a/v/a")), 1, root1, []byte("a/v/a"), "hello", 0},
		{"/state/" + hex.EncodeToString([]byte("a/none")), 1, root1, []byte("a/none"), "", 404},
		{"/session/" + idOf(t, tx).String(), 1, root1, ledger.SettledKey(idOf(t, tx)), "*", 0},
		{"/session/" + wire.SessionID{}.String(), 0, w.last, ledger.SettledKey(wire.SessionID{}), "", 404},
	} {
		res := query(c.path, c.height, true)
		if res.Code != c.code || !bytes.Equal(res.Key, c.key) || c.value != "*" && string(res.Value) != c.value {
			t.Errorf("%s: %v", c.path, res)
			continue
		}
		var proof ics23.CommitmentProof
		if err := proof.Unmarshal(res.ProofOps.Ops[0].Data); err != nil {
			t.Fatal(err)
		}
		ok := false
		if c.code == 0 {
			ok = ics23.VerifyMembership(ics23.SmtSpec, c.root, &proof, c.key, res.Value)
		} else {
			ok = ics23.VerifyNonMembership(ics23.SmtSpec, c.root, &proof, c.key)
		}
		if !ok || res.ProofOps.Ops[0].Type != ProofType {
			t.Errorf("%s: the proof does not verify", c.path)
		}
	}
	for path, code := range map[string]uint32{
		"": 404, "/": 404, "/other": 404, "/state/": 400, "/state/xx": 400, "/session/short": 400,
	} {
		if res := query(path, 0, false); res.Code != code || res.Codespace != Codespace || res.Log == "" {
			t.Errorf("%q: %v, want %d", path, res, code)
		}
	}
	for _, height := range []int64{99, -1} {
		if res := query("/state/"+hex.EncodeToString([]byte("a/v/a")), height, false); res.Code != 404 {
			t.Errorf("height %d: %v", height, res)
		}
		if res := query("/root", height, false); res.Code != 404 {
			t.Errorf("root of height %d: %v", height, res)
		}
	}
}

// No snapshots: nodes that join replay the blocks.
func TestNoSnapshots(t *testing.T) {
	w := newWorld(t, 1)
	defer w.close()
	a, ctx := w.nodes[0].app, context.Background()
	if res, err := a.ListSnapshots(ctx, nil); err != nil || len(res.Snapshots) != 0 {
		t.Errorf("%v %v", res, err)
	}
	if res, err := a.OfferSnapshot(ctx, nil); err != nil || res.Result != abci.ResponseOfferSnapshot_ABORT {
		t.Errorf("%v %v", res, err)
	}
	if res, err := a.ApplySnapshotChunk(ctx, nil); err != nil || res.Result != abci.ResponseApplySnapshotChunk_ABORT {
		t.Errorf("%v %v", res, err)
	}
	if res, err := a.LoadSnapshotChunk(ctx, nil); err != nil || res.Chunk != nil {
		t.Errorf("%v %v", res, err)
	}
}

// The example in docs/format/block.md is a root statement.
func TestBlockPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/format/block.md")
	if err != nil {
		t.Fatal(err)
	}
	s := wire.RootStatement{Height: 7, Root: wire.Digest(bytes.Repeat([]byte{0x5a}, 32))}
	if want := "`" + hex.EncodeToString(s.Encode()) + "`"; !bytes.Contains(page, []byte(want)) {
		t.Errorf("the page does not show %s", want)
	}
}
