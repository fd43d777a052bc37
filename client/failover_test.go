package client

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// strangers starts nodes that know nothing of each other's sessions: what one has, the others have lost with their disks.
func strangers(t *testing.T, n int) []*node {
	t.Helper()
	var nodes []*node
	for i := range n {
		nodes = append(nodes, startNode(t, newSessions(), byte(i+1)))
	}
	return nodes
}

// TestNodeDiesBetweenSteps: at each position of a session the node that served it dies and nobody else has the session;
// the client gives the next node the transcript and goes on with the same signed bytes.
func TestNodeDiesBetweenSteps(t *testing.T) {
	const steps = 5
	for dies := range steps + 1 { // before step dies+1, or before the commit
		t.Run(fmt.Sprint(dies), func(t *testing.T) {
			nodes := strangers(t, 2)
			s := mustOpen(t, newClient(t, nodes...))
			began := time.Now()
			for i := range steps {
				if i == dies {
					nodes[0].srv.Close()
					began = time.Now()
				}
				if a := mustCall(t, s, fmt.Sprintf("/%d", i)); a.Sequence != uint64(i+1) {
					t.Fatalf("step %d has sequence %d", i+1, a.Sequence)
				}
				if i == dies {
					t.Logf("went on after %v", time.Since(began))
				}
			}
			if dies == steps {
				nodes[0].srv.Close()
			}
			if o, err := s.Commit(t.Context()); err != nil || !o.Committed() {
				t.Fatal(o, err)
			}
			if nodes[1].taken() != 1 || nodes[1].has(s).steps != steps {
				t.Errorf("%d uploads, %d steps", nodes[1].taken(), nodes[1].has(s).steps)
			}
			for _, n := range nodes {
				n.onePerPosition(t)
			}
		})
	}
}

// TestNodeHangs: a node that takes requests and says nothing costs the hedge, not the patience, in each kind of request.
func TestNodeHangs(t *testing.T) {
	for name, hangs := range map[string]func(*http.Request) bool{
		"open":   func(r *http.Request) bool { return r.URL.Path == "/tandem/v1/sessions" },
		"status": func(r *http.Request) bool { return r.URL.Path == "/tandem/v1/status" },
		"step":   func(r *http.Request) bool { return r.URL.Path == "/x" },
		"commit": func(r *http.Request) bool { return r.Method == "POST" && r.URL.Path != "/x" && len(r.URL.Path) > 30 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shared := newSessions()
			hung, alive := startNode(t, shared, 1), startNode(t, shared, 2)
			met := make(chan bool, 100)
			hung.hang = func(r *http.Request) bool {
				h := hangs(r)
				if h {
					met <- true
				}
				return h
			}
			c := newClient(t, hung, alive)
			c.hedge = 500 * time.Millisecond // no node that is alive takes as long, on a busy machine either
			s := mustOpen(t, c)
			mustCall(t, s, "/x")
			if o, err := s.Commit(t.Context()); err != nil || !o.Committed() {
				t.Fatal(o, err)
			}
			if len(met) != 1 {
				t.Errorf("the hung node was asked %d times; once is enough to leave it", len(met))
			}
			if c.URL() != alive.srv.URL {
				t.Error("the client does not stay with the node that answers")
			}
			shared.onePerPosition(t)
		})
	}
}

// TestSlowNodeIsHeard: asking a second node does not take the first one's word away: whoever answers first is believed.
func TestSlowNodeIsHeard(t *testing.T) {
	nodes := strangers(t, 2)
	answering := make(chan struct{})
	nodes[0].handler = func(*wire.Request) (int, []wire.Header, []byte) { <-answering; return 200, nil, []byte("slow") }
	nodes[1].hang = func(r *http.Request) bool {
		if r.URL.Path == "/x" {
			close(answering) // the second is asked: now the first one answers
			return true
		}
		return false
	}
	c := newClient(t, nodes...)
	c.hedge = 10 * time.Millisecond
	s := mustOpen(t, c)
	if a := mustCall(t, s, "/x"); string(a.Body) != "slow" || a.Originator != wire.PublicKeyOf(nodes[0].key).DID() {
		t.Errorf("%+v", a)
	}
}

// TestTwoVariants: two nodes answer one signed step, each as its originator. The client goes on from the answer that it
// took first, and brings the other node to it.
func TestTwoVariants(t *testing.T) {
	nodes := strangers(t, 2)
	c := newClient(t, nodes...)
	s := mustOpen(t, c)
	mustCall(t, s, "/one")
	// The first node works on step 2, and its answer is lost; then it is out of reach for a while.
	nodes[0].mu.Lock()
	first := nodes[0].count
	nodes[0].lose = func(n int) bool { return n == first+1 }
	nodes[0].refuse = func(n int, _ *http.Request) *refusal.Refusal {
		if n > first+1 && n < first+4 {
			return refusal.New(refusal.Overloaded, "")
		}
		return nil
	}
	nodes[0].mu.Unlock()
	if a := mustCall(t, s, "/two"); a.Originator != wire.PublicKeyOf(nodes[1].key).DID() {
		t.Fatalf("answered by %s", a.Originator)
	}
	if a, b := nodes[0].has(s), nodes[1].has(s); a.steps != 2 || b.steps != 2 || a.head == b.head {
		t.Fatalf("no two variants: %+v %+v", a, b)
	}
	nodes[1].srv.Close()
	if a := mustCall(t, s, "/three"); a.Sequence != 3 || a.Originator != wire.PublicKeyOf(nodes[0].key).DID() {
		t.Fatalf("%+v", a)
	}
	if nodes[0].taken() != 1 {
		t.Errorf("%d uploads", nodes[0].taken())
	}
	if o, err := s.Commit(t.Context()); err != nil || !o.Committed() {
		t.Fatal(o, err)
	}
	nodes[0].onePerPosition(t)
}

// TestTranscriptMissing: a node that has only part of the session says so and is given the rest.
func TestTranscriptMissing(t *testing.T) {
	nodes := strangers(t, 2)
	c := newClient(t, nodes...)
	s := mustOpen(t, c)
	mustCall(t, s, "/one")
	missing := true
	nodes[1].mu.Lock()
	nodes[1].refuse = func(_ int, r *http.Request) *refusal.Refusal {
		if r.Method == http.MethodPut {
			missing = false
		}
		if missing {
			return refusal.New(refusal.TranscriptMissing, "step 1")
		}
		return nil
	}
	nodes[1].mu.Unlock()
	nodes[0].srv.Close()
	if a := mustCall(t, s, "/two"); a.Sequence != 2 || nodes[1].taken() != 1 {
		t.Errorf("%+v, %d uploads", a, nodes[1].taken())
	}
}

// TestResumedSessionFailsOver: what is saved is enough for another process to go on at another node.
func TestResumedSessionFailsOver(t *testing.T) {
	nodes := strangers(t, 2)
	nodes[0].peers = []ed25519.PrivateKey{nodes[1].key}
	nodes[0].list = []Layer2Node{{Key: wire.PublicKeyOf(nodes[1].key).DID(), URL: nodes[1].srv.URL}}
	c, err := New(Config{URLs: []string{nodes[0].srv.URL}, Key: testKey(200), Genesis: nodes[0].genesis(nodes[1])})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	s := mustOpen(t, c)
	mustCall(t, s, "/one")
	file, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	nodes[0].srv.Close()
	// The other process knows only the dead node; the saved session knows the other one.
	c, err = New(Config{URLs: []string{nodes[0].srv.URL}, Key: testKey(200), Genesis: nodes[0].genesis(nodes[1])})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	if s, err = c.Resume(file); err != nil {
		t.Fatal(err)
	}
	if e := s.Endorsements(); len(e) != 1 || len(e[0]) != 2 || e[0][1].Node != wire.PublicKeyOf(nodes[1].key).DID() {
		t.Errorf("endorsements %v", e)
	}
	mustCall(t, s, "/two")
	if o, err := s.Commit(t.Context()); err != nil || !o.Committed() {
		t.Fatal(o, err)
	}
}

// TestLearnedNodes: only nodes of the Layer 2 list are learned from a status, and only what can be asked.
func TestLearnedNodes(t *testing.T) {
	nodes := strangers(t, 3)
	did := func(n *node) string { return wire.PublicKeyOf(n.key).DID() }
	nodes[0].list = []Layer2Node{
		{Key: did(nodes[1]), URL: nodes[1].srv.URL}, {Key: did(nodes[2]), URL: nodes[2].srv.URL}, {Key: did(nodes[1]), URL: "file:///etc"},
		{Key: did(nodes[1])}, {Key: "did:key:zNoKey", URL: "http://elsewhere"}, {Key: did(nodes[0]), URL: nodes[0].srv.URL},
	}
	c, err := New(Config{URLs: []string{nodes[0].srv.URL}, Key: testKey(200), Genesis: nodes[0].genesis(nodes[1])})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(c.URLs()), fmt.Sprint([]string{nodes[0].srv.URL, nodes[1].srv.URL}); got != want {
		t.Errorf("knows %s, want %s", got, want)
	}
	for i := range 3 * maxNodes {
		c.nodes.add(fmt.Sprintf("http://node%d", i))
	}
	if n := len(c.URLs()); n != maxNodes {
		t.Errorf("knows %d nodes", n)
	}
}

// TestFalseEndorsements: each way to claim an endorsement that was not given is an *AnswerError, and the session goes on
// at an honest node.
func TestFalseEndorsements(t *testing.T) {
	peer, stranger := testKey(2).Private(), testKey(9).Private()
	change := func(f func(a httpsig.Answer, h http.Header)) func(string, uint64, *answer) {
		return func(tag string, _ uint64, a *answer) {
			if tag != httpsig.TagStep {
				return
			}
			a.after = func(_ *int, h http.Header, body []byte) []byte {
				f(a.about, h)
				return body
			}
		}
	}
	set := func(h http.Header, e ...wire.Endorsement) {
		httpsig.SetEndorsements(h, e)
		h.Set("Tandem-Endorsements", fmt.Sprintf("%d/2", len(e)+1))
	}
	for name, tamper := range map[string]func(string, uint64, *answer){
		"claimed, not proved": change(func(_ httpsig.Answer, h http.Header) { h.Set("Tandem-Endorsements", "2/2") }),
		"no numbers":          change(func(_ httpsig.Answer, h http.Header) { h.Set("Tandem-Endorsements", "all") }),
		"no list":             change(func(_ httpsig.Answer, h http.Header) { h.Set(httpsig.HeaderEndorsement, "(((") }),
		"by a stranger":       change(func(a httpsig.Answer, h http.Header) { set(h, endorse(stranger, "test-chain", a)) }),
		"signed by another": change(func(a httpsig.Answer, h http.Header) {
			e := endorse(stranger, "test-chain", a)
			e.Node = wire.PublicKeyOf(peer)
			set(h, e)
		}),
		"of another step": change(func(a httpsig.Answer, h http.Header) {
			a.Sequence--
			set(h, endorse(peer, "test-chain", a))
		}),
		"of another answer": change(func(a httpsig.Answer, h http.Header) {
			a.Transcript[0] ^= 1
			set(h, endorse(peer, "test-chain", a))
		}),
		"of another session": change(func(a httpsig.Answer, h http.Header) {
			a.Session[0] ^= 1
			set(h, endorse(peer, "test-chain", a))
		}),
		"of another chain": change(func(a httpsig.Answer, h http.Header) { set(h, endorse(peer, "other-chain", a)) }),
		"on an older state": change(func(a httpsig.Answer, h http.Header) {
			a.Height--
			set(h, endorse(peer, "test-chain", a))
		}),
		"another height than signed": change(func(a httpsig.Answer, h http.Header) {
			e := endorse(peer, "test-chain", a)
			e.Height++
			set(h, e)
		}),
		"counted twice": change(func(a httpsig.Answer, h http.Header) {
			e := endorse(peer, "test-chain", a)
			set(h, e, e)
		}),
		"the originator counted twice": change(func(a httpsig.Answer, h http.Header) {
			set(h, endorse(testKey(1).Private(), "test-chain", a))
		}),
	} {
		t.Run(name, func(t *testing.T) {
			shared := newSessions()
			liar, honest := startNode(t, shared, 1), startNode(t, shared, 2)
			c := newClient(t, liar, honest)
			s := mustOpen(t, c)
			liar.tamper = tamper
			_, err := s.Call(t.Context(), "POST", "/x", "", nil)
			var lie *AnswerError
			if !errors.As(err, &lie) || lie.Field != "endorsements" || lie.URL != liar.srv.URL {
				t.Fatalf("error %v, want an AnswerError about endorsements", err)
			}
			if s.Sequence() != 0 {
				t.Error("an answer that was not believed counts as a step")
			}
			if a, err := s.Call(t.Context(), "POST", "/x", "", nil); err != nil || a.Sequence != 1 {
				t.Errorf("the honest node: %+v %v", a, err)
			}
			shared.onePerPosition(t)
		})
	}
}

// TestRequireEndorsements: an answer with fewer endorsements than the client's policy asks for is not used; the same step is
// asked for again until there are enough, or time is over.
func TestRequireEndorsements(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	peer := startNode(t, newSessions(), 2)
	c := newClient(t, n, peer)
	c.require = 2
	c.nodes = ring{urls: []string{n.srv.URL}}
	s := mustOpen(t, c)
	asked := 0
	n.hang = func(r *http.Request) bool {
		if r.URL.Path == "/x" {
			if asked++; asked == 3 {
				n.peers = []ed25519.PrivateKey{peer.key}
			}
		}
		return false
	}
	a := mustCall(t, s, "/x")
	if asked != 3 || a.Endorsed != 2 || a.Of != 2 || len(a.Endorsers) != 2 || a.Endorsers[1].Node != wire.PublicKeyOf(peer.key).DID() {
		t.Errorf("asked %d times: %+v", asked, a)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n.peers, asked = nil, 0
	n.hang = func(r *http.Request) bool {
		if r.URL.Path == "/y" {
			if asked++; asked == 2 { // the first answer had too few
				cancel()
				return true
			}
		}
		return false
	}
	_, err := s.Call(ctx, "POST", "/y", "", nil)
	var few *EndorsementError
	if !errors.As(err, &few) || few.Want != 2 || few.Got != 1 {
		t.Fatalf("error %v, want an EndorsementError", err)
	}
	mustYet(t, s, "/z")
	n.hang = nil
	n.peers = []ed25519.PrivateKey{peer.key}
	if a := mustCallBody(t, s, "/y", nil); a.Sequence != 2 || a.Endorsed != 2 {
		t.Errorf("%+v", a)
	}
	n.handler = func(*wire.Request) (int, []wire.Header, []byte) { return 409, nil, nil }
	n.peers = nil
	if a := mustCallBody(t, s, "/no", nil); a.Recorded {
		t.Errorf("a step that is not recorded needs no endorsement: %+v", a)
	}
	n.onePerPosition(t)
}

func mustCallBody(t *testing.T, s *Session, target string, body []byte) *Answer {
	t.Helper()
	a, err := s.Call(t.Context(), "POST", target, "", body)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	return a
}

// TestCommitAnswerLostWithItsNode: the node that took the commit dies before it answers; any other node tells the outcome.
func TestCommitAnswerLostWithItsNode(t *testing.T) {
	shared := newSessions()
	first, second := startNode(t, shared, 1), startNode(t, shared, 2)
	s := mustOpen(t, newClient(t, first, second))
	mustCall(t, s, "/x")
	first.lose = func(int) bool {
		shared.mu.Lock()
		clear(shared.open[s.id].answers) // the second node does not know the answer, only what the block said
		shared.mu.Unlock()
		go first.srv.Listener.Close()
		return true
	}
	o, err := s.Commit(t.Context())
	if err != nil || !o.Committed() || o.Height != 8 {
		t.Errorf("%+v %v", o, err)
	}
	shared.onePerPosition(t)
}

// TestUploadRefused: when a node says why it does not take the transcript, that is the answer.
func TestUploadRefused(t *testing.T) {
	nodes := strangers(t, 2)
	s := mustOpen(t, newClient(t, nodes...))
	mustCall(t, s, "/one")
	nodes[0].srv.Close()
	nodes[1].refuse = func(_ int, r *http.Request) *refusal.Refusal {
		if r.Method == http.MethodPut {
			return refusal.New(refusal.ResponseDiffers, "step 1").With("step", 1)
		}
		return nil
	}
	_, err := s.Call(t.Context(), "POST", "/two", "", nil)
	var p *Problem
	if !errors.As(err, &p) || p.Code != "response-differs" {
		t.Errorf("%v", err)
	}
}
