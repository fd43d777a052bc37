package session

import (
	"bytes"
	"fmt"
	"slices"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// Variants. Two originators that cannot hear each other (a retry race, a partition) may both answer one signed step, at
// different times: two variants of the last position, each honest, each with its own transcript head. Which one is part of the
// session only the client can say, and it does so without knowing: its next signature is over the head of the answer that it
// used. Until then this holds:
//
//  1. A node stands at one variant, and keeps the others that it has stood at. A variant that somebody may have been answered
//     with is therefore still on every disk that it was acknowledged on, and the client's next signature brings it back
//     (Choose).
//  2. A node that hears of a variant with a smaller head moves to it, if it runs with the recorded response here (Supplant). It never
//     moves to a larger one by itself. The smaller of two heads is commutative, associative and idempotent, so nodes that
//     hear of the same variants, in whatever order and however often, stand at the same one: a client that asks for more
//     endorsements than one side of a partition had gets them from any node once the sides hear each other.
//  3. The client's signature over a head decides. From then on this node moves to no other by itself, and when the signed
//     request is recorded, or the commit, the others are void. So at most one variant survives.
//
// An originator can try out times until its head is small, and so make others move. It wins nothing: what it offers must be a
// true answer, the client's choice is not affected, and MaxVariants bounds the work.

// MaxVariants bounds the variants of one position that a node keeps beside the one it stands at. When there are so many it moves
// to no other by itself.
const MaxVariants = 8

// Supplant asks to run another variant of the last step in its place, which Replicated has brought: Reproduced follows if it
// answers as recorded. If not, nothing follows, and the last step stays.
type Supplant struct{ Sequence uint64 }

// Choose asks to put a variant that is kept, of the last step, in its place, because the client has signed over it; Reproduced
// follows, and then the same request again. If it cannot be run any more, the request is refused.
type Choose struct {
	Sequence uint64
	Head     wire.Digest
}

func (Supplant) action() {}
func (Choose) action()   {}

// ReplaceRecord puts a variant of the last step in the place of another, which is kept: one atomic write. On disk, and for
// Restore, it is a StepRecord and a VariantRecord.
type ReplaceRecord struct{ Step, Kept StepRecord }

// VariantRecord is a variant of the last step that is kept beside it. It is void once a step follows.
type VariantRecord StepRecord

func (ReplaceRecord) record() {}
func (VariantRecord) record() {}

// Variants returns the heads of the variants of the last step that are kept beside it, smallest first.
func (m *Machine) Variants() []wire.Digest {
	var heads []wire.Digest
	for _, v := range m.variants {
		heads = append(heads, v.Head)
	}
	slices.SortFunc(heads, func(a, b wire.Digest) int { return bytes.Compare(a[:], b[:]) })
	return heads
}

// Undecided reports whether another variant may still take the last step's place without the client's word: there is a step that no
// block and no checkpoint under way holds, and the client has not signed over it here.
func (m *Machine) Undecided() bool {
	n := m.Len()
	return m.state == Open && m.fault == "" && m.behind == nil && n > m.progress.steps && n > m.progress.underway && !m.steps[n-1].decided
}

// Yields reports whether this node, standing at this step, would move to a variant with this head.
func (m *Machine) Yields(sequence uint64, head wire.Digest) bool {
	if sequence != m.Len() || !m.Undecided() || len(m.variants) >= MaxVariants {
		return false
	}
	mine := m.Head()
	return bytes.Compare(head[:], mine[:]) < 0
}

// rival decides about another originator's variant of a step that is here.
func (m *Machine) rival(msg Replicated) []Action {
	if m.Yields(msg.Sequence, msg.Head) {
		return []Action{Supplant{msg.Sequence}}
	}
	return m.refuse(msg, refusal.PositionTaken, "this node has step %d as another node answered it", msg.Sequence)
}

// keeps reports whether a variant of the last step with this head is kept.
func (m *Machine) keeps(head wire.Digest) bool {
	return slices.ContainsFunc(m.variants, func(v VariantRecord) bool { return v.Head == head })
}

// decide notes that the client has signed over the last step.
func (m *Machine) decide() {
	if n := m.Len(); n > 0 {
		m.steps[n-1].decided = true
	}
}

func (m *Machine) restoreVariant(r VariantRecord) error {
	if r.Sequence == 0 || r.Sequence > m.Len() {
		return fmt.Errorf("a variant of step %d of %d", r.Sequence, m.Len())
	}
	return nil
}

// keep keeps a variant of the last step; one of an earlier step is void.
func (m *Machine) keep(v VariantRecord) {
	if v.Sequence == m.Len() && v.Head != m.Head() && !m.keeps(v.Head) {
		m.variants = append(m.variants, v)
	}
}

// replace puts a variant in the place of the last step.
func (m *Machine) replace(r ReplaceRecord) {
	n := m.Len()
	m.variants = slices.DeleteFunc(m.variants, func(v VariantRecord) bool { return v.Head == r.Step.Head })
	m.steps[n-1] = position{request: r.Step.Request, head: r.Step.Head, time: r.Step.Time, originator: r.Step.Originator, twice: m.steps[n-1].twice}
	m.keep(VariantRecord(r.Kept))
}

// last returns the last step as it was recorded.
func (m *Machine) last() StepRecord {
	n := m.Len()
	p := &m.steps[n-1]
	return StepRecord{Sequence: n, Request: p.request, Head: p.head, Time: p.time, Originator: p.originator}
}
