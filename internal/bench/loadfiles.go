package bench

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// LoadMethod says how a load is measured, for a reader of its report.
var LoadMethod = []string{
	"Each session is the paper's workflow with the real client: open, create, scan, validate, quality check, label, commit; seven operations, each signed, each " +
		"answer checked. (Opening asks the node for its status first, as the client library always does; that is part of the opening's latency.)",
	"Closed loop: so many clients, each of which begins a session when its last one has ended. Open loop: sessions begin at given moments, whatever became of " +
		"those before, and latency counts from the moment at which a session was meant to begin, so that a stall shows in every session that had to wait for it " +
		"(no coordinated omission).",
	"Counts and latencies are of the sessions meant to begin within the measured window, however long they took; sent = committed + conflicted + shed + failed. " +
		"Rates are of what was done within the window, whenever it was begun. The warm-up is in neither; in a closed loop it lasts until each client has ended one session.",
	"Shed: the node answered 503 with Retry-After. The session is given up at once and counted as shed, not as a failure; in a closed loop its client waits for " +
		"as long as the node asks before it begins another. Conflicted: another session that worked on the same package came first.",
	"One demo actor signs all sessions; the limit on one actor's waiting commits (mempool.per_actor) is lifted to that of all actors together (mempool.size).",
	"CPU time is of the measured window, from /proc. Client and nodes share this machine: at saturation the client takes part of what the nodes could use.",
}

// writeFile writes a file by what fill writes.
func writeFile(name string, fill func(io.Writer) error) error {
	var text bytes.Buffer
	if err := fill(&text); err != nil {
		return err
	}
	if err := os.WriteFile(name, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// writeJSONFile writes v, indented.
func writeJSONFile(name string, v any) error {
	return writeFile(name, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	})
}

// WriteFiles writes a load's results into dir, which is made if it is missing: summary.json; seconds.csv, a row for each second
// of each level; levels.csv, a row for each operation of each level; for each level and operation an .hgrm file of
// percentiles; the charts as SVG; and report.html, which holds everything but the .hgrm files.
func (r *LoadReport) WriteFiles(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err := writeJSONFile(filepath.Join(dir, "summary.json"), r); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "seconds.csv"), r.writeSeconds); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "levels.csv"), r.writeLevels); err != nil {
		return err
	}
	for _, l := range r.Levels {
		for name, h := range l.took {
			if err := writeFile(filepath.Join(dir, fmt.Sprintf("level-%02d-%s.hgrm", l.Level, name)), h.WriteHGRM); err != nil {
				return err
			}
		}
	}
	figures, err := r.figures()
	if err != nil {
		return err
	}
	for name, f := range figures {
		if err := writeFile(filepath.Join(dir, name), func(w io.Writer) error { _, err := w.Write(f.SVG); return err }); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(dir, "report.html"), r.html(figures).Write)
}

// secondsHead names the columns of seconds.csv.
var secondsHead = []string{"level", "load", "second", "measured", "started", "committed", "conflicted", "shed", "failed", "steps", "session_p50_ms", "session_p99_ms"}

func (r *LoadReport) writeSeconds(w io.Writer) error {
	out := csv.NewWriter(w)
	rows := [][]string{secondsHead}
	for _, l := range r.Levels {
		for _, s := range l.Timeline {
			row := []string{strconv.Itoa(l.Level), short(l.Load), strconv.Itoa(s.Second), strconv.FormatBool(s.Measured)}
			for _, n := range []int{s.Started, s.Committed, s.Conflicted, s.Shed, s.Failed, s.Steps} {
				row = append(row, strconv.Itoa(n))
			}
			rows = append(rows, append(row, short(s.P50), short(s.P99)))
		}
	}
	return out.WriteAll(rows)
}

// levelsHead names the columns of levels.csv.
var levelsHead = []string{
	"level", "load", "operation", "count", "mean_ms", "p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms",
	"sessions_per_second", "steps_per_second", "sent", "committed", "conflicted", "shed", "failed", "shed_requests", "client_cpu_ms", "nodes_cpu_ms",
}

func (r *LoadReport) writeLevels(w io.Writer) error {
	out := csv.NewWriter(w)
	rows := [][]string{levelsHead}
	for _, l := range r.Levels {
		for _, p := range l.Operations {
			row := []string{strconv.Itoa(l.Level), short(l.Load), p.Name, strconv.FormatInt(p.Count, 10)}
			for _, v := range []float64{p.Mean, p.P50, p.P90, p.P99, p.P999, p.Max, l.SessionsPerSecond, l.StepsPerSecond} {
				row = append(row, short(v))
			}
			for _, n := range []int{l.Sent, l.Committed, l.Conflicted, l.Shed, l.Failed, l.ShedRequests} {
				row = append(row, strconv.Itoa(n))
			}
			rows = append(rows, append(row, short(l.ClientCPU), short(l.nodesCPU())))
		}
	}
	return out.WriteAll(rows)
}

func (l *LoadResult) nodesCPU() (sum float64) {
	for _, n := range l.Nodes {
		sum += n.CPU
	}
	return sum
}

// short is a number with as many digits as it needs, six at most.
func short(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

// of is the latencies of an operation at a level; zero if it was never answered.
func (l *LoadResult) of(operation string) Percentiles {
	for _, p := range l.Operations {
		if p.Name == operation {
			return p
		}
	}
	return Percentiles{Name: operation}
}

// best is the level at which most got done; nil if there is none.
func (r *LoadReport) best() *LoadResult {
	var best *LoadResult
	for i := range r.Levels {
		if best == nil || r.Levels[i].SessionsPerSecond > best.SessionsPerSecond {
			best = &r.Levels[i]
		}
	}
	return best
}

// figures are the charts by file name.
func (r *LoadReport) figures() (map[string]Figure, error) {
	figures := map[string]Figure{}
	best := r.best()
	if best == nil {
		return figures, nil
	}
	c := LineChart{
		Title: "Latency by percentile, " + r.describe(best.Load), X: "one operation in so many is slower", Y: "latency [ms]", LogX: true, LogY: true,
	}
	for i, name := range operationsIn(best.took) {
		s := Series{Name: name, Color: i}
		for _, p := range best.took[name].Curve() {
			s.X, s.Y = append(s.X, p.X), append(s.Y, p.Y)
		}
		c.Series = append(c.Series, s)
	}
	svg, err := c.SVG()
	if err != nil {
		return nil, err
	}
	figures["latency.svg"] = Figure{svg, "Each operation's latency by percentile, at the level at which most got done: at 100 on the x axis stands p99, at 1000 p99.9."}
	if len(r.Levels) < 2 {
		return figures, nil
	}
	t := LineChart{Title: "Latency against throughput", X: "sessions committed per second", Y: "latency [ms]", LogY: true}
	for i, of := range []struct {
		name, operation string
		at              func(Percentiles) float64
	}{
		{"session p50", sessionOperation, func(p Percentiles) float64 { return p.P50 }}, {"session p99", sessionOperation, func(p Percentiles) float64 { return p.P99 }},
		{"commit p50", "commit", func(p Percentiles) float64 { return p.P50 }}, {"scan p50", "scan", func(p Percentiles) float64 { return p.P50 }},
		{"scan p99", "scan", func(p Percentiles) float64 { return p.P99 }},
	} {
		s := Series{Name: of.name, Color: i}
		for _, l := range r.byLoad() {
			s.X, s.Y = append(s.X, l.SessionsPerSecond), append(s.Y, of.at(l.of(of.operation)))
		}
		t.Series = append(t.Series, s)
	}
	if svg, err = t.SVG(); err != nil {
		return nil, err
	}
	figures["throughput-latency.svg"] = Figure{svg, "Each point is a level, joined in order of the load: where the line turns upwards or back, the network is saturated."}
	return figures, nil
}

// describe says how much a load of this report is.
func (r *LoadReport) describe(load float64) string {
	return describeLoad(LoadLevel{Mode: r.Mode, Load: load, Arrivals: r.Arrivals})
}

// WriteText writes the results as tables for a terminal.
func (r *LoadReport) WriteText(w io.Writer) error {
	var b strings.Builder
	where := "each node a process"
	if !r.Processes {
		where = "all nodes and the client in one process"
	}
	fmt.Fprintf(&b, "%s, %s; %s loop, %s\n", r.Network, where, r.Mode, r.sharing())
	fmt.Fprintf(&b, "%s; load average %.1f at the start\n\n", r.Machine.Date.Format("2006-01-02 15:04 UTC"), r.Machine.Load)
	writeTable(&b, r.levelTable())
	for _, l := range r.Levels {
		if r.Ramp && l.Level != r.best().Level {
			continue // the others are in the files
		}
		b.WriteString("\n")
		writeTable(&b, r.operationTable(l))
	}
	for _, l := range r.Levels {
		for _, reason := range l.Reasons {
			fmt.Fprintf(&b, "\nlevel %d: %d %s (%s), such as: %s", l.Level, reason.Count, reason.Ending, reason.Kind, reason.First)
		}
	}
	b.WriteString("\n")
	for _, line := range r.verdict() {
		fmt.Fprintln(&b, line)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *LoadReport) sharing() string {
	if r.Zipf == 0 {
		return "no session shares a package"
	}
	return fmt.Sprintf("sessions share %d packages by Zipf's law with exponent %.4g", r.Packages, r.Zipf)
}

// saturationTarget is what the project wants at 4-1 on two cores.
const saturationTarget = 400

// verdict sums the report up.
func (r *LoadReport) verdict() []string {
	best := r.best()
	if best == nil {
		return []string{"Nothing was measured."}
	}
	lines := []string{fmt.Sprintf("Most got done with %s: %.1f sessions/s, %.0f steps/s; %.1f ms of CPU a session, machine %.0f %% busy.",
		r.describe(best.Load), best.SessionsPerSecond, best.StepsPerSecond, best.CPUPerSession, 100*best.Busy)}
	if r.Network == "4-1" && r.Ramp {
		verdict := "reached"
		if best.SessionsPerSecond < saturationTarget {
			verdict = "not reached"
		}
		lines = append(lines, fmt.Sprintf("Target at 4-1 on 2 cores: %d sessions/s: %s.", saturationTarget, verdict))
	}
	if r.Interrupted {
		lines = append(lines, "Interrupted: the last level is not whole.")
	}
	return lines
}

// levelTable has a row for each level.
func (r *LoadReport) levelTable() Table {
	load := "clients"
	if r.Mode == Open {
		load = "offered/s"
	}
	t := Table{Caption: "Levels", Head: []string{load, "sessions/s", "steps/s", "sent", "committed", "conflicted", "shed", "failed",
		"session p50", "p99", "max ms", "step p50", "p99 ms", "commit p50", "p99 ms", "busy", "client ms", "L1 ms", "L2 ms"}}
	for _, l := range r.byLoad() {
		s, step, c := l.of(sessionOperation), l.step(), l.of("commit")
		l1, l2 := l.byRole()
		t.Rows = append(t.Rows, []string{
			short(l.Load), fmt.Sprintf("%.1f", l.SessionsPerSecond), fmt.Sprintf("%.0f", l.StepsPerSecond), strconv.Itoa(l.Sent), strconv.Itoa(l.Committed),
			strconv.Itoa(l.Conflicted), strconv.Itoa(l.Shed), strconv.Itoa(l.Failed), millisShown(s.P50), millisShown(s.P99), millisShown(s.Max), millisShown(step.P50), millisShown(step.P99), millisShown(c.P50), millisShown(c.P99),
			fmt.Sprintf("%.0f%%", 100*l.Busy), fmt.Sprintf("%.0f", l.ClientCPU), fmt.Sprintf("%.0f", l1), fmt.Sprintf("%.0f", l2),
		})
	}
	return t
}

// step is the latencies of all steps that a handler answered.
func (l *LoadResult) step() Percentiles {
	all := NewHistogram()
	for name, h := range l.took {
		if IsStep(name) {
			all.Merge(h)
		}
	}
	return all.Percentiles("step")
}

// byRole is the nodes' CPU time by role; of one process all of it is in the first.
func (l *LoadResult) byRole() (others, layer2 float64) {
	for _, n := range l.Nodes {
		if n.Role == "layer2" {
			layer2 += n.CPU
		} else {
			others += n.CPU
		}
	}
	return others, layer2
}

// byLoad are the levels in order of their load.
func (r *LoadReport) byLoad() []LoadResult {
	return sortedBy(r.Levels, func(l LoadResult) float64 { return l.Load })
}

// operationTable has a row for each operation of a level.
func (r *LoadReport) operationTable(l LoadResult) Table {
	t := Table{
		Caption: fmt.Sprintf("%s, latencies in ms", r.describe(l.Load)),
		Head:    []string{"operation", "count", "mean", "p50", "p90", "p99", "p99.9", "max"},
	}
	for _, p := range l.Operations {
		t.Rows = append(t.Rows, []string{p.Name, strconv.FormatInt(p.Count, 10), millisShown(p.Mean), millisShown(p.P50), millisShown(p.P90), millisShown(p.P99), millisShown(p.P999), millisShown(p.Max)})
	}
	return t
}

// html is the report with everything in it.
func (r *LoadReport) html(figures map[string]Figure) Report {
	levels := Section{Heading: "Levels", Text: []string{
		"CPU columns: of the client, of the validators (L1) and of the Layer 2 nodes, in ms within the window; of a network in one process all of it stands under L1.",
	}, Tables: []Table{r.levelTable()}}
	for _, name := range []string{"throughput-latency.svg", "latency.svg"} {
		if f, ok := figures[name]; ok {
			levels.Figures = append(levels.Figures, f)
		}
	}
	each := Section{Heading: "Latencies by operation"}
	ends := Section{Heading: "What did not commit, and why"}
	nodes := Section{Heading: "CPU and memory of each node"}
	for _, l := range r.Levels {
		each.Tables = append(each.Tables, r.operationTable(l))
		t := Table{Caption: r.describe(l.Load), Head: []string{"ending", "kind", "count", "first"}}
		for _, reason := range l.Reasons {
			t.Rows = append(t.Rows, []string{string(reason.Ending), reason.Kind, strconv.Itoa(reason.Count), reason.First})
		}
		if len(t.Rows) > 0 {
			ends.Tables = append(ends.Tables, t)
		}
		t = Table{Caption: r.describe(l.Load), Head: []string{"node", "role", "CPU ms", "memory MiB", "at most MiB"}}
		for _, n := range l.Nodes {
			t.Rows = append(t.Rows, []string{n.Name, n.Role, fmt.Sprintf("%.0f", n.CPU), mebibytes(n.RSS), mebibytes(n.Peak)})
		}
		if r.Processes {
			t.Rows = append(t.Rows, []string{"client", "", fmt.Sprintf("%.0f", l.ClientCPU), "", ""})
		}
		nodes.Tables = append(nodes.Tables, t)
	}
	if len(ends.Tables) == 0 {
		ends.Text = []string{"Every session was committed."}
	}
	return Report{
		Title: "Tandem under load: " + r.Network, Machine: r.Machine, Method: LoadMethod, Sections: []Section{levels, each, ends, nodes},
		Lead: append([]string{fmt.Sprintf("%s loop, %s; %v s of warm-up, %v s measured for each level, seed %d.", r.Mode, r.sharing(), r.Warmup, r.Duration, r.Seed)}, r.verdict()...),
	}
}
