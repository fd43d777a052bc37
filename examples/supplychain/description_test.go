package supplychain

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test ./examples/supplychain -update rewrites it):\n%s", path, cmp.Diff(string(want), string(got)))
	}
}

// GET /openapi.json is OpenAPI 3.1, the same bytes whenever it is made, describes every route and no other, and names
// no host.
func TestOpenAPI(t *testing.T) {
	w := newWorld(t)
	got := w.do("GET", "/openapi.json", "").want(http.StatusOK)
	if ct := got.header.Get("Content-Type"); ct != "application/openapi+json" {
		t.Errorf("content type %q", ct)
	}
	var readable bytes.Buffer
	if err := json.Indent(&readable, got.body, "", "  "); err != nil {
		t.Fatal(err)
	}
	golden(t, "openapi.json", readable.Bytes())

	var spec struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Responses   map[string]json.RawMessage
			Role        string `json:"x-role"`
		}
	}
	got.into(&spec)
	if spec.OpenAPI != "3.1.0" {
		t.Errorf("openapi %q", spec.OpenAPI)
	}
	ids := map[string]bool{}
	described := map[string]bool{"GET /openapi.json": true, "GET /docs": true}
	for path, ops := range spec.Paths {
		for method, op := range ops {
			described[strings.ToUpper(method)+" "+path] = true
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s %s: operation id %q", method, path, op.OperationID)
			}
			ids[op.OperationID] = true
			if method == "post" && (op.Role == "" || op.Responses["403"] == nil || op.Responses["409"] == nil) {
				t.Errorf("%s %s: role %q, responses %v", method, path, op.Role, op.Responses)
			}
		}
	}
	for _, pattern := range w.service.Registry.Patterns() {
		if !described[pattern] {
			t.Errorf("%s is not described", pattern)
		}
		delete(described, pattern)
	}
	for pattern := range described {
		t.Errorf("%s is described and does not exist", pattern)
	}
	for _, word := range []string{"$schema", "ErrorModel", "example.com", "localhost", "://"} {
		if bytes.Contains(got.body, []byte(word)) {
			t.Errorf("the description contains %q", word)
		}
	}
	for _, m := range regexp.MustCompile(`"\$ref":"#/components/schemas/([^"]+)"`).FindAllSubmatch(got.body, -1) {
		if !bytes.Contains(got.body, []byte(`"`+string(m[1])+`":{`)) {
			t.Errorf("reference to %s leads nowhere", m[1])
		}
	}
}

// GET /docs is one page that needs nothing else: no script, no style sheet, no font or image from anywhere. It shows
// every route with its role and a body to copy.
func TestDocs(t *testing.T) {
	w := newWorld(t)
	got := w.do("GET", "/docs", "").want(http.StatusOK)
	if ct := got.header.Get("Content-Type"); ct != "text/html; charset=utf-8" {
		t.Errorf("content type %q", ct)
	}
	text := string(got.body)
	for _, word := range []string{"://", "<script", "<link", "<img", "@import", "url(", "ZgotmplZ", "<no value>"} {
		if strings.Contains(text, word) {
			t.Errorf("the page contains %q", word)
		}
	}
	for _, pattern := range w.service.Registry.Patterns() {
		method, path, _ := strings.Cut(pattern, " ")
		if path == "/docs" || path == "/openapi.json" {
			continue
		}
		if !strings.Contains(text, `<h3><span class="`+method+`">`+method+`</span> `+path+`</h3>`) {
			t.Errorf("%s is not on the page", pattern)
		}
	}
	for _, word := range []string{"role operator", "role quality", "items[].item_id", "expected_contents[].name", "required", "courier_id"} {
		if !strings.Contains(text, word) {
			t.Errorf("the page lacks %q", word)
		}
	}
	golden(t, "docs.html", got.body)
}
