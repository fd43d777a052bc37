package exec

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Only the listed headers are recorded, sorted, one for each name, in one form.
func TestRecordedHeaders(t *testing.T) {
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("location", "/x")
		h.Set("ETag", "\t\"1\"  ")
		h.Add("Link", "</a>;  rel=next")
		h.Add("Link", "</b>;\r\n rel=prev")
		h.Set("Content-Language", "")
		h.Set("Set-Cookie", "id=1")
		h.Set("Date", "now")
		h.Set("Content-Length", "99")
		h.Set("X-Content-Type-Options", "nosniff")
		h["etag"] = []string{"not canonical, so not sent by net/http's rules either"}
		w.WriteHeader(http.StatusCreated)
		h.Set("Allow", "too late")
		w.WriteHeader(http.StatusTeapot)
	}, Options{})
	res := run1(t, r, state.NewOverlay(memory{}), step("POST", "/", ""))
	want := []wire.Header{{Name: "Etag", Value: `"1"`}, {Name: "Link", Value: "</a>; rel=next, </b>; rel=prev"}, {Name: "Location", Value: "/x"}}
	if diff := cmp.Diff(want, res.Response.Headers); diff != "" || res.Response.Status != 201 {
		t.Fatalf("status %d, headers (-want +got):\n%s", res.Response.Status, diff)
	}
}

// docs/service.md and the list in this package name the same headers, and the same limits.
func TestRecordedHeaderNames(t *testing.T) {
	guide, err := os.ReadFile("../../docs/service.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(guide)), " ")
	for _, want := range []string{
		"these headers: `" + strings.Join(RecordedHeaders(), "`, `") + "`.",
		"100,000 state operations", "32 MiB of keys and values", "at most 256 KiB, the headers 8 KiB",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("docs/service.md does not say: %s", want)
		}
	}
	if DefaultOperations != 100_000 || DefaultBytes != 32<<20 || wire.MaxResponse != 256<<10 || maxHeaderBytes != 8<<10 {
		t.Error("a limit differs from docs/service.md")
	}
	for _, name := range RecordedHeaders() {
		if http.CanonicalHeaderKey(name) != name {
			t.Errorf("%q is not canonical", name)
		}
	}
	if recorded[contentType].name != "Content-Type" || recorded[contentEncoding].name != "Content-Encoding" {
		t.Error("contentType or contentEncoding points to another header")
	}
	if n := len(RecordedHeaders()); n > wire.MaxHeaders || !slices.IsSorted(RecordedHeaders()) {
		t.Errorf("%d headers can be recorded, the wire takes %d", n, wire.MaxHeaders)
	}
}

// What cannot be recorded is one deterministic answer.
func TestResponseRefused(t *testing.T) {
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		code refusal.Code
	}{
		"status 100":         {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(100) }, refusal.ResponseInvalid},
		"status 103":         {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(103); w.WriteHeader(200) }, refusal.ResponseInvalid},
		"status 0":           {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(0) }, refusal.ResponseInvalid},
		"status 600":         {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(600) }, refusal.ResponseInvalid},
		"status -1":          {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(-1) }, refusal.ResponseInvalid},
		"two locations":      {func(w http.ResponseWriter, r *http.Request) { w.Header()["Location"] = []string{"/a", "/b"} }, refusal.ResponseInvalid},
		"header not ASCII":   {func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Location", "/é") }, refusal.ResponseInvalid},
		"header with 0 byte": {func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Etag", "a\x00b") }, refusal.ResponseInvalid},
		"header too large": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", strings.Repeat("x", wire.MaxHeaderValue+1))
		}, refusal.ResponseTooLarge},
		"headers too large together": {func(w http.ResponseWriter, r *http.Request) {
			for _, name := range []string{"Link", "Allow", "Location"} {
				w.Header().Set(name, strings.Repeat("x", wire.MaxHeaderValue))
			}
		}, refusal.ResponseTooLarge},
		"body too large": {func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, wire.MaxResponse+1)) }, refusal.ResponseTooLarge},
		"body without end": {func(w http.ResponseWriter, r *http.Request) {
			for {
				func() {
					defer func() { _ = recover() }()
					io.WriteString(w, "more")
				}()
			}
		}, refusal.ResponseTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			r := runner(c.h, Options{})
			wantProblem(t, run1(t, r, state.NewOverlay(memory{}), step("POST", "/", "")), c.code)
		})
	}
}

func TestLargestResponse(t *testing.T) {
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		for range 4 {
			w.Write(make([]byte, wire.MaxResponse/4))
		}
		w.Write(nil)
	}, Options{})
	if res := run1(t, r, state.NewOverlay(memory{}), step("GET", "/", "")); len(res.Body) != wire.MaxResponse || !res.Recorded {
		t.Errorf("%d bytes, cause %v", len(res.Body), res.Cause)
	}
}

// A handler answers through exec as through net/http, so that a service tested with httptest behaves here: status,
// body, and the headers that are recorded, with Content-Type as sniffed.
func TestAnswersAsNetHTTPDoes(t *testing.T) {
	var h http.HandlerFunc
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h(w, r) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // superfluous WriteHeader calls
	server.Start()
	defer server.Close()
	client := server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	r := runner(func(w http.ResponseWriter, r *http.Request) { h(w, r) }, Options{})

	bodies := []string{"", "plain", "<html><body>x", `{"a":1}`, "\x89PNG\x0d\x0a\x1a\x0a", "\x00\x01\x02", "%PDF-1.4", strings.Repeat("é", 400), "  \n<!DOCTYPE html>"}
	rapid.Check(t, func(t *rapid.T) {
		status := rapid.SampledFrom([]int{0, 200, 201, 204, 303, 304, 400, 404, 500}).Draw(t, "status")
		late := rapid.SampledFrom([]int{0, 200, 500}).Draw(t, "second status")
		chunks := rapid.SliceOfN(rapid.SampledFrom(bodies), 0, 3).Draw(t, "body")
		contentType := rapid.SampledFrom([]string{"", "application/json"}).Draw(t, "content type")
		encoding := rapid.SampledFrom([]string{"", "gzip"}).Draw(t, "encoding")
		method := rapid.SampledFrom([]string{"GET", "HEAD", "POST"}).Draw(t, "method")
		redirect := rapid.Bool().Draw(t, "redirect")
		h = func(w http.ResponseWriter, r *http.Request) {
			if redirect {
				http.Redirect(w, r, "other?x=y", http.StatusSeeOther)
				return
			}
			if contentType != "" {
				w.Header().Set("Content-Type", contentType)
			}
			if encoding != "" {
				w.Header().Set("Content-Encoding", encoding)
			}
			if status != 0 {
				w.WriteHeader(status)
			}
			for _, c := range chunks {
				io.WriteString(w, c)
			}
			if late != 0 && (status != 0 || len(chunks) > 0) {
				w.WriteHeader(late)
			}
			w.Header().Set("Etag", "only if nothing was written")
		}
		req, _ := http.NewRequest(method, server.URL+"/a/b", nil)
		req.Header.Set("Accept-Encoding", "identity")
		got, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer got.Body.Close()
		var body bytes.Buffer
		io.Copy(&body, got.Body)

		res, err := r.Run(t.Context(), state.NewOverlay(memory{}), step(method, "/a/b", ""))
		if err != nil {
			t.Fatal(err)
		}
		if res.Response.Status != got.StatusCode || string(res.Body) != body.String() {
			t.Fatalf("status %d, want %d; body %q, want %q", res.Response.Status, got.StatusCode, res.Body, &body)
		}
		var want []wire.Header
		for _, name := range RecordedHeaders() {
			if v := got.Header.Get(name); v != "" {
				want = append(want, wire.Header{Name: name, Value: v})
			}
		}
		if diff := cmp.Diff(want, res.Response.Headers); diff != "" {
			t.Fatalf("headers (-net/http +exec):\n%s", diff)
		}
	})
}

// A writer without Flush and Hijack: an answer exists only as a whole.
func TestWriterOffersNoStreaming(t *testing.T) {
	r := runner(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_, _, hijack := c.Hijack()
		for _, err := range []error{c.Flush(), hijack, c.EnableFullDuplex()} {
			if err == nil {
				fmt.Fprint(w, "supported")
			}
		}
		if _, is := w.(io.ReaderFrom); is {
			fmt.Fprint(w, "ReaderFrom")
		}
	}, Options{})
	if res := run1(t, r, state.NewOverlay(memory{}), step("GET", "/", "")); len(res.Body) != 0 {
		t.Errorf("%s", res.Body)
	}
}
