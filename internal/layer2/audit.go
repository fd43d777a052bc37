package layer2

import (
	"context"
	"encoding/binary"

	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// The audit trail of a session: what this node has decided about it, when and why, in the order of the decisions.
//
// An entry costs no fsync: it goes to disk with the next write that somebody needs, or at the next flush. So a crash loses
// at most the last entries, never one that stands before a record that survived. A session keeps the last maxAudit
// entries; older ones are dropped and counted. After the session's end nothing is added.

// maxAudit bounds the entries kept of one session.
const maxAudit = 256

// The events of an audit trail. A session's ends are named by their state: committed, conflicted, abandoned, expired.
const (
	auditOpened      = "opened"
	auditRecorded    = "step-recorded"     // Node originated it
	auditReplaced    = "variant-taken"     // Node's, in the place of the last step's other one
	auditEndorsement = "endorsement-kept"  // of Node, with the session's records
	auditRefused     = "refused"           // a request about the session; Code says why
	auditReexecuted  = "re-executed"       // on Height, with the recorded responses
	auditEndorsed    = "endorsed"          // by Node
	auditDissented   = "dissented"         // by Node
	auditDissent     = "not-endorsed-here" // Node's step
	auditCommit      = "commit-requested"
	auditSubmitted   = "submitted" // to Layer 1, also again
	auditResult      = "submission-refused"
	auditCheckpoint  = "checkpoint" // in the block at Height, up to the step
	auditFault       = "fault"
	auditTwice       = "equivocation"
	auditEvidence    = "evidence-kept"
)

// AuditEntry is one decision.
type AuditEntry struct {
	Number   uint64 `json:"number"`  // from 1, without gaps
	Time     int64  `json:"time_ms"` // this node's clock
	Event    string `json:"event"`
	Sequence uint64 `json:"sequence,omitempty"` // of the step it is about
	Code     string `json:"code,omitempty"`     // the reason, a code of the error catalogue or a kind of evidence
	Node     string `json:"node,omitempty"`     // did:key of the Layer 2 node it is about
	Height   int64  `json:"height,omitempty"`   // of the state or block
	Detail   string `json:"detail,omitempty"`
}

// Audit is a session's trail at this node.
type Audit struct {
	Session string       `json:"session_id"`
	Node    string       `json:"node"`    // whose trail it is
	Dropped uint64       `json:"dropped"` // entries that are kept no more
	Entries []AuditEntry `json:"entries"`
}

type auditRecord struct {
	_        struct{} `cbor:",toarray"`
	Time     int64
	Event    string
	Sequence uint64
	Code     string
	Node     []byte
	Height   int64
	Detail   string
}

// trail is where a session's audit trail stands on disk: entries first to next-1. The owner's goroutine owns it.
type trail struct {
	loaded      bool
	first, next uint64
}

// Audit returns the session's audit trail. Refusal: session-not-found.
func (e *Engine) Audit(_ context.Context, id wire.SessionID) (Audit, error) {
	leave, err := e.enter()
	if err != nil {
		return Audit{}, err
	}
	defer leave()
	o, err := e.find(id)
	if err != nil {
		return Audit{}, err
	}
	return ask(o, o.auditTrail)
}

func (o *owner) auditTrail() (Audit, error) {
	if o.refused != nil {
		return Audit{}, o.refused
	}
	if err := o.e.journal.flush(); err != nil {
		return Audit{}, o.e.diskRefusal(err)
	}
	a := Audit{Session: o.id.String(), Node: o.e.self.DID(), Entries: []AuditEntry{}}
	err := o.e.journal.scan(keyPart(o.id, partAudit), func(key, b []byte) error {
		var r auditRecord
		if err := decodeRecord(key, b, &r); err != nil {
			return err
		}
		if len(key) != 26 {
			return damagedRecord(key, "has a key of the wrong size")
		}
		entry := AuditEntry{
			Number: binary.BigEndian.Uint64(key[18:]), Time: r.Time, Event: r.Event, Sequence: r.Sequence, Code: r.Code, Height: r.Height, Detail: r.Detail,
		}
		if len(r.Node) == len(wire.PublicKey{}) {
			entry.Node = wire.PublicKey(r.Node).DID()
		}
		a.Entries = append(a.Entries, entry)
		return nil
	})
	if err != nil {
		return Audit{}, o.e.diskRefusal(err)
	}
	if len(a.Entries) > 0 {
		a.Dropped = a.Entries[0].Number - 1
	}
	return a, nil
}

// noteOpened begins the trail of a session that is new here.
func (o *owner) noteOpened() {
	o.trail = trail{loaded: true, first: 1, next: 1}
	o.note(auditRecord{Event: auditOpened, Height: o.openHeight})
}

// noteRerun adds that the session was run again, with the recorded responses.
func (o *owner) noteRerun(height int64) {
	if o.machine.Len() > 0 {
		o.note(auditRecord{Event: auditReexecuted, Sequence: o.machine.Len(), Height: height})
	}
}

// note adds a decision, unless the session has ended.
func (o *owner) note(r auditRecord) {
	if o.refused == nil && !o.machine.State().Ended() {
		o.write(r)
	}
}

// noteFrom is note for a decision about another node.
func (o *owner) noteFrom(node wire.PublicKey, r auditRecord) {
	r.Node = node[:]
	o.note(r)
}

// noteError adds what a request about a step was refused with.
func (o *owner) noteError(event string, sequence uint64, err error) {
	if r, ok := refusal.As(err); ok {
		o.note(auditRecord{Event: event, Sequence: sequence, Code: string(r.Code), Detail: r.Detail})
	}
}

// audit adds the decision that a record stands for, together with it.
func (o *owner) audit(r session.Record) {
	switch r := r.(type) {
	case session.StepRecord:
		o.write(auditRecord{Event: auditRecorded, Sequence: r.Sequence, Node: r.Originator[:]})
	case session.ReplaceRecord:
		o.write(auditRecord{Event: auditReplaced, Sequence: r.Step.Sequence, Node: r.Step.Originator[:], Detail: "the variant of " + r.Kept.Originator.DID() + " is kept beside it"})
	case session.EndorsementRecord:
		o.write(auditRecord{Event: auditEndorsement, Sequence: r.Sequence, Node: r.Node[:]})
	case session.CommitRecord:
		o.write(auditRecord{Event: auditCommit, Sequence: o.machine.Len() + 1})
	case session.CheckpointRecord:
		o.write(auditRecord{Event: auditCheckpoint, Sequence: r.Steps, Height: r.Height})
	case session.FaultRecord:
		o.write(auditRecord{Event: auditFault, Code: string(r.Reason)})
	case session.EvidenceRecord:
		o.write(auditRecord{Event: auditTwice, Sequence: r.Sequence, Code: string(refusal.Equivocation)})
	case session.EndRecord:
		end := auditRecord{Event: r.State.String(), Height: r.Height}
		if r.State == session.Conflicted && o.conflict != nil {
			end.Sequence, end.Code, end.Detail = o.conflict.Step, string(o.conflict.Code), o.conflict.Detail
		}
		o.write(end)
	}
}

func (o *owner) write(r auditRecord) {
	if !o.trail.loaded && !o.loadTrail() {
		return
	}
	r.Time, r.Detail = o.e.now(), r.Detail[:min(len(r.Detail), wire.MaxDetail)]
	o.e.journal.later(op{keyNumbered(o.id, partAudit, o.trail.next), encodeRecord(r)})
	if o.trail.next++; o.trail.next-o.trail.first > maxAudit {
		o.e.journal.later(op{keyNumbered(o.id, partAudit, o.trail.first), nil})
		o.trail.first++
	}
}

// loadTrail finds where the trail stands. It is false if the disk fails, which the next record will find too.
func (o *owner) loadTrail() bool {
	o.trail = trail{first: 1, next: 1}
	if o.e.journal.flush() != nil {
		return false
	}
	err := o.e.journal.scan(keyPart(o.id, partAudit), func(key, _ []byte) error {
		if len(key) != 26 {
			return damagedRecord(key, "has a key of the wrong size")
		}
		n := binary.BigEndian.Uint64(key[18:])
		if o.trail.next == 1 {
			o.trail.first = n
		}
		o.trail.next = n + 1
		return nil
	})
	o.trail.loaded = err == nil
	return err == nil
}
