package httpapi

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// stampArrivals has the kernel note when it received what the connections of l bring. Without it (an error, or no TCP) a request is
// taken to have arrived when it was read.
func stampArrivals(l net.Listener) {
	c, ok := l.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // what is accepted inherits it
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, 1)
		})
	}
}

// readStamped reads from c and tells when the kernel received the last of it; the zero time if it does not say. It waits, and ends
// with c's deadline, like c.Read.
func readStamped(c net.Conn, raw syscall.RawConn, p []byte) (n int, at time.Time, err error) {
	if raw == nil || len(p) == 0 {
		n, err = c.Read(p)
		return n, at, err
	}
	var oob [64]byte
	var m int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, m, _, _, failed = syscall.Recvmsg(int(fd), p, oob[:], 0)
			if failed != syscall.EINTR {
				return failed != syscall.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return 0, at, err
	case failed != nil:
		return 0, at, &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError("recvmsg", failed)}
	case n == 0:
		return 0, at, io.EOF
	}
	if messages, err := syscall.ParseSocketControlMessage(oob[:m]); err == nil {
		for _, s := range messages {
			if s.Header.Level == syscall.SOL_SOCKET && s.Header.Type == syscall.SCM_TIMESTAMPNS && len(s.Data) >= 16 {
				at = time.Unix(int64(binary.NativeEndian.Uint64(s.Data)), int64(binary.NativeEndian.Uint64(s.Data[8:])))
			}
		}
	}
	return n, at, nil
}
