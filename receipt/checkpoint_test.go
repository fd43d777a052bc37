package receipt

import (
	"bytes"
	"strings"
	"testing"

	"tandem/internal/httpsig"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// TestCheckpointReceipts: each part of a session committed in parts has a receipt that says which part it is, and no part's
// receipt can be passed off as another's.
func TestCheckpointReceipts(t *testing.T) {
	c := newChain(t, 10, 10, 10, 10)
	whole, bodies := c.session(testChain)
	id := httpsig.SessionID(&whole.Open)
	heads := []wire.Digest{wire.TranscriptStart(whole.Open)}
	for _, tx := range whole.Transactions {
		heads = append(heads, wire.TranscriptNext(heads[len(heads)-1], tx))
	}
	commit := func(at int, body string) wire.Request {
		r := wire.Request{Method: "POST", Path: session.PathCommit(id), ContentType: "application/json", Body: []byte(body), Created: testCreated + 9}
		httpsig.Sign(c.client, httpsig.TagCommit, &r, httpsig.Place{Session: id, Sequence: uint64(at) + 1, Transcript: heads[at]})
		return r
	}
	for _, part := range []struct {
		start    wire.Start
		from, to int
		body     string
		says     string
	}{
		{wire.Start{}, 0, 2, session.BodyCheckpoint, "checkpoint 1, steps 1-2, the session stays open"},
		{wire.Start{Checkpoints: 1, Sequence: 2, Head: heads[2]}, 2, 3, session.BodyCheckpoint, "checkpoint 2, steps 3-3, the session stays open"},
		{wire.Start{Checkpoints: 1, Sequence: 2, Head: heads[2]}, 2, 3, session.BodyFinal, "checkpoint 2, steps 3-3, closes the session"},
		{wire.Start{Checkpoints: 2, Sequence: 3, Head: heads[3]}, 3, 3, session.BodyFinal, "checkpoint 3, no steps, closes the session"},
	} {
		s := wire.SessionCommit{Open: whole.Open, Start: part.start, Transactions: whole.Transactions[part.from:part.to], Commit: commit(part.to, part.body)}
		b := sealed(c, s, bodies[part.from:part.to])
		raw := mustBuild(t, c, b)
		p, err := Verify(c.genesis, raw)
		if err != nil {
			t.Fatalf("%s: %v", part.says, err)
		}
		var text bytes.Buffer
		if err := p.WriteSummary(&text); err != nil || !strings.Contains(text.String(), part.says) {
			t.Errorf("%v, no %q in\n%s", err, part.says, text.String())
		}
		if p.Checkpoint != part.start.Checkpoints+1 || p.FirstStep != uint64(part.from)+1 || p.LastStep != uint64(part.to) || p.Transcript != heads[part.to].String() || len(p.Steps) != part.to-part.from {
			t.Errorf("%s: %+v", part.says, p)
		}
		s.Start.Head[0] ^= 1
		s.Start.Checkpoints, s.Start.Sequence = max(1, s.Start.Checkpoints), max(1, s.Start.Sequence)
		if _, err := Build(sealed(c, s, bodies[part.from:part.to]).parts(c)); err == nil {
			t.Errorf("%s: built with another start", part.says)
		}
	}
}

func sealed(c *chain, s wire.SessionCommit, bodies [][]byte) *block {
	b := c.block(4)
	b.txs[b.index], b.bodies = s.Encode(), bodies
	c.seal(b)
	return b
}
