package layer1

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"tandem"
	"tandem/internal/ledger"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Rehearse replays a session that CheckTx has let in, on the last committed state, before a block asks for it, and keeps what
// the steps read and wrote. When a proposal holds the session and every read still finds the same, the writes are taken over
// and no handler runs: Equal steps on equal states give equal results (exec.Runner.Run). So a block costs its validators
// little in the time that others wait for them, and on a machine with many processors its sessions have run side by side.
//
// It decides nothing. A replay that fails, takes too long or gives another response than the recorded one is forgotten, and the
// block's own replay says what is wrong. Signatures, keys, expiry and the session's place in the ledger are checked in the
// block as ever, on the block's state; only the handlers are spared. A session that is looked at because a proposal failed
// (blame) is replayed anew each time.
//
// The caller chooses goroutine and time. Safe for concurrent use with everything else.
func (a *App) Rehearse(tx []byte) {
	if a.store.Fresh() {
		return
	}
	r := a.rules.Rehearsals.begin(wire.Sum(tx))
	if r == nil {
		return
	}
	defer close(r.done)
	defer func() {
		if p := recover(); p != nil { // the block's own check will meet it too, and refuses
			a.logger.Error("panic while rehearsing a transaction; this is a fault of Tandem", "panic", p, "transaction", wire.Sum(tx))
		}
	}()
	height, _, blockTime := a.store.Version()
	view := a.store.Latest()
	in, err := inspect(a.rules, view, Slot{Height: height + 1, Time: blockTime}, tx, true)
	if err != nil {
		return
	}
	ctx, cancel := limited(context.Background(), a.watchdog, errSessionTime)
	defer cancel()
	base := &recorder{Reader: view, known: map[string]bool{}}
	o := state.NewOverlay(base)
	ran, err := runSteps(ctx, a.rules, o, in)
	if err != nil || base.size > maxRehearsalReads {
		a.logger.Debug("rehearsal of no use", "transaction", in.hash, "error", err, "bytes", base.size)
		return
	}
	ran.changes, ran.reads = o.Changes(), base.reads
	r.result = ran
}

const (
	// maxRehearsals is how many rehearsals are kept; the oldest are forgotten first.
	maxRehearsals = 2048
	// maxRehearsalReads is how many bytes of keys and values one rehearsal may have read to be kept.
	maxRehearsalReads = 256 << 10
)

// Rehearsals remembers what sessions did when they were replayed ahead of their block, by transaction hash. It changes no
// result. It is safe for concurrent use; nil remembers nothing.
type Rehearsals struct {
	mu    sync.Mutex
	byTx  map[wire.Digest]*rehearsal // guarded by mu
	order []wire.Digest              // oldest first; may hold what byTx holds no more; guarded by mu
}

// NewRehearsals returns an empty memory.
func NewRehearsals() *Rehearsals { return &Rehearsals{byTx: map[wire.Digest]*rehearsal{}} }

// rehearsal is one replay, perhaps still going on.
type rehearsal struct {
	done   chan struct{} // closed when result is final
	result *ranSteps     // nil: of no use
}

// ranSteps is what running a session's steps did, and all that it depended on beside the transaction and the service.
type ranSteps struct {
	actor             tandem.Actor
	params            ledger.Parameters
	reads             []recordedRead
	changes           []state.Change // sorted; not to be changed
	operations, bytes uint64
}

// begin returns a rehearsal for its caller to finish, or nil if there is one, or a block was faster.
func (m *Rehearsals) begin(tx wire.Digest) *rehearsal {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := m.byTx[tx]; there {
		return nil
	}
	r := &rehearsal{done: make(chan struct{})}
	m.add(tx, r)
	return r
}

// add requires mu.
func (m *Rehearsals) add(tx wire.Digest, r *rehearsal) {
	m.byTx[tx] = r
	m.order = append(m.order, tx)
	for len(m.order) > maxRehearsals {
		delete(m.byTx, m.order[0])
		m.order = m.order[1:]
	}
}

// take returns what a rehearsal gave, waiting for one that is going on, or nil. Of a transaction that has none it notes that it
// is too late for one.
func (m *Rehearsals) take(ctx context.Context, tx wire.Digest) *ranSteps {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	r, there := m.byTx[tx]
	if !there {
		r = &rehearsal{done: make(chan struct{})}
		close(r.done)
		m.add(tx, r)
	}
	m.mu.Unlock()
	select {
	case <-r.done:
		return r.result
	case <-ctx.Done():
		return nil
	}
}

// forget drops transactions that a block has settled.
func (m *Rehearsals) forget(txs []wire.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, tx := range txs {
		delete(m.byTx, tx)
	}
}

// holds reports whether running the steps of in on o would do the same again.
func (s *ranSteps) holds(o state.Reader, in *inspected) (bool, error) {
	if s.params != in.params || s.actor.ID != in.actor.ID || s.actor.Organisation != in.actor.Organisation || !slices.Equal(s.actor.Roles, in.actor.Roles) {
		return false, nil
	}
	for _, r := range s.reads {
		if same, err := r.same(o); !same || err != nil {
			return false, err
		}
	}
	return true, nil
}

// apply writes what the steps wrote.
func (s *ranSteps) apply(o *state.Overlay) {
	for _, c := range s.changes {
		if c.Delete {
			o.Delete(c.Key)
		} else {
			o.Set(c.Key, c.Value)
		}
	}
}

// recordedRead is a read with what it found: one key, or a range up to where the reader stopped.
type recordedRead struct {
	scan       bool
	start, end []byte // of a key only start
	found      []state.Entry
	whole      bool // of a range: the reader came to its end
}

// same reports whether the read finds the same in o.
func (r *recordedRead) same(o state.Reader) (bool, error) {
	if !r.scan {
		value, ok, err := o.Get(r.start)
		if err != nil || ok != (len(r.found) == 1) {
			return false, err
		}
		return !ok || bytes.Equal(value, r.found[0].Value), nil
	}
	n := 0
	for e, err := range o.Scan(r.start, r.end) {
		if err != nil {
			return false, err
		}
		if n == len(r.found) || !bytes.Equal(e.Key, r.found[n].Key) || !bytes.Equal(e.Value, r.found[n].Value) {
			return false, nil
		}
		if n++; n == len(r.found) && !r.whole {
			return true, nil
		}
	}
	return n == len(r.found), nil
}

// recorder notes what is read of the state under it. It is owned by one goroutine.
type recorder struct {
	state.Reader
	known map[string]bool // keys that reads has
	reads []recordedRead
	size  int // bytes in reads
}

// Get implements [state.Reader].
func (r *recorder) Get(key []byte) ([]byte, bool, error) {
	value, ok, err := r.Reader.Get(key)
	if err == nil && !r.known[string(key)] {
		r.known[string(key)] = true
		read := recordedRead{start: bytes.Clone(key)}
		if ok {
			read.found = []state.Entry{{Value: bytes.Clone(value)}}
		}
		r.note(read, len(key)+len(value))
	}
	return value, ok, err
}

// note keeps a read unless there are too many to be of use.
func (r *recorder) note(read recordedRead, size int) {
	if r.size += size; r.size <= maxRehearsalReads {
		r.reads = append(r.reads, read)
	}
}

// Scan implements [state.Reader].
func (r *recorder) Scan(start, end []byte) iter.Seq2[state.Entry, error] {
	return func(yield func(state.Entry, error) bool) {
		read := recordedRead{scan: true, start: bytes.Clone(start), end: bytes.Clone(end)}
		size := len(start) + len(end)
		defer func() { r.note(read, size) }()
		for e, err := range r.Reader.Scan(start, end) {
			if err == nil && r.size+size <= maxRehearsalReads {
				read.found = append(read.found, state.Entry{Key: bytes.Clone(e.Key), Value: bytes.Clone(e.Value)})
			}
			size += len(e.Key) + len(e.Value)
			if !yield(e, err) {
				return
			}
		}
		read.whole = true
	}
}

// steps does what running the session's steps on o does: by a rehearsal whose reads hold on o, otherwise by running them.
func steps(ctx context.Context, rules Rules, o *state.Overlay, in *inspected) (*ranSteps, error) {
	if ran := rules.Rehearsals.take(ctx, in.hash); ran != nil {
		same, err := ran.holds(o, in)
		if err != nil {
			return nil, fmt.Errorf("layer1: session %s: %w", in.id, err)
		}
		if same {
			ran.apply(o)
			return ran, nil
		}
	}
	return runSteps(ctx, rules, o, in)
}
