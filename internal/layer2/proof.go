package layer2

import (
	"context"
	"slices"

	"tandem/evidence"
	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// What this node keeps to prove what others did: for each session that has not ended, at most one evidence file of each
// kind, made when a request or a peer's step is refused. Package evidence says what each proves.

// evidenceKinds gives each kind its number in the journal.
var evidenceKinds = []evidence.Kind{
	evidence.TwoHistories, evidence.ForgedRequest, evidence.TwoAnswers, evidence.TwoRequests, evidence.WrongAnswer, evidence.WrongEndorsement,
}

// telling are the numbers of the kinds, the most telling first.
var telling = []uint64{0, 1, 2, 4, 5, 3}

// Evidence returns the evidence file of a kind that this node holds about a session; with an empty kind, the most telling
// there is. Refusals: session-not-found, not-found if there is none, height-not-reached if there will be at the next block.
func (e *Engine) Evidence(_ context.Context, id wire.SessionID, kind string) ([]byte, error) {
	leave, err := e.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	o, err := e.find(id)
	if err != nil {
		return nil, err
	}
	return ask(o, func() ([]byte, error) {
		if o.refused != nil {
			return nil, o.refused
		}
		for _, i := range telling {
			if kind != "" && kind != string(evidenceKinds[i]) {
				continue
			}
			file, ok, err := e.journal.get(keyNumbered(id, partProof, i))
			if err != nil {
				return nil, e.diskRefusal(err)
			}
			if ok {
				return file, nil
			}
		}
		if height := e.accusing(o); height > 0 && (kind == "" || kind == string(evidence.WrongAnswer) || kind == string(evidence.WrongEndorsement)) {
			return nil, refusal.New(refusal.HeightNotReached, "the evidence about the session waits for block %d, which holds the state's root", height).
				With("session", id.String()).With("retry_after_seconds", 1)
		}
		return nil, refusal.New(refusal.NotFound, "this node holds no such evidence about the session").With("session", id.String())
	})
}

// suspectClient looks whether a refused request, its signature verified, excludes one that is recorded at its place.
func (o *owner) suspectClient(tag string, req *wire.Request, place httpsig.Place) {
	if place.Sequence < 1 || place.Sequence > o.machine.Len() || o.machine.State().Ended() {
		return
	}
	s, err := o.stored(place.Sequence)
	if err != nil || s.tx.Request.Digest() == req.Digest() {
		return
	}
	before := o.machine.HeadAt(place.Sequence - 1)
	kind := evidence.TwoHistories
	if before == place.Transcript {
		kind = evidence.TwoRequests
	}
	o.keep(kind, place.Sequence, func() ([]byte, error) {
		return evidence.OfClient(o.open, place.Sequence,
			evidence.Request{Tag: httpsig.TagStep, Transcript: before, Request: s.tx.Request},
			evidence.Request{Tag: tag, Transcript: place.Transcript, Request: *req})
	})
}

// suspectNode looks whether a peer's step that is not endorsed here shows that its originator lies.
func (o *owner) suspectNode(r *wire.Recorded, previous wire.Digest) {
	tx := &r.Transaction
	if o.refused != nil || o.machine.State().Ended() || tx.Originator == o.e.self {
		return
	}
	theirs := evidence.Answer{Previous: previous, Recorded: *r}
	place := httpsig.Place{Session: o.id, Sequence: tx.Sequence, Transcript: previous}
	if o.signedBy(httpsig.TagStep, &tx.Request, place) != nil {
		o.keep(evidence.ForgedRequest, tx.Sequence, func() ([]byte, error) { return evidence.OfNode(o.open, theirs) })
		return
	}
	if tx.Sequence < 1 || tx.Sequence > o.machine.Len() || o.machine.HeadAt(tx.Sequence-1) != previous {
		return
	}
	s, err := o.stored(tx.Sequence)
	if err != nil || s.tx.Originator != tx.Originator || s.head == wire.TranscriptNext(previous, *tx) {
		return
	}
	o.keep(evidence.TwoAnswers, tx.Sequence, func() ([]byte, error) {
		return evidence.OfNode(o.open, evidence.Answer{Previous: previous, Recorded: s.recorded()}, theirs)
	})
}

// keep writes an evidence file, if it is one, and the first of its kind. That the write fails is found again by the next
// one that somebody waits for.
func (o *owner) keep(kind evidence.Kind, sequence uint64, file func() ([]byte, error)) {
	if o.haveProof(kind) {
		return
	}
	made, err := file()
	if err != nil { // what it was refused for excludes nothing
		return
	}
	o.note(auditRecord{Event: auditEvidence, Sequence: sequence, Code: string(kind)})
	if o.e.journal.append(op{o.proofKey(kind), made}) == nil {
		o.e.o.Logger.Warn("evidence kept", "session", o.id, "step", sequence, "kind", kind)
	}
}

// haveProof reports whether there is evidence of a kind; also if the disk cannot say.
func (o *owner) haveProof(kind evidence.Kind) bool {
	_, have, err := o.e.journal.get(o.proofKey(kind))
	return err != nil || have
}

func (o *owner) proofKey(kind evidence.Kind) []byte {
	return keyNumbered(o.id, partProof, uint64(slices.Index(evidenceKinds, kind)))
}
