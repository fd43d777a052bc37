package tandem

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func registry(patterns ...string) *Registry {
	var reg Registry
	for _, p := range patterns {
		reg.HandleFunc(p, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s id=%s rest=%s", r.Pattern, r.PathValue("id"), r.PathValue("rest"))
		})
	}
	return &reg
}

// PAPER: service registry {(m_i, p_i) -> H_i}, lookup L(m, p) -> H. The path is raw: segments are split before they are
// decoded.
func TestLookup(t *testing.T) {
	reg := registry("GET /a", "POST /a", "GET /a/{id}", "GET /a/{id}/b", "/any/{id}", "GET /tree/", "GET /deep/{rest...}", "DELETE /x/{$}")
	for _, c := range []struct{ method, path, want string }{
		{"GET", "/a", "GET /a id= rest="},
		{"HEAD", "/a", "GET /a id= rest="},
		{"POST", "/a", "POST /a id= rest="},
		{"PUT", "/a", ""},
		{"GET", "/a/1", "GET /a/{id} id=1 rest="},
		{"GET", "/a/b%2Fc", "GET /a/{id} id=b/c rest="},
		{"GET", "/a/%2E%2E", "GET /a/{id} id=.. rest="},
		{"GET", "/a/%E2%82%AC%20", "GET /a/{id} id=€  rest="},
		{"GET", "/a/a+b", "GET /a/{id} id=a+b rest="},
		{"GET", "/a/b/b", "GET /a/{id}/b id=b rest="},
		{"PATCH", "/any/1", "/any/{id} id=1 rest="},
		{"GET", "/tree/", "GET /tree/ id= rest="},
		{"GET", "/tree/leaf", "GET /tree/ id= rest="},
		{"GET", "/deep/a/b%2Fc", "GET /deep/{rest...} id= rest=a/b/c"},
		{"DELETE", "/x/", "DELETE /x/{$} id= rest="},
		// where ServeMux would redirect, nothing is found
		{"GET", "/tree", ""},
		{"DELETE", "/x", ""},
		{"GET", "/a/", ""},
		{"GET", "//a", ""},
		{"GET", "/./a", ""},
		{"GET", "/a/../a", ""},
		{"GET", "/a/1/..", ""},
		{"GET", "/tree//leaf", ""},
		{"CONNECT", "/tree", ""},
		{"CONNECT", "/any/1", ""},
		// what is no raw path
		{"", "/a", ""},
		{"GET", "", ""},
		{"GET", "a", ""},
		{"GET", "*", ""},
		{"GET", "/a/%zz", ""},
		{"GET", "/a/%", ""},
		{"GET", "/a/é", ""},
		{"GET", "/a/ ", ""},
		{"GET", "http://host/a", ""},
	} {
		h, pattern, ok := reg.Lookup(c.method, c.path)
		if ok != (c.want != "") {
			t.Errorf("Lookup(%s %s): found %t", c.method, c.path, ok)
			continue
		}
		if !ok {
			if h != nil || pattern != "" {
				t.Errorf("Lookup(%s %s) returns %v, %q beside false", c.method, c.path, h, pattern)
			}
			continue
		}
		if !strings.HasPrefix(c.want, pattern+" id=") {
			t.Errorf("Lookup(%s %s): pattern %q, want %q", c.method, c.path, pattern, c.want)
		}
		req := httptest.NewRequest(c.method, c.path, nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Body.String() != c.want {
			t.Errorf("%s %s: %q, want %q", c.method, c.path, w.Body, c.want)
		}
		w = httptest.NewRecorder()
		reg.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Body.String() != c.want {
			t.Errorf("%s %s by ServeHTTP: %q, want %q", c.method, c.path, w.Body, c.want)
		}
	}
}

// A handler that itself redirects is a handler.
func TestLookupFindsRedirectHandlers(t *testing.T) {
	var reg Registry
	reg.Handle("GET /old", http.RedirectHandler("/new", http.StatusMovedPermanently))
	reg.Handle("GET /none", http.NotFoundHandler())
	for _, path := range []string{"/old", "/none"} {
		if _, _, ok := reg.Lookup("GET", path); !ok {
			t.Errorf("%s not found", path)
		}
	}
}

func TestAllowed(t *testing.T) {
	reg := registry("GET /a", "POST /a", "PURGE /a/{id}", "/any", "GET /tree/")
	for path, want := range map[string]string{
		"/a":     "GET HEAD POST",
		"/a/1":   "PURGE",
		"/any":   "DELETE GET HEAD OPTIONS PATCH POST PURGE PUT",
		"/tree/": "GET HEAD",
		"/tree":  "",
		"/none":  "",
		"//a":    "",
		"":       "",
	} {
		got := reg.Allowed(path)
		if strings.Join(got, " ") != want || !slices.IsSorted(got) {
			t.Errorf("Allowed(%s) is %v, want %s", path, got, want)
		}
	}
}

// Without a handler ServeHTTP answers as ServeMux does, but never with a redirect.
func TestServeHTTPWithoutHandler(t *testing.T) {
	reg := registry("GET /a", "GET /tree/")
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/b", 404, ""}, {"GET", "/tree", 404, ""}, {"GET", "//a", 404, ""}, {"PUT", "/a", 405, "GET, HEAD"},
		{"OPTIONS", "*", 404, ""},
	} {
		w := httptest.NewRecorder()
		reg.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.status || w.Header().Get("Allow") != c.allow {
			t.Errorf("%s %s: %d Allow %q, want %d %q", c.method, c.path, w.Code, w.Header().Get("Allow"), c.status, c.allow)
		}
	}
}

func TestPatternsAreSorted(t *testing.T) {
	reg := registry("POST /b", "GET /a", "/c")
	want := []string{"/c", "GET /a", "POST /b"}
	if got := reg.Patterns(); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	reg.Patterns()[0] = "changed"
	if !slices.Equal(reg.Patterns(), want) {
		t.Error("the caller can change the registry's patterns")
	}
	var none *Registry
	if _, _, ok := none.Lookup("GET", "/"); ok || none.Patterns() != nil || none.Allowed("/") != nil {
		t.Error("a nil registry has routes")
	}
}

// Mistakes in the program are told at once and in words.
func TestRegistrationPanics(t *testing.T) {
	ok := func(http.ResponseWriter, *http.Request) {}
	for name, c := range map[string]struct {
		do   func(*Registry)
		want string
	}{
		"host":             {func(r *Registry) { r.HandleFunc("GET example.org/a", ok) }, "hosts are not part of what a user signs"},
		"host, no method":  {func(r *Registry) { r.HandleFunc("example.org/", ok) }, "hosts are not part"},
		"empty":            {func(r *Registry) { r.HandleFunc("", ok) }, "comes a path"},
		"method only":      {func(r *Registry) { r.HandleFunc("GET ", ok) }, "comes a path"},
		"CONNECT":          {func(r *Registry) { r.HandleFunc("CONNECT /a", ok) }, "cannot be replayed"},
		"nil handler":      {func(r *Registry) { r.Handle("/a", nil) }, "nil handler"},
		"nil handler func": {func(r *Registry) { r.HandleFunc("/a", nil) }, "nil handler"},
		"conflict":         {func(r *Registry) { r.HandleFunc("/{a}/b", ok); r.HandleFunc("/b/{a}", ok) }, "conflicts"},
		"bad wildcard":     {func(r *Registry) { r.HandleFunc("/a{x}", ok) }, "bad wildcard"},
	} {
		if got := panicText(func() { c.do(new(Registry)) }); !strings.Contains(got, c.want) {
			t.Errorf("%s: panic %q, want one with %q", name, got, c.want)
		}
	}
}

// A node started with GODEBUG=httpmuxgo121=1 would route differently from the others: it does not start. net/http reads
// the setting once, so a process of its own is needed.
func TestOldMuxIsRefused(t *testing.T) {
	if os.Getenv("TANDEM_TEST_OLD_MUX") != "" {
		if got := panicText(func() { registry("GET /a") }); !strings.Contains(got, "httpmuxgo121") {
			t.Fatalf("registration panics with %q", got)
		}
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOldMuxIsRefused$", "-test.v")
	cmd.Env = append(os.Environ(), "GODEBUG=httpmuxgo121=1", "TANDEM_TEST_OLD_MUX=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestOldMuxIsRefused") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func panicText(do func()) (text string) {
	defer func() {
		if v := recover(); v != nil {
			text = fmt.Sprint(v)
		}
	}()
	do()
	return ""
}
