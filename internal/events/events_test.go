package events

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newLog(keep int) *Log { return New(Options{Node: "0123abcd", Epoch: 7, Keep: keep}) }

func event(kind Kind, session, actor string) Event {
	return Event{Kind: kind, Session: session, Actor: actor, Data: []byte("{}")}
}

// now reads what there is without waiting.
func now(r *Reader) ([]Event, error) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var all []Event
	for {
		found, err := r.Next(ctx)
		if err != nil {
			if errors.Is(err, context.Canceled) {
				err = nil
			}
			return all, err
		}
		all = append(all, found...)
	}
}

func numbers(es []Event) []uint64 {
	var ns []uint64
	for _, e := range es {
		ns = append(ns, e.ID.N)
	}
	return ns
}

// "resume with Last-Event-ID without gap or duplicate within a kept window": whatever is published, read, filtered and
// resumed in whatever order, a reader gets each matching event once, in order, unless it is told of a gap; and it is told
// of a gap exactly if an event behind its cursor was dropped.
func TestResumeHasNeitherGapNorDuplicate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keep := rapid.IntRange(1, 12).Draw(t, "keep")
		l := newLog(keep)
		filter := Filter{Actor: rapid.SampledFrom([]string{"", "a"}).Draw(t, "actor")}
		var published []Event // number n at n-1
		r := l.Read(filter)
		for range rapid.IntRange(1, 40).Draw(t, "moves") {
			switch rapid.IntRange(0, 2).Draw(t, "move") {
			case 0:
				for range rapid.IntRange(1, 5).Draw(t, "events") {
					e := event(Session, "s", rapid.SampledFrom([]string{"a", "b"}).Draw(t, "of"))
					l.Publish(e)
					e.ID = ID{"0123abcd", 7, uint64(len(published)) + 1}
					published = append(published, e)
				}
			case 1:
				from := r.Cursor().N
				got, err := now(r)
				lost := from+1 < uint64(max(len(published)-keep+1, 1))
				if errors.Is(err, ErrGap) != lost || err != nil && !lost {
					t.Fatalf("cursor %d of %d, %d kept: %v", from, len(published), keep, err)
				}
				if lost {
					continue
				}
				var want []uint64
				for _, e := range published[from:] {
					if filter.Match(&e) {
						want = append(want, e.ID.N)
					}
				}
				if !slices.Equal(numbers(got), want) {
					t.Fatalf("read %v, want %v", numbers(got), want)
				}
			case 2: // the reader goes and comes back with what it last knew
				at, err := ParseID(r.Cursor().String())
				if err != nil {
					t.Fatal(err)
				}
				again, gap := l.ReadAfter(filter, at)
				if lost := at.N+1 < uint64(max(len(published)-keep+1, 1)); gap != lost {
					t.Fatalf("after %v of %d, %d kept: gap %v", at, len(published), keep, gap)
				}
				r = again
			}
		}
	})
}

func TestGapIsTold(t *testing.T) {
	l := newLog(4)
	for range 3 {
		l.Publish(event(Block, "", ""))
	}
	for _, at := range []ID{
		{"0123abcd", 6, 2},  // an earlier run
		{"0123abcd", 8, 2},  // a later one, seen before this disk was put back
		{"ffffffff", 7, 2},  // another node
		{"0123abcd", 7, 99}, // never given
	} {
		r, gap := l.ReadAfter(Filter{}, at)
		got, err := now(r)
		if !gap || err != nil || !slices.Equal(numbers(got), []uint64{1, 2, 3}) {
			t.Errorf("after %v: gap %v, %v, %v", at, gap, numbers(got), err)
		}
	}
	slow := l.Read(Filter{})
	for range 5 {
		l.Publish(event(Block, "", ""))
	}
	if _, err := slow.Next(context.Background()); !errors.Is(err, ErrGap) {
		t.Fatalf("a reader that was overtaken: %v", err)
	}
	if got := slow.Cursor().N; got != 4 {
		t.Errorf("after the gap it stands at %d, want 4: before the oldest kept", got)
	}
	if got, err := now(slow); err != nil || !slices.Equal(numbers(got), []uint64{5, 6, 7, 8}) {
		t.Errorf("after the gap: %v, %v", numbers(got), err)
	}
	if got, err := now(l.ReadKept(Filter{})); err != nil || len(got) != 4 {
		t.Errorf("everything kept: %v, %v", numbers(got), err)
	}
}

func TestBytesAreBounded(t *testing.T) {
	l := New(Options{Node: "0123abcd", Epoch: 1, Keep: 100, KeepBytes: 1000})
	for range 30 {
		l.Publish(Event{Kind: Block, Data: []byte(strings.Repeat("x", 300))})
	}
	if got, err := now(l.ReadKept(Filter{})); err != nil || !slices.Equal(numbers(got), []uint64{28, 29, 30}) {
		t.Errorf("kept %v, %v", numbers(got), err)
	}
	l.Publish(Event{Kind: Block, Data: []byte(strings.Repeat("x", 5000))}) // larger than all: alone
	if got, err := now(l.ReadKept(Filter{})); err != nil || !slices.Equal(numbers(got), []uint64{31}) {
		t.Errorf("kept %v, %v", numbers(got), err)
	}
}

func TestFilters(t *testing.T) {
	l := newLog(100)
	l.Publish(event(Block, "", ""))
	l.Publish(event(Session, "s1", "alice"))
	l.Publish(event(Session, "s2", "bob"))
	l.Publish(event(Conflict, "s2", "bob"))
	l.Publish(event(Node, "", ""))
	for _, c := range []struct {
		f    Filter
		want []uint64
	}{
		{Filter{}, []uint64{1, 2, 3, 4, 5}},
		{Filter{Session: "s2"}, []uint64{3, 4}},
		{Filter{Actor: "alice"}, []uint64{2}},
		{Filter{Kinds: []Kind{Block, Conflict}}, []uint64{1, 4}},
		{Filter{Session: "s2", Kinds: []Kind{Conflict}}, []uint64{4}},
		{Filter{Session: "s1", Actor: "bob"}, nil},
	} {
		if got, err := now(l.ReadKept(c.f)); err != nil || !slices.Equal(numbers(got), c.want) {
			t.Errorf("%+v: %v, %v, want %v", c.f, numbers(got), err, c.want)
		}
	}
}

// "slow readers never slow others": a publisher and a fast reader finish while another reader never reads.
func TestConcurrentReaders(t *testing.T) {
	l := newLog(1000)
	const n = 5000
	stuck := l.Read(Filter{})
	var all sync.WaitGroup
	for range 8 {
		r := l.Read(Filter{})
		all.Go(func() {
			seen := uint64(0)
			for {
				got, err := r.Next(t.Context())
				if errors.Is(err, ErrClosed) {
					break
				}
				if errors.Is(err, ErrGap) {
					seen = r.Cursor().N
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range got {
					if e.ID.N != seen+1 {
						t.Errorf("event %d after %d", e.ID.N, seen)
						return
					}
					seen++
				}
			}
			if seen != n {
				t.Errorf("the reader ended at %d of %d", seen, n)
			}
		})
	}
	for range n {
		l.Publish(event(Session, "s", "a"))
	}
	l.Close()
	l.Publish(event(Session, "s", "too late"))
	l.Close()
	all.Wait()
	if _, err := stuck.Next(t.Context()); !errors.Is(err, ErrGap) {
		t.Errorf("the reader that slept: %v", err)
	}
}

func TestIDs(t *testing.T) {
	id := ID{"0123abcd", 1800000000000, 42}
	if got, err := ParseID(id.String()); err != nil || got != id || id.String() != "0123abcd.1800000000000.42" {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{
		"", "0", "0123abcd.1", "0123abcd.1.2.3", "0123ABCD.1.2", "0123abc.1.2", "0123abcd.01.2", "0123abcd.1.+2", "0123abcd.1.-2", "0123abcd.1.2 ",
		"0123abcd..2", "0123abcd.18446744073709551616.1", strings.Repeat("0", 70),
	} {
		if got, err := ParseID(bad); err == nil {
			t.Errorf("%q is taken for %v", bad, got)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("0123abcd.1800000000000.42")
	f.Add("0123abcd.01.2")
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := ParseID(text); err == nil && id.String() != text {
			t.Errorf("%q is read as %v", text, id)
		}
	})
}

// Epochs rise from run to run, also when the clock is put back or the file is damaged.
func TestEpochsRise(t *testing.T) {
	path := filepath.Join(t.TempDir(), "epoch")
	at := time.UnixMilli(1_800_000_000_000)
	var last uint64
	for i, clock := range []time.Time{at, at, at.Add(-time.Hour), at.Add(time.Hour), time.UnixMilli(-5)} {
		got, err := NextEpoch(path, clock)
		if err != nil || got <= last {
			t.Fatalf("run %d: epoch %d after %d, %v", i, got, last, err)
		}
		last = got
	}
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := NextEpoch(path, at); err != nil || got != uint64(at.UnixMilli()) {
		t.Errorf("with a damaged file: %d, %v", got, err)
	}
	if _, err := NextEpoch(filepath.Join(path, "no", "folder"), at); err == nil {
		t.Error("an epoch that cannot be remembered")
	}
	if left, err := filepath.Glob(path + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func BenchmarkPublishTo100Readers(b *testing.B) {
	l := New(Options{Node: "0123abcd", Epoch: 1})
	var all sync.WaitGroup
	for i := range 100 {
		r := l.Read(Filter{Session: fmt.Sprint(i)})
		all.Go(func() {
			for {
				if _, err := r.Next(context.Background()); errors.Is(err, ErrClosed) {
					return
				}
			}
		})
	}
	e := event(Session, "7", "alice")
	for b.Loop() {
		l.Publish(e)
	}
	l.Close()
	all.Wait()
}
