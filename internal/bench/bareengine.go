package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	abcitypes "github.com/cometbft/cometbft/abci/types"

	"tandem/internal/testnet"
	"tandem/node"
)

// BareEngine is a network of Tandem's nodes whose Layer 1 application is replaced by a trivial one: the same engine with the
// same configuration, the same number of validators and of nodes that only follow, the same pushing of votes, the same
// disks, and nothing to execute, verify, store or answer. What a transaction takes here is the floor of a session commit.
// All its nodes run in this process.
type BareEngine struct {
	dir    string
	apps   []*trivial
	cancel context.CancelFunc
	nodes  []*node.Node
	ends   []chan error // what each node's Run returned
}

// LaunchBareEngine starts a network of so many validators and followers, with its data below dir ("": the system's
// directory for temporary files), and waits until every node has a block.
func LaunchBareEngine(ctx context.Context, validators, followers int, dir string) (*BareEngine, error) {
	ctx, cancel := context.WithTimeout(ctx, launchWait)
	defer cancel()
	for try := 1; ; try++ {
		e, err := launchBareEngine(ctx, validators, followers, dir)
		if err == nil || try == 3 || ctx.Err() != nil || !strings.Contains(err.Error(), "address already in use") {
			return e, err
		}
	}
}

func launchBareEngine(ctx context.Context, validators, followers int, dir string) (e *BareEngine, err error) {
	run, cancel := context.WithCancel(context.Background())
	e = &BareEngine{cancel: cancel}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("bare engine: %w", err), e.Close())
			e = nil
		}
	}()
	if e.dir, err = os.MkdirTemp(dir, "tandem-engine-"); err != nil {
		return e, err
	}
	network := DemoNetwork(validators, followers)
	network.Change = func(_ int, cfg *node.Config) {
		cfg.HTTP.Listen, cfg.Layer2.PeerListen = "", ""
		if !cfg.Has(node.RoleValidator) {
			cfg.Roles = []string{} // it follows the chain and does nothing else
		}
	}
	homes := filepath.Join(e.dir, "network")
	if err := os.Mkdir(homes, 0o700); err != nil {
		return e, err
	}
	configs, err := testnet.Init(homes, network)
	if err != nil {
		return e, err
	}
	for _, cfg := range configs {
		app := newTrivial()
		n, err := node.New(cfg, network.Service, node.WithLogger(slog.New(slog.DiscardHandler)),
			node.WithApplication(func(abcitypes.Application) abcitypes.Application { return app }))
		if err != nil {
			return e, err
		}
		end := make(chan error, 1)
		go func() { end <- n.Run(run) }()
		e.apps, e.nodes, e.ends = append(e.apps, app), append(e.nodes, n), append(e.ends, end)
	}
	for i, app := range e.apps {
		select {
		case <-app.begun:
		case err := <-e.ends[i]:
			e.ends[i] <- err // for Close
			return e, fmt.Errorf("node %d ended: %w", i, err)
		case <-ctx.Done():
			return e, fmt.Errorf("node %d has no block: %w", i, context.Cause(ctx))
		}
	}
	return e, nil
}

// Commit gives a new transaction of size bytes to the last node (a follower, if there is one, as a Layer 2 node is) and
// waits until a block with it is committed there. If change is true the transaction changes the application's hash, as
// every session commit does, and CometBFT makes an empty block after it to prove the new one. size is at least 33.
func (e *BareEngine) Commit(ctx context.Context, size int, change bool) (height int64, err error) {
	tx := make([]byte, max(size, 33))
	_, _ = rand.Read(tx) // never fails
	tx[0] = keepHash
	if change {
		tx[0] = changeHash
	}
	last := len(e.nodes) - 1
	committed := e.apps[last].await(tx)
	if err := e.nodes[last].Submit(ctx, tx); err != nil {
		return 0, err
	}
	select {
	case height := <-committed:
		return height, nil
	case err := <-e.ends[last]:
		e.ends[last] <- err // for Close
		return 0, fmt.Errorf("bare engine: node %d ended: %w", last, err)
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// Close stops all nodes and removes their data.
func (e *BareEngine) Close() error {
	e.cancel()
	var errs []error
	for i, end := range e.ends {
		if err := <-end; err != nil {
			errs = append(errs, fmt.Errorf("bare engine: node %d: %w", i, err))
		}
	}
	if e.dir != "" {
		errs = append(errs, os.RemoveAll(e.dir))
	}
	return errors.Join(errs...)
}

// The first byte of a transaction of a bare engine says what it does to the application's hash.
const (
	keepHash   = 0
	changeHash = 1
)

// trivial is an application that accepts everything and keeps one hash, in memory: it is never restarted.
type trivial struct {
	abcitypes.BaseApplication
	begun chan struct{} // closed at the first block

	mu      sync.Mutex
	height  int64                            // guarded by mu: the last committed block's
	next    int64                            // guarded by mu: the finalized block's
	hash    []byte                           // guarded by mu
	block   [][sha256.Size]byte              // guarded by mu: the finalized block's transactions
	waiting map[[sha256.Size]byte]chan int64 // guarded by mu: who waits for a transaction
}

func newTrivial() *trivial {
	return &trivial{begun: make(chan struct{}), hash: make([]byte, sha256.Size), waiting: map[[sha256.Size]byte]chan int64{}}
}

// await returns what will hold the height of the block with tx.
func (t *trivial) await(tx []byte) <-chan int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := make(chan int64, 1)
	t.waiting[sha256.Sum256(tx)] = c
	return c
}

// FinalizeBlock implements abcitypes.Application.
func (t *trivial) FinalizeBlock(_ context.Context, r *abcitypes.RequestFinalizeBlock) (*abcitypes.ResponseFinalizeBlock, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next, t.block = r.Height, t.block[:0]
	results := make([]*abcitypes.ExecTxResult, len(r.Txs))
	for i, tx := range r.Txs {
		results[i] = &abcitypes.ExecTxResult{}
		sum := sha256.Sum256(tx)
		t.block = append(t.block, sum)
		if tx[0] == changeHash {
			next := sha256.Sum256(append(bytes.Clone(t.hash), sum[:]...))
			t.hash = next[:]
		}
	}
	return &abcitypes.ResponseFinalizeBlock{TxResults: results, AppHash: bytes.Clone(t.hash)}, nil
}

// Commit implements abcitypes.Application.
func (t *trivial) Commit(context.Context, *abcitypes.RequestCommit) (*abcitypes.ResponseCommit, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.height == 0 {
		close(t.begun)
	}
	t.height = t.next
	for _, sum := range t.block {
		if c := t.waiting[sum]; c != nil {
			c <- t.height // it has room for this one
			delete(t.waiting, sum)
		}
	}
	return &abcitypes.ResponseCommit{}, nil
}
