package httpsig

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/internal/wire"
)

var update = flag.Bool("update", false, "rewrite the golden vectors")

// TestGolden: the signature bases and headers stay what docs/format/signatures.md says. The requests are those of the example
// session in internal/wire.
func TestGolden(t *testing.T) {
	client, node := seedKey(1), seedKey(2)
	const created = 1767225600 // 2026-01-01T00:00:00Z
	body := wire.OpenBody{ChainID: "tandem-example", Fingerprint: wire.Sum([]byte("the example's service")), ExpiresAt: (created + 3600) * 1000}
	for i := range body.Nonce {
		body.Nonce[i] = byte(i)
	}
	open := &Parsed{Tag: TagOpen, Request: wire.Request{Method: "POST", Path: "/tandem/v1/sessions", ContentType: "application/json", Body: body.JSON(), Created: created}}
	Sign(client, TagOpen, &open.Request, Place{})
	id, head := SessionID(&open.Request), wire.TranscriptStart(open.Request)
	checkGolden(t, "open.txt", text(t, open)+"session id: "+id.String()+"\n")

	step := &Parsed{Tag: TagStep, Place: Place{Session: id, Sequence: 1, Transcript: head}, Request: wire.Request{
		Method: "POST", Path: "/packages/PKG-001/scan", ContentType: "application/json", Body: []byte("{}"), Created: created + 2,
	}}
	Sign(client, TagStep, &step.Request, step.Place)
	checkGolden(t, "step.txt", text(t, step))

	answered := []byte(`{"package_id":"PKG-001","supplier":"SUP-001"}`)
	head = wire.TranscriptNext(head, wire.Transaction{
		Sequence: 1, Request: step.Request, Originator: wire.PublicKeyOf(node), Time: (created+2)*1000 + 7,
		Response: wire.Response{Status: 200, Headers: []wire.Header{{Name: "Content-Type", Value: "application/json"}}, Body: wire.Sum(answered)},
	})
	answer := Answer{Status: 200, Body: wire.Sum(answered), Session: id, Sequence: 1, Transcript: head, Height: 41, Time: (created+2)*1000 + 7, Originator: wire.PublicKeyOf(node)}
	h := http.Header{}
	SignAnswer(node, created+2, answer, h)
	checkGolden(t, "answer.txt", "signature base:\n"+string(answerBase(answer, created+2))+"\n\nheaders:\n"+headers(h)+"\nbody:\n"+string(answered)+"\n")
	if _, err := VerifyAnswer(h, 200, answered); err != nil {
		t.Error(err)
	}

	commit := &Parsed{Tag: TagCommit, Place: Place{Session: id, Sequence: 2, Transcript: head}, Request: wire.Request{
		Method: "POST", Path: "/tandem/v1/sessions/" + id.String() + "/commit", ContentType: "application/json", Body: []byte("{}"), Created: created + 9,
	}}
	Sign(client, TagCommit, &commit.Request, commit.Place)
	checkGolden(t, "commit.txt", text(t, commit))

	for _, p := range []*Parsed{open, step, commit} {
		if _, err := FromHTTP(overTheWire(t, p)); err != nil {
			t.Error(err)
		}
	}
}

func text(t *testing.T, p *Parsed) string {
	r, err := ToHTTP("http://node", p)
	if err != nil {
		t.Fatal(err)
	}
	return "signature base:\n" + string(Base(p.Tag, &p.Request, p.Place)) +
		fmt.Sprintf("\n\nrequest:\n%s %s HTTP/1.1\n", r.Method, r.URL.RequestURI()) + headers(r.Header) + "\n" + string(p.Request.Body) + "\n"
}

func headers(h http.Header) string {
	var lines []string
	for name, values := range h {
		lines = append(lines, name+": "+strings.Join(values, ", ")+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (rewrite with -update): %s", name, diff)
	}
}

// FuzzFromHTTP: no header makes the reader panic, and what it takes has exactly the headers that SetHeaders would write.
func FuzzFromHTTP(f *testing.F) {
	for _, p := range []*Parsed{goodStep(), goodOpen()} {
		r, _ := overTheWire(f, p)
		h := r.Header
		f.Add(r.Method, r.RequestURI, h.Get(HeaderContentType), h.Get(HeaderContentDigest), h.Get(HeaderSession), h.Get(HeaderSequence), h.Get(HeaderTranscript), h.Get(HeaderSignatureInput), h.Get(HeaderSignature), p.Request.Body)
	}
	f.Add("POST", "/", "a", "sha-256=::", "", "", "", `tandem=("@method";a=%"x");created=@1;keyid=?1`, "tandem=:AA==:", []byte{})
	f.Fuzz(func(t *testing.T, method, target, contentType, digest, session, sequence, transcript, input, signature string, body []byte) {
		r := &http.Request{Method: method, RequestURI: target, Header: http.Header{}}
		for name, value := range map[string]string{
			HeaderContentType: contentType, HeaderContentDigest: digest, HeaderSession: session, HeaderSequence: sequence,
			HeaderTranscript: transcript, HeaderSignatureInput: input, HeaderSignature: signature,
		} {
			if value != "" {
				r.Header[name] = []string{value}
			}
		}
		p, err := FromHTTP(r, body)
		if err != nil || p == nil {
			return
		}
		h := http.Header{}
		SetHeaders(h, p)
		if diff := cmp.Diff(h, r.Header); diff != "" {
			t.Error(diff)
		}
		if !bytes.Equal(p.Request.Body, body) {
			t.Error("the body changed")
		}
	})
}

// FuzzVerifyAnswer: no header makes the verifier panic, and what it takes is what SignAnswer wrote.
func FuzzVerifyAnswer(f *testing.F) {
	h, status, body := goodAnswer()
	f.Add(status, h.Get(HeaderContentDigest), h.Get(HeaderSequence), h.Get(HeaderHeight), h.Get(HeaderTime), h.Get(HeaderOriginator), h.Get(HeaderSignatureInput), h.Get(HeaderSignature), body)
	f.Fuzz(func(t *testing.T, status int, digest, sequence, height, time, originator, input, signature string, body []byte) {
		got, want, _ := goodAnswer()
		for name, value := range map[string]string{
			HeaderContentDigest: digest, HeaderSequence: sequence, HeaderHeight: height, HeaderTime: time,
			HeaderOriginator: originator, HeaderSignatureInput: input, HeaderSignature: signature,
		} {
			got.Set(name, value)
		}
		if _, err := VerifyAnswer(got, status, body); err != nil {
			return
		}
		first, _, _ := goodAnswer()
		if want != status || !cmp.Equal(first, got) {
			t.Error("a signature that nobody made verifies")
		}
	})
}

func BenchmarkFromHTTP(b *testing.B) {
	p := goodStep()
	r, body := overTheWire(b, p)
	b.ReportAllocs()
	for range b.N {
		if _, err := FromHTTP(r, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	p := goodStep()
	priv := seedKey(1)
	b.ReportAllocs()
	for range b.N {
		Sign(priv, p.Tag, &p.Request, p.Place)
	}
}

func BenchmarkBase(b *testing.B) {
	p := goodStep()
	b.ReportAllocs()
	for range b.N {
		Base(p.Tag, &p.Request, p.Place)
	}
}

func BenchmarkVerifyAnswer(b *testing.B) {
	h, status, body := goodAnswer()
	b.ReportAllocs()
	for range b.N {
		if _, err := VerifyAnswer(h, status, body); err != nil {
			b.Fatal(err)
		}
	}
}
