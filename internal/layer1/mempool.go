package layer1

import (
	"context"
	"errors"
	"fmt"

	abci "github.com/cometbft/cometbft/abci/types"

	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Codespace marks CheckTx and Query codes as HTTP statuses of the refusal catalogue.
const Codespace = "tandem"

// CheckTx decides whether a transaction may wait in the mempool: everything Check looks at but the replay, on the last
// committed state, then quarantine and the actor's share. A recheck evicts what has been settled, superseded, expired or
// revoked meanwhile, what was quarantined, and what failed in an own proposal that was decided.
//
// A refusal is Code = its HTTP status, Codespace "tandem", Log = "code: detail", Data = its problem document; see
// CheckTxRefusal. The error is always nil: CometBFT panics on one.
func (a *App) CheckTx(_ context.Context, req *abci.RequestCheckTx) (*abci.ResponseCheckTx, error) {
	err := a.admit(req.Tx, req.Type == abci.CheckTxType_Recheck)
	for errors.Is(err, state.ErrPruned) { // a block was committed meanwhile, and only the newest are kept
		err = a.admit(req.Tx, req.Type == abci.CheckTxType_Recheck)
	}
	if err == nil {
		return &abci.ResponseCheckTx{}, nil
	}
	r, ok := refusal.As(err)
	if errors.Is(err, state.ErrClosed) {
		r, ok = refusal.New(refusal.ShuttingDown, "the node is shutting down"), true
	}
	if !ok {
		_ = a.halt(fmt.Errorf("layer1: CheckTx: %w", err))
		r = refusal.New(refusal.Layer1Unavailable, "this node's state is in doubt")
	}
	status, problem := r.Problem()
	return &abci.ResponseCheckTx{Code: uint32(status), Codespace: Codespace, Log: r.Error(), Data: problem}, nil
}

func (a *App) admit(tx []byte, recheck bool) error {
	if a.store.Fresh() {
		return refusal.New(refusal.Layer1Unavailable, "the ledger has not begun yet")
	}
	height, _, blockTime := a.store.Version()
	hash := wire.Sum(tx)
	// The next block's time is not known; it is not before the last one's.
	in, err := inspect(a.rules, a.store.Latest(), Slot{Height: height + 1, Time: blockTime}, tx, true)
	if err == nil {
		if q, ok := a.ward.quarantined(hash, height+1); ok {
			err = q.refusal()
		}
	}
	switch {
	case err != nil:
	case recheck:
		if r := a.pool.touch(hash, in.actor.ID, height); r != nil {
			err = r
		}
	default:
		fresh, err := a.pool.add(hash, in.actor.ID, height, tx)
		if fresh {
			a.admitted(tx)
		}
		return err
	}
	if err != nil && recheck {
		a.pool.remove(hash)
	}
	return err
}

// CheckTxRefusal is the refusal in a response of CheckTx, nil when the transaction was accepted.
func CheckTxRefusal(res *abci.ResponseCheckTx) *refusal.Refusal {
	if res.Code == abci.CodeTypeOK {
		return nil
	}
	if r, ok := refusal.ParseProblem(res.Data); ok && res.Codespace == Codespace {
		return r
	}
	return refusal.New(refusal.Internal, "CheckTx refused with code %d: %s", res.Code, res.Log)
}
