package ledger_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

func nodeBody(name, organisation, address string) string {
	return fmt.Sprintf(`{"key":%q,"organisation":%q,"address":%q}`, public(name).DID(), organisation, address)
}

func (w *office) nodes() []ledger.NodeView {
	w.t.Helper()
	_, _, _, raw := w.call("ann", "GET", "/tandem/v1/layer2", "")
	var list ledger.NodeList
	if err := json.Unmarshal(raw, &list); err != nil {
		w.t.Fatalf("%s: %v", raw, err)
	}
	return list.Nodes
}

// The life of an entry of the Layer 2 list, through the routes.
func TestLayer2Life(t *testing.T) {
	w := newOffice(t)
	w.want("root", "POST", "/tandem/v1/layer2", nodeBody("n1", "Org One", "one:9000"), 201, "")
	w.want("root", "POST", "/tandem/v1/layer2", nodeBody("n2", "Org Two", ""), 201, "")
	w.want("root", "POST", "/tandem/v1/layer2", nodeBody("n1", "Org One", "elsewhere:9000"), 200, "")
	if got := w.nodes(); len(got) != 2 || !slices.ContainsFunc(got, func(n ledger.NodeView) bool {
		return n.Key == public("n1").DID() && n.Address == "elsewhere:9000" && !n.Removed
	}) {
		t.Fatalf("the list is %+v", got)
	}
	n1 := public("n1")
	if err := ledger.Originator(w.o, n1); err != nil {
		t.Fatal(err)
	}

	w.want("root", "DELETE", "/tandem/v1/layer2/"+n1.DID(), "", 200, "")
	w.want("root", "DELETE", "/tandem/v1/layer2/"+n1.DID(), "", 200, "") // twice is no error
	if err := ledger.Originator(w.o, n1); !refusal.Has(err, refusal.OriginatorUnknown) {
		t.Fatalf("a removed node originates: %v", err)
	}
	if err := ledger.Originated(w.o, n1); err != nil {
		t.Fatalf("what a removed node has originated is not good any more: %v", err)
	}
	if err := ledger.Originated(w.o, public("stranger")); !refusal.Has(err, refusal.OriginatorUnknown) {
		t.Fatalf("a stranger has originated: %v", err)
	}
	if got := w.nodes(); len(got) != 2 {
		t.Fatalf("the removed entry is gone: %+v", got)
	}

	w.want("root", "POST", "/tandem/v1/layer2", nodeBody("n1", "Org Two", ""), 409, refusal.KeyTaken)
	w.want("root", "DELETE", "/tandem/v1/layer2/"+public("n2").DID(), "", 403, refusal.Forbidden) // the last one
	w.want("root", "POST", "/tandem/v1/layer2", nodeBody("n1", "Org One", "back:9000"), 201, "")
	if err := ledger.Originator(w.o, n1); err != nil {
		t.Fatal(err)
	}
}

func TestLayer2Refusals(t *testing.T) {
	w := newOffice(t)
	w.want("root", "POST", "/tandem/v1/layer2", nodeBody("n1", "Org", ""), 201, "")
	weak := wire.PublicKey{1} // the neutral element: order 1
	for _, c := range []struct {
		name, by, method, path, body string
		status                       int
		code                         refusal.Code
	}{
		{"no admin", "ann", "POST", "/tandem/v1/layer2", nodeBody("n2", "Org", ""), 403, refusal.Forbidden},
		{"no admin removes", "ann", "DELETE", "/tandem/v1/layer2/" + public("n1").DID(), "", 403, refusal.Forbidden},
		{"delegate of an admin", "node-root", "POST", "/tandem/v1/layer2", nodeBody("n2", "Org", ""), 403, refusal.Forbidden},
		{"delegate removes", "node-root", "DELETE", "/tandem/v1/layer2/" + public("n1").DID(), "", 403, refusal.Forbidden},
		{"small order", "root", "POST", "/tandem/v1/layer2", fmt.Sprintf(`{"key":%q,"organisation":"Org"}`, weak.DID()), 400, refusal.KeyWeak},
		{"no key", "root", "POST", "/tandem/v1/layer2", `{"key":"did:key:nonsense","organisation":"Org"}`, 400, refusal.BadRequest},
		{"no organisation", "root", "POST", "/tandem/v1/layer2", nodeBody("n2", "", ""), 400, refusal.BadRequest},
		{"control character", "root", "POST", "/tandem/v1/layer2", nodeBody("n2", "Org", "a\nb"), 400, refusal.BadRequest},
		{"unknown member", "root", "POST", "/tandem/v1/layer2", `{"key":"x","organisation":"Org","role":"admin"}`, 400, refusal.BadJSON},
		{"not listed", "root", "DELETE", "/tandem/v1/layer2/" + public("stranger").DID(), "", 404, refusal.NotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.want(c.by, c.method, c.path, c.body, c.status, c.code)
		})
	}
	w.t = t
	if got := w.nodes(); len(got) != 1 || got[0].Removed {
		t.Fatalf("a refused request changed the list: %+v", got)
	}
	for i := 1; i < ledger.MaxLayer2; i++ {
		w.want("root", "POST", "/tandem/v1/layer2", nodeBody(fmt.Sprint("more", i), "Org", ""), 201, "")
	}
	w.want("root", "POST", "/tandem/v1/layer2", nodeBody("too many", "Org", ""), 400, refusal.BadRequest)
	w.want("root", "DELETE", "/tandem/v1/layer2/"+public("more1").DID(), "", 200, "")
	w.want("root", "POST", "/tandem/v1/layer2", nodeBody("too many", "Org", ""), 201, "") // a removed one makes room
}
