package state

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// spied is a model as a Reader that notes what is really asked of it.
type spied struct {
	model model
	keys  map[string]bool
	seen  map[string]bool // keys that scans of overlays on it yielded
	fail  error
}

func spy(m model) *spied { return &spied{model: m, keys: map[string]bool{}, seen: map[string]bool{}} }

func (s *spied) Get(key []byte) ([]byte, bool, error) {
	if s.fail != nil {
		return nil, false, s.fail
	}
	v, ok := s.model[string(key)]
	s.keys[string(key)] = ok
	return []byte(v), ok, nil
}

func (s *spied) Scan(start, end []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for i, e := range s.model.between(start, end) {
			if s.fail != nil && i == 1 {
				yield(Entry{}, s.fail)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// layer is the naive twin of an overlay: a whole copy of the state.
type layer struct {
	overlay *Overlay
	state   model
	written map[string]bool
}

// fewKeys draws keys that several layers will write.
var fewKeys = rapid.Map(rapid.IntRange(0, 11), func(n int) string { return fmt.Sprintf("a/%d", n) })

// TestOverlay drives random operations on a stack of overlays and on naive copies of the whole state.
func TestOverlay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := model{}
		m.apply(changesGen(15).Draw(t, "base"))
		base := spy(m)
		stack := []layer{{NewOverlay(base), maps.Clone(m), map[string]bool{}}}
		for range rapid.IntRange(1, 40).Draw(t, "operations") {
			top := &stack[len(stack)-1]
			key := []byte(fewKeys.Draw(t, "key"))
			switch rapid.IntRange(0, 8).Draw(t, "operation") {
			case 0, 1:
				value := []byte(valueGen().Draw(t, "value"))
				top.overlay.Set(key, value)
				top.state[string(key)] = string(value)
				top.written[string(key)] = true
				if len(value) > 0 {
					value[0]++ // Set keeps a copy
				}
			case 2:
				top.overlay.Delete(key)
				delete(top.state, string(key))
				top.written[string(key)] = true
			case 3:
				got, ok, err := top.overlay.Get(key)
				want, there := top.state[string(key)]
				if err != nil || ok != there || string(got) != want {
					t.Fatalf("Get(%q) = %q %v %v, want %q %v", key, got, ok, err, want, there)
				}
				if len(got) > 0 {
					got[0]++ // the caller's own copy
				}
			case 4, 5:
				scanBoth(t, top, key, base.seen)
			case 6:
				stack = append(stack, layer{top.overlay.Child(), maps.Clone(top.state), map[string]bool{}})
			case 7, 8:
				if len(stack) > 1 {
					under := &stack[len(stack)-2]
					if rapid.Bool().Draw(t, "merge") {
						top.overlay.Merge()
						under.state = top.state
						maps.Copy(under.written, top.written)
					} else {
						top.overlay.Discard()
					}
					stack = stack[:len(stack)-1]
				}
			}
		}
		for len(stack) > 1 {
			stack[len(stack)-1].overlay.Discard()
			stack = stack[:len(stack)-1]
		}
		checkChanges(t, &stack[0])
		checkReads(t, stack[0].overlay.Reads(), base)
	})
}

// scanBoth scans an overlay from start, stops somewhere, writes in between, and compares with the naive twin.
func scanBoth(t *rapid.T, top *layer, start []byte, seen map[string]bool) {
	var end []byte
	if rapid.Bool().Draw(t, "bounded") {
		end = []byte(keyGen().Draw(t, "end"))
	}
	want := top.state.between(start, end)
	if stop := rapid.IntRange(0, 20).Draw(t, "stop"); stop < len(want) {
		want = want[:stop]
	}
	var got []Entry
	meanwhile := changesGen(4).Draw(t, "meanwhile")
	if len(want) == 0 {
		return
	}
	for e, err := range top.overlay.Scan(start, end) {
		if err != nil {
			t.Fatalf("Scan: %v", err)
		}
		seen[string(e.Key)] = true
		if got = append(got, e); len(got) == 1 {
			for _, c := range meanwhile {
				top.written[string(c.Key)] = true
				if c.Delete {
					top.overlay.Delete(c.Key)
				} else {
					top.overlay.Set(c.Key, c.Value)
				}
			}
			top.state.apply(meanwhile)
		}
		if len(got) == len(want) {
			break
		}
	}
	if !equalEntries(got, want) {
		t.Fatalf("Scan(%q, %q) = %q, want %q", start, end, got, want)
	}
}

// checkChanges compares an overlay's changes with what was written to its twin.
func checkChanges(t *rapid.T, l *layer) {
	var want []Change
	for _, k := range slices.Sorted(maps.Keys(l.written)) {
		v, ok := l.state[k]
		want = append(want, Change{Key: []byte(k), Value: []byte(v), Delete: !ok})
	}
	got := l.overlay.Changes()
	if !slices.EqualFunc(got, want, func(a, b Change) bool {
		return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && a.Delete == b.Delete
	}) {
		t.Fatalf("Changes() = %v, want %v", got, want)
	}
}

// checkReads checks that exactly the keys asked of the base are recorded, that all keys a scan yielded lie in the ranges,
// that ranges are sorted and apart, and Meets against a search through all of them.
func checkReads(t *rapid.T, reads *ReadSet, base *spied) {
	if got, want := reads.Keys(), slices.Sorted(maps.Keys(base.keys)); !slices.EqualFunc(got, want, func(a []byte, b string) bool { return string(a) == b }) {
		t.Fatalf("Keys() = %q, want %q", got, want)
	}
	for k, present := range base.keys {
		if got, read := reads.Present([]byte(k)); got != present || !read {
			t.Fatalf("Present(%q) = %v %v, want %v", k, got, read, present)
		}
	}
	ranges := reads.Ranges()
	for i, r := range ranges {
		if i > 0 && (ranges[i-1].End == nil || bytes.Compare(ranges[i-1].End, r.Start) >= 0) {
			t.Fatalf("ranges %q are not sorted and apart", ranges)
		}
	}
	inside := func(k string) bool {
		return slices.ContainsFunc(ranges, func(r Range) bool { return r.Contains([]byte(k)) })
	}
	for k := range base.seen {
		if !inside(k) {
			t.Fatalf("scanned key %q lies in no range of %q", k, ranges)
		}
	}
	for range 5 {
		changes := changesGen(5).Draw(t, "block")
		var want []byte
		for _, c := range changes {
			if _, read := base.keys[string(c.Key)]; want == nil && (read || inside(string(c.Key))) {
				want = c.Key
			}
		}
		if got, ok := reads.Meets(changes); ok != (want != nil) || !bytes.Equal(got, want) {
			t.Fatalf("Meets = %q %v, want %q", got, ok, want)
		}
	}
}

// TestScanRecordsWhatWasRead pins the recorded range of scans that stop, that end, that fail and that never start.
func TestScanRecordsWhatWasRead(t *testing.T) {
	m := model{"a": "1", "c": "1", "e": "1"}
	for name, test := range map[string]struct {
		run  func(o *Overlay)
		want []Range
	}{
		"stopped at the first": {func(o *Overlay) {
			for range o.Scan([]byte("a"), []byte("z")) {
				break
			}
		}, []Range{{[]byte("a"), []byte("a\x00")}}},
		"stopped at an own write": {func(o *Overlay) {
			o.Set([]byte("b"), nil)
			for e := range o.Scan(nil, nil) {
				if string(e.Key) == "b" {
					break
				}
			}
		}, []Range{{[]byte{}, []byte("b\x00")}}},
		"to the end": {func(o *Overlay) {
			for range o.Scan([]byte("b"), []byte("d")) {
				continue
			}
		}, []Range{{[]byte("b"), []byte("d")}}},
		"unbounded": {func(o *Overlay) {
			for range o.Scan([]byte("x"), nil) {
				continue
			}
		}, []Range{{[]byte("x"), nil}}},
		"never started": {func(o *Overlay) { o.Scan(nil, nil) }, nil},
		"empty":         {func(o *Overlay) { collect(t, o, []byte("b"), []byte("b")) }, nil},
		"joined": {func(o *Overlay) {
			collect(t, o, []byte("a"), []byte("c"))
			collect(t, o, []byte("m"), []byte("n"))
			collect(t, o, []byte("c"), []byte("d"))
		}, []Range{{[]byte("a"), []byte("d")}, {[]byte("m"), []byte("n")}}},
		"all swallowed": {func(o *Overlay) {
			collect(t, o, []byte("a"), []byte("c"))
			collect(t, o, []byte("m"), []byte("n"))
			collect(t, o, nil, nil)
		}, []Range{{[]byte{}, nil}}},
		"of a discarded child": {func(o *Overlay) {
			c := o.Child()
			collect(t, c, []byte("a"), []byte("b"))
			c.Discard()
		}, []Range{{[]byte("a"), []byte("b")}}},
	} {
		t.Run(name, func(t *testing.T) {
			o := NewOverlay(spy(m))
			test.run(o)
			got := o.Reads().Ranges()
			if !slices.EqualFunc(got, test.want, func(a, b Range) bool {
				return bytes.Equal(a.Start, b.Start) && bytes.Equal(a.End, b.End) && (a.End == nil) == (b.End == nil)
			}) {
				t.Errorf("recorded %q, want %q", got, test.want)
			}
		})
	}
}

// TestOverlayErrors checks that errors of the base reach the reader and that a failed scan counts as wholly read.
func TestOverlayErrors(t *testing.T) {
	base := spy(model{"a": "1", "b": "2", "c": "3"})
	base.fail = errors.New("disk gone")
	o := NewOverlay(base).Child()
	if _, _, err := o.Get([]byte("a")); !errors.Is(err, base.fail) {
		t.Errorf("Get: %v", err)
	}
	n := 0
	for _, err := range o.Scan(nil, []byte("x")) {
		if n++; n == 2 && !errors.Is(err, base.fail) {
			t.Errorf("Scan: %v", err)
		}
	}
	if n != 2 {
		t.Errorf("scan yielded %d times, want an entry and an error", n)
	}
	if _, ok := o.Reads().Meets([]Change{{Key: []byte("w")}}); !ok {
		t.Error("a failed scan does not count as read")
	}
	if len(o.Reads().Keys()) != 0 {
		t.Error("a failed Get is recorded")
	}
}

// TestRebase checks that writes and reads stay while the base moves, through a child as well.
func TestRebase(t *testing.T) {
	o := NewOverlay(spy(model{"a": "1", "b": "1"}))
	if _, _, err := o.Get([]byte("a")); err != nil {
		t.Fatal(err)
	}
	o.Set([]byte("b"), []byte("mine"))
	child := o.Child()
	child.Rebase(spy(model{"a": "2", "b": "2", "c": "2"}))
	want := []Entry{{Key: []byte("a"), Value: []byte("2")}, {Key: []byte("b"), Value: []byte("mine")}, {Key: []byte("c"), Value: []byte("2")}}
	if got := collect(t, child, nil, nil); !equalEntries(got, want) {
		t.Errorf("after Rebase: %q, want %q", got, want)
	}
	if _, read := o.Reads().Present([]byte("a")); !read {
		t.Error("Rebase forgot a read")
	}
}

// TestReadSetClone checks that a clone does not grow with its overlay.
func TestReadSetClone(t *testing.T) {
	o := NewOverlay(spy(model{}))
	collect(t, o, []byte("a"), []byte("b"))
	c := o.Reads().Clone()
	collect(t, o, []byte("b"), []byte("c"))
	if _, _, err := o.Get([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if len(c.Keys()) != 0 || len(c.Ranges()) != 1 || !bytes.Equal(c.Ranges()[0].End, []byte("b")) {
		t.Errorf("clone grew: %q %q", c.Keys(), c.Ranges())
	}
}

// TestScanThroughLayers pins a scan over a key that every layer and the base hold, and one that a layer removes.
func TestScanThroughLayers(t *testing.T) {
	o := NewOverlay(spy(model{"a": "base", "b": "base", "c": "base"}))
	o.Set([]byte("a"), []byte("session"))
	o.Delete([]byte("b"))
	o.Set([]byte("d"), []byte("session"))
	c := o.Child()
	c.Set([]byte("a"), []byte("step"))
	c.Set([]byte("b"), []byte("step"))
	c.Delete([]byte("d"))
	want := []Entry{{Key: []byte("a"), Value: []byte("step")}, {Key: []byte("b"), Value: []byte("step")}, {Key: []byte("c"), Value: []byte("base")}}
	if got := collect(t, c, nil, nil); !equalEntries(got, want) {
		t.Errorf("scan of the child: %q, want %q", got, want)
	}
	want = []Entry{{Key: []byte("a"), Value: []byte("session")}, {Key: []byte("c"), Value: []byte("base")}, {Key: []byte("d"), Value: []byte("session")}}
	if got := collect(t, o, nil, nil); !equalEntries(got, want) {
		t.Errorf("scan of the session: %q, want %q", got, want)
	}
}
