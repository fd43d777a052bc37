package httpapi

import "testing"

// GET .../audit and .../evidence over HTTP: of a session, and of none.
func TestAuditAndEvidence(t *testing.T) {
	w := newWorld(t)
	opened := w.do("POST", "/tandem/v1/sessions", "{}")
	id, _ := opened.json["session_id"].(string)
	rep := w.do("GET", "/tandem/v1/sessions/"+id+"/audit", "")
	entries, _ := rep.json["entries"].([]any)
	if rep.status != 200 || rep.json["session_id"] != id || len(entries) != 1 || entries[0].(map[string]any)["event"] != "opened" {
		t.Errorf("the audit trail is %d %v", rep.status, rep.json)
	}
	w.problem("no evidence", w.do("GET", "/tandem/v1/sessions/"+id+"/evidence", ""), 404, "not-found")
	w.problem("no evidence of a kind", w.do("GET", "/tandem/v1/sessions/"+id+"/evidence?kind=two-answers", ""), 404, "not-found")
	none := "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	w.problem("no session", w.do("GET", "/tandem/v1/sessions/"+none+"/audit", ""), 404, "session-not-found")
	w.problem("no session", w.do("GET", "/tandem/v1/sessions/"+none+"/evidence", ""), 404, "session-not-found")
}
