package plan

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tandem/internal/bench/distance"
	"tandem/internal/bench/link"
)

// exact is measurements that follow the model exactly, with known constants.
func exact() Measured {
	m := Measured{Cores: 2}
	for _, n := range []int{4, 7, 10, 13, 16} {
		for _, k := range []int{1, 2} {
			p := Point{Validators: n, Layer2: k, ValidatorCPU: 10, Layer2CPU: 30}
			p.Step = 0.5 + 0.01*float64(n*(n+k)) + 0.4*float64(k-1)
			p.Commit = 10 + 1.5*float64(n+k) + 0.1*float64(n*(n+k))
			p.Open = p.Step
			p.Workflow = p.Open + paperSteps*p.Step + p.Commit
			m.Points = append(m.Points, p)
		}
	}
	m.Loads = []Load{{4, 1, 5, 2, 100}, {7, 1, 5, 2, 70}}
	for _, d := range []float64{10, 50} {
		m.Distances = append(m.Distances, Distance{Name: fmt.Sprint(d), Validators: 4, Layer2: 1, LocalStep: 3, LocalCommit: 22, LocalFloor: 2,
			Step: 3, StepFloor: 2, Commit: 22 + 4*d*1.1, CommitFloor: 2 + 4*d})
	}
	return m
}

func fit(t interface{ Fatal(...any) }, m Measured) *Model {
	f, err := Fit(m)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-6*max(1, math.Abs(b)) }

// TestFitFindsTheConstants: of measurements that follow the model the constants come out, and each is predicted from the others.
func TestFitFindsTheConstants(t *testing.T) {
	f := fit(t, exact())
	for i, want := range []float64{0.5, 0.01, 0.4} {
		if !near(f.step[i], want) {
			t.Errorf("step[%d] = %v, not %v", i, f.step[i], want)
		}
	}
	for i, want := range []float64{10, 1.5, 0.1} {
		if !near(f.commit[i], want) {
			t.Errorf("commit[%d] = %v, not %v", i, f.commit[i], want)
		}
	}
	// 2000 ms of two processors by 100 sessions are 20 ms each, against 70 ms alone; 28.6 against 100.
	if !near(f.open, 1) || !near(f.added, 0.1) || !near(f.sharing, 2.0/7) {
		t.Errorf("open %v, added %v, sharing %v", f.open, f.added, f.sharing)
	}
	all, alone := LeaveOneOut(exact())
	if mean, most := Summarise(all); len(all) != 3*10+2*2+2 || alone != 0 || most > 1e-6 || mean > most {
		t.Errorf("%d compared, %d alone, off by %v and %v", len(all), alone, mean, most)
	}
	outside := 0
	for _, a := range all {
		if a.Outside {
			outside++
		}
	}
	if outside == 0 {
		t.Error("no prediction is marked as an extrapolation, though the farthest point was held out")
	}
}

// TestLeaveOneOutIsHonest: a point that does not follow the others is not explained away by itself.
func TestLeaveOneOutIsHonest(t *testing.T) {
	m := exact()
	m.Points[4].Commit *= 2 // 10-1
	all, _ := LeaveOneOut(m)
	for _, a := range all {
		if a.What == "commit" && a.Config == "10-1" && !(a.Error < -45) {
			t.Errorf("the wrong point is off by %v %% only", a.Error)
		}
	}
}

// TestFewMeasurements: one configuration gives a model, with warnings; none is an error.
func TestFewMeasurements(t *testing.T) {
	if _, err := Fit(Measured{}); err == nil {
		t.Error("a model of nothing")
	}
	if _, err := Recommend(Measured{}, Workload{}); err == nil {
		t.Error("a plan of nothing")
	}
	one := Measured{Points: []Point{{Validators: 4, Layer2: 1, Step: 1, Commit: 20}}}
	p, err := Recommend(one, Workload{Faults: 2, Disks: 1, Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	if p.Validators != 7 || p.Layer2 != 2 || p.Chosen.Commit != 20 || p.Chosen.Sessions != 0 {
		t.Errorf("%+v", p.Chosen)
	}
	text := strings.Join(p.Warnings, "\n")
	for _, want := range []string{"7 validators: measured from 4 to 4", "2 Layer 2 nodes: measured up to 1", "never compared", "processor time was not measured"} {
		if !strings.Contains(text, want) {
			t.Errorf("no warning says %q:\n%s", want, text)
		}
	}
	// Without the roles' shares a load run alone gives the throughput.
	one.Loads = []Load{{4, 1, 5, 2, 100}}
	if p, err = Recommend(one, Workload{Faults: 1, Shared: true, Cores: 2}); err != nil || !near(p.Chosen.Sessions, 100) {
		t.Errorf("%v, %v", p, err)
	}
}

// TestReasons: f=1 needs 3f+1=4 validators; one lost disk needs two endorsements; one node down needs a third node.
func TestReasons(t *testing.T) {
	p, err := Recommend(exact(), Workload{Faults: 1, Disks: 1, Down: 1})
	if err != nil {
		t.Fatal(err)
	}
	if p.Validators != 4 || p.Layer2 != 3 || p.Need != 2 || !p.Meets {
		t.Errorf("%d-%d, need %d, meets %v", p.Validators, p.Layer2, p.Need, p.Meets)
	}
	text := strings.Join(p.Reasons, "\n")
	for _, want := range []string{"3f+1=4", "2 endorsements", "3 Layer 2 nodes", "GB a day"} {
		if !strings.Contains(text, want) {
			t.Errorf("no reason says %q:\n%s", want, text)
		}
	}
	recommended := 0
	for _, a := range p.Around {
		if a.Note == "recommended" {
			recommended++
			if a.Config != "4-3" || a.Step != p.Chosen.Step {
				t.Errorf("%+v", a)
			}
		}
	}
	if recommended != 1 || len(p.Around) < 8 {
		t.Errorf("%d configurations, %d recommended", len(p.Around), recommended)
	}
	for f, n := range map[int]int{0: 1, 1: 4, 2: 7, 5: 16} {
		if Validators(f) != n || Survives(n) != f || n > 1 && Survives(n-1) == f {
			t.Errorf("f=%d: %d validators", f, Validators(f))
		}
	}
	if _, err := json.Marshal(p); err != nil {
		t.Error(err)
	}
}

// TestWhatDoesNotFit: limits, rates and sizes that cannot be met are said, with what would change it.
func TestWhatDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		w    Workload
		want string
	}{
		"step":    {Workload{Faults: 1, MaxStep: 0.1}, "a step takes"},
		"commit":  {Workload{Faults: 1, MaxCommit: 1}, "a commit takes"},
		"rate":    {Workload{Faults: 1, Rate: 10_000}, "more nodes do not help"},
		"size":    {Workload{Faults: 1, Steps: 100, Body: 100_000}, "checkpoints"},
		"traffic": {Workload{Faults: 1, Rate: 400, Body: 150_000, Cores: 64}, "a block's 4 MiB"},
	} {
		p, err := Recommend(exact(), c.w)
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(p.Warnings, "\n"); p.Meets || !strings.Contains(text, c.want) {
			t.Errorf("%s: meets %v, warnings:\n%s", name, p.Meets, text)
		}
	}
	for _, w := range []Workload{{Steps: -1}, {Steps: 1e6}, {Rate: -1}, {Rate: math.NaN()}, {Body: 1 << 30}, {Faults: -1}, {Faults: 11}, {Disks: 11}, {Down: -1}, {Cores: -1}, {MaxStep: -1}} {
		if _, err := Recommend(exact(), w); err == nil {
			t.Errorf("%+v passes", w)
		}
	}
}

// TestSettings: distances ask for longer waits, in the words of the configuration file.
func TestSettings(t *testing.T) {
	m, err := distance.Uniform(link.Conditions{Delay: 50 * time.Millisecond}, link.Conditions{Delay: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Recommend(exact(), Workload{Faults: 1, Disks: 1, Map: m})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range p.Settings {
		got[s.Key] = s.Value
	}
	if got["layer2.wait"] != "150ms" || got["consensus.propose"] != "480ms" || got["layer2.need"] != "" {
		t.Error(got)
	}
	if !near(p.Chosen.StepDistance, 102) || !near(p.Chosen.CommitDistance, 2+200*1.1) {
		t.Error(p.Chosen)
	}
}

// measurements draws any measurements, sensible or not.
func measurements(r *rapid.T) Measured {
	m := Measured{Cores: rapid.IntRange(1, 64).Draw(r, "cores")}
	ms := rapid.Float64Range(0.01, 1000)
	for range rapid.IntRange(1, 8).Draw(r, "points") {
		m.Points = append(m.Points, Point{Validators: rapid.IntRange(1, 20).Draw(r, "n"), Layer2: rapid.IntRange(1, 4).Draw(r, "k"),
			Step: ms.Draw(r, "step"), Commit: ms.Draw(r, "commit"), Workflow: ms.Draw(r, "workflow"), ValidatorCPU: ms.Draw(r, "cpu"), Layer2CPU: ms.Draw(r, "cpu2")})
	}
	for range rapid.IntRange(0, 2).Draw(r, "loads") {
		m.Loads = append(m.Loads, Load{4, 1, 5, m.Cores, ms.Draw(r, "sessions")})
	}
	for range rapid.IntRange(0, 3).Draw(r, "distances") {
		m.Distances = append(m.Distances, Distance{Name: "far", Validators: 4, Layer2: 1, Step: ms.Draw(r, "s"), Commit: ms.Draw(r, "c"), CommitFloor: ms.Draw(r, "floor"),
			LocalStep: ms.Draw(r, "ls"), LocalCommit: ms.Draw(r, "lc")})
	}
	return m
}

// TestMonotone: whatever was measured, with equal distances more validators or Layer 2 nodes are never predicted to be faster, to survive
// less or to carry more; more faults to survive never need fewer nodes; more distance never helps.
func TestMonotone(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		f := fit(r, measurements(r))
		d := time.Duration(rapid.IntRange(0, 500).Draw(r, "delay")) * time.Millisecond
		at := func(d time.Duration) *distance.Map {
			m, err := distance.Uniform(link.Conditions{Delay: d}, link.Conditions{Delay: time.Millisecond})
			if err != nil {
				r.Fatal(err)
			}
			return m
		}
		w, err := Workload{Steps: rapid.IntRange(1, 50).Draw(r, "steps"), Shared: rapid.Bool().Draw(r, "shared"), Map: at(d)}.complete(f)
		if err != nil {
			r.Fatal(err)
		}
		n, k, need := rapid.IntRange(1, 30).Draw(r, "validators"), rapid.IntRange(1, 5).Draw(r, "layer2"), rapid.IntRange(1, 5).Draw(r, "need")
		farther := w
		farther.Map = at(d + time.Millisecond)
		base := f.predict(w, n, k, need)
		const slack = 1e-9 // relative, for the last bits of a float
		for name, other := range map[string]Prediction{
			"validator": f.predict(w, n+1, k, need), "layer 2 node": f.predict(w, n, k+1, need), "endorsement": f.predict(w, n, k, need+1), "millisecond": f.predict(farther, n, k, need),
		} {
			if other.Step < base.Step*(1-slack) || other.Commit < base.Commit*(1-slack) || other.Workflow < base.Workflow*(1-slack) || other.Sessions > base.Sessions*(1+slack) {
				r.Fatalf("one more %s: %+v, then %+v", name, base, other)
			}
		}
		if base.OneLayer < base.Workflow*(1-slack) && w.Steps > 1 {
			r.Fatalf("one layer is predicted to be faster: %+v", base)
		}
		faults := rapid.IntRange(0, maxFaults-1).Draw(r, "f")
		if Validators(faults+1) <= Validators(faults) {
			r.Fatal("f is not monotone")
		}
	})
}

// TestRecommendIsTotal: any measurements and any workload within bounds give a plan that survives what was asked, with finite figures.
func TestRecommendIsTotal(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := Workload{
			Steps: rapid.IntRange(1, maxSteps).Draw(r, "steps"), Rate: rapid.Float64Range(0.001, 1e5).Draw(r, "rate"), Body: rapid.IntRange(1, maxBody).Draw(r, "body"),
			Faults: rapid.IntRange(0, maxFaults).Draw(r, "f"), Disks: rapid.IntRange(0, 3).Draw(r, "disks"), Down: rapid.IntRange(0, 3).Draw(r, "down"),
			Shared: rapid.Bool().Draw(r, "shared"),
		}
		p, err := Recommend(measurements(r), w)
		if err != nil {
			r.Fatal(err)
		}
		if Survives(p.Validators) < w.Faults || p.Need < w.Disks+1 || p.Layer2 < p.Need+w.Down {
			r.Fatalf("%d-%d, need %d, for %+v", p.Validators, p.Layer2, p.Need, w)
		}
		if _, err := json.Marshal(p); err != nil { // NaN and infinity have no JSON
			r.Fatal(err)
		}
	})
}

// TestAdd reads the three kinds of summaries, and refuses what is none.
func TestAdd(t *testing.T) {
	var m Measured
	for name, text := range map[string]string{
		"paper": `{"machine":{"cores":2,"cpu":"x","load_average":5},"processes":true,"configs":{"4-1":{"step_median_ms":1,"commit_median_ms":20,"workflow_median_ms":30,"failures":1,
			"operations":{"open":{"median_ms":1.5}},"nodes":[{"role":"validator","cpu_per_workflow_ms":10},{"role":"validator","cpu_per_workflow_ms":14},{"role":"layer2","cpu_per_workflow_ms":30}]}}}`,
		"wan": `{"kind":"wan","machine":{"cores":2},"config":"4-1","scenarios":[{"name":"local","step_median_ms":3,"commit_median_ms":22,"step_floor_ms":2,"commit_floor_ms":2},
			{"name":"50ms","step_median_ms":3,"commit_median_ms":222,"step_floor_ms":2,"commit_floor_ms":202}]}`,
		"load": `{"machine":{"cores":2},"network":"4-1","operations_per_session":7,"greatest_sessions_per_second":400}`,
	} {
		if err := m.Add(name, []byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(m.Points) != 1 || len(m.Distances) != 1 || len(m.Loads) != 1 || m.Cores != 2 || len(m.Sources) != 3 || len(m.Warnings) != 2 {
		t.Fatalf("%+v", m)
	}
	if p := m.Points[0]; p.ValidatorCPU != 12 || p.Layer2CPU != 30 || p.Open != 1.5 {
		t.Errorf("%+v", p)
	}
	if m.Loads[0].Steps != 5 || m.Distances[0].LocalFloor != 2 {
		t.Errorf("%+v, %+v", m.Loads, m.Distances)
	}
	if err := m.Add("other", []byte(`{"machine":{"cores":8},"network":"4-1","greatest_sessions_per_second":4000}`)); err != nil || len(m.Warnings) != 3 {
		t.Errorf("%v, %v", err, m.Warnings)
	}
	for _, text := range []string{``, `{}`, `[]`, `{"configs":{"four":{"step_median_ms":1}}}`, `{"configs":{"4-1":{"step_median_ms":-1}}}`, `{"network":"4","greatest_sessions_per_second":1}`,
		`{"config":"4-1x","scenarios":[{}]}`} {
		if err := new(Measured).Add("bad", []byte(text)); err == nil {
			t.Errorf("%q passes", text)
		}
	}
}

// TestDefault: what is built in makes a model, and says where it is from.
func TestDefault(t *testing.T) {
	m, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.usable()) < 3 || len(m.Distances) == 0 || len(m.Sources) < 2 || m.Cores == 0 {
		t.Errorf("%d configurations, %d distances, sources %v", len(m.usable()), len(m.Distances), m.Sources)
	}
	if _, err := Recommend(m, Workload{Faults: 1, Disks: 1, Map: distance.Continents()}); err != nil {
		t.Error(err)
	}
}

// FuzzAdd: whatever a file holds, it is refused or leaves measurements that a model can be made of, or an error that says so.
func FuzzAdd(f *testing.F) {
	f.Add([]byte(`{"machine":{"cores":2},"configs":{"4-1":{"step_median_ms":1,"commit_median_ms":20}}}`))
	f.Add([]byte(`{"config":"4-1","scenarios":[{"name":"a","step_median_ms":1,"commit_median_ms":2},{"name":"b","step_median_ms":1,"commit_median_ms":2}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m := exact()
		if m.Add("file", text) != nil {
			return
		}
		p, err := Recommend(m, Workload{Faults: 1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := json.Marshal(p); err != nil {
			t.Fatal(err)
		}
	})
}
