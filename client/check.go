package client

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// recordedNames are the response headers that nodes record and hash; a test holds the list equal to exec's.
var recordedNames = []string{
	"Allow", "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Type", "Etag",
	"Last-Modified", "Link", "Location", "Retry-After",
}

// recorded returns an answer's recorded headers as they are hashed: sorted by name.
func recorded(h http.Header) []wire.Header {
	var headers []wire.Header
	for _, name := range recordedNames {
		for _, value := range h[name] {
			headers = append(headers, wire.Header{Name: name, Value: value})
		}
	}
	return headers
}

// recordedHeader returns an answer's recorded headers for the caller.
func recordedHeader(h http.Header) http.Header {
	out := http.Header{}
	for _, f := range recorded(h) {
		out.Add(f.Name, f.Value)
	}
	return out
}

// checkSigned verifies that a reply is an answer about this session, signed by a node that may. The answer's position
// and transcript are the caller's to check.
func (s *Session) checkSigned(rep *reply) (httpsig.Answer, error) {
	a, seal, err := httpsig.VerifySealed(rep.header, rep.status, rep.body)
	if err != nil {
		field := "signature"
		if refusal.Has(err, refusal.WrongDigest) {
			field = "body"
		}
		return a, rep.lie(field, "what a Layer 2 node signs", err.Error())
	}
	if !s.anyNode && !s.c.believes(a.Originator) {
		return a, rep.lie("originator", "a node on the Layer 2 list", a.Originator.DID())
	}
	if a.Session != s.id {
		return a, rep.lie("session", s.id.String(), a.Session.String())
	}
	if got := rep.header.Get("Tandem-Fingerprint"); got != "" && got != s.body.Fingerprint.String() {
		return a, rep.lie("fingerprint", s.body.Fingerprint.String(), got)
	}
	rep.seal = seal
	return a, nil
}

// checkStep verifies the answer to a signed step that stands after the transactions so far. It returns the answer and,
// if the step was recorded, its transaction and the new head.
func (s *Session) checkStep(p *httpsig.Parsed, rep *reply) (*Answer, *wire.Transaction, wire.Digest, error) {
	fail := func(field, want, got string) (*Answer, *wire.Transaction, wire.Digest, error) {
		return nil, nil, wire.Digest{}, rep.lie(field, want, got)
	}
	a, err := s.checkSigned(rep)
	if err != nil {
		return nil, nil, wire.Digest{}, err
	}
	if a.Height < s.height {
		return fail("height", fmt.Sprintf("at least %d, which was seen before", s.height), strconv.FormatInt(a.Height, 10))
	}
	out := &Answer{
		Status: rep.status, Header: recordedHeader(rep.header), Body: rep.body, Session: s.id.String(), Sequence: a.Sequence,
		Transcript: a.Transcript.String(), Height: a.Height, Time: time.UnixMilli(a.Time).UTC(), Originator: a.Originator.DID(),
		Hint: rep.header.Get("Tandem-Hint"),
	}
	if rep.status >= http.StatusBadRequest { // not recorded: the session stands where it stood
		if a.Sequence != p.Place.Sequence-1 {
			return fail("sequence", fmt.Sprint(p.Place.Sequence-1), fmt.Sprint(a.Sequence))
		}
		if a.Transcript != s.head {
			return fail("transcript", s.head.String(), a.Transcript.String())
		}
		return out, nil, s.head, nil
	}
	if a.Sequence != p.Place.Sequence {
		return fail("sequence", fmt.Sprint(p.Place.Sequence), fmt.Sprint(a.Sequence))
	}
	if a.Time < s.lastTime() {
		return fail("time", fmt.Sprintf("not before %d", s.lastTime()), fmt.Sprint(a.Time))
	}
	tx := &wire.Transaction{
		Sequence: a.Sequence, Request: p.Request, Originator: a.Originator, Time: a.Time,
		Response: wire.Response{Status: rep.status, Headers: recorded(rep.header), Body: a.Body},
	}
	if err := tx.Response.Check(); err != nil {
		return fail("headers", "such as can be recorded", err.Error())
	}
	head := wire.TranscriptNext(s.head, *tx)
	if head != a.Transcript {
		return fail("transcript", head.String()+", computed from the answer", a.Transcript.String())
	}
	s.witness.note(&s.open, s.head, tx, a, rep)
	out.Recorded = true
	return out, tx, head, s.checkEndorsed(out, a, rep)
}

// lastTime is the time of the last recorded step, 0 if there is none.
func (s *Session) lastTime() int64 {
	if len(s.steps) == 0 {
		return 0
	}
	return s.steps[len(s.steps)-1].Time
}

// sameRequest reports whether a pending request asks what a new call asks.
func sameRequest(r *wire.Request, method, path, query, contentType string, body []byte) bool {
	return r.Method == method && r.Path == path && r.Query == query && r.ContentType == contentType && slices.Equal(r.Body, body)
}
