package layer1

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// Quarantine is a session this validator leaves out of its own proposals for some blocks, because it made a proposal
// fail: a nondeterministic handler, a step that runs too long.
type Quarantine struct {
	Session     wire.SessionID
	Transaction wire.Digest  // hash of the Layer 1 transaction
	Step        uint64       // the step concerned, 0 if not known
	Field       string       // what differed: "status", "body", "header Location", "writes", "root"; may be empty
	Reason      refusal.Code // response-differs, step-too-long, nondeterministic-handler
	Detail      string
	Height      int64 // of the proposal that failed
	Until       int64 // last height whose proposals leave it out
}

// Limits of the ward. All are about liveness only: no validator's vote depends on them.
const (
	maxQuarantined = 1024
	maxSuspects    = 4096
	memoryHeights  = 10_000 // after so many heights without an offence everything is forgotten
	maxDoublings   = 10     // of the heights, for repeated offences
)

// ward keeps the quarantined and the suspects. It is safe for concurrent use.
//
// A *suspect* is a session that was in a proposal which failed for a reason that names nobody: its root differed though
// every response agreed, or it was our own and the block that was decided instead does not hold it. Such proposals by
// two different validators, or own ones at three heights, make a suspect quarantined (a height counts once: while too
// few validators are up, round after round fails and nobody is to blame). Until then a proposal holds at most one
// suspect, so that the guilty one is soon alone.
type ward struct {
	heights int64 // of a first quarantine

	mu       sync.Mutex
	patients map[wire.Digest]*patient   // guarded by mu
	suspects map[wire.Digest]*suspicion // guarded by mu
}

type patient struct {
	Quarantine
	offences int
}

type suspicion struct {
	proposers map[string]bool // who proposed it when the root differed
	failures  int             // heights whose own proposals were not decided
	height    int64           // last time
}

// failuresAllowed is how many heights' own proposals may fail before a session in all of them is quarantined.
const failuresAllowed = 2

func newWard(heights int64) *ward {
	return &ward{heights: heights, patients: map[wire.Digest]*patient{}, suspects: map[wire.Digest]*suspicion{}}
}

// admit quarantines a transaction from height on; a repeated offence doubles the time. It returns the entry.
func (w *ward) admit(q Quarantine) Quarantine {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.patients[q.Transaction]
	if !ok {
		if len(w.patients) >= maxQuarantined {
			w.discharge(q.Height)
		}
		p = &patient{}
		w.patients[q.Transaction] = p
	} else if q.Height > p.Height && p.offences <= maxDoublings {
		p.offences++
	}
	p.Quarantine = q
	p.Until = q.Height + w.heights<<p.offences
	delete(w.suspects, q.Transaction)
	return p.Quarantine
}

// discharge makes room: it forgets who is out longest, or would be out first.
func (w *ward) discharge(height int64) {
	var first *patient
	for _, p := range w.patients {
		if first == nil || cmp.Or(cmp.Compare(p.Until, first.Until), slices.Compare(p.Transaction[:], first.Transaction[:])) < 0 {
			first = p
		}
	}
	if first != nil {
		delete(w.patients, first.Transaction)
	}
}

// quarantined finds a transaction that proposals of this height must leave out.
func (w *ward) quarantined(tx wire.Digest, height int64) (Quarantine, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.patients[tx]
	if !ok || height > p.Until {
		return Quarantine{}, false
	}
	return p.Quarantine, true
}

// list is everybody in quarantine at a height, by session.
func (w *ward) list(height int64) []Quarantine {
	w.mu.Lock()
	defer w.mu.Unlock()
	var qs []Quarantine
	for _, p := range w.patients {
		if height <= p.Until {
			qs = append(qs, p.Quarantine)
		}
	}
	slices.SortFunc(qs, func(a, b Quarantine) int {
		return cmp.Or(slices.Compare(a.Session[:], b.Session[:]), slices.Compare(a.Transaction[:], b.Transaction[:]))
	})
	return qs
}

// suspect notes that a transaction was in a failed proposal. proposer is empty for an own proposal. It reports whether
// that is enough for quarantine.
func (w *ward) suspect(tx wire.Digest, proposer string, height int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.suspects[tx]
	if !ok {
		if len(w.suspects) >= maxSuspects {
			return false // a flood of failures names nobody any more
		}
		s = &suspicion{proposers: map[string]bool{}}
		w.suspects[tx] = s
	}
	if proposer == "" {
		if s.height != height {
			s.failures++
		}
	} else {
		s.proposers[proposer] = true
	}
	s.height = height
	return s.failures > failuresAllowed || len(s.proposers) >= 2
}

func (w *ward) suspected(tx wire.Digest) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.suspects[tx]
	return ok
}

// committed forgets what is in the ledger now, and what has grown old.
func (w *ward) committed(height int64, txs []wire.Digest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, tx := range txs {
		delete(w.patients, tx)
		delete(w.suspects, tx)
	}
	maps.DeleteFunc(w.patients, func(_ wire.Digest, p *patient) bool { return height > p.Until+memoryHeights })
	maps.DeleteFunc(w.suspects, func(_ wire.Digest, s *suspicion) bool { return height > s.height+memoryHeights })
}

// refusal is what CheckTx and Layer 2 are told.
func (q Quarantine) refusal() *refusal.Refusal {
	r := refusal.New(refusal.Quarantined, "%s", q.Detail).With("session", q.Session.String()).
		With("transaction_hash", q.Transaction.String()).With("reason", string(q.Reason)).With("until_height", q.Until)
	if q.Step > 0 {
		r = r.With("step", q.Step)
	}
	if q.Field != "" {
		r = r.With("field", q.Field)
	}
	return r
}
