package state

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"tandem/internal/wire"
)

// keyGen draws keys that collide often, contain zero bytes and begin each other.
func keyGen() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.Map(rapid.IntRange(0, 60), func(n int) string { return fmt.Sprintf("a/%d", n) }),
		rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 'a', 0xfe, 0xff}), 1, 5), func(b []byte) string { return string(b) }),
	)
}

func valueGen() *rapid.Generator[string] {
	return rapid.OneOf(rapid.StringN(0, 12, 12), rapid.SampledFrom([]string{"", emptyValue, emptyValue + emptyValue, "\x00"}))
}

// changesGen draws sorted unique changes, deletions of present and absent keys among them.
func changesGen(maximum int) *rapid.Generator[[]Change] {
	return rapid.Custom(func(t *rapid.T) []Change {
		keys := rapid.SliceOfNDistinct(keyGen(), 0, maximum, rapid.ID[string]).Draw(t, "keys")
		slices.Sort(keys)
		changes := make([]Change, len(keys))
		for i, k := range keys {
			if changes[i] = (Change{Key: []byte(k)}); rapid.IntRange(0, 2).Draw(t, "delete") == 0 {
				changes[i].Delete = true
			} else {
				changes[i].Value = []byte(valueGen().Draw(t, "value"))
			}
		}
		return changes
	})
}

// TestHistory runs random histories of commits, reopenings and pruning against plain maps, with celestiaorg/smt v0.3.0 as
// the oracle of every root, and checks every record on disk after each step.
func TestHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewMem()
		keep := rapid.IntRange(0, 4).Draw(t, "keep")
		s := openStore(t, fs, "db", keep)
		defer func() { closeStore(t, s) }()
		h := newHistory()
		height := rapid.Int64Range(-1, 3).Draw(t, "before")
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "action") {
			case 0:
				closeStore(t, s)
				keep = rapid.IntRange(0, 4).Draw(t, "keep")
				s = openStore(t, fs, "db", keep)
			case 1:
				if err := s.db.Flush(); err != nil {
					t.Fatalf("Flush: %v", err)
				}
			default:
				height += rapid.Int64Range(1, 2).Draw(t, "gap")
				changes := changesGen(40).Draw(t, "changes")
				m := h.last()
				m.apply(changes)
				commit(t, s, height, height*1000, changes)
				h.add(height, height*1000, keep, m)
			}
			check(t, s, h)
		}
	})
}

// TestProofs verifies proofs of present and absent keys at every kept height with stock ICS-23.
func TestProofs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := openStore(t, vfs.NewMem(), "db", 3)
		defer closeStore(t, s)
		h := newHistory()
		for height := range rapid.Int64Range(1, 6).Draw(t, "heights") {
			changes := changesGen(30).Draw(t, "changes")
			m := h.last()
			m.apply(changes)
			commit(t, s, height, 0, changes)
			h.add(height, 0, 3, m)
		}
		for height := s.Oldest(); height <= h.heights[len(h.heights)-1]; height++ {
			m, root := h.models[height], h.models[height].oracle(t)
			for k := range m {
				checkProof(t, s, height, m, root, []byte(k))
			}
			for _, k := range rapid.SliceOfN(keyGen(), 5, 5).Draw(t, "probes") {
				checkProof(t, s, height, m, root, []byte(k))
			}
		}
	})
}

// TestStage checks that staging writes nothing, that several staged versions coexist, and what Commit refuses.
func TestStage(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "db", 0)
	defer closeStore(t, s)
	before := records(t, s)
	a, err := s.Stage(sets("a", "1"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Stage(sets("a", "2", "b", ""))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(before, records(t, s)) {
		t.Fatal("Stage wrote records")
	}
	if a.Root() != (model{"a": "1"}).oracle(t) || b.Root() != (model{"a": "2", "b": ""}).oracle(t) {
		t.Fatal("a staged root is wrong")
	}
	if err := s.Commit(-1, 0, b); !errors.Is(err, ErrHeight) {
		t.Fatalf("Commit at height -1: %v, want ErrHeight", err)
	}
	if err := s.Commit(5, 7, b); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(6, 7, a); !errors.Is(err, ErrStale) {
		t.Fatalf("Commit of a version staged on the one before: %v, want ErrStale", err)
	}
	if err := s.Commit(6, 7, b); !errors.Is(err, ErrStale) {
		t.Fatalf("second Commit of one staged version: %v, want ErrStale", err)
	}
	c, err := s.Stage(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(5, 7, c); !errors.Is(err, ErrHeight) {
		t.Fatalf("Commit at the same height: %v, want ErrHeight", err)
	}
	if err := s.Commit(6, 8, c); err != nil {
		t.Fatal(err)
	}
	h := newHistory()
	h.add(5, 7, 0, model{"a": "2", "b": ""})
	h.add(6, 8, 0, model{"a": "2", "b": ""})
	check(t, s, h)
	for _, wrong := range [][]Change{
		{{Key: nil}},
		{{Key: make([]byte, MaxKey+1)}},
		{{Key: []byte("a"), Value: make([]byte, MaxValue+1)}},
		{{Key: []byte("b")}, {Key: []byte("a")}},
		{{Key: []byte("a")}, {Key: []byte("a")}},
	} {
		if _, err := s.Stage(wrong); err == nil {
			t.Errorf("Stage took %d changes with keys of %d bytes", len(wrong), len(wrong[0].Key))
		}
	}
}

// TestHeights checks which heights At and Prove know.
func TestHeights(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "db", 2)
	defer closeStore(t, s)
	empty, err := s.At(0)
	if err != nil || empty.Height() != 0 {
		t.Fatalf("At(0) of a fresh store: %v", err)
	}
	for height := int64(10); height <= 14; height++ {
		commit(t, s, height, 0, sets("k", fmt.Sprint(height)))
	}
	for height, want := range map[int64]error{-1: ErrPruned, 0: ErrPruned, 12: ErrPruned, 13: nil, 14: nil, 15: ErrNoVersion} {
		if height < 0 {
			want = ErrNoVersion
		}
		if _, err := s.At(height); !errors.Is(err, want) {
			t.Errorf("At(%d): %v, want %v", height, err, want)
		}
		if _, err := s.Prove(height, []byte("k")); !errors.Is(err, want) {
			t.Errorf("Prove(%d): %v, want %v", height, err, want)
		}
		if err := s.Verify(height); !errors.Is(err, want) {
			t.Errorf("Verify(%d): %v, want %v", height, err, want)
		}
	}
	if _, ok, err := empty.Get([]byte("k")); ok || err != nil {
		t.Errorf("the view of the fresh store changed: %v %v", ok, err)
	}
}

// TestPrunedView checks that a view held beyond the kept window refuses to answer instead of answering wrongly, while a
// scan that began before goes on to the end.
func TestPrunedView(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "db", 1)
	defer closeStore(t, s)
	commit(t, s, 1, 0, sets("a", "1", "b", "1", "c", "1"))
	v := s.Latest()
	var seen []string
	for e, err := range v.Scan(nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, string(e.Key)+string(e.Value))
		if len(seen) == 1 {
			commit(t, s, 2, 0, []Change{{Key: []byte("b"), Delete: true}, {Key: []byte("c"), Value: []byte("2")}})
			if err := s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if want := []string{"a1", "b1", "c1"}; !slices.Equal(seen, want) {
		t.Errorf("scan saw %q, want %q", seen, want)
	}
	if _, _, err := v.Get([]byte("b")); !errors.Is(err, ErrPruned) {
		t.Errorf("Get: %v, want ErrPruned", err)
	}
	for _, err := range v.Scan(nil, nil) {
		if !errors.Is(err, ErrPruned) {
			t.Errorf("Scan: %v, want ErrPruned", err)
		}
	}
}

// TestConcurrentViews reads from views of several heights while newer blocks commit and prune: each answer is right or
// ErrPruned. Every version n holds n at each of its keys.
func TestConcurrentViews(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "db", 4)
	defer closeStore(t, s)
	const keys, heights = 50, 150
	write := func(height int64) []Change {
		var changes []Change
		for i := range keys {
			if c := (Change{Key: keyN(i), Value: fmt.Append(nil, height)}); (int64(i)+height)%5 == 0 {
				changes = append(changes, Change{Key: c.Key, Delete: true})
			} else {
				changes = append(changes, c)
			}
		}
		return changes
	}
	commit(t, s, 1, 0, write(1))
	done := make(chan struct{})
	var wg sync.WaitGroup
	for reader := range 3 {
		wg.Go(func() {
			v := s.Latest()
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				if n%17 == 0 {
					v = s.Latest()
				}
				if err := readAll(s, v, reader); err != nil && !errors.Is(err, ErrPruned) {
					t.Errorf("view of %d: %v", v.Height(), err)
					return
				}
			}
		})
	}
	for height := int64(2); height <= heights; height++ {
		commit(t, s, height, 0, write(height))
	}
	close(done)
	wg.Wait()
}

// readAll checks a view of TestConcurrentViews.
func readAll(s *Store, v *View, reader int) error {
	want := fmt.Sprint(v.Height())
	for i := range 50 {
		value, ok, err := v.Get(keyN(i))
		if err != nil {
			return err
		}
		if ok == ((int64(i)+v.Height())%5 == 0) || ok && string(value) != want {
			return fmt.Errorf("key %d is %q %v", i, value, ok)
		}
	}
	n := 0
	for e, err := range v.Scan(keyN(0), nil) {
		if err != nil {
			return err
		}
		if string(e.Value) != want {
			return fmt.Errorf("scan: %q", e)
		}
		n++
	}
	if n != 40 {
		return fmt.Errorf("scan: %d entries", n)
	}
	if reader == 0 {
		return s.Verify(v.Height())
	}
	_, err := s.Prove(v.Height(), keyN(n%50))
	return err
}

// TestClosed checks that everything answers ErrClosed after Close.
func TestClosed(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "db", 0)
	commit(t, s, 1, 0, sets("a", "1"))
	v := s.Latest()
	st, err := s.Stage(nil)
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	_, _, getErr := v.Get([]byte("a"))
	var scanErr error
	for _, scanErr = range v.Scan(nil, nil) {
	}
	_, stageErr := s.Stage(nil)
	_, proveErr := s.Prove(1, []byte("a"))
	_, atErr := s.At(0)
	for what, err := range map[string]error{"Get": getErr, "Scan": scanErr, "Stage": stageErr, "Prove": proveErr, "At": atErr,
		"Commit": s.Commit(2, 0, st), "Verify": s.Verify(1), "Close": s.Close()} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
}

// TestEmptyRoot checks the root of the empty version, also after everything was deleted again.
func TestEmptyRoot(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "db", 1)
	defer closeStore(t, s)
	if root := commit(t, s, 1, 0, nil); root != (wire.Digest{}) {
		t.Errorf("empty root is %x", root)
	}
	commit(t, s, 2, 0, sets("a", "1", "b", "2"))
	if root := commit(t, s, 3, 0, []Change{{Key: []byte("a"), Delete: true}, {Key: []byte("b"), Delete: true}}); root != (wire.Digest{}) {
		t.Errorf("root after deleting all is %x", root)
	}
	h := newHistory()
	h.add(3, 0, 1, model{})
	check(t, s, h)
}
