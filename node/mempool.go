package node

import (
	"context"
	"errors"

	abcitypes "github.com/cometbft/cometbft/abci/types"
	cometmempool "github.com/cometbft/cometbft/mempool"
	"github.com/cometbft/cometbft/p2p"
	mempoolproto "github.com/cometbft/cometbft/proto/tendermint/mempool"

	"tandem/internal/layer1"
	"tandem/internal/refusal"
)

// mempoolInfo marks a transaction as this node's own: nobody sent it, so it is sent to every peer.
var mempoolInfo = cometmempool.TxInfo{SenderID: cometmempool.UnknownPeerID}

// submit puts tx into this node's mempool, from where it is gossiped to all peers. It returns nil when the mempool has
// taken it or had it already, a refusal when CheckTx refuses it, overloaded when the mempool is full.
//
// The engine sends each peer a transaction once, and a peer that is just catching up throws away what it gets. So a
// transaction that was gossiped while the validators were starting would lie in this mempool for ever. Whoever submits
// again therefore has it sent to every peer again; those that have it drop it by its hash.
func (c *consensus) submit(ctx context.Context, tx []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var verdict *abcitypes.ResponseCheckTx
	err := c.node.Mempool().CheckTx(tx, func(r *abcitypes.ResponseCheckTx) { verdict = r }, mempoolInfo)
	var full cometmempool.ErrMempoolIsFull
	var large cometmempool.ErrTxTooLarge
	switch {
	case errors.Is(err, cometmempool.ErrTxInCache):
		c.send(tx)
		return nil
	case errors.As(err, &full), errors.Is(err, cometmempool.ErrRecheckFull):
		return refusal.New("overloaded", "the mempool is full: %v", err)
	case errors.As(err, &large):
		return refusal.New("body-too-large", "the transaction has %d bytes, %d are allowed", large.Actual, large.Max)
	case err != nil:
		return refusal.New("layer1-unavailable", "the mempool does not take the transaction: %v", err)
	}
	// An application in the same process answers before CheckTx returns.
	if verdict != nil {
		if r := layer1.CheckTxRefusal(verdict); r != nil {
			return r
		}
	}
	return nil
}

// send gives tx to every connected peer, without waiting: who has a full queue is sent it the next time.
func (c *consensus) send(tx []byte) {
	c.node.Switch().Peers().ForEach(func(peer p2p.Peer) {
		peer.TrySend(p2p.Envelope{ChannelID: cometmempool.MempoolChannel, Message: &mempoolproto.Txs{Txs: [][]byte{tx}}})
	})
}
