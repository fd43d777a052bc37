package layer1

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/proto/tendermint/crypto"

	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// ProofType is the type of the proof operation in an answer of Query: an ICS-23 commitment proof under ics23.SmtSpec.
const ProofType = "ics23:smt"

// Query reads committed state for ABCI clients:
//
//	/root           the state root; Value has 32 bytes
//	/state/HEX      the record under a raw key, in hex
//	/session/ID     the settled record of a session
//
// Height 0 asks for the last block. With Prove, ProofOps holds one ICS-23 proof of presence or absence, against the root
// that the header of the block after Height states as app hash. An absent record has code 404, and a proof all the same.
func (a *App) Query(_ context.Context, req *abci.RequestQuery) (*abci.ResponseQuery, error) {
	res, err := a.query(req)
	if err == nil {
		return res, nil
	}
	r, ok := refusal.As(err)
	switch {
	case ok:
	case errors.Is(err, state.ErrNoVersion), errors.Is(err, state.ErrPruned):
		r = refusal.New(refusal.BlockNotFound, "no state of height %d here: %v", req.Height, err)
	case errors.Is(err, state.ErrDamaged):
		_ = a.halt(err)
		fallthrough
	default:
		r = refusal.New(refusal.Internal, "%v", err)
	}
	return &abci.ResponseQuery{Code: uint32(r.Status()), Codespace: Codespace, Log: r.Error()}, nil
}

func (a *App) query(req *abci.RequestQuery) (*abci.ResponseQuery, error) {
	height, root, _ := a.store.Version()
	if a.store.Fresh() {
		return nil, refusal.New(refusal.Layer1Unavailable, "the ledger has not begun yet")
	}
	if req.Path == "/root" {
		if req.Height != 0 && req.Height != height {
			return nil, refusal.New(refusal.BlockNotFound, "only the last root is at hand, of height %d; older ones are in the block headers", height)
		}
		return &abci.ResponseQuery{Value: root[:], Height: height}, nil
	}
	var key []byte
	if text, ok := strings.CutPrefix(req.Path, "/state/"); ok {
		k, err := hex.DecodeString(text)
		if err != nil || len(k) == 0 || len(k) > state.MaxKey {
			return nil, refusal.New(refusal.BadRequest, "/state/ takes a key of 1 to %d bytes in hex", state.MaxKey)
		}
		key = k
	} else if text, ok := strings.CutPrefix(req.Path, "/session/"); ok {
		id, err := wire.ParseSessionID(text)
		if err != nil {
			return nil, err
		}
		key = ledger.SettledKey(id)
	} else {
		return nil, refusal.New(refusal.NotFound, "no query %.60q; there are /root, /state/HEX and /session/ID", req.Path)
	}
	if req.Height != 0 {
		height = req.Height
	}
	return a.record(height, key, req.Prove)
}

func (a *App) record(height int64, key []byte, prove bool) (*abci.ResponseQuery, error) {
	view, err := a.store.At(height)
	if err != nil {
		return nil, err
	}
	value, found, err := view.Get(key)
	if err != nil {
		return nil, err
	}
	res := &abci.ResponseQuery{Key: key, Value: value, Height: height}
	if !found {
		r := refusal.New(refusal.NotFound, "no record under this key")
		res.Code, res.Codespace, res.Log = uint32(r.Status()), Codespace, r.Error()
	}
	if !prove {
		return res, nil
	}
	proof, err := a.store.Prove(height, key)
	if errors.Is(err, state.ErrEmptyTree) {
		return res, nil // the zero root is the proof
	}
	if err != nil {
		return nil, err
	}
	b, err := proof.Marshal()
	if err != nil {
		return nil, err
	}
	res.ProofOps = &crypto.ProofOps{Ops: []crypto.ProofOp{{Type: ProofType, Key: key, Data: b}}}
	return res, nil
}
