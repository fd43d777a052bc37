package httpapi

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tandem/internal/refusal"
)

// Limits of the server. They bound what one connection may cost before a handler has seen anything of it.
const (
	// HeaderTimeout bounds the reading of a request's headers: a slowloris is dropped after it.
	HeaderTimeout = 5 * time.Second
	// ReadTimeout bounds the reading of a whole request. net/http also cancels a request's context when it passes while
	// the handler still works, so every wait in this package is shorter.
	ReadTimeout = 30 * time.Second
	// WriteTimeout bounds a request from the end of its headers to the end of its answer.
	WriteTimeout = 45 * time.Second
	// IdleTimeout closes a keep-alive connection on which nothing happens.
	IdleTimeout = 90 * time.Second
	// MaxHeaderBytes bounds request line and headers. (net/http adds 4 KiB of its own to it.)
	MaxHeaderBytes = 16 << 10
	// MaxConnections is the default of Listen.
	MaxConnections = 4096
)

// NewServer returns a server for h with every limit set. Serve it on a listener made by Listen, so that what net/http
// refuses by itself (malformed requests, too large headers, unknown expectations) is answered with a problem document
// too, and so that connections are counted. HTTP/1.1 only: TLS, where wanted, is ended before the node.
func NewServer(h http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:                      serving(h),
		ReadHeaderTimeout:            HeaderTimeout,
		ReadTimeout:                  ReadTimeout,
		WriteTimeout:                 WriteTimeout,
		IdleTimeout:                  IdleTimeout,
		MaxHeaderBytes:               MaxHeaderBytes,
		DisableGeneralOptionsHandler: true,
		Protocols:                    &protocols,
		ErrorLog:                     slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(c net.Conn, s http.ConnState) {
			if own, ok := c.(*conn); ok && s == http.StateIdle {
				own.serving.Store(false)
			}
		},
	}
}

// connKey is the context key under which a request finds its connection.
type connKey struct{}

// serving marks the connection of a request as being served by h, so that conn leaves its bytes alone.
func serving(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if own, ok := r.Context().Value(connKey{}).(*conn); ok {
			own.serving.Store(true)
		}
		h.ServeHTTP(w, r)
	})
}

// Listen wraps l for NewServer. At most maximum connections are open at once (0: MaxConnections); one more is told
// "overloaded" and closed.
func Listen(l net.Listener, maximum int) net.Listener {
	if maximum <= 0 {
		maximum = MaxConnections
	}
	stampArrivals(l)
	return &listener{Listener: l, maximum: int64(maximum)}
}

// listener counts the connections of a listener.
type listener struct {
	net.Listener
	maximum int64
	open    atomic.Int64
}

// Accept returns the next connection that is within the limit.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.maximum {
			own := &conn{Conn: c, release: func() { l.open.Add(-1) }}
			if s, ok := c.(syscall.Conn); ok {
				own.raw, _ = s.SyscallConn()
			}
			return own, nil
		}
		l.open.Add(-1)
		// The answer fits the empty socket buffer; the deadline is for the case that it does not.
		_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_ = writeRawProblem(c, refusal.New("overloaded", "this node has %d open connections, its limit", l.maximum))
		_ = c.Close()
	}
}

// conn is one connection. net/http answers some requests without any handler (malformed ones, headers over the limit,
// unknown expectations), as bare text. conn replaces those answers by problem documents.
type conn struct {
	net.Conn
	release func()
	once    sync.Once // guards release
	// serving is true from the start of a handler until its answer is flushed and the connection idle again. Set by
	// the connection's own goroutine (serving, ConnState), read by whoever writes.
	serving atomic.Bool
	raw     syscall.RawConn // nil if it has none
	// arrived is when the kernel received what was read last, in nanoseconds since 1970; 0 if it does not say. A request may have lain
	// there for long when this program has much to do.
	arrived atomic.Int64
}

// Read reads, and notes when it arrived.
func (c *conn) Read(p []byte) (int, error) {
	n, at, err := readStamped(c.Conn, c.raw, p)
	if n > 0 && !at.IsZero() {
		c.arrived.Store(at.UnixNano())
	}
	return n, err
}

// longestAge is how long a request may have been lying in the kernel. What says more was measured by a clock that has been set since.
const longestAge = time.Minute

// arrival is when the last of a request that has been read came to this machine: now, if nobody knows.
func arrival(r *http.Request) time.Time {
	now := time.Now()
	own, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return now
	}
	if age := now.UnixNano() - own.arrived.Load(); age > 0 && age < int64(longestAge) {
		return now.Add(-time.Duration(age))
	}
	return now
}

// Write sends p, or a problem document in place of an error answer that is net/http's own.
func (c *conn) Write(p []byte) (int, error) {
	if !c.serving.Load() {
		if r := ownRefusal(p); r != nil {
			if err := writeRawProblem(c.Conn, r); err != nil {
				return 0, err
			}
			return len(p), nil
		}
	}
	return c.Conn.Write(p)
}

// Close closes the connection and gives its place to another.
func (c *conn) Close() error {
	c.once.Do(c.release)
	return c.Conn.Close()
}

// CloseWrite lets net/http send its last answer to a client that is still sending.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// ownRefusal translates an error answer of net/http's own into a refusal; nil if p is no such answer.
func ownRefusal(p []byte) *refusal.Refusal {
	const prefix = "HTTP/1.1 "
	if len(p) < len(prefix)+3 || string(p[:len(prefix)]) != prefix {
		return nil
	}
	status, err := strconv.Atoi(string(p[len(prefix) : len(prefix)+3]))
	if err != nil || status < 400 {
		return nil
	}
	switch status {
	case http.StatusRequestHeaderFieldsTooLarge:
		return refusal.New("header-too-large", "request line and headers are over %d bytes", MaxHeaderBytes)
	case http.StatusExpectationFailed:
		return refusal.New("bad-request", "the only expectation this server knows is 100-continue")
	case http.StatusNotImplemented:
		return refusal.New("length-required", "this transfer encoding is not accepted")
	default:
		return refusal.New("bad-request", "not a well-formed HTTP/1.1 request")
	}
}

// writeRawProblem writes r as a complete HTTP/1.1 answer that ends the connection.
func writeRawProblem(w io.Writer, r *refusal.Refusal) error {
	status, body := r.Problem()
	head := make([]byte, 0, 256+len(body))
	head = append(head, "HTTP/1.1 "+strconv.Itoa(status)+" "+http.StatusText(status)+"\r\n"...)
	head = append(head, "Content-Type: application/problem+json\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"...)
	if status == http.StatusServiceUnavailable {
		head = append(head, "Retry-After: 1\r\n"...)
	}
	head = append(head, "Connection: close\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"...)
	_, err := w.Write(append(head, body...))
	return err
}
