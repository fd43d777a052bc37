package session

import (
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// Message is something that happened to a session. The types of this file are all there are.
type Message interface{ name() string }

// StepRequested is a request for a step, its signature verified (or made, in custody) by the caller.
type StepRequested struct {
	Sequence   uint64
	Transcript wire.Digest // the head that the request signs over
	Request    wire.Digest // wire.Request.Digest
}

// Executed says that this node, as originator, has run the step that the machine told it to Execute, and that the
// handler's answer is to be recorded.
type Executed struct {
	Sequence uint64
	Request  wire.Digest
	Head     wire.Digest // transcript head after the step
	Time     int64       // milliseconds since 1970
}

// Endorsed says that a node has run the step, agrees on the head after it and has it on disk. This node's own endorsement
// comes in the same way, once its log is synced.
type Endorsed struct {
	Sequence uint64
	Node     wire.PublicKey
	Head     wire.Digest
}

// Dissented says that a node cannot endorse a step.
type Dissented struct {
	Sequence uint64
	Node     wire.PublicKey
	Reason   refusal.Code
}

// Replicated is a step that another node has originated and asks this one to endorse; the client's signature over it, at
// this place, is verified by the caller.
type Replicated struct {
	Sequence uint64
	Previous wire.Digest // the head that the client's request signs over
	Request  wire.Digest
	Head     wire.Digest
}

// Reproduced says that this node has run a step of another originator's and got the recorded response. It goes behind the
// last step or, when the client has signed over it or Supplant or Choose has asked for it, in the place of the last step's other
// variant, which is kept.
type Reproduced struct {
	Sequence   uint64
	Request    wire.Digest
	Head       wire.Digest
	Time       int64
	Originator wire.PublicKey
}

// PolicyChanged says that the ledger's list of nodes, or the number to wait for, has changed.
type PolicyChanged struct{ Policy Policy }

// WaitOver says that the time to wait for endorsements of a step is over: it is answered with those there are.
type WaitOver struct{ Sequence uint64 }

// CommitRequested is a request to commit, its signature verified by the caller. Sequence is the next position.
type CommitRequested struct {
	Sequence   uint64
	Transcript wire.Digest
	Request    wire.Digest
}

// Rechecked says that the session, run again on the newest state, gives the recorded responses: it may go to Layer 1.
type Rechecked struct{ Request wire.Digest }

// Faulted says that the session cannot be committed though nobody has overtaken it: running it again gave other responses
// to the same questions (nondeterministic-handler), here or on Layer 1.
type Faulted struct{ Reason refusal.Code }

// ConflictFound says that the session, run again on a newer state, gives other responses.
type ConflictFound struct{ Height int64 }

// Settled says that a block holds the session. It comes from Layer 1 and outranks what this node thinks.
type Settled struct {
	Height      int64
	Transaction wire.Digest
}

// BlockTime says that a block with this time exists (milliseconds since 1970), and that no block up to it holds the session.
type BlockTime struct{ Time int64 }

// AbandonRequested is a request to give the session up, its signature verified by the caller.
type AbandonRequested struct {
	Sequence   uint64
	Transcript wire.Digest
}

func (StepRequested) name() string    { return "step-requested" }
func (Executed) name() string         { return "executed" }
func (Endorsed) name() string         { return "endorsed" }
func (Dissented) name() string        { return "dissented" }
func (Replicated) name() string       { return "replicated" }
func (Reproduced) name() string       { return "reproduced" }
func (PolicyChanged) name() string    { return "policy-changed" }
func (WaitOver) name() string         { return "wait-over" }
func (CommitRequested) name() string  { return "commit-requested" }
func (Rechecked) name() string        { return "rechecked" }
func (Faulted) name() string          { return "faulted" }
func (ConflictFound) name() string    { return "conflict-found" }
func (Settled) name() string          { return "settled" }
func (BlockTime) name() string        { return "block-time" }
func (AbandonRequested) name() string { return "abandon-requested" }

// Action is something the machine wants done, in the order given. The types below are all there are.
type Action interface{ action() }

// Execute asks for the handler to be run for the step just requested. If the answer is to be recorded, Executed follows; if
// not (status >= 400, or no answer), nothing follows and the position stays free.
type Execute struct{ Sequence uint64 }

// Replay asks for the stored answer of a step: the request was a retry.
type Replay struct{ Sequence uint64 }

// Join asks to answer this request together with an earlier, equal one that still waits for endorsements.
type Join struct{ Sequence uint64 }

// Persist asks to write the record to disk and sync it, before any later action of the same list. With a step it is this
// node's endorsement: Endorsed follows.
type Persist struct{ Record Record }

// Send asks to send the step to the other nodes for simulation consensus. It may run beside Persist.
type Send struct{ Sequence uint64 }

// Vouch asks to send this node's endorsement of a step that it has already.
type Vouch struct{ Sequence uint64 }

// Seek asks to get the session's steps from From on, from another node or from the client: this node lacks a step that the
// client has signed over, or has another variant of the last one. If they cannot be had, the request is refused.
type Seek struct{ From uint64 }

// Reply asks to answer the step's client: so many of so many nodes endorse it.
type Reply struct {
	Sequence         uint64
	Endorsements, Of int
}

// Recheck asks to run the session again on the newest state, before it is committed. Rechecked, ConflictFound or Faulted
// follows.
type Recheck struct{}

// Submit asks to submit the session to Layer 1.
type Submit struct{}

// Await asks to let the request wait for the session's outcome, which is under way.
type Await struct{}

// Tell asks to tell everybody who waits that the session has moved to a new state.
type Tell struct{ State State }

// Refuse asks to refuse the request.
type Refuse struct{ Refusal *refusal.Refusal }

// Halt asks to stop the node: what Layer 1 says contradicts what it said before, so this node's own state is in doubt.
type Halt struct{ Reason string }

func (Execute) action() {}
func (Replay) action()  {}
func (Join) action()    {}
func (Persist) action() {}
func (Send) action()    {}
func (Vouch) action()   {}
func (Seek) action()    {}
func (Reply) action()   {}
func (Recheck) action() {}
func (Submit) action()  {}
func (Await) action()   {}
func (Tell) action()    {}
func (Refuse) action()  {}
func (Halt) action()    {}

// Record is what must survive of a decision. Machine.Restore takes it back in; on the happy path the machine itself goes
// the same way, so that recovery is no other code.
type Record interface{ record() }

// StepRecord is a recorded step.
type StepRecord struct {
	Sequence uint64
	Request  wire.Digest
	Head     wire.Digest
	Time     int64
	// Originator is the node that ran the step first.
	Originator wire.PublicKey
}

// EndorsementRecord is another node's endorsement of a recorded step. It need not be on disk before anything else is done:
// lost, it can be had again.
type EndorsementRecord struct {
	Sequence uint64
	Node     wire.PublicKey
	Head     wire.Digest
}

// CommitRecord says that the session is being committed with this signed request.
type CommitRecord struct{ Request wire.Digest }

// FaultRecord says that the session cannot be committed, and why.
type FaultRecord struct{ Reason refusal.Code }

// EvidenceRecord keeps the second of two different signed steps at one position. It changes nothing else.
type EvidenceRecord struct {
	Sequence uint64
	Request  wire.Digest
}

// EndRecord is the session's outcome.
type EndRecord struct {
	State       State
	Height      int64       // of the block that settled it, or on which the conflict was found
	Transaction wire.Digest // when committed
}

func (StepRecord) record()        {}
func (EndorsementRecord) record() {}
func (CommitRecord) record()      {}
func (FaultRecord) record()       {}
func (EvidenceRecord) record()    {}
func (EndRecord) record()         {}
