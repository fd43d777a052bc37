package layer1

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// pool counts the transactions that CometBFT's mempool holds for each actor, so that one actor cannot fill it. The
// mempool does not tell the application what it drops; what it still holds is rechecked after each block, so a
// transaction that was not seen since the block before the last is gone. It is safe for concurrent use.
type pool struct {
	limit int // for one actor

	arrived chan struct{} // holds a token when fresh may have become longer

	mu     sync.Mutex
	txs    map[wire.Digest]*waiting // guarded by mu
	counts map[string]int           // by actor; guarded by mu
	fresh  [][]byte                 // transactions counted since the last block, oldest first; guarded by mu
}

type waiting struct {
	actor   string
	seen    int64            // height of the last block when it was checked last
	refused *refusal.Refusal // in an own Prepare, on the state that was then decided; nil for most
}

func newPool(limit int) *pool {
	return &pool{limit: limit, arrived: make(chan struct{}, 1), txs: map[wire.Digest]*waiting{}, counts: map[string]int{}}
}

// add counts a transaction, with the hash tx, for its actor; fresh is false if it was counted. Refusal: mempool-full.
func (p *pool) add(tx wire.Digest, actor string, height int64, bytes []byte) (fresh bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t, ok := p.txs[tx]; ok {
		t.seen = height
		return false, nil
	}
	if p.counts[actor] >= p.limit {
		return false, refusal.New(refusal.MempoolFull, "actor %s has %d sessions waiting for a block here, the most allowed", actor, p.limit)
	}
	p.txs[tx] = &waiting{actor: actor, seen: height}
	p.counts[actor]++
	p.fresh = append(p.fresh, bytes)
	select {
	case p.arrived <- struct{}{}:
	default:
	}
	return true, nil
}

// wait returns offered and the transactions counted since the last block that are not in it, as soon as there are enough
// together, or none has come for the time quiet, or ctx ends.
func (p *pool) wait(ctx context.Context, offered [][]byte, enough int, quiet time.Duration) [][]byte {
	known := make(map[wire.Digest]bool, len(offered))
	for _, tx := range offered {
		known[wire.Sum(tx)] = true
	}
	all, looked := slices.Clone(offered), 0
	for {
		p.mu.Lock()
		fresh := p.fresh[looked:]
		p.mu.Unlock()
		looked += len(fresh)
		for _, tx := range fresh {
			if !known[wire.Sum(tx)] {
				all = append(all, tx)
			}
		}
		if len(all) >= enough || !p.more(ctx, quiet) {
			return all
		}
	}
}

// more waits for a transaction to be counted; false if none was in time.
func (p *pool) more(ctx context.Context, quiet time.Duration) bool {
	ctx, cancel := limited(ctx, quiet, nil)
	defer cancel()
	select {
	case <-p.arrived:
		return true
	case <-ctx.Done():
		return false
	}
}

// touch notes that a recheck met the transaction, which so is in the mempool, and returns why it was refused in an own
// proposal, if it was.
func (p *pool) touch(tx wire.Digest, actor string, height int64) *refusal.Refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, ok := p.txs[tx]
	if !ok { // forgotten, but there: count it, over the limit too
		t = &waiting{actor: actor}
		p.txs[tx] = t
		p.counts[actor]++
	}
	t.seen = height
	return t.refused
}

// refuse marks transactions that the recheck is to evict.
func (p *pool) refuse(refused map[wire.Digest]*refusal.Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for tx, r := range refused {
		if t, ok := p.txs[tx]; ok {
			t.refused = r
		}
	}
}

// remove forgets transactions that left the mempool.
func (p *pool) remove(txs ...wire.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, tx := range txs {
		if t, ok := p.txs[tx]; ok {
			delete(p.txs, tx)
			p.release(t)
		}
	}
}

// committed forgets the transactions of a block, and those that were not rechecked after the block before it.
func (p *pool) committed(height int64, txs []wire.Digest) {
	p.remove(txs...)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fresh = nil // CometBFT holds its mempool while it commits: what was counted before is what it offers next
	maps.DeleteFunc(p.txs, func(_ wire.Digest, t *waiting) bool {
		if t.seen >= height-1 {
			return false
		}
		p.release(t)
		return true
	})
}

func (p *pool) release(t *waiting) {
	if p.counts[t.actor]--; p.counts[t.actor] <= 0 {
		delete(p.counts, t.actor)
	}
}
