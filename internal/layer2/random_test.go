package layer2

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// client is a user with what the model knows of its session.
type client struct {
	*user
	sent  []wire.Digest // digests of the recorded requests, in order
	adds  []string      // keys that recorded steps have added to
	ended session.State
	asked bool // a commit was requested
}

// Random clients, sessions, steps, commits, blocks, faults of Layer 1 and power cuts, against a model: no acknowledged step is
// lost, each session has one outcome, what a block holds is what its client saw, and the state is what the committed
// sessions make of it.
func TestRandomHistories(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorldFor(t, rt)
		defer w.close()
		var clients []*client
		pick := func(rt *rapid.T, want func(*client) bool) *client {
			var some []*client
			for _, c := range clients {
				if want(c) {
					some = append(some, c)
				}
			}
			if len(some) == 0 {
				rt.Skip("no such session")
			}
			return rapid.SampledFrom(some).Draw(rt, "client")
		}
		live := func(c *client) bool { return c.ended == 0 }
		keys := rapid.SampledFrom([]string{"a", "b", "c"})
		// In an action rt.Skip skips no test: it tells rapid to draw another action, because this one has no meaning now.
		rt.Repeat(map[string]func(*rapid.T){
			"open": func(rt *rapid.T) {
				if len(clients) >= 8 {
					rt.Skip("enough")
				}
				u := w.userWith(rapid.SampledFrom([]string{"alice", "bob"}).Draw(rt, "actor"), w.openBody(time.Minute))
				clients = append(clients, &client{user: u})
			},
			"step": func(rt *rapid.T) {
				c := pick(rt, live)
				path := rapid.SampledFrom([]string{"/add/", "/get/", "/add/", "/refuse/", "/list"}).Draw(rt, "path")
				key, method := keys.Draw(rt, "key"), "POST"
				switch path {
				case "/get/":
					method = "GET"
				case "/list":
					method, key = "GET", ""
				}
				p := c.sign(method, path+key, "", "")
				a, err := c.send(p)
				c.note(rt, err)
				if err == nil && a.Recorded {
					c.sent = append(c.sent, p.Request.Digest())
					c.last = *p
					if path == "/add/" {
						c.adds = append(c.adds, key)
					}
				}
			},
			"retry": func(rt *rapid.T) {
				c := pick(rt, func(c *client) bool { return c.n > 0 })
				a, err := c.send(&c.last)
				if err != nil || !a.Repeated || a.Transcript != c.head {
					rt.Fatalf("a retry got %+v, %v", a, err)
				}
			},
			"equivocate": func(rt *rapid.T) {
				c := pick(rt, func(c *client) bool { return c.n > 0 })
				back := *c.user
				back.n, back.head = c.last.Place.Sequence-1, c.last.Place.Transcript
				_, err := back.send(back.sign("POST", "/add/z", "", "other"))
				if !refusal.Has(err, refusal.Equivocation) {
					rt.Fatalf("another request for a taken position got %v", err)
				}
			},
			"commit": func(rt *rapid.T) {
				c := pick(rt, live)
				_, err := w.engine.Commit(ended(), c.commitRequest())
				c.asked = c.asked || err == nil
				c.note(rt, err)
				w.settleDown()
			},
			"abandon": func(rt *rapid.T) {
				c := pick(rt, func(c *client) bool { return live(c) && !c.asked })
				s, err := w.engine.Abandon(context.Background(), c.abandonRequest())
				c.note(rt, err)
				if err == nil && s.Status != session.Abandoned {
					rt.Fatalf("abandoned: %+v", s)
				}
			},
			"block":    func(*rapid.T) { w.ledger.cut(); w.settleDown() },
			"up, down": func(rt *rapid.T) { w.ledger.lose = rapid.Bool().Draw(rt, "lose") },
			"answers": func(rt *rapid.T) {
				w.ledger.loseAnswer = rapid.Bool().Draw(rt, "lose answers")
			},
			"drop the pool": func(*rapid.T) { w.ledger.mu.Lock(); w.ledger.pool = nil; w.ledger.mu.Unlock() },
			"write":         func(rt *rapid.T) { w.ledger.write("w"+keys.Draw(rt, "key"), "x"); w.settleDown() },
			"time": func(rt *rapid.T) {
				w.clock.advance(time.Duration(rapid.IntRange(1, 20_000).Draw(rt, "ms")) * time.Millisecond)
			},
			"power cut": func(rt *rapid.T) {
				seed := rapid.Uint64().Draw(rt, "seed")
				after := w.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{
					UnsyncedDataPercent: rapid.IntRange(0, 100).Draw(rt, "percent"), RNG: rand.New(rand.NewPCG(seed, 1)),
				})
				w.stop()
				w.fs = after
				w.start()
			},
			"": func(rt *rapid.T) { w.checkAll(rt, clients) },
		})
		// In the end Layer 1 works again: every commit that was asked for gets its outcome.
		w.ledger.lose, w.ledger.loseAnswer = false, false
		for range 5 {
			w.clock.advance(3 * time.Second)
			w.ledger.cut()
			w.settleDown()
		}
		w.checkAll(rt, clients)
		want := map[string]int{}
		for _, c := range clients {
			s := c.status()
			if s.Status == session.Committing {
				rt.Fatalf("a commit has no outcome")
			}
			if s.Status == session.Committed {
				for _, k := range c.adds {
					want[k]++
				}
			}
		}
		for _, k := range []string{"a", "b", "c"} {
			if got := len(w.value(k)); got != want[k] {
				rt.Fatalf("the state has %s = %d, the committed sessions make it %d", k, got, want[k])
			}
		}
	})
}

// note takes in a refusal that a request may get.
func (c *client) note(rt *rapid.T, err error) {
	if err == nil {
		return
	}
	r, ok := refusal.As(err)
	if !ok || !slices.Contains([]refusal.Code{refusal.Conflict, refusal.SessionClosed, refusal.SessionExpired}, r.Code) {
		rt.Fatalf("a request got %v", err)
	}
}

// checkAll verifies the whole world.
func (w *world) checkAll(rt *rapid.T, clients []*client) {
	for _, c := range clients {
		s, err := w.engine.Session(context.Background(), c.id)
		if err != nil {
			rt.Fatalf("a session is gone: %v", err)
		}
		if s.Sequence != c.n || s.Transcript != c.head.String() {
			rt.Fatalf("the session has %d steps, its client saw %d", s.Sequence, c.n)
		}
		for i, st := range s.Steps {
			if st.Request != c.sent[i].String() {
				rt.Fatalf("step %d is another request", i+1)
			}
		}
		if c.ended != 0 && s.Status != c.ended && s.Status != session.Committed {
			rt.Fatalf("a session that was %s is %s", c.ended, s.Status)
		}
		if s.Status.Ended() {
			c.ended = s.Status
		}
		tx, inBlock := w.ledger.applied[c.id]
		if inBlock != (s.Status == session.Committed) {
			rt.Fatalf("in a block: %v, status %s", inBlock, s.Status)
		}
		if inBlock {
			commit, err := wire.DecodeSessionCommit(tx)
			if err != nil || commit.Head() != c.head || len(commit.Transactions) != len(c.sent) {
				rt.Fatalf("the block holds another session than its client saw: %v", err)
			}
		}
	}
}

// newWorldFor is newWorld inside a rapid check: it is closed by hand.
func newWorldFor(t *testing.T, rt *rapid.T) *world {
	w := &world{
		t: rapidTB{t, rt}, clock: &clock{}, moods: &moods{}, fs: vfs.NewCrashableMem(), dir: "layer2", node: key("node"), halted: make(chan error, 1),
		opts: func(o *Options) { o.ResubmitBlocks = 1; o.RetainEnded = 1000 },
	}
	w.clock.ms.Store(1_800_000_000_000)
	w.svc = service(w.moods)
	w.ledger = newFakeLedger(rapidTB{t, rt}, w.svc, w.clock, w.node)
	w.start()
	return w
}

func (w *world) close() {
	w.stop()
	_ = w.ledger.store.Close()
}

// rapidTB reports through rapid, so that a failure is shrunk.
type rapidTB struct {
	*testing.T
	rt *rapid.T
}

func (t rapidTB) Fatal(args ...any)                 { t.rt.Fatal(args...) }
func (t rapidTB) Fatalf(format string, args ...any) { t.rt.Fatalf(format, args...) }
func (t rapidTB) Errorf(format string, args ...any) { t.rt.Errorf(format, args...) }
func (t rapidTB) Helper()                           {}
func (t rapidTB) Cleanup(func())                    {}
