package wire

import (
	"crypto/ed25519"
	"strings"

	"filippo.io/edwards25519"
	"github.com/mr-tron/base58"

	"tandem/internal/refusal"
)

const didPrefix = "did:key:z"

// DID returns the key's text form, did:key with the multicodec of Ed25519 in base58btc: 56 characters, from "did:key:z6Mk".
func (k PublicKey) DID() string {
	if c := checkedKeys.of(k); c != nil {
		return c.did
	}
	return didOf(k)
}

func didOf(k PublicKey) string {
	b := append([]byte{0xed, 0x01}, k[:]...)
	return didPrefix + base58.Encode(b)
}

// String is [PublicKey.DID].
func (k PublicKey) String() string { return k.DID() }

// IsZero reports whether the key is unset.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// MarshalText returns the text form; JSON uses it.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.DID()), nil }

// UnmarshalText is [ParseDID].
func (k *PublicKey) UnmarshalText(b []byte) (err error) {
	*k, err = ParseDID(string(b))
	return err
}

// ParseDID reads the text form, and only that, and checks the key. Errors: signature-malformed when s is no did:key of
// an Ed25519 key, key-weak as [CheckKey].
func ParseDID(s string) (PublicKey, error) {
	if c := checkedKeys.named(s); c != nil {
		return c.key, nil
	}
	var k PublicKey
	if !strings.HasPrefix(s, didPrefix) || len(s) > 64 {
		return PublicKey{}, refusal.New(refusal.SignatureMalformed, "%.64q is not a did:key in base58btc", s)
	}
	b, err := base58.Decode(s[len(didPrefix):])
	if err != nil || len(b) != 34 || b[0] != 0xed || b[1] != 0x01 {
		return PublicKey{}, refusal.New(refusal.SignatureMalformed, "%q is not a did:key of an Ed25519 key", s)
	}
	copy(k[:], b[2:])
	if didOf(k) != s {
		return PublicKey{}, refusal.New(refusal.SignatureMalformed, "%q is not the canonical text of its key", s)
	}
	if err := CheckKey(k); err != nil {
		return PublicKey{}, err
	}
	return k, nil
}

// PublicKeyOf returns the public half of priv.
func PublicKeyOf(priv ed25519.PrivateKey) PublicKey {
	return PublicKey(priv.Public().(ed25519.PublicKey))
}

// CheckKey refuses keys that Go's verifier accepts but that do not bind a signature to one signer: bytes that are no
// point of the curve, a non-canonical encoding of a point, and every point outside the prime-order subgroup, so the
// small-order points (under which one signature fits many messages) and the mixed-order ones (on which single and
// batch verifiers disagree). Error: key-weak.
//
// The verdict on a good key is remembered: the subgroup check costs twice what verifying a signature does, and the same few
// keys come with every request.
func CheckKey(k PublicKey) error {
	if checkedKeys.of(k) != nil {
		return nil
	}
	if err := checkKey(k); err != nil {
		return err
	}
	checkedKeys.add(k)
	return nil
}

func checkKey(k PublicKey) error {
	point, err := new(edwards25519.Point).SetBytes(k[:])
	if err != nil {
		return refusal.New(refusal.KeyWeak, "the key is not a point of the curve")
	}
	if PublicKey(point.Bytes()) != k {
		return refusal.New(refusal.KeyWeak, "the key is not in canonical form")
	}
	identity := edwards25519.NewIdentityPoint()
	if new(edwards25519.Point).MultByCofactor(point).Equal(identity) == 1 {
		return refusal.New(refusal.KeyWeak, "the key has small order")
	}
	// [l]P = [l-1]P + P is the identity exactly for the points of the prime-order subgroup.
	multiple := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(minusOne(), point, edwards25519.NewScalar())
	if multiple.Add(multiple, point).Equal(identity) != 1 {
		return refusal.New(refusal.KeyWeak, "the key is outside the prime-order subgroup")
	}
	return nil
}

func minusOne() *edwards25519.Scalar {
	one, err := edwards25519.NewScalar().SetCanonicalBytes(append([]byte{1}, make([]byte, 31)...))
	if err != nil {
		panic("wire: " + err.Error())
	}
	return edwards25519.NewScalar().Negate(one)
}
