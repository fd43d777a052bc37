package peer

import (
	"bytes"
	"context"
	"slices"
	"sync"

	"tandem/internal/ledger"
	"tandem/internal/wire"
)

// Mesh joins transports within one process. Its links can be cut and healed, in both directions at once. It is safe for
// concurrent use.
type Mesh struct {
	mu    sync.Mutex // guards the fields below and those of the nodes that say so
	nodes map[wire.PublicKey]*meshNode
	cut   map[[2]wire.PublicKey]bool
}

// NewMesh returns a mesh without nodes.
func NewMesh() *Mesh {
	return &Mesh{nodes: map[wire.PublicKey]*meshNode{}, cut: map[[2]wire.PublicKey]bool{}}
}

// Node returns a new transport for the node with this key. It takes the place of an older one with the key, as after a
// restart; the older one must have ended.
func (m *Mesh) Node(self wire.PublicKey) Transport {
	return &meshNode{mesh: m, self: self, links: map[wire.PublicKey]*meshLink{}}
}

// Cut breaks the link between two nodes; what is under way is lost.
func (m *Mesh) Cut(a, b wire.PublicKey) { m.setCut(a, b, true) }

// Heal mends the link between two nodes.
func (m *Mesh) Heal(a, b wire.PublicKey) { m.setCut(a, b, false) }

func (m *Mesh) setCut(a, b wire.PublicKey, cut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut[pair(a, b)] = cut
	m.settle()
}

func pair(a, b wire.PublicKey) [2]wire.PublicKey {
	if bytes.Compare(a[:], b[:]) > 0 {
		a, b = b, a
	}
	return [2]wire.PublicKey{a, b}
}

// settle opens and closes links so that they are as lists, cuts and running nodes say. Call with mu held.
func (m *Mesh) settle() {
	for _, n := range m.nodes {
		for key, l := range n.links {
			to := m.nodes[key]
			want := to != nil && to.links[n.self] != nil && !m.cut[pair(n.self, key)]
			if open, _ := l.out.state(); open != want {
				l.out.set(want)
				select {
				case l.changed <- struct{}{}:
				default:
				}
			}
		}
	}
}

type meshNode struct {
	mesh *Mesh
	self wire.PublicKey
	// Guarded by mesh.mu:
	links    map[wire.PublicKey]*meshLink
	receiver Receiver
	ctx      context.Context // of Run; nil before
	wait     sync.WaitGroup  // the links' goroutines; Add under mesh.mu
}

// meshLink is the way from one node to another.
type meshLink struct {
	address string
	out     *queue
	changed chan struct{}
	in      sync.Mutex // one message at a time reaches the receiver at the other end
	stop    context.CancelFunc
}

func (n *meshNode) Self() wire.PublicKey { return n.self }

func (n *meshNode) Send(to wire.PublicKey, message []byte) error {
	if len(message) > MaxMessage {
		return ErrTooLarge
	}
	n.mesh.mu.Lock()
	l := n.links[to]
	n.mesh.mu.Unlock()
	if l == nil {
		return ErrUnknown
	}
	return l.out.put(message)
}

func (n *meshNode) SetPeers(nodes []ledger.Node) {
	n.mesh.mu.Lock()
	defer n.mesh.mu.Unlock()
	listed := map[wire.PublicKey]bool{}
	for _, node := range nodes {
		if node.Key == n.self || node.Removed {
			continue
		}
		listed[node.Key] = true
		if n.links[node.Key] == nil {
			l := &meshLink{address: node.Address, out: newQueue(), changed: make(chan struct{}, 1)}
			n.links[node.Key] = l
			n.start(node.Key, l)
		}
	}
	for key, l := range n.links {
		if !listed[key] {
			delete(n.links, key)
			l.out.set(false)
			if l.stop != nil {
				l.stop()
			}
		}
	}
	n.mesh.settle()
}

func (n *meshNode) Peers() []Status {
	n.mesh.mu.Lock()
	defer n.mesh.mu.Unlock()
	all := make([]Status, 0, len(n.links))
	for key, l := range n.links {
		s := Status{Key: key, Address: l.address}
		if s.Up, s.Queued = l.out.state(); !s.Up {
			s.LastError = "the link is cut or the node is not running"
		}
		all = append(all, s)
	}
	slices.SortFunc(all, byKey)
	return all
}

func byKey(a, b Status) int { return bytes.Compare(a.Key[:], b.Key[:]) }

func (n *meshNode) Run(ctx context.Context, r Receiver) error {
	m := n.mesh
	m.mu.Lock()
	n.ctx, n.receiver = ctx, r
	m.nodes[n.self] = n
	for key, l := range n.links {
		n.start(key, l)
	}
	m.settle()
	m.mu.Unlock()

	<-ctx.Done()
	m.mu.Lock()
	if m.nodes[n.self] == n {
		delete(m.nodes, n.self)
	}
	for _, l := range n.links {
		l.out.set(false)
	}
	m.settle()
	m.mu.Unlock()
	n.wait.Wait()
	return nil
}

// start runs the link's goroutine, if the node runs. Call with mesh.mu held.
func (n *meshNode) start(to wire.PublicKey, l *meshLink) {
	if n.ctx == nil || n.ctx.Err() != nil {
		return
	}
	ctx, stop := context.WithCancel(n.ctx)
	l.stop = stop
	n.wait.Add(1)
	go func() {
		defer n.wait.Done()
		defer stop()
		n.carry(ctx, to, l)
	}()
}

// carry delivers the link's messages, and tells this end's receiver when the link comes and goes.
func (n *meshNode) carry(ctx context.Context, to wire.PublicKey, l *meshLink) {
	up := false
	for {
		open, _ := l.out.state()
		if ctx.Err() != nil {
			open = false
		}
		if open != up {
			if up = open; up {
				n.receiver.Up(to)
			} else {
				n.receiver.Down(to)
			}
		}
		if ctx.Err() != nil {
			return
		}
		for _, message := range l.out.take() {
			n.mesh.mu.Lock()
			other := n.mesh.nodes[to]
			cut := n.mesh.cut[pair(n.self, to)]
			var r Receiver
			if other != nil && other.links[n.self] != nil && !cut && ctx.Err() == nil {
				r = other.receiver
			}
			n.mesh.mu.Unlock()
			if r != nil {
				l.in.Lock()
				r.Receive(n.self, message)
				l.in.Unlock()
			}
		}
		select {
		case <-l.out.ready:
		case <-l.changed:
		case <-ctx.Done():
		}
	}
}
