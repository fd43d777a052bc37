package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"

	"filippo.io/edwards25519"
	"pgregory.net/rapid"

	"tandem/internal/refusal"
)

// TestTextForms: parsing a text form gives the value back, and any other text of the same length or near it is refused
// or is another value.
func TestTextForms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := fill[SessionID](t, "id")
		if got, err := ParseSessionID(id.String()); err != nil || got != id || len(id.String()) != 26 {
			t.Fatal(got, err)
		}
		d := fill[Digest](t, "digest")
		if got, err := ParseDigest(d.String()); err != nil || got != d {
			t.Fatal(got, err)
		}
		key := keyFromSeed(rapid.Uint64().Draw(t, "seed"))
		if got, err := ParseDID(key.DID()); err != nil || got != key || len(key.DID()) != 56 || !strings.HasPrefix(key.DID(), "did:key:z6Mk") {
			t.Fatal(got, err)
		}
		for _, text := range []string{id.String(), d.String(), key.DID()} {
			b := []byte(text)
			i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
			b[i] = rapid.Byte().Draw(t, "byte")
			if string(b) == text {
				continue
			}
			if got, err := ParseSessionID(string(b)); err == nil && got == id {
				t.Fatalf("%q is %q too", b, text)
			}
			if got, err := ParseDigest(string(b)); err == nil && got == d {
				t.Fatalf("%q is %q too", b, text)
			}
			if got, err := ParseDID(string(b)); err == nil && got == key {
				t.Fatalf("%q is %q too", b, text)
			}
		}
	})
}

func TestTextFormsRefused(t *testing.T) {
	id := SessionID{1, 2, 3}.String()
	for _, s := range []string{"", id[1:], id + "a", strings.ToUpper(id), id[:25] + "b", id[:25] + "1", id[:25] + "=", id[:25] + "\n", id[:12] + "\n" + id[12:], id[:24] + "\r\n"} {
		if _, err := ParseSessionID(s); err == nil {
			t.Errorf("session id %q", s)
		}
	}
	d := Sum(nil).String()
	for _, s := range []string{"", d[2:], d + "00", strings.ToUpper(d), d[:63] + "g", " " + d[1:]} {
		if _, err := ParseDigest(s); err == nil {
			t.Errorf("digest %q", s)
		}
	}
	did := keyFromSeed(1).DID()
	for _, s := range []string{"", did[1:], did + "1", did[:55], "did:key:" + did[9:], strings.Replace(did, "did:key:z", "did:key:Z", 1), strings.Replace(did, "z6Mk", "z16Mk", 1), did + "#x", did + " ",
		// an X25519 key (multicodec 0xec) and a secp256k1 key (0xe7), from the did:key specification
		"did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc", "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"} {
		_, err := ParseDID(s)
		wantCode(t, err, refusal.SignatureMalformed)
	}
}

// TestJSON: the text forms are what JSON holds.
func TestJSON(t *testing.T) {
	type sample struct {
		ID  SessionID `json:"id"`
		D   Digest    `json:"d"`
		Key PublicKey `json:"key"`
	}
	want := sample{SessionID{9}, Sum([]byte("x")), keyFromSeed(7)}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(want.Key.DID())) || !bytes.Contains(b, []byte(want.ID.String())) {
		t.Errorf("%s", b)
	}
	var got sample
	if err := json.Unmarshal(b, &got); err != nil || got != want {
		t.Error(got, err)
	}
	for _, bad := range []string{`{"id":"x"}`, `{"d":"x"}`, `{"key":"x"}`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s decodes", bad)
		}
	}
}

// TestWeakKeys: RFC 8032 section 5.1.3 and what it leaves to the application. crypto/ed25519 takes most of these keys,
// and for the small-order ones even one signature for every message.
func TestWeakKeys(t *testing.T) {
	for name, text := range map[string]string{
		"order 1":                         "0100000000000000000000000000000000000000000000000000000000000000",
		"order 2":                         "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"order 4":                         "0000000000000000000000000000000000000000000000000000000000000000",
		"order 4, other sign":             "0000000000000000000000000000000000000000000000000000000000000080",
		"order 8":                         "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"order 8, other sign":             "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"order 8, second":                 "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"order 8, second, other sign":     "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"order 1, sign of a zero x":       "0100000000000000000000000000000000000000000000000000000000000080",
		"order 2, sign of a zero x":       "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"order 4, y = p":                  "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"order 4, y = p, other sign":      "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"order 1, y = p + 1":              "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"order 1, y = p + 1, other sign":  "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"not on the curve":                "0200000000000000000000000000000000000000000000000000000000000000",
		"y = 2^255 - 1, not on the curve": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		t.Run(name, func(t *testing.T) {
			wantWeak(t, PublicKey(unhex(t, text)))
		})
	}
	t.Run("large order, not canonical", func(t *testing.T) {
		found := 0
		for y := byte(2); y < 19; y++ { // y + p still fits 255 bits
			low := PublicKey{y}
			if CheckOnCurve(low) != nil {
				continue
			}
			found++
			high := PublicKey(unhex(t, "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"))
			high[0] += y
			if CheckOnCurve(high) != nil {
				t.Fatalf("y = %d: the library does not take the non-canonical form", y)
			}
			wantWeak(t, high)
		}
		if found == 0 {
			t.Error("no such point")
		}
	})
	t.Run("mixed order", func(t *testing.T) {
		torsion, err := new(edwards25519.Point).SetBytes(unhex(t, "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"))
		if err != nil {
			t.Fatal(err)
		}
		key := keyFromSeed(3)
		for range 7 { // + 1 to 7 times a point of order 8
			point, err := new(edwards25519.Point).SetBytes(key[:])
			if err != nil {
				t.Fatal(err)
			}
			key = PublicKey(point.Add(point, torsion).Bytes())
			wantWeak(t, key)
		}
	})
}

// CheckOnCurve is what crypto/ed25519 checks of a key.
func CheckOnCurve(k PublicKey) error {
	_, err := new(edwards25519.Point).SetBytes(k[:])
	return err
}

func wantWeak(t *testing.T, k PublicKey) {
	t.Helper()
	wantCode(t, CheckKey(k), refusal.KeyWeak)
	_, err := ParseDID(k.DID())
	wantCode(t, err, refusal.KeyWeak)
}

// TestSmallOrderForgery shows why: with a small-order key one fixed signature fits about one message in eight, without a
// private key. If crypto/ed25519 ever refuses such keys itself, this test says so.
func TestSmallOrderForgery(t *testing.T) {
	key := PublicKey{1} // the identity
	var forged Signature
	forged[0] = 1 // R is the identity, S is 0
	if err := VerifySignature(key, []byte("any message"), forged); err != nil {
		t.Errorf("crypto/ed25519 refuses the identity key now: %v", err)
	}
}

// TestSignatureIsNotMalleable checks RFC 8032 section 5.1.7: S is below the group order, so that S + l, which fits the
// equation too, is refused; and no other changed bit passes.
func TestSignatureIsNotMalleable(t *testing.T) {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	priv := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, 32))
	key, message := PublicKeyOf(priv), []byte("a message")
	s := Signature(ed25519.Sign(priv, message))
	if err := VerifySignature(key, message, s); err != nil {
		t.Fatal(err)
	}
	bigEndian := slices.Clone(s[32:])
	slices.Reverse(bigEndian)
	for sum := new(big.Int).Add(new(big.Int).SetBytes(bigEndian), order); sum.BitLen() <= 256; sum.Add(sum, order) {
		other := s
		b := sum.FillBytes(make([]byte, 32))
		slices.Reverse(b)
		copy(other[32:], b)
		wantCode(t, VerifySignature(key, message, other), refusal.SignatureInvalid)
	}
	for bit := range 512 {
		other := s
		other[bit/8] ^= 1 << (bit % 8)
		wantCode(t, VerifySignature(key, message, other), refusal.SignatureInvalid)
	}
}

func TestOpenBodyRefused(t *testing.T) {
	good := OpenBody{ChainID: "tandem-1", ExpiresAt: 1700000000000}
	text := string(good.JSON())
	if _, err := ParseOpenBody([]byte(text)); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"empty":            "",
		"no object":        "[]",
		"null":             "null",
		"white space":      strings.Replace(text, ":", ": ", 1),
		"line end":         text + "\n",
		"second value":     text + text,
		"other order":      `{"fingerprint":"` + Digest{}.String() + `","chain_id":"tandem-1","nonce":"` + strings.Repeat("0", 32) + `","expires_at":1700000000000}`,
		"unknown member":   strings.Replace(text, "{", `{"x":1,`, 1),
		"duplicate member": strings.Replace(text, "{", `{"chain_id":"tandem-1",`, 1),
		"other case":       strings.Replace(text, "chain_id", "Chain_ID", 1),
		"escape":           strings.Replace(text, "tandem-1", `t\u0061ndem-1`, 1),
		"float":            strings.Replace(text, "1700000000000", "1700000000000.0", 1),
		"exponent":         strings.Replace(text, "1700000000000", "17e11", 1),
		"negative":         strings.Replace(text, "1700000000000", "-1", 1),
		"too late":         strings.Replace(text, "1700000000000", "253402300800000", 1),
		"upper-case hex":   strings.Replace(text, `"nonce":"0`, `"nonce":"A`, 1),
		"short nonce":      strings.Replace(text, `"nonce":"00`, `"nonce":"`, 1),
		"bad chain id":     strings.Replace(text, "tandem-1", "tandem 1", 1),
		"no chain id":      strings.Replace(text, "tandem-1", "", 1),
		"long chain id":    strings.Replace(text, "tandem-1", strings.Repeat("a", 51), 1),
		"null supersedes":  strings.Replace(text, "}", `,"supersedes":null}`, 1),
		"bad supersedes":   strings.Replace(text, "}", `,"supersedes":"x"}`, 1),
		"deep":             strings.Repeat("[", 400),
		"long":             strings.Replace(text, "}", strings.Repeat(" ", 512)+"}", 1),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseOpenBody([]byte(bad))
			wantCode(t, err, refusal.BadJSON)
		})
	}
}

func keyFromSeed(n uint64) PublicKey {
	seed := make([]byte, 32)
	for i := range 8 {
		seed[i] = byte(n >> (8 * i))
	}
	return PublicKeyOf(ed25519.NewKeyFromSeed(seed))
}
