package wire

import (
	"bytes"

	"github.com/fxamacker/cbor/v2"

	"tandem/internal/refusal"
)

// PeerKind tells the messages between Layer 2 nodes apart. It is the first element of the encoded array.
type PeerKind uint8

// The kinds of messages. docs/format/peer.md has the bytes and who answers what.
const (
	KindOpened     PeerKind = 1
	KindStep       PeerKind = 2
	KindEndorse    PeerKind = 3
	KindDissent    PeerKind = 4
	KindFetch      PeerKind = 5
	KindTranscript PeerKind = 6
	KindMissing    PeerKind = 7
	KindEnded      PeerKind = 8
	KindSessions   PeerKind = 9
	KindHeight     PeerKind = 10
)

// Limits of messages between nodes and of uploads.
const (
	// MaxTranscript bounds a transcript: every step of the largest session with its originator's signature.
	MaxTranscript = 2 << 20
	// MaxReason and MaxDetail bound the texts of a dissent.
	MaxReason = 64
	MaxDetail = 512
	// MaxPage bounds the sessions named in one PeerSessions.
	MaxPage = 1024
)

// Seal is the originator's signature over its answer to a step: httpsig's answer signature, made at Created (seconds). Who has
// the transaction, the height and the seal can give the client the originator's very answer again.
type Seal struct {
	_         struct{} `cbor:",toarray"`
	Created   int64
	Signature Signature
}

// Recorded is a step as nodes and clients pass it on: the transaction, the height of the state it ran on, and the
// originator's seal on both.
type Recorded struct {
	_           struct{} `cbor:",toarray"`
	Transaction Transaction
	Height      int64
	Seal        Seal
}

// Transcript is a whole session as its client has seen it: what PUT /tandem/v1/sessions/{id} uploads.
type Transcript struct {
	_     struct{} `cbor:",toarray"`
	Open  Request
	Steps []Recorded
}

// Endorsement says that Node has run the step after which Session stands at Head, on the state at Height, got the
// recorded response, and has it on disk. Signature is over [EndorsementBytes].
type Endorsement struct {
	_         struct{} `cbor:",toarray"`
	Node      PublicKey
	Height    int64
	Signature Signature
}

// endorsementTag separates endorsements from everything else that a node's key signs.
const endorsementTag = "tandem-endorsement-v1"

// EndorsementBytes are the bytes that an endorsement signs: CBOR of ["tandem-endorsement-v1", chain id, session, sequence,
// head, height].
func EndorsementBytes(chainID string, session SessionID, sequence uint64, head Digest, height int64) []byte {
	return encode(struct {
		_        struct{} `cbor:",toarray"`
		Tag      string
		ChainID  string
		Session  SessionID
		Sequence uint64
		Head     Digest
		Height   int64
	}{Tag: endorsementTag, ChainID: chainID, Session: session, Sequence: sequence, Head: head, Height: height})
}

// Verify checks the endorsement's signature, and nothing else: who Node is, is the caller's to look up. Errors: key-weak,
// signature-invalid.
func (e Endorsement) Verify(chainID string, session SessionID, sequence uint64, head Digest) error {
	return VerifySignature(e.Node, EndorsementBytes(chainID, session, sequence, head, e.Height), e.Signature)
}

// PeerOpened tells of a session that was opened at the sender.
type PeerOpened struct {
	Open   Request
	Height int64 // of the state it was opened on
	Time   int64 // milliseconds since 1970
}

// PeerStep asks for an endorsement of a step that the sender has originated. Previous is the head that the request signs over,
// Head the one after the step.
type PeerStep struct {
	Session  SessionID
	Previous Digest
	Head     Digest
	Step     Recorded
}

// PeerEndorse is the sender's endorsement of a step.
type PeerEndorse struct {
	Session   SessionID
	Sequence  uint64
	Head      Digest
	Height    int64
	Signature Signature
}

// PeerDissent says that the sender cannot endorse a step, and why. Reason is a refusal's code. Head and Response are what
// the sender has or got instead, zero if nothing.
type PeerDissent struct {
	Session  SessionID
	Sequence uint64
	Head     Digest // of the step that is not endorsed
	Reason   string
	Height   int64
	Mine     Digest // the sender's own head at this sequence
	Response Digest // of the sender's own response, if it ran the step
	Detail   string
}

// PeerFetch asks for a session from a step on; from 0 for the opening too.
type PeerFetch struct {
	Session SessionID
	From    uint64
}

// PeerTranscript answers a fetch: the opening, and the steps from From on (From is at least 1).
type PeerTranscript struct {
	Opened PeerOpened
	From   uint64
	Steps  []Recorded
	Ended  *PeerEnded // the session is being committed, or was abandoned; nil otherwise
}

// PeerMissing answers a fetch by a node that has no such session, or has nothing that was asked for.
type PeerMissing struct{ Session SessionID }

// PeerEnded tells that the client has signed the session's end: a commit request (tag tandem-commit) or its abandoning (tag
// tandem-step, DELETE), at the place (Sequence, Head).
type PeerEnded struct {
	Session  SessionID
	Sequence uint64
	Head     Digest
	Request  Request
}

// PeerSessions lists open sessions of the sender; it is sent, in pages, whenever a connection comes up.
type PeerSessions struct{ Sessions []Tip }

// Tip is where a session stands at a node.
type Tip struct {
	_       struct{} `cbor:",toarray"`
	Session SessionID
	Steps   uint64
	Head    Digest
}

// PeerHeight tells the newest block that the sender has.
type PeerHeight struct{ Height int64 }

// The records that go on the wire.
type (
	openedRecord struct {
		_      struct{} `cbor:",toarray"`
		Kind   PeerKind
		Open   Request
		Height int64
		Time   int64
	}
	stepRecord struct {
		_        struct{} `cbor:",toarray"`
		Kind     PeerKind
		Session  SessionID
		Previous Digest
		Head     Digest
		Step     Recorded
	}
	endorseRecord struct {
		_         struct{} `cbor:",toarray"`
		Kind      PeerKind
		Session   SessionID
		Sequence  uint64
		Head      Digest
		Height    int64
		Signature Signature
	}
	dissentRecord struct {
		_        struct{} `cbor:",toarray"`
		Kind     PeerKind
		Session  SessionID
		Sequence uint64
		Head     Digest
		Reason   string
		Height   int64
		Mine     Digest
		Response Digest
		Detail   string
	}
	fetchRecord struct {
		_       struct{} `cbor:",toarray"`
		Kind    PeerKind
		Session SessionID
		From    uint64
	}
	transcriptRecord struct {
		_      struct{} `cbor:",toarray"`
		Kind   PeerKind
		Open   Request
		Height int64
		Time   int64
		From   uint64
		Steps  []Recorded
		Ended  []endedPart // none or one
	}
	endedPart struct {
		_        struct{} `cbor:",toarray"`
		Session  SessionID
		Sequence uint64
		Head     Digest
		Request  Request
	}
	missingRecord struct {
		_       struct{} `cbor:",toarray"`
		Kind    PeerKind
		Session SessionID
	}
	endedRecord struct {
		_     struct{} `cbor:",toarray"`
		Kind  PeerKind
		Ended endedPart
	}
	sessionsRecord struct {
		_        struct{} `cbor:",toarray"`
		Kind     PeerKind
		Sessions []Tip
	}
	heightRecord struct {
		_      struct{} `cbor:",toarray"`
		Kind   PeerKind
		Height int64
	}
)

// Encode returns the canonical bytes of t.
func (t Transcript) Encode() []byte { return encode(t) }

// Encode returns the canonical bytes of m.
func (m PeerOpened) Encode() []byte {
	return encode(openedRecord{Kind: KindOpened, Open: m.Open, Height: m.Height, Time: m.Time})
}

// Encode returns the canonical bytes of m.
func (m PeerStep) Encode() []byte {
	return encode(stepRecord{Kind: KindStep, Session: m.Session, Previous: m.Previous, Head: m.Head, Step: m.Step})
}

// Encode returns the canonical bytes of m.
func (m PeerEndorse) Encode() []byte {
	return encode(endorseRecord{Kind: KindEndorse, Session: m.Session, Sequence: m.Sequence, Head: m.Head, Height: m.Height, Signature: m.Signature})
}

// Encode returns the canonical bytes of m.
func (m PeerDissent) Encode() []byte {
	return encode(dissentRecord{
		Kind: KindDissent, Session: m.Session, Sequence: m.Sequence, Head: m.Head, Reason: m.Reason, Height: m.Height,
		Mine: m.Mine, Response: m.Response, Detail: m.Detail,
	})
}

// Encode returns the canonical bytes of m.
func (m PeerFetch) Encode() []byte {
	return encode(fetchRecord{Kind: KindFetch, Session: m.Session, From: m.From})
}

// Encode returns the canonical bytes of m.
func (m PeerTranscript) Encode() []byte {
	r := transcriptRecord{Kind: KindTranscript, Open: m.Opened.Open, Height: m.Opened.Height, Time: m.Opened.Time, From: m.From, Steps: m.Steps}
	if m.Ended != nil {
		r.Ended = []endedPart{m.Ended.part()}
	}
	return encode(r)
}

// Encode returns the canonical bytes of m.
func (m PeerMissing) Encode() []byte {
	return encode(missingRecord{Kind: KindMissing, Session: m.Session})
}

// Encode returns the canonical bytes of m.
func (m PeerEnded) Encode() []byte { return encode(endedRecord{Kind: KindEnded, Ended: m.part()}) }

func (m PeerEnded) part() endedPart {
	return endedPart{Session: m.Session, Sequence: m.Sequence, Head: m.Head, Request: m.Request}
}

// Encode returns the canonical bytes of m.
func (m PeerSessions) Encode() []byte {
	return encode(sessionsRecord{Kind: KindSessions, Sessions: m.Sessions})
}

// Encode returns the canonical bytes of m.
func (m PeerHeight) Encode() []byte { return encode(heightRecord{Kind: KindHeight, Height: m.Height}) }

// peerDecoding nests deeper than a session commit: message, steps, recorded, transaction, response, headers, header.
var peerDecoding = mustPeerDecoding()

func mustPeerDecoding() cbor.DecMode {
	mode, err := cbor.DecOptions{
		MaxNestedLevels:  8,
		MaxArrayElements: MaxSteps,
		MaxMapPairs:      16,
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

// DecodeTranscript reads an uploaded transcript: the canonical encoding, all sequences from 1 without a gap. Errors:
// non-canonical, body-too-large, and those of [DecodeTransaction]. What it proves is session.VerifyTranscript's to say.
func DecodeTranscript(b []byte) (Transcript, error) {
	var t Transcript
	if err := decodePeer(b, &t, "transcript"); err != nil {
		return Transcript{}, err
	}
	if err := t.Open.limits(); err != nil {
		return Transcript{}, locate(err, "field", "open")
	}
	return t, checkRecorded(t.Steps, 1)
}

// DecodePeer reads a message between nodes; the result is one of the Peer types of this package. Errors: unknown-kind,
// non-canonical, body-too-large, and those of [DecodeTransaction]. Signatures are not looked at.
func DecodePeer(b []byte) (any, error) {
	if len(b) < 2 || b[0]>>5 != 4 {
		return nil, refusal.New(refusal.NonCanonical, "a message between nodes is a CBOR array that begins with its kind")
	}
	switch PeerKind(b[1]) {
	case KindOpened:
		var r openedRecord
		if err := decodePeer(b, &r, "opening"); err != nil {
			return nil, err
		}
		m := PeerOpened{Open: r.Open, Height: r.Height, Time: r.Time}
		return m, m.check()
	case KindStep:
		var r stepRecord
		if err := decodePeer(b, &r, "step"); err != nil {
			return nil, err
		}
		return PeerStep{Session: r.Session, Previous: r.Previous, Head: r.Head, Step: r.Step},
			checkRecorded([]Recorded{r.Step}, r.Step.Transaction.Sequence)
	case KindEndorse:
		var r endorseRecord
		if err := decodePeer(b, &r, "endorsement"); err != nil {
			return nil, err
		}
		return PeerEndorse{Session: r.Session, Sequence: r.Sequence, Head: r.Head, Height: r.Height, Signature: r.Signature},
			checkPlace(r.Sequence, r.Height)
	case KindDissent:
		var r dissentRecord
		if err := decodePeer(b, &r, "dissent"); err != nil {
			return nil, err
		}
		if len(r.Reason) > MaxReason || len(r.Detail) > MaxDetail {
			return nil, refusal.New(refusal.NonCanonical, "a dissent with %d bytes of reason and %d of detail", len(r.Reason), len(r.Detail))
		}
		return PeerDissent{
			Session: r.Session, Sequence: r.Sequence, Head: r.Head, Reason: r.Reason, Height: r.Height, Mine: r.Mine,
			Response: r.Response, Detail: r.Detail,
		}, checkPlace(r.Sequence, r.Height)
	case KindFetch:
		var r fetchRecord
		if err := decodePeer(b, &r, "fetch"); err != nil {
			return nil, err
		}
		if r.From > MaxSteps {
			return nil, refusal.New(refusal.NonCanonical, "a fetch from step %d", r.From)
		}
		return PeerFetch{Session: r.Session, From: r.From}, nil
	case KindTranscript:
		return decodePeerTranscript(b)
	case KindMissing:
		var r missingRecord
		err := decodePeer(b, &r, "missing session")
		return PeerMissing{Session: r.Session}, err
	case KindEnded:
		var r endedRecord
		if err := decodePeer(b, &r, "end"); err != nil {
			return nil, err
		}
		return r.Ended.message()
	case KindSessions:
		var r sessionsRecord
		if err := decodePeer(b, &r, "list of sessions"); err != nil {
			return nil, err
		}
		if len(r.Sessions) > MaxPage {
			return nil, refusal.New(refusal.NonCanonical, "a page of %d sessions, more than %d", len(r.Sessions), MaxPage)
		}
		for _, t := range r.Sessions {
			if t.Steps > MaxSteps {
				return nil, refusal.New(refusal.NonCanonical, "a session of %d steps", t.Steps)
			}
		}
		return PeerSessions{Sessions: r.Sessions}, nil
	case KindHeight:
		var r heightRecord
		if err := decodePeer(b, &r, "height"); err != nil {
			return nil, err
		}
		return PeerHeight{Height: r.Height}, checkPlace(1, r.Height)
	}
	return nil, refusal.New(refusal.UnknownKind, "a message between nodes of kind %d", b[1])
}

func decodePeerTranscript(b []byte) (any, error) {
	var r transcriptRecord
	if err := decodePeer(b, &r, "transcript"); err != nil {
		return nil, err
	}
	m := PeerTranscript{Opened: PeerOpened{Open: r.Open, Height: r.Height, Time: r.Time}, From: r.From, Steps: r.Steps}
	if err := m.Opened.check(); err != nil {
		return nil, err
	}
	if r.From < 1 || r.From > MaxSteps+1 || len(r.Ended) > 1 {
		return nil, refusal.New(refusal.NonCanonical, "a transcript from step %d with %d ends", r.From, len(r.Ended))
	}
	for i := range r.Ended {
		e, err := r.Ended[i].message()
		if err != nil {
			return nil, err
		}
		m.Ended = &e
	}
	return m, checkRecorded(r.Steps, r.From)
}

func (p *endedPart) message() (PeerEnded, error) {
	if err := p.Request.limits(); err != nil {
		return PeerEnded{}, err
	}
	return PeerEnded{Session: p.Session, Sequence: p.Sequence, Head: p.Head, Request: p.Request}, checkEndPlace(p.Sequence)
}

func (m *PeerOpened) check() error {
	if err := m.Open.limits(); err != nil {
		return locate(err, "field", "open")
	}
	if m.Height < 0 || m.Time < 0 || m.Time > MaxTime {
		return refusal.New(refusal.NonCanonical, "an opening at height %d and time %d", m.Height, m.Time)
	}
	return nil
}

func checkRecorded(steps []Recorded, from uint64) error {
	for i := range steps {
		s := &steps[i]
		if err := s.Transaction.limits(); err != nil {
			return locate(err, "step", from+uint64(i))
		}
		if s.Transaction.Sequence != from+uint64(i) {
			return refusal.New(refusal.NonCanonical, "sequence %d stands where %d belongs", s.Transaction.Sequence, from+uint64(i))
		}
		if s.Height < 0 || s.Seal.Created < 0 || s.Seal.Created > MaxTime/1000 {
			return refusal.New(refusal.NonCanonical, "step %d ran at height %d and was sealed at %d", s.Transaction.Sequence, s.Height, s.Seal.Created)
		}
	}
	return nil
}

func checkPlace(sequence uint64, height int64) error {
	if sequence < 1 || sequence > MaxSteps || height < 0 {
		return refusal.New(refusal.NonCanonical, "sequence %d, height %d", sequence, height)
	}
	return nil
}

func checkEndPlace(sequence uint64) error {
	if sequence < 1 || sequence > MaxSteps+1 {
		return refusal.New(refusal.NonCanonical, "a session's end at sequence %d", sequence)
	}
	return nil
}

func decodePeer[T any](b []byte, into *T, name string) error {
	if len(b) > MaxTranscript {
		return refusal.New(refusal.BodyTooLarge, "the %s is %d bytes, more than %d", name, len(b), MaxTranscript)
	}
	if err := peerDecoding.Unmarshal(b, into); err != nil {
		return refusal.New(refusal.NonCanonical, "the %s does not decode: %v", name, err)
	}
	if !bytes.Equal(encode(*into), b) {
		return refusal.New(refusal.NonCanonical, "the bytes of the %s are not its canonical encoding", name)
	}
	return nil
}
