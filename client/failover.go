package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// defaultHedge is how long one node is waited for before another is asked too, if answers do not take long anyway.
const defaultHedge = 700 * time.Millisecond

// longestHedge bounds what slow answers can make of it.
const longestHedge = 1800 * time.Millisecond

// pace is how long answers take, as TCP measures round trips (RFC 6298): the smoothed time and its mean deviation. Where all nodes
// are slow because there is too much to do, asking another one as well is even more to do.
type pace struct {
	mu                sync.Mutex
	smooth, deviation time.Duration
}

func (p *pace) took(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.smooth == 0 {
		p.smooth, p.deviation = d, d/2
		return
	}
	p.deviation += ((d - p.smooth).Abs() - p.deviation) / 4
	p.smooth += (d - p.smooth) / 8
}

// hedge returns how long to wait for an answer before asking another node: least, or more where answers take longer.
func (p *pace) hedge(least time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(least, min(p.smooth+4*p.deviation, longestHedge))
}

// exchange sends a call until a node gives an answer that decides something: first to the node that answered last, to the
// next one as soon as that fails, and to the next one as well when it has said nothing for a while. The first answer
// that decides wins, and its node is the one to stay with. An outage (503 and the like) or a broken connection decides
// nothing: such a node is asked again after a pause that grows, for as long as ctx and the client's patience last. A node that
// does not know the session, or not all of it, is given the transcript and asked once more. If nothing better came, the
// last outage is the error, or *UnreachableError.
func (c *Client) exchange(ctx context.Context, what call) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	urls := c.nodes.inOrder()
	r := &round{c: c, what: what, results: make(chan result, len(urls)), hedge: c.pace.hedge(c.hedge)}
	if what.waits() {
		r.hedge *= 2 // a block takes its time
	}
	for _, url := range urls {
		r.nodes = append(r.nodes, &asked{url: url, backoff: firstBackoff})
	}
	rep, err := r.run(ctx)
	if err == nil {
		c.nodes.stay(rep.url)
	}
	return rep, err
}

// round is one exchange: who was asked, and what became of it. It belongs to the goroutine that runs it; each attempt is a
// goroutine of its own, ends with the exchange's context, and sends one result.
type round struct {
	c        *Client
	what     call
	hedge    time.Duration
	nodes    []*asked
	results  chan result
	flying   int
	attempts int
	last     error // what the last attempt that decided nothing came to
}

// asked is one node in a round.
type asked struct {
	url     string
	flying  bool
	since   time.Time // flying
	tried   bool
	ready   time.Time // not to be asked before
	backoff time.Duration
	short   bool   // it has answered that it has not got as far as the call asks
	failed  bool   // it could not be reached, at least once
	refusal *reply // it does not know the session, even with the transcript
}

// result is what one attempt came to.
type result struct {
	node  *asked
	reply *reply
	err   error
}

func (r *round) run(ctx context.Context) (*reply, error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	due := true // another node is to be asked
	for {
		wait := r.hedge
		if due {
			var node *asked
			if node, wait = r.next(); node != nil {
				r.launch(ctx, node)
				due, wait = false, r.hedge
			} else if rep := r.unknown(); rep != nil && r.flying == 0 {
				return rep, nil // everybody was asked
			}
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil, r.gaveUp(ctx.Err())
		case res := <-r.results:
			if rep, err := r.judge(ctx, res); rep != nil || err != nil {
				return rep, err
			}
			due = true
		case <-timer.C:
			if rep := r.unknown(); rep != nil && due && r.flying > 0 {
				return rep, nil // who could know better says nothing
			}
			due = true
		}
	}
}

// next returns the node to ask now, or how long to wait until there may be one.
func (r *round) next() (*asked, time.Duration) {
	now, wait := time.Now(), r.hedge
	for _, n := range r.nodes {
		if n.flying || n.refusal != nil {
			continue
		}
		if !n.ready.After(now) {
			return n, 0
		}
		wait = min(wait, n.ready.Sub(now))
	}
	return nil, wait
}

// launch asks a node.
func (r *round) launch(ctx context.Context, n *asked) {
	n.flying, n.tried, n.since = true, true, time.Now()
	r.flying++
	r.attempts++
	what := r.what // which may change meanwhile
	go func() {
		rep, err := r.c.visit(ctx, n.url, what)
		r.results <- result{node: n, reply: rep, err: err} // has room for every node
	}()
}

// judge takes in a result. It returns a reply that decides, an error that ends the exchange, or neither.
func (r *round) judge(ctx context.Context, res result) (*reply, error) {
	n := res.node
	n.flying = false
	r.flying--
	var pause time.Duration
	switch {
	case res.err != nil && !retriable(res.err):
		return nil, res.err
	case res.err != nil && ctx.Err() != nil:
		return nil, r.gaveUp(ctx.Err())
	case res.err != nil:
		r.last = &UnreachableError{Attempts: r.attempts, Err: res.err}
		n.failed = true
	default:
		p := res.reply.problem()
		switch {
		case p == nil && !res.reply.outage():
			if !r.what.waits() {
				r.c.pace.took(time.Since(n.since))
			}
			return res.reply, nil
		case p == nil:
			r.last = &UnreachableError{Attempts: r.attempts, Err: fmt.Errorf("%s answered %d", n.url, res.reply.status)}
		case p.Outage():
			r.last = p
			r.short(n, p)
		case r.what.behind(p):
			r.last, n.refusal = p, res.reply
			return nil, nil
		default:
			return res.reply, nil
		}
		if pause = res.reply.pause(); pause > 0 {
			pause += rand.N(pause) // or all who were shed together come back together
		}
	}
	n.ready = time.Now().Add(max(pause, n.backoff/2+rand.N(n.backoff/2)))
	n.backoff = min(2*n.backoff, lastBackoff)
	return nil, nil
}

// unknown returns the refusal of a node that does not know the session, once every node has been asked.
func (r *round) unknown() *reply {
	for _, n := range r.nodes {
		if !n.tried {
			return nil
		}
	}
	for _, n := range r.nodes {
		if n.refusal != nil {
			return n.refusal
		}
	}
	return nil
}

// gaveUp is the error when there is no more time. What a node said tells more than how the wait ended.
func (r *round) gaveUp(err error) error {
	if r.last == nil {
		r.last = &UnreachableError{Attempts: r.attempts, Err: errors.New("no answer yet")}
	}
	return fmt.Errorf("%w (%w)", r.last, err)
}

// behind reports whether a refusal says that the node has not got what others may have, or what the transcript can give it.
func (c call) behind(p *Problem) bool {
	switch refusal.Code(p.Code) {
	case refusal.SessionNotFound:
		return true
	case refusal.TranscriptMissing, refusal.PositionTaken, refusal.WrongSequence, refusal.WrongTranscript:
		return c.signed != nil
	case refusal.NotCommitted, refusal.BlockNotFound, refusal.TransactionNotFound, refusal.NoEvidence:
		return c.signed == nil
	}
	return false
}

// waits reports whether a node may take its time over the call: until a block.
func (c call) waits() bool { return c.signed != nil && c.signed.Tag == httpsig.TagCommit && !c.async }

// visit asks one node. If it does not know the session, or not all of it, it is given the transcript and asked again: the same
// signed bytes.
func (c *Client) visit(ctx context.Context, url string, what call) (*reply, error) {
	rep, err := c.attempt(ctx, url, what)
	if err != nil || what.transcript == nil {
		return rep, err
	}
	if p := rep.problem(); p == nil || !what.behind(p) {
		return rep, nil
	}
	file, ok := what.transcript()
	if !ok {
		return rep, nil
	}
	up, err := c.attempt(ctx, url, call{
		method: http.MethodPut, target: "/tandem/v1/sessions/" + what.session.String(), body: file, contentType: "application/cbor", least: what.least,
	})
	if err != nil {
		return nil, err
	}
	switch p := up.problem(); {
	case up.outage():
		return up, nil
	case p == nil && up.status < 300:
		return c.attempt(ctx, url, what)
	case p == nil, p.Code == string(refusal.NotFound), p.Code == string(refusal.MethodNotAllowed):
		return rep, nil // it takes no transcripts
	}
	return up, nil
}

// transcript is the session as this client has seen it, for a node that has not. ok is false for a session without the
// originators' signatures.
func (s *Session) transcript() (file []byte, ok bool) {
	t := wire.Transcript{Open: s.open, Steps: []wire.Recorded{}}
	for i, tx := range s.steps {
		t.Steps = append(t.Steps, wire.Recorded{Transaction: tx, Height: s.proofs[i].height, Seal: s.proofs[i].seal})
	}
	return t.Encode(), len(s.proofs) == len(s.steps)
}

// request makes the call that sends a signed request of this session.
func (s *Session) request(p *httpsig.Parsed) call {
	return call{signed: p, session: s.id, transcript: s.transcript, least: max(s.height, s.c.seen.least()), seen: true, floor: s.height}
}
