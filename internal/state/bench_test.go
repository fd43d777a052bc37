package state

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// fill returns a store on disk with n keys of 14 bytes and values of 100 bytes.
func fill(tb testing.TB, n, keep int) *Store {
	tb.Helper()
	s := openStore(tb, nil, tb.TempDir(), keep)
	const block = 20_000
	for from := 0; from < n; from += block {
		changes := make([]Change, 0, block)
		for i := from; i < min(from+block, n); i++ {
			changes = append(changes, Change{Key: keyN(i), Value: value100(uint64(i))})
		}
		commit(tb, s, int64(from/block)+1, 0, changes)
	}
	return s
}

func value100(seed uint64) []byte {
	v := make([]byte, 100)
	for i := 0; i < 96; i += 8 {
		seed = seed*6364136223846793005 + 1442695040888963407
		binary.BigEndian.PutUint64(v[i:], seed)
	}
	return v
}

// randomChanges returns writes of n different keys out of size.
func randomChanges(rng *rand.Rand, n, size int) []Change {
	picked := map[int]bool{}
	for len(picked) < n {
		picked[rng.IntN(size)] = true
	}
	changes := make([]Change, 0, n)
	for i := range picked {
		changes = append(changes, Change{Key: keyN(i), Value: value100(rng.Uint64())})
	}
	slices.SortFunc(changes, func(a, b Change) int { return slices.Compare(a.Key, b.Key) })
	return changes
}

// BenchmarkCommit stages and commits blocks, synced, with a kept window of 100 heights. stage-ms and commit-ms are means.
func BenchmarkCommit(outer *testing.B) {
	for _, size := range []int{100_000, 1_000_000} {
		var s *Store
		for _, updates := range []int{20, 1000} {
			outer.Run(fmt.Sprintf("keys=%d/updates=%d", size, updates), func(b *testing.B) {
				if s == nil {
					s = fill(outer, size, 100)
				}
				rng := rand.New(rand.NewPCG(1, uint64(updates)))
				var staged, committed time.Duration
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					changes := randomChanges(rng, updates, size)
					b.StartTimer()
					begin := time.Now()
					st, err := s.Stage(changes)
					if err != nil {
						b.Fatal(err)
					}
					staged += time.Since(begin)
					begin = time.Now()
					height, _, _ := s.Version()
					if err := s.Commit(height+1, 0, st); err != nil {
						b.Fatal(err)
					}
					committed += time.Since(begin)
				}
				b.ReportMetric(float64(staged.Microseconds())/1000/float64(b.N), "stage-ms")
				b.ReportMetric(float64(committed.Microseconds())/1000/float64(b.N), "commit-ms")
			})
		}
		if s != nil {
			closeStore(outer, s)
		}
	}
}

// BenchmarkRead reads random keys of the last and of an older version of 100,000 keys, scans 100 entries, and proves.
func BenchmarkRead(b *testing.B) {
	const size = 100_000
	s := fill(b, size, 100)
	defer closeStore(b, s)
	rng := rand.New(rand.NewPCG(2, 2))
	for range 50 {
		height, _, _ := s.Version()
		commit(b, s, height+1, 0, randomChanges(rng, 200, size))
	}
	height, _, _ := s.Version()
	old, err := s.At(height - 40)
	if err != nil {
		b.Fatal(err)
	}
	for name, v := range map[string]*View{"latest": s.Latest(), "40-blocks-old": old} {
		b.Run("Get/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok, err := v.Get(keyN(rng.IntN(size))); err != nil || !ok {
					b.Fatal(ok, err)
				}
			}
		})
		b.Run("GetAbsent/"+name, func(b *testing.B) {
			for b.Loop() {
				if _, ok, err := v.Get(keyN(size + rng.IntN(size))); err != nil || ok {
					b.Fatal(ok, err)
				}
			}
		})
		b.Run("Scan100/"+name, func(b *testing.B) {
			for b.Loop() {
				n := 0
				for _, err := range v.Scan(keyN(rng.IntN(size-200)), nil) {
					if n++; err != nil || n == 100 {
						break
					}
				}
			}
		})
		b.Run("Prove/"+name, func(b *testing.B) {
			for b.Loop() {
				if _, err := s.Prove(v.Height(), keyN(rng.IntN(2*size))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpen opens a store of a million keys, and verifies it once.
func BenchmarkOpen(b *testing.B) {
	s := fill(b, 1_000_000, 100)
	dir := s.dir
	closeStore(b, s)
	for b.Loop() {
		s := openStore(b, nil, dir, 100)
		if _, ok, err := s.Latest().Get(keyN(5)); err != nil || !ok {
			b.Fatal(ok, err)
		}
		b.StopTimer()
		closeStore(b, s)
		b.StartTimer()
	}
	s = openStore(b, nil, dir, 100)
	defer closeStore(b, s)
	begin := time.Now()
	if err := s.Verify(s.Latest().Height()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(begin).Seconds(), "verify-s")
}

// BenchmarkOverlay runs a step's worth of work on a session's overlay with 1,000 writes.
func BenchmarkOverlay(b *testing.B) {
	o := NewOverlay(spy(model{}))
	for i := range 1000 {
		o.Set(keyN(i), []byte("value"))
	}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		c := o.Child()
		n++
		if _, _, err := c.Get(keyN(n % 2000)); err != nil {
			b.Fatal(err)
		}
		c.Set(keyN(n%1000), []byte("other"))
		c.Merge()
	}
}
