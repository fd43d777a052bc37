package bench

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tandem/client"
)

// small is a network for a test: everything in this process.
func small(t *testing.T) NetworkOptions {
	return NetworkOptions{Validators: 1, Layer2: 1, InProcess: true, Dir: t.TempDir()}
}

// sums checks the accounting of a level.
func sums(t *testing.T, l LoadResult) {
	t.Helper()
	if l.Sent != l.Committed+l.Conflicted+l.Shed+l.Failed {
		t.Errorf("sent %d is not committed %d + conflicted %d + shed %d + failed %d", l.Sent, l.Committed, l.Conflicted, l.Shed, l.Failed)
	}
	for _, p := range l.Operations {
		if p.Name == sessionOperation && p.Count != int64(l.Committed) {
			t.Errorf("%d whole sessions were timed, %d committed", p.Count, l.Committed)
		}
		if p.Count > int64(l.Sent) || p.Name == "commit" && p.Count < int64(l.Committed) {
			t.Errorf("%d of %s in %d sessions", p.Count, p.Name, l.Sent)
		}
		if !slices.IsSorted([]float64{0, p.P50, p.P90, p.P99, p.P999, p.Max}) {
			t.Errorf("percentiles do not ascend: %+v", p)
		}
	}
}

// TestLoadAddsUp: three clients make five sessions each; all are committed, each operation was answered as often, and the files say
// the same.
func TestLoadAddsUp(t *testing.T) {
	report, err := RunLoad(t.Context(), LoadOptions{Network: small(t), Level: LoadLevel{Mode: Closed, Load: 3, Each: 5}, Progress: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	l := report.Levels[0]
	sums(t, l)
	if l.Sent != 15 || l.Committed != 15 || len(l.Reasons) != 0 {
		t.Errorf("15 sessions: %+v", l)
	}
	if len(l.Operations) != len(Operations)+1 {
		t.Errorf("operations %+v", l.Operations)
	}
	for i, p := range l.Operations {
		if i < len(Operations) && p.Name != Operations[i].Name || p.Count != 15 {
			t.Errorf("operation %d: %+v", i, p)
		}
	}
	if rate := float64(15) / l.Seconds; l.SessionsPerSecond < 0.99*rate || l.SessionsPerSecond > 1.01*rate || l.StepsPerSecond < 6.9*rate {
		t.Errorf("%v sessions and %v steps per second in %v s", l.SessionsPerSecond, l.StepsPerSecond, l.Seconds)
	}
	checkLoadFiles(t, report)
}

// checkLoadFiles writes a report's files and reads them back.
func checkLoadFiles(t *testing.T, report *LoadReport) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "new", "out")
	if err := report.WriteFiles(dir); err != nil {
		t.Fatal(err)
	}
	var back LoadReport
	if err := json.Unmarshal(read(t, dir, "summary.json"), &back); err != nil || back.Levels[0].Sent != report.Levels[0].Sent {
		t.Errorf("summary.json: %v", err)
	}
	committed, wanted := 0, 0
	for _, row := range readCSV(t, dir, "seconds.csv", secondsHead) {
		n, err := strconv.Atoi(row[slices.Index(secondsHead, "committed")])
		if err != nil {
			t.Fatal(err)
		}
		committed += n
	}
	for _, l := range report.Levels {
		for _, s := range l.Timeline {
			wanted += s.Committed
		}
	}
	if committed != wanted || committed < report.Levels[0].Committed {
		t.Errorf("seconds.csv has %d commits, the report %d", committed, wanted)
	}
	if rows := readCSV(t, dir, "levels.csv", levelsHead); len(rows) < len(report.Levels) {
		t.Errorf("levels.csv has %d rows", len(rows))
	}
	hgrm := string(read(t, dir, "level-01-commit.hgrm"))
	if !strings.Contains(hgrm, "Percentile") || !strings.Contains(hgrm, "#[Max") {
		t.Errorf("no percentiles: %s", hgrm)
	}
	wellFormed(t, "latency.svg", read(t, dir, "latency.svg"))
	if page := string(read(t, dir, "report.html")); !strings.Contains(page, "<svg") || strings.Contains(page, "<script") {
		t.Error("report.html has no chart, or a script")
	}
	var text strings.Builder
	if err := report.WriteText(&text); err != nil || !strings.Contains(text.String(), "sessions/s") {
		t.Errorf("%v: %s", err, &text)
	}
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func readCSV(t *testing.T, dir, name string, head []string) [][]string {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(string(read(t, dir, name)))).ReadAll()
	if err != nil || len(rows) < 2 || !slices.Equal(rows[0], head) {
		t.Fatalf("%s: %v, %d rows", name, err, len(rows))
	}
	return rows[1:]
}

// TestSharedPackagesConflict: with every session working on the one package on the shelf, some conflict, some commit, none
// fails; a commit makes way for the next package.
func TestSharedPackagesConflict(t *testing.T) {
	report, err := RunLoad(t.Context(), LoadOptions{
		Network: small(t), Level: LoadLevel{Mode: Closed, Load: 4, Each: 6, Seed: 3}, Zipf: 1, Packages: 1, Progress: io.Discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	l := report.Levels[0]
	sums(t, l)
	if l.Sent != 24 || l.Conflicted == 0 || l.Committed < 2 || l.Failed != 0 {
		t.Errorf("sent %d, committed %d, conflicted %d, failed %d: %+v", l.Sent, l.Committed, l.Conflicted, l.Failed, l.Reasons)
	}
}

// TestOpenLoadOverALevelOfTime: an open loop, and a list of levels, against a real network; what was measured adds up.
func TestOpenLoadOverALevelOfTime(t *testing.T) {
	report, err := RunLoad(t.Context(), LoadOptions{
		Network: small(t), Progress: io.Discard, Levels: []float64{5, 10},
		Level: LoadLevel{Mode: Open, Load: 5, Arrivals: Constant, Duration: time.Second, Drain: 30 * time.Second, AtOnce: 100},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Levels) != 2 || report.Levels[0].Sent != 5 || report.Levels[1].Sent != 10 {
		t.Fatalf("levels %+v", report.Levels)
	}
	for _, l := range report.Levels {
		sums(t, l)
	}
	if len(report.Levels[0].Nodes) != 1 {
		t.Errorf("usage of %+v", report.Levels[0].Nodes)
	}
	checkLoadFiles(t, report)
}

// TestJudgeSession tells conflicts from failures.
func TestJudgeSession(t *testing.T) {
	for _, c := range []struct {
		err    error
		ending Ending
		kind   string
	}{
		{&client.Problem{Code: "conflict", Kind: "conflict"}, Conflicted, "conflict"},
		{&client.Problem{Code: "overloaded", Kind: "outage"}, Failed, "overloaded"},
		{&client.EndedError{Status: "conflicted"}, Conflicted, "conflict"},
		{&client.EndedError{Status: "expired"}, Failed, "other"},
		{&ServiceError{409, []byte(`{"type":"...duplicate-package"}`)}, Conflicted, "package-taken"},
		{&ServiceError{409, []byte(`{"type":"...wrong-step"}`)}, Failed, "other"},
		{io.ErrUnexpectedEOF, Failed, "other"},
	} {
		if e, kind := judgeSession(c.err); e != c.ending || kind != c.kind {
			t.Errorf("%v: %s, %s; want %s, %s", c.err, e, kind, c.ending, c.kind)
		}
	}
}

// TestLoadOptionsAreChecked: what makes no sense is refused before a network is started.
func TestLoadOptionsAreChecked(t *testing.T) {
	good := LoadOptions{Level: LoadLevel{Mode: Closed, Load: 1, Duration: time.Second}}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*LoadOptions){
		"mode":     func(o *LoadOptions) { o.Level.Mode = "ajar" },
		"no":       func(o *LoadOptions) { o.Level.Load = 0 },
		"half":     func(o *LoadOptions) { o.Level.Load = 1.5 },
		"levels":   func(o *LoadOptions) { o.Levels = []float64{1, -1} },
		"duration": func(o *LoadOptions) { o.Level.Duration = 0 },
		"warmup":   func(o *LoadOptions) { o.Level.Warmup = -1 },
		"zipf":     func(o *LoadOptions) { o.Zipf = 1 },
		"each":     func(o *LoadOptions) { o.Level.Mode, o.Level.Each, o.Level.Arrivals = Open, 1, Poisson },
		"at once":  func(o *LoadOptions) { o.Level.Mode, o.Level.Arrivals = Open, Poisson },
		"arrivals": func(o *LoadOptions) { o.Level.Mode, o.Level.AtOnce = Open, 1 },
	} {
		o := good
		if spoil(&o); o.Check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
