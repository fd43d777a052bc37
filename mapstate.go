package tandem

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"sort"
)

// Limits of the State. A handler that exceeds one fails its step with a deterministic 500.
const (
	MaxKey   = 1024    // bytes in a key, at least 1
	MaxValue = 1 << 20 // bytes in a value
)

// MapState is a State in memory, for a service's own tests. It panics where a real state would fail the step: on an
// empty key or on one over a limit. Not safe for concurrent use.
type MapState struct {
	keys   []string // sorted
	values map[string][]byte
}

// NewMapState returns an empty state.
func NewMapState() *MapState {
	return &MapState{values: make(map[string][]byte)}
}

// Get returns the value of key. The caller must not change it.
func (m *MapState) Get(key []byte) ([]byte, bool) {
	checkKey(key)
	v, ok := m.values[string(key)]
	return v, ok
}

// Set stores a copy of value under key.
func (m *MapState) Set(key, value []byte) {
	checkKey(key)
	if len(value) > MaxValue {
		panic(fmt.Sprintf("tandem: value of %d bytes under key %q; at most %d", len(value), key, MaxValue))
	}
	if _, ok := m.values[string(key)]; !ok {
		i := sort.SearchStrings(m.keys, string(key))
		m.keys = slices.Insert(m.keys, i, string(key))
	}
	m.values[string(key)] = append([]byte{}, value...)
}

// Delete removes key; a key that is not there is no error.
func (m *MapState) Delete(key []byte) {
	checkKey(key)
	if _, ok := m.values[string(key)]; ok {
		i := sort.SearchStrings(m.keys, string(key))
		m.keys = slices.Delete(m.keys, i, i+1)
		delete(m.values, string(key))
	}
}

// Scan yields the entries with start <= key < end in key order, as they were when the loop began; a nil end means to
// the last key.
func (m *MapState) Scan(start, end []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		lo := sort.SearchStrings(m.keys, string(start))
		hi := len(m.keys)
		if end != nil {
			hi = max(lo, sort.SearchStrings(m.keys, string(end)))
		}
		keys := slices.Clone(m.keys[lo:hi])
		values := make([][]byte, len(keys))
		for i, k := range keys {
			values[i] = m.values[k] // Set replaces slices and never writes into them
		}
		for i, k := range keys {
			if !yield([]byte(k), values[i]) {
				return
			}
		}
	}
}

// Equal reports whether both states hold the same entries.
func (m *MapState) Equal(o *MapState) bool {
	if !slices.Equal(m.keys, o.keys) {
		return false
	}
	for k, v := range m.values {
		if !bytes.Equal(v, o.values[k]) {
			return false
		}
	}
	return true
}

func checkKey(key []byte) {
	if len(key) == 0 || len(key) > MaxKey {
		panic(fmt.Sprintf("tandem: key of %d bytes; a key has 1 to %d", len(key), MaxKey))
	}
}
