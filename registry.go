package tandem

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Registry is the service registry: http.ServeMux patterns to handlers, the same on all nodes and on both layers. The
// zero value is ready to use. Register everything before the service runs; after that a Registry is read only and safe
// for concurrent use.
//
// Routing is that of http.ServeMux (most specific pattern wins, "GET" also matches HEAD, "{id}" matches one segment),
// with one difference: where ServeMux would answer with a redirect of its own (a path to be cleaned, a missing
// trailing slash), the path is simply not found. A signed path is taken as it was signed.
type Registry struct {
	mux      http.ServeMux
	patterns []string
	methods  []string // sorted; those that occur in patterns
	any      bool     // a pattern without a method exists
}

// route is what the ServeMux holds. Its type tells our handlers from the redirect and error handlers that ServeMux
// makes up.
type route struct {
	http.Handler
}

// Handle registers a handler for a pattern such as "POST /packages/{id}/scan". It panics on what is a mistake in the
// program: a pattern that ServeMux refuses, two patterns that conflict, a pattern with a host (hosts are not signed) or
// with the method CONNECT, a nil handler.
func (r *Registry) Handle(pattern string, h http.Handler) {
	if h == nil {
		panic(fmt.Sprintf("tandem: nil handler for pattern %q", pattern))
	}
	method, target := "", pattern
	if i := strings.IndexAny(pattern, " \t"); i >= 0 {
		method, target = pattern[:i], strings.TrimLeft(pattern[i:], " \t")
	}
	if !strings.HasPrefix(target, "/") {
		panic(fmt.Sprintf("tandem: pattern %q: after the method comes a path that starts with '/'; "+
			"hosts are not part of what a user signs, so a handler cannot be chosen by host", pattern))
	}
	if method == http.MethodConnect {
		panic(fmt.Sprintf("tandem: pattern %q: CONNECT opens a tunnel and cannot be replayed", pattern))
	}
	if len(r.patterns) == 0 {
		checkMux()
	}
	r.mux.Handle(pattern, &route{h})
	if method == "" {
		r.any = true
	} else if i, found := slices.BinarySearch(r.methods, method); !found {
		r.methods = slices.Insert(r.methods, i, method)
	}
	i, _ := slices.BinarySearch(r.patterns, pattern)
	r.patterns = slices.Insert(r.patterns, i, pattern)
}

// HandleFunc registers a handler function, see Handle.
func (r *Registry) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	if h == nil {
		panic(fmt.Sprintf("tandem: nil handler for pattern %q", pattern))
	}
	r.Handle(pattern, http.HandlerFunc(h))
}

// Lookup is the paper's L(m, p) -> H: it finds the handler for a method and a raw path, that is one still
// percent-encoded as the user signed it. Segments are split before they are decoded, so "%2F" never separates.
// The handler returned expects a request with that method and path and sets its PathValue and Pattern. The pattern is
// as registered.
func (r *Registry) Lookup(method, path string) (h http.Handler, pattern string, ok bool) {
	if r == nil {
		return nil, "", false
	}
	u, ok := pathURL(path)
	if !ok {
		return nil, "", false
	}
	_, pattern, ok = r.find(&http.Request{Method: method, URL: u})
	if !ok {
		return nil, "", false
	}
	return http.HandlerFunc(r.mux.ServeHTTP), pattern, true
}

// Allowed returns, sorted, the methods that have a handler for this raw path; HEAD is among them wherever GET is.
// For a path that is matched by a pattern without a method these are the methods of RFC 9110 and PATCH, without
// CONNECT and TRACE. It is empty for an unknown path.
func (r *Registry) Allowed(path string) []string {
	if r == nil {
		return nil
	}
	u, ok := pathURL(path)
	if !ok {
		return nil
	}
	probe := r.methods
	if r.any {
		probe = append(slices.Clone(probe), http.MethodDelete, http.MethodGet, http.MethodOptions, http.MethodPatch,
			http.MethodPost, http.MethodPut)
	}
	if slices.Contains(probe, http.MethodGet) {
		probe = append(slices.Clone(probe), http.MethodHead)
	}
	var allowed []string
	for _, m := range probe {
		if _, _, ok := r.find(&http.Request{Method: m, URL: u}); ok {
			allowed = append(allowed, m)
		}
	}
	slices.Sort(allowed)
	return slices.Compact(allowed)
}

// Patterns returns the registered patterns, sorted.
func (r *Registry) Patterns() []string {
	if r == nil {
		return nil
	}
	return slices.Clone(r.patterns)
}

// ServeHTTP makes a registry an http.Handler, so that a service can be tested with net/http/httptest alone. The
// request's context must carry a Step (see WithStep) if the handler uses one.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if _, _, ok := r.find(req); ok {
		r.mux.ServeHTTP(w, req)
		return
	}
	if allowed := r.Allowed(req.URL.EscapedPath()); len(allowed) > 0 {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	http.NotFound(w, req)
}

// find asks the ServeMux and takes only a route of ours for an answer.
func (r *Registry) find(req *http.Request) (*route, string, bool) {
	if req.Method == http.MethodConnect || req.Method == "" {
		return nil, "", false // ServeMux treats CONNECT by other rules and "" as GET
	}
	h, pattern := r.mux.Handler(req)
	ours, ok := h.(*route)
	return ours, pattern, ok
}

// pathURL makes a URL whose EscapedPath is exactly the raw path; it refuses paths for which there is none.
func pathURL(raw string) (*url.URL, bool) {
	if !strings.HasPrefix(raw, "/") {
		return nil, false
	}
	decoded, err := url.PathUnescape(raw)
	if err != nil {
		return nil, false
	}
	u := &url.URL{Path: decoded, RawPath: raw}
	return u, u.EscapedPath() == raw
}

// checkMux panics if GODEBUG=httpmuxgo121=1 is set: with it http.ServeMux knows neither methods nor wildcards, and a
// node with that environment would route differently from the others.
func checkMux() {
	var mux http.ServeMux
	mux.Handle("GET /{probe}/x", http.NotFoundHandler())
	if _, pattern := mux.Handler(&http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/p/x"}}); pattern == "" {
		panic("tandem: GODEBUG=httpmuxgo121=1 makes http.ServeMux ignore methods and wildcards; unset it")
	}
}
