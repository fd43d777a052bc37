// Package evidence proves misbehaviour, offline, to anyone who has the network's genesis file: that a client has signed
// two things that exclude each other, or that a Layer 2 node has.
//
// An evidence file is one canonical JSON file, like a receipt: everything in it is bound by a signature, nothing is said
// twice, and a file with any byte changed does not verify. docs/format/evidence.md describes it, and what it cannot prove.
//
// The kinds:
//
//	two-histories   a client signed over two different transcripts at one place of its session. Conclusive: a client that
//	                behaves accepts one answer for each step and never takes it back.
//	two-requests    a client signed two different requests for one place, over the same transcript. Not conclusive: a client
//	                that behaves does so too, when the first was refused or answered with a status of 400 or more, for then
//	                the place stays free. It takes both, and the client's answer to the question why, to judge.
//	two-answers     a Layer 2 node sealed two different recorded answers, both its own, for one place over the same
//	                transcript. Conclusive: it answered falsely, or it lost a step that it had acknowledged.
//	forged-request  a Layer 2 node sealed a recorded step whose request the session's client has not signed for that place.
//	                Conclusive.
//
//	wrong-answer    a Layer 2 node sealed an answer that the service's code, run on the state at the height which the node
//	                stated, does not give. Conclusive, as far as the code is deterministic. The verifier runs the code itself:
//	                [VerifyWith].
//	wrong-endorsement  the same of a node that endorsed such an answer of another's.
//
// An answer whose transcript head fits no transaction cannot be held against its node: the head is a hash, and whoever accuses
// chooses what to compare it with.
package evidence

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"tandem/internal/httpsig"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// Kind is what an evidence file says was done.
type Kind string

// The kinds; see the package comment.
const (
	TwoHistories     Kind = "two-histories"
	TwoRequests      Kind = "two-requests"
	TwoAnswers       Kind = "two-answers"
	ForgedRequest    Kind = "forged-request"
	WrongAnswer      Kind = "wrong-answer"
	WrongEndorsement Kind = "wrong-endorsement"
)

// Finding is what an evidence file proves. Digests are lower-case hex.
type Finding struct {
	Kind    Kind   `json:"kind"`
	ChainID string `json:"chain_id"`
	Session string `json:"session"`
	// Sequence is the place in the session, from 1.
	Sequence uint64 `json:"sequence"`
	// Culprit is the did:key that signed what it should not have.
	Culprit Culprit `json:"culprit"`
	// Conclusive is false if someone who behaves may have signed it too.
	Conclusive bool `json:"conclusive"`
	// Proves is one sentence for people.
	Proves string `json:"proves"`
	// Signed are the things that it signed: two for the kinds that say so, one for the others.
	Signed []Signed `json:"signed"`
	// Replay is what running the steps again gave; nil for the kinds that need no run.
	Replay *Replay `json:"replay,omitempty"`
}

// Replay is a run of the session's steps on a state that more than two thirds of the validators have signed.
type Replay struct {
	BlockHeight int64  `json:"block_height"` // of the block whose header holds the state's root: one above the node's stated height
	BlockHash   string `json:"block_hash"`
	StateRoot   string `json:"state_root"`
	Signers     int    `json:"signers"` // of Validators signed it, with Power of TotalPower
	Validators  int    `json:"validators"`
	Power       int64  `json:"power"`
	TotalPower  int64  `json:"total_power"`
	// Step is the first that the replay answers otherwise, Field what differs in it.
	Step   uint64 `json:"step"`
	Field  string `json:"field"`
	Target string `json:"target"`
	// Recorded is what the transcript says that the step answered; Status and Response what it answers, or Code why it is refused.
	Recorded         int    `json:"recorded_status"`
	RecordedResponse string `json:"recorded_response"`
	Status           int    `json:"status,omitempty"`
	Response         string `json:"response,omitempty"`
	Code             string `json:"code,omitempty"`
}

// Culprit is whom the evidence is against. ID and Organisation are what the genesis file says about the key, empty if it does not
// know it: actors and nodes registered later are known by their keys alone.
type Culprit struct {
	Key          string `json:"key"`
	Role         string `json:"role"` // "client" or "layer-2 node"
	ID           string `json:"id,omitempty"`
	Organisation string `json:"organisation,omitempty"`
}

// Signed is one thing that the culprit signed.
type Signed struct {
	Purpose    string `json:"purpose"`            // the signature's tag
	Target     string `json:"target"`             // method, path and query of the request
	Request    string `json:"request_digest"`     // of the signed request
	Over       string `json:"over"`               // the transcript head that the request signs over
	Head       string `json:"head,omitempty"`     // node: the head after the step
	Status     int    `json:"status,omitempty"`   // node
	Response   string `json:"response,omitempty"` // node: digest of the response's body
	TimeMillis int64  `json:"time_ms,omitempty"`  // node: of the step
	Height     int64  `json:"height,omitempty"`   // node: of the state it ran on
	Created    int64  `json:"created"`            // seconds since 1970, the signature's
}

// Verify is [VerifyWith] without a judge: the kinds that need one give an error that wraps [ErrCannotJudge].
func Verify(genesisJSON, evidenceJSON []byte) (*Finding, error) {
	return VerifyWith(context.Background(), genesisJSON, evidenceJSON, nil)
}

// VerifyWith checks an evidence file against a genesis file (as GET /tandem/v1/genesis serves it) and returns what it
// proves. The error says why it proves nothing, or wraps [ErrCannotJudge]. It uses neither network nor clock of its own. The
// genesis file names the chain: a signature for another chain is no evidence on this one. The judge runs the service's handlers
// where the kind of evidence needs it; node.Judge makes one of a service.
func VerifyWith(ctx context.Context, genesisJSON, evidenceJSON []byte, judge Judge) (*Finding, error) {
	g, err := readGenesis(genesisJSON)
	if err != nil {
		return nil, fmt.Errorf("genesis file: %w", err)
	}
	kind, err := kindOf(evidenceJSON)
	if err != nil {
		return nil, fmt.Errorf("evidence file: %w", err)
	}
	finding, err := verifyKind(ctx, kind, genesisJSON, evidenceJSON, judge)
	if err != nil {
		return nil, err
	}
	if finding.ChainID != g.chainID {
		return nil, fmt.Errorf("the session was opened for chain %q, not the genesis file's %q", finding.ChainID, g.chainID)
	}
	g.name(&finding.Culprit)
	return finding, nil
}

func verifyKind(ctx context.Context, kind Kind, genesisJSON, evidenceJSON []byte, judge Judge) (*Finding, error) {
	if kind == WrongAnswer || kind == WrongEndorsement {
		f, err := decodeClaim(evidenceJSON)
		if err != nil {
			return nil, fmt.Errorf("evidence file: %w", err)
		}
		return f.verify(ctx, genesisJSON, judge)
	}
	f, err := decodeFile(evidenceJSON)
	if err != nil {
		return nil, fmt.Errorf("evidence file: %w", err)
	}
	return f.verify()
}

// Request is a client's signed step or commit with its purpose and place.
type Request struct {
	Tag        string // httpsig's TagStep or TagCommit
	Transcript wire.Digest
	Request    wire.Request
}

// OfClient makes the evidence file about two signed requests of one client at one place of the session that open opened;
// two-histories or two-requests, as the transcripts tell. The error says why the two are no evidence.
func OfClient(open wire.Request, sequence uint64, a, b Request) ([]byte, error) {
	kind := TwoHistories
	if a.Transcript == b.Transcript {
		kind = TwoRequests
	}
	f := &file{Format: Format, Kind: kind, Open: open.Encode(), Sequence: sequence, Requests: []request{}, Answers: []answer{}}
	for _, r := range []Request{a, b} {
		f.Requests = append(f.Requests, request{Tag: r.Tag, Transcript: r.Transcript, Request: r.Request.Encode()})
	}
	f.sort()
	return f.checked()
}

// Answer is a recorded step with its originator's seal. Previous is the transcript head before the step.
type Answer struct {
	Previous wire.Digest
	Recorded wire.Recorded
}

// OfNode makes the evidence file about one (forged-request) or two (two-answers) sealed steps of one node in the session
// that open opened. The error says why they are no evidence.
func OfNode(open wire.Request, answers ...Answer) ([]byte, error) {
	f := &file{Format: Format, Kind: TwoAnswers, Open: open.Encode(), Requests: []request{}, Answers: []answer{}}
	if len(answers) == 1 {
		f.Kind = ForgedRequest
	}
	for _, a := range answers {
		f.Answers = append(f.Answers, answer{
			Previous: a.Previous, Transaction: a.Recorded.Transaction.Encode(), Height: a.Recorded.Height,
			Created: a.Recorded.Seal.Created, Signature: a.Recorded.Seal.Signature[:],
		})
	}
	f.sort()
	return f.checked()
}

// checked encodes the file and verifies the bytes, so that nothing is handed out that proves nothing.
func (f *file) checked() ([]byte, error) {
	raw, err := f.encode()
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	again, err := decodeFile(raw)
	if err == nil {
		_, err = again.verify()
	}
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return raw, nil
}

// verify checks everything that needs no genesis file.
func (f *file) verify() (*Finding, error) {
	open, err := wire.DecodeRequest(f.Open)
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	proven, err := session.VerifyOpen(&open)
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	finding := &Finding{Kind: f.Kind, ChainID: proven.Open.ChainID, Session: proven.ID.String(), Sequence: f.Sequence}
	switch f.Kind {
	case TwoHistories, TwoRequests:
		return finding, f.verifyClient(&proven, finding)
	default:
		return finding, f.verifyNode(&proven, finding)
	}
}

// verifyClient checks the two requests of a client.
func (f *file) verifyClient(proven *session.Proven, finding *Finding) error {
	if len(f.Requests) != 2 || len(f.Answers) != 0 {
		return fmt.Errorf("%d requests and %d answers, where two requests are needed", len(f.Requests), len(f.Answers))
	}
	if f.Sequence < 1 || f.Sequence > wire.MaxSteps+1 {
		return fmt.Errorf("no session has a place %d", f.Sequence)
	}
	var requests [2]wire.Request
	for i := range f.Requests {
		r, err := f.Requests[i].verify(proven, f.Sequence)
		if err != nil {
			return fmt.Errorf("request %d: %w", i+1, err)
		}
		requests[i] = *r
		finding.Signed = append(finding.Signed, Signed{
			Purpose: f.Requests[i].Tag, Target: target(r), Request: r.Digest().String(), Over: f.Requests[i].Transcript.String(), Created: r.Created,
		})
	}
	finding.Culprit = Culprit{Key: proven.Key.DID(), Role: "client"}
	same := f.Requests[0].Transcript == f.Requests[1].Transcript
	if f.Kind == TwoHistories {
		if same {
			return errors.New("both requests sign over the same transcript")
		}
		finding.Conclusive = true
		finding.Proves = fmt.Sprintf("at place %d of its session the client signed over two different histories", f.Sequence)
		return nil
	}
	switch {
	case !same:
		return errors.New("the requests sign over different transcripts")
	case requests[0].Digest() == requests[1].Digest():
		return errors.New("it is the same request twice")
	case f.Requests[0].Tag != httpsig.TagStep || f.Requests[1].Tag != httpsig.TagStep:
		return errors.New("a commit and another request at one place are no evidence: a commit may be refused, or be a checkpoint")
	case ends(&requests[0], proven.ID) || ends(&requests[1], proven.ID):
		return errors.New("a session may be abandoned at a place where a step was tried")
	}
	finding.Proves = fmt.Sprintf("the client signed two different requests for place %d of its session; it may do so if the first was refused "+
		"or answered with a status of 400 or more", f.Sequence)
	return nil
}

// verify checks that the session's key signed the request for this place.
func (r *request) verify(proven *session.Proven, sequence uint64) (*wire.Request, error) {
	if r.Tag != httpsig.TagStep && r.Tag != httpsig.TagCommit {
		return nil, fmt.Errorf("the purpose %.40q is no step's and no commit's", r.Tag)
	}
	req, err := wire.DecodeRequest(r.Request)
	if err != nil {
		return nil, err
	}
	return &req, signedAt(proven, r.Tag, &req, httpsig.Place{Session: proven.ID, Sequence: sequence, Transcript: r.Transcript})
}

// signedAt says whether the session's client signed the request for the place.
func signedAt(proven *session.Proven, tag string, req *wire.Request, place httpsig.Place) error {
	if err := req.Check(); err != nil {
		return err
	}
	if req.Key != proven.Key {
		return fmt.Errorf("signed by %s in a session that %s opened", req.Key, proven.Key)
	}
	return httpsig.Verify(tag, req, place)
}

// verifyNode checks the sealed steps of a node.
func (f *file) verifyNode(proven *session.Proven, finding *Finding) error {
	want := 2
	if f.Kind == ForgedRequest {
		want = 1
	}
	if len(f.Answers) != want || len(f.Requests) != 0 {
		return fmt.Errorf("%d answers and %d requests, where %d answers are needed", len(f.Answers), len(f.Requests), want)
	}
	if f.Sequence != 0 { // it is in the transactions
		return errors.New("the place is said twice")
	}
	var steps []wire.Transaction
	for i := range f.Answers {
		tx, signed, err := f.Answers[i].verify(proven)
		if err != nil {
			return fmt.Errorf("answer %d: %w", i+1, err)
		}
		steps, finding.Signed = append(steps, *tx), append(finding.Signed, *signed)
	}
	finding.Sequence = steps[0].Sequence
	finding.Culprit = Culprit{Key: steps[0].Originator.DID(), Role: "layer-2 node"}
	finding.Conclusive = true
	first := httpsig.Place{Session: proven.ID, Sequence: steps[0].Sequence, Transcript: f.Answers[0].Previous}
	if f.Kind == ForgedRequest {
		if signedAt(proven, httpsig.TagStep, &steps[0].Request, first) == nil {
			return errors.New("the client did sign the request")
		}
		finding.Proves = fmt.Sprintf("the node answered step %d as the client's, which the client has not signed", first.Sequence)
		return nil
	}
	for i := range steps {
		place := httpsig.Place{Session: proven.ID, Sequence: steps[i].Sequence, Transcript: f.Answers[i].Previous}
		if err := signedAt(proven, httpsig.TagStep, &steps[i].Request, place); err != nil {
			return fmt.Errorf("request %d: %w", i+1, err)
		}
	}
	switch {
	case steps[0].Originator != steps[1].Originator:
		return errors.New("two nodes may each have answered a step, before they hear of each other")
	case steps[0].Sequence != steps[1].Sequence:
		return errors.New("the answers are to different steps")
	case f.Answers[0].Previous != f.Answers[1].Previous:
		return errors.New("the answers follow different transcripts, which only their client can have signed over")
	case finding.Signed[0].Head == finding.Signed[1].Head:
		return errors.New("the answers are the same")
	}
	finding.Proves = fmt.Sprintf("the node gave two different answers for step %d, each recorded and acknowledged: it lied, or it lost what it had acknowledged", first.Sequence)
	return nil
}

// verify checks that the transaction's originator sealed it: status, body, place, head, height and time. The response's
// headers are under no signature of their own, but the head covers them.
func (a *answer) verify(proven *session.Proven) (*wire.Transaction, *Signed, error) {
	tx, err := wire.DecodeTransaction(a.Transaction)
	if err != nil {
		return nil, nil, err
	}
	if len(a.Signature) != len(wire.Signature{}) {
		return nil, nil, errors.New("the seal has the wrong size")
	}
	if tx.Sequence < 1 || tx.Response.Status >= 400 || a.Height < 0 || a.Created < 0 {
		return nil, nil, errors.New("it is no recorded step")
	}
	head := wire.TranscriptNext(a.Previous, tx)
	err = httpsig.VerifySeal(httpsig.Answer{
		Status: tx.Response.Status, Body: tx.Response.Body, Session: proven.ID, Sequence: tx.Sequence, Transcript: head,
		Height: a.Height, Time: tx.Time, Originator: tx.Originator,
	}, wire.Seal{Created: a.Created, Signature: wire.Signature(a.Signature)})
	if err != nil {
		return nil, nil, fmt.Errorf("seal: %w", err)
	}
	return &tx, &Signed{
		Purpose: httpsig.TagAnswer, Target: target(&tx.Request), Request: tx.Request.Digest().String(), Over: a.Previous.String(),
		Head: head.String(), Status: tx.Response.Status, Response: tx.Response.Body.String(), TimeMillis: tx.Time, Height: a.Height, Created: a.Created,
	}, nil
}

// ends reports whether a request gives the session up.
func ends(r *wire.Request, id wire.SessionID) bool {
	return r.Method == "DELETE" && r.Path == session.PathOpen+"/"+id.String()
}

func target(r *wire.Request) string {
	t := r.Method + " " + r.Path
	if r.Query != "" {
		t += "?" + r.Query
	}
	return strings.ToValidUTF8(t, "?")
}
