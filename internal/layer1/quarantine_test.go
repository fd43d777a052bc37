package layer1

import (
	"context"
	"fmt"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// watched gives a world's nodes a watchdog.
func watched(d time.Duration) func(*Options) { return func(o *Options) { o.Watchdog = d } }

// DESIGN promise 7: a difference between nodes is found in ProcessProposal, named (session, step, field) and
// quarantined; the next proposal of who saw it goes without the session; the chain goes on.
func TestNondeterministicHandler(t *testing.T) {
	for _, c := range []struct {
		path, field string
		code        refusal.Code
	}{
		{"/answer-quirk", "body", refusal.ResponseDiffers},
		{"/panic-quirk", "status", refusal.ResponseDiffers},
	} {
		t.Run(c.path, func(t *testing.T) {
			w := newWorld(t, 3)
			defer w.close()
			w.nodes[1].quirk.set("another machine")
			odd := w.session("ann", post("/put/a", "1"), post(c.path, ""))
			fine := w.session("bob", post("/put/b", "2"))
			made := w.prepare(w.nodes[0], odd, fine)
			if len(made) != 3 || !w.process(w.nodes[2], "node0", made) {
				t.Fatal("nodes 0 and 2 are alike and must agree")
			}
			if w.process(w.nodes[1], "node0", made) {
				t.Fatal("node 1 accepts what it does not replay")
			}
			qs := w.nodes[1].app.Quarantined()
			if len(qs) != 1 {
				t.Fatalf("quarantined: %+v", qs)
			}
			q := qs[0]
			if q.Session != idOf(t, odd) || q.Transaction != wire.Sum(odd) || q.Step != 2 || q.Field != c.field || q.Reason != c.code || q.Height != 1 {
				t.Errorf("quarantined: %+v", q)
			}
			r, ok := w.nodes[1].app.QuarantineOf(wire.Sum(odd))
			if !ok || r.Code != refusal.Quarantined || r.Fields["step"] != uint64(2) || r.Fields["field"] != c.field || r.Fields["session"] != idOf(t, odd).String() {
				t.Errorf("told %v %v", r, ok)
			}
			if _, ok := w.nodes[1].app.QuarantineOf(wire.Sum(fine)); ok {
				t.Error("the innocent session is quarantined too")
			}
			w.wantCode(asError(w.checkTx(w.nodes[1], odd)), refusal.Quarantined)

			// The next round: node 1 proposes, without the session; everybody agrees.
			made = w.prepare(w.nodes[1], odd, fine)
			if len(made) != 2 {
				t.Fatalf("the next proposal has %d transactions", len(made))
			}
			for _, n := range w.nodes {
				if !w.process(n, "node1", made) {
					t.Fatal("rejected")
				}
			}
			w.decide(made)
			// In time the quarantine ends.
			for range DefaultQuarantineHeights {
				if _, ok := w.nodes[1].app.QuarantineOf(wire.Sum(odd)); !ok {
					t.Fatalf("out at height %d already", w.height())
				}
				w.block()
			}
			if _, ok := w.nodes[1].app.QuarantineOf(wire.Sum(odd)); ok {
				t.Error("still in quarantine")
			}
		})
	}
}

// A handler whose answer differs from run to run, on one machine, is called nondeterministic.
func TestFlickeringHandlerIsCaughtInTheAct(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	odd := w.session("ann", post("/write-count/a", ""))
	made := w.prepare(w.nodes[0], odd, w.session("bob", post("/put/b", "")))
	if w.process(w.nodes[1], "node0", made) {
		t.Fatal("accepted, though the runs wrote different counts")
	}
	qs := w.nodes[1].app.Quarantined()
	if len(qs) != 1 || qs[0].Transaction != wire.Sum(odd) || qs[0].Reason != refusal.Nondeterministic || qs[0].Field != "writes" {
		t.Fatalf("quarantined %+v", qs)
	}

	// The same for answers: recorded is 0, the first replay gives 1, the next 0 again.
	w.session("ann", post("/answer-parity", ""))
	for _, n := range w.nodes {
		n.quirk.count = 1
	}
	odd = w.session("ann", post("/answer-parity", ""))
	w.nodes[1].quirk.count = 0
	height, _ := w.next()
	if w.process(w.nodes[1], "node0", [][]byte{wire.RootStatement{Height: height}.Encode(), odd}) {
		t.Fatal("accepted")
	}
	r, ok := w.nodes[1].app.QuarantineOf(wire.Sum(odd))
	if !ok || r.Fields["reason"] != string(refusal.Nondeterministic) || r.Fields["step"] != uint64(1) || r.Fields["field"] != "body" {
		t.Fatalf("quarantined %v %v", r, ok)
	}
}

// Writes that differ from machine to machine only: nobody can be named after one proposal, since the proposer may lie
// about the root; after those of two validators the session is set aside, and after own proposals at three heights.
func TestHiddenDifference(t *testing.T) {
	w := newWorld(t, 3)
	defer w.close()
	w.nodes[1].quirk.set("another machine")
	odd := w.session("ann", post("/write-quirk/a", ""))
	fine := w.session("bob", post("/put/b", ""))
	made := w.prepare(w.nodes[0], odd)
	if w.process(w.nodes[1], "node0", made) || w.process(w.nodes[1], "node0", w.prepare(w.nodes[0], odd, fine)) {
		t.Fatal("accepted")
	}
	if qs := w.nodes[1].app.Quarantined(); len(qs) != 0 {
		t.Fatalf("one proposer's word was enough: %+v", qs)
	}
	// Both are suspects now; a proposal holds one at most.
	if made := w.prepare(w.nodes[1], odd, fine); len(made) != 2 {
		t.Errorf("%d transactions: two suspects in one proposal", len(made))
	}
	if w.process(w.nodes[1], "node2", w.prepare(w.nodes[2], odd)) {
		t.Fatal("accepted")
	}
	qs := w.nodes[1].app.Quarantined()
	if len(qs) != 1 || qs[0].Transaction != wire.Sum(odd) || qs[0].Field != "root" {
		t.Fatalf("quarantined %+v", qs)
	}
	w.block(fine)
}

// The same seen from the side of the machine that is alone: its proposals are not taken, at height after height.
func TestOwnProposalsFail(t *testing.T) {
	w := newWorld(t, 3)
	defer w.close()
	lonely := w.nodes[0]
	w.nodes[1].quirk.set("x")
	w.nodes[2].quirk.set("x")
	odd := w.session("ann", post("/answer-quirk", ""))
	for i := range 3 {
		if q := lonely.app.Quarantined(); len(q) != 0 {
			t.Fatalf("after %d heights: %+v", i, q)
		}
		for range 3 { // several rounds of one height count once
			if made := w.prepare(lonely, odd); len(made) != 2 || w.process(w.nodes[1], "node0", made) {
				t.Fatal("not as planned")
			}
		}
		made := w.prepare(w.nodes[1])
		for _, n := range w.nodes {
			if !w.process(n, "node1", made) {
				t.Fatal("rejected")
			}
		}
		w.decide(made)
	}
	if q := lonely.app.Quarantined(); len(q) != 1 || q[0].Transaction != wire.Sum(odd) {
		t.Fatalf("quarantined %+v", q)
	}
	if made := w.prepare(lonely, odd); len(made) != 1 {
		t.Error("proposed again")
	}
}

// A proposal that puts a good session behind one it conflicts with does not set the good one aside.
func TestConflictInContextIsNoOffence(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	reader, adder := w.session("ann", call{"GET", "/get/a", ""}), w.session("bob", post("/add/a", ""))
	made := w.prepare(w.nodes[0], reader, adder)
	made[1], made[2] = made[2], made[1]
	if w.process(w.nodes[1], "liar", made) {
		t.Fatal("accepted")
	}
	if q := w.nodes[1].app.Quarantined(); len(q) != 0 {
		t.Errorf("quarantined %+v", q)
	}
}

// The watchdog makes a proposer drop an endless step and remember it, and a validator REJECT; FinalizeBlock has none,
// so that a block that the others could replay is replayed here too, however long it takes.
func TestWatchdog(t *testing.T) {
	w := newWorld(t, 3, watched(30*time.Millisecond))
	defer w.close()
	slow := w.session("ann", post("/hang-quirk", ""))
	fine := w.session("bob", post("/put/b", ""))
	for _, n := range w.nodes[1:] {
		n.quirk.set("hang")
	}
	proposer, judge := w.nodes[1], w.nodes[2]
	if made := w.prepare(proposer, fine, slow); len(made) != 2 {
		t.Fatalf("%d transactions in the proposal", len(made))
	}
	if q := proposer.app.Quarantined(); len(q) != 1 || q[0].Transaction != wire.Sum(slow) || q[0].Reason != refusal.StepTooLong || q[0].Step != 1 {
		t.Fatalf("the proposer does not remember: %+v", q)
	}
	made := w.prepare(w.nodes[0], slow, fine)
	if len(made) != 3 {
		t.Fatal("node 0 is fast")
	}
	if w.process(judge, "node0", made) {
		t.Fatal("accepted in spite of the watchdog")
	}
	if q := judge.app.Quarantined(); len(q) != 1 || q[0].Transaction != wire.Sum(slow) {
		t.Fatalf("quarantined %+v", q)
	}
	close(proposer.quirk.loose) // from here on their handlers take their time and end
	close(judge.quirk.loose)
	w.decide(made)
}

// A session that is too long for what is left of the proposal's time, but not by itself, is not blamed; a proposal is
// made in any case.
func TestEmptyHanded(t *testing.T) {
	w := newWorld(t, 1, watched(time.Nanosecond))
	defer w.close()
	made := w.prepare(w.nodes[0], w.session("ann", post("/put/a", "")))
	if len(made) < 1 || len(made) > 2 {
		t.Fatalf("%d transactions", len(made))
	}
	if _, err := wire.DecodeRootStatement(made[0]); err != nil {
		t.Fatal(err)
	}
}

// The proposer spreads heavy sessions over blocks; validators take what they are given.
func TestBlockOperations(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	w.nodes[0].app.budget = 3
	var txs [][]byte
	for i := range 5 {
		txs = append(txs, w.session("ann", post(fmt.Sprintf("/put/%d", i), ""), post(fmt.Sprintf("/put/%dx", i), "")))
	}
	if made := w.prepare(w.nodes[0], txs...); len(made) != 3 {
		t.Errorf("%d sessions with 2 operations each for a budget of 3", len(made)-1)
	}
	made := w.prepare(w.nodes[1], txs...)
	if len(made) != 6 || !w.process(w.nodes[0], "node1", made) {
		t.Error("the budget is the proposer's only")
	}
}

// The ward is bounded, doubles the time of repeated offenders, and forgets.
func TestWard(t *testing.T) {
	w := newWard(10)
	id := func(i int) (d wire.Digest) { d[0], d[1] = byte(i), byte(i>>8); return }
	for i := range maxQuarantined + 100 {
		w.admit(Quarantine{Transaction: id(i), Height: int64(i)})
	}
	if len(w.patients) != maxQuarantined {
		t.Errorf("%d patients", len(w.patients))
	}
	if _, ok := w.quarantined(id(0), 5); ok {
		t.Error("not the oldest made room")
	}
	w = newWard(10)
	until := int64(0)
	for i, want := range []int64{10, 20, 40, 80} {
		q := w.admit(Quarantine{Transaction: id(1), Height: until + 1})
		if q.Until != until+1+want {
			t.Errorf("offence %d: until %d, want %d", i, q.Until, until+1+want)
		}
		until = q.Until
	}
	if q := w.admit(Quarantine{Transaction: id(1), Height: until - 80}); q.Until != until {
		t.Error("one height counts twice")
	}
	for i := range maxSuspects + 5 {
		w.suspect(id(i), "p", 1)
	}
	if len(w.suspects) != maxSuspects {
		t.Errorf("%d suspects", len(w.suspects))
	}
	w.committed(until, []wire.Digest{id(1)})
	if len(w.list(until)) != 0 || w.suspected(id(1)) || !w.suspected(id(3)) {
		t.Error("committed sessions are not released")
	}
	w.committed(until+memoryHeights+2, nil)
	if len(w.patients)+len(w.suspects) != 0 {
		t.Error("nothing is forgotten")
	}
	// However long somebody offends, the time stays within bounds.
	h := int64(0)
	for range 100 {
		h = w.admit(Quarantine{Transaction: id(9), Height: h + 1}).Until
	}
	if h > 200*10<<(maxDoublings+1) {
		t.Errorf("until %d", h)
	}
}

// A panic in our own code while checking refuses the transaction in every phase; no ABCI call panics or errors.
func TestOwnPanicIsNoError(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	made := w.prepare(w.nodes[0], w.session("ann", post("/put/a", "")))
	broken := w.nodes[1].app
	broken.rules.Runner = nil // as good a bug as any
	height, at := w.next()
	res, err := broken.ProcessProposal(context.Background(), &abci.RequestProcessProposal{Txs: made, Height: height, Time: at})
	if err != nil || res.Status != abci.ResponseProcessProposal_REJECT {
		t.Errorf("ProcessProposal %v %v", res, err)
	}
	pre, err := broken.PrepareProposal(context.Background(), &abci.RequestPrepareProposal{MaxTxBytes: 1 << 20, Txs: made[1:], Height: height, Time: at})
	if err != nil || len(pre.Txs) != 1 {
		t.Errorf("PrepareProposal %v %v", pre, err)
	}
	if _, err := broken.FinalizeBlock(context.Background(), &abci.RequestFinalizeBlock{Txs: made, Height: height, Time: at}); err == nil || len(w.nodes[1].halted) != 1 {
		t.Errorf("FinalizeBlock: %v, halted %v", err, w.nodes[1].halted)
	}
}
