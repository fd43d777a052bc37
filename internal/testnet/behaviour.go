package testnet

import (
	"context"
	"errors"
	"fmt"

	abcitypes "github.com/cometbft/cometbft/abci/types"
	cometproto "github.com/cometbft/cometbft/proto/tendermint/types"
	comettypes "github.com/cometbft/cometbft/types"

	"tandem/internal/wire"
	"tandem/node"
)

// Behaviour makes a node lie, by wrapping what it is made of from outside. The zero Behaviour is honest.
type Behaviour struct {
	Name        string
	Application func(abcitypes.Application) abcitypes.Application
	Validator   func(comettypes.PrivValidator) comettypes.PrivValidator
}

func (b Behaviour) options() []node.Option {
	var opts []node.Option
	if b.Application != nil {
		opts = append(opts, node.WithApplication(b.Application))
	}
	if b.Validator != nil {
		opts = append(opts, node.WithValidator(b.Validator))
	}
	return opts
}

// WrongRoot proposes blocks that state another root than they result in.
func WrongRoot() Behaviour {
	return Behaviour{Name: "wrong root", Application: func(app abcitypes.Application) abcitypes.Application {
		return &liar{Application: app, propose: func(txs [][]byte) [][]byte {
			for i, tx := range txs {
				if s, err := wire.DecodeRootStatement(tx); err == nil {
					s.Root[0] ^= 1
					txs[i] = s.Encode()
				}
			}
			return txs
		}}
	}}
}

// Inject proposes, unchecked, the transactions that next returns beside the honest ones, and votes for its own proposals.
// The stated root stays what it would be without them.
func Inject(next func() [][]byte) Behaviour {
	return Behaviour{Name: "inject", Application: func(app abcitypes.Application) abcitypes.Application {
		return &liar{Application: app, propose: func(txs [][]byte) [][]byte { return append(txs, next()...) }}
	}}
}

// RejectAll votes against every proposal, its own included.
func RejectAll() Behaviour {
	return Behaviour{Name: "reject all", Application: func(app abcitypes.Application) abcitypes.Application {
		return &liar{Application: app, reject: true}
	}}
}

// AcceptAll takes every transaction into its mempool and gossips it, and votes for every proposal. What it takes up it
// proposes without having looked.
func AcceptAll() Behaviour {
	return Behaviour{Name: "accept all", Application: func(app abcitypes.Application) abcitypes.Application {
		return &liar{Application: app, accept: true}
	}}
}

// Silent neither proposes nor votes.
func Silent() Behaviour {
	return Behaviour{Name: "silent", Validator: func(v comettypes.PrivValidator) comettypes.PrivValidator { return mute{v} }}
}

// Failing makes the node's own Layer 1 application panic when it executes a block of at least this height: what a bug in
// the engine or the application would look like. CometBFT answers it with a consensus failure.
func Failing(height int64) Behaviour {
	return Behaviour{Name: "failing", Application: func(app abcitypes.Application) abcitypes.Application {
		return &liar{Application: app, failAt: height}
	}}
}

// liar is an application that lies in one way and is honest otherwise.
type liar struct {
	abcitypes.Application
	propose        func(txs [][]byte) [][]byte
	reject, accept bool
	failAt         int64
}

func (l *liar) PrepareProposal(ctx context.Context, r *abcitypes.RequestPrepareProposal) (*abcitypes.ResponsePrepareProposal, error) {
	res, err := l.Application.PrepareProposal(ctx, r)
	if err == nil && l.propose != nil {
		res.Txs = l.propose(res.Txs)
	}
	return res, err
}

func (l *liar) ProcessProposal(ctx context.Context, r *abcitypes.RequestProcessProposal) (*abcitypes.ResponseProcessProposal, error) {
	switch {
	case l.reject:
		return &abcitypes.ResponseProcessProposal{Status: abcitypes.ResponseProcessProposal_REJECT}, nil
	case l.accept, l.propose != nil:
		// The honest verdict is computed, so that the application is where it expects to be, and not given.
		if _, err := l.Application.ProcessProposal(ctx, r); err != nil {
			return nil, err
		}
		return &abcitypes.ResponseProcessProposal{Status: abcitypes.ResponseProcessProposal_ACCEPT}, nil
	}
	return l.Application.ProcessProposal(ctx, r)
}

func (l *liar) CheckTx(ctx context.Context, r *abcitypes.RequestCheckTx) (*abcitypes.ResponseCheckTx, error) {
	if l.accept {
		return &abcitypes.ResponseCheckTx{}, nil
	}
	return l.Application.CheckTx(ctx, r)
}

func (l *liar) FinalizeBlock(ctx context.Context, r *abcitypes.RequestFinalizeBlock) (*abcitypes.ResponseFinalizeBlock, error) {
	if l.failAt > 0 && r.Height >= l.failAt {
		panic(fmt.Sprintf("testnet: this node fails at height %d", l.failAt))
	}
	return l.Application.FinalizeBlock(ctx, r)
}

// mute signs nothing.
type mute struct{ comettypes.PrivValidator }

var errMute = errors.New("testnet: this validator is silent")

func (mute) SignVote(string, *cometproto.Vote) error         { return errMute }
func (mute) SignProposal(string, *cometproto.Proposal) error { return errMute }
