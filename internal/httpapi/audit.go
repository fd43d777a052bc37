package httpapi

import "net/http"

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
