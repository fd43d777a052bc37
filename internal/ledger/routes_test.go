package ledger_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"tandem"
	"tandem/internal/exec"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

type nothing struct{}

func (nothing) Get([]byte) ([]byte, bool, error) { return nil, false, nil }

func (nothing) Scan(_, _ []byte) iter.Seq2[state.Entry, error] {
	return func(func(state.Entry, error) bool) {}
}

func public(name string) wire.PublicKey {
	sum := sha256.Sum256([]byte("ledger test key " + name))
	return wire.PublicKeyOf(ed25519.NewKeyFromSeed(sum[:]))
}

// office is a ledger whose framework routes a test calls as steps, through exec, as both layers do.
type office struct {
	t      *testing.T
	o      *state.Overlay
	runner *exec.Runner
	n      uint64
}

func newOffice(t *testing.T) *office {
	var reg tandem.Registry
	svc := tandem.Service{Name: "svc", Version: "1", Registry: &reg}
	g := ledger.Genesis{ChainID: "test-1"}
	g.Tandem.Parameters = ledger.DefaultParameters(svc, wire.Digest(svc.Fingerprint()))
	g.Tandem.Actors = []ledger.GenesisActor{
		{ID: "root", Roles: []string{"admin"}, Keys: []wire.PublicKey{public("root")}, Delegates: []wire.PublicKey{public("node-root")}},
		{ID: "ann", Keys: []wire.PublicKey{public("ann")}, Delegates: []wire.PublicKey{public("node-ann")}},
	}
	w := &office{t: t, o: state.NewOverlay(nothing{}), runner: exec.New(svc, exec.Options{Framework: ledger.Routes()})}
	if err := ledger.Apply(g, svc, w.o); err != nil {
		t.Fatal(err)
	}
	return w
}

// call runs a request signed by the named key and decodes the answer.
func (w *office) call(by, method, target, body string) (status int, code refusal.Code, v ledger.ActorView, raw []byte) {
	w.t.Helper()
	actor, err := ledger.ActorOf(w.o, public(by))
	if err != nil {
		r, _ := refusal.As(err)
		return r.Status(), r.Code, v, nil
	}
	w.n++
	path, query, _ := strings.Cut(target, "?")
	res, err := w.runner.Run(context.Background(), w.o, exec.Step{
		Request: &wire.Request{Method: method, Path: path, Query: query, ContentType: "application/json", Body: []byte(body)},
		Actor:   actor, Sequence: w.n, Time: 1_700_000_000_000,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if r, ok := refusal.ParseProblem(res.Body); ok {
		return res.Response.Status, r.Code, v, res.Body
	}
	_ = json.Unmarshal(res.Body, &v)
	return res.Response.Status, "", v, res.Body
}

func (w *office) want(by, method, target, body string, status int, code refusal.Code) ledger.ActorView {
	w.t.Helper()
	s, c, v, raw := w.call(by, method, target, body)
	if s != status || c != code {
		w.t.Fatalf("%s: %s %s %s: got %d %q %s, want %d %q", by, method, target, body, s, c, raw, status, code)
	}
	return v
}

func keyBody(name string, delegate bool) string {
	return fmt.Sprintf(`{"key":%q,"delegate":%t}`, public(name).DID(), delegate)
}

// The life of an actor and its keys, through the routes.
func TestActorLife(t *testing.T) {
	w := newOffice(t)
	body := fmt.Sprintf(`{"id":"bob","organisation":"B & Co","roles":["z","admin2","a"],"keys":[%q],"delegates":[%q]}`, public("bob").DID(), public("node-bob").DID())
	v := w.want("root", "POST", "/tandem/v1/actors", body, 201, "")
	if v.ID != "bob" || v.Organisation != "B & Co" || !slices.Equal(v.Roles, []string{"a", "admin2", "z"}) || len(v.Keys) != 2 || v.Keys[0].Delegate || !v.Keys[1].Delegate {
		t.Errorf("%+v", v)
	}
	if got := w.want("ann", "GET", "/tandem/v1/actors/bob", "", 200, ""); fmt.Sprint(got) != fmt.Sprint(v) {
		t.Errorf("%+v, after the post %+v", got, v)
	}
	// Bob changes his keys himself.
	w.want("bob", "POST", "/tandem/v1/actors/bob/keys", keyBody("bob2", false), 201, "")
	v = w.want("bob2", "DELETE", "/tandem/v1/actors/bob/keys/"+public("bob").DID(), "", 200, "")
	if !v.Keys[0].Revoked || v.Keys[2].Revoked {
		t.Errorf("%+v", v)
	}
	w.want("bob", "GET", "/tandem/v1/actors/bob", "", 403, refusal.KeyRevoked)
	w.want("bob2", "DELETE", "/tandem/v1/actors/bob/keys/"+public("bob").DID(), "", 200, "") // again: the same
	// One key belongs to one actor for ever, also when it is revoked.
	for _, name := range []string{"bob", "bob2", "ann", "root", "node-ann"} {
		w.want("bob2", "POST", "/tandem/v1/actors/bob/keys", keyBody(name, true), 409, refusal.KeyTaken)
		w.want("root", "POST", "/tandem/v1/actors", fmt.Sprintf(`{"id":"new","keys":[%q]}`, public(name).DID()), 409, refusal.KeyTaken)
	}
	// A revoked actor is out for ever, with all its keys, and its id stays taken.
	if v = w.want("bob2", "DELETE", "/tandem/v1/actors/bob", "", 200, ""); !v.Revoked {
		t.Errorf("%+v", v)
	}
	w.want("bob2", "GET", "/tandem/v1/actors/bob", "", 403, refusal.KeyRevoked)
	w.want("root", "DELETE", "/tandem/v1/actors/bob", "", 200, "")
	w.want("root", "POST", "/tandem/v1/actors", `{"id":"bob"}`, 409, refusal.ActorExists)
	w.want("root", "POST", "/tandem/v1/actors/bob/keys", keyBody("bob3", false), 403, refusal.KeyRevoked)
}

// Who may do what: the table of Routes.
func TestRights(t *testing.T) {
	did := public("ann").DID()
	for _, c := range []struct {
		method, target, body     string
		root, ann, other, other2 int // other: another actor; other2: a delegate of root
	}{
		{"POST", "/tandem/v1/actors", `{"id":"new"}`, 201, 403, 403, 403},
		{"POST", "/tandem/v1/actors/ann/keys", keyBody("new", true), 201, 201, 403, 403},
		{"DELETE", "/tandem/v1/actors/ann/keys/" + did, "", 200, 200, 403, 403},
		{"DELETE", "/tandem/v1/actors/ann", "", 200, 200, 403, 403},
		{"GET", "/tandem/v1/actors/ann", "", 200, 200, 200, 200},
		{"GET", "/tandem/v1/actors", "", 200, 200, 200, 200},
	} {
		for by, status := range map[string]int{"root": c.root, "ann": c.ann, "carl": c.other, "node-root": c.other2} {
			w := newOffice(t)
			w.want("root", "POST", "/tandem/v1/actors", fmt.Sprintf(`{"id":"carl","keys":[%q]}`, public("carl").DID()), 201, "")
			before := len(w.o.Changes())
			code := refusal.Code("")
			if status == 403 {
				code = refusal.Forbidden
			}
			w.want(by, c.method, c.target, c.body, status, code)
			if status == 403 && len(w.o.Changes()) != before {
				t.Errorf("%s %s by %s: forbidden, and written", c.method, c.target, by)
			}
		}
	}
	// A delegate of the actor itself is no better: a node cannot give itself more than it was lent.
	w := newOffice(t)
	w.want("node-ann", "POST", "/tandem/v1/actors/ann/keys", keyBody("evil", false), 403, refusal.Forbidden)
	w.want("node-ann", "DELETE", "/tandem/v1/actors/ann/keys/"+did, "", 403, refusal.Forbidden)
}

// Hostile bodies and paths: each a coded refusal, nothing written.
func TestRoutesRefuse(t *testing.T) {
	w := newOffice(t)
	w.want("root", "POST", "/tandem/v1/actors", `{"id":"bob"}`, 201, "")
	identity := wire.PublicKey{1}
	before := len(w.o.Changes())
	many := make([]string, ledger.MaxRoles+1)
	for i := range many {
		many[i] = fmt.Sprintf("r%d", i)
	}
	roles, _ := json.Marshal(many)
	for _, c := range []struct {
		method, target, body string
		status               int
		code                 refusal.Code
	}{
		{"POST", "/tandem/v1/actors", ``, 400, refusal.BadJSON},
		{"POST", "/tandem/v1/actors", `{"id":"x"`, 400, refusal.BadJSON},
		{"POST", "/tandem/v1/actors", `{"id":"x"} {}`, 400, refusal.BadJSON},
		{"POST", "/tandem/v1/actors", `{"id":"x","id":"y"}`, 400, refusal.BadJSON},
		{"POST", "/tandem/v1/actors", `{"ID":"x"}`, 400, refusal.BadJSON},
		{"POST", "/tandem/v1/actors", `{"id":"x","admin":true}`, 400, refusal.BadJSON},
		{"POST", "/tandem/v1/actors", `{"id":"x","roles":[[[[[["deep"]]]]]]}`, 400, refusal.BadJSON},
		{"POST", "/tandem/v1/actors", `{"id":7}`, 400, refusal.BadJSON},
		{"POST", "/tandem/v1/actors", `{}`, 400, refusal.BadRequest},
		{"POST", "/tandem/v1/actors", `{"id":"a/b"}`, 400, refusal.BadRequest},
		{"POST", "/tandem/v1/actors", `{"id":"` + strings.Repeat("x", 65) + `"}`, 400, refusal.BadRequest},
		{"POST", "/tandem/v1/actors", `{"id":"x","roles":["tandem-delegate"]}`, 400, refusal.BadRequest},
		{"POST", "/tandem/v1/actors", `{"id":"x","roles":["a","a"]}`, 400, refusal.BadRequest},
		{"POST", "/tandem/v1/actors", `{"id":"x","roles":` + string(roles) + `}`, 400, refusal.BadRequest},
		{"POST", "/tandem/v1/actors", `{"id":"x","organisation":"a\nb"}`, 400, refusal.BadRequest},
		{"POST", "/tandem/v1/actors", `{"id":"x","keys":["key"]}`, 400, refusal.BadRequest},
		{"POST", "/tandem/v1/actors", `{"id":"x","keys":["` + identity.DID() + `"]}`, 400, refusal.KeyWeak},
		{"POST", "/tandem/v1/actors", `{"id":"x","keys":["` + public("k").DID() + `"],"delegates":["` + public("k").DID() + `"]}`, 409, refusal.KeyTaken},
		{"POST", "/tandem/v1/actors/bob/keys", `{"key":"` + identity.DID() + `","delegate":false}`, 400, refusal.KeyWeak},
		{"POST", "/tandem/v1/actors/bob/keys", `{"key":"","delegate":false}`, 400, refusal.BadRequest},
		{"POST", "/tandem/v1/actors/nobody/keys", keyBody("k", false), 404, refusal.NotFound},
		{"DELETE", "/tandem/v1/actors/nobody", ``, 404, refusal.NotFound},
		{"DELETE", "/tandem/v1/actors/bob/keys/rubbish", ``, 400, refusal.BadRequest},
		{"DELETE", "/tandem/v1/actors/bob/keys/" + public("ann").DID(), ``, 404, refusal.NotFound},
		{"DELETE", "/tandem/v1/actors/bob/keys/" + public("k").DID(), ``, 404, refusal.NotFound},
		{"GET", "/tandem/v1/actors/nobody", ``, 404, refusal.NotFound},
		{"GET", "/tandem/v1/actors/" + strings.Repeat("x", 3000), ``, 404, refusal.NotFound},
		{"GET", "/tandem/v1/actors/%2F", ``, 404, refusal.NotFound},
		{"GET", "/tandem/v1/actors?limit=0", ``, 400, refusal.BadRequest},
		{"GET", "/tandem/v1/actors?limit=1000", ``, 400, refusal.BadRequest},
		{"GET", "/tandem/v1/actors?limit=x", ``, 400, refusal.BadRequest},
		{"GET", "/tandem/v1/actors?after=%00", ``, 400, refusal.BadRequest},
		{"PUT", "/tandem/v1/actors", ``, 405, refusal.MethodNotAllowed},
		{"POST", "/tandem/v1/other", ``, 404, refusal.NotFound},
	} {
		w.want("root", c.method, c.target, c.body, c.status, c.code)
	}
	if len(w.o.Changes()) != before {
		t.Error("a refused request has written")
	}
	res, err := w.runner.Run(context.Background(), w.o, exec.Step{
		Request: &wire.Request{Method: "POST", Path: "/tandem/v1/actors", ContentType: "text/plain", Body: []byte(`{"id":"x"}`)},
		Actor:   tandem.Actor{ID: "root", Roles: []string{"admin"}},
	})
	if err != nil || res.Response.Status != 415 {
		t.Errorf("text/plain: %d %v", res.Response.Status, err)
	}
}

// The number of keys is bounded, revoked ones included.
func TestKeyLimit(t *testing.T) {
	w := newOffice(t)
	for i := range ledger.MaxKeys - 2 {
		w.want("root", "POST", "/tandem/v1/actors/ann/keys", keyBody(fmt.Sprint("k", i), false), 201, "")
	}
	w.want("root", "DELETE", "/tandem/v1/actors/ann/keys/"+public("k0").DID(), "", 200, "")
	w.want("root", "POST", "/tandem/v1/actors/ann/keys", keyBody("one more", false), 400, refusal.BadRequest)
}

// The list comes in pages, in the order of ids.
func TestList(t *testing.T) {
	w := newOffice(t)
	for i := range 7 {
		w.want("root", "POST", "/tandem/v1/actors", fmt.Sprintf(`{"id":"x%d"}`, i), 201, "")
	}
	var got []string
	after := ""
	for range 20 {
		_, _, _, raw := w.call("ann", "GET", "/tandem/v1/actors?limit=4&after="+after, "")
		var list ledger.ActorList
		if err := json.Unmarshal(raw, &list); err != nil {
			t.Fatal(err)
		}
		for _, a := range list.Actors {
			got = append(got, a.ID)
		}
		if after = list.Next; after == "" {
			break
		}
	}
	if want := []string{"ann", "root", "x0", "x1", "x2", "x3", "x4", "x5", "x6"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// The routes are plain handlers: net/http/httptest alone can call them.
func TestRoutesWithHTTPTest(t *testing.T) {
	st := tandem.NewMapState()
	step := &tandem.Step{State: st, Actor: tandem.Actor{ID: "root", Roles: []string{"admin"}}}
	rec := httptest.NewRecorder()
	req := httptest.NewRequest("POST", "/tandem/v1/actors", strings.NewReader(`{"id":"bob"}`))
	req.Header.Set("Content-Type", "application/json")
	ledger.Routes().ServeHTTP(rec, req.WithContext(tandem.WithStep(req.Context(), step)))
	if rec.Code != http.StatusCreated || rec.Body.String() != `{"id":"bob","organisation":"","roles":[],"revoked":false,"keys":[]}`+"\n" {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if _, ok := st.Get([]byte("actor/bob")); !ok {
		t.Error("not written under the framework's part of the state")
	}
	// Damaged records are no answer: they panic, which exec makes a deterministic 500.
	st.Set([]byte("actor/bob"), []byte("garbage"))
	defer func() {
		if recover() == nil {
			t.Error("a damaged record is answered")
		}
	}()
	req = httptest.NewRequest("GET", "/tandem/v1/actors/bob", nil)
	ledger.Routes().ServeHTTP(httptest.NewRecorder(), req.WithContext(tandem.WithStep(req.Context(), step)))
}
