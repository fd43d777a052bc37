package httpapi

import "net/http"

// conflict serves GET /tandem/v1/sessions/{id}/conflict: what the session's steps would be answered now. Like a
// session's status it is shown to whoever knows the session's id; unlike it, it is a forecast, and not signed.
func (a *api) conflict(w http.ResponseWriter, r *http.Request) {
	id, err := a.pathSession(r)
	if err == nil {
		err = a.awaitHeight(r)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	p, err := a.o.Engine.Preview(r.Context(), id)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.writeJSON(w, r, http.StatusOK, p)
}
