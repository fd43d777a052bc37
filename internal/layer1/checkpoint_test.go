package layer1

import (
	"testing"

	"pgregory.net/rapid"

	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// cut is a part of a session: the steps after from up to to, with a commit over them by the session's key.
func (d *draftSession) cut(whole *wire.SessionCommit, checkpoints uint64, from, to int, final bool) *wire.SessionCommit {
	heads := []wire.Digest{wire.TranscriptStart(whole.Open)}
	for _, tx := range whole.Transactions {
		heads = append(heads, wire.TranscriptNext(heads[len(heads)-1], tx))
	}
	c := &wire.SessionCommit{Open: whole.Open, Transactions: whole.Transactions[from:to]}
	if checkpoints > 0 {
		c.Start = wire.Start{Checkpoints: checkpoints, Sequence: uint64(from), Head: heads[from]}
	}
	id := httpsig.SessionID(&whole.Open)
	c.Commit = wire.Request{Method: "POST", Path: session.PathCommit(id), ContentType: "application/json", Body: []byte(session.BodyFinal), Created: d.stepTime / 1000}
	if !final {
		c.Commit.Body = []byte(session.BodyCheckpoint)
	}
	httpsig.Sign(d.priv, httpsig.TagCommit, &c.Commit, httpsig.Place{Session: id, Sequence: uint64(to) + 1, Transcript: heads[to]})
	return c
}

// recordOf is what the ledger has of a session.
func (w *world) recordOf(id wire.SessionID) ledger.Settled {
	w.t.Helper()
	s, _, err := ledger.SettledOf(w.nodes[0].store.Latest(), id)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	return s
}

// A session in three checkpoints and a final commit, each replayed by every node on a state that has the effects of those before;
// every other part, order and repetition is refused in words.
func TestCheckpointsInOrder(t *testing.T) {
	w := newWorld(t, 3)
	defer w.close()
	d := w.draft("ann", post("/add/a", ""), post("/add/a", ""), post("/put/b", "x"), post("/add/a", ""), post("/add/a", ""))
	whole := d.commit(t)
	id := httpsig.SessionID(&whole.Open)
	parts := []*wire.SessionCommit{
		d.cut(whole, 0, 0, 2, false), d.cut(whole, 1, 2, 3, false), d.cut(whole, 2, 3, 5, false), d.cut(whole, 3, 5, 5, true),
	}
	for k, part := range parts {
		for later := k + 1; later < len(parts); later++ {
			w.wantCode(w.try(w.nodes[0], parts[later].Encode()), refusal.WrongStart)
		}
		made := w.block(part.Encode())
		if len(made) != 2 {
			t.Fatalf("part %d is not in the block", k+1)
		}
		s := w.recordOf(id)
		if s.Steps != part.Start.Sequence+uint64(len(part.Transactions)) || s.Head != part.Head() || s.Final != (k == 3) || s.Checkpoints != uint64(min(k+1, 3)) {
			t.Fatalf("part %d: %+v", k+1, s)
		}
		code := refusal.WrongStart
		if s.Final {
			code = refusal.AlreadySettled
		}
		for again := 0; again <= k; again++ {
			w.wantCode(w.try(w.nodes[1], parts[again].Encode()), code)
		}
		w.wantCode(w.try(w.nodes[2], whole.Encode()), code)
	}
	sup := w.draft("ann", post("/add/a", ""))
	sup.open.Supersedes = &id
	w.wantCode(w.try(w.nodes[0], sup.bytes(t)), refusal.AlreadySettled)
}

// What has a checkpoint is a fact: it cannot be superseded. What supersedes may have checkpoints of its own.
func TestCheckpointAndSupersedes(t *testing.T) {
	w := newWorld(t, 1)
	defer w.close()
	old := w.draft("ann", post("/add/a", ""), post("/add/a", "")).commit(t)
	oldID := httpsig.SessionID(&old.Open)
	d := w.draft("ann", post("/add/b", ""), post("/add/b", ""))
	d.open.Supersedes = &oldID
	whole := d.commit(t)
	w.block(d.cut(whole, 0, 0, 1, false).Encode())
	w.wantCode(w.try(w.nodes[0], old.Encode()), refusal.Superseded)
	if made := w.block(d.cut(whole, 1, 1, 2, true).Encode()); len(made) != 2 {
		t.Error("the session that supersedes cannot be committed after its own checkpoint")
	}

	first := w.draft("ann", post("/add/c", ""), post("/add/c", ""))
	c := first.commit(t)
	w.block(first.cut(c, 0, 0, 1, false).Encode())
	id := httpsig.SessionID(&c.Open)
	next := w.draft("ann", post("/add/c", ""))
	next.open.Supersedes = &id
	w.wantCode(w.try(w.nodes[0], next.bytes(t)), refusal.AlreadySettled)
}

// Step times do not go back over a checkpoint, and expiry holds for each part.
func TestCheckpointTimes(t *testing.T) {
	w := newWorld(t, 1)
	defer w.close()
	d := w.draft("ann", post("/add/a", ""), post("/add/a", ""))
	d.open.ExpiresAt = w.time + 1500
	whole := d.commit(t)
	w.block(d.cut(whole, 0, 0, 1, false).Encode())
	rest := d.cut(whole, 1, 1, 2, true)
	rest.Transactions = []wire.Transaction{rest.Transactions[0]}
	rest.Transactions[0].Time = whole.Transactions[0].Time - 1
	w.wantCode(w.try(w.nodes[0], rest.Encode()), refusal.WrongTime)
	w.block()
	w.block()
	w.wantCode(w.try(w.nodes[0], d.cut(whole, 1, 1, 2, true).Encode()), refusal.SessionExpired)
}

// Of two histories of one session (same opening, two continuations, both signed by the client, cut anywhere, submitted in any order
// and any number of times), the ledger never holds parts of both: what is settled is always a prefix of one of them.
func TestOneHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, 2)
		defer w.close()
		d := w.draft("ann", post("/put/a", "1"), post("/put/b", "2"), post("/put/c", "3"), post("/put/d", "4"))
		left := d.commit(rt)
		fork := rapid.IntRange(0, 3).Draw(rt, "fork")
		d.calls = append(d.calls[:fork:fork], post("/put/e", "5"), post("/put/f", "6"))
		right := d.commit(rt)
		id := httpsig.SessionID(&left.Open)
		heads := func(c *wire.SessionCommit) []wire.Digest {
			all := []wire.Digest{wire.TranscriptStart(c.Open)}
			for _, tx := range c.Transactions {
				all = append(all, wire.TranscriptNext(all[len(all)-1], tx))
			}
			return all
		}
		seen := map[string]int{}
		was := ledger.Settled{}
		for range rapid.IntRange(3, 9).Draw(rt, "submissions") {
			whole := rapid.SampledFrom([]*wire.SessionCommit{left, right}).Draw(rt, "history")
			n := len(whole.Transactions)
			var txs [][]byte
			for range rapid.IntRange(1, 3).Draw(rt, "in the block") {
				from := rapid.IntRange(0, n).Draw(rt, "from")
				to := rapid.IntRange(from, n).Draw(rt, "to")
				at := was.Checkpoints
				if from == 0 {
					at = 0
				} else if rapid.Bool().Draw(rt, "guess") || at == 0 {
					at = rapid.Uint64Range(1, uint64(from)).Draw(rt, "checkpoints")
				}
				if at > uint64(from) {
					continue
				}
				part := d.cut(whole, at, from, to, rapid.Bool().Draw(rt, "final"))
				txs = append(txs, part.Encode())
			}
			for _, tx := range w.block(txs...)[1:] {
				if seen[string(tx)]++; seen[string(tx)] > 1 {
					rt.Fatal("a part was committed twice")
				}
			}
			now := w.recordOf(id)
			if was.Final && now != was {
				rt.Fatalf("a closed session moved on: %+v, %+v", was, now)
			}
			if now.Steps < was.Steps {
				rt.Fatalf("went back: %+v, %+v", was, now)
			}
			l, r := heads(left), heads(right)
			onLeft := now.Steps < uint64(len(l)) && l[now.Steps] == now.Head
			onRight := now.Steps < uint64(len(r)) && r[now.Steps] == now.Head
			if now.Height > 0 && !onLeft && !onRight {
				rt.Fatalf("%+v is of neither history", now)
			}
			if was.Height > 0 { // and it continues what was there
				if h := l; onLeft && h[was.Steps] != was.Head || !onLeft && r[was.Steps] != was.Head {
					rt.Fatalf("%+v does not continue %+v", now, was)
				}
			}
			was = now
		}
	})
}
