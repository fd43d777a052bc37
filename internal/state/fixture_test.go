package state

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/celestiaorg/smt"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	ics23 "github.com/cosmos/ics23/go"

	"tandem/internal/proof"
	"tandem/internal/wire"
)

// fataler is what testing.T and rapid.T share.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// model is a version as a plain map.
type model map[string]string

// history is what a store must hold: a model for each height, in commit order.
type history struct {
	heights []int64
	models  map[int64]model
	times   map[int64]int64
	floor   int64 // the lowest height that is to be kept
}

func newHistory() *history { return &history{models: map[int64]model{}, times: map[int64]int64{}} }

// last returns a copy of the newest model.
func (h *history) last() model {
	if len(h.heights) == 0 {
		return model{}
	}
	return maps.Clone(h.models[h.heights[len(h.heights)-1]])
}

// add notes a commit to a store that keeps so many heights.
func (h *history) add(height, time int64, keep int, m model) {
	if keep > 0 {
		h.floor = max(h.floor, height-int64(keep)+1)
	}
	h.heights = append(h.heights, height)
	h.models[height] = m
	h.times[height] = time
}

// apply does changes to a model.
func (m model) apply(changes []Change) {
	for _, c := range changes {
		if c.Delete {
			delete(m, string(c.Key))
		} else {
			m[string(c.Key)] = string(c.Value)
		}
	}
}

// oracle returns the root that celestiaorg/smt v0.3.0 gives a model, which it gets in map order.
func (m model) oracle(t fataler) wire.Digest {
	t.Helper()
	tree := smt.NewSparseMerkleTree(smt.NewSimpleMap(), smt.NewSimpleMap(), sha256.New())
	for k, v := range m {
		if _, err := tree.Update([]byte(k), Committed([]byte(v))); err != nil {
			t.Fatalf("oracle: %v", err)
		}
	}
	return wire.Digest(tree.Root())
}

// between returns the entries of m with start <= key < end, in order; an empty end stands for none.
func (m model) between(start, end []byte) []Entry {
	entries := []Entry{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k >= string(start) && (end == nil || k < string(end)) {
			entries = append(entries, Entry{Key: []byte(k), Value: []byte(m[k])})
		}
	}
	return entries
}

func openStore(t fataler, fs vfs.FS, dir string, keep int) *Store {
	t.Helper()
	s, err := Open(dir, Options{FS: fs, Keep: keep})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s
}

func closeStore(t fataler, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// commit stages and commits changes and returns the root.
func commit(t fataler, s *Store, height, time int64, changes []Change) wire.Digest {
	t.Helper()
	st, err := s.Stage(changes)
	if err != nil {
		t.Fatalf("Stage: %v", err)
	}
	if err := s.Commit(height, time, st); err != nil {
		t.Fatalf("Commit(%d): %v", height, err)
	}
	if _, root, _ := s.Version(); root != st.Root() {
		t.Fatalf("committed root %x is not the staged %x", root, st.Root())
	}
	return st.Root()
}

// sets turns key, value, key, value, ... into changes.
func sets(kv ...string) []Change {
	m := model{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	var changes []Change
	for _, e := range m.between(nil, nil) {
		changes = append(changes, Change{Key: e.Key, Value: e.Value})
	}
	return changes
}

func collect(t fataler, r Reader, start, end []byte) []Entry {
	t.Helper()
	entries := []Entry{}
	for e, err := range r.Scan(start, end) {
		if err != nil {
			t.Fatalf("Scan(%q, %q): %v", start, end, err)
		}
		entries = append(entries, e)
	}
	return entries
}

func equalEntries(a, b []Entry) bool {
	return slices.EqualFunc(a, b, func(x, y Entry) bool {
		return bytes.Equal(x.Key, y.Key) && bytes.Equal(x.Value, y.Value)
	})
}

// check re-verifies everything a store holds against its history: the version, every kept height's entries, root, trie
// and proofs, that pruned heights are refused, and that no record is on disk which no kept height needs.
func check(t fataler, s *Store, h *history) {
	t.Helper()
	if len(h.heights) == 0 {
		if height, root, time := s.Version(); height != 0 || root != (wire.Digest{}) || time != 0 || !s.Fresh() {
			t.Fatalf("fresh store is at %d %x %d", height, root, time)
		}
		return
	}
	last := h.heights[len(h.heights)-1]
	if height, root, time := s.Version(); height != last || time != h.times[last] || root != h.models[last].oracle(t) {
		t.Fatalf("Version() = %d %x %d, want %d %x %d", height, root, time, last, h.models[last].oracle(t), h.times[last])
	}
	needed := map[string]bool{string([]byte{keyFormat}): true}
	for i, height := range h.heights {
		v, err := s.At(height)
		if height < h.floor {
			if !errors.Is(err, ErrPruned) {
				t.Fatalf("At(%d) of a height to be pruned: %v, want ErrPruned", height, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("At(%d): %v", height, err)
		}
		checkVersion(t, s, v, h.models[height])
		if height == last {
			checkWhole(t, s, height, h.models[height], h.models[height].oracle(t))
		}
		needed[string(versionKey(uint64(height)))] = true
		if height > s.Oldest() {
			needed[string(staleKey(uint64(height)))] = true
		}
		if i > 0 && height > s.Oldest() { // marks of removal since the version before
			for k := range h.models[h.heights[i-1]] {
				if _, there := h.models[height][k]; !there {
					needed[string(valueKey(nil, []byte(k), uint64(height)))] = true
				}
			}
		}
		reach(t, s, height, needed)
	}
	checkRecords(t, s, needed)
}

// checkVersion compares one version with its model.
func checkVersion(t fataler, s *Store, v *View, m model) {
	t.Helper()
	if err := s.Verify(v.Height()); err != nil {
		t.Fatalf("Verify(%d): %v", v.Height(), err)
	}
	if got, want := collect(t, v, nil, nil), m.between(nil, nil); !equalEntries(got, want) {
		t.Fatalf("height %d holds %q, want %q", v.Height(), got, want)
	}
	for k, want := range m {
		if got, ok, err := v.Get([]byte(k)); err != nil || !ok || string(got) != want {
			t.Fatalf("height %d: Get(%q) = %q %v %v, want %q", v.Height(), k, got, ok, err, want)
		}
	}
}

// reach adds the records that one version needs.
func reach(t fataler, s *Store, height int64, needed map[string]bool) {
	t.Helper()
	v, err := s.versionAt(height)
	if err != nil {
		t.Fatalf("versionAt(%d): %v", height, err)
	}
	tracer := tracer{frozen{s.db}, needed}
	err = walk(tracer, v.root, place{}, func(_ wire.Digest, n *node) error {
		needed[string(valueKey(nil, n.key, n.version))] = true
		return nil
	})
	if err != nil {
		t.Fatalf("walk: %v", err)
	}
}

// tracer notes the pages that are loaded.
type tracer struct {
	pages
	needed map[string]bool
}

func (tr tracer) load(at place, n *node) (*node, error) {
	tr.needed[string(pageKey(nil, pageID{n.version, at}))] = true
	return tr.pages.load(at, n)
}

// checkRecords compares the records on disk with the needed ones.
func checkRecords(t fataler, s *Store, needed map[string]bool) {
	t.Helper()
	found := map[string]bool{}
	for _, k := range records(t, s) {
		found[k] = true
		if !needed[k] {
			t.Fatalf("record %q is on disk and nothing needs it", k)
		}
	}
	for k := range needed {
		if !found[k] {
			t.Fatalf("record %q is not on disk", k)
		}
	}
}

func records(t fataler, s *Store) []string {
	t.Helper()
	it, err := s.db.NewIter(&pebble.IterOptions{})
	if err != nil {
		t.Fatalf("iterator: %v", err)
	}
	var keys []string
	for it.First(); it.Valid(); it.Next() {
		keys = append(keys, string(it.Key()))
	}
	if err := it.Close(); err != nil {
		t.Fatalf("iterator: %v", err)
	}
	return keys
}

// checkProof asks for a proof of key and has stock ICS-23 verify it against the root; and for the short proof, which package proof
// verifies.
func checkProof(t fataler, s *Store, height int64, m model, root wire.Digest, key []byte) {
	t.Helper()
	known, err := s.Trace(height, key)
	if err != nil {
		t.Fatalf("Trace(%d, %q): %v", height, key, err)
	}
	if got, err := known.Root(); err != nil || got != root {
		t.Fatalf("height %d: the trace of %q leads to %s, %v, the root is %s", height, key, got, err, root)
	}
	if want, ok := m[string(key)]; ok != known.Present || want != string(known.Value) {
		t.Fatalf("height %d: the trace of %q is %v %q, want %v %q", height, key, known.Present, known.Value, ok, want)
	}
	p, err := s.Prove(height, key)
	if len(m) == 0 {
		if err != ErrEmptyTree {
			t.Fatalf("Prove on an empty version: %v, want ErrEmptyTree", err)
		}
		return
	}
	if err != nil {
		t.Fatalf("Prove(%d, %q): %v", height, key, err)
	}
	value, ok := m[string(key)]
	if ok != ics23.VerifyMembership(ics23.SmtSpec, root[:], p, key, Committed([]byte(value))) {
		t.Fatalf("height %d: membership of %q is %v, its proof says otherwise", height, key, ok)
	}
	if ok == ics23.VerifyNonMembership(ics23.SmtSpec, root[:], p, key) {
		t.Fatalf("height %d: absence of %q is %v, its proof says otherwise", height, key, !ok)
	}
}

// checkWhole has package proof take the exported version for the whole state under its root.
func checkWhole(t fataler, s *Store, height int64, m model, root wire.Digest) {
	t.Helper()
	var packed []byte
	if _, err := s.Export(height, func(_ int, chunk []byte) error { packed = append(packed, chunk...); return nil }); err != nil {
		t.Fatalf("Export(%d): %v", height, err)
	}
	whole, err := proof.Whole(root, packed)
	if err != nil {
		t.Fatalf("height %d: %v", height, err)
	}
	if got, want := collect(t, whole, nil, nil), m.between(nil, nil); !equalEntries(got, want) {
		t.Fatalf("height %d: the whole state is %v, want %v", height, got, want)
	}
}

func isDamaged(err error) bool { return errors.Is(err, ErrDamaged) }

// emptyValue is what the trie commits to in place of an empty value.
const emptyValue = "tandem:empty"

func keyN(n int) []byte { return fmt.Appendf(nil, "a/key/%08d", n) }
