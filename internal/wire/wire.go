// Package wire is the one encoding of everything Tandem hashes, signs, stores or sends: CBOR, core deterministic
// (RFC 8949 section 4.2), arrays not maps, no floats. Each Decode re-encodes and compares, because the CBOR library
// accepts non-canonical input in every mode.
package wire

// SessionID names a session: the first 16 bytes of SHA-256 over the signature base of its opening request. Text form:
// base32 (RFC 4648), lower case, no padding: 26 characters.
type SessionID [16]byte

// Digest is a SHA-256 hash. Text form: 64 lower-case hex digits.
type Digest [32]byte

// PublicKey is an Ed25519 public key. Text form: did:key:z6Mk... .
type PublicKey [32]byte

// Signature is an Ed25519 signature.
type Signature [64]byte

// Request is a signed HTTP request: the fields that the signature covers, and the signature.
type Request struct {
	Method      string // upper case token
	Path        string // raw, as sent, starts with '/'
	Query       string // raw, without '?'; may be empty
	ContentType string
	Body        []byte
	Created     int64 // seconds since 1970, the signature's "created"
	Key         PublicKey
	Signature   Signature
}

// Header is one recorded response header; Name in canonical form.
type Header struct{ Name, Value string }

// Response is a recorded response. The body is kept as its digest; whoever replays has the bytes.
type Response struct {
	Status  int
	Headers []Header // sorted by name, only the allowed ones
	Body    Digest
}

// Transaction is the paper's Tx = (request, response, originator), with its place and time.
type Transaction struct {
	Sequence   uint64 // from 1
	Request    Request
	Response   Response
	Originator PublicKey
	Time       int64 // milliseconds since 1970, chosen by the originator, agreed by the client's next signature
}

// SessionCommit is one Layer 1 transaction: a whole session.
type SessionCommit struct {
	Open         Request
	Transactions []Transaction
	Commit       Request
}

// OpenBody is the JSON body of an opening request, in canonical form (fields in this order, no white space).
type OpenBody struct {
	ChainID     string
	Fingerprint Digest
	Nonce       [16]byte
	ExpiresAt   int64      // milliseconds since 1970
	Supersedes  *SessionID // optional
}

// RootStatement is the first transaction of every block: the state root the block results in.
type RootStatement struct {
	Height int64
	Root   Digest
}
