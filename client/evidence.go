package client

import (
	"slices"

	"tandem/evidence"
	"tandem/internal/httpsig"
	"tandem/internal/wire"
)

// maxEvidence bounds the evidence files that a session collects.
const maxEvidence = 8

// witness remembers which answers nodes have sealed to the request at the session's next position, also those that were
// not believed in the end (too few endorsements, say), and what they prove against each other.
type witness struct {
	sequence uint64
	sealed   map[wire.PublicKey]evidence.Answer // the first of each originator's
	files    [][]byte
}

// note takes in a recorded answer whose seal and transcript head are right.
func (w *witness) note(open *wire.Request, previous wire.Digest, tx *wire.Transaction, a httpsig.Answer, rep *reply) {
	if w.sequence != tx.Sequence {
		w.sequence, w.sealed = tx.Sequence, map[wire.PublicKey]evidence.Answer{}
	}
	now := evidence.Answer{Previous: previous, Recorded: wire.Recorded{Transaction: *tx, Height: a.Height, Seal: rep.seal}}
	first, known := w.sealed[a.Originator]
	if !known {
		w.sealed[a.Originator] = now
		return
	}
	if wire.TranscriptNext(first.Previous, first.Recorded.Transaction) == a.Transcript || len(w.files) == maxEvidence {
		return
	}
	if file, err := evidence.OfNode(*open, first, now); err == nil {
		w.files = append(w.files, file)
	}
}

// Evidence returns the evidence files (package evidence, docs/format/evidence.md) that the session has collected against
// nodes: each proves offline that a node sealed two different answers to one request of this session, or is one that
// [Session.Accuse] was given. There are none if all nodes behave. An [AnswerError] alone is rarely evidence: what a node did not
// sign cannot be held against it.
func (s *Session) Evidence() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.witness.files)
}
