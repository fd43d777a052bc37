// Package plan answers how many nodes a workload needs and what they would give: from the faults to survive follow the
// numbers of nodes, from measured runs the constants of a model, from both the predicted latencies and throughput of each
// configuration. It is the "configuration planning" that the paper's thesis leaves to future work, and it is careful about
// what it knows: Formulas states the model in full, LeaveOneOut says how far it is off where there are measurements, and each
// Prediction says where it goes beyond them.
//
// The shape of the model comes from what happens, its constants from runs of `tandem bench`:
//
//   - A step is answered by one Layer 2 node, as soon as enough of the others have endorsed it. Validators have no part in it.
//     Where all nodes share a machine, as in the measured runs, they disturb it by what they use of the processors, which grows with the votes.
//   - A commit waits for one block: a part that is the same for any network (execution and fsyncs in a row), one that each
//     node adds (everybody executes and stores), and one that each pair of a voting and a receiving node adds (votes).
//   - Distance adds what the paths of messages add, which package distance computes, and nothing else.
//   - Every node runs every session. So more nodes survive more faults; they carry no more load.
//
// All constants are fitted without negative values. So, with equal distances, more nodes are never predicted to be faster.
//
// Everything in this package is pure: the same measurements and the same question give the same answer.
package plan

import (
	"errors"
	"fmt"
	"math"

	"tandem/internal/bench/distance"
)

// Workload is what the network is for. The zero value of a field means its default.
type Workload struct {
	// Steps are the handler calls of a session; opening and committing come on top. Default 5, the paper's workflow; at most 10,000.
	Steps int
	// Rate is how many sessions are committed per second. Default 1.
	Rate float64
	// Body is how many bytes a step's request has. Default 300; at most 1 MiB.
	Body int
	// Faults (f) is how many validators may be down or lie, at the same time. 0 to 10.
	Faults int
	// Disks is how many Layer 2 nodes may lose their disks at the same time without the loss of an answered step. 0 to 10.
	Disks int
	// Down is how many Layer 2 nodes may be down while every step still gets onto as many disks as Disks asks for. 0 to 10.
	Down int
	// Map says where nodes and client are. Default: all beside each other, without distance.
	Map *distance.Map
	// Shared puts all nodes on one machine, as in the measured runs. Otherwise each has a machine of its own.
	Shared bool
	// Cores are the processors of each machine. Default: those of the measured one.
	Cores int
	// MaxStep, MaxCommit and MaxWorkflow are what a user accepts, in ms; 0: anything.
	MaxStep, MaxCommit, MaxWorkflow float64
}

// The workload's bounds.
const (
	maxSteps  = 10_000
	maxBody   = 1 << 20
	maxFaults = 10
	maxRate   = 1e6
)

// complete fills in defaults and checks what was given.
func (w Workload) complete(m *Model) (Workload, error) {
	if w.Steps == 0 {
		w.Steps = paperSteps
	}
	if w.Rate == 0 {
		w.Rate = 1
	}
	if w.Body == 0 {
		w.Body = 300
	}
	if w.Cores == 0 {
		w.Cores = m.cores
	}
	if w.Map == nil {
		w.Map = distance.Nowhere()
	}
	for _, c := range []struct {
		name         string
		v, low, high float64
	}{
		{"steps per session", float64(w.Steps), 1, maxSteps}, {"sessions per second", w.Rate, 1e-6, maxRate}, {"bytes per step", float64(w.Body), 1, maxBody},
		{"faulty validators", float64(w.Faults), 0, maxFaults}, {"lost Layer 2 disks", float64(w.Disks), 0, maxFaults}, {"Layer 2 nodes down", float64(w.Down), 0, maxFaults},
		{"processors", float64(w.Cores), 1, 1024},
		{"step limit", w.MaxStep, 0, math.MaxFloat64}, {"commit limit", w.MaxCommit, 0, math.MaxFloat64}, {"workflow limit", w.MaxWorkflow, 0, math.MaxFloat64},
	} {
		if !(c.v >= c.low && c.v <= c.high) { // not a number is refused too
			return w, fmt.Errorf("plan: %s: %v is not between %v and %v", c.name, c.v, c.low, c.high)
		}
	}
	return w, nil
}

// Validators is how many validators survive f faulty ones: more than two thirds have to be honest and reachable.
func Validators(f int) int { return 3*f + 1 }

// Survives is how many faulty validators n survive.
func Survives(n int) int { return (n - 1) / 3 }

// Plan is the answer.
type Plan struct {
	// Validators, Layer2 and Need are what is recommended: nodes of each role, and how many Layer 2 nodes endorse a step before it
	// is answered (`[layer2] need`).
	Validators int `json:"validators"`
	Layer2     int `json:"layer2"`
	Need       int `json:"need"`
	// Chosen is what is predicted for it.
	Chosen Prediction `json:"chosen"`
	// Reasons say why, one sentence for each number.
	Reasons []string `json:"reasons"`
	// Settings are configuration keys that should not keep their defaults, with the reason.
	Settings []Setting `json:"settings,omitempty"`
	// Warnings say what the plan does not hold, or does not know.
	Warnings []string `json:"warnings,omitempty"`
	// Meets is false if the recommended network cannot do what was asked.
	Meets bool `json:"meets"`
	// Around are other configurations, to compare; the recommended one is among them.
	Around []Alternative `json:"configurations"`
	// Model, Measured and Accuracy say where the numbers come from and how good they are.
	Formulas []string   `json:"formulas"`
	Sources  []string   `json:"measured"`
	Accuracy []Accuracy `json:"accuracy"`
}

// Setting is a configuration key that the plan sets.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Reason string `json:"reason"`
}

// Alternative is a configuration beside the recommended one.
type Alternative struct {
	Prediction
	Faults int    `json:"survives_validators"`
	Disks  int    `json:"survives_disks"`
	Note   string `json:"note,omitempty"` // why it is not the recommended one
}

var errNoMeasurement = errors.New("plan: no measurement: at least one configuration with a step and a commit is needed")
