package layer2

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"sync/atomic"

	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Checkpoints: a session commits what it has and stays open.
//
// The session goes on while its checkpoint is under way. Its steps, those in the checkpoint too, stay in the overlay and their
// reads in the index until a block holds the checkpoint; a block that would change an answer before that conflicts the session, and
// Layer 1 will refuse the checkpoint for the same reason. When a block holds it, the settled steps are part of the state: they
// are not run again any more. Only the steps after them are, on the new state; their reads alone stay in the index, and their
// bytes alone count against the limit of one commit.
//
// What of a session a view holds is read from the view itself (settledIn), so it does not matter in which order the block's
// event, a step and a look at the newest state come.
//
// Of one session one commit at a time is under way: a second checkpoint, and the final commit, wait for the first to end.
// Layer 1 would refuse anything else (wrong-start), since each goes on where the one before it ended.

// checkpointing is what an owner knows of its session's checkpoints beside its machine. It is owned by the goroutine that works
// the queue, but for since.
type checkpointing struct {
	request *wire.Request // of the checkpoint under way
	hash    wire.Digest   // of its Layer 1 transaction
	waiters []chan<- settlement
	later   []func()                              // requests put again when the checkpoint under way has ended
	asked   map[chan<- settlement]session.Message // what each waits for
	since   atomic.Int64                          // when the oldest step that no checkpoint holds was recorded, ms; 0 if there is none
}

// checkpointRecord is a checkpoint on disk, under the number of steps that it ends at.
type checkpointRecord struct {
	_           struct{} `cbor:",toarray"`
	Request     []byte   // the signed commit request; empty if it was committed through another node
	Number      uint64   // from 1; 0 while under way
	Height      int64    // of the block; 0 while under way
	Transaction wire.Digest
	Time        int64 // of the block
}

// Checkpoint is a checkpoint in a session's status.
type Checkpoint struct {
	Number      uint64 `json:"checkpoint"`
	Height      int64  `json:"height"`
	Transaction string `json:"transaction_hash"`
	Steps       uint64 `json:"steps"` // of the session, up to the checkpoint
}

// CheckpointCustody commits what a custody session has and leaves it open; actor may be "" (the session's). It waits like
// Commit; an Outcome that is not settled has the status committing.
func (e *Engine) CheckpointCustody(ctx context.Context, id wire.SessionID, actor string) (Outcome, error) {
	leave, err := e.enter()
	if err != nil {
		return Outcome{}, err
	}
	release := once(leave)
	defer release()
	o, err := e.find(id)
	if err != nil {
		return Outcome{}, err
	}
	c, err := o.custodian(actor)
	if err != nil {
		return Outcome{}, err
	}
	return o.await(ctx, release, func(w chan<- settlement) error { return o.checkpointCustody(c, w) })
}

func (o *owner) checkpointCustody(c custodian, w chan<- settlement) error {
	if o.refused != nil {
		return o.refused
	}
	req := &wire.Request{
		Method: "POST", Path: session.PathCommit(o.id), ContentType: "application/json", Body: []byte(session.BodyCheckpoint), Created: o.e.now() / 1000,
	}
	place := httpsig.Place{Session: o.id, Sequence: o.machine.Len() + 1, Transcript: o.machine.Head()}
	httpsig.Sign(c.key, httpsig.TagCommit, req, place)
	return o.checkpointWith(req, place, w, true)
}

// checkpointWith decides about a checkpoint whose signature is good and arranges for w to get the settlement.
func (o *owner) checkpointWith(req *wire.Request, place httpsig.Place, w chan<- settlement, seek bool) error {
	msg := session.CheckpointRequested{Sequence: place.Sequence, Transcript: place.Transcript, Request: req.Digest()}
	o.cp.wait(w, msg)
	for looked := false; ; looked = true {
		for _, a := range o.machine.Step(msg) {
			switch a := a.(type) {
			case session.Refuse:
				return o.explain(a.Refusal)
			case session.Settle:
				w <- settlement{outcome: o.checkpointOutcome(a.Checkpoint)}
				return nil
			case session.Tell: // the final commit holds these steps
				w <- o.settlement()
				return nil
			case session.Await:
				if o.machine.State() == session.Committing {
					o.waiters = append(o.waiters, w)
				} else {
					o.cp.waiters = append(o.cp.waiters, w)
				}
				return nil
			case session.Later:
				o.cp.putOff(w, func() error { return o.checkpointWith(req, place, w, seek) })
				return nil
			case session.Choose:
				if err := o.choose(a); err != nil {
					return err
				}
				return o.checkpointWith(req, place, w, seek)
			case session.Seek:
				o.seek(a.From, place, seek, func(_ *Answer, err error) { w <- settlement{err: err} }, func() {
					if err := o.checkpointWith(req, place, w, false); err != nil {
						w <- settlement{err: err}
					}
				})
				return nil
			}
		}
		if looked {
			break
		}
		if err := o.mayCommit(req); err != nil {
			return err
		}
		if err := o.refresh(true); err != nil {
			return err
		}
	}
	tx, err := o.transactionOf(req, o.machine.Len())
	if err != nil {
		return err
	}
	if len(tx) > wire.MaxTransaction {
		return refusal.New(refusal.SessionTooLarge, "the checkpoint takes %d bytes; a commit has %d", len(tx), wire.MaxTransaction).With("session", o.id.String())
	}
	o.cp.request, o.cp.hash = req, wire.Sum(tx)
	// On disk before Layer 1 sees it, as a commit: a crash after this line submits it again at the next start.
	if _, err := o.do(o.machine.Step(session.CheckpointRechecked{Request: req.Digest()}), o.payload); err != nil {
		return err
	}
	o.cp.since.Store(0)
	o.cp.waiters = append(o.cp.waiters, w)
	o.e.committing(o)
	o.submit(tx)
	o.e.cluster.sendAll(o.endMessage(req).Encode()) // so that any node has the receipt
	return nil
}

func (c *checkpointing) wait(w chan<- settlement, msg session.Message) {
	if c.asked == nil {
		c.asked = map[chan<- settlement]session.Message{}
	}
	c.asked[w] = msg
}

// forget drops one who waits no longer.
func (c *checkpointing) forget(w chan<- settlement) {
	c.waiters = without(c.waiters, w)
	delete(c.asked, w)
}

// putOff has a request put again when the checkpoint under way has ended.
func (c *checkpointing) putOff(w chan<- settlement, again func() error) {
	c.later = append(c.later, func() {
		if err := again(); err != nil {
			w <- settlement{err: err}
		}
	})
}

// ended answers those who wait for the checkpoint under way and puts the requests again that were put off.
func (c *checkpointing) ended(s settlement) {
	for _, w := range c.waiters {
		delete(c.asked, w)
		w <- s
	}
	later := c.later
	c.waiters, c.later = nil, nil
	for _, again := range later {
		again()
	}
}

// unsettledYet answers one who will not wait any longer for what is under way in an open session.
func (o *owner) unsettledYet(w chan<- settlement) settlement {
	msg := o.cp.asked[w]
	o.waiters = without(o.waiters, w)
	o.cp.forget(w)
	if o.machine.State() != session.Open || o.machine.Fault() != "" {
		return o.settlement()
	}
	out := Outcome{Session: o.id, Status: session.Committing}
	switch msg := msg.(type) {
	case session.CheckpointRequested:
		out.Steps, out.Transcript = msg.Sequence-1, msg.Transcript
		if out.Steps == o.machine.Underway() {
			out.TransactionHash, out.Checkpoint = o.cp.hash, o.machine.Start().Checkpoints+1
		}
	case session.CommitRequested:
		out.Steps, out.Transcript = msg.Sequence-1, msg.Transcript
	default:
		return o.settlement()
	}
	return settlement{outcome: out}
}

// checkpointOutcome is the answer to a checkpoint that a block holds.
func (o *owner) checkpointOutcome(c session.Checkpoint) Outcome {
	out := Outcome{
		Session: o.id, Status: session.Committed, Height: c.Height, TransactionHash: c.Transaction, Steps: c.Steps,
		Transcript: o.machine.HeadAt(c.Steps), Checkpoint: c.Number,
	}
	if rec, err := o.checkpointRecord(c.Steps); err == nil {
		out.Time = rec.Time
	}
	return out
}

func (o *owner) checkpointRecord(steps uint64) (rec checkpointRecord, err error) {
	key := keyNumbered(o.id, partCheckpoint, steps)
	b, ok, err := o.e.journal.get(key)
	if err == nil && !ok {
		err = damagedRecord(key, "is missing")
	}
	if err == nil {
		err = decodeRecord(key, b, &rec)
	}
	if err != nil {
		return rec, o.e.diskRefusal(err)
	}
	return rec, nil
}

// inFlight is the signed request of what has been handed to Layer 1 and is in no block yet: the session's commit, or its
// checkpoint under way. Nil if there is none.
func (o *owner) inFlight() (req *wire.Request, hash *wire.Digest) {
	switch {
	case o.refused != nil:
	case o.machine.State() == session.Committing:
		return o.commit, &o.hash
	case o.machine.State() == session.Open && o.machine.Underway() > 0 && o.machine.Fault() == "":
		return o.cp.request, &o.cp.hash
	}
	return nil, nil
}

// inFlightTransaction builds its Layer 1 transaction. It is another one than before if a checkpoint was settled meanwhile, through
// another node: then there are fewer steps left for it.
func (o *owner) inFlightTransaction() ([]byte, error) {
	req, hash := o.inFlight()
	last := o.machine.Len()
	if o.machine.State() == session.Open {
		last = o.machine.Underway()
	}
	tx, err := o.transactionOf(req, last)
	if err == nil {
		*hash = wire.Sum(tx)
	}
	return tx, err
}

// transactionOf builds the Layer 1 transaction of the steps that are not settled, up to last.
func (o *owner) transactionOf(req *wire.Request, last uint64) ([]byte, error) {
	return o.transactionFrom(o.machine.Start(), req, last)
}

func (o *owner) transactionFrom(start wire.Start, req *wire.Request, last uint64) ([]byte, error) {
	c := wire.SessionCommit{Open: o.open, Start: start, Commit: *req}
	if err := o.eachStoredIn(start.Sequence, last, func(s *stored) error {
		c.Transactions = append(c.Transactions, s.tx)
		return nil
	}); err != nil {
		return nil, err
	}
	return c.Encode(), nil
}

// settledIn returns how many of the session's steps the state holds.
func (o *owner) settledIn(v *state.View) (uint64, error) {
	s, _, err := ledger.SettledOf(v, o.id)
	if err != nil {
		return 0, o.e.stateRefusal(err)
	}
	return s.Steps, nil
}

// settleCheckpoint takes in that a block holds a part of the session, which stays as it is.
func (o *owner) settleCheckpoint(s Settled, height, time int64) {
	if b := o.machine.Behind(); s.Part <= o.machine.Start().Checkpoints || o.machine.Fault() == refusal.TranscriptMissing || b != nil && s.Part <= b.Number {
		return
	}
	rec := checkpointRecord{Number: s.Part, Height: height, Transaction: s.Transaction, Time: time}
	if req := o.requestOf(s); req != nil {
		rec.Request = req.Encode()
	}
	acts := o.machine.Step(session.CheckpointSettled{
		Number: s.Part, Steps: s.Steps, Head: s.Head, Height: height, Transaction: s.Transaction,
	})
	if o.machine.Fault() == refusal.TranscriptMissing {
		o.fault = refusal.New(refusal.TranscriptMissing,
			"a checkpoint of %d steps was committed through another node, and this one has signed steps of another history: go on there", s.Steps)
	}
	rest, err := o.do(acts, func(r session.Record) []op {
		if _, ok := r.(session.CheckpointRecord); ok {
			return []op{{keyNumbered(o.id, partCheckpoint, s.Steps), encodeRecord(rec)}}
		}
		return o.payload(r)
	})
	for _, a := range rest {
		if a, ok := a.(session.Seek); ok { // it lacks them: others have them
			o.e.cluster.sendAll(wire.PeerFetch{Session: o.id, From: a.From}.Encode())
		}
	}
	if err != nil || o.machine.Start().Checkpoints != s.Part {
		return
	}
	o.checkpointed()
}

// checkpointed draws the conclusions from a checkpoint that a block holds and this node has recorded.
func (o *owner) checkpointed() {
	o.endings = slices.DeleteFunc(o.endings, func(r wire.Request) bool { return string(r.Body) == session.BodyCheckpoint })
	o.resize()
	o.overlay = nil // the state has the settled steps: run the others again, on it
	if o.machine.Underway() > 0 {
		return // that of a longer checkpoint, which goes on from here
	}
	o.cp.request, o.cp.hash = nil, wire.Digest{}
	if o.machine.State() == session.Open {
		o.e.uncommitting(o)
		if len(o.cp.waiters)+len(o.cp.later) > 0 {
			at := o.machine.Checkpoints()
			o.cp.ended(settlement{outcome: o.checkpointOutcome(at[len(at)-1])})
		}
	}
}

// requestOf finds the signed request that makes the settled transaction, if this node has it.
func (o *owner) requestOf(s Settled) *wire.Request {
	if s.Steps > o.machine.Len() {
		return nil
	}
	is := func(req *wire.Request) bool {
		tx, err := o.transactionOf(req, s.Steps)
		return err == nil && wire.Sum(tx) == s.Transaction
	}
	if o.cp.request != nil && is(o.cp.request) {
		return o.cp.request
	}
	for _, req := range o.endings {
		if is(&req) {
			return &req
		}
	}
	return nil
}

// resize counts the bytes of the steps that are not settled.
func (o *owner) resize() {
	size := 0
	if err := o.eachStoredIn(o.machine.Start().Sequence, o.machine.Len(), func(s *stored) error {
		size += transactionSize(&s.tx)
		return nil
	}); err == nil {
		o.size = size
	}
}

// rebase runs what is left of the session after a checkpoint again, so that the settled steps' reads leave the index.
func (o *owner) rebase() {
	if o.refused != nil || o.machine.State() != session.Open || o.overlay != nil {
		return
	}
	if err := o.refresh(false); err != nil {
		o.e.o.Logger.Debug("session run again after its checkpoint", "session", o.id, "result", err)
	}
}

// autoCheckpoint has a custody session commit what it has when the operator's policy says so; client-signed sessions are
// their client's.
func (o *owner) autoCheckpoint(s *stored) {
	c, ours := o.e.custody[o.open.Key]
	if !ours || s.tx.Originator != o.e.self {
		return
	}
	o.cp.since.CompareAndSwap(0, o.e.now())
	if n := o.e.o.CheckpointSteps; n > 0 && o.machine.Len()-max(o.machine.Start().Sequence, o.machine.Underway()) >= n {
		_ = o.post(false, func() { o.checkpointByPolicy(c) })
	}
}

func (o *owner) checkpointByPolicy(c custodian) {
	if o.refused != nil || o.machine.State() != session.Open || o.machine.Underway() > 0 || o.machine.Len() == o.machine.Start().Sequence {
		return
	}
	if err := o.checkpointCustody(c, make(chan settlement, 1)); err != nil {
		o.e.o.Logger.Info("checkpoint by policy not made", "session", o.id, "error", err)
	}
}

// checkpointsDue makes the checkpoints that are due by time.
func (e *Engine) checkpointsDue() {
	if e.o.CheckpointEvery <= 0 {
		return
	}
	due := e.now() - e.o.CheckpointEvery.Milliseconds()
	e.mu.Lock()
	var owners []*owner
	for _, o := range e.sessions {
		if since := o.cp.since.Load(); since > 0 && since <= due {
			owners = append(owners, o)
		}
	}
	e.mu.Unlock()
	for _, o := range owners {
		if c, ok := e.custody[o.open.Key]; ok {
			_ = o.post(false, func() { o.checkpointByPolicy(c) })
		}
	}
}

// checkpoints is the list in a session's status.
func (o *owner) checkpoints() []Checkpoint {
	var all []Checkpoint
	for _, c := range o.machine.Checkpoints() {
		all = append(all, Checkpoint{c.Number, c.Height, c.Transaction.String(), c.Steps})
	}
	return all
}

// Committed returns what a receipt is built from: of the session's checkpoint number part, counted from 1 with the final
// commit as the last, or with part 0 of the newest. Refusals: session-not-found (also when it is past retention, or another node's),
// not-committed.
func (e *Engine) Committed(ctx context.Context, id wire.SessionID, part uint64) (Committed, error) {
	leave, err := e.enter()
	if err != nil {
		return Committed{}, err
	}
	defer leave()
	o, err := e.find(id)
	if err != nil {
		return Committed{}, err
	}
	return ask(o, func() (Committed, error) { return o.committed(part) })
}

func (o *owner) committed(part uint64) (Committed, error) {
	if o.refused != nil {
		return Committed{}, o.refused
	}
	start, done := o.machine.Start(), o.machine.State() == session.Committed
	if part == 0 {
		if part = start.Checkpoints; done {
			part++
		}
	}
	if done && part == start.Checkpoints+1 {
		if !o.ended.Ours || o.commit == nil {
			return Committed{}, receiptElsewhere(o.id, o.ended.Height)
		}
		return o.part(start, o.commit, o.machine.Len(), o.ended.Height)
	}
	all := o.machine.Checkpoints()
	i := slices.IndexFunc(all, func(c session.Checkpoint) bool { return c.Number == part })
	if i < 0 {
		parts := start.Checkpoints
		if done {
			parts++ // the final one
		}
		return Committed{}, refusal.New(refusal.NotCommitted, "the session is %s, and %d parts of it are in blocks", o.machine.State(), parts).
			With("session", o.id.String()).With("status_of_session", o.machine.State().String())
	}
	c := all[i]
	rec, err := o.checkpointRecord(c.Steps)
	if err != nil {
		return Committed{}, err
	}
	if len(rec.Request) == 0 || part > 1 && (i == 0 || all[i-1].Number != part-1) {
		return Committed{}, receiptElsewhere(o.id, c.Height)
	}
	req, err := wire.DecodeRequest(rec.Request)
	if err != nil {
		return Committed{}, o.e.diskRefusal(damagedRecord(keyNumbered(o.id, partCheckpoint, c.Steps), err.Error()))
	}
	start = wire.Start{}
	if part > 1 {
		start = wire.Start{Checkpoints: part - 1, Sequence: all[i-1].Steps, Head: o.machine.HeadAt(all[i-1].Steps)}
	}
	return o.part(start, &req, c.Steps, c.Height)
}

func receiptElsewhere(id wire.SessionID, height int64) error {
	return refusal.New(refusal.SessionNotFound, "this was committed through another node, which has its receipt").
		With("session", id.String()).With("height", height)
}

// part is what the receipt of one commit is built from.
func (o *owner) part(start wire.Start, req *wire.Request, last uint64, height int64) (c Committed, err error) {
	c.Height = height
	if c.Transaction, err = o.transactionFrom(start, req, last); err != nil {
		return Committed{}, err
	}
	return c, o.eachStoredIn(start.Sequence, last, func(s *stored) error {
		if s.bare {
			return receiptElsewhere(o.id, height)
		}
		c.Bodies = append(c.Bodies, slices.Clone(s.body))
		return nil
	})
}

// loadCheckpoint reads a checkpoint's record back.
func (l *loaded) loadCheckpoint(key, b []byte) (session.Record, error) {
	if len(key) != 26 {
		return nil, damagedRecord(key, "has a key of the wrong size")
	}
	var rec checkpointRecord
	if err := decodeRecord(key, b, &rec); err != nil {
		return nil, err
	}
	r := session.CheckpointRecord{Number: rec.Number, Steps: binary.BigEndian.Uint64(key[18:]), Height: rec.Height, Transaction: rec.Transaction}
	if len(rec.Request) > 0 {
		req, err := wire.DecodeRequest(rec.Request)
		if err != nil {
			return nil, damagedRecord(key, err.Error())
		}
		r.Request = req.Digest()
		if rec.Height == 0 {
			l.checkpoint = &req
		}
	}
	return r, nil
}

// unsettledSize counts the bytes of the steps that are not settled: sizes are those of all steps.
func (l *loaded) unsettledSize() int {
	size := 0
	for _, n := range l.sizes[min(uint64(len(l.sizes)), l.machine.Start().Sequence):] {
		size += n
	}
	return size
}

// restoreCheckpoint gives a loaded session's owner its checkpoint under way.
func (o *owner) restoreCheckpoint(l *loaded) {
	if l.machine.Underway() > 0 {
		o.cp.request = l.checkpoint
	}
	if _, ours := o.e.custody[o.open.Key]; ours && l.machine.State() == session.Open && l.machine.Len() > max(l.machine.Start().Sequence, l.machine.Underway()) {
		o.cp.since.Store(max(1, l.machine.Time()))
	}
}

// eachStoredIn calls f with the recorded steps after from up to last, in order.
func (o *owner) eachStoredIn(from, last uint64, f func(s *stored) error) error {
	var broken error
	n := from
	prefix := keyPart(o.id, partStep)
	err := o.e.journal.scanBetween(keyNumbered(o.id, partStep, from+1), after(keyNumbered(o.id, partStep, last)), func(key, b []byte) error {
		if !bytes.HasPrefix(key, prefix) {
			return damagedRecord(key, "stands among a session's steps")
		}
		s, err := decodeStep(key, b)
		if err != nil {
			return err
		}
		n++
		broken = f(s)
		return broken
	})
	if err != nil && broken == nil {
		return o.e.diskRefusal(err)
	}
	if err == nil && n < last {
		return o.e.diskRefusal(damagedRecord(keyNumbered(o.id, partStep, n+1), "is missing"))
	}
	return broken
}

// unsettledSteps bounds the steps of one commit.
func (o *owner) unsettledSteps() uint64 { return o.machine.Len() - o.machine.Start().Sequence }
