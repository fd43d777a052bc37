package state

import (
	"bytes"
	"errors"
	"iter"

	"github.com/cockroachdb/pebble/v2"
)

// View is one committed version. It holds nothing open and needs no closing; any number of goroutines may use it. It shows
// the same state for ever, or, once its height is no longer kept, returns [ErrPruned].
type View struct {
	store  *Store
	height int64 // -1: of a fresh store
}

var _ Reader = (*View)(nil)

// Height returns the height of the version; 0 for the empty version of a fresh store.
func (v *View) Height() int64 { return max(v.height, 0) }

// Get implements [Reader]. Errors: [ErrPruned], [ErrDamaged], [ErrClosed].
func (v *View) Get(key []byte) (value []byte, ok bool, err error) {
	if err := v.store.enter(); err != nil {
		return nil, false, err
	}
	defer v.store.leave()
	if v.height < 0 {
		return nil, false, nil
	}
	value, _, ok, err = find(v.store.db, key, v.height)
	if err != nil {
		return nil, false, v.store.explain(v.height, err)
	}
	if err := v.store.kept(v.height); err != nil {
		return nil, false, err
	}
	return value, ok, nil
}

// find returns the newest value of key at or below height, and the height it was written at.
func find(r pebble.Reader, key []byte, height int64) (value []byte, at uint64, ok bool, err error) {
	it, err := r.NewIter(nil)
	if err != nil {
		return nil, 0, false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	var buffer [128]byte
	seek := valueKey(buffer[:0], key, uint64(height))
	if !it.SeekPrefixGE(seek) {
		return nil, 0, false, it.Error()
	}
	record, err := it.ValueAndErr()
	if err != nil {
		return nil, 0, false, err
	}
	if _, at, err = parseValueKey(it.Key()); err != nil {
		return nil, 0, false, err
	}
	if value, ok, err = parseValue(record); ok {
		value = append(make([]byte, 0, len(value)), value...)
	}
	return value, at, ok, err
}

// Scan implements [Reader]. Errors: [ErrPruned], [ErrDamaged], [ErrClosed].
func (v *View) Scan(start, end []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := v.store.enter(); err != nil {
			yield(Entry{}, err)
			return
		}
		defer v.store.leave()
		if v.height < 0 || end != nil && bytes.Compare(start, end) >= 0 {
			return
		}
		// The iterator shows the database as it is now, whatever is pruned later: one look at what is kept is enough.
		check := func() error { return v.store.kept(v.height) }
		stopped := false
		err := scan(v.store.db, start, end, v.height, check, func(e Entry) bool {
			stopped = !yield(e, nil)
			return !stopped
		})
		if err != nil && !stopped {
			yield(Entry{}, v.store.explain(v.height, err))
		}
	}
}

// stepsBeforeSeek is how many newer versions of a key a scan steps over before it seeks.
const stepsBeforeSeek = 4

// scan calls visit with the entries of the version at height until it returns false. It calls check once, when the
// iterator is open.
func scan(r pebble.Reader, start, end []byte, height int64, check func() error, visit func(Entry) bool) (err error) {
	o := &pebble.IterOptions{LowerBound: scanBound(start), UpperBound: []byte{keyValue + 1}}
	if end != nil {
		o.UpperBound = scanBound(end)
	}
	it, err := r.NewIter(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if err := check(); err != nil {
		return err
	}
	steps := 0
	for more := it.First(); more; {
		key, at, err := parseValueKey(it.Key())
		if err != nil {
			return err
		}
		if at > uint64(height) { // newer than the version asked for
			if steps++; steps <= stepsBeforeSeek {
				more = it.Next()
			} else {
				more = it.SeekGE(valueKey(nil, key, uint64(height)))
				steps = 0
			}
			continue
		}
		record, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		value, ok, err := parseValue(record)
		if err != nil {
			return err
		}
		if ok && !visit(Entry{Key: key, Value: append(make([]byte, 0, len(value)), value...)}) {
			return nil
		}
		steps = 0
		more = it.NextPrefix()
	}
	return it.Error()
}
