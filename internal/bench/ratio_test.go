package bench

import (
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// sampled makes a turn's samples: the operations follow each other from start on.
func sampled(config string, round int, start time.Time, took map[string]time.Duration) []Sample {
	var all []Sample
	for _, o := range Operations {
		if t, ok := took[o.Name]; ok {
			all = append(all, Sample{Config: config, Iteration: round, Operation: o.Name, Layer: o.Layer, Start: start, Latency: t})
			start = start.Add(t)
		}
	}
	return all
}

// Ratios are taken within rounds: a machine that is a hundred times slower in one round changes none.
func TestRatioWithinRounds(t *testing.T) {
	var samples []Sample
	at := time.Unix(1_700_000_000, 0)
	for round := 1; round <= 9; round++ {
		slow := time.Duration(1)
		if round == 4 {
			slow = 100
		}
		unit := slow * time.Millisecond
		samples = append(samples, sampled("a", round, at, map[string]time.Duration{"create": 3 * unit, "scan": 5 * unit, "commit": 20 * unit})...)
		samples = append(samples, sampled("b", round, at, map[string]time.Duration{"create": unit, "scan": 3 * unit, "commit": 10 * unit})...)
	}
	// What failed is in no ratio, nor is the rest of its turn.
	samples[0].Err = "refused"
	laps := LapsOf(samples)
	for _, want := range []Ratio{
		{"a", "b", "create", 8, 3, 3, 3},
		{"a", "b", StepMean, 8, 2, 2, 2},
		{"a", "b", "commit", 8, 2, 2, 2},
		{"a", "b", WholeWorkflow, 8, 2, 2, 2},
		{"a", "b", "label", 0, 0, 0, 0},
		{"a", "c", "create", 0, 0, 0, 0},
	} {
		if got := laps.Ratio(want.Of, want.To, want.Operation); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if took := laps.Took("a", WholeWorkflow); len(took) != 8 || took[0] != 28*time.Millisecond || took[2] != 2800*time.Millisecond {
		t.Errorf("workflows of a: %v", took)
	}
}

// The sign test's interval by its definition, from binomial coefficients.
func TestSignTest(t *testing.T) {
	for n := 1; n <= 60; n++ {
		want, sum, coefficient := 0, 0.0, 1.0
		for k := 0; k < n; k++ {
			if sum += coefficient / math.Exp2(float64(n)); sum > 0.025 {
				break
			}
			want, coefficient = k, coefficient*float64(n-k)/float64(k+1)
		}
		if got := signTest(n); got != want {
			t.Errorf("of %d values %d are cut, want %d", n, got, want)
		}
	}
	for n, want := range map[int]int{6: 0, 9: 1, 12: 2, 30: 9, 100: 39} { // tables of the sign test
		if got := signTest(n); got != want {
			t.Errorf("of %d values %d are cut, want %d", n, got, want)
		}
	}
	if a, b := signTest(1000), signTest(1001); b < a-1 || b > a+1 {
		t.Errorf("the approximation for many values begins with %d after %d", b, a)
	}
}

// A bound is broken when the whole interval lies beyond it, and only then.
func TestCheckBound(t *testing.T) {
	ratio := func(low, median, high float64) Ratio { return Ratio{"a", "b", "commit", 20, median, low, high} }
	for _, c := range []struct {
		name    string
		bound   Bound
		ratio   Ratio
		checked bool
		kept    bool
		words   string
	}{
		{"kept", Bound{AtMost: 1.3}, ratio(1.0, 1.1, 1.2), true, true, "kept"},
		{"broken", Bound{AtMost: 1.3}, ratio(1.35, 1.5, 1.7), true, false, "at most 1.30"},
		{"noise", Bound{AtMost: 1.3}, ratio(1.2, 1.4, 1.7), true, true, "within the noise"},
		{"least kept", Bound{AtLeast: 5}, ratio(5.5, 6, 7), true, true, "kept"},
		{"least broken", Bound{AtLeast: 5}, ratio(3, 4, 4.9), true, false, "at least 5.00"},
		{"least noise", Bound{AtLeast: 5}, ratio(3, 4, 5.1), true, true, "within the noise"},
		{"no bound", Bound{}, ratio(1, 9, 99), false, true, "no bound"},
		{"nothing measured", Bound{AtMost: 1}, Ratio{Of: "a", To: "b", Operation: "commit"}, false, true, "not checked"},
	} {
		v := c.bound.check(c.ratio)
		if v.Checked != c.checked || v.Kept != c.kept || !strings.Contains(v.Words, c.words) {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}

// recordedSamples reads a comparison that was measured: `tandem bench compare -n 24`, network 4-1, 2026-11-27, 2 cores with a load
// average of 10 to 16, which is about the worst that a check has to live with.
func recordedSamples(t *testing.T) []Sample {
	t.Helper()
	f, err := os.Open("testdata/comparison.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	samples, err := ReadSamples(f)
	if err != nil {
		t.Fatal(err)
	}
	return samples
}

// recordedBounds are what the recorded run just kept: the check is tested here, not how fast that program was.
var recordedBounds = Bounds{StepFloor: 1.7, StepPostgres: 1, CommitEngine: 1.6, OneLayer: 4}

// delayed adds a delay to one operation of a contender in each round ("": to each step), as a slower program would: what
// comes later begins later.
func delayed(samples []Sample, config, operation string, delay time.Duration) []Sample {
	samples = slices.Clone(samples)
	late := map[int]time.Duration{}
	for i := range samples {
		a := &samples[i]
		if a.Config != config {
			continue
		}
		a.Start = a.Start.Add(late[a.Iteration])
		if a.Operation == operation || operation == "" && IsStep(a.Operation) {
			a.Latency += delay
			late[a.Iteration] += delay
		}
	}
	return samples
}

// The check on recorded samples: as they were measured they keep all bounds. Five milliseconds more in each step, or in one
// of the steps alone, or a hundred in the commit, break the bounds that look at them. So does a one-layer mode that is no slower.
func TestCheckOnRecordedSamples(t *testing.T) {
	samples := recordedSamples(t)
	broken := func(samples []Sample) (names []string) {
		for _, v := range Broken(Check(LapsOf(samples), recordedBounds.all())) {
			names = append(names, v.Operation+" "+v.To)
		}
		return names
	}
	if names := broken(samples); len(names) > 0 {
		t.Errorf("as recorded: broken %v", names)
	}
	for _, v := range Check(LapsOf(samples), recordedBounds.all()) {
		if v.Rounds == 0 {
			t.Errorf("as recorded: there is no %s of %s and %s", v.Operation, v.Of, v.To)
		}
	}
	const more = 5 * time.Millisecond
	every := append([]string{"step floor"}, "create floor", "scan floor", "validate floor", "quality-check floor", "label floor", "step postgresql")
	if names := broken(delayed(samples, InSession, "", more)); !slices.Equal(names, every) {
		t.Errorf("5 ms more in each step: broken %v, want %v", names, every)
	}
	for _, o := range Operations {
		if !o.Step {
			continue
		}
		names := broken(delayed(samples, InSession, o.Name, more))
		if !slices.Contains(names, o.Name+" floor") {
			t.Errorf("5 ms more in %s alone: broken %v", o.Name, names)
		}
		for _, other := range Operations {
			if other.Step && other.Name != o.Name && slices.Contains(names, other.Name+" floor") {
				t.Errorf("5 ms more in %s alone: %s is blamed", o.Name, other.Name)
			}
		}
	}
	if names := broken(delayed(samples, InSession, "commit", 100*time.Millisecond)); !slices.Contains(names, "commit cometbft") {
		t.Errorf("100 ms more in the commit: broken %v", names)
	}
	var same []Sample
	for _, a := range samples {
		if a.Config == InSession {
			same = append(same, a)
			a.Config = OneLayer
			same = append(same, a)
		}
	}
	if names := broken(same); !slices.Equal(names, []string{WholeWorkflow + " " + InSession}) {
		t.Errorf("one layer as fast as two: broken %v", names)
	}
}
