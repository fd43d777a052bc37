package wire

import (
	"encoding/json"
	"strings"
	"testing"

	"tandem/internal/refusal"
)

type strictInner struct {
	N int `json:"n"`
}

type strictBase struct {
	Base string `json:"base"`
}

type strictSample struct {
	strictBase
	ID     string                 `json:"id"`
	List   []strictInner          `json:"list"`
	Map    map[string]strictInner `json:"map"`
	Ptr    *strictInner           `json:"ptr"`
	Raw    json.RawMessage        `json:"raw"`
	Any    any                    `json:"any"`
	Pair   [2]int                 `json:"pair"`
	Key    Digest                 `json:"key"`
	Hidden string                 `json:"-"`
	Plain  bool
}

func TestStrictJSONAccepts(t *testing.T) {
	for _, in := range []string{
		`{}`,
		`{"id":"x","list":[{"n":1},{"n":2}],"map":{"a":{"n":3}},"ptr":{"n":4},"Plain":true,"base":"b","pair":[1,2]}`,
		` {"raw":{"whatever":[1,{"Case":1,"case":2}]},"any":{"a":{"b":[]}}, "ptr":null} ` + "\n",
		`{"key":"` + strings.Repeat("ab", 32) + `","any":null,"raw":null,"map":null}`,
	} {
		var v strictSample
		if err := StrictJSON([]byte(in), 5, &v); err != nil {
			t.Errorf("%s: %v", in, err)
		}
	}
	var v strictSample
	if err := StrictJSON([]byte(`{"id":"x","list":[{"n":1}],"base":"b"}`), 5, &v); err != nil || v.ID != "x" || v.List[0].N != 1 || v.Base != "b" {
		t.Errorf("decoded %+v, %v", v, err)
	}
}

func TestStrictJSONRefuses(t *testing.T) {
	for in, want := range map[string]string{
		``:                                  "$",
		`{`:                                 "$",
		`{"id":"x"} {}`:                     "$",
		`{"id":"x","id":"x"}`:               `$: member "id" occurs twice`,
		`{"id":"x","\u0069d":"y"}`:          `member "id" occurs twice`,
		`{"ID":"x"}`:                        `unknown member "ID"`,
		`{"Id":"x"}`:                        `unknown member "Id"`,
		`{"other":1}`:                       `unknown member "other"`,
		`{"Hidden":"x"}`:                    `unknown member`,
		`{"-":"x"}`:                         `unknown member`,
		`{"plain":true}`:                    `unknown member "plain"`,
		`{"Base":"x"}`:                      `unknown member "Base"`,
		`{"list":[{"n":1},{"N":2}]}`:        `$.list[1]: unknown member "N"`,
		`{"map":{"a":{"n":1,"n":1}}}`:       `$.map.a: member "n" occurs twice`,
		`{"map":{"a":{"n":1},"a":{"n":1}}}`: `$.map: member "a" occurs twice`,
		`{"raw":{"x":1,"x":2}}`:             `$.raw: member "x" occurs twice`,
		`{"any":[{"x":1,"x":2}]}`:           `$.any[0]: member "x" occurs twice`,
		`{"ptr":{"m":1}}`:                   `$.ptr: unknown member "m"`,
		`{"id":null}`:                       `$.id: null`,
		`{"list":null}`:                     `$.list: null`,
		`{"list":[null]}`:                   `$.list[0]: null`,
		`{"key":null}`:                      `$.key: null`,
		`{"pair":[1,2,3]}`:                  `$.pair: more than 2`,
		`{"id":7}`:                          `$`,
		`{"list":[{"n":1.5}]}`:              `$`,
		`{"key":"AB"}`:                      `$`,
		`[]`:                                `$`,
		`null`:                              `$: null`,
		`{"any":[[[[[1]]]]]}`:               `nested deeper than 5`,
		"{\"id\":\"\xff\"}":                 "UTF-8",
		strings.Repeat("[", 20000):          "$",
		`{"any":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`: "nested deeper",
	} {
		var v strictSample
		err := StrictJSON([]byte(in), 5, &v)
		if !refusal.Has(err, refusal.BadJSON) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want bad-json with %q", in, err, want)
		}
	}
	if err := StrictJSON([]byte(`{}`), 5, strictSample{}); err == nil {
		t.Error("a target that is no pointer is accepted")
	}
}

// Whatever StrictJSON accepts, encoding/json accepts too and reads the same.
func FuzzStrictJSON(f *testing.F) {
	for _, s := range []string{`{}`, `{"id":"x"}`, `{"any":[1,2,{"a":null}]}`, `{"raw":1e5}`, `{"list":[{"n":1}]}`, `{"id":"\ud800"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v, w strictSample
		err := StrictJSON(data, 8, &v)
		if err != nil {
			if _, ok := refusal.As(err); !ok {
				t.Fatalf("%q: error without a code: %v", data, err)
			}
			return
		}
		if err := json.Unmarshal(data, &w); err != nil {
			t.Fatalf("%q: accepted, but encoding/json says %v", data, err)
		}
		a, _ := json.Marshal(v)
		b, _ := json.Marshal(w)
		if string(a) != string(b) {
			t.Fatalf("%q: %s against %s", data, a, b)
		}
	})
}
