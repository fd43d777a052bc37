package httpapi

import (
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
	id, err := a.pathSession(r)
	if err == nil {
		err = a.awaitHeight(r)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/cbor" {
		a.fail(w, r, refusal.New(refusal.UnsupportedMediaType, "a transcript is application/cbor"))
		return
	}
	body, err := a.bodyUpTo(w, r, wire.MaxTranscript)
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
	t, err := wire.DecodeTranscript(body)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if httpsig.SessionID(&t.Open) != id {
		a.fail(w, r, refusal.New(refusal.WrongSession, "the path and the transcript name different sessions").With("session", id))
		return
	}
	s, err := a.o.Engine.Upload(ctx, t)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.writeSession(w, r, http.StatusOK, s)
}

// bodyUpTo reads a body that may be larger than a request's to a handler. Errors: body-too-large, bad-request.
func (a *api) bodyUpTo(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	tooLarge := refusal.New(refusal.BodyTooLarge, "the body has more than %d bytes", most)
	if r.ContentLength > most {
		w.Header().Set("Connection", "close")
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var max *http.MaxBytesError
	switch {
	case errors.As(err, &max):
		return nil, tooLarge
	case err != nil:
		w.Header().Set("Connection", "close")
		return nil, refusal.New(refusal.BadRequest, "the body ended before its Content-Length")
	}
	return body, nil
}
