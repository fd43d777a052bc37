package testnet_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"tandem/internal/testnet"
)

// TestCheckSees: a Check that could not fail would be worth nothing.
func TestCheckSees(t *testing.T) {
	t.Parallel()
	type lie struct {
		name string
		// what the second of two nodes says differently
		block2, session, receipt string
		want                     string
	}
	const block1 = `{"height":1,"hash":"aa","state_root":"r1","app_hash":"r0","transactions":[]}`
	const block2 = `{"height":2,"hash":"bb","state_root":"r2","app_hash":"r1","transactions":[{"hash":"t1","session_id":"s1"}]}`
	const session = `{"status":"committed","height":2,"transaction_hash":"t1"}`
	serve := func(l lie) *httptest.Server {
		mux := http.NewServeMux()
		say := func(path, body string) {
			mux.HandleFunc("GET /tandem/v1/"+path, func(w http.ResponseWriter, _ *http.Request) {
				if strings.Contains(body, `"code"`) {
					w.WriteHeader(http.StatusNotFound)
				}
				fmt.Fprint(w, body)
			})
		}
		say("genesis", "{}")
		say("blocks/1", block1)
		say("blocks/2", l.block2)
		say("sessions/s1", l.session)
		say("sessions/s1/receipt", l.receipt)
		server := httptest.NewServer(mux)
		t.Cleanup(server.Close)
		return server
	}
	const none = `{"code":"session-not-found"}`
	honest := serve(lie{block2: block2, session: session, receipt: none})
	for _, l := range []lie{
		{"another root", strings.Replace(block2, "r2", "rx", 1), session, none, "block 2 is"},
		{"another hash", strings.Replace(block2, "bb", "bx", 1), session, none, "block 2 is"},
		{"another height", block2, strings.Replace(session, "2", "3", 1), none, "is in block 2 as t1"},
		{"still committing", block2, strings.Replace(session, "committed", "committing", 1), none, "is in block 2 as t1"},
		{"session unknown", block2, none, none, "session-not-found"},
		{"no receipt anywhere", block2, session, none, "no node has a receipt"},
		{"a receipt that proves nothing", block2, session, "{}", "the receipt of session s1"},
	} {
		_, err := testnet.CheckWorld(t.Context(), []string{honest.URL, serve(l).URL}, 2)
		if err == nil || !strings.Contains(err.Error(), l.want) {
			t.Errorf("%s: %v, want an error with %q", l.name, err, l.want)
		}
	}
	// Both agree, but block 2 does not start where block 1 says it has ended.
	torn := serve(lie{block2: strings.Replace(block2, `"app_hash":"r1"`, `"app_hash":"rx"`, 1), session: session, receipt: none})
	if _, err := testnet.CheckWorld(t.Context(), []string{torn.URL}, 2); err == nil || !strings.Contains(err.Error(), "the block before stated") {
		t.Errorf("a torn chain of roots: %v", err)
	}
}
