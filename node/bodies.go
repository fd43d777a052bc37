package node

import (
	"context"
	"errors"
	"fmt"

	comettypes "github.com/cometbft/cometbft/types"

	"tandem/internal/exec"
	"tandem/internal/layer1"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// committedBodies returns the response bodies of a session in block b, at place index: the ledger holds their digests
// only. A node that did not originate the session makes them again as every validator did, by replaying the block up to the
// session on the state before it. So a receipt is not lost with the Layer 2 node that served the session, as long as one
// node keeps the state before its block ([StateConfig.Keep]).
//
// A replay may cost as much as a block; at most one runs at a time.
func (c *chain) committedBodies(ctx context.Context, b *comettypes.Block, index int) ([][]byte, error) {
	select {
	case c.replaying <- struct{}{}:
		defer func() { <-c.replaying }()
	case <-ctx.Done():
		return nil, refusal.New(refusal.Overloaded, "the node is replaying other blocks for receipts")
	}
	view, err := c.parts.store.At(b.Height - 1)
	if errors.Is(err, state.ErrPruned) || errors.Is(err, state.ErrNoVersion) {
		return nil, refusal.New(refusal.SessionNotFound,
			"the session is in block %d, but was served by another node, and this one no longer keeps the state to replay it: ask the node that served it", b.Height)
	}
	if err != nil {
		return nil, err
	}
	o := state.NewOverlay(view)
	rules, slot := layer1.Rules{Runner: c.node.runner}, layer1.Slot{Height: b.Height, Time: b.Time.UnixMilli()}
	for i, tx := range b.Txs[:index] {
		if kind, err := wire.Kind(tx); err != nil || kind != wire.KindSession {
			continue // the root statement
		}
		if _, err := layer1.Check(ctx, rules, o, slot, tx); err != nil {
			return nil, fmt.Errorf("replaying block %d, transaction %d: %w", b.Height, i, err)
		}
	}
	s, err := wire.DecodeSessionCommit(b.Txs[index])
	if err != nil {
		return nil, fmt.Errorf("block %d, transaction %d: %w", b.Height, index, err)
	}
	actor, err := ledger.ActorOf(o, s.Open.Key)
	if err != nil {
		return nil, fmt.Errorf("block %d, transaction %d: %w", b.Height, index, err)
	}
	bodies := make([][]byte, 0, len(s.Transactions))
	for i := range s.Transactions {
		t := &s.Transactions[i]
		res, err := c.node.runner.Run(ctx, o, exec.Step{
			Request: &t.Request, Actor: actor, Session: sessionID(&s), Sequence: t.Sequence, Time: t.Time,
		})
		if err == nil && wire.Sum(res.Body) != t.Response.Body {
			err = errors.New("the replay gives another body than the ledger records")
		}
		if err != nil {
			return nil, fmt.Errorf("replaying block %d, transaction %d, step %d: %w", b.Height, index, t.Sequence, err)
		}
		bodies = append(bodies, res.Body)
	}
	return bodies, nil
}
