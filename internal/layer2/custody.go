package layer2

import (
	"bytes"
	"container/heap"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"time"

	"tandem/internal/httpsig"
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
	if _, ok, err := ledger.SettledOf(v, proven.ID); err != nil {
		return "", 0, e.stateRefusal(err)
	} else if ok {
		return "", 0, refusal.New(refusal.AlreadySettled, "session %s is in a block already", proven.ID).With("session", proven.ID.String())
	}
	probe := &owner{e: e, id: proven.ID, body: body}
	a, err := probe.admit(v, req.Key, e.self)
	if err != nil {
		return "", 0, e.stateRefusal(err)
	}
	return a.ID, v.Height(), nil
}

// custodian returns the key that this node holds for an actor, "" being the default actor.
func (e *Engine) custodian(actor string) (custodian, error) {
	if len(e.o.Custody) == 0 {
		return custodian{}, refusal.New(refusal.CustodyDisabled, "this node signs for nobody")
	}
	if actor == "" {
		if actor = e.o.DefaultActor; actor == "" {
			return custodian{}, refusal.New(refusal.CustodyDisabled, "the request names no actor, and this node has no default one")
		}
	}
	key, ok := e.o.Custody[actor]
	if !ok {
		return custodian{}, refusal.New(refusal.ActorUnknown, "this node holds no delegated key of actor %.64q", actor)
	}
	return custodian{actor, key}, nil
}

// OpenCustody opens a session for actor ("" is the default actor), signed by this node with the key that the actor has
// delegated to it. body is empty, {} or {"expires_at":ms,"supersedes":"id"}, both optional. Refusals as for OpenSession,
// and custody-disabled, actor-unknown, bad-json.
func (e *Engine) OpenCustody(ctx context.Context, actor string, body []byte) (*OpenAnswer, error) {
	leave, err := e.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	return e.openCustody(actor, body)
}

func (e *Engine) openCustody(actor string, body []byte) (*OpenAnswer, error) {
	c, err := e.custodian(actor)
	if err != nil {
		return nil, err
	}
	open, err := e.openBody(body)
	if err != nil {
		return nil, err
	}
	req := &wire.Request{Method: "POST", Path: session.PathOpen, ContentType: "application/json", Body: open.JSON(), Created: e.now() / 1000}
	httpsig.Sign(c.key, httpsig.TagOpen, req, httpsig.Place{})
	return e.openSession(req, session.Proven{
		ID: httpsig.SessionID(req), Open: open, Key: req.Key, Head: wire.TranscriptStart(*req), Expires: open.ExpiresAt,
	})
}

// openBody makes the body of a custody session's opening from what the client asks for.
func (e *Engine) openBody(body []byte) (wire.OpenBody, error) {
	var ask struct {
		ExpiresAt  int64   `json:"expires_at"`
		Supersedes *string `json:"supersedes"`
	}
	if len(bytes.TrimSpace(body)) > 0 {
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&ask); err != nil {
			return wire.OpenBody{}, refusal.New(refusal.BadJSON, "%v", err)
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return wire.OpenBody{}, refusal.New(refusal.BadJSON, "more than one JSON value")
		}
	}
	open := wire.OpenBody{ChainID: e.o.ChainID, Fingerprint: e.o.Runner.Fingerprint(), ExpiresAt: ask.ExpiresAt}
	if open.ExpiresAt == 0 {
		life := e.o.SessionLife
		if p, err := e.parameters(); err == nil && p.MaxSessionMillis > 0 {
			life = min(life, time.Duration(p.MaxSessionMillis)*time.Millisecond)
		}
		open.ExpiresAt = e.now() + life.Milliseconds()
	}
	if open.ExpiresAt < 0 || open.ExpiresAt > wire.MaxTime {
		return wire.OpenBody{}, refusal.New(refusal.BadJSON, "expires_at is milliseconds since 1970")
	}
	if ask.Supersedes != nil {
		id, err := wire.ParseSessionID(*ask.Supersedes)
		if err != nil {
			return wire.OpenBody{}, err
		}
		open.Supersedes = &id
	}
	rand.Read(open.Nonce[:]) // never fails (Go 1.24)
	return open, nil
}

// guard returns the session's custodian, and refuses a session that is not in this node's custody, or is another
// actor's.
func (o *owner) custodian(actor string) (custodian, error) {
	c, ok := o.e.custody[o.open.Key]
	if !ok {
		return custodian{}, refusal.New(refusal.SignatureRequired, "the session is signed by its client, not by this node: sign the request").
			With("session", o.id.String())
	}
	if actor != "" && actor != c.actor {
		return custodian{}, refusal.New(refusal.Forbidden, "the session is actor %s's", c.actor).With("session", o.id.String())
	}
	return c, nil
}

// StepCustody runs an unsigned step in a custody session. actor may be "" (the session's). With a sequence it is
// idempotent: the same request at the same sequence gets the stored answer. An empty content type stands for
// application/json.
func (e *Engine) StepCustody(ctx context.Context, id wire.SessionID, actor, method, path, query, contentType string, body []byte, sequence *uint64) (*Answer, error) {
	leave, err := e.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	o, err := e.find(id)
	if err != nil {
		return nil, err
	}
	c, err := o.custodian(actor)
	if err != nil {
		return nil, err
	}
	return e.signed(askStep(o, func(reply stepReply) {
		o.stepCustody(c, wire.Request{Method: method, Path: path, Query: query, ContentType: contentType, Body: body}, sequence, reply)
	}))
}

func (o *owner) stepCustody(c custodian, req wire.Request, sequence *uint64, reply stepReply) {
	if o.refused != nil {
		reply(nil, o.refused)
		return
	}
	if req.ContentType == "" {
		req.ContentType = "application/json"
	}
	if sequence != nil && *sequence >= 1 && *sequence <= o.machine.Len() {
		reply(o.retryCustody(req, *sequence))
		return
	}
	place := httpsig.Place{Session: o.id, Sequence: o.machine.Len() + 1, Transcript: o.machine.Head()}
	if sequence != nil {
		place.Sequence = *sequence
	}
	req.Created = o.e.now() / 1000
	httpsig.Sign(c.key, httpsig.TagStep, &req, place)
	if err := req.Check(); err != nil {
		reply(nil, err)
		return
	}
	o.step(&req, place, reply, false)
}

// retryCustody answers a request for a taken position: with the stored answer if it is the same request.
func (o *owner) retryCustody(req wire.Request, sequence uint64) (*Answer, error) {
	s, err := o.stored(sequence)
	if err != nil {
		return nil, err
	}
	had := &s.tx.Request
	if had.Method != req.Method || had.Path != req.Path || had.Query != req.Query || had.ContentType != req.ContentType || !bytes.Equal(had.Body, req.Body) {
		return nil, refusal.New(refusal.WrongSequence, "step %d was another request; the next is %d", sequence, o.machine.Len()+1).
			With("session", o.id.String()).With("sequence", o.machine.Len())
	}
	return o.answer(s, true), nil
}

// CommitCustody is Commit for a custody session; actor may be "" (the session's).
func (e *Engine) CommitCustody(ctx context.Context, id wire.SessionID, actor string) (Outcome, error) {
	leave, err := e.enter()
	if err != nil {
		return Outcome{}, err
	}
	release := once(leave)
	defer release()
	o, err := e.find(id)
	if err != nil {
		return e.committedElsewhere(id, err)
	}
	c, err := o.custodian(actor)
	if err != nil {
		return Outcome{}, err
	}
	return o.await(ctx, release, func(w chan<- settlement) error { return o.commitCustody(c, w) })
}

func (o *owner) commitCustody(c custodian, w chan<- settlement) error {
	if o.refused != nil {
		return o.refused
	}
	place := httpsig.Place{Session: o.id, Sequence: o.machine.Len() + 1, Transcript: o.machine.Head()}
	req := &wire.Request{
		Method: "POST", Path: session.PathCommit(o.id), ContentType: "application/json", Body: []byte("{}"), Created: o.e.now() / 1000,
	}
	httpsig.Sign(c.key, httpsig.TagCommit, req, place)
	return o.commitWith(req, place, w, false)
}

// oneStepTries bounds how often a one-step session that is overtaken is begun again.
const oneStepTries = 4

// OneStep opens a custody session, runs the one step and commits it. If the answer is 400 or more nothing is committed,
// the session is abandoned and the Outcome is zero. The answer is not to be given away before the Outcome says committed,
// or the context ended: then Outcome.Status is committing. If another commit overtakes it, it is run again in a session
// that supersedes the first, so that of the two at most one can be committed.
func (e *Engine) OneStep(ctx context.Context, actor, method, path, query, contentType string, body []byte) (*Answer, Outcome, error) {
	open := []byte("{}")
	var before *Answer // of the session that was overtaken
	for try := 1; ; try++ {
		s, err := e.OpenCustody(ctx, actor, open)
		if before != nil && refusal.Has(err, refusal.AlreadySettled) { // it was not, after all: Layer 1 outranks a forecast
			out, err := e.CommitCustody(ctx, before.Session, actor)
			return before, out, err
		}
		if err != nil {
			return nil, Outcome{}, err
		}
		first := uint64(1)
		a, err := e.StepCustody(ctx, s.Session, s.Actor, method, path, query, contentType, body, &first)
		if err != nil || !a.Recorded {
			if _, gone := e.AbandonCustody(ctx, s.Session, s.Actor); gone != nil {
				e.o.Logger.Debug("one-step session not abandoned", "session", s.Session, "error", gone)
			}
			return a, Outcome{}, err
		}
		out, err := e.CommitCustody(ctx, s.Session, s.Actor)
		if err != nil && refusal.Has(err, refusal.Conflict) && try < oneStepTries {
			if open, err = json.Marshal(map[string]string{"supersedes": s.Session.String()}); err != nil {
				return nil, Outcome{}, err
			}
			before = a
			continue
		}
		return a, out, err
	}
}

// Abandon ends a session at its client's signed wish: a tandem-step signature over DELETE /tandem/v1/sessions/{id} at the
// session's next sequence and head. It returns the session's status. Abandoning twice is no error.
func (e *Engine) Abandon(ctx context.Context, p *httpsig.Parsed) (Session, error) {
	leave, err := e.enter()
	if err != nil {
		return Session{}, err
	}
	defer leave()
	if p.Tag != httpsig.TagStep {
		return Session{}, refusal.New(refusal.WrongTag, "abandoning is signed with the tag %s, not %.64q", httpsig.TagStep, p.Tag)
	}
	o, err := e.findAnywhere(ctx, p.Place.Session)
	if err != nil {
		return Session{}, err
	}
	if want := session.PathOpen + "/" + o.id.String(); p.Request.Method != "DELETE" || p.Request.Path != want || p.Request.Query != "" {
		return Session{}, refusal.New(refusal.WrongSession, "abandoning this session is DELETE %s, not %s %.100s", want, p.Request.Method, p.Request.Path)
	}
	if err := o.signedBy(httpsig.TagStep, &p.Request, p.Place); err != nil {
		return Session{}, err
	}
	return ask(o, func() (Session, error) {
		if o.machine != nil && o.machine.State() == session.Open {
			if err := fresh(p.Request.Created, o.e.now()); err != nil {
				return Session{}, err
			}
		}
		return o.abandon(p.Place, &p.Request)
	})
}

// AbandonCustody is Abandon for a custody session; actor may be "" (the session's).
func (e *Engine) AbandonCustody(ctx context.Context, id wire.SessionID, actor string) (Session, error) {
	leave, err := e.enter()
	if err != nil {
		return Session{}, err
	}
	defer leave()
	o, err := e.find(id)
	if err != nil {
		return Session{}, err
	}
	c, err := o.custodian(actor)
	if err != nil {
		return Session{}, err
	}
	return ask(o, func() (Session, error) {
		place := httpsig.Place{Session: id, Sequence: o.machine.Len() + 1, Transcript: o.machine.Head()}
		req := &wire.Request{
			Method: "DELETE", Path: session.PathOpen + "/" + id.String(), ContentType: "application/json", Created: e.now() / 1000,
		}
		httpsig.Sign(c.key, httpsig.TagStep, req, place)
		return o.abandon(place, req)
	})
}

func (o *owner) abandon(place httpsig.Place, req *wire.Request) (Session, error) {
	if o.refused != nil {
		return Session{}, o.refused
	}
	o.followPolicy()
	acts := o.machine.Step(session.AbandonRequested{Sequence: place.Sequence, Transcript: place.Transcript})
	if len(acts) > 0 {
		if _, ok := acts[0].(session.Persist); ok {
			o.leaving = req
		}
	}
	rest, err := o.do(acts, o.payload)
	if err != nil {
		return Session{}, err
	}
	for _, a := range rest {
		if _, ok := a.(session.Seek); ok {
			return Session{}, o.behind(place)
		}
	}
	if o.leaving == req {
		o.e.cluster.sendAll(o.endMessage(req).Encode())
	}
	return o.status()
}

// Session returns a session's status, also of one that has ended, or that was committed through another node. Its signed
// requests and answers are not part of it. Refusal: session-not-found.
func (e *Engine) Session(ctx context.Context, id wire.SessionID) (Session, error) {
	leave, err := e.enter()
	if err != nil {
		return Session{}, err
	}
	defer leave()
	return e.session(id)
}
