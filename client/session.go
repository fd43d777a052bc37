package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/wire"
	"tandem/receipt"
)

// The states of a session as its client knows them; the names are the network's.
const (
	statusOpen       = "open"
	statusCommitting = "committing"
	statusCommitted  = "committed"
	statusConflicted = "conflicted"
	statusAbandoned  = "abandoned"
	statusExpired    = "expired"
)

// Session is a session that this client opened: its signed requests, the answers' digests, and the transcript head over
// both. Its methods take turns; a session's steps go one after the other in any case.
type Session struct {
	c    *Client
	save func([]byte) error

	mu      sync.Mutex // guards everything below
	open    wire.Request
	body    wire.OpenBody
	id      wire.SessionID
	steps   []wire.Transaction // the recorded ones
	proofs  []proof            // of steps, one each: what another node needs to go on
	anyNode bool               // any node is believed; the receipt proves what was answered
	head    wire.Digest
	height  int64 // of the newest recorded answer: nodes must have got as far to go on
	opened  bool  // a node has answered the opening request
	status  string
	outcome Outcome
	pending *pending
	few     int // answers to the pending step with too few endorsements
	witness witness
	held    int       // steps that were handed over in a checkpoint
	oldest  time.Time // when the oldest other step was made
}

// pending is a signed request that has no checked answer.
type pending struct {
	parsed  httpsig.Parsed
	refused bool // a node refused it; otherwise its outcome is unknown
}

// OpenOption changes how a session is opened or resumed.
type OpenOption func(*openOptions)

type openOptions struct {
	life       time.Duration
	supersedes string
	save       func([]byte) error
	anyNode    bool
}

// WithLife sets how long the session may live. Default 15 minutes; the ledger's parameters bound it.
func WithLife(d time.Duration) OpenOption { return func(o *openOptions) { o.life = d } }

// Superseding makes the session take the place of another, most often a conflicted one: of the two only one can be
// committed.
func Superseding(session string) OpenOption { return func(o *openOptions) { o.supersedes = session } }

// WithSave has save called with what Marshal gives before each request is sent and after each answer, so that a
// program that dies in between can Resume and never signs a second request for one position. An error of save ends the
// call before anything is sent.
func WithSave(save func([]byte) error) OpenOption { return func(o *openOptions) { o.save = save } }

// defaultLife is how long a session may live unless WithLife says otherwise.
const defaultLife = 15 * time.Minute

// errNoKey says that a client without a key was asked to sign.
var errNoKey = errors.New("client: no key to sign with")

// Open opens a session. The chain and the service's fingerprint are what the node says, checked against the genesis file
// if there is one: from here on every signature covers them.
func (c *Client) Open(ctx context.Context, opts ...OpenOption) (*Session, error) {
	if c.key.IsZero() {
		return nil, errNoKey
	}
	o := openOptions{life: defaultLife}
	for _, opt := range opts {
		opt(&o)
	}
	body, err := c.openBody(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &Session{c: c, save: o.save, body: body, status: statusOpen, anyNode: o.anyNode}
	s.open = wire.Request{
		Method: http.MethodPost, Path: "/tandem/v1/sessions", ContentType: "application/json", Body: body.JSON(), Created: c.clock().Unix(),
	}
	httpsig.Sign(c.key.private, httpsig.TagOpen, &s.open, httpsig.Place{})
	s.id = httpsig.SessionID(&s.open)
	s.head = wire.TranscriptStart(s.open)
	if err := s.keep(); err != nil {
		return nil, err
	}
	if err := s.send(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// send sends the opening request until it is answered. The same request again gets the same answer.
func (s *Session) send(ctx context.Context) error {
	rep, err := s.c.exchange(ctx, call{signed: &httpsig.Parsed{Tag: httpsig.TagOpen, Request: s.open}, least: s.c.seen.least(), seen: true})
	if err != nil {
		return err
	}
	if p := rep.problem(); p != nil {
		s.c.network.Store(nil) // it may be another network by now
		return p
	}
	return s.checkOpened(rep)
}

// openBody makes the body of an opening request.
func (c *Client) openBody(ctx context.Context, o openOptions) (wire.OpenBody, error) {
	about, err := c.about(ctx)
	if err != nil {
		return wire.OpenBody{}, err
	}
	body := wire.OpenBody{ChainID: about.chainID, ExpiresAt: c.clock().Add(o.life).UnixMilli()}
	if err := wire.CheckChainID(about.chainID); err != nil {
		return body, &AnswerError{Field: "chain_id", Want: "a chain id", Got: about.chainID, URL: c.URL()}
	}
	if body.Fingerprint, err = wire.ParseDigest(about.fingerprint); err != nil {
		return body, &AnswerError{Field: "fingerprint", Want: "64 hex digits", Got: about.fingerprint, URL: c.URL()}
	}
	if g := c.genesis; g != nil && g.fingerprint != (wire.Digest{}) && g.fingerprint != body.Fingerprint {
		return body, &AnswerError{Field: "fingerprint", Want: g.fingerprint.String(), Got: about.fingerprint, URL: c.URL()}
	}
	if o.supersedes != "" {
		id, err := wire.ParseSessionID(o.supersedes)
		if err != nil {
			return body, err
		}
		body.Supersedes = &id
	}
	_, err = rand.Read(body.Nonce[:])
	return body, err
}

// checkOpened verifies the answer to the opening request.
func (s *Session) checkOpened(rep *reply) error {
	if rep.status != http.StatusCreated {
		return rep.lie("status", "201", fmt.Sprint(rep.status))
	}
	a, err := s.checkSigned(rep)
	if err != nil {
		return err
	}
	if a.Sequence != 0 {
		return rep.lie("sequence", "0", fmt.Sprint(a.Sequence))
	}
	if a.Transcript != s.head {
		return rep.lie("transcript", s.head.String(), a.Transcript.String())
	}
	s.opened = true // its height is one node's word, and nothing depends on it
	return s.keep()
}

// ID is the session's id.
func (s *Session) ID() string { return s.id.String() }

// Expires is when the session can no longer be committed.
func (s *Session) Expires() time.Time { return time.UnixMilli(s.body.ExpiresAt).UTC() }

// Status is the session's state as far as this client knows: open, committing, committed, conflicted, abandoned, expired.
func (s *Session) Status() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Sequence is the number of recorded steps; Transcript the head over them, 64 hex digits.
func (s *Session) Sequence() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(len(s.steps))
}

// Transcript is the transcript head over all recorded steps, 64 hex digits.
func (s *Session) Transcript() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head.String()
}

// Outcome is what the last commit told.
func (s *Session) Outcome() Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outcome
}

// Call makes the next step: method and target (path and query) of a service route, content type ("" is
// application/json) and body. A handler's 4xx is an Answer that is not Recorded; the session stands where it stood.
//
// After an error other than a *Problem the step's outcome is unknown: the same Call again sends the same signed bytes and gets
// the one answer. Any other Call is then refused with *PendingError.
func (s *Session) Call(ctx context.Context, method, target, contentType string, body []byte) (*Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return nil, err
	}
	if contentType == "" {
		contentType = "application/json"
	}
	if !s.opened { // the program died before the answer came
		if err := s.send(ctx); err != nil {
			return nil, err
		}
	}
	path, query, _ := strings.Cut(target, "?")
	if s.pending.checkpoint() {
		s.pending = nil
	}
	if p := s.pending; p != nil {
		if p.parsed.Tag != httpsig.TagStep || !sameRequest(&p.parsed.Request, method, path, query, contentType, body) {
			return nil, s.pendingError()
		}
		return s.endorsed(ctx)
	}
	if err := checkCall(target, path); err != nil {
		return nil, err
	}
	request := wire.Request{
		Method: method, Path: path, Query: query, ContentType: contentType, Body: body, Created: s.c.clock().Unix(),
	}
	if err := request.Check(); err != nil {
		return nil, err
	}
	s.sign(httpsig.TagStep, request)
	if err := s.keep(); err != nil {
		s.pending = nil // nothing was sent
		return nil, err
	}
	return s.endorsed(ctx)
}

// checkCall refuses what is no step: nodes would not run it in a session.
func checkCall(target, path string) error {
	if err := checkTarget(target); err != nil {
		return err
	}
	if !strings.HasPrefix(path, "/tandem/") {
		return nil
	}
	for _, ours := range []string{"/tandem/v1/actors", "/tandem/v1/layer2"} {
		if path == ours || strings.HasPrefix(path, ours+"/") {
			return nil
		}
	}
	return fmt.Errorf("%s is no service route and no step; of the framework's routes only /tandem/v1/actors and /tandem/v1/layer2 are", path)
}

// sign makes the request for the session's next position pending.
func (s *Session) sign(tag string, request wire.Request) {
	p := &pending{parsed: httpsig.Parsed{Tag: tag, Request: request, Place: s.next()}}
	httpsig.Sign(s.c.key.private, tag, &p.parsed.Request, p.parsed.Place)
	s.pending = p
}

// next is the position of the session's next request.
func (s *Session) next() httpsig.Place {
	return httpsig.Place{Session: s.id, Sequence: uint64(len(s.steps)) + 1, Transcript: s.head}
}

// step sends the pending step until it is answered.
func (s *Session) step(ctx context.Context) (*Answer, error) {
	p := s.pending
	rep, err := s.c.exchange(ctx, s.request(&p.parsed))
	if err != nil {
		return nil, err
	}
	if problem := rep.problem(); problem != nil {
		p.refused = true
		if status, ok := s.ask(ctx, problem); ok && over(status) {
			return nil, either(s.ended(status), problem)
		}
		s.c.nodes.leave(rep.url) // nobody signs a refusal: the same call may do better elsewhere
		return nil, either(s.keep(), problem)
	}
	answer, tx, head, err := s.checkStep(&p.parsed, rep)
	if err != nil {
		s.c.nodes.leave(rep.url) // the same call asks another node first
		return nil, err
	}
	if err := s.c.enough(answer); err != nil {
		// An answer that is stored says nothing of the session, which may be over at this node: then no one will endorse it.
		if s.few++; s.few > len(s.c.nodes.inOrder()) { // nor did anybody else
			if status, ok := s.standing(ctx); ok && over(status) && status != statusCommitted {
				return nil, either(s.ended(status), &EndedError{Status: status})
			}
		}
		s.c.nodes.leave(rep.url) // it may be cut off, or keep the step to itself: another node may do better
		return nil, err
	}
	if tx != nil {
		s.steps = append(s.steps, *tx)
		s.proofs = append(s.proofs, answer.proof)
		s.height = answer.Height
	}
	s.head, s.pending, s.few = head, nil, 0
	if err := s.keep(); err != nil {
		return answer, err
	}
	if tx != nil {
		s.byPolicy(ctx)
	}
	return answer, nil
}

// Withdraw forgets a request that a node refused, so that another can be made in its place. A request whose outcome is
// unknown cannot be withdrawn: *PendingError.
func (s *Session) Withdraw() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending == nil {
		return nil
	}
	if !s.pending.refused {
		return s.pendingError()
	}
	s.pending = nil
	return s.keep()
}

// usable refuses calls of a session that is over.
func (s *Session) usable() error {
	if s.c.key.IsZero() {
		return errNoKey
	}
	if s.status != statusOpen {
		return &EndedError{Status: s.status}
	}
	return nil
}

// pendingError describes the pending request.
func (s *Session) pendingError() *PendingError {
	r := &s.pending.parsed.Request
	target := r.Path
	if r.Query != "" {
		target += "?" + r.Query
	}
	return &PendingError{Method: r.Method, Target: target, Refused: s.pending.refused}
}

// Abandon gives the session up. If a step's outcome is unknown, that is found out first. Abandoning a session that is
// abandoned is no error.
func (s *Session) Abandon(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status == statusAbandoned {
		return nil
	}
	if err := s.usable(); err != nil {
		return err
	}
	target := "/tandem/v1/sessions/" + s.id.String()
	if p := s.pending; p != nil && p.parsed.Request.Method+p.parsed.Request.Path != http.MethodDelete+target {
		if p.parsed.Tag == httpsig.TagStep && !p.refused {
			var problem *Problem
			if _, err := s.step(ctx); err != nil && !errors.As(err, &problem) {
				return err
			}
		}
		s.pending = nil
	}
	if s.pending == nil {
		s.sign(httpsig.TagStep, wire.Request{
			Method: http.MethodDelete, Path: target, ContentType: "application/json", Created: s.c.clock().Unix(),
		})
		if err := s.keep(); err != nil {
			return err
		}
	}
	rep, err := s.c.exchange(ctx, s.request(&s.pending.parsed))
	if err != nil {
		return err
	}
	if p := rep.problem(); p != nil {
		if status, ok := s.ask(ctx, p); ok && status == statusAbandoned {
			return s.ended(statusAbandoned)
		}
		return p
	}
	if _, err := s.checkSigned(rep); err != nil {
		return err
	}
	return s.ended(statusAbandoned)
}

// over reports whether a session in this state takes no more requests.
func over(status string) bool { return status != statusOpen && status != statusCommitting }

// either is err, or otherwise if there is none.
func either(err, otherwise error) error {
	if err != nil {
		return errors.Join(otherwise, err)
	}
	return otherwise
}

// ended notes that the session is over.
func (s *Session) ended(status string) error {
	s.status, s.pending = status, nil
	return s.keep()
}

// Commit signs the transcript head, hands the session to Layer 1 and waits until it is in a block. If ctx or the
// client's patience ends first, the Outcome is "committing" if a node said so, and the error says what was missing; call again to
// go on waiting. A conflict is a *Problem.
func (s *Session) Commit(ctx context.Context) (Outcome, error) { return s.commit(ctx, false) }

// CommitAsync hands the session to Layer 1 and does not wait for a block: the Outcome is most often "committing".
func (s *Session) CommitAsync(ctx context.Context) (Outcome, error) { return s.commit(ctx, true) }

func (s *Session) commit(ctx context.Context, async bool) (Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status == statusCommitted {
		return s.outcome, nil
	}
	if s.status != statusCommitting {
		if err := s.usable(); err != nil {
			return Outcome{}, err
		}
	}
	if s.pending.checkpoint() {
		s.pending = nil // the commit holds its steps too
	}
	if p := s.pending; p != nil && p.parsed.Tag != httpsig.TagCommit {
		return Outcome{}, s.pendingError()
	}
	if s.pending == nil {
		s.sign(httpsig.TagCommit, wire.Request{
			Method: http.MethodPost, Path: "/tandem/v1/sessions/" + s.id.String() + "/commit", ContentType: "application/json",
			Body: []byte("{}"), Created: s.c.clock().Unix(),
		})
		if err := s.keep(); err != nil {
			s.pending = nil // nothing was sent
			return Outcome{}, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.c.patience)
	defer cancel()
	for {
		what := s.request(&s.pending.parsed)
		what.async, what.wait = async, !async
		rep, err := s.c.exchange(ctx, what)
		if err != nil {
			return s.outcome, err
		}
		if err := s.settle(ctx, rep); err != nil || async || s.outcome.Committed() {
			return s.outcome, err
		}
		if err := sleep(ctx, max(rep.pause()/4, firstBackoff)); err != nil {
			return s.outcome, fmt.Errorf("the session is in no block yet: %w", err)
		}
	}
}

// settle takes in the answer to a commit.
func (s *Session) settle(ctx context.Context, rep *reply) error {
	if p := rep.problem(); p != nil {
		status, ok := s.ask(ctx, p)
		switch {
		case ok && status == statusCommitted:
			return s.ended(statusCommitted) // the answer of an earlier attempt was lost
		case ok && status == statusCommitting:
			s.outcome, s.status = Outcome{Status: statusCommitting}, statusCommitting
			return s.keep()
		case ok && over(status):
			return either(s.ended(status), p)
		}
		s.pending.refused = true
		s.c.nodes.leave(rep.url) // nobody signs a refusal: the same call may do better elsewhere
		return either(s.keep(), p)
	}
	a, err := s.checkSigned(rep)
	if err != nil {
		return err
	}
	if a.Transcript != s.head {
		return rep.lie("transcript", s.head.String(), a.Transcript.String())
	}
	if a.Sequence != uint64(len(s.steps)) {
		return rep.lie("sequence", fmt.Sprint(len(s.steps)), fmt.Sprint(a.Sequence))
	}
	var o Outcome
	if err := json.Unmarshal(rep.body, &o); err != nil {
		return rep.lie("body", "the commit's outcome as JSON", err.Error())
	}
	switch {
	case rep.status == http.StatusOK && o.Status == statusCommitted && o.Height > 0:
		s.outcome = o
		s.c.seen.saw(o.Height, rep.url)
		return s.ended(statusCommitted)
	case rep.status == http.StatusAccepted && o.Status == statusCommitting:
		s.outcome, s.status = o, statusCommitting
		return s.keep()
	}
	return rep.lie("status", "200 committed or 202 committing", fmt.Sprintf("%d %s", rep.status, o.Status))
}

// ask finds out what became of the session after a refusal that says it is over or settled already. It sets the outcome
// of one that is committed. ok is false if p is another refusal or nobody can tell.
func (s *Session) ask(ctx context.Context, p *Problem) (status string, ok bool) {
	switch refusal.Code(p.Code) {
	case refusal.AlreadySettled, refusal.SessionClosed, refusal.SessionExpired, refusal.SessionBusy, refusal.Conflict,
		refusal.Superseded, refusal.ResponseDiffers:
	default:
		return "", false
	}
	return s.standing(ctx)
}

// standing asks for the session's state, the node first that answered last. It sets the outcome of one that is committed. ok is
// false if nobody can tell.
func (s *Session) standing(ctx context.Context) (status string, ok bool) {
	rep, err := s.c.fetch(ctx, "/tandem/v1/sessions/"+s.id.String())
	if err != nil {
		return "", false
	}
	if _, err := s.checkSigned(rep); err != nil {
		return "", false
	}
	var about struct {
		Status      string `json:"status"`
		Height      int64  `json:"height"`
		Transaction string `json:"transaction_hash"`
		Time        int64  `json:"block_time_ms"`
		Transcript  string `json:"transcript"`
		Elsewhere   bool   `json:"elsewhere"`
	}
	if json.Unmarshal(rep.body, &about) != nil {
		return "", false
	}
	switch about.Status {
	case statusCommitted:
		if !about.Elsewhere && about.Transcript != s.head.String() {
			return "", false // another history than ours: the refusal stands
		}
		s.outcome = Outcome{Status: statusCommitted, Height: about.Height, TransactionHash: about.Transaction, Time: about.Time}
		s.c.seen.saw(about.Height, rep.url)
	case statusOpen, statusCommitting, statusConflicted, statusAbandoned, statusExpired:
	default:
		return "", false
	}
	return about.Status, true
}

// Receipt fetches the receipt of this session once it is committed, and verifies that it is about exactly the requests
// and answers that this client saw. genesis is the genesis file; nil is the client's own.
func (s *Session) Receipt(ctx context.Context, genesis []byte) ([]byte, *receipt.Proof, error) {
	if genesis == nil && s.c.genesis != nil {
		genesis = s.c.genesis.file
	}
	rep, err := s.c.fetch(ctx, "/tandem/v1/sessions/"+s.id.String()+"/receipt")
	if err != nil {
		return nil, nil, err
	}
	if genesis == nil {
		return nil, nil, errors.New("client: no genesis file to verify the receipt with")
	}
	proof, err := s.Verify(genesis, rep.body)
	if err != nil {
		return nil, nil, rep.lie("receipt", "one of this session that verifies", err.Error())
	}
	return rep.body, proof, nil
}

// Verify checks, offline, that a receipt proves the commit of this session with exactly the requests and answers that
// this client saw.
func (s *Session) Verify(genesis, file []byte) (*receipt.Proof, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	proof, err := receipt.Verify(genesis, file)
	if err != nil {
		return nil, err
	}
	if proof.Session != s.id.String() {
		return nil, fmt.Errorf("the receipt is of session %s, not of %s", proof.Session, s.id)
	}
	if proof.Transcript != s.head.String() {
		return nil, fmt.Errorf("the receipt proves another transcript, %s, than the one seen, %s", proof.Transcript, s.head)
	}
	return proof, nil
}
