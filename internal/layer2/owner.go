package layer2

import (
	"sync"
	"sync/atomic"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// owner is a session in memory and the goroutine that owns it: the one that works its queue, for as long as there is something
// in it, so that an idle session costs memory and nothing else. It is a goroutine of its own, or a request's own.
type owner struct {
	e     *Engine
	id    wire.SessionID
	open  wire.Request
	body  wire.OpenBody
	actor string // the actor's id when the session was opened
	// openHeight and openTime stand in the answer to the opening.
	openHeight, openTime int64

	mu      sync.Mutex // guards queue, waiting, running, tip
	tip     tip
	waits   atomic.Bool // a step waits for endorsements
	queue   []func()
	waiting int // requests among them
	running bool

	// Guarded by Engine.mu:
	dirty bool // a block has changed what the session has read, and it was not run again yet
	reads reads
	place int // in Engine.expiring

	// Owned by the goroutine that works the queue:
	machine  *session.Machine
	overlay  *state.Overlay // nil: the steps must be run again before the next one
	source   *questioner    // overlay's base
	base     int64          // height of the state under overlay
	newest   int64          // highest state that a step ran on: the ledger here must have got as far
	asked    []question     // what the recorded steps asked, in order
	askedTo  []int          // asked[:askedTo[k]] belongs to the steps up to k+1
	size     int            // bytes of the steps in the Layer 1 transaction
	commit   *wire.Request
	hash     wire.Digest // of the Layer 1 transaction, while committing and after
	fault    *refusal.Refusal
	conflict *Conflict
	ended    *endRecord
	hinted   hinted
	trail    trail
	votes    [][]wire.Endorsement // by step: endorsements of others, and this node's of steps that others have originated
	policy   *session.Policy      // the machine's
	pending  *pending             // the last step, while it waits for endorsements
	seeking  *seeking             // while steps are being looked for at other nodes
	signers  signers              // has a lock of its own
	kept     kept                 // variants of the last step
	picked   httpsig.Place        // of the client's last request that signs over what is not here: so it has chosen
	endings  []wire.Request       // commits and abandonings that other nodes have told of
	leaving  *wire.Request        // the signed abandoning, once accepted
	refused  error                // something could not be written: nobody may use this owner any more

	// Committing:
	submitting    bool
	submitted     int64 // height at the last submission
	submittedTime int64 // the clock then, milliseconds since 1970
	waiters       []chan<- settlement

	cp checkpointing
}

// settlement is what somebody who waits for a commit gets.
type settlement struct {
	outcome Outcome
	err     error
}

// post puts work into the session's queue and starts its goroutine if it is not running. A request is refused when too
// many wait already; the engine's own work is not.
func (o *owner) post(request bool, work func()) error {
	idle, err := o.queueUp(request, work)
	if idle {
		go o.work()
	}
	return err
}

// postHere is post of a request that the caller waits for in any case: if nobody works the queue, the caller's goroutine does
// so for this one piece of work. That saves waking another, which costs more than most of what a step does.
func (o *owner) postHere(work func()) error {
	idle, err := o.queueUp(true, work)
	if !idle {
		return err
	}
	returned := false
	defer func() {
		if !returned { // nobody may use this session any more, and the caller may have somebody who recovers
			o.e.halt(&haltError{o.id, "panic on the owner's goroutine"})
			o.e.owners.Done()
		}
	}()
	o.next()() // ours: the queue was empty
	returned = true
	if next := o.next(); next != nil {
		go func() { next(); o.work() }()
	} else {
		o.e.owners.Done()
	}
	return nil
}

// queueUp puts work into the session's queue. idle says that nobody works it, and that the caller now has to see to it: it
// is counted as an owner goroutine.
func (o *owner) queueUp(request bool, work func()) (idle bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if request {
		if o.waiting >= o.e.o.MaxQueue {
			return false, refusal.New(refusal.SessionBusy, "%d requests wait for this session already", o.waiting).With("retry_after_seconds", 1)
		}
		o.waiting++
		inner := work
		work = func() {
			o.mu.Lock()
			o.waiting--
			o.mu.Unlock()
			inner()
		}
	}
	if !o.running {
		if !o.e.owners.add() {
			return false, shuttingDown()
		}
		o.running, idle = true, true
	}
	o.queue = append(o.queue, work)
	return idle, nil
}

// next takes the first piece of work from the queue.
func (o *owner) next() func() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		o.queue, o.running = nil, false
		return nil
	}
	next := o.queue[0]
	o.queue[0] = nil
	o.queue = o.queue[1:]
	return next
}

// work is the owner goroutine: it empties the queue and ends.
func (o *owner) work() {
	defer o.e.owners.Done()
	for next := o.next(); next != nil; next = o.next() {
		next()
	}
}

// ask runs work on the owner's goroutine and waits for its answer.
func ask[T any](o *owner, work func() (T, error)) (T, error) {
	type reply struct {
		v   T
		err error
	}
	c := make(chan reply, 1)
	if err := o.postHere(func() {
		v, err := work()
		c <- reply{v, err}
	}); err != nil {
		var none T
		return none, err
	}
	r := <-c
	return r.v, r.err
}

// do performs what the machine asked for, as far as every request has it in common: it persists, tells those who wait,
// halts, and finds the refusal. What is left (Execute, Replay, Recheck, Submit, Await, Reply) is returned.
func (o *owner) do(acts []session.Action, payload func(session.Record) []op) (rest []session.Action, err error) {
	for _, a := range acts {
		switch a := a.(type) {
		case session.Persist:
			ops := payload(a.Record)
			o.audit(a.Record) // goes with it
			if err := o.e.journal.append(ops...); err != nil {
				return nil, o.e.diskRefusal(err)
			}
			o.noteRecord(a.Record)
		case session.Tell:
			o.tell(a.State)
		case session.Refuse:
			o.noteError(auditRefused, 0, a.Refusal)
			return nil, o.explain(a.Refusal)
		case session.Halt:
			o.e.halt(&haltError{o.id, a.Reason})
			return nil, refusal.New(refusal.Internal, "this node has stopped because its own state is in doubt")
		case session.Send: // done before, so that the peers work while the disk does
		default:
			rest = append(rest, a)
		}
	}
	return rest, nil
}

// explain adds what the engine knows to a refusal of the machine's.
func (o *owner) explain(r *refusal.Refusal) *refusal.Refusal {
	switch {
	case o.conflict != nil && r.Code == refusal.Conflict:
		return o.conflict.refusal(o.id)
	case o.fault != nil && r.Code == o.fault.Code:
		return o.fault.With("session", o.id.String())
	}
	return r.With("session", o.id.String()).With("sequence", o.machine.Len()).With("transcript", o.machine.Head().String())
}

// tell answers those who wait for the session's outcome and, when it has ended, lets go of what an open session needs.
func (o *owner) tell(s session.State) {
	switch {
	case s.Ended():
		o.answerWaiters(o.settlement())
		o.cp.ended(o.settlement())
		o.e.finished(o)
		o.overlay, o.source, o.asked, o.askedTo = nil, nil, nil, nil
	case s == session.Open: // a fault: the commit is refused
		no := settlement{err: o.explain(refusal.New(o.machine.Fault(), "the commit is refused"))}
		o.answerWaiters(no)
		o.cp.ended(no)
		o.e.uncommitting(o)
	}
}

func (o *owner) answerWaiters(s settlement) {
	for _, w := range o.waiters {
		delete(o.cp.asked, w)
		w <- s
	}
	o.waiters = nil
}

// settlement is the answer to a commit in the session's present state.
func (o *owner) settlement() settlement {
	out := Outcome{
		Session: o.id, Status: o.machine.State(), TransactionHash: o.hash, Steps: o.machine.Len(), Transcript: o.machine.Head(),
	}
	switch o.machine.State() {
	case session.Committed:
		out.Height, out.TransactionHash, out.Time = o.ended.Height, o.ended.Transaction, o.ended.Time
		return settlement{outcome: out}
	case session.Committing:
		return settlement{outcome: out}
	case session.Conflicted:
		return settlement{err: o.conflict.refusal(o.id)}
	case session.Expired:
		return settlement{err: refusal.New(refusal.SessionExpired, "no block held the session before it expired").With("session", o.id.String())}
	}
	return settlement{err: refusal.New(refusal.SessionClosed, "the session is %s", o.machine.State()).
		With("session", o.id.String()).With("status_of_session", o.machine.State().String())}
}

// answer is the stored answer of a recorded step.
func (o *owner) answer(s *stored, repeated bool) *Answer {
	k, n := o.machine.Endorsements(s.tx.Sequence)
	var hints []Hint
	if !repeated {
		hints = o.hintsFor(s.tx.Sequence)
	}
	return &Answer{
		Status: s.tx.Response.Status, Headers: s.tx.Response.Headers, Body: s.body,
		Session: o.id, Sequence: s.tx.Sequence, Transcript: s.head, Height: s.height, Time: s.tx.Time, Originator: s.tx.Originator,
		Endorsements: k, Of: n, Endorsers: o.endorsers(s), Seal: s.seal, Recorded: true, Repeated: repeated, Hints: hints,
	}
}

// stored reads a recorded step back.
func (o *owner) stored(sequence uint64) (*stored, error) {
	key := keyNumbered(o.id, partStep, sequence)
	b, ok, err := o.e.journal.get(key)
	if err == nil && !ok {
		err = damagedRecord(key, "is missing")
	}
	if err != nil {
		return nil, o.e.diskRefusal(err)
	}
	s, err := decodeStep(key, b)
	if err != nil {
		return nil, o.e.diskRefusal(err)
	}
	return s, nil
}

// eachStored calls f with the recorded steps in order.
func (o *owner) eachStored(f func(s *stored) error) error {
	return o.eachStoredIn(0, o.machine.Len(), f)
}
