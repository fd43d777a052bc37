package exec

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"tandem"
)

// host is what every handler sees as the request's host; the real one is not signed.
const host = "tandem"

// request builds what the handler sees, from signed and agreed fields only. There is no RemoteAddr, no TLS state and no
// header but Content-Type; the body's length is in ContentLength.
func request(ctx context.Context, s Step, rn *run) *http.Request {
	target := s.Request.Path
	if s.Request.Query != "" {
		target += "?" + s.Request.Query
	}
	step := &tandem.Step{
		State: view{rn},
		Now:   time.UnixMilli(s.Time).UTC(),
		Actor: actor(s.Actor),
	}
	if s.Sequence > 0 {
		step.Position = tandem.Position{Session: s.Session.String(), Sequence: s.Sequence}
	}
	r := &http.Request{
		Method:        s.Request.Method,
		URL:           requestURL(s.Request.Path, s.Request.Query),
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        make(http.Header, 1),
		Body:          http.NoBody,
		ContentLength: int64(len(s.Request.Body)),
		Host:          host,
		RequestURI:    target,
	}
	if s.Request.ContentType != "" {
		r.Header.Set("Content-Type", s.Request.ContentType)
	}
	if len(s.Request.Body) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(s.Request.Body))
	}
	return r.WithContext(tandem.WithStep(ctx, step))
}

// requestURL is the URL that net/http makes of a request target: the decoded path, and the raw one beside it only if it
// is not the default encoding. The path was routed before, so it decodes.
func requestURL(path, query string) *url.URL {
	u := &url.URL{RawQuery: query}
	u.Path, _ = url.PathUnescape(path)
	if u.EscapedPath() != path {
		u.RawPath = path
	}
	return u
}
