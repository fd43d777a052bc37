package session

import (
	"testing"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// A commit closes a session or not by its signed body alone, and only by these texts.
func TestCommitBody(t *testing.T) {
	for body, final := range map[string]bool{"": true, "{}": true, `{"final":true}`: true, `{"final":false}`: false} {
		if got, err := ParseCommitBody([]byte(body)); err != nil || got != final {
			t.Errorf("%q: %v %v", body, got, err)
		}
	}
	for _, body := range []string{" {}", "{} ", `{"final":null}`, `{"final": false}`, `{"Final":false}`, `{"final":false,"final":false}`, "null", "[]", "\xff"} {
		if _, err := ParseCommitBody([]byte(body)); !refusal.Has(err, refusal.BadRequest) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

// Each part of a session verifies from its start on, and from no other; a checkpoint holds a step.
func TestVerifyParts(t *testing.T) {
	a := newAuthor()
	whole := a.write()
	heads := []wire.Digest{wire.TranscriptStart(whole.Open)}
	for _, tx := range whole.Transactions {
		heads = append(heads, wire.TranscriptNext(heads[len(heads)-1], tx))
	}
	part := func(from, to int, body string) *wire.SessionCommit {
		c := &wire.SessionCommit{Open: whole.Open, Transactions: whole.Transactions[from:to], Commit: whole.Commit}
		if from > 0 {
			c.Start = wire.Start{Checkpoints: 1, Sequence: uint64(from), Head: heads[from]}
		}
		c.Commit.Body = []byte(body)
		httpsig.Sign(a.client, httpsig.TagCommit, &c.Commit, httpsig.Place{Session: httpsig.SessionID(&whole.Open), Sequence: uint64(to) + 1, Transcript: heads[to]})
		return c
	}
	for from := 0; from <= 3; from++ {
		for to := from; to <= 3; to++ {
			for _, body := range []string{BodyFinal, BodyCheckpoint} {
				c := part(from, to, body)
				p, err := Verify(c)
				if body == BodyCheckpoint && from == to {
					wantRefusal(t, err, refusal.BadRequest, 0, "commit.body")
					continue
				}
				if err != nil || p.Steps != uint64(to) || p.Start != c.Start || p.Final != (body == BodyFinal) || p.Head != heads[to] {
					t.Errorf("%d to %d: %+v %v", from, to, p, err)
				}
				if from > 0 {
					c.Start.Head[3] ^= 1
					if _, err := Verify(c); !refusal.Has(err, refusal.SignatureInvalid) {
						t.Errorf("%d to %d: another start: %v", from, to, err)
					}
				}
			}
		}
	}
	stripped := part(0, 3, BodyCheckpoint) // nobody closes a session that its client keeps open
	stripped.Commit.Body = []byte(BodyFinal)
	_, err := Verify(stripped)
	wantRefusal(t, err, refusal.SignatureInvalid, 0, "commit.signature")
}

// A node that has looked at the ledger's newest state knows a session's end before it is told of the blocks in between: a checkpoint in
// one of them is no contradiction. One in a later block is.
func TestCheckpointToldAfterTheEnd(t *testing.T) {
	self := wire.PublicKey{1}
	for height, halts := range map[int64]bool{8: false, 9: false, 10: true} {
		m := New(self, Policy{Nodes: []wire.PublicKey{self}, Need: 1}, wire.Digest{1}, 1000)
		m.Step(Settled{Height: 9, Transaction: wire.Digest{2}})
		if m.State() != Committed {
			t.Fatal(m.State())
		}
		acts := m.Step(CheckpointSettled{Number: 1, Steps: 1, Head: wire.Digest{3}, Height: height, Transaction: wire.Digest{4}})
		if got := len(acts) > 0; got != halts {
			t.Errorf("a checkpoint at height %d, told after the end at 9: %v", height, acts)
		}
	}
}
