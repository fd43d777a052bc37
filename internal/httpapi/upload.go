package httpapi

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// upload serves PUT /tandem/v1/sessions/{id}: a client brings a session that this node does not have, or of which steps
// are missing here. The body is a wire.Transcript (docs/format/peer.md); nothing in it needs to be believed, so the request
// itself is not signed. Uploading what is here already changes nothing.
func (a *api) upload(w http.ResponseWriter, r *http.Request) {
	a.brought(w, r, func(ctx context.Context, id wire.SessionID, body []byte) error {
		t, err := wire.DecodeTranscript(body)
		if err != nil {
			return err
		}
		if httpsig.SessionID(&t.Open) != id {
			return refusal.New(refusal.WrongSession, "the path and the transcript name different sessions").With("session", id)
		}
		s, err := a.o.Engine.Upload(ctx, t)
		if err == nil {
			a.writeSession(w, r, http.StatusOK, s)
		}
		return err
	})
}

// brought reads a request with cbor and, if there is a place for it, has take answer it; an error is answered here.
func (a *api) brought(w http.ResponseWriter, r *http.Request, take func(ctx context.Context, id wire.SessionID, body []byte) error) {
	id, body, err := a.cbor(w, r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	ctx, done, err := a.o.Engine.Admit(r.Context(), arrival(r))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	defer done()
	if err := take(ctx, id, body); err != nil {
		a.fail(w, r, err)
	}
}

// cbor reads a request that brings the session in its path, or a part of it, in canonical CBOR, and waits for the height that it
// asks for.
func (a *api) cbor(w http.ResponseWriter, r *http.Request) (id wire.SessionID, body []byte, err error) {
	if id, err = a.pathSession(r); err != nil {
		return id, nil, err
	}
	if err := a.awaitHeight(r); err != nil {
		return id, nil, err
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/cbor" {
		return id, nil, refusal.New(refusal.UnsupportedMediaType, "a session is brought as application/cbor")
	}
	body, err = a.bodyUpTo(w, r, wire.MaxTranscript)
	return id, body, err
}

// bodyUpTo reads a body that may be larger than a request's to a handler. Errors: body-too-large, bad-request.
func (a *api) bodyUpTo(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	if r.ContentLength > most {
		return nil, tooLarge(w, r, most, 2*most)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var max *http.MaxBytesError
	switch {
	case errors.As(err, &max):
		return nil, tooLarge(w, r, most, 0)
	case err != nil:
		w.Header().Set("Connection", "close")
		return nil, refusal.New(refusal.BadRequest, "the body ended before its Content-Length")
	}
	return body, nil
}
