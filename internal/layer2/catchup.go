package layer2

import (
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// Catching up. Whenever a connection comes up, each side lists its open sessions with their tips. Who sees that it lacks
// something asks for it, verifies it, runs it, and endorses it, as if it came step by step. So a node that was away, or
// has lost its disk, has what the others have a moment after it is back.

// tellSessions lists this node's open sessions for a peer.
func (c *cluster) tellSessions(to wire.PublicKey) {
	c.send(to, wire.PeerHeight{Height: c.e.Height()}.Encode())
	c.e.mu.Lock()
	all := make([]*owner, 0, len(c.e.sessions))
	for _, o := range c.e.sessions {
		all = append(all, o)
	}
	c.e.mu.Unlock()
	page := make([]wire.Tip, 0, min(len(all), wire.MaxPage))
	for i, o := range all {
		o.mu.Lock()
		page = append(page, wire.Tip{Session: o.id, Steps: o.tip.steps, Head: o.tip.head})
		o.mu.Unlock()
		if len(page) == wire.MaxPage || i == len(all)-1 {
			c.send(to, wire.PeerSessions{Sessions: page}.Encode())
			page = page[:0]
		}
	}
}

// compare asks a peer for what it has and this node lacks.
func (c *cluster) compare(from wire.PublicKey, m wire.PeerSessions) {
	for _, t := range m.Sessions {
		c.e.mu.Lock()
		o := c.e.sessions[t.Session]
		c.e.mu.Unlock()
		if o == nil {
			c.compareEnded(from, t.Session)
			continue
		}
		o.mu.Lock()
		mine := o.tip
		o.mu.Unlock()
		if t.Steps > mine.steps {
			c.send(from, wire.PeerFetch{Session: t.Session, From: max(1, mine.steps)}.Encode())
		} else if t.Steps == mine.steps && t.Head != mine.head { // another variant of the last step
			c.post(o, func(o *owner) {
				if o.refused == nil && (o.machine.Behind() != nil || o.machine.Yields(t.Steps, t.Head)) {
					c.send(from, wire.PeerFetch{Session: t.Session, From: max(1, t.Steps)}.Encode())
				}
			})
		} else if t.Steps == mine.steps && t.Head == mine.head && mine.steps > 0 {
			// What this node has endorsed may have been lost on the way.
			c.post(o, func(o *owner) {
				if o.refused == nil && o.machine.Len() >= t.Steps {
					o.vouch(from, t.Steps)
				}
			})
		}
	}
}

// compareEnded is about a session that a peer has open and this node has not in memory.
func (c *cluster) compareEnded(from wire.PublicKey, id wire.SessionID) {
	o, err := c.e.find(id)
	switch {
	case refusal.Has(err, refusal.SessionNotFound):
		c.send(from, wire.PeerFetch{Session: id}.Encode())
	case err == nil:
		c.post(o, func(o *owner) {
			if o.refused == nil && o.leaving != nil {
				c.send(from, o.endMessage(o.leaving).Encode())
			}
		})
	}
}

// fetched answers a peer that asks for a session.
func (c *cluster) fetched(from wire.PublicKey, m wire.PeerFetch) {
	o, err := c.e.find(m.Session)
	if err != nil {
		c.send(from, wire.PeerMissing{Session: m.Session}.Encode())
		return
	}
	c.post(o, func(o *owner) {
		o.sendVariants(from, m.From)
		t, err := o.transcriptFrom(m.From)
		if err != nil || !c.send(from, t.Encode()) {
			c.send(from, wire.PeerMissing{Session: m.Session}.Encode())
		}
	})
}

// transcriptFrom is the session from a step on, for a peer.
func (o *owner) transcriptFrom(from uint64) (wire.PeerTranscript, error) {
	if o.refused != nil {
		return wire.PeerTranscript{}, o.refused
	}
	t := wire.PeerTranscript{
		Opened: wire.PeerOpened{Open: o.open, Height: o.openHeight, Time: o.openTime}, From: max(1, min(from, o.machine.Len()+1)),
	}
	if err := o.eachStored(func(s *stored) error {
		if s.tx.Sequence >= t.From {
			t.Steps = append(t.Steps, s.recorded())
		}
		return nil
	}); err != nil {
		return wire.PeerTranscript{}, err
	}
	switch {
	case o.machine.State() == session.Committing && o.commit != nil:
		m := o.endMessage(o.commit)
		t.Ended = &m
	case o.leaving != nil:
		m := o.endMessage(o.leaving)
		t.Ended = &m
	}
	return t, nil
}

// endMessage tells peers of the session's end that the client has signed.
func (o *owner) endMessage(req *wire.Request) wire.PeerEnded {
	return wire.PeerEnded{Session: o.id, Sequence: o.machine.Len() + 1, Head: o.machine.Head(), Request: *req}
}
