package tandem_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"tandem"
)

// Parcel is what the example service keeps.
type Parcel struct {
	ID     string    `json:"id"`
	Status string    `json:"status"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}

var parcels = tandem.NewCollection("parcels", tandem.By("status", func(p Parcel) string { return p.Status }))

func createParcel(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	p := Parcel{ID: tandem.NewID(ctx, "PAR-"), Status: "new", By: tandem.ActorOf(ctx).ID, At: tandem.Now(ctx)}
	parcels.Put(tandem.StateOf(ctx), p.ID, p)
	w.Header().Set("Location", "/parcels/"+p.ID)
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(p)
}

func sendParcel(w http.ResponseWriter, r *http.Request) {
	st := tandem.StateOf(r.Context())
	p, ok := parcels.Get(st, r.PathValue("id"))
	if !ok {
		http.Error(w, "no such parcel", http.StatusNotFound)
		return
	}
	if p.Status != "new" {
		http.Error(w, "the parcel is "+p.Status, http.StatusConflict)
		return
	}
	p.Status = "sent"
	parcels.Put(st, p.ID, p)
	w.WriteHeader(http.StatusNoContent)
}

func listParcels(w http.ResponseWriter, r *http.Request) {
	q := tandem.Query{After: r.FormValue("after")}
	if status := r.FormValue("status"); status != "" {
		q.Index, q.Value = "status", status
	}
	page, err := parcels.List(tandem.StateOf(r.Context()), q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	json.NewEncoder(w).Encode(page)
}

// Parcels is the service: what a node is started with.
func Parcels() tandem.Service {
	var reg tandem.Registry
	reg.HandleFunc("POST /parcels", createParcel)
	reg.HandleFunc("POST /parcels/{id}/send", sendParcel)
	reg.HandleFunc("GET /parcels", listParcels)
	return tandem.Service{Name: "parcels", Version: "1", Registry: &reg}
}

// A service is a plain http.Handler: net/http/httptest and a state in memory are all its tests need.
func Example() {
	svc, st := Parcels(), tandem.NewMapState()
	call := func(sequence uint64, method, target string) *httptest.ResponseRecorder {
		step := &tandem.Step{
			State:    st,
			Now:      time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC),
			Actor:    tandem.Actor{ID: "OPR-001", Roles: []string{"operator"}},
			Position: tandem.Position{Session: "example", Sequence: sequence},
		}
		req := httptest.NewRequest(method, target, nil).WithContext(tandem.WithStep(context.Background(), step))
		w := httptest.NewRecorder()
		svc.Registry.ServeHTTP(w, req)
		return w
	}

	created := call(1, "POST", "/parcels")
	fmt.Print(created.Code, " ", created.Body)
	location := created.Header().Get("Location")
	fmt.Println(call(2, "POST", location+"/send").Code)
	fmt.Print(call(3, "POST", location+"/send").Body)
	fmt.Println(strings.Count(call(4, "GET", "/parcels?status=sent").Body.String(), "PAR-"))
	// Output:
	// 201 {"id":"PAR-hso24y5fr3ilevdo6dp4zob5pm","status":"new","by":"OPR-001","at":"2026-11-23T09:00:00Z"}
	// 204
	// the parcel is sent
	// 1
}
