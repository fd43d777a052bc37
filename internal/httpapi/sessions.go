package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/layer2"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// signed reads the request's body and, if it is signed, its signature, which must be for the purpose tag. Without a
// signature the result is nil, and what keeps other sites' pages from using this node's custody is checked instead.
func (a *api) signed(w http.ResponseWriter, r *http.Request, tag string) (*httpsig.Parsed, []byte, error) {
	if a.o.Engine == nil {
		return nil, nil, refusal.New(refusal.NoLayer2, "this node has no session engine")
	}
	body, err := a.body(w, r)
	if err != nil {
		return nil, nil, err
	}
	p, err := a.signature(r, body, tag)
	return p, body, err
}

// admitted is signed for a step or an opening, for which it takes a place as soon as the body is here, and before anything is
// spent on it. The request is then to be made with the context, and done to be called at its end.
func (a *api) admitted(w http.ResponseWriter, r *http.Request, tag string) (p *httpsig.Parsed, body []byte, working context.Context, done func(), err error) {
	if a.o.Engine == nil {
		return nil, nil, nil, nil, refusal.New(refusal.NoLayer2, "this node has no session engine")
	}
	if body, err = a.body(w, r); err != nil {
		return nil, nil, nil, nil, err
	}
	if working, done, err = a.o.Engine.Admit(r.Context(), arrival(r)); err != nil {
		return nil, nil, nil, nil, err
	}
	if p, err = a.signature(r, body, tag); err != nil {
		done()
	}
	return p, body, working, done, err
}

// signature verifies the signature of a request whose body has been read; nil if it has none.
func (a *api) signature(r *http.Request, body []byte, tag string) (*httpsig.Parsed, error) {
	p, err := httpsig.FromHTTP(r, body)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, a.checkCustody(r)
	}
	if len(r.Header["Tandem-Actor"]) > 0 {
		return nil, refusal.New(refusal.BadRequest, "Tandem-Actor is for unsigned requests; the signature's key says who acts")
	}
	if p.Tag != tag {
		return nil, refusal.New(refusal.WrongTag, "the signature's tag is %q, this request needs %q", shorten(p.Tag), tag).
			With("expected", tag)
	}
	return p, nil
}

// open serves POST /tandem/v1/sessions.
func (a *api) open(w http.ResponseWriter, r *http.Request) {
	p, body, ctx, done, err := a.admitted(w, r, httpsig.TagOpen)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	defer done()
	if len(r.Header["Tandem-Session"]) > 0 {
		a.fail(w, r, refusal.New(refusal.BadRequest, "a session is not opened inside another; leave Tandem-Session out"))
		return
	}
	var answer *layer2.OpenAnswer
	if p != nil {
		answer, err = a.o.Engine.OpenSession(ctx, &p.Request)
	} else if err = strictObject(body, &struct {
		ExpiresAt  int64  `json:"expires_at"`
		Supersedes string `json:"supersedes"`
	}{}); err == nil {
		answer, err = a.o.Engine.OpenCustody(ctx, r.Header.Get("Tandem-Actor"), body)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.writeOpened(w, r, answer)
}

// opened is the JSON of the answer to an opening.
type opened struct {
	Session     string `json:"session_id"`
	ExpiresAt   int64  `json:"expires_at"` // milliseconds since 1970
	ChainID     string `json:"chain_id"`
	Fingerprint string `json:"fingerprint"`
	Transcript  string `json:"transcript"` // the head that the first step signs over
	Sequence    uint64 `json:"sequence"`   // of the last step: 0
	Actor       string `json:"actor"`
	Key         string `json:"key"` // did:key that signs the session: the actor's, or the one it has delegated to this node
}

// writeOpened answers an opening: the same request again gets the same bytes.
func (a *api) writeOpened(w http.ResponseWriter, r *http.Request, o *layer2.OpenAnswer) {
	body, err := marshal(opened{
		Session: o.Session.String(), ExpiresAt: o.ExpiresAt, ChainID: a.o.ChainID, Fingerprint: a.o.Fingerprint.String(),
		Transcript: o.Transcript.String(), Actor: o.Actor, Key: o.Key.DID(),
	})
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Location", "/tandem/v1/sessions/"+o.Session.String())
	a.o.Engine.SignAnswer(w.Header(), http.StatusCreated, body, o.Answer)
	a.writeBytes(w, r, http.StatusCreated, "application/json", body)
}

// session serves GET /tandem/v1/sessions/{id}.
func (a *api) session(w http.ResponseWriter, r *http.Request) {
	id, err := a.pathSession(r)
	if err == nil {
		err = a.awaitHeight(r)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	s, err := a.o.Engine.Session(r.Context(), id)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.writeSession(w, r, http.StatusOK, s)
}

// pathSession is the session that the path names.
func (a *api) pathSession(r *http.Request) (wire.SessionID, error) {
	if a.o.Engine == nil {
		return wire.SessionID{}, refusal.New(refusal.NoLayer2, "this node has no session engine")
	}
	return sessionID(r.PathValue("id"))
}

// writeSession answers with a session's status, signed by this node.
func (a *api) writeSession(w http.ResponseWriter, r *http.Request, status int, s layer2.Session) {
	if s.Steps == nil {
		s.Steps = []layer2.Step{}
	}
	body, err := marshal(s)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	id, _ := wire.ParseSessionID(s.ID)
	head, _ := wire.ParseDigest(s.Transcript) // empty for a session committed elsewhere: zero
	a.signOwn(w, status, body, layer2.Answer{Session: id, Sequence: s.Sequence, Transcript: head})
	a.writeBytes(w, r, status, "application/json", body)
}

// signOwn signs an answer that this package made about a session.
func (a *api) signOwn(w http.ResponseWriter, status int, body []byte, about layer2.Answer) {
	about.Height = a.o.Engine.Stats().Height
	about.Time = a.o.Ledger.Time()
	a.o.Engine.SignAnswer(w.Header(), status, body, about)
}

// named reads the signature of a request about the session in its path, that session and the body.
func (a *api) named(w http.ResponseWriter, r *http.Request, tag string) (p *httpsig.Parsed, id wire.SessionID, body []byte, err error) {
	p, body, err = a.signed(w, r, tag)
	if err != nil {
		return nil, id, nil, err
	}
	if id, err = sessionID(r.PathValue("id")); err != nil {
		return nil, id, nil, err
	}
	if tag != httpsig.TagCommit { // a commit's body is read where it is decided
		if err := strictObject(body, &struct{}{}); err != nil {
			return nil, id, nil, err
		}
	}
	if p != nil && p.Place.Session != id {
		return nil, id, nil, refusal.New(refusal.WrongSession, "the path and the signed Tandem-Session name different sessions").
			With("session", id)
	}
	if header := r.Header.Get("Tandem-Session"); header != "" && header != id.String() {
		return nil, id, nil, refusal.New(refusal.WrongSession, "the path and Tandem-Session name different sessions").With("session", id)
	}
	return p, id, body, nil
}

// abandon serves DELETE /tandem/v1/sessions/{id}.
func (a *api) abandon(w http.ResponseWriter, r *http.Request) {
	p, id, _, err := a.named(w, r, httpsig.TagStep)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	var s layer2.Session
	if p != nil {
		s, err = a.o.Engine.Abandon(r.Context(), p)
	} else {
		s, err = a.o.Engine.AbandonCustody(r.Context(), id, r.Header.Get("Tandem-Actor"))
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.writeSession(w, r, http.StatusOK, s)
}

// Committing is what a commit's answer says while Layer 1 has not decided.
const Committing = "waiting for Layer 1 to put the session into a block; nothing is lost, ask again or read the session's status"

// statusCheckpoint is the status of a commit that a block holds while the session stays open.
const statusCheckpoint = "checkpoint"

// outcome is the JSON of a commit's answer.
type outcome struct {
	Status      string `json:"status"` // committed, checkpoint or committing
	Session     string `json:"session_id"`
	Height      int64  `json:"height,omitempty"`
	Transaction string `json:"transaction_hash,omitempty"`
	Time        int64  `json:"time_ms,omitempty"`
	Steps       uint64 `json:"steps"` // of the session, up to this commit
	Transcript  string `json:"transcript"`
	Checkpoint  uint64 `json:"checkpoint,omitempty"` // its number, from 1, if the session stays open
	Detail      string `json:"detail,omitempty"`
}

// commit serves POST /tandem/v1/sessions/{id}/commit.
func (a *api) commit(w http.ResponseWriter, r *http.Request) {
	p, id, body, err := a.named(w, r, httpsig.TagCommit)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	final, err := finalCommit(p, body)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	ctx, cancel := a.patience(w, r)
	defer cancel()
	var o layer2.Outcome
	switch {
	case p != nil:
		o, err = a.o.Engine.Commit(ctx, p)
	case final:
		o, err = a.o.Engine.CommitCustody(ctx, id, r.Header.Get("Tandem-Actor"))
	default:
		o, err = a.o.Engine.CheckpointCustody(ctx, id, r.Header.Get("Tandem-Actor"))
	}
	a.metrics.committed(o, err)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.writeOutcome(w, r, o)
}

// finalCommit says whether a commit closes the session. What a client signs has one of few exact texts; what the node is to
// sign for it, in custody, is any JSON of that meaning.
func finalCommit(p *httpsig.Parsed, body []byte) (bool, error) {
	if p != nil {
		return session.ParseCommitBody(p.Request.Body)
	}
	ask := struct {
		Final bool `json:"final"`
	}{true}
	err := strictObject(body, &ask)
	return ask.Final, err
}

// patience bounds the wait for Layer 1: by the node's limit, and by what the client prefers (RFC 7240 respond-async,
// wait).
func (a *api) patience(w http.ResponseWriter, r *http.Request) (context.Context, context.CancelFunc) {
	wait := a.o.CommitWait
	if seconds, ok := preference(r.Header, "wait"); ok {
		if n, err := strconv.ParseUint(seconds, 10, 16); err == nil {
			wait = min(max(time.Duration(n)*time.Second, asyncWait), maxWait)
			w.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(wait/time.Second)))
		}
	}
	if _, ok := preference(r.Header, "respond-async"); ok {
		wait = asyncWait
		w.Header().Set("Preference-Applied", "respond-async")
	}
	return context.WithTimeout(r.Context(), wait)
}

// writeOutcome answers a commit: 200 when it is in a block, 202 while nobody knows.
func (a *api) writeOutcome(w http.ResponseWriter, r *http.Request, o layer2.Outcome) {
	answer := outcome{
		Status: o.Status.String(), Session: o.Session.String(), Height: o.Height, Time: o.Time, Steps: o.Steps, Transcript: o.Transcript.String(),
	}
	if o.TransactionHash != (wire.Digest{}) {
		answer.Transaction = o.TransactionHash.String()
	}
	status := http.StatusOK
	answer.Checkpoint = o.Checkpoint
	if o.Status == session.Committed && o.Checkpoint > 0 {
		answer.Status = statusCheckpoint
	}
	if o.Status != session.Committed {
		status = http.StatusAccepted
		answer.Detail = Committing
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Location", "/tandem/v1/sessions/"+answer.Session)
	body, err := marshal(answer)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.signOwn(w, status, body, layer2.Answer{Session: o.Session, Sequence: o.Steps, Transcript: o.Transcript})
	a.writeBytes(w, r, status, "application/json", body)
}
