package bench

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseSizes(t *testing.T) {
	sizes, err := ParseSizes([]string{"4-1", "16-2"})
	if err != nil || len(sizes) != 2 || sizes[1] != (Size{16, 2}) || sizes[1].String() != "16-2" {
		t.Errorf("%v, %v", sizes, err)
	}
	for _, bad := range [][]string{nil, {""}, {"4"}, {"4-"}, {"0-1"}, {"4-0"}, {"+4-1"}, {"04-1"}, {"4-1-1"}, {"60-5"}, {"4-1", "4-1"}, {"-4-1"}} {
		if sizes, err := ParseSizes(bad); err == nil {
			t.Errorf("%q is read as %v", bad, sizes)
		}
	}
}

// Ctrl-C in the middle keeps the workflows that are whole and writes all files; --resume measures only what is missing; a third
// time nothing is measured; and without --resume a result is not touched.
func TestPaperResume(t *testing.T) {
	o := PaperOptions{
		Sizes: []Size{{1, 1}, {1, 2}}, Runs: 3, OneLayer: 1, Warmup: 1, InProcess: true,
		Out: filepath.Join(t.TempDir(), "out"), Data: t.TempDir(), Progress: io.Discard,
	}
	run := func(ctx context.Context) *PaperSummary {
		t.Helper()
		s, err := Paper(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{summaryFile, requestsFile, oneLayerFile, reportFile} {
			if _, err := os.Stat(filepath.Join(o.Out, name)); err != nil {
				t.Error(err)
			}
		}
		if left, err := os.ReadDir(o.Data); err != nil || len(left) > 0 {
			t.Errorf("the networks leave %v (%v)", left, err)
		}
		return s
	}
	ctx, interrupt := context.WithTimeout(t.Context(), time.Minute)
	defer interrupt()
	measured := 0
	o.Measured = func(Size, int) {
		if measured++; measured == 2 {
			interrupt()
		}
	}
	s := run(ctx)
	if c := s.Configs["1-1"]; !s.Interrupted || c == nil || c.Complete || c.Workflows < 1 || c.Failures != 0 || s.Configs["1-2"] != nil {
		t.Fatalf("interrupted: %+v", c)
	}
	kept := requests(t, o.Out)
	if len(kept) == 0 || len(kept)%len(Operations) != 0 {
		t.Fatalf("%d rows are no whole workflows", len(kept))
	}

	if _, err := Paper(t.Context(), o); err == nil || !strings.Contains(err.Error(), "--resume") {
		t.Errorf("a measurement is overwritten: %v", err)
	}

	// What a killed program leaves: a workflow of which the commit is missing, and half a row.
	f, err := os.OpenFile(filepath.Join(o.Out, requestsFile), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("1-1,3,open,L2,2026-11-27T10:24:51Z,4543542,0,0,\n1-1,3,crea"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	before := measured
	o.Resume, o.Measured = true, func(Size, int) { measured++ }
	s = run(t.Context())
	if measured-before != 8-before {
		t.Errorf("%d workflows measured after %d of 8: what is whole is not measured again", measured-before, before)
	}
	if failed, broken := s.Failures(); s.Interrupted || failed+broken > 0 {
		t.Errorf("interrupted %v, %d failures, %d networks failed", s.Interrupted, failed, broken)
	}
	for _, size := range o.Sizes {
		c := s.Configs[size.String()]
		if !c.Complete || c.Workflows != 3 || c.OneLayer["workflow"].Count != 1 || c.StepMedian <= 0 || c.CommitMedian <= 0 || c.WorkflowMedian <= c.CommitMedian || len(c.Nodes) != 1 {
			t.Errorf("%s: %+v", size, c)
		}
	}
	rows := requests(t, o.Out)
	if len(rows) != 2*3*len(Operations) || rows[0] != kept[0] {
		t.Errorf("%d rows, the first is %+v, was %+v", len(rows), rows[0], kept[0])
	}
	for _, a := range rows { // on a busy machine a step is answered before the second node has endorsed it
		if most := int(a.Config[2] - '0'); IsStep(a.Operation) && (a.Endorsements < 1 || a.Endorsements > most) || !IsStep(a.Operation) && a.Endorsements != 0 {
			t.Errorf("%s %s is endorsed by %d of %d", a.Config, a.Operation, a.Endorsements, most)
		}
	}

	before = measured
	run(t.Context())
	if measured != before {
		t.Error("what is whole is measured again")
	}
	o.InProcess = false
	if _, err := Paper(t.Context(), o); err == nil || !strings.Contains(err.Error(), "in one process") {
		t.Errorf("processes are measured into a result of one process: %v", err)
	}
}

// requests reads the rows of a result.
func requests(t *testing.T, dir string) []Sample {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, requestsFile))
	if err != nil {
		t.Fatal(err)
	}
	if head, _, _ := strings.Cut(string(text), "\n"); head != "config,iteration,step,layer,start,latency_ns,height,endorsements,error" {
		t.Errorf("columns %s", head)
	}
	samples, err := ReadSamples(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return samples
}

// A network that does not come up is in the summary, with the reason; the measurement goes on and the report says it.
func TestPaperNetworkFails(t *testing.T) {
	o := PaperOptions{Sizes: []Size{{1, 1}}, Runs: 1, Binary: os.Args[0], Out: t.TempDir(), Data: t.TempDir(), Progress: io.Discard}
	t.Setenv("TANDEM_BENCH_TEST_EXIT", "1")
	s, err := Paper(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, broken := s.Failures(); broken != 1 || !strings.Contains(s.Configs["1-1"].Error, "it ended while starting") {
		t.Errorf("%+v", s.Configs["1-1"])
	}
	page, err := os.ReadFile(filepath.Join(o.Out, reportFile))
	if err != nil || !bytes.Contains(page, []byte("it ended while starting")) {
		t.Errorf("the report does not say it (%v)", err)
	}
}

// TestMain lets this test program stand in for a node that ends at once.
func TestMain(m *testing.M) {
	if os.Getenv("TANDEM_BENCH_TEST_EXIT") != "" && len(os.Args) > 1 && os.Args[1] == "start" {
		os.Exit(3)
	}
	os.Exit(m.Run())
}
