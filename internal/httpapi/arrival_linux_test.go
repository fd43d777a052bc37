package httpapi

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"
)

// listening is a listener as the node uses it, on loopback.
func listening(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = Listen(l, 0)
	t.Cleanup(func() { l.Close() })
	return l
}

// A request counts from the moment at which the kernel received it, not from when this program got round to reading it.
func TestArrival(t *testing.T) {
	l := listening(t)
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	before := time.Now()
	if _, err := io.WriteString(out, "x"); err != nil {
		t.Fatal(err)
	}
	after := time.Now()
	own := in.(*conn)
	<-time.After(50 * time.Millisecond) // what is measured: it lies in the kernel for so long
	if n, err := own.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	at := time.Unix(0, own.arrived.Load())
	// The kernel's clock may be read a little coarser than ours.
	if at.Before(before.Add(-5*time.Millisecond)) || at.After(after.Add(5*time.Millisecond)) {
		t.Errorf("sent at %v, arrived at %v", before, at)
	}
	// Deadlines and the end of the connection are as they are with any connection.
	if err := own.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := own.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	if err := own.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	out.Close()
	if n, err := own.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

// Behind NewServer each request of a connection has an arrival of its own.
func TestArrivalOfRequests(t *testing.T) {
	l := listening(t)
	ages := make(chan time.Duration, 1)
	s := NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { ages <- time.Since(arrival(r)) }))
	go s.Serve(l)
	defer s.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for range 3 {
		began := time.Now()
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatal(res, err)
		}
		if age := <-ages; age < 0 || age > time.Since(began)+5*time.Millisecond {
			t.Errorf("%v old, %v after it was sent", age, time.Since(began))
		}
		<-time.After(20 * time.Millisecond) // else an age that counts from the request before would be within the bound
	}
}
