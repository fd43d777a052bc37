package node

import (
	"context"
	"runtime"
	"sync"

	"tandem/internal/layer1"
)

// rehearsals hands the transactions that CheckTx lets in to goroutines that replay them before a block asks for them. What
// finds the queue full is replayed in its block.
type rehearsals chan []byte

// rehearsalQueue is how many transactions may wait for their rehearsal.
const rehearsalQueue = 256

func newRehearsals() rehearsals { return make(rehearsals, rehearsalQueue) }

// put implements layer1.Options.Admitted.
func (r rehearsals) put(tx []byte) {
	select {
	case r <- tx:
	default:
	}
}

// run rehearses until ctx ends, on half of the processors: the others are for what users wait for.
func (r rehearsals) run(ctx context.Context, app *layer1.App) error {
	var running sync.WaitGroup
	for range max(1, runtime.GOMAXPROCS(0)/2) {
		running.Go(func() {
			for {
				select {
				case tx := <-r:
					app.Rehearse(tx)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	running.Wait()
	return nil
}
