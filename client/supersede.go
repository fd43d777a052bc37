package client

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/wire"
)

// ChangedError says that a step was answered otherwise when it was repeated in a superseding session, and that nobody has
// accepted the new answer.
type ChangedError struct {
	Step     int // from 1
	Old, New *Answer
}

// Error is one line for people.
func (e *ChangedError) Error() string {
	if e.Old.Status != e.New.Status {
		return fmt.Sprintf("step %d is now answered %d, it was %d", e.Step, e.New.Status, e.Old.Status)
	}
	return fmt.Sprintf("step %d is now answered %d with another body or other headers", e.Step, e.New.Status)
}

// Supersede opens a session that takes the place of this one, most often a conflicted one, and repeats its recorded
// steps in it, with the same requests, on the newest state. For each answer that is not the recorded one it asks decide: nil
// goes on with the new answer, an error ends the replay. Without decide every changed answer ends it with *ChangedError. A
// step that is answered 400 or more now is a changed answer too; if it is accepted, the new session goes on without it.
//
// Of the two sessions Layer 1 takes at most one, so it is safe to supersede a session that is still open, or one whose commit has
// an unknown outcome; a committed one is refused with *EndedError. On an error the new session is returned too, if it
// was opened: it holds the steps before the one that failed, and can be gone on with or abandoned. It has steps of its own
// and this session is left as it is.
//
// The requests are repeated as they were: a request that names something by an id which the service made within this session
// (tandem.NewID) names nothing in the new one, where the service makes other ids.
//
// decide gets the step from 1, the recorded answer and the new one. old.Body is nil if no node shows it any more; it is
// checked against the transcript, like everything else in old.
func (s *Session) Supersede(ctx context.Context, decide func(step int, old, new *Answer) error, opts ...OpenOption) (*Session, error) {
	s.mu.Lock()
	status, steps, head := s.status, slices.Clone(s.steps), wire.TranscriptStart(s.open)
	s.mu.Unlock()
	if status == statusCommitted {
		return nil, &EndedError{Status: status}
	}
	if decide == nil {
		decide = func(step int, old, new *Answer) error { return &ChangedError{Step: step, Old: old, New: new} }
	}
	next, err := s.c.Open(ctx, append(slices.Clip(opts), Superseding(s.ID()))...)
	if err != nil {
		return nil, err
	}
	for i := range steps {
		tx := &steps[i]
		target := tx.Request.Path
		if tx.Request.Query != "" {
			target += "?" + tx.Request.Query
		}
		answer, err := next.Call(ctx, tx.Request.Method, target, tx.Request.ContentType, tx.Request.Body)
		if err != nil {
			return next, fmt.Errorf("repeating step %d: %w", i+1, err)
		}
		after := wire.TranscriptNext(head, *tx)
		if !answered(&tx.Response, answer) {
			if err := decide(i+1, s.recordedAnswer(ctx, tx, head, after), answer); err != nil {
				return next, err
			}
		}
		head = after
	}
	return next, nil
}

// answered reports whether an answer is the recorded response.
func answered(r *wire.Response, a *Answer) bool {
	return r.Status == a.Status && r.Body == wire.Sum(a.Body) && slices.Equal(r.Headers, recorded(a.Header))
}

// recordedTime bounds the search for the body of a recorded answer.
const recordedTime = 3 * time.Second

// recordedAnswer makes the answer of a recorded step that stands between two heads. Its body is fetched: the same signed
// request again gets the stored answer, whatever has become of the session.
func (s *Session) recordedAnswer(ctx context.Context, tx *wire.Transaction, before, after wire.Digest) *Answer {
	a := &Answer{
		Status: tx.Response.Status, Header: http.Header{}, Session: s.id.String(), Sequence: tx.Sequence, Transcript: after.String(),
		Recorded: true, Time: time.UnixMilli(tx.Time).UTC(), Originator: tx.Originator.DID(),
	}
	for _, f := range tx.Response.Headers {
		a.Header.Add(f.Name, f.Value)
	}
	ctx, cancel := context.WithTimeout(ctx, recordedTime)
	defer cancel()
	rep, err := s.c.exchange(ctx, call{signed: &httpsig.Parsed{
		Tag: httpsig.TagStep, Request: tx.Request, Place: httpsig.Place{Session: s.id, Sequence: tx.Sequence, Transcript: before},
	}})
	if err == nil && rep.status == tx.Response.Status && wire.Sum(rep.body) == tx.Response.Body {
		a.Body = rep.body
	}
	return a
}
