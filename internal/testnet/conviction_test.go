package testnet_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/client"
	"tandem/evidence"
	"tandem/internal/exec"
	"tandem/internal/httpsig"
	"tandem/internal/judge"
	"tandem/internal/layer2"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/signedblock"
	"tandem/internal/state"
	"tandem/internal/testnet"
	"tandem/internal/wire"
)

// simProofs gives a node what it proves a lie with: the simulation's state, and headers that four validators sign.
type simProofs struct {
	*state.Store
	w *simulation
}

func (p simProofs) Genesis() []byte { return p.w.genesis }

func (p simProofs) SignedBlock(height int64) (signedblock.Header, signedblock.Commit, error) {
	c := p.w.chain
	c.mu.Lock()
	now := c.height
	c.mu.Unlock()
	if height > now {
		return signedblock.Header{}, signedblock.Commit{}, layer2.ErrNoBlock
	}
	k, err := p.Trace(height-1, []byte("t/"))
	if err != nil {
		return signedblock.Header{}, signedblock.Commit{}, err
	}
	root, err := k.Root()
	if err != nil {
		return signedblock.Header{}, signedblock.Commit{}, err
	}
	header, votes := p.w.signers.Block(height, root)
	trust, err := signedblock.ReadGenesis(p.w.genesis)
	if err != nil {
		return signedblock.Header{}, signedblock.Commit{}, err
	}
	commit, err := trust.CommitOf(votes)
	return signedblock.HeaderOf(header), commit, err
}

// claims are everything that honest nodes have signed about steps: each sealed answer and each endorsement goes to a peer.
type claims struct {
	mu    sync.Mutex
	opens map[wire.SessionID]wire.Request
	steps map[wire.Digest]link // by the head after it
	said  map[said]bool
}

type link struct {
	session  wire.SessionID
	previous wire.Digest
	tx       wire.Transaction
}

type said struct {
	node   wire.PublicKey
	head   wire.Digest
	height int64
}

func newClaims() *claims {
	return &claims{opens: map[wire.SessionID]wire.Request{}, steps: map[wire.Digest]link{}, said: map[said]bool{}}
}

// overheard is a transport whose outgoing messages are noted.
type overheard struct {
	layer2.Peers
	node   wire.PublicKey
	claims *claims
}

func (c *claims) heard(node wire.PublicKey, p layer2.Peers) layer2.Peers {
	return overheard{p, node, c}
}

func (o overheard) Send(to wire.PublicKey, message []byte) error {
	c := o.claims
	c.mu.Lock()
	switch m, _ := wire.DecodePeer(message); m := m.(type) {
	case wire.PeerOpened:
		c.opens[httpsig.SessionID(&m.Open)] = m.Open
	case wire.PeerTranscript:
		c.opens[httpsig.SessionID(&m.Opened.Open)] = m.Opened.Open
	case wire.PeerStep:
		c.steps[m.Head] = link{m.Session, m.Previous, m.Step.Transaction}
		c.said[said{o.node, m.Head, m.Step.Height}] = true
	case wire.PeerEndorse:
		c.said[said{o.node, m.Head, m.Height}] = true
	}
	c.mu.Unlock()
	return o.Peers.Send(to, message)
}

// acquitted judges all that honest nodes have signed on the very state that they have signed it for, and returns how many
// claims there were. That a claim is about steps which the state holds already proves nothing, for or against it.
func (w *simulation) acquitted(fail func(string, ...any)) (judged int) {
	c := w.claims
	c.mu.Lock()
	defer c.mu.Unlock()
	j := judge.Of(exec.New(w.svc, exec.Options{Framework: ledger.Routes()}))
	for s := range c.said {
		last, known := c.steps[s.head]
		open, opened := c.opens[last.session]
		if !known || !opened {
			continue // of a liar's step
		}
		view, err := w.chain.store.At(s.height)
		if err != nil {
			fail("node %s has signed for height %d: %v", s.node, s.height, err)
		}
		proven, err := session.VerifyOpen(&open)
		if err != nil {
			fail("%v", err)
		}
		start := evidence.Start{Head: proven.Head}
		settled, ok, err := ledger.SettledOf(view, proven.ID)
		if err != nil {
			fail("%v", err)
		}
		if ok {
			start = evidence.Start{Sequence: settled.Steps, Head: settled.Head}
		}
		var steps []wire.Transaction
		for at := s.head; at != start.Head; {
			l, known := c.steps[at]
			if !known {
				steps = nil
				break
			}
			steps, at = append([]wire.Transaction{l.tx}, steps...), l.previous
		}
		if len(steps) == 0 || ok && settled.Final {
			continue
		}
		d, err := j.Run(context.Background(), &evidence.Case{Session: proven.ID, Key: open.Key, Open: proven.Open, Start: start, Steps: steps}, view)
		if err != nil || d != nil {
			fail("an honest node, %s, would be convicted: it has signed step %d of session %s for height %d; run again: %+v, %v",
				s.node, last.tx.Sequence, proven.ID, s.height, d, err)
		}
		judged++
	}
	return judged
}

// TestHonestNodesAreNeverConvicted: three honest nodes, clients that race each other on hot keys, commit, make checkpoints, go on at
// another node and lose answers, and a node that is killed and comes back. All that the nodes have signed is true of the state
// that they have signed it for, and none keeps evidence against another.
func TestHonestNodesAreNeverConvicted(t *testing.T) {
	const people, rounds = 6, 6
	w := newSimulation(t, 3, people)
	t.Cleanup(w.close)
	for _, n := range w.nodes {
		n.start()
	}
	w.connected()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	var ids []string
	checkpoints := 0
	var running sync.WaitGroup
	for p := range people {
		running.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(p)))
			for range rounds {
				c := w.client(p, random.IntN(3), 1, 4*time.Second)
				s, err := c.Open(t.Context())
				if err != nil {
					continue
				}
				mu.Lock()
				ids = append(ids, s.ID())
				mu.Unlock()
				for range 1 + random.IntN(6) {
					target := []string{"/add/a", "/add/b", "/add/" + fmt.Sprint("own", p)}[random.IntN(3)]
					if _, err := s.Call(t.Context(), "POST", target, "", nil); err != nil {
						break
					}
					if random.IntN(3) == 0 {
						if _, err := s.Call(t.Context(), "GET", "/list", "", nil); err != nil {
							break
						}
					}
					if random.IntN(3) == 0 {
						if o, err := s.Checkpoint(t.Context()); err == nil && o.Checkpoint > 0 {
							mu.Lock()
							checkpoints++
							mu.Unlock()
						}
					}
				}
				_, _ = s.Commit(t.Context())
				if files, _ := s.Accuse(t.Context(), judge.New(counters())); len(files) != 0 {
					t.Errorf("a client gets evidence against an honest node: %s", files[0])
				}
				if p == 0 && random.IntN(2) == 0 {
					n := w.nodes[random.IntN(3)]
					n.kill(true)
					n.start()
				}
			}
		})
	}
	running.Wait()
	judged := w.acquitted(t.Fatalf)
	t.Logf("%d claims judged, %d sessions, %d checkpoints", judged, len(ids), checkpoints)
	if judged < people*rounds || checkpoints == 0 {
		t.Errorf("only %d claims judged, %d checkpoints", judged, checkpoints)
	}
	for _, text := range ids {
		id, err := wire.ParseSessionID(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range w.nodes {
			for _, kind := range []evidence.Kind{evidence.WrongAnswer, evidence.WrongEndorsement, evidence.TwoAnswers, evidence.ForgedRequest} {
				if file, err := n.up().Evidence(t.Context(), id, string(kind)); err == nil {
					t.Errorf("node %d keeps evidence against an honest node: %s", n.i, file)
				}
			}
		}
	}
}

// kept waits until a node keeps the evidence, which takes a block after the height that the liar has signed.
func (w *simulation) kept(t *testing.T, n *simNode, id wire.SessionID, kind evidence.Kind) []byte {
	t.Helper()
	w.chain.cut()
	var file []byte
	spin(w.t, "node "+n.url()+" keeps "+string(kind), func() bool {
		var err error
		file, err = n.up().Evidence(context.Background(), id, string(kind))
		return err == nil
	})
	return file
}

// A client that has taken an invented answer cannot commit it. The honest node that refuses it runs the session again on the state
// that the liar has signed it for, and keeps what convicts the liar: for whoever has the genesis file and the service's program.
func TestForgedAnswerConvicts(t *testing.T) {
	w := lying(t, func(_ *simulation, n *simNode) testnet.Layer2Lie { return testnet.ForgeAnswer(n.key) })
	s := open(t, w.client(0, 0, 1, 3*time.Second))
	if _, err := s.Call(t.Context(), "POST", "/add/a", "", nil); err != nil {
		t.Fatal(err)
	}
	var problem *client.Problem
	for i := 0; i < 2; i++ { // the liar's own node refuses it first
		if _, err := s.Commit(t.Context()); !errors.As(err, &problem) || problem.Code != string(refusal.ResponseDiffers) {
			t.Fatalf("commit: %v", err)
		}
	}
	file := w.kept(t, w.nodes[1], simID(t, s), evidence.WrongAnswer)
	f, err := evidence.VerifyWith(t.Context(), w.genesis, file, judge.New(counters()))
	if err != nil {
		t.Fatal(err)
	}
	if f.Kind != evidence.WrongAnswer || f.Culprit.Key != w.nodes[0].public().DID() || f.Culprit.Organisation != "org of node 0" || f.Sequence != 1 || !f.Conclusive {
		t.Errorf("found %+v", f)
	}
	other := counters()
	other.Version = "2"
	if _, err := evidence.VerifyWith(t.Context(), w.genesis, file, judge.New(other)); !errors.Is(err, evidence.ErrCannotJudge) {
		t.Errorf("another version of the service: %v", err)
	}
	if _, err := evidence.Verify([]byte(strings.ReplaceAll(string(w.genesis), simChainID, "another-1")), file); err == nil || errors.Is(err, evidence.ErrCannotJudge) {
		t.Errorf("on another chain: %v", err)
	}
}

// Two nodes of three conspire: one invents an answer, the other endorses everything. A client that asks for two endorsements
// takes it. The ledger does not; and the honest third node, shown what the two have signed, gives what convicts each of
// them. Nothing convicts the honest node, nor either liar of what it signed truthfully.
func TestConspiracyConvicts(t *testing.T) {
	w := newSimulation(t, 3, 2)
	t.Cleanup(w.close)
	forger, endorser, honest := w.nodes[0], w.nodes[1], w.nodes[2]
	forger.lie, endorser.lie = testnet.ForgeEndorsed(forger.key, endorser.public()), testnet.EndorseAll(simChainID, endorser.key)
	for _, n := range w.nodes {
		n.start()
	}
	w.connected()
	s := open(t, w.client(0, 0, 2, 3*time.Second))
	a, err := s.Call(t.Context(), "POST", "/add/a", "", nil)
	if err != nil || a.Originator != forger.public().DID() || a.Endorsed != 2 || a.Endorsers[1].Node != endorser.public().DID() {
		t.Fatalf("the conspiracy is not believed: %+v, %v", a, err)
	}
	var problem *client.Problem
	if _, err := s.Commit(t.Context()); !errors.As(err, &problem) {
		t.Fatalf("commit: %v", err)
	}
	w.chain.cut()
	files, err := s.Accuse(t.Context(), judge.New(counters()))
	if err != nil || len(files) != 2 || len(s.Evidence()) != 2 {
		t.Fatalf("%d files, %d kept, %v", len(files), len(s.Evidence()), err)
	}
	for i, culprit := range []*simNode{forger, endorser} {
		f, err := evidence.VerifyWith(t.Context(), w.genesis, files[i], judge.New(counters()))
		if err != nil {
			t.Fatal(err)
		}
		kind := []evidence.Kind{evidence.WrongAnswer, evidence.WrongEndorsement}[i]
		if f.Kind != kind || f.Culprit.Key != culprit.public().DID() || f.Sequence != 1 || !f.Conclusive || f.Session != s.ID() {
			t.Errorf("found %+v", f)
		}
		damaged := bytes.Replace(files[i], []byte(`"height": `), []byte(`"height": 1`), 1)
		if _, err := evidence.VerifyWith(t.Context(), w.genesis, damaged, judge.New(counters())); err == nil {
			t.Error("evidence with another height verifies")
		}
	}
	// Without the service's program all but the run is checked.
	if files, err := s.Accuse(t.Context(), nil); err != nil || len(files) != 2 {
		t.Errorf("without a judge: %d files, %v", len(files), err)
	}

	// An honest originator's answer, endorsed by the one that endorses everything: it has not run it, but it has not lied.
	s = open(t, w.client(1, 2, 2, 3*time.Second))
	if a := add(t, s, `{"n":1,"by":"actor1"}`); a.Originator != honest.public().DID() || a.Endorsed < 2 {
		t.Fatalf("endorsed by %+v", a.Endorsers)
	}
	w.chain.cut()
	if files, err := s.Accuse(t.Context(), judge.New(counters())); len(files) != 0 || err != nil {
		t.Errorf("evidence against those who have told the truth: %s, %v", files, err)
	}
	commits(t, w, s)
	if files, err := s.Accuse(t.Context(), judge.New(counters())); len(files) != 0 || err != nil {
		t.Errorf("after the commit: %s, %v", files, err)
	}
}

// accusation is a session's last step as its client would bring it.
func accusation(t *testing.T, s *client.Session) wire.Accusation {
	t.Helper()
	text, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var saved struct {
		Open   []byte   `json:"open"`
		Steps  [][]byte `json:"steps"`
		Proofs []struct {
			Height    int64  `json:"height"`
			Created   int64  `json:"created"`
			Signature []byte `json:"signature"`
		} `json:"proofs"`
	}
	if err := json.Unmarshal(text, &saved); err != nil {
		t.Fatal(err)
	}
	var a wire.Accusation
	if a.Open, err = wire.DecodeRequest(saved.Open); err != nil {
		t.Fatal(err)
	}
	for i, p := range saved.Proofs {
		tx, err := wire.DecodeTransaction(saved.Steps[i])
		if err != nil {
			t.Fatal(err)
		}
		a.Steps = append(a.Steps, wire.Recorded{Transaction: tx, Height: p.Height, Seal: wire.Seal{Created: p.Created, Signature: wire.Signature(p.Signature)}})
	}
	return a
}

// What an accuser has made up is refused before anything is run: only a key of the Layer 2 list can be accused, and only of what it
// has signed about what the client has signed.
func TestAccuseRefusals(t *testing.T) {
	w := newSimulation(t, 2, 1)
	t.Cleanup(w.close)
	for _, n := range w.nodes {
		n.start()
	}
	w.connected()
	s := open(t, w.client(0, 0, 1, 3*time.Second))
	add(t, s, one)
	w.chain.cut()
	id, good := simID(t, s), accusation(t, s)
	head, err := wire.ParseDigest(s.Transcript())
	if err != nil {
		t.Fatal(err)
	}
	endorsed := func(name string, height int64) func(*wire.Accusation) {
		return func(a *wire.Accusation) {
			k := simKey(name)
			a.Endorsement = &wire.Endorsement{Node: wire.PublicKeyOf(k), Height: height,
				Signature: wire.Signature(ed25519.Sign(k, wire.EndorsementBytes(simChainID, id, 1, head, height)))}
		}
	}
	for _, c := range []struct {
		name string
		make func(*wire.Accusation)
		code refusal.Code
	}{
		{"the truth", func(*wire.Accusation) {}, refusal.NoEvidence},
		{"a stranger's endorsement", endorsed("stranger", 1), refusal.OriginatorUnknown},
		{"an endorsement at a height to come", endorsed("node 1", 1<<40), refusal.HeightNotReached},
		{"a true endorsement at another height", endorsed("node 1", 0), refusal.NoEvidence},
		{"an endorsement with another height", func(a *wire.Accusation) { endorsed("node 1", 1)(a); a.Endorsement.Height = 2 }, refusal.SignatureInvalid},
		{"a seal at another height", func(a *wire.Accusation) { a.Steps[0].Height++ }, refusal.SignatureInvalid},
		{"another answer", func(a *wire.Accusation) { a.Steps[0].Transaction.Response.Body[0] ^= 1 }, refusal.SignatureInvalid},
		{"another request", func(a *wire.Accusation) { a.Steps[0].Transaction.Request.Path = "/add/b" }, refusal.SignatureInvalid},
		{"another opening", func(a *wire.Accusation) { a.Open.Created++ }, refusal.SignatureInvalid},
	} {
		bad, err := wire.DecodeAccusation(good.Encode()) // a copy
		if err != nil {
			t.Fatal(err)
		}
		c.make(&bad)
		if _, err := w.nodes[1].up().Accuse(t.Context(), bad); !refusal.Has(err, c.code) {
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
		}
	}
}
