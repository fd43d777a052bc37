package state

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"tandem/internal/wire"
)

// exported returns the snapshot of a height.
func exported(t fataler, s *Store, height int64) (Manifest, [][]byte) {
	t.Helper()
	var chunks [][]byte
	m, err := s.Export(height, func(index int, chunk []byte) error {
		if index != len(chunks) {
			return fmt.Errorf("chunk %d came after %d chunks", index, len(chunks))
		}
		chunks = append(chunks, chunk)
		return nil
	})
	if err != nil {
		t.Fatalf("Export(%d): %v", height, err)
	}
	return m, chunks
}

func reading(chunks [][]byte) func(int) ([]byte, error) {
	return func(index int) ([]byte, error) { return chunks[index], nil }
}

// rechunk cuts the entries of chunks at other places, as a larger state would, and fits the manifest.
func rechunk(t fataler, m Manifest, chunks [][]byte, size int) (Manifest, [][]byte) {
	t.Helper()
	var cut [][]byte
	for _, chunk := range chunks {
		entries, err := parseChunk(chunk)
		if err != nil {
			t.Fatalf("parseChunk: %v", err)
		}
		rest := chunk
		for part := range slices.Chunk(entries, size) {
			n := 0
			for _, e := range part {
				p := parser{rest: rest[n:]}
				p.bytes(MaxKey)
				p.bytes(MaxValue)
				n += len(rest[n:]) - len(p.rest)
				_ = e
			}
			cut, rest = append(cut, rest[:n]), rest[n:]
		}
	}
	m.Chunks = nil
	for _, c := range cut {
		m.Chunks = append(m.Chunks, sha256.Sum256(c))
	}
	return m, cut
}

// TestSnapshot exports random versions and imports them, whole and in small chunks: the new store must hold the same
// version, be able to go on from it to the same next root, and export the same bytes.
func TestSnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewMem()
		s := openStore(t, fs, "db", 2)
		defer closeStore(t, s)
		m := model{}
		var before model
		for height := int64(1); height <= 3; height++ {
			changes := changesGen(40).Draw(t, "changes")
			before = m
			m = model{}
			m.apply(asChanges(before))
			m.apply(changes)
			commit(t, s, height, -height, changes)
		}
		height := rapid.Int64Range(2, 3).Draw(t, "height")
		want := m
		if height == 2 {
			want = before
		}
		manifest, chunks := exported(t, s, height)
		if again, err := ParseManifest(manifest.Encode()); err != nil || again.Root != manifest.Root || !slices.Equal(again.Chunks, manifest.Chunks) {
			t.Fatalf("manifest changed: %v %+v", err, again)
		}
		small, parts := rechunk(t, manifest, chunks, rapid.IntRange(1, 7).Draw(t, "size"))
		if err := Import("new", Options{FS: fs}, small, reading(parts)); err != nil {
			t.Fatalf("Import: %v", err)
		}
		n := openStore(t, fs, "new", 1)
		defer closeStore(t, n)
		h := newHistory()
		h.add(height, -height, 1, want)
		check(t, n, h)
		manifest2, chunks2 := exported(t, n, height)
		if !bytes.Equal(manifest.Encode(), manifest2.Encode()) || !slices.EqualFunc(chunks, chunks2, bytes.Equal) {
			t.Fatalf("the imported store exports another snapshot")
		}
		changes := changesGen(20).Draw(t, "next")
		next := model{}
		next.apply(asChanges(want))
		next.apply(changes)
		commit(t, n, height+1, 5, changes)
		h.add(height+1, 5, 1, next)
		check(t, n, h)
	})
}

func asChanges(m model) []Change {
	var changes []Change
	for _, e := range m.between(nil, nil) {
		changes = append(changes, Change{Key: e.Key, Value: e.Value})
	}
	return changes
}

// TestSnapshotLarge moves a state of several chunks and checks their sizes.
func TestSnapshotLarge(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, "db", 0)
	defer closeStore(t, s)
	var changes []Change
	for i := range 3000 {
		changes = append(changes, Change{Key: keyN(i), Value: bytes.Repeat([]byte{byte(i)}, i)})
	}
	root := commit(t, s, 9, 9, changes)
	m, chunks := exported(t, s, 9)
	if len(chunks) < 4 || m.Keys != 3000 || m.Root != root {
		t.Fatalf("%d chunks, manifest %+v", len(chunks), m)
	}
	for i, c := range chunks {
		if len(c) > chunkBytes+4000 || len(c) < chunkBytes && i < len(chunks)-1 {
			t.Errorf("chunk %d has %d bytes", i, len(c))
		}
	}
	if err := Import("new", Options{FS: fs}, m, reading(chunks)); err != nil {
		t.Fatal(err)
	}
	n := openStore(t, fs, "new", 0)
	defer closeStore(t, n)
	if err := n.Verify(9); err != nil {
		t.Fatal(err)
	}
}

// TestFlippedSnapshot flips every bit of a manifest and of its chunks in turn: each is refused, and no store is left.
func TestFlippedSnapshot(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, "db", 0)
	defer closeStore(t, s)
	commit(t, s, 1, 77, sets("a", "1", "b", "", "c", strings.Repeat("long", 20)))
	m, chunks := exported(t, s, 1)
	m, chunks = rechunk(t, m, chunks, 2)
	encoded := m.Encode()
	flip(encoded, func(at int) {
		if _, err := ParseManifest(encoded); !errors.Is(err, ErrSnapshot) {
			t.Errorf("manifest with bit %d flipped: %v", at, err)
		}
	})
	for i := range encoded {
		if _, err := ParseManifest(encoded[:i]); !errors.Is(err, ErrSnapshot) {
			t.Errorf("manifest of %d bytes: %v", i, err)
		}
	}
	for i := range chunks {
		flip(chunks[i], func(at int) {
			if err := Import("new", Options{FS: fs}, m, reading(chunks)); !errors.Is(err, ErrSnapshot) {
				t.Errorf("chunk %d with bit %d flipped: %v", i, at, err)
			}
			refuseTraces(t, fs)
		})
	}
	if err := Import("new", Options{FS: fs}, m, reading(chunks)); err != nil {
		t.Errorf("the whole snapshot: %v", err)
	}
	if err := Import("new", Options{FS: fs}, m, reading(chunks)); !errors.Is(err, ErrExists) {
		t.Errorf("import over a store: %v, want ErrExists", err)
	}
}

// flip calls check with each bit of b flipped in turn.
func flip(b []byte, check func(at int)) {
	for at := range 8 * len(b) {
		b[at/8] ^= 1 << (at % 8)
		check(at)
		b[at/8] ^= 1 << (at % 8)
	}
}

func refuseTraces(t *testing.T, fs vfs.FS) {
	t.Helper()
	for _, dir := range []string{"new", "new.importing"} {
		if _, err := fs.Stat(dir); err == nil {
			t.Fatalf("%s was left behind", dir)
		}
	}
}

// TestLyingSnapshot offers snapshots whose hashes fit their chunks, but not a state: each is refused, and no store is left.
func TestLyingSnapshot(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, "db", 0)
	defer closeStore(t, s)
	commit(t, s, 1, 77, sets("a", "1", "b", "2", "c", "3", "d", "4"))
	good, parts := exported(t, s, 1)
	good, parts = rechunk(t, good, parts, 1)
	fit := func(m Manifest, chunks ...[]byte) (Manifest, [][]byte) {
		m.Chunks = nil
		for _, c := range chunks {
			m.Chunks = append(m.Chunks, sha256.Sum256(c))
		}
		return m, chunks
	}
	tests := map[string]func() (Manifest, [][]byte){
		"missing entry": func() (Manifest, [][]byte) { return fit(good, parts[:3]...) },
		"order":         func() (Manifest, [][]byte) { return fit(good, parts[1], parts[0], parts[2], parts[3]) },
		"order in chunk": func() (Manifest, [][]byte) {
			return fit(good, append(slices.Clone(parts[1]), parts[0]...), parts[2], parts[3])
		},
		"entry twice": func() (Manifest, [][]byte) { return fit(good, parts[0], parts[0], parts[1], parts[2], parts[3]) },
		"twice in chunk": func() (Manifest, [][]byte) {
			return fit(good, append(slices.Clone(parts[0]), parts[0]...), parts[1], parts[2], parts[3])
		},
		"another value": func() (Manifest, [][]byte) {
			return fit(good, append(slices.Clone(parts[0][:3]), '9'), parts[1], parts[2], parts[3])
		},
		"empty chunk": func() (Manifest, [][]byte) { return fit(good, parts[0], parts[1], parts[2], parts[3], nil) },
		"cut chunk":   func() (Manifest, [][]byte) { return fit(good, parts[0], parts[1], parts[2], parts[3][:2]) },
		"no key": func() (Manifest, [][]byte) {
			return fit(good, append([]byte{0, 0}, parts[0]...), parts[1], parts[2], parts[3])
		},
		"long number": func() (Manifest, [][]byte) {
			return fit(good, append([]byte{0x81, 0}, parts[0][1:]...), parts[1], parts[2], parts[3])
		},
		"number of keys":  func() (Manifest, [][]byte) { m := good; m.Keys++; return fit(m, parts...) },
		"root":            func() (Manifest, [][]byte) { m := good; m.Root = wire.Digest{1}; return fit(m, parts...) },
		"enormous length": func() (Manifest, [][]byte) { return fit(good, []byte{0xff, 0xff, 0xff, 0xff, 0x7f, 1}) },
	}
	for name, lie := range tests {
		t.Run(name, func(t *testing.T) {
			m, chunks := lie()
			if err := Import("new", Options{FS: fs}, m, reading(chunks)); !errors.Is(err, ErrSnapshot) {
				t.Errorf("Import: %v, want ErrSnapshot", err)
			}
			refuseTraces(t, fs)
		})
	}
	gone := errors.New("peer gone")
	err := Import("new", Options{FS: fs}, good, func(i int) ([]byte, error) {
		if i == 2 {
			return nil, gone
		}
		return parts[i], nil
	})
	if !errors.Is(err, gone) {
		t.Errorf("Import: %v, want the reader's error", err)
	}
	refuseTraces(t, fs)
}

// TestExportWhilePruning checks that an export that has begun ends right, whatever is committed and pruned meanwhile.
func TestExportWhilePruning(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, "db", 1)
	defer closeStore(t, s)
	value := strings.Repeat("x", 100_000)
	var kv []string
	for i := range 40 {
		kv = append(kv, fmt.Sprint("k", i), value)
	}
	root := commit(t, s, 1, 0, sets(kv...))
	var chunks [][]byte
	m, err := s.Export(1, func(index int, chunk []byte) error {
		var gone []Change
		for i := range 40 {
			gone = append(gone, Change{Key: fmt.Append(nil, "k", i), Delete: true})
		}
		slices.SortFunc(gone, func(a, b Change) int { return bytes.Compare(a.Key, b.Key) })
		commit(t, s, int64(index)+2, 0, gone)
		chunks = append(chunks, chunk)
		return s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false)
	})
	if err != nil || m.Root != root || len(chunks) < 3 {
		t.Fatalf("Export: %v, %d chunks", err, len(chunks))
	}
	if err := Import("new", Options{FS: fs}, m, reading(chunks)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Export(1, nil); !errors.Is(err, ErrPruned) {
		t.Errorf("Export of a pruned height: %v", err)
	}
}
