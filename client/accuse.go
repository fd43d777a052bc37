package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"tandem/evidence"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// A client that was answered falsely has what nobody else has: the liar's signature, and those of the nodes that endorsed the
// lie. What it lacks is the state that they have signed for. Any node that keeps that state can judge, and give the evidence
// file; what it gives is checked here, so the one that is asked need not be believed either.

// charge is one node's signed word about a step.
type charge struct {
	node       wire.PublicKey
	accusation wire.Accusation
	endorsed   bool
}

// charges are all that nodes have signed to this session, in the order of the steps: the seals, then the endorsements.
func (s *Session) charges() []charge {
	var all []charge
	steps := []wire.Recorded{}
	for i, p := range s.proofs {
		steps = append(steps, wire.Recorded{Transaction: s.steps[i], Height: p.height, Seal: p.seal})
		so := wire.Accusation{Open: s.open, Steps: slices.Clone(steps)}
		all = append(all, charge{node: s.steps[i].Originator, accusation: so})
		for _, e := range p.endorsements {
			so.Endorsement = &e
			all = append(all, charge{node: e.Node, accusation: so, endorsed: true})
		}
	}
	// Answers that were not used in the end, to the last step or the pending one.
	var unused []charge
	for node, a := range s.witness.sealed {
		n := int(s.witness.sequence)
		if n < 1 || n > len(s.steps)+1 || a.Previous != s.headAt(uint64(n-1)) || n <= len(s.steps) && s.steps[n-1].Originator == node {
			continue
		}
		so := wire.Accusation{Open: s.open, Steps: append(slices.Clone(steps[:n-1]), a.Recorded)}
		unused = append(unused, charge{node: node, accusation: so})
	}
	slices.SortFunc(unused, func(a, b charge) int { return slices.Compare(a.node[:], b.node[:]) })
	return append(all, unused...)
}

// Accuse finds out which nodes have signed falsehoods to this session, as originators or as endorsers, and returns evidence
// files against them: wrong-answer and wrong-endorsement, one against each node. It has each signed answer and endorsement
// judged by the nodes that the client knows, on the state that it was signed for, until one of them proves it false, or all say
// that it is true. That takes a run of the session at each node for each signature, so it is for when something is wrong: a
// commit refused with response-differs though nobody came first, say.
//
// Each file is verified with the client's genesis file, which is needed, and by judge (node.Judge); with a nil judge, all but
// the run is checked. The files are among [Session.Evidence] from then on. The error tells of signatures that nobody could judge,
// because no node could be reached or none had the state; there may be files all the same.
func (s *Session) Accuse(ctx context.Context, judge evidence.Judge) ([][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c.genesis == nil {
		return nil, errors.New("client: no genesis file to verify evidence with")
	}
	var files [][]byte
	var failed []error
	convicted := map[wire.PublicKey]bool{}
	for _, c := range s.charges() {
		if convicted[c.node] {
			continue
		}
		file, err := s.accuse(ctx, c, judge)
		if err != nil {
			failed = append(failed, fmt.Errorf("step %d, signed by %s: %w", len(c.accusation.Steps), c.node.DID(), err))
		}
		if file != nil {
			convicted[c.node] = true
			files = append(files, file)
			if len(s.witness.files) < maxEvidence {
				s.witness.files = append(s.witness.files, file)
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	return files, errors.Join(failed...)
}

// accuse has one charge judged: a file if it was proved, neither file nor error if all nodes say that the word is true.
func (s *Session) accuse(ctx context.Context, c charge, judge evidence.Judge) ([]byte, error) {
	what := call{
		method: http.MethodPost, target: "/tandem/v1/sessions/" + s.id.String() + "/evidence",
		contentType: "application/cbor", body: c.accusation.Encode(),
	}
	var err error
	for range s.c.nodes.inOrder() {
		var rep *reply
		if rep, err = s.c.exchange(ctx, what); err != nil {
			return nil, err
		}
		if p := rep.problem(); p != nil {
			if p.Code == string(refusal.NoEvidence) {
				return nil, nil
			}
			return nil, p
		}
		if err = s.checkEvidence(ctx, rep, c, judge); err == nil {
			return rep.body, nil
		}
		if errors.Is(err, evidence.ErrCannotJudge) {
			return nil, err
		}
		s.c.nodes.leave(rep.url) // it lies, too: another one is asked first now
	}
	return nil, err
}

// checkEvidence verifies that an evidence file is against the node that was accused.
func (s *Session) checkEvidence(ctx context.Context, rep *reply, c charge, judge evidence.Judge) error {
	if rep.status != http.StatusOK {
		return rep.lie("status", "200", fmt.Sprint(rep.status))
	}
	f, err := evidence.VerifyWith(ctx, s.c.genesis.file, rep.body, judge)
	if errors.Is(err, evidence.ErrCannotJudge) {
		if judge == nil {
			return nil // sound, as far as can be told without a run
		}
		return err
	}
	if err != nil {
		return rep.lie("evidence", "a file that verifies", err.Error())
	}
	kind := evidence.WrongAnswer
	if c.endorsed {
		kind = evidence.WrongEndorsement
	}
	if f.Culprit.Key != c.node.DID() || f.Kind != kind || f.Session != s.id.String() {
		return rep.lie("evidence", string(kind)+" against "+c.node.DID(), string(f.Kind)+" against "+f.Culprit.Key)
	}
	return nil
}
