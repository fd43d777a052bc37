package evidence

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tandem/internal/httpsig"
	"tandem/internal/session"
	"tandem/internal/wire"
)

const chain = "evidence-1"

func key(name string) ed25519.PrivateKey {
	sum := sha256.Sum256([]byte("evidence test key " + name))
	return ed25519.NewKeyFromSeed(sum[:])
}

func did(name string) string { return wire.PublicKeyOf(key(name)).DID() }

func genesisFile() []byte {
	return fmt.Appendf(nil, `{"chain_id":%q,"app_state":{"tandem":{"actors":[{"id":"ANN","organisation":"Mill","keys":[%q]}],
		"layer2":[{"key":%q,"organisation":"Warehouse"}]}}}`, chain, did("ann"), did("node"))
}

func openOn(chainID string) wire.Request {
	open := wire.Request{
		Method: "POST", Path: session.PathOpen, ContentType: "application/json", Created: 1_700_000_000,
		Body: wire.OpenBody{ChainID: chainID, ExpiresAt: 1_700_000_900_000, Nonce: [16]byte{1}}.JSON(),
	}
	httpsig.Sign(key("ann"), httpsig.TagOpen, &open, httpsig.Place{})
	return open
}

func signed(who, tag, method, path string, open *wire.Request, sequence uint64, over wire.Digest) Request {
	r := wire.Request{Method: method, Path: path, ContentType: "application/json", Created: 1_700_000_001, Body: []byte("{}")}
	httpsig.Sign(key(who), tag, &r, httpsig.Place{Session: httpsig.SessionID(open), Sequence: sequence, Transcript: over})
	return Request{Tag: tag, Transcript: over, Request: r}
}

func step(path string, open *wire.Request, sequence uint64, over wire.Digest) Request {
	return signed("ann", httpsig.TagStep, "POST", path, open, sequence, over)
}

// sealed plays a node: it records an answer to the request and seals it.
func sealed(who string, open *wire.Request, r Request, sequence uint64, body string, time int64) Answer {
	tx := wire.Transaction{
		Sequence: sequence, Request: r.Request, Originator: wire.PublicKeyOf(key(who)), Time: time,
		Response: wire.Response{Status: 200, Headers: []wire.Header{{Name: "Content-Type", Value: "text/plain"}}, Body: wire.Sum([]byte(body))},
	}
	seal := httpsig.SealAnswer(key(who), time/1000, httpsig.Answer{
		Status: 200, Body: tx.Response.Body, Session: httpsig.SessionID(open), Sequence: sequence,
		Transcript: wire.TranscriptNext(r.Transcript, tx), Height: 7, Time: time, Originator: tx.Originator,
	})
	return Answer{Previous: r.Transcript, Recorded: wire.Recorded{Transaction: tx, Height: 7, Seal: seal}}
}

// examples are one file of each kind.
func examples(t testing.TB) map[Kind][]byte {
	t.Helper()
	open := openOn(chain)
	start := wire.TranscriptStart(open)
	a := step("/a", &open, 1, start)
	one, two := sealed("node", &open, a, 1, "one", 1_700_000_001_000), sealed("node", &open, a, 1, "two", 1_700_000_001_000)
	after := func(x Answer) wire.Digest { return wire.TranscriptNext(x.Previous, x.Recorded.Transaction) }
	forged := sealed("node", &open, signed("mallory", httpsig.TagStep, "POST", "/steal", &open, 1, start), 1, "stolen", 1_700_000_001_000)
	out := map[Kind][]byte{}
	add := func(kind Kind, file []byte, err error) {
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		out[kind] = file
	}
	file, err := OfClient(open, 1, a, step("/b", &open, 1, start))
	add(TwoRequests, file, err)
	file, err = OfClient(open, 2, step("/c", &open, 2, after(one)), signed("ann", httpsig.TagCommit, "POST", session.PathCommit(httpsig.SessionID(&open)), &open, 2, after(two)))
	add(TwoHistories, file, err)
	file, err = OfNode(open, one, two)
	add(TwoAnswers, file, err)
	file, err = OfNode(open, forged)
	add(ForgedRequest, file, err)
	return out
}

// Each kind verifies, names the culprit by the genesis file, and reads as text.
func TestKinds(t *testing.T) {
	for kind, file := range examples(t) {
		f, err := Verify(genesisFile(), file)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		client := kind == TwoHistories || kind == TwoRequests
		want := Culprit{Key: did("node"), Role: "layer-2 node", Organisation: "Warehouse"}
		if client {
			want = Culprit{Key: did("ann"), Role: "client", ID: "ANN", Organisation: "Mill"}
		}
		if f.Kind != kind || f.Culprit != want || f.Conclusive != (kind != TwoRequests) || f.ChainID != chain || f.Sequence < 1 {
			t.Errorf("%s: found %+v", kind, f)
		}
		var text bytes.Buffer
		if err := f.WriteSummary(&text); err != nil || !strings.Contains(text.String(), want.Organisation) || !strings.Contains(text.String(), f.Proves) {
			t.Errorf("%s: the summary is %s, %v", kind, &text, err)
		}
	}
}

// Any changed, missing or added byte makes a file prove nothing.
func TestAnyChangedByteFails(t *testing.T) {
	for kind, file := range examples(t) {
		for i := range file {
			bad := bytes.Clone(file)
			bad[i] ^= []byte{1, 0x20, 2, 4}[i%4]
			if f, err := Verify(genesisFile(), bad); err == nil {
				t.Fatalf("%s: byte %d changed from %q to %q still proves %+v", kind, i, file[i], bad[i], f)
			}
		}
		if _, err := Verify(genesisFile(), file[:len(file)-1]); err == nil {
			t.Errorf("%s: without its last byte it verifies", kind)
		}
		if _, err := Verify(genesisFile(), append(bytes.Clone(file), '\n')); err == nil {
			t.Errorf("%s: with a byte more it verifies", kind)
		}
		if _, err := Verify(bytes.ReplaceAll(genesisFile(), []byte(chain), []byte("other-1")), file); err == nil {
			t.Errorf("%s: verifies on another chain", kind)
		}
	}
}

// What somebody who behaves may sign is no evidence, and evidence cannot be put together from what others signed.
func TestNoEvidence(t *testing.T) {
	open := openOn(chain)
	start := wire.TranscriptStart(open)
	a, b := step("/a", &open, 1, start), step("/b", &open, 1, start)
	commit := signed("ann", httpsig.TagCommit, "POST", session.PathCommit(httpsig.SessionID(&open)), &open, 1, start)
	abandon := signed("ann", httpsig.TagStep, "DELETE", session.PathOpen+"/"+httpsig.SessionID(&open).String(), &open, 1, start)
	at := int64(1_700_000_001_000)
	one := sealed("node", &open, a, 1, "one", at)
	next := step("/next", &open, 2, wire.TranscriptNext(start, one.Recorded.Transaction))
	unsealed := sealed("node", &open, a, 1, "two", at)
	unsealed.Recorded.Seal = one.Recorded.Seal
	framed := one // the accuser changes what the seal covers only through the head
	framed.Recorded.Transaction.Response.Headers = nil
	refused := sealed("node", &open, a, 1, "no", at)
	refused.Recorded.Transaction.Response.Status = 409
	for name, make := range map[string]func() ([]byte, error){
		"the same request twice": func() ([]byte, error) { return OfClient(open, 1, a, a) },
		"a step and a commit":    func() ([]byte, error) { return OfClient(open, 1, a, commit) },
		"a step and giving up":   func() ([]byte, error) { return OfClient(open, 1, a, abandon) },
		"another's signature": func() ([]byte, error) {
			return OfClient(open, 1, a, signed("mallory", httpsig.TagStep, "POST", "/b", &open, 1, start))
		},
		"another place":                      func() ([]byte, error) { return OfClient(open, 2, a, b) },
		"another session":                    func() ([]byte, error) { other := openOn("other"); return OfClient(other, 1, a, b) },
		"two steps of two places":            func() ([]byte, error) { return OfClient(open, 1, a, next) },
		"an opening as a step":               func() ([]byte, error) { return OfClient(open, 1, a, Request{httpsig.TagOpen, start, open}) },
		"one answer twice":                   func() ([]byte, error) { return OfNode(open, one, one) },
		"answers of two nodes":               func() ([]byte, error) { return OfNode(open, one, sealed("other", &open, a, 1, "two", at)) },
		"answers to two steps":               func() ([]byte, error) { return OfNode(open, one, sealed("node", &open, next, 2, "two", at)) },
		"a seal of another answer":           func() ([]byte, error) { return OfNode(open, one, unsealed) },
		"headers the node has not hashed":    func() ([]byte, error) { return OfNode(open, one, framed) },
		"an answer that is not recorded":     func() ([]byte, error) { return OfNode(open, one, refused) },
		"a request that the client did sign": func() ([]byte, error) { return OfNode(open, one) },
		"nothing":                            func() ([]byte, error) { return OfNode(open) },
	} {
		if file, err := make(); err == nil {
			t.Errorf("%s is evidence: %s", name, file)
		}
	}
}

// A random run of clients and nodes that behave: whatever two of their signed things are put side by side, the only file
// that ever comes out is two-requests, which says of itself that it is not conclusive.
func TestHonestNeverConvicted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		open := openOn(chain)
		head := wire.TranscriptStart(open)
		var requests []Request
		var places []uint64
		var answers []Answer
		for k := uint64(1); k <= uint64(rapid.IntRange(1, 3).Draw(t, "steps")); k++ {
			for range rapid.IntRange(0, 1).Draw(t, "refused") { // answered with 4xx or refused: the place stays free
				requests, places = append(requests, step("/tried/"+fmt.Sprint(len(requests)), &open, k, head)), append(places, k)
			}
			r := step("/done/"+fmt.Sprint(k), &open, k, head)
			requests, places = append(requests, r), append(places, k)
			var variants []Answer // a retry race: each node originates the step, the client goes on with one
			for _, node := range []string{"node", "other"}[:rapid.IntRange(1, 2).Draw(t, "originators")] {
				variants = append(variants, sealed(node, &open, r, k, "ok", 1_700_000_001_000+int64(k)))
			}
			answers = append(answers, variants...)
			chosen := rapid.SampledFrom(variants).Draw(t, "chosen")
			head = wire.TranscriptNext(head, chosen.Recorded.Transaction)
		}
		for i := range requests {
			for j := range i {
				file, err := OfClient(open, places[i], requests[i], requests[j])
				if err != nil {
					continue
				}
				if f, err := Verify(genesisFile(), file); err != nil || f.Conclusive {
					t.Fatalf("an honest client is convicted of %+v, %v", f, err)
				}
			}
		}
		for i := range answers {
			if file, err := OfNode(open, answers[i]); err == nil {
				t.Fatalf("an honest node is convicted: %s", file)
			}
			for j := range i {
				if file, err := OfNode(open, answers[i], answers[j]); err == nil {
					t.Fatalf("an honest node is convicted: %s", file)
				}
			}
		}
	})
}

// FuzzVerify: no bytes make Verify panic, and what verifies is canonical.
func FuzzVerify(f *testing.F) {
	for _, file := range examples(f) {
		f.Add(file)
	}
	f.Add([]byte(`{"format":"tandem evidence 1","kind":"two-answers","open":"","sequence":0,"requests":[],"answers":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Verify(genesisFile(), b); err != nil {
			return
		}
		decoded, err := decodeFile(b)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := decoded.encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("two encodings of one file: %v", err)
		}
	})
}

// FuzzGenesis: no genesis file makes Verify panic.
func FuzzGenesis(f *testing.F) {
	file := examples(f)[TwoAnswers]
	f.Add(genesisFile())
	f.Add([]byte(`{"chain_id":"evidence-1","app_state":null}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = Verify(b, file) })
}

// A finding is JSON for programs.
func TestFindingJSON(t *testing.T) {
	for _, file := range examples(t) {
		f, err := Verify(genesisFile(), file)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		var again Finding
		if err := json.Unmarshal(b, &again); err != nil || again.Proves != f.Proves {
			t.Errorf("%s: %v", b, err)
		}
	}
}

var update = flag.Bool("update", false, "write the golden files")

// The format does not change unnoticed: the files of all kinds, byte for byte.
func TestGolden(t *testing.T) {
	for kind, file := range examples(t) {
		path := filepath.Join("testdata", string(kind)+".json")
		if *update {
			if err := os.WriteFile(path, file, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(golden, file) {
			t.Errorf("%s differs from %s", kind, path)
		}
	}
}
