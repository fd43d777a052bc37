package plan

import (
	"fmt"
	"math"
	"slices"
)

// Accuracy is how one prediction compares with what was measured. The prediction is made without that measurement: the model is fitted
// to all the others.
type Accuracy struct {
	What      string  `json:"what"` // "step", "commit", "workflow", "step over 50ms", ...
	Config    string  `json:"config"`
	Predicted float64 `json:"predicted"` // ms, or sessions per second
	Measured  float64 `json:"measured"`
	Error     float64 `json:"error_percent"`
	// Outside: what was held out lies outside the others, so that this is an extrapolation.
	Outside bool `json:"outside_the_rest"`
}

// LeaveOneOut predicts every measurement from the others. A measurement that is the only one of its kind is not predicted; the
// number of such is returned too.
func LeaveOneOut(m Measured) (all []Accuracy, alone int) {
	points := m.usable()
	for i, p := range points {
		rest := m
		rest.Points = slices.Concat(points[:i], points[i+1:])
		f, err := Fit(rest)
		if err != nil {
			alone++
			continue
		}
		config := fmt.Sprintf("%d-%d", p.Validators, p.Layer2)
		outside := p.Validators < f.fewest || p.Validators > f.most || p.Layer2 > f.layer2
		w, err := Workload{Steps: paperSteps, Shared: true}.complete(f)
		if err != nil {
			continue
		}
		got := f.predict(w, p.Validators, p.Layer2, min(p.Layer2, 2))
		all = append(all, compared("step", config, got.Step, p.Step, outside), compared("commit", config, got.Commit, p.Commit, outside))
		if p.Workflow > 0 {
			all = append(all, compared("workflow", config, got.Workflow, p.Workflow, outside))
		}
	}
	for i, d := range m.Distances {
		rest := m
		rest.Distances = slices.Concat(m.Distances[:i], m.Distances[i+1:])
		f, err := Fit(rest)
		if err != nil || len(rest.Distances) == 0 {
			alone++
			continue
		}
		// The machine's part is this run's own, measured without distance; predicted is what distance does to it.
		config := fmt.Sprintf("%d-%d", d.Validators, d.Layer2)
		all = append(all, compared("step over "+d.Name, config, d.LocalStep-d.LocalFloor+d.StepFloor, d.Step, false),
			compared("commit over "+d.Name, config, d.LocalCommit+(d.CommitFloor-d.LocalFloor)*(1+f.added), d.Commit, d.CommitFloor > f.farthest))
	}
	for i, l := range m.Loads {
		rest := m
		rest.Loads = slices.Concat(m.Loads[:i], m.Loads[i+1:])
		f, err := Fit(rest)
		if err != nil || len(rest.Loads) == 0 || f.validatorCPU == 0 {
			alone++
			continue
		}
		all = append(all, compared("sessions per second", fmt.Sprintf("%d-%d", l.Validators, l.Layer2),
			float64(l.Cores)*1000/(f.session(l.Validators, l.Layer2, l.Steps)*f.sharing), l.Sessions, false))
	}
	return all, alone
}

func compared(what, config string, predicted, measured float64, outside bool) Accuracy {
	return Accuracy{what, config, predicted, measured, 100 * (predicted/measured - 1), outside}
}

// Summarise is the mean and the greatest size of the errors, in percent; 0 of none.
func Summarise(all []Accuracy) (mean, most float64) {
	for _, a := range all {
		mean += math.Abs(a.Error) / float64(len(all))
		most = max(most, math.Abs(a.Error))
	}
	return mean, most
}
