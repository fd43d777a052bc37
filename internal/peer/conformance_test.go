package peer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tandem/internal/ledger"
	"tandem/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fleet is a kind of transport under test.
type fleet interface {
	// start makes and runs the transport of a node; it ends with the test or by stop.
	start(n *node)
	// address is where the node can be reached.
	address(key wire.PublicKey) string
}

// node is a transport with a receiver that notes all.
type node struct {
	t    *testing.T
	priv ed25519.PrivateKey
	Transport
	stop func()

	mu    sync.Mutex
	got   []event
	wake  chan struct{}
	block chan struct{} // if set, Receive waits for it
}

type event struct {
	kind string // "message", "up", "down"
	from wire.PublicKey
	body []byte
}

func newNode(t *testing.T) *node {
	_, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &node{t: t, priv: priv, wake: make(chan struct{}, 1)}
}

func (n *node) key() wire.PublicKey { return wire.PublicKeyOf(n.priv) }

func (n *node) note(e event) {
	n.mu.Lock()
	n.got = append(n.got, e)
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *node) Receive(from wire.PublicKey, message []byte) {
	n.mu.Lock()
	block := n.block
	n.mu.Unlock()
	if block != nil {
		<-block
	}
	n.note(event{"message", from, message})
}
func (n *node) Up(peer wire.PublicKey)   { n.note(event{kind: "up", from: peer}) }
func (n *node) Down(peer wire.PublicKey) { n.note(event{kind: "down", from: peer}) }

// await waits until the events satisfy ok.
func (n *node) await(what string, ok func([]event) bool) {
	n.t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for {
		n.mu.Lock()
		got := append([]event(nil), n.got...)
		n.mu.Unlock()
		if ok(got) {
			return
		}
		select {
		case <-n.wake:
		case <-limit.C:
			n.t.Fatalf("%s: not within 20 s; %d events, peers %+v", what, len(got), n.Peers())
		}
	}
}

func count(kind string, from wire.PublicKey) func([]event) int {
	return func(got []event) (c int) {
		for _, e := range got {
			if e.kind == kind && e.from == from {
				c++
			}
		}
		return c
	}
}

func (n *node) awaitUp(peer *node, times int) {
	n.t.Helper()
	n.await("up", func(got []event) bool { return count("up", peer.key())(got) >= times })
}

type meshFleet struct {
	t    *testing.T
	mesh *Mesh
}

func (f *meshFleet) address(key wire.PublicKey) string { return "mesh:" + key.DID() }
func (f *meshFleet) start(n *node) {
	n.Transport = f.mesh.Node(n.key())
	n.run(f.t)
}

type grpcFleet struct {
	t         *testing.T
	addresses map[wire.PublicKey]string
}

func (f *grpcFleet) address(key wire.PublicKey) string {
	if f.addresses[key] == "" { // a port that was free a moment ago; the node takes it when it starts
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			f.t.Fatal(err)
		}
		f.addresses[key] = l.Addr().String()
		_ = l.Close()
	}
	return f.addresses[key]
}

func (f *grpcFleet) start(n *node) {
	g, err := NewGRPC(Options{Key: n.priv, Listen: f.address(n.key()), Redial: 50 * time.Millisecond})
	if err != nil {
		f.t.Fatal(err)
	}
	n.Transport = g
	n.run(f.t)
}

func (n *node) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Transport.Run(ctx, n) }()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(n.stop)
}

func list(f fleet, nodes ...*node) []ledger.Node {
	var l []ledger.Node
	for _, n := range nodes {
		l = append(l, ledger.Node{Key: n.key(), Address: f.address(n.key())})
	}
	return l
}

// TestConformance holds both transports to the promises of the package comment.
func TestConformance(t *testing.T) {
	kinds := map[string]func(t *testing.T) fleet{
		"mesh": func(t *testing.T) fleet { return &meshFleet{t, NewMesh()} },
		"grpc": func(t *testing.T) fleet { return &grpcFleet{t, map[wire.PublicKey]string{}} },
	}
	promises := map[string]func(t *testing.T, f fleet){
		"messages arrive in order, each once": testOrder,
		"a stranger is not heard":             testStranger,
		"a removed node is cut off":           testRemoved,
		"a full queue is busy, not blocking":  testBusy,
		"size limits":                         testSizes,
		"a node comes back":                   testRestart,
	}
	for kind, make := range kinds {
		for promise, test := range promises {
			t.Run(kind+"/"+promise, func(t *testing.T) { test(t, make(t)) })
		}
	}
}

func testOrder(t *testing.T, f fleet) {
	a, b, c := newNode(t), newNode(t), newNode(t)
	all := []*node{a, b, c}
	for _, n := range all {
		f.start(n)
		n.SetPeers(list(f, all...))
	}
	const each = 500
	for _, from := range all {
		for _, to := range all {
			if from != to {
				from.awaitUp(to, 1)
			}
		}
	}
	for i := range uint32(each) {
		for _, from := range all {
			for _, to := range all {
				if from == to {
					continue
				}
				if err := from.Send(to.key(), binary.BigEndian.AppendUint32(nil, i)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, to := range all {
		to.await("all messages", func(got []event) bool {
			for _, from := range all {
				if from != to && count("message", from.key())(got) < each {
					return false
				}
			}
			return true
		})
		next := map[wire.PublicKey]uint32{}
		for _, e := range to.got {
			if e.kind != "message" {
				continue
			}
			if i := binary.BigEndian.Uint32(e.body); i != next[e.from] {
				t.Fatalf("message %d came where %d was due", i, next[e.from])
			}
			next[e.from]++
		}
	}
	if p := a.Peers(); len(p) != 2 || !p[0].Up || !p[1].Up || bytes.Compare(p[0].Key[:], p[1].Key[:]) >= 0 {
		t.Errorf("Peers() = %+v: want two, up, in the order of their keys", p)
	}
}

func testStranger(t *testing.T, f fleet) {
	a, b, stranger := newNode(t), newNode(t), newNode(t)
	for _, n := range []*node{a, b, stranger} {
		f.start(n)
	}
	a.SetPeers(list(f, a, b))
	b.SetPeers(list(f, a, b))
	stranger.SetPeers(list(f, a, b)) // it lists them, they do not list it
	a.awaitUp(b, 1)
	if err := stranger.Send(a.key(), []byte("let me in")); !errors.Is(err, ErrDown) {
		t.Errorf("a stranger's Send: %v, want ErrDown", err)
	}
	if err := a.Send(stranger.key(), nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("Send to a stranger: %v, want ErrUnknown", err)
	}
	if err := b.Send(a.key(), []byte("hello")); err != nil {
		b.awaitUp(a, 1)
		if err := b.Send(a.key(), []byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	a.await("a friend's message", func(got []event) bool { return count("message", b.key())(got) == 1 })
	for _, e := range a.got {
		if e.from == stranger.key() {
			t.Errorf("heard of the stranger: %+v", e)
		}
	}
}

func testRemoved(t *testing.T, f fleet) {
	a, b := newNode(t), newNode(t)
	for _, n := range []*node{a, b} {
		f.start(n)
		n.SetPeers(list(f, a, b))
	}
	a.awaitUp(b, 1)
	b.awaitUp(a, 1)
	removed := list(f, a, b)
	removed[1].Removed = true
	a.SetPeers(removed)
	a.await("down", func(got []event) bool { return count("down", b.key())(got) == 1 })
	b.await("down", func(got []event) bool { return count("down", a.key())(got) == 1 })
	if err := a.Send(b.key(), nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("Send to a removed node: %v, want ErrUnknown", err)
	}
	if err := b.Send(a.key(), nil); !errors.Is(err, ErrDown) {
		t.Errorf("Send of a removed node: %v, want ErrDown", err)
	}
	a.SetPeers(list(f, a, b))
	a.awaitUp(b, 2)
	b.awaitUp(a, 2)
}

func testBusy(t *testing.T, f fleet) {
	a, b := newNode(t), newNode(t)
	b.block = make(chan struct{})
	defer close(b.block)
	for _, n := range []*node{a, b} {
		f.start(n)
		n.SetPeers(list(f, a, b))
	}
	a.awaitUp(b, 1)
	message := make([]byte, 1<<20)
	for i := 0; ; i++ {
		err := a.Send(b.key(), bytes.Clone(message))
		if errors.Is(err, ErrBusy) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if i > 10*MaxQueuedBytes/len(message) {
			t.Fatal("a peer that takes nothing never gets busy")
		}
	}
}

func testSizes(t *testing.T, f fleet) {
	a, b := newNode(t), newNode(t)
	for _, n := range []*node{a, b} {
		f.start(n)
		n.SetPeers(list(f, a, b))
	}
	a.awaitUp(b, 1)
	if err := a.Send(b.key(), make([]byte, MaxMessage+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Send of too much: %v, want ErrTooLarge", err)
	}
	for _, size := range []int{0, 1, MaxMessage} {
		if err := a.Send(b.key(), bytes.Repeat([]byte{7}, size)); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
	}
	b.await("three messages", func(got []event) bool { return count("message", a.key())(got) == 3 })
	for i, size := range []int{0, 1, MaxMessage} {
		var bodies [][]byte
		for _, e := range b.got {
			if e.kind == "message" {
				bodies = append(bodies, e.body)
			}
		}
		if !bytes.Equal(bodies[i], bytes.Repeat([]byte{7}, size)) {
			t.Errorf("message %d: %d bytes, want %d", i, len(bodies[i]), size)
		}
	}
}

func testRestart(t *testing.T, f fleet) {
	a, b := newNode(t), newNode(t)
	for _, n := range []*node{a, b} {
		f.start(n)
		n.SetPeers(list(f, a, b))
	}
	a.awaitUp(b, 1)
	b.stop()
	a.await("down", func(got []event) bool { return count("down", b.key())(got) == 1 })
	if err := a.Send(b.key(), nil); !errors.Is(err, ErrDown) {
		t.Errorf("Send to a stopped node: %v, want ErrDown", err)
	}
	again := newNode(t)
	again.priv = b.priv
	f.start(again)
	again.SetPeers(list(f, a, b))
	a.awaitUp(b, 2)
	again.awaitUp(a, 1)
	if err := a.Send(b.key(), []byte("welcome back")); err != nil {
		t.Fatal(err)
	}
	again.await("a message", func(got []event) bool { return count("message", a.key())(got) == 1 })
}

// TestImpostor: whoever listens at a listed address without the listed key gets no message.
func TestImpostor(t *testing.T) {
	f := &grpcFleet{t, map[wire.PublicKey]string{}}
	a, b, impostor := newNode(t), newNode(t), newNode(t)
	f.addresses[impostor.key()] = f.address(b.key())
	f.start(a)
	f.start(impostor)
	impostor.SetPeers(list(f, a))
	a.SetPeers(list(f, a, b))
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if p := a.Peers(); len(p) == 1 && p[0].LastError != "" || len(p) == 1 && p[0].Up {
			if p[0].Up {
				t.Fatal("the impostor was taken for the listed node")
			}
		}
		if err := a.Send(b.key(), []byte("secret")); !errors.Is(err, ErrDown) {
			t.Fatalf("Send: %v, want ErrDown", err)
		}
		select {
		case <-tick.C:
			impostor.mu.Lock()
			n := len(impostor.got)
			impostor.mu.Unlock()
			if n > 0 {
				t.Fatal("the impostor heard something")
			}
			if done := a.Peers()[0].LastError != ""; done {
				return
			}
		case <-limit.C:
			return // no connection in all this time
		}
	}
}

// TestMeshCut: a cut link loses what is under way and is up again after Heal.
func TestMeshCut(t *testing.T) {
	mesh := NewMesh()
	f := &meshFleet{t, mesh}
	a, b := newNode(t), newNode(t)
	for _, n := range []*node{a, b} {
		f.start(n)
		n.SetPeers(list(f, a, b))
	}
	a.awaitUp(b, 1)
	mesh.Cut(a.key(), b.key())
	if err := a.Send(b.key(), []byte("lost")); !errors.Is(err, ErrDown) {
		t.Fatalf("Send over a cut link: %v, want ErrDown", err)
	}
	a.await("down", func(got []event) bool { return count("down", b.key())(got) == 1 })
	mesh.Heal(b.key(), a.key())
	a.awaitUp(b, 2)
	if err := a.Send(b.key(), []byte("found")); err != nil {
		t.Fatal(err)
	}
	b.await("the message", func(got []event) bool { return count("message", a.key())(got) == 1 })
	if string(b.got[len(b.got)-1].body) != "found" && count("message", a.key())(b.got) != 1 {
		t.Errorf("got %+v", b.got)
	}
}

// BenchmarkRoundTrip is a message of a step's size there and one back.
func BenchmarkRoundTrip(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var ends []*GRPC
	var nodes []ledger.Node
	for range 2 {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			b.Fatal(err)
		}
		g, err := NewGRPC(Options{Key: key, Listen: "127.0.0.1:0"})
		if err != nil {
			b.Fatal(err)
		}
		ends = append(ends, g)
		nodes = append(nodes, ledger.Node{Key: g.Self(), Address: g.Address()})
	}
	back, up := make(chan struct{}, 1), make(chan struct{}, 2)
	running.Go(func() { _ = ends[0].Run(ctx, pong{back, up}) })
	running.Go(func() { _ = ends[1].Run(ctx, echo{ends[1], up}) })
	for _, g := range ends {
		g.SetPeers(nodes)
	}
	<-up
	<-up
	payload := make([]byte, 600)
	for b.Loop() {
		if err := ends[0].Send(nodes[1].Key, payload); err != nil {
			b.Fatal(err)
		}
		<-back
	}
}

type echo struct {
	t  Transport
	up chan struct{}
}

func (e echo) Receive(from wire.PublicKey, m []byte) { _ = e.t.Send(from, m) }
func (e echo) Up(wire.PublicKey)                     { e.up <- struct{}{} }
func (echo) Down(wire.PublicKey)                     {}

type pong struct{ back, up chan struct{} }

func (p pong) Receive(wire.PublicKey, []byte) { p.back <- struct{}{} }
func (p pong) Up(wire.PublicKey)              { p.up <- struct{}{} }
func (pong) Down(wire.PublicKey)              {}
