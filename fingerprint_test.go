package tandem

import (
	"net/http"
	"runtime/debug"
	"testing"
)

// DESIGN: the fingerprint covers name, version, patterns, main module, Go version, GOARCH and GOAMD64; each changes it.
func TestFingerprintCoversEachInput(t *testing.T) {
	type input struct {
		name, version string
		patterns      []string
		build         build
	}
	base := input{"svc", "1", []string{"GET /a", "GET /b"}, build{"example.org/m", "v1.0.0", "go1.26", "amd64", "v1"}}
	of := func(i input) [32]byte { return fingerprint(i.name, i.version, i.patterns, i.build) }
	seen := map[[32]byte]string{of(base): "unchanged"}
	for name, change := range map[string]func(*input){
		"name":            func(i *input) { i.name = "svd" },
		"version":         func(i *input) { i.version = "2" },
		"pattern changed": func(i *input) { i.patterns = []string{"GET /a", "GET /c"} },
		"pattern added":   func(i *input) { i.patterns = []string{"GET /a", "GET /b", "GET /c"} },
		"pattern removed": func(i *input) { i.patterns = []string{"GET /a"} },
		"patterns joined": func(i *input) { i.patterns = []string{"GET /aGET /b"} },
		"no patterns":     func(i *input) { i.patterns = nil },
		"module":          func(i *input) { i.build.module = "example.org/n" },
		"module version":  func(i *input) { i.build.version = "v1.0.1" },
		"Go version":      func(i *input) { i.build.goVersion = "go1.27" },
		"GOARCH":          func(i *input) { i.build.arch = "arm64" },
		"GOAMD64":         func(i *input) { i.build.level = "v3" },
		// the same text cut in other places
		"name and version":   func(i *input) { i.name, i.version = "svc1", "" },
		"version and module": func(i *input) { i.version, i.build.module = "1example", ".org/m" },
		"arch and level":     func(i *input) { i.build.arch, i.build.level = "amd64v1", "" },
	} {
		in := base
		change(&in)
		sum := of(in)
		if other, dup := seen[sum]; dup {
			t.Errorf("%s: same fingerprint as %s", name, other)
		}
		seen[sum] = name
	}
	swapped := base
	swapped.patterns = []string{"GET /b", "GET /a"}
	if of(swapped) != of(base) {
		t.Error("the order of registration changes the fingerprint")
	}
}

func TestServiceFingerprint(t *testing.T) {
	a := Service{Name: "svc", Version: "1", Registry: registry("GET /a", "GET /b")}
	b := Service{Name: "svc", Version: "1", Registry: registry("GET /b", "GET /a")}
	if a.Fingerprint() != b.Fingerprint() {
		t.Error("equal services differ")
	}
	b.Registry.HandleFunc("GET /c", func(http.ResponseWriter, *http.Request) {})
	if a.Fingerprint() == b.Fingerprint() {
		t.Error("a further pattern does not show")
	}
	if (Service{}).Fingerprint() == a.Fingerprint() {
		t.Error("the empty service has the fingerprint of another")
	}
}

func TestBuildInfo(t *testing.T) {
	got := buildOf(&debug.BuildInfo{
		GoVersion: "go9",
		Main:      debug.Module{Path: "m", Version: "v1"},
		Settings:  []debug.BuildSetting{{Key: "GOARCH", Value: "amd64"}, {Key: "GOAMD64", Value: "v3"}, {Key: "vcs", Value: "git"}},
	}, true)
	if want := (build{"m", "v1", "go9", "amd64", "v3"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := buildOf(nil, false); got.goVersion == "" || got.arch == "" {
		t.Errorf("without build information: %+v", got)
	}
}

// The same commit has one fingerprint, whether go run, go build or go build -buildvcs=false made the binary.
func TestReleased(t *testing.T) {
	for version, want := range map[string]string{
		"":                                   "(devel)",
		"(devel)":                            "(devel)",
		"v0.0.0-20261123172600-0123456789ab": "(devel)",
		"v0.0.0-20261123172600-0123456789ab+dirty": "(devel)",
		"v1.2.4-0.20261123172600-0123456789ab":     "(devel)",
		"v1.2.3-pre.0.20261123172600-0123456789ab": "(devel)",
		"v1.2.3+dirty": "(devel)",
		"v2.0.0-20261123172600-0123456789ab+incompatible": "(devel)",
		"v1.2.3":              "v1.2.3",
		"v1.2.3-rc.1":         "v1.2.3-rc.1",
		"v2.0.0+incompatible": "v2.0.0+incompatible",
	} {
		if got := released(version); got != want {
			t.Errorf("released(%q) = %q, want %q", version, got, want)
		}
	}
}
