package main

import (
	"os"
	"strings"
	"testing"
)

// TestConfigPages: docs/config.toml and docs/config.md are what the program prints. To write them anew:
// go run ./cmd/tandem config > docs/config.toml; go run ./cmd/tandem config --markdown > docs/config.md
func TestConfigPages(t *testing.T) {
	for _, page := range []struct {
		file string
		args []string
	}{
		{"../../docs/config.toml", []string{"config"}},
		{"../../docs/config.md", []string{"config", "--markdown"}},
	} {
		want, err := os.ReadFile(page.file)
		if err != nil {
			t.Fatal(err)
		}
		var stdout, stderr strings.Builder
		if code := execute(t.Context(), page.args, strings.NewReader(""), &stdout, &stderr); code != 0 {
			t.Fatalf("tandem %v: exit %d: %s", page.args, code, stderr.String())
		}
		if stdout.String() != string(want) {
			t.Errorf("%s is not what tandem %v prints", page.file, page.args)
		}
	}
}
