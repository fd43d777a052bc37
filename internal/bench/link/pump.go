package link

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// end is one end of a connection as the pumps need it. *net.TCPConn is one.
type end interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// abort ends a connection with RST instead of FIN, where it is TCP: the other side then knows that it was cut off.
func abort(e io.Closer) {
	if tcp, ok := e.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = e.Close()
}

// join carries bytes between two ends until both directions have ended, one of them breaks, or ctx ends. It closes both.
func join(ctx context.Context, near, far end, p *path, seed, number uint64) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Whatever breaks one direction breaks both: with a peer gone, nobody is left to send for.
	stop := context.AfterFunc(ctx, func() { abort(near); abort(far) })
	var both sync.WaitGroup
	for direction, way := range [2][2]end{there: {near, far}, back: {far, near}} {
		f := &flow{ctx: ctx, from: way[0], to: way[1], path: p, direction: direction, shape: newShaper(seed, number, direction)}
		f.changed.L = &f.mu
		both.Go(func() {
			if !f.run() {
				cancel()
			}
		})
	}
	both.Wait()
	if stop() { // both sides have said that they are done
		_ = near.Close()
		_ = far.Close()
	}
}

// chunk is what one read gave, and when it arrives. The last one of a flow has the error that ended reading.
type chunk struct {
	bytes []byte
	due   time.Time
	err   error
}

// flow is one direction of one connection: a goroutine that reads and says when each chunk arrives, and one that waits for that
// moment and writes. They share a queue; neither holds its lock while it reads, waits or writes.
type flow struct {
	ctx       context.Context
	from, to  end
	path      *path
	direction int
	shape     *shaper // the reader's

	mu      sync.Mutex
	changed sync.Cond // of queue, bytes or ended
	queue   []chunk   // guarded by mu
	bytes   int       // in queue or being written; guarded by mu
	ended   bool      // nobody writes any more; guarded by mu
}

// run carries the flow to its end and reports whether that was an orderly one: the sender closed its side, and the
// receiver was told.
func (f *flow) run() bool {
	reader := make(chan struct{})
	// Wakes both sides when the connection is given up.
	stop := context.AfterFunc(f.ctx, f.end)
	defer stop()
	go func() {
		defer close(reader)
		f.read()
	}()
	orderly := f.write()
	f.end()
	if !orderly {
		abort(f.from) // ends the read
	}
	<-reader
	return orderly
}

// end lets the reader go if it waits for room, and the writer if it waits for something to write.
func (f *flow) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.changed.Broadcast()
}

// read takes what the sender sends, as long as there is room.
func (f *flow) read() {
	buffer := make([]byte, 64<<10)
	for {
		n, err := f.from.Read(buffer)
		now := time.Now()
		var got []chunk
		if n > 0 {
			// A copy of its own size: a queue of small messages must not hold a large buffer each.
			got = append(got, chunk{bytes: append([]byte(nil), buffer[:n]...), due: f.path.schedule(f.shape, f.direction, now, n)})
		}
		if err != nil {
			got = append(got, chunk{err: err, due: f.path.schedule(f.shape, f.direction, now, 0)})
		}
		if !f.put(got, n) || err != nil {
			return
		}
	}
}

// put queues chunks of n bytes; then it waits until there is room for more. It reports whether anybody still writes.
func (f *flow) put(got []chunk, n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = append(f.queue, got...)
	f.bytes += n
	f.changed.Broadcast()
	for f.bytes >= Window && !f.ended {
		f.changed.Wait()
	}
	return !f.ended
}

// write hands each chunk on when it arrives. It reports whether the flow came to an orderly end.
func (f *flow) write() bool {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	var due []chunk
	for {
		first, ok := f.first()
		if !ok {
			return false
		}
		if wait := time.Until(first.due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-f.ctx.Done():
				return false
			}
		}
		// All that has arrived by now goes out in one call.
		due = f.take(due[:0], time.Now())
		var buffers net.Buffers
		total := 0
		var last error
		for _, c := range due {
			if c.err != nil {
				last = c.err
				break
			}
			buffers, total = append(buffers, c.bytes), total+len(c.bytes)
		}
		if total > 0 {
			if _, err := buffers.WriteTo(f.to); err != nil {
				return false
			}
			add(&f.path.bytes, total)
			f.written(total)
		}
		if last != nil {
			return errors.Is(last, io.EOF) && f.to.CloseWrite() == nil
		}
	}
}

// first waits for the chunk that arrives next and returns it without taking it.
func (f *flow) first() (chunk, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.queue) == 0 && !f.ended {
		f.changed.Wait()
	}
	if f.ended {
		return chunk{}, false
	}
	return f.queue[0], true
}

// take moves the chunks that have arrived to into.
func (f *flow) take(into []chunk, now time.Time) []chunk {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for n < len(f.queue) && !f.queue[n].due.After(now) {
		n++
	}
	n = max(n, 1) // the timer may be a hair early; the first one is due
	into = append(into, f.queue[:n]...)
	clear(f.queue[:n]) // lets go of the bytes
	f.queue = f.queue[n:]
	return into
}

// written makes room for n bytes.
func (f *flow) written(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes -= n
	f.changed.Broadcast()
}
