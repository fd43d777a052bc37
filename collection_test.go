package tandem

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

type thing struct {
	Color string   `json:"color"`
	Tags  []string `json:"tags,omitempty"`
	Count int      `json:"count"`
}

func things() *Collection[thing] {
	return NewCollection("things", By("color", func(x thing) string { return x.Color }),
		Index[thing]{"tag", func(x thing) []string { return x.Tags }})
}

// hostile are ids and index values that a careless encoding would confuse.
var hostile = []string{
	"a", "ab", "b", "a\x00", "a\x00\x01", "a\x00\x01b", "\x00", "\x00\x00", "\x00\xff", "\x00\x01", "\x00\x02", "\xff",
	"/", "a/b", "r/a", "i/color/", "é", "\x01", strings.Repeat("x", MaxID), strings.Repeat("x", MaxID-1), " ", "%2F",
}

// A Collection behaves as a map of items with lists computed from scratch.
func TestCollectionAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, st, model := things(), NewMapState(), map[string]thing{}
		neighbour := NewCollection[thing]("things-2")
		neighbour.Put(st, "a", thing{Count: 7})

		id := rapid.SampledFrom(hostile)
		// as JSON, so an index value is valid UTF-8; long ones are kept as their hash
		value := rapid.SampledFrom([]string{"", "a", "ab", "\x00", "a\x00", "a\x00\x01", "\x00\x02", "é",
			strings.Repeat("v", maxIndexValue), strings.Repeat("v", maxIndexValue+1), strings.Repeat("v", 5000)})
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				k := id.Draw(t, "id")
				x := thing{value.Draw(t, "color"), rapid.SliceOfN(value, 0, 3).Draw(t, "tags"), rapid.Int().Draw(t, "count")}
				if len(x.Tags) == 0 {
					x.Tags = nil
				}
				c.Put(st, k, x)
				model[k] = x
			},
			"delete": func(t *rapid.T) {
				k := id.Draw(t, "id")
				if _, had := model[k]; c.Delete(st, k) != had {
					t.Fatalf("Delete(%q) does not report %t", k, had)
				}
				delete(model, k)
			},
			"get": func(t *rapid.T) {
				k := id.Draw(t, "id")
				x, ok := c.Get(st, k)
				if want, has := model[k]; ok != has || c.Has(st, k) != has || !reflect.DeepEqual(x, want) {
					t.Fatalf("Get(%q) = %v, %t; want %v, %t", k, x, ok, want, has)
				}
			},
			"list": func(t *rapid.T) {
				q := Query{Limit: rapid.IntRange(0, 5).Draw(t, "limit")}
				match := func(thing) bool { return true }
				switch rapid.IntRange(0, 2).Draw(t, "index") {
				case 1:
					q.Index, q.Value = "color", value.Draw(t, "value")
					match = func(x thing) bool { return x.Color == q.Value }
				case 2:
					q.Index, q.Value = "tag", value.Draw(t, "value")
					match = func(x thing) bool { return slices.Contains(x.Tags, q.Value) }
				}
				var want []string
				for _, k := range slices.Sorted(maps.Keys(model)) {
					if match(model[k]) {
						want = append(want, k)
					}
				}
				var got []string
				for {
					page, err := c.List(st, q)
					if err != nil {
						t.Fatal(err)
					}
					if len(page.Items) != len(page.IDs) || q.Limit > 0 && len(page.Items) > q.Limit || page.Items == nil {
						t.Fatalf("a page of %d items and %d ids", len(page.Items), len(page.IDs))
					}
					for i, k := range page.IDs {
						if !reflect.DeepEqual(page.Items[i], model[k]) {
							t.Fatalf("item %q is %v, want %v", k, page.Items[i], model[k])
						}
					}
					got = append(got, page.IDs...)
					if page.Next == "" {
						break
					}
					if len(page.Items) == 0 {
						t.Fatal("an empty page with a cursor")
					}
					q.After = page.Next
				}
				if !slices.Equal(got, want) {
					t.Fatalf("List(%+v) gives %q, want %q", q, got, want)
				}
				got = nil
				seq := c.All(st)
				if q.Index != "" {
					seq = c.Where(st, q.Index, q.Value)
				}
				for k := range seq {
					got = append(got, k)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("iterating gives %q, want %q", got, want)
				}
			},
			"": func(t *rapid.T) { // invariant: the state holds exactly the items and their index entries
				fresh := NewMapState()
				neighbour.Put(fresh, "a", thing{Count: 7})
				for k, x := range model {
					c.Put(fresh, k, x)
				}
				if !st.Equal(fresh) {
					t.Fatal("the state depends on its history, not only on the items")
				}
			},
		})
	})
}

// A cursor goes on after the last id, whatever was put and deleted meanwhile, and only for its own list.
func TestCursor(t *testing.T) {
	c, st := things(), NewMapState()
	for i := range 10 {
		c.Put(st, fmt.Sprintf("%02d", i), thing{Color: "red", Tags: []string{"x"}})
	}
	page, err := c.List(st, Query{Limit: 4})
	if err != nil || !slices.Equal(page.IDs, []string{"00", "01", "02", "03"}) {
		t.Fatal(page, err)
	}
	c.Delete(st, "03")
	c.Put(st, "030", thing{})
	c.Put(st, "00a", thing{})
	page2, err := c.List(st, Query{Limit: 2, After: page.Next})
	if err != nil || !slices.Equal(page2.IDs, []string{"030", "04"}) {
		t.Fatal(page2, err)
	}
	raw, _ := base64.RawURLEncoding.DecodeString(page.Next)
	for name, q := range map[string]Query{
		"other index": {Index: "color", After: page.Next},
		"other value": {Index: "tag", Value: "x", After: page.Next},
		"no base64":   {After: "!"},
		"padded":      {After: page.Next + "="},
		"line break":  {After: page.Next + "\n"},
		"too short":   {After: base64.RawURLEncoding.EncodeToString(raw[:8])},
		"id too long": {After: base64.RawURLEncoding.EncodeToString(append(raw[:8:8], make([]byte, MaxID+1)...))},
		"other tag":   {After: base64.RawURLEncoding.EncodeToString(append([]byte{raw[0] ^ 1}, raw[1:]...))},
		"loose bits":  {After: page.Next[:len(page.Next)-1] + string(page.Next[len(page.Next)-1]+1)},
	} {
		if _, err := c.List(st, q); !errors.Is(err, ErrCursor) {
			t.Errorf("%s: %v, want ErrCursor", name, err)
		}
	}
	if _, err := NewCollection[thing]("other").List(st, Query{After: page.Next}); !errors.Is(err, ErrCursor) {
		t.Error("another collection takes the cursor")
	}
}

func TestListLimits(t *testing.T) {
	c, st := NewCollection[int]("n"), NewMapState()
	for i := range MaxLimit + 1 {
		c.Put(st, fmt.Sprintf("%05d", i), i)
	}
	for limit, want := range map[int]int{-1: DefaultLimit, 0: DefaultLimit, 1: 1, MaxLimit: MaxLimit, MaxLimit + 1: MaxLimit} {
		if page, err := c.List(st, Query{Limit: limit}); err != nil || len(page.Items) != want || page.Next == "" {
			t.Errorf("limit %d: %d items, want %d; %v", limit, len(page.Items), want, err)
		}
	}
}

// An id comes from a user: one that cannot exist is not found, but must not be put.
func TestIDsThatCannotExist(t *testing.T) {
	c, st := things(), NewMapState()
	for _, id := range []string{"", strings.Repeat("x", MaxID+1), strings.Repeat("x", 8000)} {
		if _, ok := c.Get(st, id); ok || c.Has(st, id) || c.Delete(st, id) {
			t.Errorf("an id of %d bytes is found", len(id))
		}
		if got := panicText(func() { c.Put(st, id, thing{}) }); !strings.Contains(got, "an id has 1 to 256") {
			t.Errorf("Put with an id of %d bytes: panic %q", len(id), got)
		}
	}
}

// The loop's body may delete what the loop has yet to reach.
func TestDeleteWhileIterating(t *testing.T) {
	c, st := things(), NewMapState()
	for i := range 4 {
		c.Put(st, fmt.Sprint(i), thing{Color: "red"})
	}
	var seen []string
	for id := range c.Where(st, "color", "red") {
		seen = append(seen, id)
		c.Delete(st, "0")
		c.Delete(st, "2")
	}
	if !slices.Equal(seen, []string{"0", "1", "3"}) {
		t.Errorf("seen %q", seen)
	}
}

// What is in the state but does not fit the type is a fault, told in words.
func TestForeignBytes(t *testing.T) {
	c, st := things(), NewMapState()
	st.Set([]byte("things/r/x"), []byte("["))
	if got := panicText(func() { c.Get(st, "x") }); !strings.Contains(got, `item "x" in the state does not fit tandem.thing`) {
		t.Errorf("panic %q", got)
	}
}

// Keys and values are bytes that other nodes must compute too: golden ones.
func TestCollectionBytes(t *testing.T) {
	c, st := things(), NewMapState()
	c.Put(st, "id/1", thing{Color: "re\x00d", Tags: []string{"b", "a", "b"}, Count: 3})
	var got []string
	for k, v := range st.Scan(nil, nil) {
		got = append(got, fmt.Sprintf("%q: %q", k, v))
	}
	want := []string{
		`"things/i/color/re\x00\xffd\x00\x01id/1": "\x01"`,
		`"things/i/tag/a\x00\x01id/1": "\x01"`,
		`"things/i/tag/b\x00\x01id/1": "\x01"`,
		`"things/r/id/1": "{\"color\":\"re\\u0000d\",\"tags\":[\"b\",\"a\",\"b\"],\"count\":3}"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// The longest id under the longest index value in the longest names fits a key.
func TestLongestKey(t *testing.T) {
	name := strings.Repeat("n", maxName)
	c := NewCollection(name, By(name, func(s string) string { return strings.Repeat("\x00", maxIndexValue) }))
	c.Put(NewMapState(), strings.Repeat("i", MaxID), "")
}

type recursive struct {
	Next *recursive
	List []recursive
}

type hidden struct {
	secret map[string]float64
	Skip   any `json:"-"`
	At     time.Time
}

func TestCollectionTypes(t *testing.T) {
	for name, make := range map[string]func(){
		"map":                        func() { NewCollection[map[string]int]("x") },
		"map in struct":              func() { NewCollection[struct{ A struct{ B []map[int]int } }]("x") },
		"float":                      func() { NewCollection[struct{ Weight float64 }]("x") },
		"float32":                    func() { NewCollection[[]float32]("x") },
		"interface":                  func() { NewCollection[struct{ V any }]("x") },
		"error":                      func() { NewCollection[struct{ V error }]("x") },
		"function":                   func() { NewCollection[struct{ F func() }]("x") },
		"channel":                    func() { NewCollection[*chan int]("x") },
		"complex":                    func() { NewCollection[complex64]("x") },
		"embedded":                   func() { NewCollection[struct{ embedded }]("x") },
		"MarshalJSON of the pointer": func() { NewCollection[struct{ N big.Int }]("x") },
		"name empty":                 func() { NewCollection[int]("") },
		"name with /":                func() { NewCollection[int]("a/b") },
		"name too long":              func() { NewCollection[int](strings.Repeat("x", maxName+1)) },
		"name in capital":            func() { NewCollection[int]("Things") },
		"index name":                 func() { NewCollection("x", By("", func(int) string { return "" })) },
		"index twice": func() {
			NewCollection("x", By("a", func(int) string { return "" }), By("a", func(int) string { return "" }))
		},
		"index without function": func() { NewCollection("x", Index[int]{Name: "a"}) },
		"unknown index in List":  func() { things().List(NewMapState(), Query{Index: "size"}) },
		"unknown index in Where": func() { things().Where(NewMapState(), "size", "") },
	} {
		if got := panicText(make); !strings.HasPrefix(got, "tandem: ") {
			t.Errorf("%s: panic %q", name, got)
		}
	}
	NewCollection[struct{ N *big.Int }]("ok")
	NewCollection[recursive]("ok")
	_ = hidden{}.secret
	NewCollection[hidden]("ok")
	NewCollection[struct {
		A [3]uint8
		B *bool
		C []byte
	}]("ok")
}

type embedded struct{ Ratio float64 }

// A cursor is text from outside: whatever it is, List gives a page or ErrCursor, and takes back only what it gave.
func FuzzCursor(f *testing.F) {
	c, st := things(), NewMapState()
	for i := range 5 {
		c.Put(st, fmt.Sprint(i), thing{})
	}
	page, _ := c.List(st, Query{Limit: 1})
	f.Add(page.Next)
	f.Add("")
	f.Add("AAAAAAAAAAAA")
	f.Add("====")
	f.Fuzz(func(t *testing.T, after string) {
		page, err := c.List(st, Query{After: after})
		if err != nil {
			if !errors.Is(err, ErrCursor) {
				t.Fatal(err)
			}
			return
		}
		if id, _ := c.openCursor(Query{After: after}); after != "" && c.cursor(Query{}, id) != after {
			t.Fatalf("two cursors for the id %q", id)
		}
		if len(page.Items) > 5 {
			t.Fatal("more items than there are")
		}
	})
}

// No path makes Lookup panic, and what it finds it finds under the path as it is.
func FuzzLookup(f *testing.F) {
	for _, p := range []string{"/a/1", "/a/%2F", "/a/../b", "//", "/a/%", "/tree", "", "*", "/\x00", "/é"} {
		f.Add("GET", p)
	}
	f.Add("CONNECT", "/tree")
	reg := registry("GET /a/{id}", "/tree/", "POST /x/{rest...}")
	f.Fuzz(func(t *testing.T, method, path string) {
		h, pattern, ok := reg.Lookup(method, path)
		if ok != (h != nil) || ok != (pattern != "") {
			t.Fatal("Lookup contradicts itself")
		}
		if ok && (strings.Contains(path, "//") || strings.Contains(path+"/", "/../") || strings.Contains(path+"/", "/./")) {
			t.Fatalf("%q was cleaned on the way", path)
		}
		if allowed := reg.Allowed(path); ok && method != "" && !slices.Contains(allowed, method) && pattern != "/tree/" {
			t.Fatalf("%s %s has a handler, but only %q are allowed", method, path, allowed)
		}
	})
}
