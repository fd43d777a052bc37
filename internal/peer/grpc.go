package peer

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"tandem/internal/ledger"
	"tandem/internal/wire"
)

// Options configure NewGRPC. Key is required.
type Options struct {
	// Key is the node's Ed25519 key, under which the ledger lists it.
	Key ed25519.PrivateKey
	// Listen is the address to listen on, host:port.
	Listen string
	// Listener takes the place of Listen if it is set; the transport closes it.
	Listener net.Listener
	Logger   *slog.Logger // default: discards
	// MessagesPerSecond and BytesPerSecond bound what is taken from one peer; a peer that sends faster is slowed down,
	// not cut off. Defaults 20,000 and 64 MiB.
	MessagesPerSecond, BytesPerSecond int
	// Redial is the longest pause between two attempts to reach a peer. Default 500 ms.
	Redial time.Duration
}

// GRPC is the transport between processes. For each peer there is one outgoing stream, on which only this node sends, and
// one incoming, on which only the peer does.
type GRPC struct {
	o           Options
	self        wire.PublicKey
	certificate tls.Certificate
	listener    net.Listener

	mu       sync.Mutex // guards what follows; nothing is done under it but memory
	links    map[wire.PublicKey]*link
	receiver Receiver
	ctx      context.Context // of Run; nil before
	wait     sync.WaitGroup  // goroutines of links; Add under mu
}

// link is the connection with one peer.
type link struct {
	key     wire.PublicKey
	address string
	out     *queue
	ctx     context.Context
	stop    context.CancelFunc
	in      sync.Mutex // one incoming stream at a time reaches the receiver

	messages, octets *rate.Limiter // of what is taken from the peer

	mu     sync.Mutex // guards what follows
	last   string
	newest func() // ends the incoming stream
}

// NewGRPC returns the transport, listening already, so that an address in use is known at once. It serves and dials once
// Run is called.
func NewGRPC(o Options) (*GRPC, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MessagesPerSecond <= 0 {
		o.MessagesPerSecond = 20_000
	}
	if o.BytesPerSecond <= 0 {
		o.BytesPerSecond = 64 << 20
	}
	if o.Redial <= 0 {
		o.Redial = 500 * time.Millisecond
	}
	certificate, err := selfSigned(o.Key)
	if err != nil {
		return nil, fmt.Errorf("peer: certificate: %w", err)
	}
	if o.Listener == nil {
		if o.Listener, err = net.Listen("tcp", o.Listen); err != nil {
			return nil, fmt.Errorf("peer: %w", err)
		}
	}
	return &GRPC{
		o: o, self: wire.PublicKeyOf(o.Key), certificate: certificate, listener: o.Listener, links: map[wire.PublicKey]*link{},
	}, nil
}

// selfSigned wraps the node's key for TLS. Nothing in the certificate but its key is looked at.
func selfSigned(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Unix(1<<33, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

const protocol = "tandem-peer/1"

// tlsConfig proves this node's key and demands that the other end proves one that may passes. No authority is asked: the
// ledger's list is the authority.
func (g *GRPC) tlsConfig(may func(wire.PublicKey) error) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{g.certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // replaced by VerifyConnection
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			key, err := keyOf(s)
			if err != nil {
				return err
			}
			return may(key)
		},
	}
}

func keyOf(s tls.ConnectionState) (wire.PublicKey, error) {
	if len(s.PeerCertificates) == 0 {
		return wire.PublicKey{}, errors.New("peer: no certificate")
	}
	key, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return wire.PublicKey{}, errors.New("peer: the certificate's key is not Ed25519")
	}
	return wire.PublicKey(key), nil
}

// Self is this node's key.
func (g *GRPC) Self() wire.PublicKey { return g.self }

// Address is where the transport listens.
func (g *GRPC) Address() string { return g.listener.Addr().String() }

// Send queues a message.
func (g *GRPC) Send(to wire.PublicKey, message []byte) error {
	if len(message) > MaxMessage {
		return ErrTooLarge
	}
	l := g.link(to)
	if l == nil {
		return ErrUnknown
	}
	return l.out.put(message)
}

func (g *GRPC) link(key wire.PublicKey) *link {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.links[key]
}

// SetPeers sets the list. A peer whose address has changed is dialled anew.
func (g *GRPC) SetPeers(nodes []ledger.Node) {
	g.mu.Lock()
	defer g.mu.Unlock()
	listed := map[wire.PublicKey]string{}
	for _, n := range nodes {
		if n.Key != g.self && !n.Removed {
			listed[n.Key] = n.Address
		}
	}
	for key, l := range g.links {
		if address, ok := listed[key]; !ok || address != l.address {
			delete(g.links, key)
			l.out.set(false)
			l.stop()
		}
	}
	for key, address := range listed {
		if g.links[key] != nil {
			continue
		}
		l := &link{
			key: key, address: address, out: newQueue(), newest: func() {},
			messages: rate.NewLimiter(rate.Limit(g.o.MessagesPerSecond), g.o.MessagesPerSecond),
			octets:   rate.NewLimiter(rate.Limit(g.o.BytesPerSecond), max(g.o.BytesPerSecond, MaxMessage)),
		}
		l.ctx, l.stop = context.WithCancel(context.Background())
		g.links[key] = l
		if g.ctx != nil {
			g.start(l)
		}
	}
}

// Peers returns the state of all listed peers.
func (g *GRPC) Peers() []Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]Status, 0, len(g.links))
	for _, l := range g.links {
		s := Status{Key: l.key, Address: l.address}
		if s.Up, s.Queued = l.out.state(); !s.Up {
			s.LastError = l.lastError()
		}
		all = append(all, s)
	}
	slices.SortFunc(all, byKey)
	return all
}

// replace ends the stream that was taken from the peer before: a peer has one, however many it opens, so that it can neither take
// more than its share of memory nor get round the limits, which are the link's.
func (l *link) replace(stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest()
	l.newest = stop
}

func (l *link) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = err.Error()
}

func (l *link) lastError() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Close gives back the address of a transport that is not run.
func (g *GRPC) Close() error { return g.listener.Close() }

// Run serves and dials until ctx ends.
func (g *GRPC) Run(ctx context.Context, r Receiver) error {
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(g.tlsConfig(func(key wire.PublicKey) error {
			if g.link(key) == nil {
				return ErrUnknown
			}
			return nil
		}))),
		grpc.ForceServerCodecV2(raw{}),
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(1<<10), grpc.MaxConcurrentStreams(4),
		grpc.ConnectionTimeout(5*time.Second), grpc.MaxHeaderListSize(8<<10),
		grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(1<<20),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: time.Minute, Time: 5 * time.Second, Timeout: 3 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "tandem.Peer",
		Streams:     []grpc.StreamDesc{{StreamName: "Messages", Handler: g.serve, ServerStreams: true, ClientStreams: true}},
	}, nil)

	g.mu.Lock()
	g.ctx, g.receiver = ctx, r
	for _, l := range g.links {
		g.start(l)
	}
	g.mu.Unlock()

	served := make(chan error, 1)
	go func() { served <- server.Serve(bounded(g.listener)) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-served:
		served <- err
	}
	g.mu.Lock()
	for _, l := range g.links {
		l.out.set(false)
		l.stop()
	}
	g.mu.Unlock()
	server.Stop()
	<-served
	g.wait.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("peer: %w", err)
}

// start runs the goroutine that dials a peer. Call with mu held and ctx set.
func (g *GRPC) start(l *link) {
	if g.ctx.Err() != nil {
		return
	}
	g.wait.Add(1)
	context.AfterFunc(g.ctx, l.stop)
	go func() {
		defer g.wait.Done()
		g.dial(l)
	}()
}

// dial keeps a connection to the peer, and a stream on it, until the link is stopped.
func (g *GRPC) dial(l *link) {
	conn, err := grpc.NewClient("passthrough:///"+l.address,
		grpc.WithTransportCredentials(credentials.NewTLS(g.tlsConfig(func(key wire.PublicKey) error {
			if key != l.key {
				return fmt.Errorf("peer: %s answers at %s, not %s", key.DID(), l.address, l.key.DID())
			}
			return nil
		}))),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: g.o.Redial},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallSendMsgSize(MaxMessage), grpc.MaxCallRecvMsgSize(1<<10)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(1<<20),
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithIdleTimeout(0),
	)
	if err != nil {
		l.failed(err)
		return
	}
	defer func() { _ = conn.Close() }()
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	for l.ctx.Err() == nil {
		if err := g.send(l, conn); l.ctx.Err() == nil {
			l.failed(err)
			g.o.Logger.Debug("peer stream ended", "peer", l.key.DID(), "error", err)
		}
		pause.Reset(20 * time.Millisecond) // the connection has its own backoff; this one is for a peer that refuses streams
		select {
		case <-pause.C:
		case <-l.ctx.Done():
		}
	}
}

// send opens a stream and sends what the queue holds until the stream breaks.
func (g *GRPC) send(l *link, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{StreamName: "Messages", ServerStreams: true, ClientStreams: true}, "/tandem.Peer/Messages")
	if err != nil {
		return err
	}
	if h, err := stream.Header(); err != nil { // the peer has let us in
		return err
	} else if v := h.Get("tandem-protocol"); len(v) != 1 || v[0] != protocol {
		// A stream that ends before its header has an empty one and its error at RecvMsg.
		if err := stream.RecvMsg(new([]byte)); err != nil && err != io.EOF {
			return err
		}
		return fmt.Errorf("peer: speaks %q, not %s", v, protocol)
	}
	l.out.set(true)
	g.receiver.Up(l.key)
	defer g.receiver.Down(l.key)
	defer l.out.set(false)

	broken := make(chan error, 1)
	g.wait.Go(func() { broken <- stream.RecvMsg(new([]byte)) }) // the peer never sends here: this ends when the stream does
	for {
		for _, message := range l.out.take() {
			if err := stream.SendMsg(&message); err != nil {
				if err == io.EOF {
					return <-broken
				}
				return err
			}
		}
		select {
		case <-l.out.ready:
		case err := <-broken:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serve takes an incoming stream.
func (g *GRPC) serve(_ any, stream grpc.ServerStream) error {
	ctx := stream.Context()
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return status.Error(codes.Unauthenticated, "no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return status.Error(codes.Unauthenticated, "no TLS")
	}
	key, err := keyOf(info.State)
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	l := g.link(key)
	if l == nil {
		return status.Error(codes.PermissionDenied, ErrUnknown.Error())
	}
	if err := stream.SendHeader(metadata.Pairs("tandem-protocol", protocol)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.replace(cancel)
	ended := make(chan error, 1)
	go func() { ended <- g.receive(ctx, l, stream) }() // ends with the stream, which ends when this handler returns
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return status.Error(codes.Aborted, "the peer has opened another stream")
	case <-l.ctx.Done():
		return status.Error(codes.PermissionDenied, ErrUnknown.Error())
	}
}

// receive hands what arrives on a stream to the receiver. A peer that has lost its connection may be back before this end
// has noticed: then the newer stream ends the older one and waits for the message that it has in hand, so that the order holds.
func (g *GRPC) receive(ctx context.Context, l *link, stream grpc.ServerStream) error {
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if err := l.messages.Wait(ctx); err != nil {
			return err
		}
		if err := l.octets.WaitN(ctx, len(message)); err != nil {
			return err
		}
		l.in.Lock()
		if l.ctx.Err() == nil && ctx.Err() == nil {
			g.receiver.Receive(l.key, message)
		}
		l.in.Unlock()
	}
}

// raw is the codec: messages are bytes already.
type raw struct{}

func (raw) Name() string { return "tandem-raw" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("peer: cannot send %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (raw) Unmarshal(s mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("peer: cannot receive %T", v)
	}
	*b = s.Materialize()
	return nil
}
