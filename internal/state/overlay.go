package state

import (
	"bytes"
	"cmp"
	"iter"
	"maps"
	"slices"
)

// Overlay is a state on top of another: reads fall through to its base, writes stay in it. It records what was read
// from the base underneath all overlays, so that one can tell whether somebody else's writes would have been seen.
//
// A session's overlay stands on a [View]; each step runs in a [Overlay.Child] of it that is merged, or discarded if the
// step is refused. An overlay and all its children are owned by one goroutine.
type Overlay struct {
	base   Reader   // nil in a child
	parent *Overlay // nil in an outermost overlay
	writes map[string]write
	// order holds the keys of writes in order, but for the last ones, which fresh holds as they came. Scan merges the two.
	order, fresh []string
	reads        *ReadSet
}

// write is a value or, if deleted, a removal.
type write struct {
	value   []byte
	deleted bool
}

// NewOverlay returns an empty overlay on base.
func NewOverlay(base Reader) *Overlay {
	return &Overlay{base: base, writes: map[string]write{}, reads: newReadSet()}
}

// Child returns an empty overlay on o. While it is in use, o must not be written to. End it with Merge or Discard.
func (o *Overlay) Child() *Overlay {
	return &Overlay{parent: o, writes: map[string]write{}, reads: newReadSet()}
}

// Get implements [Reader]. The read is recorded unless a write of this overlay, or of one under it, answers it.
func (o *Overlay) Get(key []byte) (value []byte, ok bool, err error) {
	for at := o; ; at = at.parent {
		if w, found := at.writes[string(key)]; found {
			if w.deleted {
				return nil, false, nil
			}
			return bytes.Clone(w.value), true, nil
		}
		if at.parent == nil {
			value, ok, err = at.base.Get(key)
			if err != nil {
				return nil, false, err
			}
			o.reads.addKey(key, ok)
			return value, ok, nil
		}
	}
}

// Set stores a copy of value under key. A nil value is stored as an empty one.
func (o *Overlay) Set(key, value []byte) {
	o.put(string(key), write{value: append(make([]byte, 0, len(value)), value...)})
}

// Delete removes key; a key that is not there is no error.
func (o *Overlay) Delete(key []byte) { o.put(string(key), write{deleted: true}) }

func (o *Overlay) put(key string, w write) {
	if _, there := o.writes[key]; !there {
		o.fresh = append(o.fresh, key)
	}
	o.writes[key] = w
}

// Scan implements [Reader]. It shows the state as it was when the iteration began, whatever is written meanwhile. The
// range recorded as read is the one really looked at: up to end if the iteration came to its end, otherwise up to and
// including the last key yielded. Keys in it that only writes of overlays answered count as read too, which can cause a
// needless re-execution but never hides a conflict.
func (o *Overlay) Scan(start, end []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if end != nil && bytes.Compare(start, end) >= 0 {
			return
		}
		own, base := o.snapshot(start, end)
		last, done := []byte(nil), false
		defer func() {
			switch {
			case done:
				o.reads.addRange(start, end)
			case last != nil:
				o.reads.addRange(start, append(last, 0))
			}
		}()
		emit := func(key, value []byte) bool {
			last = append(last[:0], key...)
			return yield(Entry{Key: key, Value: value}, nil)
		}
		emitOwn := func(p pending) bool {
			return p.deleted || emit([]byte(p.key), bytes.Clone(p.value))
		}
		for e, err := range base.Scan(start, end) {
			if err != nil {
				done = true // what the base would have answered is unknown: count all of it as read
				yield(Entry{}, err)
				return
			}
			for len(own) > 0 && own[0].key < string(e.Key) {
				if !emitOwn(own[0]) {
					return
				}
				own = own[1:]
			}
			if len(own) > 0 && own[0].key == string(e.Key) {
				if !emitOwn(own[0]) {
					return
				}
				own = own[1:]
				continue
			}
			if !emit(e.Key, e.Value) {
				return
			}
		}
		for _, p := range own {
			if !emitOwn(p) {
				return
			}
		}
		done = true
	}
}

// pending is one write of an overlay with its key.
type pending struct {
	key string
	write
}

// snapshot returns the writes with start <= key < end of o and the overlays under it, the uppermost write of each key,
// in key order, and the reader at the bottom.
func (o *Overlay) snapshot(start, end []byte) ([]pending, Reader) {
	var all []pending
	at := o
	for {
		at.sort()
		from, _ := slices.BinarySearch(at.order, string(start))
		for _, key := range at.order[from:] {
			if end != nil && key >= string(end) {
				break
			}
			all = append(all, pending{key, at.writes[key]})
		}
		if at.parent == nil {
			break
		}
		at = at.parent
	}
	if at != o { // more than one layer: the stable sort keeps the uppermost write of a key first
		slices.SortStableFunc(all, func(a, b pending) int { return cmp.Compare(a.key, b.key) })
		all = slices.CompactFunc(all, func(a, b pending) bool { return a.key == b.key })
	}
	return all, at.base
}

// sort moves fresh into order.
func (o *Overlay) sort() {
	if len(o.fresh) == 0 {
		return
	}
	slices.Sort(o.fresh)
	merged := make([]string, 0, len(o.order)+len(o.fresh))
	a, b := o.order, o.fresh
	for len(a) > 0 && len(b) > 0 {
		if a[0] < b[0] {
			merged, a = append(merged, a[0]), a[1:]
		} else {
			merged, b = append(merged, b[0]), b[1:]
		}
	}
	o.order, o.fresh = append(append(merged, a...), b...), nil
}

// Merge moves o's writes and reads into its parent. The child is empty afterwards and may be used again. It panics
// on an outermost overlay, which has nothing to merge into.
func (o *Overlay) Merge() {
	if o.parent == nil {
		panic("state: Merge of an overlay that is no child")
	}
	for key, w := range o.writes {
		o.parent.put(key, w)
	}
	o.Discard()
}

// Discard forgets o's writes; its reads still move into the parent, if there is one, because they decided that the
// writes were to be forgotten. The overlay is empty afterwards and may be used again.
func (o *Overlay) Discard() {
	if o.parent != nil {
		o.parent.reads.add(o.reads)
		o.reads = newReadSet()
	}
	o.writes, o.order, o.fresh = map[string]write{}, nil, nil
}

// Rebase puts the outermost overlay that o belongs to onto another base, usually the view of a newer block. Writes and
// recorded reads stay: call it only if the reads do not meet what changed, or run the steps again on a new overlay.
func (o *Overlay) Rebase(base Reader) {
	for o.parent != nil {
		o = o.parent
	}
	o.base = base
}

// Changes returns o's own writes, those of the overlays under it excluded, sorted by key. A deletion is listed even if
// the base does not hold the key. The values are shared with o and must not be changed.
func (o *Overlay) Changes() []Change {
	o.sort()
	changes := make([]Change, len(o.order))
	for i, key := range o.order {
		w := o.writes[key]
		changes[i] = Change{Key: []byte(key), Value: w.value, Delete: w.deleted}
	}
	return changes
}

// Reads returns what was read so far. The set goes on growing with o; take a Clone to keep it.
func (o *Overlay) Reads() *ReadSet { return o.reads }

// ReadSet is what was read from a base: single keys, found or not, and ranges of keys. It is owned by the goroutine
// that owns its overlay.
type ReadSet struct {
	keys   map[string]bool // the value tells whether the key was present
	ranges []Range         // sorted, disjoint and not touching
}

// Range is the keys with Start <= key < End; a nil End means to the last key.
type Range struct {
	Start, End []byte
}

// Contains reports whether key lies in r.
func (r Range) Contains(key []byte) bool {
	return bytes.Compare(r.Start, key) <= 0 && (r.End == nil || bytes.Compare(key, r.End) < 0)
}

func newReadSet() *ReadSet { return &ReadSet{keys: map[string]bool{}} }

// Meets reports whether one of the changes, which are sorted by key, writes what was read, and names the first such key.
func (r *ReadSet) Meets(changes []Change) (key []byte, ok bool) {
	for _, c := range changes {
		if _, read := r.keys[string(c.Key)]; read || r.scanned(c.Key) {
			return c.Key, true
		}
	}
	return nil, false
}

// scanned reports whether key lies in a range that was read.
func (r *ReadSet) scanned(key []byte) bool {
	// The first range that starts behind key; only the one before it can hold key.
	i, _ := slices.BinarySearchFunc(r.ranges, key, func(x Range, key []byte) int {
		if bytes.Compare(x.Start, key) <= 0 {
			return -1
		}
		return 1
	})
	return i > 0 && r.ranges[i-1].Contains(key)
}

// Keys returns the single keys that were read, sorted.
func (r *ReadSet) Keys() [][]byte {
	keys := make([][]byte, 0, len(r.keys))
	for _, k := range slices.Sorted(maps.Keys(r.keys)) {
		keys = append(keys, []byte(k))
	}
	return keys
}

// Present tells whether key was present when it was read; read is false if it was not read as a single key.
func (r *ReadSet) Present(key []byte) (present, read bool) {
	present, read = r.keys[string(key)]
	return present, read
}

// Ranges returns the ranges that were scanned, sorted, joined where they touch. The caller must not change them.
func (r *ReadSet) Ranges() []Range { return slices.Clone(r.ranges) }

// Clone returns a copy that does not grow with the overlay.
func (r *ReadSet) Clone() *ReadSet {
	return &ReadSet{keys: maps.Clone(r.keys), ranges: slices.Clone(r.ranges)}
}

func (r *ReadSet) addKey(key []byte, present bool) { r.keys[string(key)] = present }

func (r *ReadSet) add(other *ReadSet) {
	maps.Copy(r.keys, other.keys)
	for _, x := range other.ranges {
		r.addRange(x.Start, x.End)
	}
}

// addRange joins [start, end) with the ranges it overlaps or touches.
func (r *ReadSet) addRange(start, end []byte) {
	added := Range{Start: append([]byte{}, start...), End: bytes.Clone(end)}
	// before: ranges that end before added starts; the rest up to after overlap or touch.
	before := 0
	for before < len(r.ranges) && r.ranges[before].End != nil && bytes.Compare(r.ranges[before].End, added.Start) < 0 {
		before++
	}
	after := before
	for after < len(r.ranges) && (added.End == nil || bytes.Compare(r.ranges[after].Start, added.End) <= 0) {
		x := r.ranges[after]
		if bytes.Compare(x.Start, added.Start) < 0 {
			added.Start = x.Start
		}
		if added.End != nil && (x.End == nil || bytes.Compare(x.End, added.End) > 0) {
			added.End = x.End
		}
		after++
	}
	r.ranges = slices.Replace(r.ranges, before, after, added)
}
