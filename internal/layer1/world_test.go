package layer1

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	abci "github.com/cometbft/cometbft/abci/types"

	"tandem"
	"tandem/internal/exec"
	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

const (
	testChain = "layer1-test"
	startTime = int64(1_700_000_000_000)
)

// tb is what testing.T, testing.B, testing.F and rapid.T share.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// quirk is what makes a node's replay differ, for the handlers that misbehave on purpose.
type quirk struct {
	mu    sync.Mutex
	text  string // differs from node to node
	count int    // differs from run to run
	loose chan struct{}
}

func (q *quirk) get() (string, int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.count++
	return q.text, q.count
}

func (q *quirk) set(text string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.text = text
}

// testService counts and stores, and misbehaves where a route says so.
func testService(q *quirk) tandem.Service {
	var reg tandem.Registry
	reg.HandleFunc("POST /add/{k}", func(w http.ResponseWriter, r *http.Request) {
		st, key := tandem.StateOf(r.Context()), []byte("n/"+r.PathValue("k"))
		old, _ := st.Get(key)
		n, _ := strconv.Atoi(string(old))
		st.Set(key, []byte(strconv.Itoa(n+1)))
		fmt.Fprintf(w, `{"n":%d,"by":%q}`, n+1, tandem.ActorOf(r.Context()).ID)
	})
	reg.HandleFunc("GET /get/{k}", func(w http.ResponseWriter, r *http.Request) {
		v, ok := tandem.StateOf(r.Context()).Get([]byte("n/" + r.PathValue("k")))
		fmt.Fprintf(w, `{"n":%q,"there":%t}`, v, ok)
	})
	reg.HandleFunc("POST /put/{k}", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		tandem.StateOf(r.Context()).Set([]byte("v/"+r.PathValue("k")), b)
		w.WriteHeader(http.StatusCreated)
	})
	reg.HandleFunc("POST /answer-quirk", func(w http.ResponseWriter, r *http.Request) {
		text, _ := q.get()
		fmt.Fprint(w, text)
	})
	reg.HandleFunc("POST /answer-parity", func(w http.ResponseWriter, r *http.Request) {
		_, n := q.get()
		fmt.Fprint(w, n%2)
	})
	reg.HandleFunc("POST /write-count/{k}", func(w http.ResponseWriter, r *http.Request) {
		_, n := q.get()
		tandem.StateOf(r.Context()).Set([]byte("c/"+r.PathValue("k")), []byte(strconv.Itoa(n)))
	})
	reg.HandleFunc("POST /write-quirk/{k}", func(w http.ResponseWriter, r *http.Request) {
		text, _ := q.get()
		tandem.StateOf(r.Context()).Set([]byte("q/"+r.PathValue("k")), []byte(text))
	})
	reg.HandleFunc("POST /panic-quirk", func(w http.ResponseWriter, r *http.Request) {
		if text, _ := q.get(); text != "calm" {
			panic("out of cheese")
		}
	})
	reg.HandleFunc("POST /hang-quirk", func(w http.ResponseWriter, r *http.Request) {
		if text, _ := q.get(); text != "calm" {
			<-q.loose
		}
	})
	return tandem.Service{Name: "layer1-test", Version: "1", Registry: &reg, Genesis: func(st tandem.State, seed json.RawMessage) error {
		st.Set([]byte("seed"), seed)
		return nil
	}}
}

// node is one validator without an engine: the application, its store and what it told.
type node struct {
	app    *App
	store  *state.Store
	runner *exec.Runner
	quirk  *quirk
	fs     vfs.FS
	blocks []Block
	halted []error
	opts   Options
}

// world is a small network of applications, run by the test in place of CometBFT.
type world struct {
	t       tb
	nodes   []*node
	genesis []byte
	time    int64 // of the last block
	nonce   uint64
	actors  map[string]ed25519.PrivateKey
	origin  ed25519.PrivateKey
	settled map[wire.SessionID]int64 // height
	last    []byte                   // app hash
}

func key(name string) ed25519.PrivateKey {
	sum := sha256.Sum256([]byte("layer1 test key " + name))
	return ed25519.NewKeyFromSeed(sum[:])
}

func newWorld(t tb, nodes int, change ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, time: startTime, actors: map[string]ed25519.PrivateKey{}, origin: key("origin"), settled: map[wire.SessionID]int64{}}
	var g ledger.Genesis
	for _, name := range []string{"root", "ann", "bob", "eve"} {
		w.actors[name] = key(name)
		a := ledger.GenesisActor{ID: name, Organisation: "org", Keys: []wire.PublicKey{wire.PublicKeyOf(key(name))}}
		if name == "root" {
			a.Roles = []string{ledger.RoleAdmin}
		}
		g.Tandem.Actors = append(g.Tandem.Actors, a)
	}
	g.Tandem.Layer2 = []ledger.GenesisNode{{Key: wire.PublicKeyOf(w.origin), Organisation: "org"}}
	svc := testService(&quirk{})
	g.Tandem.Parameters = ledger.DefaultParameters(svc, wire.Digest(svc.Fingerprint()))
	g.Tandem.Parameters.MaxSteps = 64
	g.Service = json.RawMessage(`{"hello": 1}`)
	var err error
	if w.genesis, err = g.JSON(); err != nil {
		t.Fatalf("genesis: %v", err)
	}
	for range nodes {
		n := &node{quirk: &quirk{text: "calm", loose: make(chan struct{})}, fs: vfs.NewMem(), opts: Options{Watchdog: -1}}
		for _, c := range change {
			c(&n.opts)
		}
		w.start(n)
		res, err := n.app.InitChain(context.Background(), w.initChain())
		if err != nil {
			t.Fatalf("InitChain: %v", err)
		}
		w.last = res.AppHash
		w.nodes = append(w.nodes, n)
	}
	return w
}

func (w *world) initChain() *abci.RequestInitChain {
	return &abci.RequestInitChain{ChainId: testChain, InitialHeight: 1, AppStateBytes: w.genesis, Time: time.UnixMilli(startTime)}
}

// start opens the node's store and makes an application, as a process does.
func (w *world) start(n *node) {
	w.t.Helper()
	store, err := state.Open("state", state.Options{FS: n.fs})
	if err != nil {
		w.t.Fatalf("open: %v", err)
	}
	n.store = store
	svc := testService(n.quirk)
	n.runner = exec.New(svc, exec.Options{Framework: ledger.Routes()})
	o := n.opts
	o.Store, o.Service, o.Runner = store, svc, n.runner
	o.Logger = slog.New(slog.DiscardHandler)
	o.OnBlock = func(b Block) { n.blocks = append(n.blocks, b) }
	o.Halt = func(err error) { n.halted = append(n.halted, err) }
	n.app = New(o)
}

func (w *world) restart(n *node) {
	w.t.Helper()
	if err := n.store.Close(); err != nil {
		w.t.Fatalf("close: %v", err)
	}
	w.start(n)
}

func (w *world) close() {
	for _, n := range w.nodes {
		_ = n.store.Close()
	}
}

func (w *world) height() int64 {
	h, _, _ := w.nodes[0].store.Version()
	return h
}

// call is one request of a session in the making.
type call struct{ method, target, body string }

func post(target, body string) call { return call{http.MethodPost, target, body} }

// draftSession is a session before it is signed; tests change it to make it wrong.
type draftSession struct {
	actor      string
	priv       ed25519.PrivateKey
	open       wire.OpenBody
	stepTime   int64
	calls      []call
	originator ed25519.PrivateKey
	// tamper changes the recorded response of a step before the client sees it.
	tamper func(step int, r *wire.Response)
	on     *node // whose handlers answer
	view   state.Reader
}

func (w *world) draft(actor string, calls ...call) *draftSession {
	w.nonce++
	d := &draftSession{
		actor: actor, priv: w.actors[actor], stepTime: w.time + 100, calls: calls, originator: w.origin, on: w.nodes[0],
		open: wire.OpenBody{ChainID: testChain, Fingerprint: w.nodes[0].runner.Fingerprint(), ExpiresAt: w.time + 600_000},
	}
	copy(d.open.Nonce[:], fmt.Sprintf("%016d", w.nonce))
	d.view = w.nodes[0].store.Latest()
	return d
}

// commit plays client and Layer 2: it runs the calls on the view and signs everything.
func (d *draftSession) commit(t tb) *wire.SessionCommit {
	t.Helper()
	created := d.stepTime / 1000
	c := &wire.SessionCommit{Open: wire.Request{
		Method: "POST", Path: session.PathOpen, ContentType: "application/json", Body: d.open.JSON(), Created: created,
	}}
	httpsig.Sign(d.priv, httpsig.TagOpen, &c.Open, httpsig.Place{})
	place := httpsig.Place{Session: httpsig.SessionID(&c.Open), Transcript: wire.TranscriptStart(c.Open)}
	o := state.NewOverlay(d.view)
	actor, err := ledger.ActorOf(o, wire.PublicKeyOf(d.priv))
	if err != nil {
		actor = tandem.Actor{ID: d.actor, Organisation: "org"}
	}
	for i, call := range d.calls {
		place.Sequence++
		path, query, _ := strings.Cut(call.target, "?")
		tx := wire.Transaction{
			Sequence: place.Sequence, Time: d.stepTime + int64(i), Originator: wire.PublicKeyOf(d.originator),
			Request: wire.Request{Method: call.method, Path: path, Query: query, ContentType: "application/json", Body: []byte(call.body), Created: created},
		}
		httpsig.Sign(d.priv, httpsig.TagStep, &tx.Request, place)
		res, err := d.on.runner.Run(context.Background(), o, exec.Step{
			Request: &tx.Request, Actor: actor, Session: place.Session, Sequence: tx.Sequence, Time: tx.Time,
		})
		if err != nil {
			t.Fatalf("step %d: %v", place.Sequence, err)
		}
		tx.Response = res.Response
		if d.tamper != nil {
			d.tamper(i+1, &tx.Response)
		}
		place.Transcript = wire.TranscriptNext(place.Transcript, tx)
		c.Transactions = append(c.Transactions, tx)
	}
	place.Sequence++
	c.Commit = wire.Request{Method: "POST", Path: session.PathCommit(place.Session), ContentType: "application/json", Body: []byte("{}"), Created: created}
	httpsig.Sign(d.priv, httpsig.TagCommit, &c.Commit, place)
	return c
}

func (d *draftSession) bytes(t tb) []byte { return d.commit(t).Encode() }

// session is the common case: a good session on the last state.
func (w *world) session(actor string, calls ...call) []byte {
	w.t.Helper()
	return w.draft(actor, calls...).bytes(w.t)
}

func idOf(t tb, tx []byte) wire.SessionID {
	c, err := wire.DecodeSessionCommit(tx)
	if err != nil {
		t.Fatalf("not a session commit: %v", err)
	}
	return httpsig.SessionID(&c.Open)
}

// next is the slot of the next block.
func (w *world) next() (int64, time.Time) { return w.height() + 1, time.UnixMilli(w.time + 1000) }

// prepare asks a node for a proposal of the transactions.
func (w *world) prepare(n *node, txs ...[]byte) [][]byte {
	w.t.Helper()
	height, at := w.next()
	res, err := n.app.PrepareProposal(context.Background(), &abci.RequestPrepareProposal{
		MaxTxBytes: 3 << 20, Txs: txs, Height: height, Time: at,
	})
	if err != nil {
		w.t.Fatalf("PrepareProposal: %v", err)
	}
	return res.Txs
}

// process asks a node what it thinks of a proposal. An error or a panic fails the test: content must never cause one.
func (w *world) process(n *node, proposer string, txs [][]byte) bool {
	w.t.Helper()
	height, at := w.next()
	_, before, _ := n.store.Version()
	res, err := n.app.ProcessProposal(context.Background(), &abci.RequestProcessProposal{
		Txs: txs, Height: height, Time: at, ProposerAddress: []byte(proposer),
	})
	if err != nil {
		w.t.Fatalf("ProcessProposal returned an error for content: %v", err)
	}
	if _, after, _ := n.store.Version(); before != after {
		w.t.Fatalf("ProcessProposal changed the state")
	}
	switch res.Status {
	case abci.ResponseProcessProposal_ACCEPT:
		return true
	case abci.ResponseProcessProposal_REJECT:
		return false
	}
	w.t.Fatalf("status %v", res.Status)
	return false
}

// decide finalizes and commits a proposal on all nodes and verifies the world.
func (w *world) decide(txs [][]byte) {
	w.t.Helper()
	height, at := w.next()
	var hash []byte
	for i, n := range w.nodes {
		res, err := n.app.FinalizeBlock(context.Background(), &abci.RequestFinalizeBlock{Txs: txs, Height: height, Time: at})
		if err != nil {
			w.t.Fatalf("node %d: FinalizeBlock: %v", i, err)
		}
		if len(res.TxResults) != len(txs) {
			w.t.Fatalf("node %d: %d results for %d transactions", i, len(res.TxResults), len(txs))
		}
		if hash != nil && !bytes.Equal(hash, res.AppHash) {
			w.t.Fatalf("node %d: app hash %x, node 0 has %x", i, res.AppHash, hash)
		}
		hash = res.AppHash
		if _, err := n.app.Commit(context.Background(), &abci.RequestCommit{}); err != nil {
			w.t.Fatalf("node %d: Commit: %v", i, err)
		}
	}
	w.time = at.UnixMilli()
	for _, tx := range txs[1:] {
		w.settled[idOf(w.t, tx)] = height
	}
	w.last = hash
	w.check()
}

// check verifies the whole world: equal roots, the statement in the block, every settled session's record, the trees on
// disk, what OnBlock told.
func (w *world) check() {
	w.t.Helper()
	for i, n := range w.nodes {
		if len(n.halted) > 0 {
			w.t.Fatalf("node %d halted: %v", i, n.halted)
		}
		height, root, at := n.store.Version()
		if height != w.height() || at != w.time || !bytes.Equal(root[:], w.last) {
			w.t.Fatalf("node %d: at height %d, time %d, root %s; the world is at %d, %d, %x", i, height, at, root, w.height(), w.time, w.last)
		}
		if err := n.store.Verify(height); err != nil {
			w.t.Fatalf("node %d: %v", i, err)
		}
		view := n.store.Latest()
		for id, h := range w.settled {
			s, ok, err := ledger.SettledOf(view, id)
			if err != nil || !ok || s.Height != h {
				w.t.Fatalf("node %d: session %s: %+v %v %v, want height %d", i, id, s, ok, err, h)
			}
		}
		if len(n.blocks) > 0 {
			b := n.blocks[len(n.blocks)-1]
			if b.Height != height || b.Root != root || b.Time != at {
				w.t.Fatalf("node %d: OnBlock told %d %s %d", i, b.Height, b.Root, b.Time)
			}
		}
		info, err := n.app.Info(context.Background(), &abci.RequestInfo{})
		if err != nil || info.LastBlockHeight != height || height > 0 && !bytes.Equal(info.LastBlockAppHash, w.last) {
			w.t.Fatalf("node %d: Info %v %v", i, info, err)
		}
	}
}

// block runs a whole round with node 0 as proposer: everybody must accept. It returns the decided transactions.
func (w *world) block(txs ...[]byte) [][]byte {
	w.t.Helper()
	made := w.prepare(w.nodes[0], txs...)
	for i, n := range w.nodes {
		if !w.process(n, "node0", made) {
			w.t.Fatalf("node %d rejects an honest proposal", i)
		}
	}
	w.decide(made)
	return made
}

func (w *world) checkTx(n *node, tx []byte) *refusal.Refusal {
	return w.checkType(n, tx, abci.CheckTxType_New)
}

func (w *world) recheck(n *node, tx []byte) *refusal.Refusal {
	return w.checkType(n, tx, abci.CheckTxType_Recheck)
}

func (w *world) checkType(n *node, tx []byte, kind abci.CheckTxType) *refusal.Refusal {
	w.t.Helper()
	res, err := n.app.CheckTx(context.Background(), &abci.RequestCheckTx{Tx: tx, Type: kind})
	if err != nil {
		w.t.Fatalf("CheckTx: %v", err)
	}
	r := CheckTxRefusal(res)
	if r != nil {
		if _, ok := refusal.Lookup(r.Code); !ok {
			w.t.Fatalf("CheckTx refuses with an unknown code: %v", r)
		}
	}
	return r
}

// try is Check on the last state for the next slot.
func (w *world) try(n *node, tx []byte) error {
	height, at := w.next()
	o := state.NewOverlay(n.store.Latest())
	_, err := Check(context.Background(), n.app.rules, o, Slot{Height: height, Time: at.UnixMilli()}, tx)
	if err != nil && len(o.Changes()) > 0 {
		w.t.Fatalf("a refused transaction left writes: %v", err)
	}
	return err
}

func (w *world) wantCode(err error, code refusal.Code) *refusal.Refusal {
	w.t.Helper()
	var r *refusal.Refusal
	if !errors.As(err, &r) || r.Code != code {
		w.t.Fatalf("got %v, want %s", err, code)
	}
	return r
}

func (p *pool) size(actor string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[actor]
}
