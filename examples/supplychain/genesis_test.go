package supplychain

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"tandem"
)

// The demo genesis holds the keys that DemoKey derives, so that DemoPackage's signatures are the suppliers'.
func TestDemoGenesisHoldsTheDemoKeys(t *testing.T) {
	g, err := ParseGenesis(DemoGenesis())
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Suppliers) == 0 || len(g.Catalogue) == 0 || len(g.Couriers) == 0 {
		t.Fatalf("the demo genesis lacks something: %+v", g)
	}
	for _, s := range g.Suppliers {
		if want := base64.StdEncoding.EncodeToString(DemoKey(s.ID).Public().(ed25519.PublicKey)); s.PublicKey != want {
			t.Errorf("%s has key %s, want %s", s.ID, s.PublicKey, want)
		}
	}
}

// demoSeedOfOPR001 is SHA-256 of the seed text, a zero byte and OPR-001, computed elsewhere.
const demoSeedOfOPR001 = "c63cdc830f848a4f6c5bdeaf99f479e46dd6412f1553a3450973d14e20c8f853"

func TestDemoActors(t *testing.T) {
	all := DemoActors()
	if all[0].ID != "OPR-001" || !slices.Equal(all[0].Roles, []string{RoleOperator, RoleQuality}) {
		t.Errorf("the first demo actor is %s with %v; tandem dev acts as OPR-001 for the whole workflow", all[0].ID, all[0].Roles)
	}
	seen := map[string]bool{}
	for _, a := range all {
		if seen[a.ID] || seen[string(a.Key)] || !slices.IsSorted(a.Roles) || a.Organisation == "" {
			t.Errorf("actor %s: doubled, or unsorted roles %v, or no organisation", a.ID, a.Roles)
		}
		seen[a.ID], seen[string(a.Key)] = true, true
	}
	// The derivation is part of what demo networks agree on.
	if got := hex.EncodeToString(DemoKey("OPR-001").Seed()); got != demoSeedOfOPR001 {
		t.Errorf("DemoKey(OPR-001) has seed %s, want %s", got, demoSeedOfOPR001)
	}
}

func TestGenesisRefusals(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(DemoKey("SUP-001").Public().(ed25519.PublicKey))
	supplier := func(id, key string) string {
		return `{"suppliers":[{"supplier_id":"` + id + `","name":"A","country":"CH","public_key":"` + key + `"}]}`
	}
	for name, c := range map[string]struct{ raw, want string }{
		"not JSON":         {`{`, "not JSON"},
		"unknown member":   {`{"shops":[]}`, "shops"},
		"key twice":        {`{"couriers":[],"couriers":[]}`, "twice"},
		"bad id":           {supplier("sup 1", key), "sup 1"},
		"bad key":          {supplier("SUP-001", "AAAA"), "SUP-001"},
		"small-order key":  {supplier("SUP-001", base64.StdEncoding.EncodeToString(append([]byte{1}, make([]byte, 31)...))), "full strength"},
		"supplier twice":   {strings.Replace(supplier("SUP-001", key), "}]", "},"+supplier("SUP-001", key)[len(`{"suppliers":[`):], 1), ""},
		"negative weight":  {`{"catalogue":[{"item_id":"ITM-001","name":"x","unit":"y","weight_grams":-1}]}`, "negative"},
		"item twice":       {`{"catalogue":[{"item_id":"ITM-001"},{"item_id":"ITM-001"}]}`, "twice"},
		"courier twice":    {`{"couriers":[{"courier_id":"COU-001"},{"courier_id":"COU-001"}]}`, "twice"},
		"courier bad id":   {`{"couriers":[{"courier_id":"1"}]}`, `"1"`},
		"several values":   {`{} {}`, ""},
		"number for array": {`{"couriers":1}`, "couriers"},
	} {
		st := tandem.NewMapState()
		err := Service().Genesis(st, json.RawMessage(c.raw))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error about %q", name, err, c.want)
		}
		if !st.Equal(tandem.NewMapState()) {
			t.Errorf("%s: a refused genesis wrote state", name)
		}
	}
	for _, raw := range []string{"", "null", "{}"} {
		if err := Service().Genesis(tandem.NewMapState(), json.RawMessage(raw)); err != nil {
			t.Errorf("genesis %q: %v", raw, err)
		}
	}
}

// All encodings of the points of small order, canonical and not (Chalkias et al., Taming the many EdDSAs, table 1 and
// the encodings with the y coordinate not reduced), are weak; ordinary keys are not.
func TestWeakKeys(t *testing.T) {
	for _, s := range []string{
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0000000000000000000000000000000000000000000000000000000000000080",
		"0000000000000000000000000000000000000000000000000000000000000000",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"0100000000000000000000000000000000000000000000000000000000000080",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		key, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		if !weakKey(key) {
			t.Errorf("key %s has small order and is not weak", s)
		}
	}
	for _, name := range []string{"SUP-001", "SUP-002", "SUP-003", "x", "y", "z"} {
		if weakKey(DemoKey(name).Public().(ed25519.PublicKey)) {
			t.Errorf("the key of %s is called weak", name)
		}
	}
}
