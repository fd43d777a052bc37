package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"tandem/internal/wire"
)

// Options are what a store can be opened with; the zero value keeps every version on the real file system.
type Options struct {
	// FS is the file system; nil means the operating system's.
	FS vfs.FS
	// Keep is how many heights stay readable, the last one included: after a commit at height h these are the heights above
	// h-Keep. 0 keeps all. A store may be opened with another number than before; each commit prunes at most pruneAtOnce
	// versions, so that a large backlog goes bit by bit.
	Keep int
	// Logger takes the store's few messages; nil discards them.
	Logger *slog.Logger
}

const (
	pruneAtOnce = 16
	// memTableBytes is how much is written before Pebble flushes; it allocates as it fills.
	memTableBytes = 16 << 20
	// blockCacheBytes bounds Pebble's cache of blocks read from disk.
	blockCacheBytes = 64 << 20
)

// Store is a versioned, Merkleised key-value store in one directory. All methods may be called at the same time; commits
// wait for each other.
type Store struct {
	dir    string
	keep   int64
	logger *slog.Logger
	db     *pebble.DB
	blocks *pebble.Cache
	pages  pageCache
	height *witness // written under commit

	// commit is held for a whole commit, its disk write included: commits have an order, and nothing else takes it.
	commit sync.Mutex
	// head is the last version; written under commit. A version whose height is below zero stands for none at all.
	head atomic.Pointer[version]
	// oldest is the lowest height that may be read; written under commit, before the batch that deletes what lies below is
	// applied. Readers look at it after they have read: if it has not passed their height, nothing they needed was gone.
	oldest atomic.Int64
	// fault is set once, when a write failed or damage was found; then nothing is written any more.
	fault atomic.Pointer[error]

	// users counts the calls under way; Close adds closing to it.
	users   atomic.Int64
	drained chan struct{}
	once    sync.Once
}

const closing = math.MinInt64 / 2

// Open opens the store in dir, or makes an empty one. It takes a few milliseconds whatever the size, since the trie's
// nodes are on disk. One process at a time may have a directory open. Errors: [ErrDamaged] when the files are not what a
// store wrote.
func Open(dir string, o Options) (*Store, error) {
	if o.Keep < 0 {
		return nil, fmt.Errorf("state: Keep is %d, want 0 (all) or the number of heights to keep", o.Keep)
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, keep: int64(o.Keep), logger: o.Logger, drained: make(chan struct{})}
	if err := s.refuseRemains(o.FS); err != nil {
		return nil, err
	}
	db, err := s.openPebble(o.FS)
	if err != nil {
		return nil, err
	}
	s.db = db
	if err := s.recover(); err != nil {
		return nil, errors.Join(s.openError(err), s.closePebble())
	}
	var said int64
	if s.height, said, err = openWitness(o.FS, dir); err != nil {
		return nil, errors.Join(err, s.closePebble())
	}
	if head := s.head.Load(); head.height < said {
		lost := fmt.Errorf("height %d was committed, and the files only hold height %d", said, head.height)
		return nil, errors.Join(s.damaged(lost), s.close())
	}
	return s, nil
}

// refuseRemains refuses a directory with parts of a store that Pebble would take for an empty one, and then clear.
func (s *Store) refuseRemains(files vfs.FS) error {
	if _, err := files.Stat(s.dir); err != nil {
		return nil // Pebble makes it, or says why not
	}
	found, err := pebble.Peek(s.dir, files)
	if err != nil {
		return s.openError(err)
	}
	if found.Exists {
		return nil
	}
	names, err := files.List(s.dir)
	if err != nil {
		return fmt.Errorf("state: open %s: %w", s.dir, err)
	}
	for _, name := range names {
		// A crash while the very first Open makes the store leaves neither tables nor a log: they are made after the marker.
		if strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".log") {
			return s.damaged(fmt.Errorf("%s is there, but no marker that names the manifest", name))
		}
	}
	return nil
}

func (s *Store) openPebble(files vfs.FS) (*pebble.DB, error) {
	s.blocks = pebble.NewCache(blockCacheBytes)
	o := &pebble.Options{
		FS:       orderedFS{files},
		Comparer: comparer,
		Cache:    s.blocks,
		// The newest format marks in the log up to where it was synced, so that a damaged middle is told apart from an end that a
		// crash tore off.
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       memTableBytes,
		MaxOpenFiles:       256,
		Logger:             pebbleLog{s},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				s.logger.Error("state: background write failed, Pebble tries again", "dir", s.dir, "error", err)
			},
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				s.fail(s.damaged(fmt.Errorf("%s: %v", info.Path, info.Details)))
			},
		},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open(s.dir, o)
	if err != nil {
		s.blocks.Unref()
		return nil, s.openError(err)
	}
	if fault := s.fault.Load(); fault != nil {
		return nil, errors.Join(*fault, db.Close())
	}
	return db, nil
}

// openError tells damage from the failures that have nothing to do with the content of the files.
func (s *Store) openError(err error) error {
	if wrongContent(err) {
		return s.damaged(err)
	}
	return fmt.Errorf("state: open %s: %w. If another process has the store open, stop it; otherwise check the directory's "+
		"permissions and the disk; if the files cannot be read, remove the directory and restore the state from a snapshot", s.dir, err)
}

// recover reads what Open needs: the format mark, the oldest and the newest version.
func (s *Store) recover() error {
	mark, err := read(s.db, []byte{keyFormat})
	switch {
	case err == nil && string(mark) != format:
		return malformed("format %q, this program knows %q", mark, format)
	case errors.Is(err, pebble.ErrNotFound):
		// Without the mark the store is empty: it is the first record ever written, synced before any other.
		if err := s.refuseRecords(); err != nil {
			return err
		}
		if err := s.apply(func(b *pebble.Batch) error { return b.Set([]byte{keyFormat}, []byte(format), nil) }); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyVerse}, UpperBound: []byte{keyVerse + 1}})
	if err != nil {
		return err
	}
	head := &version{height: -1, previous: -1}
	if it.First() {
		oldest, err := heightOf(it.Key())
		if err != nil {
			return errors.Join(err, it.Close())
		}
		s.oldest.Store(oldest)
		it.Last()
		newest, err := heightOf(it.Key())
		if err == nil {
			head, err = parseVersion(newest, bytes.Clone(it.Value()))
		}
		if err != nil {
			return errors.Join(err, it.Close())
		}
	}
	if err := it.Close(); err != nil {
		return err
	}
	s.head.Store(head)
	if head.root != nil && head.root.kind == child {
		_, err = s.load(place{}, head.root) // proves that the uppermost page is there and has the root's hash
	}
	return err
}

// refuseRecords reports an error if there is any record.
func (s *Store) refuseRecords() error {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return err
	}
	if it.First() {
		err = malformed("records, but no format mark")
	}
	return errors.Join(err, it.Close())
}

func heightOf(record []byte) (int64, error) {
	p := parser{rest: record[1:]}
	h := p.uint64()
	if h > math.MaxInt64 {
		p.fail("height %d", h)
	}
	return int64(h), p.end()
}

// Version returns the last committed height, its root and its block time as given to Commit. On a fresh store all are zero.
func (s *Store) Version() (height int64, root wire.Digest, blockTime int64) {
	v := s.head.Load()
	return max(v.height, 0), hashOf(v.root), v.blockTime
}

// Fresh reports whether nothing was ever committed, which Version does not tell from a version at height 0.
func (s *Store) Fresh() bool { return s.head.Load().height < 0 }

// Oldest returns the lowest height that is still kept; 0 on a fresh store.
func (s *Store) Oldest() int64 { return s.oldest.Load() }

// At returns a view of the version of a height. Errors: [ErrNoVersion], [ErrPruned]. On a fresh store, height 0 is empty.
func (s *Store) At(height int64) (*View, error) {
	head := s.head.Load()
	if height == max(head.height, 0) {
		return &View{s, head.height}, nil
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	if _, err := s.versionAt(height); err != nil {
		return nil, err
	}
	return &View{s, height}, nil
}

// Latest returns a view of the last committed version.
func (s *Store) Latest() *View { return &View{s, s.head.Load().height} }

// versionAt returns the version of a kept height.
func (s *Store) versionAt(height int64) (*version, error) {
	head := s.head.Load()
	if height == max(head.height, 0) {
		return head, nil
	}
	if height > head.height {
		return nil, fmt.Errorf("%w: %d, the last is %d", ErrNoVersion, height, head.height)
	}
	if err := s.kept(height); err != nil {
		return nil, err
	}
	record, err := read(s.db, versionKey(uint64(height)))
	if errors.Is(err, pebble.ErrNotFound) {
		if err := s.kept(height); err != nil { // pruned in between
			return nil, err
		}
		return nil, fmt.Errorf("%w: %d", ErrNoVersion, height)
	}
	if err != nil {
		return nil, s.damaged(err)
	}
	v, err := parseVersion(height, record)
	if err != nil {
		return nil, s.damaged(err)
	}
	return v, nil
}

// kept returns ErrPruned if height is below the oldest kept one.
func (s *Store) kept(height int64) error {
	if oldest := s.oldest.Load(); height < oldest && height >= 0 {
		return fmt.Errorf("%w: %d, the oldest kept is %d", ErrPruned, height, oldest)
	}
	return nil
}

// load implements pages: from the cache, or from disk with the page's hash checked against the node that names it. So
// no wrong page is ever used: the chain of hashes starts at the root.
func (s *Store) load(at place, n *node) (*node, error) {
	id := pageID{n.version, at}
	if root := s.pages.get(id); root != nil {
		return root, nil
	}
	root, err := readPage(s.db, id, n.hash)
	if err != nil {
		return nil, err
	}
	s.pages.put(id, root)
	return root, nil
}

// readPage reads a page and checks that its hash is the wanted one.
func readPage(r pebble.Reader, id pageID, want wire.Digest) (*node, error) {
	page, err := read(r, pageKey(nil, id))
	if err != nil {
		return nil, fmt.Errorf("page of height %d at depth %d, path %x: %w", id.version, id.depth, id.path, err)
	}
	root, err := parsePage(page)
	if err == nil && root.hash != want {
		err = malformed("hash %s, the page above says %s", root.hash, want)
	}
	if err != nil {
		return nil, fmt.Errorf("page of height %d at depth %d, path %x: %w", id.version, id.depth, id.path, err)
	}
	return root, nil
}

// read returns a copy of a record, or pebble.ErrNotFound.
func read(r pebble.Reader, key []byte) ([]byte, error) {
	record, closer, err := r.Get(key)
	if err != nil {
		return nil, err
	}
	record = bytes.Clone(record)
	return record, closer.Close()
}

// explain says what an error met while reading the version of a height means: the version may have been pruned
// meanwhile, or a record that must be there is not, or cannot be read.
func (s *Store) explain(height int64, err error) error {
	if err == nil || errors.Is(err, ErrPruned) {
		return err
	}
	if err := s.kept(height); err != nil {
		return err
	}
	if errors.Is(err, pebble.ErrNotFound) || wrongContent(err) {
		return s.damaged(err)
	}
	return fmt.Errorf("state: read %s at height %d: %w", s.dir, height, err)
}

// wrongContent reports whether an error is about what the files hold, and not about getting at them.
func wrongContent(err error) bool {
	return errors.Is(err, errFormat) || pebble.IsCorruptionError(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, fs.ErrNotExist)
}

func (s *Store) damaged(cause error) error {
	err := damaged(s.dir, cause)
	s.fail(err)
	return err
}

// fail stops all further writing.
func (s *Store) fail(err error) {
	if s.fault.CompareAndSwap(nil, &err) {
		s.logger.Error("state: no further writes", "dir", s.dir, "error", err)
	}
}

// faulty returns the error that stopped writing, if any.
func (s *Store) faulty() error {
	if err := s.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// enter begins a call that uses the database; leave ends it.
func (s *Store) enter() error {
	if s.users.Add(1) < 0 {
		s.leave()
		return ErrClosed
	}
	return nil
}

func (s *Store) leave() {
	if s.users.Add(-1) == closing {
		s.once.Do(func() { close(s.drained) })
	}
}

// Close waits for the calls under way and closes the files. Views of a closed store return [ErrClosed]. It must not be
// called while the same goroutine iterates over a Scan.
func (s *Store) Close() error {
	for {
		users := s.users.Load()
		if users < 0 {
			return ErrClosed
		}
		if s.users.CompareAndSwap(users, users+closing) {
			if users > 0 {
				<-s.drained
			}
			break
		}
	}
	return s.close()
}

func (s *Store) close() error {
	if err := errors.Join(s.height.close(), s.closePebble()); err != nil {
		return fmt.Errorf("state: close %s: %w", s.dir, err)
	}
	return nil
}

func (s *Store) closePebble() (err error) {
	defer s.blocks.Unref()
	defer func() {
		// Pebble panics if its own goroutines met a failure they cannot undo; the files are as after a crash.
		if r := recover(); r != nil {
			err = errors.Join(s.faulty(), fmt.Errorf("state: close %s: %v", s.dir, r))
		}
	}()
	return s.db.Close()
}

// orderedFS makes a new manifest's directory entry durable before anything else happens. Pebble syncs the directory
// only after it has made the marker that names the manifest; a file system that keeps no order among entries, which POSIX
// allows, could then lose the manifest in a crash and keep the marker. TestCrashAtEveryWrite found it.
type orderedFS struct{ vfs.FS }

func (o orderedFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := o.FS.Create(name, category)
	if err == nil && strings.HasPrefix(o.PathBase(name), "MANIFEST-") {
		if err = syncDir(o.FS, o.PathDir(name)); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	return file, err
}

// syncDir makes the entries of a directory durable.
func syncDir(files vfs.FS, dir string) error {
	d, err := files.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("state: sync %s: %w", dir, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// pebbleLog passes Pebble's messages on. Pebble expects Fatalf to end the process; this one stops all further writes
// instead and lets the caller of Commit decide, since the version on disk stays readable.
type pebbleLog struct{ s *Store }

func (l pebbleLog) Infof(format string, args ...any) {
	l.s.logger.Debug("pebble", "dir", l.s.dir, "message", fmt.Sprintf(format, args...))
}

func (l pebbleLog) Errorf(format string, args ...any) {
	l.s.logger.Warn("pebble", "dir", l.s.dir, "message", fmt.Sprintf(format, args...))
}

func (l pebbleLog) Fatalf(format string, args ...any) {
	l.s.fail(fmt.Errorf("%w: %s", ErrDoubt, fmt.Sprintf(format, args...)))
}

var _ pebble.Logger = pebbleLog{}
var _ io.Closer = (*Store)(nil)
