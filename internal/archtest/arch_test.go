package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// source is one parsed Go file of the module.
type source struct {
	path  string // relative to the module root
	pkg   string // import path
	test  bool
	ast   *ast.File
	lines int
}

var fset = token.NewFileSet()

// sources parses every Go file of the module once.
func sources(t *testing.T) []source {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var all []source
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		pkg := "tandem"
		if dir := filepath.ToSlash(filepath.Dir(rel)); dir != "." {
			pkg += "/" + dir
		}
		all = append(all, source{rel, pkg, strings.HasSuffix(rel, "_test.go"), file, bytes.Count(text, []byte("\n"))})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d Go files found below %s: the walk is wrong", len(all), root)
	}
	return all
}

func imports(f *ast.File) []string {
	var paths []string
	for _, spec := range f.Imports {
		if path, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}

// allowed says which packages of the module each package may import: DESIGN.md's "import only downwards". A package
// that is missing here fails the test, so that a new one is given its place on purpose.
var allowed = map[string][]string{
	"tandem":                               {},
	"tandem/internal/refusal":              {},
	"tandem/internal/events":               {},
	"tandem/internal/wire":                 {"refusal"},
	"tandem/internal/httpsig":              {"refusal", "wire"},
	"tandem/internal/proof":                {"wire"},
	"tandem/internal/state":                {"wire", "proof"},
	"tandem/internal/ledger":               {"tandem", "refusal", "wire", "state"},
	"tandem/internal/exec":                 {"tandem", "refusal", "wire", "state"},
	"tandem/internal/session":              {"refusal", "wire", "httpsig"},
	"tandem/internal/layer1":               {"tandem", "refusal", "wire", "httpsig", "state", "ledger", "exec", "session"},
	"tandem/internal/peer":                 {"wire", "ledger"},
	"tandem/internal/layer2":               {"evidence", "judge", "proof", "signedblock", "tandem", "refusal", "wire", "httpsig", "state", "ledger", "exec", "session", "events", "peer"},
	"tandem/internal/httpapi":              {"tandem", "refusal", "wire", "httpsig", "state", "ledger", "exec", "session", "layer2", "events"},
	"tandem/internal/signedblock":          {},
	"tandem/internal/signedblock/signtest": {"wire"}, // for tests
	"tandem/receipt":                       {"refusal", "wire", "httpsig", "session", "signedblock"},
	"tandem/evidence":                      {"wire", "httpsig", "session", "proof", "signedblock"}, // like receipt: offline
	"tandem/internal/judge":                {"evidence", "tandem", "refusal", "wire", "state", "ledger", "exec", "proof"},
	"tandem/client":                        {"evidence", "refusal", "wire", "httpsig", "session", "receipt"},
	"tandem/servicetest":                   {"tandem", "refusal", "wire", "state", "exec"},
	"tandem/node":                          {"evidence", "judge", "proof", "signedblock", "tandem", "refusal", "wire", "httpsig", "state", "ledger", "exec", "session", "layer1", "layer2", "httpapi", "receipt", "events", "peer"},
	"tandem/internal/testnet":              {"tandem", "refusal", "wire", "httpsig", "state", "ledger", "exec", "session", "layer1", "layer2", "peer", "httpapi", "receipt", "client", "node"},
	"tandem/examples/supplychain":          {"tandem"},
	"tandem/internal/bench":                {"tandem", "receipt", "client", "node", "testnet", "supplychain", "link", "distance"},
	"tandem/cmd/tandem":                    {"tandem", "bench", "link", "distance", "plan", "refusal", "wire", "ledger", "receipt", "evidence", "client", "node", "testnet", "supplychain"},
	"tandem/internal/archtest":             {},

	// Parts of the measurements that know nothing of Tandem.
	"tandem/internal/bench/link":     {},
	"tandem/internal/bench/distance": {"link"},
	"tandem/internal/bench/plan":     {"distance"},
}

// TestImportsPointDownwards checks DESIGN.md, "Parts": import only downwards; layer1 and layer2 never import each
// other; examples import only public packages.
func TestImportsPointDownwards(t *testing.T) {
	for _, src := range sources(t) {
		may, known := allowed[src.pkg]
		if !known {
			t.Errorf("%s: package %s has no place in the layering: add it to archtest with a reason", src.path, src.pkg)
			continue
		}
		if src.test {
			continue // a test may look upwards, for example to build a network
		}
		for _, path := range imports(src.ast) {
			if path != "tandem" && !strings.HasPrefix(path, "tandem/") {
				continue
			}
			if !slices.Contains(may, path[strings.LastIndex(path, "/")+1:]) {
				t.Errorf("%s imports %s: what lies below must not know what lies above (docs/ARCHITECTURE.md)", src.path, path)
			}
		}
	}
}

// TestExamplesUsePublicPackages: what an example needs, any service author needs, so it must be public; tests included.
func TestExamplesUsePublicPackages(t *testing.T) {
	for _, src := range sources(t) {
		if !strings.HasPrefix(src.pkg, "tandem/examples/") {
			continue
		}
		for _, path := range imports(src.ast) {
			if strings.HasPrefix(path, "tandem/internal/") {
				t.Errorf("%s imports %s: an example may use only what every author can", src.path, path)
			}
		}
	}
}

// TestRootUsesOnlyTheStandardLibrary: a service author takes on no dependency by importing tandem.
func TestRootUsesOnlyTheStandardLibrary(t *testing.T) {
	for _, src := range sources(t) {
		if src.pkg != "tandem" || src.test {
			continue
		}
		for _, path := range imports(src.ast) {
			if strings.Contains(strings.Split(path, "/")[0], ".") {
				t.Errorf("%s imports %s: the root package is standard library only", src.path, path)
			}
		}
	}
}

// deterministic packages run on all nodes and must give the same bytes everywhere.
var deterministic = []string{
	"tandem", "tandem/internal/wire", "tandem/internal/httpsig", "tandem/internal/ledger", "tandem/internal/session",
	"tandem/internal/exec", "tandem/internal/layer1", "tandem/examples/supplychain",
}

// excused are the few uses that the rules of DESIGN.md allow, each with its reason.
var excused = map[string]string{
	"tandem/internal/exec go statement":      "the time watchdog: may only drop or reject, never accept",
	"tandem/internal/exec time.NewTimer":     "the time watchdog",
	"tandem/internal/exec time.AfterFunc":    "the time watchdog",
	"tandem/internal/exec runtime.Stack":     "tells the handler's goroutine from others",
	"tandem debug.ReadBuildInfo":             "the fingerprint covers the build",
	"tandem/internal/exec context.WithTimeo": "the time watchdog",
}

// TestDeterministicPackages checks DESIGN.md promise 7 at its cheapest: no clock, randomness, goroutines, floats or
// environment in code whose result all nodes must share.
func TestDeterministicPackages(t *testing.T) {
	forbidden := map[string][]string{
		"time":    {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"},
		"os":      {"Getenv", "LookupEnv", "Environ", "Hostname", "Getpid"},
		"runtime": {"NumGoroutine", "NumCPU", "GOMAXPROCS", "Stack"},
	}
	for _, src := range sources(t) {
		if src.test || !slices.Contains(deterministic, src.pkg) {
			continue
		}
		for _, path := range imports(src.ast) {
			if path == "math/rand" || path == "math/rand/v2" || path == "crypto/rand" {
				t.Errorf("%s imports %s: a replay on another node would differ", src.path, path)
			}
		}
		ast.Inspect(src.ast, func(n ast.Node) bool {
			use, what := "", ""
			switch n := n.(type) {
			case *ast.GoStmt:
				use, what = "go statement", "the order of goroutines differs from node to node"
			case *ast.SelectorExpr:
				pkg, ok := n.X.(*ast.Ident)
				if ok && pkg.Obj == nil && slices.Contains(forbidden[pkg.Name], n.Sel.Name) {
					use, what = pkg.Name+"."+n.Sel.Name, "it differs from node to node"
				}
			case *ast.Ident:
				if n.Name == "float32" || n.Name == "float64" {
					use, what = n.Name, "floating point may differ between processors"
				}
			}
			if use != "" && excused[src.pkg+" "+use] == "" {
				t.Errorf("%s: %s in a deterministic package: %s", fset.Position(n.Pos()), use, what)
			}
			return true
		})
	}
}

// TestHandlersAreCalledInOnePlace checks STYLE.md: a handler is called from exactly one place, on both layers.
func TestHandlersAreCalledInOnePlace(t *testing.T) {
	for _, src := range sources(t) {
		if src.test || src.pkg == "tandem/internal/exec" || src.pkg == "tandem/internal/httpapi" || src.pkg == "tandem" || src.pkg == "tandem/internal/testnet" ||
			src.path == "internal/bench/sqlservice.go" || src.path == "internal/bench/floor.go" {
			continue // httpapi serves its own routes; testnet wraps the whole surface of a node that lies; the root package's Registry is a Handler for httptest; bench has the handlers without the framework, to compare with
		}
		ast.Inspect(src.ast, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "ServeHTTP" {
					if strings.HasPrefix(src.pkg, "tandem/internal/") {
						t.Errorf("%s: ServeHTTP called outside exec", fset.Position(n.Pos()))
					}
				}
			}
			return true
		})
	}
}

// TestShape checks STYLE.md's limits: files under 800 lines, a package comment that teaches, banned package names,
// no sleeping in tests, no skipped tests.
func TestShape(t *testing.T) {
	banned := []string{"util", "utils", "common", "helpers", "helper", "manager", "models", "model", "repository", "processor", "data", "info", "blockchain"}
	comment := map[string]int{}
	for _, src := range sources(t) {
		if src.lines >= 800 {
			t.Errorf("%s has %d lines: split it before 800", src.path, src.lines)
		}
		if slices.Contains(banned, src.ast.Name.Name) {
			t.Errorf("%s: package name %q says nothing: name what it does", src.path, src.ast.Name.Name)
		}
		if base := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(src.path), ".go"), "_test"); slices.Contains(banned, base) {
			t.Errorf("%s: file name %q says nothing", src.path, base)
		}
		if !src.test {
			comment[src.pkg] += 0
			if src.ast.Doc != nil {
				comment[src.pkg] += len(src.ast.Doc.Text())
			}
			continue
		}
		ast.Inspect(src.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
				x, _ := sel.X.(*ast.Ident)
				switch {
				case x != nil && x.Name == "time" && sel.Sel.Name == "Sleep":
					t.Errorf("%s: time.Sleep in a test: wait for the event", fset.Position(n.Pos()))
				case x != nil && (x.Name == "t" || x.Name == "b") && strings.HasPrefix(sel.Sel.Name, "Skip"):
					t.Errorf("%s: skipped test", fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
	for pkg, length := range comment {
		if length < 80 {
			t.Errorf("package %s has no package comment that teaches (%d characters)", pkg, length)
		}
	}
}

// TestDependenciesAreListed checks DEVELOPERS.md: each direct dependency stands in docs/dependencies.md.
func TestDependenciesAreListed(t *testing.T) {
	gomod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	direct := 0
	for line := range strings.Lines(string(gomod)) {
		fields := strings.Fields(line)
		if len(fields) != 2 || !strings.HasPrefix(line, "\t") {
			continue // indirect ones have a third field, the comment
		}
		direct++
		if !bytes.Contains(table, []byte(fields[0])) {
			t.Errorf("%s %s is not in docs/dependencies.md", fields[0], fields[1])
		}
	}
	if direct < 5 {
		t.Fatal(fmt.Sprint("only ", direct, " direct dependencies found in go.mod: the parse is wrong"))
	}
}

// TestThreatTableNamesRealTests: docs/security.md may promise only what a test holds.
func TestThreatTableNamesRealTests(t *testing.T) {
	table, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, src := range sources(t) {
		for _, decl := range src.ast.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && src.test {
				have[src.pkg[strings.LastIndex(src.pkg, "/")+1:]+"."+f.Name.Name] = true
			}
		}
	}
	named := regexp.MustCompile("`([a-z0-9]+\\.Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(table), -1)
	if len(named) < 20 {
		t.Fatalf("only %d tests named in docs/security.md", len(named))
	}
	for _, m := range named {
		if !have[m[1]] {
			t.Errorf("docs/security.md names %s, which does not exist", m[1])
		}
	}
}
