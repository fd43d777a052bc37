// Package layer1 is the ABCI application of a Tandem network: it puts whole sessions into blocks, and only those whose
// replay gives what their users saw.
//
// The way of a transaction (a session commit) through the application:
//
//	CheckTx          cheap: everything but the replay; keeps garbage out of the mempool
//	PrepareProposal  the proposer replays in order on one overlay, drops what fails, puts the resulting root in front
//	ProcessProposal  every validator replays and compares each response, then the root; any difference: REJECT
//	FinalizeBlock    uses that result; replays again only when it has none (restart, block sync)
//	Commit           one atomic batch; then OnBlock
//
// All of them ask the same pure function, Check. So Process(Prepare(x)) is ACCEPT for every x, being in a block means
// being committed, and a block proves its own result: its first transaction states the root it leads to.
//
// Three kinds of "no" are kept apart. Content that is wrong (whoever made it) is dropped, refused or REJECTed, with a
// coded refusal and never with an error, since CometBFT stops for good on one. A session that makes proposals fail
// although nobody lied is quarantined at the validators that saw it, so that it costs a round and not the chain. And an
// error of this node's own state is a halt: Options.Halt is called, the ABCI call returns an error, the process is to
// end with exit code 70.
//
// Nothing is durable before Commit but the genesis state: InitChain stores it as version 0 of the store, so that a node
// can answer on it before the first block; after a crash CometBFT calls InitChain again and gets the same answer.
//
// No decision to accept depends on a clock. A watchdog may make the proposer drop a session and a validator REJECT a
// proposal; FinalizeBlock has none.
package layer1

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	cmttypes "github.com/cometbft/cometbft/types"

	"tandem"
	"tandem/internal/exec"
	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// AppVersion is the version of the rules in this package; it stands in every block's header.
const AppVersion = 1

// MaxBlock is the size of a block in bytes, a consensus parameter.
const MaxBlock = 4 << 20

// The defaults of Options.
const (
	DefaultMempoolPerActor   = 512
	DefaultWatchdog          = 2 * time.Second
	DefaultQuarantineHeights = 10
	DefaultBlockOperations   = 2_000_000
)

// Under load blocks are made fewer and larger: after a block of crowded sessions or more a proposer waits for more sessions,
// until it has enough of them or none has come for a quietPart of Linger.
const crowded, enoughSessions, quietPart = 4, 128, 2

// ConsensusParams are the consensus parameters of every Tandem network, for whoever writes a genesis file. They are
// constant: blocks of 4 MiB, no gas, no vote extensions, Ed25519 validators. That a transaction has at most 1 MiB is
// Check's to enforce and should also be the mempool's max_tx_bytes (wire.MaxTransaction).
func ConsensusParams() *cmttypes.ConsensusParams {
	p := cmttypes.DefaultConsensusParams()
	p.Block.MaxBytes = MaxBlock
	p.Block.MaxGas = -1
	p.Evidence.MaxBytes = 256 << 10
	p.Version.App = AppVersion
	return p
}

// Options configure New. Store, Service and Runner are required.
type Options struct {
	// Store is this node's state. The App is its only writer.
	Store *state.Store
	// Service is what the network runs; its Genesis is called in InitChain.
	Service tandem.Service
	// Runner replays the service's handlers; its limits do not matter, those in the ledger's parameters are used.
	Runner *exec.Runner
	// Logger receives what operators should know. nil discards it.
	Logger *slog.Logger
	// OnBlock is called after each commit, in the order of blocks, from the goroutine of consensus: it must not block.
	OnBlock func(Block)
	// Admitted is called with each transaction that CheckTx lets in for the first time, from within CheckTx: it must not
	// block. Whoever wants blocks to be quick calls Rehearse with it, on another goroutine. nil for no one.
	Admitted func(tx []byte)
	// Halt is called once when this node's own state is in doubt. The process should end with exit code 70. It is called
	// from within an ABCI call and must not wait for the engine to stop.
	Halt func(error)
	// MempoolPerActor is how many sessions of one actor may wait for a block here.
	MempoolPerActor int
	// Watchdog is how long the replay of one session may take in an own proposal, and half of what a whole own proposal
	// may take. In others' proposals both may take twice as long. Zero means the default, negative means no watchdog.
	Watchdog time.Duration
	// QuarantineHeights is for how many blocks a session is left out of own proposals after it made one fail.
	QuarantineHeights int64
	// Linger is how long an own proposal for which there is no session yet waits for one, and one after a block with many sessions
	// for more; see PrepareProposal. It must be a small part of the time that the others wait for a proposal. 0 does not wait.
	Linger time.Duration
	// BlockOperations is how many state operations the sessions of one own proposal may use together; the first is always
	// taken. Others' proposals may hold what they like.
	BlockOperations uint64
}

// Block is what OnBlock is told.
type Block struct {
	Height   int64
	Time     int64 // of the header, milliseconds since 1970
	Root     wire.Digest
	Sessions []Settled
	Changes  []state.Change // sorted by key; shared, not to be changed
}

// Settled is a session in a block.
type Settled struct {
	ID          wire.SessionID
	Transaction wire.Digest // hash of the Layer 1 transaction
	Index       int         // of the transaction in the block; 0 is the root statement
	Actor       string
	Key         wire.PublicKey
	Part        uint64      // which of the session's commits it is, from 1
	Steps       uint64      // of the session, up to this commit
	Head        wire.Digest // transcript head after them
	Final       bool        // the session is closed; otherwise this was a checkpoint
	Keys        [][]byte    // state keys it wrote, sorted; shared, not to be changed
}

// App implements the ABCI application. All methods are safe for concurrent use: the node may connect it with or without a
// mutex of CometBFT's.
type App struct {
	abci.BaseApplication // vote extensions and application-side mempool: not used

	store    *state.Store
	service  tandem.Service
	rules    Rules
	logger   *slog.Logger
	onBlock  func(Block)
	admitted func([]byte)
	onHalt   func(error)
	watchdog time.Duration
	linger   time.Duration
	budget   uint64
	pool     *pool
	ward     *ward

	// mu is held for a whole consensus call. CometBFT makes them one at a time; CheckTx, Info and Query do not take it.
	mu        sync.Mutex
	executed  []*execution // of the next height, newest last; guarded by mu
	pending   *execution   // finalized, to be committed; guarded by mu
	proposals []*proposal  // own, of the next height; guarded by mu
	crowd     int          // sessions in the last block; guarded by mu

	haltOnce sync.Once
}

// New returns an application over the store.
func New(o Options) *App {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnBlock == nil {
		o.OnBlock = func(Block) {}
	}
	if o.Admitted == nil {
		o.Admitted = func([]byte) {}
	}
	if o.Halt == nil {
		o.Halt = func(error) {}
	}
	return &App{
		store: o.Store, service: o.Service, logger: o.Logger, onBlock: o.OnBlock, admitted: o.Admitted, onHalt: o.Halt,
		rules:    Rules{Runner: o.Runner, Verified: NewVerified(VerifiedBytes), Rehearsals: NewRehearsals()},
		watchdog: max(orDefault(o.Watchdog, DefaultWatchdog), 0),
		linger:   o.Linger,
		budget:   orDefault(o.BlockOperations, DefaultBlockOperations),
		pool:     newPool(orDefault(o.MempoolPerActor, DefaultMempoolPerActor)),
		ward:     newWard(orDefault(o.QuarantineHeights, DefaultQuarantineHeights)),
	}
}

func orDefault[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// Quarantined is the sessions that the next own proposal leaves out, sorted by id.
func (a *App) Quarantined() []Quarantine {
	height, _, _ := a.store.Version()
	return a.ward.list(height + 1)
}

// QuarantineOf tells why a transaction is in quarantine here, if it is: a refusal quarantined with the fields session,
// reason, step, field, until_height.
func (a *App) QuarantineOf(tx wire.Digest) (*refusal.Refusal, bool) {
	height, _, _ := a.store.Version()
	q, ok := a.ward.quarantined(tx, height+1)
	if !ok {
		return nil, false
	}
	return q.refusal(), true
}

// Info tells CometBFT which block this node's state is at; it replays what is missing.
func (a *App) Info(context.Context, *abci.RequestInfo) (*abci.ResponseInfo, error) {
	res := &abci.ResponseInfo{Data: a.service.Name, Version: a.service.Version, AppVersion: AppVersion}
	if height, root, _ := a.store.Version(); !a.store.Fresh() && height > 0 {
		res.LastBlockHeight, res.LastBlockAppHash = height, root[:]
	}
	return res, nil
}

// Commit makes the finalized block durable, in one atomic batch, and tells OnBlock.
//
// Crash story: before the batch is synced the store is at the block before, CometBFT has this block in its own store
// and replays it here at the next start (FinalizeBlock executes again). After it, CometBFT finds the application ahead
// of its own state by one block, which it handles; OnBlock is then not called for that block, so who listens catches up
// from the state.
func (a *App) Commit(context.Context, *abci.RequestCommit) (*abci.ResponseCommit, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.pending
	if e == nil {
		return nil, a.halt(errors.New("layer1: Commit without FinalizeBlock"))
	}
	if err := a.store.Commit(e.slot.Height, e.slot.Time, e.staged); err != nil {
		return nil, a.halt(fmt.Errorf("layer1: commit of block %d: %w", e.slot.Height, err))
	}
	a.settle(e)
	a.onBlock(Block{Height: e.slot.Height, Time: e.slot.Time, Root: e.root, Sessions: e.sessions, Changes: e.changes})
	return &abci.ResponseCommit{}, nil
}

// settle draws the conclusions from a committed block: for the mempool's accounts, and for own proposals that were not
// taken.
func (a *App) settle(e *execution) {
	decided := make(map[wire.Digest]bool, len(e.sessions))
	txs := make([]wire.Digest, 0, len(e.sessions))
	for _, s := range e.sessions {
		decided[s.Transaction] = true
		txs = append(txs, s.Transaction)
	}
	for _, p := range a.proposals {
		if p.id == e.id {
			a.pool.refuse(p.refused) // they failed on the state that now holds: the recheck evicts them
			continue
		}
		for _, s := range p.sessions {
			if !decided[s.Transaction] && a.ward.suspect(s.Transaction, "", e.slot.Height) {
				a.quarantine(Quarantine{
					Session: s.ID, Transaction: s.Transaction, Reason: refusal.Quarantined, Height: e.slot.Height,
					Detail: "this validator's proposals with the session were not accepted by the others",
				})
			}
		}
	}
	a.crowd = len(txs)
	a.pool.committed(e.slot.Height, txs)
	a.ward.committed(e.slot.Height, txs)
	a.rules.Rehearsals.forget(txs)
	a.executed, a.proposals, a.pending = nil, nil, nil
}

// halt tells that this node's own state is in doubt, once, and returns the error for CometBFT.
func (a *App) halt(err error) error {
	a.haltOnce.Do(func() {
		a.logger.Error("own state in doubt, halting", "error", err)
		a.onHalt(err)
	})
	return err
}

// ListSnapshots says there are none: a node that joins replays the blocks. The state package can export and import
// snapshots; offering them to peers needs a trusted header on the other side, which static networks do not have yet.
func (a *App) ListSnapshots(context.Context, *abci.RequestListSnapshots) (*abci.ResponseListSnapshots, error) {
	return &abci.ResponseListSnapshots{}, nil
}

// OfferSnapshot refuses every snapshot, see ListSnapshots.
func (a *App) OfferSnapshot(context.Context, *abci.RequestOfferSnapshot) (*abci.ResponseOfferSnapshot, error) {
	return &abci.ResponseOfferSnapshot{Result: abci.ResponseOfferSnapshot_ABORT}, nil
}

// LoadSnapshotChunk has none, see ListSnapshots.
func (a *App) LoadSnapshotChunk(context.Context, *abci.RequestLoadSnapshotChunk) (*abci.ResponseLoadSnapshotChunk, error) {
	return &abci.ResponseLoadSnapshotChunk{}, nil
}

// ApplySnapshotChunk takes none, see ListSnapshots.
func (a *App) ApplySnapshotChunk(context.Context, *abci.RequestApplySnapshotChunk) (*abci.ResponseApplySnapshotChunk, error) {
	return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_ABORT}, nil
}
