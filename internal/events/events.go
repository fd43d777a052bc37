// Package events is what a node tells of itself while it runs: blocks, changes of sessions, conflicts, changes of the
// node. A Log keeps the newest events in memory, each under an id; readers go through it, each with a cursor of its own.
//
// Publishing never waits for a reader: a reader is not written to, it reads, and one that is too slow finds that what it
// wanted to read next is gone (ErrGap). So a slow reader costs nobody else anything, and is told the truth.
//
// An id names a node, a run of that node and a number within the run. Whoever has read up to an id and comes back with
// it reads on behind it, without gap or duplicate, as long as the log still holds what follows. If it does not (too long
// ago, the node was restarted, another node), the reader is told that there is a gap, and it then reads the state anew.
package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Kind says what an event is about.
type Kind string

// The kinds; docs/format/events.md describes the data of each.
const (
	Block    Kind = "block"    // a block was committed
	Session  Kind = "session"  // a session was opened, or its state changed
	Conflict Kind = "conflict" // a session was overtaken: by whom, which keys, old and new response
	Node     Kind = "node"     // this node, or another Layer 2 node as this one sees it
	Gap      Kind = "gap"      // events may be missing before this one; never in the log, made for a reader
)

// Kinds are the kinds that are published, sorted.
func Kinds() []Kind { return []Kind{Block, Conflict, Node, Session} }

// Event is one thing that happened.
type Event struct {
	ID      ID // given by Publish
	Kind    Kind
	Session string // id of the session that it is about; empty if none
	Actor   string // id of the actor whose session it is; empty if none
	Data    json.RawMessage
}

// ID is an event's place: ids of one node are in the order of its events, also over restarts.
type ID struct {
	Node  string // 8 hex digits that name the node
	Epoch uint64 // which run of the node; later runs have higher ones
	N     uint64 // counts from 1 within a run; 0 is before the first
}

// String is the id's one text form: node, epoch and number, joined by dots.
func (id ID) String() string {
	return id.Node + "." + strconv.FormatUint(id.Epoch, 10) + "." + strconv.FormatUint(id.N, 10)
}

// ParseID reads what String writes, and nothing else.
func ParseID(text string) (ID, error) {
	parts := strings.Split(text, ".")
	if len(text) > 64 || len(parts) != 3 || !validNode(parts[0]) {
		return ID{}, fmt.Errorf("%.64q is no event id", text)
	}
	epoch, err1 := strconv.ParseUint(parts[1], 10, 64)
	n, err2 := strconv.ParseUint(parts[2], 10, 64)
	id := ID{parts[0], epoch, n}
	if err1 != nil || err2 != nil || id.String() != text {
		return ID{}, fmt.Errorf("%.64q is no event id", text)
	}
	return id, nil
}

func validNode(s string) bool {
	return len(s) == 8 && strings.Trim(s, "0123456789abcdef") == ""
}

// Filter chooses events. An empty field lets all through; the fields are joined by and.
type Filter struct {
	Session string
	Actor   string
	Kinds   []Kind
}

// Match reports whether the filter lets an event through.
func (f *Filter) Match(e *Event) bool {
	return (f.Session == "" || f.Session == e.Session) && (f.Actor == "" || f.Actor == e.Actor) &&
		(len(f.Kinds) == 0 || slices.Contains(f.Kinds, e.Kind))
}

// Options configure New.
type Options struct {
	// Node names the node: 8 hex digits, such as the first of its public key.
	Node string
	// Epoch must be higher in each run than in the one before; see NextEpoch.
	Epoch uint64
	// Keep is how many events stay at most, and KeepBytes how many bytes of data. Defaults 8,192 and 16 MiB.
	Keep      int
	KeepBytes int
}

// Log keeps the newest events. All methods are safe for concurrent use.
type Log struct {
	node      string
	epoch     uint64
	keepBytes int

	mu       sync.Mutex
	ring     []Event // ring[n%len(ring)] is the event with number n, for oldest <= n <= newest
	oldest   uint64  // number of the oldest event kept; newest+1 if there is none
	newest   uint64  // 0: none yet
	bytes    int
	closed   bool
	advanced chan struct{} // closed and replaced at every event; closed for good at the end
}

// New returns an empty log. It panics if Node is not 8 hex digits: a mistake of the program.
func New(o Options) *Log {
	if !validNode(o.Node) {
		panic(fmt.Sprintf("events: node %q", o.Node))
	}
	if o.Keep <= 0 {
		o.Keep = 8192
	}
	if o.KeepBytes <= 0 {
		o.KeepBytes = 16 << 20
	}
	return &Log{node: o.Node, epoch: o.Epoch, keepBytes: o.KeepBytes, ring: make([]Event, o.Keep), oldest: 1, advanced: make(chan struct{})}
}

// Publish appends an event and gives it its id. It never waits. After Close it does nothing.
func (l *Log) Publish(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	for l.oldest <= l.newest && (l.newest-l.oldest+1 >= uint64(len(l.ring)) || l.bytes+len(e.Data) > l.keepBytes) {
		l.drop()
	}
	l.newest++
	e.ID = l.id(l.newest)
	l.ring[l.newest%uint64(len(l.ring))] = e
	l.bytes += len(e.Data)
	close(l.advanced)
	l.advanced = make(chan struct{})
}

func (l *Log) drop() {
	at := &l.ring[l.oldest%uint64(len(l.ring))]
	l.bytes -= len(at.Data)
	*at = Event{}
	l.oldest++
}

func (l *Log) id(n uint64) ID { return ID{l.node, l.epoch, n} }

// Close ends all readers once they have read what is there.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.advanced)
	}
}

// Errors of Reader.Next.
var (
	// ErrGap says that events which the reader has not seen are not kept any more.
	ErrGap = errors.New("events: the events that follow are not kept any more")
	// ErrClosed says that the node stops.
	ErrClosed = errors.New("events: the log is closed")
)

// Reader is one reader's place in the log. It costs nothing while nobody calls Next, and needs no closing. It is for one
// goroutine.
type Reader struct {
	log    *Log
	filter Filter
	next   uint64 // number of the next event to look at
}

// Read returns a reader of the events from now on.
func (l *Log) Read(f Filter) *Reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &Reader{log: l, filter: f, next: l.newest + 1}
}

// ReadKept returns a reader of everything that is kept, and of what follows.
func (l *Log) ReadKept(f Filter) *Reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &Reader{log: l, filter: f, next: l.oldest}
}

// ReadAfter returns a reader of the events after id. gap says that events between id and the reader's first may be
// missing: id is of another node or another run, or what follows it is not kept any more. The reader then begins with the
// oldest event kept.
func (l *Log) ReadAfter(f Filter, id ID) (r *Reader, gap bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id.Node != l.node || id.Epoch != l.epoch || id.N+1 < l.oldest || id.N > l.newest {
		return &Reader{log: l, filter: f, next: l.oldest}, true
	}
	return &Reader{log: l, filter: f, next: id.N + 1}, false
}

// Cursor is the id up to which the reader has looked, also at events that its filter kept from it. Whoever comes back
// with it misses nothing.
func (r *Reader) Cursor() ID { return ID{r.log.node, r.log.epoch, r.next - 1} }

// maxLook bounds the events that one call looks at under the log's lock.
const maxLook = 512

// Next waits until there are events for this reader, or ctx ends, and returns them in order, at least one and at most 512.
// Errors: ctx's; ErrGap, after which the reader stands at the oldest event kept; ErrClosed.
func (r *Reader) Next(ctx context.Context) ([]Event, error) {
	for {
		found, advanced, err := r.look()
		if len(found) > 0 || err != nil {
			return found, err
		}
		if advanced == nil {
			continue // there is more to look at
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// look looks at the next events. advanced is nil if there are more.
func (r *Reader) look() (found []Event, advanced <-chan struct{}, err error) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.next < l.oldest {
		r.next = l.oldest
		return nil, nil, ErrGap
	}
	for n := 0; r.next <= l.newest; r.next++ {
		if n++; n > maxLook {
			return found, nil, nil
		}
		if e := &l.ring[r.next%uint64(len(l.ring))]; r.filter.Match(e) {
			found = append(found, *e)
		}
	}
	if l.closed && len(found) == 0 {
		return nil, nil, ErrClosed
	}
	return found, l.advanced, nil
}
