package layer1

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"

	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// execution is the result of a block on the last committed version. It is what FinalizeBlock would do, kept so that it
// is done once.
type execution struct {
	id       wire.Digest // of height, time and transactions
	slot     Slot
	root     wire.Digest
	staged   *state.Staged
	changes  []state.Change
	sessions []Settled
}

// proposal is what this node has proposed.
type proposal struct {
	id       wire.Digest
	sessions []Settled
	refused  map[wire.Digest]*refusal.Refusal // what Prepare dropped for good
}

// maxExecuted is how many executions of one height are kept; each round of consensus can bring one.
const maxExecuted = 4

// blockID names a block's content: everything its execution depends on beside the state it stands on.
func blockID(slot Slot, txs [][]byte) wire.Digest {
	h := sha256.New()
	var n [16]byte
	binary.BigEndian.PutUint64(n[:8], uint64(slot.Height))
	binary.BigEndian.PutUint64(n[8:], uint64(slot.Time))
	h.Write(n[:])
	for _, tx := range txs {
		sum := sha256.Sum256(tx)
		h.Write(sum[:])
	}
	return wire.Digest(h.Sum(nil))
}

func (a *App) remember(e *execution) {
	if len(a.executed) >= maxExecuted {
		a.executed = slices.Delete(a.executed, 0, 1)
	}
	a.executed = append(a.executed, e)
}

func (a *App) recall(id wire.Digest) *execution {
	for _, e := range a.executed {
		if e.id == id {
			return e
		}
	}
	return nil
}

// sequel checks that a block follows the state. CometBFT asks for nothing else; if it does, the two disagree about where
// this node is.
func (a *App) sequel(height int64) error {
	if last, _, _ := a.store.Version(); a.store.Fresh() || height != last+1 {
		return a.halt(fmt.Errorf("layer1: block %d was asked for, the state is at height %d", height, last))
	}
	return nil
}

// protoSize is what a transaction takes of a block: its bytes, and tag and length in the protobuf list.
func protoSize(tx []byte) int64 {
	n := int64(len(tx))
	size := n + 2
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

var (
	errSessionTime  = refusal.New(refusal.StepTooLong, "the replay of the session takes longer than this node allows")
	errProposalTime = errors.New("layer1: the proposal takes too long")
)

// limited is a context that ends after d with the cause; d of 0 is for ever. CometBFT's own contexts are not used: that a
// node shuts down must not look like a fault of its state, and a call takes a bounded time anyway.
func limited(ctx context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	if d <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, d, cause)
}

// PrepareProposal makes a proposal of the transactions that the mempool offers: it replays them in order, leaves out what
// fails, does not fit or is in quarantine, and puts in front the statement of the root that results. It does so also
// when nothing is left: every block proves its result.
//
// When the mempool offers nothing it waits a little for a session (Options.Linger), and takes what CheckTx lets in
// meanwhile. CometBFT asks for a block at once after each that has changed the app hash, so that a header says the new
// one; without the wait that block would be empty, cost as much as the one before it, and a session that comes while it is
// made would wait for its end. With it, the commits of a user who goes on share one block each with the proof of the
// block before. It is a clock of this proposer's, which can only make its own proposal come later.
//
// For the same time at most it waits for more sessions when the block before held many: a block costs each node about as much as
// several sessions do, so that under load fewer and larger ones let everybody's commit be there sooner.
func (a *App) PrepareProposal(_ context.Context, req *abci.RequestPrepareProposal) (*abci.ResponsePrepareProposal, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.sequel(req.Height); err != nil {
		return nil, err
	}
	slot := Slot{Height: req.Height, Time: req.Time.UnixMilli()}
	offered := a.gather(req.Txs)
	ctx, cancel := limited(context.Background(), 2*a.watchdog, errProposalTime)
	defer cancel()
	d := a.draft(slot, req.MaxTxBytes)
	for _, tx := range offered {
		if err := a.consider(ctx, d, tx); err != nil {
			return nil, a.halt(err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	e, err := a.result(d.o, slot, d.sessions)
	if err != nil {
		return nil, err
	}
	txs := append([][]byte{wire.RootStatement{Height: slot.Height, Root: e.root}.Encode()}, d.txs...)
	e.id = blockID(slot, txs)
	a.remember(e)
	if len(a.proposals) >= maxExecuted {
		a.proposals = slices.Delete(a.proposals, 0, 1)
	}
	a.proposals = append(a.proposals, &proposal{id: e.id, sessions: e.sessions, refused: d.refused})
	return &abci.ResponsePrepareProposal{Txs: txs}, nil
}

// gather waits for sessions, at most for Linger: for one if the mempool offers none, and for as many as keep coming if the block
// before held many. It returns those that the mempool offers, and behind them what CheckTx, which does not take mu, let in meanwhile.
func (a *App) gather(offered [][]byte) [][]byte {
	enough, quiet := 1, a.linger
	if a.crowd >= crowded {
		enough, quiet = enoughSessions, a.linger/quietPart
	}
	if len(offered) >= enough || a.linger <= 0 {
		return offered
	}
	ctx, cancel := limited(context.Background(), a.linger, nil)
	defer cancel()
	return a.pool.wait(ctx, offered, enough, quiet)
}

// overlay is a fresh overlay on the last committed version, for the transactions of one block.
func (a *App) overlay() *state.Overlay {
	return state.NewOverlay(&framework{Reader: a.store.Latest(), read: map[string]record{}})
}

// framework reads the framework's records once: parameters, actors, keys and nodes are the same for most transactions of
// a block. The view under it never changes.
type framework struct {
	state.Reader
	read map[string]record
}

type record struct {
	value []byte
	ok    bool
}

func (f *framework) Get(key []byte) ([]byte, bool, error) {
	if !bytes.HasPrefix(key, []byte(ledger.Prefix)) {
		return f.Reader.Get(key)
	}
	r, known := f.read[string(key)]
	if !known {
		var err error
		if r.value, r.ok, err = f.Reader.Get(key); err != nil {
			return nil, false, err
		}
		f.read[string(key)] = r
	}
	return bytes.Clone(r.value), r.ok, nil // the caller owns what it gets
}

// draft is a proposal in the making.
type draft struct {
	slot       Slot
	o          *state.Overlay
	txs        [][]byte
	sessions   []Settled
	refused    map[wire.Digest]*refusal.Refusal
	room       int64 // bytes left
	operations uint64
	suspects   int
}

func (a *App) draft(slot Slot, maxBytes int64) *draft {
	statement := wire.RootStatement{Height: slot.Height}.Encode() // as long as the one to come: a root has one size
	return &draft{
		slot: slot, o: a.overlay(), refused: map[wire.Digest]*refusal.Refusal{},
		room: maxBytes - protoSize(statement),
	}
}

// consider takes a transaction into the draft, or leaves it out. An error is a fault of this node's state.
func (a *App) consider(ctx context.Context, d *draft, tx []byte) error {
	size := protoSize(tx)
	if size > d.room {
		return nil // a later block has room, unless it is oversized: then Check refuses it on its way in
	}
	hash := wire.Digest(sha256.Sum256(tx))
	if _, ok := a.ward.quarantined(hash, d.slot.Height); ok {
		return nil
	}
	suspect := a.ward.suspected(hash)
	if suspect && d.suspects > 0 || d.operations >= a.budget {
		return nil
	}
	eff, err := a.check(ctx, d.o, d.slot, tx, a.watchdog)
	if err != nil {
		r, ok := refusal.As(err)
		switch {
		case ok:
		case errors.Is(err, errProposalTime):
			return nil
		default:
			return err
		}
		a.logger.Info("left out of proposal", "height", d.slot.Height, "transaction", hash, "refusal", r)
		switch {
		case r.Code == refusal.StepTooLong || r.Code == refusal.Internal:
			a.quarantine(offence(tx, r, d.slot.Height))
		case r.Code == refusal.ResponseDiffers: // anything else the recheck finds out itself, on the state it is about
			d.refused[hash] = r
		}
		return nil
	}
	eff.Session.Index = len(d.txs) + 1
	d.txs = append(d.txs, tx)
	d.sessions = append(d.sessions, eff.Session)
	d.room -= size
	d.operations += eff.Operations
	if suspect {
		d.suspects++
	}
	return nil
}

// check is Check with a watchdog (0 for none), and for a mistake in our own code: a panic refuses the transaction.
// For then every validator that panics too REJECTs, none forks, and FinalizeBlock is never asked to.
func (a *App) check(ctx context.Context, o *state.Overlay, slot Slot, tx []byte, watchdog time.Duration) (Effects, error) {
	return a.checkBy(ctx, a.rules, o, slot, tx, watchdog)
}

func (a *App) checkBy(ctx context.Context, rules Rules, o *state.Overlay, slot Slot, tx []byte, watchdog time.Duration) (eff Effects, err error) {
	ctx, cancel := limited(ctx, watchdog, errSessionTime)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			a.logger.Error("panic while checking a transaction; this is a fault of Tandem", "panic", p, "transaction", wire.Digest(sha256.Sum256(tx)))
			eff, err = Effects{}, refusal.New(refusal.Internal, "the check panicked: %v", p)
		}
	}()
	return Check(ctx, rules, o, slot, tx)
}

// result stages an overlay on the last committed version.
func (a *App) result(o *state.Overlay, slot Slot, sessions []Settled) (*execution, error) {
	changes := o.Changes()
	staged, err := a.store.Stage(changes)
	if err != nil {
		return nil, a.halt(fmt.Errorf("layer1: staging block %d: %w", slot.Height, err))
	}
	return &execution{slot: slot, root: staged.Root(), staged: staged, changes: changes, sessions: sessions}, nil
}

// ProcessProposal replays a proposal and accepts it only if every response and the root are the same here. A proposal is
// never answered with an error for what it holds.
func (a *App) ProcessProposal(_ context.Context, req *abci.RequestProcessProposal) (*abci.ResponseProcessProposal, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.sequel(req.Height); err != nil {
		return nil, err
	}
	slot := Slot{Height: req.Height, Time: req.Time.UnixMilli()}
	id := blockID(slot, req.Txs)
	if a.recall(id) != nil {
		return accept, nil
	}
	ctx, cancel := limited(context.Background(), 4*a.watchdog, errProposalTime)
	defer cancel()
	e, bad, err := a.execute(ctx, slot, req.Txs, 2*a.watchdog)
	if err != nil {
		return nil, a.halt(err)
	}
	if bad != nil {
		a.logger.Warn("proposal rejected", "height", slot.Height, "proposer", fmt.Sprintf("%X", req.ProposerAddress), "index", bad.index, "refusal", bad.refusal)
		if err := a.blame(ctx, slot, req.Txs, bad, string(req.ProposerAddress)); err != nil {
			return nil, a.halt(err)
		}
		return reject, nil
	}
	e.id = id
	a.remember(e)
	return accept, nil
}

var (
	accept = &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_ACCEPT}
	reject = &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_REJECT}
)

// objection is why a block is not acceptable.
type objection struct {
	index   int // of the transaction; 0 for the root statement
	refusal *refusal.Refusal
	before  *state.Overlay // the state before the transaction; nil for the root statement
}

// execute replays a whole block on the last committed version. Either e, or an objection to the content, or an error of
// this node's state.
func (a *App) execute(ctx context.Context, slot Slot, txs [][]byte, watchdog time.Duration) (e *execution, bad *objection, err error) {
	if len(txs) == 0 {
		return nil, &objection{refusal: refusal.New(refusal.NonCanonical, "a block begins with a root statement, this one is empty")}, nil
	}
	stated, err := wire.DecodeRootStatement(txs[0])
	if err != nil {
		r, ok := refusal.As(err)
		if !ok {
			r = refusal.New(refusal.NonCanonical, "the root statement: %v", err)
		}
		return nil, &objection{refusal: r}, nil
	}
	if stated.Height != slot.Height {
		return nil, &objection{refusal: refusal.New(refusal.NonCanonical, "the root statement is for height %d, the block's is %d", stated.Height, slot.Height)}, nil
	}
	o := a.overlay()
	var sessions []Settled
	for i, tx := range txs[1:] {
		eff, err := a.check(ctx, o, slot, tx, watchdog)
		if err != nil {
			if r, ok := refusal.As(err); ok {
				return nil, &objection{index: i + 1, refusal: r, before: o}, nil
			}
			if errors.Is(err, errProposalTime) {
				return nil, &objection{refusal: refusal.New(refusal.Overloaded, "the proposal takes longer than this node allows")}, nil
			}
			return nil, nil, err
		}
		eff.Session.Index = i + 1
		sessions = append(sessions, eff.Session)
	}
	e, err = a.result(o, slot, sessions)
	if err != nil {
		return nil, nil, err
	}
	if e.root != stated.Root {
		r := refusal.New(refusal.ResponseDiffers, "the block leads to root %s, its proposer states %s", e.root, stated.Root).With("field", "root")
		return nil, &objection{refusal: r}, nil
	}
	return e, nil, nil
}

// FinalizeBlock gives the results of a decided block. It looks at no clock and at nothing but the state and the block.
// If this node cannot come to the result that more than two thirds of the validators have agreed on, its own state, or
// its program, is in doubt: it halts.
func (a *App) FinalizeBlock(_ context.Context, req *abci.RequestFinalizeBlock) (*abci.ResponseFinalizeBlock, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.sequel(req.Height); err != nil {
		return nil, err
	}
	slot := Slot{Height: req.Height, Time: req.Time.UnixMilli()}
	id := blockID(slot, req.Txs)
	e := a.recall(id)
	if e == nil {
		var bad *objection
		var err error
		if e, bad, err = a.execute(context.Background(), slot, req.Txs, 0); err != nil {
			return nil, a.halt(err)
		}
		if bad != nil {
			return nil, a.halt(fmt.Errorf("layer1: block %d was decided, but transaction %d does not replay here: %w; "+
				"this node's state or program differs from the other validators'", slot.Height, bad.index, bad.refusal))
		}
		e.id = id
	}
	a.pending = e
	res := &abci.ResponseFinalizeBlock{AppHash: e.root[:], TxResults: make([]*abci.ExecTxResult, len(req.Txs))}
	for i := range res.TxResults {
		res.TxResults[i] = &abci.ExecTxResult{}
	}
	return res, nil
}
