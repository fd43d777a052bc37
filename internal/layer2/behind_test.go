package layer2

import (
	"context"
	"fmt"
	"testing"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/session"
)

// checkpoint makes a checkpoint and waits for the block that holds it.
func (u *user) checkpoint() Outcome {
	u.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := u.w.engine.Commit(ctx, u.checkpointRequest())
	if err != nil || out.Checkpoint == 0 || out.Steps != u.n {
		u.w.t.Fatalf("checkpoint: %+v, %v", out, err)
	}
	return out
}

// settledAt waits until node i holds the user's steps and knows that a checkpoint holds so many of them.
func (m *many) settledAt(i int, u *user, steps uint64) {
	m.t.Helper()
	m.has(i, u)
	eventually(m.t, fmt.Sprintf("node %d knows that %d steps are settled", i, steps), func() bool {
		s, err := m.nodes[i].engine.session(u.id)
		return err == nil && s.Settled == steps
	})
}

// A node that lacks steps which a checkpoint made through another node has settled fetches them, as soon as it can: those that it
// missed while it was cut off, or all of them if it has lost its disk, or the other variant of its last step. They prove
// themselves by the head that the ledger holds.
func TestSettledStepsAreFetched(t *testing.T) {
	for _, how := range []string{"cut off", "down", "disk lost"} {
		t.Run(how, func(t *testing.T) {
			m := newMany(t, 2, nil)
			u := m.nodes[0].user("alice")
			u.do("POST", "/add/a", "", 200)
			m.has(1, u)
			switch how {
			case "cut off":
				m.cut(0, 1)
			default:
				m.kill(1)
			}
			u.do("POST", "/add/a", "", 200)
			u.do("POST", "/add/a", "", 200)
			u.checkpoint()
			u.do("POST", "/add/a", "", 200)
			u.checkpoint()
			settled := u.n
			retry := u.last
			u.do("POST", "/add/a", "", 200)
			last := u.last
			switch how {
			case "cut off":
				// It says what it lacks, and does not go wrong.
				next := u.at(m.nodes[1]).sign("POST", "/add/a", "", "")
				wantCode(t, second(u.send(next)), refusal.TranscriptMissing)
				wantCode(t, second(m.nodes[1].engine.Commit(context.Background(), u.commitRequest())), refusal.TranscriptMissing)
				m.heal(0, 1)
			case "disk lost":
				m.wipe(1)
				m.up(1)
			default:
				m.up(1)
			}
			m.connected()
			m.settledAt(1, u, settled)
			// What it has not run it has no body of; what it has run it answers again.
			u.at(m.nodes[1])
			if a, err := m.nodes[1].engine.Step(context.Background(), &last); err != nil || !a.Repeated {
				t.Fatalf("%+v %v", a, err)
			}
			wantCode(t, second(m.nodes[1].engine.Step(context.Background(), &retry)), refusal.TranscriptMissing)
			endorsed(t, u.do("POST", "/add/a", "", 200), 2, 2)
			m.kill(1)
			m.up(1)
			m.connected()
			m.settledAt(1, u, settled)
			u.at(m.nodes[1])
			u.checkpoint()
			endorsed(t, u.do("POST", "/add/a", "", 200), 2, 2)
			if out, err := u.commit(); err != nil || out.Status != session.Committed || out.Steps != 7 {
				t.Fatalf("%+v %v", out, err)
			}
			if got := m.nodes[0].value("a"); got != "xxxxxxx" {
				t.Errorf("committed %q", got)
			}
			// The receipt of what it has run, it has; that of the other, the other node has.
			if _, err := m.nodes[1].engine.Committed(context.Background(), u.id, 3); err != nil {
				t.Error(err)
			}
			wantCode(t, second(m.nodes[1].engine.Committed(context.Background(), u.id, 2)), refusal.SessionNotFound)
			if c, err := m.nodes[0].engine.Committed(context.Background(), u.id, 2); err != nil || len(c.Bodies) != 1 {
				t.Error(err)
			}
		})
	}
}

// The variant of the last step that a checkpoint has settled takes the place of the other.
func TestSettledVariant(t *testing.T) {
	for which := range 2 {
		x := part(t, nil)
		if err := x.u.accept(x.p, x.answers[which]); err != nil {
			t.Fatal(err)
		}
		x.u.at(x.nodes[which]).checkpoint()
		wantCode(t, second(x.nodes[1-which].engine.Commit(context.Background(), x.u.commitRequest())), refusal.TranscriptMissing)
		x.heal(0, 1)
		x.connected()
		x.settledAt(1-which, x.u, 2)
		endorsed(t, x.u.at(x.nodes[1-which]).do("POST", "/add/a", "", 200), 2, 2)
		if out, err := x.u.commit(); err != nil || out.Steps != 3 || x.nodes[0].value("a") != "xxx" {
			t.Fatalf("%+v %v", out, err)
		}
	}
}

// Issue 3, part 4, for a session with checkpoints: if no node has it, the client uploads it and goes on.
func TestUploadWithCheckpoints(t *testing.T) {
	m := newMany(t, 2, nil)
	m.cut(0, 1)
	u := m.nodes[0].user("alice")
	var answers []*Answer
	var sent []*httpsig.Parsed
	do := func() {
		answers = append(answers, u.do("POST", "/add/a", "", 200))
		last := u.last
		sent = append(sent, &last)
	}
	do()
	do()
	u.checkpoint()
	do()
	m.kill(0)
	m.wipe(0)
	up := u.transcript(answers, sent)
	e := m.nodes[1].engine
	u.at(m.nodes[1])
	wantCode(t, second(u.send(&u.last)), refusal.SessionNotFound)

	forged := u.transcript(answers, sent)
	forged.Steps[1].Transaction.Time++
	wantCode(t, second(e.Upload(context.Background(), forged)), refusal.TranscriptMissing)
	forged = u.transcript(answers, sent)
	forged.Steps[0].Seal.Signature[0]++ // not under the ledger's head: verified
	wantCode(t, second(e.Upload(context.Background(), forged)), refusal.SignatureInvalid)
	short := u.transcript(answers[:1], sent[:1])
	wantCode(t, second(e.Upload(context.Background(), short)), refusal.TranscriptMissing)
	next := u.sign("POST", "/add/a", "", "")
	wantCode(t, second(u.send(next)), refusal.TranscriptMissing)
	for range 2 {
		if s, err := e.Upload(context.Background(), up); err != nil || s.Sequence != 3 || s.Settled != 2 {
			t.Fatalf("%+v %v", s, err)
		}
	}
	if a, err := u.send(&u.last); err != nil || !a.Repeated {
		t.Fatalf("%+v %v", a, err)
	}
	if _, err := u.send(next); err != nil {
		t.Fatal(err)
	}
	m.kill(1)
	m.up(1)
	u.at(m.nodes[1])
	u.checkpoint()
	if out, err := u.commit(); err != nil || out.Steps != 4 || m.nodes[1].value("a") != "xxxx" {
		t.Fatalf("%+v %v", out, err)
	}
}
