package exec

import "time"

// crew are goroutines that have run a handler and wait a moment for another: their stacks have grown already, and growing one
// costs a fifth of a short handler's run. It is bounded by the number of handlers that ran at once. A goroutine that a handler
// has ended (runtime.Goexit), or that was abandoned, does not come back. Safe for concurrent use.
type crew struct{ jobs chan func() }

// crewIdle is how long a goroutine waits for another handler.
const crewIdle = 50 * time.Millisecond

func newCrew() *crew { return &crew{jobs: make(chan func())} }

// do runs job on a goroutine of its own.
func (c *crew) do(job func()) {
	select {
	case c.jobs <- job:
	default:
		go c.work(job)
	}
}

func (c *crew) work(job func()) {
	idle := time.NewTimer(crewIdle)
	defer idle.Stop()
	for {
		job()
		job = nil // what it holds is not to wait with us
		idle.Reset(crewIdle)
		select {
		case job = <-c.jobs:
		case <-idle.C:
			return
		}
	}
}
