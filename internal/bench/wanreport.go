package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"
)

// write writes summary.json, the charts and report.html.
func (r *wanRun) write() error {
	figures, err := r.figures()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(r.summary, "", "  ")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	files := map[string][]byte{"summary.json": append(text, '\n')}
	var report bytes.Buffer
	if err := r.report(figures).Write(&report); err != nil {
		return err
	}
	files["report.html"] = report.Bytes()
	for _, f := range figures {
		files[f.name] = f.SVG
	}
	var errs []error
	for name, content := range files {
		errs = append(errs, os.WriteFile(filepath.Join(r.o.Out, name), content, 0o644))
	}
	return errors.Join(errs...)
}

// wanFigure is a chart and the file it goes into.
type wanFigure struct {
	name string
	Figure
}

// figures draws what was measured; scenarios without a whole workflow are left out.
func (r *wanRun) figures() ([]wanFigure, error) {
	var measured []*WANScenario
	for _, s := range r.summary.Scenarios {
		if s.Workflows > 0 {
			measured = append(measured, s)
		}
	}
	if len(measured) == 0 {
		return nil, nil
	}
	var figures []wanFigure
	for _, chart := range []struct {
		name, caption string
		draw          interface{ SVG() ([]byte, error) }
	}{
		{"latency.svg", "Latency of a step, of a commit, and of the whole workflow, in sessions and on one layer, for each set of distances; the axis is logarithmic. " +
			"Dashed: what distance alone makes a step and a commit take at least.", latencyChart(measured)},
		{"workflow.svg", "What a user waits for during one workflow: mean latencies. On one layer every step waits for a block; in a session only the commit does.", workflowChart(measured)},
		{"distance.svg", "Medians against what distance makes a commit take at least. A commit in step with the dashed line adds nothing of its own to distance; a flat line does not notice it.", distanceChart(measured)},
	} {
		svg, err := chart.draw.SVG()
		if err != nil {
			return nil, err
		}
		figures = append(figures, wanFigure{chart.name, Figure{SVG: svg, Caption: chart.caption}})
	}
	return figures, nil
}

func latencyChart(scenarios []*WANScenario) BoxChart {
	c := BoxChart{Title: "Latency over emulated distances", Y: "ms (logarithmic)", LogY: true}
	boxes := []Boxes{{Name: "step", Color: 0}, {Name: "commit", Color: 1}, {Name: "workflow in a session", Color: 2}, {Name: "workflow on one layer", Color: 3}}
	stepFloor, commitFloor := Series{Name: "least step by distance", Reference: true, Color: 0}, Series{Name: "least commit by distance", Reference: true, Color: 1}
	for _, s := range scenarios {
		c.Groups = append(c.Groups, s.Name)
		whole, _ := Workflows(s.samples)
		one, _ := Workflows(s.oneLayer)
		for i, took := range [][]float64{
			wanMillis(Latencies(s.samples, func(a Sample) bool { return IsStep(a.Operation) })),
			wanMillis(Latencies(s.samples, func(a Sample) bool { return a.Operation == "commit" })),
			wanMillis(whole), wanMillis(one),
		} {
			boxes[i].Values = append(boxes[i].Values, took)
		}
		stepFloor.Y, commitFloor.Y = append(stepFloor.Y, s.StepFloor), append(commitFloor.Y, s.CommitFloor)
	}
	c.Boxes, c.References = boxes, []Series{stepFloor, commitFloor}
	return c
}

func workflowChart(scenarios []*WANScenario) StackChart {
	c := StackChart{Title: "What a user waits for", Y: "ms (means)"}
	for _, o := range Operations {
		c.Parts = append(c.Parts, o.Name)
	}
	bar := func(name string, of map[string]Distribution) {
		b := Bar{Name: name}
		for _, o := range Operations {
			b.Values = append(b.Values, of[o.Name].Mean)
		}
		c.Bars = append(c.Bars, b)
	}
	for _, s := range scenarios {
		bar(s.Name, s.Operations)
		if s.OneLayer["workflow"].Count > 0 {
			bar(s.Name+", one layer", s.OneLayer)
		}
	}
	return c
}

func distanceChart(scenarios []*WANScenario) LineChart {
	c := LineChart{Title: "Medians against distance", X: "what distance makes a commit take at least, ms", Y: "ms (logarithmic)", LogY: true}
	lines := []Series{{Name: "step", Color: 0}, {Name: "commit", Color: 1}, {Name: "workflow in a session", Color: 2}, {Name: "workflow on one layer", Color: 3},
		{Name: "distance alone, commit", Reference: true, Color: 1}}
	sorted := append([]*WANScenario(nil), scenarios...)
	for i := range sorted { // a handful: by floor, so that the lines go to the right
		for j := i; j > 0 && sorted[j].CommitFloor < sorted[j-1].CommitFloor; j-- {
			sorted[j], sorted[j-1] = sorted[j-1], sorted[j]
		}
	}
	for _, s := range sorted {
		one := s.OneLayerWorkflowMedian
		if one == 0 {
			one = math.NaN()
		}
		for i, y := range []float64{s.StepMedian, s.CommitMedian, s.WorkflowMedian, one, s.CommitFloor} {
			lines[i].X, lines[i].Y = append(lines[i].X, s.CommitFloor), append(lines[i].Y, y)
		}
	}
	c.Series = lines
	return c
}

// report is the HTML report.
func (r *wanRun) report(figures []wanFigure) Report {
	s := &r.summary
	rep := Report{Title: "Tandem over emulated distances", Machine: s.Machine, Method: r.method()}
	for _, c := range s.Scenarios[1:] {
		if c.Workflows == 0 {
			continue
		}
		rep.Lead = append(rep.Lead, fmt.Sprintf("%s: a step takes %.3f ms (%+.3f against all nodes in one place), a commit %.1f ms, %.2f times the local one; distance alone takes %.1f ms of that. "+
			"With every step committed on Layer 1, the same workflow takes %.0f ms instead of %.0f.",
			c.Name, c.StepMedian, c.StepOverLocal, c.CommitMedian, c.CommitRatio, c.CommitFloor, c.OneLayerWorkflowMedian, c.WorkflowMedian))
	}
	if s.Interrupted {
		rep.Lead = append(rep.Lead, "The measurement was interrupted: this is what had been measured by then.")
	}
	if s.Error != "" {
		rep.Lead = append(rep.Lead, "The measurement ended early: "+s.Error)
	}
	latency := Table{Caption: "Medians in ms, " + s.Config, Head: []string{"distances", "workflows", "failures", "step", "least step", "step over local", "commit", "least commit",
		"commit over its floor", "commit by local", "workflow", "workflow on one layer", "ratio", "segments lost"}}
	for _, c := range s.Scenarios {
		latency.Rows = append(latency.Rows, []string{c.Name, fmt.Sprint(c.Workflows), fmt.Sprint(c.Failures + c.OneLayerFailures), wanCell(c.StepMedian), wanCell(c.StepFloor), wanCell(c.StepOverLocal),
			wanCell(c.CommitMedian), wanCell(c.CommitFloor), wanCell(c.CommitOverFloor), fmt.Sprintf("%.2f", c.CommitRatio), wanCell(c.WorkflowMedian), wanCell(c.OneLayerWorkflowMedian),
			fmt.Sprintf("%.2f", c.OneLayerRatio), fmt.Sprint(c.Lost)})
	}
	section := Section{Heading: "Results", Tables: []Table{latency}}
	for _, f := range figures {
		section.Figures = append(section.Figures, f.Figure)
	}
	rep.Sections = append(rep.Sections, section)
	operations := Section{Heading: "Each operation"}
	for _, c := range s.Scenarios {
		for _, kind := range []struct {
			name string
			of   map[string]Distribution
		}{{c.Name + ", in sessions", c.Operations}, {c.Name + ", one layer", c.OneLayer}} {
			if kind.of["workflow"].Count == 0 {
				continue
			}
			t := Table{Caption: kind.name + ", ms", Head: []string{"operation", "count", "min", "median", "mean", "p90", "p99", "max"}}
			names := []string{}
			for _, o := range Operations {
				names = append(names, o.Name)
			}
			for _, name := range append(names, "step", "workflow") {
				if d := kind.of[name]; d.Count > 0 {
					t.Rows = append(t.Rows, []string{name, fmt.Sprint(d.Count), wanCell(d.Min), wanCell(d.Median), wanCell(d.Mean), wanCell(d.P90), wanCell(d.P99), wanCell(d.Max)})
				}
			}
			operations.Tables = append(operations.Tables, t)
		}
	}
	rep.Sections = append(rep.Sections, operations)
	places := Section{Heading: "Distances"}
	for _, c := range s.Scenarios[1:] {
		t := Table{Caption: c.Name + ": one-way delays in ms, from row to column", Head: append([]string{""}, r.places(c)...)}
		for i, row := range c.Delays {
			cells := []string{r.places(c)[i]}
			for _, d := range row {
				cells = append(cells, fmt.Sprintf("%g", d))
			}
			t.Rows = append(t.Rows, cells)
		}
		places.Tables = append(places.Tables, t)
	}
	rep.Sections = append(rep.Sections, places)
	return rep
}

// places names the nodes and the client with their sites.
func (r *wanRun) places(c *WANScenario) []string {
	var names []string
	for i, site := range c.Sites {
		switch {
		case i == len(c.Sites)-1:
			names = append(names, "client, "+site)
		case i >= r.o.Validators:
			names = append(names, fmt.Sprintf("Layer 2 node %d, %s", i-r.o.Validators+1, site))
		default:
			names = append(names, fmt.Sprintf("validator %d, %s", i+1, site))
		}
	}
	return names
}

func (r *wanRun) method() []string {
	return []string{
		fmt.Sprintf("One network, %d rounds; in each round every set of distances has its turn, another one first each time. After each change one workflow is not counted. "+
			"One client; every request is signed, every answer checked; nothing pauses inside the measured time; what fails is counted.", r.o.Rounds),
		"Every connection between two nodes, and from the client to a Layer 2 node, goes through a TCP proxy in the measuring process, which hands each byte on after the way's one-way delay, in order, without holding up what comes " +
			"behind it. Jitter is even and seeded. A lost segment arrives one retransmission timeout later (the round trip + 200 ms), with all that is behind it. A new connection pays a round trip first. There is no congestion control and no slow start.",
		"\"" + LocalScenario + "\" is the same network at the same proxies with no distance between nodes; the client is as far from its Layer 2 node as in the first set of distances.",
		"The least commit: transaction to the proposer, proposal to the validators, prevotes to each, precommits to the Layer 2 node, two thirds of them each time, and the client's round trip; computed for the validator that proposed each commit's block.",
		fmt.Sprintf("consensus.propose is %.0f ms and layer2.wait %.0f ms on all nodes, chosen by the longest distance; everything else has its default.", r.summary.Propose, r.summary.Wait),
		"On one layer each step is a session of its own, opened, answered and committed before the next.",
		r.mood(),
	}
}

// mood says what state the ledger was in when a workflow began.
func (r *wanRun) mood() string {
	if r.summary.Busy {
		return "Workflows in sessions follow each other at once: a commit may have to wait for the empty block that proves the state of the block before."
	}
	return "Before each workflow in a session the measurement waits, outside the measured time, until the ledger is quiet: each block that changes the state is followed by an empty " +
		"one that proves it, and a commit that comes in the meantime waits for that first (--busy measures so). On one layer there is no such pause: the next step is what the user waits for."
}

func wanCell(v float64) string { return fmt.Sprintf("%.3f", v) }

func wanMillis(took []time.Duration) []float64 {
	values := make([]float64, len(took))
	for i, t := range took {
		values[i] = Millis(t)
	}
	return values
}
