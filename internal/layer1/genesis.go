package layer1

import (
	"context"
	"fmt"
	"iter"

	abci "github.com/cometbft/cometbft/abci/types"

	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/state"
)

// InitChain applies the genesis: its app_state gives the ledger's version 0, whose root is the app hash of the first
// block. It sets nothing else: validators and consensus parameters are those in the genesis file.
//
// CometBFT calls it at every start until the first block is committed. Then the state is there already, and the genesis
// must lead to the same root; another one in the same home is an error that says so.
//
// An error means that this node cannot start with this genesis: a malformed file, or another service, version or
// fingerprint than this program's.
func (a *App) InitChain(_ context.Context, req *abci.RequestInitChain) (*abci.ResponseInitChain, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if req.InitialHeight > 1 {
		return nil, refusal.New(refusal.GenesisInvalid, "initial_height is %d; a ledger begins at 1", req.InitialHeight)
	}
	g, err := ledger.ParseGenesis(req.AppStateBytes)
	if err != nil {
		return nil, fmt.Errorf("layer1: app_state of the genesis file: %w", err)
	}
	g.ChainID = req.ChainId
	p := g.Tandem.Parameters
	if own := a.rules.Runner.Fingerprint(); p.Fingerprint != own {
		return nil, refusal.New(refusal.WrongFingerprint,
			"the genesis file is for service %q version %q with fingerprint %s; this program is service %q version %q with fingerprint %s: "+
				"run the build that the network runs, or make a new network",
			p.ServiceName, p.ServiceVersion, p.Fingerprint, a.service.Name, a.service.Version, own).
			With("genesis", p.Fingerprint.String()).With("program", own.String())
	}
	o := state.NewOverlay(nothing{})
	if err := ledger.Apply(g, a.service, o); err != nil {
		return nil, fmt.Errorf("layer1: genesis: %w", err)
	}
	staged, err := a.store.Stage(o.Changes())
	if err != nil {
		return nil, a.halt(fmt.Errorf("layer1: genesis: %w", err))
	}
	root := staged.Root()
	if height, stored, _ := a.store.Version(); !a.store.Fresh() {
		if height != 0 || stored != root {
			return nil, refusal.New(refusal.GenesisInvalid,
				"this home holds the state of another ledger, at height %d with root %s, and the genesis file gives root %s: "+
					"use the genesis file the home was made with, or an empty home", height, stored, root)
		}
		return &abci.ResponseInitChain{AppHash: root[:]}, nil
	}
	if err := a.store.Commit(0, req.Time.UnixMilli(), staged); err != nil {
		return nil, a.halt(fmt.Errorf("layer1: genesis: %w", err))
	}
	a.logger.Info("genesis applied", "chain", g.ChainID, "root", root)
	return &abci.ResponseInitChain{AppHash: root[:]}, nil
}

// nothing is the empty state that genesis is applied to.
type nothing struct{}

func (nothing) Get([]byte) ([]byte, bool, error) { return nil, false, nil }

func (nothing) Scan(_, _ []byte) iter.Seq2[state.Entry, error] {
	return func(func(state.Entry, error) bool) {}
}
