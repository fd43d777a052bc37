package wire_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"

	"tandem/internal/httpsig"
	"tandem/internal/wire"
)

var update = flag.Bool("update", false, "rewrite the golden vectors")

// example is the session that all pages of docs/format use: one scan, one read, one commit.
type example struct {
	client, node ed25519.PrivateKey
	body         wire.OpenBody
	id           wire.SessionID
	commit       wire.SessionCommit
	bodies       [][]byte
	heads        []wire.Digest
}

func newExample() example {
	e := example{
		client: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)),
		node:   ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32)),
	}
	const created = 1767225600 // 2026-01-01T00:00:00Z
	e.body = wire.OpenBody{ChainID: "tandem-example", Fingerprint: wire.Sum([]byte("the example's service")), ExpiresAt: (created + 3600) * 1000}
	for i := range e.body.Nonce {
		e.body.Nonce[i] = byte(i)
	}
	e.commit.Open = wire.Request{Method: "POST", Path: "/tandem/v1/sessions", ContentType: "application/json", Body: e.body.JSON(), Created: created}
	httpsig.Sign(e.client, httpsig.TagOpen, &e.commit.Open, httpsig.Place{})
	e.id = httpsig.SessionID(&e.commit.Open)
	e.heads = []wire.Digest{wire.TranscriptStart(e.commit.Open)}
	e.step(wire.Request{Method: "POST", Path: "/packages/PKG-001/scan", ContentType: "application/json", Body: []byte("{}"), Created: created + 2},
		200, `{"package_id":"PKG-001","supplier":"SUP-001"}`)
	e.step(wire.Request{Method: "GET", Path: "/packages", Query: "supplier=SUP-001", ContentType: "application/json", Created: created + 5},
		200, `{"packages":["PKG-001"]}`)
	e.commit.Commit = wire.Request{Method: "POST", Path: "/tandem/v1/sessions/" + e.id.String() + "/commit", ContentType: "application/json", Body: []byte("{}"), Created: created + 9}
	httpsig.Sign(e.client, httpsig.TagCommit, &e.commit.Commit, e.place())
	return e
}

func (e *example) place() httpsig.Place {
	n := len(e.commit.Transactions)
	return httpsig.Place{Session: e.id, Sequence: uint64(n) + 1, Transcript: e.heads[n]}
}

func (e *example) step(r wire.Request, status int, answer string) {
	p := e.place()
	httpsig.Sign(e.client, httpsig.TagStep, &r, p)
	tx := wire.Transaction{
		Sequence: p.Sequence, Request: r, Originator: wire.PublicKeyOf(e.node), Time: r.Created*1000 + 7,
		Response: wire.Response{Status: status, Headers: []wire.Header{{Name: "Content-Type", Value: "application/json"}}, Body: wire.Sum([]byte(answer))},
	}
	e.commit.Transactions = append(e.commit.Transactions, tx)
	e.bodies = append(e.bodies, []byte(answer))
	e.heads = append(e.heads, wire.TranscriptNext(p.Transcript, tx))
}

// TestGolden: the encodings stay what docs/format says. A change here is a change of format: it needs new kinds, domain
// tags or a new version, not -update alone.
func TestGolden(t *testing.T) {
	e := newExample()
	root := wire.RootStatement{Height: 42, Root: wire.Sum([]byte("the example's state"))}
	tx := e.commit.Transactions[0]
	supersedes := e.body
	supersedes.Supersedes = &e.id

	checkGolden(t, "request.txt", vector("wire.Request: the first step of the example session", tx.Request.Encode(), "digest", tx.Request.Digest().String()))
	checkGolden(t, "response.txt", vector("wire.Response: the answer to it", tx.Response.Encode(), "digest", tx.Response.Digest().String(), "body", string(e.bodies[0])))
	checkGolden(t, "transaction.txt", vector("wire.Transaction: both, with originator and time", tx.Encode()))
	checkGolden(t, "session-commit.txt", vector("wire.SessionCommit: the whole example session", e.commit.Encode(), "transaction hash", wire.Sum(e.commit.Encode()).String()))
	part := e.commit
	part.Start = wire.Start{Checkpoints: 1, Sequence: 1, Head: e.heads[1]}
	part.Transactions = e.commit.Transactions[1:]
	checkGolden(t, "session-commit-part.txt", vector("wire.SessionCommit: the example session after a checkpoint of its first step", part.Encode(), "transaction hash", wire.Sum(part.Encode()).String()))
	checkGolden(t, "root-statement.txt", vector("wire.RootStatement: the first transaction of block 42", root.Encode()))
	checkGolden(t, "open-body.txt", fmt.Sprintf("# wire.OpenBody, without and with supersedes\n%s\n%s\n", e.body.JSON(), supersedes.JSON()))
	checkGolden(t, "transcript.txt", transcriptText(&e))
	checkGolden(t, "keys.txt", keysText())

	r := wire.Recorded{Transaction: tx, Height: 41, Seal: wire.Seal{Created: tx.Time / 1000, Signature: tx.Request.Signature}}
	step := wire.PeerStep{Session: e.id, Previous: e.heads[0], Head: e.heads[1], Step: r}
	upload := wire.Transcript{Open: e.commit.Open, Steps: []wire.Recorded{r}}
	checkGolden(t, "peer-step.txt", vector("wire.PeerStep: the first step on its way to a peer (the seal is no real one)", step.Encode()))
	checkGolden(t, "upload.txt", vector("wire.Transcript: the session after its first step (the seal is no real one)", upload.Encode()))
	accusation := wire.Accusation{Open: e.commit.Open, Steps: []wire.Recorded{r}, Endorsement: &wire.Endorsement{Node: tx.Originator, Height: 41, Signature: tx.Request.Signature}}
	checkGolden(t, "accusation.txt", vector("wire.Accusation: of an endorsement of the first step (seal and endorsement are no real ones)", accusation.Encode()))
	checkGolden(t, "endorsement.txt", vector("wire.EndorsementBytes: what an endorsement of the first step on height 41 signs",
		wire.EndorsementBytes(e.body.ChainID, e.id, 1, e.heads[1], 41)))

	decodes(t, "request.txt", tx.Request, wire.DecodeRequest)
	decodes(t, "upload.txt", upload, wire.DecodeTranscript)
	decodes(t, "accusation.txt", accusation, wire.DecodeAccusation)
	decodes(t, "response.txt", tx.Response, wire.DecodeResponse)
	decodes(t, "transaction.txt", tx, wire.DecodeTransaction)
	decodes(t, "session-commit.txt", e.commit, wire.DecodeSessionCommit)
	decodes(t, "session-commit-part.txt", part, wire.DecodeSessionCommit)
	decodes(t, "root-statement.txt", root, wire.DecodeRootStatement)
}

func transcriptText(e *example) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# the transcript heads of the example session\nsession %s\n", e.id)
	fmt.Fprintf(&b, "open    %s\nT_0     %s\n", e.commit.Open.Digest(), e.heads[0])
	for i, tx := range e.commit.Transactions {
		fmt.Fprintf(&b, "\nrequest %d   %s\nresponse %d  %s\n", i+1, tx.Request.Digest(), i+1, tx.Response.Digest())
		fmt.Fprintf(&b, "originator  %x\ntime        %d = %016x\nT_%d         %s\n", tx.Originator[:], tx.Time, tx.Time, i+1, e.heads[i+1])
	}
	return b.String()
}

func keysText() string {
	var b strings.Builder
	b.WriteString("# seed, public key, did:key\n")
	for i := range byte(4) {
		priv := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{i}, 32))
		k := wire.PublicKeyOf(priv)
		fmt.Fprintf(&b, "%x %x %s\n", priv.Seed(), k[:], k)
	}
	return b.String()
}

// TestDIDVectors: keys of the did:key specification (https://w3c-ccg.github.io/did-key-spec/#ed25519-x25519).
func TestDIDVectors(t *testing.T) {
	for _, did := range []string{
		"did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
		"did:key:z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG",
		"did:key:z6MknGc3ocHs3zdPiJbnaaqDi58NGb4pk1Sp9WxWufuXSdxf",
	} {
		key, err := wire.ParseDID(did)
		if err != nil || key.DID() != did {
			t.Errorf("%s: %s %v", did, key, err)
		}
	}
}

// vector writes an encoding as hex and in diagnostic notation (RFC 8949 section 8), with more lines.
func vector(title string, encoded []byte, more ...string) string {
	diagnostic, err := cbor.Diagnose(encoded)
	if err != nil {
		panic(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n%d bytes\n", title, len(encoded))
	for i := 0; i < len(more); i += 2 {
		fmt.Fprintf(&b, "%s %s\n", more[i], more[i+1])
	}
	fmt.Fprintf(&b, "diagnostic %s\nhex\n", diagnostic)
	for text := hex.EncodeToString(encoded); text != ""; {
		n := min(100, len(text))
		b.WriteString(text[:n] + "\n")
		text = text[n:]
	}
	return b.String()
}

// decodes reads the hex of a golden file, not what the test encoded.
func decodes[T any](t *testing.T, name string, want T, decode func([]byte) (T, error)) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "golden", name))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(raw), "\nhex\n")
	b, err := hex.DecodeString(strings.ReplaceAll(text, "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	got, err := decode(b)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(bytes.Equal)); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
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
