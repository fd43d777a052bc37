package testnet_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	abci "github.com/cometbft/cometbft/abci/types"

	"tandem"
	"tandem/client"
	"tandem/internal/exec"
	"tandem/internal/httpapi"
	"tandem/internal/layer1"
	"tandem/internal/layer2"
	"tandem/internal/ledger"
	"tandem/internal/peer"
	"tandem/internal/refusal"
	"tandem/internal/signedblock/signtest"
	"tandem/internal/state"
	"tandem/internal/testnet"
	"tandem/internal/wire"
)

// The simulation: real session engines on disks in memory that can crash and be lost, the real Layer 1 application driven
// without consensus, the real HTTP handlers without sockets, the real client. Only the network between them is ours: links
// between nodes are a peer.Mesh, requests go through a RoundTripper that can lose them and their answers.

const simChainID = "simulation"

// fataler is what testing.TB and rapid.T share.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

func simKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("simulation " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// counters is a service of hot keys: add and set write, get and list read. What it does is told again, in other words, by
// model in property_test.go.
func counters() tandem.Service {
	var reg tandem.Registry
	key := func(r *http.Request) []byte { return []byte("n/" + r.PathValue("k")) }
	reg.HandleFunc("POST /add/{k}", func(w http.ResponseWriter, r *http.Request) {
		st := tandem.StateOf(r.Context())
		old, _ := st.Get(key(r))
		n, _ := strconv.Atoi(string(old))
		st.Set(key(r), []byte(strconv.Itoa(n+1)))
		fmt.Fprintf(w, `{"n":%d,"by":%q}`, n+1, tandem.ActorOf(r.Context()).ID)
	})
	reg.HandleFunc("GET /get/{k}", func(w http.ResponseWriter, r *http.Request) {
		v, _ := tandem.StateOf(r.Context()).Get(key(r))
		fmt.Fprintf(w, `{"n":%q}`, v)
	})
	reg.HandleFunc("GET /list", func(w http.ResponseWriter, r *http.Request) {
		for k, v := range tandem.StateOf(r.Context()).Scan([]byte("n/"), []byte("n0")) {
			fmt.Fprintf(w, "%s=%s;", k, v)
		}
	})
	return tandem.Service{Name: "counters", Version: "1", Registry: &reg}
}

// simulation is a ledger and some Layer 2 nodes.
type simulation struct {
	t        fataler
	svc      tandem.Service
	mesh     *peer.Mesh
	chain    *simChain
	nodes    []*simNode
	genesis  []byte
	signers  *signtest.Validators
	claims   *claims // of the honest nodes
	options  func(i int, o *layer2.Options)
	attempts atomic.Int64 // requests that clients have sent
	onTick   func(attempt int64)
	stop     context.CancelFunc
	done     chan struct{}
}

// simChain is the ledger that all nodes share.
type simChain struct {
	w     *simulation
	app   *layer1.App
	store *state.Store
	wake  chan struct{}

	mu     sync.Mutex // guards what follows and the making of blocks
	pool   [][]byte
	time   int64
	height int64
	told   *layer1.Block
	blocks [][][]byte       // transactions by height, from height 1
	tellTo []*layer2.Engine // by node; nil while it is down
}

// simNode is a Layer 2 node and its disk.
type simNode struct {
	w   *simulation
	i   int
	key ed25519.PrivateKey
	lie testnet.Layer2Lie // zero: honest; changed while it is down

	mu      sync.RWMutex // a kill is exclusive: what was acknowledged before it is on the disk that it leaves
	fs      *vfs.MemFS
	engine  *layer2.Engine
	handler http.Handler
	life    int // counts starts
	disk    int // counts lost disks
}

func (n *simNode) public() wire.PublicKey { return wire.PublicKeyOf(n.key) }
func (n *simNode) url() string            { return fmt.Sprintf("http://node%d.test", n.i) }

// newSimulation makes a network of so many Layer 2 nodes and actors actor0, actor1, ... Nodes are started with start.
func newSimulation(t fataler, nodes, actors int) *simulation {
	w := &simulation{t: t, svc: counters(), mesh: peer.NewMesh(), done: make(chan struct{}), signers: signtest.New(simChainID, 4), claims: newClaims()}
	runner := exec.New(w.svc, exec.Options{Framework: ledger.Routes()})
	var g ledger.Genesis
	g.Tandem.Parameters = ledger.DefaultParameters(w.svc, runner.Fingerprint())
	for i := range actors {
		name := fmt.Sprintf("actor%d", i)
		g.Tandem.Actors = append(g.Tandem.Actors, ledger.GenesisActor{ID: name, Organisation: "org", Keys: []wire.PublicKey{wire.PublicKeyOf(simKey(name))}})
	}
	for i := range nodes {
		n := &simNode{w: w, i: i, key: simKey(fmt.Sprintf("node %d", i)), fs: vfs.NewCrashableMem()}
		w.nodes = append(w.nodes, n)
		g.Tandem.Layer2 = append(g.Tandem.Layer2, ledger.GenesisNode{Key: n.public(), Organisation: fmt.Sprintf("org of node %d", i), Address: fmt.Sprintf("node%d.test:1", i)})
	}
	app, err := g.JSON()
	if err != nil {
		t.Fatalf("genesis: %v", err)
	}
	w.genesis = w.signers.Genesis(app)
	store, err := state.Open("state", state.Options{FS: vfs.NewMem(), Keep: 5000})
	if err != nil {
		t.Fatalf("state: %v", err)
	}
	c := &simChain{w: w, store: store, wake: make(chan struct{}, 1), time: time.Now().UnixMilli(), tellTo: make([]*layer2.Engine, nodes)}
	c.app = layer1.New(layer1.Options{
		Store: store, Service: w.svc, Runner: runner, Watchdog: -1, OnBlock: func(b layer1.Block) { c.told = &b },
		Halt: func(err error) { panic(err) },
	})
	if _, err := c.app.InitChain(context.Background(), &abci.RequestInitChain{
		ChainId: simChainID, InitialHeight: 1, AppStateBytes: app, Time: time.UnixMilli(c.time),
	}); err != nil {
		t.Fatalf("InitChain: %v", err)
	}
	w.chain = c
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	c.cut() // engines want a first block
	go func() {
		defer close(w.done)
		for {
			select {
			case <-c.wake:
				c.cut()
			case <-ctx.Done():
				return
			}
		}
	}()
	return w
}

// close stops everything.
func (w *simulation) close() {
	w.stop()
	<-w.done
	for _, n := range w.nodes {
		n.kill(true)
	}
	_ = w.chain.store.Close()
}

// Submit implements layer2.Ledger.
func (c *simChain) Submit(ctx context.Context, tx []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, have := range c.pool {
		if bytes.Equal(have, tx) {
			return nil
		}
	}
	res, err := c.app.CheckTx(ctx, &abci.RequestCheckTx{Tx: tx})
	if err != nil {
		return err
	}
	if r := layer1.CheckTxRefusal(res); r != nil {
		return r
	}
	c.pool = append(c.pool, bytes.Clone(tx))
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

// View implements layer2.Ledger.
func (c *simChain) View() (*state.View, error) { return c.store.Latest(), nil }

// Time implements layer2.Ledger.
func (c *simChain) Time() int64 {
	_, _, at := c.store.Version()
	return at
}

// Quarantined implements layer2.Ledger.
func (c *simChain) Quarantined(tx wire.Digest) (*refusal.Refusal, bool) {
	return c.app.QuarantineOf(tx)
}

// cut makes a block of the pool, as an honest proposer and an honest validator do, and tells the nodes that are up. It panics
// where Layer 1 breaks its own promises; rapid and testing report that.
func (c *simChain) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	height, at := c.height+1, max(c.time+1, time.Now().UnixMilli())
	ctx := context.Background()
	must := func(err error) {
		if err != nil {
			panic(fmt.Sprintf("block %d: %v", height, err))
		}
	}
	prepared, err := c.app.PrepareProposal(ctx, &abci.RequestPrepareProposal{MaxTxBytes: 3 << 20, Txs: c.pool, Height: height, Time: time.UnixMilli(at)})
	must(err)
	judged, err := c.app.ProcessProposal(ctx, &abci.RequestProcessProposal{Txs: prepared.Txs, Height: height, Time: time.UnixMilli(at), ProposerAddress: []byte("sim")})
	must(err)
	if judged.Status != abci.ResponseProcessProposal_ACCEPT {
		panic(fmt.Sprintf("block %d: an honest proposal is rejected", height))
	}
	_, err = c.app.FinalizeBlock(ctx, &abci.RequestFinalizeBlock{Txs: prepared.Txs, Height: height, Time: time.UnixMilli(at)})
	must(err)
	_, err = c.app.Commit(ctx, &abci.RequestCommit{})
	must(err)
	c.height, c.time = height, at
	c.blocks = append(c.blocks, prepared.Txs)
	var left [][]byte
	for _, tx := range c.pool {
		if res, err := c.app.CheckTx(ctx, &abci.RequestCheckTx{Tx: tx, Type: abci.CheckTxType_Recheck}); err == nil && res.Code == 0 {
			left = append(left, tx)
		}
	}
	c.pool = left
	b := layer2.Block{Height: c.told.Height, Time: c.told.Time, Changes: c.told.Changes}
	for _, s := range c.told.Sessions {
		b.Sessions = append(b.Sessions, layer2.Settled{
			ID: s.ID, Transaction: s.Transaction, Actor: s.Actor, Keys: s.Keys, Part: s.Part, Steps: s.Steps, Head: s.Head, Final: s.Final,
		})
	}
	for _, e := range c.tellTo {
		if e != nil {
			e.OnBlock(b)
		}
	}
}

// errDead is what a killed node's calls come to.
var errDead = errors.New("simulation: the node is dead")

// simLedger is the ledger as one life of a node sees it: gone after the kill.
type simLedger struct {
	*simChain
	n    *simNode
	life int
}

func (l simLedger) Submit(ctx context.Context, tx []byte) error {
	l.n.mu.RLock()
	dead := l.n.life != l.life
	l.n.mu.RUnlock()
	if dead {
		return errDead
	}
	return l.simChain.Submit(ctx, tx)
}

// mortal cuts a life's transport off at the kill: an endorsement that is sent is of what the disk holds after it.
type mortal struct {
	layer2.Peers
	n    *simNode
	life int
}

func (m mortal) Send(to wire.PublicKey, message []byte) error {
	if !m.n.mu.TryRLock() { // it is being killed
		return peer.ErrDown
	}
	defer m.n.mu.RUnlock()
	if m.n.life != m.life {
		return peer.ErrDown
	}
	return m.Peers.Send(to, message)
}

// start starts the node on its disk.
func (n *simNode) start() {
	w := n.w
	n.mu.Lock()
	n.life++
	life, fs := n.life, n.fs
	n.mu.Unlock()
	runner := exec.New(w.svc, exec.Options{Framework: ledger.Routes()})
	var peers layer2.Peers = w.mesh.Node(n.public())
	if n.lie.Peers != nil {
		peers = n.lie.Peers(peers)
	} else if n.lie.Front == nil {
		peers = w.claims.heard(n.public(), peers)
	}
	o := layer2.Options{
		Ledger: simLedger{w.chain, n, life}, Runner: runner, Key: n.key, ChainID: simChainID, FS: fs, Peers: mortal{peers, n, life},
		ResubmitBlocks: 1, ResubmitEvery: 200 * time.Millisecond, Proofs: simProofs{w.chain.store, w}, Halt: func(err error) { panic(err) },
	}
	if w.options != nil {
		w.options(n.i, &o)
	}
	c := w.chain
	c.mu.Lock() // no block between the engine's first look and its place among those told
	e, err := layer2.Open("layer2", o)
	if err == nil {
		c.tellTo[n.i] = e
	}
	c.mu.Unlock()
	if err != nil {
		w.t.Fatalf("node %d does not start: %v", n.i, err)
	}
	handler, err := httpapi.New(httpapi.Options{
		Engine: testnetEngine{e}, Ledger: simAnswers{w}, Runner: runner, Health: simAnswers{w}, Service: w.svc, ChainID: simChainID,
		Fingerprint: runner.Fingerprint(), CommitWait: 2 * time.Second,
	})
	if err != nil {
		w.t.Fatalf("node %d: %v", n.i, err)
	}
	if n.lie.Front != nil {
		handler = n.lie.Front(handler)
	}
	n.mu.Lock()
	n.engine, n.handler = e, handler
	n.mu.Unlock()
}

// testnetEngine is the engine as httpapi wants it.
type testnetEngine struct{ *layer2.Engine }

// kill is kill -9: what was not synced is gone; with disk false, everything is.
func (n *simNode) kill(disk bool) {
	n.mu.Lock()
	e := n.engine
	if e == nil {
		n.mu.Unlock()
		return
	}
	n.life++
	n.engine, n.handler = nil, nil
	if disk {
		n.fs = n.fs.CrashClone(vfs.CrashCloneCfg{})
	} else {
		n.fs = vfs.NewCrashableMem()
		n.disk++
	}
	n.mu.Unlock()
	c := n.w.chain
	c.mu.Lock()
	c.tellTo[n.i] = nil
	c.mu.Unlock()
	_ = e.Close() // it writes to a disk that is nobody's any more
}

func (n *simNode) up() *layer2.Engine {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.engine
}

// disks returns how many disks each node has lost.
func (w *simulation) disks() []int {
	var lost []int
	for _, n := range w.nodes {
		n.mu.RLock()
		lost = append(lost, n.disk)
		n.mu.RUnlock()
	}
	return lost
}

// simAnswers answers what httpapi asks about the ledger.
type simAnswers struct{ w *simulation }

func (a simAnswers) Block(context.Context, int64) (httpapi.Block, error) {
	return httpapi.Block{}, refusal.New(refusal.BlockNotFound, "no blocks here")
}
func (a simAnswers) Transaction(context.Context, wire.Digest) (httpapi.Transaction, error) {
	return httpapi.Transaction{}, refusal.New(refusal.TransactionNotFound, "no transactions here")
}
func (a simAnswers) Receipt(context.Context, wire.SessionID, uint64) ([]byte, error) {
	return nil, refusal.New(refusal.NotCommitted, "no receipts here")
}
func (a simAnswers) Genesis() []byte { return a.w.genesis }
func (a simAnswers) Status(context.Context) (httpapi.Status, error) {
	s := httpapi.Status{ChainID: simChainID, Fingerprint: wire.Digest(a.w.svc.Fingerprint()).String(), Service: a.w.svc.Name}
	for _, n := range a.w.nodes {
		s.Layer2 = append(s.Layer2, httpapi.Layer2Node{Key: n.public().DID(), URL: n.url()})
	}
	return s, nil
}
func (a simAnswers) View() (*state.View, error) { return a.w.chain.View() }
func (a simAnswers) Time() int64                { return a.w.chain.Time() }
func (a simAnswers) WaitHeight(context.Context, int64) error {
	return nil
}
func (a simAnswers) Health() httpapi.Health { return httpapi.Health{Live: true, Ready: true} }

var errLost = errors.New("simulation: connection lost")

// RoundTrip carries a client's request to a node, and its answer back, if the node lives that long.
func (w *simulation) RoundTrip(r *http.Request) (*http.Response, error) {
	attempt := w.attempts.Add(1)
	if w.onTick != nil {
		w.onTick(attempt)
	}
	var n *simNode
	for _, x := range w.nodes {
		if x.url() == "http://"+r.URL.Host {
			n = x
		}
	}
	if n == nil {
		return nil, errLost
	}
	n.mu.RLock()
	handler, life := n.handler, n.life
	n.mu.RUnlock()
	if handler == nil {
		return nil, errLost
	}
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	in := httptest.NewRequest(r.Method, r.URL.RequestURI(), bytes.NewReader(body)).WithContext(r.Context())
	in.Header, in.Host = r.Header.Clone(), r.URL.Host
	out := httptest.NewRecorder()
	served := make(chan struct{})
	go func() {
		defer close(served)
		handler.ServeHTTP(out, in)
	}()
	select {
	case <-served:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	n.mu.RLock()
	died := n.life != life
	n.mu.RUnlock()
	if died {
		return nil, errLost
	}
	res := out.Result()
	res.Request = r
	return res, nil
}

// client makes a client of an actor whose first node is given.
func (w *simulation) client(actor, first, require int, patience time.Duration) *client.Client {
	k, err := client.KeyFromSeed(simKey(fmt.Sprintf("actor%d", actor)).Seed())
	if err != nil {
		w.t.Fatalf("key: %v", err)
	}
	var urls []string
	for i := range w.nodes {
		urls = append(urls, w.nodes[(first+i)%len(w.nodes)].url())
	}
	c, err := client.New(client.Config{
		URLs: urls, Key: k, Genesis: w.genesis, HTTP: &http.Client{Transport: w}, Patience: patience, Hedge: 3 * time.Second,
		RequireEndorsements: require,
	})
	if err != nil {
		w.t.Fatalf("client: %v", err)
	}
	return c
}

// spin waits for what takes microseconds.
func spin(t fataler, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// connected waits until the nodes that are up see each other.
func (w *simulation) connected() {
	w.t.Helper()
	spin(w.t, "the nodes connect", func() bool {
		for _, n := range w.nodes {
			if e := n.up(); e != nil {
				up := 0
				for _, p := range e.Peers() {
					if p.Up {
						up++
					}
				}
				want := -1
				for _, m := range w.nodes {
					if m.up() != nil {
						want++
					}
				}
				if up < want {
					return false
				}
			}
		}
		return true
	})
}
