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
	"testing"
	"time"

	abcitypes "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/crypto/ed25519"
	cometjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
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
		m.consensus, err = newConsensus(context.Background(), m.cfg, doc, m.app, validator, log)
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

// commit sends one transaction to m and returns how long it took to be in a block there.
func (m *member) commit(t *testing.T, tx string) time.Duration {
	t.Helper()
	start := time.Now()
	if err := m.node.Mempool().CheckTx([]byte(tx), nil, mempoolInfo); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(30 * time.Second)
	for {
		select {
		case b := <-m.app.blocks:
			if b.txs > 0 {
				return time.Since(start)
			}
		case <-deadline:
			t.Fatal("no block with the transaction within 30 s")
		}
	}
}
