package layer2

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/peer"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// many is a cluster: one ledger, several engines on it, joined by a mesh. Each node is a world of its own, so that users
// can be moved from one to the other.
type many struct {
	t      tb
	ledger *fakeLedger
	mesh   *peer.Mesh
	nodes  []*clusterNode
	clock  *clock
}

// clusterNode is a node and its own sight of the ledger, which can be held back.
type clusterNode struct {
	*world
	m    *many
	i    int
	wrap func(Peers) Peers

	mu    sync.Mutex
	held  bool
	view  *state.View // while held
	later []Block
}

// View implements Ledger.
func (n *clusterNode) View() (*state.View, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.held {
		return n.view, nil
	}
	return n.ledger.View()
}

func (n *clusterNode) Submit(ctx context.Context, tx []byte) error { return n.ledger.Submit(ctx, tx) }
func (n *clusterNode) Time() int64                                 { return n.ledger.Time() }
func (n *clusterNode) Quarantined(tx wire.Digest) (*refusal.Refusal, bool) {
	return n.ledger.Quarantined(tx)
}

// block tells the node of a block, or keeps it for later.
func (n *clusterNode) block(b Block) {
	n.mu.Lock()
	e := n.engine
	if n.held {
		n.later, e = append(n.later, b), nil
	}
	n.mu.Unlock()
	if e != nil {
		e.OnBlock(b)
	}
}

// hold keeps blocks from the node; release brings them.
func (n *clusterNode) hold() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held, n.view = true, n.ledger.store.Latest()
}

func (n *clusterNode) release() {
	n.mu.Lock()
	later := n.later
	n.held, n.view, n.later = false, nil, nil
	n.mu.Unlock()
	for _, b := range later {
		n.block(b)
	}
}

func (n *clusterNode) key() wire.PublicKey { return wire.PublicKeyOf(n.node) }

// newMany makes a cluster of n nodes that runs. opts may be nil.
func newMany(t tb, n int, opts func(i int, o *Options)) *many {
	t.Helper()
	m := &many{t: t, mesh: peer.NewMesh(), clock: &clock{}}
	m.clock.ms.Store(1_800_000_000_000)
	moods := &moods{}
	svc := service(moods)
	keys := make([]ed25519.PrivateKey, n)
	for i := range keys {
		keys[i] = key(fmt.Sprintf("node %d", i))
	}
	m.ledger = newFakeLedger(t, svc, m.clock, keys...)
	m.ledger.auto = true
	for i := range keys {
		node := &clusterNode{m: m, i: i, world: &world{
			t: t, clock: m.clock, moods: moods, svc: svc, ledger: m.ledger, fs: vfs.NewCrashableMem(), dir: "layer2", node: keys[i], halted: make(chan error, 1),
		}}
		node.opts = func(o *Options) {
			o.Ledger, o.Peers, o.Wait = node, m.mesh.Node(node.key()), 5*time.Second
			if opts != nil {
				opts(i, o)
			}
			if node.wrap != nil {
				o.Peers = node.wrap(o.Peers)
			}
		}
		m.nodes = append(m.nodes, node)
		m.ledger.tell = append(m.ledger.tell, node.block)
	}
	for i := range m.nodes {
		m.up(i)
	}
	t.Cleanup(func() {
		for i := range m.nodes {
			m.down(i)
		}
	})
	m.connected()
	return m
}

// up starts node i on its disk.
func (m *many) up(i int) {
	m.t.Helper()
	n := m.nodes[i]
	e, err := Open(n.dir, n.options())
	if err != nil {
		m.t.Fatal(err)
	}
	n.mu.Lock()
	n.engine = e
	n.mu.Unlock()
}

// down stops node i.
func (m *many) down(i int) {
	n := m.nodes[i]
	n.mu.Lock()
	e := n.engine
	n.engine = nil
	n.mu.Unlock()
	if e != nil {
		if err := e.Close(); err != nil {
			m.t.Errorf("close: %v", err)
		}
	}
}

// kill stops node i and leaves its disk as a power cut would.
func (m *many) kill(i int) {
	n := m.nodes[i]
	after := n.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
	m.down(i)
	n.fs = after
}

// wipe deletes the disk of node i, which is down.
func (m *many) wipe(i int) { m.nodes[i].fs = vfs.NewCrashableMem() }

// connected waits until every running node is connected with every other that runs and is not cut off.
func (m *many) connected() {
	m.t.Helper()
	running := 0
	for _, n := range m.nodes {
		if n.engine != nil {
			running++
		}
	}
	eventually(m.t, "the nodes are connected", func() bool {
		for _, n := range m.nodes {
			if n.engine != nil && len(n.engine.cluster.ups()) != running-1 {
				return false
			}
		}
		return true
	})
}

func (m *many) cut(a, b int)  { m.mesh.Cut(m.nodes[a].key(), m.nodes[b].key()); m.parted(a, b) }
func (m *many) heal(a, b int) { m.mesh.Heal(m.nodes[a].key(), m.nodes[b].key()) }

// parted waits until both nodes know that their link is cut.
func (m *many) parted(a, b int) {
	eventually(m.t, "the link is cut", func() bool {
		return !slices.Contains(m.nodes[a].engine.cluster.ups(), m.nodes[b].key()) && !slices.Contains(m.nodes[b].engine.cluster.ups(), m.nodes[a].key())
	})
}

// has waits until node i has the user's session as the user knows it.
func (m *many) has(i int, u *user) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("node %d has the session with %d steps", i, u.n), func() bool {
		s, err := m.nodes[i].engine.session(u.id)
		return err == nil && s.Sequence == u.n && s.Transcript == u.head.String()
	})
}

// at moves the user to node i.
func (u *user) at(n *clusterNode) *user {
	u.w = n.world
	return u
}

// endorsed checks an answer's endorsements: number and signatures.
func endorsed(t tb, a *Answer, k, of int) {
	t.Helper()
	if a.Endorsements != k || a.Of != of || a.Signed.Get(HeaderEndorsements) != fmt.Sprintf("%d/%d", k, of) {
		t.Fatalf("endorsed by %d of %d (%s), want %d of %d", a.Endorsements, a.Of, a.Signed.Get(HeaderEndorsements), k, of)
	}
	told, err := httpsig.ReadEndorsements(a.Signed)
	if err != nil || len(told) != k-1 {
		t.Fatalf("%d endorsements in the header, %v; want %d beside the originator's", len(told), err, k-1)
	}
	for _, x := range told {
		if err := x.Verify(chain, a.Session, a.Sequence, a.Transcript); err != nil || x.Node == a.Originator {
			t.Fatalf("the endorsement of %s: %v", x.Node, err)
		}
	}
}

// TestStepIsEndorsed: issue 3, part 2: a step is answered when enough nodes have re-run it, agree and have it on disk, and
// the answer says how many, who, and carries their signatures.
func TestStepIsEndorsed(t *testing.T) {
	for nodes := 1; nodes <= 3; nodes++ {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			m := newMany(t, nodes, func(_ int, o *Options) { o.Need = nodes })
			u := m.nodes[0].user("alice")
			for range 5 {
				endorsed(t, u.do("POST", "/add/a", "", 200), nodes, nodes)
				for k := range m.nodes {
					m.has(k, u)
				}
			}
			if out, err := u.commit(); err != nil || out.Status != session.Committed {
				t.Fatalf("commit: %+v %v", out, err)
			}
			for i, n := range m.nodes {
				eventually(t, "every node tells the same outcome", func() bool {
					s, err := n.engine.session(u.id)
					return err == nil && s.Status == session.Committed && !s.Elsewhere
				})
				if c, err := n.engine.Committed(context.Background(), u.id, 0); err != nil || len(c.Bodies) != 5 || wire.Sum(c.Transaction) != wire.Sum(m.ledger.applied[u.id]) {
					t.Errorf("node %d has no receipt: %v", i, err)
				}
			}
		})
	}
}

// With 3 nodes and a need of 2 the third is not waited for; its endorsement is in the answer to a retry.
func TestNeedTwoOfThree(t *testing.T) {
	m := newMany(t, 3, nil)
	u := m.nodes[0].user("alice")
	if a := u.do("POST", "/add/a", "", 200); a.Endorsements < 2 || a.Of != 3 {
		t.Fatalf("endorsed by %d of %d", a.Endorsements, a.Of)
	}
	eventually(t, "all endorse it", func() bool {
		a, err := u.send(&u.last)
		return err == nil && a.Repeated && a.Endorsements == 3 && len(a.Endorsers) == 2
	})
}

// TestEndorsementsSurviveRestart: a stored answer carries its endorsements.
func TestEndorsementsSurviveRestart(t *testing.T) {
	m := newMany(t, 2, nil)
	u := m.nodes[0].user("alice")
	first := u.do("POST", "/add/a", "", 200)
	m.down(0)
	m.up(0)
	again, err := u.at(m.nodes[0]).send(&u.last)
	if err != nil || !again.Repeated {
		t.Fatal(err)
	}
	endorsed(t, again, 2, 2)
	if diff := cmp.Diff(first.Signed, again.Signed); diff != "" {
		t.Errorf("the retry's answer differs: %s", diff)
	}
}

// A peer that gets another response says so, and is counted as what it is: no endorsement.
func TestDissentingPeer(t *testing.T) {
	m := newMany(t, 2, nil)
	u := m.nodes[0].user("alice")
	endorsed(t, u.do("GET", "/luck/a", "", 200), 1, 2)
	if got := m.nodes[0].engine.counts.dissents.Load(); got != 1 {
		t.Errorf("%d dissents", got)
	}
	if s, err := m.nodes[1].engine.session(u.id); err != nil || s.Sequence != 0 {
		t.Errorf("the dissenting node has recorded the step: %+v %v", s, err)
	}
}

// TestLaggingPeer: issue 3, part 3: a node that is behind in blocks says so instead of dissenting, and has the steps once
// it has caught up.
func TestLaggingPeer(t *testing.T) {
	m := newMany(t, 2, nil)
	u := m.nodes[0].user("alice")
	m.has(1, u)
	m.nodes[1].hold()
	m.ledger.write("x", "new")
	a := u.do("GET", "/get/x", "", 200)
	endorsed(t, a, 1, 2)
	if a.Height != 2 {
		t.Fatalf("height %d", a.Height)
	}
	m.nodes[1].release()
	endorsed(t, u.do("POST", "/add/a", "", 200), 2, 2) // the step before it comes with it
	m.has(1, u)
	late, err := u.at(m.nodes[1]).send(&u.last)
	if err != nil {
		t.Fatal(err)
	}
	endorsed(t, late, 2, 2)
}

// A peer that gets the block within its patience endorses.
func TestPeerWaitsForTheBlock(t *testing.T) {
	m := newMany(t, 2, nil)
	u := m.nodes[0].user("alice")
	m.has(1, u)
	m.nodes[1].hold()
	m.ledger.write("x", "new")
	done := make(chan *Answer)
	go func() {
		a, err := u.send(u.sign("GET", "/get/x", "", ""))
		if err != nil {
			t.Error(err)
		}
		done <- a
	}()
	eventually(t, "the step is under way", func() bool { return m.nodes[0].engine.Stats().Steps == 1 })
	m.nodes[1].release()
	if a := <-done; a.Endorsements != 2 && a.Endorsements != 1 { // 1 if this machine took longer than the patience
		t.Errorf("endorsed by %d", a.Endorsements)
	}
}

// mute swallows what a node sends.
type mute struct {
	Peers
	on func() bool
}

func (m mute) Send(to wire.PublicKey, b []byte) error {
	if m.on() {
		return nil
	}
	return m.Peers.Send(to, b)
}

// TestSilentPeer: a peer that does not answer costs the wait once, not at every step; one that is down costs nothing.
func TestSilentPeer(t *testing.T) {
	const wait = 300 * time.Millisecond
	var silent sync.Mutex
	quiet := false
	m := newMany(t, 2, func(i int, o *Options) {
		if i == 0 {
			o.Wait = wait
		} else {
			o.Peers = mute{o.Peers, func() bool { silent.Lock(); defer silent.Unlock(); return quiet }}
		}
	})
	u := m.nodes[0].user("alice")
	endorsed(t, u.do("POST", "/add/a", "", 200), 2, 2)
	silent.Lock()
	quiet = true
	silent.Unlock()
	began := time.Now()
	endorsed(t, u.do("POST", "/add/a", "", 200), 1, 2)
	if took := time.Since(began); took < wait {
		t.Errorf("answered after %v", took)
	}
	if p := m.nodes[0].engine.Peers(); len(p) != 1 || !p[0].Up || !p[0].Silent {
		t.Errorf("%+v", p)
	}
	began = time.Now()
	for range 5 {
		endorsed(t, u.do("POST", "/add/a", "", 200), 1, 2)
	}
	if took := time.Since(began); took >= 4*wait {
		t.Errorf("5 steps beside a silent peer take %v", took)
	}
	silent.Lock()
	quiet = false
	silent.Unlock()
	m.nodes[1].user("bob") // it says something
	eventually(t, "it is heard again", func() bool { return !m.nodes[0].engine.Peers()[0].Silent })
	eventually(t, "it endorses again", func() bool { return u.do("POST", "/add/a", "", 200).Endorsements == 2 })
}

// A step that waits for endorsements holds up nothing else, and the same request again joins it.
func TestRetryJoins(t *testing.T) {
	m := newMany(t, 2, func(i int, o *Options) {
		if i == 1 {
			o.Peers = mute{o.Peers, func() bool { return true }}
		}
	})
	u := m.nodes[0].user("alice")
	p := u.sign("POST", "/add/a", "", "")
	answers := make(chan *Answer, 3)
	for range 3 {
		go func() {
			a, err := m.nodes[0].engine.Step(context.Background(), p)
			if err != nil {
				t.Error(err)
			}
			answers <- a
		}()
	}
	eventually(t, "the step waits", func() bool { return m.nodes[0].engine.Stats().Steps == 1 })
	if s := u.status(); s.Sequence != 1 {
		t.Errorf("status beside a waiting step: %+v", s)
	}
	wantCode(t, second(m.nodes[0].engine.Step(context.Background(), u.sign("POST", "/add/b", "", ""))), refusal.Equivocation)
	m.down(1) // nobody is left to wait for
	for range 3 {
		if a := <-answers; a == nil || a.Transcript.IsZero() {
			t.Errorf("answer %+v", a)
		}
	}
	if got := m.nodes[0].engine.Stats().Steps; got != 1 {
		t.Errorf("%d steps", got)
	}
}

func second[T any](_ T, err error) error { return err }

// TestOriginatorKilled: issue 3: a user whose node dies goes on at another one without losing a step: the same request
// gets the same answer there, signed by the node that died, and the transcript goes on.
func TestOriginatorKilled(t *testing.T) {
	m := newMany(t, 2, nil)
	u := m.nodes[0].user("alice")
	u.do("POST", "/add/a", "", 200)
	first := u.do("POST", "/add/a", "", 200)
	m.kill(0)
	u.at(m.nodes[1])
	again, err := u.send(&u.last)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []http.Header{first.Signed, again.Signed} {
		h.Del(httpsig.HeaderEndorsement)
	}
	if diff := cmp.Diff(first.Signed, again.Signed); diff != "" || string(first.Body) != string(again.Body) {
		t.Errorf("the other node answers otherwise: %s", diff)
	}
	eventually(t, "the dead node is known to be down", func() bool { return len(m.nodes[1].engine.cluster.ups()) == 0 })
	endorsed(t, u.do("POST", "/add/a", "", 200), 1, 2)
	if out, err := u.commit(); err != nil || out.Status != session.Committed || out.Steps != 3 {
		t.Fatalf("%+v %v", out, err)
	}
	if got := m.nodes[1].value("a"); got != "xxx" {
		t.Errorf("committed %q", got)
	}
	m.up(0)
	if s, err := m.nodes[0].engine.session(u.id); err != nil || s.Status != session.Committed {
		t.Errorf("the node that was killed: %+v %v", s, err)
	}
}

// A node that has lost its disk gets the open sessions back from the others and goes on with them.
func TestOriginatorsDiskLost(t *testing.T) {
	m := newMany(t, 2, nil)
	u := m.nodes[0].user("alice")
	for range 3 {
		endorsed(t, u.do("POST", "/add/a", "", 200), 2, 2)
	}
	m.kill(0)
	m.wipe(0)
	m.up(0)
	m.connected()
	m.has(0, u)
	again, err := u.at(m.nodes[0]).send(&u.last)
	if err != nil || !again.Repeated {
		t.Fatal(err)
	}
	endorsed(t, u.do("POST", "/add/a", "", 200), 2, 2)
	if out, err := u.commit(); err != nil || out.Status != session.Committed || out.Steps != 4 {
		t.Fatalf("%+v %v", out, err)
	}
}

// TestCatchUp: issue 3, part 3: a node that was away fetches the sessions it misses.
func TestCatchUp(t *testing.T) {
	m := newMany(t, 3, nil)
	m.down(2)
	var users []*user
	for i := range 20 {
		u := m.nodes[i%2].user("alice")
		for range i % 4 {
			endorsed(t, u.do("POST", fmt.Sprintf("/add/k%d", i), "", 200), 2, 3)
		}
		users = append(users, u)
	}
	m.up(2)
	m.connected()
	for _, u := range users {
		m.has(2, u)
		u.at(m.nodes[2])
		u.do("POST", "/set/z", "x", 201)
	}
}

// A request for a session that is only on another node gets it from there.
func TestStepForUnknownSession(t *testing.T) {
	m := newMany(t, 2, func(i int, o *Options) {
		if i == 0 {
			o.Peers = noNews{o.Peers}
		}
	})
	u := m.nodes[0].user("alice")
	if _, err := m.nodes[1].engine.session(u.id); !refusal.Has(err, refusal.SessionNotFound) {
		t.Fatal(err)
	}
	u.at(m.nodes[1]).do("POST", "/add/a", "", 200)
	none := u.sign("POST", "/add/a", "", "")
	none.Place.Session[0] ^= 1
	httpsig.Sign(u.priv, httpsig.TagStep, &none.Request, none.Place)
	wantCode(t, second(m.nodes[1].engine.Step(context.Background(), none)), refusal.SessionNotFound)
}

// noNews keeps openings and steps to itself, but answers.
type noNews struct{ Peers }

func (n noNews) Send(to wire.PublicKey, b []byte) error {
	if k := wire.PeerKind(b[1]); k == wire.KindOpened || k == wire.KindStep {
		return nil
	}
	return n.Peers.Send(to, b)
}

// TestTwoOriginators: issue 3, part 4: of two variants of one signed step the one survives that the client signs over next, at
// whichever node.
func TestTwoOriginators(t *testing.T) {
	for _, c := range []struct{ answer, next int }{{0, 0}, {0, 1}, {1, 0}, {1, 1}} {
		t.Run(fmt.Sprintf("answer of %d, on at %d", c.answer, c.next), func(t *testing.T) {
			m := newMany(t, 2, nil)
			u := m.nodes[0].user("alice")
			u.do("POST", "/add/a", "", 200)
			m.has(1, u)
			m.cut(0, 1)
			p := u.sign("POST", "/add/a", "", "")
			var answers [2]*Answer
			for i, n := range m.nodes {
				m.clock.advance(time.Millisecond) // another time, so another variant
				a, err := n.engine.Step(context.Background(), p)
				if err != nil {
					t.Fatal(err)
				}
				endorsed(t, a, 1, 2)
				answers[i] = a
			}
			if answers[0].Transcript == answers[1].Transcript {
				t.Fatal("no two variants")
			}
			if err := u.accept(p, answers[c.answer]); err != nil {
				t.Fatal(err)
			}
			m.heal(0, 1)
			m.connected()
			u.at(m.nodes[c.next])
			endorsed(t, u.do("POST", "/add/a", "", 200), 2, 2)
			for i := range m.nodes {
				m.has(i, u)
			}
			if out, err := u.at(m.nodes[1-c.next]).commit(); err != nil || out.Status != session.Committed || out.Transcript != u.head {
				t.Fatalf("%+v %v", out, err)
			}
		})
	}
}

// The client's commit chooses as well as its next step.
func TestCommitChoosesTheVariant(t *testing.T) {
	for next := range 2 {
		m := newMany(t, 2, nil)
		u := m.nodes[0].user("alice")
		m.has(1, u)
		m.cut(0, 1)
		p := u.sign("POST", "/add/a", "", "")
		a, err := m.nodes[0].engine.Step(context.Background(), p)
		if err != nil {
			t.Fatal(err)
		}
		m.clock.advance(time.Millisecond)
		if _, err := m.nodes[1].engine.Step(context.Background(), p); err != nil {
			t.Fatal(err)
		}
		if err := u.accept(p, a); err != nil {
			t.Fatal(err)
		}
		m.heal(0, 1)
		m.connected()
		if out, err := u.at(m.nodes[next]).commit(); err != nil || out.Status != session.Committed || out.Transcript != u.head {
			t.Fatalf("at node %d: %+v %v", next, out, err)
		}
	}
}

// TestPartition: issue 3: a partition, healed: no session with two outcomes.
func TestPartition(t *testing.T) {
	m := newMany(t, 2, nil)
	var users []*user
	for i := range 6 {
		u := m.nodes[i%2].user("alice")
		m.has(1-i%2, u)
		users = append(users, u)
	}
	m.cut(0, 1)
	for i, u := range users {
		for range 3 {
			endorsed(t, u.do("POST", fmt.Sprintf("/add/p%d", i), "", 200), 1, 2)
		}
	}
	if out, err := users[0].commit(); err != nil || out.Status != session.Committed {
		t.Fatalf("%+v %v", out, err)
	}
	m.heal(0, 1)
	m.connected()
	for i, u := range users[1:] {
		m.has(0, u)
		m.has(1, u)
		if out, err := u.at(m.nodes[i%2]).commit(); err != nil || out.Status != session.Committed {
			t.Fatalf("%+v %v", out, err)
		}
	}
	for _, n := range m.nodes {
		for _, u := range users {
			eventually(t, "both tell the same", func() bool {
				s, err := n.engine.session(u.id)
				return err == nil && s.Status == session.Committed && s.Transcript == u.head.String()
			})
		}
	}
}

// TestAbandonedEverywhere: every node that knows the session tells the same, also one that was away.
func TestAbandonedEverywhere(t *testing.T) {
	m := newMany(t, 3, nil)
	u := m.nodes[0].user("alice")
	u.do("POST", "/add/a", "", 200)
	for i := range m.nodes {
		m.has(i, u)
	}
	m.down(2)
	req := wire.Request{Method: "DELETE", Path: session.PathOpen + "/" + u.id.String(), ContentType: "text/plain", Created: m.clock.ms.Load() / 1000}
	place := httpsig.Place{Session: u.id, Sequence: u.n + 1, Transcript: u.head}
	httpsig.Sign(u.priv, httpsig.TagStep, &req, place)
	if _, err := m.nodes[1].engine.Abandon(context.Background(), &httpsig.Parsed{Tag: httpsig.TagStep, Request: req, Place: place}); err != nil {
		t.Fatal(err)
	}
	m.up(2)
	for i, n := range m.nodes {
		eventually(t, fmt.Sprintf("node %d tells that it was abandoned", i), func() bool {
			s, err := n.engine.session(u.id)
			return err == nil && s.Status == session.Abandoned
		})
	}
}

// Two different signed steps at one position, at two nodes: whoever sees both refuses the second and keeps it.
func TestEquivocationAcrossNodes(t *testing.T) {
	m := newMany(t, 2, nil)
	u := m.nodes[0].user("alice")
	m.has(1, u)
	m.cut(0, 1)
	one, two := u.sign("POST", "/add/a", "", ""), u.sign("POST", "/add/b", "", "")
	if _, err := m.nodes[0].engine.Step(context.Background(), one); err != nil {
		t.Fatal(err)
	}
	if _, err := m.nodes[1].engine.Step(context.Background(), two); err != nil {
		t.Fatal(err)
	}
	m.heal(0, 1)
	m.connected()
	wantCode(t, second(m.nodes[0].engine.Step(context.Background(), two)), refusal.Equivocation)
	wantCode(t, second(m.nodes[1].engine.Step(context.Background(), one)), refusal.Equivocation)
}

// TestListChanges: the ledger's list is followed: a node taken off it is asked no more.
func TestListChanges(t *testing.T) {
	m := newMany(t, 2, nil)
	u := m.nodes[0].user("alice")
	endorsed(t, u.do("POST", "/add/a", "", 200), 2, 2)
	nodes, err := ledger.Layer2(m.ledger.store.Latest())
	if err != nil || len(nodes) != 2 {
		t.Fatal(nodes, err)
	}
	m.ledger.mu.Lock()
	height, _, last := m.ledger.store.Version()
	gone := m.nodes[1].key()
	o := state.NewOverlay(m.ledger.store.Latest())
	o.Delete(append([]byte("t/layer2/"), gone[:]...))
	m.ledger.commit(Block{Height: height + 1, Time: last + 1, Changes: o.Changes()})
	m.ledger.mu.Unlock()
	endorsed(t, u.do("POST", "/add/a", "", 200), 1, 1)
}
