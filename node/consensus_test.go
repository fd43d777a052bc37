package node

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	abcitypes "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/crypto/ed25519"
	cometjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	cometproto "github.com/cometbft/cometbft/proto/tendermint/types"
	comettypes "github.com/cometbft/cometbft/types"
)

// countingApp is the least application: its hash changes with every transaction, and it tells its blocks.
type countingApp struct {
	abcitypes.BaseApplication
	hash   []byte
	height int64
	blocks chan counted
}

type counted struct {
	height int64
	txs    int
	round  int32
}

func (a *countingApp) Info(context.Context, *abcitypes.RequestInfo) (*abcitypes.ResponseInfo, error) {
	return &abcitypes.ResponseInfo{LastBlockHeight: a.height, LastBlockAppHash: a.hash}, nil
}

func (a *countingApp) FinalizeBlock(_ context.Context, r *abcitypes.RequestFinalizeBlock) (*abcitypes.ResponseFinalizeBlock, error) {
	res := &abcitypes.ResponseFinalizeBlock{AppHash: a.hash}
	for _, tx := range r.Txs {
		sum := sha256.Sum256(append(a.hash, tx...))
		a.hash = sum[:]
		res.TxResults = append(res.TxResults, &abcitypes.ExecTxResult{})
	}
	res.AppHash = a.hash
	a.height = r.Height
	a.blocks <- counted{r.Height, len(r.Txs), r.DecidedLastCommit.Round}
	return res, nil
}

// home writes what newConsensus needs for one node below dir and returns its configuration and id.
func home(t *testing.T, dir string) (Config, p2p.ID, ed25519.PubKey) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, engineDir), 0o700); err != nil {
		t.Fatal(err)
	}
	key := p2p.NodeKey{PrivKey: ed25519.GenPrivKey()}
	if err := key.SaveAs(filepath.Join(dir, NodeKeyFile)); err != nil {
		t.Fatal(err)
	}
	validator := privval.GenFilePV(filepath.Join(dir, ValidatorKeyFile), filepath.Join(dir, signStateFile))
	text, err := cometjson.Marshal(validator.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ValidatorKeyFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Default(dir)
	cfg.Roles = []string{RoleValidator}
	cfg.P2P.Listen = freeAddress(t)
	return cfg, key.ID(), validator.Key.PubKey.(ed25519.PubKey)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

type member struct {
	*consensus
	app    *countingApp
	cfg    Config
	cancel context.CancelFunc
}

// engines starts n validators with the counting application, on disk.
func engines(t *testing.T, n int, change func(*Config)) []*member {
	t.Helper()
	dir := t.TempDir()
	doc := &comettypes.GenesisDoc{ChainID: "engines", GenesisTime: time.Now(), AppState: json.RawMessage(`{}`)}
	var peers []string
	members := make([]*member, n)
	for i := range members {
		cfg, id, key := home(t, filepath.Join(dir, fmt.Sprint(i)))
		if change != nil {
			change(&cfg)
		}
		members[i] = &member{cfg: cfg, app: &countingApp{blocks: make(chan counted, 10000)}}
		doc.Validators = append(doc.Validators, comettypes.GenesisValidator{PubKey: key, Power: 10})
		peers = append(peers, fmt.Sprintf("%s@%s", id, cfg.P2P.Listen))
	}
	if err := doc.ValidateAndComplete(); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		m.cfg.P2P.Peers = peers
		validator, err := m.cfg.loadValidator()
		if err != nil {
			t.Fatal(err)
		}
		log := engineLog{to: slog.New(slog.NewTextHandler(io.Discard, nil)), failed: func(err error) { t.Error(err) }}
		m.consensus, err = newConsensus(context.Background(), m.cfg, doc, m.app, validator, false, log)
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range members {
		if err := m.start(); err != nil {
			t.Fatal(err)
		}
		var ctx context.Context
		ctx, m.cancel = context.WithCancel(context.Background())
		go m.keepPeers(ctx, m.cfg.P2P.Peers)
		t.Cleanup(func() { m.end(t) })
	}
	return members
}

func (m *member) end(t *testing.T) {
	if m.consensus == nil {
		return
	}
	m.cancel()
	if err := m.stop(5 * time.Second); err != nil {
		t.Error(err)
	}
	m.consensus = nil
}

// commit sends one transaction to m and waits until it is in a block there.
func (m *member) commit(t *testing.T, tx string) {
	t.Helper()
	if err := m.submit(t.Context(), []byte(tx)); err != nil {
		t.Fatal(err)
	}
	m.await(t)
}

// await waits for a block with a transaction.
func (m *member) await(t *testing.T) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case b := <-m.app.blocks:
			if b.txs > 0 {
				return
			}
		case <-deadline:
			t.Fatal("no block with a transaction within 30 s")
		}
	}
}

// TestConsensusWithoutAThird: DESIGN's "one of four validators down (commits go on)". Each commit may meet the dead
// validator's turn to propose, which costs a propose timeout and not more.
func TestConsensusWithoutAThird(t *testing.T) {
	members := engines(t, 4, nil)
	// The first transaction may be sent while the peers are not listening yet; whoever submits again has it sent again.
	if err := members[0].submit(t.Context(), []byte("first")); err != nil {
		t.Fatal(err)
	}
	retry := time.NewTicker(200 * time.Millisecond)
	defer retry.Stop()
	begin := time.Now()
	for committed := false; !committed; {
		select {
		case b := <-members[0].app.blocks:
			committed = b.txs > 0
		case <-retry.C:
			if err := members[0].submit(t.Context(), []byte("first")); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Without submitting again it waits for this node's turn, one heartbeat of 5 s per block.
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("the first commit took %s: what was submitted again was not sent again", took)
	}
	members[3].end(t)
	begin = time.Now()
	const commits = 12
	for i := range commits {
		members[0].commit(t, fmt.Sprint("without the fourth ", i))
	}
	// Two blocks per commit, every fourth is the dead one's: 380 ms + 60 ms. Generous for a busy machine.
	if took := time.Since(begin); took > commits*time.Second {
		t.Errorf("%d commits took %s with one of four validators down", commits, took)
	}
}

// TestSubmitTwice: a transaction that the mempool has is no error.
func TestSubmitTwice(t *testing.T) {
	m := engines(t, 1, nil)[0]
	for range 2 {
		if err := m.submit(t.Context(), []byte("twice")); err != nil {
			t.Fatal(err)
		}
	}
	m.await(t)
	if err := m.submit(t.Context(), []byte("twice")); err != nil { // committed, but still in the cache
		t.Error(err)
	}
	if err := m.submit(t.Context(), make([]byte, 2<<20)); err == nil {
		t.Error("2 MiB were taken")
	}
}

// TestSignStateIsNotMadeUp: a validator that has lost what it has signed last must not vote: it could vote twice.
func TestSignStateIsNotMadeUp(t *testing.T) {
	cfg, _, key := home(t, t.TempDir())
	validator, err := cfg.loadValidator() // a new home: the state is made
	if err != nil {
		t.Fatal(err)
	}
	if got, err := validator.GetPubKey(); err != nil || !got.Equals(key) {
		t.Errorf("key %v, error %v", got, err)
	}
	vote := func() error {
		v := &cometproto.Vote{Type: cometproto.PrevoteType, Height: 7, Timestamp: time.Now()}
		return validator.SignVote("chain", v)
	}
	if err := vote(); err != nil {
		t.Fatal(err)
	}
	if validator, err = cfg.loadValidator(); err != nil { // read again
		t.Fatal(err)
	}
	v := &cometproto.Vote{Type: cometproto.PrevoteType, Height: 6, Timestamp: time.Now()}
	if err := validator.SignVote("chain", v); err == nil {
		t.Error("after a restart the validator signed for a height below one it has signed for")
	}
	if err := os.Mkdir(filepath.Join(cfg.Home, engineDir, "blockstore.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(cfg.Home, signStateFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.loadValidator(); err == nil || !strings.Contains(err.Error(), "vote twice") {
		t.Errorf("error %v, want one that says why", err)
	}
	for _, file := range []string{signStateFile, ValidatorKeyFile} {
		if err := os.WriteFile(filepath.Join(cfg.Home, file), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := cfg.loadValidator(); err == nil {
			t.Errorf("a broken %s was accepted", file)
		}
	}
}

// TestConsensusFailureIsHeard: the engine's cry reaches the node, whatever module it comes from; nothing else does.
func TestConsensusFailureIsHeard(t *testing.T) {
	var failures []error
	log := engineLog{to: slog.New(slog.DiscardHandler), failed: func(err error) { failures = append(failures, err) }}
	log.Error("Stopping peer for error", "err", "EOF")
	log.Info("CONSENSUS FAILURE is not an info")
	if len(failures) != 0 {
		t.Fatal(failures)
	}
	log.With("module", "consensus").Error("CONSENSUS FAILURE!!!", "err", "out of luck", "stack", "...")
	if len(failures) != 1 || !strings.Contains(failures[0].Error(), "out of luck") {
		t.Error(failures)
	}
}

// TestEngineIsLockedDown: what must never be on.
func TestEngineIsLockedDown(t *testing.T) {
	cfg := Default(t.TempDir())
	cfg.RPC.Listen = "127.0.0.1:26657"
	e := cfg.engineConfig(&comettypes.GenesisDoc{})
	if e.P2P.PexReactor || e.RPC.Unsafe || e.RPC.PprofListenAddress != "" || e.RPC.GRPCListenAddress != "" || e.TxIndex.Indexer != "null" {
		t.Errorf("%+v %+v", e.P2P, e.RPC)
	}
	if e.RPC.ListenAddress != "tcp://127.0.0.1:26657" {
		t.Error(e.RPC.ListenAddress)
	}
	if Default(t.TempDir()).engineConfig(&comettypes.GenesisDoc{}).RPC.ListenAddress != "" {
		t.Error("RPC is on by default")
	}
	if err := e.ValidateBasic(); err != nil {
		t.Error(err)
	}
}

// TestReadersMayComeTooLate: a gossip goroutine that reads after the stop finds nothing; it must not take the process
// along. A write must still fail.
func TestReadersMayComeTooLate(t *testing.T) {
	m := engines(t, 1, nil)[0]
	m.commit(t, "one")
	blocks := m.node.BlockStore()
	height := blocks.Height()
	m.end(t)
	if c := blocks.LoadSeenCommit(height + 1); c != nil {
		t.Error("a commit out of nowhere")
	}
	if b := blocks.LoadBlock(height); b != nil {
		t.Error("a block from a closed database")
	}
	if err := blocks.SaveSeenCommit(height+1, &comettypes.Commit{}); err == nil {
		t.Error("a write to a closed database has succeeded")
	}
}
