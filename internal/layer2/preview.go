package layer2

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"tandem/internal/exec"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Preview is what a session's steps would be answered if they were made now: the whole replay on the newest state, not
// only up to the first difference. Its JSON is the answer of GET /tandem/v1/sessions/{id}/conflict.
type Preview struct {
	Session string        `json:"session_id"`
	Status  session.State `json:"status"`
	// Conflict says that some step would be answered otherwise than it was.
	Conflict bool  `json:"conflict"`
	Height   int64 `json:"height"` // of the state that the steps were run on
	// First is the first difference, with the keys that changed and who changed them, as far as this node knows.
	First *Conflict `json:"first_difference,omitempty"`
	// Noticed is what ended the session, if it has conflicted: the difference at the block that made it.
	Noticed *Conflict       `json:"noticed,omitempty"`
	Steps   []PreviewedStep `json:"steps"`
}

// PreviewedStep is one step of a Preview.
type PreviewedStep struct {
	Sequence uint64 `json:"sequence"`
	Method   string `json:"method"`
	Target   string `json:"target"` // path and query, as signed
	Changed  bool   `json:"changed"`
	// Field is what differs: status, headers, body, or actor if the actor may not act any more.
	Field string           `json:"field,omitempty"`
	Old   PreviewedAnswer  `json:"old"`
	New   *PreviewedAnswer `json:"new,omitempty"` // nil if no handler was asked
	// Refused is why no handler was asked.
	Refused *PreviewedRefusal `json:"refused,omitempty"`
}

// PreviewedAnswer is a response: the recorded one, or what it would be now.
type PreviewedAnswer struct {
	Status int         `json:"status"`
	Digest wire.Digest `json:"digest"` // of the body
	Size   int         `json:"size"`   // of the body, bytes
	// Body is the body as JSON if it is JSON, as a JSON string if it is text; left out if it is neither, or too large, or
	// the answer holds enough bodies already.
	Body json.RawMessage `json:"body,omitempty"`
}

// PreviewedRefusal is a refusal in a preview.
type PreviewedRefusal struct {
	Code   refusal.Code `json:"code"`
	Detail string       `json:"detail"`
}

// Bounds of a preview's bodies, in bytes: of one, and of all together.
const (
	previewBody   = 16 << 10
	previewBodies = 512 << 10
)

// maxPreviews bounds the previews worked on at once; each runs as many handlers as its session has steps.
const maxPreviews = 2

// Preview runs a session's steps again on the newest state and tells what each would be answered, without changing
// the session. A step that would be refused (400 or more) writes nothing, as in a real session, and the steps after it are
// run all the same. Of a committed session nothing is run: its own writes would stand in its way. Refusals:
// session-not-found, overloaded, step-too-long.
func (e *Engine) Preview(ctx context.Context, id wire.SessionID) (Preview, error) {
	leave, err := e.enter()
	if err != nil {
		return Preview{}, err
	}
	defer leave()
	o, err := e.find(id)
	if err != nil {
		s, err := e.sessionElsewhere(id, err)
		return Preview{Session: s.ID, Status: s.Status, Height: e.Height(), Steps: []PreviewedStep{}}, err
	}
	if e.previews.Add(1) > maxPreviews {
		e.previews.Add(-1)
		return Preview{}, refusal.New(refusal.Overloaded, "%d previews are being worked on already", maxPreviews).With("retry_after_seconds", 1)
	}
	defer e.previews.Add(-1)
	type start struct {
		status   session.State
		steps    uint64
		newest   int64
		conflict *Conflict
	}
	at, err := ask(o, func() (start, error) { // only this needs the session's goroutine: the replay does not hold it up
		return start{o.machine.State(), o.machine.Len(), o.newest, o.conflict}, o.refused
	})
	if err != nil {
		return Preview{}, err
	}
	v, err := e.newest()
	if err != nil {
		return Preview{}, err
	}
	p := Preview{Session: id.String(), Status: at.status, Height: v.Height(), Noticed: at.conflict, Steps: []PreviewedStep{}}
	if at.status == session.Committed || at.steps == 0 {
		return p, nil
	}
	if v.Height() < at.newest {
		return p, refusal.New(refusal.HeightNotReached, "this node's ledger is at height %d, the session has seen %d", v.Height(), at.newest)
	}
	return p, o.preview(ctx, v, at.steps, &p)
}

// preview fills p in. It runs on the caller's goroutine and uses of o only what never changes.
func (o *owner) preview(ctx context.Context, v *state.View, steps uint64, p *Preview) error {
	source := &questioner{base: v, want: true}
	overlay := state.NewOverlay(source)
	settled, err := o.settledIn(v) // those are in the state
	if err != nil {
		return err
	}
	var was, now []question // up to the step being run
	var keys []state.Range
	room := previewBodies
	enough := errors.New("enough")
	err = o.e.journal.scanBetween(keyNumbered(o.id, partStep, settled+1), after(keyPart(o.id, partStep)), func(key, b []byte) error {
		s, err := decodeStep(key, b)
		if err != nil {
			return o.e.diskRefusal(err)
		}
		if s.tx.Sequence > steps {
			return enough
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		child := overlay.Child()
		result, refused, err := o.run(child, &s.tx.Request, s.tx.Sequence, s.tx.Time, s.tx.Originator)
		if err != nil {
			return err
		}
		was = append(was, s.questions...)
		keys = append(keys, source.keys[:min(len(source.keys), maxQuestions)]...)
		now = append(now, source.take()...)
		step := PreviewedStep{
			Sequence: s.tx.Sequence, Method: s.tx.Request.Method, Target: s.tx.Request.Path,
			Old: previewed(&s.tx.Response, s.body, &room),
		}
		if s.tx.Request.Query != "" {
			step.Target += "?" + s.tx.Request.Query
		}
		diff := &difference{step: s.tx.Sequence, old: s}
		if refused != nil {
			step.Changed, step.Field, step.Refused = true, "actor", &PreviewedRefusal{refused.Code, refused.Detail}
			diff.code, diff.cause, diff.explains = refused.Code, refused, refused.Detail
		} else {
			answer := previewed(&result.Response, result.Body, &room)
			step.New = &answer
			if field, same := exec.Compare(s.tx.Response, result); !same {
				step.Changed, step.Field = true, field
				diff.status, diff.body = result.Response.Status, result.Body
			}
			if result.Recorded {
				child.Merge()
			}
		}
		if diff.field = step.Field; step.Changed && !p.Conflict {
			p.Conflict = true
			diff.judge(was, now, keys)
			p.First = o.e.conflictOf(diff, s.height, v.Height())
			if n := p.Noticed; n != nil && n.Step == p.First.Step && p.First.Winner == "" {
				p.First.Winner, p.First.WinnerActor, p.First.Candidates, p.First.Height = n.Winner, n.WinnerActor, n.Candidates, n.Height
			}
		}
		p.Steps = append(p.Steps, step)
		return nil
	})
	if err == enough {
		err = nil
	}
	return err
}

// previewed shows a response, and its body as long as there is room.
func previewed(r *wire.Response, body []byte, room *int) PreviewedAnswer {
	a := PreviewedAnswer{Status: r.Status, Digest: r.Body, Size: len(body)}
	if len(body) > previewBody || len(body) > *room {
		return a
	}
	if b := bytes.TrimSpace(body); len(b) > 0 && json.Valid(b) {
		a.Body = bytes.Clone(b)
	} else if utf8.Valid(body) {
		a.Body = notice(string(body))
	}
	*room -= len(a.Body)
	return a
}
