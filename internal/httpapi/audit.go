package httpapi

import (
	"context"
	"net/http"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// audit serves GET /tandem/v1/sessions/{id}/audit: what this node has decided about a session, when and why. Like a
// session's status it is shown to whoever knows the session's id. It is one node's word, and not signed.
func (a *api) audit(w http.ResponseWriter, r *http.Request) {
	id, err := a.pathSession(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	trail, err := a.o.Engine.Audit(r.Context(), id)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.writeJSON(w, r, http.StatusOK, trail)
}

// evidence serves GET /tandem/v1/sessions/{id}/evidence: the evidence file that this node holds about a session, of the
// kind that the query names or else the most telling. It proves itself, so it is not signed.
func (a *api) evidence(w http.ResponseWriter, r *http.Request) {
	id, err := a.pathSession(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	file, err := a.o.Engine.Evidence(r.Context(), id, r.URL.Query().Get("kind"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Disposition", `attachment; filename="evidence-`+id.String()+`.json"`)
	a.writeBytes(w, r, http.StatusOK, "application/json", file)
}

// accuse serves POST /tandem/v1/sessions/{id}/evidence: the client of a session brings what a node has signed about it, and gets
// the evidence file against that node if it was false. The body is a wire.Accusation (docs/format/evidence.md); nothing in it
// needs to be believed, so the request itself is not signed.
func (a *api) accuse(w http.ResponseWriter, r *http.Request) {
	a.brought(w, r, func(ctx context.Context, id wire.SessionID, body []byte) error {
		what, err := wire.DecodeAccusation(body)
		if err != nil {
			return err
		}
		if httpsig.SessionID(&what.Open) != id {
			return refusal.New(refusal.WrongSession, "the path and the accusation name different sessions").With("session", id)
		}
		file, err := a.o.Engine.Accuse(ctx, what)
		if err == nil {
			w.Header().Set("Content-Disposition", `attachment; filename="evidence-`+id.String()+`.json"`)
			a.writeBytes(w, r, http.StatusOK, "application/json", file)
		}
		return err
	})
}
