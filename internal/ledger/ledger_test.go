package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tandem"
	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// records is a state.Reader over a map, for tests.
type records map[string][]byte

func (m records) Get(key []byte) ([]byte, bool, error) {
	v, ok := m[string(key)]
	return v, ok, nil
}

func (m records) Scan(start, end []byte) iter.Seq2[state.Entry, error] {
	return func(yield func(state.Entry, error) bool) {
		var keys []string
		for k := range m {
			if k >= string(start) && (end == nil || k < string(end)) {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		for _, k := range keys {
			if !yield(state.Entry{Key: []byte(k), Value: m[k]}, nil) {
				return
			}
		}
	}
}

func private(name string) ed25519.PrivateKey {
	sum := sha256.Sum256([]byte("ledger test key " + name))
	return ed25519.NewKeyFromSeed(sum[:])
}

func public(name string) wire.PublicKey { return wire.PublicKeyOf(private(name)) }

func testService() tandem.Service {
	var reg tandem.Registry
	return tandem.Service{Name: "svc", Version: "1", Registry: &reg}
}

func testGenesis() Genesis {
	svc := testService()
	g := Genesis{ChainID: "test-1"}
	g.Tandem.Parameters = DefaultParameters(svc, wire.Digest(svc.Fingerprint()))
	g.Tandem.Actors = []GenesisActor{
		{ID: "root", Organisation: "Operator Ltd", Roles: []string{"operator", RoleAdmin}, Keys: []wire.PublicKey{public("root")}},
		{ID: "ann", Organisation: "Ann's", Keys: []wire.PublicKey{public("ann"), public("ann2")}, Delegates: []wire.PublicKey{public("node")}},
		{ID: "bob"},
	}
	g.Tandem.Layer2 = []GenesisNode{{Key: public("l2"), Organisation: "Operator Ltd", Address: "10.0.0.1:9000"}}
	return g
}

func applied(t *testing.T, g Genesis, svc tandem.Service) *state.Overlay {
	t.Helper()
	o := state.NewOverlay(records{})
	if err := Apply(g, svc, o); err != nil {
		t.Fatal(err)
	}
	return o
}

// Genesis writes what the read functions find.
func TestApply(t *testing.T) {
	g := testGenesis()
	o := applied(t, g, testService())
	p, err := ParametersOf(o)
	if err != nil || p.ChainID != "test-1" || p.ServiceName != "svc" || p.MaxSessionMillis != 3600_000 || p.MaxSteps != 1024 || p.Fingerprint != g.Tandem.Parameters.Fingerprint {
		t.Errorf("%+v %v", p, err)
	}
	a, err := ActorOf(o, public("root"))
	if err != nil || a.ID != "root" || a.Organisation != "Operator Ltd" || !slices.Equal(a.Roles, []string{"admin", "operator"}) {
		t.Errorf("%+v %v", a, err)
	}
	if a, err := ActorOf(o, public("node")); err != nil || a.ID != "ann" || !slices.Equal(a.Roles, []string{RoleDelegate}) {
		t.Errorf("delegate: %+v %v", a, err)
	}
	if _, err := ActorOf(o, public("nobody")); !refusal.Has(err, refusal.KeyNotRegistered) {
		t.Errorf("%v", err)
	}
	ann, ok, err := ActorByID(o, "ann")
	if err != nil || !ok || !slices.Equal(ann.Keys, []wire.PublicKey{public("ann"), public("ann2"), public("node")}) {
		t.Errorf("%+v %v %v", ann, ok, err)
	}
	for _, id := range []string{"", "nobody", "../ann", strings.Repeat("x", 5000)} {
		if _, ok, err := ActorByID(o, id); ok || err != nil {
			t.Errorf("%.10q: %v %v", id, ok, err)
		}
	}
	nodes, err := Layer2(o)
	if err != nil || len(nodes) != 1 || nodes[0] != (Node{Key: public("l2"), Organisation: "Operator Ltd", Address: "10.0.0.1:9000"}) {
		t.Errorf("%+v %v", nodes, err)
	}
	if err := Originator(o, public("l2")); err != nil {
		t.Error(err)
	}
	if err := Originator(o, public("ann")); !refusal.Has(err, refusal.OriginatorUnknown) {
		t.Error(err)
	}
	write(o, layer2Key(public("l2")), nodeRecord{Removed: true})
	if err := Originator(o, public("l2")); !refusal.Has(err, refusal.OriginatorUnknown) {
		t.Errorf("a removed node: %v", err)
	}
}

// However a file spells its seed, the service gets the same bytes.
func TestCanonicalSeed(t *testing.T) {
	want := `{"a":"<x>","b":[1,2.50,1e5,null,true],"c":{}}`
	for _, in := range []string{
		want, ` { "b" : [ 1 , 2.50, 1e5 , null,true ], "c":{ }, "a":"\u003cx\u003E" } `, "{\n  \"c\": {},\n\t\"a\":\"\\u003c\u0078>\",\"b\":[1,2.50,1e5,null,true]}",
	} {
		if got, err := canonicalSeed(json.RawMessage(in)); err != nil || string(got) != want {
			t.Errorf("%s: %s %v", in, got, err)
		}
	}
	if got, err := canonicalSeed(nil); got != nil || err != nil {
		t.Errorf("nothing: %q %v", got, err)
	}
}

// The file that JSON writes is the genesis it was made of.
func TestGenesisRoundTrip(t *testing.T) {
	g := testGenesis()
	g.Service = json.RawMessage(`{"b":[1,2],"a":"<x>"}`)
	b, err := g.JSON()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseGenesis(b)
	if err != nil {
		t.Fatal(err)
	}
	back.ChainID = g.ChainID
	svc := testService()
	svc.Genesis = func(st tandem.State, seed json.RawMessage) error {
		st.Set([]byte("seed"), seed)
		return nil
	}
	if one, two := applied(t, g, svc).Changes(), applied(t, back, svc).Changes(); len(one) == 0 || len(one) != len(two) {
		t.Errorf("%d and %d records", len(one), len(two))
	} else {
		for i := range one {
			if !bytes.Equal(one[i].Key, two[i].Key) || !bytes.Equal(one[i].Value, two[i].Value) {
				t.Errorf("%q: %x against %x", one[i].Key, one[i].Value, two[i].Value)
			}
		}
	}
	if _, err := (Genesis{}).JSON(); !refusal.Has(err, refusal.GenesisInvalid) {
		t.Errorf("an empty genesis is written: %v", err)
	}
}

// A genesis file is refused for every mistake, with a word about where it is.
func TestParseGenesisRefuses(t *testing.T) {
	good, err := testGenesis().JSON()
	if err != nil {
		t.Fatal(err)
	}
	ann, node := public("ann").DID(), public("l2").DID()
	small := wire.PublicKey{1} // the identity: canonical, small order
	for _, c := range []struct{ name, old, new, want string }{
		{"not JSON", "{", "", "bad-json"},
		{"unknown member", `"tandem"`, `"extra": 1, "tandem"`, "unknown member"},
		{"unknown parameter", `"max_steps"`, `"mx_steps"`, "unknown member"},
		{"case", `"actors"`, `"Actors"`, "unknown member"},
		{"duplicate member", `"max_steps"`, `"max_steps": 7, "max_steps"`, "occurs twice"},
		{"missing parameter", `"max_steps": 1024,`, ``, "max_steps"},
		{"zero", `"step_bytes": 67108864`, `"step_bytes": 0`, "step_bytes"},
		{"negative", `"max_session_ms": 3600000`, `"max_session_ms": -1`, "max_session_ms"},
		{"too many steps", `"max_steps": 1024`, `"max_steps": 5000`, "max_steps"},
		{"fraction", `"max_steps": 1024`, `"max_steps": 10.5`, "bad-json"},
		{"no service name", `"service_name": "svc"`, `"service_name": ""`, "service_name"},
		{"no fingerprint", wire.Digest(testService().Fingerprint()).String(), strings.Repeat("0", 64), "fingerprint"},
		{"actor twice", `"id": "bob"`, `"id": "ann"`, "occurs twice"},
		{"actor without id", `"id": "bob"`, `"id": ""`, "actors[2]"},
		{"actor id", `"id": "bob"`, `"id": "b/b"`, "actors[2]"},
		{"actor id of dots", `"id": "bob"`, `"id": ".."`, "actors[2]"},
		{"role", `"operator"`, `"a b"`, "role"},
		{"role twice", `"operator"`, `"admin"`, "twice"},
		{"reserved role", `"operator"`, `"tandem-delegate"`, "reserved"},
		{"control character", `"Ann's"`, `"Ann\u0007"`, "control"},
		{"key twice", public("root").DID(), ann, "belongs to root already"},
		{"key of small order", ann, small.DID(), "small order"},
		{"no key", ann, "did:key:zzz", "bad-json"},
		{"small node key", node, small.DID(), "small order"},
		{"long address", "10.0.0.1:9000", strings.Repeat("x", 300), "layer2[0]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !bytes.Contains(good, []byte(c.old)) {
				t.Fatalf("the genesis has no %s", c.old)
			}
			_, err := ParseGenesis(bytes.Replace(good, []byte(c.old), []byte(c.new), 1))
			if _, ok := refusal.As(err); !ok || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want something with %q", err, c.want)
			}
		})
	}
}

// Apply refuses what does not fit the program, and what the service refuses.
func TestApplyRefuses(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		g    func(g *Genesis)
		svc  func(s *tandem.Service)
		want string
	}{
		"no chain id":     {func(g *Genesis) { g.ChainID = "" }, nil, "chain_id"},
		"other service":   {nil, func(s *tandem.Service) { s.Name = "other" }, `"svc" version "1", this program runs service "other"`},
		"other version":   {nil, func(s *tandem.Service) { s.Version = "2" }, `version "2"`},
		"invalid":         {func(g *Genesis) { g.Tandem.Actors[0].ID = "" }, nil, "actors[0]"},
		"seed, no taker":  {func(g *Genesis) { g.Service = json.RawMessage(`{}`) }, nil, "takes no seed"},
		"service refuses": {nil, func(s *tandem.Service) { s.Genesis = func(tandem.State, json.RawMessage) error { return boom } }, "boom"},
		"long key": {nil, func(s *tandem.Service) {
			s.Genesis = func(st tandem.State, _ json.RawMessage) error {
				st.Set(make([]byte, tandem.MaxKey+1), nil)
				return nil
			}
		}, "key of 1025 bytes"},
		"empty key": {nil, func(s *tandem.Service) {
			s.Genesis = func(st tandem.State, _ json.RawMessage) error { st.Get(nil); return nil }
		}, "key of 0 bytes"},
		"long value": {nil, func(s *tandem.Service) {
			s.Genesis = func(st tandem.State, _ json.RawMessage) error {
				st.Set([]byte("k"), make([]byte, tandem.MaxValue+1))
				return nil
			}
		}, "value of"},
	} {
		g, svc := testGenesis(), testService()
		if c.g != nil {
			c.g(&g)
		}
		if c.svc != nil {
			c.svc(&svc)
		}
		err := Apply(g, svc, state.NewOverlay(records{}))
		if !refusal.Has(err, refusal.GenesisInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// The service's seed sees its own part of the state only, as a State.
func TestSeedState(t *testing.T) {
	g, svc := testGenesis(), testService()
	g.Service = json.RawMessage("null")
	svc.Genesis = func(st tandem.State, seed json.RawMessage) error {
		if string(seed) != "null" {
			return fmt.Errorf("seed %q", seed)
		}
		for _, k := range []string{"b", "a", "c"} {
			st.Set([]byte(k), []byte("v"+k))
		}
		st.Delete([]byte("c"))
		var got []string
		for k, v := range st.Scan(nil, nil) {
			got = append(got, string(k)+"="+string(v))
		}
		if !slices.Equal(got, []string{"a=va", "b=vb"}) {
			return fmt.Errorf("scan %q", got)
		}
		for k := range st.Scan([]byte("b"), []byte("bb")) {
			got = append(got, string(k))
			break
		}
		if v, ok := st.Get([]byte("b")); !ok || string(v) != "vb" || len(got) != 3 {
			return fmt.Errorf("get %q %v %q", v, ok, got)
		}
		return nil
	}
	o := applied(t, g, svc)
	if v, ok, _ := o.Get([]byte("a/a")); !ok || string(v) != "va" {
		t.Errorf("a/a is %q", v)
	}
}

// Settle and its readers agree, for any values; only the actor's own sessions supersede.
func TestSettle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := state.NewOverlay(records{})
		var id, old wire.SessionID
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		copy(old[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "old"))
		want := Settled{
			Height: rapid.Int64Range(1, 1<<62).Draw(t, "height"), Actor: rapid.StringMatching(`[a-z]{1,20}`).Draw(t, "actor"),
			Steps: rapid.Uint64().Draw(t, "steps"), Time: rapid.Int64().Draw(t, "time"),
			Checkpoints: rapid.Uint64().Draw(t, "checkpoints"), StepTime: rapid.Int64().Draw(t, "step time"), Final: rapid.Bool().Draw(t, "final"),
		}
		copy(want.Head[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "head"))
		copy(want.Transaction[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "tx"))
		Settle(o, id, want, &old)
		if got, ok, err := SettledOf(o, id); err != nil || !ok || got != want {
			t.Fatalf("%+v %v %v", got, ok, err)
		}
		if by, ok, err := SupersededBy(o, old, want.Actor); err != nil || !ok || by != id {
			t.Fatalf("%v %v %v", by, ok, err)
		}
		if _, ok, _ := SupersededBy(o, old, want.Actor+"x"); ok {
			t.Fatal("another actor's session is superseded")
		}
		if _, ok, _ := SupersededBy(o, id, want.Actor); ok && id != old {
			t.Fatal("the new session is superseded")
		}
		v, _, _ := o.Get(SettledKey(id))
		if len(v) == 0 {
			t.Fatal("no record under SettledKey")
		}
	})
}

// A damaged record is an error of the state and never a refusal: it must halt the node, not the request.
func TestDamagedRecords(t *testing.T) {
	good := applied(t, testGenesis(), testService())
	reads := func(r state.Reader) []error {
		_, e1 := ActorOf(r, public("ann"))
		_, e2 := ParametersOf(r)
		_, e3 := Layer2(r)
		return []error{e1, e2, e3, Originator(r, public("l2"))}
	}
	for _, err := range reads(good) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range good.Changes() {
		for name, value := range map[string][]byte{
			"empty":         {},
			"cut":           c.Value[:len(c.Value)-1],
			"longer":        append(bytes.Clone(c.Value), 0),
			"not canonical": append([]byte{0x98, c.Value[0] & 0x1f}, c.Value[1:]...), // the array's length in two bytes
			"garbage":       []byte("garbage"),
		} {
			m := records{}
			for _, d := range good.Changes() {
				m[string(d.Key)] = d.Value
			}
			m[string(c.Key)] = value
			found := false
			for _, err := range reads(m) {
				if _, ok := refusal.As(err); ok {
					t.Errorf("%q %s: a refusal: %v", c.Key, name, err)
				}
				found = found || err != nil
			}
			if touched := bytes.HasPrefix(c.Key, []byte(parametersKey)) || bytes.HasPrefix(c.Key, []byte(layer2Prefix)) ||
				bytes.Equal(c.Key, actorKey("ann")) || bytes.Equal(c.Key, keyKey(public("ann"))); touched && !found {
				t.Errorf("%q %s: not noticed", c.Key, name)
			}
		}
	}
	m := records{}
	for _, d := range good.Changes() {
		m[string(d.Key)] = d.Value
	}
	delete(m, string(actorKey("ann")))
	if _, err := ActorOf(m, public("ann")); err == nil {
		t.Error("a key whose actor is missing is accepted")
	} else if _, ok := refusal.As(err); ok {
		t.Error(err)
	}
	delete(m, parametersKey)
	if _, err := ParametersOf(m); err == nil {
		t.Error("missing parameters are accepted")
	}
	m[layer2Prefix+"short"] = encode(nodeRecord{})
	if _, err := Layer2(m); err == nil {
		t.Error("a node with half a key is accepted")
	}
}

// Any bytes for a genesis are refused with a code or make a genesis that can be written and read again.
func FuzzParseGenesis(f *testing.F) {
	good, err := testGenesis().JSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"tandem":{"parameters":{},"actors":[],"layer2":[]},"service":{"a":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := ParseGenesis(b)
		if err != nil {
			if _, ok := refusal.As(err); !ok {
				t.Fatalf("no code: %v", err)
			}
			return
		}
		again, err := g.JSON()
		if err != nil {
			t.Fatalf("cannot be written: %v", err)
		}
		if _, err := ParseGenesis(again); err != nil {
			t.Fatalf("cannot be read again: %v", err)
		}
	})
}
