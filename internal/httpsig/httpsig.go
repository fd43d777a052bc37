// Package httpsig is Tandem's profile of HTTP Message Signatures (RFC 9421) and Content-Digest (RFC 9530).
//
// The RFCs leave much open: which components a signature covers, in what order, with which parameters, how many
// signatures a message has, what a verifier does with a second Content-Digest. This profile leaves nothing open. Each purpose (the
// "tag") has one component list, one parameter order, one label and one algorithm, so that a signed request has exactly one
// set of header bytes, and anything else is refused by name. That makes a signed request a value, [wire.Request],
// from which the headers can be made again; the value, not the headers, is what Tandem hashes, stores and replays.
//
//	open    "@method" "@path" "content-type" "content-digest"
//	step    "@method" "@path" "@query" "content-type" "content-digest" "tandem-session" "tandem-sequence" "tandem-transcript"
//	commit  as step
//	answer  "@status" "content-digest" "tandem-session" "tandem-sequence" "tandem-transcript" "tandem-height" "tandem-time" "tandem-originator"
//
// followed by ;created=SECONDS;keyid="did:key:z6Mk...";alg="ed25519";tag="tandem-...", under the label "tandem".
// docs/format/signatures.md has the page, with worked examples. Everything here is a pure function, safe for concurrent use;
// no clock: whoever has one compares Created with it.
package httpsig

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"strconv"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// The purposes of signatures. One purpose's signature never verifies as another's: the tag is part of what is signed.
const (
	TagOpen   = "tandem-open"
	TagStep   = "tandem-step"
	TagCommit = "tandem-commit"
	TagAnswer = "tandem-answer"
)

// Label is the only signature label (dictionary key) of the profile.
const Label = "tandem"

// The headers of the profile, in net/http's canonical form.
const (
	HeaderSignature      = "Signature"
	HeaderSignatureInput = "Signature-Input"
	HeaderContentDigest  = "Content-Digest"
	HeaderContentType    = "Content-Type"
	HeaderSession        = "Tandem-Session"
	HeaderSequence       = "Tandem-Sequence"
	HeaderTranscript     = "Tandem-Transcript"
	HeaderHeight         = "Tandem-Height"
	HeaderTime           = "Tandem-Time"
	HeaderOriginator     = "Tandem-Originator"
)

// The covered components of each purpose, as they stand in the signature parameters.
const (
	openComponents   = `("@method" "@path" "content-type" "content-digest")`
	stepComponents   = `("@method" "@path" "@query" "content-type" "content-digest" "tandem-session" "tandem-sequence" "tandem-transcript")`
	answerComponents = `("@status" "content-digest" "tandem-session" "tandem-sequence" "tandem-transcript" "tandem-height" "tandem-time" "tandem-originator")`
)

// Place is where in a session a signed request stands; zero for an open. The headers tandem-session (its id), tandem-sequence
// (decimal, from 1) and tandem-transcript (hex, the head that the request signs over) carry it.
type Place struct {
	Session    wire.SessionID
	Sequence   uint64
	Transcript wire.Digest
}

// Base returns the signature base (RFC 9421 section 2.5) of r for the purpose tag: the bytes that are signed. p is
// ignored for TagOpen. The key and created time are part of it; the signature is not. tag must be one of the three request tags.
func Base(tag string, r *wire.Request, p Place) []byte {
	b := make([]byte, 0, 768)
	b = line(b, `"@method": `, r.Method)
	b = line(b, `"@path": `, r.Path)
	if tag != TagOpen {
		b = line(b, `"@query": ?`, r.Query)
	}
	b = line(b, `"content-type": `, r.ContentType)
	b = append(b, `"content-digest": `...)
	b = appendContentDigest(b, wire.Sum(r.Body))
	b = append(b, '\n')
	if tag != TagOpen {
		b = appendPlace(b, p)
	}
	b = append(b, `"@signature-params": `...)
	return appendParams(b, components(tag), r.Created, r.Key, tag)
}

// Sign signs r for the purpose tag and sets its Key and Signature. The caller has set Created and all else.
func Sign(priv ed25519.PrivateKey, tag string, r *wire.Request, p Place) {
	r.Key = wire.PublicKeyOf(priv)
	r.Signature = wire.Sign(priv, Base(tag, r, p))
}

// Verify checks r's signature for the purpose tag and place, and nothing else: not the key ([wire.CheckKey], once per key), not
// the target, not the time. Errors: wrong-tag for a tag that no request has, signature-invalid.
func Verify(tag string, r *wire.Request, p Place) error {
	if components(tag) == "" {
		return refusal.New(refusal.WrongTag, "%.64q is not the purpose of a request", tag)
	}
	return wire.VerifySignature(r.Key, Base(tag, r, p), r.Signature)
}

// SessionID derives the id of the session that open opens: the first 16 bytes of the SHA-256 of its signature base.
func SessionID(open *wire.Request) wire.SessionID {
	sum := sha256.Sum256(Base(TagOpen, open, Place{}))
	return wire.SessionID(sum[:16])
}

// ContentDigest returns the value of the Content-Digest header (RFC 9530) for a digest: sha-256=:BASE64:.
func ContentDigest(d wire.Digest) string { return string(appendContentDigest(make([]byte, 0, 64), d)) }

// components returns the component list of a request's purpose, "" for any other tag.
func components(tag string) string {
	switch tag {
	case TagOpen:
		return openComponents
	case TagStep, TagCommit:
		return stepComponents
	}
	return ""
}

func line(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, value...)
	return append(b, '\n')
}

func appendPlace(b []byte, p Place) []byte {
	b = p.Session.Append(append(b, `"tandem-session": `...))
	b = strconv.AppendUint(append(b, "\n\"tandem-sequence\": "...), p.Sequence, 10)
	b = p.Transcript.Append(append(b, "\n\"tandem-transcript\": "...))
	return append(b, '\n')
}

func appendContentDigest(b []byte, d wire.Digest) []byte {
	b = append(b, "sha-256=:"...)
	b = base64.StdEncoding.AppendEncode(b, d[:])
	return append(b, ':')
}

// signatureInput is the value of the header Signature-Input.
func signatureInput(components string, created int64, key wire.PublicKey, tag string) string {
	b := make([]byte, 0, 512)
	return string(appendParams(append(b, Label+"="...), components, created, key, tag))
}

// appendParams writes the signature parameters, the value of both the last line of the base and Signature-Input.
func appendParams(b []byte, components string, created int64, key wire.PublicKey, tag string) []byte {
	b = append(b, components...)
	b = append(b, ";created="...)
	b = strconv.AppendInt(b, created, 10)
	b = append(b, `;keyid="`...)
	b = append(b, key.DID()...)
	b = append(b, `";alg="ed25519";tag="`...)
	b = append(b, tag...)
	return append(b, '"')
}
