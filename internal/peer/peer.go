// Package peer carries messages between Layer 2 nodes: who may talk, in order, within limits. What the messages say is
// none of its business (internal/wire has them, internal/layer2 understands them).
//
// There are two transports. GRPC is the real one: a gRPC stream in each direction over TLS 1.3, both ends proving the
// Ed25519 key under which the ledger lists them; there is no certificate authority. Mesh is its twin inside one process,
// for tests, with links that can be cut. One conformance suite holds both to the same promises:
//
//   - Only nodes of the list set by SetPeers are heard or spoken to; a node taken off the list is cut off at once.
//   - The messages of one sender arrive in the order of Send, each at most once, while a connection lasts. What is under way
//     when a connection breaks may be lost, and Send's nil is no receipt: the engine asks for what it misses after Up.
//   - Send never blocks. A peer that does not keep up costs its own queue, nobody else's.
package peer

import (
	"context"
	"errors"

	"tandem/internal/ledger"
	"tandem/internal/wire"
)

// Limits of every transport.
const (
	// MaxMessage is the most bytes a message may have: a transcript of the largest session fits.
	MaxMessage = 4 << 20
	// MaxQueued and MaxQueuedBytes bound what waits to be sent to one peer.
	MaxQueued      = 4096
	MaxQueuedBytes = 64 << 20
)

// Errors of Send.
var (
	// ErrUnknown: the node is not on the list.
	ErrUnknown = errors.New("peer: the node is not on the ledger's Layer 2 list")
	// ErrDown: there is no connection now.
	ErrDown = errors.New("peer: no connection to the node")
	// ErrBusy: the queue to this peer is full; it does not keep up.
	ErrBusy = errors.New("peer: the node does not keep up with its messages")
	// ErrTooLarge: the message is larger than MaxMessage.
	ErrTooLarge = errors.New("peer: message too large")
)

// Receiver takes what arrives. Its methods are called from the transport's goroutines, for one peer one at a time. While
// Receive has not returned, nothing more of this peer is read: that is how a slow node slows down those who send to it.
type Receiver interface {
	// Receive takes a message; the receiver owns it.
	Receive(from wire.PublicKey, message []byte)
	// Up says that Send to this peer works from now on.
	Up(peer wire.PublicKey)
	// Down says that it does not any more; messages sent since Up may be lost.
	Down(peer wire.PublicKey)
}

// Status describes the connection to one peer.
type Status struct {
	Key       wire.PublicKey
	Address   string // host:port
	Up        bool   // Send works
	Queued    int    // messages waiting to be sent
	LastError string // why the last connection failed or ended; empty while up
}

// Transport is what the engine's cluster needs. All methods are safe for concurrent use.
type Transport interface {
	// Self is this node's key.
	Self() wire.PublicKey
	// Send queues a message for a peer; it owns the message from then on. See the errors above.
	Send(to wire.PublicKey, message []byte) error
	// SetPeers sets the list. This node itself and removed nodes in it are left out.
	SetPeers(nodes []ledger.Node)
	// Peers returns the state of all listed peers, ordered by key.
	Peers() []Status
	// Run carries messages until ctx ends, then closes all connections and returns nil; any other return means that the
	// transport cannot work at all (the address is taken). It is called once.
	Run(ctx context.Context, r Receiver) error
}
