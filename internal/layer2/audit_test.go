package layer2

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"tandem/evidence"
	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

func (u *user) audit() Audit {
	u.w.t.Helper()
	a, err := u.w.engine.Audit(context.Background(), u.id)
	if err != nil {
		u.w.t.Fatal(err)
	}
	for i, e := range a.Entries {
		if e.Number != a.Dropped+uint64(i)+1 || e.Time == 0 || e.Event == "" {
			u.w.t.Fatalf("entry %d of %d is %+v, %d were dropped", i, len(a.Entries), e, a.Dropped)
		}
	}
	return a
}

func eventNames(a Audit) []string {
	var out []string
	for _, e := range a.Entries {
		out = append(out, e.Event)
	}
	return out
}

// The trail of a session tells every decision in order, survives a crash, and ends with the outcome.
func TestAuditTrail(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	sent := u.sign("POST", "/set/a", "", "one")
	u.do("POST", "/set/a", "one", 201)
	if _, err := u.send(u.sign("POST", "/set/b", "", "")); err != nil { // the next step
		t.Fatal(err)
	}
	wrong := *sent
	wrong.Place.Sequence = 9
	httpsig.Sign(key("alice"), httpsig.TagStep, &wrong.Request, wrong.Place)
	_, err := u.send(&wrong)
	wantCode(t, err, refusal.WrongSequence)
	want := []string{"opened", "step-recorded", "step-recorded", "refused"}
	a := u.audit()
	if got := eventNames(a); !slices.Equal(got, want) || a.Entries[3].Code != "wrong-sequence" || a.Entries[1].Sequence != 1 || a.Entries[1].Node != a.Node {
		t.Fatalf("the trail is %+v", a)
	}
	w.crash()
	if got := eventNames(u.audit()); len(got) < 3 || !slices.Equal(got[:3], want[:3]) {
		t.Fatalf("after a crash the trail is %q", got)
	}
	w.ledger.write("unrelated", "x")
	again := w.user("bob")
	again.do("GET", "/get/a", "", 200)
	w.ledger.write("a", "other")
	w.settleDown()
	trail := again.audit()
	last := trail.Entries[len(trail.Entries)-1]
	if last.Event != "conflicted" || last.Sequence != 1 || last.Code != "conflict" || last.Height == 0 {
		t.Errorf("the conflict is told as %+v", last)
	}
	third := w.user("alice")
	third.do("POST", "/set/z", "", 201)
	if out, err := w.engine.Commit(ended(), third.commitRequest()); err != nil || out.Status != session.Committing {
		t.Fatalf("%+v, %v", out, err)
	}
	eventually(t, "submitted", func() bool {
		w.ledger.mu.Lock()
		defer w.ledger.mu.Unlock()
		return len(w.ledger.pool) > 0
	})
	w.ledger.cut()
	eventually(t, "committed", func() bool { return third.status().Status == session.Committed })
	if got := eventNames(third.audit()); !slices.Equal(got, []string{"opened", "step-recorded", "re-executed", "commit-requested", "submitted", "committed"}) {
		t.Errorf("the trail of a commit is %q", got)
	}
}

// A trail has at most maxAudit entries; the oldest are dropped and counted, also across a restart.
func TestAuditTrailIsBounded(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	wrong := u.sign("POST", "/set/a", "", "one")
	wrong.Place.Sequence = 9
	httpsig.Sign(key("alice"), httpsig.TagStep, &wrong.Request, wrong.Place)
	for i := range 2*maxAudit + 10 {
		_, err := u.send(wrong)
		wantCode(t, err, refusal.WrongSequence)
		if i == maxAudit+5 {
			if err := w.engine.journal.flush(); err != nil {
				t.Fatal(err)
			}
			w.crash()
		}
	}
	a := u.audit()
	if len(a.Entries) != maxAudit || a.Dropped < maxAudit {
		t.Errorf("%d entries, %d dropped", len(a.Entries), a.Dropped)
	}
	_, err := w.engine.Audit(context.Background(), wire.SessionID{1})
	wantCode(t, err, refusal.SessionNotFound)
}

func (u *user) evidence(kind evidence.Kind) *evidence.Finding {
	u.w.t.Helper()
	file, err := u.w.engine.Evidence(context.Background(), u.id, string(kind))
	if err != nil {
		u.w.t.Fatalf("%s: %v", kind, err)
	}
	f, err := evidence.Verify(fmt.Appendf(nil, `{"chain_id":%q}`, chain), file)
	if err != nil || f.Kind != kind || f.Session != u.id.String() {
		u.w.t.Fatalf("%s: found %+v, %v", kind, f, err)
	}
	return f
}

// DESIGN: "Two different signed steps at one position are equivocation: refused, and kept as evidence." The evidence is a
// file that verifies offline; signing over another history is kept too, and survives a crash.
func TestEvidenceAgainstClient(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	_, err := w.engine.Evidence(context.Background(), u.id, "")
	wantCode(t, err, refusal.NotFound)
	other := u.sign("POST", "/set/a", "", "two")
	u.do("POST", "/set/a", "one", 201)
	u.do("POST", "/set/a", "more", 201)
	_, err = u.send(other)
	wantCode(t, err, refusal.Equivocation)
	if f := u.evidence(evidence.TwoRequests); f.Conclusive || f.Sequence != 1 || f.Culprit.Key != wire.PublicKeyOf(key("alice")).DID() {
		t.Errorf("found %+v", f)
	}
	elsewhere := u.sign("POST", "/set/b", "", "")
	elsewhere.Place.Sequence, elsewhere.Place.Transcript = 2, wire.Digest{7}
	httpsig.Sign(key("alice"), httpsig.TagStep, &elsewhere.Request, elsewhere.Place)
	_, err = u.send(elsewhere)
	wantCode(t, err, refusal.WrongTranscript)
	w.crash()
	if f := u.evidence(evidence.TwoHistories); !f.Conclusive || f.Sequence != 2 {
		t.Errorf("found %+v", f)
	}
	if file, err := w.engine.Evidence(context.Background(), u.id, ""); err != nil || len(file) == 0 {
		t.Errorf("the most telling: %v", err)
	}
	u.do("POST", "/set/c", "", 201) // the session goes on
}

// A client that behaves, however its requests fare, leaves no evidence.
func TestNoEvidenceAgainstHonest(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/refuse/a", "", 409)
	sent := u.sign("POST", "/set/a", "", "one")
	for range 3 { // retries
		if _, err := u.send(sent); err != nil {
			t.Fatal(err)
		}
	}
	_, err := w.engine.Evidence(context.Background(), u.id, "")
	wantCode(t, err, refusal.NotFound)
}

// A peer's step that the client has not signed, and a second answer of a peer's to one step, are kept as evidence.
func TestEvidenceAgainstNode(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	o, err := w.engine.find(u.id)
	if err != nil {
		t.Fatal(err)
	}
	peer := key("a lying peer")
	seal := func(p *httpsig.Parsed, body string) *wire.Recorded {
		tx := wire.Transaction{
			Sequence: p.Place.Sequence, Request: p.Request, Originator: wire.PublicKeyOf(peer), Time: w.clock.ms.Load(),
			Response: wire.Response{Status: 200, Body: wire.Sum([]byte(body))},
		}
		r := &wire.Recorded{Transaction: tx, Height: 1}
		r.Seal = httpsig.SealAnswer(peer, tx.Time/1000, answerOf(u.id, *r, wire.TranscriptNext(p.Place.Transcript, tx)))
		return r
	}
	forged := u.sign("POST", "/steal", "", "")
	httpsig.Sign(key("mallory"), httpsig.TagStep, &forged.Request, forged.Place)
	good := u.sign("POST", "/set/a", "", "one")
	suspect := func(r *wire.Recorded) {
		if _, err := ask(o, func() (struct{}, error) { o.suspectNode(r, good.Place.Transcript); return struct{}{}, nil }); err != nil {
			t.Fatal(err)
		}
	}
	suspect(seal(good, "whatever it says, one answer excludes nothing"))
	if _, err := w.engine.Evidence(context.Background(), u.id, ""); !refusal.Has(err, refusal.NotFound) {
		t.Fatalf("one answer is evidence: %v", err)
	}
	suspect(seal(forged, "stolen"))
	if f := u.evidence(evidence.ForgedRequest); f.Culprit.Key != wire.PublicKeyOf(peer).DID() {
		t.Errorf("found %+v", f)
	}
}
