package refusal

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/errors.md")

// The catalogue is sorted and unique, since Lookup searches it by halves, and every entry helps.
func TestCatalogueIsSortedAndComplete(t *testing.T) {
	all := Catalogue()
	if !slices.IsSortedFunc(all, func(a, b Entry) int { return strings.Compare(string(a.Code), string(b.Code)) }) {
		t.Error("catalogue is not sorted by code")
	}
	form := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	seen := map[Code]bool{}
	titles := map[string]Code{}
	for _, e := range all {
		if seen[e.Code] {
			t.Errorf("%s: twice in the catalogue", e.Code)
		}
		seen[e.Code] = true
		if other, ok := titles[e.Title]; ok {
			t.Errorf("%s: same title as %s", e.Code, other)
		}
		titles[e.Title] = e.Code
		if !form.MatchString(string(e.Code)) {
			t.Errorf("%q: not lower-case words joined by hyphens", e.Code)
		}
		if e.Title == "" || e.Title == http.StatusText(e.Status) && e.Code != NotFound {
			t.Errorf("%s: title %q says no more than the status", e.Code, e.Title)
		}
		for what, text := range map[string]string{"cause": e.Cause, "remedy": e.Remedy} {
			if !strings.HasSuffix(text, ".") {
				t.Errorf("%s: %s %q is not a sentence", e.Code, what, text)
			}
			if strings.Contains(text, "\n") {
				t.Errorf("%s: %s has a line break", e.Code, what)
			}
		}
		if e.Status < 400 || e.Status > 599 {
			t.Errorf("%s: status %d is no error", e.Code, e.Status)
		}
		if (e.Kind == KindOutage) != (e.Status >= 500 && e.Kind != KindAnswer) {
			t.Errorf("%s: an outage, and only an outage or an answer, has a 5xx status; got %d %s", e.Code, e.Status, e.Kind)
		}
		if !slices.Contains([]Kind{KindRefusal, KindConflict, KindOutage, KindAnswer}, e.Kind) {
			t.Errorf("%s: unknown kind %q", e.Code, e.Kind)
		}
		got, ok := Lookup(e.Code)
		if !ok || got != e {
			t.Errorf("Lookup(%s) = %v, %v", e.Code, got, ok)
		}
	}
	if _, ok := Lookup("no-such-code"); ok {
		t.Error("Lookup finds a code that is not there")
	}
}

// Every constant in catalogue.go has its entry: a code without one would be answered as "internal".
func TestEveryConstantHasAnEntry(t *testing.T) {
	src, err := os.ReadFile("catalogue.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range regexp.MustCompile(`Code = "([^"]+)"`).FindAllStringSubmatch(string(src), -1) {
		n++
		if _, ok := Lookup(Code(m[1])); !ok {
			t.Errorf("%s has no entry", m[1])
		}
	}
	if n != len(catalogue) {
		t.Errorf("%d constants, %d entries", n, len(catalogue))
	}
}

// Every code written as a literal anywhere in the module is in the catalogue.
func TestEveryLiteralHasAnEntry(t *testing.T) {
	literal := regexp.MustCompile(`refusal\.(?:New|Has|Code)\((?:err, )?"([^"]+)"`)
	n := 0
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range literal.FindAllSubmatch(src, -1) {
			n++
			if _, ok := Lookup(Code(m[1])); !ok {
				t.Errorf("%s: code %q is not in the catalogue", path, m[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Error("no literals found: is the pattern out of date?")
	}
}

// docs/errors.md is exactly what `tandem errors` prints.
func TestErrorsPage(t *testing.T) {
	var b bytes.Buffer
	if err := WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("..", "..", "docs", "errors.md")
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b.Bytes()) {
		t.Error("docs/errors.md differs from the catalogue; run: go test ./internal/refusal -update")
	}
}

// Equal refusals give equal bytes (an answer made by the framework is compared on every node), in this order.
func TestProblemBytes(t *testing.T) {
	r := New(WrongSequence, "expected %d, <got> %d", 3, 5).With("session", stringer("abc")).With("next", 3).With("a", []int{1})
	want := `{"type":"urn:tandem:problem:wrong-sequence","title":"Wrong place in the session","status":409,` +
		`"detail":"expected 3, <got> 5","code":"wrong-sequence",` +
		`"cause":"The step's sequence number is not the session's next.",` +
		`"remedy":"Read the session's status for the next sequence and transcript head, then sign again.",` +
		`"a":[1],"next":3,"session":"abc"}`
	for range 20 {
		status, body := r.Problem()
		if status != 409 || string(body) != want {
			t.Fatalf("got %d %s\nwant %s", status, body, want)
		}
	}
}

// Whatever a refusal carries, its document is valid JSON, keeps the standard members and parses back to its code.
func TestProblemOfAnything(t *testing.T) {
	for _, r := range []*Refusal{
		New("no-such-code", "x"),
		New(Conflict, "bad \xff utf8 \x00"),
		New(Conflict, "").With("nan", math.NaN()).With("f", func() {}).With("status", 1).With("code", "fake"),
		{},
	} {
		status, body := r.Problem()
		var m map[string]any
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatalf("%v: %v in %s", r, err, body)
		}
		e := r.Entry()
		if m["code"] != string(e.Code) || int(m["status"].(float64)) != status || status != e.Status {
			t.Errorf("%v: document %s does not match the catalogue", r, body)
		}
		back, ok := ParseProblem(body)
		if !ok || back.Code != e.Code {
			t.Errorf("ParseProblem(%s) = %v, %v", body, back, ok)
		}
	}
	for _, body := range []string{"", "{}", "[]", `{"type":"about:blank"}`, `{"type":"urn:tandem:problem:"}`, `{"type":1}`} {
		if r, ok := ParseProblem([]byte(body)); ok {
			t.Errorf("ParseProblem(%s) = %v", body, r)
		}
	}
}

// With copies: a refusal that is kept (in a cache, a quarantine) is not changed by who passes it on.
func TestWithCopies(t *testing.T) {
	a := New(Conflict, "x").With("step", 1)
	b := a.With("step", 2).With("field", "status")
	if a.Fields["step"] != 1 || len(a.Fields) != 1 || b.Fields["step"] != 2 {
		t.Errorf("a %v b %v", a.Fields, b.Fields)
	}
}

func TestAs(t *testing.T) {
	r := New(KeyRevoked, "gone")
	wrapped := fmt.Errorf("step 3: %w", r)
	if got, ok := As(wrapped); !ok || got != r {
		t.Errorf("As = %v, %v", got, ok)
	}
	if !Has(wrapped, KeyRevoked) || Has(wrapped, Conflict) || Has(nil, Conflict) || Has(errors.New("x"), Conflict) {
		t.Error("Has is wrong")
	}
	if !errors.Is(wrapped, New(KeyRevoked, "")) || errors.Is(wrapped, New(Conflict, "")) {
		t.Error("errors.Is does not compare codes")
	}
	if _, ok := As((*Refusal)(nil)); ok {
		t.Error("As finds a nil refusal")
	}
	if got := r.Error(); got != "key-revoked: gone" {
		t.Errorf("Error() = %q", got)
	}
}

func TestWrite(t *testing.T) {
	rec := httptest.NewRecorder()
	New(NotFound, "no package 7").Write(rec)
	if rec.Code != 404 || rec.Header().Get("Content-Type") != ContentType || !json.Valid(rec.Body.Bytes()) {
		t.Errorf("%d %v %s", rec.Code, rec.Header(), rec.Body)
	}
}

type stringer string

func (s stringer) String() string { return string(s) }
