package evidence_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"tandem"
	"tandem/evidence"
	"tandem/internal/httpsig"
	"tandem/internal/judge"
	"tandem/internal/ledger"
	"tandem/internal/proof"
	"tandem/internal/session"
	"tandem/internal/signedblock"
	"tandem/internal/signedblock/signtest"
	"tandem/internal/state"
	"tandem/internal/wire"
)

const replayChain = "replay-1"

// printed is the fingerprint that the golden files' session was opened for: that of the test binary changes with the Go
// version.
var printed = wire.Sum([]byte("the counters of the tests"))

// fixed gives a judge the golden files' fingerprint.
type fixed struct{ inner judge.Judge }

// Judge implements evidence.Judge for a case of the printed fingerprint.
func (f fixed) Judge(ctx context.Context, c *evidence.Case) (*evidence.Difference, error) {
	if c.Open.Fingerprint == printed {
		c.Open.Fingerprint = mine
	}
	return f.inner.Judge(ctx, c)
}

var mine = wire.Digest(counters().Fingerprint())

func judges() evidence.Judge { return fixed{judge.New(counters())} }

// counters is a service with a step that reads keys, one that scans, and one that tosses a coin.
func counters() tandem.Service {
	var reg tandem.Registry
	tosses := 0
	reg.HandleFunc("POST /add/{k}", func(w http.ResponseWriter, r *http.Request) {
		st, key := tandem.StateOf(r.Context()), []byte(r.PathValue("k"))
		old, _ := st.Get(key)
		n, _ := strconv.Atoi(string(old))
		st.Set(key, []byte(strconv.Itoa(n+1)))
		fmt.Fprintf(w, "%d", n+1)
	})
	reg.HandleFunc("GET /sum", func(w http.ResponseWriter, r *http.Request) {
		sum := 0
		for _, v := range tandem.StateOf(r.Context()).Scan(nil, nil) {
			n, _ := strconv.Atoi(string(v))
			sum += n
		}
		fmt.Fprintf(w, "%d", sum)
	})
	reg.HandleFunc("POST /toss", func(w http.ResponseWriter, _ *http.Request) {
		tosses++
		fmt.Fprintf(w, "%d", tosses)
	})
	return tandem.Service{Name: "counters", Version: "1", Registry: &reg}
}

func seed(name string) ed25519.PrivateKey {
	sum := sha256.Sum256([]byte("replay test key " + name))
	return ed25519.NewKeyFromSeed(sum[:])
}

// world is a ledger with two versions, 5 and 6, that differ in counter b, and a session of one client.
type world struct {
	t       testing.TB
	store   *state.Store
	signers *signtest.Validators
	genesis []byte
	open    wire.Request
	id      wire.SessionID
	head    wire.Digest
	steps   []wire.Transaction
}

func newWorld(t testing.TB) *world {
	t.Helper()
	var g ledger.Genesis
	g.ChainID = replayChain
	g.Tandem.Parameters = ledger.DefaultParameters(counters(), printed)
	g.Tandem.Actors = []ledger.GenesisActor{{ID: "ANN", Organisation: "Mill", Keys: []wire.PublicKey{wire.PublicKeyOf(seed("ann"))}}}
	for _, name := range []string{"node", "other"} {
		g.Tandem.Layer2 = append(g.Tandem.Layer2, ledger.GenesisNode{Key: wire.PublicKeyOf(seed(name)), Organisation: "Warehouse of " + name, Address: name + ".test:1"})
	}
	app, err := g.JSON()
	if err != nil {
		t.Fatal(err)
	}
	store, err := state.Open("state", state.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	w := &world{t: t, store: store, signers: signtest.New(replayChain, 4)}
	w.genesis = w.signers.Genesis(app)
	o := state.NewOverlay(store.Latest())
	if err := ledger.Apply(g, counters(), o); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		o.Set(fmt.Appendf(nil, "a/k%d", i), []byte(strconv.Itoa(i)))
	}
	w.commit(5, o)
	o = state.NewOverlay(store.Latest())
	o.Set([]byte("a/b"), []byte("40"))
	w.commit(6, o)
	w.open = wire.Request{
		Method: "POST", Path: session.PathOpen, ContentType: "application/json", Created: 1_700_000_000,
		Body: wire.OpenBody{ChainID: replayChain, Fingerprint: printed, ExpiresAt: 1_700_000_900_000, Nonce: [16]byte{1}}.JSON(),
	}
	httpsig.Sign(seed("ann"), httpsig.TagOpen, &w.open, httpsig.Place{})
	w.id, w.head = httpsig.SessionID(&w.open), wire.TranscriptStart(w.open)
	return w
}

func (w *world) commit(height int64, o *state.Overlay) {
	w.t.Helper()
	staged, err := w.store.Stage(o.Changes())
	if err == nil {
		err = w.store.Commit(height, height, staged)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// step adds a recorded step with this answer.
func (w *world) step(method, target, answer, originator string) {
	r := wire.Request{Method: method, Path: target, ContentType: "application/json", Created: 1_700_000_001}
	n := uint64(len(w.steps)) + 1
	httpsig.Sign(seed("ann"), httpsig.TagStep, &r, httpsig.Place{Session: w.id, Sequence: n, Transcript: w.head})
	tx := wire.Transaction{
		Sequence: n, Request: r, Originator: wire.PublicKeyOf(seed(originator)), Time: 1_700_000_001_000,
		Response: wire.Response{Status: 200, Headers: []wire.Header{{Name: "Content-Type", Value: "text/plain; charset=utf-8"}}, Body: wire.Sum([]byte(answer))},
	}
	w.steps, w.head = append(w.steps, tx), wire.TranscriptNext(w.head, tx)
}

// sealed is the last step's originator's word that the session answers so on the state at height.
func (w *world) sealed(height int64, who string) evidence.Claim {
	last := w.steps[len(w.steps)-1]
	seal := httpsig.SealAnswer(seed(who), last.Time/1000, httpsig.Answer{
		Status: last.Response.Status, Body: last.Response.Body, Session: w.id, Sequence: last.Sequence, Transcript: w.head, Height: height,
		Time: last.Time, Originator: last.Originator,
	})
	return evidence.Claim{Node: last.Originator, Height: height, Created: seal.Created, Signature: seal.Signature}
}

// endorsed is another node's.
func (w *world) endorsed(height int64, who string) evidence.Claim {
	text := wire.EndorsementBytes(replayChain, w.id, uint64(len(w.steps)), w.head, height)
	return evidence.Claim{Node: wire.PublicKeyOf(seed(who)), Height: height, Signature: wire.Signature(ed25519.Sign(seed(who), text))}
}

// reading is a state whose reads are noted.
type reading struct {
	state.Reader
	keys    map[string]bool
	scanned bool
}

func (r *reading) Get(key []byte) ([]byte, bool, error) {
	r.keys[string(key)] = true
	return r.Reader.Get(key)
}

func (r *reading) Scan(start, end []byte) iter.Seq2[state.Entry, error] {
	r.scanned = true
	return r.Reader.Scan(start, end)
}

// contradiction gathers what the claim's file holds, whether it is a lie or not.
func (w *world) contradiction(claim evidence.Claim, endorsed bool) evidence.Contradiction {
	w.t.Helper()
	c := evidence.Contradiction{Open: w.open, Start: evidence.Start{Head: wire.TranscriptStart(w.open)}, Steps: w.steps, Claim: claim, Endorsed: endorsed}
	view, err := w.store.At(claim.Height)
	if err != nil {
		w.t.Fatal(err)
	}
	proven, err := session.VerifyOpen(&w.open)
	if err != nil {
		w.t.Fatal(err)
	}
	proven.Open.Fingerprint = mine
	read := &reading{Reader: view, keys: map[string]bool{}}
	_, _ = judge.New(counters()).Run(context.Background(), &evidence.Case{Session: w.id, Key: w.open.Key, Open: proven.Open, Start: c.Start, Steps: c.Steps}, read)
	if read.scanned {
		if _, err := w.store.Export(claim.Height, func(_ int, chunk []byte) error { c.Packed = append(c.Packed, chunk...); return nil }); err != nil {
			w.t.Fatal(err)
		}
	} else {
		for _, key := range slices.Sorted(maps.Keys(read.keys)) {
			k, err := w.store.Trace(claim.Height, []byte(key))
			if err != nil {
				w.t.Fatal(err)
			}
			c.Keys = append(c.Keys, k)
		}
	}
	// The header of the block after the height states the root at the height.
	header, commit := w.signers.Block(claim.Height+1, w.root(claim.Height))
	trust, err := signedblock.ReadGenesis(w.genesis)
	if err != nil {
		w.t.Fatal(err)
	}
	c.Header = signedblock.HeaderOf(header)
	if c.Commit, err = trust.CommitOf(commit); err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) root(height int64) wire.Digest {
	k, err := w.store.Trace(height, []byte("a/k1"))
	if err != nil {
		w.t.Fatal(err)
	}
	root, err := k.Root()
	if err != nil {
		w.t.Fatal(err)
	}
	return root
}

func (w *world) file(c evidence.Contradiction) []byte {
	w.t.Helper()
	raw, err := evidence.OfClaim(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

// lies are a file of each sort that convicts.
func lies(t testing.TB) (genesis []byte, files map[string][]byte) {
	files = map[string][]byte{}
	w := newWorld(t)
	w.step("POST", "/add/b", "41", "node")
	w.step("POST", "/add/b", "43", "node") // it is 42
	files["wrong-answer"] = w.file(w.contradiction(w.sealed(6, "node"), false))
	files["wrong-endorsement"] = w.file(w.contradiction(w.endorsed(6, "other"), true))
	s := newWorld(t)
	s.step("GET", "/sum", "10", "node") // so it was on height 5
	files["wrong-answer-scan"] = s.file(s.contradiction(s.sealed(6, "node"), false))
	return w.genesis, files
}

func TestReplayConvicts(t *testing.T) {
	genesis, files := lies(t)
	for name, file := range files {
		f, err := evidence.VerifyWith(t.Context(), genesis, file, judges())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		culprit := "node"
		if f.Kind == evidence.WrongEndorsement {
			culprit = "other"
		}
		if f.Culprit.Key != wire.PublicKeyOf(seed(culprit)).DID() || f.Culprit.Organisation != "Warehouse of "+culprit || !f.Conclusive || f.Replay == nil ||
			f.Replay.Field != "body" || f.Replay.BlockHeight != 7 || f.Replay.Signers != 3 {
			t.Errorf("%s: found %+v, %+v", name, f, f.Replay)
		}
		var text bytes.Buffer
		if err := f.WriteSummary(&text); err != nil || !strings.Contains(text.String(), "run again") {
			t.Errorf("%s: the summary is %s, %v", name, &text, err)
		}
		if _, err := evidence.Verify(genesis, file); !errors.Is(err, evidence.ErrCannotJudge) {
			t.Errorf("%s: without the service: %v", name, err)
		}
		if _, err := evidence.VerifyWith(t.Context(), genesis, file, judge.New(counters())); !errors.Is(err, evidence.ErrCannotJudge) {
			t.Errorf("%s: with other service code: %v", name, err)
		}
	}
}

// The truth, in every form that an accuser could give it, convicts nobody; nor does what is not the accused node's word.
func TestReplayConvictsNoTruth(t *testing.T) {
	truth := func(change func(w *world, c *evidence.Contradiction)) func(*testing.T) ([]byte, []byte) {
		return func(t *testing.T) ([]byte, []byte) {
			w := newWorld(t)
			w.step("POST", "/add/b", "41", "node")
			w.step("POST", "/add/k1", "2", "node")
			c := w.contradiction(w.sealed(6, "node"), false)
			if change != nil {
				change(w, &c)
			}
			return w.genesis, w.file(c)
		}
	}
	for name, c := range map[string]struct {
		make func(t *testing.T) (genesis, file []byte)
		want string
	}{
		"the truth":             {truth(nil), "it did not lie"},
		"an endorsed truth":     {truth(func(w *world, c *evidence.Contradiction) { *c = w.contradiction(w.endorsed(6, "other"), true) }), "it did not lie"},
		"a key left out":        {truth(func(_ *world, c *evidence.Contradiction) { c.Keys = c.Keys[1:] }), "incomplete"},
		"no state":              {truth(func(_ *world, c *evidence.Contradiction) { c.Keys = nil }), "incomplete"},
		"a false value":         {truth(func(_ *world, c *evidence.Contradiction) { c.Keys[0].Value = []byte("1") }), "another root"},
		"a key said to be gone": {truth(func(_ *world, c *evidence.Contradiction) { c.Keys[0].Value, c.Keys[0].Present = nil, false }), "another root"},
		"keys out of order":     {truth(func(_ *world, c *evidence.Contradiction) { slices.Reverse(c.Keys) }), "behind"},
		"another height":        {truth(func(_ *world, c *evidence.Contradiction) { c.Claim.Height = 5 }), "seal"},
		"another state": {truth(func(w *world, c *evidence.Contradiction) {
			other := w.contradiction(w.sealed(5, "node"), false)
			c.Header, c.Commit, c.Keys = other.Header, other.Commit, other.Keys
		}), "not of block 6"},
		"a step left out": {truth(func(_ *world, c *evidence.Contradiction) {
			c.Start, c.Steps = evidence.Start{Sequence: 1, Head: wire.TranscriptNext(c.Start.Head, c.Steps[0])}, c.Steps[1:]
		}), "first steps are left out"},
		"another's steps first": {truth(func(_ *world, c *evidence.Contradiction) { c.Start.Head[0] ^= 1 }), "first transcript head"},
		"a request changed":     {truth(func(_ *world, c *evidence.Contradiction) { c.Steps[1].Request.Path = "/add/k2" }), "signature"},
		"a response changed":    {truth(func(_ *world, c *evidence.Contradiction) { c.Steps[1].Response.Body[0] ^= 1 }), "seal"},
		"headers changed":       {truth(func(_ *world, c *evidence.Contradiction) { c.Steps[1].Response.Headers = nil }), "seal"},
		"a time changed":        {truth(func(_ *world, c *evidence.Contradiction) { c.Steps[0].Time++ }), "signature"},
		"another's seal":        {truth(func(w *world, c *evidence.Contradiction) { c.Claim = w.sealed(6, "other") }), "seal"},
		"the node of another": {truth(func(w *world, c *evidence.Contradiction) {
			c.Claim = w.sealed(6, "node")
			c.Claim.Node = wire.PublicKeyOf(seed("other"))
		}), "another node's"},
		"too few validators": {truth(func(_ *world, c *evidence.Contradiction) { c.Commit.Signatures = c.Commit.Signatures[1:] }), "signatures"},
		"other validators": {truth(func(w *world, c *evidence.Contradiction) {
			signers := signtest.New("another-1", 4)
			header, commit := signers.Block(7, w.root(6))
			header.ChainID = replayChain
			trust, err := signedblock.ReadGenesis(signers.Genesis([]byte("{}")))
			if err != nil {
				w.t.Fatal(err)
			}
			c.Header = signedblock.HeaderOf(header)
			if c.Commit, err = trust.CommitOf(commit); err != nil {
				w.t.Fatal(err)
			}
		}), "other validators"},
		"a stranger's originals": {func(t *testing.T) ([]byte, []byte) {
			w := newWorld(t)
			w.step("POST", "/add/b", "77", "stranger")
			return w.genesis, w.file(w.contradiction(w.sealed(6, "stranger"), false))
		}, "never on the list"},
		"a handler that tosses a coin": {func(t *testing.T) ([]byte, []byte) {
			w := newWorld(t)
			w.step("POST", "/toss", "77", "node")
			return w.genesis, w.file(w.contradiction(w.sealed(6, "node"), false))
		}, "same answer twice"},
		"a step that the state holds": {func(t *testing.T) ([]byte, []byte) {
			w := newWorld(t)
			w.step("POST", "/add/b", "77", "node")
			o := state.NewOverlay(w.store.Latest())
			ledger.Settle(o, w.id, ledger.Settled{Height: 7, Actor: "ANN", Head: w.head, Steps: 1, Checkpoints: 1, Time: 7}, nil)
			w.commit(7, o)
			c := w.contradiction(w.sealed(6, "node"), false)
			c.Claim = w.sealed(7, "node")
			at := w.settledAt(7)
			c.Header, c.Commit, c.Keys = at.Header, at.Commit, at.Keys
			return w.genesis, w.file(c)
		}, "goes on from another point"},
		"a whole state and keys": {truth(func(w *world, c *evidence.Contradiction) {
			if _, err := w.store.Export(6, func(_ int, chunk []byte) error { c.Packed = append(c.Packed, chunk...); return nil }); err != nil {
				w.t.Fatal(err)
			}
		}), "said twice"},
	} {
		t.Run(name, func(t *testing.T) {
			genesis, file := c.make(t)
			f, err := evidence.VerifyWith(t.Context(), genesis, file, judges())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("found %+v, %v; want an error about %q", f, err, c.want)
			}
		})
	}
}

// settledAt proves the parameters and the session's record at a height.
func (w *world) settledAt(height int64) (c evidence.Contradiction) {
	w.t.Helper()
	view, err := w.store.At(height)
	if err != nil {
		w.t.Fatal(err)
	}
	read := &reading{Reader: view, keys: map[string]bool{}}
	if _, err := ledger.ParametersOf(read); err != nil {
		w.t.Fatal(err)
	}
	if _, _, err := ledger.SettledOf(read, w.id); err != nil {
		w.t.Fatal(err)
	}
	for _, key := range slices.Sorted(maps.Keys(read.keys)) {
		k, err := w.store.Trace(height, []byte(key))
		if err != nil {
			w.t.Fatal(err)
		}
		c.Keys = append(c.Keys, k)
	}
	header, commit := w.signers.Block(height+1, w.root(height))
	trust, err := signedblock.ReadGenesis(w.genesis)
	if err != nil {
		w.t.Fatal(err)
	}
	c.Header = signedblock.HeaderOf(header)
	if c.Commit, err = trust.CommitOf(commit); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// A checkpoint's steps are not run again: they are in the state, and the steps after it stand on them.
func TestReplayAfterACheckpoint(t *testing.T) {
	for _, answer := range []string{"42", "43"} {
		w := newWorld(t)
		w.step("POST", "/add/b", "41", "node")
		start := evidence.Start{Sequence: 1, Head: w.head}
		o := state.NewOverlay(w.store.Latest())
		o.Set([]byte("a/b"), []byte("41"))
		ledger.Settle(o, w.id, ledger.Settled{Height: 7, Actor: "ANN", Head: w.head, Steps: 1, Checkpoints: 1, Time: 7}, nil)
		w.commit(7, o)
		w.step("POST", "/add/b", answer, "node")
		c := w.contradiction(w.sealed(6, "node"), false) // all steps, on 6: for the keys
		keys := c.Keys
		c.Start, c.Steps, c.Claim, c.Keys = start, w.steps[1:], w.sealed(7, "node"), nil
		for _, k := range keys {
			at, err := w.store.Trace(7, k.Key)
			if err != nil {
				t.Fatal(err)
			}
			c.Keys = append(c.Keys, at)
		}
		header, commit := w.signers.Block(8, w.root(7))
		trust, err := signedblock.ReadGenesis(w.genesis)
		if err != nil {
			t.Fatal(err)
		}
		c.Header = signedblock.HeaderOf(header)
		if c.Commit, err = trust.CommitOf(commit); err != nil {
			t.Fatal(err)
		}
		f, err := evidence.VerifyWith(t.Context(), w.genesis, w.file(c), judges())
		if (err == nil) != (answer == "43") {
			t.Errorf("answered %s: %+v, %v", answer, f, err)
		}
	}
}

// Any changed, missing or added byte makes a file prove nothing. Of the endorsement's, which differs in the claim alone, every
// fifth is tried.
func TestReplayAnyChangedByteFails(t *testing.T) {
	genesis, files := lies(t)
	judges := judges()
	for name, file := range files {
		for i := range file {
			if name == "wrong-endorsement" && i%5 != 0 {
				continue
			}
			bad := bytes.Clone(file)
			bad[i] ^= []byte{1, 0x20, 2, 4}[i%4]
			if f, err := evidence.VerifyWith(t.Context(), genesis, bad, judges); err == nil {
				t.Fatalf("%s: byte %d changed from %q to %q still proves %+v", name, i, file[i], bad[i], f)
			}
		}
		for _, bad := range [][]byte{file[:len(file)-1], append(bytes.Clone(file), '\n')} {
			if _, err := evidence.VerifyWith(t.Context(), genesis, bad, judges); err == nil {
				t.Errorf("%s: with another length it verifies", name)
			}
		}
	}
}

// The format does not change unnoticed.
func TestReplayGolden(t *testing.T) {
	genesis, files := lies(t)
	files["replay-genesis"] = genesis
	for name, file := range files {
		path := filepath.Join("testdata", name+".json")
		if flag.Lookup("update").Value.String() == "true" {
			if err := os.WriteFile(path, file, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(golden, file) {
			t.Errorf("%s differs from %s", name, path)
		}
	}
}

// FuzzVerifyWith: no bytes make VerifyWith panic, and only the files that were made convict.
func FuzzVerifyWith(f *testing.F) {
	genesis, files := lies(f)
	for _, file := range files {
		f.Add(file)
	}
	f.Add([]byte(`{"format":"tandem evidence 1","kind":"wrong-answer","open":"","start":{"sequence":0,"head":""},"transactions":[""],"claim":{},"header":{},"commit":{},"keys":[{}],"state":""}`))
	judges := judges()
	f.Fuzz(func(t *testing.T, b []byte) {
		found, err := evidence.VerifyWith(t.Context(), genesis, b, judges)
		if err != nil || found.Replay == nil {
			return
		}
		for _, file := range files {
			if bytes.Equal(file, b) {
				return
			}
		}
		t.Fatalf("convicted by other bytes: %+v", found)
	})
}

// FuzzWhole: no bytes make the packed state's reader panic, and what it takes packs to the same bytes.
func FuzzWhole(f *testing.F) {
	f.Add(proof.Pack(proof.Pack(nil, proof.Entry{Key: []byte("a"), Value: []byte("1")}), proof.Entry{Key: []byte("b")}))
	f.Add([]byte{1, 'a', 0x80, 0})
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = proof.Whole(wire.Digest{}, b) })
}
