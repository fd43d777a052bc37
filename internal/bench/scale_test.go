package bench

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"tandem"
)

// TestScaleMeasuresEachAxis: every axis at two small points; each point has sessions, steps and commits as many as were asked
// for, and the files say so.
func TestScaleMeasuresEachAxis(t *testing.T) {
	o := ScaleOptions{Network: small(t), Rounds: 2, Workflows: 2, Progress: io.Discard, Points: map[string][]float64{
		AxisValidators: {1, 2}, AxisOpen: {1, 5}, AxisSteps: {1, 7}, AxisState: {10, 1000}, AxisBody: {16, 1000},
	}}
	report, err := RunScale(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Axes) != len(o.Points) {
		t.Fatalf("%d axes", len(report.Axes))
	}
	for _, a := range report.Axes {
		if len(a.Points) != 2 {
			t.Errorf("%s: points %+v", a.Name, a.Points)
			continue
		}
		for _, p := range a.Points {
			steps := int64(4 * 5)
			if a.Name == AxisSteps {
				steps = 4 * int64(p.X)
			}
			if p.Session.Count != 4 || p.Commit.Count != 4 || p.Step.Count != steps || p.Failures != 0 {
				t.Errorf("%s at %v: %d sessions, %d commits, %d steps (want 4, 4, %d), %d failed: %s",
					a.Name, p.X, p.Session.Count, p.Commit.Count, p.Step.Count, steps, p.Failures, p.FirstFailure)
			}
			if (a.Name == AxisOpen) != (p.Beside.Count > 0) {
				t.Errorf("%s at %v: beside %+v", a.Name, p.X, p.Beside)
			}
		}
		if a.Growths["step p50"] == nil || a.Growths["commit p50"] == nil {
			t.Errorf("%s: growth %v", a.Name, slices.Collect(maps.Keys(a.Growths)))
		}
	}
	dir := t.TempDir()
	if err := report.WriteFiles(dir); err != nil {
		t.Fatal(err)
	}
	var back ScaleReport
	if err := json.Unmarshal(read(t, dir, "summary.json"), &back); err != nil || len(back.Axes) != len(report.Axes) {
		t.Errorf("summary.json: %v", err)
	}
	if rows := readCSV(t, dir, "scale.csv", scaleHead); len(rows) != 2*len(report.Axes) {
		t.Errorf("scale.csv has %d rows", len(rows))
	}
	for _, a := range report.Axes {
		wellFormed(t, a.Name, read(t, dir, a.Name+".svg"))
	}
	if page := string(read(t, dir, "report.html")); strings.Count(page, "<svg") != len(report.Axes) {
		t.Errorf("report.html has %d charts", strings.Count(page, "<svg"))
	}
	var text strings.Builder
	if err := report.WriteText(&text); err != nil || !strings.Contains(text.String(), "last/first") {
		t.Errorf("%v: %s", err, &text)
	}
	if left, err := os.ReadDir(o.Network.Dir); err != nil || len(left) != 0 {
		t.Errorf("%v, %v is left of the networks", err, left)
	}
}

// TestScaleOfClients: two clients, for as long as such a point takes.
func TestScaleOfClients(t *testing.T) {
	report, err := RunScale(t.Context(), ScaleOptions{
		Network: small(t), Rounds: 1, Workflows: 1, Progress: io.Discard, Points: map[string][]float64{AxisClients: {2}},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := report.Axes[0].Points[0]
	if p.SessionsPerSecond <= 0 || p.Session.Count == 0 || p.Step.Count < 5*p.Session.Count || p.Failures != 0 {
		t.Errorf("%+v", p)
	}
}

// TestScaleOptionsAreChecked: what makes no sense is refused before a network is started.
func TestScaleOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]ScaleOptions{
		"none":       {Rounds: 1, Workflows: 1},
		"unknown":    {Rounds: 1, Workflows: 1, Points: map[string][]float64{"colour": {1}}},
		"no points":  {Rounds: 1, Workflows: 1, Points: map[string][]float64{AxisOpen: {}}},
		"descending": {Rounds: 1, Workflows: 1, Points: map[string][]float64{AxisOpen: {2, 1}}},
		"fraction":   {Rounds: 1, Workflows: 1, Points: map[string][]float64{AxisOpen: {1.5}}},
		"too many":   {Rounds: 1, Workflows: 1, Points: map[string][]float64{AxisSteps: {5000}}},
		"rounds":     {Workflows: 1, Points: map[string][]float64{AxisOpen: {1}}},
		"workflows":  {Rounds: 1, Points: map[string][]float64{AxisOpen: {1}}},
	} {
		if o.Check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, name := range Axes() {
		o := ScaleOptions{Rounds: 1, Workflows: 1, Points: map[string][]float64{name: DefaultPoints(name)}}
		if err := o.Check(); err != nil {
			t.Errorf("%s: the default points: %v", name, err)
		}
	}
}

// TestTargets: met or missed by the medians, of the open sessions by those measured in turn; not spoken of where the points
// are missing.
func TestTargets(t *testing.T) {
	at := func(x, step, ratio float64) ScalePoint {
		return ScalePoint{X: x, Step: Percentiles{Count: 1, P50: step}, StepRatio: ratio}
	}
	for _, c := range []struct {
		axis   string
		points []ScalePoint
		ratio  float64
		met    bool
	}{
		{AxisValidators, []ScalePoint{at(4, 1, 0), at(16, 1.2, 0)}, 1.2, true},
		{AxisValidators, []ScalePoint{at(4, 1, 0), at(16, 2, 0)}, 2, false},
		{AxisOpen, []ScalePoint{at(1, 1, 1.1), at(10_000, 3, 1.4)}, 1.4, true},
		{AxisState, []ScalePoint{at(1e3, 2, 0), at(1e6, 4, 0)}, 2, false},
	} {
		got := targets(ScaleAxis{Name: c.axis, Points: c.points})
		if len(got) != 1 || got[0].Measured != c.ratio || got[0].Met != c.met {
			t.Errorf("%s: %+v", c.axis, got)
		}
		if got := targets(ScaleAxis{Name: c.axis, Points: c.points[:1]}); len(got) != 0 {
			t.Errorf("%s with one point: %+v", c.axis, got)
		}
	}
}

// TestKeysService: its genesis holds the keys, a step changes one and tells how often that was done, and a note is kept.
func TestKeysService(t *testing.T) {
	svc := KeysService(3)
	st := tandem.NewMapState()
	if err := svc.Genesis(st, nil); err != nil {
		t.Fatal(err)
	}
	call := func(target, body string) (int, string) {
		ctx := tandem.WithStep(t.Context(), &tandem.Step{State: st, Position: tandem.Position{Session: "s", Sequence: 1}})
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(body))
		w := httptest.NewRecorder()
		svc.Registry.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	for _, want := range []string{`"changed":1`, `"changed":2`} {
		if code, body := call("/bench/keys/2", ""); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%d %s, want %s", code, body, want)
		}
	}
	for target, want := range map[string]int{"/bench/keys/3": 404, "/bench/keys/x": 400, "/bench/keys/-1": 400} {
		if code, body := call(target, ""); code != want {
			t.Errorf("%s: %d %s", target, code, body)
		}
	}
	if code, body := call("/bench/notes", "hello"); code != 200 || !strings.Contains(body, `"bytes":5`) {
		t.Errorf("%d %s", code, body)
	}
}
