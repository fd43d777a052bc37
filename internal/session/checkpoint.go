package session

import (
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// Checkpoints. A session may be committed in parts: each commit but the last says {"final":false} in its signed body, and
// the session goes on. That Layer 1 can never accept two histories of one session follows from four things:
//
//  1. A commit's signature covers T_n, the transcript head at its place, and by the chain of hashes every step up to n. The
//     parts that are cut from one session differ in where they start, never in what came before.
//  2. Layer 1 keeps (checkpoints, steps, head, final) of what it has accepted of a session. It accepts a commit only if
//     this is exactly the commit's Start and final is not set; the beginning of a session is the Start of one that it
//     knows nothing of. So what it accepts of a session is a single chain from T_0 on.
//  3. Each accepted commit moves that record on: a checkpoint holds at least one step, a final commit closes. So nothing is
//     accepted twice, in whatever order and however often transactions are submitted.
//  4. Whether a commit is final is in its body, which its signature covers: nobody can close a session, or keep it open,
//     other than its client signed.
//
// A checkpoint and the session's next step both stand at position n+1 and sign over T_n. That is no equivocation: they are
// signed for different purposes (tandem-commit, tandem-step), which the signature base contains, and only two different
// steps at one position are two histories. A commit takes no position; the step after it signs over the same head.
// Two commits over the same head, one final and one not, are both the client's word; Layer 1 takes the one that comes first,
// and after the final one nothing.

// The canonical bodies of a commit request. An empty one and {} are final too.
const (
	BodyFinal      = `{}`
	BodyCheckpoint = `{"final":false}`
)

// ParseCommitBody says whether a commit with this body closes the session. Refusal: bad-request, for any other text.
func ParseCommitBody(body []byte) (final bool, err error) {
	switch string(body) {
	case "", BodyFinal, `{"final":true}`:
		return true, nil
	case BodyCheckpoint:
		return false, nil
	}
	return false, refusal.New(refusal.BadRequest, `the body of a commit is empty, {}, {"final":true} or {"final":false}`)
}

// Checkpoint is a part of a session that a block holds although the session goes on.
type Checkpoint struct {
	Number      uint64 // from 1
	Steps       uint64 // of the session, up to the checkpoint
	Height      int64  // of the block
	Transaction wire.Digest
}

// CheckpointRequested is a request to commit what there is and to stay open, its signature verified by the caller.
type CheckpointRequested struct {
	Sequence   uint64 // the next position
	Transcript wire.Digest
	Request    wire.Digest
}

// CheckpointRechecked says that the session, run again on the newest state, gives the recorded responses: its unsettled steps
// may go to Layer 1.
type CheckpointRechecked struct{ Request wire.Digest }

// CheckpointSettled says that a block holds the session's steps up to Steps as its checkpoint Number (from 1). It comes from
// Layer 1.
type CheckpointSettled struct {
	Number      uint64
	Steps       uint64
	Head        wire.Digest
	Height      int64
	Transaction wire.Digest
}

func (CheckpointRequested) name() string { return "checkpoint-requested" }
func (CheckpointRechecked) name() string { return "checkpoint-rechecked" }
func (CheckpointSettled) name() string   { return "checkpoint-settled" }

// Settle asks to let the request have the outcome of the checkpoint that covers its steps; a block holds it.
type Settle struct{ Checkpoint Checkpoint }

// Later asks to put the request again when the checkpoint under way has come to its end: checkpoints go in order.
type Later struct{}

func (Settle) action() {}
func (Later) action()  {}

// CheckpointRecord is a checkpoint: under way while Height is 0, in a block after. A later record of the same Steps takes
// its place.
type CheckpointRecord struct {
	Number      uint64 // from 1; 0 while under way
	Steps       uint64
	Request     wire.Digest // zero if it was committed through another node
	Height      int64
	Transaction wire.Digest
}

func (CheckpointRecord) record() {}

// progress is how far a session is committed while it stays open.
type progress struct {
	settled  []Checkpoint
	number   uint64      // checkpoints on the ledger; more than settled holds if this node missed some
	steps    uint64      // settled
	underway uint64      // the steps of the checkpoint under way; 0 if there is none
	request  wire.Digest // of the checkpoint under way
}

// Checkpoints returns those that a block holds, in order. The caller must not change them.
func (m *Machine) Checkpoints() []Checkpoint { return m.progress.settled }

// Start returns the point that the session's next commit goes on from.
func (m *Machine) Start() wire.Start {
	if m.progress.number == 0 {
		return wire.Start{}
	}
	return wire.Start{Checkpoints: m.progress.number, Sequence: m.progress.steps, Head: m.HeadAt(m.progress.steps)}
}

// Underway returns the number of steps of the checkpoint that has been handed to Layer 1 and is in no block yet; 0 if
// there is none.
func (m *Machine) Underway() uint64 { return m.progress.underway }

// covering returns the first settled checkpoint that holds the steps.
func (m *Machine) covering(steps uint64) (Checkpoint, bool) {
	for _, c := range m.progress.settled {
		if c.Steps >= steps {
			return c, true
		}
	}
	return Checkpoint{}, false
}

func (m *Machine) checkpointRequested(msg CheckpointRequested) []Action {
	n := msg.Sequence - 1
	if msg.Sequence > 1 && n <= m.Len() && msg.Transcript == m.HeadAt(n) { // asked again, or behind by now: in any state
		if c, ok := m.covering(n); ok {
			return []Action{Settle{c}}
		}
		if n == m.progress.underway && m.state == Open {
			return []Action{Await{}}
		}
	}
	if msg.Sequence == m.Len()+1 && msg.Transcript == m.Head() { // the final commit holds these steps too
		switch m.state {
		case Committing:
			return []Action{Await{}}
		case Committed:
			return []Action{Tell{Committed}}
		}
	}
	if m.state != Open {
		return m.closed(msg)
	}
	if m.fault != "" {
		return m.refuse(msg, m.fault, "run again, the session gives other responses to the same questions")
	}
	if r := m.misplaced(msg, msg.Sequence, msg.Transcript); r != nil {
		return r
	}
	if n == 0 {
		return m.refuse(msg, refusal.BadRequest, "a checkpoint holds at least one step")
	}
	if m.progress.underway > 0 {
		return []Action{Later{}}
	}
	return []Action{Recheck{}}
}

func (m *Machine) checkpointRechecked(msg CheckpointRechecked) []Action {
	if m.state != Open || m.progress.underway > 0 || m.Len() <= m.progress.steps {
		panic("session: a checkpoint without new steps, or beside another")
	}
	r := CheckpointRecord{Steps: m.Len(), Request: msg.Request}
	m.apply(r)
	return []Action{Persist{r}, Submit{}}
}

func (m *Machine) checkpointSettled(msg CheckpointSettled) []Action {
	if msg.Number <= m.progress.number { // told before
		return nil
	}
	if m.state == Expired {
		return []Action{Halt{"a block settles a checkpoint of a session that an earlier block had expired"}}
	}
	if m.state == Committed && msg.Height <= m.end.Height {
		return nil // the ledger's newest state had the end already when this node looked, and the block is told only now
	}
	if m.state == Committed {
		return []Action{Halt{"a block settles a checkpoint of a session that an earlier block had closed"}}
	}
	switch {
	case msg.Steps < m.Len() && m.HeadAt(msg.Steps) != msg.Head:
		return m.faulted(Faulted{refusal.TranscriptMissing}) // the client has signed two histories, and Layer 1 has taken the other
	case msg.Steps > m.Len() || m.HeadAt(msg.Steps) != msg.Head:
		// Another node has steps that this one lacks, or the variant of the last one that the client has signed over.
		return m.fallBehind(msg)
	}
	m.behind = nil
	r := CheckpointRecord{Number: msg.Number, Steps: msg.Steps, Height: msg.Height, Transaction: msg.Transaction}
	if msg.Steps == m.progress.underway {
		r.Request = m.progress.request
	}
	m.apply(r)
	return []Action{Persist{r}}
}

// restoreCheckpoint says why the record cannot follow what was restored before; empty if it can.
func (m *Machine) restoreCheckpoint(r CheckpointRecord) string {
	switch {
	case r.Steps == 0 || r.Steps > m.Len():
		return "a checkpoint of more steps than there are"
	case r.Steps <= m.progress.steps:
		return "a checkpoint behind another"
	case r.Height > 0 && r.Number <= m.progress.number:
		return "checkpoints out of order"
	}
	return ""
}

func (m *Machine) applyCheckpoint(r CheckpointRecord) {
	p := &m.progress
	if r.Height == 0 {
		p.underway, p.request = r.Steps, r.Request
		return
	}
	p.settled = append(p.settled, Checkpoint{r.Number, r.Steps, r.Height, r.Transaction})
	p.number, p.steps = r.Number, r.Steps
	if p.underway <= p.steps {
		p.underway, p.request = 0, wire.Digest{}
	}
}
