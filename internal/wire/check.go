package wire

import (
	"net/textproto"
	"strings"

	"tandem/internal/refusal"
)

// Check refuses a request whose fields could not have come over HTTP or are over a limit: method, target (see
// [CheckTarget]), content type, body size, created. It does not look at the signature.
// Errors: bad-request, bad-target, unsupported-media-type, body-too-large, header-too-large, signature-malformed.
func (r *Request) Check() error {
	if err := r.limits(); err != nil {
		return err
	}
	if !isMethod(r.Method) {
		return refusal.New(refusal.BadRequest, "the method %q is not an upper-case token", r.Method)
	}
	if err := CheckTarget(r.Path, r.Query); err != nil {
		return err
	}
	return CheckContentType(r.ContentType)
}

// limits is the part of Check that bounds sizes; every decoder calls it.
func (r *Request) limits() error {
	switch {
	case len(r.Method) > MaxMethod:
		return refusal.New(refusal.BadRequest, "the method is %d bytes, more than %d", len(r.Method), MaxMethod)
	case len(r.Path)+1+len(r.Query) > MaxTarget:
		return refusal.New(refusal.BadTarget, "path and query are %d bytes, more than %d", len(r.Path)+1+len(r.Query), MaxTarget)
	case len(r.ContentType) > MaxContentType:
		return refusal.New(refusal.HeaderTooLarge, "the content type is %d bytes, more than %d", len(r.ContentType), MaxContentType)
	case len(r.Body) > MaxBody:
		return refusal.New(refusal.BodyTooLarge, "the body is %d bytes, more than %d", len(r.Body), MaxBody)
	case r.Created < 0 || r.Created > MaxTime/1000:
		return refusal.New(refusal.SignatureMalformed, "created is %d, not a time between 1970 and 9999", r.Created)
	}
	return nil
}

func isMethod(m string) bool {
	if m == "" {
		return false
	}
	for i := range len(m) {
		if c := m[i]; (c < 'A' || c > 'Z') && c != '-' {
			return false
		}
	}
	return true
}

// CheckContentType refuses a content type that two HTTP parsers could read differently: empty, with white space at
// its ends, with anything but visible ASCII and single spaces in it. Error: unsupported-media-type.
func CheckContentType(t string) error {
	if t == "" {
		return refusal.New(refusal.UnsupportedMediaType, "a signed request has a content type, also without a body")
	}
	if !isFieldValue(t) {
		return refusal.New(refusal.UnsupportedMediaType, "the content type %q is not plain ASCII text", t)
	}
	return nil
}

// isFieldValue says whether v is a header value that no HTTP hop changes: visible ASCII, single spaces inside.
func isFieldValue(v string) bool {
	for i := range len(v) {
		if c := v[i]; c < 0x20 || c > 0x7e {
			return false
		}
	}
	return !strings.HasPrefix(v, " ") && !strings.HasSuffix(v, " ") && !strings.Contains(v, "  ")
}

// Check refuses a response that cannot be recorded: a status outside 100 to 599, headers over a limit, not in
// canonical form or not in ascending order of their names (so also two of one name), values that are not plain ASCII text.
// Errors: non-canonical, header-too-large.
func (r *Response) Check() error {
	if r.Status < 100 || r.Status > 599 {
		return refusal.New(refusal.NonCanonical, "status %d is not between 100 and 599", r.Status)
	}
	if len(r.Headers) > MaxHeaders {
		return refusal.New(refusal.HeaderTooLarge, "%d response headers, more than %d", len(r.Headers), MaxHeaders)
	}
	for i, h := range r.Headers {
		switch {
		case len(h.Name) > MaxHeaderName || len(h.Value) > MaxHeaderValue:
			return refusal.New(refusal.HeaderTooLarge, "response header %d has %d bytes of name and %d of value", i, len(h.Name), len(h.Value))
		case !isHeaderName(h.Name):
			return refusal.New(refusal.NonCanonical, "response header name %q is not in canonical form", h.Name)
		case i > 0 && r.Headers[i-1].Name >= h.Name:
			return refusal.New(refusal.NonCanonical, "response headers %q and %q are not in ascending order", r.Headers[i-1].Name, h.Name)
		case !isFieldValue(h.Value):
			return refusal.New(refusal.NonCanonical, "the value of response header %s is not plain ASCII text", h.Name)
		}
	}
	return nil
}

func isHeaderName(name string) bool {
	if name == "" {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return textproto.CanonicalMIMEHeaderKey(name) == name
}

func (t *Transaction) limits() error {
	if err := t.Request.limits(); err != nil {
		return err
	}
	if err := t.Response.Check(); err != nil {
		return err
	}
	if t.Sequence < 1 || t.Sequence > MaxSteps {
		return refusal.New(refusal.NonCanonical, "sequence %d is not between 1 and %d", t.Sequence, MaxSteps)
	}
	if t.Time < 0 || t.Time > MaxTime {
		return refusal.New(refusal.NonCanonical, "time %d is not between 1970 and 9999", t.Time)
	}
	return nil
}

// CheckTarget refuses a request target that a proxy, a router and a handler could read differently, so that the bytes
// that are signed have one meaning: the path starts with '/', has no empty, "." or ".." segment (also percent-encoded) except
// that the path may end in '/'; percent-encoding only where it is needed and in upper case, never of '/', '\' or control
// characters; no fragment; visible ASCII only; at most [MaxTarget] bytes. Error: bad-target.
func CheckTarget(rawPath, rawQuery string) error {
	if n := len(rawPath) + 1 + len(rawQuery); n > MaxTarget {
		return refusal.New(refusal.BadTarget, "path and query are %d bytes, more than %d", n, MaxTarget)
	}
	if !strings.HasPrefix(rawPath, "/") {
		return refusal.New(refusal.BadTarget, "the path does not start with '/'")
	}
	if err := checkEscapes(rawPath, "path", pathBytes); err != nil {
		return err
	}
	if err := checkEscapes(rawQuery, "query", queryBytes); err != nil {
		return err
	}
	for rest, more := rawPath[1:], true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		switch {
		case segment == "" && more:
			return refusal.New(refusal.BadTarget, "the path has an empty segment")
		case segment == "." || segment == "..":
			return refusal.New(refusal.BadTarget, "the path has a dot segment")
		}
	}
	return nil
}

// pathBytes and queryBytes are the bytes that stand for themselves (RFC 3986, pchar; query adds "/" and "?"); unreserved bytes mean
// the same encoded and plain, so their encoding is needless and refused.
var (
	unreserved = setOf("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
	pathBytes  = setOf("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:@/")
	queryBytes = setOf("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:@/?")
)

func setOf(bytes string) *[256]bool {
	var set [256]bool
	for i := range len(bytes) {
		set[bytes[i]] = true
	}
	return &set
}

func checkEscapes(s, part string, plain *[256]bool) error {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '%' {
			if !plain[c] {
				return refusal.New(refusal.BadTarget, "the %s holds byte 0x%02x at %d, which is not allowed plain", part, c, i)
			}
			continue
		}
		if i+2 >= len(s) {
			return refusal.New(refusal.BadTarget, "the %s ends within a percent-encoding", part)
		}
		hi, okHi := upperHex(s[i+1])
		lo, okLo := upperHex(s[i+2])
		if !okHi || !okLo {
			return refusal.New(refusal.BadTarget, "the %s has a percent-encoding at %d that is not two upper-case hex digits", part, i)
		}
		switch v := hi<<4 | lo; {
		case v < 0x20 || v == 0x7f:
			return refusal.New(refusal.BadTarget, "the %s encodes a control character at %d", part, i)
		case v == '/' && part == "path", v == '\\' && part == "path":
			return refusal.New(refusal.BadTarget, "the path encodes a slash or backslash at %d", i)
		case unreserved[v]:
			return refusal.New(refusal.BadTarget, "the %s percent-encodes %q at %d, which needs none", part, v, i)
		}
		i += 2
	}
	return nil
}

func upperHex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
