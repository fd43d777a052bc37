package wire

import (
	"bytes"
	"testing"
)

// fuzz checks a decoder on any bytes: it does not panic, and what it takes encodes to exactly those bytes.
func fuzz(f *testing.F, decode func([]byte) ([]byte, error), seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
		f.Add(s[:len(s)/2])
		f.Add(append(bytes.Clone(s), 0))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decode(b)
		if err == nil && !bytes.Equal(got, b) {
			t.Errorf("%x decodes, but encodes to %x", b, got)
		}
	})
}

func seedRequest() Request {
	return Request{Method: "POST", Path: "/packages/PKG-1/scan", Query: "a=b", ContentType: "application/json", Body: []byte("{}"), Created: 1767225600, Key: keyFromSeed(1), Signature: Signature{1, 2, 3}}
}

func seedTransaction() Transaction {
	return Transaction{Sequence: 1, Request: seedRequest(), Response: Response{Status: 201, Headers: []Header{{Name: "Content-Type", Value: "application/json"}}, Body: Sum(nil)}, Originator: keyFromSeed(2), Time: 1767225600123}
}

func FuzzDecodeRequest(f *testing.F) { fuzz(f, again(DecodeRequest), seedRequest().Encode()) }

func FuzzDecodeResponse(f *testing.F) {
	fuzz(f, again(DecodeResponse), seedTransaction().Response.Encode())
}

func FuzzDecodeTransaction(f *testing.F) {
	fuzz(f, again(DecodeTransaction), seedTransaction().Encode())
}

func FuzzDecodeSessionCommit(f *testing.F) {
	c := SessionCommit{Open: seedRequest(), Transactions: []Transaction{seedTransaction(), seedTransaction()}, Commit: seedRequest()}
	part := c
	part.Start = Start{Checkpoints: 2, Sequence: 9, Head: Sum([]byte("head"))}
	wrong := part
	wrong.Start.Checkpoints = 10
	fuzz(f, again(DecodeSessionCommit), c.Encode(), part.Encode(), wrong.Encode(), SessionCommit{}.Encode(), RootStatement{Height: 1}.Encode())
}

func FuzzDecodeRootStatement(f *testing.F) {
	fuzz(f, again(DecodeRootStatement), RootStatement{Height: 1 << 40, Root: Sum(nil)}.Encode())
}

func FuzzParseOpenBody(f *testing.F) {
	id := SessionID{1}
	body := OpenBody{ChainID: "tandem-1", ExpiresAt: 1, Supersedes: &id}
	fuzz(f, func(b []byte) ([]byte, error) { v, err := ParseOpenBody(b); return v.JSON(), err }, body.JSON())
}

func FuzzTextForms(f *testing.F) {
	fuzz(f, func(b []byte) ([]byte, error) {
		if k, err := ParseDID(string(b)); err == nil {
			return []byte(k.DID()), nil
		}
		if d, err := ParseDigest(string(b)); err == nil {
			return []byte(d.String()), nil
		}
		id, err := ParseSessionID(string(b))
		return []byte(id.String()), err
	}, []byte(keyFromSeed(1).DID()), []byte(Sum(nil).String()), []byte(SessionID{1}.String()))
}

func FuzzCheckTarget(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "/a%2Fb", "/..", "/%2E", "//", "/caf%C3%A9", "/a b"} {
		f.Add(s, "a=b%20c")
	}
	f.Fuzz(func(t *testing.T, path, query string) {
		if CheckTarget(path, query) == nil {
			checkAccepted(t, path, query)
		}
	})
}

func BenchmarkEncodeTransaction(b *testing.B) {
	tx := seedTransaction()
	b.ReportAllocs()
	for range b.N {
		tx.Encode()
	}
}

func BenchmarkDecodeTransaction(b *testing.B) {
	raw := seedTransaction().Encode()
	b.ReportAllocs()
	for range b.N {
		if _, err := DecodeTransaction(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeSessionCommit(b *testing.B) {
	c := SessionCommit{Open: seedRequest(), Transactions: make([]Transaction, 6), Commit: seedRequest()}
	for i := range c.Transactions {
		c.Transactions[i] = seedTransaction()
	}
	raw := c.Encode()
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for range b.N {
		if _, err := DecodeSessionCommit(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTranscriptNext(b *testing.B) {
	tx := seedTransaction()
	b.ReportAllocs()
	for range b.N {
		TranscriptNext(Digest{}, tx)
	}
}

func BenchmarkCheckKey(b *testing.B) {
	key := keyFromSeed(1)
	b.ReportAllocs()
	for range b.N {
		if err := CheckKey(key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifySignature(b *testing.B) {
	key := keyFromSeed(1)
	b.ReportAllocs()
	for range b.N {
		_ = VerifySignature(key, []byte("message"), Signature{})
	}
}
