package testnet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tandem/client"
	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/testnet"
	"tandem/internal/wire"
)

var (
	sessionsFlag = flag.Int("sessions", 240, "sessions that TestClusterHistories plays; the long run is 10,000")
	workersFlag  = flag.Int("workers", 2, "histories that TestClusterHistories plays at once, each in a network of its own")
	patienceFlag = flag.Duration("patience", 5*time.Minute, "after which a client of TestClusterHistories is stuck, which fails the test")
)

const (
	simClients = 16
	simRequire = 2 // endorsements that a client asks for, so that one liar, or one lost disk, costs nothing
)

// played is a session and what its client knows of it: all that the checks hold the network to.
type played struct {
	actor int
	s     *client.Session
	steps []seen
	// outcome is committed, conflicted, abandoned, open, "stuck: ..." (for -patience no answer had the endorsements that the client
	// asks for) or "unknown: ...". The last two fail the test.
	outcome string
	height  int64
}

// seen is a recorded step as its client saw it.
type seen struct {
	method, target string
	body           []byte
	endorsers      []int // node numbers
	disks          []int // how many disks each had lost before
}

// disaster is what happens to the network from one request to another.
type disaster struct {
	from, to int64 // client requests
	node     int
	other    int // cut the link to this one; -1: kill the node
	disk     bool
}

// TestClusterHistories: the property. Random sessions of 16 clients on hot keys, three Layer 2 nodes of which one lies
// and one at a time is killed, with or without its disk, or cut off from another. Each client's own transcript is what is in
// the blocks; every session has one outcome, and every node tells it; a step that k nodes have acknowledged is still at a
// node as long as fewer than k disks are lost (a liar's counts as lost); an independent model of the service, fed with the
// requests in the blocks, gives the recorded answers and the ledger's state.
func TestClusterHistories(t *testing.T) {
	checks := 100
	if f := flag.Lookup("rapid.checks"); f != nil {
		if n, err := strconv.Atoi(f.Value.String()); err == nil {
			checks = n
		}
	}
	quota := (*sessionsFlag + *workersFlag - 1) / *workersFlag
	each := max(4*simClients, (quota+checks-1)/checks)
	var mu sync.Mutex // guards what follows
	total, tally, begin := 0, map[string]int{}, time.Now()
	// A history mostly waits: for endorsements that do not come, for nodes that are down. So several are played at once.
	var workers sync.WaitGroup
	for i := range *workersFlag {
		workers.Go(func() {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				mine := 0
				rapid.Check(t, func(rt *rapid.T) {
					if mine >= quota {
						return
					}
					mine += each
					played := playHistory(rt, each)
					mu.Lock()
					defer mu.Unlock()
					total += each
					for k, n := range played {
						tally[k] += n
					}
				})
			})
		})
	}
	workers.Wait()
	t.Logf("%d sessions in %s: %v", total, time.Since(begin).Round(time.Millisecond), tally)
	if tally["committed"] == 0 || tally["steps"] == 0 {
		t.Errorf("nothing was committed")
	}
}

// liesOf are the lies that the one liar may tell.
func liesOf(n *simNode, seed uint64) []testnet.Layer2Lie {
	return []testnet.Layer2Lie{
		{Name: "honest"},
		testnet.NoReplication(),
		testnet.EndorseAll(simChainID, n.key),
		testnet.DissentAll(),
		testnet.ReplayEndorsements(simChainID, n.key),
		testnet.AlterSteps(),
		testnet.Garbage(seed),
		testnet.ForgeBody(),
		testnet.ForgeAnswer(n.key),
		testnet.AlterRequest(),
	}
}

// playHistory plays so many sessions and returns how many came to which outcome.
func playHistory(rt *rapid.T, sessions int) map[string]int {
	seed := rapid.Uint64().Draw(rt, "seed")
	liar := rapid.IntRange(0, 2).Draw(rt, "liar")
	w := newSimulation(rt, 3, simClients)
	defer w.close()
	lies := liesOf(w.nodes[liar], seed)
	lie := lies[rapid.IntRange(0, len(lies)-1).Draw(rt, "lie")]
	w.nodes[liar].lie = lie
	var plan []disaster
	at := int64(20)
	for range rapid.IntRange(0, 2+sessions/10).Draw(rt, "disasters") {
		d := disaster{from: at + int64(rapid.IntRange(1, 60).Draw(rt, "after")), node: rapid.IntRange(0, 2).Draw(rt, "node"), other: -1}
		d.to = d.from + int64(rapid.IntRange(1, 30).Draw(rt, "for"))
		if rapid.Bool().Draw(rt, "cut") {
			d.other = (d.node + rapid.IntRange(1, 2).Draw(rt, "from")) % 3
		} else {
			d.disk = rapid.Bool().Draw(rt, "disk")
		}
		plan = append(plan, d)
		at = d.to
	}
	for _, n := range w.nodes {
		n.start()
	}
	w.connected()
	w.onTick = disasters(w, plan)

	var mu sync.Mutex
	var all []*played
	var clients sync.WaitGroup
	for c := range simClients {
		random := rand.New(rand.NewPCG(seed, uint64(c)))
		count := sessions / simClients
		if c < sessions%simClients {
			count++
		}
		cl := w.client(c, random.IntN(3), simRequire, 4*time.Second)
		clients.Go(func() {
			for range count {
				p := play(cl, w, c, random)
				mu.Lock()
				all = append(all, p)
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	// In the end all is well again, but for the liar.
	w.onTick = nil
	for _, n := range w.nodes {
		for _, m := range w.nodes {
			if n != m {
				w.mesh.Heal(n.public(), m.public())
			}
		}
		if n.up() == nil {
			n.start()
		}
	}
	w.connected()
	fail := func(format string, args ...any) {
		rt.Fatalf("lie %q of node %d, plan %+v: %s", lie.Name, liar, plan, fmt.Sprintf(format, args...))
	}
	checkHistory(fail, w, all, liar, lie.Name)
	tally := map[string]int{"disasters": len(plan), "histories": 1, "claims": w.acquitted(fail)}
	for _, p := range all {
		tally[p.outcome]++
		tally["steps"] += len(p.steps)
	}
	return tally
}

// disasters makes what happens at each request of a client.
func disasters(w *simulation, plan []disaster) func(int64) {
	var mu sync.Mutex
	next, over := 0, true // the disaster that comes next, or is going on
	return func(attempt int64) {
		mu.Lock()
		defer mu.Unlock()
		if next >= len(plan) {
			return
		}
		d := plan[next]
		n := w.nodes[d.node]
		switch {
		case over && attempt >= d.from:
			if over = false; d.other >= 0 {
				w.mesh.Cut(n.public(), w.nodes[d.other].public())
			} else {
				n.kill(d.disk)
			}
		case !over && attempt >= d.to:
			if over = true; d.other >= 0 {
				w.mesh.Heal(n.public(), w.nodes[d.other].public())
			} else {
				n.start()
			}
			next++
		}
	}
}

// play is one session of a client.
func play(c *client.Client, w *simulation, actor int, random *rand.Rand) *played {
	ctx := context.Background()
	p := &played{actor: actor, outcome: "open"}
	var s *client.Session
	var err error
	if err = again(func() error { s, err = c.Open(ctx); return err }); err != nil {
		p.outcome = "unknown: open: " + err.Error()
		return p
	}
	p.s = s
	for range 1 + random.IntN(5) {
		key := []string{"a", "b", "c", fmt.Sprintf("own%d", actor), fmt.Sprintf("own%d", actor)}[random.IntN(5)]
		method, target := "POST", "/add/"+key
		switch random.IntN(4) {
		case 0:
			method, target = "GET", "/get/"+key
		case 1:
			if random.IntN(4) == 0 {
				method, target = "GET", "/list"
			}
		}
		var a *client.Answer
		before := w.disks() // who loses its disk from here on may have lost this step
		if err = again(func() error { a, err = s.Call(ctx, method, target, "", nil); return err }); err == nil && a.Status != 200 {
			err = fmt.Errorf("%s %s: %d %s", method, target, a.Status, a.Body)
		}
		if err != nil {
			p.end(err, "step")
			return p
		}
		st := seen{method: method, target: target, body: a.Body}
		for _, e := range a.Endorsers {
			for _, n := range w.nodes {
				if n.public().DID() == e.Node {
					st.endorsers, st.disks = append(st.endorsers, n.i), append(st.disks, before[n.i])
				}
			}
		}
		p.steps = append(p.steps, st)
	}
	switch random.IntN(10) {
	case 0:
		if err := again(func() error { return s.Abandon(ctx) }); err != nil {
			p.end(err, "abandon")
			return p
		}
		p.outcome = "abandoned"
	case 1: // left open
	default:
		var o client.Outcome
		if err = again(func() error { o, err = s.Commit(ctx); return err }); err != nil {
			p.end(err, "commit")
			return p
		}
		p.outcome, p.height = "committed", o.Height
	}
	return p
}

// again makes a call until it succeeds or the session is over: after an answer that cannot be believed it goes to another node, an
// unknown outcome is found out by asking again, and endorsements that are missing come when the nodes that are down or cut off
// are back.
func again(call func() error) error {
	var err error
	for end := time.Now().Add(*patienceFlag); time.Now().Before(end); {
		var problem *client.Problem
		var ended *client.EndedError
		if err = call(); err == nil || errors.As(err, &problem) && problem.Conflict() || errors.As(err, &ended) {
			break
		}
	}
	return err
}

// end classifies an error: being overtaken is an outcome, everything else is not.
func (p *played) end(err error, what string) {
	var problem *client.Problem
	if errors.As(err, &problem) && (problem.Conflict() || problem.Code == string(refusal.ResponseDiffers)) {
		p.outcome = "conflicted"
		return
	}
	var few *client.EndorsementError
	var lie *client.AnswerError
	var ended *client.EndedError
	if errors.As(err, &ended) && ended.Status == "conflicted" {
		p.outcome = "conflicted"
		return
	}
	// With too few endorsements everywhere else, the client ends up at the liar again and again.
	if errors.As(err, &few) || errors.As(err, &lie) || problem != nil && problem.Code == string(refusal.WrongDigest) {
		p.outcome = "stuck: " + what + ": " + err.Error()
		return
	}
	p.outcome = "unknown: " + what + ": " + err.Error()
}

// model is the service of counters in other words.
type model map[string]int

func (m model) run(method, target, actor string) string {
	kind, key, _ := strings.Cut(target[1:], "/")
	switch method + kind {
	case "POSTadd":
		m[key]++
		return fmt.Sprintf("{\"n\":%d,\"by\":\"%s\"}", m[key], actor)
	case "GETget":
		if n, ok := m[key]; ok {
			return fmt.Sprintf("{\"n\":\"%d\"}", n)
		}
		return `{"n":""}`
	}
	out := ""
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out += fmt.Sprintf("n/%s=%d;", k, m[k])
	}
	return out
}

func checkHistory(fail func(string, ...any), w *simulation, all []*played, liar int, lie string) {
	byID := map[wire.SessionID]*played{}
	for _, p := range all {
		if strings.HasPrefix(p.outcome, "unknown") {
			fail("a client does not know what became of its session: %s", p.outcome)
		}
		if strings.HasPrefix(p.outcome, "stuck") {
			fail("a client could not get an answer with the endorsements that it asks for: %s\n%s", p.outcome, whereabouts(w, p))
		}
		id, err := wire.ParseSessionID(p.s.ID())
		if err != nil {
			fail("%v", err)
		}
		byID[id] = p
	}
	w.chain.mu.Lock()
	blocks := slices.Clone(w.chain.blocks)
	w.chain.mu.Unlock()
	m, settled := model{}, map[wire.SessionID]int64{}
	for i, txs := range blocks {
		for _, raw := range txs[1:] {
			tx, err := wire.DecodeSessionCommit(raw)
			if err != nil {
				fail("block %d: %v", i+1, err)
			}
			id := httpsig.SessionID(&tx.Open)
			p := byID[id]
			if p == nil {
				fail("block %d holds session %s, which nobody opened", i+1, id)
			}
			if settled[id] != 0 {
				fail("session %s is in the blocks twice, %d and %d", id, settled[id], i+1)
			}
			settled[id] = int64(i + 1)
			if head := tx.Head().String(); head != p.s.Transcript() || len(tx.Transactions) != len(p.steps) {
				fail("session %s: the block holds head %s and %d steps, its client saw %s and %d", id, head, len(tx.Transactions), p.s.Transcript(), len(p.steps))
			}
			for k, step := range tx.Transactions {
				saw := p.steps[k]
				if step.Request.Method != saw.method || step.Request.Path != saw.target || step.Response.Body != wire.Sum(saw.body) {
					fail("session %s step %d: the block holds %s %s, its client saw %s %s, %s", id, k+1, step.Request.Method, step.Request.Path, saw.method, saw.target, saw.body)
				}
				if want := m.run(saw.method, saw.target, fmt.Sprintf("actor%d", p.actor)); want != string(saw.body) {
					fail("session %s step %d, %s %s: answered %s; the model answers %s", id, k+1, saw.method, saw.target, saw.body, want)
				}
			}
		}
	}
	// The ledger's state is the model's.
	view := w.chain.store.Latest()
	got := model{}
	for e, err := range view.Scan([]byte("a/n/"), []byte("a/n0")) {
		if err != nil {
			fail("scan: %v", err)
		}
		n, err := strconv.Atoi(string(e.Value))
		if err != nil {
			fail("%s: %v", e.Key, err)
		}
		got[string(bytes.TrimPrefix(e.Key, []byte("a/n/")))] = n
	}
	if !maps.Equal(got, m) {
		fail("the ledger has %v, the model %v", got, m)
	}
	// One outcome, and every node that knows tells it.
	for id, p := range byID {
		height := settled[id]
		if (p.outcome == "committed") != (height > 0) || p.height != height {
			fail("session %s: its client was told %s at height %d; in the blocks it is at %d", id, p.outcome, p.height, height)
		}
		if rec, ok, err := ledger.SettledOf(view, id); err != nil || ok != (height > 0) || ok && rec.Height != height {
			fail("session %s: the ledger's record is %+v, %v, %v; it is in block %d", id, rec, ok, err, height)
		}
		for _, n := range w.nodes {
			s, err := n.up().Session(context.Background(), id)
			switch {
			case refusal.Has(err, refusal.SessionNotFound) && height == 0:
			case err != nil:
				fail("session %s at node %d: %v", id, n.i, err)
			case (s.Status == session.Committed) != (height > 0):
				fail("session %s: node %d says %s, it is in block %d", id, n.i, s.Status, height)
			}
		}
		checkKept(fail, w, p, id, liar, lie)
	}
}

// whereabouts says what each node has of a session.
func whereabouts(w *simulation, p *played) string {
	text := fmt.Sprintf("session %s, %d steps seen, head %s\n", p.s.ID(), len(p.steps), p.s.Transcript())
	id, err := wire.ParseSessionID(p.s.ID())
	if err != nil {
		return text
	}
	for _, n := range w.nodes {
		s, err := n.up().Session(context.Background(), id)
		text += fmt.Sprintf("node %d: %s, %d steps, head %s, %v\n", n.i, s.Status, s.Sequence, s.Transcript, err)
		if a, err := n.up().Audit(context.Background(), id); err == nil {
			for _, e := range a.Entries {
				text += fmt.Sprintf("    %+v\n", e)
			}
		}
	}
	return text
}

// checkKept holds the network to "an acknowledged step survives": every honest node that has endorsed a step of a session that
// was left open, and has not lost its disk since, has it still.
func checkKept(fail func(string, ...any), w *simulation, p *played, id wire.SessionID, liar int, lie string) {
	if p.outcome != "open" {
		return
	}
	for k, st := range p.steps {
		if len(st.endorsers) < simRequire {
			fail("session %s step %d was acknowledged by %v", id, k+1, st.endorsers)
		}
		for j, i := range st.endorsers {
			n := w.nodes[i]
			if i == liar && lie != "honest" || n.disk != st.disks[j] {
				continue
			}
			s, err := n.up().Session(context.Background(), id)
			if err != nil {
				fail("session %s step %d is gone from node %d, which has endorsed it: %v", id, k+1, i, err)
			}
			if len(s.Steps) <= k || s.Steps[k].Response != wire.Sum(st.body).String() {
				fail("session %s: node %d has %d steps, and not step %d that it has endorsed", id, i, len(s.Steps), k+1)
			}
		}
	}
}

// TestModel: the model is a model of the service.
func TestModel(t *testing.T) {
	w := newSimulation(t, 1, 1)
	defer w.close()
	w.nodes[0].start()
	s, err := w.client(0, 0, 1, 10*time.Second).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := model{}
	for _, c := range [][2]string{{"GET", "/get/a"}, {"POST", "/add/a"}, {"POST", "/add/b"}, {"GET", "/get/a"}, {"GET", "/list"}} {
		a, err := s.Call(t.Context(), c[0], c[1], "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := m.run(c[0], c[1], "actor0"); want != string(a.Body) || a.Status != http.StatusOK {
			t.Errorf("%s: %d %s, model %s", c, a.Status, a.Body, want)
		}
	}
	if o, err := s.Commit(t.Context()); err != nil || !o.Committed() {
		b, _ := json.Marshal(o)
		t.Fatalf("%s, %v", b, err)
	}
}
