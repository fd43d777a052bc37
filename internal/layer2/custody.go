package layer2

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

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
		if err := wire.StrictJSON(body, 4, &ask); err != nil {
			return wire.OpenBody{}, err
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

// custodian returns the session's custodian, and refuses a session that is not in this node's custody, or is another
// actor's.
func (o *owner) custodian(actor string) (custodian, error) {
	c, ok := o.e.custody[o.open.Key]
	if !ok {
		if r := o.elsewhere(); r != nil {
			return custodian{}, r
		}
		return custodian{}, refusal.New(refusal.SignatureRequired, "the session is signed by its client, not by this node: sign the request").
			With("session", o.id.String())
	}
	if actor != "" && actor != c.actor {
		return custodian{}, refusal.New(refusal.Forbidden, "the session is actor %s's", c.actor).With("session", o.id.String())
	}
	return c, nil
}

// elsewhere is the refusal of an unsigned request in a session that is in custody, but not in this node's: it says which nodes can go
// on with it. Nil if the session is signed by its client.
func (o *owner) elsewhere() *refusal.Refusal {
	v, err := o.e.o.Ledger.View()
	if err != nil {
		return nil
	}
	k, ok, err := ledger.KeyOf(v, o.open.Key)
	if err != nil || !ok || !k.Delegate {
		return nil
	}
	nodes := []map[string]string{}
	for _, key := range o.signers.all() {
		if n, ok, err := ledger.NodeOf(v, key); err == nil && ok && !n.Removed {
			nodes = append(nodes, map[string]string{"key": key.DID(), "url": n.URL})
		}
	}
	return refusal.New(refusal.CustodyElsewhere, "actor %s's session is in the custody of the nodes that hold the key %s, and this one does not", k.Actor, o.open.Key.DID()).
		With("session", o.id.String()).With("nodes", nodes)
}

// signers are the nodes that have originated a session's steps. It is safe for concurrent use.
type signers struct {
	mu   sync.Mutex
	keys []wire.PublicKey // in the order of their first steps
}

func (s *signers) add(key wire.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.keys, key) {
		s.keys = append(s.keys, key)
	}
}

func (s *signers) all() []wire.PublicKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.keys)
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
	o, err := e.findAnywhere(ctx, id)
	if err != nil {
		return nil, err
	}
	c, err := o.custodian(actor)
	if err != nil {
		return nil, err
	}
	return e.signed(askStep(ctx, o, func(reply stepReply) {
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
	s, err := o.whole(sequence)
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
	o, err := e.findAnywhere(ctx, id)
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
