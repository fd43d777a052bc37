package layer2

import (
	"encoding/json"
	"maps"

	"tandem/internal/events"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// Publisher is told of what happens to sessions, when it is on disk: openings, changes of state, conflicts. Publish must
// not block; it is called from the sessions' goroutines, in order for each session. *events.Log is one.
type Publisher interface {
	Publish(e events.Event)
}

// SessionNotice is the data of an event of kind session; docs/format/events.md.
type SessionNotice struct {
	Session     string        `json:"session_id"`
	Actor       string        `json:"actor"`
	Status      session.State `json:"status"`
	Sequence    uint64        `json:"sequence"`                   // recorded steps
	Fault       string        `json:"fault,omitempty"`            // code: open, but it cannot be committed
	Height      int64         `json:"height,omitempty"`           // of the block, once committed
	Transaction string        `json:"transaction_hash,omitempty"` // once committing
	Supersedes  string        `json:"supersedes,omitempty"`
	Elsewhere   bool          `json:"elsewhere,omitempty"` // committed through other nodes; this one has no steps
}

// BlockNotice is the data of an event of kind block.
type BlockNotice struct {
	Height   int64            `json:"height"`
	Time     int64            `json:"time_ms"`
	Changes  int              `json:"changes"`  // keys that the block changed
	Count    int              `json:"count"`    // sessions in it
	Sessions []BlockedSession `json:"sessions"` // the first 100 of them
}

// BlockedSession is a session in a block.
type BlockedSession struct {
	Session     string `json:"session_id"`
	Actor       string `json:"actor"`
	Transaction string `json:"transaction_hash"`
}

// BlockEvent is the event that tells of a block.
func BlockEvent(b Block) events.Event {
	n := BlockNotice{Height: b.Height, Time: b.Time, Changes: len(b.Changes), Count: len(b.Sessions), Sessions: []BlockedSession{}}
	for _, s := range b.Sessions[:min(len(b.Sessions), 100)] {
		n.Sessions = append(n.Sessions, BlockedSession{s.ID.String(), s.Actor, s.Transaction.String()})
	}
	return events.Event{Kind: events.Block, Data: notice(n)}
}

// notice encodes an event's data. Its types always encode.
func notice(v any) json.RawMessage { return must(json.Marshal(v)) }

// noteRecord tells of a record that is on disk now. It runs on the owner's goroutine.
func (o *owner) noteRecord(r session.Record) {
	if o.e.o.Events == nil {
		return
	}
	switch r := r.(type) {
	case session.CommitRecord, session.FaultRecord:
		o.noteState()
	case session.EndRecord:
		if r.State == session.Conflicted && o.conflict != nil {
			o.noteConflict()
		}
		o.noteState()
	}
}

// noteState tells of the state in which the session is.
func (o *owner) noteState() {
	if o.e.o.Events == nil {
		return
	}
	n := SessionNotice{
		Session: o.id.String(), Actor: o.actor, Status: o.machine.State(), Sequence: o.machine.Len(), Fault: string(o.machine.Fault()),
	}
	if o.body.Supersedes != nil {
		n.Supersedes = o.body.Supersedes.String()
	}
	switch n.Status {
	case session.Committing:
		n.Transaction = o.hash.String()
	case session.Committed:
		n.Height, n.Transaction, n.Elsewhere = o.ended.Height, o.ended.Transaction.String(), !o.ended.Ours
	}
	o.e.o.Events.Publish(events.Event{Kind: events.Session, Session: n.Session, Actor: n.Actor, Data: notice(n)})
}

// noteConflict tells the loser at once: which step, which keys, who won, old and new response. The members are those of
// the problem document that its next request gets.
func (o *owner) noteConflict() {
	r := o.conflict.refusal(o.id)
	members := maps.Clone(r.Fields)
	delete(members, "session")
	delete(members, "status_of_session")
	members["session_id"], members["actor"] = o.id.String(), o.actor
	members["code"], members["detail"] = r.Code, r.Detail
	o.e.o.Events.Publish(events.Event{Kind: events.Conflict, Session: o.id.String(), Actor: o.actor, Data: notice(members)})
}

// noteElsewhere tells of a session in a block that this node does not hold.
func (e *Engine) noteElsewhere(s Settled, height int64) {
	if e.o.Events == nil {
		return
	}
	n := SessionNotice{
		Session: s.ID.String(), Actor: s.Actor, Status: session.Committed, Height: height, Transaction: s.Transaction.String(), Elsewhere: true,
	}
	e.o.Events.Publish(events.Event{Kind: events.Session, Session: n.Session, Actor: n.Actor, Data: notice(n)})
}

// notePeer tells that another Layer 2 node is connected to this one, or not any more.
func (e *Engine) notePeer(peer wire.PublicKey, state string) {
	if e.o.Events != nil {
		e.o.Events.Publish(events.Event{Kind: events.Node, Data: notice(map[string]string{"peer": peer.DID(), "state": state})})
	}
}
