package layer2

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"

	"tandem/internal/state"
	"tandem/internal/wire"
)

// HeaderHint names the open sessions of other people that a step has met; docs/http.md. It is advice, nothing holds the
// other session back, and the answer's signature does not cover it.
const HeaderHint = "Tandem-Hint"

// Hint says that a step has read or written what another open session on this node has written and not committed. If the
// other is committed first, this session may conflict.
type Hint struct {
	Session wire.SessionID // the other
	Wrote   bool           // this step writes the key too; otherwise it read it
	Key     []byte         // the first such key
}

// maxHints bounds the sessions that one answer names.
const maxHints = 8

// maxHintKey bounds a key in the header, in bytes of its text.
const maxHintKey = 128

// hintHeader writes hints as a list of RFC 9651: "ID";by=read;key="a/packages/r/PKG-1", ...
func hintHeader(hints []Hint) string {
	var b strings.Builder
	for i, h := range hints {
		if i > 0 {
			b.WriteString(", ")
		}
		by := "read"
		if h.Wrote {
			by = "write"
		}
		key := keyText(h.Key)
		key = key[:min(len(key), maxHintKey)]
		key = strings.ReplaceAll(strings.ReplaceAll(key, `\`, `\\`), `"`, `\"`)
		fmt.Fprintf(&b, `"%s";by=%s;key="%s"`, h.Session, by, key)
	}
	return b.String()
}

// hintIndex finds, for what a step reads and writes, the open sessions that have written it: from written keys, in order,
// to sessions. It stands beside the index of reads, has a lock of its own, and decides nothing: a session that is missing
// from it costs a hint.
//
// The keys are kept in chunks, so that entering one moves at most a chunk, and finding one is two binary searches.
type hintIndex struct {
	mu     sync.Mutex
	chunks [][]writtenKey // none empty; all keys ascending
	by     map[*owner][]string
}

// writtenKey is a key and the sessions that have written it; most often one.
type writtenKey struct {
	key string
	by  []*owner
}

const maxChunk = 256

func newHintIndex() *hintIndex { return &hintIndex{by: map[*owner][]string{}} }

// step looks up what a step of o has read and written, then enters its writes.
func (x *hintIndex) step(o *owner, reads *state.ReadSet, writes []state.Change) []Hint {
	keys, ranges := reads.Keys(), reads.Ranges()
	x.mu.Lock()
	defer x.mu.Unlock()
	var found []Hint
	for i := range writes {
		found = x.meet(found, o, writes[i].Key, true)
	}
	for _, key := range keys {
		found = x.meet(found, o, key, false)
	}
	for _, r := range ranges {
		found = x.meetRange(found, o, r)
	}
	for i := range writes {
		x.add(o, string(writes[i].Key))
	}
	return found
}

// replace enters what o has written in all, in place of what was known.
func (x *hintIndex) replace(o *owner, writes []state.Change) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.forget(o)
	for i := range writes {
		x.add(o, string(writes[i].Key))
	}
}

// drop forgets a session that has ended.
func (x *hintIndex) drop(o *owner) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.forget(o)
}

// meet adds the other sessions that have written key.
func (x *hintIndex) meet(found []Hint, o *owner, key []byte, wrote bool) []Hint {
	c, i, ok := x.find(string(key))
	if !ok {
		return found
	}
	return meetAll(found, o, x.chunks[c][i].by, key, wrote)
}

// maxRangeLook bounds the written keys of a range that are looked at: hints are advice, and a step is not to wait for it.
const maxRangeLook = 256

func (x *hintIndex) meetRange(found []Hint, o *owner, r state.Range) []Hint {
	c, i, _ := x.find(string(r.Start))
	for looked := 0; c < len(x.chunks) && looked < maxRangeLook && len(found) < maxHints; c, i = c+1, 0 {
		for ; i < len(x.chunks[c]) && looked < maxRangeLook && len(found) < maxHints; i++ {
			at := &x.chunks[c][i]
			if r.End != nil && at.key >= string(r.End) {
				return found
			}
			found = meetAll(found, o, at.by, []byte(at.key), false)
			looked++
		}
	}
	return found
}

func meetAll(found []Hint, o *owner, by []*owner, key []byte, wrote bool) []Hint {
	for _, other := range by {
		if other == o || len(found) >= maxHints || slices.ContainsFunc(found, func(h Hint) bool { return h.Session == other.id }) {
			continue
		}
		found = append(found, Hint{Session: other.id, Wrote: wrote, Key: bytes.Clone(key)})
	}
	return found
}

// find returns where key is, or would be.
func (x *hintIndex) find(key string) (chunk, at int, ok bool) {
	// The first chunk that begins behind key; the one before it holds key, if any does.
	c, _ := slices.BinarySearchFunc(x.chunks, key, func(chunk []writtenKey, key string) int {
		if chunk[0].key <= key {
			return -1
		}
		return 1
	})
	c = max(c-1, 0)
	if c >= len(x.chunks) {
		return c, 0, false
	}
	at, ok = slices.BinarySearchFunc(x.chunks[c], key, func(w writtenKey, key string) int { return strings.Compare(w.key, key) })
	return c, at, ok
}

func (x *hintIndex) add(o *owner, key string) {
	c, i, ok := x.find(key)
	switch {
	case ok && slices.Contains(x.chunks[c][i].by, o):
		return
	case ok:
		x.chunks[c][i].by = append(x.chunks[c][i].by, o)
	case len(x.chunks) == 0:
		x.chunks = [][]writtenKey{{{key, []*owner{o}}}}
	default:
		chunk := slices.Insert(x.chunks[c], i, writtenKey{key, []*owner{o}})
		x.chunks[c] = chunk
		if half := len(chunk) / 2; len(chunk) > maxChunk {
			x.chunks = slices.Insert(x.chunks, c+1, slices.Clone(chunk[half:]))
			x.chunks[c] = slices.Clip(chunk[:half])
		}
	}
	x.by[o] = append(x.by[o], key)
}

func (x *hintIndex) forget(o *owner) {
	for _, key := range x.by[o] {
		c, i, ok := x.find(key)
		if !ok {
			continue
		}
		at := &x.chunks[c][i]
		at.by = slices.DeleteFunc(at.by, func(other *owner) bool { return other == o })
		if len(at.by) > 0 {
			continue
		}
		x.chunks[c] = slices.Delete(x.chunks[c], i, i+1)
		if len(x.chunks[c]) == 0 {
			x.chunks = slices.Delete(x.chunks, c, c+1)
		}
	}
	delete(x.by, o)
}

// hinted are the hints of the session's last step; they go with its first answer only.
type hinted struct {
	sequence uint64
	hints    []Hint
}

// hint looks for others that the step about to be recorded meets.
func (o *owner) hint(sequence uint64, child *state.Overlay) {
	o.hinted = hinted{sequence, o.e.hints.step(o, child.Reads(), child.Changes())}
}

// hintsFor are the hints for a first answer to the step.
func (o *owner) hintsFor(sequence uint64) []Hint {
	if o.hinted.sequence != sequence {
		return nil
	}
	return o.hinted.hints
}
