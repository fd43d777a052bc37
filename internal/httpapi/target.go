package httpapi

import (
	"net/http"
	"net/textproto"
	"strings"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// single are the header fields that may occur once only, beside all that begin with "Tandem-". A second one would let
// a proxy, this server and a signature's verifier each pick another value.
var single = []string{
	"Content-Digest", "Content-Type", "Idempotency-Key", "Last-Event-Id", "Origin", "Sec-Fetch-Site", "Signature", "Signature-Input",
}

// checkRequest refuses a request whose target, framing or headers could be read in two ways. It runs before anything is
// routed, on what net/http shows of the request, and returns the raw path and query.
//
// What net/http has refused before: malformed requests, more than one Host, differing Content-Lengths, transfer
// encodings other than one "chunked". What it hides: it drops a Content-Length that stands beside Transfer-Encoding, so
// Transfer-Encoding is refused altogether.
func checkRequest(r *http.Request) (path, query string, err error) {
	path, query, err = splitTarget(r.RequestURI)
	if err != nil {
		return "", "", err
	}
	if r.URL.EscapedPath() != path || r.URL.RawQuery != query {
		return "", "", refusal.New(refusal.BadTarget, "the request target is read in two ways") // routes match r.URL
	}
	if err := checkFraming(r); err != nil {
		return "", "", err
	}
	return path, query, checkHeaders(r.Header)
}

// splitTarget takes a raw request target apart. Only origin form is accepted ("/path?query", RFC 9112 section 3.2.1),
// with one spelling per resource (wire.CheckTarget). Error: bad-target.
func splitTarget(target string) (path, query string, err error) {
	if !strings.HasPrefix(target, "/") {
		return "", "", refusal.New(refusal.BadTarget, "the request target is not in origin form; it starts with '/'")
	}
	path, query, marked := strings.Cut(target, "?")
	if marked && query == "" {
		return "", "", refusal.New(refusal.BadTarget, "the target ends in a bare '?'; without a query it has none")
	}
	if err := wire.CheckTarget(path, query); err != nil {
		return "", "", err
	}
	return path, query, nil
}

// checkFraming refuses what makes a request's end or meaning depend on the reader: transfer encodings, trailers,
// upgrades, unknown expectations, packed bodies. Errors: length-required, bad-request, unsupported-media-type.
func checkFraming(r *http.Request) error {
	switch {
	case len(r.TransferEncoding) > 0 || r.ContentLength < 0:
		return refusal.New(refusal.LengthRequired, "Transfer-Encoding is not accepted; send a Content-Length")
	case len(r.Header.Values("Content-Encoding")) > 0:
		return refusal.New(refusal.UnsupportedMediaType, "a body is signed and handled as it is; send it without Content-Encoding")
	case len(r.Trailer) > 0:
		return refusal.New(refusal.BadRequest, "trailers are not accepted")
	case len(r.Header["Upgrade"]) > 0 || hasToken(r.Header["Connection"], "upgrade"):
		return refusal.New(refusal.BadRequest, "Upgrade is not accepted")
	}
	if expect := r.Header["Expect"]; len(expect) > 1 || len(expect) == 1 && !strings.EqualFold(expect[0], "100-continue") {
		return refusal.New(refusal.BadRequest, "the only expectation this server knows is 100-continue")
	}
	return nil
}

// checkHeaders refuses a second field of a name that may occur once, and values of such fields that are not plain
// text. Error: bad-request.
func checkHeaders(h http.Header) error {
	for _, name := range single {
		if len(h[name]) > 1 {
			return refusal.New(refusal.BadRequest, "the header %s occurs %d times", name, len(h[name]))
		}
	}
	for name, values := range h {
		if !strings.HasPrefix(name, "Tandem-") {
			continue
		}
		if len(values) > 1 {
			return refusal.New(refusal.BadRequest, "the header %s occurs %d times", name, len(values))
		}
		if !known[name] {
			return refusal.New(refusal.BadRequest, "there is no request header %s", name)
		}
	}
	return nil
}

// known are the Tandem headers a request may carry. Another one is more likely a typing error than meant to be
// ignored.
var known = map[string]bool{
	"Tandem-Actor": true, "Tandem-Min-Height": true, "Tandem-Sequence": true, "Tandem-Session": true, "Tandem-Transcript": true,
}

// hasToken reports whether a comma-separated list holds a token, in any case.
func hasToken(lists []string, token string) bool {
	for _, list := range lists {
		for t := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}
