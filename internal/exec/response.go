package exec

import (
	"net/http"
	"slices"
	"strings"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// recorded are the response headers that are kept, hashed and sent; everything else a handler or its middleware sets is
// dropped. They say what the answer is and what to do next. Not among them: what belongs to a connection or a node
// (Date, Connection, Server), what the HTTP surface adds for all answers alike (security headers), and cookies, since
// the signature, not a cookie, says who calls.
//
// list says whether several values of the field may be joined with a comma (RFC 9110 section 5.3).
var recorded = [...]struct {
	name string // canonical; the array is sorted by it
	list bool
}{
	{"Allow", true},
	{"Cache-Control", true},
	{"Content-Disposition", false},
	{"Content-Encoding", true},
	{"Content-Language", true},
	{"Content-Type", false},
	{"Etag", false},
	{"Last-Modified", false},
	{"Link", true},
	{"Location", false},
	{"Retry-After", false},
}

// fixedHeader holds the values of the recorded headers, by their places in recorded.
type fixedHeader [len(recorded)][]string

// The places that need attention.
const (
	contentEncoding = 3
	contentType     = 5
)

// maxHeaderBytes bounds the names and values of all recorded headers of a response together.
const maxHeaderBytes = 8 << 10

// RecordedHeaders returns the names of the response headers that are recorded, sorted, in canonical form.
func RecordedHeaders() []string {
	names := make([]string, len(recorded))
	for i, h := range recorded {
		names[i] = h.name
	}
	return names
}

// writer is the http.ResponseWriter of a run. It has no Flush, Hijack or Push: an answer exists only as a whole.
type writer struct{ *run }

// Header returns the header map, which belongs to the handler's goroutine; to others it is one of no effect.
func (w writer) Header() http.Header {
	if !w.enter() {
		return make(http.Header)
	}
	defer w.mu.Unlock()
	return w.header
}

// WriteHeader fixes status and headers. A second call has no effect; a status outside 200 to 599 fails the step.
func (w writer) WriteHeader(status int) {
	if !w.enter() {
		return
	}
	defer w.mu.Unlock()
	if w.status == 0 {
		if status < 200 || status > 599 {
			w.fail(refusal.New(refusal.ResponseInvalid, "status %d is not between 200 and 599", status))
		}
		w.fixHeader(status)
	}
}

// Write appends to the body. Over the limit the step fails and the handler ends.
func (w writer) Write(b []byte) (int, error) {
	return write(w, b)
}

// WriteString is Write without a conversion.
func (w writer) WriteString(s string) (int, error) {
	return write(w, s)
}

func write[T []byte | string](w writer, b T) (int, error) {
	if !w.enter() {
		return 0, http.ErrHandlerTimeout
	}
	defer w.mu.Unlock()
	if w.status == 0 {
		w.fixHeader(http.StatusOK)
	}
	if len(b) == 0 {
		return 0, nil
	}
	if w.status == http.StatusNoContent || w.status == http.StatusNotModified {
		return 0, http.ErrBodyNotAllowed
	}
	if len(b) > w.limits.Response-len(w.body) {
		w.fail(refusal.New(refusal.ResponseTooLarge, "the body is larger than %d bytes", w.limits.Response))
	}
	w.body = append(w.body, b...)
	return len(b), nil
}

// fixHeader takes the headers as they stand, as net/http does at this point. Runs on the handler's goroutine, which
// owns the header map.
func (w *run) fixHeader(status int) {
	w.status = status
	for i, h := range recorded {
		w.fixed[i] = slices.Clone(w.header[h.name])
	}
}

// result makes the result of a run that has ended, on the caller's goroutine.
func (w *run) result() Result {
	f := w.failure
	var headers []wire.Header
	if f == nil {
		headers, f = w.headers()
	}
	if f != nil {
		shown := f
		if f.Code == refusal.HandlerPanic {
			shown = refusal.New(refusal.HandlerPanic, "") // the text may hold addresses
		}
		res := problem(shown, w.head)
		res.Cause, res.Operations, res.Bytes = f, w.operations, w.bytes
		return res
	}
	length := len(w.body)
	if w.head {
		w.body = nil
	}
	return Result{
		Response:   wire.Response{Status: w.status, Headers: headers, Body: wire.Sum(w.body)},
		Body:       w.body,
		Length:     length,
		Recorded:   w.status < 400,
		Operations: w.operations,
		Bytes:      w.bytes,
	}
}

// headers returns the recorded headers, one for each name, sorted, or why the response is not acceptable.
func (w *run) headers() ([]wire.Header, *refusal.Refusal) {
	// As net/http does, so that the node's server has nothing to add or take away when it sends the answer. Only a
	// handler's wish to have no Content-Type at all is not heard.
	switch {
	case w.status == http.StatusNotModified:
		w.fixed[contentType] = nil
	case len(w.body) > 0 && strings.Join(w.fixed[contentEncoding], "") == "" && strings.Join(w.fixed[contentType], "") == "":
		w.fixed[contentType] = []string{http.DetectContentType(w.body)}
	}
	var headers []wire.Header
	size := 0
	for i, h := range recorded {
		value := ""
		for _, v := range w.fixed[i] {
			v, ok := fieldValue(v)
			switch {
			case !ok:
				return nil, refusal.New(refusal.ResponseInvalid, "response header %s has bytes that are not plain ASCII text", h.name)
			case v == "":
			case value == "":
				value = v
			case h.list:
				value += ", " + v
			default:
				return nil, refusal.New(refusal.ResponseInvalid, "response header %s was set more than once", h.name)
			}
		}
		if value == "" {
			continue
		}
		size += len(h.name) + len(value)
		if len(value) > wire.MaxHeaderValue || size > maxHeaderBytes {
			return nil, refusal.New(refusal.ResponseTooLarge, "the response headers are larger than %d bytes, or one of them than %d",
				maxHeaderBytes, wire.MaxHeaderValue)
		}
		headers = append(headers, wire.Header{Name: h.name, Value: value})
	}
	return headers, nil
}

// fieldValue brings a header value into its one form: white space (a line break is some, as in net/http) only between
// words and as single blanks. ok is false if it holds anything but printable ASCII.
func fieldValue(v string) (string, bool) {
	if len(v) > 2*maxHeaderBytes {
		v = v[:2*maxHeaderBytes] // it will be refused for its size
	}
	v = strings.Join(strings.FieldsFunc(v, func(c rune) bool {
		return c == ' ' || c == '\t' || c == '\r' || c == '\n'
	}), " ")
	for i := range len(v) {
		if v[i] < 0x20 || v[i] > 0x7e {
			return "", false
		}
	}
	return v, true
}
