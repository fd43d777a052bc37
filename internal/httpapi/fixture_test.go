package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"tandem"
	"tandem/internal/exec"
	"tandem/internal/httpsig"
	"tandem/internal/layer2"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

const chain = "test-chain"

func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// service is a small one: put and get notes, and a few handlers that behave badly.
func service() tandem.Service {
	var reg tandem.Registry
	reg.HandleFunc("PUT /notes/{id}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(err)
		}
		st, name := tandem.StateOf(r.Context()), []byte("note/"+r.PathValue("id"))
		st.Get(name)
		st.Set(name, body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Location", "/notes/"+r.PathValue("id"))
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]string{"id": r.PathValue("id"), "by": tandem.ActorOf(r.Context()).ID, "type": r.Header.Get("Content-Type")})
	})
	reg.HandleFunc("GET /notes/{id}", func(w http.ResponseWriter, r *http.Request) {
		note, ok := tandem.StateOf(r.Context()).Get([]byte("note/" + r.PathValue("id")))
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, "no such note")
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write(note)
	})
	reg.HandleFunc("POST /panic", func(http.ResponseWriter, *http.Request) { panic("oops") })
	reg.HandleFunc("POST /empty", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
	reg.HandleFunc("GET /bare", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		_, _ = io.WriteString(w, "<html>HTTP/1.1 400 Bad Request")
	})
	reg.HandleFunc("GET /{any...}", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/any" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, "caught "+r.URL.Path)
	})
	return tandem.Service{Name: "notes", Version: "1", Registry: &reg}
}

// layer1 is a ledger in a few lines: a block for every submission, unless hold.
type layer1 struct {
	t      testing.TB
	store  *state.Store
	runner *exec.Runner
	engine *layer2.Engine

	mu      sync.Mutex // guards what is below and the making of blocks
	hold    bool
	pool    [][]byte
	settled map[wire.SessionID]Transaction
}

func newLayer1(t testing.TB, svc tandem.Service) *layer1 {
	t.Helper()
	store, err := state.Open("state", state.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	l := &layer1{
		t: t, store: store, runner: exec.New(svc, exec.Options{Framework: ledger.Routes()}), settled: map[wire.SessionID]Transaction{},
	}
	g := ledger.Genesis{ChainID: chain}
	g.Tandem.Parameters = ledger.DefaultParameters(svc, l.runner.Fingerprint())
	g.Tandem.Actors = []ledger.GenesisActor{
		{ID: "alice", Organisation: "a", Keys: []wire.PublicKey{wire.PublicKeyOf(key("alice"))}},
		{ID: "OPR-001", Organisation: "w", Delegates: []wire.PublicKey{wire.PublicKeyOf(key("custody"))}},
	}
	g.Tandem.Layer2 = []ledger.GenesisNode{{Key: wire.PublicKeyOf(key("node")), Organisation: "w"}}
	o := state.NewOverlay(store.Latest())
	if err := ledger.Apply(g, svc, o); err != nil {
		t.Fatal(err)
	}
	l.commit(o.Changes(), nil)
	return l
}

func (l *layer1) commit(changes []state.Change, sessions []layer2.Settled) {
	height, _, last := l.store.Version()
	staged, err := l.store.Stage(changes)
	if err != nil {
		l.t.Fatal(err)
	}
	b := layer2.Block{Height: height + 1, Time: max(last+1, time.Now().UnixMilli()), Sessions: sessions, Changes: changes}
	if err := l.store.Commit(b.Height, b.Time, staged); err != nil {
		l.t.Fatal(err)
	}
	if l.engine != nil {
		l.engine.OnBlock(b)
	}
}

func (l *layer1) Submit(_ context.Context, tx []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pool = append(l.pool, tx)
	if !l.hold {
		l.block()
	}
	return nil
}

// release makes the block that was held back.
func (l *layer1) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold = false
	l.block()
}

// block needs mu. Replays what is in the pool.
func (l *layer1) block() {
	height, _, _ := l.store.Version()
	overlay := state.NewOverlay(l.store.Latest())
	var settled []layer2.Settled
	for _, tx := range l.pool {
		c, err := wire.DecodeSessionCommit(tx)
		if err != nil {
			l.t.Error(err)
			continue
		}
		proven, err := session.Verify(&c)
		if err != nil {
			l.t.Errorf("submitted, but does not verify: %v", err)
			continue
		}
		if _, done := l.settled[proven.ID]; done {
			continue
		}
		actor, err := ledger.ActorOf(overlay, proven.Key)
		if err != nil {
			l.t.Error(err)
			continue
		}
		child := overlay.Child()
		for _, t := range c.Transactions {
			res, err := l.runner.Run(context.Background(), child, exec.Step{Request: &t.Request, Actor: actor, Session: proven.ID, Sequence: t.Sequence, Time: t.Time})
			if field, same := exec.Compare(t.Response, res); err != nil || !same {
				l.t.Errorf("replay differs in %s: %v", field, err)
			}
		}
		record := ledger.Settled{Height: height + 1, Actor: actor.ID, Transaction: wire.Sum(tx), Head: proven.Head, Steps: proven.Steps, Time: 1, Checkpoints: c.Start.Checkpoints, Final: proven.Final}
		ledger.Settle(child, proven.ID, record, proven.Open.Supersedes)
		child.Merge()
		settled = append(settled, layer2.Settled{ID: proven.ID, Transaction: wire.Sum(tx), Actor: actor.ID, Part: c.Start.Checkpoints + 1, Steps: proven.Steps, Head: proven.Head, Final: proven.Final})
		l.settled[proven.ID] = Transaction{Hash: wire.Sum(tx).String(), Height: height + 1, Kind: "session", Session: proven.ID.String(), Actor: actor.ID, Bytes: tx}
	}
	l.pool = nil
	l.commit(overlay.Changes(), settled)
}

func (l *layer1) View() (*state.View, error) { return l.store.Latest(), nil }
func (l *layer1) Time() int64                { _, _, at := l.store.Version(); return at }
func (l *layer1) Genesis() []byte            { return []byte(`{"chain_id":"test-chain"}`) }
func (l *layer1) Quarantined(wire.Digest) (*refusal.Refusal, bool) {
	return nil, false
}

func (l *layer1) WaitHeight(ctx context.Context, height int64) error {
	if at, _, _ := l.store.Version(); at >= height {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (l *layer1) Block(_ context.Context, height int64) (Block, error) {
	if at, _, _ := l.store.Version(); height < 1 || height > at {
		return Block{}, refusal.New(refusal.BlockNotFound, "the newest is %d", at)
	}
	return Block{Height: height}, nil
}

func (l *layer1) Transaction(_ context.Context, hash wire.Digest) (Transaction, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.settled {
		if t.Hash == hash.String() {
			return t, nil
		}
	}
	return Transaction{}, refusal.New(refusal.TransactionNotFound, "")
}

func (l *layer1) Receipt(_ context.Context, id wire.SessionID, _ uint64) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := l.settled[id]
	if !ok {
		return nil, refusal.New(refusal.NotCommitted, "")
	}
	return json.Marshal(t)
}

func (l *layer1) Status(context.Context) (Status, error) {
	height, root, at := l.store.Version()
	return Status{
		ChainID: chain, Fingerprint: l.runner.Fingerprint().String(), Service: "notes", Version: "1", Height: height, Time: at,
		StateRoot: root.String(), Node: wire.PublicKeyOf(key("node")).DID(), Custody: true,
	}, nil
}

// health is what /healthz and /readyz say.
type health struct {
	mu sync.Mutex
	h  Health
}

func (h *health) Health() Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.h
}

func (h *health) set(to Health) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.h = to
}

// world is a node's HTTP surface on a real TCP port, over a real engine and a small Layer 1.
type world struct {
	t      testing.TB
	addr   string
	url    string
	ledger *layer1
	engine *layer2.Engine
	health *health
	log    *lockedBuffer
	print  wire.Digest
}

// lockedBuffer collects the log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newWorld(t testing.TB, change ...func(*Options)) *world {
	t.Helper()
	svc := service()
	l := newLayer1(t, svc)
	e, err := layer2.Open("layer2", layer2.Options{
		Ledger: l, Runner: l.runner, Key: key("node"), ChainID: chain, FS: vfs.NewMem(),
		Custody: map[string]ed25519.PrivateKey{"OPR-001": key("custody")}, DefaultActor: "OPR-001",
	})
	if err != nil {
		t.Fatal(err)
	}
	l.engine = e
	w := &world{t: t, ledger: l, engine: e, health: &health{h: Health{Live: true, Ready: true, Height: 1, Consensus: true}}, log: &lockedBuffer{}, print: l.runner.Fingerprint()}
	o := Options{
		Engine: e, Ledger: l, Runner: l.runner, Health: w.health, Service: svc, ChainID: chain, Fingerprint: w.print,
		HeightWait: 30 * time.Millisecond, CommitWait: 5 * time.Second, Logger: slog.New(slog.NewTextHandler(w.log, nil)),
	}
	for _, f := range change {
		f(&o)
	}
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(h)
	w.addr = serve(t, srv, 0)
	w.url = "http://" + w.addr
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// serve serves on a free port until the test ends.
func serve(t testing.TB, srv *http.Server, connections int) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(Listen(l, connections))
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return l.Addr().String()
}

// raw sends bytes over a connection of its own and reads one answer. half closes the sending side after them.
func raw(t testing.TB, addr, request string, half bool) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	go func() {
		_, _ = io.WriteString(c, request) // the server may stop reading
		if half {
			_ = c.(*net.TCPConn).CloseWrite()
		}
	}()
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	body, _ := io.ReadAll(res.Body)
	return res, string(body)
}

// reply is an answer as tests look at it.
type reply struct {
	status int
	header http.Header
	text   string
	json   map[string]any
}

// do sends an unsigned request; headers are pairs.
func (w *world) do(method, target, body string, headers ...string) reply {
	w.t.Helper()
	r, err := http.NewRequest(method, w.url+target, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return w.send(r)
}

func (w *world) send(r *http.Request) reply {
	w.t.Helper()
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	rep := reply{status: res.StatusCode, header: res.Header, text: string(text)}
	_ = json.Unmarshal(text, &rep.json) // nil if it is no object
	return rep
}

// problem fails the test unless the reply is this problem, in the right form.
func (w *world) problem(name string, rep reply, status int, code string) {
	w.t.Helper()
	problemIs(w.t, name, rep.status, rep.header, rep.text, status, code)
}

func problemIs(t testing.TB, name string, gotStatus int, h http.Header, text string, status int, code string) {
	t.Helper()
	var doc map[string]any
	_ = json.Unmarshal([]byte(text), &doc)
	if gotStatus != status || doc["code"] != code {
		t.Errorf("%s: %d %s, want %d %s", name, gotStatus, text, status, code)
		return
	}
	if got := h.Get("Content-Type"); got != refusal.ContentType {
		t.Errorf("%s: content type %q", name, got)
	}
	if doc["type"] != refusal.TypePrefix+code || doc["status"] != float64(status) || doc["title"] == "" || doc["remedy"] == "" {
		t.Errorf("%s: document %v", name, doc)
	}
	if status == 503 && h.Get("Retry-After") == "" {
		t.Errorf("%s: an outage without Retry-After", name)
	}
	if h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s: no nosniff", name)
	}
}

// open opens a session in custody.
func (w *world) open() string {
	w.t.Helper()
	rep := w.do("POST", "/tandem/v1/sessions", "{}")
	id, _ := rep.json["session_id"].(string)
	if rep.status != 201 || len(id) != 26 {
		w.t.Fatalf("open: %d %s", rep.status, rep.text)
	}
	return id
}

// signer signs requests of one session as a client does.
type signer struct {
	w    *world
	priv ed25519.PrivateKey
	open wire.Request
	id   wire.SessionID
	head wire.Digest
	n    uint64
}

func (w *world) signer(name string, change ...func(*wire.OpenBody, *wire.Request)) *signer {
	s := &signer{w: w, priv: key(name)}
	body := wire.OpenBody{ChainID: chain, Fingerprint: w.print, ExpiresAt: time.Now().Add(10 * time.Minute).UnixMilli()}
	copy(body.Nonce[:], fmt.Sprintf("%016d", time.Now().UnixNano()))
	s.open = wire.Request{Method: "POST", Path: "/tandem/v1/sessions", ContentType: "application/json", Created: time.Now().Unix()}
	for _, f := range change {
		f(&body, &s.open)
	}
	s.open.Body = body.JSON()
	httpsig.Sign(s.priv, httpsig.TagOpen, &s.open, httpsig.Place{})
	s.id, s.head = httpsig.SessionID(&s.open), wire.TranscriptStart(s.open)
	return s
}

func (s *signer) sendOpen() reply {
	s.w.t.Helper()
	return s.http(&httpsig.Parsed{Tag: httpsig.TagOpen, Request: s.open}, nil)
}

// http sends a signed request, changed on the way by change.
func (s *signer) http(p *httpsig.Parsed, change func(*http.Request)) reply {
	s.w.t.Helper()
	r, err := httpsig.ToHTTP(s.w.url, p)
	if err != nil {
		s.w.t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	return s.w.send(r)
}

// sign signs a request at the session's next position, or at one that change makes of it.
func (s *signer) sign(tag, method, target, body string, change func(*wire.Request, *httpsig.Place)) *httpsig.Parsed {
	path, query, _ := strings.Cut(target, "?")
	p := &httpsig.Parsed{
		Tag:     tag,
		Request: wire.Request{Method: method, Path: path, Query: query, ContentType: "application/json", Body: []byte(body), Created: time.Now().Unix()},
		Place:   httpsig.Place{Session: s.id, Sequence: s.n + 1, Transcript: s.head},
	}
	if change != nil {
		change(&p.Request, &p.Place)
	}
	httpsig.Sign(s.priv, tag, &p.Request, p.Place)
	return p
}

// step makes a step and takes in its answer.
func (s *signer) step(method, target, body string) reply {
	s.w.t.Helper()
	rep := s.http(s.sign(httpsig.TagStep, method, target, body, nil), nil)
	a, err := httpsig.VerifyAnswer(rep.header, rep.status, []byte(rep.text))
	if err != nil {
		s.w.t.Fatalf("%s %s: %d %s: %v", method, target, rep.status, rep.text, err)
	}
	s.n, s.head = a.Sequence, a.Transcript
	return rep
}
