package layer2

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"tandem/internal/httpsig"
	"tandem/internal/session"
	"tandem/internal/wire"
)

func smaller(a, b wire.Digest) bool { return bytes.Compare(a[:], b[:]) < 0 }

// parting is a cluster whose nodes each answered the same signed step while they could not hear each other.
type parting struct {
	*many
	u       *user
	p       *httpsig.Parsed // the step that was answered twice
	answers []*Answer       // by node
	winner  int             // has the smaller head
}

// part makes a parting of two nodes after one common step.
func part(t *testing.T, opts func(int, *Options)) *parting {
	m := newMany(t, 2, opts)
	x := &parting{many: m, u: m.nodes[0].user("alice")}
	x.u.do("POST", "/add/a", "", 200)
	m.has(1, x.u)
	m.cut(0, 1)
	x.p = x.u.sign("POST", "/add/a", "", "")
	for _, n := range m.nodes {
		m.clock.advance(time.Millisecond) // another time, so another variant
		a, err := n.engine.Step(context.Background(), x.p)
		if err != nil {
			t.Fatal(err)
		}
		endorsed(t, a, 1, 2)
		x.answers = append(x.answers, a)
	}
	if smaller(x.answers[1].Transcript, x.answers[0].Transcript) {
		x.winner = 1
	}
	return x
}

// converged waits until both nodes stand at the smaller variant, and each knows that the other endorses it.
func (x *parting) converged() {
	x.t.Helper()
	for i, n := range x.nodes {
		eventually(x.t, fmt.Sprintf("node %d stands at the smaller variant, endorsed by both", i), func() bool {
			a, err := n.engine.Step(context.Background(), x.p)
			return err == nil && a.Transcript == x.answers[x.winner].Transcript && a.Endorsements == 2
		})
	}
}

// A client that asks for more endorsements than one side of a partition had gets them from any node once the sides hear each
// other: they stand at one variant, and both answer with it, byte for byte.
func TestVariantsConverge(t *testing.T) {
	for range 4 {
		x := part(t, nil)
		x.heal(0, 1)
		x.converged()
		var told []*Answer
		for _, n := range x.nodes {
			a, err := x.u.at(n).w.engine.Step(context.Background(), x.p)
			if err != nil {
				t.Fatal(err)
			}
			endorsed(t, a, 2, 2)
			told = append(told, a)
		}
		if diff := cmp.Diff(told[0].Signed, told[1].Signed); diff != "" {
			t.Errorf("the nodes answer differently: %s", diff)
		}
		if err := x.u.accept(x.p, told[0]); err != nil {
			t.Fatal(err)
		}
		endorsed(t, x.u.do("POST", "/add/a", "", 200), 2, 2)
		if out, err := x.u.commit(); err != nil || out.Status != session.Committed {
			t.Fatalf("%+v %v", out, err)
		}
	}
}

// Promise 3: an answer that a client has got is never lost by that. The client of either variant goes on at either node, also
// after both have been killed, and what it goes on from is the only variant that survives.
func TestReplacedVariantIsKept(t *testing.T) {
	for _, c := range []struct {
		loser, here, kill bool
	}{{true, true, true}, {true, true, false}, {true, false, false}, {true, false, true}, {false, false, true}, {false, true, false}} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			x := part(t, nil)
			x.heal(0, 1)
			x.converged()
			which := x.winner
			if c.loser {
				which = 1 - which
			}
			if err := x.u.accept(x.p, x.answers[which]); err != nil {
				t.Fatal(err)
			}
			if c.kill {
				for i := range x.nodes {
					x.kill(i)
					x.up(i)
				}
				x.connected()
			}
			at := which
			if !c.here {
				at = 1 - which
			}
			x.u.at(x.nodes[at])
			endorsed(t, x.u.do("POST", "/add/a", "", 200), 2, 2)
			for i, n := range x.nodes {
				x.has(i, x.u)
				_, err := ask(n.engine.sessions[x.u.id], func() (struct{}, error) {
					if v := n.engine.sessions[x.u.id].machine.Variants(); len(v) != 0 {
						return struct{}{}, fmt.Errorf("%d variants are left", len(v))
					}
					return struct{}{}, n.engine.journal.flush()
				})
				if err != nil {
					t.Error(err)
				}
				if err := n.engine.journal.scan(keyPart(x.u.id, partVariant), func(key, _ []byte) error {
					return fmt.Errorf("%s is still on disk", nameOf(key))
				}); err != nil {
					t.Error(err)
				}
			}
			if out, err := x.u.at(x.nodes[1-at]).commit(); err != nil || out.Status != session.Committed || out.Transcript != x.u.head {
				t.Fatalf("%+v %v", out, err)
			}
			if x.nodes[0].value("a") != "xxx" {
				t.Errorf("committed %q", x.nodes[0].value("a"))
			}
		})
	}
}

// A crash at each write while a node moves to another variant: it stands at the one or the other, and the client that it had
// answered goes on.
func TestCrashWhileMoving(t *testing.T) {
	for _, survive := range []int{0, 100} {
		var mu sync.Mutex
		var on atomic.Bool
		points := map[int][]*vfs.MemFS{}
		rng := rand.New(rand.NewPCG(uint64(survive), 11))
		x := part(t, func(i int, o *Options) {
			mem := o.FS.(*vfs.MemFS)
			o.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if on.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
					mu.Lock()
					defer mu.Unlock()
					points[i] = append(points[i], mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: survive, RNG: rng}))
				}
				return nil
			}))
		})
		on.Store(true)
		x.heal(0, 1)
		x.converged()
		on.Store(false)
		loser := 1 - x.winner
		answered := x.answers[loser]
		before := *x.u
		moved := 0
		mu.Lock()
		disks := append(points[loser], x.nodes[loser].fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{}))
		mu.Unlock()
		for i, disk := range disks {
			after := &world{
				t: t, clock: x.clock, moods: x.nodes[0].moods, svc: x.nodes[0].svc, fs: disk, dir: "layer2", node: x.nodes[loser].node,
				ledger: x.ledger, halted: make(chan error, 1),
			}
			if err := after.tryStart(); err != nil {
				t.Fatalf("crash point %d: %v", i, err)
			}
			u := before
			u.w = after
			a, err := after.engine.Step(context.Background(), x.p)
			if err != nil {
				t.Fatalf("crash point %d: %v", i, err)
			}
			switch a.Transcript {
			case x.answers[x.winner].Transcript:
				moved++
			case answered.Transcript:
			default:
				t.Fatalf("crash point %d: it stands at %s, which nobody has answered", i, a.Transcript)
			}
			if err := u.accept(x.p, answered); err != nil {
				t.Fatal(err)
			}
			if b := u.do("POST", "/add/a", "", 200); b.Sequence != 3 {
				t.Fatalf("crash point %d: %+v", i, b)
			}
			after.stop()
		}
		if moved == 0 {
			t.Errorf("none of %d disks shows the move", len(disks))
		}
	}
}

// A node that stands at a variant that a block has overtaken tries the one that it keeps, since that may be what the client got.
func TestOvertakenVariant(t *testing.T) {
	x := part(t, nil)
	x.heal(0, 1)
	x.converged()
	x.ledger.write("a", "other") // both have read a
	for i, n := range x.nodes {
		eventually(t, fmt.Sprintf("node %d says that it is overtaken", i), func() bool {
			s, err := n.engine.session(x.u.id)
			return err == nil && s.Status == session.Conflicted
		})
	}
}
