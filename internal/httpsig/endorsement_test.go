package httpsig

import (
	"crypto/ed25519"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/internal/wire"
)

func someEndorsement(n byte) wire.Endorsement {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = n
	key := ed25519.NewKeyFromSeed(seed)
	e := wire.Endorsement{Node: wire.PublicKeyOf(key), Height: int64(n)}
	e.Signature = wire.Signature(ed25519.Sign(key, wire.EndorsementBytes("chain", wire.SessionID{1}, 2, wire.Digest{3}, e.Height)))
	return e
}

// What is set is read again, from one line or several (RFC 9651, section 3.1), and verifies.
func TestEndorsementsRoundTrip(t *testing.T) {
	want := []wire.Endorsement{someEndorsement(1), someEndorsement(2), someEndorsement(3)}
	h := http.Header{}
	SetEndorsements(h, want)
	got, err := ReadEndorsements(h)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, e := range got {
		if err := e.Verify("chain", wire.SessionID{1}, 2, wire.Digest{3}); err != nil {
			t.Error(err)
		}
	}
	h[HeaderEndorsement] = strings.Split(h.Get(HeaderEndorsement), ", ")
	if got, err = ReadEndorsements(h); err != nil || len(got) != 3 {
		t.Errorf("on three lines: %v %v", got, err)
	}
	SetEndorsements(h, nil)
	if _, there := h[HeaderEndorsement]; there {
		t.Error("no endorsements, but a header")
	}
	if got, err = ReadEndorsements(h); err != nil || got != nil {
		t.Errorf("none: %v %v", got, err)
	}
}

// Whatever is no list of endorsements, or counts a node twice, is refused.
func TestEndorsementsRefused(t *testing.T) {
	h := http.Header{}
	SetEndorsements(h, []wire.Endorsement{someEndorsement(1)})
	good := h.Get(HeaderEndorsement)
	many := strings.TrimSuffix(strings.Repeat(good+", ", MaxEndorsements+1), ", ")
	for name, text := range map[string]string{
		"twice":         good + ", " + good,
		"string":        `"` + strings.Replace(good, ";", `";`, 1),
		"inner list":    "(" + good + ")",
		"no parameters": good[:strings.Index(good, ";")],
		"other order":   good[:strings.Index(good, ";")] + good[strings.Index(good, ";sig"):] + ";height=1",
		"more":          good + ";x=1",
		"height":        strings.Replace(good, "height=1", "height=-1", 1),
		"height text":   strings.Replace(good, "height=1", "height=a", 1),
		"short":         good[:strings.Index(good, "sig=:")] + "sig=:AAAA:",
		"no key":        "did:key:zabc" + good[strings.Index(good, ";"):],
		"cut":           good[:len(good)-1],
		"too many":      many,
		"too long":      strings.Repeat(" ", 300*MaxEndorsements) + good,
	} {
		if got, err := ReadEndorsements(http.Header{HeaderEndorsement: {text}}); err == nil {
			t.Errorf("%s: read as %v", name, got)
		}
	}
}

// VerifySealed returns the seal that VerifySeal verifies and SetAnswer sets.
func TestVerifySealed(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	a := Answer{Status: 200, Body: wire.Sum([]byte("x")), Session: wire.SessionID{9}, Sequence: 1, Height: 4, Time: 5}
	h := http.Header{}
	SignAnswer(key, 77, a, h)
	_, seal, err := VerifySealed(h, 200, []byte("x"))
	if err != nil || seal.Created != 77 {
		t.Fatalf("%+v %v", seal, err)
	}
	a.Originator = wire.PublicKeyOf(key)
	if err := VerifySeal(a, seal); err != nil {
		t.Error(err)
	}
	if _, _, err := VerifySealed(http.Header{}, 200, nil); err == nil {
		t.Error("a seal of nothing")
	}
}

func FuzzEndorsements(f *testing.F) {
	h := http.Header{}
	SetEndorsements(h, []wire.Endorsement{someEndorsement(1), someEndorsement(2)})
	f.Add(h.Get(HeaderEndorsement))
	f.Add("did:key:z;height=1;sig=::")
	f.Fuzz(func(t *testing.T, text string) {
		compareEndorsements(t, []string{text})
		read, err := ReadEndorsements(http.Header{HeaderEndorsement: {text}})
		if err != nil || len(read) == 0 {
			return
		}
		again := http.Header{}
		SetEndorsements(again, read)
		same, err := ReadEndorsements(again)
		if diff := cmp.Diff(read, same); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	})
}
