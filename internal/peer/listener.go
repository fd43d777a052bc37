package peer

import (
	"net"
	"net/netip"
	"sync"
)

// Bounds of the connections that are open at once, those included that have not proved a key yet: of all, and from one address.
const (
	maxConnections     = 1024
	maxConnectionsFrom = 64
)

// crowd is a listener that closes at once what is beyond the bounds. A stranger holds a connection for as long as a handshake may
// take; so nobody's files run out, and whoever comes from another address still finds a place.
type crowd struct {
	net.Listener

	mu   sync.Mutex // guards what follows
	all  int
	from map[netip.Addr]int
}

func bounded(l net.Listener) *crowd { return &crowd{Listener: l, from: map[netip.Addr]int{}} }

// Accept implements net.Listener.
func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := addressOf(conn)
		if !c.enter(from) {
			_ = conn.Close()
			continue
		}
		return &counted{Conn: conn, leave: sync.OnceFunc(func() { c.leave(from) })}, nil
	}
}

func (c *crowd) enter(from netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= maxConnections || c.from[from] >= maxConnectionsFrom {
		return false
	}
	c.all++
	c.from[from]++
	return true
}

func (c *crowd) leave(from netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.from[from]--; c.from[from] == 0 {
		delete(c.from, from)
	}
}

// addressOf is where a connection comes from; the zero address if that is no IP address.
func addressOf(conn net.Conn) netip.Addr {
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap()
}

// counted gives its place back when it is closed.
type counted struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}
