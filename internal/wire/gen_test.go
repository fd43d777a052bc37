package wire

import (
	"bytes"
	"encoding/binary"

	"pgregory.net/rapid"
)

// Generators of values that the encoders may be given: within the limits, otherwise anything.

func drawBytes(t *rapid.T, max int, label string) []byte {
	return rapid.SliceOfN(rapid.Byte(), 0, max).Draw(t, label)
}

func fill[T ~[16]byte | ~[32]byte | ~[64]byte](t *rapid.T, label string) T {
	var v T
	var b []byte // spread from one draw: the content of a hash or key does not matter, that it varies does
	for seed := rapid.Uint64().Draw(t, label); len(b) < 64; seed = seed*6364136223846793005 + 1442695040888963407 {
		b = binary.BigEndian.AppendUint64(b, seed)
	}
	switch p := any(&v).(type) {
	case *PublicKey:
		copy(p[:], b)
	case *Signature:
		copy(p[:], b)
	case *Digest:
		copy(p[:], b)
	case *SessionID:
		copy(p[:], b)
	case *[16]byte:
		copy(p[:], b)
	}
	return v
}

func genRequest() *rapid.Generator[Request] {
	return rapid.Custom(func(t *rapid.T) Request {
		return Request{
			Method:      rapid.SampledFrom([]string{"GET", "POST", "PUT", "DELETE", ""}).Draw(t, "method"),
			Path:        rapid.StringN(0, 40, 200).Draw(t, "path"),
			Query:       rapid.StringN(0, 40, 200).Draw(t, "query"),
			ContentType: rapid.SampledFrom([]string{"application/json", "text/plain", ""}).Draw(t, "type"),
			Body:        drawBytes(t, 100, "body"),
			Created:     rapid.Int64Range(0, MaxTime/1000).Draw(t, "created"),
			Key:         fill[PublicKey](t, "key"),
			Signature:   fill[Signature](t, "signature"),
		}
	})
}

func genResponse() *rapid.Generator[Response] {
	return rapid.Custom(func(t *rapid.T) Response {
		r := Response{Status: rapid.IntRange(100, 599).Draw(t, "status"), Body: fill[Digest](t, "body")}
		for _, name := range []string{"Content-Type", "Etag", "Location"} {
			if rapid.Bool().Draw(t, name) {
				r.Headers = append(r.Headers, Header{Name: name, Value: rapid.StringMatching(`[!-~]{0,20}`).Draw(t, "value")})
			}
		}
		return r
	})
}

func genTransaction() *rapid.Generator[Transaction] {
	return rapid.Custom(func(t *rapid.T) Transaction {
		return Transaction{
			Sequence:   rapid.Uint64Range(1, MaxSteps).Draw(t, "sequence"),
			Request:    genRequest().Draw(t, "request"),
			Response:   genResponse().Draw(t, "response"),
			Originator: fill[PublicKey](t, "originator"),
			Time:       rapid.Int64Range(0, MaxTime).Draw(t, "time"),
		}
	})
}

func genCommit() *rapid.Generator[SessionCommit] {
	return rapid.Custom(func(t *rapid.T) SessionCommit {
		var start Start
		if rapid.Bool().Draw(t, "after a checkpoint") {
			start.Checkpoints = rapid.Uint64Range(1, 9).Draw(t, "checkpoints")
			start.Sequence = rapid.Uint64Range(start.Checkpoints, MaxSequence).Draw(t, "sequence")
			start.Head = fill[Digest](t, "head")
		}
		return SessionCommit{
			Open:         genRequest().Draw(t, "open"),
			Start:        start,
			Transactions: rapid.SliceOfN(genTransaction(), 0, 4).Draw(t, "transactions"),
			Commit:       genRequest().Draw(t, "commit"),
		}
	})
}

func genRoot() *rapid.Generator[RootStatement] {
	return rapid.Custom(func(t *rapid.T) RootStatement {
		return RootStatement{Height: rapid.Int64Min(1).Draw(t, "height"), Root: fill[Digest](t, "root")}
	})
}

func genOpenBody() *rapid.Generator[OpenBody] {
	return rapid.Custom(func(t *rapid.T) OpenBody {
		b := OpenBody{
			ChainID:     rapid.StringMatching(`[A-Za-z0-9._-]{1,50}`).Draw(t, "chain"),
			Fingerprint: fill[Digest](t, "fingerprint"),
			Nonce:       fill[[16]byte](t, "nonce"),
			ExpiresAt:   rapid.Int64Range(0, MaxTime).Draw(t, "expires"),
		}
		if rapid.Bool().Draw(t, "supersedes") {
			id := fill[SessionID](t, "id")
			b.Supersedes = &id
		}
		return b
	})
}

// codec is one format of the package, so that every property is checked on all of them.
type codec struct {
	name string
	draw func(*rapid.T) []byte         // an encoding
	read func([]byte) ([]byte, error)  // decode and encode again
	form func(raw []byte) (any, error) // decode
}

func codecs() []codec {
	return []codec{
		{"request", func(t *rapid.T) []byte { return genRequest().Draw(t, "x").Encode() }, again(DecodeRequest), decoded(DecodeRequest)},
		{"response", func(t *rapid.T) []byte { return genResponse().Draw(t, "x").Encode() }, again(DecodeResponse), decoded(DecodeResponse)},
		{"transaction", func(t *rapid.T) []byte { return genTransaction().Draw(t, "x").Encode() }, again(DecodeTransaction), decoded(DecodeTransaction)},
		{"session commit", func(t *rapid.T) []byte { return genCommit().Draw(t, "x").Encode() }, again(DecodeSessionCommit), decoded(DecodeSessionCommit)},
		{"root statement", func(t *rapid.T) []byte { return genRoot().Draw(t, "x").Encode() }, again(DecodeRootStatement), decoded(DecodeRootStatement)},
		{"open body", func(t *rapid.T) []byte { return genOpenBody().Draw(t, "x").JSON() },
			func(b []byte) ([]byte, error) { v, err := ParseOpenBody(b); return v.JSON(), err }, decoded(ParseOpenBody)},
	}
}

func again[T interface{ Encode() []byte }](read func([]byte) (T, error)) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		v, err := read(bytes.Clone(b))
		if err != nil {
			return nil, err
		}
		return v.Encode(), nil
	}
}

func decoded[T any](read func([]byte) (T, error)) func([]byte) (any, error) {
	return func(b []byte) (any, error) { return read(b) }
}
