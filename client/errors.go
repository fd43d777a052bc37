package client

import (
	"fmt"
	"maps"
	"mime"
	"slices"
	"strings"

	"tandem/internal/refusal"
)

// Problem is what a node said instead of an answer: a problem document (RFC 9457). Programs look at Code, which is one of
// the catalogue's (docs/errors.md), and at Kind.
type Problem struct {
	// Code is stable, such as "wrong-sequence".
	Code string
	// Kind is "refusal" (the same request will be refused again), "conflict" (another came first), "outage" (it may work
	// later or elsewhere) or "answer" (the framework answered in a handler's place).
	Kind string
	// Status is the HTTP status.
	Status int
	// Title, Detail, Cause and Remedy are for people.
	Title, Detail, Cause, Remedy string
	// Fields are the further members, such as the keys of a conflict.
	Fields map[string]any
	// URL is the node that said so.
	URL string
}

// Error is one line for people.
func (p *Problem) Error() string {
	text := p.Code
	if p.Detail != "" {
		text += ": " + p.Detail
	} else if p.Title != "" {
		text += ": " + p.Title
	}
	for _, k := range slices.Sorted(maps.Keys(p.Fields)) {
		text += fmt.Sprintf(" [%s %v]", k, p.Fields[k])
	}
	return text
}

// Outage reports whether the same request may succeed later or at another node.
func (p *Problem) Outage() bool { return p.Kind == string(refusal.KindOutage) }

// Conflict reports whether another session came first: look at the present state and decide anew.
func (p *Problem) Conflict() bool { return p.Kind == string(refusal.KindConflict) }

// Answered reports whether the framework answered in a handler's place.
func (p *Problem) Answered() bool { return p.Kind == string(refusal.KindAnswer) }

// problem returns the reply as a Problem; nil if it is an answer: signed, or no problem document of Tandem's.
func (r *reply) problem() *Problem {
	if r.status < 400 || r.signed() {
		return nil
	}
	if kind, _, _ := mime.ParseMediaType(r.header.Get("Content-Type")); kind != refusal.ContentType {
		return nil
	}
	ref, ok := refusal.ParseProblem(r.body)
	if !ok {
		return nil
	}
	p := &Problem{Code: string(ref.Code), Status: r.status, Detail: ref.Detail, Fields: ref.Fields, URL: r.url}
	if entry, ok := refusal.Lookup(ref.Code); ok {
		p.Kind, p.Title, p.Cause, p.Remedy = string(entry.Kind), entry.Title, entry.Cause, entry.Remedy
		return p
	}
	p.Kind = string(refusal.KindRefusal) // a code of a newer node's; its status tells the rest
	if p.Status == 503 {
		p.Kind = string(refusal.KindOutage)
	}
	return p
}

// AnswerError says that a node's answer failed a check: it lies, or something on the way changed the answer. Nothing of
// the answer was used.
type AnswerError struct {
	// Field is what failed: signature, originator, session, sequence, transcript, height, time, status, body, fingerprint,
	// chain_id, endorsements or receipt.
	Field string
	// Want is what it had to be, Got what it was.
	Want, Got string
	// URL is the node that was asked.
	URL string
}

// Error is one line for people.
func (e *AnswerError) Error() string {
	return fmt.Sprintf("the answer of %s cannot be believed: %s is %s, not %s", e.URL, e.Field, clip(e.Got), clip(e.Want))
}

// lie makes an AnswerError about the reply.
func (r *reply) lie(field, want, got string) *AnswerError {
	return &AnswerError{Field: field, Want: want, Got: got, URL: r.url}
}

// clip keeps what a node sent from filling a screen.
func clip(s string) string {
	if s == "" {
		return "missing"
	}
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

// UnreachableError says that no node answered in the time there was. The outcome of what was asked is unknown; asking
// again is safe.
type UnreachableError struct {
	Attempts int
	Err      error // the last attempt's
}

// Error is one line for people.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no node answered in %d attempts: %v", e.Attempts, e.Err)
}

// Unwrap returns the last attempt's error.
func (e *UnreachableError) Unwrap() error { return e.Err }

// PendingError says that another request stands at the session's next position and must be settled first: make the same
// Call again, Withdraw it if it was refused, or Abandon the session.
type PendingError struct {
	Method, Target string
	// Refused is true if a node refused the request; false if its outcome is unknown.
	Refused bool
}

// Error is one line for people.
func (e *PendingError) Error() string {
	what := "has an unknown outcome: make the same call again, or abandon the session"
	if e.Refused {
		what = "was refused: make the same call again, withdraw it, or abandon the session"
	}
	return fmt.Sprintf("an earlier request of this session, %s %s, %s", e.Method, e.Target, what)
}

// EndedError says that the session takes no more calls.
type EndedError struct{ Status string }

// Error is one line for people.
func (e *EndedError) Error() string { return "the session is " + e.Status }
