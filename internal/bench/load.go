package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	mathrand "math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"tandem/client"
	"tandem/node"
)

// LoadOptions say what RunLoad measures.
type LoadOptions struct {
	// Network is what the load is put on.
	Network NetworkOptions
	// Level is the load: of a ramp, the first one; its Load is then only where the climb begins.
	Level LoadLevel
	// Ramp steps the load up until no more gets done. Most bounds it.
	Ramp bool
	Most float64
	// Levels, if not empty, are measured in this order, and nothing is stepped.
	Levels []float64
	// Zipf is the exponent with which sessions choose among Packages that they share; 0: each session has a package of its own.
	Zipf     float64
	Packages int
	// Progress gets the progress.
	Progress io.Writer
}

// LoadReport is what RunLoad found out. Times are in ms unless the name says otherwise.
type LoadReport struct {
	Machine    Machine `json:"machine"`
	Network    string  `json:"network"` // such as "4-1": validators and Layer 2 nodes
	Processes  bool    `json:"processes"`
	Mode       string  `json:"mode"`
	Arrivals   string  `json:"arrivals,omitempty"`
	Zipf       float64 `json:"zipf"`
	Packages   int     `json:"shared_packages"`
	Seed       uint64  `json:"seed"`
	Warmup     float64 `json:"warmup_seconds"`
	Duration   float64 `json:"duration_seconds"`
	Drain      float64 `json:"drain_seconds"`
	Operations int     `json:"operations_per_session"`
	Ramp       bool    `json:"ramp"`
	// Levels in the order in which they were measured.
	Levels []LoadResult `json:"levels"`
	// Greatest is the load of the level at which most sessions were committed per second, and that number.
	Greatest     float64 `json:"greatest_at_load"`
	GreatestRate float64 `json:"greatest_sessions_per_second"`
	// Interrupted says that the user ended the run: the levels are those measured until then, the last one perhaps in part.
	Interrupted bool `json:"interrupted,omitempty"`
}

// LoadResult is what one level came to.
type LoadResult struct {
	Level int     `json:"level"` // from 1
	Load  float64 `json:"load"`  // clients, or sessions per second
	// Seconds is the length of the measured window.
	Seconds float64 `json:"seconds"`
	// Of Sent sessions, those meant to begin within the window, so many ended in each way: Sent is the sum.
	Sent       int `json:"sent"`
	Committed  int `json:"committed"`
	Conflicted int `json:"conflicted"`
	Shed       int `json:"shed"`
	Failed     int `json:"failed"`
	// ShedRequests were answered 503 with Retry-After.
	ShedRequests int      `json:"shed_requests"`
	Reasons      []Reason `json:"reasons"`
	// The rates are of what was done within the window, whenever it was begun. A step is any answered operation, opening and
	// committing included.
	SessionsPerSecond float64 `json:"sessions_per_second"`
	StepsPerSecond    float64 `json:"steps_per_second"`
	// Operations are the latencies of answered operations of the sessions counted above, in the order of the workflow,
	// and of whole committed sessions last.
	Operations []Percentiles `json:"operations"`
	// Late is by how much sessions were sent after the moment they were meant to be: the client's own lateness, and the wait
	// for others to end where the sessions at once are bounded.
	Late Percentiles `json:"late"`
	// AtOnce is how many sessions were under way at most.
	AtOnce int `json:"sessions_at_once"`
	// ClientCPU and Nodes are the CPU time used within the window; of a network in one process there is one entry for all,
	// the client included, and ClientCPU is 0. Busy is all of it as a share of what the machine's cores have.
	ClientCPU float64     `json:"client_cpu_ms"`
	Nodes     []NodeUsage `json:"nodes"`
	Busy      float64     `json:"busy"`
	// CPUPerSession is the CPU time of nodes and client for one committed session.
	CPUPerSession float64  `json:"cpu_ms_per_session"`
	Timeline      []Second `json:"timeline"`

	took map[string]*Histogram
}

// Check says what is wrong with the options.
func (o *LoadOptions) Check() error {
	l := o.Level
	if l.Mode != Open && l.Mode != Closed {
		return fmt.Errorf("bench: mode %q is neither %s nor %s", l.Mode, Open, Closed)
	}
	for _, load := range append([]float64{l.Load}, o.Levels...) {
		if l.Mode == Closed && (load < 1 || load > 100_000 || load != math.Trunc(load)) {
			return fmt.Errorf("bench: %v clients: a whole number from 1 to 100000", load)
		}
		if l.Mode == Open {
			if _, err := NewArrivals(l.Arrivals, load, stream(0, 0)); err != nil {
				return err
			}
		}
	}
	if l.Mode == Open && l.Each > 0 {
		return errors.New("bench: a number of sessions for each client needs a closed loop")
	}
	if l.Mode == Open && l.AtOnce < 1 {
		return fmt.Errorf("bench: %d sessions at once: at least 1", l.AtOnce)
	}
	if l.Each == 0 && (l.Duration < time.Second || l.Warmup < 0 || l.Drain < 0) {
		return errors.New("bench: the measured time is at least 1s, and no time is negative")
	}
	if o.Zipf != 0 {
		if _, err := NewZipf(o.Packages, o.Zipf); err != nil {
			return err
		}
	}
	return nil
}

// RunLoad starts a network, puts the load on it, and removes it. If ctx ends, what was measured until then is in the
// report, with Interrupted set, and the error is nil; an error means that there is nothing worth keeping, or that a node failed: then the
// report has the levels before.
func RunLoad(ctx context.Context, o LoadOptions) (report *LoadReport, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	report = &LoadReport{
		Machine: ThisMachine(o.Network.Dir), Network: fmt.Sprintf("%d-%d", o.Network.Validators, o.Network.Layer2), Processes: !o.Network.InProcess,
		Mode: o.Level.Mode, Zipf: o.Zipf, Seed: o.Level.Seed, Operations: len(Operations), Ramp: o.Ramp && len(o.Levels) == 0,
		Warmup: o.Level.Warmup.Seconds(), Duration: o.Level.Duration.Seconds(), Drain: o.Level.Drain.Seconds(), Levels: []LoadResult{},
	}
	if o.Zipf != 0 {
		report.Packages = o.Packages
	}
	if o.Level.Mode == Open {
		report.Arrivals = o.Level.Arrivals
	}
	net, err := Launch(ctx, manySessions(o.Network))
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, net.Close()) }()
	for {
		load, more := o.next(report)
		if !more {
			return report, nil
		}
		level := o.Level
		level.Load = load
		result, err := o.measure(ctx, net, level, len(report.Levels)+1)
		if err == nil && (ctx.Err() == nil || result.Sent > 0) {
			report.add(result)
		}
		if ctx.Err() != nil {
			report.Interrupted = true
			return report, nil
		}
		if err = errors.Join(err, net.Failed()); err != nil {
			return report, err
		}
	}
}

// next says which load comes after those that were measured.
func (o *LoadOptions) next(r *LoadReport) (float64, bool) {
	n := len(r.Levels)
	switch {
	case len(o.Levels) > 0 && n < len(o.Levels):
		return o.Levels[n], true
	case len(o.Levels) > 0:
		return 0, false
	case !o.Ramp:
		return o.Level.Load, n == 0
	}
	var done []rung
	for _, l := range r.Levels {
		done = append(done, rung{l.Load, l.SessionsPerSecond})
	}
	return nextLoad(done, o.Level.Load, o.Most, o.Level.Mode == Closed)
}

func (r *LoadReport) add(l LoadResult) {
	r.Levels = append(r.Levels, l)
	if l.SessionsPerSecond > r.GreatestRate {
		r.GreatestRate, r.Greatest = l.SessionsPerSecond, l.Load
	}
}

// manySessions lifts a limit that is right for an actor and wrong here: one demo actor signs all sessions, so as many of
// its commits may wait for a block as of all actors together.
func manySessions(o NetworkOptions) NetworkOptions {
	change := o.Configure
	o.Configure = func(i int, cfg *node.Config) {
		cfg.Mempool.PerActor = cfg.Mempool.Size
		if change != nil {
			change(i, cfg)
		}
	}
	return o
}

// patience bounds one call of a load's client: what takes longer has failed.
const patience = 30 * time.Second

// loadClients returns n clients, which share their connections as the users behind one gateway do. Each goes to another Layer 2
// node first.
func loadClients(net *Network, n int) ([]*client.Client, func(), error) {
	transport := &http.Transport{MaxIdleConns: 0, MaxIdleConnsPerHost: 16_384, IdleConnTimeout: time.Minute}
	clients := make([]*client.Client, n)
	for i := range clients {
		var err error
		clients[i], err = net.Client(func(cfg *client.Config) {
			urls := cfg.URLs
			cfg.URLs = slices.Concat(urls[i%len(urls):], urls[:i%len(urls)])
			cfg.HTTP = &http.Client{Transport: shedWatcher{transport}}
			cfg.Patience = patience
			// A slow node is what is to be measured: asking another one too would double the load just then.
			cfg.Hedge = patience
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return clients, transport.CloseIdleConnections, nil
}

// measure puts one level on the network.
func (o *LoadOptions) measure(ctx context.Context, net *Network, level LoadLevel, number int) (LoadResult, error) {
	what := fmt.Sprintf("level %d: %s", number, describeLoad(level))
	seconds := int((level.Warmup + level.Duration).Seconds() + 0.5)
	if level.Each > 0 {
		what, seconds = fmt.Sprintf("%s, %d sessions each", what, level.Each), int(level.Load)*level.Each
	}
	progress := NewProgress(o.Progress, seconds, what)
	defer progress.Done()
	all, release, err := loadClients(net, clientsOf(level, len(net.URLs())))
	if err != nil {
		return LoadResult{}, err
	}
	defer release()

	places := 0
	draw := func(*mathrand.Rand) int { return 0 }
	if o.Zipf != 0 {
		zipf, err := NewZipf(o.Packages, o.Zipf)
		if err != nil {
			return LoadResult{}, err
		}
		draw, places = zipf.Draw, o.Packages
	}
	shelf := newShelf("LOAD-"+rand.Text()[:10], places)
	free := make(chan *client.Client, len(all)) // any client may carry any session: they differ only in the node they prefer
	for _, c := range all {
		free <- c
	}
	carry := func(ctx context.Context, place int, note func(Sample)) error {
		// Taken and put back at once: a client may carry many sessions, and each in turn goes to the next one.
		c := <-free
		free <- c
		p := shelf.take(place)
		_, err := Carry(ctx, c, p.Reference, note)
		if err == nil || taken(err) {
			shelf.gone(p)
		}
		if level.Each > 0 {
			progress.Add(1)
		}
		return err
	}
	var used [2]used
	var usedErr [2]error
	l := loop{LoadLevel: level, draw: draw, carry: carry, judge: judgeSession, edge: func(start bool) {
		i := 1
		if start {
			i = 0
		}
		used[i], usedErr[i] = usedBy(net)
	}}
	ticking, stop := context.WithCancel(ctx)
	defer stop()
	if level.Each == 0 {
		go tickProgress(ticking, progress, seconds)
	}
	t := l.run(ctx)
	if err := errors.Join(usedErr[:]...); err != nil {
		return LoadResult{}, err
	}
	return t.result(number, level.Load, used[0], used[1]), nil
}

// clientsOf is how many client objects carry a level. A client.Client may be used by many at once, so there is no need for one
// for each: enough that the nodes get equal shares.
func clientsOf(level LoadLevel, nodes int) int {
	if level.Mode == Open {
		return nodes
	}
	return max(nodes, min(int(level.Load), 64/nodes*nodes))
}

// tickProgress moves the bar by one each second, at most n times.
func tickProgress(ctx context.Context, p *Progress, n int) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range n {
		select {
		case <-tick.C:
			p.Add(1)
		case <-ctx.Done():
			return
		}
	}
}

// describeLoad says how much a level is.
func describeLoad(l LoadLevel) string {
	if l.Mode == Closed {
		return fmt.Sprintf("%.0f clients", l.Load)
	}
	return fmt.Sprintf("%.4g sessions/s, %s", l.Load, l.Arrivals)
}

// judgeSession tells a conflict from a failure. Two sessions that work on one package conflict in two ways: the network finds
// that a block has changed what a session has read; or the session begins after that block, and the service answers it
// that the package is registered.
func judgeSession(err error) (Ending, string) {
	var problem *client.Problem
	var end *client.EndedError
	switch {
	case errors.As(err, &problem) && problem.Conflict():
		return Conflicted, problem.Code
	case errors.As(err, &problem):
		return Failed, problem.Code
	case errors.As(err, &end) && end.Status == "conflicted":
		return Conflicted, "conflict"
	case taken(err):
		return Conflicted, "package-taken"
	case errors.Is(err, context.DeadlineExceeded):
		return Failed, "timeout"
	}
	return Failed, "other"
}

// taken reports whether the service refused to register a package because another session has.
func taken(err error) bool {
	var refused *ServiceError
	return errors.As(err, &refused) && refused.Status == http.StatusConflict && strings.Contains(string(refused.Body), "duplicate-package")
}

// used is what nodes and client have used so far.
type used struct {
	at     time.Time
	client float64 // ms of CPU
	nodes  []NodeUsage
}

func usedBy(net *Network) (used, error) {
	u := used{at: time.Now()}
	var err error
	if u.nodes, err = net.Usage(); err != nil || net.inside != nil {
		return u, err
	}
	self, err := usageOf("self")
	u.client = self.CPU
	return u, err
}

// result sums up.
func (t *tally) result(number int, load float64, before, after used) LoadResult {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := LoadResult{
		Level: number, Load: load, Seconds: max(t.to.Sub(t.from).Seconds(), 0),
		Sent: t.sent, Committed: t.endings[Committed], Conflicted: t.endings[Conflicted], Shed: t.endings[Shed], Failed: t.endings[Failed],
		ShedRequests: t.shed, Reasons: append([]Reason{}, t.reasons...), Late: t.late.Percentiles("late"), AtOnce: t.most,
		Operations: []Percentiles{}, Timeline: []Second{}, took: t.took,
	}
	for _, name := range operationsIn(t.took) {
		r.Operations = append(r.Operations, t.took[name].Percentiles(name))
	}
	for _, s := range t.seconds {
		d := Distribute(s.took)
		s.P50, s.P99, s.took = d.Median, d.P99, nil
		s.Measured = t.within(t.begin.Add(time.Duration(s.Second) * time.Second))
		r.Timeline = append(r.Timeline, s)
	}
	if r.Seconds > 0 {
		r.SessionsPerSecond, r.StepsPerSecond = float64(t.done)/r.Seconds, float64(t.steps)/r.Seconds
	}
	r.Nodes = Since(before.nodes, after.nodes)
	r.ClientCPU = after.client - before.client
	cpu := r.ClientCPU
	for _, n := range r.Nodes {
		cpu += n.CPU
	}
	if wall := after.at.Sub(before.at); wall > 0 {
		r.Busy = cpu / (Millis(wall) * float64(runtime.NumCPU()))
	}
	if t.done > 0 {
		r.CPUPerSession = cpu / float64(t.done)
	}
	return r
}

// operationsIn lists the names in the order of the workflow, whole sessions last.
func operationsIn(took map[string]*Histogram) []string {
	place := func(name string) int {
		i := slices.IndexFunc(Operations, func(o Operation) bool { return o.Name == name })
		if i < 0 {
			i = len(Operations)
		}
		return i
	}
	return slices.SortedStableFunc(maps.Keys(took), func(a, b string) int { return place(a) - place(b) })
}
