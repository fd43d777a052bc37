package layer2

import (
	"container/heap"
	"context"
	"encoding/json"

	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// OpenSession opens a session from its signed opening request. The same request again gets the same answer while the
// session is open. Refusals: what session.VerifyOpen refuses, stale-signature, wrong-chain, wrong-fingerprint,
// session-expired, session-too-long, key-not-registered, key-revoked, originator-unknown, superseded, already-settled,
// replayed, overloaded.
func (e *Engine) OpenSession(ctx context.Context, req *wire.Request) (*OpenAnswer, error) {
	leave, err := e.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	proven, err := session.VerifyOpen(req)
	if err != nil {
		return nil, err
	}
	return e.openSession(req, proven)
}

func (e *Engine) openSession(req *wire.Request, proven session.Proven) (*OpenAnswer, error) {
	if a, err := e.openedBefore(proven.ID); a != nil || err != nil {
		return a, err
	}
	actor, height, err := e.mayOpen(req, proven)
	if err != nil {
		return nil, err
	}
	o, repeated, err := e.enlist(req, proven, actor, height)
	if err != nil {
		return nil, err
	}
	a, err := e.opened(o, repeated)
	if err == nil && !repeated {
		e.cluster.sendAll(wire.PeerOpened{Open: *req, Height: o.openHeight, Time: o.openTime}.Encode())
	}
	return a, err
}

// begin writes the opening.
func (o *owner) begin() {
	err := o.e.journal.append(
		op{keyPart(o.id, partOpen), encodeRecord(openRecord{Request: o.open.Encode(), Actor: o.actor, Height: o.openHeight, Time: o.openTime})},
		op{keyLive(o.id), []byte{}})
	if err != nil {
		o.refused = o.e.diskRefusal(err)
		o.e.finished(o)
		return
	}
	o.noteOpened()
	o.noteState()
	// A block that settles the session may have come between the look at the ledger and the moment from which OnBlock finds
	// the session in memory: then the newest state shows it.
	if v, err := o.e.o.Ledger.View(); err == nil {
		o.inView(v)
	}
}

// openedBefore answers an opening request that was used before; nil, nil if it was not.
func (e *Engine) openedBefore(id wire.SessionID) (*OpenAnswer, error) {
	e.mu.Lock()
	here := e.sessions[id] != nil
	e.mu.Unlock()
	if !here {
		if _, ok, err := e.journal.get(keyPart(id, partOpen)); err == nil && !ok {
			return nil, nil
		}
	}
	o, err := e.find(id)
	if refusal.Has(err, refusal.SessionNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return e.opened(o, true)
}

// opened is the answer to an opening, once it is on disk.
func (e *Engine) opened(o *owner, repeated bool) (*OpenAnswer, error) {
	a, err := ask(o, func() (*OpenAnswer, error) {
		if o.refused != nil {
			return nil, o.refused
		}
		if s := o.machine.State(); s.Ended() {
			return nil, refusal.New(refusal.Replayed, "this opening request has opened session %s, which is %s", o.id, s).
				With("session", o.id.String()).With("status_of_session", s.String())
		}
		body, err := json.Marshal(struct {
			ID         string `json:"session_id"`
			Transcript string `json:"transcript"`
			ExpiresAt  int64  `json:"expires_at"`
			Actor      string `json:"actor"`
			Key        string `json:"key"`
		}{o.id.String(), o.machine.HeadAt(0).String(), o.body.ExpiresAt, o.actor, o.open.Key.DID()})
		if err != nil {
			return nil, err
		}
		return &OpenAnswer{
			Answer: Answer{
				Status: 201, Body: body, Session: o.id, Transcript: o.machine.HeadAt(0), Height: o.openHeight, Time: o.openTime,
				Originator: e.self, Repeated: repeated,
				Headers: []wire.Header{{Name: "Content-Type", Value: "application/json"}, {Name: "Location", Value: session.PathOpen + "/" + o.id.String()}},
			},
			ExpiresAt: o.body.ExpiresAt, Actor: o.actor, Key: o.open.Key,
		}, nil
	})
	if err != nil {
		return nil, err
	}
	if _, err := e.signed(&a.Answer, nil); err != nil {
		return nil, err
	}
	return a, nil
}

// mayOpen refuses what could never be committed, and returns who opens and the height of the state that says so.
func (e *Engine) mayOpen(req *wire.Request, proven session.Proven) (actor string, height int64, err error) {
	if err := fresh(req.Created, e.now()); err != nil {
		return "", 0, err
	}
	if err := e.mayOriginate(); err != nil {
		return "", 0, err
	}
	return e.mayAdopt(req, proven)
}

// enlist takes a new session into memory and has its opening written. It returns the session that is there already if
// another request was faster.
func (e *Engine) enlist(req *wire.Request, proven session.Proven, actor string, height int64) (o *owner, known bool, err error) {
	policy := e.policy.Load()
	o = &owner{
		e: e, id: proven.ID, open: *req, body: proven.Open, actor: actor, openHeight: height, openTime: e.now(), place: -1,
		machine: session.New(e.self, *policy, proven.Head, proven.Expires), policy: policy, tip: tip{0, proven.Head}, base: height, newest: height,
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if at := e.sessions[o.id]; at != nil { // the same request at the same moment
		return at, true, nil
	}
	if len(e.sessions) >= e.o.MaxOpen {
		e.counts.shed.Add(1)
		return nil, false, refusal.New(refusal.Overloaded, "%d sessions are open already", e.o.MaxOpen).With("retry_after_seconds", 5)
	}
	e.sessions[o.id] = o
	heap.Push(&e.expiring, o)
	// The first work in the queue writes the opening; whoever finds the session in memory comes after it. A crash
	// before its fsync leaves nothing, and nobody has the answer.
	if err := o.post(false, o.begin); err != nil {
		delete(e.sessions, o.id)
		e.expiring.remove(o)
		return nil, false, err
	}
	return o, false, nil
}

// mayAdopt is mayOpen for a session that may have been opened some time ago.
func (e *Engine) mayAdopt(req *wire.Request, proven session.Proven) (actor string, height int64, err error) {
	now := e.now()
	p, err := e.parameters()
	if err != nil {
		return "", 0, err
	}
	body := proven.Open
	switch {
	case body.ChainID != e.o.ChainID:
		return "", 0, refusal.New(refusal.WrongChain, "the session is for chain %s; this is %s", body.ChainID, e.o.ChainID).With("chain_id", e.o.ChainID)
	case body.Fingerprint != e.o.Runner.Fingerprint() || p.Fingerprint != e.o.Runner.Fingerprint():
		return "", 0, e.wrongFingerprint(body.Fingerprint)
	case body.ExpiresAt <= now:
		return "", 0, refusal.New(refusal.SessionExpired, "expires_at is %d, it is %d", body.ExpiresAt, now)
	case p.MaxSessionMillis > 0 && body.ExpiresAt-now > p.MaxSessionMillis:
		return "", 0, refusal.New(refusal.SessionTooLong, "expires_at is %d ms ahead; a session lives at most %d ms", body.ExpiresAt-now, p.MaxSessionMillis).
			With("max_session_ms", p.MaxSessionMillis)
	}
	v, err := e.o.Ledger.View()
	if err != nil {
		return "", 0, e.stateRefusal(err)
	}
	if s, ok, err := ledger.SettledOf(v, proven.ID); err != nil {
		return "", 0, e.stateRefusal(err)
	} else if ok && s.Final {
		return "", 0, refusal.New(refusal.AlreadySettled, "session %s is in a block already", proven.ID).With("session", proven.ID.String())
	}
	probe := &owner{e: e, id: proven.ID, body: body}
	a, err := probe.admit(v, req.Key, e.self)
	if err != nil {
		return "", 0, e.stateRefusal(err)
	}
	return a.ID, v.Height(), nil
}
