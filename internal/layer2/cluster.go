package layer2

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/peer"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// Simulation consensus, as its originator sees it.
//
// A step that this node has run goes to all peers at once, and to the disk at the same time. Whatever the peers say comes
// back as work for the session's owner; session.Machine counts. The step is answered when enough have endorsed it, when
// all have spoken, or when the wait is over; never before it is on this node's own disk. While a step waits, its owner does
// not: other work of the session goes on, and the same request again joins.
//
// A peer that the transport knows to be down is not waited for. One that is silent although it seems to be up costs the
// wait once: from then on it is asked, but not waited for, until it says something again.

// cluster is this node's side of the other Layer 2 nodes. It implements peer.Receiver.
type cluster struct {
	e         *Engine
	transport Peers // nil: alone
	done      chan struct{}

	// open is read-held while a message is taken in, and write-held to set shut, so that none meets a closed journal.
	open sync.RWMutex
	shut bool

	mu     sync.Mutex // guards what follows
	peers  map[wire.PublicKey]*peerState
	wanted map[wire.SessionID]*want
}

// peerState is what this node knows of a peer.
type peerState struct {
	up     atomic.Bool
	silent atomic.Bool  // it did not answer a step in time and has said nothing since
	heard  atomic.Int64 // when it last said something, nanoseconds of the process's clock
	height atomic.Int64 // newest block that it has told of
}

// tip is where a session stands, for those who must not wait for its owner.
type tip struct {
	steps uint64
	head  wire.Digest
}

func newCluster(e *Engine) *cluster {
	return &cluster{
		e: e, transport: e.o.Peers, done: make(chan struct{}), peers: map[wire.PublicKey]*peerState{}, wanted: map[wire.SessionID]*want{},
	}
}

// start runs the transport's goroutine.
func (c *cluster) start() {
	if c.transport == nil {
		close(c.done)
		return
	}
	go func() {
		defer close(c.done)
		if err := c.transport.Run(c.e.ctx, c); err != nil {
			c.e.o.Logger.Error("the connection to the other Layer 2 nodes has ended", "error", err)
		}
	}()
}

// wait returns when the transport has ended, at most after some time: it must not keep the node from stopping.
func (c *cluster) wait() {
	timer := time.NewTimer(drain)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
	}
	c.open.Lock()
	c.shut = true
	c.open.Unlock()
}

// setNodes reads the ledger's list of Layer 2 nodes, and makes it the policy and the transport's list.
func (e *Engine) setNodes() error {
	policy := &session.Policy{Nodes: []wire.PublicKey{e.self}, Need: 1}
	if e.cluster.transport != nil {
		v, err := e.o.Ledger.View()
		if err != nil {
			return fmt.Errorf("read the list of Layer 2 nodes: %w", err)
		}
		nodes, err := ledger.Layer2(v)
		if err != nil {
			return fmt.Errorf("read the list of Layer 2 nodes: %w", err)
		}
		for _, n := range nodes {
			if !n.Removed && n.Key != e.self && len(policy.Nodes) < session.MaxNodes {
				policy.Nodes = append(policy.Nodes, n.Key)
			}
		}
		policy.Need = min(e.o.Need, len(policy.Nodes))
		e.cluster.transport.SetPeers(nodes)
	}
	e.policy.Store(policy)
	return nil
}

func (e *Engine) nodesChanged() {
	if err := e.setNodes(); err != nil {
		e.o.Logger.Error("the list of Layer 2 nodes cannot be read; the old one stays", "error", err)
	}
}

// followPolicy tells the machine if the list has changed.
func (o *owner) followPolicy() {
	if p := o.e.policy.Load(); p != o.policy {
		o.policy = p
		o.voted(o.machine.Step(session.PolicyChanged{Policy: *p}))
	}
}

func (c *cluster) peer(key wire.PublicKey) *peerState {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[key]
	if p == nil {
		p = &peerState{}
		c.peers[key] = p
	}
	return p
}

// send sends a message, and reports whether it is on its way.
func (c *cluster) send(to wire.PublicKey, message []byte) bool {
	if c.transport == nil {
		return false
	}
	err := c.transport.Send(to, message)
	if err != nil {
		c.e.o.Logger.Debug("not sent", "peer", to, "error", err)
	}
	return err == nil
}

// sendAll sends a message to all peers that are up, and returns them.
func (c *cluster) sendAll(message []byte) []wire.PublicKey {
	var to []wire.PublicKey
	for _, n := range c.e.policy.Load().Nodes {
		if n != c.e.self && c.peer(n).up.Load() && c.send(n, message) {
			to = append(to, n)
		}
	}
	return to
}

// sendStep asks the peers to endorse a step and returns those who are not worth waiting for.
func (c *cluster) sendStep(o *owner, previous wire.Digest, s *stored) (absent []wire.PublicKey) {
	message := wire.PeerStep{Session: o.id, Previous: previous, Head: s.head, Step: s.recorded()}.Encode()
	for _, n := range o.policy.Nodes {
		if n == c.e.self {
			continue
		}
		if p := c.peer(n); !c.send(n, message) || p.silent.Load() {
			absent = append(absent, n)
		}
	}
	return absent
}

// pending is a step that is on disk, or on its way there, and waits for endorsements.
type pending struct {
	step    *stored
	sent    time.Time
	replies []stepReply
	timer   *time.Timer
}

// wait has the owner told when the wait is over.
func (p *pending) wait(o *owner) {
	sequence := p.step.tx.Sequence
	o.e.places.unvouched.Add(1)
	p.timer = time.AfterFunc(max(0, o.e.o.Wait-time.Since(p.sent)), func() {
		_ = o.post(false, func() { o.waitOver(sequence) })
	})
}

func (o *owner) waitOver(sequence uint64) {
	p := o.pending
	if p == nil || p.step.tx.Sequence != sequence {
		return
	}
	for _, n := range o.machine.Waiting(sequence) {
		if at := o.e.cluster.peer(n); at.heard.Load() < p.sent.UnixNano() && !at.silent.Swap(true) {
			o.e.o.Logger.Warn("a Layer 2 node does not answer and is not waited for", "peer", n)
		}
	}
	o.voted(o.machine.Step(session.WaitOver{Sequence: sequence}))
}

// join answers a request together with the earlier, equal one; false if that has been answered meanwhile.
func (o *owner) join(sequence uint64, reply stepReply) bool {
	if o.pending == nil || o.pending.step.tx.Sequence != sequence {
		return false
	}
	o.pending.replies = append(o.pending.replies, reply)
	return true
}

// voted does what the machine asks for after a vote: it answers the step that waits, if it is time.
func (o *owner) voted(acts []session.Action) {
	for _, a := range acts {
		if r, ok := a.(session.Reply); ok && o.pending != nil && o.pending.step.tx.Sequence == r.Sequence {
			p := o.unpend()
			for i, reply := range p.replies {
				reply(o.answer(p.step, i > 0), nil)
			}
		}
	}
}

// unpend takes the pending step out of the owner.
func (o *owner) unpend() *pending {
	p := o.pending
	o.pending = nil
	o.waits.Store(false)
	if p != nil && p.timer != nil {
		o.e.places.unvouched.Add(-1)
		p.timer.Stop()
	}
	return p
}

// endorsers are the nodes that endorse a step, beside its originator.
func (o *owner) endorsers(s *stored) []Endorser {
	n := s.tx.Sequence
	if n > uint64(len(o.votes)) {
		return nil
	}
	return slices.Clone(o.votes[n-1])
}

// vote keeps an endorsement; it is written with the session's next record, or soon.
func (o *owner) vote(sequence uint64, head wire.Digest, v wire.Endorsement) {
	o.votes[sequence-1] = append(o.votes[sequence-1], v)
	o.e.journal.later(o.votesOp(sequence, head))
}

func (o *owner) votesOp(sequence uint64, head wire.Digest) op {
	return op{keyNumbered(o.id, partVotes, sequence), encodeRecord(votesRecord{Head: head, Endorsements: o.votes[sequence-1]})}
}

// endorsed takes in a peer's endorsement, its signature verified.
func (o *owner) endorsed(from wire.PublicKey, m wire.PeerEndorse) {
	if o.refused != nil || m.Sequence > o.machine.Len() || o.machine.HeadAt(m.Sequence) != m.Head {
		return // of another variant, or of a step that was not written
	}
	if m.Sequence > uint64(len(o.votes)) || slices.ContainsFunc(o.votes[m.Sequence-1], func(v wire.Endorsement) bool { return v.Node == from }) {
		return
	}
	o.followPolicy()
	if !slices.Contains(o.policy.Nodes, from) {
		return
	}
	o.noteFrom(from, auditRecord{Event: auditEndorsed, Sequence: m.Sequence, Height: m.Height})
	o.vote(m.Sequence, m.Head, wire.Endorsement{Node: from, Height: m.Height, Signature: m.Signature})
	o.voted(o.machine.Step(session.Endorsed{Sequence: m.Sequence, Node: from, Head: m.Head}))
}

// dissented takes in that a peer cannot endorse a step.
func (o *owner) dissented(from wire.PublicKey, m wire.PeerDissent) {
	if o.refused != nil || m.Sequence > o.machine.Len() || o.machine.HeadAt(m.Sequence) != m.Head {
		return
	}
	o.e.o.Logger.Info("a Layer 2 node does not endorse a step", "session", o.id, "step", m.Sequence, "peer", from,
		"reason", m.Reason, "height", m.Height, "detail", m.Detail)
	o.e.counts.dissents.Add(1)
	o.noteFrom(from, auditRecord{Event: auditDissented, Sequence: m.Sequence, Code: m.Reason, Height: m.Height, Detail: m.Detail})
	if m.Reason == string(refusal.PositionTaken) && m.Mine != (wire.Digest{}) && o.machine.Yields(m.Sequence, m.Mine) {
		o.e.cluster.send(from, wire.PeerFetch{Session: o.id, From: m.Sequence}.Encode()) // this node moves to the other's variant
	}
	o.voted(o.machine.Step(session.Dissented{Sequence: m.Sequence, Node: from, Reason: refusal.Code(m.Reason)}))
}

// seen is a step's answer as its originator signs it.
func (o *owner) seen(s *stored) httpsig.Answer { return answerOf(o.id, s.recorded(), s.head) }

// answerOf is the answer that an originator's seal is over.
func answerOf(id wire.SessionID, r wire.Recorded, head wire.Digest) httpsig.Answer {
	tx := &r.Transaction
	return httpsig.Answer{
		Status: tx.Response.Status, Body: tx.Response.Body, Session: id, Sequence: tx.Sequence, Transcript: head,
		Height: r.Height, Time: tx.Time, Originator: tx.Originator,
	}
}

func (a *Answer) seen() httpsig.Answer {
	return httpsig.Answer{
		Status: a.Status, Body: wire.Sum(a.Body), Session: a.Session, Sequence: a.Sequence, Transcript: a.Transcript,
		Height: a.Height, Time: a.Time, Originator: a.Originator,
	}
}

// Receive implements peer.Receiver. What needs a session's state is left to its owner.
func (c *cluster) Receive(from wire.PublicKey, message []byte) {
	c.open.RLock()
	defer c.open.RUnlock()
	if c.shut {
		return
	}
	p := c.peer(from)
	p.heard.Store(time.Now().UnixNano())
	if p.silent.Load() {
		p.silent.Store(false)
	}
	m, err := wire.DecodePeer(message)
	if err != nil {
		c.e.counts.malformed.Add(1)
		c.e.o.Logger.Warn("a Layer 2 node sends what is no message", "peer", from, "error", err)
		return
	}
	switch m := m.(type) {
	case wire.PeerStep:
		c.received(from, m)
	case wire.PeerEndorse:
		if (wire.Endorsement{Node: from, Height: m.Height, Signature: m.Signature}).Verify(c.e.o.ChainID, m.Session, m.Sequence, m.Head) != nil {
			c.e.counts.malformed.Add(1)
			c.e.o.Logger.Warn("a Layer 2 node sends an endorsement that it has not signed", "peer", from, "session", m.Session)
			return
		}
		c.forOwner(m.Session, func(o *owner) { o.endorsed(from, m) })
	case wire.PeerDissent:
		c.forOwner(m.Session, func(o *owner) { o.dissented(from, m) })
	case wire.PeerOpened:
		if _, err := c.e.adoptOpening(&m.Open); err != nil {
			c.e.o.Logger.Debug("an opening is not taken over", "peer", from, "error", err)
		}
	case wire.PeerFetch:
		c.fetched(from, m)
	case wire.PeerTranscript:
		c.transcript(from, m)
	case wire.PeerMissing:
		c.missing(m.Session)
	case wire.PeerEnded:
		if o, err := c.e.find(m.Session); err == nil {
			c.post(o, func(o *owner) { o.endedElsewhere(from, m, true) })
		}
	case wire.PeerSessions:
		c.compare(from, m)
	case wire.PeerHeight:
		p.height.Store(m.Height)
	}
}

// peerQueue bounds the work that peers may leave in one session's queue.
const peerQueue = 1024

// forOwner leaves work to the owner of a session that is in memory.
func (c *cluster) forOwner(id wire.SessionID, work func(*owner)) bool {
	c.e.mu.Lock()
	o := c.e.sessions[id]
	c.e.mu.Unlock()
	if o == nil {
		return false
	}
	c.post(o, work)
	return true
}

// post leaves a peer's work to an owner, unless it has too much of it already.
func (c *cluster) post(o *owner, work func(*owner)) {
	o.mu.Lock()
	full := len(o.queue) >= peerQueue
	o.mu.Unlock()
	if !full {
		_ = o.post(false, func() { work(o) })
	}
}

// Up implements peer.Receiver.
func (c *cluster) Up(key wire.PublicKey) {
	p := c.peer(key)
	p.silent.Store(false)
	p.up.Store(true)
	c.e.o.Logger.Info("connected to a Layer 2 node", "peer", key)
	c.e.notePeer(key, "up")
	c.tellSessions(key)
}

// Down implements peer.Receiver.
func (c *cluster) Down(key wire.PublicKey) {
	c.peer(key).up.Store(false)
	c.e.o.Logger.Info("no connection to a Layer 2 node", "peer", key)
	c.e.notePeer(key, "down")
	c.gone(key)
}

// ups returns the peers that are connected.
func (c *cluster) ups() []wire.PublicKey {
	if c.transport == nil {
		return nil
	}
	var up []wire.PublicKey
	for _, n := range c.e.policy.Load().Nodes {
		if n != c.e.self && c.peer(n).up.Load() {
			up = append(up, n)
		}
	}
	return up
}

// Peer is what this node knows of another Layer 2 node.
type Peer struct {
	Key    wire.PublicKey
	Up     bool
	Silent bool  // connected, but not waited for
	Height int64 // newest block that it has told of, 0 if none
}

// Peers returns the other Layer 2 nodes of the ledger's list.
func (e *Engine) Peers() []Peer {
	var all []Peer
	for _, n := range e.policy.Load().Nodes {
		if n != e.self {
			p := e.cluster.peer(n)
			all = append(all, Peer{Key: n, Up: p.up.Load(), Silent: p.silent.Load(), Height: p.height.Load()})
		}
	}
	slices.SortFunc(all, func(a, b Peer) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	return all
}

var _ peer.Receiver = (*cluster)(nil)

// patience is how long a request waits for what other nodes have to send.
const patience = 500 * time.Millisecond

// want is a session that a request needs and this node does not have.
type want struct {
	left int           // peers that have not answered
	done chan struct{} // closed when it is here, or nobody has it
}

// maxWanted bounds the sessions that are looked for at once: asking for sessions that do not exist must cost little.
const maxWanted = 256

// findAnywhere is find, asking the other nodes for a session that is not here.
func (e *Engine) findAnywhere(ctx context.Context, id wire.SessionID) (*owner, error) {
	o, err := e.find(id)
	if !refusal.Has(err, refusal.SessionNotFound) {
		return o, err
	}
	up := e.cluster.ups()
	w, first := e.cluster.want(id, len(up))
	if w == nil {
		return nil, err
	}
	if first {
		for _, n := range up {
			if !e.cluster.send(n, wire.PeerFetch{Session: id}.Encode()) {
				e.cluster.missing(id)
			}
		}
	}
	giveBack(ctx)()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.done:
	case <-timer.C:
		e.cluster.found(id)
	case <-ctx.Done():
	case <-e.stopping:
	}
	return e.find(id)
}

func (c *cluster) want(id wire.SessionID, peers int) (w *want, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.wanted[id]; w != nil {
		return w, false
	}
	if peers == 0 || len(c.wanted) >= maxWanted {
		return nil, false
	}
	w = &want{left: peers, done: make(chan struct{})}
	c.wanted[id] = w
	return w, true
}

// found ends the search for a session, however it went.
func (c *cluster) found(id wire.SessionID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.wanted[id]; w != nil {
		delete(c.wanted, id)
		close(w.done)
	}
}

// missing takes in that a node does not have what was asked for.
func (c *cluster) missing(id wire.SessionID) {
	c.mu.Lock()
	if w := c.wanted[id]; w != nil {
		if w.left--; w.left <= 0 {
			delete(c.wanted, id)
			close(w.done)
		}
	}
	c.mu.Unlock()
	c.forOwner(id, func(o *owner) { o.sought() })
}

// gone lets nobody wait for a node that is down.
func (c *cluster) gone(key wire.PublicKey) {
	c.e.mu.Lock()
	var waiting []*owner
	for _, o := range c.e.sessions {
		if o.waits.Load() {
			waiting = append(waiting, o)
		}
	}
	c.e.mu.Unlock()
	for _, o := range waiting {
		_ = o.post(false, func() { o.lost(key) })
	}
}

// lost stops waiting for a node.
func (o *owner) lost(node wire.PublicKey) {
	if p := o.pending; p != nil && o.machine.Len() == p.step.tx.Sequence {
		o.voted(o.machine.Step(session.Dissented{Sequence: p.step.tx.Sequence, Node: node, Reason: refusal.Layer1Unavailable}))
	}
}
