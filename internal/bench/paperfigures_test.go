package bench

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// invented is a measurement of all the paper's configurations that nobody has made, written into a directory.
func invented(t *testing.T, dir string) *paperRun {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	start := time.Date(2026, 11, 27, 10, 0, 0, 0, time.UTC)
	r := &paperRun{o: PaperOptions{Out: dir, Runs: 40, OneLayer: 10, Sizes: PaperSizes()}}
	r.summary = PaperSummary{Processes: true, Runs: 40, OneLayerRuns: 10, Warmup: 5, Machine: Machine{Cores: 2, CPU: "a processor", Date: start}, Configs: map[string]*PaperConfig{}}
	around := func(millis float64) time.Duration {
		return time.Duration((millis*(0.8+0.3*random.Float64()) + random.ExpFloat64()*millis/10) * float64(time.Millisecond))
	}
	for _, size := range PaperSizes() {
		step, commit := 0.5+0.02*float64(size.Validators)+0.5*float64(size.Layer2-1), 10+5*float64(size.Validators)
		config := &PaperConfig{Validators: size.Validators, Layer2: size.Layer2, Date: start}
		config.use([]NodeUsage{{Name: "node0", Role: "validator", CPU: 400, RSS: 50 << 20, Peak: 60 << 20}}, 40)
		r.summary.Configs[size.String()] = config
		add := func(to *[]Sample, i int, name, layer string, took time.Duration, err string) {
			*to = append(*to, Sample{Config: size.String(), Iteration: i, Operation: name, Layer: layer, Start: start, Latency: took, Height: int64(i), Err: err})
			start = start.Add(took)
		}
		for i := 1; i <= 40; i++ {
			for _, o := range Operations {
				switch {
				case i == 7 && o.Name == "commit" && size == Size{7, 1}:
					add(&r.samples, i, o.Name, o.Layer, time.Second, "commit: <b>refused</b>,\nin two lines")
				case o.Layer == L1:
					add(&r.samples, i, o.Name, o.Layer, around(commit), "")
				default:
					add(&r.samples, i, o.Name, o.Layer, around(step), "")
				}
			}
		}
		for i := 1; i <= 10; i++ {
			for _, o := range Operations {
				if o.Step {
					add(&r.oneLayer, i, o.Name, L1, around(commit*1.3), "")
				}
			}
		}
	}
	if err := errors.Join(r.rewrite(requestsFile, r.samples), r.rewrite(oneLayerFile, r.oneLayer), r.writeSummary(), r.writeFigures()); err != nil {
		t.Fatal(err)
	}
	return r
}

// All the paper's figures are drawn, are well formed, name the paper, and are the same bytes each time; the report holds them and
// needs nothing else.
func TestPaperFigures(t *testing.T) {
	dir, again := t.TempDir(), t.TempDir()
	invented(t, dir)
	invented(t, again)
	page, err := os.ReadFile(filepath.Join(dir, reportFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"latency-1.svg", "latency-2.svg", "endpoints.svg", "distribution-1.svg", "distribution-2.svg", "commit-against-layer2.svg", "layers.svg"} {
		svg, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		second, err := os.ReadFile(filepath.Join(again, name))
		if err != nil || !bytes.Equal(svg, second) {
			t.Errorf("%s is not the same bytes each time (%v)", name, err)
		}
		wellFormed(t, name, svg)
		if !strings.Contains(strings.ToLower(string(svg)), "paper") || !strings.Contains(string(svg), ", ms") {
			t.Errorf("%s has no reference, or no unit", name)
		}
		if !bytes.Contains(page, svg[bytes.Index(svg, []byte("<svg")):]) {
			t.Errorf("the report lacks %s", name)
		}
	}
	for _, bad := range []string{"<script", "href=\"http", "src=", "<b>refused", "@import", "url(http"} {
		if bytes.Contains(page, []byte(bad)) {
			t.Errorf("the report contains %q", bad)
		}
	}
	for _, good := range []string{"&lt;b&gt;refused", "two totals", "399 workflows", "1 failures", "a processor"} {
		if !bytes.Contains(page, []byte(good)) {
			t.Errorf("the report lacks %q", good)
		}
	}
}

func wellFormed(t *testing.T, name string, svg []byte) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// The summary is what the samples say: a failed workflow is counted and is no workflow, and the two totals are the paper's.
func TestPaperSummary(t *testing.T) {
	r := invented(t, t.TempDir())
	text, err := os.ReadFile(r.path(summaryFile))
	if err != nil {
		t.Fatal(err)
	}
	var s PaperSummary
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	c := s.Configs["7-1"]
	if c.Workflows != 39 || c.Failures != 1 || !c.Complete || c.FirstFailure == "" || c.Operations["commit"].Count != 39 || c.Operations["step"].Count != 200 {
		t.Errorf("7-1: %+v", c)
	}
	if want := c.Operations["layer2"].Mean + c.Operations["commit"].Mean; c.OperationAndCommit != want {
		t.Errorf("L2 operation + commit is %v, want %v", c.OperationAndCommit, want)
	}
	if c.OneLayerRatio < 1 || c.Nodes[0].CPUPerWorkflow != 10 {
		t.Errorf("7-1: %+v", c)
	}
	f, err := os.Open(r.path(requestsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	samples, err := ReadSamples(f)
	if err != nil || len(samples) != len(r.samples) {
		t.Fatalf("%d samples, want %d (%v)", len(samples), len(r.samples), err)
	}
	for i, a := range samples {
		want := r.samples[i]
		want.Err = strings.Join(strings.Fields(want.Err), " ")
		if a != want {
			t.Fatalf("sample %d: %+v, want %+v", i, a, want)
		}
	}
}
