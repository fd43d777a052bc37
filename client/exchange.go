package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/wire"
)

// How requests are sent again.
const (
	firstBackoff = 25 * time.Millisecond
	lastBackoff  = 2 * time.Second
	longestPause = 10 * time.Second       // a node's Retry-After counts up to this
	attemptTime  = 40 * time.Second       // for one request: more than a node lets a commit wait
	answerTime   = 500 * time.Millisecond // for an answer to come back, when a node is told how long to wait
	maxReply     = 64 << 20               // bytes of an answer; a receipt of a full session with large bodies fits
)

// newHTTP returns a client that follows no redirects. Of given, transport, jar and timeout are kept.
func newHTTP(given *http.Client) *http.Client {
	var h http.Client
	if given != nil {
		h = *given
	}
	if h.Transport == nil {
		h.Transport = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout:   5 * time.Second,
			ResponseHeaderTimeout: attemptTime,
			IdleConnTimeout:       60 * time.Second,
			MaxIdleConnsPerHost:   64,
		}
	}
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &h
}

// call is a request to be made, as often as it takes: signed, or a plain one.
type call struct {
	signed *httpsig.Parsed // nil for a plain request
	method string          // of a plain request
	target string
	least  int64 // Tandem-Min-Height, if above 0
	seen   bool  // least is what the client has seen, or floor
	floor  int64 // what least must not fall below: a recorded step ran on that height
	async  bool  // Prefer: respond-async
	wait   bool  // Prefer: wait, for no longer than the context lasts

	contentType string // of a plain request with a body
	body        []byte

	session    wire.SessionID                // of a signed request in a session
	transcript func() (file []byte, ok bool) // the session so far, for a node that does not know it; nil if there is none to give
}

// build makes the HTTP request for one node. The same call gives the same bytes each time.
func (c call) build(ctx context.Context, base string) (*http.Request, error) {
	var r *http.Request
	var err error
	if c.signed != nil {
		r, err = httpsig.ToHTTP(base, c.signed)
	} else {
		r, err = http.NewRequest(c.method, base+c.target, bytes.NewReader(c.body))
	}
	if err != nil {
		return nil, err
	}
	if c.contentType != "" {
		r.Header.Set("Content-Type", c.contentType)
	}
	if c.least > 0 {
		r.Header.Set("Tandem-Min-Height", strconv.FormatInt(c.least, 10))
	}
	if c.async {
		r.Header.Set("Prefer", "respond-async")
	} else if end, ok := ctx.Deadline(); ok && c.wait {
		// Or the node may wait longer than we do, and its "committing" would come too late.
		if left := time.Until(end) - answerTime; left < attemptTime/2 {
			r.Header.Set("Prefer", fmt.Sprintf("wait=%d", max(0, left/time.Second)))
		}
	}
	r.Header.Set("Accept-Encoding", "identity") // or net/http would unpack a body whose packed bytes are signed
	r.Header.Set("User-Agent", "tandem-client")
	return r.WithContext(ctx), nil
}

// reply is what a node sent back.
type reply struct {
	url    string
	status int
	header http.Header
	body   []byte
	seal   wire.Seal // of a signed answer, once it is verified
}

// sleep waits, or returns ctx's error if it ends first.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// errTooLarge says that an answer is larger than any node sends.
var errTooLarge = errors.New("answer too large")

// retriable reports whether sending again may help after err.
func retriable(err error) bool {
	var build *buildError
	return !errors.As(err, &build) && !errors.Is(err, errTooLarge)
}

// buildError wraps a request that cannot be made.
type buildError struct{ error }

func (e *buildError) Unwrap() error { return e.error }

// attempt makes one HTTP request.
func (c *Client) attempt(ctx context.Context, base string, what call) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	r, err := what.build(ctx, base)
	if err != nil {
		return nil, &buildError{err}
	}
	res, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var body bytes.Buffer
	if 0 < res.ContentLength && res.ContentLength <= wire.MaxResponse { // what a handler may answer; larger ones grow as they come
		body.Grow(int(res.ContentLength) + bytes.MinRead)
	}
	n, err := io.Copy(&body, io.LimitReader(res.Body, maxReply+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", base, err)
	}
	if n > maxReply {
		return nil, fmt.Errorf("%s: %w", base, errTooLarge)
	}
	return &reply{url: base, status: res.StatusCode, header: res.Header, body: body.Bytes()}, nil
}

// signed reports whether the reply claims to be an answer that a node signed.
func (r *reply) signed() bool {
	return len(r.header[httpsig.HeaderSignature])+len(r.header[httpsig.HeaderSignatureInput]) > 0
}

// outage reports whether something on the way (a proxy) says that the node cannot be reached.
func (r *reply) outage() bool {
	if r.signed() || r.header.Get("Tandem-Height") != "" {
		return false // the service itself said so
	}
	switch r.status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// pause is how long the node asks to be left alone.
func (r *reply) pause() time.Duration {
	seconds, err := strconv.ParseUint(r.header.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, longestPause)
}

// number reads a header that holds a decimal number.
func (r *reply) number(name string) (int64, bool) {
	n, err := strconv.ParseInt(r.header.Get(name), 10, 64)
	return n, err == nil && n >= 0
}
