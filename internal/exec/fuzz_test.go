package exec

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Whatever is signed gets an answer: Run gives no error and no panic, the answer can be recorded, and it is the same
// the second time.
func FuzzRun(f *testing.F) {
	for _, s := range []struct{ method, path, query, contentType, body string }{
		{"GET", "/things/1", "", "", ""},
		{"POST", "/things/a%2Fb", "a=b&a=%zz;", "application/x-www-form-urlencoded", "c=d&e"},
		{"PUT", "/", "?", "multipart/form-data; boundary=x", "--x\r\n\r\n--x--"},
		{"HEAD", "/things/1", "", "a/b\r\nX: y", ""},
		{"CONNECT", "/../%2e", "", "", ""},
		{"", "", "", "", ""},
		{"get", "things", "\x00", "\x00", "\x00"},
		{"GET", "http://host/things/1", "", "", ""},
		{"POST", "/tandem/v1/actors", "", "", "{}"},
	} {
		f.Add(s.method, s.path, s.query, s.contentType, []byte(s.body))
	}
	var reg tandem.Registry
	echo := func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseMultipartForm(1 << 20)
		body, _ := io.ReadAll(r.Body)
		if ct := r.Header.Get("Content-Type"); ct != "" {
			w.Header().Set("Link", ct)
		}
		w.Header().Set("Location", r.URL.String())
		json.NewEncoder(w).Encode([]any{r.Method, r.RequestURI, r.URL.Path, r.URL.RawPath, r.PathValue("id"), r.Form, body, r.Host})
	}
	reg.HandleFunc("/things/{id}", echo)
	reg.HandleFunc("/", echo)
	r := New(tandem.Service{Registry: &reg}, Options{Framework: &reg})
	f.Fuzz(func(t *testing.T, method, path, query, contentType string, body []byte) {
		s := Step{Request: &wire.Request{Method: method, Path: path, Query: query, ContentType: contentType, Body: body}}
		a, err := r.Run(context.Background(), state.NewOverlay(memory{}), s)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Response.Check(); err != nil {
			t.Fatalf("%+v: %v", a.Response, err)
		}
		b, err := r.Run(context.Background(), state.NewOverlay(memory{}), s)
		if diff := cmp.Diff(a, b); err != nil || diff != "" {
			t.Fatalf("%v %s", err, diff)
		}
		if a.Response.Status/100 == 3 && !strings.HasPrefix(path, "/") {
			t.Fatal("a redirect that no handler made")
		}
	})
}

// Every header value comes into a form that the wire takes, and stays in it.
func FuzzFieldValue(f *testing.F) {
	for _, s := range []string{"", " a\t b\r\n c ", "é", "\x00", `"x"`, "a,b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, v string) {
		got, ok := fieldValue(v)
		if !ok {
			return
		}
		if again, ok := fieldValue(got); !ok || again != got {
			t.Fatalf("%q becomes %q, then %q", v, got, again)
		}
		res := wire.Response{Status: 200, Headers: []wire.Header{{Name: "Link", Value: got}}}
		if err := res.Check(); err != nil && len(got) <= wire.MaxHeaderValue {
			t.Fatalf("%q becomes %q: %v", v, got, err)
		}
	})
}
