package plan

import (
	"fmt"
	"slices"
	"time"

	"tandem/internal/bench/distance"
)

// paperSteps are the handler calls of the paper's workflow, as the measured runs have it.
const paperSteps = 5

// Model is the constants, fitted to measurements. It is immutable.
type Model struct {
	step   []float64 // ms: always; for each pair of a validator and a node on the same machine; for each further Layer 2 node
	commit []float64 // ms: always; for each node; for each pair of a validator and a node
	open   float64   // opening a session against a step
	added  float64   // of a commit's distance: what the engine adds to the floor, as a fraction

	validatorCPU, layer2CPU float64 // ms of one session of paperSteps on one node of the role; 0: not measured
	sharing                 float64 // of that, what is left when sessions share blocks; 1: not measured

	cores                  int // of the measured machine
	fewest, most, layer2   int // validators and Layer 2 nodes of the measured configurations
	sharedLoads, distances int // measurements of saturation and of distance
	farthest               float64
}

// stepRow and commitRow are what the constants are multiplied with.
func stepRow(validators, layer2 int) []float64 {
	return []float64{1, float64(validators * (validators + layer2)), float64(layer2 - 1)}
}

func commitRow(validators, layer2 int) []float64 {
	nodes := float64(validators + layer2)
	return []float64{1, nodes, float64(validators) * nodes}
}

// Fit finds the constants. At least one configuration is needed; of each quantity that was not measured the model says so when it
// is used.
func Fit(m Measured) (*Model, error) {
	points := m.usable()
	if len(points) == 0 {
		return nil, errNoMeasurement
	}
	f := &Model{cores: max(m.Cores, 1), sharing: 1, fewest: points[0].Validators}
	var stepRows, commitRows [][]float64
	var steps, commits, opens, validatorCPU, layer2CPU []float64
	for _, p := range points {
		stepRows, steps = append(stepRows, stepRow(p.Validators, p.Layer2)), append(steps, p.Step)
		commitRows, commits = append(commitRows, commitRow(p.Validators, p.Layer2)), append(commits, p.Commit)
		if p.Open > 0 {
			opens = append(opens, p.Open/p.Step)
		} else if rest := p.Workflow - paperSteps*p.Step - p.Commit; p.Workflow > 0 {
			opens = append(opens, max(rest, 0)/p.Step)
		}
		if p.ValidatorCPU > 0 && p.Layer2CPU > 0 {
			validatorCPU, layer2CPU = append(validatorCPU, p.ValidatorCPU), append(layer2CPU, p.Layer2CPU)
		}
		f.fewest, f.most, f.layer2 = min(f.fewest, p.Validators), max(f.most, p.Validators), max(f.layer2, p.Layer2)
	}
	f.step, f.commit = nonNegative(stepRows, steps), nonNegative(commitRows, commits)
	f.open = 1
	if len(opens) > 0 {
		f.open = median(opens)
	}
	if len(validatorCPU) > 0 {
		f.validatorCPU, f.layer2CPU = median(validatorCPU), median(layer2CPU)
	}
	f.fitLoads(m.Loads)
	f.fitDistances(m.Distances)
	return f, nil
}

// fitLoads compares what a session cost of the processors at saturation with what it costs alone.
func (f *Model) fitLoads(loads []Load) {
	var ratios []float64
	for _, l := range loads {
		if l.Sessions <= 0 || l.Cores <= 0 {
			continue
		}
		spent := float64(l.Cores) * 1000 / l.Sessions
		if f.validatorCPU == 0 {
			// Without the roles' shares all nodes cost alike.
			each := spent / float64(l.Validators+l.Layer2)
			f.validatorCPU, f.layer2CPU, f.sharing = each, each, 1
			f.sharedLoads = 1
			return
		}
		ratios = append(ratios, spent/f.session(l.Validators, l.Layer2, l.Steps))
	}
	if f.sharedLoads = len(ratios); f.sharedLoads > 0 {
		f.sharing = median(ratios)
	}
}

// fitDistances compares what distance added to a commit with the floor.
func (f *Model) fitDistances(distances []Distance) {
	var ratios []float64
	for _, d := range distances {
		if floor := d.CommitFloor - d.LocalFloor; floor > 1 && d.LocalCommit > 0 {
			ratios = append(ratios, max(0, (d.Commit-d.LocalCommit)/floor-1))
			f.farthest = max(f.farthest, d.CommitFloor)
		}
	}
	if f.distances = len(ratios); f.distances > 0 {
		f.added = median(ratios)
	}
}

// session is the processor time (ms) of one session of that many steps on all nodes together, alone. That it grows with the
// steps was not measured for other than paperSteps: more steps are counted in proportion, fewer as so many, so that the
// guess is on the expensive side.
func (f *Model) session(validators, layer2, steps int) float64 {
	return (float64(validators)*f.validatorCPU + float64(layer2)*f.layer2CPU) * stepsFactor(steps)
}

func stepsFactor(steps int) float64 { return max(1, float64(steps)/paperSteps) }

// Prediction is what one configuration is expected to do. Times are medians in ms, of a network that is not near its limit.
type Prediction struct {
	Config     string `json:"config"` // "4-1": four validators and one Layer 2 node
	Validators int    `json:"validators"`
	Layer2     int    `json:"layer2"`

	Step     float64 `json:"step_ms"`
	Commit   float64 `json:"commit_ms"`
	Workflow float64 `json:"workflow_ms"`  // open, steps and commit
	OneLayer float64 `json:"one_layer_ms"` // the same steps, each committed before the next
	// StepDistance and CommitDistance are the parts of Step and Commit that no machine can shorten.
	StepDistance   float64 `json:"step_distance_ms"`
	CommitDistance float64 `json:"commit_distance_ms"`

	// Sessions is how many sessions per second keep the processors fully busy; 0: not known. Bound says of whom.
	Sessions float64 `json:"sessions_per_second,omitempty"`
	Bound    string  `json:"bound,omitempty"`
	// Utilisation is the workload's rate against that, 1 being all.
	Utilisation float64 `json:"utilisation,omitempty"`

	// Beyond says in words where this goes beyond what was measured.
	Beyond []string `json:"beyond,omitempty"`
}

// predict applies the model to a configuration; w is complete.
func (f *Model) predict(w Workload, validators, layer2, need int) Prediction {
	place := w.Map.Place(validators, layer2)
	p := Prediction{Config: fmt.Sprintf("%d-%d", validators, layer2), Validators: validators, Layer2: layer2}
	machineStep, machineCommit := f.local(w.Shared, validators, layer2, need)
	p.StepDistance = millis(place.StepFloor(need))
	floor := millis(place.MeanCommitFloor())
	client := millis(place.Between(place.Client(), place.Home()).Delay + place.Between(place.Home(), place.Client()).Delay)
	p.CommitDistance = client + (floor-client)*(1+f.added)
	p.Step = machineStep + p.StepDistance
	p.Commit = machineCommit + p.CommitDistance
	open := f.open*machineStep + p.StepDistance
	p.Workflow = open + float64(w.Steps)*p.Step + p.Commit
	p.OneLayer = float64(w.Steps) * (open + p.Step + p.Commit)
	f.throughput(w, &p)
	p.Beyond = f.beyond(w, place, validators, layer2)
	return p
}

// local is a step and a commit without distance.
func (f *Model) local(shared bool, validators, layer2, need int) (step, commit float64) {
	if shared {
		return dot(f.step, stepRow(validators, layer2)), dot(f.commit, commitRow(validators, layer2))
	}
	// On a machine of its own a node is not disturbed by validators. How much less that is than on the smallest measured network
	// is not known, so it is counted as there. The others' endorsements come at the same time. What all nodes together did
	// on the measured machine's processors, each does on one of its own.
	step = f.alone()
	if min(need, layer2) > 1 {
		step += f.step[2]
	}
	return step, f.commit[0] + float64(f.cores)*(f.commit[1]+f.commit[2]*float64(validators))
}

// alone is a step on a Layer 2 node of its own: as on the smallest measured network, with one Layer 2 node.
func (f *Model) alone() float64 { return dot(f.step, stepRow(f.fewest, 1)) }

// throughput fills in how many sessions the processors can do.
func (f *Model) throughput(w Workload, p *Prediction) {
	if f.validatorCPU == 0 {
		return
	}
	if w.Shared {
		p.Sessions, p.Bound = float64(w.Cores)*1000/(f.session(p.Validators, p.Layer2, w.Steps)*f.sharing), "the processors that all nodes share"
	} else {
		each := func(cpu float64) float64 { return float64(w.Cores) * 1000 / (cpu * stepsFactor(w.Steps) * f.sharing) }
		p.Sessions, p.Bound = each(f.validatorCPU), "each validator's processors"
		if l := each(f.layer2CPU); l < p.Sessions {
			p.Sessions, p.Bound = l, "each Layer 2 node's processors"
		}
	}
	p.Utilisation = w.Rate / p.Sessions
}

// beyond lists where a prediction leaves the measured range.
func (f *Model) beyond(w Workload, place distance.Placement, validators, layer2 int) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if validators < f.fewest || validators > f.most {
		say("%d validators: measured from %d to %d", validators, f.fewest, f.most)
	}
	if layer2 > f.layer2 {
		say("%d Layer 2 nodes: measured up to %d", layer2, f.layer2)
	}
	if !w.Shared {
		say("each node on a machine of its own: measured only with all on one")
	}
	if floor := millis(place.MeanCommitFloor()); floor > max(f.farthest, 1) {
		if f.distances == 0 {
			say("distance: not measured")
		} else {
			say("a commit over a floor of %.0f ms: measured up to %.0f", floor, f.farthest)
		}
	}
	if w.Steps != paperSteps && f.validatorCPU > 0 {
		say("%d steps per session: processor time is measured with %d", w.Steps, paperSteps)
	}
	return out
}

// median of at least one value.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
