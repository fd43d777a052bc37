package layer2

import (
	"bytes"
	"slices"
	"strings"

	"tandem/internal/state"
)

// index finds the sessions that a block's changes touch: from keys and ranges that sessions have read to the sessions. Its
// cost per block is one look-up per changed key and one binary search per distinct range, not one visit per session.
// It is guarded by Engine.mu.
type index struct {
	keys   map[uint64]readers // by keyHash; a collision costs a needless re-execution and hides nothing
	ranges map[string]*rangeReaders
}

// readers are the sessions that have read one key. Most keys are read by one or two.
type readers []*owner

type rangeReaders struct {
	start, end string // end "" with open: to the last key
	open       bool
	by         map[*owner]struct{}
}

// reads are what one session has put into the index.
type reads struct {
	keys   []uint64
	ranges []*rangeReaders
}

func newIndex() *index {
	return &index{keys: map[uint64]readers{}, ranges: map[string]*rangeReaders{}}
}

// add enters what o has read; known is what it has entered before (nil: nothing).
func (x *index) add(o *owner, set, known *state.ReadSet) {
	for _, key := range set.Keys() {
		if known != nil {
			if _, there := known.Present(key); there {
				continue
			}
		}
		h := keyHash(key)
		at := x.keys[h]
		if at == nil {
			at = make(readers, 0, 1)
		}
		x.keys[h] = append(at, o)
		o.reads.keys = append(o.reads.keys, h)
	}
	for _, r := range set.Ranges() {
		name := rangeName(r)
		at := x.ranges[name]
		if at == nil {
			at = &rangeReaders{start: string(r.Start), end: string(r.End), open: r.End == nil, by: map[*owner]struct{}{}}
			x.ranges[name] = at
		}
		if _, there := at.by[o]; !there {
			at.by[o] = struct{}{}
			o.reads.ranges = append(o.reads.ranges, at)
		}
	}
}

// drop removes everything that o has read.
func (x *index) drop(o *owner) {
	for _, h := range o.reads.keys {
		at := x.keys[h]
		if i := slices.Index(at, o); i >= 0 {
			at[i] = at[len(at)-1]
			at[len(at)-1] = nil
			at = at[:len(at)-1]
		}
		if len(at) == 0 {
			delete(x.keys, h)
		} else {
			x.keys[h] = at
		}
	}
	for _, at := range o.reads.ranges {
		if delete(at.by, o); len(at.by) == 0 {
			delete(x.ranges, rangeName(state.Range{Start: []byte(at.start), End: at.endBytes()}))
		}
	}
	o.reads = reads{}
}

// touched returns the sessions that have read what the changes, sorted by key, write.
func (x *index) touched(changes []state.Change) map[*owner]struct{} {
	found := map[*owner]struct{}{}
	for i := range changes {
		for _, o := range x.keys[keyHash(changes[i].Key)] {
			found[o] = struct{}{}
		}
	}
	for _, r := range x.ranges {
		if r.meets(changes) {
			for o := range r.by {
				found[o] = struct{}{}
			}
		}
	}
	return found
}

func (r *rangeReaders) endBytes() []byte {
	if r.open {
		return nil
	}
	return []byte(r.end)
}

func (r *rangeReaders) meets(changes []state.Change) bool {
	i, _ := slices.BinarySearchFunc(changes, r.start, func(c state.Change, start string) int {
		return strings.Compare(string(c.Key), start)
	})
	return i < len(changes) && (r.open || string(changes[i].Key) < r.end)
}

func rangeName(r state.Range) string {
	var b strings.Builder
	b.Grow(len(r.Start) + len(r.End) + 9)
	b.WriteString(string(r.Start))
	b.WriteByte(0)
	if r.End == nil {
		b.WriteByte(1)
	}
	b.WriteByte(byte(len(r.Start)))
	b.WriteByte(byte(len(r.Start) >> 8))
	b.WriteString(string(r.End))
	return b.String()
}

// keyHash is FNV-1a.
func keyHash(key []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range key {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// ring holds the last blocks' changes: for the race between a step and a block, and to name the winner of a conflict. It
// is guarded by Engine.mu; the blocks in it are not changed any more.
type ring struct {
	blocks []Block // ascending heights without gaps
}

// ringBlocks is how many blocks the ring holds, and ringChanges how many changes at most, whatever comes first; the newest
// block always stays.
const (
	ringBlocks  = 128
	ringChanges = 200_000
)

func (r *ring) add(b Block) {
	if n := len(r.blocks); n > 0 && b.Height != r.blocks[n-1].Height+1 {
		r.blocks = nil
	}
	r.blocks = append(r.blocks, b)
	changes := 0
	for _, b := range r.blocks {
		changes += len(b.Changes)
	}
	for len(r.blocks) > 1 && (len(r.blocks) > ringBlocks || changes > ringChanges) {
		changes -= len(r.blocks[0].Changes)
		r.blocks[0] = Block{}
		r.blocks = r.blocks[1:]
	}
}

// met reports whether what was read on the state at height has been changed by a block since, up to newest. If the ring
// does not reach back to height, it has to be assumed.
func (r *ring) met(set *state.ReadSet, height, newest int64) bool {
	if height >= newest {
		return false
	}
	if len(r.blocks) == 0 || r.blocks[0].Height > height+1 {
		return true
	}
	for i := range r.blocks {
		if b := &r.blocks[i]; b.Height > height {
			if _, ok := set.Meets(b.Changes); ok {
				return true
			}
		}
	}
	return false
}

// changed finds the newest block after height that changed what a question of the kind asked, and the key.
func (r *ring) changed(kind byte, asked state.Range, height int64) (*Block, []byte) {
	for i := len(r.blocks) - 1; i >= 0 && r.blocks[i].Height > height; i-- {
		b := &r.blocks[i]
		at, _ := slices.BinarySearchFunc(b.Changes, asked.Start, func(c state.Change, start []byte) int {
			return bytes.Compare(c.Key, start)
		})
		if at < len(b.Changes) {
			key := b.Changes[at].Key
			if kind == askedKey && bytes.Equal(key, asked.Start) || kind == askedRange && asked.Contains(key) {
				return b, key
			}
		}
	}
	return nil, nil
}

// winners are the sessions of a block that may have changed key.
func winners(b *Block, key []byte) []Settled {
	var sure, maybe []Settled
	for _, s := range b.Sessions {
		if s.Keys == nil {
			maybe = append(maybe, s)
		} else if slices.ContainsFunc(s.Keys, func(k []byte) bool { return bytes.Equal(k, key) }) {
			sure = append(sure, s)
		}
	}
	if len(sure) > 0 {
		return sure
	}
	return maybe
}
