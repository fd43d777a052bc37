package httpsig

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/dunglas/httpsfv"

	"tandem/internal/wire"
)

// HeaderEndorsement carries the endorsements of an answer: an RFC 9651 list with one item per endorsing node other than the
// originator, whose signed answer is its endorsement. An item is the node's did:key as a token, with the parameters height (an
// integer: of the state that the node ran the step on) and sig (64 bytes: the signature over [wire.EndorsementBytes]).
const HeaderEndorsement = "Tandem-Endorsement"

// MaxEndorsements bounds the endorsements of one answer.
const MaxEndorsements = 64

// SetEndorsements sets the header Tandem-Endorsement, or removes it if there are no endorsements.
func SetEndorsements(h http.Header, endorsements []wire.Endorsement) {
	var b []byte
	for i, e := range endorsements {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, e.Node.DID()...)
		b = append(b, ";height="...)
		b = strconv.AppendInt(b, e.Height, 10)
		b = append(b, ";sig=:"...)
		b = base64.StdEncoding.AppendEncode(b, e.Signature[:])
		b = append(b, ':')
	}
	if b == nil {
		h.Del(HeaderEndorsement)
		return
	}
	h.Set(HeaderEndorsement, string(b))
}

// ReadEndorsements reads the header Tandem-Endorsement: at most [MaxEndorsements] items, each node at most once. No
// signature is verified here. Errors: signature-malformed, key-weak.
func ReadEndorsements(h http.Header) ([]wire.Endorsement, error) {
	lines := h[HeaderEndorsement]
	if len(lines) == 0 {
		return nil, nil
	}
	size := 0
	for _, line := range lines {
		size += len(line)
	}
	if size > 256*MaxEndorsements {
		return nil, malformed("%d bytes of endorsements", size)
	}
	if list, ok := knownEndorsements(lines); ok {
		return list, nil
	}
	return anyEndorsements(lines)
}

func anyEndorsements(lines []string) ([]wire.Endorsement, error) {
	list, err := httpsfv.UnmarshalList(lines)
	if err != nil {
		return nil, malformed("Tandem-Endorsement is not a structured list: %v", err)
	}
	if len(list) > MaxEndorsements {
		return nil, malformed("%d endorsements, more than %d", len(list), MaxEndorsements)
	}
	var out []wire.Endorsement
	seen := map[wire.PublicKey]bool{}
	for i, member := range list {
		e, err := readEndorsement(member)
		if err != nil {
			return nil, err
		}
		if seen[e.Node] {
			return nil, malformed("endorsement %d is by %s, which has endorsed already", i+1, e.Node.DID())
		}
		seen[e.Node] = true
		out = append(out, e)
	}
	return out, nil
}

// knownEndorsements reads what [SetEndorsements] writes without taking a structured field apart. ok is false for everything else.
func knownEndorsements(lines []string) (list []wire.Endorsement, ok bool) {
	if len(lines) != 1 {
		return nil, false
	}
	for rest, more := lines[0], true; more; {
		var item string
		item, rest, more = strings.Cut(rest, ", ")
		did, item, _ := strings.Cut(item, ";height=")
		digits, item, _ := strings.Cut(item, ";sig=:")
		encoded, closed := strings.CutSuffix(item, ":")
		node, err := wire.ParseDID(did)
		if !closed || err != nil || slices.ContainsFunc(list, func(e wire.Endorsement) bool { return e.Node == node }) {
			return nil, false
		}
		height, err := decimal(digits, maxInteger)
		if err != nil {
			return nil, false
		}
		signature, err := decodeSignature(encoded)
		if err != nil || len(list) == MaxEndorsements {
			return nil, false
		}
		list = append(list, wire.Endorsement{Node: node, Height: int64(height), Signature: signature})
	}
	return list, true
}

// maxInteger is the largest integer of a structured field (RFC 9651 section 3.3.1).
const maxInteger = 999_999_999_999_999

func readEndorsement(member httpsfv.Member) (wire.Endorsement, error) {
	item, ok := member.(httpsfv.Item)
	if !ok {
		return wire.Endorsement{}, malformed("an endorsement is no item")
	}
	did, ok := item.Value.(httpsfv.Token)
	if !ok {
		return wire.Endorsement{}, malformed("an endorsement does not begin with a did:key")
	}
	var e wire.Endorsement
	var err error
	if e.Node, err = wire.ParseDID(string(did)); err != nil {
		return wire.Endorsement{}, err
	}
	if names := item.Params.Names(); len(names) != 2 || names[0] != "height" || names[1] != "sig" {
		return wire.Endorsement{}, malformed("an endorsement's parameters are %.200q; exactly height and sig are expected", names)
	}
	value, _ := item.Params.Get("height")
	if e.Height, ok = value.(int64); !ok || e.Height < 0 {
		return wire.Endorsement{}, malformed("an endorsement's height is no height")
	}
	value, _ = item.Params.Get("sig")
	signature, ok := value.([]byte)
	if !ok || len(signature) != len(e.Signature) {
		return wire.Endorsement{}, malformed("an endorsement's sig is not 64 bytes")
	}
	copy(e.Signature[:], signature)
	return e, nil
}
