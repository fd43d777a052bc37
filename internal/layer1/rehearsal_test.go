package layer1

import (
	"testing"
	"time"

	"tandem/internal/refusal"
)

// A session that was rehearsed is not run again in its block, on any node; one whose reads find something else by then is. A handler
// tells how often it ran.
func TestRehearsedRunsOnce(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	runs := func(do func()) (ran [2]int) {
		for i, n := range w.nodes {
			ran[i] = -n.quirk.count
		}
		do()
		for i, n := range w.nodes {
			ran[i] += n.quirk.count
		}
		return ran
	}
	counting := func(key string) []byte {
		return w.session("ann", post("/answer-quirk", ""), post("/add/"+key, ""), call{"GET", "/tandem/v1/actors", ""})
	}
	rehearse := func(tx []byte) {
		for _, n := range w.nodes {
			n.app.Rehearse(tx)
			n.app.Rehearse(tx) // again is nothing
		}
	}
	tx := counting("a")
	if ran := runs(func() { rehearse(tx); w.block(tx) }); ran != [2]int{1, 1} {
		t.Errorf("rehearsed: the handlers ran %v times, want once on each node", ran)
	}

	// Another session of the block has written what this one read: it is run again, and answers otherwise.
	tx = counting("a")
	first := w.session("bob", post("/add/a", ""))
	if ran := runs(func() {
		rehearse(tx)
		if made := w.block(first, tx); len(made) != 2 {
			t.Errorf("%d transactions, want the root and the first session", len(made))
		}
	}); ran != [2]int{2, 1} {
		t.Errorf("overtaken: the handlers ran %v times, want twice on the proposer, which drops the session", ran)
	}

	// A block between rehearsal and use that has written something else changes nothing.
	tx = counting("b")
	if ran := runs(func() { rehearse(tx); w.block(w.session("eve", post("/add/c", ""))); w.block(tx) }); ran != [2]int{1, 1} {
		t.Errorf("after another block: the handlers ran %v times, want once on each node", ran)
	}

	// So late that its block was faster, a rehearsal is not made.
	tx = counting("d")
	if ran := runs(func() {
		made := w.prepare(w.nodes[0], tx)
		rehearse(tx)
		w.process(w.nodes[1], "node0", made)
		w.decide(made)
	}); ran != [2]int{1, 1} {
		t.Errorf("late: the handlers ran %v times, want once on each node", ran)
	}
}

// A rehearsal that fails says nothing about the block: the block's own replay judges.
func TestFailedRehearsalIsForgotten(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	tx := w.session("ann", post("/answer-quirk", ""))
	w.nodes[1].quirk.set("moody") // and calm again before the block
	for _, n := range w.nodes {
		n.app.Rehearse(tx)
		n.app.Rehearse([]byte("garbage"))
	}
	w.nodes[1].quirk.set("calm")
	if made := w.block(tx); len(made) != 2 {
		t.Errorf("%d transactions in the block", len(made))
	}

	// A handler that hangs in the rehearsal is given up, by the watchdog, and refused in the block, by the watchdog.
	w = newWorld(t, 1, func(o *Options) { o.Watchdog = 20 * time.Millisecond })
	defer w.close()
	hangs := w.session("ann", post("/hang-quirk", ""))
	w.nodes[0].quirk.set("stuck")
	w.nodes[0].app.Rehearse(hangs)
	if made := w.prepare(w.nodes[0], hangs); len(made) != 1 {
		t.Errorf("%d transactions in the proposal", len(made))
	}
	if q := w.nodes[0].app.Quarantined(); len(q) != 1 || q[0].Reason != refusal.StepTooLong {
		t.Errorf("quarantined: %v", q)
	}
	close(w.nodes[0].quirk.loose)
}
