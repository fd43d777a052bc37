//go:build !linux

package httpapi

import (
	"net"
	"syscall"
	"time"
)

// stampArrivals does nothing here: a request is taken to have arrived when it was read.
func stampArrivals(net.Listener) {}

// readStamped reads from c.
func readStamped(c net.Conn, _ syscall.RawConn, p []byte) (n int, at time.Time, err error) {
	n, err = c.Read(p)
	return n, at, err
}
