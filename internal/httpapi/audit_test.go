package httpapi

import (
	"strings"
	"testing"

	"tandem/internal/wire"
)

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

// POST .../evidence refuses what is no accusation, and what is not about the session in the path, before anything is run.
func TestAccuseRefuses(t *testing.T) {
	w := newWorld(t)
	opened := w.do("POST", "/tandem/v1/sessions", "{}")
	id, _ := opened.json["session_id"].(string)
	path := "/tandem/v1/sessions/" + id + "/evidence"
	cbor := []string{"Content-Type", "application/cbor"}
	w.problem("JSON", w.do("POST", path, "{}"), 415, "unsupported-media-type")
	w.problem("garbage", w.do("POST", path, "\x83\xff", cbor...), 400, "non-canonical")
	w.problem("nothing", w.do("POST", path, "", cbor...), 400, "non-canonical")
	w.problem("too large", w.do("POST", path, strings.Repeat("x", wire.MaxTranscript+1), cbor...), 413, "body-too-large")
	empty := string(wire.Accusation{Steps: []wire.Recorded{}}.Encode())
	w.problem("no step", w.do("POST", path, empty, cbor...), 400, "non-canonical")
	w.problem("no such id", w.do("POST", "/tandem/v1/sessions/NOT/evidence", empty, cbor...), 404, "session-not-found")
}
