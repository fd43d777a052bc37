package node

import (
	"context"
	"sync"

	"tandem/internal/layer1"
	"tandem/internal/layer2"
)

// blockQueue hands block events from the consensus goroutine, which must not wait, to the deliver goroutine, in order.
//
// It is unbounded on purpose: consensus pushes while it holds the mempool's lock, and what consumes may be waiting for that
// very lock in a submit; a bound would let the two wait for each other. An event is small beside its block.
type blockQueue struct {
	mu     sync.Mutex
	blocks []layer1.Block // guarded by mu
	wake   chan struct{}  // holds one token when there may be something to do
}

func newBlockQueue() *blockQueue { return &blockQueue{wake: make(chan struct{}, 1)} }

func (q *blockQueue) push(b layer1.Block) {
	q.mu.Lock()
	q.blocks = append(q.blocks, b)
	q.mu.Unlock()
	q.token()
}

func (q *blockQueue) token() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take waits for events and returns all that are there; ok is false at ctx's end.
func (q *blockQueue) take(ctx context.Context) (blocks []layer1.Block, ok bool) {
	for ctx.Err() == nil {
		q.mu.Lock()
		blocks := q.blocks
		q.blocks = nil
		q.mu.Unlock()
		if len(blocks) > 0 {
			return blocks, true
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
		}
	}
	return nil, false
}

// deliver gives each block's event to the index and to the session engine, in block order. Events of blocks that the
// engine had seen when it opened (the handshake's) are not for it.
func (n *Node) deliver(ctx context.Context, p *parts) error {
	var from int64
	if p.engine != nil {
		from = p.engine.Height()
	}
	for {
		blocks, ok := p.queue.take(ctx)
		if !ok {
			return nil
		}
		for _, b := range blocks {
			if err := p.index.catchUp(b.Height); err != nil {
				return err
			}
			p.tellBlock(b)
			if p.engine != nil && b.Height > from {
				p.engine.OnBlock(forLayer2(b))
			}
		}
	}
}

// forLayer2 says in Layer 2's words what a block has settled: the two layers do not know each other.
func forLayer2(b layer1.Block) layer2.Block {
	out := layer2.Block{Height: b.Height, Time: b.Time, Changes: b.Changes}
	for _, s := range b.Sessions {
		out.Sessions = append(out.Sessions, layer2.Settled{
			ID: s.ID, Transaction: s.Transaction, Actor: s.Actor, Keys: s.Keys, Part: s.Part, Steps: s.Steps, Head: s.Head, Final: s.Final,
		})
	}
	return out
}
