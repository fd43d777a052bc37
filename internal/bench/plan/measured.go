package plan

import (
	"embed"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Measured is what the constants are fitted to: summaries of `tandem bench paper`, `wan` and `load`, put together.
type Measured struct {
	// Cores are those of the measured machine; all of a model's measurements should be from machines with as many.
	Cores int
	// Sources say where each summary is from, and when it was measured.
	Sources   []string
	Points    []Point
	Loads     []Load
	Distances []Distance
	// Warnings are about the summaries themselves: failures in them, a loaded machine, machines that differ.
	Warnings []string
}

// Point is one configuration measured without distance. Times are medians in ms; 0 is unknown.
type Point struct {
	Validators, Layer2           int
	Step, Commit, Workflow, Open float64
	ValidatorCPU, Layer2CPU      float64 // of one node, for one workflow
}

// Load is one configuration at saturation.
type Load struct {
	Validators, Layer2, Steps, Cores int
	Sessions                         float64 // per second
}

// Distance is one configuration over one set of distances, and the same without, in one run. Times in ms; Local* is without.
type Distance struct {
	Name                                 string
	Validators, Layer2                   int
	Step, Commit, StepFloor, CommitFloor float64
	LocalStep, LocalCommit               float64
	LocalFloor                           float64 // of a commit: the client's distance
}

//go:embed measured/*.json
var committed embed.FS

// Default is the measurements that this program was built with: the files in internal/bench/plan/measured, each a summary.json as a
// command wrote it, with its date and machine.
func Default() (Measured, error) {
	entries, err := committed.ReadDir("measured")
	if err != nil {
		return Measured{}, fmt.Errorf("plan: %w", err)
	}
	var m Measured
	for _, e := range entries {
		text, err := committed.ReadFile("measured/" + e.Name())
		if err != nil {
			return Measured{}, fmt.Errorf("plan: %w", err)
		}
		if err := m.Add("built in: "+e.Name(), text); err != nil {
			return Measured{}, err
		}
	}
	return m, nil
}

// summary is what this package reads of the three kinds of summary.json. What it does not know it passes over, so that the
// files may grow.
type summary struct {
	Kind    string `json:"kind"`
	Machine struct {
		Date  time.Time `json:"date"`
		Cores int       `json:"cores"`
		CPU   string    `json:"cpu"`
		Load  float64   `json:"load_average"`
	} `json:"machine"`
	Processes bool `json:"processes"`

	Configs map[string]struct { // bench paper
		Step       float64 `json:"step_median_ms"`
		Commit     float64 `json:"commit_median_ms"`
		Workflow   float64 `json:"workflow_median_ms"`
		Failures   int     `json:"failures"`
		Operations map[string]struct {
			Median float64 `json:"median_ms"`
		} `json:"operations"`
		Nodes []struct {
			Role string  `json:"role"`
			CPU  float64 `json:"cpu_per_workflow_ms"`
		} `json:"nodes"`
	} `json:"configs"`

	Config    string     `json:"config"` // bench wan
	Scenarios []scenario `json:"scenarios"`

	Network    string  `json:"network"` // bench load
	Greatest   float64 `json:"greatest_sessions_per_second"`
	Operations int     `json:"operations_per_session"` // opening and committing included
}

type scenario struct {
	Name        string  `json:"name"`
	Step        float64 `json:"step_median_ms"`
	Commit      float64 `json:"commit_median_ms"`
	StepFloor   float64 `json:"step_floor_ms"`
	CommitFloor float64 `json:"commit_floor_ms"`
	Failures    int     `json:"failures"`
}

// Add takes in a summary.json; name is told as its source.
func (m *Measured) Add(name string, text []byte) error {
	var s summary
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("plan: %s: %w", name, err)
	}
	var kind string
	var err error
	switch {
	case len(s.Scenarios) > 0:
		kind, err = "wan", m.addDistances(name, s)
	case s.Greatest > 0:
		kind, err = "load", m.addLoad(name, s)
	case len(s.Configs) > 0:
		kind, err = "paper", m.addPoints(name, s)
	default:
		err = fmt.Errorf("plan: %s: it is no summary.json of `tandem bench` paper, wan or load", name)
	}
	if err != nil {
		return err
	}
	if s.Machine.Cores > 0 {
		if m.Cores > 0 && m.Cores != s.Machine.Cores {
			m.Warnings = append(m.Warnings, fmt.Sprintf("%s is from a machine with %d processors, what came before from one with %d: fit them apart", name, s.Machine.Cores, m.Cores))
		} else {
			m.Cores = s.Machine.Cores
		}
		if s.Machine.Load > float64(s.Machine.Cores)/2 {
			m.Warnings = append(m.Warnings, fmt.Sprintf("%s was measured while the machine did other work (load average %.1f on %d processors): the figures are too high", name, s.Machine.Load, s.Machine.Cores))
		}
	}
	source := fmt.Sprintf("%s: bench %s", name, kind)
	if !s.Machine.Date.IsZero() {
		source += s.Machine.Date.Format(" of 2006-01-02")
	}
	m.Sources = append(m.Sources, fmt.Sprintf("%s, %d processors %s, load average %.1f", source, s.Machine.Cores, s.Machine.CPU, s.Machine.Load))
	return nil
}

// sizes reads "4-1".
func sizes(name, config string) (validators, layer2 int, err error) {
	n, err := fmt.Sscanf(config, "%d-%d", &validators, &layer2)
	if n != 2 || err != nil || fmt.Sprintf("%d-%d", validators, layer2) != config || validators < 1 || layer2 < 1 || validators > 256 || layer2 > 256 {
		return 0, 0, fmt.Errorf("plan: %s: %q is no configuration such as 4-1", name, config)
	}
	return validators, layer2, nil
}

// sound reports whether all values are finite and not negative.
func sound(name string, values ...float64) error {
	for _, v := range values {
		if !(v >= 0 && v < 1e9) {
			return fmt.Errorf("plan: %s: %v is no measurement", name, v)
		}
	}
	return nil
}

func (m *Measured) addPoints(name string, s summary) error {
	names := make([]string, 0, len(s.Configs))
	for config := range s.Configs {
		names = append(names, config)
	}
	slices.Sort(names)
	for _, config := range names {
		c := s.Configs[config]
		p := Point{Step: c.Step, Commit: c.Commit, Workflow: c.Workflow, Open: c.Operations["open"].Median}
		var err error
		if p.Validators, p.Layer2, err = sizes(name, config); err != nil {
			return err
		}
		var validators, layer2 []float64
		for _, n := range c.Nodes {
			if err := sound(name, n.CPU); err != nil {
				return err
			}
			switch n.Role {
			case "validator":
				validators = append(validators, n.CPU)
			case "layer2":
				layer2 = append(layer2, n.CPU)
			}
		}
		if len(validators) > 0 && len(layer2) > 0 {
			p.ValidatorCPU, p.Layer2CPU = median(validators), median(layer2)
		}
		if err := sound(name, p.Step, p.Commit, p.Workflow, p.Open); err != nil {
			return err
		}
		if c.Failures > 0 {
			m.Warnings = append(m.Warnings, fmt.Sprintf("%s: %d workflows failed at %s", name, c.Failures, config))
		}
		m.Points = append(m.Points, p)
	}
	return nil
}

func (m *Measured) addLoad(name string, s summary) error {
	l := Load{Sessions: s.Greatest, Steps: max(s.Operations-2, 1), Cores: s.Machine.Cores}
	var err error
	if l.Validators, l.Layer2, err = sizes(name, s.Network); err != nil {
		return err
	}
	m.Loads = append(m.Loads, l)
	return sound(name, l.Sessions)
}

func (m *Measured) addDistances(name string, s summary) error {
	validators, layer2, err := sizes(name, s.Config)
	if err != nil {
		return err
	}
	local := s.Scenarios[0] // bench wan writes it first
	for _, c := range s.Scenarios {
		if err := sound(name, c.Step, c.Commit, c.StepFloor, c.CommitFloor); err != nil {
			return err
		}
		if c.Failures > 0 {
			m.Warnings = append(m.Warnings, fmt.Sprintf("%s: %d workflows failed over %s", name, c.Failures, c.Name))
		}
		if c.Commit > 0 && c.Step > 0 && c.Name != local.Name && local.Commit > 0 {
			m.Distances = append(m.Distances, Distance{
				Name: c.Name, Validators: validators, Layer2: layer2, Step: c.Step, Commit: c.Commit, StepFloor: c.StepFloor, CommitFloor: c.CommitFloor,
				LocalStep: local.Step, LocalCommit: local.Commit, LocalFloor: local.CommitFloor,
			})
		}
	}
	return nil
}

// usable are the points that have a step and a commit.
func (m Measured) usable() []Point {
	var some []Point
	for _, p := range m.Points {
		if p.Step > 0 && p.Commit > 0 {
			some = append(some, p)
		}
	}
	return some
}
