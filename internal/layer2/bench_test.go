package layer2

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"tandem/internal/wire"
)

// benchWorld is a world whose log is on the real disk.
func benchWorld(tb testing.TB, opts func(*Options)) *world {
	tb.Helper()
	dir, err := os.MkdirTemp("", "layer2-*")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return newWorld(tb, func(o *Options) {
		o.FS = prewritten{under{vfs.Default, dir}, logSize}
		o.MaxInFlight = 4096
		if opts != nil {
			opts(o)
		}
	})
}

// under puts the engine's directory under a temporary one.
type under struct {
	vfs.FS
	dir string
}

func (u under) at(p string) string {
	if len(p) > 0 && p[0] == '/' {
		return p
	}
	return u.dir + "/" + p
}

func (u under) PathJoin(elem ...string) string { return u.at(u.FS.PathJoin(elem...)) }
func (u under) MkdirAll(dir string, perm os.FileMode) error {
	return u.FS.MkdirAll(u.at(dir), perm)
}
func (u under) OpenDir(name string) (vfs.File, error)  { return u.FS.OpenDir(u.at(name)) }
func (u under) List(dir string) ([]string, error)      { return u.FS.List(u.at(dir)) }
func (u under) Stat(name string) (vfs.FileInfo, error) { return u.FS.Stat(u.at(name)) }
func (u under) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	return u.FS.GetDiskUsage(u.at(path))
}

// One session, one step after the other: verify, run, write, fsync, sign. A new session every 200 steps.
func BenchmarkStep(b *testing.B) {
	w := benchWorld(b, nil)
	u := w.user("alice")
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if i%200 == 199 {
			b.StopTimer()
			u = w.user("alice")
			b.StartTimer()
		}
		p := u.sign("POST", fmt.Sprintf("/set/k%d", i%50), "", "value")
		a, err := w.engine.Step(context.Background(), p)
		if err != nil {
			b.Fatal(err)
		}
		u.n, u.head = a.Sequence, a.Transcript
	}
}

// 128 sessions at once.
func BenchmarkStepParallel128(b *testing.B) {
	w := benchWorld(b, nil)
	const n = 128
	users := make([]*user, n)
	for i := range users {
		users[i] = w.user("alice")
	}
	var next atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			u := users[i]
			for next.Add(1) <= int64(b.N) {
				p := u.sign("POST", fmt.Sprintf("/set/k%d-%d", i, u.n%20), "", "value")
				a, err := w.engine.Step(context.Background(), p)
				if err != nil {
					b.Error(err)
					return
				}
				u.n, u.head = a.Sequence, a.Transcript
				if u.n == 900 {
					users[i] = w.user("alice")
					u = users[i]
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "steps/s")
}

// 10,000 open sessions, 10 of them touched by each block: what a block costs, until all touched ones have been run again.
func BenchmarkBlockTouching10Of10000(b *testing.B) {
	w := benchWorld(b, nil)
	openMany(b, w, 10_000, 3)
	b.ResetTimer()
	for i := range b.N {
		var pairs []string
		for k := range 10 {
			// A value nobody's response depends on: /set does not read.
			pairs = append(pairs, fmt.Sprintf("seen%05d", (i*10+k)%10_000), fmt.Sprint(i))
		}
		b.StopTimer()
		w.ledger.mu.Lock()
		w.ledger.engine = nil
		w.ledger.mu.Unlock()
		blk := w.ledger.write(pairs...)
		b.StartTimer()
		w.engine.OnBlock(blk)
		w.settleDown()
	}
	b.ReportMetric(float64(w.engine.Stats().Reexecuted)/float64(b.N), "runs/block")
}

// openMany opens custody sessions with a scan and some writes each, several clients at once.
func openMany(tb testing.TB, w *world, n, steps int) []wire.SessionID {
	ids := make([]wire.SessionID, n)
	ctx := context.Background()
	var next atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				a, err := w.engine.OpenCustody(ctx, "", nil)
				if err != nil {
					tb.Error(err)
					return
				}
				ids[i] = a.Session
				for s := range steps {
					method, path, query := "GET", "/list", fmt.Sprintf("prefix=seen%05d", i)
					if s > 0 {
						method, path, query = "POST", fmt.Sprintf("/set/k%d-%d", i, s), ""
					}
					body := []byte("a value of some length, as a package or a label has")
					if _, err := w.engine.StepCustody(ctx, a.Session, "", method, path, query, "", body, nil); err != nil {
						tb.Error(err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	return ids
}

// 10,000 open sessions take well under 1 GB, no goroutines, and come back after a restart. (10 MB of it are the log's
// memtables; each further step of a session costs some hundred bytes and what the handler reads and writes.)
func TestTenThousandOpenSessions(t *testing.T) {
	n := 10_000
	if raceEnabled {
		n = 500
	}
	mem := vfs.NewMem() // not the crashable one, which keeps two copies
	w := newWorld(t, func(o *Options) { o.FS = mem; o.MaxInFlight = 4096 })
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	ids := openMany(t, w, n, 2)
	w.settleDown()
	if got := runtime.NumGoroutine() - goroutines; got > 100 { // some wait a moment for another handler
		t.Errorf("%d goroutines for idle sessions", got)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d open sessions of two steps: %d MB, %d KB each, log included", n, used>>20, used/int64(n)>>10)
	if used > 300<<20 {
		t.Errorf("%d sessions take %d MB", n, used>>20)
	}
	began := time.Now()
	for i := range 100 {
		if _, err := w.engine.StepCustody(context.Background(), ids[i*n/100], "", "POST", "/add/x", "", "", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("a step among them: %v", time.Since(began)/100)
	touched := w.engine.Stats().Reexecuted
	var block []string
	for i := range 10 { // what 10 of them have looked for appears, and much that nobody has looked at
		block = append(block, fmt.Sprintf("seen%05d", i*n/10+3), "x")
	}
	for i := range 200 {
		block = append(block, fmt.Sprintf("unread%d", i), "x")
	}
	w.ledger.write(block...)
	w.settleDown()
	if s := w.engine.Stats(); s.Reexecuted-touched != 10 || s.Conflicts != 10 {
		t.Errorf("a block that touches 10 of them has %d run again, %d conflicts", s.Reexecuted-touched, s.Conflicts)
	}
	began = time.Now()
	w.stop()
	w.start()
	t.Logf("restart: %v", time.Since(began))
	if s := w.engine.Stats(); s.Open != n-10 { // ten have conflicted
		t.Errorf("%d sessions after the restart", s.Open)
	}
}
