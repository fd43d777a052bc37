package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
)

// The axes along which RunScale measures how costs grow.
const (
	AxisValidators = "validators"
	AxisOpen       = "open"
	AxisSteps      = "steps"
	AxisState      = "state"
	AxisBody       = "body"
	AxisClients    = "clients"
)

// axis is one size that varies while everything else stays as it is.
type axis struct {
	name, unit, about string
	points            []float64
	low, high         float64 // what a point may be
	measure           func(*scaleRun, context.Context) error
}

// axes in the order in which they are measured: the ones that need little time first.
var axes = []axis{
	{AxisBody, "bytes of body per step", "Sessions of five steps, each with a body of that size that is kept in the state. All nodes and the client in one process.",
		[]float64{100, 1000, 10_000, 100_000}, 1, 200_000, (*scaleRun).bodies},
	{AxisSteps, "steps per session", "The workflow's five steps again and again, with one package after the other, in one session.",
		[]float64{1, 10, 100, 1000}, 1, 1024, (*scaleRun).steps},
	{AxisClients, "clients at once", "A closed loop of the workflow; latencies are those under that load.",
		[]float64{1, 2, 4, 8, 16, 32, 64}, 1, 10_000, (*scaleRun).clients},
	{AxisValidators, "validators", "The workflow, one after the other, at networks of that many validators and one Layer 2 node, all on this machine.",
		[]float64{4, 7, 10, 13, 16}, 1, 64, (*scaleRun).validators},
	{AxisOpen, "open sessions", "The workflow, one after the other, at a node that has so many other sessions open, each with one step. A second network with one " +
		"open session is measured in turn with it: \"beside\".",
		[]float64{1, 10, 100, 1000, 10_000}, 1, 19_000, (*scaleRun).open},
	{AxisState, "keys in the state", "Sessions of five steps, each of which reads and changes a random one of that many keys. One validator and one Layer 2 node each, " +
		"all in one process: what grows is each node's own store, and copies of it would only fill the same disk.",
		[]float64{1e3, 1e4, 1e5, 1e6}, 1, 1e7, (*scaleRun).state},
}

// Axes are the names of all axes, in the order in which they are measured.
func Axes() []string {
	var names []string
	for _, a := range axes {
		names = append(names, a.name)
	}
	return names
}

// DefaultPoints are the sizes at which an axis is measured; nil for an unknown one.
func DefaultPoints(name string) []float64 {
	for _, a := range axes {
		if a.name == name {
			return slices.Clone(a.points)
		}
	}
	return nil
}

// ScaleOptions say what RunScale measures.
type ScaleOptions struct {
	// Network is what stays as it is on all axes that do not say otherwise.
	Network NetworkOptions
	// Points are the sizes to measure, ascending, by the name of the axis; an axis that is not in it is not measured.
	Points map[string][]float64
	// Rounds is how often each point is measured; where the axis allows, all its points take turns. Workflows is how many
	// sessions each time.
	Rounds, Workflows int
	Seed              uint64
	Progress          io.Writer
}

// ScaleReport is what RunScale found out.
type ScaleReport struct {
	Machine     Machine     `json:"machine"`
	Network     string      `json:"network"`
	Processes   bool        `json:"processes"`
	Rounds      int         `json:"rounds"`
	Workflows   int         `json:"workflows"`
	Seed        uint64      `json:"seed"`
	Axes        []ScaleAxis `json:"axes"`
	Targets     []Target    `json:"targets"`
	Interrupted bool        `json:"interrupted,omitempty"`
}

// ScaleAxis is one axis.
type ScaleAxis struct {
	Name    string             `json:"name"`
	Unit    string             `json:"unit"`
	About   string             `json:"about"`
	Load    float64            `json:"load_average"` // of the machine when the axis was begun
	Points  []ScalePoint       `json:"points"`
	Growths map[string]*Growth `json:"growth"` // by what grows: step, commit, session and others
}

// ScalePoint is what was measured at one size.
type ScalePoint struct {
	X       float64 `json:"x"`
	Network string  `json:"network"`
	// Step, Commit and Session are latencies: of steps that a handler answered, of commits, of whole sessions from before
	// opening to the answer to the commit.
	Step    Percentiles `json:"step"`
	Commit  Percentiles `json:"commit"`
	Session Percentiles `json:"session"`
	// Beside is the step at the reference that was measured in turn with this point, and StepRatio the medians' ratio; both 0 where there is none.
	Beside    Percentiles `json:"beside"`
	StepRatio float64     `json:"step_ratio_to_beside"`
	// SessionsPerSecond is only of the axis of clients.
	SessionsPerSecond float64 `json:"sessions_per_second,omitempty"`
	// CPUPerSession is the CPU time of all nodes for a session, in ms, and Layer2RSS the first Layer 2 node's resident memory in
	// bytes after the last round: in one process they include the client and, on the axis of state, all points' networks; then
	// they are 0.
	CPUPerSession float64 `json:"cpu_ms_per_session,omitempty"`
	Layer2RSS     int64   `json:"layer2_rss_bytes,omitempty"`
	Failures      int     `json:"failures"`
	FirstFailure  string  `json:"first_failure,omitempty"`

	steps, commits, sessions, besides *Histogram
	cpu                               float64
	carried                           int // sessions behind cpu
	rate                              float64
	rounds                            int // behind rate
}

// Target is a figure that the project has set itself, and what was measured.
type Target struct {
	What     string  `json:"what"`
	Most     float64 `json:"at_most"`
	Measured float64 `json:"measured"`
	Met      bool    `json:"met"`
}

// Check says what is wrong with the options.
func (o *ScaleOptions) Check() error {
	if len(o.Points) == 0 {
		return errors.New("bench: no axis to measure")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Points)) {
		i := slices.IndexFunc(axes, func(a axis) bool { return a.name == name })
		if i < 0 {
			return fmt.Errorf("bench: there is no axis %q, only %v", name, Axes())
		}
		points := o.Points[name]
		if len(points) == 0 {
			return fmt.Errorf("bench: no points on the axis %s", name)
		}
		for k, x := range points {
			if x < axes[i].low || x > axes[i].high || x != math.Trunc(x) {
				return fmt.Errorf("bench: %s: %v is no whole number from %v to %v", name, x, axes[i].low, axes[i].high)
			}
			if k > 0 && x <= points[k-1] {
				return fmt.Errorf("bench: %s: the points are not ascending: %v", name, points)
			}
		}
	}
	if o.Rounds < 1 || o.Rounds > 1000 || o.Workflows < 1 || o.Workflows > 100_000 {
		return fmt.Errorf("bench: %d rounds of %d workflows: from 1 to 1000 of 1 to 100000", o.Rounds, o.Workflows)
	}
	return nil
}

// RunScale measures the axes one after the other, each at networks of its own, which it removes. If ctx ends, what was measured
// until then is in the report, with Interrupted set; so it is when the error is not nil, which means that a network failed.
func RunScale(ctx context.Context, o ScaleOptions) (*ScaleReport, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	report := &ScaleReport{
		Machine: ThisMachine(o.Network.Dir), Network: fmt.Sprintf("%d-%d", o.Network.Validators, o.Network.Layer2), Processes: !o.Network.InProcess,
		Rounds: o.Rounds, Workflows: o.Workflows, Seed: o.Seed, Axes: []ScaleAxis{}, Targets: []Target{},
	}
	for _, a := range axes {
		points, wanted := o.Points[a.name]
		if !wanted {
			continue
		}
		s := &scaleRun{o: o, axis: a, points: points, result: make([]ScalePoint, len(points)), load: Load()}
		for i, x := range points {
			s.result[i] = ScalePoint{X: x, Network: report.Network, steps: NewHistogram(), commits: NewHistogram(), sessions: NewHistogram(), besides: NewHistogram()}
		}
		err := a.measure(s, ctx)
		report.Axes = append(report.Axes, s.sum())
		report.Targets = append(report.Targets, targets(report.Axes[len(report.Axes)-1])...)
		if ctx.Err() != nil {
			report.Interrupted = true
			return report, nil
		}
		if err != nil {
			return report, fmt.Errorf("axis %s: %w", a.name, err)
		}
	}
	return report, nil
}

// sum makes the axis's result of what was recorded; points at which nothing was measured are left out.
func (s *scaleRun) sum() ScaleAxis {
	out := ScaleAxis{Name: s.axis.name, Unit: s.axis.unit, About: s.axis.about, Load: s.load, Points: []ScalePoint{}, Growths: map[string]*Growth{}}
	for _, p := range s.result {
		if p.sessions.Count() == 0 && p.Failures == 0 {
			continue
		}
		p.Step, p.Commit, p.Session = p.steps.Percentiles("step"), p.commits.Percentiles("commit"), p.sessions.Percentiles("session")
		if p.besides.Count() > 0 {
			p.Beside = p.besides.Percentiles("step beside")
			p.StepRatio = p.Step.P50 / p.Beside.P50
		}
		if p.carried > 0 {
			p.CPUPerSession = p.cpu / float64(p.carried)
		}
		if p.rounds > 0 {
			p.SessionsPerSecond = p.rate / float64(p.rounds)
		}
		out.Points = append(out.Points, p)
	}
	for name, of := range measures {
		var points []Point
		for _, p := range out.Points {
			if y := of(p); y > 0 {
				points = append(points, Point{p.X, y})
			}
		}
		if g, err := FitGrowth(points); err == nil {
			out.Growths[name] = &g
		}
	}
	return out
}

// measures are what may grow along an axis. One that was not measured is 0.
var measures = map[string]func(ScalePoint) float64{
	"step p50":          func(p ScalePoint) float64 { return p.Step.P50 },
	"step p99":          func(p ScalePoint) float64 { return p.Step.P99 },
	"step to reference": func(p ScalePoint) float64 { return p.StepRatio },
	"commit p50":        func(p ScalePoint) float64 { return p.Commit.P50 },
	"session p50":       func(p ScalePoint) float64 { return p.Session.P50 },
	"sessions/s":        func(p ScalePoint) float64 { return p.SessionsPerSecond },
	"CPU per session":   func(p ScalePoint) float64 { return p.CPUPerSession },
	"memory of L2 node": func(p ScalePoint) float64 { return float64(p.Layer2RSS) },
}

// targets compares an axis with what the project has set itself, where the points that a target speaks of were measured.
func targets(a ScaleAxis) []Target {
	at := func(x float64) *ScalePoint {
		for i := range a.Points {
			if a.Points[i].X == x && a.Points[i].Step.Count > 0 {
				return &a.Points[i]
			}
		}
		return nil
	}
	var low, high *ScalePoint
	var what string
	most := 1.5
	switch a.Name {
	case AxisValidators:
		low, high, what, most = at(4), at(16), "step at 16 validators against 4", 1.3
	case AxisOpen:
		low, high, what = at(1), at(10_000), "step with 10,000 open sessions against 1, in turn"
	case AxisState:
		low, high, what = at(1e3), at(1e6), "step with 1e6 keys against 1e3"
	}
	if low == nil || high == nil {
		return nil
	}
	ratio := high.Step.P50 / low.Step.P50
	if high.StepRatio > 0 {
		ratio = high.StepRatio
	}
	return []Target{{what, most, ratio, ratio <= most}}
}
