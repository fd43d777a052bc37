package layer2

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
)

// chaosUser is a client that keeps all it has sent and seen, and goes on at another node when one fails it.
type chaosUser struct {
	*user
	key     string
	answers []*Answer
	sent    []*httpsig.Parsed
}

// try sends what f sends at one node after the other, uploading where steps are missing, until it is answered.
func (c *chaosUser) try(t *rapid.T, m *many, order []int, f func() error) {
	var last error
	for round := range 20 {
		n := m.nodes[order[round%len(order)]]
		if n.engine == nil {
			continue
		}
		c.at(n)
		if last = f(); last == nil {
			return
		}
		r, ok := refusal.As(last)
		if !ok {
			t.Fatalf("at node %d: %v", n.i, last)
		}
		switch r.Code {
		case refusal.SessionNotFound, refusal.TranscriptMissing:
			if _, err := n.engine.Upload(context.Background(), c.transcript(c.answers, c.sent)); err != nil && !refusal.Has(err, refusal.PositionTaken) {
				t.Fatalf("upload at node %d after %v: %v", n.i, last, err)
			}
		case refusal.SessionBusy, refusal.PositionTaken, refusal.ShuttingDown, refusal.HeightNotReached:
		default:
			t.Fatalf("at node %d, %d steps: %v", n.i, c.n, last)
		}
	}
	t.Fatalf("no node answers: %v", last)
}

// TestChaos: issue 3: random clients, nodes, cuts and kills, with disks lost: each client's own transcript is what is
// committed, one outcome each, no acknowledged step lost.
func TestChaos(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newMany(t, 3, func(_ int, o *Options) { o.Wait = 30 * time.Millisecond })
		defer func() {
			for i := range m.nodes {
				m.down(i)
			}
		}()
		var users []*chaosUser
		for i := range 3 {
			users = append(users, &chaosUser{user: m.nodes[i].user("alice"), key: fmt.Sprintf("k%d", i)})
		}
		order := func() []int { return rapid.Permutation([]int{0, 1, 2}).Draw(rt, "order") }
		for range rapid.IntRange(5, 25).Draw(rt, "events") {
			m.clock.advance(time.Millisecond)
			a, b := rapid.IntRange(0, 2).Draw(rt, "a"), rapid.IntRange(1, 2).Draw(rt, "b")
			b = (a + b) % 3
			switch what := rapid.SampledFrom([]string{"step", "step", "step", "twice", "cut", "heal", "kill", "wipe", "up", "block"}).Draw(rt, "what"); what {
			case "step", "twice":
				u := users[rapid.IntRange(0, 2).Draw(rt, "user")]
				p := u.sign("POST", "/add/"+u.key, "", "")
				if n := m.nodes[a]; what == "twice" && n.engine != nil { // an answer that is lost on the way
					_, _ = n.engine.Step(context.Background(), p)
					m.clock.advance(time.Millisecond)
				}
				u.try(rt, m, order(), func() error {
					answer, err := u.send(p)
					if err == nil {
						u.answers, u.sent = append(u.answers, answer), append(u.sent, p)
					}
					return err
				})
				if u.n != uint64(len(u.answers)) {
					rt.Fatalf("%d answers, but the user stands at %d", len(u.answers), u.n)
				}
			case "cut":
				m.mesh.Cut(m.nodes[a].key(), m.nodes[b].key())
			case "heal":
				m.mesh.Heal(m.nodes[a].key(), m.nodes[b].key())
			case "kill", "wipe": // two nodes stay: an answer is endorsed by two
				if m.nodes[b].engine != nil && m.nodes[3-a-b].engine != nil && m.nodes[a].engine != nil {
					m.kill(a)
					if what == "wipe" {
						m.wipe(a)
					}
				}
			case "up":
				if m.nodes[a].engine == nil {
					m.up(a)
				}
			case "block":
				m.ledger.write("unrelated", fmt.Sprint(a))
			}
		}
		for _, u := range users {
			u.try(rt, m, order(), func() error {
				out, err := u.commit()
				if err == nil && (out.Status != session.Committed || out.Transcript != u.head || out.Steps != u.n) {
					rt.Fatalf("committed %+v, the client has %d steps with head %s", out, u.n, u.head)
				}
				return err
			})
			s, ok, err := ledger.SettledOf(m.ledger.store.Latest(), u.id)
			if err != nil || !ok || s.Head != u.head || s.Steps != u.n {
				rt.Fatalf("the ledger has %+v %v %v, the client %d steps with head %s", s, ok, err, u.n, u.head)
			}
			if got := m.nodes[0].value(u.key); len(got) != int(u.n) {
				rt.Fatalf("%d steps added up to %q", u.n, got)
			}
			for i, n := range m.nodes {
				if n.engine == nil {
					continue
				}
				eventually(t, fmt.Sprintf("node %d tells the outcome", i), func() bool { // the block reaches the nodes one after the other
					s, err := n.engine.session(u.id)
					return err == nil && s.Status == session.Committed && s.Transcript == u.head.String()
				})
			}
		}
	})
}
