package wire

import (
	"crypto/ed25519"

	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"

	"tandem/internal/refusal"
)

// Ed25519 is curve25519-voi's, which CometBFT verifies its votes with: it takes half the time of crypto/ed25519, and every step
// waits for several signatures one after the other. Nodes of either library must agree, so it is set to crypto/ed25519's
// verdicts, and a test holds the two equal on the signatures that verifiers are known to differ on.
var likeStandardLibrary = &voi.Options{Verify: voi.VerifyOptionsStdLib}

// Sign signs message: the bytes that crypto/ed25519 gives, which depend on nothing but key and message.
func Sign(priv ed25519.PrivateKey, message []byte) Signature {
	return Signature(voi.Sign(voi.PrivateKey(priv), message))
}

// VerifySignature checks an Ed25519 signature strictly: the cofactorless equation of RFC 8032 section 5.1.7 with S below the group
// order and R compared as bytes, as crypto/ed25519 does. The key must have passed [CheckKey] once.
// Error: signature-invalid.
func VerifySignature(k PublicKey, message []byte, s Signature) error {
	if !verify(checkedKeys.of(k), k, message, s) {
		return refusal.New(refusal.SignatureInvalid, "the signature of %s does not fit", k)
	}
	return nil
}

// verify checks a signature with what is remembered of the key, if anything is.
func verify(c *checkedKey, k PublicKey, message []byte, s Signature) bool {
	if c != nil {
		return voi.VerifyExpandedWithOptions(c.expanded, message, s[:], likeStandardLibrary)
	}
	return voi.VerifyWithOptions(k[:], message, s[:], likeStandardLibrary)
}
