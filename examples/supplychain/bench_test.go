package supplychain

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"tandem"
)

// What each step's handler costs by itself; every node runs it.
func BenchmarkHandlers(b *testing.B) {
	w := newWorld(b)
	id, signature := w.registered("PO-1")
	path := "/packages/" + id
	for _, c := range []struct{ name, target, body string }{
		{"create", "/packages", demoPackage(b, "PO-2")},
		{"scan", path + "/scan", ""},
		{"validate", path + "/validate", fmt.Sprintf(`{"signature":%q}`, signature)},
		{"quality-check", path + "/quality-check", `{"passed":true,"issues":[]}`},
		{"label", path + "/label", goodLabel},
	} {
		before := clone(w.state)
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				b.StopTimer()
				step := &tandem.Step{State: clone(before), Now: start, Actor: actor("OPR-001"), Position: tandem.Position{Session: "one", Sequence: 2}}
				r := httptest.NewRequest("POST", c.target, strings.NewReader(c.body))
				if c.body != "" {
					r.Header.Set("Content-Type", "application/json")
				}
				r = r.WithContext(tandem.WithStep(r.Context(), step))
				rec := httptest.NewRecorder()
				b.StartTimer()
				w.service.Registry.ServeHTTP(rec, r)
				if rec.Code >= http.StatusMultipleChoices {
					b.Fatal(rec.Code, rec.Body)
				}
			}
		})
		if c.name != "create" {
			w.do("POST", c.target, c.body).want(http.StatusOK)
		}
	}
}
