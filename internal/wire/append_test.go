package wire

import (
	"bytes"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// checkAppended compares an encoding that is written out with the CBOR library's.
func checkAppended(t *rapid.T, got []byte, v any) {
	t.Helper()
	if want := encode(v); !bytes.Equal(got, want) {
		t.Fatalf("%+v\nencodes to %x\nthe library   %x", v, got, want)
	}
}

// What is encoded by hand has the bytes that the library gives, also for values that no decoder would take.
func TestEncodedAsTheLibraryDoes(t *testing.T) {
	anyInt := rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{0, 23, 24, 255, 256, 65535, 65536, 1<<32 - 1, 1 << 32, math.MaxInt64, -1, -24, -25, -256, -257, math.MinInt64}))
	rapid.Check(t, func(t *rapid.T) {
		r := genRequest().Draw(t, "request")
		r.Created = anyInt.Draw(t, "created")
		r.Query = string(drawBytes(t, 300, "any bytes as query"))
		checkAppended(t, r.Encode(), r)
		s := genResponse().Draw(t, "response")
		s.Status = int(anyInt.Draw(t, "status"))
		for range rapid.IntRange(0, 30).Draw(t, "more headers") {
			s.Headers = append(s.Headers, Header{Name: "N", Value: string(drawBytes(t, 30, "value"))})
		}
		checkAppended(t, s.Encode(), s)
		tx := Transaction{Sequence: uint64(anyInt.Draw(t, "sequence")), Request: r, Response: s, Time: anyInt.Draw(t, "time")}
		checkAppended(t, tx.Encode(), tx)
		c := genCommit().Draw(t, "commit")
		c.Start.Checkpoints = uint64(anyInt.Draw(t, "checkpoints"))
		for range rapid.IntRange(0, 30).Draw(t, "more transactions") {
			c.Transactions = append(c.Transactions, tx)
		}
		checkAppended(t, c.Encode(), sessionRecord{Kind: KindSession, Open: c.Open, Start: c.Start, Transactions: c.Transactions, Commit: c.Commit})
		if r.Digest() != tagged(domainRequest, encode(r)) || s.Digest() != tagged(domainResponse, encode(s)) {
			t.Fatal("a digest is of something else than the encoding")
		}
	})
	for _, n := range []int{0, 1, 23, 24, 255, 256, 65535, 65536} {
		body := Request{Body: make([]byte, n), Path: string(make([]byte, n))}
		if !bytes.Equal(body.Encode(), encode(body)) {
			t.Errorf("%d bytes encode otherwise than by the library", n)
		}
	}
}
