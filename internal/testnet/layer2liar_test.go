package testnet_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"tandem/client"
	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/testnet"
	"tandem/internal/wire"
)

// lying makes three Layer 2 nodes of which node 0 lies, all up.
func lying(t *testing.T, lie func(w *simulation, n *simNode) testnet.Layer2Lie) *simulation {
	t.Helper()
	w := newSimulation(t, 3, 2)
	t.Cleanup(w.close)
	w.nodes[0].lie = lie(w, w.nodes[0])
	for _, n := range w.nodes {
		n.start()
	}
	w.connected()
	return w
}

func simply(lie testnet.Layer2Lie) func(*simulation, *simNode) testnet.Layer2Lie {
	return func(*simulation, *simNode) testnet.Layer2Lie { return lie }
}

func simID(t *testing.T, s *client.Session) wire.SessionID {
	t.Helper()
	id, err := wire.ParseSessionID(s.ID())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// add makes a step that must be answered with n.
func add(t *testing.T, s *client.Session, want string) *client.Answer {
	t.Helper()
	a, err := s.Call(t.Context(), "POST", "/add/a", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(a.Body) != want {
		t.Fatalf("answered %s, want %s", a.Body, want)
	}
	return a
}

func open(t *testing.T, c *client.Client) *client.Session {
	t.Helper()
	s, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// commits commits a session and holds the ledger to it.
func commits(t *testing.T, w *simulation, s *client.Session) {
	t.Helper()
	if o, err := s.Commit(t.Context()); err != nil || !o.Committed() {
		t.Fatalf("commit: %+v, %v", o, err)
	}
	rec, ok, err := ledger.SettledOf(w.chain.store.Latest(), simID(t, s))
	if err != nil || !ok || rec.Head.String() != s.Transcript() {
		t.Fatalf("the ledger has %+v, %v, %v; the client saw %s", rec, ok, err, s.Transcript())
	}
}

const one, two = `{"n":1,"by":"actor0"}`, `{"n":2,"by":"actor0"}`

// A forged body is not what the node has signed: the client says so and the same call gets the true answer elsewhere.
func TestLieForgedBody(t *testing.T) {
	w := lying(t, simply(testnet.ForgeBody()))
	s := open(t, w.client(0, 0, 1, 5*time.Second))
	_, err := s.Call(t.Context(), "POST", "/add/a", "", nil)
	var lie *client.AnswerError
	if !errors.As(err, &lie) || lie.Field != "body" || lie.URL != w.nodes[0].url() {
		t.Fatalf("the client said %v", err)
	}
	add(t, s, one)
	commits(t, w, s)
}

// An invented answer with the liar's own signature cannot be told from a true one by itself. A client that asks for two
// endorsements does not take it, and gets the true answer elsewhere.
func TestLieForgedAnswerIsNotEndorsed(t *testing.T) {
	w := lying(t, func(_ *simulation, n *simNode) testnet.Layer2Lie { return testnet.ForgeAnswer(n.key) })
	s := open(t, w.client(0, 0, 2, 5*time.Second))
	if a := add(t, s, one); a.Originator == w.nodes[0].public().DID() || a.Endorsed < 2 {
		t.Errorf("the answer is %s's, endorsed by %d", a.Originator, a.Endorsed)
	}
	commits(t, w, s)
}

// A client that is content with one endorsement takes it, and no other node and no ledger takes it from the client: nothing
// that was not run gets into a block.
func TestLieForgedAnswerIsNotCommitted(t *testing.T) {
	w := lying(t, func(_ *simulation, n *simNode) testnet.Layer2Lie { return testnet.ForgeAnswer(n.key) })
	s := open(t, w.client(0, 0, 1, 3*time.Second))
	a, err := s.Call(t.Context(), "POST", "/add/a", "", nil)
	if err != nil || a.Originator != w.nodes[0].public().DID() || a.Endorsed != 1 {
		t.Fatalf("%+v, %v", a, err)
	}
	o, err := s.Commit(t.Context())
	var problem *client.Problem
	if o.Committed() || !errors.As(err, &problem) {
		t.Fatalf("commit: %+v, %v", o, err)
	}
	t.Logf("the client hears: %s", problem.Code)
	if _, ok, err := ledger.SettledOf(w.chain.store.Latest(), simID(t, s)); ok || err != nil {
		t.Errorf("the ledger has the session: %v, %v", ok, err)
	}
}

// An altered request has no good signature: the node behind refuses it, and nothing of it is recorded anywhere.
func TestLieAlteredRequest(t *testing.T) {
	w := lying(t, simply(testnet.AlterRequest()))
	s := open(t, w.client(0, 0, 1, 5*time.Second))
	_, err := s.Call(t.Context(), "POST", "/add/a", "", nil)
	var problem *client.Problem
	if !errors.As(err, &problem) || problem.Code != string(refusal.WrongDigest) {
		t.Fatalf("the client said %v", err)
	}
	add(t, s, one) // the same signed request, at another node
	commits(t, w, s)
}

// Steps that are altered on their way to the peers are not endorsed: signature, transcript or seal do not fit.
func TestLieAlteredSteps(t *testing.T) {
	w := lying(t, simply(testnet.AlterSteps()))
	s := open(t, w.client(0, 0, 1, 5*time.Second))
	if a := add(t, s, one); a.Endorsed != 1 || len(a.Endorsers) != 1 {
		t.Errorf("altered steps are endorsed: %+v", a.Endorsers)
	}
	id := simID(t, s)
	for _, n := range w.nodes[1:] {
		if st, err := n.up().Session(t.Context(), id); err == nil && st.Sequence != 0 {
			t.Errorf("node %d has recorded %+v", n.i, st.Steps)
		}
	}
}

// A step that is withheld from the peers has one endorsement and no more. Whoever asks for two gets them elsewhere, with one
// variant of the step committed.
func TestLieNoReplication(t *testing.T) {
	w := lying(t, simply(testnet.NoReplication()))
	s := open(t, w.client(0, 0, 1, 5*time.Second))
	if a := add(t, s, one); a.Endorsed != 1 {
		t.Errorf("%d nodes endorse what they have not seen", a.Endorsed)
	}
	// The liar goes, with the only copy: the client has the transcript.
	w.nodes[0].kill(false)
	if a := add(t, s, two); a.Originator == w.nodes[0].public().DID() {
		t.Error("a dead node answered")
	}
	commits(t, w, s)

	s = open(t, w.client(1, 0, 2, 5*time.Second))
	w.nodes[0].start()
	w.connected()
	a, err := s.Call(t.Context(), "GET", "/get/b", "", nil)
	if err != nil || a.Endorsed < 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	commits(t, w, s)
}

// A node that endorses everything is worth one endorsement that it has signed, and cannot make up another's. With it and an
// honest originator gone, the step is at the client still, and at a third node if three endorsed.
func TestLieEndorsesEverything(t *testing.T) {
	w := lying(t, func(_ *simulation, n *simNode) testnet.Layer2Lie { return testnet.EndorseAll(simChainID, n.key) })
	s := open(t, w.client(0, 1, 3, 5*time.Second)) // asks for all three: the liar and two honest ones
	add(t, s, one)
	w.nodes[1].kill(false) // the originator, with its disk
	st, err := w.nodes[2].up().Session(t.Context(), simID(t, s))
	if err != nil || st.Sequence != 1 {
		t.Fatalf("an acknowledged step is lost with one honest disk of two: %+v, %v", st, err)
	}
	commits(t, w, s)
}

// Dissent is a vote, not a veto: two honest nodes go on, and the dissenter does not make a step slower than the others do.
func TestLieDissentsAlways(t *testing.T) {
	w := lying(t, simply(testnet.DissentAll()))
	s := open(t, w.client(0, 1, 2, 5*time.Second))
	if a := add(t, s, one); a.Endorsed != 2 {
		t.Errorf("endorsed by %d", a.Endorsed)
	}
	commits(t, w, s)
}

// An old endorsement is signed over another session, sequence or head. It is not counted, and the client is not shown it.
func TestLieReplaysEndorsements(t *testing.T) {
	w := lying(t, func(_ *simulation, n *simNode) testnet.Layer2Lie {
		return testnet.ReplayEndorsements(simChainID, n.key)
	})
	s := open(t, w.client(0, 1, 1, 5*time.Second))
	add(t, s, one) // the liar's first endorsement is of this
	a := add(t, s, two)
	for _, e := range a.Endorsers {
		if e.Node == w.nodes[0].public().DID() {
			t.Errorf("an endorsement of step 1 was taken for step 2")
		}
	}
	commits(t, w, s)
}

// What is no message costs nobody anything.
func TestLieGarbage(t *testing.T) {
	w := lying(t, simply(testnet.Garbage(1)))
	s := open(t, w.client(0, 0, 2, 5*time.Second))
	add(t, s, one)
	add(t, s, two)
	commits(t, w, s)
}

// An invented "committed" is only words: no block holds the session, no other node says so, and there is no receipt.
func TestLieForgedCommit(t *testing.T) {
	w := lying(t, func(_ *simulation, n *simNode) testnet.Layer2Lie { return testnet.ForgeCommit(n.key) })
	s := open(t, w.client(0, 0, 1, 5*time.Second))
	add(t, s, one)
	if o, err := s.Commit(t.Context()); err != nil || !o.Committed() {
		t.Fatalf("the client does not believe the signed lie: %+v, %v", o, err)
	}
	if _, _, err := s.Receipt(t.Context(), nil); err == nil {
		t.Error("there is a receipt of what was not committed")
	}
	if _, ok, _ := ledger.SettledOf(w.chain.store.Latest(), simID(t, s)); ok {
		t.Error("the ledger has it")
	}
	for _, n := range w.nodes[1:] {
		st, err := n.up().Session(t.Context(), simID(t, s))
		if refusal.Has(err, refusal.SessionNotFound) {
			continue // two nodes are enough for an answer; the third may hear of the session later
		}
		if err != nil || st.Status != session.Open {
			t.Errorf("node %d says %s, %v", n.i, st.Status, err)
		}
	}
}

// A node that dies right after its answer, with its disk, has not been the only one to have the step.
func TestLieCrashAfterAck(t *testing.T) {
	dead := make(chan struct{})
	w := lying(t, func(_ *simulation, n *simNode) testnet.Layer2Lie {
		return testnet.CrashAfterAck(2, func() { n.kill(false); close(dead) })
	})
	s := open(t, w.client(0, 0, 2, 5*time.Second))
	add(t, s, one)
	a, err := s.Call(t.Context(), "POST", "/add/a", "", nil) // its answer may be cut off by the crash; then it is asked for elsewhere
	if err != nil || string(a.Body) != two {
		t.Fatalf("%+v, %v", a, err)
	}
	<-dead
	held := 0
	for _, n := range w.nodes[1:] {
		if st, err := n.up().Session(context.Background(), simID(t, s)); err == nil && st.Sequence == 2 {
			held++
		}
	}
	if held == 0 {
		t.Error("an acknowledged step is lost with one disk of two")
	}
	commits(t, w, s)
}

// A partition between two nodes, healed: a session of which both sides have answered the same signed step differently is
// committed through both, and has one outcome.
func TestPartitionHasOneOutcome(t *testing.T) {
	w := newSimulation(t, 2, 1)
	t.Cleanup(w.close)
	for _, n := range w.nodes {
		n.start()
	}
	w.connected()
	for round := range 10 {
		left := w.client(0, 0, 1, 5*time.Second)
		var saved []byte
		s, err := left.Open(t.Context(), client.WithSave(func(b []byte) error { saved = b; return nil }))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Call(t.Context(), "POST", "/add/p", "", nil); err != nil {
			t.Fatal(err)
		}
		w.mesh.Cut(w.nodes[0].public(), w.nodes[1].public())
		before := append([]byte(nil), saved...)
		if _, err := s.Call(t.Context(), "POST", "/add/q", "", nil); err != nil { // at node 0
			t.Fatal(err)
		}
		// The same client's program, on the other side, with what it had saved: another variant of step 2.
		right := w.client(0, 1, 1, 5*time.Second)
		r, err := right.Resume(before)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Call(t.Context(), "POST", "/add/q", "", nil); err != nil {
			t.Logf("round %d, the other side: %v", round, err)
		}
		w.mesh.Heal(w.nodes[0].public(), w.nodes[1].public())
		results := make(chan client.Outcome, 2)
		for _, x := range []*client.Session{s, r} {
			go func() {
				o, err := x.Commit(context.Background())
				if err != nil {
					t.Logf("round %d: %v", round, err)
				}
				results <- o
			}()
		}
		a, b := <-results, <-results
		if !a.Committed() && !b.Committed() {
			t.Errorf("round %d: no side could commit", round)
		}
		if a.Committed() && b.Committed() && a.TransactionHash != b.TransactionHash {
			t.Errorf("round %d: two outcomes, %+v and %+v", round, a, b)
		}
		for _, n := range w.nodes {
			st, err := n.up().Session(t.Context(), simID(t, s))
			if err != nil || st.Status != session.Committed {
				t.Errorf("round %d: node %d says %s, %v", round, n.i, st.Status, err)
			}
		}
	}
	w.chain.mu.Lock()
	defer w.chain.mu.Unlock()
	seen := map[wire.SessionID]int{}
	for _, txs := range w.chain.blocks {
		for _, raw := range txs[1:] {
			c, err := wire.DecodeSessionCommit(raw)
			if err != nil {
				t.Fatal(err)
			}
			seen[httpsig.SessionID(&c.Open)]++
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("session %s is in the blocks %d times", id, n)
		}
	}
}
