package wire

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"

	"tandem/internal/refusal"
)

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// String returns the id's 26 characters.
func (id SessionID) String() string { return base32Lower.EncodeToString(id[:]) }

// Append appends the id's 26 characters to b.
func (id SessionID) Append(b []byte) []byte { return base32Lower.AppendEncode(b, id[:]) }

// IsZero reports whether the id is unset.
func (id SessionID) IsZero() bool { return id == SessionID{} }

// MarshalText returns the text form; JSON uses it.
func (id SessionID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is [ParseSessionID].
func (id *SessionID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseSessionID(string(b))
	return err
}

// ParseSessionID reads the text form, and only that: 26 characters, lower case. Error: bad-request.
func ParseSessionID(s string) (SessionID, error) {
	var id SessionID
	if len(s) != 26 {
		return SessionID{}, refusal.New(refusal.BadRequest, "a session id has 26 characters, not %d", len(s))
	}
	// Two bits of the last character carry nothing; String puts zeros there, and only those are taken. The library
	// skips line breaks, so the result is compared as a whole.
	n, err := base32Lower.Decode(id[:], []byte(s))
	var again [26]byte
	base32Lower.Encode(again[:], id[:])
	if err != nil || n != len(id) || string(again[:]) != s {
		return SessionID{}, refusal.New(refusal.BadRequest, "%q is not a session id (lower-case base32)", s)
	}
	return id, nil
}

// Sum returns the SHA-256 of b.
func Sum(b []byte) Digest { return sha256.Sum256(b) }

// String returns 64 lower-case hex digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Append appends the digest's 64 hex digits to b.
func (d Digest) Append(b []byte) []byte { return hex.AppendEncode(b, d[:]) }

// IsZero reports whether the digest is unset.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText returns the text form; JSON uses it.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is [ParseDigest].
func (d *Digest) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDigest(string(b))
	return err
}

// ParseDigest reads the text form, and only that: 64 lower-case hex digits. Error: bad-request.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if err := parseHex(d[:], s); err != nil {
		return Digest{}, err
	}
	return d, nil
}

func parseHex(into []byte, s string) error {
	if len(s) != 2*len(into) {
		return refusal.New(refusal.BadRequest, "%d characters where %d hex digits are expected", len(s), 2*len(into))
	}
	for i := range into {
		high, low := lowerHex[s[2*i]], lowerHex[s[2*i+1]]
		if high == noHex || low == noHex {
			return refusal.New(refusal.BadRequest, "%q is not lower-case hex", s)
		}
		into[i] = high<<4 | low
	}
	return nil
}

// lowerHex holds the value of each lower-case hex digit, noHex for all other bytes.
var lowerHex = func() (values [256]byte) {
	for i := range values {
		values[i] = noHex
	}
	for i, c := range "0123456789abcdef" {
		values[c] = byte(i)
	}
	return values
}()

const noHex = 0xff
