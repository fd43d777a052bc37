package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// damagedStore returns the file system of a store with tables and a log, as a kill would leave it.
func damagedStore(t *testing.T, blocks [][]Change) *vfs.MemFS {
	t.Helper()
	memory := vfs.NewCrashableMem()
	s := openStore(t, memory, "db", 0)
	for height := 1; height < len(blocks); height++ {
		commit(t, s, int64(height), int64(height)*10, blocks[height])
		if height == len(blocks)/2 {
			if err := s.db.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	clone := copyOf(memory)
	closeStore(t, s)
	return clone
}

// copyOf returns a copy of a file system as it is: what a kill leaves, since the kernel keeps what was written.
func copyOf(fs *vfs.MemFS) *vfs.MemFS {
	return fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(0, 0))})
}

// outcome says what a store with a damaged file does: "detected" or "right". Everything else fails the test: wrong data,
// an older version, an error that does not say what to do.
func outcome(t *testing.T, fs vfs.FS, models []model, what string) string {
	t.Helper()
	detected := func(err error) string {
		if !strings.Contains(err.Error(), "restore the state") {
			t.Errorf("%s: %v, want an error that says what to do", what, err)
		}
		return "detected"
	}
	s, err := Open("db", Options{FS: fs})
	if err != nil {
		return detected(err)
	}
	defer s.Close()
	height, _, _ := s.Version()
	if height != int64(len(models)-1) {
		t.Errorf("%s: opened at height %d, and nobody noticed", what, height)
		return "older"
	}
	for h := int64(1); h <= height; h++ {
		v, err := s.At(h)
		if err != nil {
			return detected(err)
		}
		var got []Entry
		for e, err := range v.Scan(nil, nil) {
			if err != nil {
				return detected(err)
			}
			got = append(got, e)
		}
		if !equalEntries(got, models[h].between(nil, nil)) {
			t.Errorf("%s: wrong data at height %d, and nobody noticed", what, h)
			return "wrong"
		}
		if err := s.Verify(h); err != nil {
			return detected(err)
		}
	}
	return "right"
}

// kindOf sorts a store's files.
func kindOf(name string) string {
	if ext := path.Ext(name); ext == ".sst" || ext == ".log" {
		return ext
	}
	return strings.TrimRight(strings.SplitN(name, "-", 2)[0], "0123456789")
}

// tally counts outcomes by kind of file.
type tally map[string]map[string]int

func (c tally) add(kind, outcome string) {
	if c[kind] == nil {
		c[kind] = map[string]int{}
	}
	c[kind][outcome]++
}

// TestFlippedBit flips bits all over the files of a killed store. Each flip must be harmless or detected, with an error
// that says what to do: never wrong data, never silently an older version.
func TestFlippedBit(t *testing.T) {
	blocks, models := scripted(10)
	pristine := damagedStore(t, blocks)
	if got := outcome(t, copyOf(pristine), models, "no flip"); got != "right" {
		t.Fatalf("the store without a flip is %s", got)
	}
	results := tally{}
	for name, data := range contents(t, pristine) {
		for at := 0; at < len(data); at += 1 + len(data)/150 {
			fs := copyOf(pristine)
			flipped, err := fs.UnsafeGetFileDataBuffer("db/" + name)
			if err != nil {
				t.Fatal(err)
			}
			flipped[at] ^= 1 << (at % 8)
			results.add(kindOf(name), outcome(t, fs, models, fmt.Sprintf("%s, byte %d flipped", name, at)))
		}
	}
	t.Logf("%v", results)
	for _, kind := range []string{".sst", ".log", "MANIFEST"} {
		if results[kind]["detected"] == 0 {
			t.Errorf("no flip in %s was detected: %v", kind, results[kind])
		}
	}
}

// TestTruncatedAndMissingFiles cuts each file of a killed store at several places, and takes it away.
func TestTruncatedAndMissingFiles(t *testing.T) {
	blocks, models := scripted(10)
	pristine := damagedStore(t, blocks)
	results := tally{}
	for name, data := range contents(t, pristine) {
		for part := range 8 {
			fs := copyOf(pristine)
			f, err := fs.Create("db/"+name, vfs.WriteCategoryUnspecified)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.Write(data[:len(data)*part/8])
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			results.add(kindOf(name), outcome(t, fs, models, fmt.Sprintf("%s cut to %d/8", name, part)))
		}
		fs := copyOf(pristine)
		if err := fs.Remove("db/" + name); err != nil {
			t.Fatal(err)
		}
		results.add(kindOf(name), outcome(t, fs, models, name+" missing"))
	}
	t.Logf("%v", results)
}

// TestLostMarker takes the marker that names the manifest away: Open must refuse, and must not, as Pebble alone would,
// take the directory for a new one and clear it.
func TestLostMarker(t *testing.T) {
	blocks, models := scripted(10)
	fs := damagedStore(t, blocks)
	before := contents(t, fs)
	for name := range before {
		if strings.HasPrefix(name, "marker.manifest") {
			if err := fs.Remove("db/" + name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := outcome(t, fs, models, "no marker"); got != "detected" {
		t.Errorf("a store without its marker is %s", got)
	}
	if after := contents(t, fs); len(after) != len(before)-1 {
		t.Errorf("%d files before, %d after", len(before), len(after))
	}
}

// contents returns the files of a store.
func contents(t *testing.T, fs *vfs.MemFS) map[string][]byte {
	t.Helper()
	names, err := fs.List("db")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		if data, err := fs.UnsafeGetFileDataBuffer("db/" + name); err == nil {
			files[name] = data
		}
	}
	return files
}
