package state

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"testing"

	ics23 "github.com/cosmos/ics23/go"
	"pgregory.net/rapid"

	"tandem/internal/wire"
)

// TestValueKeys checks that value records sort by key and then from new to old, that keys come back, and what Pebble
// asks of a comparer with prefixes.
func TestValueKeys(t *testing.T) {
	raw := rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 'a', 0xfe, 0xff}), 1, 6), func(b []byte) string { return string(b) })
	height := rapid.Uint64Range(0, 1<<63-1)
	rapid.Check(t, func(t *rapid.T) {
		a, b := raw.Draw(t, "a"), raw.Draw(t, "b")
		ha, hb := height.Draw(t, "height a"), height.Draw(t, "height b")
		ra, rb := valueKey(nil, []byte(a), ha), valueKey(nil, []byte(b), hb)
		if key, h, err := parseValueKey(ra); err != nil || string(key) != a || h != ha {
			t.Fatalf("parseValueKey = %q %d %v", key, h, err)
		}
		want := cmp.Compare(a, b)
		if want == 0 {
			want = cmp.Compare(hb, ha)
		}
		if got := comparer.Compare(ra, rb); got != want {
			t.Fatalf("records of %q@%d and %q@%d compare as %d, want %d", a, ha, b, hb, got, want)
		}
		if got := bytes.Compare(scanBound([]byte(a)), rb) <= 0; got != (a <= b) {
			t.Fatalf("scan from %q includes %q: %v", a, b, got)
		}
		pa, pb := ra[:split(ra)], rb[:split(rb)]
		if len(ra)-len(pa) != 8 || split(pa) != len(pa) {
			t.Fatalf("split(%q) = %d", ra, split(ra))
		}
		if got := cmp.Compare(bytes.Compare(pa, pb), 0); got != cmp.Compare(a, b) {
			t.Fatalf("prefixes of %q and %q compare as %d", a, b, got)
		}
		next := comparer.ImmediateSuccessor(nil, pa)
		if split(next) != len(next) || comparer.Compare(next, ra) <= 0 || a < b && comparer.Compare(next, rb) > 0 {
			t.Fatalf("ImmediateSuccessor(%q) = %q, with %q following", pa, next, rb)
		}
		if a < b {
			if s := comparer.Separator(nil, ra, rb); comparer.Compare(s, ra) < 0 || comparer.Compare(s, rb) >= 0 {
				t.Fatalf("Separator(%q, %q) = %q", ra, rb, s)
			}
		}
	})
}

// TestSplitOrders checks, for byte strings that Pebble may make up, that comparing prefixes and then the rest is the
// same as comparing the whole.
func TestSplitOrders(t *testing.T) {
	part := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 'k', 'p', 0xff}), 0, 8)
	rapid.Check(t, func(t *rapid.T) {
		a := append([]byte{'k'}, part.Draw(t, "a")...)
		b := append([]byte{'k'}, part.Draw(t, "b")...)
		want := bytes.Compare(a[:split(a)], b[:split(b)])
		if want == 0 {
			want = bytes.Compare(a[split(a):], b[split(b):])
		}
		if got := comparer.Compare(a, b); got != want {
			t.Fatalf("%q and %q compare as %d, by parts %d", a, b, got, want)
		}
	})
}

// TestCommitted checks that what the trie commits to is never empty and never the same for two values.
func TestCommitted(t *testing.T) {
	for value, want := range map[string]string{"": emptyValue, "x": "x", emptyValue: emptyValue + emptyValue,
		emptyValue + "x": emptyValue + "x", emptyValue[1:]: emptyValue[1:]} {
		if got := string(Committed([]byte(value))); got != want {
			t.Errorf("Committed(%q) = %q, want %q", value, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := valueGen().Draw(t, "a"), valueGen().Draw(t, "b")
		ca, cb := Committed([]byte(a)), Committed([]byte(b))
		if len(ca) == 0 || (a == b) != bytes.Equal(ca, cb) {
			t.Fatalf("Committed(%q) = %q, Committed(%q) = %q", a, ca, b, cb)
		}
	})
}

// TestTamperedProofs changes every byte of a proof of presence and of one of absence, and their keys, values and roots: no
// change verifies as what it is not.
func TestTamperedProofs(t *testing.T) {
	s := openStore(t, nil, t.TempDir(), 0)
	defer closeStore(t, s)
	m := model{}
	m.apply(sets("a", "1", "b", "2", "c", "3", "d", "4", "e", "5", "f", "6"))
	root := commit(t, s, 1, 0, asChanges(m))
	proofOf := func(key string) []byte {
		proof, err := s.Prove(1, []byte(key))
		if err != nil {
			t.Fatal(err)
		}
		b, err := proof.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	present, absent := proofOf("c"), proofOf("x")
	verify := func(encoded []byte, key, value string, root wire.Digest) (is, isNot bool) {
		var proof ics23.CommitmentProof
		if proof.Unmarshal(encoded) != nil {
			return false, false
		}
		defer func() {
			if recover() != nil { // ics23's verifier panics on some malformed proofs: refused as well
				is, isNot = false, false
			}
		}()
		return ics23.VerifyMembership(ics23.SmtSpec, root[:], &proof, []byte(key), []byte(value)),
			ics23.VerifyNonMembership(ics23.SmtSpec, root[:], &proof, []byte(key))
	}
	if is, isNot := verify(present, "c", "3", root); !is || isNot {
		t.Fatalf("proof of presence: %v %v", is, isNot)
	}
	if is, isNot := verify(absent, "x", "", root); is || !isNot {
		t.Fatalf("proof of absence: %v %v", is, isNot)
	}
	// A changed proof may still prove the truth, if the change was in a field that the verifier does not use. It must
	// never prove anything else.
	for _, proof := range [][]byte{present, absent} {
		flip(proof, func(at int) {
			for key, value := range map[string]string{"c": "4", "a": "2", "x": "1"} {
				if is, _ := verify(proof, key, value, root); is {
					t.Errorf("bit %d flipped: proves %q = %q", at, key, value)
				}
			}
			for key := range m {
				if _, isNot := verify(proof, key, "", root); isNot {
					t.Errorf("bit %d flipped: proves that %q is absent", at, key)
				}
			}
		})
	}
	flip(root[:], func(at int) {
		is, _ := verify(present, "c", "3", root)
		if _, isNot := verify(absent, "x", "", root); is || isNot {
			t.Errorf("proofs verify against a root with bit %d flipped", at)
		}
	})
	other, _ := verify(present, "d", "3", root)
	if _, gone := verify(absent, "c", "", root); other || gone {
		t.Error("a proof verifies for another key")
	}
	changed, _ := verify(present, "c", "4", root)
	if changed {
		t.Error("a proof verifies for another value")
	}
}

// TestDamagedValueIsNotProved puts another value under a key behind the trie's back: Prove and Verify must notice.
func TestDamagedValueIsNotProved(t *testing.T) {
	s := openStore(t, nil, t.TempDir(), 0)
	defer closeStore(t, s)
	commit(t, s, 1, 0, sets("a", "1", "b", "2"))
	if err := s.db.Set(valueKey(nil, []byte("a"), 1), []byte{markPresent, '9'}, nil); err != nil {
		t.Fatal(err)
	}
	_, proveErr := s.Prove(1, []byte("a"))
	_, exportErr := s.Export(1, func(int, []byte) error { return nil })
	for what, err := range map[string]error{"Prove": proveErr, "Verify": s.Verify(1), "Export": exportErr} {
		if !isDamaged(err) {
			t.Errorf("%s: %v, want ErrDamaged", what, err)
		}
	}
	if _, err := s.Stage(nil); !isDamaged(err) {
		t.Errorf("Stage after damage was found: %v, want ErrDamaged", err)
	}
}

// TestWrongPageIsNotUsed puts a page of the same trie, whole and well formed, in the place of another: whatever reads it must
// notice that it is not the page its parent names.
func TestWrongPageIsNotUsed(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, nil, dir, 0)
	var kv []string
	for i := range 200 {
		kv = append(kv, string(keyN(i)), "v")
	}
	commit(t, s, 1, 0, sets(kv...))
	var first, second []byte
	for _, k := range records(t, s) {
		if k[0] == keyPage && k[9] == 1 { // depth 4
			first, second = second, []byte(k)
		}
	}
	page, err := read(s.db, first)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.db.Set(second, page, nil); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s) // and with it the cache
	s = openStore(t, nil, dir, 0)
	defer func() { closeStore(t, s) }()
	damaged := 0
	for i := range 200 {
		if _, err := s.Prove(1, keyN(i)); isDamaged(err) {
			damaged++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if damaged == 0 || damaged == 200 {
		t.Errorf("%d of 200 proofs noticed the wrong page", damaged)
	}
	if err := s.Verify(1); !isDamaged(err) {
		t.Errorf("Verify: %v, want ErrDamaged", err)
	}
	closeStore(t, s) // the damage that was found would refuse every Stage
	s = openStore(t, nil, dir, 0)
	refused := 0
	for i := range 200 {
		if _, err := s.Stage(sets(fmt.Sprint("new", i), "v")); isDamaged(err) {
			refused++
			break
		}
	}
	if refused == 0 {
		t.Error("Stage computes roots with a wrong page")
	}
}

// TestVerifyFindsStrayValues adds a value that no leaf commits to.
func TestVerifyFindsStrayValues(t *testing.T) {
	s := openStore(t, nil, t.TempDir(), 0)
	defer closeStore(t, s)
	commit(t, s, 1, 0, sets("a", "1", "b", "2"))
	if err := s.db.Set(valueKey(nil, []byte("c"), 1), []byte{markPresent, '9'}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(1); !isDamaged(err) {
		t.Errorf("Verify: %v, want ErrDamaged", err)
	}
}

// FuzzPage feeds pages to the parser: what it takes must be what the encoder makes of it.
func FuzzPage(f *testing.F) {
	u := update{}
	root, err := u.apply(nil, 0, editsOf(sets("a", "1", "b", "2", "c", "3", "d", "4")))
	if err != nil {
		f.Fatal(err)
	}
	st := Staged{root: root, update: u}
	st.settle(7)
	for _, p := range u.fresh {
		f.Add(appendNode(nil, p.child.left))
	}
	f.Add([]byte{2, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parsePage(b)
		if err != nil {
			return
		}
		if again := appendNode(nil, n); !bytes.Equal(again, b) {
			t.Errorf("page %x comes back as %x", b, again)
		}
	})
}

// FuzzRecords feeds bytes to the parsers of all other records.
func FuzzRecords(f *testing.F) {
	f.Add((&version{height: 5, blockTime: 7, previous: 4, root: &node{kind: leaf, key: []byte("k"), version: 3}}).encode())
	f.Add((&version{height: 1, previous: -1}).encode())
	list := stale{[]pageID{{3, place{wire.Digest{0xf0}, 4}}}, []staleValue{{[]byte("k"), 9, true}}}
	f.Add(list.encode())
	f.Add(valueKey(nil, []byte("a\x00b"), 5))
	f.Add([]byte{markPresent, 'x'})
	slot := slotOf(9)
	f.Add(slot[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := parseVersion(1<<40, b); err == nil && !bytes.Equal(v.encode(), b) {
			t.Errorf("version %x comes back as %x", b, v.encode())
		}
		if s, err := parseStale(b); err == nil && !bytes.Equal(s.encode(), b) {
			t.Errorf("stale list %x comes back as %x", b, s.encode())
		}
		if key, height, err := parseValueKey(b); err == nil && !bytes.Equal(valueKey(nil, key, height), b) {
			t.Errorf("value key %x comes back as %x", b, valueKey(nil, key, height))
		}
		if n := split(b); n > len(b) || split(b[:n]) != n {
			t.Errorf("split(%x) = %d", b, n)
		}
		if _, _, err := parseValue(b); err == nil && len(b) == 0 {
			t.Error("an empty value record is taken")
		}
		if h := parseWitness(b); h >= 0 && len(b) < witnessSlot {
			t.Errorf("%d bytes witness height %d", len(b), h)
		}
	})
}

// FuzzSnapshot feeds bytes to the parsers of manifests and chunks. Manifests get a right checksum, to come further.
func FuzzSnapshot(f *testing.F) {
	m := Manifest{Height: 3, BlockTime: 9, Root: wire.Digest{1}, Keys: 2, Chunks: []wire.Digest{{2}, {3}}}.Encode()
	f.Add(m[:len(m)-sha256.Size])
	f.Add([]byte{1, 'k', 0, 2, 'k', 'l', 1, 'v'})
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := sha256.Sum256(b)
		whole := append(bytes.Clone(b), sum[:]...)
		if m, err := ParseManifest(whole); err == nil && !bytes.Equal(m.Encode(), whole) {
			t.Errorf("manifest %x comes back as %x", whole, m.Encode())
		}
		if _, err := ParseManifest(b); err == nil && len(b) < len(manifestMark)+sha256.Size {
			t.Error("a short manifest is taken")
		}
		entries, err := parseChunk(b)
		if err != nil {
			return
		}
		for _, e := range entries {
			if len(e.Key) == 0 || len(e.Key) > MaxKey || len(e.Value) > MaxValue {
				t.Errorf("chunk with a key of %d and a value of %d bytes is taken", len(e.Key), len(e.Value))
			}
		}
	})
}
