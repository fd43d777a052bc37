package wire

import (
	"bytes"

	"github.com/fxamacker/cbor/v2"

	"tandem/internal/refusal"
)

// The modes are built once and never changed; they hold no state between calls.
var (
	encoding = mustEncoding()
	decoding = mustDecoding()
)

func mustEncoding() cbor.EncMode {
	options := cbor.CoreDetEncOptions()
	options.NilContainers = cbor.NilContainerAsEmpty // a nil body is the empty body
	options.TagsMd = cbor.TagsForbidden
	mode, err := options.EncMode()
	if err != nil {
		panic("wire: " + err.Error())
	}
	return mode
}

func mustDecoding() cbor.DecMode {
	mode, err := cbor.DecOptions{
		// A session commit nests: commit, transactions, transaction, response, headers, header.
		MaxNestedLevels:  6,
		MaxArrayElements: MaxSteps,
		MaxMapPairs:      16, // the library's least; no format here has a map
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		UTF8:             cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		panic("wire: " + err.Error())
	}
	return mode
}

// rootRecord and sessionRecord are what goes on the wire for the two kinds of Layer 1 transactions.
type rootRecord struct {
	_      struct{} `cbor:",toarray"`
	Kind   TransactionKind
	Height int64
	Root   Digest
}

type sessionRecord struct {
	_            struct{} `cbor:",toarray"`
	Kind         TransactionKind
	Open         Request
	Start        Start
	Transactions []Transaction
	Commit       Request
}

// Encode returns the canonical bytes of r.
func (r Request) Encode() []byte { return r.appendTo(make([]byte, 0, r.sizeBound())) }

// Encode returns the canonical bytes of r.
func (r Response) Encode() []byte { return r.appendTo(make([]byte, 0, r.sizeBound())) }

// Encode returns the canonical bytes of t.
func (t Transaction) Encode() []byte {
	return t.appendTo(make([]byte, 0, smallSize+t.Request.sizeBound()+t.Response.sizeBound()))
}

// Encode returns the canonical bytes of c: a Layer 1 transaction of [KindSession].
func (c SessionCommit) Encode() []byte {
	record := sessionRecord{Kind: KindSession, Open: c.Open, Start: c.Start, Transactions: c.Transactions, Commit: c.Commit}
	return record.appendTo(make([]byte, 0, record.sizeBound()))
}

// Encode returns the canonical bytes of s: a Layer 1 transaction of [KindRoot].
func (s RootStatement) Encode() []byte {
	return encode(rootRecord{Kind: KindRoot, Height: s.Height, Root: s.Root})
}

// DecodeRequest reads the canonical encoding of a request. Errors: non-canonical, transaction-too-large, bad-target,
// bad-request, body-too-large, header-too-large, signature-malformed. Success says that the fields are within limits, not that the signature is good.
func DecodeRequest(b []byte) (Request, error) {
	var r Request
	if err := decode(b, &r, "request"); err != nil {
		return Request{}, err
	}
	if err := r.limits(); err != nil {
		return Request{}, err
	}
	return r, nil
}

// DecodeResponse reads the canonical encoding of a response. Errors: non-canonical, header-too-large.
func DecodeResponse(b []byte) (Response, error) {
	var r Response
	if err := decode(b, &r, "response"); err != nil {
		return Response{}, err
	}
	if err := r.Check(); err != nil {
		return Response{}, err
	}
	return r, nil
}

// DecodeTransaction reads the canonical encoding of a transaction. Errors: those of [DecodeRequest] and [DecodeResponse].
func DecodeTransaction(b []byte) (Transaction, error) {
	var t Transaction
	if err := decode(b, &t, "transaction"); err != nil {
		return Transaction{}, err
	}
	if err := t.limits(); err != nil {
		return Transaction{}, err
	}
	return t, nil
}

// DecodeSessionCommit reads a Layer 1 transaction of [KindSession]. Errors: those of [DecodeTransaction]; a refusal
// of one step names it in the field "step". Success says that the bytes are canonical and within limits; what they
// prove is session.Verify's to say.
func DecodeSessionCommit(b []byte) (SessionCommit, error) {
	if err := expect(b, KindSession); err != nil {
		return SessionCommit{}, err
	}
	var record sessionRecord
	if err := decode(b, &record, "session commit"); err != nil {
		return SessionCommit{}, err
	}
	c := SessionCommit{Open: record.Open, Start: record.Start, Transactions: record.Transactions, Commit: record.Commit}
	if err := c.Start.Check(); err != nil {
		return SessionCommit{}, locate(err, "field", "start")
	}
	if err := c.Open.limits(); err != nil {
		return SessionCommit{}, locate(err, "field", "open")
	}
	for i := range c.Transactions {
		if err := c.Transactions[i].limits(); err != nil {
			return SessionCommit{}, locate(err, "step", int(c.Start.Sequence)+i+1)
		}
	}
	if err := c.Commit.limits(); err != nil {
		return SessionCommit{}, locate(err, "field", "commit")
	}
	return c, nil
}

// DecodeRootStatement reads a Layer 1 transaction of [KindRoot]. Error: non-canonical, also for a height below 1.
func DecodeRootStatement(b []byte) (RootStatement, error) {
	if err := expect(b, KindRoot); err != nil {
		return RootStatement{}, err
	}
	var record rootRecord
	if err := decode(b, &record, "root statement"); err != nil {
		return RootStatement{}, err
	}
	if record.Height < 1 {
		return RootStatement{}, refusal.New(refusal.NonCanonical, "a root statement for height %d", record.Height)
	}
	return RootStatement{Height: record.Height, Root: record.Root}, nil
}

// Kind reads the kind of a Layer 1 transaction from its first two bytes, without decoding the rest. Error:
// non-canonical, for anything that cannot be one of the known kinds.
func Kind(tx []byte) (TransactionKind, error) {
	switch {
	case len(tx) >= 2 && tx[0] == 0x83 && tx[1] == byte(KindRoot):
		return KindRoot, nil
	case len(tx) >= 2 && tx[0] == 0x85 && tx[1] == byte(KindSession):
		return KindSession, nil
	}
	return 0, refusal.New(refusal.NonCanonical, "the transaction is of no known kind")
}

func expect(b []byte, want TransactionKind) error {
	kind, err := Kind(b)
	if err != nil {
		return err
	}
	if kind != want {
		return refusal.New(refusal.NonCanonical, "a %s where a %s is expected", kind, want)
	}
	return nil
}

func encode(v any) []byte {
	b, err := encoding.Marshal(v)
	if err != nil {
		// The types of this package hold only integers, strings, byte strings and arrays of them: there is no
		// value the encoder refuses.
		panic("wire: " + err.Error())
	}
	return b
}

func decode[T any](b []byte, into *T, name string) error {
	if len(b) > MaxTransaction {
		return refusal.New(refusal.TransactionTooLarge, "the %s is %d bytes, more than %d", name, len(b), MaxTransaction)
	}
	if err := decoding.Unmarshal(b, into); err != nil {
		return refusal.New(refusal.NonCanonical, "the %s does not decode: %v", name, err)
	}
	if !isCanonical(b, into) {
		return refusal.New(refusal.NonCanonical, "the bytes of the %s are not its canonical encoding", name)
	}
	return nil
}

// isCanonical reports whether b is the one encoding of v, which was decoded from it.
func isCanonical[T any](b []byte, v *T) bool {
	if a, ok := any(v).(appender); ok {
		return bytes.Equal(a.appendTo(make([]byte, 0, len(b)+headSize)), b)
	}
	return bytes.Equal(encode(*v), b)
}

func locate(err error, key string, value any) error {
	if r, ok := refusal.As(err); ok {
		return r.With(key, value)
	}
	return err
}
