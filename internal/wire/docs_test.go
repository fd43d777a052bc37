package wire_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// goldenMark stands before an example in docs/format; the code block after it is the named file.
var goldenMark = regexp.MustCompile(`(?s)<!-- golden (\S+) -->\n(\n?~~~\n.*?\n~~~\n)?`)

// TestFormatPages: the worked examples in docs/format are the golden files, byte for byte; with -update they are written into the pages.
func TestFormatPages(t *testing.T) {
	root := filepath.Join("..", "..")
	for _, page := range []string{"wire", "transcript", "signatures", "session-commit", "receipt", "open", "keys", "peer", "evidence"} {
		path := filepath.Join(root, "docs", "format", page+".md")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		examples := 0
		want := goldenMark.ReplaceAllStringFunc(string(raw), func(block string) string {
			name := goldenMark.FindStringSubmatch(block)[1]
			vector, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			examples++
			return "<!-- golden " + name + " -->\n\n~~~\n" + strings.TrimSuffix(string(vector), "\n") + "\n~~~\n"
		})
		if examples == 0 {
			t.Errorf("%s has no worked example", path)
		}
		if want == string(raw) {
			continue
		}
		if !*update {
			t.Errorf("%s is not up to date with the golden files (rewrite with -update)", path)
			continue
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
