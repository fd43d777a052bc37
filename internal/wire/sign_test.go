package wire

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"testing"

	"filippo.io/edwards25519"
	"pgregory.net/rapid"
)

// compareVerifiers holds the verdict on a signature equal to crypto/ed25519's, with the key remembered and without. It returns it.
func compareVerifiers(t interface {
	Helper()
	Errorf(string, ...any)
}, what string, k PublicKey, message []byte, s Signature) bool {
	t.Helper()
	want := ed25519.Verify(k[:], message, s[:])
	if got := verify(nil, k, message, s); got != want {
		t.Errorf("%s: a key that is not remembered: %v, crypto/ed25519 says %v\nkey %x\nmessage %x\nsignature %x", what, got, want, k, message, s)
	}
	if checkKey(k) != nil {
		return want
	}
	if got := verify(remembered(k), k, message, s); got != want {
		t.Errorf("%s: a remembered key: %v, crypto/ed25519 says %v\nkey %x\nmessage %x\nsignature %x", what, got, want, k, message, s)
	}
	if got := VerifySignature(k, message, s) == nil; got != want {
		t.Errorf("%s: VerifySignature: %v, crypto/ed25519 says %v", what, got, want)
	}
	return want
}

// torsion are the encodings of the eight points of small order, canonical and not, and some that are no points at all.
var torsion = []string{
	"0100000000000000000000000000000000000000000000000000000000000000", // order 1
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 2
	"0000000000000000000000000000000000000000000000000000000000000000", // order 4
	"0000000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	"0100000000000000000000000000000000000000000000000000000000000080", // not canonical: -0
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // y = p + 1
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // y = p
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"0200000000000000000000000000000000000000000000000000000000000000", // no point
	"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
}

func fromHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// forge makes S so that R = rB + what is added passes for message under the key of seed: if that is the identity, a good signature.
// encoded, if it is not nil, is put in R's place before it is hashed; then only a verifier that takes the point for the bytes lets it pass.
func forge(seed []byte, r *edwards25519.Scalar, added *edwards25519.Point, encoded, message []byte) Signature {
	private := ed25519.NewKeyFromSeed(seed)
	digest := sha512.Sum512(seed)
	a := must(edwards25519.NewScalar().SetBytesWithClamping(digest[:32]))
	if encoded == nil {
		point := new(edwards25519.Point).ScalarBaseMult(r)
		encoded = point.Add(point, added).Bytes()
	}
	h := sha512.New()
	h.Write(encoded)
	h.Write(private[32:])
	h.Write(message)
	k := must(edwards25519.NewScalar().SetUniformBytes(h.Sum(nil)))
	var s Signature
	copy(s[:], encoded)
	copy(s[32:], edwards25519.NewScalar().MultiplyAdd(k, a, r).Bytes())
	return s
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// order is the group's order l, little-endian.
var order = fromHex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")

// addOrder adds l to S: the same scalar, not in its one form. False if it does not fit into 32 bytes.
func addOrder(s *Signature) bool {
	carry := 0
	for i := range order {
		carry += int(s[32+i]) + int(order[i])
		s[32+i] = byte(carry)
		carry >>= 8
	}
	return carry == 0
}

// Verifiers are known to differ on: S not reduced, R of small order, R not canonical, a torsion part in R or in the key, weak keys
// (Chalkias, Garillot, Nikolaenko: Taming the many EdDSAs).
func TestVerifySignatureIsCryptoEd25519s(t *testing.T) {
	seed, message := bytes.Repeat([]byte{7}, 32), []byte("message")
	private := ed25519.NewKeyFromSeed(seed)
	key := PublicKeyOf(private)
	identity := edwards25519.NewIdentityPoint()
	r := must(edwards25519.NewScalar().SetUniformBytes(bytes.Repeat([]byte{9}, 64)))
	zero := edwards25519.NewScalar()

	good := Sign(private, message)
	if !compareVerifiers(t, "a good signature", key, message, good) {
		t.Error("a good signature is refused")
	}
	if !compareVerifiers(t, "a forged nonce", key, message, forge(seed, r, identity, nil, message)) {
		t.Error("forge does not sign")
	}
	if !compareVerifiers(t, "R the identity", key, message, forge(seed, zero, identity, nil, message)) {
		t.Error("R may be the identity")
	}
	for n, s := 1, good; addOrder(&s); n++ {
		if compareVerifiers(t, fmt.Sprintf("S + %d l", n), key, message, s) {
			t.Errorf("S + %d l is accepted", n)
		}
	}
	for i, text := range torsion {
		point := fromHex(text)
		what := fmt.Sprintf("point %d, %s", i, text)
		if p, err := new(edwards25519.Point).SetBytes(point); err == nil {
			s := forge(seed, r, p, nil, message)
			if compareVerifiers(t, "added to R: "+what, key, message, s) != (p.Equal(identity) == 1) {
				t.Errorf("a torsion part in R: %s", what)
			}
		}
		compareVerifiers(t, "as R: "+what, key, message, forge(seed, zero, identity, point, message))
		compareVerifiers(t, "as R, S = 0: "+what, key, message, Signature(append(point[:32:32], make([]byte, 32)...)))
		compareVerifiers(t, "as the key: "+what, PublicKey(point), message, good)
		for _, other := range torsion { // under a weak key many messages fit S = 0
			for n := range 8 {
				compareVerifiers(t, "weak key and R: "+what, PublicKey(point), []byte{byte(n)}, Signature(append(fromHex(other), make([]byte, 32)...)))
			}
		}
	}
	for bit := range 512 {
		s := good
		s[bit/8] ^= 1 << (bit % 8)
		if compareVerifiers(t, fmt.Sprintf("bit %d of the signature", bit), key, message, s) {
			t.Errorf("bit %d of the signature says nothing", bit)
		}
	}
	for bit := range 256 {
		k := key
		k[bit/8] ^= 1 << (bit % 8)
		compareVerifiers(t, fmt.Sprintf("bit %d of the key", bit), k, message, good)
	}
}

// A key with a torsion part is refused by CheckKey, but the verdict on it is the same all the same.
func TestVerifySignatureUnderMixedKeys(t *testing.T) {
	seed := bytes.Repeat([]byte{3}, 32)
	digest := sha512.Sum512(seed)
	a := must(edwards25519.NewScalar().SetBytesWithClamping(digest[:32]))
	accepted := 0
	for _, text := range torsion[:8] {
		public := new(edwards25519.Point).ScalarBaseMult(a)
		public.Add(public, must(new(edwards25519.Point).SetBytes(fromHex(text))))
		key := PublicKey(public.Bytes())
		for n := range 32 {
			message := []byte{byte(n)}
			r := must(edwards25519.NewScalar().SetUniformBytes(bytes.Repeat([]byte{byte(n + 1)}, 64)))
			h := sha512.New()
			encoded := new(edwards25519.Point).ScalarBaseMult(r).Bytes()
			h.Write(encoded)
			h.Write(key[:])
			h.Write(message)
			k := must(edwards25519.NewScalar().SetUniformBytes(h.Sum(nil)))
			s := Signature(append(encoded, edwards25519.NewScalar().MultiplyAdd(k, a, r).Bytes()...))
			if compareVerifiers(t, "a key with torsion "+text, key, message, s) {
				accepted++
			}
		}
	}
	if accepted < 32 || accepted == 8*32 {
		t.Errorf("%d of %d signatures pass: both verdicts should occur", accepted, 8*32)
	}
}

func TestSignIsCryptoEd25519s(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		private := ed25519.NewKeyFromSeed(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed"))
		message := rapid.SliceOfN(rapid.Byte(), 0, 1000).Draw(t, "message")
		s := Sign(private, message)
		if want := ed25519.Sign(private, message); !bytes.Equal(s[:], want) {
			t.Fatalf("%x, crypto/ed25519 signs %x", s, want)
		}
		if !compareVerifiers(t, "good", PublicKeyOf(private), message, s) {
			t.Fatal("a good signature is refused")
		}
		s[rapid.IntRange(0, 63).Draw(t, "at")] ^= rapid.ByteRange(1, 255).Draw(t, "change")
		if compareVerifiers(t, "changed", PublicKeyOf(private), message, s) {
			t.Fatal("a changed signature is accepted")
		}
	})
}

func FuzzVerifySignature(f *testing.F) {
	private := ed25519.NewKeyFromSeed(make([]byte, 32))
	key, s := PublicKeyOf(private), Sign(private, []byte("message"))
	f.Add(key[:], []byte("message"), s[:])
	for _, text := range torsion {
		f.Add(fromHex(text), []byte("message"), s[:])
		f.Add(key[:], []byte("message"), append(fromHex(text), s[32:]...))
		f.Add(key[:], []byte("message"), append(s[:32:32], fromHex(text)...))
		f.Add(fromHex(text), []byte{}, append(fromHex(text), make([]byte, 32)...))
	}
	f.Fuzz(func(t *testing.T, key, message, signature []byte) {
		if len(key) != len(PublicKey{}) || len(signature) != len(Signature{}) {
			return
		}
		compareVerifiers(t, "fuzzed", PublicKey(key), message, Signature(signature))
	})
}
