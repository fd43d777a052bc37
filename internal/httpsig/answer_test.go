package httpsig

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/yaronf/httpsign"
	"pgregory.net/rapid"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

func genAnswer(t *rapid.T) (Answer, []byte) {
	body := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "body")
	a := Answer{
		Status:     rapid.IntRange(100, 599).Draw(t, "status"),
		Body:       wire.Sum(body),
		Sequence:   rapid.Uint64Range(0, wire.MaxSteps+1).Draw(t, "sequence"),
		Transcript: wire.Sum([]byte(rapid.String().Draw(t, "transcript"))),
		Height:     rapid.Int64Range(0, 1<<62).Draw(t, "height"),
		Time:       rapid.Int64Range(0, wire.MaxTime).Draw(t, "time"),
		Originator: wire.PublicKeyOf(seedKey(2)),
	}
	copy(a.Session[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "session"))
	return a, body
}

func goodAnswer() (http.Header, int, []byte) {
	body := []byte(`{"ok":true}`)
	h := http.Header{}
	SignAnswer(seedKey(2), 1767225602, Answer{
		Status: 200, Body: wire.Sum(body), Session: wire.SessionID{1}, Sequence: 3, Transcript: wire.Sum([]byte("head")), Height: 41, Time: 1767225602007,
	}, h)
	return h, 200, body
}

// TestAnswerRoundTrip: a signed answer verifies as the same answer, and the other implementation accepts it too.
func TestAnswerRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, body := genAnswer(t)
		h := http.Header{}
		SignAnswer(seedKey(2), rapid.Int64Range(0, wire.MaxTime/1000).Draw(t, "created"), a, h)
		got, err := VerifyAnswer(h, a.Status, body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, got); diff != "" {
			t.Fatal(diff)
		}
		fields := httpsign.Headers("@status", "content-digest", "tandem-session", "tandem-sequence", "tandem-transcript", "tandem-height", "tandem-time", "tandem-originator")
		verifier, err := httpsign.NewEd25519Verifier(a.Originator[:], httpsign.NewVerifyConfig().SetVerifyCreated(false).SetAllowedTags([]string{TagAnswer}), fields)
		if err != nil {
			t.Fatal(err)
		}
		answer := &http.Response{StatusCode: a.Status, Header: h, Body: io.NopCloser(bytes.NewReader(body))}
		if err := httpsign.VerifyResponse(Label, *verifier, answer, nil); err != nil {
			t.Fatal(err)
		}
	})
}

// TestAnswerEveryByteCounts: with any byte of status, body or signed headers changed the answer is refused.
func TestAnswerEveryByteCounts(t *testing.T) {
	h, status, body := goodAnswer()
	if _, err := VerifyAnswer(h, status, body); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyAnswer(h, status+1, body); err == nil {
		t.Error("the status does not count")
	}
	for i := range body {
		changed := bytes.Clone(body)
		changed[i] ^= 1
		_, err := VerifyAnswer(h, status, changed)
		wantCode(t, err, refusal.WrongDigest)
	}
	for name, values := range h {
		for i := range len(values[0]) {
			for _, mask := range []byte{1, 0x20, 0x80} {
				changed := []byte(values[0])
				changed[i] ^= mask
				h[name] = []string{string(changed)}
				if _, err := VerifyAnswer(h, status, body); err == nil {
					t.Errorf("byte %d of %s does not count", i, name)
				}
			}
		}
		h[name] = values
	}
}

func TestHostileAnswers(t *testing.T) {
	other := http.Header{}
	SignAnswer(seedKey(3), 1767225602, Answer{Status: 200, Body: wire.Sum([]byte(`{"ok":true}`)), Session: wire.SessionID{1}, Sequence: 3}, other)
	for name, c := range map[string]struct {
		change func(http.Header)
		code   refusal.Code
	}{
		"unsigned":             {func(h http.Header) { h.Del(HeaderSignature); h.Del(HeaderSignatureInput) }, refusal.SignatureRequired},
		"no Signature":         {func(h http.Header) { h.Del(HeaderSignature) }, refusal.SignatureMalformed},
		"no originator":        {func(h http.Header) { h.Del(HeaderOriginator) }, refusal.SignatureMalformed},
		"no height":            {func(h http.Header) { h.Del(HeaderHeight) }, refusal.SignatureMalformed},
		"two heights":          {func(h http.Header) { h.Add(HeaderHeight, h.Get(HeaderHeight)) }, refusal.SignatureMalformed},
		"negative height":      {func(h http.Header) { h.Set(HeaderHeight, "-1") }, refusal.SignatureMalformed},
		"other height":         {func(h http.Header) { h.Set(HeaderHeight, "42") }, refusal.SignatureInvalid},
		"other time":           {func(h http.Header) { h.Set(HeaderTime, "1767225602008") }, refusal.SignatureInvalid},
		"other transcript":     {func(h http.Header) { h.Set(HeaderTranscript, wire.Digest{}.String()) }, refusal.SignatureInvalid},
		"other session":        {func(h http.Header) { h.Set(HeaderSession, wire.SessionID{}.String()) }, refusal.SignatureInvalid},
		"other originator":     {func(h http.Header) { h.Set(HeaderOriginator, wire.PublicKeyOf(seedKey(3)).DID()) }, refusal.SignatureMalformed},
		"signature of another": {func(h http.Header) { h.Set(HeaderSignature, other.Get(HeaderSignature)) }, refusal.SignatureInvalid},
		"key of another":       {func(h http.Header) { h.Set(HeaderSignatureInput, other.Get(HeaderSignatureInput)) }, refusal.SignatureMalformed},
		"key and name of another": {func(h http.Header) {
			h.Set(HeaderSignatureInput, other.Get(HeaderSignatureInput))
			h.Set(HeaderOriginator, other.Get(HeaderOriginator))
		}, refusal.SignatureInvalid},
		"tag of a step": {func(h http.Header) {
			h.Set(HeaderSignatureInput, strings.Replace(h.Get(HeaderSignatureInput), TagAnswer, TagStep, 1))
		}, refusal.WrongTag},
		"component missing": {func(h http.Header) {
			h.Set(HeaderSignatureInput, strings.Replace(h.Get(HeaderSignatureInput), ` "tandem-time"`, "", 1))
		}, refusal.SignatureMalformed},
		"no digest": {func(h http.Header) { h.Del(HeaderContentDigest) }, refusal.SignatureMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			h, status, body := goodAnswer()
			c.change(h)
			_, err := VerifyAnswer(h, status, body)
			wantCode(t, err, c.code)
		})
	}
	h, _, body := goodAnswer()
	_, err := VerifyAnswer(h, 99, body)
	wantCode(t, err, refusal.SignatureMalformed)
}
