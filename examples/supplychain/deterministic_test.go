package supplychain_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"tandem"
	"tandem/examples/supplychain"
	"tandem/servicetest"
)

// Every route, answers and refusals, gives the same bytes, writes and state operations on every run, by the code that
// nodes run handlers with.
func TestDeterministic(t *testing.T) {
	s := servicetest.New(t, supplychain.Service(), servicetest.Options{Seed: supplychain.DemoGenesis()})
	as := func(id string) *servicetest.User {
		for _, a := range supplychain.DemoActors() {
			if a.ID == id {
				return s.As(tandem.Actor{ID: a.ID, Organisation: a.Organisation, Roles: a.Roles})
			}
		}
		t.Fatalf("no demo actor %s", id)
		return nil
	}
	operator := as("OPR-001")
	body, err := supplychain.DemoPackage("PO-1")
	if err != nil {
		t.Fatal(err)
	}
	var created struct {
		ID string `json:"package_id"`
	}
	operator.DoAs("POST", "/packages", "application/x-www-form-urlencoded", body).Want(201).JSON(&created)
	operator.Do("POST", "/packages", body).Want(409)
	as("QCI-001").Do("POST", "/packages", body).Want(403)
	path := "/packages/" + created.ID
	var scanned struct {
		Signature string `json:"supplier_signature"`
	}
	operator.Do("POST", path+"/scan", nil).Want(200).JSON(&scanned)
	operator.Do("POST", path+"/validate", `{"signature":"no"}`).Want(422)
	operator.Do("POST", path+"/validate", map[string]string{"signature": scanned.Signature}).Want(200)
	s.Open()
	as("QCI-001").Do("POST", path+"/quality-check", `{"passed":"a","issues":{"x":1},"b":1,"c":2,"d":3,"e":4,"f":5,"g":6}`).Want(422)
	as("QCI-001").Do("POST", path+"/quality-check", `{"passed":true,"issues":["dent","scratch"]}`).Want(200)
	operator.Do("POST", path+"/label", `{"destination":"Oslo","priority":"express","courier_id":"COU-003"}`).Want(422)
	operator.Do("POST", path+"/label", `{"destination":"Oslo","priority":"express","courier_id":"COU-001"}`).Want(200)

	for _, target := range []string{"/packages", path, "/suppliers", "/suppliers/SUP-001", "/couriers?active=true", "/couriers/COU-001",
		"/catalogue?limit=2", "/catalogue/ITM-001", "/qc-records?passed=true", "/labels?courier_id=COU-001&priority=express",
		"/packages?supplier_id=SUP-001&status=labelled", "/openapi.json", "/docs"} {
		operator.Do("GET", target, nil).Want(200)
		s.As(tandem.Actor{}).Read(target).Want(200)
	}
	operator.Do("GET", "/packages?z=1&y=2&x=3&w=4&v=5&limit=0&status=lost", nil).Want(422)
	operator.Do("GET", "/packages?cursor=AAAA", nil).Want(400)
}

// A longer life: many packages through random parts of the workflow, each step checked for determinism.
func TestDeterministicOverManyPackages(t *testing.T) {
	s := servicetest.New(t, supplychain.Service(), servicetest.Options{Seed: supplychain.DemoGenesis(), Runs: 4})
	first := supplychain.DemoActors()[0]
	u := s.As(tandem.Actor{ID: first.ID, Organisation: first.Organisation, Roles: first.Roles})
	for i := range 12 {
		s.Open()
		body, err := supplychain.DemoPackage(fmt.Sprintf("PO-%d", i))
		if err != nil {
			t.Fatal(err)
		}
		var p supplychain.PackageRequest
		if err := json.Unmarshal(body, &p); err != nil {
			t.Fatal(err)
		}
		var created struct {
			ID string `json:"package_id"`
		}
		u.Do("POST", "/packages", body).Want(201).JSON(&created)
		steps := []struct{ path, body string }{
			{"/scan", ""},
			{"/validate", fmt.Sprintf(`{"signature":%q}`, p.Signature)},
			{"/quality-check", `{"passed":true}`},
			{"/label", fmt.Sprintf(`{"destination":"Oslo","priority":"p%d","courier_id":"COU-002"}`, i%3)},
		}
		for _, step := range steps[:i%5] {
			u.Do("POST", "/packages/"+created.ID+step.path, step.body).Want(200)
		}
	}
	var page struct {
		Items []supplychain.Package `json:"items"`
	}
	u.Do("GET", "/packages?status=labelled", nil).Want(200).JSON(&page)
	if len(page.Items) != 2 {
		t.Errorf("%d labelled packages, want 2", len(page.Items))
	}
}
