package wire

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"tandem/internal/refusal"
)

func wantCode(t *testing.T, err error, code refusal.Code) {
	t.Helper()
	if r, ok := refusal.As(err); !ok || r.Code != code {
		t.Errorf("got %v, want code %s", err, code)
	}
}

// TestRoundTrip: decoding an encoding gives the value back, and encoding that the same bytes.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genCommit().Draw(t, "commit")
		got, err := DecodeSessionCommit(c.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
	for _, c := range codecs() {
		t.Run(c.name, rapid.MakeCheck(func(t *rapid.T) {
			b := c.draw(t)
			got, err := c.read(b)
			if err != nil {
				t.Fatalf("%x: %v", b, err)
			}
			if !bytes.Equal(b, got) {
				t.Fatalf("%x became %x", b, got)
			}
		}))
	}
}

// TestNotMalleable: any byte changed, removed, added or cut off in an encoding either fails to decode or decodes to a
// different value; equal values have equal bytes.
func TestNotMalleable(t *testing.T) {
	for _, c := range codecs() {
		t.Run(c.name, rapid.MakeCheck(func(t *rapid.T) {
			b := c.draw(t)
			original, err := c.form(b)
			if err != nil {
				t.Fatal(err)
			}
			change := rapid.ByteRange(1, 255).Draw(t, "change")
			// Every position of a short encoding, a window of a long one.
			from := rapid.IntRange(0, len(b)-1).Draw(t, "from")
			for i := from; i < min(from+200, len(b)); i++ {
				flipped := bytes.Clone(b)
				flipped[i] ^= change
				inserted := append(append(bytes.Clone(b[:i]), change), b[i:]...)
				deleted := append(bytes.Clone(b[:i]), b[i+1:]...)
				for _, m := range [][]byte{flipped, inserted, deleted, b[:i], append(bytes.Clone(b), change)} {
					if bytes.Equal(m, b) {
						continue
					}
					v, err := c.form(m)
					if err == nil && reflect.DeepEqual(original, v) {
						t.Fatalf("%x and %x are the same value", b, m)
					}
				}
			}
		}))
	}
}

// TestNilIsEmpty: a nil and an empty body or header list are one value and have one encoding.
func TestNilIsEmpty(t *testing.T) {
	a, b := Request{}, Request{Body: []byte{}}
	if !bytes.Equal(a.Encode(), b.Encode()) {
		t.Error("a nil and an empty body differ")
	}
	if !bytes.Equal(Response{Status: 200}.Encode(), Response{Status: 200, Headers: []Header{}}.Encode()) {
		t.Error("nil and empty headers differ")
	}
	if !bytes.Equal(SessionCommit{}.Encode(), SessionCommit{Transactions: []Transaction{}}.Encode()) {
		t.Error("nil and empty transactions differ")
	}
}

// TestNonCanonical checks RFC 8949 section 4.2.1 and the shapes of the formats on a root statement and a request:
// every other encoding of a value that the CBOR library would take is refused.
func TestNonCanonical(t *testing.T) {
	root := strings.Repeat("11", 32)
	good := "8301" + "05" + "5820" + root
	if _, err := DecodeRootStatement(unhex(t, good)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty":                        "",
		"long form of an integer":      "8301" + "1805" + "5820" + root,
		"longer form of an integer":    "8301" + "190005" + "5820" + root,
		"float for an integer":         "8301" + "f94500" + "5820" + root,
		"double for an integer":        "8301" + "fb4014000000000000" + "5820" + root,
		"bignum for an integer":        "8301" + "c24105" + "5820" + root,
		"long form of a length":        "8301" + "05" + "590020" + root,
		"indefinite bytes":             "8301" + "05" + "5f5820" + root + "ff",
		"indefinite array":             "9f01" + "05" + "5820" + root + "ff",
		"long form of the array":       "980301" + "05" + "5820" + root,
		"text for bytes":               "8301" + "05" + "7820" + root,
		"array of integers for bytes":  "8301" + "05" + "9820" + root,
		"31 bytes":                     "8301" + "05" + "581f" + root[2:],
		"33 bytes":                     "8301" + "05" + "5821" + root + "11",
		"null for bytes":               "8301" + "05" + "f6",
		"undefined for bytes":          "8301" + "05" + "f7",
		"null for an integer":          "8301" + "f6" + "5820" + root,
		"true for an integer":          "8301" + "f5" + "5820" + root,
		"height 0":                     "8301" + "00" + "5820" + root,
		"negative height":              "8301" + "20" + "5820" + root,
		"height over int64":            "8301" + "1b8000000000000000" + "5820" + root,
		"two elements":                 "8201" + "05",
		"four elements":                "8401" + "05" + "5820" + root + "00",
		"trailing byte":                good + "00",
		"second item":                  good + good,
		"tagged":                       "d9d9f7" + good,
		"tagged element":               "8301" + "c105" + "5820" + root,
		"map":                          "a301" + "05" + "02" + "05" + "03" + "5820" + root,
		"kind in long form":            "831801" + "05" + "5820" + root,
		"other kind":                   "8302" + "05" + "5820" + root,
		"kind 0":                       "8300" + "05" + "5820" + root,
		"cut":                          good[:len(good)-2],
		"simple value in long form":    "8301" + "f805" + "5820" + root,
		"reserved additional value":    "8301" + "1c" + "5820" + root,
		"break without a start":        "8301" + "ff" + "5820" + root,
		"array in place of an integer": "8301" + "8105" + "5820" + root,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeRootStatement(unhex(t, text))
			wantCode(t, err, refusal.NonCanonical)
		})
	}
	request := hex.EncodeToString(Request{Method: "GET", Path: "/a", ContentType: "t"}.Encode())
	for name, change := range map[string][2]string{
		"bytes for text":  {"63474554", "43474554"},
		"bad UTF-8":       {"622f61", "622fff"},
		"null for a text": {"622f61", "f6"},
		"text for bytes":  {"617440", "617460"},
		"null for a body": {"617440", "6174f6"},
		"array for text":  {"622f61", "80"},
	} {
		t.Run("request: "+name, func(t *testing.T) {
			if strings.Count(request, change[0]) != 1 {
				t.Fatalf("%s has not one %s", request, change[0])
			}
			_, err := DecodeRequest(unhex(t, strings.Replace(request, change[0], change[1], 1)))
			wantCode(t, err, refusal.NonCanonical)
		})
	}
}

// TestHostileSizes: a few bytes that claim to be much cost little memory, and every limit is enforced.
func TestHostileSizes(t *testing.T) {
	for name, text := range map[string]string{
		"array of 2^32":         "9affffffff",
		"array of 2^63":         "9b7fffffffffffffff",
		"bytes of 2^40":         "5b0000010000000000",
		"text of 2^31":          "7a7fffffff",
		"session of 2^20 steps": "8402" + hex.EncodeToString(Request{}.Encode()) + "9a00100000",
		"deep":                  strings.Repeat("81", 5000) + "00",
		"deep in a session":     "8402" + strings.Repeat("81", 5000) + "00",
		"map of 2^32":           "baffffffff",
	} {
		t.Run(name, func(t *testing.T) {
			b := unhex(t, text)
			for _, c := range codecs() {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				_, err := c.form(b)
				runtime.ReadMemStats(&after)
				if err == nil {
					t.Errorf("%s: decoded", c.name)
				}
				if n := after.TotalAlloc - before.TotalAlloc; n > 128<<10 {
					t.Errorf("%s: %d bytes of input cost %d bytes of memory", c.name, len(b), n)
				}
			}
		})
	}
}

func TestLimits(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	for name, c := range map[string]struct {
		change func(*Request)
		code   refusal.Code
	}{
		"method":       {func(r *Request) { r.Method = long(MaxMethod + 1) }, refusal.BadRequest},
		"target":       {func(r *Request) { r.Path = "/" + long(MaxTarget/2); r.Query = long(MaxTarget / 2) }, refusal.BadTarget},
		"content type": {func(r *Request) { r.ContentType = long(MaxContentType + 1) }, refusal.HeaderTooLarge},
		"body":         {func(r *Request) { r.Body = make([]byte, MaxBody+1) }, refusal.BodyTooLarge},
		"created":      {func(r *Request) { r.Created = MaxTime/1000 + 1 }, refusal.SignatureMalformed},
		"before 1970":  {func(r *Request) { r.Created = -1 }, refusal.SignatureMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			r := Request{Method: "POST", Path: "/a", ContentType: "text/plain"}
			if err := r.Check(); err != nil {
				t.Fatal(err)
			}
			c.change(&r)
			wantCode(t, r.Check(), c.code)
			_, err := DecodeRequest(r.Encode())
			wantCode(t, err, c.code)
			_, err = DecodeSessionCommit(SessionCommit{Open: r}.Encode())
			wantCode(t, err, c.code)
		})
	}
	for name, c := range map[string]struct {
		change func(*Response)
		code   refusal.Code
	}{
		"status 99":        {func(r *Response) { r.Status = 99 }, refusal.NonCanonical},
		"status 600":       {func(r *Response) { r.Status = 600 }, refusal.NonCanonical},
		"negative status":  {func(r *Response) { r.Status = -200 }, refusal.NonCanonical},
		"many headers":     {func(r *Response) { r.Headers = make([]Header, MaxHeaders+1) }, refusal.HeaderTooLarge},
		"long name":        {func(r *Response) { r.Headers[0].Name = "A" + long(MaxHeaderName) }, refusal.HeaderTooLarge},
		"long value":       {func(r *Response) { r.Headers[0].Value = long(MaxHeaderValue + 1) }, refusal.HeaderTooLarge},
		"lower-case name":  {func(r *Response) { r.Headers[0].Name = "content-type" }, refusal.NonCanonical},
		"empty name":       {func(r *Response) { r.Headers[0].Name = "" }, refusal.NonCanonical},
		"space in a name":  {func(r *Response) { r.Headers[0].Name = "Content Type" }, refusal.NonCanonical},
		"not ASCII":        {func(r *Response) { r.Headers[0].Value = "é" }, refusal.NonCanonical},
		"line break":       {func(r *Response) { r.Headers[0].Value = "a\r\nB: c" }, refusal.NonCanonical},
		"space at the end": {func(r *Response) { r.Headers[0].Value = "a " }, refusal.NonCanonical},
		"not sorted":       {func(r *Response) { r.Headers[0], r.Headers[1] = r.Headers[1], r.Headers[0] }, refusal.NonCanonical},
		"one name twice":   {func(r *Response) { r.Headers[1].Name = r.Headers[0].Name }, refusal.NonCanonical},
	} {
		t.Run(name, func(t *testing.T) {
			r := Response{Status: 200, Headers: []Header{{Name: "Content-Type", Value: "a"}, {Name: "Location", Value: "/x"}}}
			if err := r.Check(); err != nil {
				t.Fatal(err)
			}
			c.change(&r)
			_, err := DecodeResponse(r.Encode())
			wantCode(t, err, c.code)
			_, err = DecodeSessionCommit(SessionCommit{Transactions: []Transaction{{Sequence: 1, Response: r}}}.Encode())
			wantCode(t, err, c.code)
			if got, _ := refusal.As(err); got.Fields["step"] != 1 {
				t.Errorf("fields %v do not name step 1", got.Fields)
			}
		})
	}
	good := Response{Status: 200}
	for _, tx := range []Transaction{{Response: good}, {Sequence: MaxSteps + 1, Response: good}, {Sequence: 1, Time: -1, Response: good}, {Sequence: 1, Time: MaxTime + 1, Response: good}} {
		_, err := DecodeTransaction(tx.Encode())
		wantCode(t, err, refusal.NonCanonical)
	}
	large := SessionCommit{Transactions: make([]Transaction, 5)} // each within its limits, together not
	for i := range large.Transactions {
		large.Transactions[i] = Transaction{Sequence: uint64(i) + 1, Response: good, Request: Request{Body: make([]byte, MaxBody)}}
	}
	_, err := DecodeSessionCommit(large.Encode())
	wantCode(t, err, refusal.TransactionTooLarge)
	large.Transactions = large.Transactions[:3]
	if _, err := DecodeSessionCommit(large.Encode()); err != nil {
		t.Error(err)
	}
	tooMany := SessionCommit{Transactions: make([]Transaction, MaxSteps+1)}
	for i := range tooMany.Transactions {
		tooMany.Transactions[i] = Transaction{Sequence: uint64(i)%MaxSteps + 1, Response: good}
	}
	if b := tooMany.Encode(); len(b) > MaxTransaction {
		t.Fatalf("%d steps are %d bytes: the test does not reach the limit of steps", len(tooMany.Transactions), len(b))
	}
	_, err = DecodeSessionCommit(tooMany.Encode())
	if err == nil {
		t.Error("more than MaxSteps steps decode")
	}
}

// TestKind: the kind is told from the first bytes, and only for the known kinds.
func TestKind(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if k, err := Kind(genCommit().Draw(t, "c").Encode()); err != nil || k != KindSession {
			t.Fatal(k, err)
		}
		if k, err := Kind(genRoot().Draw(t, "r").Encode()); err != nil || k != KindRoot {
			t.Fatal(k, err)
		}
	})
	for _, text := range []string{"", "83", "84", "8300", "8303", "8201", "8401", "8302", "ff"} {
		if _, err := Kind(unhex(t, text)); err == nil {
			t.Errorf("%s has a kind", text)
		}
	}
	_, err := DecodeSessionCommit(RootStatement{Height: 1}.Encode())
	wantCode(t, err, refusal.NonCanonical)
	_, err = DecodeRootStatement(SessionCommit{}.Encode())
	wantCode(t, err, refusal.NonCanonical)
}

// TestTranscript: the head depends on every field of every transaction and on their order.
func TestTranscript(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		open := genRequest().Draw(t, "open")
		a, b := genTransaction().Draw(t, "a"), genTransaction().Draw(t, "b")
		start := TranscriptStart(open)
		head := TranscriptNext(start, a)
		if head != TranscriptStep(start, a.Request.Digest(), a.Response.Digest(), a.Originator, a.Time) {
			t.Fatal("TranscriptStep differs from TranscriptNext")
		}
		same := cmp.Equal(a, b, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(Transaction{}, "Sequence"))
		if (TranscriptNext(start, b) == head) != same {
			t.Fatal("heads and transactions do not agree on being equal")
		}
		if !same && TranscriptNext(TranscriptNext(start, a), b) == TranscriptNext(TranscriptNext(start, b), a) {
			t.Fatal("order does not count")
		}
		c := SessionCommit{Open: open, Transactions: []Transaction{a, b}}
		if c.Head() != TranscriptNext(head, b) {
			t.Fatal("Head differs")
		}
		changed := a
		changed.Time++
		if TranscriptNext(start, changed) == head {
			t.Fatal("time does not count")
		}
		changed = a
		changed.Request.Signature[63] ^= 1
		if TranscriptNext(start, changed) == head {
			t.Fatal("the signature does not count")
		}
		open.Signature[0] ^= 1
		if TranscriptStart(open) == start {
			t.Fatal("the opening signature does not count")
		}
	})
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Start is canonical: nothing was committed before, or at least one step by each checkpoint.
func TestStart(t *testing.T) {
	head := Sum([]byte("head"))
	for _, c := range []struct {
		start Start
		good  bool
	}{
		{Start{}, true},
		{Start{Checkpoints: 1, Sequence: 1, Head: head}, true},
		{Start{Checkpoints: 3, Sequence: 7, Head: head}, true},
		{Start{Checkpoints: 1, Sequence: MaxSequence, Head: head}, true},
		{Start{Sequence: 1}, false},
		{Start{Head: head}, false},
		{Start{Sequence: 1, Head: head}, false},
		{Start{Checkpoints: 1}, false},
		{Start{Checkpoints: 2, Sequence: 1, Head: head}, false},
		{Start{Checkpoints: 1, Sequence: MaxSequence + 1, Head: head}, false},
		{Start{Checkpoints: 1<<64 - 1, Sequence: 1<<64 - 1, Head: head}, false},
	} {
		_, err := DecodeSessionCommit(SessionCommit{Start: c.start, Open: seedRequest(), Commit: seedRequest()}.Encode())
		if c.good != (err == nil) || err != nil && !refusal.Has(err, refusal.NonCanonical) {
			t.Errorf("%+v: %v", c.start, err)
		}
	}
}
