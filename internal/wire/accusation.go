package wire

import "tandem/internal/refusal"

// Accusation is what a client brings against a node whose signed word it thinks false, what POST
// /tandem/v1/sessions/{id}/evidence takes: its session up to the step in question, and whose word is meant.
type Accusation struct {
	Open  Request
	Steps []Recorded
	// Endorsement is the accused node's endorsement of the last step; nil accuses the last step's originator, by its seal.
	Endorsement *Endorsement
}

type accusationRecord struct {
	_            struct{} `cbor:",toarray"`
	Open         Request
	Steps        []Recorded
	Endorsements []Endorsement // none or one
}

// Encode returns the canonical bytes of a.
func (a Accusation) Encode() []byte {
	r := accusationRecord{Open: a.Open, Steps: a.Steps}
	if a.Endorsement != nil {
		r.Endorsements = []Endorsement{*a.Endorsement}
	}
	return encode(r)
}

// DecodeAccusation reads an accusation: the canonical encoding, at least one step, all sequences from 1 without a gap. Errors:
// non-canonical, body-too-large, and those of [DecodeTransaction]. Signatures are not looked at.
func DecodeAccusation(b []byte) (Accusation, error) {
	var r accusationRecord
	if err := decodePeer(b, &r, "accusation"); err != nil {
		return Accusation{}, err
	}
	if err := r.Open.limits(); err != nil {
		return Accusation{}, locate(err, "field", "open")
	}
	if err := checkRecorded(r.Steps, 1); err != nil {
		return Accusation{}, err
	}
	a := Accusation{Open: r.Open, Steps: r.Steps}
	switch {
	case len(r.Steps) == 0:
		return Accusation{}, refusal.New(refusal.NonCanonical, "an accusation is about a step, and there is none")
	case len(r.Endorsements) > 1:
		return Accusation{}, refusal.New(refusal.NonCanonical, "%d endorsements in an accusation, which is about one at most", len(r.Endorsements))
	case len(r.Endorsements) == 1:
		a.Endorsement = &r.Endorsements[0]
		if a.Endorsement.Height < 0 {
			return Accusation{}, refusal.New(refusal.NonCanonical, "a height below 0")
		}
	}
	return a, nil
}
