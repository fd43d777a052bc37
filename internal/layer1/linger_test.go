package layer1

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tandem/internal/wire"
)

// forEver is longer than any test: what waits for its end hangs.
const forEver = time.Hour

// A proposal for which the mempool offers nothing takes the session that CheckTx lets in while it waits.
func TestPrepareLingersForASession(t *testing.T) {
	w := newWorld(t, 2, func(o *Options) { o.Linger = forEver })
	defer w.close()
	for i, path := range []string{"/add/a", "/add/b", "/add/c"} {
		tx := w.session("ann", post(path, ""))
		admitted := make(chan struct{})
		if i > 0 { // while it waits, or before: both happen
			go func() {
				defer close(admitted)
				if r := w.checkTx(w.nodes[0], tx); r != nil {
					t.Errorf("refused: %v", r)
				}
			}()
		} else {
			if r := w.checkTx(w.nodes[0], tx); r != nil {
				t.Fatalf("refused: %v", r)
			}
			close(admitted)
		}
		made := w.block() // nothing is offered
		<-admitted
		if len(made) != 2 || string(made[1]) != string(tx) {
			t.Fatalf("the proposal has %d transactions, want the root and the session", len(made))
		}
		w.check()
	}
}

// Without a session the wait ends, and the block proves the root alone; what is offered is not waited for.
func TestPrepareLingersNotForEver(t *testing.T) {
	w := newWorld(t, 1, func(o *Options) { o.Linger = time.Millisecond })
	defer w.close()
	if made := w.block(); len(made) != 1 {
		t.Errorf("%d transactions in an empty block", len(made))
	}
	w = newWorld(t, 1, func(o *Options) { o.Linger = forEver })
	defer w.close()
	if made := w.block(w.session("ann", post("/add/a", ""))); len(made) != 2 {
		t.Errorf("%d transactions in a block with a session", len(made))
	}
}

// After a block with many sessions a proposal takes those that CheckTx has let in beside what the mempool offers, each once; after
// one with few it takes what is offered.
func TestPrepareGathersUnderLoad(t *testing.T) {
	w := newWorld(t, 2, func(o *Options) { o.Linger = time.Millisecond })
	defer w.close()
	number := 0
	admit := func() []byte {
		number++
		tx := w.session("ann", post(fmt.Sprintf("/add/%d", number), ""))
		if r := w.checkTx(w.nodes[0], tx); r != nil {
			t.Fatalf("refused: %v", r)
		}
		return tx
	}
	few, late := admit(), admit()
	if made := w.block(few); len(made) != 2 {
		t.Fatalf("%d transactions after an empty block, want the root and what was offered", len(made))
	}
	w.block(late, admit(), admit(), admit())
	offered, other := admit(), admit()
	made := w.block(offered)
	if want := [][]byte{offered, other}; !slices.EqualFunc(made[1:], want, slices.Equal) {
		t.Errorf("after a block with %d sessions: %d transactions, want the root, what was offered and what came", crowded, len(made))
	}
}

// The wait for more ends when none has come for a while, when there are enough, and in any case in time.
func TestGatherEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gathered := func(arrivals int, every, within, quiet time.Duration, enough int) (int, time.Duration) {
			p := newPool(1000)
			var arriving sync.WaitGroup
			arriving.Go(func() {
				ticker := time.NewTicker(every) // of the bubble's clock: it moves when all wait
				defer ticker.Stop()
				for i := range arrivals {
					<-ticker.C
					if _, err := p.add(wire.Sum([]byte{byte(i)}), "ann", 1, []byte{byte(i)}); err != nil {
						t.Error(err)
					}
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			began := time.Now()
			all := p.wait(ctx, [][]byte{{200}}, enough, quiet)
			took := time.Since(began)
			arriving.Wait()
			return len(all), took
		}
		const ms = time.Millisecond
		for _, c := range []struct {
			arrivals, enough    int
			every, within, took time.Duration
			want                int
		}{
			{arrivals: 3, every: 5 * ms, within: 100 * ms, enough: 50, want: 4, took: 25 * ms},
			{arrivals: 50, every: 5 * ms, within: 22 * ms, enough: 50, want: 5, took: 22 * ms},
			{arrivals: 50, every: 5 * ms, within: 100 * ms, enough: 4, want: 4, took: 15 * ms},
			{arrivals: 3, every: 11 * ms, within: 100 * ms, enough: 50, want: 1, took: 10 * ms},
		} {
			if n, took := gathered(c.arrivals, c.every, c.within, 10*ms, c.enough); n != c.want || took != c.took {
				t.Errorf("%+v: gathered %d in %v", c, n, took)
			}
		}
	})
}
