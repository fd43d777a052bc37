package httpsig

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// compareInputs holds the two readers of Signature-Input together: what the short one takes the other takes as the same, and what
// the other takes for one of the four purposes is known to the short one.
func compareInputs(t interface{ Fatalf(string, ...any) }, input string) (known bool) {
	got, known := readKnown(input)
	want, err := readAny(input)
	if known && (err != nil || got != want) {
		t.Fatalf("%q\nis read as %+v\nwith httpsfv %+v, %v", input, got, want, err)
	}
	standard := want.components == components(want.tag) || want.components == answerComponents && want.tag == TagAnswer
	if err == nil && standard && !known {
		t.Fatalf("%q is read with httpsfv only", input)
	}
	return known
}

func TestKnownInputIsReadTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := wire.PublicKeyOf(seedKey(rapid.Byte().Draw(t, "key")))
		created := rapid.OneOf(rapid.Int64Range(0, wire.MaxTime/1000), rapid.Int64()).Draw(t, "created")
		tag := rapid.SampledFrom([]string{TagOpen, TagStep, TagCommit, TagAnswer, "tandem-other", "", `a"b`}).Draw(t, "tag")
		list := rapid.SampledFrom([]string{openComponents, stepComponents, answerComponents, "()", `("@method")`}).Draw(t, "components")
		input := signatureInput(list, created, key, tag)
		compareInputs(t, input)
		at := rapid.IntRange(0, len(input)).Draw(t, "at")
		change := rapid.SampledFrom([]string{"", " ", "0", "1", "-", "+", `"`, ";", ",", "=", "(", "x", ", tandem=()", ";created=1", "\\", "\x00", "\n"}).Draw(t, "change")
		compareInputs(t, input[:at]+change+input[at:])
		compareInputs(t, input[:at]+change+input[min(len(input), at+1):])
		compareInputs(t, input[:at])
	})
	for _, tag := range []string{TagOpen, TagStep, TagCommit} {
		if !compareInputs(t, signatureInput(components(tag), 1767225600, wire.PublicKeyOf(seedKey(1)), tag)) {
			t.Errorf("the input of a %s is not known", tag)
		}
	}
	if !compareInputs(t, signatureInput(answerComponents, 0, wire.PublicKeyOf(seedKey(1)), TagAnswer)) {
		t.Error("the input of an answer is not known")
	}
}

func FuzzSignatureInput(f *testing.F) {
	key := wire.PublicKeyOf(seedKey(1))
	for _, tag := range []string{TagOpen, TagStep, TagCommit, TagAnswer} {
		for _, list := range []string{openComponents, stepComponents, answerComponents} {
			f.Add(signatureInput(list, 1767225600, key, tag))
		}
	}
	f.Fuzz(func(t *testing.T, input string) { compareInputs(t, input) })
}

// compareEndorsements is compareInputs for the header of endorsements.
func compareEndorsements(t interface{ Fatalf(string, ...any) }, lines []string) (known bool) {
	got, known := knownEndorsements(lines)
	want, err := anyEndorsements(lines)
	if known && (err != nil || !reflect.DeepEqual(got, want)) {
		t.Fatalf("%q\nis read as %+v\nwith httpsfv %+v, %v", lines, got, want, err)
	}
	return known
}

func TestKnownEndorsementsAreReadTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list []wire.Endorsement
		for n := range rapid.ByteRange(1, 4).Draw(t, "nodes") {
			e := someEndorsement(n)
			e.Height = rapid.Int64Range(0, maxInteger).Draw(t, "height")
			list = append(list, e)
		}
		h := http.Header{}
		SetEndorsements(h, list)
		if !compareEndorsements(t, h[HeaderEndorsement]) {
			t.Fatalf("%q is not known", h[HeaderEndorsement])
		}
		line := h.Get(HeaderEndorsement)
		at := rapid.IntRange(0, len(line)).Draw(t, "at")
		change := rapid.SampledFrom([]string{"", " ", "0", "-", ":", `"`, ";", ",", ", ", "=", "A", "\n", "\r", line}).Draw(t, "change")
		compareEndorsements(t, []string{line[:at] + change + line[at:]})
		compareEndorsements(t, []string{line[:at] + change + line[min(len(line), at+1):]})
		compareEndorsements(t, []string{line[:at]})
		compareEndorsements(t, []string{line[:at], line[at:]})
	})
	many := make([]wire.Endorsement, MaxEndorsements+1)
	for i := range many {
		many[i] = someEndorsement(byte(i))
	}
	h := http.Header{}
	SetEndorsements(h, many[1:])
	if !compareEndorsements(t, h[HeaderEndorsement]) {
		t.Error("as many endorsements as there may be are not known")
	}
	SetEndorsements(h, many)
	if got, err := ReadEndorsements(h); err == nil || compareEndorsements(t, h[HeaderEndorsement]) {
		t.Errorf("%d endorsements are read", len(got))
	}
}

// A signature is 88 characters of base64 in its one form, without line breaks.
func TestSignatureValue(t *testing.T) {
	good := signatureValue(wire.Signature{1, 2, 3})
	if got, err := readSignatureValue(good); err != nil || got != (wire.Signature{1, 2, 3}) {
		t.Fatal(got, err)
	}
	encoded := strings.TrimSuffix(strings.TrimPrefix(good, Label+"=:"), ":")
	for _, bad := range []string{
		"", encoded[1:], encoded + "A", encoded[:86], encoded[:87], encoded[:84], "\n" + encoded, encoded[:40] + "\n" + encoded[40:], encoded[:40] + "\r\n" + encoded[40:86],
		encoded[:87] + "A", encoded[:86] + "AA", encoded[:85] + "B==", strings.Repeat("A", 87) + "=", strings.Repeat("A", 1000), encoded[:4] + "_" + encoded[5:],
	} {
		if got, err := readSignatureValue(Label + "=:" + bad + ":"); !refusal.Has(err, refusal.SignatureMalformed) {
			t.Errorf("%q is read as %x, %v", bad, got, err)
		}
	}
}
