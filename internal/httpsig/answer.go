package httpsig

import (
	"crypto/ed25519"
	"net/http"
	"strconv"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// Answer is what a Layer 2 node signs when it answers: the status and body it gave, in which session and at which
// sequence, the transcript head after it, the height of the state it ran on, the step's time, and itself. A signed answer that a
// replay on the stated height contradicts is evidence against the originator.
type Answer struct {
	Status     int
	Body       wire.Digest
	Session    wire.SessionID
	Sequence   uint64
	Transcript wire.Digest
	Height     int64
	Time       int64 // milliseconds since 1970
	Originator wire.PublicKey
}

// SignAnswer signs a with the originator's key and sets the headers Content-Digest, Tandem-Session, Tandem-Sequence,
// Tandem-Transcript, Tandem-Height, Tandem-Time, Tandem-Originator, Signature-Input and Signature. created is in seconds
// since 1970. a.Originator is set from priv.
func SignAnswer(priv ed25519.PrivateKey, created int64, a Answer, h http.Header) {
	a.Originator = wire.PublicKeyOf(priv)
	SetAnswer(a, SealAnswer(priv, created, a), h)
}

// SealAnswer signs a with the originator's key, at created (seconds since 1970), and returns the signature apart from
// the headers, so that another node can give the same signed answer. a.Originator must be the key's public half.
func SealAnswer(priv ed25519.PrivateKey, created int64, a Answer) wire.Seal {
	return wire.Seal{Created: created, Signature: wire.Sign(priv, answerBase(a, created))}
}

// VerifySeal checks that a.Originator sealed a. Errors: key-weak, signature-invalid.
func VerifySeal(a Answer, seal wire.Seal) error {
	return wire.VerifySignature(a.Originator, answerBase(a, seal.Created), seal.Signature)
}

// SetAnswer sets the headers that [SignAnswer] sets, from a signature made before.
func SetAnswer(a Answer, seal wire.Seal, h http.Header) {
	setAll(h, [...]field{
		{HeaderContentDigest, ContentDigest(a.Body)},
		{HeaderSession, a.Session.String()},
		{HeaderSequence, strconv.FormatUint(a.Sequence, 10)},
		{HeaderTranscript, a.Transcript.String()},
		{HeaderHeight, strconv.FormatInt(a.Height, 10)},
		{HeaderTime, strconv.FormatInt(a.Time, 10)},
		{HeaderOriginator, a.Originator.DID()},
		{HeaderSignatureInput, signatureInput(answerComponents, seal.Created, a.Originator, TagAnswer)},
		{HeaderSignature, signatureValue(seal.Signature)},
	})
}

// field is a header field; its name is in canonical form.
type field struct{ name, value string }

// setAll sets fields, with one allocation for the values of all.
func setAll(h http.Header, fields [9]field) {
	values := make([]string, len(fields))
	for i, f := range fields {
		values[i] = f.value
		h[f.name] = values[i : i+1 : i+1]
	}
}

// VerifyAnswer reads and verifies a signed answer: strict profile, digest of the body, signature by the key that
// Tandem-Originator names. Whether that key belongs to a Layer 2 node, and whether the transcript head is right, is the
// caller's to check. Errors: signature-required when the answer is not signed at all, signature-malformed,
// wrong-tag, wrong-digest, key-weak, signature-invalid.
func VerifyAnswer(h http.Header, status int, body []byte) (Answer, error) {
	a, _, err := VerifySealed(h, status, body)
	return a, err
}

// VerifySealed is [VerifyAnswer], and returns the seal too: what another node needs to give the same answer again.
func VerifySealed(h http.Header, status int, body []byte) (Answer, wire.Seal, error) {
	a, s, err := readAnswer(h, status, body)
	if err != nil {
		return Answer{}, wire.Seal{}, err
	}
	seal := wire.Seal{Created: s.created, Signature: s.signature}
	if err := VerifySeal(a, seal); err != nil {
		return Answer{}, wire.Seal{}, err
	}
	return a, seal, nil
}

// readAnswer reads a signed answer and checks all of it but the signature.
func readAnswer(h http.Header, status int, body []byte) (Answer, signatureOf, error) {
	fail := func(err error) (Answer, signatureOf, error) { return Answer{}, signatureOf{}, err }
	if len(h[HeaderSignature]) == 0 && len(h[HeaderSignatureInput]) == 0 {
		return fail(refusal.New(refusal.SignatureRequired, "the answer is not signed"))
	}
	s, err := readSignature(h)
	if err != nil {
		return fail(err)
	}
	if s.tag != TagAnswer {
		return fail(refusal.New(refusal.WrongTag, "%.64q is not the purpose of an answer", s.tag))
	}
	if s.components != answerComponents {
		return fail(malformed("the answer's signature covers %.400s; exactly %s is expected", s.components, answerComponents))
	}
	if status < 100 || status > 599 {
		return fail(malformed("status %d is not between 100 and 599", status))
	}
	if err := checkContentDigest(h, body); err != nil {
		return fail(err)
	}
	place, err := readPlace(h)
	if err != nil {
		return fail(err)
	}
	a := Answer{Status: status, Body: wire.Sum(body), Session: place.Session, Sequence: place.Sequence, Transcript: place.Transcript}
	if a.Height, err = number(h, HeaderHeight, 1<<62); err != nil {
		return fail(err)
	}
	if a.Time, err = number(h, HeaderTime, wire.MaxTime); err != nil {
		return fail(err)
	}
	originator, err := one(h, HeaderOriginator)
	if err != nil {
		return fail(err)
	}
	if originator != s.key.DID() {
		return fail(malformed("the signature is by %s, not by the originator %.64q", s.key, originator))
	}
	a.Originator = s.key
	return a, s, nil
}

func number(h http.Header, name string, most uint64) (int64, error) {
	text, err := one(h, name)
	if err != nil {
		return 0, err
	}
	n, err := decimal(text, most)
	if err != nil {
		return 0, malformed("%s: %v", name, err)
	}
	return int64(n), nil
}

func answerBase(a Answer, created int64) []byte {
	b := make([]byte, 0, 1024)
	b = append(b, `"@status": `...)
	b = strconv.AppendInt(b, int64(a.Status), 10)
	b = append(b, "\n\"content-digest\": "...)
	b = appendContentDigest(b, a.Body)
	b = append(b, '\n')
	b = appendPlace(b, Place{Session: a.Session, Sequence: a.Sequence, Transcript: a.Transcript})
	b = append(b, `"tandem-height": `...)
	b = strconv.AppendInt(b, a.Height, 10)
	b = append(b, "\n\"tandem-time\": "...)
	b = strconv.AppendInt(b, a.Time, 10)
	b = append(b, '\n')
	b = line(b, `"tandem-originator": `, a.Originator.DID())
	b = append(b, `"@signature-params": `...)
	return appendParams(b, answerComponents, created, a.Originator, TagAnswer)
}
