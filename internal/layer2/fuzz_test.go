package layer2

import (
	"testing"

	"tandem/internal/httpsig"
	"tandem/internal/wire"
)

// What comes from a damaged disk, or unsigned from the network, is refused or understood; it never panics, and what is
// understood is written back the same.
func FuzzDecodeStep(f *testing.F) {
	req := wire.Request{Method: "POST", Path: "/add/a", ContentType: "text/plain", Created: 1_800_000_000}
	httpsig.Sign(key("alice"), httpsig.TagStep, &req, httpsig.Place{Sequence: 1})
	body := []byte(`{"count":1}`)
	good := (&stored{
		tx:   wire.Transaction{Sequence: 1, Request: req, Response: wire.Response{Status: 200, Body: wire.Sum(body)}, Time: 1_800_000_000_000},
		body: body, height: 7, questions: []question{{askedKey, 1, 2}, {askedRange, 3, 0}},
	}).encode()
	key := keyNumbered(wire.SessionID{}, partStep, 1)
	if _, err := decodeStep(key, good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0x88})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeStep(key, b)
		if err != nil {
			return
		}
		again, err := decodeStep(key, s.encode())
		if err != nil || again.tx.Request.Digest() != s.tx.Request.Digest() || again.head != s.head || len(again.questions) != len(s.questions) {
			t.Errorf("written back it is another step: %v", err)
		}
	})
}

func FuzzUnseal(f *testing.F) {
	f.Add([]byte("key"), seal([]byte("key"), []byte("payload")))
	f.Add([]byte(""), []byte{1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, key, b []byte) {
		v, err := unseal(key, b)
		if err == nil && string(seal(key, v)) != string(b) {
			t.Error("a record that was not sealed like this is accepted")
		}
		if nameOf(key) == "" {
			t.Error("a key without a name")
		}
	})
}

func FuzzCustodyOpenBody(f *testing.F) {
	w := newWorld(f, nil)
	for _, s := range []string{"", "{}", `{"expires_at":1800000100000}`, `{"supersedes":"aaaaaaaaaaaaaaaaaaaaaaaaaa"}`, `{"x":1}`, `{"expires_at":1,"expires_at":2}`, "[]", "null"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		open, err := w.engine.openBody(b)
		if err != nil {
			return
		}
		if _, err := wire.ParseOpenBody(open.JSON()); err != nil {
			t.Errorf("%q opens with a body that cannot be read: %v", b, err)
		}
	})
}
