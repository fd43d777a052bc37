package layer2

import (
	"container/heap"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// recover brings the sessions on disk back into memory.
func (e *Engine) recover(dir string) error {
	damage := func(err error) error {
		var rec *recordError
		if errors.As(err, &rec) {
			return &Damage{Dir: dir, What: rec.what, Remedy: remedy}
		}
		return &Damage{Dir: dir, What: "the records cannot be read", Remedy: remedy, Err: err}
	}
	if err := e.checkMeta(dir); err != nil {
		var d *Damage
		if errors.As(err, &d) {
			return err
		}
		return damage(err)
	}
	if err := e.journal.scan([]byte{'x'}, func(key, _ []byte) error {
		if len(key) != 25 {
			return damagedRecord(key, "has a key of the wrong size")
		}
		e.numbers.Store(binary.BigEndian.Uint64(key[1:9]))
		e.kept.Add(1)
		return nil
	}); err != nil {
		return damage(err)
	}
	v, err := e.o.Ledger.View()
	if err != nil {
		return fmt.Errorf("recover sessions: read the ledger's state: %w", err)
	}
	e.height, e.time = v.Height(), e.o.Ledger.Time()
	var live []wire.SessionID
	if err := e.journal.scan([]byte{'l'}, func(key, _ []byte) error {
		if len(key) != 17 {
			return damagedRecord(key, "has a key of the wrong size")
		}
		live = append(live, wire.SessionID(key[1:]))
		return nil
	}); err != nil {
		return damage(err)
	}
	owners, err := e.loadAll(live)
	if err != nil {
		return damage(err)
	}
	for _, o := range owners {
		e.sessions[o.id] = o
		heap.Push(&e.expiring, o)
	}
	var all sync.WaitGroup
	work := make(chan *owner)
	for range workers() {
		all.Go(func() {
			for o := range work {
				o.recovered(v)
			}
		})
	}
	for _, o := range owners {
		work <- o
	}
	close(work)
	all.Wait()
	if len(owners) > 0 {
		s := e.Stats()
		e.o.Logger.Info("sessions recovered", "loaded", len(owners), "open", s.Open, "committing", s.Committing, "conflicts", s.Conflicts, "height", e.height)
	}
	return nil
}

// loadAll reads the sessions back, several at once. The error names every damaged session.
func (e *Engine) loadAll(ids []wire.SessionID) ([]*owner, error) {
	owners := make([]*owner, len(ids))
	errs := make([]error, len(ids))
	var all sync.WaitGroup
	for w := range workers() {
		all.Go(func() {
			for i := w; i < len(ids); i += workers() {
				l, ok, err := e.load(ids[i])
				switch {
				case err != nil:
					errs[i] = err
				case !ok:
					errs[i] = damagedRecord(keyPart(ids[i], partOpen), "is missing")
				case l.machine.State().Ended():
					errs[i] = damagedRecord(keyLive(ids[i]), "is there, but so is the session's outcome")
				default:
					owners[i] = e.owner(ids[i], l)
				}
			}
		})
	}
	all.Wait()
	var what string
	for _, err := range errs {
		var rec *recordError
		switch {
		case err == nil:
		case errors.As(err, &rec) && what == "":
			what = rec.what
		case errors.As(err, &rec):
			what += "; " + rec.what
		default:
			return nil, err
		}
	}
	if what != "" {
		return nil, &recordError{what}
	}
	return owners, nil
}

// recovered brings one session up to date with the ledger at the start. It runs before the engine has goroutines of its
// own, so it may act in the owner's place.
func (o *owner) recovered(v *state.View) {
	if v.Height() < o.newest {
		o.e.o.Logger.Warn("the ledger here is behind a session", "session", o.id, "height", v.Height(), "session_height", o.newest)
		o.resumeCommit()
		return // run again when the ledger has caught up: refresh
	}
	if o.inView(v) {
		return
	}
	if o.expire(o.e.o.Ledger.Time()); o.machine.State().Ended() {
		return
	}
	if o.body.Fingerprint != o.e.o.Runner.Fingerprint() {
		o.e.o.Logger.Warn("session was opened for other service code", "session", o.id)
		return // its steps and commit are refused in these words; it expires
	}
	if o.machine.Fault() == "" {
		if err := o.refresh(false); err != nil && !o.machine.State().Ended() {
			o.e.o.Logger.Warn("session not run again at the start", "session", o.id, "error", err)
		}
	}
	o.resumeCommit()
}

// resumeCommit takes up a commit or checkpoint that was on disk when the node stopped, if there is one. It is submitted at
// the first block or tick.
func (o *owner) resumeCommit() {
	if req, _ := o.inFlight(); req == nil {
		return
	}
	if _, err := o.inFlightTransaction(); err != nil {
		return
	}
	o.e.committing(o)
}

// checkMeta compares the log's owner with this node; a new log gets one.
func (e *Engine) checkMeta(dir string) error {
	mine := metaRecord{Chain: e.o.ChainID, Node: e.self}
	b, ok, err := e.journal.get(keyMeta)
	if err != nil {
		return err
	}
	if !ok {
		return e.journal.append(op{keyMeta, encodeRecord(mine)})
	}
	var m metaRecord
	if err := decodeRecord(keyMeta, b, &m); err != nil {
		return err
	}
	if m != mine {
		return &Damage{Dir: dir, What: fmt.Sprintf("it belongs to node %s on chain %q, not to node %s on chain %q", m.Node, m.Chain, mine.Node, mine.Chain),
			Remedy: "Start the node with its own key and genesis, or with another directory"}
	}
	return nil
}

// payload turns the machine's record into writes. For steps and evidence the callers, who have the bytes, do it.
func (o *owner) payload(r session.Record) []op {
	switch r := r.(type) {
	case session.CommitRecord:
		return []op{{keyPart(o.id, partCommit), encodeRecord(commitRecord{Request: o.commit.Encode()})}}
	case session.FaultRecord:
		rec := faultRecord{Code: string(r.Reason)}
		if o.fault != nil {
			rec.Detail = o.fault.Detail
			rec.Step, _ = o.fault.Fields["step"].(uint64)
			rec.Field, _ = o.fault.Fields["field"].(string)
		}
		return []op{{keyPart(o.id, partFault), encodeRecord(rec)}}
	case session.CheckpointRecord:
		return []op{{keyNumbered(o.id, partCheckpoint, r.Steps), encodeRecord(checkpointRecord{Request: o.cp.request.Encode()})}}
	case session.EndRecord:
		return o.endPayload(r)
	}
	panic(fmt.Sprintf("layer2: no payload for %T", r))
}

func (o *owner) endPayload(r session.EndRecord) []op {
	if r.State != session.Committed {
		o.ended = &endRecord{State: r.State.String(), Height: r.Height}
		if r.State == session.Conflicted && o.conflict != nil {
			o.ended.Conflict, _ = json.Marshal(o.conflict)
		}
		if r.State == session.Abandoned && o.leaving != nil {
			o.ended.Request = o.leaving.Encode()
		}
	}
	if o.ended.Number == 0 {
		o.ended.Number = o.e.numbers.Add(1)
		o.e.kept.Add(1)
	}
	ops := []op{
		{keyPart(o.id, partEnd), encodeRecord(*o.ended)},
		{keyEnded(o.ended.Number, o.id), []byte{}},
		{keyLive(o.id), nil},
	}
	if r.State == session.Committed && o.commit != nil {
		ops = append(ops, op{keyPart(o.id, partCommit), encodeRecord(commitRecord{Request: o.commit.Encode()})})
	}
	return ops
}

// prune deletes the oldest ended sessions beyond the number that is kept, some at a time.
func (e *Engine) prune() {
	excess := e.kept.Load() - int64(e.o.RetainEnded)
	if excess <= 0 {
		return
	}
	enough := errors.New("enough")
	var ids []wire.SessionID
	var ops []op
	err := e.journal.scan([]byte{'x'}, func(key, _ []byte) error {
		ids = append(ids, wire.SessionID(key[9:25]))
		ops = append(ops, op{append([]byte{}, key...), nil})
		if int64(len(ids)) >= min(excess, 100) {
			return enough
		}
		return nil
	})
	if err != nil && err != enough {
		e.o.Logger.Error("old sessions cannot be listed", "error", err)
		return
	}
	for _, id := range ids {
		if err := e.journal.scan(keySession(id), func(key, _ []byte) error {
			ops = append(ops, op{append([]byte{}, key...), nil})
			return nil
		}); err != nil {
			e.o.Logger.Error("an old session cannot be listed", "session", id, "error", err)
		}
	}
	if err := e.journal.append(ops...); err == nil {
		e.kept.Add(-int64(len(ids)))
	}
}
