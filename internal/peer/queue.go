package peer

import "sync"

// queue holds the messages that wait for one peer. Closed, it refuses; it is opened when a connection is made.
type queue struct {
	mu    sync.Mutex // guards the fields below
	open  bool
	items [][]byte
	bytes int
	ready chan struct{} // holds a token when items are there
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

func (q *queue) put(message []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case !q.open:
		return ErrDown
	case len(q.items) >= MaxQueued || q.bytes+len(message) > MaxQueuedBytes:
		return ErrBusy
	}
	q.items = append(q.items, message)
	q.bytes += len(message)
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return nil
}

// take empties the queue.
func (q *queue) take() [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items, q.bytes = nil, 0
	return items
}

// set opens or closes the queue; whatever waits belongs to an older connection and is dropped.
func (q *queue) set(open bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open, q.items, q.bytes = open, nil, 0
}

func (q *queue) state() (open bool, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.open, len(q.items)
}
