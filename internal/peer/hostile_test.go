package peer

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"tandem/internal/ledger"
	"tandem/internal/wire"
)

// rogue speaks the protocol with a listed key and keeps to none of its limits.
type rogue struct {
	*node
	conn *grpc.ClientConn
}

// attack makes a node, which takes so many messages a second from a peer, and a rogue on its list.
func attack(t *testing.T, perSecond int) (victim *node, r *rogue) {
	t.Helper()
	f := &grpcFleet{t, map[wire.PublicKey]string{}}
	victim, r = newNode(t), &rogue{node: newNode(t)}
	g, err := NewGRPC(Options{Key: victim.priv, Listen: f.address(victim.key()), Redial: 50 * time.Millisecond, MessagesPerSecond: perSecond})
	if err != nil {
		t.Fatal(err)
	}
	victim.Transport = g
	victim.run(t)
	victim.SetPeers([]ledger.Node{{Key: r.key(), Address: "127.0.0.1:1"}})
	own, err := NewGRPC(Options{Key: r.priv, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	r.conn, err = grpc.NewClient("passthrough:///"+f.address(victim.key()),
		grpc.WithTransportCredentials(credentials.NewTLS(own.tlsConfig(func(wire.PublicKey) error { return nil }))),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.conn.Close() })
	return victim, r
}

// stream opens one that the victim has taken.
func (r *rogue) stream(ctx context.Context) grpc.ClientStream {
	r.t.Helper()
	s, err := r.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/tandem.Peer/Messages", grpc.WaitForReady(true))
	if err == nil {
		_, err = s.Header()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rogue) send(s grpc.ClientStream, n, size int) {
	r.t.Helper()
	message := make([]byte, size)
	for range n {
		if err := s.SendMsg(&message); err != nil {
			r.t.Fatal(err)
		}
	}
}

// A message larger than MaxMessage is not taken, even if its sender does not mind; the peer is heard again afterwards.
func TestOversizedMessage(t *testing.T) {
	victim, r := attack(t, 0)
	s := r.stream(t.Context())
	r.send(s, 1, MaxMessage+1)
	if err := s.RecvMsg(new([]byte)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the stream ended with %v", err)
	}
	r.send(r.stream(t.Context()), 1, 3)
	victim.await("a message", func(got []event) bool { return len(got) > 0 })
	if got := victim.got[0]; len(victim.got) != 1 || got.from != r.key() || len(got.body) != 3 {
		t.Errorf("%d events, the first from %s with %d bytes", len(victim.got), got.from, len(got.body))
	}
}

// The rate that is taken from a peer is the peer's, not a stream's; and a new stream ends the one before.
func TestManyStreams(t *testing.T) {
	const perSecond = 200
	victim, r := attack(t, perSecond)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	first := r.stream(ctx)
	began := time.Now()
	r.send(first, perSecond, 1)
	victim.await("a second's share", func(got []event) bool { return len(got) == perSecond })
	second := r.stream(ctx)
	if err := first.RecvMsg(new([]byte)); status.Code(err) != codes.Aborted {
		t.Errorf("the older stream ended with %v", err)
	}
	r.send(second, perSecond/2, 1)
	victim.await("half as much again", func(got []event) bool { return len(got) == perSecond*3/2 })
	if took := time.Since(began); took < 450*time.Millisecond {
		t.Errorf("%d messages were taken in %v, at %d a second", perSecond*3/2, took, perSecond)
	}
}

// Connections that prove no key do not fill a node: from one address so many are kept, and whoever comes from another, or when one
// has gone, finds a place.
func TestManyConnections(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := bounded(inner)
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	defer func() {
		_ = l.Close()
		for c := range accepted {
			_ = c.Close()
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	var kept []net.Conn
	for range maxConnectionsFrom {
		dial()
		kept = append(kept, <-accepted)
	}
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("one too many is read from")
	}
	if other := netip.MustParseAddr("192.0.2.1"); !l.enter(other) {
		t.Error("another address finds no place")
	} else {
		l.leave(other)
	}
	_ = kept[0].Close()
	_ = kept[0].Close() // gives one place back, not two
	dial()
	kept[0] = <-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("one too many is read from")
	}
	for _, c := range kept {
		_ = c.Close()
	}
	if l.all != 0 || len(l.from) != 0 {
		t.Errorf("%d places are not given back: %v", l.all, l.from)
	}
}
