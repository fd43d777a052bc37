package layer2

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"iter"
	"slices"

	"tandem/internal/state"
)

// question is one thing that a step asked of the committed state, and what it was told, as hashes.
//
// A deterministic handler that is given the same request and has been told the same so far asks the same next question. So
// when a session that is run again answers otherwise, the first place where the old and the new list of questions differ
// says why: the same question with another answer means that the state has changed (a conflict, and this is the key);
// another question after equal answers, or no difference at all, means that the handler is not deterministic.
type question struct {
	Kind   byte // askedKey or askedRange
	Asked  uint64
	Answer uint64
}

const (
	askedKey   = 'k'
	askedRange = 'r'
)

// maxQuestions bounds the questions kept per step. Of a step that asks more, the rest is not compared; a difference there
// counts as a conflict.
const maxQuestions = 512

// questioner stands between a session's overlay and the committed state and keeps the questions that pass. It is owned
// by the session's owner; exec calls it from the handler's goroutine while the owner waits.
type questioner struct {
	base  state.Reader
	asked []question
	// keys are the questions in full, parallel to asked, if wanted; a single key is the Start.
	want bool
	keys []state.Range
}

// Get implements state.Reader.
func (q *questioner) Get(key []byte) ([]byte, bool, error) {
	value, ok, err := q.base.Get(key)
	if err == nil {
		answer := uint64(0)
		if ok {
			answer = hash64(value) | 1
		}
		q.note(question{askedKey, hash64(key), answer}, state.Range{Start: key})
	}
	return value, ok, err
}

// Scan implements state.Reader.
func (q *questioner) Scan(start, end []byte) iter.Seq2[state.Entry, error] {
	return func(yield func(state.Entry, error) bool) {
		h := sha256.New()
		defer func() {
			asked := sha256.New()
			frame(asked, start)
			frame(asked, end)
			q.note(question{askedRange, first64(asked), first64(h)}, state.Range{Start: start, End: end})
		}()
		for e, err := range q.base.Scan(start, end) {
			if err == nil {
				frame(h, e.Key)
				frame(h, e.Value)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func (q *questioner) note(n question, key state.Range) {
	q.asked = append(q.asked, n)
	if q.want {
		q.keys = append(q.keys, state.Range{Start: bytes.Clone(key.Start), End: bytes.Clone(key.End)})
	}
}

// take returns the questions since the last take, at most maxQuestions of them.
func (q *questioner) take() []question {
	asked := slices.Clone(q.asked[:min(len(q.asked), maxQuestions)])
	q.asked, q.keys = q.asked[:0], q.keys[:0]
	return asked
}

// divergence compares the questions of a session's steps, old and new, up to the step whose responses differ. changed are
// the indexes in new of questions with another answer than before, up to the first place where the questions themselves
// differ. No changed ones: the handler is not deterministic.
func divergence(old, new []question) (changed []int) {
	for i := 0; i < len(old) && i < len(new); i++ {
		if old[i].Kind != new[i].Kind || old[i].Asked != new[i].Asked {
			break // after a changed answer other questions are to be expected
		}
		if old[i].Answer != new[i].Answer {
			changed = append(changed, i)
		}
	}
	return changed
}

func hash64(b []byte) uint64 {
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:])
}

func first64(h hash.Hash) uint64 { return binary.BigEndian.Uint64(h.Sum(nil)) }

func frame(h hash.Hash, b []byte) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(b)))
	h.Write(n[:])
	h.Write(b)
}

const questionSize = 17

func encodeQuestions(qs []question) []byte {
	b := make([]byte, 0, len(qs)*questionSize)
	for _, q := range qs {
		b = append(b, q.Kind)
		b = binary.BigEndian.AppendUint64(b, q.Asked)
		b = binary.BigEndian.AppendUint64(b, q.Answer)
	}
	return b
}

func decodeQuestions(b []byte) ([]question, error) {
	if len(b)%questionSize != 0 || len(b) > maxQuestions*questionSize {
		return nil, errors.New("holds a list of questions of the wrong size")
	}
	if len(b) == 0 {
		return nil, nil
	}
	qs := make([]question, 0, len(b)/questionSize)
	for ; len(b) > 0; b = b[questionSize:] {
		if b[0] != askedKey && b[0] != askedRange {
			return nil, errors.New("holds a question of no known kind")
		}
		qs = append(qs, question{b[0], binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:])})
	}
	return qs, nil
}
