package layer2

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/fxamacker/cbor/v2"

	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// The keys of the journal; docs/format/layer2-log.md has the page.
//
//	m last                 number of the last write
//	m meta                 format, chain id and node key
//	l ID                   the session has not ended
//	s ID a                 the opening request
//	s ID b SEQUENCE        a step
//	s ID c                 the commit request
//	s ID d                 why it cannot be committed
//	s ID e SEQUENCE        evidence: a second signed request for a position
//	s ID v SEQUENCE        other nodes' endorsements of a step, and this one's of another originator's
//	s ID w SEQUENCE HEAD   another variant of the last step
//	s ID p KIND            an evidence file
//	s ID u NUMBER          a decision, of the audit trail
//	s ID h SEQUENCE        a checkpoint that ends at this step
//	s ID z                 the outcome
//	x NUMBER ID            ended sessions, oldest first
var (
	keyLast = []byte("mlast")
	keyMeta = []byte("mmeta")
)

const (
	partOpen       = 'a'
	partStep       = 'b'
	partCommit     = 'c'
	partFault      = 'd'
	partEvidence   = 'e'
	partProof      = 'p' // evidence files
	partAudit      = 'u'
	partCheckpoint = 'h'
	partVotes      = 'v'
	partVariant    = 'w' // behind the steps, and before the outcome
	partEnd        = 'z'
)

func keyLive(id wire.SessionID) []byte { return append([]byte{'l'}, id[:]...) }

func keyEnded(number uint64, id wire.SessionID) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{'x'}, number), id[:]...)
}

func keySession(id wire.SessionID) []byte { return append([]byte{'s'}, id[:]...) }

func keyPart(id wire.SessionID, part byte) []byte { return append(keySession(id), part) }

func keyNumbered(id wire.SessionID, part byte, sequence uint64) []byte {
	return binary.BigEndian.AppendUint64(keyPart(id, part), sequence)
}

func keyVariant(id wire.SessionID, sequence uint64, head wire.Digest) []byte {
	return append(keyNumbered(id, partVariant, sequence), head[:]...)
}

// nameOf says in words what a key holds.
func nameOf(key []byte) string {
	if len(key) >= 18 && key[0] == 's' {
		id := wire.SessionID(key[1:17])
		switch part := key[17]; {
		case part == partOpen:
			return fmt.Sprintf("the opening of session %s", id)
		case part == partStep && len(key) == 26:
			return fmt.Sprintf("step %d of session %s", binary.BigEndian.Uint64(key[18:]), id)
		case part == partCommit:
			return fmt.Sprintf("the commit request of session %s", id)
		case part == partFault:
			return fmt.Sprintf("the fault of session %s", id)
		case part == partEvidence:
			return fmt.Sprintf("the evidence of session %s", id)
		case part == partVotes:
			return fmt.Sprintf("the endorsements of session %s", id)
		case part == partVariant && len(key) == 58:
			return fmt.Sprintf("another variant of step %d of session %s", binary.BigEndian.Uint64(key[18:]), id)
		case part == partProof:
			return fmt.Sprintf("the evidence file of session %s", id)
		case part == partAudit:
			return fmt.Sprintf("the audit trail of session %s", id)
		case part == partCheckpoint && len(key) == 26:
			return fmt.Sprintf("the checkpoint at step %d of session %s", binary.BigEndian.Uint64(key[18:]), id)
		case part == partEnd:
			return fmt.Sprintf("the outcome of session %s", id)
		}
	}
	if len(key) == 17 && key[0] == 'l' {
		return fmt.Sprintf("the mark that session %s is open", wire.SessionID(key[1:]))
	}
	return fmt.Sprintf("the record %q", key)
}

// The records. Each is a CBOR array; signed requests and responses are in the wire encoding.
type (
	metaRecord struct {
		_     struct{} `cbor:",toarray"`
		Chain string
		Node  wire.PublicKey
	}
	openRecord struct {
		_       struct{} `cbor:",toarray"`
		Request []byte
		Actor   string
		Height  int64
		Time    int64
	}
	stepRecord struct {
		_         struct{} `cbor:",toarray"`
		Request   []byte
		Response  []byte
		Node      wire.PublicKey
		Time      int64
		Head      wire.Digest
		Height    int64
		Body      []byte
		Questions []byte // what the step asked of the committed state, and was told; see question
		Seal      wire.Seal
	}
	votesRecord struct {
		_            struct{}    `cbor:",toarray"`
		Head         wire.Digest // of the step; endorsements of another variant are void
		Endorsements []wire.Endorsement
	}
	commitRecord struct {
		_       struct{} `cbor:",toarray"`
		Request []byte
	}
	faultRecord struct {
		_      struct{} `cbor:",toarray"`
		Code   string
		Detail string
		Step   uint64
		Field  string
	}
	evidenceRecord struct {
		_       struct{} `cbor:",toarray"`
		Request []byte
	}
	endRecord struct {
		_           struct{} `cbor:",toarray"`
		State       string
		Height      int64
		Transaction wire.Digest
		Time        int64  // of the block
		Number      uint64 // in the list of ended sessions
		Ours        bool   // the block holds the very transaction that this node's records make
		Conflict    []byte // JSON of Conflict, when conflicted
		Request     []byte // signed, when abandoned
	}
)

var (
	recordEncoding = must(cbor.EncOptions{Sort: cbor.SortCoreDeterministic}.EncMode())
	recordDecoding = must(cbor.DecOptions{MaxArrayElements: 1 << 16, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func encodeRecord(v any) []byte { return must(recordEncoding.Marshal(v)) }

func decodeRecord(key, b []byte, into any) error {
	if err := recordDecoding.Unmarshal(b, into); err != nil {
		return damagedRecord(key, "cannot be decoded: "+err.Error())
	}
	return nil
}

// stored is a step read back, checked and decoded.
type stored struct {
	tx        wire.Transaction
	head      wire.Digest
	height    int64
	body      []byte
	questions []question
	seal      wire.Seal // of the originator
	bare      bool      // taken over from a checkpoint in a block, not run here: its response's body is not here
}

func (s *stored) recorded() wire.Recorded {
	return wire.Recorded{Transaction: s.tx, Height: s.height, Seal: s.seal}
}

func (s *stored) encode() []byte {
	return encodeRecord(stepRecord{
		Request: s.tx.Request.Encode(), Response: s.tx.Response.Encode(), Node: s.tx.Originator, Time: s.tx.Time,
		Head: s.head, Height: s.height, Body: s.body, Questions: encodeQuestions(s.questions), Seal: s.seal,
	})
}

// decodeStep reads the record of a step and checks that its parts fit together.
func decodeStep(key, b []byte) (*stored, error) {
	var rec stepRecord
	if err := decodeRecord(key, b, &rec); err != nil {
		return nil, err
	}
	size := 26
	if key[17] == partVariant {
		size = 58
	}
	if len(key) != size {
		return nil, damagedRecord(key, "has a key of the wrong size")
	}
	s := &stored{head: rec.Head, height: rec.Height, body: rec.Body, seal: rec.Seal}
	s.tx = wire.Transaction{Sequence: binary.BigEndian.Uint64(key[18:]), Originator: rec.Node, Time: rec.Time}
	var err error
	if s.tx.Request, err = wire.DecodeRequest(rec.Request); err != nil {
		return nil, damagedRecord(key, "holds no request: "+err.Error())
	}
	if s.tx.Response, err = wire.DecodeResponse(rec.Response); err != nil {
		return nil, damagedRecord(key, "holds no response: "+err.Error())
	}
	if s.bare = len(s.body) == 0 && wire.Sum(nil) != s.tx.Response.Body; !s.bare && wire.Sum(s.body) != s.tx.Response.Body {
		return nil, damagedRecord(key, "holds a body that its digest does not fit")
	}
	if s.questions, err = decodeQuestions(rec.Questions); err != nil {
		return nil, damagedRecord(key, err.Error())
	}
	return s, nil
}

// loaded is a session read back whole.
type loaded struct {
	open       wire.Request
	body       wire.OpenBody
	actor      string
	height     int64
	time       int64
	machine    *session.Machine
	fault      *refusal.Refusal
	conflict   *Conflict
	end        *endRecord
	commit     *wire.Request
	sizes      []int         // bytes of the steps' encodings
	checkpoint *wire.Request // of the checkpoint under way, or once under way
	newest     int64         // height of the newest state that a step ran on
	asked      []question
	askedTo    []int // asked[:askedTo[k]] belongs to the steps up to k+1
	votes      [][]wire.Endorsement
	policy     *session.Policy
	leaving    *wire.Request
	bare       uint64 // the last step without its body
}

// load reads a session from the journal and takes its machine through the records. ok is false if there is none. An
// error is a *recordError that names the damaged record, or the disk's.
func (e *Engine) load(id wire.SessionID) (*loaded, bool, error) {
	var l loaded
	var head wire.Digest
	err := e.journal.scan(keySession(id), func(key, b []byte) error {
		if len(key) < 18 {
			return damagedRecord(key, "has a key of the wrong size")
		}
		if key[17] != partOpen && l.machine == nil {
			return damagedRecord(key, "is there, but not the opening of its session")
		}
		var rec session.Record
		switch key[17] {
		case partOpen:
			return e.loadOpen(id, key, b, &l, &head)
		case partStep:
			s, err := decodeStep(key, b)
			if err != nil {
				return err
			}
			if head = wire.TranscriptNext(head, s.tx); head != s.head {
				return damagedRecord(key, "does not continue the transcript of the step before it")
			}
			if s.bare {
				l.bare = s.tx.Sequence
			}
			l.sizes = append(l.sizes, transactionSize(&s.tx))
			l.newest = max(l.newest, s.height)
			l.asked = append(l.asked, s.questions...)
			l.askedTo = append(l.askedTo, len(l.asked))
			rec = session.StepRecord{Sequence: s.tx.Sequence, Request: s.tx.Request.Digest(), Head: s.head, Time: s.tx.Time, Originator: s.tx.Originator}
			l.votes = append(l.votes, nil)
		case partCommit:
			var c commitRecord
			if err := decodeRecord(key, b, &c); err != nil {
				return err
			}
			req, err := wire.DecodeRequest(c.Request)
			if err != nil {
				return damagedRecord(key, err.Error())
			}
			l.commit = &req
			rec = session.CommitRecord{Request: req.Digest()}
		case partFault:
			var f faultRecord
			if err := decodeRecord(key, b, &f); err != nil {
				return err
			}
			l.fault = f.refusal()
			rec = session.FaultRecord{Reason: refusal.Code(f.Code)}
		case partEvidence:
			if len(key) != 26 {
				return damagedRecord(key, "has a key of the wrong size")
			}
			rec = session.EvidenceRecord{Sequence: binary.BigEndian.Uint64(key[18:])}
		case partAudit, partProof: // read when somebody asks
			return nil
		case partCheckpoint:
			r, err := l.loadCheckpoint(key, b)
			if err != nil {
				return err
			}
			rec = r
		case partVotes:
			return e.loadVotes(key, b, &l)
		case partVariant:
			s, err := loadVariant(key, b, l.machine)
			if err != nil {
				return err
			}
			rec = session.VariantRecord{Sequence: s.tx.Sequence, Request: s.tx.Request.Digest(), Head: s.head, Time: s.tx.Time, Originator: s.tx.Originator}
		case partEnd:
			end, err := decodeEnd(key, b)
			if err != nil {
				return err
			}
			l.end = end
			if l.conflict, err = end.conflict(key); err != nil {
				return err
			}
			if l.leaving, err = end.leaving(key); err != nil {
				return err
			}
			state, _ := session.ParseState(end.State)
			rec = session.EndRecord{State: state, Height: end.Height, Transaction: end.Transaction}
		default:
			return damagedRecord(key, "is of no known kind")
		}
		if err := l.machine.Restore(rec); err != nil {
			return damagedRecord(key, "does not fit what stands before it: "+err.Error())
		}
		return nil
	})
	if err == nil && l.machine != nil && l.bare > l.machine.Start().Sequence {
		err = damagedRecord(keyNumbered(id, partStep, l.bare), "has no body, though no checkpoint holds it")
	}
	return &l, l.machine != nil, err
}

func (e *Engine) loadOpen(id wire.SessionID, key, b []byte, l *loaded, head *wire.Digest) error {
	var o openRecord
	if err := decodeRecord(key, b, &o); err != nil {
		return err
	}
	req, err := wire.DecodeRequest(o.Request)
	if err != nil {
		return damagedRecord(key, err.Error())
	}
	proven, err := session.VerifyOpen(&req)
	if err != nil {
		return damagedRecord(key, err.Error())
	}
	if proven.ID != id {
		return damagedRecord(key, "opens another session, "+proven.ID.String())
	}
	l.open, l.body, l.actor, l.height, l.time = req, proven.Open, o.Actor, o.Height, o.Time
	l.newest = o.Height
	*head = proven.Head
	l.policy = e.policy.Load()
	l.machine = session.New(e.self, *l.policy, proven.Head, proven.Expires)
	return nil
}

// loadVotes takes in the endorsements of a step. They are written after the step, and not always at once, so those of
// a step that is not there, or of another variant of it, mean nothing.
func (e *Engine) loadVotes(key, b []byte, l *loaded) error {
	var v votesRecord
	if err := decodeRecord(key, b, &v); err != nil {
		return err
	}
	if len(key) != 26 {
		return damagedRecord(key, "has a key of the wrong size")
	}
	n := binary.BigEndian.Uint64(key[18:])
	if n == 0 || n > l.machine.Len() || v.Head != l.machine.HeadAt(n) {
		return nil
	}
	for _, x := range v.Endorsements {
		if err := l.machine.Restore(session.EndorsementRecord{Sequence: n, Node: x.Node, Head: v.Head}); err != nil {
			return damagedRecord(key, "does not fit what stands before it: "+err.Error())
		}
		if x.Node == e.self {
			l.newest = max(l.newest, x.Height)
		}
	}
	l.votes[n-1] = v.Endorsements
	return nil
}

func decodeEnd(key, b []byte) (*endRecord, error) {
	var end endRecord
	if err := decodeRecord(key, b, &end); err != nil {
		return nil, err
	}
	if s, ok := session.ParseState(end.State); !ok || !s.Ended() {
		return nil, damagedRecord(key, fmt.Sprintf("names no outcome: %q", end.State))
	}
	return &end, nil
}

func (r *endRecord) conflict(key []byte) (*Conflict, error) {
	if len(r.Conflict) == 0 {
		return nil, nil
	}
	var c Conflict
	if err := json.Unmarshal(r.Conflict, &c); err != nil {
		return nil, damagedRecord(key, "holds no conflict: "+err.Error())
	}
	return &c, nil
}

func (r *endRecord) leaving(key []byte) (*wire.Request, error) {
	if len(r.Request) == 0 {
		return nil, nil
	}
	req, err := wire.DecodeRequest(r.Request)
	if err != nil {
		return nil, damagedRecord(key, err.Error())
	}
	return &req, nil
}

func (f *faultRecord) refusal() *refusal.Refusal {
	r := refusal.New(refusal.Code(f.Code), "%s", f.Detail)
	if f.Step > 0 {
		r = r.With("step", f.Step)
	}
	if f.Field != "" {
		r = r.With("field", f.Field)
	}
	return r
}

// transactionSize bounds the bytes that a step adds to its session's Layer 1 transaction.
func transactionSize(tx *wire.Transaction) int {
	return len(tx.Request.Encode()) + len(tx.Response.Encode()) + stepOverhead
}

const (
	// stepOverhead bounds what a transaction's encoding has beside request and response: array head, sequence (9),
	// originator (34), time (9).
	stepOverhead = 64
	// commitReserve is kept free in every session for the commit request and the frame.
	commitReserve = 4 << 10
)

func vfsNotExist(err error) bool { return errors.Is(err, os.ErrNotExist) }
