package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/internal/bench"
)

// `tandem bench compare` prints what it found, as JSON and as tables, and the check's verdict is its exit code.
func TestBenchCompare(t *testing.T) {
	tandem := func(args ...string) (code int, stdout, stderr string) {
		var out, complaints bytes.Buffer
		line := append([]string{"bench", "compare", "-n", "1", "--warmup", "0", "--pause", "0s", "--validators", "1", "--dir", t.TempDir(),
			"--skip", "one-layer,postgresql,cometbft,cometbft-constant"}, args...)
		code = execute(t.Context(), line, strings.NewReader(""), &out, &complaints)
		return code, out.String(), complaints.String()
	}
	code, stdout, stderr := tandem("--json")
	var c bench.Comparison
	if err := json.Unmarshal([]byte(stdout), &c); err != nil || code != exitOK || c.Network != "1-1" || c.Rounds != 1 || len(c.Contenders) != 2 {
		t.Errorf("exit code %d, %v: %s\n%s", code, err, stdout, stderr)
	}
	out := filepath.Join(t.TempDir(), "new", "out")
	code, stdout, stderr = tandem("--check", "--out", out, "--max-step-floor", "0.0001", "--max-step-postgresql", "0")
	if code != exitFailed || !strings.Contains(stdout, "BROKEN") || !strings.Contains(stdout, "not checked") ||
		!strings.Contains(stderr, "broken: step of session takes") || !strings.Contains(stderr, "the check has failed") {
		t.Errorf("a bound that nothing keeps: exit code %d\n%s\n%s", code, stdout, stderr)
	}
	for _, name := range []string{"samples.csv", "summary.json", "comparison.html", "steps.svg"} {
		if about, err := os.Stat(filepath.Join(out, name)); err != nil || about.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, wrong := range [][]string{{"--skip", "nobody"}, {"-n", "0"}, {"--layer2", "0"}, {"--max-step-floor", "-1"}, {"--pause", "2h"}} {
		if code, _, stderr := tandem(wrong...); code != exitUsage || !strings.Contains(stderr, wrong[0]) && !strings.Contains(stderr, "bound") {
			t.Errorf("%v: exit code %d\n%s", wrong, code, stderr)
		}
	}
}
