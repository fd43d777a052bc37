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
