package exec

import (
	"sync"
	"testing"
)

// Goroutines that live at the same time have different numbers, and each keeps its own while its stack moves.
func TestCurrentTellsGoroutinesApart(t *testing.T) {
	for name, id := range map[string]func() uintptr{"register": current, "portable": currentPortable} {
		t.Run(name, func(t *testing.T) {
			const n = 50
			var (
				mu      sync.Mutex
				seen    = map[uintptr]bool{id(): true}
				started sync.WaitGroup
				release = make(chan struct{})
				done    sync.WaitGroup
			)
			started.Add(n)
			for range n {
				done.Go(func() {
					mine := id()
					mu.Lock()
					if seen[mine] {
						t.Errorf("two goroutines share the number %d", mine)
					}
					seen[mine] = true
					mu.Unlock()
					started.Done()
					<-release
					if again := deep(100, id); again != mine {
						t.Errorf("a goroutine's number changed from %d to %d", mine, again)
					}
				})
			}
			started.Wait()
			close(release)
			done.Wait()
		})
	}
}

// deep makes the stack grow, which moves it.
func deep(n int, id func() uintptr) uintptr {
	var frame [1024]byte
	if n == 0 {
		return id()
	}
	got := deep(n-1, id)
	frame[n] = byte(got)
	return got + uintptr(frame[n]) - uintptr(byte(got))
}

func BenchmarkCurrent(b *testing.B) {
	for b.Loop() {
		current()
	}
}

func BenchmarkCurrentPortable(b *testing.B) {
	for b.Loop() {
		currentPortable()
	}
}
