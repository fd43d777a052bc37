package supplychain

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tandem"
)

// The paper's workflow: create, scan, validate, quality check, label; and what is on the ledger afterwards.
func TestWorkflow(t *testing.T) {
	w := newWorld(t)
	id, signature := w.registered("PO-1")
	if !strings.HasPrefix(id, "PKG-") {
		t.Errorf("package_id %q", id)
	}
	path := "/packages/" + id

	var scan struct {
		PackageID         string         `json:"package_id"`
		Supplier          string         `json:"supplier"`
		SupplierName      string         `json:"supplier_name"`
		ExpectedContents  []ExpectedItem `json:"expected_contents"`
		SupplierSignature string         `json:"supplier_signature"`
	}
	w.do("POST", path+"/scan", "").want(http.StatusOK).into(&scan)
	if scan.PackageID != id || scan.Supplier != "SUP-001" || scan.SupplierName != "Alpine Optics" || scan.SupplierSignature != signature {
		t.Errorf("scan answered %+v", scan)
	}
	if want := []ExpectedItem{{"ITM-001", "Lens 50 mm", 24, "piece", ""}, {"ITM-003", "Lens cleaning kit", 6, "box", ""}}; !slices.Equal(scan.ExpectedContents, want) {
		t.Errorf("expected contents %+v, want %+v", scan.ExpectedContents, want)
	}
	if got := w.do("POST", path+"/validate", fmt.Sprintf(`{"signature":%q}`, scan.SupplierSignature)).want(http.StatusOK).text("status"); got != "validated" {
		t.Errorf("status %q after validate", got)
	}
	qc := w.do("POST", path+"/quality-check", `{"passed":true,"issues":["dented corner"]}`).want(http.StatusOK).text("qc_record_id")
	label := w.do("POST", path+"/label", goodLabel).want(http.StatusOK).text("label_id")

	var p Package
	w.do("GET", path, "").want(http.StatusOK).into(&p)
	if p.Status != StatusLabelled || p.QCRecordID != qc || p.LabelID != label || p.SupplierReference != "PO-1" {
		t.Errorf("package %+v", p)
	}
	var steps []Action
	for i, e := range p.History {
		steps = append(steps, e.Step)
		if e.Actor != "OPR-001" || e.Organisation != "Northern Warehouse" || e.Session != w.session || e.Sequence != uint64(i)+1 ||
			!e.At.Equal(start.Add(time.Duration(i+1)*time.Second)) {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	if want := []Action{ActionRegister, ActionScan, ActionValidate, ActionQualityCheck, ActionLabel}; !slices.Equal(steps, want) {
		t.Errorf("history %v, want %v", steps, want)
	}
	var record QCRecord
	w.do("GET", "/qc-records/"+qc, "").want(http.StatusOK).into(&record)
	if record.PackageID != id || !record.Passed || !slices.Equal(record.Issues, []string{"dented corner"}) || record.Inspector != "OPR-001" {
		t.Errorf("record %+v", record)
	}
	var l Label
	w.do("GET", "/labels/"+label, "").want(http.StatusOK).into(&l)
	if l.PackageID != id || l.Destination != "Pier 4, Rotterdam" || l.Priority != "express" || l.CourierID != "COU-001" || l.Operator != "OPR-001" {
		t.Errorf("label %+v", l)
	}
}

// Every action on every status: what the table does not admit is a 409 with a reason, and changes nothing.
func TestOrderIsEnforced(t *testing.T) {
	actions := []Action{ActionScan, ActionValidate, ActionQualityCheck, ActionLabel}
	statuses := []Status{StatusRegistered, StatusScanned, StatusValidated, StatusPassed, StatusFailed, StatusLabelled}
	for _, status := range statuses {
		for _, a := range actions {
			if workflow[a].from == status {
				continue
			}
			t.Run(string(status)+"/"+string(a), func(t *testing.T) {
				w := newWorld(t)
				id, signature := w.at(status, "PO-1")
				before := clone(w.state)
				code := "wrong-step"
				if status == StatusFailed {
					code = "quality-check-failed"
				}
				p := w.do("POST", "/packages/"+id+"/"+string(a), bodyFor(a, signature, true)).refused(code)
				if p.PackageID != id || p.PackageStatus != string(status) || !strings.Contains(p.Detail, next(status)) {
					t.Errorf("the refusal does not say why: %+v", p)
				}
				if !before.Equal(clone(w.state)) {
					t.Error("a refused step changed the state")
				}
			})
		}
	}
}

// Whatever is sent in whatever order, a package only makes transitions of the table, its history tells them, and a
// failed one is never labelled. The model is the table itself, written down a second time here.
func TestRandomOrdersStayLegal(t *testing.T) {
	model := map[Status]map[Action][2]Status{ // action -> status if the check passes, if it fails
		StatusRegistered: {ActionScan: {StatusScanned, StatusScanned}},
		StatusScanned:    {ActionValidate: {StatusValidated, StatusValidated}},
		StatusValidated:  {ActionQualityCheck: {StatusPassed, StatusFailed}},
		StatusPassed:     {ActionLabel: {StatusLabelled, StatusLabelled}},
	}
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		type tracked struct {
			id, signature string
			status        Status
			steps         int
		}
		var all []*tracked
		for i := range rapid.IntRange(1, 3).Draw(rt, "packages") {
			id, signature := w.registered(fmt.Sprintf("PO-%d", i))
			all = append(all, &tracked{id, signature, StatusRegistered, 1})
		}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			p := rapid.SampledFrom(all).Draw(rt, "package")
			a := rapid.SampledFrom([]Action{ActionScan, ActionValidate, ActionQualityCheck, ActionLabel}).Draw(rt, "action")
			passed := rapid.Bool().Draw(rt, "passed")
			got := w.do("POST", "/packages/"+p.id+"/"+string(a), bodyFor(a, p.signature, passed))
			after, legal := model[p.status][a]
			if legal != (got.status == http.StatusOK) {
				rt.Fatalf("%s on a %s package: %d %s", a, p.status, got.status, got.body)
			}
			if legal {
				p.status, p.steps = after[0], p.steps+1
				if !passed {
					p.status = after[1]
				}
			}
		}
		for _, p := range all {
			var stored Package
			w.do("GET", "/packages/"+p.id, "").want(http.StatusOK).into(&stored)
			if stored.Status != p.status || len(stored.History) != p.steps || (stored.LabelID != "") != (p.status == StatusLabelled) {
				rt.Fatalf("package %+v, want status %s after %d steps", stored, p.status, p.steps)
			}
		}
	})
}

// Each step of the workflow needs its role; reading needs none.
func TestRoles(t *testing.T) {
	need := map[Action]string{ActionRegister: RoleOperator, ActionScan: RoleOperator, ActionValidate: RoleOperator,
		ActionQualityCheck: RoleQuality, ActionLabel: RoleOperator}
	before := map[Action]Status{ActionScan: StatusRegistered, ActionValidate: StatusScanned, ActionQualityCheck: StatusValidated, ActionLabel: StatusPassed}
	for a, role := range need {
		for _, who := range []string{"", "OPR-001", "OPR-002", "QCI-001", "CRR-001", "ADM-001"} {
			t.Run(string(a)+"/"+who, func(t *testing.T) {
				w := newWorld(t)
				target, body := "/packages", demoPackage(t, "PO-1")
				if a != ActionRegister {
					id, signature := w.at(before[a], "PO-1")
					target, body = "/packages/"+id+"/"+string(a), bodyFor(a, signature, true)
				}
				got := w.as(who, "POST", target, body)
				if actor(who).Has(role) {
					if got.status >= 400 {
						t.Fatalf("refused: %s", got.body)
					}
					return
				}
				if p := got.refused("role-required"); !strings.Contains(p.Detail, role) {
					t.Errorf("the refusal does not name the role: %s", p.Detail)
				}
			})
		}
	}
	w := newWorld(t)
	w.as("", "GET", "/packages", "").want(http.StatusOK)
}

// Two sessions that work on one package read what the other writes, whichever step each takes, so the framework sees
// the conflict; two sessions on two packages do not meet at all.
func TestSessionsOnOnePackageMeet(t *testing.T) {
	steps := map[Action]Status{ActionScan: StatusRegistered, ActionValidate: StatusScanned, ActionQualityCheck: StatusValidated, ActionLabel: StatusPassed}
	for a, status := range steps {
		t.Run(string(a), func(t *testing.T) {
			base := newWorld(t)
			one, sigOne := base.at(status, "PO-1")
			two, sigTwo := base.at(status, "PO-2")
			run := func(session, id, signature string) *recorded {
				w := &world{t: t, service: base.service, state: record(clone(base.state)), session: session}
				w.do("POST", "/packages/"+id+"/"+string(a), bodyFor(a, signature, true)).want(http.StatusOK)
				return w.state.(*recorded)
			}
			mine, other, elsewhere := run("session-a", one, sigOne), run("session-b", one, sigOne), run("session-c", two, sigTwo)
			if keys := mine.meets(other); len(keys) == 0 {
				t.Error("two sessions on one package do not meet")
			}
			if keys := mine.meets(elsewhere); len(keys) != 0 {
				t.Errorf("sessions on different packages meet in %q", keys)
			}
		})
	}
	t.Run("register the same signed package", func(t *testing.T) {
		base := newWorld(t)
		run := func(session, reference string) *recorded {
			w := &world{t: t, service: base.service, state: record(clone(base.state)), session: session}
			w.registered(reference)
			return w.state.(*recorded)
		}
		mine, other, elsewhere := run("session-a", "PO-1"), run("session-b", "PO-1"), run("session-c", "PO-2")
		if len(mine.meets(other)) == 0 {
			t.Error("two sessions that register one signed package do not meet")
		}
		if keys := mine.meets(elsewhere); len(keys) != 0 {
			t.Errorf("sessions that register different packages meet in %q", keys)
		}
	})
}

// The same requests give the same bytes, headers and state, in a second service, with the noise of another host, and
// after any other requests elsewhere.
func TestSameRequestsSameBytes(t *testing.T) {
	run := func(header ...string) (all []answer, st *tandem.MapState) {
		w := newWorld(t)
		w.service = Service()
		send := func(method, target, body string) answer {
			a := w.as("OPR-001", method, target, body, header...)
			all = append(all, a)
			return a
		}
		id := send("POST", "/packages", demoPackage(t, "PO-1")).want(http.StatusCreated).text("package_id")
		signature := send("POST", "/packages/"+id+"/scan", "").text("supplier_signature")
		send("POST", "/packages/"+id+"/label", goodLabel).want(http.StatusConflict)
		send("POST", "/packages/"+id+"/validate", fmt.Sprintf(`{"signature":%q}`, signature))
		send("POST", "/packages/"+id+"/quality-check", `{"z":1,"y":2,"x":3,"w":4,"v":5,"u":6}`).want(http.StatusUnprocessableEntity)
		send("POST", "/packages/"+id+"/quality-check", `{"passed":true}`)
		send("POST", "/packages/"+id+"/label", goodLabel).want(http.StatusOK)
		for _, target := range []string{"/packages", "/packages/" + id, "/labels", "/qc-records", "/suppliers", "/openapi.json", "/docs",
			"/packages?c=1&b=2&a=3&limit=x"} {
			send("GET", target, "")
		}
		return all, clone(w.state)
	}
	first, state := run()
	for i := range 20 {
		again, st := run("Accept", "text/html;q=0.9, application/cbor", "X-Request-Id", fmt.Sprint(i), "Accept-Encoding", "gzip", "If-None-Match", "*")
		if !st.Equal(state) {
			t.Fatal("the state differs")
		}
		for j := range first {
			if string(first[j].body) != string(again[j].body) || first[j].status != again[j].status || fmt.Sprint(first[j].header) != fmt.Sprint(again[j].header) {
				t.Fatalf("%s differs:\n%d %v %s\n%d %v %s", first[j].what, first[j].status, first[j].header, first[j].body, again[j].status, again[j].header, again[j].body)
			}
		}
	}
}

// bodyFor is the body of a workflow step that succeeds where the step is allowed.
func bodyFor(a Action, signature string, passed bool) string {
	switch a {
	case ActionValidate:
		return fmt.Sprintf(`{"signature":%q}`, signature)
	case ActionQualityCheck:
		return fmt.Sprintf(`{"passed":%v,"issues":["scratched"]}`, passed)
	case ActionLabel:
		return goodLabel
	}
	return ""
}
