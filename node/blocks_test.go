package node

import (
	"context"
	"sync"
	"testing"

	"tandem/internal/layer1"
)

// TestBlockQueue: events come out in the order in which they went in, none is lost, and push never waits.
func TestBlockQueue(t *testing.T) {
	const blocks = 10_000
	q := newBlockQueue()
	var pusher sync.WaitGroup
	pusher.Go(func() {
		for h := int64(1); h <= blocks; h++ {
			q.push(layer1.Block{Height: h})
		}
	})
	for next := int64(1); next <= blocks; {
		batch, ok := q.take(t.Context())
		if !ok {
			t.Fatal("the queue has ended")
		}
		for _, b := range batch {
			if b.Height != next {
				t.Fatalf("height %d comes where %d belongs", b.Height, next)
			}
			next++
		}
	}
	pusher.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := q.take(ctx); ok {
		t.Error("an event after the end")
	}
}
