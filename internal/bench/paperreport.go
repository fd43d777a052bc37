package bench

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
)

// writeFigures draws the charts and writes them and the report.
func (r *paperRun) writeFigures() error {
	files, err := r.charts()
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	for _, f := range files {
		if err := os.WriteFile(r.path(f.name), f.svg, 0o644); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
	}
	var page bytes.Buffer
	if err := r.report(files).Write(&page); err != nil {
		return err
	}
	return replaceFile(r.path(reportFile), page.Bytes())
}

func kindOfNodes(processes bool) string {
	if processes {
		return "as processes"
	}
	return "in one process"
}

// report is the HTML report.
func (r *paperRun) report(files []chartFile) Report {
	s := &r.summary
	page := Report{Title: "Tandem: the paper's evaluation, measured", Machine: s.Machine, Method: s.method(), Lead: s.lead()}
	figures := Section{Heading: "Figures"}
	for _, f := range files {
		figures.Figures = append(figures.Figures, Figure{f.svg, f.caption})
	}
	page.Sections = []Section{
		{
			Heading: "Results",
			Text: []string{
				"The paper uses two totals, and they are not the same thing. \"L2 operation + commit\" is one mean Layer 2 operation and one commit: the shortest way of one request " +
					"to Layer 1. \"Whole workflow\" is all six Layer 2 operations and the commit, from before the session is opened to the checked answer to its commit: what a user of the demonstration waits for.",
				"\"Step\" is a request that a service handler answers (create, scan, validate, quality-check, label); \"L2 operation\" counts the opening of the session too, as the paper does.",
			},
			Tables: []Table{s.resultTable(), s.paperTable()},
		},
		figures,
		{Heading: "Each operation", Text: []string{"Latencies in ms as the client sees them, from before a request is signed to after its answer is checked. Percentiles are by nearest rank."}, Tables: s.operationTables()},
		{
			Heading: "What the nodes used",
			Text: []string{"CPU is user and system time while workflows in sessions were measured, in ms for each workflow; memory is resident, in MiB. " + map[bool]string{
				true: "The client is not counted.", false: "All nodes and the client are one process here, which is counted as a whole.",
			}[s.Processes]},
			Tables: []Table{s.usageTable()},
		},
	}
	return page
}

func (s *PaperSummary) lead() []string {
	var workflows, whole int
	for _, c := range s.Configs {
		workflows += c.Workflows
		if c.Complete {
			whole++
		}
	}
	failed, broken := s.Failures()
	lead := []string{fmt.Sprintf("%d workflows of seven requests on %d networks, nodes %s: %d failures.", workflows, len(s.Configs), kindOfNodes(s.Processes), failed)}
	if s.Interrupted {
		lead = append(lead, fmt.Sprintf("Not everything that was asked for was measured: %d networks are whole. The command with --resume measures the rest.", whole))
	}
	if broken > 0 {
		lead = append(lead, fmt.Sprintf("%d networks failed; the table of results says how.", broken))
	}
	return lead
}

func (s *PaperSummary) method() []string {
	return []string{
		fmt.Sprintf("Each network is started anew, on loopback addresses of one machine, with its data on disk (see the file system above), nodes %s; it is measured when every node is ready, "+
			"after %d workflows that are not counted. Then %d workflows follow each other, each on a new package, with no pause anywhere.", kindOfNodes(s.Processes), s.Warmup, s.Runs),
		"One client does one request at a time. It signs each request with the actor's key, and checks each answer: the node's signature, the transcript, the endorsements of the other Layer 2 nodes. " +
			"A commit is answered when a block holds the session.",
		fmt.Sprintf("One layer is the same five steps with the same client, each in a session of its own that is committed before the next step begins; %d such workflows were spread between the others. "+
			"It has no opening and commit of the whole, so the comparison leans towards one layer.", s.OneLayerRuns),
		"A workflow ends at its first failure; it is counted as failed, its rows stay in the CSV, and its operations before the failure are in the operations' distributions. After five failures in a row a network is given up, and the report says so.",
		"The paper's figures are means of 100 workflows in containers on one machine, with CometBFT and PostgreSQL beside each node on both layers, and without signed requests. " +
			"It is another machine: compare the shape of the lines, and ratios, before absolute numbers.",
		"requests.csv and requests-one-layer.csv hold a row for each request, summary.json all that is in the tables.",
	}
}

// ms writes milliseconds.
func ms(v float64) string {
	if v == 0 {
		return ""
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// Listed are all configurations in the paper's order, also those of which nothing was measured.
func (s *PaperSummary) Listed() []Size {
	var sizes []Size
	for _, c := range s.Configs {
		sizes = append(sizes, Size{c.Validators, c.Layer2})
	}
	slices.SortFunc(sizes, Size.compare)
	return sizes
}

func (s *PaperSummary) resultTable() Table {
	t := Table{
		Caption: "Measured here, ms",
		Head: []string{"configuration", "workflows", "failures", "step median", "commit median", "workflow median", "L2 operation mean", "commit mean",
			"L2 operation + commit mean", "workflow mean", "one layer median", "one layer / two", "load", "note"},
	}
	for _, size := range s.Listed() {
		c := s.at(size)
		note := c.Error
		switch {
		case note != "":
		case c.FirstFailure != "":
			note = "first failure: " + c.FirstFailure
		case !c.Complete:
			note = "not whole"
		}
		t.Rows = append(t.Rows, []string{
			size.String(), strconv.Itoa(c.Workflows), strconv.Itoa(c.Failures + c.OneLayerFailures), ms(c.StepMedian), ms(c.CommitMedian), ms(c.WorkflowMedian),
			ms(c.Operations["layer2"].Mean), ms(c.Operations["commit"].Mean), ms(c.OperationAndCommit), ms(c.Operations["workflow"].Mean),
			ms(c.OneLayer["workflow"].Median), ms(c.OneLayerRatio), strconv.FormatFloat(c.Load, 'f', 1, 64), note,
		})
	}
	return t
}

func (s *PaperSummary) paperTable() Table {
	t := Table{Caption: "The paper's means, ms, and how many times they are ours", Head: []string{"configuration", "L2 operation", "times", "commit", "times", "L2 operation + commit", "times", "whole workflow", "times"}}
	for _, size := range s.sizes() {
		f, ok := thePaper[size]
		if !ok {
			continue
		}
		c := s.at(size)
		row := []string{size.String()}
		for _, pair := range [][2]float64{
			{f.layer2, c.Operations["layer2"].Mean}, {f.commit, c.Operations["commit"].Mean},
			{f.operationAndCommit, c.OperationAndCommit}, {f.workflow, c.Operations["workflow"].Mean},
		} {
			times := ""
			if pair[1] > 0 {
				times = strconv.FormatFloat(pair[0]/pair[1], 'f', 1, 64)
			}
			row = append(row, strconv.FormatFloat(pair[0], 'f', 1, 64), times)
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func (s *PaperSummary) operationTables() []Table {
	var tables []Table
	for _, size := range s.sizes() {
		c := s.at(size)
		t := Table{Caption: size.String(), Head: []string{"operation", "count", "min", "median", "mean", "p90", "p95", "p99", "max"}}
		add := func(name string, d Distribution) {
			if d.Count > 0 {
				t.Rows = append(t.Rows, []string{name, strconv.Itoa(d.Count), ms(d.Min), ms(d.Median), ms(d.Mean), ms(d.P90), ms(d.P95), ms(d.P99), ms(d.Max)})
			}
		}
		for _, o := range Operations {
			add(o.Name+" ("+o.Layer+")", c.Operations[o.Name])
		}
		add("any step", c.Operations["step"])
		add("any L2 operation", c.Operations["layer2"])
		add("whole workflow", c.Operations["workflow"])
		for _, o := range Operations {
			add("one layer: "+o.Name, c.OneLayer[o.Name])
		}
		add("one layer: whole workflow", c.OneLayer["workflow"])
		tables = append(tables, t)
	}
	return tables
}

func (s *PaperSummary) usageTable() Table {
	t := Table{Head: []string{"configuration", "node", "role", "CPU ms for each workflow", "memory MiB", "at most MiB"}}
	mebibytes := func(n int64) string { return strconv.FormatFloat(float64(n)/(1<<20), 'f', 1, 64) }
	for _, size := range s.sizes() {
		for _, n := range s.at(size).Nodes {
			t.Rows = append(t.Rows, []string{size.String(), n.Name, n.Role, strconv.FormatFloat(n.CPUPerWorkflow, 'f', 1, 64), mebibytes(n.RSS), mebibytes(n.Peak)})
		}
	}
	return t
}
