// Package session is a session's life as pure code: no I/O, no clock, no randomness, no goroutines.
//
// Machine is the state machine of one session on one Layer 2 node. Messages go in (a step was requested, a node endorsed,
// a block settled), actions come out (run the handler, write this record, answer, submit); whoever drives it (layer2) does
// them and reports back. What must not be lost is a Record inside a Persist action, and Restore takes records back
// in, so that a restarted node stands where it stood.
//
// Verify checks what a whole session proves by itself: signatures, sequence, transcript. Both layers and receipts use it.
//
// The legal transitions stand in one table (see Transitions and docs/sessions.md). A transition that a message asks for
// and the table forbids is refused and remembered; one that this package's own code asks for is a bug and panics.
package session

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// Policy says whose endorsements count and how many a step waits for.
type Policy struct {
	// Nodes are the Layer 2 nodes that are asked, this node included, each once; at most [MaxNodes].
	Nodes []wire.PublicKey
	// Need is the number of endorsements, this node's included, after which a step is answered without further waiting:
	// 1 to len(Nodes).
	Need int
}

// MaxNodes bounds the Layer 2 nodes that one session ever hears of.
const MaxNodes = 64

// Transition is a row of the table.
type Transition struct {
	From, To State
	Why      string
}

var transitions = []Transition{
	{Open, Committing, "the client signed the final head and the session, run again, still answers the same"},
	{Open, Committed, "a block holds it: it was committed through another node"},
	{Open, Conflicted, "run again on a newer state it answers otherwise, or another session superseded it"},
	{Open, Abandoned, "the client gave it up"},
	{Open, Expired, "a block later than expires_at exists"},
	{Committing, Open, "it cannot be replayed alike (nondeterministic handler): the commit is refused"},
	{Committing, Committed, "a block holds it"},
	{Committing, Conflicted, "run again on a newer state it answers otherwise"},
	{Committing, Expired, "a block later than expires_at exists and none before it holds the session"},
	{Conflicted, Committed, "a block holds it: Layer 1 outranks this node's forecast"},
	{Abandoned, Committed, "a block holds it: it had been committed through another node"},
}

// Transitions returns the table of legal transitions, a copy.
func Transitions() []Transition { return append([]Transition(nil), transitions...) }

func legal(from, to State) bool {
	for _, t := range transitions {
		if t.From == from && t.To == to {
			return true
		}
	}
	return false
}

// Machine is one session on one node. It is not safe for concurrent use: one goroutine owns it.
type Machine struct {
	self     wire.PublicKey
	policy   Policy
	nodes    []wire.PublicKey // all that this session has heard of; a node's index is its bit
	asked    uint64           // the policy's nodes
	state    State
	start    wire.Digest // T_0
	expires  int64       // milliseconds since 1970
	steps    []position
	variants []VariantRecord // of the last step, beside it
	commit   wire.Digest     // request digest of the commit under way, while committing and after
	fault    refusal.Code
	end      EndRecord
	refused  []Refused

	progress progress // the checkpoints
	behind   *CheckpointSettled
}

// position is one recorded step.
type position struct {
	request    wire.Digest
	head       wire.Digest
	time       int64
	originator wire.PublicKey
	yes, no    uint64 // who endorses it, who cannot: bits of Machine.nodes
	replied    bool
	late       bool // the wait for endorsements is over
	decided    bool // the client has signed over it here
	twice      bool // a second signed request for this position is kept as evidence
}

// Refused is a message that the machine would not follow.
type Refused struct {
	State   State
	Message string
	Code    refusal.Code
}

// New returns the machine of a session just opened: start is T_0, expires milliseconds since 1970. It panics if the policy
// cannot be met or leaves self out.
func New(self wire.PublicKey, policy Policy, start wire.Digest, expires int64) *Machine {
	m := &Machine{self: self, state: Open, start: start, expires: expires}
	m.setPolicy(policy)
	return m
}

// setPolicy panics if the policy cannot be met or leaves this node out: whoever makes policies sees to that.
func (m *Machine) setPolicy(policy Policy) {
	m.asked = 0
	for _, n := range policy.Nodes {
		m.asked |= m.bit(n)
	}
	if m.asked&m.bit(m.self) == 0 || policy.Need < 1 || policy.Need > len(policy.Nodes) {
		panic(fmt.Sprintf("session: policy needs %d of %d nodes, self among them: %v", policy.Need, len(policy.Nodes), m.asked&m.bit(m.self) != 0))
	}
	m.policy = policy
}

// bit returns the node's bit, 0 for one more than MaxNodes.
func (m *Machine) bit(node wire.PublicKey) uint64 {
	i := slices.Index(m.nodes, node)
	if i < 0 {
		if len(m.nodes) == MaxNodes {
			return 0
		}
		i = len(m.nodes)
		m.nodes = append(m.nodes, node)
	}
	return 1 << i
}

// State returns where the session stands.
func (m *Machine) State() State { return m.state }

// Len returns the number of recorded steps.
func (m *Machine) Len() uint64 { return uint64(len(m.steps)) }

// Head returns the transcript head after the last recorded step.
func (m *Machine) Head() wire.Digest { return m.HeadAt(m.Len()) }

// HeadAt returns the transcript head after the step with this sequence; T_0 for 0. The sequence must be at most Len.
func (m *Machine) HeadAt(sequence uint64) wire.Digest {
	if sequence == 0 {
		return m.start
	}
	return m.steps[sequence-1].head
}

// Time returns the last recorded step's time, 0 without steps.
func (m *Machine) Time() int64 {
	if len(m.steps) == 0 {
		return 0
	}
	return m.steps[len(m.steps)-1].time
}

// Originators returns the nodes that originated the steps, each once, in the order of their first.
func (m *Machine) Originators() []wire.PublicKey {
	var all []wire.PublicKey
	for i := range m.steps {
		if !slices.Contains(all, m.steps[i].originator) {
			all = append(all, m.steps[i].originator)
		}
	}
	return all
}

// Endorsements returns how many nodes endorse a recorded step, and of how many.
func (m *Machine) Endorsements(sequence uint64) (k, n int) {
	return m.endorsed(&m.steps[sequence-1]), len(m.policy.Nodes)
}

func (m *Machine) endorsed(p *position) int { return bits.OnesCount64(p.yes & m.asked) }

// Waiting returns the nodes that are asked about the step and have said nothing yet.
func (m *Machine) Waiting(sequence uint64) []wire.PublicKey {
	p := &m.steps[sequence-1]
	var silent []wire.PublicKey
	for _, n := range m.policy.Nodes {
		if m.bit(n)&(p.yes|p.no) == 0 {
			silent = append(silent, n)
		}
	}
	return silent
}

// Fault returns why the session cannot be committed although it is open; empty if there is no fault.
func (m *Machine) Fault() refusal.Code { return m.fault }

// End returns the outcome; its State is zero before there is one.
func (m *Machine) End() EndRecord { return m.end }

// CommitRequest returns the digest of the signed request that the session is being or was committed with; zero if none.
func (m *Machine) CommitRequest() wire.Digest { return m.commit }

// Refusals returns the last messages that were refused, oldest first, at most 16.
func (m *Machine) Refusals() []Refused { return m.refused }

// Step takes one message and returns what is to be done about it, in order.
func (m *Machine) Step(msg Message) []Action {
	switch msg := msg.(type) {
	case StepRequested:
		return m.stepRequested(msg)
	case Executed:
		return m.executed(msg)
	case Replicated:
		return m.replicated(msg)
	case Reproduced:
		return m.reproduced(msg)
	case PolicyChanged:
		return m.policyChanged(msg)
	case Endorsed:
		return m.voted(msg, msg.Sequence, msg.Node, true, msg.Head)
	case Dissented:
		return m.voted(msg, msg.Sequence, msg.Node, false, wire.Digest{})
	case WaitOver:
		return m.waitOver(msg)
	case CommitRequested:
		return m.commitRequested(msg)
	case Rechecked:
		return m.rechecked(msg)
	case CheckpointRequested:
		return m.checkpointRequested(msg)
	case CheckpointRechecked:
		return m.checkpointRechecked(msg)
	case CheckpointSettled:
		return m.checkpointSettled(msg)
	case SettledSteps:
		return m.settledSteps(msg)
	case Faulted:
		return m.faulted(msg)
	case ConflictFound:
		return m.conflictFound(msg)
	case Settled:
		return m.settled(msg)
	case BlockTime:
		return m.blockTime(msg)
	case AbandonRequested:
		return m.abandonRequested(msg)
	}
	panic(fmt.Sprintf("session: unknown message %T", msg))
}

// Restore takes back a record that an earlier machine of this session asked to persist. Records come in the order in
// which they were written. It returns an error if the record cannot follow what was restored before: the log is damaged.
func (m *Machine) Restore(r Record) error {
	switch r := r.(type) {
	case StepRecord:
		if r.Sequence != m.Len()+1 {
			return fmt.Errorf("step %d follows step %d", r.Sequence, m.Len())
		}
		if m.state != Open {
			return fmt.Errorf("step %d in state %s", r.Sequence, m.state)
		}
	case VariantRecord:
		if err := m.restoreVariant(r); err != nil {
			return err
		}
	case EndorsementRecord:
		if r.Sequence == 0 || r.Sequence > m.Len() || r.Head != m.HeadAt(r.Sequence) {
			return fmt.Errorf("an endorsement of another step %d of %d", r.Sequence, m.Len())
		}
	case CommitRecord:
		if !legal(m.state, Committing) {
			return fmt.Errorf("commit in state %s", m.state)
		}
	case CheckpointRecord:
		if why := m.restoreCheckpoint(r); why != "" {
			return errors.New(why)
		}
	case FaultRecord:
		if m.state != Open && m.state != Committing {
			return fmt.Errorf("fault in state %s", m.state)
		}
	case EndRecord:
		if !r.State.Ended() || !legal(m.state, r.State) {
			return fmt.Errorf("%s to %s", m.state, r.State)
		}
	case EvidenceRecord:
		if r.Sequence == 0 || r.Sequence > m.Len() {
			return fmt.Errorf("evidence about step %d of %d", r.Sequence, m.Len())
		}
	default:
		return fmt.Errorf("unknown record %T", r)
	}
	m.apply(r)
	if s, ok := r.(StepRecord); ok {
		p := &m.steps[s.Sequence-1]
		p.yes, p.replied = p.yes|m.bit(m.self), true // on this disk: this node endorses it, and whoever asks again gets it
	}
	return nil
}

// apply is where state changes, for live decisions and restored records alike.
func (m *Machine) apply(r Record) {
	switch r := r.(type) {
	case StepRecord:
		m.steps = append(m.steps, position{request: r.Request, head: r.Head, time: r.Time, originator: r.Originator})
		m.variants = nil
	case ReplaceRecord:
		m.replace(r)
	case VariantRecord:
		m.keep(r)
	case EndorsementRecord:
		m.steps[r.Sequence-1].yes |= m.bit(r.Node)
	case CommitRecord:
		m.move(Committing)
		m.commit, m.variants = r.Request, nil
	case CheckpointRecord:
		m.applyCheckpoint(r)
	case CaughtUpRecord:
		m.catchUp(r)
	case FaultRecord:
		if m.state == Committing {
			m.move(Open)
		}
		m.fault = r.Reason
	case EvidenceRecord:
		m.steps[r.Sequence-1].twice = true
	case EndRecord:
		m.move(r.State)
		m.end = r
	}
}

func (m *Machine) move(to State) {
	if !legal(m.state, to) {
		panic(fmt.Sprintf("session: illegal transition %s -> %s", m.state, to))
	}
	m.state = to
}

// refuse remembers the message and returns the refusal.
func (m *Machine) refuse(msg Message, code refusal.Code, format string, args ...any) []Action {
	if len(m.refused) == 16 {
		m.refused = append(m.refused[:0], m.refused[1:]...)
	}
	m.refused = append(m.refused, Refused{m.state, msg.name(), code})
	r := refusal.New(code, format, args...).With("status_of_session", m.state.String())
	return []Action{Refuse{r}}
}

// closed refuses whatever needs an open session, with the code that says why it is not.
func (m *Machine) closed(msg Message) []Action {
	switch m.state {
	case Conflicted:
		return m.refuse(msg, refusal.Conflict, "the session has been overtaken by another commit")
	case Expired:
		return m.refuse(msg, refusal.SessionExpired, "the session was not committed before it expired")
	case Committing:
		return m.refuse(msg, refusal.SessionClosed, "the session is being committed")
	}
	return m.refuse(msg, refusal.SessionClosed, "the session is %s", m.state)
}

func (m *Machine) stepRequested(msg StepRequested) []Action {
	n := m.Len()
	if msg.Sequence >= 1 && msg.Sequence <= n { // a taken position: the retry comes first, whatever the session's state
		p := &m.steps[msg.Sequence-1]
		switch {
		case p.request == msg.Request && p.replied:
			return []Action{Replay{msg.Sequence}}
		case p.request == msg.Request:
			return []Action{Join{msg.Sequence}}
		case msg.Transcript == m.HeadAt(msg.Sequence-1):
			no := m.refuse(msg, refusal.Equivocation, "step %d of this session is taken by another signed request; both are kept", msg.Sequence)
			if p.twice { // one pair proves it
				return no
			}
			r := EvidenceRecord{msg.Sequence, msg.Request}
			m.apply(r)
			return append([]Action{Persist{r}}, no...)
		}
		return m.refuse(msg, refusal.WrongTranscript, "step %d signs over another transcript than this session has", msg.Sequence)
	}
	if m.state != Open {
		return m.closed(msg)
	}
	if m.fault != "" {
		return m.refuse(msg, m.fault, "the session cannot be committed any more, so it takes no more steps")
	}
	if r := m.misplaced(msg, msg.Sequence, msg.Transcript); r != nil {
		return r
	}
	return []Action{Execute{msg.Sequence}}
}

// misplaced refuses a request that does not stand at the session's next position, nil if it does: then the client has signed
// over the last step.
func (m *Machine) misplaced(msg Message, sequence uint64, transcript wire.Digest) []Action {
	n := m.Len()
	switch {
	case sequence == 0:
		return m.refuse(msg, refusal.WrongSequence, "sequences count from 1; the next is %d", n+1)
	case m.behind != nil:
		return []Action{m.seekSettled()}
	case sequence == n+1 && transcript != m.Head() && m.keeps(transcript) && m.Undecided():
		return []Action{Choose{n, transcript}}
	case m.mayFetch() && (sequence > n+1 || sequence == n+1 && n > m.progress.steps && transcript != m.Head()):
		return []Action{Seek{max(1, n)}}
	case sequence > n+1:
		return m.refuse(msg, refusal.WrongSequence,
			"sequence %d, but this node has %d steps: a step is missing here that the client has seen or not sent", sequence, n)
	case sequence < n+1:
		return m.refuse(msg, refusal.WrongSequence, "sequence %d, but the next is %d", sequence, n+1)
	case n > 0 && !m.steps[n-1].replied:
		return m.refuse(msg, refusal.SessionBusy, "step %d is not answered yet", n)
	case transcript != m.Head():
		return m.refuse(msg, refusal.WrongTranscript, "the request signs over another transcript head than %s", m.Head())
	}
	m.decide()
	return nil
}

func (m *Machine) executed(msg Executed) []Action {
	if m.state != Open || msg.Sequence != m.Len()+1 {
		panic(fmt.Sprintf("session: step %d executed in state %s with %d steps", msg.Sequence, m.state, m.Len()))
	}
	if msg.Time < m.Time() {
		panic("session: a step's time lies before the step before it")
	}
	r := StepRecord{msg.Sequence, msg.Request, msg.Head, msg.Time, m.self}
	m.apply(r)
	acts := []Action{Persist{r}}
	if len(m.policy.Nodes) > 1 {
		acts = append(acts, Send{msg.Sequence})
	}
	return acts
}

// mayFetch reports whether there is another node that may have what this one lacks.
func (m *Machine) mayFetch() bool { return len(m.policy.Nodes) > 1 }

func (m *Machine) replicated(msg Replicated) []Action {
	n := m.Len()
	if msg.Sequence >= 1 && msg.Sequence <= n {
		p := &m.steps[msg.Sequence-1]
		switch {
		case p.head == msg.Head:
			return []Action{Vouch{msg.Sequence}}
		case p.request == msg.Request:
			return m.rival(msg)
		case msg.Previous != m.HeadAt(msg.Sequence-1):
			return m.refuse(msg, refusal.WrongTranscript, "step %d signs over another transcript than this node has", msg.Sequence)
		}
		no := m.refuse(msg, refusal.Equivocation, "step %d of this session is taken by another signed request; both are kept", msg.Sequence)
		if p.twice {
			return no
		}
		r := EvidenceRecord{msg.Sequence, msg.Request}
		m.apply(r)
		return append([]Action{Persist{r}}, no...)
	}
	switch {
	case m.state != Open:
		return m.closed(msg)
	case m.fault != "":
		return m.refuse(msg, m.fault, "run again, the session gives other responses to the same questions")
	case msg.Sequence == 0:
		return m.refuse(msg, refusal.WrongSequence, "sequences count from 1")
	case m.behind != nil:
		return []Action{m.seekSettled()}
	case msg.Sequence == n+1 && msg.Previous == m.Head():
		m.decide()
		return []Action{Execute{msg.Sequence}}
	case msg.Sequence == 1:
		return m.refuse(msg, refusal.WrongTranscript, "step 1 signs over another opening")
	}
	return []Action{Seek{max(1, n)}}
}

func (m *Machine) reproduced(msg Reproduced) []Action {
	n := m.Len()
	if m.state != Open || msg.Sequence != n+1 && (msg.Sequence != n || n == 0) {
		panic(fmt.Sprintf("session: step %d reproduced in state %s with %d steps", msg.Sequence, m.state, n))
	}
	if msg.Sequence > 1 && msg.Time < m.steps[msg.Sequence-2].time {
		panic("session: a step's time lies before the step before it")
	}
	var r Record = StepRecord(msg)
	if msg.Sequence == n {
		r = ReplaceRecord{StepRecord(msg), m.last()}
	}
	m.apply(r)
	p := &m.steps[msg.Sequence-1]
	p.yes, p.replied = m.bit(msg.Originator), true // it has been answered where it was originated
	return []Action{Persist{r}}
}

func (m *Machine) policyChanged(msg PolicyChanged) []Action {
	m.setPolicy(msg.Policy)
	if m.Len() == 0 {
		return nil
	}
	return m.answer(m.Len())
}

func (m *Machine) voted(msg Message, sequence uint64, node wire.PublicKey, yes bool, head wire.Digest) []Action {
	if sequence == 0 || sequence > m.Len() {
		return m.refuse(msg, refusal.WrongSequence, "a vote on step %d, but there are %d", sequence, m.Len())
	}
	bit := m.bit(node)
	if bit&m.asked == 0 {
		return m.refuse(msg, refusal.OriginatorUnknown, "a vote of %s, which is not asked", node)
	}
	p := &m.steps[sequence-1]
	if yes && head != p.head {
		return m.refuse(msg, refusal.WrongTranscript, "%s endorses another step %d", node, sequence)
	}
	switch {
	case p.yes&bit != 0: // it counts once, and is not taken back
		return nil
	case yes:
		p.yes, p.no = p.yes|bit, p.no&^bit
	default:
		p.no |= bit
	}
	return m.answer(sequence)
}

func (m *Machine) waitOver(msg WaitOver) []Action {
	if msg.Sequence == 0 || msg.Sequence > m.Len() {
		return m.refuse(msg, refusal.WrongSequence, "no step %d", msg.Sequence)
	}
	m.steps[msg.Sequence-1].late = true
	return m.answer(msg.Sequence)
}

// answer answers a step if this node has it on disk and nothing is worth waiting for any more.
func (m *Machine) answer(sequence uint64) []Action {
	p := &m.steps[sequence-1]
	own := p.yes&m.bit(m.self) != 0
	all := (p.yes|p.no)&m.asked == m.asked
	enough := all || p.late || m.endorsed(p) >= m.policy.Need
	if p.replied || !own || !enough {
		return nil
	}
	p.replied = true
	return []Action{Reply{sequence, m.endorsed(p), len(m.policy.Nodes)}}
}

func (m *Machine) commitRequested(msg CommitRequested) []Action {
	switch m.state {
	case Committing, Committed:
		// A commit signs the final head; asked again, by whatever connection, it is the same question.
		if msg.Sequence == m.Len()+1 && msg.Transcript == m.Head() {
			if m.state == Committed {
				return []Action{Tell{Committed}}
			}
			return []Action{Await{}}
		}
		return m.closed(msg)
	case Open:
	default:
		return m.closed(msg)
	}
	if m.fault != "" {
		return m.refuse(msg, m.fault, "run again, the session gives other responses to the same questions")
	}
	if r := m.misplaced(msg, msg.Sequence, msg.Transcript); r != nil {
		return r
	}
	if m.progress.underway > 0 {
		return []Action{Later{}}
	}
	return []Action{Recheck{}}
}

func (m *Machine) rechecked(msg Rechecked) []Action {
	r := CommitRecord(msg)
	m.apply(r)
	return []Action{Persist{r}, Tell{Committing}, Submit{}}
}

func (m *Machine) faulted(msg Faulted) []Action {
	if m.state.Ended() || m.fault != "" {
		return nil
	}
	r := FaultRecord(msg)
	m.apply(r)
	return []Action{Persist{r}, Tell{m.state}}
}

func (m *Machine) conflictFound(msg ConflictFound) []Action {
	return m.finish(EndRecord{State: Conflicted, Height: msg.Height})
}

func (m *Machine) settled(msg Settled) []Action {
	switch m.state {
	case Committed:
		if m.end.Transaction != msg.Transaction {
			return []Action{Halt{fmt.Sprintf("the ledger settles a session twice: transaction %s at height %d, %s at %d",
				m.end.Transaction, m.end.Height, msg.Transaction, msg.Height)}}
		}
		return nil
	case Expired:
		return []Action{Halt{fmt.Sprintf("the block at height %d settles a session that an earlier block had expired", msg.Height)}}
	}
	return m.finish(EndRecord{State: Committed, Height: msg.Height, Transaction: msg.Transaction})
}

func (m *Machine) blockTime(msg BlockTime) []Action {
	if m.state.Ended() || msg.Time <= m.expires {
		return nil
	}
	return m.finish(EndRecord{State: Expired})
}

func (m *Machine) abandonRequested(msg AbandonRequested) []Action {
	switch m.state {
	case Abandoned:
		return []Action{Tell{Abandoned}}
	case Open:
	default:
		return m.closed(msg)
	}
	if r := m.misplaced(msg, msg.Sequence, msg.Transcript); r != nil {
		return r
	}
	return m.finish(EndRecord{State: Abandoned})
}

func (m *Machine) finish(r EndRecord) []Action {
	m.apply(r)
	return []Action{Persist{r}, Tell{r.State}}
}
