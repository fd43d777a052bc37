package layer2

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
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"tandem"
	"tandem/internal/exec"
	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// testing.TB without Helper noise: benchmarks use the fixture too.
type tb = testing.TB

const chain = "test-chain"

// clock is a clock that only tests move.
type clock struct{ ms atomic.Int64 }

func (c *clock) now() time.Time          { return time.UnixMilli(c.ms.Load()) }
func (c *clock) advance(d time.Duration) { c.ms.Add(d.Milliseconds()) }

// moods lets handlers misbehave on purpose.
type moods struct {
	calls atomic.Int64  // of /luck: its answer, on purpose no function of the state
	gate  chan struct{} // /slow waits for it
	began chan struct{} // /slow says that it runs
}

// service is a small one with every kind of handler that the engine has to deal with.
func service(m *moods) tandem.Service {
	var reg tandem.Registry
	key := func(r *http.Request) []byte { return []byte("kv/" + r.PathValue("key")) }
	answer := func(w http.ResponseWriter, status int, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(b)
	}
	reg.HandleFunc("GET /get/{key}", func(w http.ResponseWriter, r *http.Request) {
		v, ok := tandem.StateOf(r.Context()).Get(key(r))
		answer(w, 200, map[string]any{"value": string(v), "found": ok})
	})
	reg.HandleFunc("POST /set/{key}", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(err)
		}
		tandem.StateOf(r.Context()).Set(key(r), b)
		answer(w, 201, map[string]any{"set": r.PathValue("key")})
	})
	reg.HandleFunc("POST /add/{key}", func(w http.ResponseWriter, r *http.Request) {
		st := tandem.StateOf(r.Context())
		v, _ := st.Get(key(r))
		n := len(v) + 1
		st.Set(key(r), bytes.Repeat([]byte("x"), n))
		answer(w, 200, map[string]any{"count": n, "by": tandem.ActorOf(r.Context()).ID})
	})
	reg.HandleFunc("GET /list", func(w http.ResponseWriter, r *http.Request) {
		prefix := "kv/" + r.URL.Query().Get("prefix")
		var keys []string
		for k := range tandem.StateOf(r.Context()).Scan([]byte(prefix), append([]byte(prefix), 0xff)) {
			keys = append(keys, string(k))
		}
		answer(w, 200, map[string]any{"keys": keys})
	})
	reg.HandleFunc("POST /refuse/{key}", func(w http.ResponseWriter, r *http.Request) {
		tandem.StateOf(r.Context()).Set(key(r), []byte("never"))
		answer(w, 409, map[string]any{"error": "no"})
	})
	reg.HandleFunc("GET /luck/{key}", func(w http.ResponseWriter, r *http.Request) {
		tandem.StateOf(r.Context()).Get(key(r))
		answer(w, 200, map[string]any{"n": m.calls.Add(1)})
	})
	reg.HandleFunc("GET /slow/{key}", func(w http.ResponseWriter, r *http.Request) {
		v, _ := tandem.StateOf(r.Context()).Get(key(r))
		if m.gate != nil {
			m.began <- struct{}{}
			<-m.gate
			tandem.StateOf(r.Context()).Get([]byte("after the gate"))
		}
		answer(w, 200, map[string]any{"value": string(v)})
	})
	reg.HandleFunc("GET /when", func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, map[string]any{"ms": tandem.Now(r.Context()).UnixMilli()})
	})
	return tandem.Service{Name: "test", Version: "1", Registry: &reg}
}

// fakeLedger is Layer 1 in a few lines: it applies session commits to a real state with the same exec, in order, and
// nothing else. Faults are injected twice: a submission that failed and did not arrive, and one that failed but arrived.
type fakeLedger struct {
	t      tb
	store  *state.Store
	runner *exec.Runner
	clock  *clock

	mu      sync.Mutex
	pool    [][]byte
	applied map[wire.SessionID][]byte // every transaction ever in a block
	engine  *Engine                   // told of blocks; may be nil
	auto    bool                      // a block at once for every submission
	tell    []func(Block)             // told too: the nodes of a cluster

	lose, loseAnswer bool // faults of Submit
	refuse           *refusal.Refusal
	quarantine       map[wire.Digest]*refusal.Refusal
	submissions      int
}

var errLost = errors.New("connection lost")

func (l *fakeLedger) Submit(ctx context.Context, tx []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.submissions++
	if l.refuse != nil {
		return l.refuse
	}
	if l.lose {
		return errLost
	}
	known := slices.ContainsFunc(l.pool, func(b []byte) bool { return bytes.Equal(b, tx) })
	if !known {
		l.pool = append(l.pool, bytes.Clone(tx))
	}
	if l.auto {
		l.block()
	}
	if l.loseAnswer {
		return errLost
	}
	return nil
}

func (l *fakeLedger) View() (*state.View, error) { return l.store.Latest(), nil }

func (l *fakeLedger) Time() int64 {
	_, _, t := l.store.Version()
	return t
}

func (l *fakeLedger) Quarantined(tx wire.Digest) (*refusal.Refusal, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.quarantine[tx]
	return r, ok
}

// cut makes a block of what is in the pool.
func (l *fakeLedger) cut() Block {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.block()
}

// block needs mu.
func (l *fakeLedger) block() Block {
	height, _, last := l.store.Version()
	b := Block{Height: height + 1, Time: max(last+1, l.clock.ms.Load())}
	overlay := state.NewOverlay(l.store.Latest())
	pool := l.pool
	l.pool = nil
	for _, tx := range pool {
		child := overlay.Child()
		s, err := l.apply(child, tx, b)
		if err != nil {
			continue
		}
		for _, c := range child.Changes() {
			s.Keys = append(s.Keys, c.Key)
		}
		child.Merge()
		b.Sessions = append(b.Sessions, s)
		l.applied[s.ID] = tx
	}
	b.Changes = overlay.Changes()
	l.commit(b)
	return b
}

func (l *fakeLedger) commit(b Block) {
	st, err := l.store.Stage(b.Changes)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.store.Commit(b.Height, b.Time, st); err != nil {
		l.t.Fatal(err)
	}
	if l.engine != nil {
		l.engine.OnBlock(b)
	}
	for _, tell := range l.tell {
		tell(b)
	}
}

// write makes a block that changes application keys directly.
func (l *fakeLedger) write(pairs ...string) Block {
	l.mu.Lock()
	defer l.mu.Unlock()
	height, _, last := l.store.Version()
	overlay := state.NewOverlay(l.store.Latest())
	for i := 0; i < len(pairs); i += 2 {
		overlay.Set([]byte("a/kv/"+pairs[i]), []byte(pairs[i+1]))
	}
	b := Block{Height: height + 1, Time: max(last+1, l.clock.ms.Load()), Changes: overlay.Changes()}
	l.commit(b)
	return b
}

var errDiffers = errors.New("replay differs")

func (l *fakeLedger) apply(child *state.Overlay, tx []byte, b Block) (Settled, error) {
	c, err := wire.DecodeSessionCommit(tx)
	if err != nil {
		return Settled{}, err
	}
	proven, err := session.Verify(&c)
	if err != nil {
		l.t.Errorf("an engine submitted a session that does not verify: %v", err)
		return Settled{}, err
	}
	was, done, _ := ledger.SettledOf(child, proven.ID)
	if was.Final || done && was.Next() != c.Start || !done && c.Start != (wire.Start{}) || b.Time > proven.Expires {
		return Settled{}, errDiffers
	}
	actor, err := ledger.ActorOf(child, proven.Key)
	if err != nil {
		return Settled{}, err
	}
	if _, gone, _ := ledger.SupersededBy(child, proven.ID, actor.ID); gone {
		return Settled{}, errDiffers
	}
	for i := range c.Transactions {
		t := &c.Transactions[i]
		step := child.Child()
		res, err := l.runner.Run(context.Background(), step, exec.Step{Request: &t.Request, Actor: actor, Session: proven.ID, Sequence: t.Sequence, Time: t.Time})
		if err != nil {
			return Settled{}, err
		}
		if _, same := exec.Compare(t.Response, res); !same {
			return Settled{}, errDiffers
		}
		step.Merge()
	}
	hash := wire.Sum(tx)
	var checkpoint uint64
	if !proven.Final {
		checkpoint = 1
	}
	ledger.Settle(child, proven.ID, ledger.Settled{
		Height: b.Height, Actor: actor.ID, Transaction: hash, Head: proven.Head, Steps: proven.Steps, Time: b.Time,
		Checkpoints: c.Start.Checkpoints + checkpoint, Final: proven.Final,
	}, proven.Open.Supersedes)
	return Settled{
		ID: proven.ID, Transaction: hash, Actor: actor.ID, Part: c.Start.Checkpoints + 1, Steps: proven.Steps, Head: proven.Head, Final: proven.Final,
	}, nil
}

// world is a ledger, an engine and some clients.
type world struct {
	t      tb
	clock  *clock
	moods  *moods
	svc    tandem.Service
	ledger *fakeLedger
	engine *Engine
	fs     vfs.FS
	dir    string
	opts   func(*Options)
	node   ed25519.PrivateKey
	halted chan error
}

func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// newWorld makes a world with actors alice and bob (signing themselves) and carol (in the node's custody), and starts
// the engine on a file system in memory.
func newWorld(t tb, opts func(*Options)) *world {
	t.Helper()
	w := &world{
		t: t, clock: &clock{}, moods: &moods{}, fs: vfs.NewCrashableMem(), dir: "layer2", opts: opts, node: key("node"),
		halted: make(chan error, 1),
	}
	w.clock.ms.Store(1_800_000_000_000)
	w.svc = service(w.moods)
	w.ledger = newFakeLedger(t, w.svc, w.clock, w.node)
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

func newFakeLedger(t tb, svc tandem.Service, c *clock, nodes ...ed25519.PrivateKey) *fakeLedger {
	t.Helper()
	store, err := state.Open("state", state.Options{FS: vfs.NewMem(), Keep: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	l := &fakeLedger{
		t: t, store: store, clock: c, applied: map[wire.SessionID][]byte{}, quarantine: map[wire.Digest]*refusal.Refusal{},
		runner: exec.New(svc, exec.Options{Framework: ledger.Routes()}),
	}
	g := ledger.Genesis{ChainID: chain}
	g.Tandem.Parameters = ledger.DefaultParameters(svc, l.runner.Fingerprint())
	for _, name := range []string{"alice", "bob", "carol", "root"} {
		a := ledger.GenesisActor{ID: name, Organisation: "org of " + name, Keys: []wire.PublicKey{wire.PublicKeyOf(key(name))}}
		if name == "carol" {
			a.Delegates = []wire.PublicKey{wire.PublicKeyOf(key("custody of carol"))}
		}
		if name == "root" {
			a.Roles = []string{"admin"}
		}
		g.Tandem.Actors = append(g.Tandem.Actors, a)
	}
	for _, n := range nodes {
		g.Tandem.Layer2 = append(g.Tandem.Layer2, ledger.GenesisNode{Key: wire.PublicKeyOf(n), Organisation: "org of the node"})
	}
	o := state.NewOverlay(store.Latest())
	if err := ledger.Apply(g, svc, o); err != nil {
		t.Fatal(err)
	}
	l.commit(Block{Height: 1, Time: c.ms.Load(), Changes: o.Changes()})
	return l
}

func (w *world) options() Options {
	o := Options{
		Ledger: w.ledger, Runner: exec.New(w.svc, exec.Options{Framework: ledger.Routes()}), Key: w.node, ChainID: chain, Clock: w.clock.now, FS: w.fs,
		Custody: map[string]ed25519.PrivateKey{"carol": key("custody of carol")}, DefaultActor: "carol",
		Halt: func(err error) { w.halted <- err },
	}
	if w.opts != nil {
		w.opts(&o)
	}
	return o
}

func (w *world) start() {
	w.t.Helper()
	if err := w.tryStart(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tryStart() error {
	e, err := Open(w.dir, w.options())
	if err != nil {
		return err
	}
	w.engine = e
	w.ledger.mu.Lock()
	w.ledger.engine = e
	w.ledger.mu.Unlock()
	return nil
}

func (w *world) stop() {
	w.ledger.mu.Lock()
	w.ledger.engine = nil
	w.ledger.mu.Unlock()
	if w.engine != nil {
		if err := w.engine.Close(); err != nil {
			w.t.Errorf("close: %v", err)
		}
		w.engine = nil
	}
}

// crash takes the disk as a power cut would leave it and starts an engine on it.
func (w *world) crash() {
	w.t.Helper()
	after := w.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
	w.stop()
	w.fs = after
	w.start()
}

// settleDown returns once the engine's owners have nothing to do.
func (w *world) settleDown() {
	w.engine.owners.quiet(10 * time.Second)
}

// user signs for itself and checks every answer as the client package does.
type user struct {
	w    *world
	priv ed25519.PrivateKey
	id   wire.SessionID
	head wire.Digest
	n    uint64
	open wire.Request
	last httpsig.Parsed // the last step sent
}

func (w *world) openBody(life time.Duration) wire.OpenBody {
	b := wire.OpenBody{ChainID: chain, Fingerprint: w.engine.o.Runner.Fingerprint(), ExpiresAt: w.clock.ms.Load() + life.Milliseconds()}
	sum := sha256.Sum256(fmt.Append(nil, nonces.Add(1)))
	copy(b.Nonce[:], sum[:])
	return b
}

var nonces atomic.Int64

var discard = slog.New(slog.DiscardHandler)

func (w *world) openRequest(name string, body wire.OpenBody) *wire.Request {
	req := &wire.Request{Method: "POST", Path: session.PathOpen, ContentType: "application/json", Body: body.JSON(), Created: w.clock.ms.Load() / 1000}
	httpsig.Sign(key(name), httpsig.TagOpen, req, httpsig.Place{})
	return req
}

func (w *world) user(name string) *user {
	w.t.Helper()
	return w.userWith(name, w.openBody(10*time.Minute))
}

func (w *world) userWith(name string, body wire.OpenBody) *user {
	w.t.Helper()
	req := w.openRequest(name, body)
	a, err := w.engine.OpenSession(context.Background(), req)
	if err != nil {
		w.t.Fatalf("open: %v", err)
	}
	if a.Session != httpsig.SessionID(req) || a.Status != 201 || a.Transcript != wire.TranscriptStart(*req) {
		w.t.Fatalf("open answered %+v", a)
	}
	return &user{w: w, priv: key(name), id: a.Session, head: a.Transcript, open: *req}
}

// sign makes the next step's request.
func (u *user) sign(method, path, query, body string) *httpsig.Parsed {
	req := wire.Request{Method: method, Path: path, Query: query, ContentType: "text/plain", Body: []byte(body), Created: u.w.clock.ms.Load() / 1000}
	place := httpsig.Place{Session: u.id, Sequence: u.n + 1, Transcript: u.head}
	httpsig.Sign(u.priv, httpsig.TagStep, &req, place)
	return &httpsig.Parsed{Tag: httpsig.TagStep, Request: req, Place: place}
}

// send sends a signed step and follows the transcript as a client does.
func (u *user) send(p *httpsig.Parsed) (*Answer, error) {
	a, err := u.w.engine.Step(context.Background(), p)
	if err != nil {
		return nil, err
	}
	return a, u.accept(p, a)
}

func (u *user) accept(p *httpsig.Parsed, a *Answer) error {
	got, err := httpsig.VerifyAnswer(a.Signed, a.Status, a.Body)
	if err != nil {
		return fmt.Errorf("the answer's signature: %w", err)
	}
	if got.Session != u.id || got.Sequence != a.Sequence || got.Transcript != a.Transcript {
		return fmt.Errorf("the signed answer says %+v, the answer %+v", got, a)
	}
	if !a.Recorded {
		if a.Sequence != u.n || a.Transcript != u.head {
			return fmt.Errorf("an answer that is not recorded stands at %d, not at %d", a.Sequence, u.n)
		}
		return nil
	}
	resp := wire.Response{Status: a.Status, Headers: a.Headers, Body: wire.Sum(a.Body)}
	head := wire.TranscriptNext(p.Place.Transcript, wire.Transaction{
		Sequence: a.Sequence, Request: p.Request, Response: resp, Originator: a.Originator, Time: a.Time,
	})
	if a.Sequence != p.Place.Sequence || a.Transcript != head {
		return fmt.Errorf("the answer's transcript does not follow from what was sent")
	}
	if a.Sequence == u.n+1 {
		u.n, u.head = a.Sequence, head
	}
	return nil
}

// do sends a step that must be answered with the status.
func (u *user) do(method, path, body string, status int) *Answer {
	u.w.t.Helper()
	p := u.sign(method, path, "", body)
	u.last = *p
	a, err := u.send(p)
	if err != nil {
		u.w.t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.Status != status {
		u.w.t.Fatalf("%s %s: %d %s, want %d", method, path, a.Status, a.Body, status)
	}
	return a
}

func (u *user) commitRequest() *httpsig.Parsed {
	req := wire.Request{Method: "POST", Path: session.PathCommit(u.id), ContentType: "application/json", Body: []byte("{}"), Created: u.w.clock.ms.Load() / 1000}
	place := httpsig.Place{Session: u.id, Sequence: u.n + 1, Transcript: u.head}
	httpsig.Sign(u.priv, httpsig.TagCommit, &req, place)
	return &httpsig.Parsed{Tag: httpsig.TagCommit, Request: req, Place: place}
}

// commit commits and waits for a second of the real clock at most.
func (u *user) commit() (Outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return u.w.engine.Commit(ctx, u.commitRequest())
}

// ended is a context that is over: a commit with it returns as soon as the commit is under way.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func (u *user) status() Session {
	u.w.t.Helper()
	s, err := u.w.engine.Session(context.Background(), u.id)
	if err != nil {
		u.w.t.Fatal(err)
	}
	return s
}

// value reads a key of the committed state.
func (w *world) value(name string) string {
	v, _, err := w.ledger.store.Latest().Get([]byte("a/kv/" + name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(v)
}

func wantCode(t tb, err error, code refusal.Code) *refusal.Refusal {
	t.Helper()
	r, ok := refusal.As(err)
	if !ok || r.Code != code {
		t.Fatalf("got %v, want a refusal %s", err, code)
	}
	return r
}

// eventually waits until the condition holds; it spins, because what it waits for takes microseconds.
func eventually(t tb, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
