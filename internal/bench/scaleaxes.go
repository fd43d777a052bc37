package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"tandem/client"
	"tandem/node"
)

// scaleRun measures one axis.
type scaleRun struct {
	o      ScaleOptions
	axis   axis
	points []float64
	load   float64 // of the machine when it began
	serial int     // of references

	mu     sync.Mutex
	result []ScalePoint // guarded by mu while several goroutines record; one for each of points
}

// warmups is how many sessions are carried before a network is measured: connections, caches and the first blocks.
const warmups = 3

// reference is a supplier's reference that no other session of this axis has.
func (s *scaleRun) reference() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	return fmt.Sprintf("SCALE-%s-%d", s.axis.name, s.serial)
}

// rounds calls visit for each point, as often as there are rounds; every second round runs backwards, so that what
// changes with time on the machine falls on all points alike.
func (s *scaleRun) rounds(ctx context.Context, visit func(i int) error) error {
	progress := NewProgress(s.o.Progress, s.o.Rounds*len(s.points), "axis "+s.axis.name)
	defer progress.Done()
	for round := range s.o.Rounds {
		for k := range s.points {
			if round%2 == 1 {
				k = len(s.points) - 1 - k
			}
			if err := visit(k); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			progress.Add(1)
		}
	}
	return nil
}

// session is one session that is measured: it calls note for each operation.
type session func(ctx context.Context, c *client.Client, note func(Sample)) error

// workflow is the paper's.
func (s *scaleRun) workflow(ctx context.Context, c *client.Client, note func(Sample)) error {
	_, err := Carry(ctx, c, s.reference(), note)
	return err
}

// take carries n sessions, one after the other, and records them at point i, or as its reference.
func (s *scaleRun) take(ctx context.Context, c *client.Client, i, n int, beside bool, one session) {
	for range n {
		if ctx.Err() != nil {
			return
		}
		p := &s.result[i]
		begin := time.Now()
		err := one(ctx, c, func(a Sample) {
			switch {
			case a.Err != "":
			case beside && IsStep(a.Operation):
				p.besides.Record(a.Latency)
			case beside:
			case IsStep(a.Operation):
				p.steps.Record(a.Latency)
			case a.Operation == "commit":
				p.commits.Record(a.Latency)
			}
		})
		switch {
		case err != nil && ctx.Err() != nil: // it was cut short by the user
		case err != nil:
			p.Failures++
			if p.FirstFailure == "" {
				p.FirstFailure = err.Error()
			}
		case !beside:
			p.sessions.Record(time.Since(begin))
		}
	}
}

// counted is take with the CPU time that the nodes use for it.
func (s *scaleRun) counted(ctx context.Context, net *Network, c *client.Client, i, n int, one session) error {
	before, err := net.Usage()
	if err != nil {
		return err
	}
	s.take(ctx, c, i, n, false, one)
	return s.spent(net, before, i, n)
}

// spent notes what nodes that are processes have used since before.
func (s *scaleRun) spent(net *Network, before []NodeUsage, i, sessions int) error {
	after, err := net.Usage()
	if err != nil || net.inside != nil {
		return err
	}
	p := &s.result[i]
	p.carried += sessions
	p.Layer2RSS = 0
	for _, u := range Since(before, after) {
		p.cpu += u.CPU
		if p.Layer2RSS == 0 && strings.Contains(u.Role, node.RoleLayer2) {
			p.Layer2RSS = u.RSS
		}
	}
	return net.Failed()
}

// launch starts a network and a client of it, and warms both up.
func (s *scaleRun) launch(ctx context.Context, o NetworkOptions, one session) (*Network, *client.Client, error) {
	net, err := Launch(ctx, manySessions(o))
	if err != nil {
		return nil, nil, err
	}
	c, err := net.Client(func(cfg *client.Config) { cfg.Patience = patience })
	if err != nil {
		return nil, nil, errors.Join(err, net.Close())
	}
	for range warmups {
		if err := one(ctx, c, func(Sample) {}); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("warm-up: %w", err), net.Close())
		}
	}
	return net, c, nil
}

// validators: each point is a network of its own, started again in each round.
func (s *scaleRun) validators(ctx context.Context) error {
	return s.rounds(ctx, func(i int) (err error) {
		o := s.o.Network
		o.Validators = int(s.points[i])
		s.result[i].Network = fmt.Sprintf("%d-%d", o.Validators, o.Layer2)
		net, c, err := s.launch(ctx, o, s.workflow)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, net.Close()) }()
		return s.counted(ctx, net, c, i, s.o.Workflows, s.workflow)
	})
}

// open: one network gets more and more open sessions, another one, with one open session, is measured in turn with it.
func (s *scaleRun) open(ctx context.Context) (err error) {
	many, c, err := s.launch(ctx, s.o.Network, s.workflow)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, many.Close()) }()
	one, beside, err := s.launch(ctx, s.o.Network, s.workflow)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, one.Close()) }()
	if err := s.leaveOpen(ctx, beside, 1); err != nil {
		return err
	}
	progress := NewProgress(s.o.Progress, s.o.Rounds*len(s.points), "axis "+s.axis.name)
	defer progress.Done()
	have := 0
	for i, x := range s.points {
		if err := s.leaveOpen(ctx, c, int(x)-have); err != nil {
			return err
		}
		have = int(x)
		s.take(ctx, c, i, 1, true, s.unrecorded(s.workflow)) // let what opening has set in motion end
		for range s.o.Rounds {
			if err := s.counted(ctx, many, c, i, s.o.Workflows, s.workflow); err != nil {
				return err
			}
			s.take(ctx, beside, i, s.o.Workflows, true, s.workflow)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			progress.Add(1)
		}
	}
	return nil
}

// unrecorded is a session of which nothing is recorded.
func (s *scaleRun) unrecorded(one session) session {
	return func(ctx context.Context, c *client.Client, _ func(Sample)) error { return one(ctx, c, func(Sample) {}) }
}

// openers is how many sessions are opened at once.
const openers = 16

// leaveOpen opens n sessions, makes one step in each, and leaves them.
func (s *scaleRun) leaveOpen(ctx context.Context, c *client.Client, n int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan string)
	var all sync.WaitGroup
	for range min(openers, n) {
		all.Go(func() {
			for reference := range work {
				if err := leaveOne(ctx, c, reference); err != nil {
					cancel(fmt.Errorf("opening sessions: %w", err))
				}
			}
		})
	}
	for range n {
		select {
		case work <- s.reference():
		case <-ctx.Done():
		}
	}
	close(work)
	all.Wait()
	return context.Cause(ctx)
}

// openLife is how long the sessions that are left open live: most of the hour that the ledger admits.
const openLife = 55 * time.Minute

func leaveOne(ctx context.Context, c *client.Client, reference string) error {
	left, err := c.Open(ctx, client.WithLife(openLife))
	if err != nil {
		return err
	}
	err = task(reference, func(name, target string, body []byte) ([]byte, error) {
		a, err := left.Call(ctx, "POST", target, "application/json", body)
		if err == nil {
			err = recorded(a)
		}
		return nil, either(err, errEnough)
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// errEnough ends a workflow that has as many steps as it is meant to have.
var errEnough = errors.New("bench: enough steps")

func either(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// manySteps is a session of n steps: the workflow with one package after the other.
func (s *scaleRun) manySteps(n int) session {
	return func(ctx context.Context, c *client.Client, note func(Sample)) error {
		w := stopwatch{time.Now(), note}
		done := 0
		return s.inSession(ctx, c, &w, func(step func(name, target string, body []byte) ([]byte, error)) error {
			for done < n {
				err := task(s.reference(), func(name, target string, body []byte) ([]byte, error) {
					if done == n {
						return nil, errEnough
					}
					done++
					return step(name, target, body)
				})
				if err != nil && !errors.Is(err, errEnough) {
					return err
				}
			}
			return nil
		})
	}
}

// fiveSteps is a session of five alike steps, each to a target and with a body of its own.
func (s *scaleRun) fiveSteps(request func() (target string, body []byte)) session {
	return func(ctx context.Context, c *client.Client, note func(Sample)) error {
		w := stopwatch{time.Now(), note}
		return s.inSession(ctx, c, &w, func(step func(name, target string, body []byte) ([]byte, error)) error {
			for range 5 {
				target, body := request()
				if _, err := step("create", target, body); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// inSession opens a session, has the steps made, and commits.
func (s *scaleRun) inSession(ctx context.Context, c *client.Client, w *stopwatch, steps func(step func(name, target string, body []byte) ([]byte, error)) error) error {
	var at *client.Session
	err := w.time("open", L2, func(*Sample) (err error) {
		at, err = c.Open(ctx)
		return err
	})
	if err != nil {
		return err
	}
	err = steps(func(name, target string, body []byte) (answer []byte, err error) {
		err = w.time(name, L2, func(*Sample) error {
			got, err := at.Call(ctx, "POST", target, "application/json", body)
			if err != nil {
				return err
			}
			answer = got.Body
			return recorded(got)
		})
		return answer, err
	})
	if err != nil {
		return err
	}
	return w.time("commit", L1, func(*Sample) error {
		outcome, err := at.Commit(ctx)
		if err != nil {
			return err
		}
		return committed(at, outcome)
	})
}

// steps: all points take turns at one network; long sessions are fewer.
func (s *scaleRun) steps(ctx context.Context) (err error) {
	net, c, err := s.launch(ctx, s.o.Network, s.workflow)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, net.Close()) }()
	return s.rounds(ctx, func(i int) error {
		n := int(s.points[i])
		return s.counted(ctx, net, c, i, max(1, min(s.o.Workflows, 10*s.o.Workflows/n)), s.manySteps(n))
	})
}

// bodies: all points take turns at one network.
func (s *scaleRun) bodies(ctx context.Context) (err error) {
	o := s.o.Network
	o.InProcess, o.Service = true, KeysService(0)
	of := func(size float64) session {
		body := bytes.Repeat([]byte("0123456789abcdef"), int(size)/16+1)[:int(size)]
		return s.fiveSteps(func() (string, []byte) { return "/bench/notes", body })
	}
	net, c, err := s.launch(ctx, o, of(s.points[0]))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, net.Close()) }()
	return s.rounds(ctx, func(i int) error {
		return s.counted(ctx, net, c, i, s.o.Workflows, of(s.points[i]))
	})
}

// state: a network for each point; all run at once and take turns.
func (s *scaleRun) state(ctx context.Context) (err error) {
	type side struct {
		net *Network
		c   *client.Client
		one session
	}
	sides := make([]side, len(s.points))
	defer func() {
		for _, a := range slices.Backward(sides) {
			if a.net != nil {
				err = errors.Join(err, a.net.Close())
			}
		}
	}()
	progress := NewProgress(s.o.Progress, len(s.points), "networks with a state for axis "+s.axis.name)
	for i, x := range s.points {
		keys, random := int(x), stream(s.o.Seed, uint64(i))
		a := &sides[i]
		a.one = s.fiveSteps(func() (string, []byte) { return fmt.Sprintf("/bench/keys/%d", random.IntN(keys)), nil })
		o := s.o.Network
		o.InProcess, o.Service, o.Validators, o.Layer2 = true, KeysService(keys), 1, 1
		s.result[i].Network = "1-1"
		if a.net, a.c, err = s.launch(ctx, o, a.one); err != nil {
			progress.Done()
			return err
		}
		progress.Add(1)
	}
	progress.Done()
	return s.rounds(ctx, func(i int) error {
		return s.counted(ctx, sides[i].net, sides[i].c, i, s.o.Workflows, sides[i].one)
	})
}

// clientsTime is how long each number of clients is measured in each round, after a quarter of it to warm up.
const clientsTime = 4 * time.Second

// clients: all points take turns at one network.
func (s *scaleRun) clients(ctx context.Context) (err error) {
	net, _, err := s.launch(ctx, s.o.Network, s.workflow)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, net.Close()) }()
	level := 0
	return s.rounds(ctx, func(i int) error {
		level++
		load := LoadOptions{Progress: io.Discard}
		before, err := net.Usage()
		if err != nil {
			return err
		}
		r, err := load.measure(ctx, net, LoadLevel{
			Mode: Closed, Load: s.points[i], Warmup: clientsTime / 4, Duration: clientsTime, Drain: patience, Seed: s.o.Seed + uint64(level),
		}, level)
		if err != nil {
			return err
		}
		p := &s.result[i]
		for name, h := range r.took {
			switch {
			case IsStep(name):
				p.steps.Merge(h)
			case name == "commit":
				p.commits.Merge(h)
			case name == sessionOperation:
				p.sessions.Merge(h)
			}
		}
		p.rate += r.SessionsPerSecond
		p.rounds++
		p.Failures += r.Failed + r.Shed + r.Conflicted
		if len(r.Reasons) > 0 && p.FirstFailure == "" {
			p.FirstFailure = r.Reasons[0].First
		}
		sessions := 0
		for _, second := range r.Timeline {
			sessions += second.Committed
		}
		return s.spent(net, before, i, sessions)
	})
}
