package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// hookFS calls hook around every operation that changes the file system. before is called ahead of it and may fail it
// so that it does not happen; after is called behind it and may fail it although it happened.
type hookFS struct {
	vfs.FS
	before, after func(operation, name string) error
}

func (f *hookFS) around(operation, name string, do func() error) error {
	if f.before != nil {
		if err := f.before(operation, name); err != nil {
			return err
		}
	}
	err := do()
	if err == nil && f.after != nil {
		err = f.after(operation, name)
	}
	return err
}

func (f *hookFS) file(operation, name string, open func() (vfs.File, error)) (file vfs.File, err error) {
	err = f.around(operation, name, func() (err error) {
		file, err = open()
		return err
	})
	if err != nil {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
		return nil, err
	}
	return &hookFile{file, f, name}, nil
}

func (f *hookFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file("create", name, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f *hookFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return f.file("open", name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, o...) })
}

func (f *hookFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file("reuse", to, func() (vfs.File, error) { return f.FS.ReuseForWrite(from, to, c) })
}

func (f *hookFS) OpenDir(name string) (vfs.File, error) {
	d, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &hookFile{d, f, name}, nil
}

func (f *hookFS) Link(from, to string) error {
	return f.around("link", to, func() error { return f.FS.Link(from, to) })
}

func (f *hookFS) Remove(name string) error {
	return f.around("remove", name, func() error { return f.FS.Remove(name) })
}

func (f *hookFS) RemoveAll(name string) error {
	return f.around("remove", name, func() error { return f.FS.RemoveAll(name) })
}

func (f *hookFS) Rename(from, to string) error {
	return f.around("rename", to, func() error { return f.FS.Rename(from, to) })
}

func (f *hookFS) MkdirAll(name string, perm os.FileMode) error {
	return f.around("mkdir", name, func() error { return f.FS.MkdirAll(name, perm) })
}

type hookFile struct {
	vfs.File
	fs   *hookFS
	name string
}

func (f *hookFile) Write(b []byte) (n int, err error) {
	err = f.fs.around("write", f.name, func() (err error) {
		n, err = f.File.Write(b)
		return err
	})
	return n, err
}

func (f *hookFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.fs.around("write", f.name, func() (err error) {
		n, err = f.File.WriteAt(b, off)
		return err
	})
	return n, err
}

func (f *hookFile) Sync() error { return f.fs.around("sync", f.name, f.File.Sync) }

func (f *hookFile) SyncData() error { return f.fs.around("sync", f.name, f.File.SyncData) }

func (f *hookFile) SyncTo(n int64) (full bool, err error) {
	err = f.fs.around("sync", f.name, func() (err error) {
		full, err = f.File.SyncTo(n)
		return err
	})
	return full, err
}

// scripted returns the changes and the resulting model of heights 1 to n: sets, overwrites, deletions, an empty block.
func scripted(n int) ([][]Change, []model) {
	rng := rand.New(rand.NewPCG(7, 7))
	blocks, models := make([][]Change, n+1), []model{{}}
	for height := 1; height <= n; height++ {
		m := model{}
		m.apply(asChanges(models[height-1]))
		writes := model{}
		for range rng.IntN(40) {
			writes[fmt.Sprint("k", rng.IntN(60))] = fmt.Sprint("value ", height)
		}
		for _, c := range asChanges(writes) {
			c.Delete = rng.IntN(3) == 0
			blocks[height] = append(blocks[height], c)
		}
		m.apply(blocks[height])
		models = append(models, m)
	}
	return blocks, models
}

const crashKeep = 3

// checkRecovered opens a store after a crash or a fault and checks that it is whole, at a height from low to high.
func checkRecovered(t *testing.T, fs vfs.FS, models []model, low, high int64) {
	t.Helper()
	s := openStore(t, fs, "db", crashKeep)
	defer closeStore(t, s)
	height, _, _ := s.Version()
	if height < low || height > high {
		t.Fatalf("recovered at height %d, want %d to %d", height, low, high)
	}
	h := newHistory()
	for i := int64(1); i <= height; i++ {
		h.add(i, i*10, crashKeep, models[i])
	}
	check(t, s, h)
}

// TestCrashAtEveryWrite copies what a crash would leave before each operation on the file system, once with only what
// was synced and twice with a random part of the rest. Each copy must open at the last acknowledged version or
// the one being written, whole.
func TestCrashAtEveryWrite(t *testing.T) {
	const heights = 14
	blocks, models := scripted(heights)
	memory := vfs.NewCrashableMem()
	type crash struct {
		fs        vfs.FS
		low, high int64
		where     string
	}
	var mu sync.Mutex // guards crashes and rng: Pebble writes from its own goroutines as well
	var crashes []crash
	rng := rand.New(rand.NewPCG(1, 2))
	var acknowledged atomic.Int64
	fs := &hookFS{FS: memory, before: func(operation, name string) error {
		mu.Lock()
		defer mu.Unlock()
		for _, percent := range []int{0, 30, 70} {
			low := acknowledged.Load()
			clone := memory.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
			crashes = append(crashes, crash{clone, low, acknowledged.Load() + 1, fmt.Sprintf("%s %s, %d%%", operation, name, percent)})
		}
		return nil
	}}
	s := openStore(t, fs, "db", crashKeep)
	for height := int64(1); height <= heights; height++ {
		commit(t, s, height, height*10, blocks[height])
		acknowledged.Store(height)
		switch height {
		case 4, 9:
			if err := s.db.Flush(); err != nil {
				t.Fatal(err)
			}
		case 6:
			if err := s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false); err != nil {
				t.Fatal(err)
			}
		case 11:
			closeStore(t, s)
			s = openStore(t, fs, "db", crashKeep)
		}
	}
	closeStore(t, s)
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d crashes", len(crashes))
	kinds := map[string]bool{}
	for _, c := range crashes {
		t.Run(c.where, func(t *testing.T) { checkRecovered(t, c.fs, models, c.low, min(c.high, heights)) })
		kinds[strings.Fields(c.where)[0]+path.Ext(strings.Split(c.where, ",")[0])] = true
	}
	for _, kind := range []string{"write.log", "sync.log", "write.sst", "sync.sst", "create.log"} {
		if !kinds[kind] {
			t.Errorf("no crash at a %s: %v", kind, kinds)
		}
	}
}

// TestCrashWhileImporting does the same for an import: there is no store, or the whole one, and Import can be repeated.
func TestCrashWhileImporting(t *testing.T) {
	source := openStore(t, vfs.NewMem(), "db", 0)
	defer closeStore(t, source)
	_, models := scripted(3)
	commit(t, source, 3, 30, asChanges(models[3]))
	m, chunks := exported(t, source, 3)
	m, chunks = rechunk(t, m, chunks, 5)
	memory := vfs.NewCrashableMem()
	var mu sync.Mutex // guards crashes and rng
	var crashes []*vfs.MemFS
	rng := rand.New(rand.NewPCG(3, 4))
	fs := &hookFS{FS: memory, before: func(operation, name string) error {
		mu.Lock()
		defer mu.Unlock()
		for _, percent := range []int{0, 50} {
			crashes = append(crashes, memory.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
		}
		return nil
	}}
	if err := Import("db", Options{FS: fs}, m, reading(chunks)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	crashes = append(crashes, memory.CrashClone(vfs.CrashCloneCfg{}))
	mu.Unlock()
	h := newHistory()
	h.add(3, 30, 1, models[3])
	present := 0
	for _, c := range crashes {
		if names, err := c.List("db"); err == nil && len(names) > 0 {
			present++
		} else if err := Import("db", Options{FS: c}, m, reading(chunks)); err != nil {
			t.Fatalf("Import after a crash: %v", err)
		}
		s := openStore(t, c, "db", 1)
		check(t, s, h)
		closeStore(t, s)
	}
	t.Logf("%d crashes, the store was there in %d", len(crashes), present)
	if present == 0 {
		t.Error("Import returned, and a crash takes the store away")
	}
}

var errDisk = errors.New("disk says no")

// TestFaultAtEveryWrite fails each write and each sync of the log during commits, once so that it did not happen and once
// although it did. Commit must return ErrDoubt, the store must refuse to write on, its last version must stay
// readable, and after opening again it is at the old or at the new version.
func TestFaultAtEveryWrite(t *testing.T) {
	const heights = 5
	blocks, models := scripted(heights)
	for _, happened := range []bool{false, true} {
		for nth := 1; ; nth++ {
			memory := vfs.NewCrashableMem()
			var armed atomic.Bool
			var count atomic.Int64
			hook := func(operation, name string) error {
				if armed.Load() && path.Ext(name) == ".log" && count.Add(1) >= int64(nth) {
					return errDisk
				}
				return nil
			}
			fs := &hookFS{FS: memory, before: hook}
			if happened {
				fs.before, fs.after = nil, hook
			}
			s := openStore(t, fs, "db", crashKeep)
			armed.Store(true)
			height, err := int64(0), error(nil)
			for height < heights && err == nil {
				height++
				var st *Staged
				if st, err = s.Stage(blocks[height]); err == nil {
					err = s.Commit(height, height*10, st)
				}
			}
			if err == nil { // fewer than nth operations in all
				armed.Store(false)
				closeStore(t, s)
				if nth < 2*heights {
					t.Errorf("only %d writes and syncs of the log in %d commits", nth-1, heights)
				}
				break
			}
			if !errors.Is(err, ErrDoubt) {
				t.Fatalf("Commit with a fault at operation %d (happened: %v): %v, want ErrDoubt", nth, happened, err)
			}
			if _, err := s.Stage(nil); !errors.Is(err, ErrDoubt) {
				t.Fatalf("Stage after the fault: %v, want ErrDoubt", err)
			}
			if got := collect(t, s.Latest(), nil, nil); !equalEntries(got, models[height-1].between(nil, nil)) {
				t.Fatalf("after the fault at height %d the last version holds %q", height, got)
			}
			clone := memory.CrashClone(vfs.CrashCloneCfg{})
			_ = s.Close() // reports the fault again
			checkRecovered(t, clone, models, height-1, height)
			checkRecovered(t, memory, models, height-1, height)
		}
	}
}
