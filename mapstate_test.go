package tandem

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// MapState is a sorted map whose scans show the state as it was when they began.
func TestMapState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st, model := NewMapState(), map[string]string{}
		key := rapid.SampledFrom([]string{"a", "aa", "ab", "b", "\x00", "\xff", "a\x00"})
		read := func(start, end []byte) (got []string) {
			for k, v := range st.Scan(start, end) {
				got = append(got, string(k)+"="+string(v))
				st.Set([]byte(key.Draw(t, "meanwhile")), []byte("new"))
				st.Delete(k)
			}
			return got
		}
		for range rapid.IntRange(1, 30).Draw(t, "operations") {
			k := key.Draw(t, "key")
			switch rapid.IntRange(0, 2).Draw(t, "op") {
			case 0:
				v := []byte(rapid.StringN(0, 3, 3).Draw(t, "value"))
				st.Set([]byte(k), v)
				model[k] = string(v)
				clear(v) // Set keeps a copy
			case 1:
				st.Delete([]byte(k))
				delete(model, k)
			case 2:
				v, ok := st.Get([]byte(k))
				if want, has := model[k]; ok != has || string(v) != want {
					t.Fatalf("Get(%q) = %q, %t; want %q, %t", k, v, ok, want, has)
				}
			}
		}
		start := []byte(rapid.SampledFrom([]string{"", "a", "ab", "z"}).Draw(t, "start"))
		end := []byte(rapid.SampledFrom([]string{"", "a\x01", "b"}).Draw(t, "end"))
		if rapid.Bool().Draw(t, "to the last key") {
			end = nil
		}
		var want []string
		for _, k := range slices.Sorted(maps.Keys(model)) {
			if k >= string(start) && (end == nil || k < string(end)) {
				want = append(want, k+"="+model[k])
			}
		}
		if got := read(start, end); !slices.Equal(got, want) {
			t.Fatalf("Scan(%q, %q) = %q, want %q", start, end, got, want)
		}
	})
}

func TestMapStateEqual(t *testing.T) {
	a, b := NewMapState(), NewMapState()
	a.Set([]byte("k"), []byte("v"))
	if a.Equal(b) {
		t.Error("a missing key does not show")
	}
	b.Set([]byte("k"), nil)
	if a.Equal(b) {
		t.Error("another value does not show")
	}
	b.Set([]byte("k"), []byte("v"))
	b.Set([]byte("l"), nil)
	b.Delete([]byte("l"))
	b.Delete([]byte("never there"))
	if !a.Equal(b) {
		t.Error("equal states differ")
	}
}

// A service's own tests find keys and values over the limits.
func TestMapStateLimits(t *testing.T) {
	st, long := NewMapState(), make([]byte, MaxKey+1)
	for name, do := range map[string]func(){
		"empty key in Get":    func() { st.Get(nil) },
		"empty key in Set":    func() { st.Set([]byte{}, nil) },
		"long key in Delete":  func() { st.Delete(long) },
		"large value in Set":  func() { st.Set([]byte("k"), make([]byte, MaxValue+1)) },
		"long key in Set":     func() { st.Set(long, nil) },
		"empty key in Delete": func() { st.Delete(nil) },
	} {
		if got := panicText(do); !strings.HasPrefix(got, "tandem: ") {
			t.Errorf("%s: panic %q", name, got)
		}
	}
	st.Set(long[1:], make([]byte, MaxValue))
}
