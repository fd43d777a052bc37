package bench

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// ScaleMethod says how growth is measured, for a reader of its report.
var ScaleMethod = []string{
	"One size varies, everything else stays. The real client signs each request and checks each answer, one session at a time (on the axis of clients: as many as it " +
		"says). Each network carries a few sessions first that are not counted.",
	"Each point is measured in several rounds. Where one network serves all points (body, steps, clients) or all networks fit the machine at once (state), the points " +
		"take turns, every second round backwards, so that what else happens on the machine falls on all alike. Each number of validators is a network of its own in each " +
		"round. Open sessions only grow in number; there a second network with one open session is measured in turn, and the ratio is that of the two.",
	"Growth is the power law y = c * n^e that fits the medians best (least squares of log y on log n). In words: \"constant\" if the law changes less than a tenth over " +
		"the whole axis. Ratio is the last point over the first.",
	"Body and state need a service with routes of their own and run in one process; the others have a process for each node unless the run says otherwise.",
}

// WriteFiles writes the results into dir, which is made if it is missing: summary.json; scale.csv, a row for each point; a
// chart for each axis; and report.html, which holds everything.
func (r *ScaleReport) WriteFiles(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err := writeJSONFile(filepath.Join(dir, "summary.json"), r); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "scale.csv"), r.writeCSV); err != nil {
		return err
	}
	html := Report{Title: "How Tandem's costs grow", Machine: r.Machine, Method: ScaleMethod, Lead: r.lead()}
	for _, a := range r.Axes {
		section := Section{Heading: a.Unit, Text: []string{a.About}, Tables: []Table{a.table(), a.growthTable()}}
		for name, figure := range a.charts() {
			svg, err := figure.SVG()
			if err != nil {
				return err
			}
			if err := writeFile(filepath.Join(dir, name+".svg"), func(w io.Writer) error { _, err := w.Write(svg); return err }); err != nil {
				return err
			}
			section.Figures = append(section.Figures, Figure{SVG: svg, Caption: figure.Title})
		}
		slices.SortFunc(section.Figures, func(a, b Figure) int { return cmp.Compare(a.Caption, b.Caption) })
		html.Sections = append(html.Sections, section)
	}
	html.Sections = append(html.Sections, Section{Heading: "Targets", Tables: []Table{r.targetTable()}})
	return writeFile(filepath.Join(dir, "report.html"), html.Write)
}

// scaleHead names the columns of scale.csv.
var scaleHead = []string{
	"axis", "x", "network", "sessions", "step_p50_ms", "step_p99_ms", "commit_p50_ms", "commit_p99_ms", "session_p50_ms", "session_p99_ms",
	"beside_step_p50_ms", "sessions_per_second", "cpu_ms_per_session", "layer2_rss_bytes", "failures", "first_failure",
}

func (r *ScaleReport) writeCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	rows := [][]string{scaleHead}
	for _, a := range r.Axes {
		for _, p := range a.Points {
			row := []string{a.Name, strconv.FormatFloat(p.X, 'f', -1, 64), p.Network, strconv.FormatInt(p.Session.Count, 10)}
			for _, v := range []float64{p.Step.P50, p.Step.P99, p.Commit.P50, p.Commit.P99, p.Session.P50, p.Session.P99, p.Beside.P50, p.SessionsPerSecond, p.CPUPerSession} {
				row = append(row, short(v))
			}
			rows = append(rows, append(row, strconv.FormatInt(p.Layer2RSS, 10), strconv.Itoa(p.Failures), p.FirstFailure))
		}
	}
	return out.WriteAll(rows)
}

func (r *ScaleReport) lead() []string {
	where := "a process for each node"
	if !r.Processes {
		where = "all in one process"
	}
	lead := []string{fmt.Sprintf("Network %s, %s, where the axis does not say otherwise; %d rounds of %d sessions for each point.", r.Network, where, r.Rounds, r.Workflows)}
	if r.Interrupted {
		lead = append(lead, "Interrupted: what follows is what was measured until then.")
	}
	return lead
}

// charts are the axis's charts by file name: latencies on logarithmic axes, and the throughput where it is measured.
func (a ScaleAxis) charts() map[string]LineChart {
	if len(a.Points) < 2 {
		return nil
	}
	series := func(name string, color int, of func(ScalePoint) float64) Series {
		s := Series{Name: name, Color: color, Reference: name == "step p50, beside"}
		for _, p := range a.Points {
			s.X, s.Y = append(s.X, p.X), append(s.Y, of(p))
		}
		return s
	}
	c := LineChart{Title: "Latency by " + a.Unit, X: a.Unit, Y: "latency [ms]", LogX: true, LogY: true, Series: []Series{
		series("session p50", 2, measures["session p50"]), series("commit p50", 1, measures["commit p50"]),
		series("step p99", 5, measures["step p99"]), series("step p50", 0, measures["step p50"]),
	}}
	if slices.ContainsFunc(a.Points, func(p ScalePoint) bool { return p.Beside.Count > 0 }) {
		c.Series = append(c.Series, series("step p50, beside", 0, func(p ScalePoint) float64 { return p.Beside.P50 }))
	}
	charts := map[string]LineChart{a.Name: c}
	if slices.ContainsFunc(a.Points, func(p ScalePoint) bool { return p.SessionsPerSecond > 0 }) {
		charts[a.Name+"-throughput"] = LineChart{Title: "Throughput by " + a.Unit, X: a.Unit, Y: "sessions committed per second", LogX: true,
			Series: []Series{series("sessions/s", 0, measures["sessions/s"])}}
	}
	return charts
}

// WriteText writes the results as tables for a terminal.
func (r *ScaleReport) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, line := range r.lead() {
		fmt.Fprintln(&b, line)
	}
	fmt.Fprintf(&b, "%s; load average %.1f at the start\n", r.Machine.Date.Format("2006-01-02 15:04 UTC"), r.Machine.Load)
	for _, a := range r.Axes {
		fmt.Fprintf(&b, "\n%s (load average %.1f)\n", a.Unit, a.Load)
		writeTable(&b, a.table())
		writeTable(&b, a.growthTable())
		for _, p := range a.Points {
			if p.FirstFailure != "" {
				fmt.Fprintf(&b, "at %s: %d failed, the first: %s\n", short(p.X), p.Failures, p.FirstFailure)
			}
		}
	}
	if len(r.Targets) > 0 {
		b.WriteString("\n")
		writeTable(&b, r.targetTable())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (a ScaleAxis) table() Table {
	t := Table{Head: []string{a.Unit, "network", "sessions", "step p50 ms", "p99", "commit p50 ms", "p99", "session p50 ms", "p99", "failed"}}
	some := func(of func(ScalePoint) float64) bool {
		return slices.ContainsFunc(a.Points, func(p ScalePoint) bool { return of(p) > 0 })
	}
	extra := []struct {
		head string
		of   func(ScalePoint) float64
		text func(ScalePoint) string
	}{
		{"step beside p50", func(p ScalePoint) float64 { return p.Beside.P50 }, func(p ScalePoint) string { return millisShown(p.Beside.P50) }},
		{"ratio", measures["step to reference"], func(p ScalePoint) string { return fmt.Sprintf("%.2f", p.StepRatio) }},
		{"sessions/s", measures["sessions/s"], func(p ScalePoint) string { return fmt.Sprintf("%.1f", p.SessionsPerSecond) }},
		{"CPU ms/session", measures["CPU per session"], func(p ScalePoint) string { return millisShown(p.CPUPerSession) }},
		{"L2 MiB", measures["memory of L2 node"], func(p ScalePoint) string { return mebibytes(p.Layer2RSS) }},
	}
	for _, e := range extra {
		if some(e.of) {
			t.Head = append(t.Head, e.head)
		}
	}
	for _, p := range a.Points {
		row := []string{
			strconv.FormatFloat(p.X, 'f', -1, 64), p.Network, strconv.FormatInt(p.Session.Count, 10), millisShown(p.Step.P50), millisShown(p.Step.P99),
			millisShown(p.Commit.P50), millisShown(p.Commit.P99), millisShown(p.Session.P50), millisShown(p.Session.P99), strconv.Itoa(p.Failures),
		}
		for _, e := range extra {
			if some(e.of) {
				row = append(row, e.text(p))
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func (a ScaleAxis) growthTable() Table {
	t := Table{Head: []string{"what grows", "growth", "exponent", "R2", "last/first"}}
	for _, name := range slices.Sorted(maps.Keys(a.Growths)) {
		g := a.Growths[name]
		t.Rows = append(t.Rows, []string{name, g.Words, fmt.Sprintf("%.3f", g.Exponent), fmt.Sprintf("%.2f", g.R2), fmt.Sprintf("%.2f", g.Ratio)})
	}
	return t
}

func (r *ScaleReport) targetTable() Table {
	t := Table{Head: []string{"target", "at most", "measured", ""}}
	for _, g := range r.Targets {
		verdict := "missed"
		if g.Met {
			verdict = "met"
		}
		t.Rows = append(t.Rows, []string{g.What, fmt.Sprintf("%.1fx", g.Most), fmt.Sprintf("%.2fx", g.Measured), verdict})
	}
	return t
}

// writeTable writes a table for a terminal: names to the left, numbers to the right.
func writeTable(w io.Writer, t Table) {
	if t.Caption != "" {
		fmt.Fprintln(w, t.Caption)
	}
	if len(t.Rows) == 0 {
		return
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{t.Head}, t.Rows...) {
		fmt.Fprintln(out, strings.Join(row, "\t"))
	}
	_ = out.Flush() // into a strings.Builder
}

// millisShown shows milliseconds with three digits or so.
func millisShown(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func mebibytes(n int64) string { return fmt.Sprintf("%.0f", float64(n)/(1<<20)) }

// sortedBy is a copy in ascending order of key.
func sortedBy[T any](all []T, key func(T) float64) []T {
	return slices.SortedStableFunc(slices.Values(all), func(a, b T) int { return cmp.Compare(key(a), key(b)) })
}
