package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipeEnd is an end in memory, so that a test can run in synctest's bubble, where time passes only when everybody waits.
type pipeEnd struct {
	*io.PipeReader
	out *io.PipeWriter
}

func (e pipeEnd) Write(p []byte) (int, error) { return e.out.Write(p) }
func (e pipeEnd) CloseWrite() error           { return e.out.Close() }
func (e pipeEnd) Close() error {
	return errors.Join(e.PipeReader.CloseWithError(net.ErrClosed), e.out.CloseWithError(io.ErrUnexpectedEOF))
}

// connected returns a program's end and the link's end of one connection.
func connected() (program, proxy pipeEnd) {
	toProxy, fromProgram := io.Pipe()
	toProgram, fromProxy := io.Pipe()
	return pipeEnd{toProgram, fromProgram}, pipeEnd{toProxy, fromProxy}
}

// emulate joins two programs over a path. The function returned waits for the link's end.
func emulate(ctx context.Context, seed uint64, there, back Conditions) (near, far pipeEnd, p *path, joined func()) {
	near, proxyNear := connected()
	far, proxyFar := connected()
	p = &path{}
	p.now.Store(&[2]Conditions{there, back})
	var done sync.WaitGroup
	done.Go(func() { join(ctx, proxyNear, proxyFar, p, seed, 1) })
	return near, far, p, done.Wait
}

// arrival is what one read gave, and when.
type arrival struct {
	bytes []byte
	at    time.Duration
}

// arrivals reads until the end.
func arrivals(r io.Reader, began time.Time) ([]arrival, error) {
	var all []arrival
	buffer := make([]byte, 1<<16)
	for {
		n, err := r.Read(buffer)
		if n > 0 {
			all = append(all, arrival{bytes.Clone(buffer[:n]), time.Since(began)})
		}
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

const ms = time.Millisecond

// TestDelayIsPipelined: what is sent while earlier bytes are still under way arrives one delay after it was sent, not one delay
// after them.
func TestDelayIsPipelined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, _, joined := emulate(t.Context(), 1, Conditions{Delay: 50 * ms}, Conditions{Delay: 30 * ms})
		began := time.Now()
		go func() {
			for i := range 200 { // four chunks per delay are under way at any time
				fmt.Fprintf(near, "%03d", i)
				<-time.After(13 * ms)
			}
			_ = near.CloseWrite()
		}()
		got, err := arrivals(far, began)
		if err != nil || len(got) != 200 {
			t.Fatalf("%d arrivals, %v", len(got), err)
		}
		for i, a := range got {
			if want := time.Duration(i)*13*ms + 50*ms; string(a.bytes) != fmt.Sprintf("%03d", i) || a.at != want {
				t.Errorf("%q at %s, not %03d at %s", a.bytes, a.at, i, want)
			}
		}
		_, _ = io.WriteString(far, "back")
		sent := time.Since(began)
		_ = far.CloseWrite()
		answer, err := arrivals(near, began)
		if err != nil || len(answer) != 1 || answer[0].at != sent+30*ms {
			t.Errorf("answer %v, %v; sent at %s", answer, err, sent)
		}
		joined()
	})
}

// TestHalfClose: one side says that it is done, the other goes on, and the link ends when both have.
func TestHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, _, joined := emulate(t.Context(), 1, Conditions{Delay: 20 * ms}, Conditions{Delay: 20 * ms})
		began := time.Now()
		_ = near.CloseWrite()
		if got, err := arrivals(far, began); len(got) != 0 || err != nil || time.Since(began) != 20*ms {
			t.Fatalf("%v, %v at %s, want the end at 20ms", got, err, time.Since(began))
		}
		for range 3 {
			_, _ = io.WriteString(far, "still here")
			<-time.After(ms)
		}
		_ = far.CloseWrite()
		if got, err := arrivals(near, began); len(got) != 3 || err != nil {
			t.Errorf("after its half-close the near end got %v, %v", got, err)
		}
		joined()
	})
}

// TestOrderUnderJitterAndLoss: whatever a link does, the bytes are the same, in order, and none is early.
func TestOrderUnderJitterAndLoss(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		c := Conditions{
			Delay:     time.Duration(rapid.IntRange(0, 200).Draw(r, "delay")) * ms,
			Loss:      rapid.Float64Range(0, 0.5).Draw(r, "loss"),
			Bandwidth: rapid.SampledFrom([]int64{0, 10_000, 1_000_000}).Draw(r, "bandwidth"),
		}
		c.Jitter = time.Duration(rapid.Int64Range(0, int64(c.Delay)).Draw(r, "jitter"))
		seed := rapid.Uint64().Draw(r, "seed")
		sizes := rapid.SliceOfN(rapid.IntRange(1, 5000), 1, 30).Draw(r, "sizes")
		synctest.Test(t, func(t *testing.T) {
			near, far, p, joined := emulate(t.Context(), seed, c, Conditions{})
			began := time.Now()
			var sent []byte
			for i, size := range sizes {
				sent = append(sent, bytes.Repeat([]byte{byte(i)}, size)...)
			}
			go func() {
				rest := sent
				for _, size := range sizes {
					_, _ = near.Write(rest[:size])
					rest = rest[size:]
				}
				_ = near.CloseWrite()
			}()
			got, err := arrivals(far, began)
			if err != nil {
				r.Fatal(err)
			}
			var received []byte
			for _, a := range got {
				if received = append(received, a.bytes...); a.at < c.Delay-c.Jitter {
					r.Fatalf("arrived after %s, before the delay %s less the jitter %s", a.at, c.Delay, c.Jitter)
				}
			}
			if !bytes.Equal(received, sent) {
				r.Fatalf("%d bytes sent, %d received, or others", len(sent), len(received))
			}
			_ = far.CloseWrite()
			joined()
			if p.bytes.Load() != int64(len(sent)) {
				r.Fatalf("counted %d bytes of %d", p.bytes.Load(), len(sent))
			}
		})
	})
}

// TestWindow: a receiver that takes nothing stops the sender once a window of bytes is under way, and not before.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, _, joined := emulate(t.Context(), 1, Conditions{Delay: 10 * ms}, Conditions{})
		sent := make(chan int, 1)
		go func() {
			block, n := make([]byte, 64<<10), 0
			for range 2 * Window / len(block) {
				m, err := near.Write(block)
				n += m
				if err != nil {
					break
				}
				select {
				case <-sent:
				default:
				}
				sent <- n
			}
		}()
		synctest.Wait()
		if n := <-sent; n != Window {
			t.Errorf("%d bytes taken from the sender, not %d", n, Window)
		}
		_ = far.Close() // nobody will ever read: the sender is told
		joined()
		_ = near.Close()
	})
}

// TestSetOvertakesNothing: shorter conditions do not let later bytes pass earlier ones, and hold from the next chunk on.
func TestSetOvertakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, p, joined := emulate(t.Context(), 1, Conditions{Delay: time.Second}, Conditions{})
		began := time.Now()
		go func() {
			_, _ = io.WriteString(near, "far ")
			<-time.After(100 * ms)
			p.now.Store(&[2]Conditions{})
			_, _ = io.WriteString(near, "near ")
			<-time.After(2 * time.Second)
			_, _ = io.WriteString(near, "now")
			_ = near.CloseWrite()
		}()
		got, err := arrivals(far, began)
		if err != nil {
			t.Fatal(err)
		}
		var text string
		for _, a := range got {
			text += fmt.Sprintf("%s@%s ", bytes.TrimSpace(a.bytes), a.at)
		}
		if text != "far@1s near@1s now@2.1s " {
			t.Errorf("%q", text)
		}
		_ = far.CloseWrite()
		joined()
	})
}

// TestCancel: a link that is closed ends, whatever is under way.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		near, far, _, joined := emulate(ctx, 1, Conditions{Delay: 10 * time.Second}, Conditions{})
		_, _ = io.WriteString(near, "never arrives")
		synctest.Wait()
		cancel()
		joined()
		if got, err := arrivals(far, time.Now()); len(got) != 0 || err == nil {
			t.Errorf("%v, %v after the link was cut", got, err)
		}
		_ = near.Close()
	})
}

// schedule is what a shaper says of a thousand chunks.
func schedule(seed, connection uint64, direction int, c Conditions) (due []time.Duration, lost int) {
	s, start := newShaper(seed, connection, direction), time.Unix(0, 0)
	for i := range 1000 {
		at, n := s.arrives(start.Add(time.Duration(i)*time.Second), 100, c, c.Delay)
		due, lost = append(due, at.Sub(start)), lost+n
	}
	return due, lost
}

// TestSeedDecides: the same seed gives the same losses and jitter; another seed, connection or direction others.
func TestSeedDecides(t *testing.T) {
	c := Conditions{Delay: 50 * ms, Jitter: 5 * ms, Loss: 0.1}
	want, lost := schedule(7, 1, there, c)
	if again, n := schedule(7, 1, there, c); n != lost || fmt.Sprint(again) != fmt.Sprint(want) {
		t.Error("the same seed gave another run")
	}
	for name, other := range map[string]func() ([]time.Duration, int){
		"seed":       func() ([]time.Duration, int) { return schedule(8, 1, there, c) },
		"connection": func() ([]time.Duration, int) { return schedule(7, 2, there, c) },
		"direction":  func() ([]time.Duration, int) { return schedule(7, 1, back, c) },
	} {
		if due, _ := other(); fmt.Sprint(due) == fmt.Sprint(want) {
			t.Errorf("another %s gave the same run", name)
		}
	}
	// Of 1,000 segments 100 are lost, and of these 10 again: the binomial's five standard deviations are 50.
	if math.Abs(float64(lost)-111) > 50 {
		t.Errorf("%d of 1000 segments lost with probability 0.1", lost)
	}
}

// TestLossCostsTimeouts: a lost segment costs the retransmission timeout, twice lost three times it, and so on.
func TestLossCostsTimeouts(t *testing.T) {
	for _, c := range []struct {
		rto, want time.Duration
	}{{0, 50*ms + 50*ms + minRTO}, {300 * ms, 300 * ms}} {
		s, seen := newShaper(1, 1, there), map[int]bool{}
		for i := range 2000 {
			sent := time.Unix(int64(i)*100, 0)
			due, lost := s.arrives(sent, 1, Conditions{Delay: 50 * ms, Loss: 0.3, RTO: c.rto}, 50*ms)
			seen[lost] = true
			if want := 50*ms + c.want*time.Duration(1<<lost-1); due.Sub(sent) != want {
				t.Fatalf("lost %d times: %s, not %s", lost, due.Sub(sent), want)
			}
		}
		if !seen[0] || !seen[1] || !seen[2] || seen[maxLosses+1] {
			t.Errorf("losses seen: %v", seen)
		}
	}
}

// TestBandwidth: chunks leave one after the other.
func TestBandwidth(t *testing.T) {
	s, c := newShaper(1, 1, there), Conditions{Delay: 50 * ms, Bandwidth: 1000}
	start := time.Unix(0, 0)
	for i, want := range []time.Duration{150 * ms, 250 * ms, 350 * ms} {
		if due, _ := s.arrives(start, 100, c, 0); due.Sub(start) != want {
			t.Errorf("chunk %d arrives after %s, not %s", i, due.Sub(start), want)
		}
	}
	if due, _ := s.arrives(start.Add(time.Minute), 100, c, 0); due.Sub(start) != time.Minute+150*ms {
		t.Errorf("after a pause: %s", due.Sub(start))
	}
}

func TestConditionsAreChecked(t *testing.T) {
	for _, c := range []Conditions{
		{Delay: -1}, {Delay: 11 * time.Second}, {Jitter: 1}, {Delay: ms, Jitter: 2 * ms}, {Loss: -0.1}, {Loss: 0.6}, {Loss: math.NaN()},
		{RTO: -1}, {RTO: time.Hour}, {Bandwidth: -1},
	} {
		if c.Check() == nil {
			t.Errorf("%+v passes", c)
		}
		if _, err := Listen(Options{Target: "127.0.0.1:1", Back: c}); err == nil {
			t.Errorf("a link with %+v", c)
		}
	}
	if _, err := Listen(Options{Target: "nowhere"}); err == nil {
		t.Error("a link to no address")
	}
}

// echo serves connections that send back what they get, until the sender closes its side. It returns its address.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			done.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
				_ = conn.(*net.TCPConn).CloseWrite()
			})
		}
	})
	t.Cleanup(func() { listener.Close(); done.Wait() })
	return listener.Addr().String()
}

func listen(t *testing.T, o Options) *Link {
	t.Helper()
	l, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// TestTCP sends megabytes there and back over real connections, several at once, while the conditions change.
func TestTCP(t *testing.T) {
	c := Conditions{Delay: 2 * ms, Jitter: ms, Loss: 0.001, RTO: 3 * ms}
	l := listen(t, Options{Target: echo(t), There: c, Back: c, Seed: 1})
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			conn, err := net.Dial("tcp", l.Address())
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			sent := make([]byte, 2<<20)
			random := rand.NewChaCha8([32]byte{byte(i)})
			_, _ = random.Read(sent)
			go func() {
				_, _ = conn.Write(sent)
				_ = conn.(*net.TCPConn).CloseWrite()
			}()
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("client %d: %d of %d bytes came back, or others: %v", i, len(got), len(sent), err)
			}
		})
	}
	if err := l.Set(Conditions{}, c); err != nil {
		t.Error(err)
	}
	clients.Wait()
	if traffic := l.Traffic(); traffic.Connections != 4 || traffic.Bytes != 16<<20 {
		t.Errorf("traffic %+v", traffic)
	}
}

// TestReset: a connection that is cut off is cut off at the other end, not closed in order.
func TestReset(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	l := listen(t, Options{Target: listener.Addr().String()})
	near, err := net.Dial("tcp", l.Address())
	if err != nil {
		t.Fatal(err)
	}
	far, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	_ = near.(*net.TCPConn).SetLinger(0)
	_ = near.Close()
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the far end saw %v", err)
	}
}

// TestNobodyListens: a link to a port where nobody listens breaks the connection, and works once somebody does.
func TestNobodyListens(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := listener.Addr().String()
	_ = listener.Close()
	l := listen(t, Options{Target: target})
	conn, err := net.Dial("tcp", l.Address())
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	if err == nil {
		t.Error("a connection to nobody")
	}
	if l.Target() != target {
		t.Errorf("target %s", l.Target())
	}
}

// BenchmarkEcho is the cost of a link: a round trip of 200 bytes, and a stream, over a link of no distance.
func BenchmarkEcho(b *testing.B) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	l, err := Listen(Options{Target: listener.Addr().String()})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for _, way := range []struct{ name, address string }{{"direct", listener.Addr().String()}, {"link", l.Address()}} {
		for _, size := range []int{200, 64 << 10} {
			b.Run(fmt.Sprintf("%s/%d", way.name, size), func(b *testing.B) {
				conn, err := net.Dial("tcp", way.address)
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				message := make([]byte, size)
				b.SetBytes(int64(size))
				for b.Loop() {
					if _, err := conn.Write(message); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(conn, message); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
