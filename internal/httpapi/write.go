package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// setSafety sets the headers that every answer has, whoever made it. They say to browsers: take the type as stated, show
// it in no frame, tell other sites nothing. What a handler sets itself wins.
func setSafety(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// writeJSON answers with v as JSON.
func (a *api) writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := marshal(v)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.writeBytes(w, r, status, "application/json", body)
}

// marshal encodes v as JSON with a final newline, for people with curl.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return b.Bytes(), err
}

// writeBytes answers with a body of the framework's own.
func (a *api) writeBytes(w http.ResponseWriter, r *http.Request, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	if status != http.StatusNoContent {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may have gone; there is nobody left to tell
	}
}

// fail answers with the problem document for err. What is no refusal is an error of this node: the client learns
// "internal", the log the rest.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	ref, ok := refusal.As(err)
	switch {
	case ok:
	case errors.Is(err, context.Canceled) && r.Context().Err() != nil:
		ref = refusal.New(refusal.ShuttingDown, "the request was given up before it was answered") // most likely by its client
	case errors.Is(err, context.DeadlineExceeded):
		ref = refusal.New(refusal.Overloaded, "the request was not finished in the time it had; it is safe to send it again")
	default:
		a.log.Error("request failed", "method", r.Method, "target", r.RequestURI, "error", err)
		ref = refusal.New(refusal.Internal, "the node failed on this request; its log says how")
	}
	a.problem(w, r, ref)
}

// problem answers with a problem document.
func (a *api) problem(w http.ResponseWriter, r *http.Request, ref *refusal.Refusal) {
	entry := ref.Entry()
	status, body := ref.Problem()
	h := w.Header()
	if entry.Kind == refusal.KindOutage && status == http.StatusServiceUnavailable && h.Get("Retry-After") == "" {
		seconds, ok := ref.Fields["retry_after_seconds"].(int)
		if !ok || seconds < 1 {
			seconds = 1
		}
		h.Set("Retry-After", strconv.Itoa(seconds))
	}
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Signature realm="tandem"`) // RFC 9110 wants a challenge; docs/http.md tells the scheme
	}
	a.metrics.refused(entry)
	a.writeBytes(w, r, status, refusal.ContentType, append(body, '\n'))
}

// strictObject decodes a body of the framework's own: nothing at all, or one JSON object that fits into. Error: bad-json.
func strictObject(body []byte, into any) error {
	if len(body) == 0 {
		return nil
	}
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return refusal.New(refusal.BadJSON, "the body is not a JSON object")
	}
	return wire.StrictJSON(body, maxDepth, into)
}

// maxDepth bounds the nesting of the framework's own JSON bodies, all of which are flat.
const maxDepth = 4

// sessionID reads a session id out of a path or header. Error: session-not-found.
func sessionID(text string) (wire.SessionID, error) {
	id, err := wire.ParseSessionID(text)
	if err != nil {
		return id, refusal.New(refusal.SessionNotFound, "%q is no session id: 26 characters a-z and 2-7", shorten(text))
	}
	return id, nil
}

// shorten keeps what a client sent from filling the answer.
func shorten(s string) string {
	if len(s) > 64 {
		s = s[:64] + "..."
	}
	return s
}

// decimal reads an unsigned decimal number in its one form.
func decimal(name, text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != text {
		return 0, refusal.New(refusal.BadRequest, "%s is %q, not a decimal number", name, shorten(text))
	}
	return n, nil
}

// preference finds a preference in the Prefer headers (RFC 7240) and its value.
func preference(h http.Header, name string) (value string, ok bool) {
	for _, list := range h["Prefer"] {
		for item := range strings.SplitSeq(list, ",") {
			item, _, _ = strings.Cut(item, ";")
			k, v, _ := strings.Cut(item, "=")
			if strings.EqualFold(strings.TrimSpace(k), name) {
				return strings.Trim(strings.TrimSpace(v), `"`), true
			}
		}
	}
	return "", false
}
