package layer2

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// crashPoint is what the disk would hold after a power cut at one write, and what had been acknowledged by then.
type crashPoint struct {
	disk  *vfs.MemFS
	steps map[wire.SessionID]uint64 // acknowledged
	ends  map[wire.SessionID]session.State
}

// A crash at every single write of a session's life: whatever was acknowledged before is there after the restart, and the
// client can go on to its one outcome.
func TestCrashAtEachWrite(t *testing.T) {
	for n := range 6 {
		survive := n % 3 * 50 // percent of the unsynced data that the cut lets through
		var mu sync.Mutex
		var points []crashPoint
		acked := map[wire.SessionID]uint64{}
		ends := map[wire.SessionID]session.State{}
		var on atomic.Bool
		mem := vfs.NewCrashableMem()
		rng := rand.New(rand.NewPCG(uint64(survive), 7))
		var fs vfs.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if !on.Load() || op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			p := crashPoint{
				disk: mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: survive, RNG: rng}), steps: map[wire.SessionID]uint64{}, ends: map[wire.SessionID]session.State{},
			}
			for id, n := range acked {
				p.steps[id] = n
			}
			for id, s := range ends {
				p.ends[id] = s
			}
			points = append(points, p)
			return nil
		}))
		if n >= 3 {
			fs = prewritten{fs, 16 << 10}
		}
		w := newWorld(t, func(o *Options) { o.FS = fs })
		note := func(u *user, s session.State) {
			mu.Lock()
			defer mu.Unlock()
			acked[u.id] = u.n
			if s != 0 {
				ends[u.id] = s
			}
		}
		on.Store(true)
		u, v := w.user("alice"), w.user("bob")
		note(u, 0)
		note(v, 0)
		for range 3 {
			u.do("POST", "/add/a", "", 200)
			note(u, 0)
		}
		v.do("POST", "/add/b", "", 200)
		note(v, 0)
		if _, err := w.engine.Abandon(context.Background(), v.abandonRequest()); err != nil {
			t.Fatal(err)
		}
		note(v, session.Abandoned)
		if _, err := w.engine.Commit(ended(), u.commitRequest()); err != nil {
			t.Fatal(err)
		}
		note(u, session.Committing)
		w.settleDown()
		w.stop()
		on.Store(false)
		pool := w.ledger.pool
		if len(points) < 10 {
			t.Fatalf("only %d writes were seen", len(points))
		}
		t.Logf("%d crash points with %d%% of unsynced data, prewritten %v", len(points), survive, n >= 3)
		for i, p := range points {
			// The ledger may or may not have got the transaction; both are tried in turn.
			l := newFakeLedger(t, w.svc, w.clock, w.node)
			l.auto = true
			if i%2 == 0 && p.ends[u.id] == session.Committing {
				l.pool = pool
				l.cut()
			}
			after := &world{t: t, clock: w.clock, moods: w.moods, svc: w.svc, fs: p.disk, dir: w.dir, node: w.node, ledger: l, halted: make(chan error, 1)}
			if err := after.tryStart(); err != nil {
				t.Fatalf("crash point %d: %v", i, err)
			}
			after.check(t, i, p, u, v)
			after.stop()
		}
	}
}

func (w *world) check(t *testing.T, i int, p crashPoint, u, v *user) {
	t.Helper()
	for id, n := range p.steps {
		s, err := w.engine.Session(context.Background(), id)
		if err != nil {
			t.Fatalf("crash point %d: an acknowledged session is gone: %v", i, err)
		}
		if s.Sequence < n || s.Sequence > n+1 {
			t.Fatalf("crash point %d: %d steps, %d were acknowledged", i, s.Sequence, n)
		}
	}
	if _, ok := p.steps[u.id]; !ok {
		return
	}
	if p.ends[v.id] == session.Abandoned {
		if s, err := w.engine.Session(context.Background(), v.id); err != nil || s.Status != session.Abandoned {
			t.Fatalf("crash point %d: an abandoned session is %+v, %v", i, s, err)
		}
	}
	// The client repeats whatever it had in hand; the engine has it, or takes it now.
	again := &user{w: w, priv: u.priv, id: u.id, head: wire.TranscriptStart(u.open), open: u.open}
	for range 3 {
		req := again.sign("POST", "/add/a", "", "")
		if a, err := again.send(req); err != nil && !refusal.Has(err, refusal.SessionClosed) {
			t.Fatalf("crash point %d: step %d: %v", i, again.n+1, err)
		} else if err == nil && a.Sequence != again.n {
			t.Fatalf("crash point %d: %+v", i, a)
		}
	}
	out, err := again.commit()
	if err != nil || out.Status != session.Committed || out.Steps != 3 || w.value("a") != "xxx" || len(w.ledger.applied) != 1 {
		t.Fatalf("crash point %d: %+v, %v, value %q", i, out, err, w.value("a"))
	}
}

// A disk that fails: the step is not acknowledged, the node is asked to halt, and nothing is acknowledged any more.
func TestDiskFails(t *testing.T) {
	var on atomic.Bool
	boom := errors.New("disk on fire")
	mem := vfs.NewCrashableMem()
	var fs vfs.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return boom
		}
		return nil
	}))
	w := newWorld(t, func(o *Options) { o.FS = fs })
	u := w.user("alice")
	u.do("POST", "/add/a", "", 200)
	on.Store(true)
	_, err := u.send(u.sign("POST", "/add/a", "", ""))
	wantCode(t, err, refusal.Internal)
	if err := <-w.halted; err == nil || !strings.Contains(err.Error(), boom.Error()) {
		t.Errorf("halted with %v", err)
	}
	on.Store(false)
	_, err = w.engine.OpenSession(context.Background(), w.openRequest("alice", w.openBody(1e9)))
	wantCode(t, err, refusal.Internal)
	w.ledger.engine = nil
	_ = w.engine.Close()
	w.engine = nil
}

// The journal's writers share fsyncs: many sessions at once cost far fewer writes than steps.
func TestGroupCommit(t *testing.T) {
	const n = 500
	var syncs, asking atomic.Int64
	var gated atomic.Bool
	everybody := make(chan struct{}) // closed when all have asked: until then the disk does not finish a sync
	var fs vfs.FS = errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo {
			syncs.Add(1)
			if gated.Load() {
				<-everybody
			}
		}
		return nil
	}))
	j, err := openJournal("j", fs, discard, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	before := syncs.Load()
	gated.Store(true)
	for i := range n {
		all.Go(func() {
			if asking.Add(1) == n {
				close(everybody)
			}
			if err := j.append(op{keyEnded(uint64(i), wire.SessionID{}), []byte("v")}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := syncs.Load() - before; got >= n {
		t.Errorf("%d syncs for %d writes", got, n)
	}
	seen := 0
	if err := j.scan([]byte{'x'}, func(_, _ []byte) error { seen++; return nil }); err != nil || seen != n {
		t.Errorf("%d records, %v", seen, err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	if err := j.append(op{keyMeta, []byte("v")}); err != errClosed {
		t.Errorf("after close: %v", err)
	}
}
