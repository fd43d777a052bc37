package layer1

import (
	"context"
	"fmt"

	"tandem"
	"tandem/internal/exec"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// MaxAheadMillis is how far a step's time may lie ahead of its block's, in milliseconds.
const MaxAheadMillis = 60_000

// Slot is the place of a block in the ledger; all that Check learns of the block a transaction stands in, beside the
// state.
type Slot struct {
	Height int64
	Time   int64 // of the block header, milliseconds since 1970
}

// Rules are what Check works with. They are the same in every phase: the Runner replays with the limits in the
// ledger's parameters whatever its own are, and the others only remember what was computed before.
type Rules struct {
	Runner     *exec.Runner
	Verified   *Verified   // may be nil: everything is verified anew
	Rehearsals *Rehearsals // may be nil: everything is replayed anew
}

// anew is the rules without what was replayed before.
func (r Rules) anew() Rules {
	r.Rehearsals = nil
	return r
}

// Effects are what a transaction that passed Check did, beside its writes, which are in the overlay.
type Effects struct {
	Session           Settled
	Operations, Bytes uint64 // state operations and bytes that its steps used
}

// Check is the one judgement on a Layer 1 transaction, made in every phase. It is pure and total: for any bytes, on any
// state, it either applies the transaction's effects to o (the replayed writes and the session's settled record) and
// describes them, or leaves o's writes as they were and says why not. What it checks, in this order: size, canonical
// bytes, parameters, chain id, fingerprint, that the session is not closed or superseded and the commit goes
// on where the one before it ended, not expired, its key
// registered and not revoked (on o, so after the transactions before it in the block), every signature and the whole
// transcript, that every originator is or was on the Layer 2 list, the steps' times, and that replaying each step gives
// exactly the recorded response.
//
// The actor is the one the key speaks for before the first step; a session that revokes its own key still runs to its
// end. ctx can only end the check early (a watchdog); it must not be able to end in FinalizeBlock.
//
// The error is a *refusal.Refusal about the content; ctx's cause; or anything else for a fault of this node's state.
func Check(ctx context.Context, rules Rules, o *state.Overlay, slot Slot, tx []byte) (Effects, error) {
	in, err := inspect(rules, o, slot, tx, false)
	if err != nil {
		return Effects{}, err
	}
	return replay(ctx, rules, o, slot, in)
}

// inspected is a transaction that passed everything but the replay.
type inspected struct {
	*entry
	params ledger.Parameters
	proven session.Proven
	actor  tandem.Actor
	last   int64 // time of the last step, 0 without steps
}

// inspect is Check without the replay. In CheckTx, where the block that will hold the transaction does not exist yet,
// waiting is true: the last block's time says nothing about how far ahead a step is (after an outage the next block
// still carries an old time), so that check is left to the block.
func inspect(rules Rules, r state.Reader, slot Slot, tx []byte, waiting bool) (*inspected, error) {
	e, err := rules.Verified.open(tx)
	if err != nil {
		return nil, err
	}
	in := &inspected{entry: e}
	if in.params, err = ledger.ParametersOf(r); err != nil {
		return nil, err
	}
	if n := uint64(len(e.commit.Transactions)); n > in.params.MaxSteps {
		return nil, in.refuse(refusal.SessionFull, "the session commit has %d steps, the ledger allows %d", n, in.params.MaxSteps)
	}
	if e.body.ChainID != in.params.ChainID {
		return nil, in.refuse(refusal.WrongChain, "the session is for chain %q, this is %q", e.body.ChainID, in.params.ChainID).With("field", "chain_id")
	}
	if e.body.Fingerprint != in.params.Fingerprint {
		return nil, in.refuse(refusal.WrongFingerprint, "the session was opened for code %s, the ledger runs %s", e.body.Fingerprint, in.params.Fingerprint).With("field", "fingerprint")
	}
	if err := in.unsettled(r); err != nil {
		return nil, err
	}
	if slot.Time > e.body.ExpiresAt {
		return nil, in.refuse(refusal.SessionExpired, "the session expired at %d, the block's time is %d", e.body.ExpiresAt, slot.Time)
	}
	if in.actor, err = ledger.ActorOf(r, e.commit.Open.Key); err != nil {
		return nil, in.about(err)
	}
	if in.proven, err = rules.Verified.verify(e); err != nil {
		return nil, err // names session, step and field itself
	}
	for i := range e.commit.Transactions {
		t := &e.commit.Transactions[i]
		if err := in.timely(slot, t, waiting); err != nil {
			return nil, err
		}
		if i > 0 && t.Originator == e.commit.Transactions[i-1].Originator {
			continue
		}
		if err := ledger.Originated(r, t.Originator); err != nil {
			return nil, in.at(in.about(err), t.Sequence, "originator")
		}
	}
	return in, nil
}

// unsettled checks that neither the session nor the one it supersedes has been settled, and that no other has
// superseded either. Of a session and those that supersede it, one at most gets into the ledger.
func (in *inspected) unsettled(r state.Reader) error {
	k, ok, err := ledger.KeyOf(r, in.commit.Open.Key)
	if err != nil {
		return err
	}
	ids := []wire.SessionID{in.id}
	if in.body.Supersedes != nil {
		ids = append(ids, *in.body.Supersedes)
	}
	for i, id := range ids {
		whose := "the session"
		if i > 0 {
			whose = "session " + id.String() + ", which this one supersedes,"
		}
		s, settled, err := ledger.SettledOf(r, id)
		if err != nil {
			return err
		}
		// A session that has a checkpoint is a fact, so nothing takes its place any more.
		if settled && (s.Final || i > 0) {
			return in.refuse(refusal.AlreadySettled, "%s is in block %d", whose, s.Height).With("settled", id.String()).With("height", s.Height)
		}
		if i == 0 {
			if err := in.goesOn(s, settled); err != nil {
				return err
			}
		}
		if !ok {
			continue // nobody's key: ActorOf refuses it
		}
		by, superseded, err := ledger.SupersededBy(r, id, k.Actor)
		if err != nil {
			return err
		}
		if superseded && by != in.id { // by == in.id: by an earlier checkpoint of this session
			return in.refuse(refusal.Superseded, "%s was superseded by %s", whose, by).With("superseded", id.String()).With("by", by.String())
		}
	}
	return nil
}

// goesOn checks that the commit starts where the ledger's record of the session ends; see the argument in
// internal/session/checkpoint.go. Of all commits of a session that start at one point, so one at most is accepted.
func (in *inspected) goesOn(s ledger.Settled, settled bool) error {
	var next wire.Start
	if settled {
		next = s.Next()
	}
	if start := in.commit.Start; start != next {
		return in.refuse(refusal.WrongStart, "the commit goes on from step %d, the ledger has %d steps of the session in %d checkpoints",
			start.Sequence, next.Sequence, next.Checkpoints).With("field", "start").With("settled_steps", next.Sequence)
	}
	in.last = s.StepTime
	if t := in.commit.Transactions; len(t) > 0 && t[0].Time < s.StepTime {
		return in.at(in.refuse(refusal.WrongTime, "the step's time, %d, is before that of the step before it, %d", t[0].Time, s.StepTime), t[0].Sequence, "time")
	}
	return nil
}

// timely checks a step's time against the block's. That times do not go back was verified with the signatures.
func (in *inspected) timely(slot Slot, t *wire.Transaction, waiting bool) error {
	if age := slot.Time - t.Time; age > in.params.MaxSessionMillis {
		return in.at(in.refuse(refusal.WrongTime, "the step is %d ms older than the block, at most %d are allowed", age, in.params.MaxSessionMillis), t.Sequence, "time")
	}
	if ahead := t.Time - slot.Time; ahead > MaxAheadMillis && !waiting {
		return in.at(in.refuse(refusal.WrongTime, "the step is %d ms ahead of the block, at most %d are allowed", ahead, MaxAheadMillis), t.Sequence, "time")
	}
	return nil
}

// replay does the steps on o, compares, and settles the session.
func replay(ctx context.Context, rules Rules, o *state.Overlay, slot Slot, in *inspected) (Effects, error) {
	own := o.Child()
	ran, err := steps(ctx, rules, own, in)
	if err != nil {
		return Effects{}, err
	}
	eff := Effects{
		Session:    Settled{ID: in.id, Transaction: in.hash, Actor: in.actor.ID, Key: in.proven.Key},
		Operations: ran.operations, Bytes: ran.bytes,
	}
	settled := ledger.Settled{
		Height: slot.Height, Actor: in.actor.ID, Transaction: in.hash, Head: in.proven.Head,
		Steps: in.proven.Steps, Time: slot.Time, Checkpoints: in.proven.Start.Checkpoints, StepTime: in.last, Final: in.proven.Final,
	}
	if n := len(in.commit.Transactions); n > 0 {
		settled.StepTime = in.commit.Transactions[n-1].Time
	}
	if !settled.Final {
		settled.Checkpoints++
	}
	ledger.Settle(own, in.id, settled, in.body.Supersedes)
	eff.Session.Part, eff.Session.Steps, eff.Session.Head, eff.Session.Final = in.proven.Start.Checkpoints+1, settled.Steps, settled.Head, settled.Final
	for _, c := range own.Changes() {
		eff.Session.Keys = append(eff.Session.Keys, c.Key)
	}
	own.Merge()
	return eff, nil
}

// runSteps runs the steps on o and compares each response with the recorded one.
func runSteps(ctx context.Context, rules Rules, o *state.Overlay, in *inspected) (*ranSteps, error) {
	runner := rules.Runner.With(exec.Limits{Operations: in.params.StepOperations, Bytes: in.params.StepBytes})
	ran := &ranSteps{actor: in.actor, params: in.params}
	for i := range in.commit.Transactions {
		t := &in.commit.Transactions[i]
		res, err := runner.Run(ctx, o, exec.Step{
			Request: &t.Request, Actor: in.actor, Session: in.id, Sequence: t.Sequence, Time: t.Time,
		})
		if err != nil {
			return nil, in.at(in.about(err), t.Sequence, "")
		}
		ran.operations += res.Operations
		ran.bytes += res.Bytes
		if err := in.compare(t, res); err != nil {
			return nil, err
		}
	}
	return ran, nil
}

// compare refuses a step whose replay is not what was recorded, and names what differs.
func (in *inspected) compare(t *wire.Transaction, res exec.Result) error {
	field, same := exec.Compare(t.Response, res)
	if same && res.Recorded {
		return nil
	}
	if same {
		field = "status" // an answer of 400 or more is no step
	}
	r := in.refuse(refusal.ResponseDiffers, "step %d, %s %s: the replay differs from the recorded response in %s",
		t.Sequence, t.Request.Method, t.Request.Path, field)
	r = r.With("recorded_status", t.Response.Status).With("replayed_status", res.Response.Status)
	if res.Cause != nil {
		r = r.With("cause_code", string(res.Cause.Code))
	}
	return in.at(r, t.Sequence, field)
}

func (in *inspected) refuse(code refusal.Code, format string, args ...any) *refusal.Refusal {
	return refusal.New(code, format, args...).With("session", in.id.String())
}

// about adds the session to a refusal; other errors pass.
func (in *inspected) about(err error) error {
	if r, ok := refusal.As(err); ok {
		return r.With("session", in.id.String())
	}
	return fmt.Errorf("layer1: session %s: %w", in.id, err)
}

// at adds step and field to a refusal; other errors pass.
func (in *inspected) at(err error, step uint64, field string) error {
	r, ok := refusal.As(err)
	if !ok {
		return err
	}
	r = r.With("step", step)
	if field != "" {
		r = r.With("field", field)
	}
	return r
}
