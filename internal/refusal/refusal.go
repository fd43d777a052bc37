// Package refusal is how Tandem says no: a coded error with a code for machines, a message for people and, from one
// catalogue, a cause and a remedy for whoever runs or calls the node.
//
// Three kinds of outcome are never mixed. An *answer* is what the service (or the framework on its behalf, for a
// handler that panics) said about a request; it is deterministic and the same on every node. A *refusal* is the
// framework declining a request, a conflict or an outage; nothing was recorded. A *halt* is a node in doubt about its
// own state; it is no refusal and never travels through this package.
//
// The catalogue is the only table that maps a code to an HTTP status. `tandem errors` prints it and docs/errors.md is
// that print. On the wire a refusal is an RFC 9457 problem document whose bytes depend on nothing but the refusal, so
// that an answer the framework makes inside a step is the same on every replica.
package refusal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// ContentType is the media type of a problem document (RFC 9457 section 3).
const ContentType = "application/problem+json"

// TypePrefix and a code make the "type" member of a problem document.
const TypePrefix = "urn:tandem:problem:"

// Code names one entry of the catalogue, such as "wrong-sequence". Codes are stable: programs compare them.
type Code string

// Refusal is a coded error. It is immutable once returned: With copies. The zero value is not useful; use New.
type Refusal struct {
	// Code is the catalogue entry.
	Code Code
	// Detail says what happened this time, in one sentence for people.
	Detail string
	// Fields are extension members of the problem document (session, step, field, height, ...). Values must be
	// encodable as JSON; a fmt.Stringer that is no json.Marshaler is written as its string. The names of the standard
	// members (type, title, status, detail, code, cause, remedy) are reserved and left out of the document.
	Fields map[string]any
}

// New makes a refusal; format and args give the detail.
func New(code Code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// With returns a copy of the refusal that carries one more extension member.
func (r *Refusal) With(key string, v any) *Refusal {
	fields := maps.Clone(r.Fields)
	if fields == nil {
		fields = make(map[string]any, 1)
	}
	fields[key] = v
	return &Refusal{Code: r.Code, Detail: r.Detail, Fields: fields}
}

// Error is "code: detail".
func (r *Refusal) Error() string {
	if r.Detail == "" {
		return string(r.Code)
	}
	return string(r.Code) + ": " + r.Detail
}

// Is reports whether target is a refusal with the same code, so that errors.Is(err, refusal.New(code, "")) asks for
// a code.
func (r *Refusal) Is(target error) bool {
	t, ok := target.(*Refusal)
	return ok && t != nil && t.Code == r.Code
}

// As finds the first refusal in err's chain. A nil err has none.
func As(err error) (*Refusal, bool) {
	var r *Refusal
	if errors.As(err, &r) && r != nil {
		return r, true
	}
	return nil, false
}

// Has reports whether err's chain holds a refusal with the code.
func Has(err error, code Code) bool {
	r, ok := As(err)
	return ok && r.Code == code
}

// Entry is the refusal's entry in the catalogue; for a code that is not in it, the entry of "internal".
func (r *Refusal) Entry() Entry {
	if e, ok := Lookup(r.Code); ok {
		return e
	}
	e, _ := Lookup(Internal)
	return e
}

// Status is the HTTP status of the refusal's problem document.
func (r *Refusal) Status() int { return r.Entry().Status }

// Problem is the refusal as a problem document (RFC 9457): the HTTP status and the JSON bytes, which end without a
// newline. The standard members come first, in a fixed order, then the refusal's fields by name: equal refusals give
// equal bytes.
func (r *Refusal) Problem() (status int, body []byte) {
	e := r.Entry()
	var b bytes.Buffer
	b.WriteByte('{')
	member(&b, "type", TypePrefix+string(e.Code))
	member(&b, "title", e.Title)
	member(&b, "status", e.Status)
	if r.Detail != "" {
		member(&b, "detail", r.Detail)
	}
	member(&b, "code", string(e.Code))
	member(&b, "cause", e.Cause)
	member(&b, "remedy", e.Remedy)
	for _, k := range slices.Sorted(maps.Keys(r.Fields)) {
		if !reserved[k] {
			member(&b, k, r.Fields[k])
		}
	}
	b.WriteByte('}')
	return e.Status, b.Bytes()
}

// Write answers an HTTP request with the refusal's problem document.
func (r *Refusal) Write(w http.ResponseWriter) {
	status, body := r.Problem()
	w.Header().Set("Content-Type", ContentType)
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have gone; there is nobody left to tell
}

var reserved = map[string]bool{
	"type": true, "title": true, "status": true, "detail": true, "code": true, "cause": true, "remedy": true,
}

// ParseProblem reads a problem document that Problem wrote, so that a client can handle a refusal by its code. ok is
// false when body is no problem document of Tandem's. Members it does not know become Fields.
func ParseProblem(body []byte) (r *Refusal, ok bool) {
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, false
	}
	typ, _ := m["type"].(string)
	code, found := strings.CutPrefix(typ, TypePrefix)
	if !found || code == "" {
		return nil, false
	}
	detail, _ := m["detail"].(string)
	r = &Refusal{Code: Code(code), Detail: detail}
	for k, v := range m {
		if !reserved[k] {
			if r.Fields == nil {
				r.Fields = map[string]any{}
			}
			r.Fields[k] = v
		}
	}
	return r, true
}

// member appends "key":value. A value that JSON cannot hold is written as its text, so that a refusal is never lost
// over one of its details.
func member(b *bytes.Buffer, key string, v any) {
	if b.Len() > 1 {
		b.WriteByte(',')
	}
	encode(b, key)
	b.WriteByte(':')
	if _, marshals := v.(json.Marshaler); !marshals {
		if s, ok := v.(fmt.Stringer); ok {
			v = s.String()
		}
	}
	n := b.Len()
	if err := encode(b, v); err != nil {
		b.Truncate(n)
		_ = encode(b, fmt.Sprint(v)) // a string always encodes
	}
}

// encode appends v as JSON without HTML escapes and without the encoder's newline.
func encode(b *bytes.Buffer, v any) error {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1)
	return nil
}
