package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Contender is one of the ways to do the same work that Compare measures beside each other.
type Contender struct {
	// Name stands in the samples' Config, such as "session"; About says in words what is measured.
	Name, About string
	// Carry does the work once and notes each operation, failed ones included. It begins nothing that goes on after it
	// and disturbs the next contender for longer than CompareOptions.Pause.
	Carry func(ctx context.Context, note func(Sample)) error
}

// CompareOptions say how Compare measures.
type CompareOptions struct {
	// Rounds is how often each contender does the work, Warmup how often before that, not counted.
	Rounds, Warmup int
	// Pause is the time between two contenders' turns. It is measured for nobody: what one leaves behind (CometBFT's empty
	// block that proves a state, a flush to disk) is not to be paid by the next.
	Pause time.Duration
	// Progress gets a bar; nil for none. Note is called with each counted sample as it is made; nil for no one.
	Progress io.Writer
	Note     func(Sample)
}

// turnWait bounds one contender's turn. A turn that takes longer has failed.
const turnWait = time.Minute

// Compare has the contenders do the work in turns, A B C A B C ..., so that whatever else the machine does meets all of
// them alike. It returns the counted samples, those of failed operations included. A contender whose work fails goes on
// in the next round; one that fails before the first round is an error. If ctx ends the samples of complete turns are
// returned with its error.
func Compare(ctx context.Context, contenders []Contender, o CompareOptions) (samples []Sample, err error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	warm := NewProgress(o.Progress, o.Warmup, "rounds of warm-up")
	defer warm.Done()
	for range o.Warmup {
		for _, c := range contenders {
			if _, err := turn(ctx, c, o.Pause, 0); err != nil {
				return nil, fmt.Errorf("bench: %s, before the first round: %w", c.Name, err)
			}
		}
		warm.Add(1)
	}
	warm.Done()
	progress := NewProgress(o.Progress, o.Rounds, "rounds")
	defer progress.Done()
	for round := 1; round <= o.Rounds; round++ {
		for _, c := range contenders {
			noted, err := turn(ctx, c, o.Pause, round)
			if ctx.Err() != nil {
				return samples, context.Cause(ctx)
			}
			if err != nil && !slices.ContainsFunc(noted, func(a Sample) bool { return a.Err != "" }) {
				noted = append(noted, Sample{Config: c.Name, Iteration: round, Operation: "workflow", Start: time.Now(), Err: err.Error()})
			}
			samples = append(samples, noted...)
			if o.Note != nil {
				for _, a := range noted {
					o.Note(a)
				}
			}
		}
		progress.Add(1)
	}
	return samples, nil
}

// turn has one contender do the work once, then pauses.
func turn(ctx context.Context, c Contender, pause time.Duration, round int) (noted []Sample, err error) {
	within, cancel := context.WithTimeoutCause(ctx, turnWait, errors.New("it took too long"))
	defer cancel()
	err = c.Carry(within, func(a Sample) {
		a.Config, a.Iteration = c.Name, round
		noted = append(noted, a)
	})
	rest := time.NewTimer(pause)
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-ctx.Done():
		err = errors.Join(err, context.Cause(ctx))
	}
	return noted, err
}
