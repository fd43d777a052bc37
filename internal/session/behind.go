package session

import (
	"slices"

	"tandem/internal/refusal"
)

// Behind a checkpoint. A checkpoint may be made through another node while this one lacks steps that it holds (it was away, or has
// lost its disk), or stands at a variant of the last of them that the client has not chosen. Layer 1's record of the session names
// the transcript head T_n at which the checkpoint ended, and by the chain of hashes every request, response, originator and time up
// to n. So steps that lead from what this node has to T_n are the steps in the block, whoever sends them; they need not, and on a
// state that holds them already cannot, be run again. Until it has them the machine seeks them for every request, and nothing is
// recorded.

// SettledSteps brings the steps of this node's history, from the first that it lacks or has otherwise, up to the checkpoint that it is
// behind. The caller has computed the heads from the steps themselves, the first from HeadAt of the step before it.
type SettledSteps struct{ Steps []StepRecord }

func (SettledSteps) name() string { return "settled-steps" }

// CaughtUpRecord takes settled steps and the checkpoint that holds them in one atomic write. On disk, and for Restore, they are
// StepRecords, the first perhaps in the place of another variant, and a CheckpointRecord.
type CaughtUpRecord struct {
	Steps      []StepRecord
	Checkpoint CheckpointRecord
}

func (CaughtUpRecord) record() {}

// Behind returns the newest checkpoint on the ledger whose steps this node lacks; nil if it lacks none.
func (m *Machine) Behind() *CheckpointSettled { return m.behind }

// fallBehind notes that a block holds steps that this node lacks, and asks for them.
func (m *Machine) fallBehind(msg CheckpointSettled) []Action {
	m.behind = &msg
	return []Action{m.seekSettled()}
}

func (m *Machine) seekSettled() Action {
	return Seek{max(1, min(m.Len(), m.behind.Steps))}
}

func (m *Machine) settledSteps(msg SettledSteps) []Action {
	b := m.behind
	if b == nil || m.state.Ended() && m.state != Conflicted && m.state != Abandoned {
		return nil
	}
	first := m.Len() + 1
	if len(msg.Steps) > 0 {
		first = msg.Steps[0].Sequence
	}
	fits := first > m.progress.steps && first <= m.Len()+1 && len(msg.Steps) > 0
	for i, s := range msg.Steps {
		fits = fits && s.Sequence == first+uint64(i)
	}
	if last := len(msg.Steps) - 1; !fits || msg.Steps[last].Sequence != b.Steps || msg.Steps[last].Head != b.Head {
		return m.refuse(msg, refusal.TranscriptMissing, "these steps do not lead to the checkpoint of %d steps that the ledger holds", b.Steps)
	}
	r := CaughtUpRecord{slices.Clone(msg.Steps), CheckpointRecord{Number: b.Number, Steps: b.Steps, Height: b.Height, Transaction: b.Transaction}}
	m.apply(r)
	return []Action{Persist{r}}
}

func (m *Machine) catchUp(r CaughtUpRecord) {
	m.steps = m.steps[:r.Steps[0].Sequence-1]
	for _, s := range r.Steps {
		m.apply(s)
		m.steps[s.Sequence-1].replied = true // it has been answered where it was originated
		m.steps[s.Sequence-1].yes = m.bit(s.Originator)
	}
	m.apply(r.Checkpoint)
	m.behind = nil
}
