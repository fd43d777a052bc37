// Package judge says whether a session, run again on one state, answers as its transcript says. A Layer 2 node that signs an
// answer, or endorses one, at a height signs exactly that; so whoever has the state at that height, or as much of it as the run
// reads, can convict a node that lied. The node that finds a peer's answer wrong uses it, and so does whoever verifies
// the evidence later, offline.
//
// The rules are those of a Layer 2 node, and where one can share code with it, it does: the steps that the state holds already
// (a checkpoint's) are not run; before each step the actor is looked up ([Admit]); each step sees the writes of those before
// it. docs/format/evidence.md has the argument why an honest node is never convicted.
//
// What it cannot tell it says: other service code than the session's, handlers that give two answers on one state or run for
// too long. It uses a clock only to give up.
package judge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tandem"
	"tandem/evidence"
	"tandem/internal/exec"
	"tandem/internal/ledger"
	"tandem/internal/proof"
	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// patience is how long one step may run.
const patience = 30 * time.Second

// Judge runs one service. It is safe for concurrent use.
type Judge struct{ runner *exec.Runner }

var _ evidence.Judge = Judge{}

// New makes the judge of a service.
func New(svc tandem.Service) Judge {
	return Judge{exec.New(svc, exec.Options{Framework: ledger.Routes()})}
}

// Of is the judge that runs what runner runs, under the ledger's limits.
func Of(runner *exec.Runner) Judge { return Judge{runner} }

// Judge implements [evidence.Judge].
func (j Judge) Judge(ctx context.Context, c *evidence.Case) (*evidence.Difference, error) {
	return j.Run(ctx, c, c.State)
}

// Run judges a case on a state that is not proved, but known: the case's own is not looked at.
func (j Judge) Run(ctx context.Context, c *evidence.Case, base state.Reader) (*evidence.Difference, error) {
	if mine := j.runner.Fingerprint(); c.Open.Fingerprint != mine {
		return nil, fmt.Errorf("%w: the session was opened for service code %s, this program runs %s", evidence.ErrCannotJudge, c.Open.Fingerprint, mine)
	}
	p, err := ledger.ParametersOf(base)
	if err != nil {
		return nil, unproven(err)
	}
	runner := j.runner.With(exec.Limits{Operations: p.StepOperations, Bytes: p.StepBytes, Watchdog: patience})
	if err := starts(c, base); err != nil {
		return nil, unproven(err)
	}
	first, err := run(ctx, runner, c, base)
	if err != nil {
		return nil, unproven(err)
	}
	if first == nil {
		return nil, nil
	}
	second, err := run(ctx, runner, c, base)
	if err != nil {
		return nil, unproven(err)
	}
	if second == nil || *first != *second {
		return nil, fmt.Errorf("%w: its handlers do not give the same answer twice", evidence.ErrCannotJudge)
	}
	return first, nil
}

// unproven takes apart what exec and the ledger make of a read that failed, so that the reason is seen.
func unproven(err error) error {
	if errors.Is(err, proof.ErrUnproven) {
		return proof.ErrUnproven
	}
	return err
}

// starts checks that the steps begin where the state's record of the session ends.
func starts(c *evidence.Case, base state.Reader) error {
	settled, ok, err := ledger.SettledOf(base, c.Session)
	switch {
	case err != nil:
		return err
	case !ok && c.Start.Sequence != 0:
		return errors.New("the state holds nothing of the session, but its first steps are left out")
	case ok && settled.Final:
		return errors.New("the state holds the whole session already")
	case ok && (settled.Steps != c.Start.Sequence || settled.Head != c.Start.Head):
		return fmt.Errorf("the state holds %d steps of the session with head %s; the evidence goes on from another point", settled.Steps, settled.Head)
	}
	return nil
}

// run runs the steps once.
func run(ctx context.Context, runner *exec.Runner, c *evidence.Case, base state.Reader) (*evidence.Difference, error) {
	overlay := state.NewOverlay(base)
	for i := range c.Steps {
		tx := &c.Steps[i]
		child := overlay.Child()
		actor, err := Admit(child, c.Session, c.Open.Supersedes, c.Key, tx.Originator)
		if r, refused := refusal.As(err); refused {
			if r.Code == refusal.OriginatorUnknown {
				return nil, fmt.Errorf("step %d: %w", tx.Sequence, err)
			}
			return &evidence.Difference{Step: tx.Sequence, Field: "actor", Code: string(r.Code)}, nil
		}
		if err != nil {
			return nil, err
		}
		result, err := runner.Run(ctx, child, exec.Step{Request: &tx.Request, Actor: actor, Session: c.Session, Sequence: tx.Sequence, Time: tx.Time})
		if r, refused := refusal.As(err); refused {
			return nil, fmt.Errorf("%w: step %d: %w", evidence.ErrCannotJudge, tx.Sequence, r)
		}
		if err != nil {
			return nil, err
		}
		if field, same := exec.Compare(tx.Response, result); !same {
			return &evidence.Difference{Step: tx.Sequence, Field: field, Status: result.Response.Status, Body: result.Response.Body}, nil
		}
		child.Merge()
	}
	return nil, nil
}

// Admit says who acts with key in a session, and refuses what Layer 1 would refuse: an unknown or revoked key, an
// originator that was never on the list, a session that another has superseded, or that would supersede one which is committed.
func Admit(r ledger.Reader, id wire.SessionID, supersedes *wire.SessionID, key, originator wire.PublicKey) (tandem.Actor, error) {
	actor, err := ledger.ActorOf(r, key)
	if err != nil {
		return tandem.Actor{}, err
	}
	if err := ledger.Originated(r, originator); err != nil {
		return tandem.Actor{}, err
	}
	by, ok, err := ledger.SupersededBy(r, id, actor.ID)
	if err != nil {
		return tandem.Actor{}, err
	}
	if ok {
		return tandem.Actor{}, refusal.New(refusal.Superseded, "session %s was committed in place of this one", by).With("superseded_by", by.String())
	}
	if supersedes == nil {
		return actor, nil
	}
	if s, ok, err := ledger.SettledOf(r, *supersedes); err != nil {
		return tandem.Actor{}, err
	} else if ok {
		return tandem.Actor{}, refusal.New(refusal.AlreadySettled, "session %s, which this one would supersede, is committed", supersedes).
			With("supersedes", supersedes.String()).With("height", s.Height)
	}
	if by, ok, err := ledger.SupersededBy(r, *supersedes, actor.ID); err != nil {
		return tandem.Actor{}, err
	} else if ok && by != id {
		return tandem.Actor{}, refusal.New(refusal.Superseded, "session %s, which this one would supersede, was superseded by %s", supersedes, by).
			With("supersedes", supersedes.String()).With("superseded_by", by.String())
	}
	return actor, nil
}
