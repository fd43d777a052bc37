package httpsig

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/dunglas/httpsfv"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// signatureOf is what the two signature headers say, before anything is verified.
type signatureOf struct {
	tag        string
	components string // serialised inner list without parameters
	created    int64
	key        wire.PublicKey
	signature  wire.Signature
}

// readSignature reads Signature-Input and Signature: one signature, labelled "tandem", its parameters created, keyid, alg and tag in this
// order and all in canonical form. Errors: signature-malformed, key-weak.
func readSignature(h http.Header) (signatureOf, error) {
	input, err := one(h, HeaderSignatureInput)
	if err != nil {
		return signatureOf{}, err
	}
	value, err := one(h, HeaderSignature)
	if err != nil {
		return signatureOf{}, err
	}
	s, err := readInput(input)
	if err != nil {
		return signatureOf{}, err
	}
	s.signature, err = readSignatureValue(value)
	return s, err
}

func readInput(input string) (signatureOf, error) {
	if s, ok := readKnown(input); ok {
		return s, nil
	}
	return readAny(input)
}

// readKnown reads the Signature-Input that this package writes, which is the canonical one of a known purpose, without taking
// a structured field apart: that costs more than verifying the signature. ok is false for everything else, which [readAny]
// decides about and says what is wrong with.
func readKnown(input string) (s signatureOf, ok bool) {
	rest, ok := strings.CutPrefix(input, Label+"=")
	if !ok {
		return signatureOf{}, false
	}
	for _, known := range [...]string{stepComponents, answerComponents, openComponents} {
		if after, found := strings.CutPrefix(rest, known); found {
			s.components, rest = known, after
			break
		}
	}
	if rest, ok = strings.CutPrefix(rest, ";created="); !ok || s.components == "" {
		return signatureOf{}, false
	}
	digits, rest, _ := strings.Cut(rest, ";")
	created, err := decimal(digits, wire.MaxTime/1000)
	if err != nil {
		return signatureOf{}, false
	}
	if rest, ok = strings.CutPrefix(rest, `keyid="`); !ok {
		return signatureOf{}, false
	}
	did, rest, _ := strings.Cut(rest, `"`)
	if rest, ok = strings.CutPrefix(rest, `;alg="ed25519";tag="`); !ok {
		return signatureOf{}, false
	}
	for _, s.tag = range [...]string{TagStep, TagAnswer, TagOpen, TagCommit} {
		if len(rest) == len(s.tag)+1 && strings.HasPrefix(rest, s.tag) && rest[len(s.tag)] == '"' {
			s.created = int64(created)
			s.key, err = wire.ParseDID(did)
			return s, err == nil
		}
	}
	return signatureOf{}, false
}

// readAny reads any Signature-Input, and refuses what is not in canonical form.
func readAny(input string) (signatureOf, error) {
	dictionary, err := httpsfv.UnmarshalDictionary([]string{input})
	if err != nil {
		return signatureOf{}, malformed("Signature-Input is not a structured dictionary: %v", err)
	}
	if names := dictionary.Names(); len(names) != 1 || names[0] != Label {
		return signatureOf{}, malformed("Signature-Input has labels %.200q; exactly one, %q, is expected", names, Label)
	}
	member, _ := dictionary.Get(Label)
	list, ok := member.(httpsfv.InnerList)
	if !ok {
		return signatureOf{}, malformed("Signature-Input is not a list of components")
	}
	params, err := readParams(list.Params)
	if err != nil {
		return signatureOf{}, err
	}
	params.components, err = readComponents(list.Items)
	if err != nil {
		return signatureOf{}, err
	}
	// The parser forgives white space, leading zeros and more; what it read has one form.
	want := appendParams([]byte(Label+"="), params.components, params.created, params.key, params.tag)
	if input != string(want) {
		return signatureOf{}, malformed("Signature-Input is not in canonical form, which is %s", want)
	}
	return params, nil
}

func readParams(params *httpsfv.Params) (signatureOf, error) {
	if names := params.Names(); len(names) != 4 || names[0] != "created" || names[1] != "keyid" || names[2] != "alg" || names[3] != "tag" {
		return signatureOf{}, malformed(`the signature's parameters are %.200q; exactly "created" "keyid" "alg" "tag" in this order are expected`, names)
	}
	var s signatureOf
	var ok bool
	value, _ := params.Get("created")
	if s.created, ok = value.(int64); !ok || s.created < 0 || s.created > wire.MaxTime/1000 {
		return signatureOf{}, malformed("created is not an integer number of seconds between 1970 and 9999")
	}
	value, _ = params.Get("alg")
	if alg, ok := value.(string); !ok || alg != "ed25519" {
		return signatureOf{}, malformed(`alg is not "ed25519"`)
	}
	value, _ = params.Get("tag")
	if s.tag, ok = value.(string); !ok {
		return signatureOf{}, malformed("tag is not a string")
	}
	value, _ = params.Get("keyid")
	keyid, ok := value.(string)
	if !ok {
		return signatureOf{}, malformed("keyid is not a string")
	}
	var err error
	s.key, err = wire.ParseDID(keyid)
	return s, err
}

func readComponents(items []httpsfv.Item) (string, error) {
	names := make([]string, len(items))
	for i, item := range items {
		name, ok := item.Value.(string)
		if !ok || len(item.Params.Names()) != 0 {
			return "", malformed("component %d is not a plain string", i+1)
		}
		names[i] = strconv.Quote(name)
	}
	return "(" + strings.Join(names, " ") + ")", nil
}

// readSignatureValue reads the only form of a signature: strict base64, and value is a header that passed one, so without line breaks.
func readSignatureValue(value string) (wire.Signature, error) {
	encoded, ok := strings.CutPrefix(value, Label+"=:")
	if !ok {
		return wire.Signature{}, malformed("Signature does not start with %s=:", Label)
	}
	encoded, ok = strings.CutSuffix(encoded, ":")
	s, err := decodeSignature(encoded)
	if !ok || err != nil {
		return wire.Signature{}, malformed("Signature is not one byte sequence of 64 bytes in base64 and nothing else")
	}
	return s, nil
}

// strictBase64 takes no text but the one that an encoder writes, line breaks apart.
var strictBase64 = base64.StdEncoding.Strict()

// decodeSignature reads 64 bytes in base64.
func decodeSignature(encoded string) (wire.Signature, error) {
	var text [88]byte // 64 bytes in base64
	var b [66]byte    // and as many as 88 characters can hold
	if copy(text[:], encoded) != len(encoded) {
		return wire.Signature{}, base64.CorruptInputError(len(text))
	}
	n, err := strictBase64.Decode(b[:], text[:len(encoded)])
	if err == nil && n != len(wire.Signature{}) {
		err = base64.CorruptInputError(n)
	}
	return wire.Signature(b[:64]), err
}

func signatureValue(s wire.Signature) string {
	b := make([]byte, 0, 128)
	b = base64.StdEncoding.AppendEncode(append(b, Label+"=:"...), s[:])
	return string(append(b, ':'))
}

// checkContentDigest compares the Content-Digest header with the body. Errors: signature-malformed when it is missing
// or there are several, wrong-digest for another algorithm, another form or another value.
func checkContentDigest(h http.Header, body []byte) error {
	value, err := one(h, HeaderContentDigest)
	if err != nil {
		return err
	}
	if want := appendContentDigest(make([]byte, 0, 64), wire.Sum(body)); value != string(want) {
		return refusal.New(refusal.WrongDigest, "Content-Digest is not that of the body, %s", want)
	}
	return nil
}

// readPlace reads the three headers of a place. Errors: signature-malformed.
func readPlace(h http.Header) (Place, error) {
	var p Place
	text, err := one(h, HeaderSession)
	if err != nil {
		return Place{}, err
	}
	if p.Session, err = wire.ParseSessionID(text); err != nil {
		return Place{}, malformed("Tandem-Session: %v", detail(err))
	}
	if text, err = one(h, HeaderSequence); err != nil {
		return Place{}, err
	}
	// The highest is the commit's after a full session.
	if p.Sequence, err = decimal(text, wire.MaxSteps+1); err != nil {
		return Place{}, malformed("Tandem-Sequence: %v", err)
	}
	if text, err = one(h, HeaderTranscript); err != nil {
		return Place{}, err
	}
	if p.Transcript, err = wire.ParseDigest(text); err != nil {
		return Place{}, malformed("Tandem-Transcript: %v", detail(err))
	}
	return p, nil
}

// decimal reads digits without sign, leading zeros or anything else.
func decimal(text string, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64) // takes no sign
	if err != nil || n > most || len(text) > 1 && text[0] == '0' {
		return 0, fmt.Errorf("%.64q is not a decimal number from 0 to %d", text, most)
	}
	return n, nil
}

// one returns the value of a header that must be there exactly once and hold nothing that a parser could have changed on the
// way: no line fold, no tab, no white space at its ends, no double spaces. Error: signature-malformed.
func one(h http.Header, name string) (string, error) {
	values := h[name]
	switch {
	case len(values) == 0:
		return "", malformed("the signed message has no %s", name)
	case len(values) > 1:
		return "", malformed("the signed message has %d %s headers", len(values), name)
	}
	v := values[0]
	for i := range len(v) {
		if c := v[i]; c < 0x20 || c > 0x7e {
			return "", malformed("%s holds byte 0x%02x at %d", name, c, i)
		}
	}
	if strings.HasPrefix(v, " ") || strings.HasSuffix(v, " ") || strings.Contains(v, "  ") {
		return "", malformed("%s holds white space that has no meaning", name)
	}
	return v, nil
}

func malformed(format string, args ...any) *refusal.Refusal {
	return refusal.New(refusal.SignatureMalformed, format, args...)
}

// detail is a refusal's message without its code, to be told under another.
func detail(err error) string {
	if r, ok := refusal.As(err); ok {
		return r.Detail
	}
	return err.Error()
}
