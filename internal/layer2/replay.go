package layer2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"tandem"
	"tandem/internal/exec"
	"tandem/internal/judge"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// The race between a step and a block.
//
// A block is told to the engine (OnBlock) at any moment of a step. Under Engine.mu, OnBlock in one go puts the block into the
// ring and marks every session dirty whose reads in the index meet the block's changes. A step, before it is written to
// disk, in one go under Engine.mu (register) looks whether its session is dirty, looks whether a block in the ring after
// its base has changed what the step itself has read, and enters its reads into the index. So for every pair of a read and a
// block: either register comes first, then OnBlock finds the read in the index; or OnBlock comes first, then it has marked
// the session (reads of earlier steps, in the index already) or register finds the block in the ring (reads of this
// step). None is missed, and a step that lost the race is run again before anybody has seen its answer.
//
// A view may be newer than the last block that OnBlock was told of. refresh waits for OnBlock to catch up; should that
// take too long, the session is run again on the newer view, and the block finds the reads in the index when it comes.
//
// A session that no block has touched is put onto the newest view without being run: all its reads are in the index, no
// change since met them, so running it again would ask the same questions, get the same answers, and so respond the same.
//
// So whatever this node signs about a step at a height, all the session's steps, run on the state at that height, answer
// as recorded. docs/format/evidence.md builds on this: a node of which it is not true is convicted of a lie.

// difference is why a session, run again, is not what it was.
type difference struct {
	step     uint64
	field    string
	code     refusal.Code // conflict, nondeterministic-handler, key-revoked, ...
	cause    *refusal.Refusal
	old      *stored
	status   int
	body     []byte
	changed  []int // indexes of questions that were answered otherwise
	kinds    []byte
	keys     []state.Range // the changed questions in full
	explains string
}

// rerun runs all recorded steps on a new overlay over v. The difference is nil if the session still answers the same, and
// then it stands on v. The error is a refusal: the run could not be finished (a handler over its time, a failing disk).
func (o *owner) rerun(v *state.View) (*difference, error) { return o.rerunTo(v, o.machine.Len()) }

// rerunTo is rerun for the steps up to last; the session then stands on v as if it had no more.
func (o *owner) rerunTo(v *state.View, last uint64) (*difference, error) {
	if last > 0 {
		o.e.counts.reexecuted.Add(1)
	}
	from, err := o.settledIn(v) // those are in the state
	if err != nil {
		return nil, err
	}
	from = min(from, last)
	source := &questioner{base: v, want: true}
	overlay := state.NewOverlay(source)
	var asked []question
	askedTo := make([]int, from)
	var keys []state.Range
	var diff *difference
	stop := errors.New("different")
	again := func(s *stored) error {
		child := overlay.Child()
		result, refused, err := o.run(child, &s.tx.Request, s.tx.Sequence, s.tx.Time, s.tx.Originator)
		if err != nil {
			return err
		}
		keys = append(keys, source.keys[:min(len(source.keys), maxQuestions)]...)
		asked = append(asked, source.take()...)
		askedTo = append(askedTo, len(asked))
		if refused != nil {
			diff = &difference{step: s.tx.Sequence, field: "actor", code: refused.Code, cause: refused, old: s, explains: refused.Detail}
		} else if field, same := exec.Compare(s.tx.Response, result); !same {
			diff = &difference{step: s.tx.Sequence, field: field, old: s, status: result.Response.Status, body: result.Body}
		} else {
			child.Merge()
			return nil
		}
		return stop
	}
	if last > from {
		if err := o.eachStoredIn(from, last, again); err != nil && err != stop {
			return nil, err
		}
	}
	if diff != nil {
		diff.judge(o.askedBetween(from, diff.step), asked, keys)
		return diff, nil
	}
	source.want, source.keys = false, nil
	o.noteRerun(v.Height())
	o.overlay, o.source, o.base, o.asked, o.askedTo = overlay, source, v.Height(), asked, askedTo
	return nil, nil
}

// askedBetween returns what the steps after from up to step asked.
func (o *owner) askedBetween(from, step uint64) []question {
	first, last := 0, len(o.asked)
	if n := uint64(len(o.askedTo)); step <= n {
		last = o.askedTo[step-1]
	} else if from > n {
		return nil
	}
	if from > 0 {
		first = o.askedTo[from-1]
	}
	return o.asked[first:last]
}

// judge tells a conflict from a handler that is not deterministic.
func (d *difference) judge(old, now []question, keys []state.Range) {
	d.changed = divergence(old, now)
	for _, i := range d.changed {
		d.kinds = append(d.kinds, now[i].Kind)
		d.keys = append(d.keys, keys[i])
	}
	switch {
	case d.code != "":
	case len(d.changed) > 0 || len(old) >= maxQuestions:
		d.code = refusal.Conflict
		d.explains = fmt.Sprintf("step %d would now answer otherwise (%s)", d.step, d.field)
	default:
		d.code = refusal.Nondeterministic
		d.explains = fmt.Sprintf("step %d answered otherwise (%s) when it was run again, though nothing that it read has changed", d.step, d.field)
	}
}

// run runs one step's handler on child. refused says that the actor may not act (any more). What is read to find that
// out is part of the step's reads, so that a revocation touches the session like any other change.
func (o *owner) run(child *state.Overlay, req *wire.Request, sequence uint64, time int64, originator wire.PublicKey) (exec.Result, *refusal.Refusal, error) {
	actor, err := o.admit(child, req.Key, originator)
	if err != nil {
		if r, ok := refusal.As(err); ok {
			return exec.Result{}, r, nil
		}
		if errors.Is(err, state.ErrPruned) {
			return exec.Result{}, nil, errStale
		}
		return exec.Result{}, nil, o.e.stateRefusal(err)
	}
	result, err := o.e.o.Runner.Run(o.e.ctx, child, exec.Step{Request: req, Actor: actor, Session: o.id, Sequence: sequence, Time: time})
	if err == nil {
		return result, nil, nil
	}
	if r, ok := refusal.As(err); ok {
		return exec.Result{}, nil, r.With("session", o.id.String()).With("step", sequence)
	}
	if o.e.ctx.Err() != nil {
		return exec.Result{}, nil, shuttingDown()
	}
	if errors.Is(err, state.ErrPruned) {
		return exec.Result{}, nil, errStale
	}
	return exec.Result{}, nil, o.e.stateRefusal(err)
}

// errStale says that so many blocks came while a step ran that the state under it is no longer kept: run it again.
var errStale = errors.New("the state under the step is gone")

// admit is [judge.Admit] for this session.
func (o *owner) admit(r ledger.Reader, key, originator wire.PublicKey) (tandem.Actor, error) {
	return judge.Admit(r, o.id, o.body.Supersedes, key, originator)
}

// refresh puts the session onto the newest state, running it again if a block has touched it. After it, o.overlay stands on
// o.base. It returns the refusal that a request gets instead: the session has conflicted, or cannot be checked now.
func (o *owner) refresh(always bool) error {
	for range 16 {
		again := o.e.takeDirty(o) || o.overlay == nil || always
		v, err := o.e.newest()
		if err != nil {
			return err
		}
		if v.Height() < o.newest {
			return refusal.New(refusal.HeightNotReached, "this node's ledger is at height %d, the session has seen %d", v.Height(), o.newest)
		}
		// Of a block that OnBlock has not told of in time nobody has compared the changes with the session's reads.
		again = again || v.Height() > o.e.Height()
		if !again {
			if v.Height() != o.base {
				o.source.base, o.base = v, v.Height()
			}
			return nil
		}
		if o.inView(v) { // its own block: what it changed is no conflict
			return o.settlement().err
		}
		if o.machine.Fault() == refusal.TranscriptMissing || o.machine.Behind() != nil {
			return o.explain(refusal.New(refusal.TranscriptMissing, "steps of the session are missing here"))
		}
		was := o.base
		diff, err := o.rerun(v)
		if err != nil {
			o.e.setDirty(o)
			if err == errStale {
				continue
			}
			return err
		}
		if diff != nil {
			return o.different(diff, was, v.Height())
		}
		if o.e.register(o, o.overlay.Reads(), nil, true) {
			o.e.hints.replace(o, o.overlay.Changes())
			return nil
		}
		o.e.setDirty(o) // what it reads now is not in the index, so the block that has changed it has not marked it
	}
	return refusal.New(refusal.Overloaded, "blocks change what this session reads faster than it can be run again").With("retry_after_seconds", 1)
}

// different draws the conclusion from a difference: the session is conflicted, or cannot be committed because its handler
// is not deterministic.
func (o *owner) different(d *difference, was, height int64) error {
	if d.code == refusal.Nondeterministic {
		r := refusal.New(d.code, "%s", d.explains).With("step", d.step).With("field", d.field)
		return o.faulted(r, d.step, d.field)
	}
	if o.survives(d) {
		return o.settledOtherwise()
	}
	c := o.e.conflictOf(d, was, height)
	o.conflict = c
	o.e.counts.conflicts.Add(1)
	rest, err := o.do(o.machine.Step(session.ConflictFound{Height: height}), o.payload)
	if err != nil {
		return err
	}
	_ = rest
	o.e.o.Logger.Info("session conflicted", "session", o.id, "step", d.step, "field", d.field, "keys", c.Keys, "winner", c.Winner, "height", c.Height)
	return c.refusal(o.id)
}

// conflictOf puts a difference into words: found on the state at height, from a state at was.
func (e *Engine) conflictOf(d *difference, was, height int64) *Conflict {
	c := &Conflict{
		Code: d.code, Step: d.step, Field: d.field, Height: height, Detail: d.explains, Keys: []string{},
		OldStatus: d.old.tx.Response.Status, OldDigest: d.old.tx.Response.Body, OldBody: clip(d.old.body),
	}
	if d.code == refusal.Conflict {
		c.NewStatus, c.NewDigest, c.NewBody = d.status, wire.Sum(d.body), clip(d.body)
	}
	e.nameWinner(c, d, was)
	return c
}

// faulted records that the session cannot be committed, and why.
func (o *owner) faulted(r *refusal.Refusal, step uint64, field string) error {
	if o.machine.Fault() == "" {
		o.fault = r
		o.e.counts.faults.Add(1)
		o.e.o.Logger.Error("session cannot be committed", "session", o.id, "code", r.Code, "step", step, "field", field, "detail", r.Detail)
		if _, err := o.do(o.machine.Step(session.Faulted{Reason: r.Code}), o.payload); err != nil {
			return err
		}
	}
	return o.fault.With("session", o.id.String())
}

// clip bounds a body that is kept to explain a conflict.
func clip(b []byte) []byte { return b[:min(len(b), 64<<10)] }

// refusal is the conflict as a client is told of it.
func (c *Conflict) refusal(id wire.SessionID) *refusal.Refusal {
	code := c.Code
	if _, known := refusal.Lookup(code); !known {
		code = refusal.Conflict
	}
	r := refusal.New(code, "%s", c.Detail).With("session", id.String()).With("status_of_session", session.Conflicted.String()).
		With("field", c.Field).With("keys", c.Keys).With("height", c.Height)
	if c.Step > 0 {
		r = r.With("step", c.Step)
	}
	if c.Winner != "" {
		r = r.With("winner", map[string]any{"session_id": c.Winner, "actor": c.WinnerActor, "height": c.Height, "candidates": c.Candidates})
	}
	if c.Code == refusal.Conflict {
		r = r.With("old", responseField(c.OldStatus, c.OldDigest, c.OldBody)).With("new", responseField(c.NewStatus, c.NewDigest, c.NewBody))
	}
	return r
}

func responseField(status int, digest wire.Digest, body []byte) map[string]any {
	m := map[string]any{"status": status, "digest": digest.String()}
	if b := bytes.TrimSpace(body); len(b) <= 4<<10 && json.Valid(b) {
		m["body"] = json.RawMessage(b)
	}
	return m
}

// nameWinner finds who changed what the session had read since the state at height was.
func (e *Engine) nameWinner(c *Conflict, d *difference, was int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, asked := range d.keys {
		name := asked.Start
		b, key := e.ring.changed(d.kinds[i], asked, was)
		if b != nil {
			name = key
			if c.Winner == "" {
				c.Height = b.Height
				if all := winners(b, key); len(all) > 0 {
					c.Winner, c.WinnerActor, c.Candidates = all[0].ID.String(), all[0].Actor, len(all)
				}
			}
		}
		if text := keyText(name); len(c.Keys) < 16 && !contains(c.Keys, text) {
			c.Keys = append(c.Keys, text)
		}
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// keyText writes a key for people: as it is if it is printable ASCII, otherwise in hex.
func keyText(key []byte) string {
	for _, c := range key {
		if c < 0x20 || c > 0x7e {
			var b strings.Builder
			fmt.Fprintf(&b, "0x%x", key)
			return b.String()
		}
	}
	return string(key)
}
