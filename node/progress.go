package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"tandem/internal/httpapi"
	"tandem/internal/refusal"
)

// progress knows how far the ledger is on this node and judges whether that is far enough to be given work.
type progress struct {
	patience time.Duration // no new block for so long means not ready: three heartbeats
	clock    func() time.Time

	mu      sync.Mutex
	height  int64         // newest committed block; guarded by mu, as all below
	time    int64         // its header's time, ms
	arrived time.Time     // when it was committed here, or when the node started
	moved   chan struct{} // closed and replaced at each block
	phase   string        // why the node is not ready whatever the ledger does; "" while it runs
	syncing func() bool   // true while the engine fetches blocks that others have; nil before it runs
	behind  func() int64  // blocks that peers have and this node has not; nil before it runs
	failure error         // the node has halted
}

func newProgress(patience time.Duration, clock func() time.Time) *progress {
	return &progress{patience: patience, clock: clock, arrived: clock(), moved: make(chan struct{}), phase: "the node is starting"}
}

// block records a committed block. Blocks come in order.
func (p *progress) block(height, blockTime int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.height, p.time, p.arrived = height, blockTime, p.clock()
	close(p.moved)
	p.moved = make(chan struct{})
}

// running marks the start: from now on readiness depends on the ledger.
func (p *progress) running(syncing func() bool, behind func() int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase, p.syncing, p.behind, p.arrived = "", syncing, behind, p.clock()
}

// stopping marks the end: not ready any more, so that a load balancer looks elsewhere.
func (p *progress) stopping() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase, p.syncing, p.behind = "the node is shutting down", nil, nil
}

func (p *progress) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure == nil {
		p.failure = err
	}
}

// now returns the newest block's height and time (ms).
func (p *progress) now() (height, blockTime int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.height, p.time
}

// wait returns nil once block height is committed here; a height-not-reached refusal at ctx's end.
func (p *progress) wait(ctx context.Context, height int64) error {
	for {
		p.mu.Lock()
		now, moved := p.height, p.moved
		p.mu.Unlock()
		if now >= height {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return refusal.New("height-not-reached", "height %d is asked for, this node is at %d", height, now).With("height", now)
		}
	}
}

// health implements the judgement behind /readyz: the node runs, it is not catching up, its peers are not far ahead, and
// blocks keep coming. An idle ledger still makes a block at every heartbeat, so that silence means something.
func (p *progress) health() httpapi.Health {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock()
	h := httpapi.Health{Live: p.failure == nil, Height: p.height}
	if p.time > 0 {
		h.LagMillis = max(now.UnixMilli()-p.time, 0)
	}
	no := func(format string, args ...any) { h.Reasons = append(h.Reasons, fmt.Sprintf(format, args...)) }
	silent := now.Sub(p.arrived)
	switch {
	case p.failure != nil:
		no("%v", p.failure)
	case p.phase != "":
		no("%s", p.phase)
	case p.syncing():
		no("the node is fetching blocks that the network has made without it")
	case p.height == 0:
		no("the ledger has no block yet")
	case silent > p.patience:
		no("no new block for %s: too few validators can be reached", silent.Round(time.Second))
	default:
		h.Consensus = true
		if n := p.behind(); n > maxBehind {
			no("%d blocks behind the network", n)
		}
	}
	h.Ready = len(h.Reasons) == 0
	return h
}

// maxBehind is how many blocks a node may be behind its peers and still be given work. A block or two is normal: peers
// hear of a block at different moments.
const maxBehind = 5
