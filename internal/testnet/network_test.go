package testnet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/examples/supplychain"
	"tandem/internal/testnet"
	"tandem/node"
)

// within is a context that bounds one step of a test.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// logWriter sends the nodes' logs to the test's.
type logWriter struct{ t testing.TB }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// demo describes a network of the supply-chain service with custody.
func demo(validators, layer2 int) testnet.StartOptions {
	o := testnet.StartOptions{Options: testnet.Options{
		Validators: validators, Layer2: layer2, Service: supplychain.Service(), Seed: supplychain.DemoGenesis(),
		Custody: true, DefaultActor: "OPR-001",
	}}
	for _, a := range supplychain.DemoActors() {
		o.Actors = append(o.Actors, testnet.Actor{ID: a.ID, Organisation: a.Organisation, Roles: a.Roles, Key: a.Key})
	}
	return o
}

// start starts a network and verifies, at the test's end, that it stops in an orderly way.
func start(t testing.TB, o testnet.StartOptions) *testnet.Network {
	t.Helper()
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	o.Dir = t.TempDir()
	w, err := testnet.Start(within(t, time.Minute), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// TestSessionEndToEnd: the paper's whole flow over HTTP at 4-1: steps are endorsed, the commit is replayed by all
// validators, the block and the transaction can be fetched from Layer 2 and straight from Layer 1, the receipt proves it.
func TestSessionEndToEnd(t *testing.T) {
	t.Parallel()
	w := start(t, demo(4, 1))
	ctx := within(t, time.Minute)
	layer2, validator := web{w.URLs()[0]}, web{w.URL(0)}

	session, pkg, err := layer2.prepare(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := layer2.want(ctx, 404, "GET", "/packages/"+pkg, "", nil); err != nil {
		t.Errorf("an uncommitted package is in the committed state: %v (%s)", err, a)
	}
	committed, err := layer2.commit(ctx, session)
	if err != nil {
		t.Fatal(err)
	}
	again, err := layer2.commit(ctx, session)
	if err != nil || again.Height != committed.Height || again.Hash != committed.Hash {
		t.Errorf("the second commit says %s (%v), the first said %s", again, err, committed)
	}
	status, err := layer2.want(ctx, 200, "GET", "/tandem/v1/sessions/"+session, "", nil)
	if err != nil || status.State != "committed" {
		t.Errorf("status %s, %v", status, err)
	}
	for _, node := range []web{layer2, validator} {
		if err := w.Node(0).WaitHeight(ctx, committed.Height); err != nil {
			t.Fatal(err)
		}
		block, err := node.want(ctx, 200, "GET", fmt.Sprintf("/tandem/v1/blocks/%d", committed.Height), "", nil)
		if err != nil || !bytes.Contains(block.Body, []byte(committed.Hash)) || !bytes.Contains(block.Body, []byte(session)) {
			t.Errorf("block %d at %s: %s, %v", committed.Height, node.url, block, err)
		}
		// The index follows the block's event; the block is there before it.
		if err := until(ctx, func() (bool, error) {
			tx, err := node.want(ctx, 200, "GET", "/tandem/v1/transactions/"+committed.Hash, "", nil)
			return err == nil && bytes.Contains(tx.Body, []byte(session)) && bytes.Contains(tx.Body, []byte("OPR-001")), err
		}); err != nil {
			t.Errorf("transaction at %s: %v", node.url, err)
		}
		read, err := node.want(ctx, 200, "GET", "/packages/"+pkg, "", nil)
		if err != nil || read.Header.Get("Tandem-Height") == "" {
			t.Errorf("committed package at %s: %s %v, %v", node.url, read, read.Header, err)
		}
	}
	if a, err := validator.call(ctx, "POST", "/tandem/v1/sessions", "", "{}"); err != nil || a.Code != "no-layer2" {
		t.Errorf("a validator opens sessions: %s, %v", a, err)
	}
	if a, err := layer2.call(ctx, "GET", "/tandem/v1/blocks/1000000", "", nil); err != nil || a.Code != "block-not-found" {
		t.Errorf("a block that is not: %s, %v", a, err)
	}
	if a, err := layer2.call(ctx, "GET", "/tandem/v1/transactions/"+strings.Repeat("0", 64), "", nil); err != nil || a.Code != "transaction-not-found" {
		t.Errorf("a transaction that is not: %s, %v", a, err)
	}
	checked(t, w, session)
}

// checked verifies the world and that these sessions are in the ledger, once each.
func checked(t testing.TB, w *testnet.Network, want ...string) {
	t.Helper()
	sessions, err := w.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	for _, s := range sessions {
		count[s]++
	}
	for _, s := range want {
		if count[s] != 1 {
			t.Errorf("session %s is in the ledger %d times, want once", s, count[s])
		}
	}
	for s, n := range count {
		if n > 1 {
			t.Errorf("session %s is in the ledger %d times", s, n)
		}
	}
}

// TestValidatorsDown: with one of four validators down commits go on; with two down steps are answered and a commit says
// that it is waiting; when they return it completes. Nothing is lost and nothing twice.
func TestValidatorsDown(t *testing.T) {
	t.Parallel()
	o := demo(4, 1)
	o.Change = func(_ int, cfg *node.Config) { cfg.HTTP.CommitWait = node.Duration(time.Second) }
	w := start(t, o)
	ctx := within(t, 2*time.Minute)
	layer2 := web{w.URLs()[0]}

	if err := w.Stop(3); err != nil {
		t.Fatal(err)
	}
	var sessions []string
	for range 3 {
		s, _ := layer2.workflow(t, ctx)
		sessions = append(sessions, s)
	}
	if err := w.Stop(2); err != nil {
		t.Fatal(err)
	}
	session, _, err := layer2.prepare(ctx)
	if err != nil {
		t.Fatalf("steps with two validators down: %v", err)
	}
	waiting, err := layer2.want(ctx, 202, "POST", "/tandem/v1/sessions/"+session+"/commit", "", "{}")
	if err != nil || waiting.State != "committing" {
		t.Fatalf("commit with two validators down: %s, %v", waiting, err)
	}
	for _, i := range []int{2, 3} {
		if err := w.Start(i); err != nil {
			t.Fatal(err)
		}
	}
	done, err := layer2.commit(ctx, session)
	if err != nil {
		t.Fatalf("commit after the return: %v", err)
	}
	if done.Hash != waiting.Hash {
		t.Errorf("committed as %s, announced as %s", done.Hash, waiting.Hash)
	}
	if err := w.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	checked(t, w, append(sessions, session)...)
}

// TestTwoLayer2Nodes: each serves its own sessions (until they have peers); both know what is on the ledger, and what one
// has committed the other reads at that height.
func TestTwoLayer2Nodes(t *testing.T) {
	t.Parallel()
	w := start(t, demo(4, 2))
	ctx := within(t, time.Minute)
	a, b := web{w.URLs()[0]}, web{w.URLs()[1]}
	first, committed := a.workflow(t, ctx)
	second, _ := b.workflow(t, ctx)
	// Any read at b of what a has committed, demanding a's height.
	req, err := http.NewRequestWithContext(ctx, "GET", b.url+"/packages", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Tandem-Min-Height", fmt.Sprint(committed.Height))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || bytes.Count(body, []byte("PKG-")) < 1 {
		t.Errorf("reading at height %d: %d %s, %v", committed.Height, res.StatusCode, body, err)
	}
	status, err := b.want(ctx, 200, "GET", "/tandem/v1/sessions/"+first, "", nil)
	if err != nil || status.State != "committed" || status.Height != committed.Height {
		t.Errorf("the other node says %s, %v", status, err)
	}
	checked(t, w, first, second)
	// A node that did not serve the session makes the same receipt, byte for byte, by replaying it. The next block must be
	// there on all: it holds the commit that a receipt takes.
	next := w.Height() + 1
	for i := range w.Size() {
		if err := w.Node(i).WaitHeight(ctx, next); err != nil {
			t.Fatal(err)
		}
	}
	var want []byte
	for i := range w.Size() {
		got, err := web{w.URL(i)}.want(ctx, 200, "GET", "/tandem/v1/sessions/"+first+"/receipt", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			want = got.Body
		}
		if !bytes.Equal(got.Body, want) {
			t.Errorf("node %d has another receipt than node 0:\n%s\n%s", i, got.Body, want)
		}
	}
}

// TestOneProcessTwoRoles: a validator that is the Layer 2 node too, alone: the smallest network there is.
func TestOneProcessTwoRoles(t *testing.T) {
	t.Parallel()
	o := demo(1, 1)
	dir := t.TempDir()
	configs, err := testnet.Init(dir, o.Options)
	if err != nil {
		t.Fatal(err)
	}
	// The Layer 2 node's home takes over the validator's key; the validator's is left alone.
	if err := os.Rename(filepath.Join(configs[0].Home, node.ValidatorKeyFile), filepath.Join(configs[1].Home, node.ValidatorKeyFile)); err != nil {
		t.Fatal(err)
	}
	cfg := configs[1]
	cfg.Roles = []string{node.RoleValidator, node.RoleLayer2}
	cfg.P2P.Peers = nil
	n, err := node.New(cfg, o.Service, node.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(within(t, time.Minute))
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	if err := n.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	session, _ := web{n.URL()}.workflow(t, ctx)
	sessions, err := testnet.CheckWorld(ctx, []string{n.URL()}, n.Height())
	if err != nil || len(sessions) != 1 || sessions[0] != session {
		t.Errorf("sessions %v, %v; want %s", sessions, err, session)
	}
	begin := time.Now()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > node.StopTime {
		t.Errorf("the stop took %s", took)
	}
	if err := n.Run(t.Context()); err == nil {
		t.Error("a node ran twice")
	}
}

// TestLayer2DoesNotOpen: a node whose session log cannot be opened says so and keeps no address.
func TestLayer2DoesNotOpen(t *testing.T) {
	t.Parallel()
	o := demo(1, 2)
	configs, err := testnet.Init(t.TempDir(), o.Options)
	if err != nil {
		t.Fatal(err)
	}
	cfg := configs[1]
	if err := os.WriteFile(filepath.Join(cfg.Home, "layer2"), []byte("no directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := node.New(cfg, o.Service, node.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Run(within(t, time.Minute)); err == nil || !strings.Contains(err.Error(), "layer 2") {
		t.Fatalf("the node ran: %v", err)
	}
	for _, address := range []string{cfg.Layer2.PeerListen, cfg.HTTP.Listen} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatalf("the address stays taken: %v", err)
		}
		_ = l.Close()
	}
}

// TestInitRefuses: what testnet init must not do.
func TestInitRefuses(t *testing.T) {
	t.Parallel()
	o := demo(1, 0).Options
	dir := t.TempDir()
	if _, err := testnet.Init(dir, o); err != nil {
		t.Fatal(err)
	}
	if _, err := testnet.Init(dir, o); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second network over the first: %v", err)
	}
	o.Validators = 0
	if _, err := testnet.Init(t.TempDir(), o); err == nil {
		t.Error("a network without validators")
	}
}

// TestStartFails: the error is the reason why a node did not start, and not that waiting for the others was given up.
func TestStartFails(t *testing.T) {
	o, dir := demo(4, 1), t.TempDir()
	if _, err := testnet.Init(dir, o.Options); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(testnet.Home(dir, 0), "state"), []byte("no directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Dir = dir
	w, err := testnet.Start(within(t, time.Minute), o)
	if err == nil {
		_ = w.Close()
		t.Fatal("it started")
	}
	if errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "state") {
		t.Errorf("got %v", err)
	}
}

// TestOtherProgram: a node whose program is not the network's does not start, and says so.
func TestOtherProgram(t *testing.T) {
	t.Parallel()
	o := demo(1, 0)
	configs, err := testnet.Init(t.TempDir(), o.Options)
	if err != nil {
		t.Fatal(err)
	}
	other := o.Service
	other.Version += "-changed"
	if _, err := node.New(configs[0], other, node.WithLogger(slog.New(slog.DiscardHandler))); err == nil || !strings.Contains(err.Error(), "fingerprint") {
		t.Errorf("error %v, want one about the fingerprint", err)
	}
}
