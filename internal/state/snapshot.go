package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"tandem/internal/wire"
)

// Sizes of snapshots.
const (
	// chunkBytes is the size at which a chunk is full: a chunk is at most one entry larger.
	chunkBytes = 1 << 20
	// MaxChunk is the largest chunk that Import takes, in bytes.
	MaxChunk = chunkBytes + MaxKey + MaxValue + 16
	// MaxChunks is the largest number of chunks that a manifest may list.
	MaxChunks = 1 << 18
)

const manifestMark = "tandem snapshot 1\n"

// Manifest describes a snapshot: one version as a list of chunks. Two nodes with the same version export the same
// manifest and chunks, byte for byte, so that chunks can be fetched from several nodes. Whoever imports one trusts it no
// further than its root, height and block time, which are to be compared with a block's header first.
type Manifest struct {
	Height    int64
	Root      wire.Digest
	BlockTime int64
	Keys      uint64        // number of keys in all chunks
	Chunks    []wire.Digest // SHA-256 of each chunk
}

// Encode returns the manifest's only form, which ends with its own SHA-256. docs/format/snapshot.md describes it.
func (m Manifest) Encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte(manifestMark), uint64(m.Height))
	b = binary.BigEndian.AppendUint64(b, uint64(m.BlockTime))
	b = append(b, m.Root[:]...)
	b = binary.BigEndian.AppendUint64(b, m.Keys)
	b = binary.BigEndian.AppendUint64(b, uint64(len(m.Chunks)))
	for _, c := range m.Chunks {
		b = append(b, c[:]...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// ParseManifest takes what Encode returned and nothing else. Errors: [ErrSnapshot].
func ParseManifest(b []byte) (Manifest, error) {
	refuse := func(why string) (Manifest, error) {
		return Manifest{}, fmt.Errorf("%w: manifest: %s", ErrSnapshot, why)
	}
	body := len(b) - sha256.Size
	if body < 0 || !bytes.HasPrefix(b, []byte(manifestMark)) {
		return refuse("does not begin with " + manifestMark[:len(manifestMark)-1])
	}
	if sha256.Sum256(b[:body]) != wire.Digest(b[body:]) {
		return refuse("its checksum is wrong: it was damaged on the way, fetch it again")
	}
	p := parser{rest: b[len(manifestMark):body]}
	m := Manifest{Height: int64(p.uint64()), BlockTime: int64(p.uint64()), Root: p.digest(), Keys: p.uint64()}
	count := p.uint64()
	if count > MaxChunks || count*sha256.Size != uint64(len(p.rest)) {
		return refuse(fmt.Sprintf("lists %d chunks in %d bytes", count, len(p.rest)))
	}
	for range count {
		m.Chunks = append(m.Chunks, p.digest())
	}
	if err := p.end(); err != nil {
		return refuse(err.Error())
	}
	if m.Height < 0 {
		return refuse("height below zero")
	}
	return m, nil
}

// Export writes the version of a kept height as chunks of about 1 MiB, in order, index from 0, and returns their
// manifest. A chunk's bytes belong to write. Commits and pruning go on meanwhile. Errors: those of write, and as Verify.
func (s *Store) Export(height int64, write func(index int, chunk []byte) error) (Manifest, error) {
	var m Manifest
	err := s.freeze(height, func(r pebble.Reader, v *version) error {
		m = Manifest{Height: height, Root: hashOf(v.root), BlockTime: v.blockTime}
		var chunk []byte
		flush := func() error {
			m.Chunks = append(m.Chunks, sha256.Sum256(chunk))
			err := write(len(m.Chunks)-1, chunk)
			chunk = nil
			return err
		}
		err := walk(frozen{r}, v.root, place{}, func(path wire.Digest, n *node) error {
			value, err := valueOf(r, v, path, n)
			if err != nil {
				return err
			}
			m.Keys++
			chunk = append(binary.AppendUvarint(chunk, uint64(len(n.key))), n.key...)
			chunk = append(binary.AppendUvarint(chunk, uint64(len(value))), value...)
			if len(chunk) >= chunkBytes {
				return flush()
			}
			return nil
		})
		if err == nil && len(chunk) > 0 {
			err = flush()
		}
		return err
	})
	if err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// parseChunk returns the entries of a chunk, which share memory with it. There is at least one.
func parseChunk(chunk []byte) ([]Change, error) {
	if len(chunk) > MaxChunk {
		return nil, fmt.Errorf("%w: chunk of %d bytes, at most %d", ErrSnapshot, len(chunk), MaxChunk)
	}
	var entries []Change
	p := parser{rest: chunk}
	for more := true; more; more = p.err == nil && len(p.rest) > 0 {
		e := Change{Key: p.bytes(MaxKey), Value: p.bytes(MaxValue)}
		if len(e.Key) == 0 {
			p.fail("entry without a key")
		}
		entries = append(entries, e)
	}
	if err := p.end(); err != nil {
		return nil, fmt.Errorf("%w: chunk: %w", ErrSnapshot, err)
	}
	return entries, nil
}

// Import makes a store in dir from a snapshot, with one version. read returns the chunk of an index and is called in
// order, once for each. Every chunk is checked against the manifest and what they add up to against its root. dir must not exist
// yet, or be empty: it appears at the end, complete, by a rename; until then everything is in dir + ".importing", which
// is removed after an error, and by the next Import after a crash. Errors: [ErrSnapshot], [ErrExists], those of read.
func Import(dir string, o Options, m Manifest, read func(index int) ([]byte, error)) error {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if names, err := o.FS.List(dir); err == nil && len(names) > 0 {
		return fmt.Errorf("%w: %s is not empty", ErrExists, dir)
	}
	building := dir + ".importing"
	if err := o.FS.RemoveAll(building); err != nil {
		return fmt.Errorf("state: import: remove what an earlier import left: %w", err)
	}
	if err := build(building, o, m, read); err != nil {
		return errors.Join(err, o.FS.RemoveAll(building))
	}
	if err := o.FS.RemoveAll(dir); err != nil {
		return errors.Join(fmt.Errorf("state: import: %w", err), o.FS.RemoveAll(building))
	}
	// A crash here leaves building or dir, whole: its files were synced when they were written.
	if err := o.FS.Rename(building, dir); err != nil {
		return errors.Join(fmt.Errorf("state: import: %w", err), o.FS.RemoveAll(building))
	}
	return syncDir(o.FS, parent(o.FS, dir))
}

// parent returns the directory that holds dir.
func parent(files vfs.FS, dir string) string {
	if p := files.PathDir(dir); p != "" {
		return p
	}
	return "."
}

// build fills a new store in dir and closes it.
func build(dir string, o Options, m Manifest, read func(index int) ([]byte, error)) (err error) {
	s, err := Open(dir, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	b := builder{store: s, height: uint64(m.Height), open: map[int]freshPage{}}
	for i, want := range m.Chunks {
		chunk, err := read(i)
		if err != nil {
			return fmt.Errorf("state: import: chunk %d: %w", i, err)
		}
		if sha256.Sum256(chunk) != want {
			return fmt.Errorf("%w: chunk %d has another hash than the manifest says: fetch it again", ErrSnapshot, i)
		}
		if err := b.add(chunk); err != nil {
			return fmt.Errorf("chunk %d: %w", i, err)
		}
	}
	if b.keys != m.Keys || hashOf(b.root) != m.Root {
		return fmt.Errorf("%w: the chunks hold %d keys with root %x, the manifest says %d with %s", ErrSnapshot,
			b.keys, hashOf(b.root), m.Keys, m.Root)
	}
	v := &version{height: m.Height, blockTime: m.BlockTime, previous: -1, root: b.root}
	// The version record comes last, synced, and with it everything before it in the log.
	err = s.apply(func(batch *pebble.Batch) error { return batch.Set(versionKey(b.height), v.encode(), nil) })
	if err == nil {
		s.advance(v)
	}
	return err
}

// builder builds one version from entries that come in path order. Only the pages on the way to the last entry can
// still change; they stay in memory, all others are on disk and forgotten, so that memory does not grow with the state.
type builder struct {
	store  *Store
	height uint64
	root   *node
	open   map[int]freshPage // pages in memory, by depth
	last   wire.Digest       // path of the last entry
	keys   uint64
}

func (b *builder) add(chunk []byte) error {
	entries, err := parseChunk(chunk)
	if err != nil {
		return err
	}
	st := &Staged{changes: entries}
	edits := editsOf(entries)
	for i := range edits {
		if edits[i].index != i || b.keys > 0 && bytes.Compare(b.last[:], edits[i].path[:]) >= 0 {
			return fmt.Errorf("%w: entries are not in the order of their paths", ErrSnapshot)
		}
		b.last = edits[i].path
		b.keys++
	}
	if st.root, err = st.update.apply(b.root, 0, edits); err != nil {
		return err
	}
	st.settle(b.height)
	batch := b.store.db.NewBatch()
	if _, err := st.write(batch, b.height); err != nil {
		return errors.Join(err, batch.Close())
	}
	// Not synced: only the version record, written last and synced, makes it count.
	if err := b.store.db.Apply(batch, pebble.NoSync); err != nil {
		return err
	}
	if err := errors.Join(b.store.faulty(), batch.Close()); err != nil {
		return err
	}
	b.root = st.root
	pages := st.update.fresh
	for depth, page := range b.open {
		pages = append(pages, page)
		delete(b.open, depth)
	}
	for _, page := range pages {
		// Of two at one place the fresh one comes first; the one it replaced is not part of the trie any more.
		if _, replaced := b.open[page.depth]; !replaced && page.path == prefix(&b.last, page.depth) {
			b.open[page.depth] = page
		} else {
			page.child.left = nil
		}
	}
	return nil
}
