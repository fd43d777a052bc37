package bench

import (
	"encoding/json"
	"fmt"
	"time"
)

// PaperSummary is what `tandem bench paper` writes into summary.json.
type PaperSummary struct {
	Machine Machine `json:"machine"`
	// Processes: each node was a process of its own; else all nodes and the client were one process.
	Processes bool `json:"processes"`
	// Runs, OneLayerRuns and Warmup are the workflows asked for on each network: in sessions, on one layer, and not counted.
	Runs         int `json:"runs"`
	OneLayerRuns int `json:"one_layer_runs"`
	Warmup       int `json:"warmup"`
	// Interrupted: not everything that was asked for has been measured, since the program was stopped.
	Interrupted bool                    `json:"interrupted"`
	Configs     map[string]*PaperConfig `json:"configs"` // by name, "4-1"
}

// PaperConfig is what was measured on one network. Times are in milliseconds.
type PaperConfig struct {
	Validators int `json:"validators"`
	Layer2     int `json:"layer2"`
	// StepMedian is over all steps (requests that a handler answers) of all workflows; WorkflowMedian from before the session is
	// opened to after it is committed.
	StepMedian     float64 `json:"step_median_ms"`
	CommitMedian   float64 `json:"commit_median_ms"`
	WorkflowMedian float64 `json:"workflow_median_ms"`
	// OperationAndCommit is the paper's other total: the mean Layer 2 operation (opening included) plus the mean commit.
	OperationAndCommit float64 `json:"operation_and_commit_mean_ms"`
	// Workflows were committed; Failures ended with an error (the rows of requests.csv say which).
	Workflows    int    `json:"workflows"`
	Failures     int    `json:"failures"`
	FirstFailure string `json:"first_failure,omitempty"`
	// Complete: all workflows that were asked for have been measured, failed ones included.
	Complete bool `json:"complete"`
	// Error says why the network was not measured to the end, other than by the user's wish.
	Error string `json:"error,omitempty"`
	// Operations are the latencies of "open", "create", ... "commit", of a "step" (any), of a "layer2" operation (a step or
	// opening) and of the whole "workflow".
	Operations map[string]Distribution `json:"operations"`
	// OneLayer is the same workflow with every step committed on Layer 1: its steps by name, and "workflow".
	OneLayer         map[string]Distribution `json:"one_layer,omitempty"`
	OneLayerFailures int                     `json:"one_layer_failures"`
	// OneLayerRatio is one layer's median workflow by two layers'; 0 if unknown.
	OneLayerRatio float64 `json:"one_layer_ratio,omitempty"`
	// Nodes is what each node used during UsageWorkflows measured workflows in sessions.
	Nodes          []PaperNode `json:"nodes"`
	UsageWorkflows int         `json:"usage_workflows"`
	// Date, Load and LoadEnd are of the last time that this network was measured.
	Date    time.Time `json:"date"`
	Load    float64   `json:"load_average"`
	LoadEnd float64   `json:"load_average_end"`
}

// PaperNode is what one node used.
type PaperNode struct {
	NodeUsage
	CPUPerWorkflow float64 `json:"cpu_per_workflow_ms"`
}

// use adds what the nodes used during some workflows.
func (c *PaperConfig) use(used []NodeUsage, workflows int) {
	c.UsageWorkflows += workflows
	for i, u := range used {
		if i == len(c.Nodes) {
			c.Nodes = append(c.Nodes, PaperNode{})
		}
		n := &c.Nodes[i]
		n.Name, n.Role, n.RSS = u.Name, u.Role, u.RSS
		n.CPU += u.CPU
		n.Peak = max(n.Peak, u.Peak)
		n.CPUPerWorkflow = float64(int64(n.CPU/float64(c.UsageWorkflows)*1000+0.5)) / 1000
	}
}

// sum computes what follows from the samples of this configuration.
func (c *PaperConfig) sum(samples, oneLayer []Sample, runs, oneLayerRuns int) {
	c.Operations = operations(samples)
	c.Operations["step"] = Distribute(Latencies(samples, func(a Sample) bool { return IsStep(a.Operation) }))
	layer2 := Distribute(Latencies(samples, func(a Sample) bool { return a.Layer == L2 }))
	c.Operations["layer2"] = layer2
	workflow, failed := Workflows(samples)
	c.Operations["workflow"] = Distribute(workflow)
	c.Workflows, c.Failures = len(workflow), failed
	c.StepMedian, c.CommitMedian, c.WorkflowMedian = c.Operations["step"].Median, c.Operations["commit"].Median, c.Operations["workflow"].Median
	c.OperationAndCommit = 0
	if commit := c.Operations["commit"]; layer2.Count > 0 && commit.Count > 0 {
		c.OperationAndCommit = layer2.Mean + commit.Mean
	}
	c.FirstFailure = firstFailure(samples)
	c.OneLayer, c.OneLayerFailures, c.OneLayerRatio = nil, 0, 0
	one, oneFailed := Workflows(oneLayer)
	if len(oneLayer) > 0 {
		c.OneLayer = operations(oneLayer)
		c.OneLayer["workflow"] = Distribute(one)
		c.OneLayerFailures = oneFailed
		if c.FirstFailure == "" {
			c.FirstFailure = firstFailure(oneLayer)
		}
		if c.WorkflowMedian > 0 {
			c.OneLayerRatio = float64(int64(c.OneLayer["workflow"].Median/c.WorkflowMedian*1000+0.5)) / 1000
		}
	}
	c.Complete = len(workflow)+failed >= runs && len(one)+oneFailed >= oneLayerRuns
}

// operations are the distributions of each operation among samples.
func operations(samples []Sample) map[string]Distribution {
	all := map[string]Distribution{}
	for _, o := range Operations {
		if took := Latencies(samples, func(a Sample) bool { return a.Operation == o.Name }); len(took) > 0 {
			all[o.Name] = Distribute(took)
		}
	}
	return all
}

func firstFailure(samples []Sample) string {
	for _, a := range samples {
		if a.Err != "" {
			return a.Err
		}
	}
	return ""
}

// of are the samples of one configuration.
func of(samples []Sample, config string) []Sample {
	var some []Sample
	for _, a := range samples {
		if a.Config == config {
			some = append(some, a)
		}
	}
	return some
}

// Failures are all workflows that failed, on one layer too, and the networks that did not work.
func (s *PaperSummary) Failures() (workflows, networks int) {
	for _, c := range s.Configs {
		workflows += c.Failures + c.OneLayerFailures
		if c.Error != "" {
			networks++
		}
	}
	return workflows, networks
}

// writeSummary sums up and writes summary.json.
func (r *paperRun) writeSummary() error {
	for name, c := range r.summary.Configs {
		c.sum(of(r.samples, name), of(r.oneLayer, name), r.o.Runs, r.o.OneLayer)
	}
	text, err := json.MarshalIndent(r.summary, "", "  ")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return replaceFile(r.path(summaryFile), append(text, '\n'))
}
