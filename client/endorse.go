package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tandem/internal/httpsig"
	"tandem/internal/wire"
)

// Endorser is a Layer 2 node that signed that it has run a step, agrees on all answers up to it, and has it on disk.
type Endorser struct {
	Node   string `json:"node"`   // did:key
	Height int64  `json:"height"` // of the state that it ran the step on
}

// EndorsementError says that fewer nodes have endorsed a step than the client's RequireEndorsements asks for. The answer was not
// used and the step stands as it was: the same Call asks again.
type EndorsementError struct {
	// Want is what was required; Got is how many endorsements were proved, of Of nodes.
	Want, Got, Of int
}

// Error is one line for people.
func (e *EndorsementError) Error() string {
	return fmt.Sprintf("only %d of %d Layer 2 nodes endorse the step, %d are required", e.Got, e.Of, e.Want)
}

// proof is what shows a step to others: the originator's signature over the answer, and the other nodes' endorsements.
type proof struct {
	height       int64
	seal         wire.Seal
	endorsements []wire.Endorsement // verified; without the originator
}

// checkEndorsed verifies the endorsements of a recorded step whose answer passed all other checks, and sets the answer's
// Endorsers. A node that claims more endorsements than it proves lies; so does one whose endorsements are forged, of another
// step, of an older state than the originator's, or of nodes not on the list.
func (s *Session) checkEndorsed(out *Answer, a httpsig.Answer, rep *reply) error {
	claimed, of, err := endorsements(rep.header.Get("Tandem-Endorsements"))
	if err != nil {
		return rep.lie("endorsements", "k/n", rep.header.Get("Tandem-Endorsements"))
	}
	list, err := httpsig.ReadEndorsements(rep.header)
	if err != nil {
		return rep.lie("endorsements", "a list of signed endorsements", err.Error())
	}
	out.Endorsers = []Endorser{{Node: out.Originator, Height: a.Height}}
	out.proof = proof{height: a.Height, seal: rep.seal}
	for _, e := range list {
		if err := s.checkEndorsement(e, a); err != nil {
			return rep.lie("endorsements", "signed by nodes that ran this step", err.Error())
		}
		if e.Node != a.Originator {
			out.proof.endorsements = append(out.proof.endorsements, e)
			out.Endorsers = append(out.Endorsers, Endorser{Node: e.Node.DID(), Height: e.Height})
		}
	}
	if claimed > len(out.Endorsers) {
		return rep.lie("endorsements", fmt.Sprintf("%d proved", claimed), fmt.Sprintf("%d proved, %d/%d claimed", len(out.Endorsers), claimed, of))
	}
	out.Endorsed, out.Of = len(out.Endorsers), max(of, len(out.Endorsers))
	return nil
}

// checkEndorsement verifies one endorsement of the step that a answers.
func (s *Session) checkEndorsement(e wire.Endorsement, a httpsig.Answer) error {
	if !s.anyNode && !s.c.believes(e.Node) {
		return fmt.Errorf("%s is not on the Layer 2 list", e.Node.DID())
	}
	if e.Height < a.Height {
		return fmt.Errorf("%s ran the step on height %d, before the originator's %d", e.Node.DID(), e.Height, a.Height)
	}
	if err := e.Verify(s.body.ChainID, s.id, a.Sequence, a.Transcript); err != nil {
		return fmt.Errorf("%s: %w", e.Node.DID(), err)
	}
	return nil
}

// endorsements reads "k/n"; nothing at all is 0 of 0.
func endorsements(text string) (k, n int, err error) {
	if text == "" {
		return 0, 0, nil
	}
	left, right, _ := strings.Cut(text, "/")
	if k, err = strconv.Atoi(left); err == nil {
		n, err = strconv.Atoi(right)
	}
	if err == nil && (k < 1 || n < k) {
		err = fmt.Errorf("%d of %d", k, n)
	}
	return k, n, err
}

// Endorsements returns, for each recorded step, the nodes whose endorsements this client has verified.
func (s *Session) Endorsements() [][]Endorser {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([][]Endorser, len(s.steps))
	for i, p := range s.proofs {
		all[i] = []Endorser{{Node: s.steps[i].Originator.DID(), Height: p.height}}
		for _, e := range p.endorsements {
			all[i] = append(all[i], Endorser{Node: e.Node.DID(), Height: e.Height})
		}
	}
	return all
}

// endorsed sends the pending step until it is answered, and as many nodes as required endorse the answer.
func (s *Session) endorsed(ctx context.Context) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, s.c.patience)
	defer cancel()
	var few *EndorsementError
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		a, err := s.step(ctx)
		if err != nil && few != nil && ctx.Err() != nil {
			return nil, few // tells more than that there was no time to ask once more
		}
		if !errors.As(err, &few) {
			return a, err
		}
		if err := sleep(ctx, backoff); err != nil {
			return nil, few
		}
	}
}

// enough checks an answer against the client's policy.
func (c *Client) enough(a *Answer) error {
	if a.Recorded && a.Endorsed < c.require {
		return &EndorsementError{Want: c.require, Got: a.Endorsed, Of: a.Of}
	}
	return nil
}

// savedProof is a proof in a saved session.
type savedProof struct {
	Height       int64              `json:"height"`
	Created      int64              `json:"created"`
	Signature    []byte             `json:"signature"`
	Endorsements []savedEndorsement `json:"endorsements,omitempty"`
}

type savedEndorsement struct {
	Node      string `json:"node"`
	Height    int64  `json:"height"`
	Signature []byte `json:"signature"`
}

func (p proof) saved() savedProof {
	out := savedProof{Height: p.height, Created: p.seal.Created, Signature: p.seal.Signature[:]}
	for _, e := range p.endorsements {
		out.Endorsements = append(out.Endorsements, savedEndorsement{Node: e.Node.DID(), Height: e.Height, Signature: e.Signature[:]})
	}
	return out
}

// retakeProof checks the saved proof of the last step retaken and takes it up.
func (s *Session) retakeProof(f savedProof) error {
	tx := &s.steps[len(s.steps)-1]
	a := httpsig.Answer{
		Status: tx.Response.Status, Body: tx.Response.Body, Session: s.id, Sequence: tx.Sequence, Transcript: s.head, Height: f.Height,
		Time: tx.Time, Originator: tx.Originator,
	}
	p := proof{height: f.Height, seal: wire.Seal{Created: f.Created}}
	if len(f.Signature) != len(p.seal.Signature) || f.Height < 0 || f.Created < 0 || f.Created > wire.MaxTime/1000 {
		return errors.New("the originator's signature is malformed")
	}
	copy(p.seal.Signature[:], f.Signature)
	if err := httpsig.VerifySeal(a, p.seal); err != nil {
		return err
	}
	for _, saved := range f.Endorsements {
		node, err := wire.ParseDID(saved.Node)
		if err != nil {
			return err
		}
		e := wire.Endorsement{Node: node, Height: saved.Height}
		if len(saved.Signature) != len(e.Signature) || slices.ContainsFunc(p.endorsements, func(o wire.Endorsement) bool { return o.Node == node }) {
			return errors.New("an endorsement is malformed")
		}
		copy(e.Signature[:], saved.Signature)
		if err := e.Verify(s.body.ChainID, s.id, tx.Sequence, s.head); err != nil {
			return err
		}
		p.endorsements = append(p.endorsements, e)
	}
	s.proofs = append(s.proofs, p)
	return nil
}
