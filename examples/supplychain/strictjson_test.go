package supplychain

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// RFC 8259 section 4: names within an object should be unique; here they must be, also across letter case, because
// encoding/json would let the last one win in silence.
func TestStrictJSON(t *testing.T) {
	for body, refused := range map[string]string{
		`{}`:                        "",
		`{"a":{"b":1},"c":{"b":2}}`: "",
		`[{"a":1},{"a":2}]`:         "",
		`"text"`:                    "",
		` 12 `:                      "",
		strings.Repeat("[", 16) + strings.Repeat("]", 16):           "",
		strings.Repeat("[", 17) + strings.Repeat("]", 17):           "deeper",
		strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17): "deeper",
		`{"a":1,"a":2}`:                 "twice",
		`{"a":1,"A":2}`:                 "twice",
		"{\"k\":1,\"\u212a\":2}":        "twice", // the Kelvin sign folds to k
		"{\"s\":1,\"\u017f\":2}":        "twice", // the long s folds to s
		`{"a":1,"\u0061":2}`:            "twice",
		`{"x":{"a":1,"a":2}}`:           "twice",
		`{"x":[{"a":1},{"a":1,"a":2}]}`: "twice",
		`{`:                             "not JSON",
		`{"a":1,}`:                      "not JSON",
		`{"a":1} {}`:                    "not JSON",
		`{'a':1}`:                       "not JSON",
		``:                              "not JSON",
		`NaN`:                           "not JSON",
		"\"\xff\"":                      "UTF-8",
		"\ufeff{}":                      "not JSON",
	} {
		why := strictJSON([]byte(body))
		if (refused == "") != (why == "") || !strings.Contains(why, refused) {
			t.Errorf("%.60q: %q, want %q", body, why, refused)
		}
	}
}

// Whatever strictJSON admits, encoding/json reads, and no object in it has two names that encoding/json could confuse.
func FuzzStrictJSON(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1,"A":2}`, `[[[[]]]]`, "{\"k\":1,\"\u212a\":2}", `{"a":[{"b":null}]}`, "\xff", `1 2`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if strictJSON(body) != "" {
			return
		}
		var v any
		if !utf8.Valid(body) || json.Unmarshal(body, &v) != nil {
			t.Fatalf("admitted %q", body)
		}
		var check func(v any, depth int)
		check = func(v any, depth int) {
			if depth > maxDepth+1 {
				t.Fatalf("admitted depth %d", depth)
			}
			switch v := v.(type) {
			case []any:
				for _, e := range v {
					check(e, depth+1)
				}
			case map[string]any:
				var names []string
				for name, e := range v {
					for _, other := range names {
						if strings.EqualFold(name, other) {
							t.Fatalf("admitted %q beside %q", name, other)
						}
					}
					names = append(names, name)
					check(e, depth+1)
				}
			}
		}
		check(v, 1)
	})
}
