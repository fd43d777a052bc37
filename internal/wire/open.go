package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strconv"

	"tandem/internal/refusal"
)

// JSON returns the canonical body: fields in the order chain_id, fingerprint, nonce, expires_at, supersedes (left out
// when nil), no white space. The chain id must be one that [CheckChainID] passes.
func (b OpenBody) JSON() []byte {
	out := make([]byte, 0, 256)
	out = append(out, `{"chain_id":"`...)
	out = append(out, b.ChainID...)
	out = append(out, `","fingerprint":"`...)
	out = hex.AppendEncode(out, b.Fingerprint[:])
	out = append(out, `","nonce":"`...)
	out = hex.AppendEncode(out, b.Nonce[:])
	out = append(out, `","expires_at":`...)
	out = strconv.AppendInt(out, b.ExpiresAt, 10)
	if b.Supersedes != nil {
		out = append(out, `,"supersedes":"`...)
		out = append(out, b.Supersedes.String()...)
		out = append(out, '"')
	}
	return append(out, '}')
}

// ParseOpenBody reads the canonical body, and only that: it encodes what it read and compares. So unknown and duplicate
// members, other orders, white space, escapes and other number forms are all refused. Errors: bad-json.
func ParseOpenBody(raw []byte) (OpenBody, error) {
	if len(raw) > MaxOpenBody {
		return OpenBody{}, refusal.New(refusal.BadJSON, "the opening body is %d bytes, more than %d", len(raw), MaxOpenBody)
	}
	var text struct {
		ChainID     string  `json:"chain_id"`
		Fingerprint string  `json:"fingerprint"`
		Nonce       string  `json:"nonce"`
		ExpiresAt   int64   `json:"expires_at"`
		Supersedes  *string `json:"supersedes"`
	}
	if err := json.Unmarshal(raw, &text); err != nil {
		return OpenBody{}, refusal.New(refusal.BadJSON, "the opening body: %v", err)
	}
	b := OpenBody{ChainID: text.ChainID, ExpiresAt: text.ExpiresAt}
	if err := CheckChainID(b.ChainID); err != nil {
		return OpenBody{}, err
	}
	if err := parseHex(b.Fingerprint[:], text.Fingerprint); err != nil {
		return OpenBody{}, refusal.New(refusal.BadJSON, "fingerprint: %v", err)
	}
	if err := parseHex(b.Nonce[:], text.Nonce); err != nil {
		return OpenBody{}, refusal.New(refusal.BadJSON, "nonce: %v", err)
	}
	if b.ExpiresAt < 0 || b.ExpiresAt > MaxTime {
		return OpenBody{}, refusal.New(refusal.BadJSON, "expires_at %d is not between 1970 and 9999, in milliseconds", b.ExpiresAt)
	}
	if text.Supersedes != nil {
		id, err := ParseSessionID(*text.Supersedes)
		if err != nil {
			return OpenBody{}, refusal.New(refusal.BadJSON, "supersedes: %v", err)
		}
		b.Supersedes = &id
	}
	if !bytes.Equal(b.JSON(), raw) {
		return OpenBody{}, refusal.New(refusal.BadJSON, "the opening body is not in canonical form: %s", b.JSON())
	}
	return b, nil
}

// CheckChainID refuses a chain id that is empty, over [MaxChainID] bytes, or holds anything but letters, digits, '-',
// '_' and '.'. Error: bad-json.
func CheckChainID(id string) error {
	if id == "" || len(id) > MaxChainID {
		return refusal.New(refusal.BadJSON, "a chain id has 1 to %d characters, not %d", MaxChainID, len(id))
	}
	for i := range len(id) {
		if c := id[i]; !unreserved[c] || c == '~' {
			return refusal.New(refusal.BadJSON, "the chain id %q holds %q", id, c)
		}
	}
	return nil
}
