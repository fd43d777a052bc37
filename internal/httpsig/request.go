package httpsig

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// Parsed is a signed request as it came over HTTP: its purpose, its fields with the signature, its place (zero for an open).
type Parsed struct {
	Tag     string
	Request wire.Request
	Place   Place

	verified bool // the signature, by FromHTTP
}

// Verify is [Verify] of the request at its place, done once: what [FromHTTP] has returned is verified already. Whoever
// changes a Parsed makes a new one.
func (p *Parsed) Verify() error {
	if p.verified {
		return nil
	}
	return Verify(p.Tag, &p.Request, p.Place)
}

// FromHTTP reads and verifies the signature of an HTTP request that a server received. body is the whole body, which the
// caller has read; the target is taken raw from r.RequestURI, which only a server's request has.
//
// It returns nil, nil when r has neither Signature nor Signature-Input: the request is unsigned. Otherwise the result is
// a request in the strict profile whose Content-Digest fits the body and whose signature fits the key it names, or a
// refusal: bad-request, bad-target, unsupported-media-type, body-too-large, signature-malformed, wrong-tag, wrong-digest,
// key-weak, signature-invalid. What needs the ledger or a clock is left to the caller: whether the key is registered, whether
// created is recent, whether the place is right.
func FromHTTP(r *http.Request, body []byte) (*Parsed, error) {
	if len(r.Header[HeaderSignature]) == 0 && len(r.Header[HeaderSignatureInput]) == 0 {
		return nil, nil
	}
	path, query, err := splitTarget(r.RequestURI)
	if err != nil {
		return nil, err
	}
	contentType, err := one(r.Header, HeaderContentType)
	if err != nil {
		return nil, err
	}
	s, err := readSignature(r.Header)
	if err != nil {
		return nil, err
	}
	want := components(s.tag)
	if want == "" {
		return nil, refusal.New(refusal.WrongTag, "%.64q is not the purpose of a request", s.tag)
	}
	if s.components != want {
		return nil, malformed("the signature of a %s covers %.400s; exactly %s in this order is expected", s.tag, s.components, want)
	}
	p := &Parsed{Tag: s.tag, Request: wire.Request{
		Method: r.Method, Path: path, Query: query, ContentType: contentType, Body: body,
		Created: s.created, Key: s.key, Signature: s.signature,
	}}
	if err := p.Request.Check(); err != nil {
		return nil, err
	}
	if p.Place, err = placeFor(s.tag, query, r.Header); err != nil {
		return nil, err
	}
	if err := checkContentDigest(r.Header, body); err != nil {
		return nil, err
	}
	if err := p.Verify(); err != nil {
		return nil, err
	}
	p.verified = true
	return p, nil
}

// splitTarget splits a raw target in origin form. A bare '?' at its end would be lost in wire.Request, where no query
// and an empty one are the same, so it is refused. Error: bad-target.
func splitTarget(target string) (path, query string, err error) {
	path, query, marked := strings.Cut(target, "?")
	if marked && query == "" {
		return "", "", refusal.New(refusal.BadTarget, "the target ends in a bare '?'")
	}
	return path, query, nil
}

// placeFor reads the place of a step or commit. An open has none, and no query either: neither would be signed.
func placeFor(tag, query string, h http.Header) (Place, error) {
	if tag != TagOpen {
		return readPlace(h)
	}
	if query != "" {
		return Place{}, refusal.New(refusal.BadTarget, "an opening request has no query")
	}
	for _, name := range []string{HeaderSession, HeaderSequence, HeaderTranscript} {
		if len(h[name]) > 0 {
			return Place{}, malformed("an opening request has no %s", name)
		}
	}
	return Place{}, nil
}

// ToHTTP builds the HTTP request that carries p to a node. base is the node's URL without a path, such as
// "http://127.0.0.1:8080". p must be signed. Errors: bad-target and what [wire.Request.Check] refuses, or an error of net/http
// for a base that is no URL.
func ToHTTP(base string, p *Parsed) (*http.Request, error) {
	r := &p.Request
	if err := r.Check(); err != nil {
		return nil, err
	}
	target := r.Path
	if r.Query != "" {
		target += "?" + r.Query
	}
	out, err := http.NewRequest(r.Method, strings.TrimSuffix(base, "/")+target, bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	if got := out.URL.RequestURI(); got != target {
		return nil, refusal.New(refusal.BadTarget, "%q would be sent as %q", target, got)
	}
	SetHeaders(out.Header, p)
	return out, nil
}

// SetHeaders sets the headers that carry p's signature and place, and the content type and digest.
func SetHeaders(h http.Header, p *Parsed) {
	r := &p.Request
	h.Set(HeaderContentType, r.ContentType)
	h.Set(HeaderContentDigest, ContentDigest(wire.Sum(r.Body)))
	if p.Tag != TagOpen {
		h.Set(HeaderSession, p.Place.Session.String())
		h.Set(HeaderSequence, strconv.FormatUint(p.Place.Sequence, 10))
		h.Set(HeaderTranscript, p.Place.Transcript.String())
	}
	h.Set(HeaderSignatureInput, signatureInput(components(p.Tag), r.Created, r.Key, p.Tag))
	h.Set(HeaderSignature, signatureValue(r.Signature))
}
