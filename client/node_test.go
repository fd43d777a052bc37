package client

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// node is a Layer 2 node in a test: honest, unless tamper or lose say otherwise. Several may share one ledger of
// sessions, as peers do.
type node struct {
	t   *testing.T
	key ed25519.PrivateKey
	srv *httptest.Server
	*sessions

	mu sync.Mutex // guards the hooks
	// tamper changes an answer; see answer for when.
	tamper func(tag string, sequence uint64, a *answer)
	// lose reports whether the answer to the nth request (from 1) is lost after it was worked on.
	lose func(n int) bool
	// refuse, if it returns one, refuses a request before it is worked on.
	refuse func(n int, r *http.Request) *refusal.Refusal
	count  int
	// hang, if it returns true, lets a request wait until its client gives up.
	hang func(r *http.Request) bool
	// peers endorse each step beside this node.
	peers []ed25519.PrivateKey
	// list is what its status says about Layer 2.
	list []Layer2Node
	// uploads counts the transcripts that were taken in.
	uploads int
}

// sessions is what nodes know together.
type sessions struct {
	mu     sync.Mutex // guards all
	chain  string
	print  wire.Digest
	height int64
	open   map[wire.SessionID]*served
	// closed: no transcripts are taken in.
	closed bool
	// signatures of all signed requests that arrived, by session and position.
	signatures map[string]map[wire.Signature]bool
	// handler answers a step; nil: 200 with the request's body.
	handler func(r *wire.Request) (int, []wire.Header, []byte)
}

// served is a session at the node.
type served struct {
	status  string
	head    wire.Digest
	steps   uint64
	answers map[wire.Signature]*answer
	height  int64
}

// answer is an answer about to be sent. Fields changed by tamper are signed as changed; after runs on the signed
// headers and may return another body.
type answer struct {
	status  int
	headers []wire.Header
	body    []byte
	about   httpsig.Answer
	signer  ed25519.PrivateKey
	after   func(status *int, h http.Header, body []byte) []byte
}

func testKey(n byte) Key {
	seed := make([]byte, 32)
	seed[0] = n
	k, err := KeyFromSeed(seed)
	if err != nil {
		panic(err)
	}
	return k
}

func newSessions() *sessions {
	return &sessions{
		chain: "test-chain", print: wire.Sum([]byte("code")), height: 7,
		open: map[wire.SessionID]*served{}, signatures: map[string]map[wire.Signature]bool{},
	}
}

func startNode(t *testing.T, shared *sessions, n byte) *node {
	t.Helper()
	nd := &node{t: t, key: testKey(n).Private(), sessions: shared}
	nd.srv = httptest.NewServer(nd)
	t.Cleanup(nd.srv.Close)
	return nd
}

func (n *node) genesis(others ...*node) []byte {
	list := []string{}
	for _, nd := range append(others, n) {
		list = append(list, fmt.Sprintf(`{"key":%q,"organisation":"o"}`, wire.PublicKeyOf(nd.key).DID()))
	}
	return fmt.Appendf(nil, `{"chain_id":%q,"app_state":{"tandem":{"parameters":{"fingerprint":%q},"layer2":[%s]}}}`,
		n.chain, n.print, strings.Join(list, ","))
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	n.mu.Lock()
	n.count++
	count, refuse, lose, tamper, hang := n.count, n.refuse, n.lose, n.tamper, n.hang
	n.mu.Unlock()
	if hang != nil && hang(r) {
		<-r.Context().Done()
		return
	}
	if refuse != nil {
		if p := refuse(count, r); p != nil {
			if r.Method != http.MethodPut {
				n.note(r, body)
			}
			if p.Entry().Kind == refusal.KindOutage {
				w.Header().Set("Retry-After", "0")
			}
			p.Write(w)
			return
		}
	}
	if r.Method == http.MethodPut {
		if n.closed {
			refusal.New(refusal.NotFound, "it takes no transcripts").Write(w)
			return
		}
		n.upload(w, body)
		return
	}
	if r.URL.Path == "/tandem/v1/status" {
		_ = json.NewEncoder(w).Encode(Status{ChainID: n.chain, Fingerprint: n.print.String(), Height: n.height, Layer2: n.list})
		return
	}
	a, tag, p := n.work(r, body)
	if lose != nil && lose(count) {
		panic(http.ErrAbortHandler)
	}
	if p != nil {
		p.Write(w)
		return
	}
	if a.signer == nil {
		a.signer = n.key
	}
	if tamper != nil {
		tamper(tag, a.about.Sequence, a)
	}
	n.send(w, a)
}

// send signs and sends an answer.
func (n *node) send(w http.ResponseWriter, a *answer) {
	h := w.Header()
	h["Content-Type"] = nil
	for _, f := range a.headers {
		h.Set(f.Name, f.Value)
	}
	a.about.Status, a.about.Body = a.status, wire.Sum(a.body)
	if a.about.Session != (wire.SessionID{}) {
		httpsig.SignAnswer(a.signer, 1, a.about, h)
		var list []wire.Endorsement
		for _, key := range n.peers {
			list = append(list, endorse(key, n.chain, a.about))
		}
		httpsig.SetEndorsements(h, list)
		h.Set("Tandem-Endorsements", fmt.Sprintf("%d/%d", len(list)+1, len(list)+1))
		h.Set("Tandem-Fingerprint", n.print.String())
	} else {
		h.Set("Tandem-Height", strconv.FormatInt(a.about.Height, 10))
		h.Set("Tandem-Time", "1")
	}
	status, body := a.status, a.body
	if a.after != nil {
		body = a.after(&status, h, body)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// endorse signs that the node with this key has run the step that was answered.
func endorse(key ed25519.PrivateKey, chain string, a httpsig.Answer) wire.Endorsement {
	e := wire.Endorsement{Node: wire.PublicKeyOf(key), Height: a.Height}
	e.Signature = wire.Signature(ed25519.Sign(key, wire.EndorsementBytes(chain, a.Session, a.Sequence, a.Transcript, e.Height)))
	return e
}

// upload takes in a transcript as a node does that does not know the session.
func (n *node) upload(w http.ResponseWriter, body []byte) {
	t, err := wire.DecodeTranscript(body)
	if err == nil {
		err = httpsig.Verify(httpsig.TagOpen, &t.Open, httpsig.Place{})
	}
	if err != nil {
		n.t.Errorf("upload: %v", err)
		refusal.New(refusal.NonCanonical, "").Write(w)
		return
	}
	id := httpsig.SessionID(&t.Open)
	s := &served{status: "open", head: wire.TranscriptStart(t.Open), answers: map[wire.Signature]*answer{}}
	for _, step := range t.Steps {
		tx := step.Transaction
		if err := httpsig.Verify(httpsig.TagStep, &tx.Request, httpsig.Place{Session: id, Sequence: s.steps + 1, Transcript: s.head}); err != nil {
			n.t.Errorf("upload, step %d: %v", s.steps+1, err)
		}
		s.steps++
		s.head = wire.TranscriptNext(s.head, tx)
		if err := httpsig.VerifySeal(httpsig.Answer{
			Status: tx.Response.Status, Body: tx.Response.Body, Session: id, Sequence: s.steps, Transcript: s.head, Height: step.Height,
			Time: tx.Time, Originator: tx.Originator,
		}, step.Seal); err != nil {
			n.t.Errorf("upload, seal of step %d: %v", s.steps, err)
		}
	}
	n.sessions.mu.Lock()
	defer n.sessions.mu.Unlock()
	n.uploads++
	if known := n.open[id]; known == nil || known.steps <= s.steps {
		n.open[id] = s
	}
	w.WriteHeader(http.StatusNoContent)
}

// has returns what the node knows of a session.
func (n *node) has(s *Session) served {
	n.sessions.mu.Lock()
	defer n.sessions.mu.Unlock()
	if known := n.open[s.id]; known != nil {
		return *known
	}
	return served{}
}

// taken returns how many transcripts the node has taken in.
func (n *node) taken() int {
	n.sessions.mu.Lock()
	defer n.sessions.mu.Unlock()
	return n.uploads
}

// note remembers which signatures came for which position.
func (n *node) note(r *http.Request, body []byte) *httpsig.Parsed {
	p, err := httpsig.FromHTTP(r, body)
	if err != nil {
		n.t.Errorf("%s %s: %v", r.Method, r.RequestURI, err)
	}
	if p == nil {
		return nil
	}
	n.sessions.mu.Lock()
	defer n.sessions.mu.Unlock()
	place := fmt.Sprint(p.Place.Session, p.Place.Sequence, p.Tag == httpsig.TagOpen)
	if p.Tag == httpsig.TagOpen {
		place = fmt.Sprint("open ", p.Request.Signature)
	}
	if n.signatures[place] == nil {
		n.signatures[place] = map[wire.Signature]bool{}
	}
	n.signatures[place][p.Request.Signature] = true
	return p
}

// work does what a node does.
func (n *node) work(r *http.Request, body []byte) (*answer, string, *refusal.Refusal) {
	p := n.note(r, body)
	n.sessions.mu.Lock()
	defer n.sessions.mu.Unlock()
	if p == nil {
		return n.unsigned(r)
	}
	if p.Tag == httpsig.TagOpen {
		id := httpsig.SessionID(&p.Request)
		if n.open[id] == nil {
			n.open[id] = &served{status: "open", head: wire.TranscriptStart(p.Request), answers: map[wire.Signature]*answer{}}
		}
		return &answer{status: 201, body: []byte("{}"), about: httpsig.Answer{Session: id, Transcript: n.open[id].head, Height: n.height}}, p.Tag, nil
	}
	s := n.open[p.Place.Session]
	if s == nil {
		return nil, "", refusal.New(refusal.SessionNotFound, "")
	}
	if a := s.answers[p.Request.Signature]; a != nil {
		again := *a
		return &again, p.Tag, nil
	}
	switch {
	case s.status != "open":
		return nil, "", refusal.New(refusal.SessionClosed, "it is %s", s.status)
	case p.Place.Sequence != s.steps+1:
		return nil, "", refusal.New(refusal.WrongSequence, "next is %d", s.steps+1)
	case p.Place.Transcript != s.head:
		return nil, "", refusal.New(refusal.WrongTranscript, "")
	}
	if p.Tag == httpsig.TagCommit || r.Method == http.MethodDelete {
		return n.end(s, p), p.Tag, nil
	}
	return n.run(s, p), p.Tag, nil
}

// run runs a step.
func (n *node) run(s *served, p *httpsig.Parsed) *answer {
	a := &answer{status: 200, body: p.Request.Body}
	if n.handler != nil {
		a.status, a.headers, a.body = n.handler(&p.Request)
	}
	a.about = httpsig.Answer{Session: p.Place.Session, Sequence: s.steps, Transcript: s.head, Height: n.height, Time: time.Now().UnixMilli()}
	if a.status >= 400 {
		return a
	}
	s.steps++
	s.head = wire.TranscriptNext(s.head, wire.Transaction{
		Sequence: s.steps, Request: p.Request, Originator: wire.PublicKeyOf(n.key), Time: a.about.Time,
		Response: wire.Response{Status: a.status, Headers: a.headers, Body: wire.Sum(a.body)},
	})
	a.about.Sequence, a.about.Transcript = s.steps, s.head
	kept := *a
	kept.signer = n.key
	s.answers[p.Request.Signature] = &kept
	return a
}

// end commits or abandons.
func (n *node) end(s *served, p *httpsig.Parsed) *answer {
	s.status = "abandoned"
	if p.Tag == httpsig.TagCommit {
		s.status, s.height = "committed", n.height+1
		n.height++
	}
	body, _ := json.Marshal(Outcome{Status: s.status, Height: s.height, TransactionHash: wire.Sum(p.Request.Signature[:]).String()})
	a := &answer{status: 200, body: body, about: httpsig.Answer{
		Session: p.Place.Session, Sequence: s.steps, Transcript: s.head, Height: n.height, Time: 1,
	}}
	kept := *a
	s.answers[p.Request.Signature] = &kept
	return a
}

// unsigned answers a session's status, and a read.
func (n *node) unsigned(r *http.Request) (*answer, string, *refusal.Refusal) {
	name, ok := strings.CutPrefix(r.URL.Path, "/tandem/v1/sessions/")
	if strings.HasSuffix(name, "/receipt") {
		return &answer{status: 200, body: []byte("{}"), about: httpsig.Answer{Height: n.height}}, "receipt", nil
	}
	if !ok {
		return &answer{status: 200, body: []byte(r.Header.Get("Tandem-Min-Height")), about: httpsig.Answer{Height: n.height}}, "read", nil
	}
	id, err := wire.ParseSessionID(name)
	s := n.open[id]
	if err != nil || s == nil {
		return nil, "", refusal.New(refusal.SessionNotFound, "")
	}
	body, _ := json.Marshal(map[string]any{
		"status": s.status, "height": s.height, "transcript": s.head.String(), "transaction_hash": "abc",
	})
	return &answer{status: 200, body: body, about: httpsig.Answer{Session: id, Sequence: s.steps, Transcript: s.head, Height: n.height}}, "status", nil
}

// onePerPosition fails the test if any position of any session was signed twice.
func (s *sessions) onePerPosition(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for place, signatures := range s.signatures {
		if len(signatures) > 1 {
			t.Errorf("the client signed %d different requests for position %s", len(signatures), place)
		}
	}
}

func newClient(t *testing.T, nodes ...*node) *Client {
	t.Helper()
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.srv.URL)
	}
	c, err := New(Config{URLs: urls, Key: testKey(200), Genesis: nodes[0].genesis(nodes[1:]...), Patience: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}
