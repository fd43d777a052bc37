package layer1

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// blame finds out which session made another validator's proposal fail, if one did, and quarantines it. A proposal also
// fails because its proposer lies or is out of date; then the sessions in it are innocent, and a liar must not be able to
// have them set aside. An error is a fault of this node's state.
func (a *App) blame(ctx context.Context, slot Slot, txs [][]byte, bad *objection, proposer string) error {
	if bad.index == 0 {
		if bad.refusal.Fields["field"] == "root" {
			return a.blameRoot(ctx, slot, txs, proposer)
		}
		return nil
	}
	tx := txs[bad.index]
	switch bad.refusal.Code {
	case refusal.StepTooLong, refusal.Internal:
		a.quarantine(offence(tx, bad.refusal, slot.Height))
		return nil
	case refusal.ResponseDiffers:
	default:
		return nil // Check says so on every honest node: no honest proposal will hold it
	}
	// Does it replay differently every time? Then the handler is caught in the act.
	again, err := a.outcome(ctx, bad.before, slot, tx)
	if err != nil || again == nil {
		return err
	}
	if !again.equal(&outcome{refusal: bad.refusal}) {
		r := refusal.New(refusal.Nondeterministic, "%s; a second replay on the same state went differently again", bad.refusal.Detail)
		r.Fields = bad.refusal.Fields
		a.quarantine(offence(tx, r, slot.Height))
		return nil
	}
	// Does it replay well on the committed state? Then it was put behind a session that it conflicts with.
	alone, err := a.outcome(ctx, a.overlay(), slot, tx)
	if err != nil || alone == nil {
		return err
	}
	if alone.refusal != nil {
		a.quarantine(offence(tx, bad.refusal, slot.Height))
	}
	return nil
}

// blameRoot looks for the session whose writes differ although its responses agree.
func (a *App) blameRoot(ctx context.Context, slot Slot, txs [][]byte, proposer string) error {
	o := a.overlay()
	found := false
	for _, tx := range txs[1:] {
		first, err := a.outcome(ctx, o, slot, tx)
		if err != nil || first == nil {
			return err
		}
		second, err := a.outcome(ctx, o, slot, tx)
		if err != nil || second == nil {
			return err
		}
		if !first.equal(second) {
			r := refusal.New(refusal.Nondeterministic, "two replays on the same state gave the same responses and wrote different state").With("field", "writes")
			if second.refusal != nil {
				r = refusal.New(refusal.Nondeterministic, "%s", second.refusal.Detail)
				r.Fields = second.refusal.Fields
			}
			a.quarantine(offence(tx, r, slot.Height))
			found = true
		}
		if second.child != nil {
			second.child.Merge()
		}
	}
	if found {
		return nil
	}
	// Nothing differs here. Either the proposer lied about the root, or a session differs between machines only. If a
	// second validator's proposal fails in the same way, the sessions they have in common are set aside.
	for _, tx := range txs[1:] {
		if a.ward.suspect(sha256.Sum256(tx), proposer, slot.Height) {
			r := refusal.New(refusal.Nondeterministic, "proposals of several validators with this session led to another state root here").With("field", "root")
			a.quarantine(offence(tx, r, slot.Height))
		}
	}
	return nil
}

// outcome is what one replay of a transaction gave: a refusal, or writes.
type outcome struct {
	refusal *refusal.Refusal
	child   *state.Overlay
}

// outcome replays a transaction on a child of o that is not merged. It is nil when the time for it is up.
func (a *App) outcome(ctx context.Context, o *state.Overlay, slot Slot, tx []byte) (*outcome, error) {
	child := o.Child()
	_, err := a.checkBy(ctx, a.rules.anew(), child, slot, tx, 2*a.watchdog)
	if err == nil {
		return &outcome{child: child}, nil
	}
	if r, ok := refusal.As(err); ok {
		return &outcome{refusal: r}, nil
	}
	if ctx.Err() != nil {
		return nil, nil
	}
	return nil, err
}

func (x *outcome) equal(y *outcome) bool {
	if x.refusal != nil || y.refusal != nil {
		if x.refusal == nil || y.refusal == nil {
			return false
		}
		_, a := x.refusal.Problem()
		_, b := y.refusal.Problem()
		return bytes.Equal(a, b)
	}
	return slices.EqualFunc(x.child.Changes(), y.child.Changes(), func(a, b state.Change) bool {
		return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && a.Delete == b.Delete
	})
}

// offence makes a quarantine entry of a refusal.
func offence(tx []byte, r *refusal.Refusal, height int64) Quarantine {
	q := Quarantine{Transaction: wire.Digest(sha256.Sum256(tx)), Reason: r.Code, Detail: r.Detail, Height: height}
	q.Step, _ = r.Fields["step"].(uint64)
	q.Field, _ = r.Fields["field"].(string)
	if c, err := wire.DecodeSessionCommit(tx); err == nil {
		q.Session = httpsig.SessionID(&c.Open)
	}
	return q
}

func (a *App) quarantine(q Quarantine) {
	q = a.ward.admit(q)
	a.logger.Warn("session quarantined", "session", q.Session, "transaction", q.Transaction, "step", q.Step, "field", q.Field,
		"reason", q.Reason, "detail", q.Detail, "height", q.Height, "until", q.Until)
}
