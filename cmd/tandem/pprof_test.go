package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Profiles are served on loopback addresses only, and no longer than the node runs.
func TestServePprof(t *testing.T) {
	for _, bad := range []string{"", "6060", ":6060", "0.0.0.0:6060", "[::]:6060", "192.0.2.1:6060", "localhost:6060", "127.0.0.1"} {
		if stop, err := servePprof(bad, io.Discard); err == nil {
			_ = stop()
			t.Errorf("profiles are served on %q", bad)
		}
	}
	var said bytes.Buffer
	stop, err := servePprof("127.0.0.1:0", &said)
	if err != nil {
		t.Fatal(err)
	}
	url := regexp.MustCompile(`http://127\.0\.0\.1:\d+/debug/pprof/`).FindString(said.String())
	answer, err := http.Get(url + "goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || !strings.Contains(string(text), "servePprof") {
		t.Errorf("GET goroutine: %d %.100s (%v)", answer.StatusCode, text, err)
	}
	http.DefaultClient.CloseIdleConnections()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if answer, err := http.Get(url); err == nil {
		answer.Body.Close()
		t.Error("profiles are served after the end")
	}
}

// `tandem bench paper` measures, prints, and profiles itself; what makes no sense is refused before anything starts.
func TestBenchPaper(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", t.TempDir())
	run := func(code int, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		if got := execute(t.Context(), append([]string{"bench", "paper"}, args...), strings.NewReader(""), &out, &errs); got != code {
			t.Fatalf("%v: exit code %d, want %d\n%s%s", args, got, code, out.String(), errs.String())
		}
		return out.String() + errs.String()
	}
	out, cpu, memory := filepath.Join(dir, "out"), filepath.Join(dir, "cpu"), filepath.Join(dir, "memory")
	got := run(exitOK, "-n", "2", "--configs", "1-1", "--in-process", "--warmup", "0", "--out", out, "--cpuprofile", cpu, "--memprofile", memory)
	for _, want := range []string{"config", "1-1", "report.html", "1-1, network 1 of 1"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing:\n%s", want, got)
		}
	}
	for _, name := range []string{cpu, memory} {
		if text, err := os.ReadFile(name); err != nil || !bytes.HasPrefix(text, []byte{0x1f, 0x8b}) { // profiles are gzip files
			t.Errorf("%s is no profile (%v)", name, err)
		}
	}
	if got := run(exitOK, "-n", "2", "--configs", "1-1", "--in-process", "--out", out, "--resume", "--json"); !strings.Contains(got, `"step_median_ms"`) {
		t.Error(got)
	}
	run(exitFailed, "-n", "2", "--configs", "1-1", "--in-process", "--out", out)
	run(exitUsage, "--configs", "1", "--out", out)
	run(exitUsage, "-n", "0", "--out", out)
	run(exitFailed, "--out", out, "--resume", "--in-process", "--cpuprofile", filepath.Join(dir, "no", "such", "folder"))
}
