package bench

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/internal/bench/distance"
	"tandem/internal/bench/link"
)

func apartBy(t *testing.T, delay time.Duration) *distance.Map {
	t.Helper()
	m, err := distance.Uniform(link.Conditions{Delay: delay, Jitter: delay / 10}, link.Conditions{Delay: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestWAN measures a few workflows and reads the files back. No commit can be faster than its floor; nothing else is said of time.
func TestWAN(t *testing.T) {
	out := filepath.Join(t.TempDir(), "wan")
	measured := 0
	o := WANOptions{
		Validators: 4, Layer2: 2, Scenarios: []Scenario{{"5ms", apartBy(t, 5*time.Millisecond)}}, Runs: 2, OneLayer: 1, Rounds: 2, Seed: 1,
		Out: out, InProcess: true, Progress: io.Discard, Measured: func(int) { measured++ },
	}
	got, err := WAN(t.Context(), o)
	if err != nil || got.Error != "" || got.Interrupted || got.Failures() > 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if measured != 6 || len(got.Scenarios) != 2 || got.Scenarios[0].Name != LocalScenario {
		t.Errorf("%d workflows, %d scenarios", measured, len(got.Scenarios))
	}
	for _, s := range got.Scenarios {
		if s.Workflows != 2 || s.OneLayer["workflow"].Count != 1 || s.Operations["step"].Count != 10 || s.Operations["commit"].Count != 2 {
			t.Errorf("%s: %d workflows, operations %+v, one layer %+v", s.Name, s.Workflows, s.Operations, s.OneLayer)
		}
	}
	far := got.Scenarios[1]
	// The client's round trip, and one to the other Layer 2 node, which endorses each step; a commit's four ways.
	if far.StepFloor != 12 || far.CommitFloor != 22 || got.Scenarios[0].StepFloor != 2 || got.Scenarios[0].CommitFloor != 2 {
		t.Errorf("floors %v and %v, local %v and %v", far.StepFloor, far.CommitFloor, got.Scenarios[0].StepFloor, got.Scenarios[0].CommitFloor)
	}
	// Emulated delay can only be more than asked for, but for jitter: a tenth of each way.
	if d := far.Operations["commit"]; d.Min < 0.9*far.CommitFloor {
		t.Errorf("a commit took %v ms, the distance alone %v: something went past the links", d.Min, far.CommitFloor)
	}
	if d := far.Operations["step"]; d.Min < 0.9*far.StepFloor {
		t.Errorf("a step took %v ms, the distance alone %v: something went past the links", d.Min, far.StepFloor)
	}
	for _, name := range []string{"latency.svg", "workflow.svg", "distance.svg", "report.html", "summary.json", "requests.csv"} {
		text, err := os.ReadFile(filepath.Join(out, name))
		if err != nil || len(text) < 300 {
			t.Errorf("%s: %d bytes, %v", name, len(text), err)
		}
		switch name {
		case "summary.json":
			var again WANSummary
			if err := json.Unmarshal(text, &again); err != nil || again.Kind != "wan" || again.Scenarios[1].CommitMedian != far.CommitMedian {
				t.Errorf("summary %+v, %v", again, err)
			}
		case "requests.csv":
			rows, err := ReadSamples(strings.NewReader(string(text)))
			if err != nil || len(rows) != 2*(2*len(Operations)+5) {
				t.Errorf("%d rows, %v", len(rows), err)
			}
		}
	}
	if _, err := WAN(t.Context(), o); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second measurement into the same directory: %v", err)
	}
}

// TestWANInterrupted: what was measured until Ctrl-C is kept.
func TestWANInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := filepath.Join(t.TempDir(), "wan")
	got, err := WAN(ctx, WANOptions{
		Validators: 1, Layer2: 1, Scenarios: []Scenario{{"1ms", apartBy(t, time.Millisecond)}}, Runs: 1000, Rounds: 1, Out: out, InProcess: true,
		Progress: io.Discard, Measured: func(n int) {
			if n == 2 {
				cancel()
			}
		},
	})
	if err != nil || !got.Interrupted || got.Error != "" || got.Scenarios[0].Workflows != 2 || got.Failures() != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(out, "report.html")); err != nil {
		t.Error(err)
	}
}

// TestFits: three Layer 2 nodes that are not equally far from each other cannot be emulated, and the error says why.
func TestFits(t *testing.T) {
	m, err := distance.Parse([]byte("client = \"a\"\nvalidators = [\"a\"]\nlayer2 = [\"a\", \"a\", \"b\"]\n[[link]]\nbetween = [\"a\", \"b\"]\ndelay = \"9ms\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := fits(m.Place(4, 3)); err == nil || !strings.Contains(err.Error(), "equally far") {
		t.Error(err)
	}
	for layer2 := range 3 {
		if err := fits(m.Place(4, layer2)); err != nil {
			t.Error(err)
		}
	}
	if err := fits(apartBy(t, time.Second).Place(4, 5)); err != nil {
		t.Error(err)
	}
	if _, err := WAN(t.Context(), WANOptions{Validators: 4, Layer2: 3, Scenarios: []Scenario{{"m", m}}, Runs: 1, Rounds: 1, Out: t.TempDir()}); err == nil {
		t.Error("measured all the same")
	}
}

// TestWANShare: the parts of the rounds make up the whole.
func TestWANShare(t *testing.T) {
	for n := range 30 {
		for rounds := 1; rounds < 12; rounds++ {
			sum, least, most := 0, math.MaxInt, 0
			for round := range rounds {
				part := wanShare(n, rounds, round)
				sum, least, most = sum+part, min(least, part), max(most, part)
			}
			if sum != n || most-least > 1 {
				t.Fatalf("%d in %d rounds: %d in all, from %d to %d", n, rounds, sum, least, most)
			}
		}
	}
}
