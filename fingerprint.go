package tandem

import (
	"crypto/sha256"
	"encoding/binary"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
)

// build is what the running binary says about how it was made.
type build struct {
	module, version string // of the main module
	goVersion       string
	arch, level     string // GOARCH, GOAMD64
}

// Fingerprint identifies the code that a node runs: the service's name, version and patterns, the main module's path
// and version, the Go version, GOARCH and GOAMD64. It is in the opening signature of every session, in every Layer 2
// answer and in Layer 1's state, so a node with other code refuses at the first step instead of diverging later.
//
// It cannot see a change of code under an unchanged version: raise Service.Version when a handler's behaviour changes.
// Only a released version counts: a binary built from a checkout has the module version "(devel)", whether the Go command
// stamped it with the commit (go build) or not (go run, -buildvcs=false).
func (s Service) Fingerprint() [32]byte {
	return fingerprint(s.Name, s.Version, s.Registry.Patterns(), buildOf(debug.ReadBuildInfo()))
}

func buildOf(b *debug.BuildInfo, ok bool) build {
	if !ok {
		return build{goVersion: runtime.Version(), arch: runtime.GOARCH}
	}
	r := build{module: b.Main.Path, version: released(b.Main.Version), goVersion: b.GoVersion, arch: runtime.GOARCH}
	for _, s := range b.Settings {
		switch s.Key {
		case "GOARCH":
			r.arch = s.Value
		case "GOAMD64":
			r.level = s.Value
		}
	}
	return r
}

// stamped ends the versions that the Go command makes up for a checkout: a pseudo-version (go.dev/ref/mod) or uncommitted
// changes.
var stamped = regexp.MustCompile(`(\.|-)[0-9]{14}-[0-9a-f]{12}(\+[a-z.]+)?$|\+dirty$`)

// released returns a version that names a release, and "(devel)" for all others.
func released(version string) string {
	if version == "" || stamped.MatchString(version) {
		return "(devel)"
	}
	return version
}

// fingerprint hashes its inputs, each with its length in front so that no two lists of inputs share their bytes.
func fingerprint(name, version string, patterns []string, b build) [32]byte {
	h := sha256.New()
	number := func(n int) {
		var buf [8]byte
		binary.BigEndian.PutUint64(buf[:], uint64(n))
		h.Write(buf[:])
	}
	text := func(s string) {
		number(len(s))
		h.Write([]byte(s))
	}
	text("tandem fingerprint v1")
	text(name)
	text(version)
	number(len(patterns))
	for _, p := range slices.Sorted(slices.Values(patterns)) {
		text(p)
	}
	for _, s := range []string{b.module, b.version, b.goVersion, b.arch, b.level} {
		text(s)
	}
	return [32]byte(h.Sum(nil))
}
