package layer2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	iofs "io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// journal is the engine's disk: an ordered map of checksummed records on Pebble, to which one goroutine writes. Writers of
// many sessions meet in its queue, and whatever has gathered while the disk was busy becomes one batch and one fsync
// (group commit).
//
// Crash story. A write is one atomic batch. Before its fsync a crash leaves all of it or nothing; nobody has been
// answered. After its fsync it survives. The tail file is written after the fsync and never synced itself: after a
// crash of the process it is exact, after a crash of the machine it may be behind, it is never ahead of what was durable.
// So a journal that ends before its tail mark has lost durable records, by a truncated or replaced file, and Open says so.
type journal struct {
	db    *pebble.DB
	tail  vfs.File
	queue chan *write
	done  chan struct{} // closed when the writer has ended

	lazy   sync.Mutex // guards later
	asides []op       // wait for the next write; see later

	reads latch // reading from db, which is closed only when nobody does

	stop    sync.RWMutex // write-held to close queue
	stopped bool

	failed atomic.Pointer[error] // the first failure; nothing is written after it
	halt   func(error)
	number uint64 // of the last write; owned by the writer after open
}

// op sets key to value, or deletes key if value is nil.
type op struct{ key, value []byte }

type write struct {
	ops  []op
	done chan error
}

// maxGroup bounds the writes that share one fsync, so that the batch stays small beside Pebble's memtable.
const maxGroup = 256

var errClosed = errors.New("the journal is closed")

// Damage says that the journal on disk is not what was written. Its text names what is damaged and what to do.
type Damage struct {
	Dir    string
	What   string // which record of which session, or which file
	Remedy string
	Err    error // may be nil
}

func (d *Damage) Error() string {
	s := fmt.Sprintf("the session log in %s is damaged: %s", d.Dir, d.What)
	if d.Err != nil {
		s += " (" + d.Err.Error() + ")"
	}
	return s + ". " + d.Remedy
}

// Unwrap returns the cause.
func (d *Damage) Unwrap() error { return d.Err }

const remedy = "Nothing was changed. Check the disk; if there is a copy of the directory, put it back. Otherwise move the " +
	"directory aside and start again: what is committed is on the ledger; clients of sessions that are not committed " +
	"open new ones, or continue at a node that has theirs"

func openJournal(dir string, fs vfs.FS, logger *slog.Logger, halt func(error)) (*journal, error) {
	j := &journal{queue: make(chan *write, 4*maxGroup), done: make(chan struct{}), halt: halt}
	j.reads.init()
	cache := pebble.NewCache(16 << 20)
	defer cache.Unref()
	db, err := pebble.Open(dir, &pebble.Options{
		FS:                 fs,
		FormatMajorVersion: pebble.FormatNewest, // since FormatWALSyncChunks a damaged record is told from a torn end
		Cache:              cache,
		MemTableSize:       16 << 20,
		Logger:             &pebbleLogger{j: j, log: logger},
		EventListener: &pebble.EventListener{
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				_ = j.refuseWrites(&Damage{Dir: dir, What: "the file " + info.Path + " cannot be read back", Remedy: remedy, Err: info.Details})
			},
		},
	})
	if err != nil {
		if pebble.IsCorruptionError(err) || errors.Is(err, iofs.ErrNotExist) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, &Damage{Dir: dir, What: "the files cannot be read back", Remedy: remedy, Err: err}
		}
		return nil, fmt.Errorf("open the session log in %s: %w. If another process has it open, stop that one. If a file is damaged: %s", dir, err, remedy)
	}
	j.db = db
	if err := j.openTail(dir, fs); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	go j.run()
	return j, nil
}

// openTail reads the tail mark, compares it with the last write in the database, and leaves the file open.
func (j *journal) openTail(dir string, fs vfs.FS) error {
	last, ok, err := j.get(keyLast)
	if err != nil {
		return &Damage{Dir: dir, What: "the number of the last write", Remedy: remedy, Err: err}
	}
	if ok {
		if len(last) != 8 {
			return &Damage{Dir: dir, What: "the number of the last write has the wrong size", Remedy: remedy}
		}
		j.number = binary.BigEndian.Uint64(last)
	}
	path := fs.PathJoin(dir, "TAIL")
	mark, err := readTail(fs, path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if mark > j.number {
		return &Damage{Dir: dir, Remedy: remedy, What: fmt.Sprintf(
			"it ends with write %d, but write %d was on disk: %d acknowledged writes are missing at its end, so that a file must have been truncated or replaced",
			j.number, mark, mark-j.number)}
	}
	j.tail, err = fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return j.mark()
}

// readTail returns the tail mark, 0 if there is none. The file holds two slots written in turn, so that a torn write
// leaves the other.
func readTail(fs vfs.FS, path string) (uint64, error) {
	f, err := fs.Open(path)
	if err != nil {
		if vfsNotExist(err) {
			return 0, nil
		}
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 64))
	if err != nil {
		return 0, err
	}
	var most uint64
	for slot := 0; slot+tailSlot <= len(b); slot += tailSlot {
		n, sum := binary.BigEndian.Uint64(b[slot:]), binary.BigEndian.Uint32(b[slot+8:])
		if crc32.Checksum(b[slot:slot+8], castagnoli) == sum {
			most = max(most, n)
		}
	}
	return most, nil
}

const tailSlot = 16

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// mark writes the tail mark for the last write.
func (j *journal) mark() error {
	var b [tailSlot]byte
	binary.BigEndian.PutUint64(b[:], j.number)
	binary.BigEndian.PutUint32(b[8:], crc32.Checksum(b[:8], castagnoli))
	_, err := j.tail.WriteAt(b[:], int64(j.number%2)*tailSlot)
	return err
}

// append writes the ops in one atomic step and returns once they are on disk. It is safe for concurrent use.
func (j *journal) append(ops ...op) error {
	w := &write{ops: ops, done: make(chan error, 1)}
	j.stop.RLock()
	if j.stopped {
		j.stop.RUnlock()
		return errClosed
	}
	j.queue <- w
	j.stop.RUnlock()
	return <-w.done
}

// later has ops written together with the next write, whoever makes it, or at the next flush. Until then a crash loses
// them: it is for what can be had again.
func (j *journal) later(ops ...op) {
	j.lazy.Lock()
	j.asides = append(j.asides, ops...)
	j.lazy.Unlock()
}

func (j *journal) takeAsides() []op {
	j.lazy.Lock()
	defer j.lazy.Unlock()
	ops := j.asides
	j.asides = nil
	return ops
}

// flush writes what later has left, if there is anything.
func (j *journal) flush() error {
	if ops := j.takeAsides(); len(ops) > 0 {
		return j.append(ops...)
	}
	return nil
}

// run is the writer goroutine.
func (j *journal) run() {
	defer close(j.done)
	group := make([]*write, 0, maxGroup)
	for first := range j.queue {
		group = append(group[:0], first)
	more:
		for len(group) < maxGroup {
			select {
			case w, ok := <-j.queue:
				if !ok {
					break more
				}
				group = append(group, w)
			default:
				break more
			}
		}
		err := j.commit(group)
		for _, w := range group {
			w.done <- err
		}
	}
}

func (j *journal) commit(group []*write) error {
	if err := j.failed.Load(); err != nil {
		return *err
	}
	b := j.db.NewBatch()
	defer b.Close()
	for _, w := range append(group, &write{ops: j.takeAsides()}) {
		for _, o := range w.ops {
			var err error
			if o.value == nil {
				err = b.Delete(o.key, nil)
			} else {
				err = b.Set(o.key, seal(o.key, o.value), nil)
			}
			if err != nil {
				return j.fail(err)
			}
		}
	}
	j.number++
	if err := b.Set(keyLast, seal(keyLast, binary.BigEndian.AppendUint64(nil, j.number)), nil); err != nil {
		return j.fail(err)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return j.fail(err)
	}
	if err := j.failed.Load(); err != nil { // Pebble reports a failed write through its logger
		return *err
	}
	if err := j.mark(); err != nil {
		return j.fail(fmt.Errorf("write the tail mark: %w", err))
	}
	return nil
}

// fail stops the journal for good: after a failed write nobody knows what the disk holds.
func (j *journal) fail(err error) error {
	return j.refuseWrites(fmt.Errorf("the session log cannot be written: %w", err))
}

// refuseWrites refuses all further writes because of err and asks the node to halt.
func (j *journal) refuseWrites(err error) error {
	if j.failed.CompareAndSwap(nil, &err) {
		go j.halt(err)
	}
	return *j.failed.Load()
}

// get returns a copy of the value under key. An error means a damaged record or a failing disk.
func (j *journal) get(key []byte) ([]byte, bool, error) {
	if !j.reads.add() {
		return nil, false, errClosed
	}
	defer j.reads.Done()
	b, closer, err := j.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer closer.Close()
	v, err := unseal(key, b)
	if err != nil {
		return nil, false, err
	}
	return append([]byte{}, v...), true, nil
}

// scan calls each with every record whose key begins with prefix, in key order, until each returns an error. key and
// value are valid only during the call.
func (j *journal) scan(prefix []byte, each func(key, value []byte) error) error {
	return j.scanBetween(prefix, after(prefix), each)
}

// scanBetween is scan for the keys from one up to, but not including, another.
func (j *journal) scanBetween(from, to []byte, each func(key, value []byte) error) (err error) {
	if !j.reads.add() {
		return errClosed
	}
	defer j.reads.Done()
	it, err := j.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return err
	}
	defer func() {
		if closed := it.Close(); err == nil {
			err = closed
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		b, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		v, err := unseal(it.Key(), b)
		if err != nil {
			return err
		}
		if err := each(it.Key(), v); err != nil {
			return err
		}
	}
	return it.Error()
}

// close writes what is queued and closes the database. append returns errClosed from then on.
func (j *journal) close() error {
	_ = j.flush() // fails if the journal is closed or has failed
	j.stop.Lock()
	if j.stopped {
		j.stop.Unlock()
		return nil
	}
	j.stopped = true
	close(j.queue)
	j.stop.Unlock()
	<-j.done
	// Handlers in a replay read on until they notice that they were cut off; under a reader Pebble panics.
	if !j.reads.closeAndWait(readersLeave) {
		return errors.New("the session log is not closed: it is still being read")
	}
	return errors.Join(j.tail.Close(), j.db.Close())
}

// readersLeave bounds how long close waits for them.
const readersLeave = 10 * time.Second

// sealVersion is the first byte of every record.
const sealVersion = 1

// seal frames a record: version, payload, CRC-32C over key, version and payload.
func seal(key, payload []byte) []byte {
	b := make([]byte, 0, len(payload)+5)
	b = append(b, sealVersion)
	b = append(b, payload...)
	return binary.BigEndian.AppendUint32(b, sealSum(key, b))
}

func sealSum(key, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
}

// unseal checks a record and returns its payload, which shares b's memory.
func unseal(key, b []byte) ([]byte, error) {
	if len(b) < 5 {
		return nil, damagedRecord(key, fmt.Sprintf("is %d bytes long", len(b)))
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if sealSum(key, body) != sum {
		return nil, damagedRecord(key, "has a wrong checksum")
	}
	if body[0] != sealVersion {
		return nil, damagedRecord(key, fmt.Sprintf("has version %d; this program knows %d", body[0], sealVersion))
	}
	return body[1:], nil
}

// recordError names a damaged record.
type recordError struct{ what string }

func (e *recordError) Error() string { return e.what }

func damagedRecord(key []byte, what string) error {
	return &recordError{nameOf(key) + " " + what}
}

// after returns the first key behind all keys with the prefix.
func after(prefix []byte) []byte {
	end := append([]byte{}, prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// pebbleLogger passes Pebble's messages on. Pebble calls Fatalf when a write failed and it cannot go on; it then expects
// the process to end. The journal refuses every write from then on and asks the node to halt.
type pebbleLogger struct {
	j   *journal
	log *slog.Logger
}

func (l *pebbleLogger) Infof(format string, args ...any) {
	l.log.Debug("pebble", "message", fmt.Sprintf(format, args...))
}

func (l *pebbleLogger) Errorf(format string, args ...any) {
	l.log.Error("pebble", "message", fmt.Sprintf(format, args...))
}

func (l *pebbleLogger) Fatalf(format string, args ...any) {
	_ = l.j.fail(fmt.Errorf(format, args...))
}
