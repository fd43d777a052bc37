package layer2

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tandem/internal/state"
	"tandem/internal/wire"
)

// "a hint before commit: a step that touches what another open session has written says so in the answer": never a lock,
// never part of what is signed.
func TestHints(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	writer, reader := w.user("alice"), w.user("bob")
	if a := writer.do("POST", "/set/a", "x", 201); len(a.Hints) != 0 || a.Signed.Get(HeaderHint) != "" {
		t.Errorf("the first to touch a key is warned: %v", a.Hints)
	}
	if a := writer.do("GET", "/get/a", "", 200); len(a.Hints) != 0 {
		t.Errorf("a session is warned of itself: %v", a.Hints)
	}
	a := reader.do("GET", "/get/a", "", 200)
	if want := fmt.Sprintf(`"%s";by=read;key="a/kv/a"`, writer.id); a.Signed.Get(HeaderHint) != want {
		t.Errorf("reading: %q, want %q", a.Signed.Get(HeaderHint), want)
	}
	if strings.Contains(strings.Join(a.Signed["Signature-Input"], ""), "hint") {
		t.Error("the hint is signed")
	}
	if again, err := reader.w.engine.Step(t.Context(), &reader.last); err != nil || !again.Repeated || len(again.Hints) != 0 {
		t.Errorf("a retry: %+v, %v", again, err)
	}
	if a := reader.do("GET", "/list", "", 200); a.Signed.Get(HeaderHint) != fmt.Sprintf(`"%s";by=read;key="a/kv/a"`, writer.id) {
		t.Errorf("a scan: %q", a.Signed.Get(HeaderHint))
	}
	if a := reader.do("GET", "/get/b", "", 200); len(a.Hints) != 0 {
		t.Errorf("another key: %v", a.Hints)
	}
	if a := reader.do("POST", "/set/a", "y", 201); a.Signed.Get(HeaderHint) != fmt.Sprintf(`"%s";by=write;key="a/kv/a"`, writer.id) {
		t.Errorf("writing: %q", a.Signed.Get(HeaderHint))
	}
	third := w.user("bob")
	if a := third.do("GET", "/get/a", "", 200); len(a.Hints) != 2 {
		t.Errorf("two others have written it: %v", a.Hints)
	}
	w.crash() // the index comes back with the sessions
	if a := third.do("GET", "/get/a", "", 200); len(a.Hints) != 2 {
		t.Errorf("after a restart: %v", a.Hints)
	}
	if _, err := writer.commit(); err != nil {
		t.Fatal(err)
	}
	w.settleDown()
	if len(w.engine.hints.by) != 0 { // writer committed, reader conflicted, third has written nothing (and conflicted)
		t.Errorf("%d sessions are left in the index", len(w.engine.hints.by))
	}
	if a := w.user("alice").do("GET", "/get/a", "", 200); len(a.Hints) != 0 {
		t.Errorf("sessions that have ended are named: %v", a.Hints)
	}
	if a, b := writer.status(), reader.status(); a.Status.String() != "committed" || b.Status.String() != "conflicted" {
		t.Errorf("a hint is no lock: %v, %v", a.Status, b.Status)
	}
}

func TestHintHeader(t *testing.T) {
	id := wire.SessionID{}
	for key, want := range map[string]string{
		"a/b":                    "a/b",
		`q"\`:                    `q\"\\`,
		"\x00\xff":               "0x00ff",
		strings.Repeat("k", 300): strings.Repeat("k", maxHintKey),
	} {
		if got := hintHeader([]Hint{{Session: id, Key: []byte(key)}}); got != fmt.Sprintf(`"%s";by=read;key="%s"`, id, want) {
			t.Errorf("%q: %s", key, got)
		}
	}
}

// The index against a model: a map from sessions to what they have written.
func TestHintIndexAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newHintIndex()
		owners := make([]*owner, 5)
		for i := range owners {
			owners[i] = &owner{id: wire.SessionID{byte(i + 1)}}
		}
		model := map[*owner]map[string]bool{}
		key := rapid.StringMatching(`[a-d]{0,3}`)
		for range rapid.IntRange(1, 60).Draw(t, "moves") {
			o := owners[rapid.IntRange(0, len(owners)-1).Draw(t, "session")]
			switch rapid.IntRange(0, 3).Draw(t, "move") {
			case 0:
				x.drop(o)
				delete(model, o)
			case 1, 2:
				overlay := state.NewOverlay(nothing{})
				for _, k := range rapid.SliceOfN(key, 0, 6).Draw(t, "writes") {
					overlay.Set([]byte(k), nil)
				}
				if model[o] == nil {
					model[o] = map[string]bool{}
				}
				x.step(o, overlay.Reads(), overlay.Changes())
				for _, c := range overlay.Changes() {
					model[o][string(c.Key)] = true
				}
			case 3:
				overlay := state.NewOverlay(nothing{})
				one, from, to := key.Draw(t, "key"), key.Draw(t, "from"), key.Draw(t, "to")
				_, _, _ = overlay.Get([]byte(one))
				for range overlay.Scan([]byte(from), []byte(to)) {
				}
				var got, want []string
				for _, h := range x.step(o, overlay.Reads(), nil) {
					got = append(got, h.Session.String())
				}
				for other, keys := range model {
					meets := false
					for k := range keys {
						meets = meets || k == one || k >= from && k < to
					}
					if meets && other != o {
						want = append(want, other.id.String())
					}
				}
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Fatalf("key %q, range %q to %q: %v, want %v", one, from, to, got, want)
				}
			}
		}
		for _, o := range owners {
			x.drop(o)
		}
		if len(x.chunks) != 0 || len(x.by) != 0 {
			t.Fatalf("left behind: %v", x.chunks)
		}
	})
}

// Chunks are split and found again when there are many keys.
func TestHintIndexWithManyKeys(t *testing.T) {
	x := newHintIndex()
	owners := make([]*owner, 50)
	for i := range owners {
		owners[i] = &owner{id: wire.SessionID{byte(i + 1)}}
		var writes []state.Change
		for k := range 100 {
			writes = append(writes, state.Change{Key: fmt.Appendf(nil, "key%05d", (k*7919+i*31)%5003)})
		}
		x.replace(owners[i], writes)
	}
	last, keys := "", 0
	for _, c := range x.chunks {
		if len(c) == 0 || len(c) > maxChunk {
			t.Fatalf("a chunk of %d", len(c))
		}
		for _, k := range c {
			if keys++; k.key <= last {
				t.Fatalf("%q after %q", k.key, last)
			}
			last = k.key
		}
	}
	if len(x.chunks) < 10 || keys < 2000 {
		t.Errorf("%d keys in %d chunks", keys, len(x.chunks))
	}
	for i, o := range owners {
		if _, _, ok := x.find(fmt.Sprintf("key%05d", i*31%5003)); !ok {
			t.Errorf("session %d is not found", i)
		}
		x.drop(o)
	}
	if len(x.chunks) != 0 {
		t.Error("keys are left behind")
	}
}

// What hints cost a step, with 10,000 open sessions in the index: to be seen beside BenchmarkStep.
func BenchmarkHint(b *testing.B) {
	x := newHintIndex()
	for i := range 10_000 {
		o := &owner{id: wire.SessionID{byte(i), byte(i >> 8)}}
		var writes []state.Change
		for k := range 8 {
			writes = append(writes, state.Change{Key: fmt.Appendf(nil, "a/kv/k%d-%d", i, k)})
		}
		x.replace(o, writes)
	}
	overlay := state.NewOverlay(nothing{})
	for i := range 8 {
		_, _, _ = overlay.Get(fmt.Appendf(nil, "a/kv/read%d", i))
	}
	for i := range 4 {
		overlay.Set(fmt.Appendf(nil, "a/kv/k%d-1", i*1000), nil)
	}
	o := &owner{}
	for b.Loop() {
		x.step(o, overlay.Reads(), overlay.Changes())
	}
}
