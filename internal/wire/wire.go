// Package wire is the one encoding of everything Tandem hashes, signs, stores or sends: CBOR, core deterministic
// (RFC 8949 section 4.2), arrays not maps, no floats. Each Decode re-encodes and compares, because the CBOR library
// accepts non-canonical input in every mode: so one value has exactly one encoding, and a hash of the bytes is a
// hash of the value.
//
// The words are the paper's. A [Request] is r, a [Response] is s, a [Transaction] is Tx = (r, s, originator) with its
// place and time, a [SessionCommit] is a whole session as one Layer 1 transaction. The transcript head ([TranscriptStart],
// [TranscriptNext]) chains them, and each request's signature covers the head before it, so that a signature covers
// everything its signer had seen.
//
// The pages docs/format/{wire,transcript,session-commit,open,keys}.md describe the bytes; testdata holds golden vectors.
// Everything here is a pure function of its arguments and safe for concurrent use. Errors are coded refusals.
package wire

import "tandem/internal/refusal"

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
	_           struct{} `cbor:",toarray"`
	Method      string   // upper case token
	Path        string   // raw, as sent, starts with '/'
	Query       string   // raw, without '?'; may be empty
	ContentType string
	Body        []byte
	Created     int64 // seconds since 1970, the signature's "created"
	Key         PublicKey
	Signature   Signature
}

// Header is one recorded response header; Name in canonical form.
type Header struct {
	_           struct{} `cbor:",toarray"`
	Name, Value string
}

// Response is a recorded response. The body is kept as its digest; whoever replays has the bytes.
type Response struct {
	_       struct{} `cbor:",toarray"`
	Status  int
	Headers []Header // sorted by name, only the allowed ones
	Body    Digest
}

// Transaction is the paper's Tx = (request, response, originator), with its place and time.
type Transaction struct {
	_          struct{} `cbor:",toarray"`
	Sequence   uint64   // from 1
	Request    Request
	Response   Response
	Originator PublicKey
	Time       int64 // milliseconds since 1970, chosen by the originator, agreed by the client's next signature
}

// SessionCommit is one Layer 1 transaction: a whole session, or the part of it after a checkpoint.
type SessionCommit struct {
	Open         Request
	Start        Start
	Transactions []Transaction // those after Start
	Commit       Request
}

// Start is what of a session was committed before: the point that a session commit goes on from. The zero value is the
// session's beginning, that is, nothing.
type Start struct {
	_           struct{} `cbor:",toarray"`
	Checkpoints uint64   // how many commits of this session came before
	Sequence    uint64   // how many steps they hold
	Head        Digest   // the transcript head after the last of these; zero at the session's beginning
}

// Check refuses what is no point of a session: every checkpoint holds a step, and only the beginning has neither.
func (s Start) Check() error {
	switch {
	case s.Checkpoints == 0 && (s.Sequence > 0 || !s.Head.IsZero()):
		return refusal.New(refusal.NonCanonical, "a start after no checkpoint is the session's beginning")
	case s.Checkpoints > s.Sequence || s.Sequence > MaxSequence:
		return refusal.New(refusal.NonCanonical, "%d checkpoints do not hold %d steps", s.Checkpoints, s.Sequence)
	}
	return nil
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

// TransactionKind tells the kinds of Layer 1 transactions apart. It is the first element of the encoded array; a new version of a
// format gets a new kind.
type TransactionKind uint8

const (
	// KindRoot is a RootStatement.
	KindRoot TransactionKind = 1
	// KindSession is a SessionCommit.
	KindSession TransactionKind = 2
)

// String names the kind for people.
func (k TransactionKind) String() string {
	switch k {
	case KindRoot:
		return "root statement"
	case KindSession:
		return "session commit"
	}
	return "unknown kind"
}

// The limits that every decoder enforces, before it allocates for what it reads. Sizes are in bytes.
const (
	// MaxBody bounds a request's body.
	MaxBody = 256 << 10
	// MaxResponse bounds a response's body (of which the wire carries only the digest).
	MaxResponse = 256 << 10
	// MaxTransaction bounds a Layer 1 transaction, so also every encoding in this package.
	MaxTransaction = 1 << 20
	// MaxSteps bounds the transactions of one session commit.
	MaxSteps = 4096
	// MaxSequence bounds the steps of a session over all its checkpoints.
	MaxSequence = 1 << 32
	// MaxTarget bounds path and query together, the question mark included.
	MaxTarget = 8 << 10
	// MaxMethod bounds a method's name.
	MaxMethod = 32
	// MaxContentType bounds a content type.
	MaxContentType = 256
	// MaxHeaders bounds the recorded headers of one response.
	MaxHeaders = 16
	// MaxHeaderName and MaxHeaderValue bound one recorded header.
	MaxHeaderName  = 64
	MaxHeaderValue = 4 << 10
	// MaxChainID bounds a chain id; CometBFT allows 50.
	MaxChainID = 50
	// MaxOpenBody bounds the JSON of an OpenBody.
	MaxOpenBody = 512
	// MaxTime bounds every time, in milliseconds since 1970 (the end of the year 9999); seconds are bounded by a thousandth.
	MaxTime = 253402300799999
)
