// Package layer2 is the session engine: it owns the sessions of a Layer 2 node and drives session (the rules), exec (the
// handlers), the journal (the disk) and Layer 1 (the ledger).
//
// One goroutine at a time owns one session, for as long as the session has work (owner.go). The way of a step: Step verifies the
// user's signature and hands over to the owner; session.Machine decides whether the request stands at the session's
// next position; refresh puts the session onto the newest state; exec runs the handler on a child overlay; register enters
// what it read into the index of reads, and notices a block that came in between; the journal writes and syncs the step
// together with those of other sessions; only then is it answered (step.go). The way of a commit: the session is run again on
// the newest state, the commit is written, then submitted, and submitted again until a block settles it (commit.go).
//
// When a block arrives, the index says which sessions have read what it changed; only those are run again (replay.go). A
// session that then answers otherwise is conflicted, or its handler is not deterministic, and the two are told apart by
// what its steps asked of the state and were told (question.go).
//
// What the node would not survive, it does not survive: when the journal cannot be written or the ledger contradicts
// itself, the engine stops answering and asks the node to halt.
package layer2

import (
	"container/heap"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Engine owns the sessions of this node. All methods are safe for concurrent use; errors that a client should see are
// *refusal.Refusal.
type Engine struct {
	o       Options
	self    wire.PublicKey
	policy  atomic.Pointer[session.Policy]
	cluster *cluster
	custody map[wire.PublicKey]custodian
	journal *journal

	ctx      context.Context // ends when the engine stops; handlers and submissions run under it
	cancel   context.CancelFunc
	stopping chan struct{} // closed when the engine begins to stop
	closing  atomic.Bool
	inFlight atomic.Int64
	places   places
	owners   latch         // owner and submission goroutines
	ticking  chan struct{} // closed when the ticker goroutine has ended
	halting  sync.Once
	params   atomic.Pointer[ledger.Parameters]
	numbers  atomic.Uint64 // of ended sessions, the last one given
	kept     atomic.Int64  // ended sessions on disk
	previews atomic.Int64  // being worked on
	charges  atomic.Int64  // of accusers, being judged
	counts   counts
	late     atomic.Int64 // a height that OnBlock did not tell of in time; see newest

	mu       sync.Mutex // guards what follows; nothing is done under it but memory
	sessions map[wire.SessionID]*owner
	commits  map[*owner]struct{} // committing
	expiring expiries
	index    *index
	hints    *hintIndex // has a lock of its own
	ring     ring
	height   int64 // newest block told by OnBlock, or the ledger's height at the start
	time     int64
	advanced chan struct{} // closed and replaced at every block
	accused  accusations
}

type counts struct {
	steps, reexecuted, conflicts, faults, submitted, shed atomic.Uint64
	replicated, dissents, malformed                       atomic.Uint64
}

// Open opens (or creates) the log in dir, recovers every session that has not ended by running its steps again on the
// newest state, and starts the engine. A session that answers otherwise now is conflicted from the start. A damaged log is a
// *Damage, whose text says which record of which session is damaged and what to do; nothing is skipped or shortened.
func Open(dir string, o Options) (*Engine, error) {
	o = o.withDefaults()
	e := &Engine{
		o: o, self: wire.PublicKeyOf(o.Key),
		custody:  map[wire.PublicKey]custodian{},
		stopping: make(chan struct{}), ticking: make(chan struct{}),
		sessions: map[wire.SessionID]*owner{}, commits: map[*owner]struct{}{}, index: newIndex(), hints: newHintIndex(),
		advanced: make(chan struct{}),
	}
	e.owners.init()
	e.places.open(o, e.crowded)
	e.cluster = newCluster(e)
	for actor, key := range o.Custody {
		e.custody[wire.PublicKeyOf(key)] = custodian{actor, key}
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	j, err := openJournal(dir, o.FS, o.Logger, e.halt)
	if err != nil {
		e.cancel()
		return nil, err
	}
	e.journal = j
	err = e.setNodes()
	if err == nil {
		err = e.recover(dir)
	}
	if err != nil {
		e.cancel()
		e.owners.closeAndWait(time.Second)
		return nil, errors.Join(err, j.close())
	}
	go e.tick()
	e.cluster.start()
	return e, nil
}

func (o Options) withDefaults() Options {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil {
		o.FS = prewritten{vfs.Default, logSize}
	}
	if o.Halt == nil {
		logger := o.Logger
		o.Halt = func(err error) { logger.Error("the session engine has stopped", "error", err) }
	}
	def(&o.SessionLife, 15*time.Minute)
	def(&o.MaxOpen, 20_000)
	def(&o.MaxInFlight, 1024)
	def(&o.MaxWorking, defaultWorking())
	def(&o.MaxWait, 25*time.Millisecond)
	def(&o.MaxQueue, 64)
	def(&o.RetainEnded, 100_000)
	def(&o.ResubmitBlocks, 3)
	def(&o.ResubmitEvery, 2*time.Second)
	def(&o.Need, 2)
	def(&o.Wait, 50*time.Millisecond)
	return o
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Run blocks until ctx is done, then closes the engine.
func (e *Engine) Run(ctx context.Context) error {
	<-ctx.Done()
	return e.Close()
}

// drain is how long Close lets requests in flight finish before it cuts handlers off.
const drain = 600 * time.Millisecond

// Close stops taking requests, lets those in flight finish and closes the log; it takes at most about a second. Commits
// that wait are answered with committing. It may be called more than once.
func (e *Engine) Close() error {
	if e.closing.Swap(true) {
		<-e.ticking
		return e.journal.close()
	}
	close(e.stopping)
	e.owners.quiet(drain)
	e.cancel()
	e.owners.closeAndWait(300 * time.Millisecond)
	<-e.ticking
	e.cluster.wait()
	return e.journal.close()
}

// enter counts a request in, or refuses it.
func (e *Engine) enter() (leave func(), err error) {
	if e.closing.Load() {
		return nil, shuttingDown()
	}
	if e.inFlight.Add(1) > int64(e.o.MaxInFlight) {
		e.inFlight.Add(-1)
		e.counts.shed.Add(1)
		return nil, refusal.New(refusal.Overloaded, "%d requests are being worked on already", e.o.MaxInFlight).With("retry_after_seconds", 1)
	}
	return func() { e.inFlight.Add(-1) }, nil
}

func shuttingDown() *refusal.Refusal {
	return refusal.New(refusal.ShuttingDown, "the session engine is stopping").With("retry_after_seconds", 1)
}

func (e *Engine) now() int64 { return e.o.Clock().UnixMilli() }

// find returns the session's owner: from memory, or read back from disk if it has ended.
func (e *Engine) find(id wire.SessionID) (*owner, error) {
	e.mu.Lock()
	o := e.sessions[id]
	e.mu.Unlock()
	if o != nil {
		return o, nil
	}
	l, ok, err := e.load(id)
	if err != nil {
		return nil, e.diskRefusal(err)
	}
	if !ok {
		return nil, refusal.New(refusal.SessionNotFound, "this node has no session %s", id).With("session", id.String())
	}
	if !l.machine.State().Ended() { // it came into memory meanwhile: it was just opened
		e.mu.Lock()
		defer e.mu.Unlock()
		if o := e.sessions[id]; o != nil {
			return o, nil
		}
		return nil, refusal.New(refusal.SessionBusy, "the session is just being opened or closed").With("session", id.String())
	}
	o = e.owner(id, l)
	if s := o.machine.State(); s == session.Conflicted || s == session.Abandoned {
		// Layer 1 outranks what this node thought: a block may have settled the session while the node was down.
		if v, err := e.o.Ledger.View(); err == nil {
			o.inView(v)
		}
	}
	return o, nil
}

// owner makes the owner of a loaded session.
func (e *Engine) owner(id wire.SessionID, l *loaded) *owner {
	o := &owner{
		e: e, id: id, open: l.open, body: l.body, actor: l.actor, openHeight: l.height, openTime: l.time, place: -1,
		machine: l.machine, base: l.newest, newest: l.newest, asked: l.asked, askedTo: l.askedTo, size: l.unsettledSize(),
		commit: l.commit, fault: l.fault, conflict: l.conflict, ended: l.end, votes: l.votes, policy: l.policy, leaving: l.leaving,
		tip: tip{l.machine.Len(), l.machine.Head()}, kept: kept{l.machine.Len(), l.machine.Variants()},
	}
	for _, key := range l.machine.Originators() {
		o.signers.add(key)
	}
	o.restoreCheckpoint(l)
	return o
}

// register is the one moment in which a step's reads and the blocks meet; see the argument in replay.go. It returns false
// if the step, or the session, has to be run again. known are the reads that are in the index already; with replace, set
// takes the place of everything there.
func (e *Engine) register(o *owner, set, known *state.ReadSet, replace bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !replace && o.dirty || e.ring.met(set, o.base, e.height) {
		return false
	}
	if replace {
		e.index.drop(o)
	}
	e.index.add(o, set, known)
	return true
}

func (e *Engine) takeDirty(o *owner) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	was := o.dirty
	o.dirty = false
	return was
}

func (e *Engine) setDirty(o *owner) {
	e.mu.Lock()
	o.dirty = true
	e.mu.Unlock()
}

// newest returns the newest state, once OnBlock has told of the block that made it.
func (e *Engine) newest() (*state.View, error) {
	v, err := e.o.Ledger.View()
	if err != nil {
		return nil, e.stateRefusal(err)
	}
	e.mu.Lock()
	behind, advanced := v.Height() > e.height, e.advanced
	e.mu.Unlock()
	if !behind || v.Height() <= e.late.Load() {
		return v, nil
	}
	patience := time.NewTimer(250 * time.Millisecond)
	defer patience.Stop()
	for behind {
		select {
		case <-advanced:
		case <-patience.C:
			e.late.Store(v.Height())
			return v, nil
		case <-e.ctx.Done():
			return nil, shuttingDown()
		}
		e.mu.Lock()
		behind, advanced = v.Height() > e.height, e.advanced
		e.mu.Unlock()
	}
	return v, nil
}

// parameters returns the ledger's parameters, which never change.
func (e *Engine) parameters() (ledger.Parameters, error) {
	if p := e.params.Load(); p != nil {
		return *p, nil
	}
	v, err := e.o.Ledger.View()
	if err != nil {
		return ledger.Parameters{}, e.stateRefusal(err)
	}
	p, err := ledger.ParametersOf(v)
	if err != nil {
		if v.Height() == 0 {
			return ledger.Parameters{}, refusal.New(refusal.Layer1Unavailable, "this node's ledger has no block yet").With("retry_after_seconds", 1)
		}
		return ledger.Parameters{}, e.stateRefusal(err)
	}
	e.params.Store(&p)
	return p, nil
}

func (e *Engine) wrongFingerprint(session wire.Digest) *refusal.Refusal {
	mine := e.o.Runner.Fingerprint()
	r := refusal.New(refusal.WrongFingerprint, "the session was opened for other service code than this node runs").
		With("fingerprint", mine.String()).With("session_fingerprint", session.String())
	if p, err := e.parameters(); err == nil {
		r = r.With("ledger_fingerprint", p.Fingerprint.String())
		if p.Fingerprint != mine {
			r.Detail = "this node runs other service code than the ledger's"
		}
	}
	return r
}

// OnBlock tells the engine of a committed block. The node calls it in block order, after the state shows the block; it
// does not wait for sessions. A block told twice is ignored. If blocks were left out, every session is run again.
func (e *Engine) OnBlock(b Block) {
	e.mu.Lock()
	if b.Height <= e.height || e.closing.Load() {
		e.mu.Unlock()
		return
	}
	if slices.ContainsFunc(b.Changes, func(c state.Change) bool { return ledger.IsLayer2(c.Key) }) {
		defer e.nodesChanged()
	}
	gap := e.height > 0 && b.Height != e.height+1
	e.ring.add(b)
	e.height, e.time = b.Height, b.Time
	settled := make([]*owner, len(b.Sessions))
	for i, s := range b.Sessions {
		if settled[i] = e.sessions[s.ID]; settled[i] != nil {
			settled[i].dirty = true // a part of it is in the state now
		}
	}
	touched := e.index.touched(b.Changes)
	if gap {
		for _, o := range e.sessions {
			touched[o] = struct{}{}
		}
	}
	for o := range touched {
		o.dirty = true
	}
	expired := e.expiring.before(b.Time)
	var committing []*owner
	for o := range e.commits {
		committing = append(committing, o)
	}
	close(e.advanced)
	e.advanced = make(chan struct{})
	provable := e.accused.provable(b.Height)
	e.mu.Unlock()

	for _, prove := range provable {
		prove()
	}
	for i, s := range b.Sessions {
		e.settle(settled[i], s, b)
	}
	for o := range touched {
		_ = o.post(false, o.recheck)
	}
	for _, o := range expired {
		_ = o.post(false, func() { o.expire(b.Time) })
	}
	for _, o := range committing {
		_ = o.post(false, o.resubmit)
	}
}

// settle passes a settled session on to its owner, if this node has it, also if it had ended otherwise here.
func (e *Engine) settle(o *owner, s Settled, b Block) {
	if o == nil {
		if _, ended, err := e.journal.get(keyPart(s.ID, partEnd)); err != nil || !ended {
			e.noteElsewhere(s, b.Height)
			return
		}
		var err error
		if o, err = e.find(s.ID); err != nil {
			return
		}
	}
	_ = o.post(false, func() {
		o.settle(s, b.Height, b.Time)
		if !s.Final {
			o.rebase()
		}
	})
}

// recheck runs a session that a block has touched again.
func (o *owner) recheck() {
	if o.refused != nil || o.machine.State().Ended() || o.machine.Len() == 0 {
		return
	}
	e := o.e
	e.mu.Lock()
	dirty := o.dirty
	e.mu.Unlock()
	if !dirty {
		return
	}
	if err := o.refresh(false); err != nil {
		e.o.Logger.Debug("session run again", "session", o.id, "result", err)
	}
}

// expire tells the session the time of a block that does not hold it.
func (o *owner) expire(time int64) {
	if o.refused == nil {
		_, _ = o.do(o.machine.Step(session.BlockTime{Time: time}), o.payload)
	}
}

// finished takes an ended session out of memory.
func (e *Engine) finished(o *owner) {
	e.mu.Lock()
	e.index.drop(o)
	if e.sessions[o.id] == o {
		delete(e.sessions, o.id)
	}
	delete(e.commits, o)
	e.expiring.remove(o)
	e.mu.Unlock()
	e.hints.drop(o)
}

func (e *Engine) committing(o *owner) {
	e.mu.Lock()
	e.commits[o] = struct{}{}
	e.mu.Unlock()
}

func (e *Engine) uncommitting(o *owner) {
	e.mu.Lock()
	delete(e.commits, o)
	e.mu.Unlock()
}

// tick is the engine's ticker goroutine: it has commits submitted again when no block comes to say so, and lets go of the
// oldest ended sessions.
func (e *Engine) tick() {
	defer close(e.ticking)
	t := time.NewTicker(max(e.o.ResubmitEvery/4, 50*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-e.stopping:
			return
		case <-t.C:
			e.mu.Lock()
			var committing []*owner
			for o := range e.commits {
				committing = append(committing, o)
			}
			e.mu.Unlock()
			for _, o := range committing {
				_ = o.post(false, o.resubmit)
			}
			e.checkpointsDue()
			e.prune()
			if err := e.journal.flush(); err != nil && !errors.Is(err, errClosed) {
				e.o.Logger.Error("endorsements not written", "error", err)
			}
		}
	}
}

// WaitHeight returns nil once the newest block the engine knows is at least height; on ctx's end a height-not-reached
// refusal. It serves Tandem-Min-Height: read your writes.
func (e *Engine) WaitHeight(ctx context.Context, height int64) error {
	for {
		e.mu.Lock()
		at, advanced := e.height, e.advanced
		e.mu.Unlock()
		if at >= height {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return refusal.New(refusal.HeightNotReached, "this node is at height %d, not yet at %d", at, height).
				With("height", at).With("retry_after_seconds", 1)
		case <-e.stopping:
			return shuttingDown()
		}
	}
}

// crowded reports whether many sessions are open.
func (e *Engine) crowded() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.sessions) > crowdPerProcessor*runtime.GOMAXPROCS(0)
}

// Height returns the newest block the engine knows.
func (e *Engine) Height() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.height
}

// SignAnswer sets the headers of an answer whose body the HTTP layer makes (a commit's outcome, a status): Tandem-*,
// Content-Digest and the node's signature. Of a it uses Session, Sequence, Transcript, Height and Time.
func (e *Engine) SignAnswer(h http.Header, status int, body []byte, a Answer) {
	httpsig.SignAnswer(e.o.Key, a.Time/1000, httpsig.Answer{
		Status: status, Body: wire.Sum(body), Session: a.Session, Sequence: a.Sequence, Transcript: a.Transcript,
		Height: a.Height, Time: a.Time, Originator: e.self,
	}, h)
	h.Set(HeaderFingerprint, e.o.Runner.Fingerprint().String())
}

// The headers of an answer that its signature does not cover.
const (
	HeaderEndorsements = "Tandem-Endorsements" // "k/n"
	HeaderFingerprint  = "Tandem-Fingerprint"  // hex, of the service this node runs
)

// signed gives an answer its headers. The signature's created is the step's time, so that a retry gets the same bytes.
func (e *Engine) signed(a *Answer, err error) (*Answer, error) {
	if err != nil {
		return nil, err
	}
	a.Signed = make(http.Header, 12+len(a.Headers))
	for _, h := range a.Headers {
		a.Signed.Set(h.Name, h.Value)
	}
	if a.Recorded {
		httpsig.SetAnswer(a.seen(), a.Seal, a.Signed)
		a.Signed.Set(HeaderFingerprint, e.o.Runner.Fingerprint().String())
		httpsig.SetEndorsements(a.Signed, a.Endorsers)
		a.Signed.Set(HeaderEndorsements, fmt.Sprintf("%d/%d", a.Endorsements, a.Of))
	}
	if !a.Recorded {
		e.SignAnswer(a.Signed, a.Status, a.Body, *a)
	}
	if len(a.Hints) > 0 {
		a.Signed.Set(HeaderHint, hintHeader(a.Hints))
	}
	return a, nil
}

// Stats are counts for /metrics and the status page.
type Stats struct {
	Open, Committing int   // sessions
	InFlight         int   // requests being worked on
	Height           int64 // newest block known
	Steps            uint64
	Reexecuted       uint64 // sessions run again: touched by a block, or before their commit
	Conflicts        uint64
	Faults           uint64 // sessions that cannot be committed although nobody overtook them
	Submitted        uint64
	Shed             uint64 // refused as overloaded
}

// Stats returns the counts now.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return Stats{
		Open: len(e.sessions) - len(e.commits), Committing: len(e.commits), InFlight: int(e.inFlight.Load()), Height: e.height,
		Steps: e.counts.steps.Load(), Reexecuted: e.counts.reexecuted.Load(), Conflicts: e.counts.conflicts.Load(),
		Faults: e.counts.faults.Load(), Submitted: e.counts.submitted.Load(), Shed: e.counts.shed.Load(),
	}
}

// haltError says why the node has to stop.
type haltError struct {
	session wire.SessionID
	reason  string
}

func (e *haltError) Error() string { return fmt.Sprintf("session %s: %s", e.session, e.reason) }

// halt asks the node to stop, once.
func (e *Engine) halt(err error) {
	e.halting.Do(func() { go e.o.Halt(err) })
}

// diskRefusal is what a request gets when the journal fails or is damaged. A damaged record is told in words to the
// operator; the node goes on for other sessions, since each record stands for itself.
func (e *Engine) diskRefusal(err error) *refusal.Refusal {
	if errors.Is(err, errClosed) {
		return shuttingDown()
	}
	var rec *recordError
	if errors.As(err, &rec) {
		d := &Damage{Dir: "this node's session log", What: rec.what, Remedy: remedy}
		e.o.Logger.Error("session log damaged", "record", rec.what, "remedy", remedy)
		return refusal.New(refusal.Internal, "%s", d.Error())
	}
	e.o.Logger.Error("session log failed", "error", err)
	return refusal.New(refusal.Internal, "this node cannot read or write its session log and stops; the step was not acknowledged. Go on at another node")
}

// stateRefusal is what a request gets when the node's own copy of the ledger's state cannot be read.
func (e *Engine) stateRefusal(err error) *refusal.Refusal {
	if r, ok := refusal.As(err); ok {
		return r
	}
	e.o.Logger.Error("state cannot be read", "error", err)
	if errors.Is(err, state.ErrDamaged) {
		e.halt(fmt.Errorf("the ledger's state is damaged: %w", err))
	}
	return refusal.New(refusal.Internal, "this node cannot read its copy of the ledger's state").With("retry_after_seconds", 1)
}

// expiries is a heap of sessions by expires_at.
type expiries []*owner

func (x expiries) Len() int           { return len(x) }
func (x expiries) Less(i, j int) bool { return x[i].body.ExpiresAt < x[j].body.ExpiresAt }
func (x expiries) Swap(i, j int) {
	x[i], x[j] = x[j], x[i]
	x[i].place, x[j].place = i, j
}

// Push implements heap.Interface.
func (x *expiries) Push(v any) {
	o := v.(*owner)
	o.place = len(*x)
	*x = append(*x, o)
}

// Pop implements heap.Interface.
func (x *expiries) Pop() any {
	last := len(*x) - 1
	o := (*x)[last]
	(*x)[last] = nil
	*x = (*x)[:last]
	o.place = -1
	return o
}

// before removes and returns the sessions that a block with this time expires.
func (x *expiries) before(time int64) []*owner {
	var out []*owner
	for len(*x) > 0 && (*x)[0].body.ExpiresAt < time {
		out = append(out, heap.Pop(x).(*owner))
	}
	return out
}

func (x *expiries) remove(o *owner) {
	if o.place >= 0 && o.place < len(*x) && (*x)[o.place] == o {
		heap.Remove(x, o.place)
	}
}

// latch counts goroutines so that they can be waited for while new ones are still being started.
type latch struct {
	mu     sync.Mutex
	n      int
	closed bool
	zero   *sync.Cond
}

func (l *latch) init() { l.zero = sync.NewCond(&l.mu) }

func (l *latch) add() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.n++
	return true
}

// Done ends a goroutine that add has counted.
func (l *latch) Done() {
	l.mu.Lock()
	l.n--
	if l.n == 0 {
		l.zero.Broadcast()
	}
	l.mu.Unlock()
}

// quiet waits until none runs, at most for the time given.
func (l *latch) quiet(most time.Duration) {
	over := false
	timer := time.AfterFunc(most, func() {
		l.mu.Lock()
		over = true
		l.zero.Broadcast()
		l.mu.Unlock()
	})
	defer timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.n > 0 && !over {
		l.zero.Wait()
	}
}

// closeAndWait lets none start any more and waits for those that run, at most for the time given. It reports whether all have ended.
func (l *latch) closeAndWait(most time.Duration) bool {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.quiet(most)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n == 0
}

// workers is how many sessions are recovered at once.
func workers() int { return max(1, runtime.NumCPU()) }

// custodian is an actor whose delegated key this node holds.
type custodian struct {
	actor string
	key   ed25519.PrivateKey
}
