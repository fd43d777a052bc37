// Package link emulates the distance between two programs that talk over TCP: a Link is a proxy on a loopback address whose
// bytes arrive later than they were sent, as they would from another city. It needs no privileges and no kernel module, and
// the two programs know nothing of it: one of them is told the link's address in place of the other's.
//
// What a link does to each direction (Conditions):
//
//   - Delay: every byte leaves the link that much later than it came in. Delay is no brake: while one chunk waits, the next
//     ones are read and wait beside it, so a link of 50 ms carries as many bytes a second as one of 0 (up to Window bytes
//     on the way). Order is kept, whatever jitter says, as TCP would.
//   - Jitter: each chunk's delay is drawn evenly from Delay-Jitter to Delay+Jitter.
//   - Loss: TCP hides a lost segment and pays for it with time. Each segment (at most 1460 bytes) is lost with this probability;
//     one that is lost arrives one retransmission timeout later, one that is lost again after twice that, and everything behind
//     it waits, as behind a hole in TCP's sequence. The timeout is RTO; 0 stands for what Linux arrives at on a steady path,
//     the round trip plus 200 ms. Real TCP often recovers faster from a loss amid bulk (fast retransmit, one round trip):
//     this emulation is on the pessimistic side there, and right for the small messages of a consensus protocol.
//   - Bandwidth: chunks leave one after the other at so many bytes a second; 0 is unlimited.
//   - A new connection pays one round trip (SYN, SYN-ACK) before its first byte goes on its way.
//   - A half-close (FIN) travels like a byte; an abort (RST) too.
//
// What it does not do: congestion control (slow start), reordering below TCP, datagrams.
//
// Jitter and loss are drawn from a generator seeded with Options.Seed and the connection's number, so that the same chunks
// meet the same fate in each run.
package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Window is how many bytes may be under way in one direction of a connection. A sender that is further ahead has to wait, as
// with TCP's own window.
const Window = 16 << 20

// Conditions are those of one direction of a link. The zero value is a link that costs nothing.
type Conditions struct {
	Delay     time.Duration // one way; 0 to 10 s
	Jitter    time.Duration // 0 to Delay
	Loss      float64       // probability that a segment is lost, 0 to 0.5
	RTO       time.Duration // what a lost segment costs; 0: the round trip + 200 ms
	Bandwidth int64         // bytes per second; 0: unlimited
}

// Check returns what is wrong with c.
func (c Conditions) Check() error {
	switch {
	case c.Delay < 0 || c.Delay > 10*time.Second:
		return fmt.Errorf("delay %s: from 0 to 10s", c.Delay)
	case c.Jitter < 0 || c.Jitter > c.Delay:
		return fmt.Errorf("jitter %s: from 0 to the delay, %s", c.Jitter, c.Delay)
	case !(c.Loss >= 0 && c.Loss <= 0.5): // not a number is refused too
		return fmt.Errorf("loss %v: a probability from 0 to 0.5", c.Loss)
	case c.RTO < 0 || c.RTO > time.Minute:
		return fmt.Errorf("retransmission timeout %s: from 0 to 1m", c.RTO)
	case c.Bandwidth < 0:
		return fmt.Errorf("bandwidth %d: bytes per second, 0 for unlimited", c.Bandwidth)
	}
	return nil
}

// Options describe a link.
type Options struct {
	// Listen is where the link listens. Default "127.0.0.1:0".
	Listen string
	// Target is where it leads to, host:port. It is dialled for each connection.
	Target string
	// There are the conditions from who dials to Target, Back those of the other direction.
	There, Back Conditions
	// Seed decides jitter and loss.
	Seed uint64
}

// Traffic is what has gone through a link, both directions together.
type Traffic struct {
	Connections int64 // opened so far
	Open        int64 // open now
	Bytes       int64 // handed on
	Lost        int64 // segments that were lost, each time counted
}

// Link is a listening proxy. Its methods are safe for concurrent use.
type Link struct {
	listener net.Listener
	target   string
	seed     uint64
	path     path
	ctx      context.Context
	cancel   context.CancelFunc
	done     sync.WaitGroup // the accepting goroutine and one for each connection

	connections, open atomic.Int64
}

// path is what both directions of all connections of a link share.
type path struct {
	now         atomic.Pointer[[2]Conditions] // there, back
	bytes, lost atomic.Int64
}

const (
	there = 0
	back  = 1
)

// Listen starts a link. Close ends it.
func Listen(o Options) (*Link, error) {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if err := errors.Join(o.There.Check(), o.Back.Check()); err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	if _, _, err := net.SplitHostPort(o.Target); err != nil {
		return nil, fmt.Errorf("link: target: %w", err)
	}
	listener, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	l := &Link{listener: listener, target: o.Target, seed: o.Seed}
	l.path.now.Store(&[2]Conditions{o.There, o.Back})
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.done.Go(l.accept)
	return l, nil
}

// Address is where the link listens.
func (l *Link) Address() string { return l.listener.Addr().String() }

// Target is where the link leads to.
func (l *Link) Target() string { return l.target }

// Set changes the conditions, of open connections too, from the next chunk on. What is under way keeps the time it was given, and nothing
// overtakes it.
func (l *Link) Set(toTarget, fromTarget Conditions) error {
	if err := errors.Join(toTarget.Check(), fromTarget.Check()); err != nil {
		return fmt.Errorf("link: %w", err)
	}
	l.path.now.Store(&[2]Conditions{toTarget, fromTarget})
	return nil
}

// Traffic returns what has gone through so far.
func (l *Link) Traffic() Traffic {
	return Traffic{Connections: l.connections.Load(), Open: l.open.Load(), Bytes: l.path.bytes.Load(), Lost: l.path.lost.Load()}
}

// Close stops listening, breaks what is open and waits until all goroutines have ended.
func (l *Link) Close() error {
	l.cancel()
	err := l.listener.Close()
	l.done.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// accept takes connections until the listener is closed.
func (l *Link) accept() {
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			if l.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, most likely: it passes, and the dialler tries again.
			if !wait(l.ctx, 10*time.Millisecond) {
				return
			}
			continue
		}
		number := l.connections.Add(1)
		l.open.Add(1)
		l.done.Go(func() {
			defer l.open.Add(-1)
			l.carry(conn.(*net.TCPConn), uint64(number))
		})
	}
}

// carry is the life of one connection.
func (l *Link) carry(near *net.TCPConn, number uint64) {
	now := l.path.now.Load()
	// The handshake of a real connection: nothing can be sent before SYN and SYN-ACK have crossed. What the dialler has
	// sent by then waits in the kernel.
	if !wait(l.ctx, now[there].Delay+now[back].Delay) {
		abort(near)
		return
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(l.ctx, "tcp", l.target)
	if err != nil {
		abort(near) // what the dialler of a port that nobody listens on sees, if not at the same call
		return
	}
	far := conn.(*net.TCPConn)
	join(l.ctx, near, far, &l.path, l.seed, number)
}

// wait waits for d and reports whether ctx has not ended before.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
