package testnet_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	comettypes "github.com/cometbft/cometbft/types"

	"tandem"
	"tandem/examples/supplychain"
	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/testnet"
	"tandem/internal/wire"
	"tandem/node"
)

// TestOneLiarChangesNothing: DESIGN, "one validator that proposes a wrong root or a diverging session or votes against
// everything". Whatever one of four does, commits go on and all nodes have the same state.
func TestOneLiarChangesNothing(t *testing.T) {
	t.Parallel()
	w := start(t, demo(4, 1))
	ctx := within(t, 3*time.Minute)
	layer2 := web{w.URLs()[0]}
	const liar = 3
	lies := forge(t, w, func(c *wire.SessionCommit) {})
	var sessions []string
	for _, b := range []testnet.Behaviour{
		testnet.WrongRoot(),
		testnet.RejectAll(),
		testnet.Silent(),
		testnet.AcceptAll(),
		testnet.Inject(func() [][]byte { return [][]byte{lies.Encode()} }), // a session whose responses are invented
		testnet.Inject(func() [][]byte { return [][]byte{[]byte("no transaction at all")} }),
	} {
		if err := w.Stop(liar); err != nil {
			t.Fatal(err)
		}
		w.Behave(liar, b)
		if err := w.Start(liar); err != nil {
			t.Fatal(err)
		}
		if err := w.Ready(ctx); err != nil { // it takes part before it lies
			t.Fatalf("%s: %v", b.Name, err)
		}
		begin, height := time.Now(), w.Height()
		// Until the liar has had its turn to propose: four heights.
		for w.Height() < height+5 {
			s, _ := layer2.workflow(t, ctx)
			sessions = append(sessions, s)
		}
		t.Logf("%s: %d heights in %s", b.Name, w.Height()-height, time.Since(begin))
	}
	checked(t, w, sessions...)
	if a, err := layer2.call(ctx, "GET", "/tandem/v1/sessions/"+httpsig.SessionID(&lies.Open).String(), "", nil); err != nil || a.Status != 404 {
		t.Errorf("the invented session is known: %s, %v", a, err)
	}
}

// forge makes a session commit in which everything is properly signed by the operator and the originator is on the ledger's
// list, but the one response is invented. A Layer 2 node that lies to its user would send this. change may change it before
// its head is signed.
func forge(t testing.TB, w *testnet.Network, change func(*wire.SessionCommit)) *wire.SessionCommit {
	t.Helper()
	doc, err := comettypes.GenesisDocFromFile(testnet.GenesisFile(w.Dir()))
	if err != nil {
		t.Fatal(err)
	}
	g, err := ledger.ParseGenesis(doc.AppState)
	if err != nil {
		t.Fatal(err)
	}
	originator, err := node.ReadKey(filepath.Join(w.Config(w.Layer2()[0]).Home, "layer2_key.json"))
	if err != nil {
		t.Fatal(err)
	}
	key := supplychain.DemoKey("OPR-001")
	now := time.Now()
	body := wire.OpenBody{ChainID: doc.ChainID, Fingerprint: g.Tandem.Parameters.Fingerprint, ExpiresAt: now.Add(10 * time.Minute).UnixMilli()}
	if _, err := rand.Read(body.Nonce[:]); err != nil {
		t.Fatal(err)
	}
	c := &wire.SessionCommit{Open: wire.Request{Method: "POST", Path: session.PathOpen, ContentType: "application/json", Body: body.JSON(), Created: now.Unix()}}
	httpsig.Sign(key, httpsig.TagOpen, &c.Open, httpsig.Place{})
	id, head := httpsig.SessionID(&c.Open), wire.TranscriptStart(c.Open)
	step := wire.Request{Method: "GET", Path: "/suppliers/SUP-001", ContentType: "application/json", Created: now.Unix()}
	httpsig.Sign(key, httpsig.TagStep, &step, httpsig.Place{Session: id, Sequence: 1, Transcript: head})
	c.Transactions = []wire.Transaction{{
		Sequence: 1, Request: step, Time: now.UnixMilli(), Originator: wire.PublicKey(originator.Public().(ed25519.PublicKey)),
		Response: wire.Response{Status: 200, Headers: []wire.Header{{Name: "Content-Type", Value: "application/json"}}, Body: wire.Sum([]byte("a lie"))},
	}}
	change(c)
	head = wire.TranscriptNext(head, c.Transactions[0])
	c.Commit = wire.Request{Method: "POST", Path: session.PathCommit(id), ContentType: "application/json", Body: []byte("{}"), Created: now.Unix()}
	httpsig.Sign(key, httpsig.TagCommit, &c.Commit, httpsig.Place{Session: id, Sequence: 2, Transcript: head})
	return c
}

// TestPoison: transactions sent straight to a validator's mempool. What can be seen without execution is refused with its
// code; what cannot is dropped by the proposer. The others' sessions do not notice.
func TestPoison(t *testing.T) {
	t.Parallel()
	w := start(t, demo(4, 1))
	ctx := within(t, 2*time.Minute)
	layer2 := web{w.URLs()[0]}
	settled, committed := layer2.workflow(t, ctx)
	if err := w.Node(0).WaitHeight(ctx, committed.Height); err != nil {
		t.Fatal(err)
	}
	var settledTx struct{ Bytes []byte }
	if err := until(ctx, func() (bool, error) {
		a, err := web{w.URL(0)}.want(ctx, 200, "GET", "/tandem/v1/transactions/"+committed.Hash, "", nil)
		return err == nil, errors.Join(err, json.Unmarshal(a.Body, &settledTx))
	}); err != nil {
		t.Fatal(err)
	}
	good := forge(t, w, func(*wire.SessionCommit) {}).Encode()
	with := func(change func(*wire.SessionCommit)) []byte {
		c := forge(t, w, func(*wire.SessionCommit) {})
		change(c)
		return c.Encode()
	}
	root := wire.RootStatement{Height: w.Height() + 1}
	for _, c := range []struct {
		name string
		tx   []byte
		code string
	}{
		{"garbage", []byte("garbage"), "unknown-kind"},
		{"empty", nil, "unknown-kind"},
		{"trailing byte", append(append([]byte{}, good...), 0), "non-canonical"},
		{"a root statement", root.Encode(), ""},
		{"too large", make([]byte, wire.MaxTransaction+1), "body-too-large"},
		{"signature changed", with(func(c *wire.SessionCommit) { c.Commit.Signature[5] ^= 1 }), "signature-invalid"},
		{"step changed", with(func(c *wire.SessionCommit) { c.Transactions[0].Request.Path = "/suppliers/SUP-002" }), "signature-invalid"},
		{"response changed", with(func(c *wire.SessionCommit) { c.Transactions[0].Response.Status = 201 }), "signature-invalid"},
		{"step dropped", with(func(c *wire.SessionCommit) { c.Transactions = nil }), ""},
		{"originator unknown", forge(t, w, func(c *wire.SessionCommit) {
			c.Transactions[0].Originator = wire.PublicKey(supplychain.DemoKey("nobody").Public().(ed25519.PublicKey))
		}).Encode(), ""},
		{"settled already", settledTx.Bytes, "already-settled"},
	} {
		err := w.Node(0).Submit(ctx, c.tx)
		r, ok := refusal.As(err)
		// The transaction that is in a block is still in the mempool's cache; then it is dropped without a word.
		if err == nil && c.name == "settled already" {
			continue
		}
		if !ok || (c.code != "" && string(r.Code) != c.code) {
			t.Errorf("%s: %v, want the refusal %q", c.name, err, c.code)
		}
	}
	// Well made and signed, only its response is invented: CheckTx cannot know, the proposers find out.
	if err := w.Node(1).Submit(ctx, good); err != nil {
		t.Errorf("the invented session: %v", err)
	}
	sessions := []string{settled}
	for range 4 {
		s, _ := layer2.workflow(t, ctx)
		sessions = append(sessions, s)
	}
	checked(t, w, sessions...)
}

// moody is a service with one handler that is not deterministic: every run of it answers differently.
func moody(runs *atomic.Int64) tandem.Service {
	var reg tandem.Registry
	reg.HandleFunc("POST /moods", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "mood %d\n", runs.Add(1))
	})
	reg.HandleFunc("POST /notes/{name}", func(w http.ResponseWriter, r *http.Request) {
		tandem.StateOf(r.Context()).Set([]byte(r.PathValue("name")), []byte("noted"))
		w.WriteHeader(http.StatusCreated)
	})
	return tandem.Service{Name: "moody", Version: "1", Registry: &reg}
}

// TestNondeterministicHandler: DESIGN promise 7. The session is named, its commit is refused with the right problem document
// or stays out of the ledger; everybody else's go on.
func TestNondeterministicHandler(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	o := demo(4, 1)
	o.Service, o.Seed = moody(&runs), nil
	o.Change = func(_ int, cfg *node.Config) { cfg.HTTP.CommitWait = node.Duration(2 * time.Second) }
	w := start(t, o)
	ctx := within(t, 2*time.Minute)
	layer2 := web{w.URLs()[0]}
	session := func() string {
		a, err := layer2.want(ctx, 201, "POST", "/tandem/v1/sessions", "", "{}")
		if err != nil {
			t.Fatal(err)
		}
		return a.SessionID
	}
	bad := session()
	if _, err := layer2.want(ctx, 200, "POST", "/moods", bad, "{}"); err != nil {
		t.Fatal(err)
	}
	// Whoever finds it first, this node's re-check before the commit or a validator, says the same.
	var refused answer
	if err := until(ctx, func() (bool, error) {
		a, err := layer2.call(ctx, "POST", "/tandem/v1/sessions/"+bad+"/commit", "", "{}")
		refused = a
		return err == nil && a.Status != 202, err
	}); err != nil {
		t.Fatalf("%v: %s", err, refused)
	}
	if refused.Code != "nondeterministic-handler" || !strings.Contains(string(refused.Body), bad) {
		t.Errorf("the commit says %s, want nondeterministic-handler with the session's name", refused)
	}
	var good []string
	for i := range 3 {
		s := session()
		if _, err := layer2.want(ctx, 201, "POST", fmt.Sprintf("/notes/%d", i), s, "{}"); err != nil {
			t.Fatal(err)
		}
		if _, err := layer2.commit(ctx, s); err != nil {
			t.Fatal(err)
		}
		good = append(good, s)
	}
	checked(t, w, good...)
}

// TestNondeterminismInABlock: the same, but past Layer 2: the session is sent straight to a validator, so that only replay can find
// it. It never gets into a block, however often it is proposed, and it stops nobody.
func TestNondeterminismInABlock(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	o := demo(4, 1)
	o.Service, o.Seed = moody(&runs), nil
	w := start(t, o)
	ctx := within(t, 2*time.Minute)
	layer2 := web{w.URLs()[0]}
	bad := forgeFor(t, w, "POST", "/moods", fmt.Sprintf("mood %d\n", runs.Load()+1))
	if err := w.Node(1).Submit(ctx, bad.Encode()); err != nil {
		t.Fatal(err)
	}
	var good []string
	for i := range 6 {
		a, err := layer2.want(ctx, 201, "POST", "/tandem/v1/sessions", "", "{}")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := layer2.want(ctx, 201, "POST", fmt.Sprintf("/notes/%d", i), a.SessionID, "{}"); err != nil {
			t.Fatal(err)
		}
		if _, err := layer2.commit(ctx, a.SessionID); err != nil {
			t.Fatal(err)
		}
		good = append(good, a.SessionID)
	}
	sessions, err := w.Check(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions {
		if s == httpsig.SessionID(&bad.Open).String() {
			t.Error("the session that nobody can replay is in the ledger")
		}
	}
	checked(t, w, good...)
}

// forgeFor is forge for another request and a response body that is a guess.
func forgeFor(t testing.TB, w *testnet.Network, method, path, body string) *wire.SessionCommit {
	return forge(t, w, func(c *wire.SessionCommit) {
		tx := &c.Transactions[0]
		tx.Request.Method, tx.Request.Path, tx.Request.ContentType, tx.Request.Body = method, path, "application/json", []byte("{}")
		tx.Response = wire.Response{Status: 200, Headers: []wire.Header{{Name: "Content-Type", Value: "text/plain; charset=utf-8"}}, Body: wire.Sum([]byte(body))}
		httpsig.Sign(supplychain.DemoKey("OPR-001"), httpsig.TagStep, &tx.Request,
			httpsig.Place{Session: httpsig.SessionID(&c.Open), Sequence: 1, Transcript: wire.TranscriptStart(c.Open)})
	})
}

// TestConsensusFailureIsReported: a node whose engine fails halts with a HaltError, says so on /healthz as long as it can, and the
// network reports it; the others go on.
func TestConsensusFailureIsReported(t *testing.T) {
	t.Parallel()
	o := demo(4, 1)
	o.Behaviours = map[int]testnet.Behaviour{2: testnet.Failing(3)}
	o.Dir = t.TempDir()
	w, err := testnet.Start(within(t, time.Minute), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, time.Minute)
	layer2 := web{w.URLs()[0]}
	for w.Height() < 4 {
		layer2.workflow(t, ctx)
	}
	i, err := w.Halted(ctx)
	var halt *node.HaltError
	if i != 2 || !errors.As(err, &halt) || !strings.Contains(err.Error(), "consensus engine has failed") {
		t.Errorf("node %d: %v; want node 2 and its consensus failure", i, err)
	}
	if err := w.Stop(2); !errors.As(err, &halt) {
		t.Errorf("stopping the halted node: %v", err)
	}
	w.Behave(2, testnet.Behaviour{})
	if err := w.Start(2); err != nil {
		t.Fatal(err)
	}
	if err := w.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	session, _ := layer2.workflow(t, ctx)
	checked(t, w, session)
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// TestResume: a network that was stopped goes on from its data, on other ports, with its sessions; an unfinished one included.
func TestResume(t *testing.T) {
	t.Parallel()
	o := demo(4, 1)
	o.Dir = t.TempDir()
	ctx := within(t, 2*time.Minute)
	w, err := testnet.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	layer2 := web{w.URLs()[0]}
	first, _ := layer2.workflow(t, ctx)
	open, _, err := layer2.prepare(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	wrong := o
	wrong.Validators, wrong.Expect = 7, true
	if _, err := testnet.Start(ctx, wrong); err == nil || !strings.Contains(err.Error(), "4 validators") {
		t.Errorf("resuming with other numbers: %v", err)
	}
	if w, err = testnet.Start(ctx, o); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	layer2 = web{w.URLs()[0]}
	if _, err := layer2.commit(ctx, open); err != nil {
		t.Errorf("the session that was open: %v", err)
	}
	checked(t, w, first, open)
}
