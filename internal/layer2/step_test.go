package layer2

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tandem/internal/exec"
	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// DESIGN: "A step is idempotent by (session, sequence, request digest): a retry gets the stored answer."
func TestRetryGetsTheStoredAnswer(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	first := u.do("POST", "/add/a", "", 200)
	sent := u.last
	w.ledger.write("b", "moves the height")
	u.do("POST", "/add/a", "", 200)
	w.clock.advance(8 * time.Minute) // also long after its signature is too old to be a new step
	again, err := u.send(&sent)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Repeated || first.Repeated {
		t.Error("the retry is not marked as one")
	}
	again.Repeated = false
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("the retry's answer differs, signature included:\n%s", diff)
	}
	if got := u.status().Sequence; got != 2 {
		t.Errorf("%d steps are recorded, want 2", got)
	}
	w.crash()
	again, err = u.send(&sent)
	if err != nil || again.Sequence != 1 || again.Transcript != first.Transcript {
		t.Errorf("after a crash the retry got %+v, %v", again, err)
	}
}

// DESIGN: "Two different signed steps at one position are equivocation: refused, and kept as evidence."
func TestEquivocationIsRefusedAndKept(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	other := u.sign("POST", "/set/a", "", "two")
	u.do("POST", "/set/a", "one", 201)
	_, err := u.send(other)
	wantCode(t, err, refusal.Equivocation)
	b, ok, err := w.engine.journal.get(keyNumbered(u.id, partEvidence, 1))
	if err != nil || !ok {
		t.Fatalf("no evidence on disk: %v", err)
	}
	var rec evidenceRecord
	if err := decodeRecord(nil, b, &rec); err != nil {
		t.Fatal(err)
	}
	req, err := wire.DecodeRequest(rec.Request)
	if err != nil || req.Digest() != other.Request.Digest() {
		t.Errorf("the evidence is not the second request: %v", err)
	}
	w.crash()
	u.do("POST", "/set/a", "three", 201) // the session goes on
}

// A status of 400 or more is an answer, is not recorded, and leaves the position free.
func TestUnrecordedAnswer(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	u := w.user("alice")
	u.do("POST", "/set/a", "one", 201)
	for _, c := range []struct {
		method, path string
		status       int
	}{{"POST", "/refuse/a", 409}, {"GET", "/nowhere", 404}, {"PUT", "/set/a", 405}} {
		a := u.do(c.method, c.path, "", c.status)
		if a.Recorded || a.Sequence != 1 || a.Signed.Get(HeaderEndorsements) != "" {
			t.Errorf("%s %s: %+v", c.method, c.path, a)
		}
	}
	if a := u.do("GET", "/get/a", "", 200); !strings.Contains(string(a.Body), "one") {
		t.Errorf("a refused step has left its writes: %s", a.Body)
	}
	if out, err := u.commit(); err != nil || out.Steps != 2 {
		t.Errorf("commit: %+v, %v", out, err)
	}
}

// Every wrong step is refused by name, and nothing is recorded.
func TestStepRefusals(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/set/a", "one", 201)
	resign := func(p *httpsig.Parsed, who string) *httpsig.Parsed {
		httpsig.Sign(key(who), p.Tag, &p.Request, p.Place)
		return p
	}
	for name, c := range map[string]struct {
		change func(p *httpsig.Parsed) *httpsig.Parsed
		code   refusal.Code
	}{
		"sequence 0":        {func(p *httpsig.Parsed) *httpsig.Parsed { p.Place.Sequence = 0; return resign(p, "alice") }, refusal.WrongSequence},
		"sequence too high": {func(p *httpsig.Parsed) *httpsig.Parsed { p.Place.Sequence = 3; return resign(p, "alice") }, refusal.WrongSequence},
		"old sequence, other transcript": {func(p *httpsig.Parsed) *httpsig.Parsed {
			p.Place.Sequence, p.Place.Transcript = 1, wire.Sum([]byte("x"))
			return resign(p, "alice")
		}, refusal.WrongTranscript},
		"transcript":                 {func(p *httpsig.Parsed) *httpsig.Parsed { p.Place.Transcript[0] ^= 1; return resign(p, "alice") }, refusal.WrongTranscript},
		"another's key":              {func(p *httpsig.Parsed) *httpsig.Parsed { return resign(p, "bob") }, refusal.SignatureInvalid},
		"body changed after signing": {func(p *httpsig.Parsed) *httpsig.Parsed { p.Request.Body = []byte("evil"); return p }, refusal.SignatureInvalid},
		"path changed after signing": {func(p *httpsig.Parsed) *httpsig.Parsed { p.Request.Path = "/set/b"; return p }, refusal.SignatureInvalid},
		"signature bit":              {func(p *httpsig.Parsed) *httpsig.Parsed { p.Request.Signature[5] ^= 1; return p }, refusal.SignatureInvalid},
		"tag of a commit":            {func(p *httpsig.Parsed) *httpsig.Parsed { p.Tag = httpsig.TagCommit; return resign(p, "alice") }, refusal.WrongTag},
		"too old":                    {func(p *httpsig.Parsed) *httpsig.Parsed { p.Request.Created -= 301; return resign(p, "alice") }, refusal.StaleSignature},
		"from the future":            {func(p *httpsig.Parsed) *httpsig.Parsed { p.Request.Created += 301; return resign(p, "alice") }, refusal.StaleSignature},
		"unknown session":            {func(p *httpsig.Parsed) *httpsig.Parsed { p.Place.Session[0] ^= 1; return resign(p, "alice") }, refusal.SessionNotFound},
		"encoded slash":              {func(p *httpsig.Parsed) *httpsig.Parsed { p.Request.Path = "/get/a%2Fb"; return resign(p, "alice") }, refusal.BadTarget},
		"dot segment":                {func(p *httpsig.Parsed) *httpsig.Parsed { p.Request.Path = "/x/../get/a"; return resign(p, "alice") }, refusal.BadTarget},
		"body too large": {func(p *httpsig.Parsed) *httpsig.Parsed {
			p.Request.Body = make([]byte, wire.MaxBody+1)
			return resign(p, "alice")
		}, refusal.BodyTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.engine.Step(context.Background(), c.change(u.sign("POST", "/set/a", "", "two")))
			wantCode(t, err, c.code)
			if s := u.status(); s.Sequence != 1 || s.Status != session.Open {
				t.Errorf("the session has moved: %+v", s)
			}
		})
	}
	u.do("POST", "/set/a", "three", 201)
}

// Every wrong opening is refused by name.
func TestOpenRefusals(t *testing.T) {
	w := newWorld(t, nil)
	good := func() wire.OpenBody { return w.openBody(time.Minute) }
	for name, c := range map[string]struct {
		req  func() *wire.Request
		code refusal.Code
	}{
		"chain":       {func() *wire.Request { b := good(); b.ChainID = "other"; return w.openRequest("alice", b) }, refusal.WrongChain},
		"fingerprint": {func() *wire.Request { b := good(); b.Fingerprint[0] ^= 1; return w.openRequest("alice", b) }, refusal.WrongFingerprint},
		"expired":     {func() *wire.Request { return w.openRequest("alice", w.openBody(-time.Second)) }, refusal.SessionExpired},
		"too long":    {func() *wire.Request { return w.openRequest("alice", w.openBody(100*time.Hour)) }, refusal.SessionTooLong},
		"unknown key": {func() *wire.Request { return w.openRequest("mallory", good()) }, refusal.KeyNotRegistered},
		"stale": {func() *wire.Request {
			r := w.openRequest("alice", good())
			r.Created -= 301
			httpsig.Sign(key("alice"), httpsig.TagOpen, r, httpsig.Place{})
			return r
		}, refusal.StaleSignature},
		"signature": {func() *wire.Request { r := w.openRequest("alice", good()); r.Signature[0] ^= 1; return r }, refusal.SignatureInvalid},
		"body": {func() *wire.Request {
			r := w.openRequest("alice", good())
			r.Body = []byte(`{ }`)
			httpsig.Sign(key("alice"), httpsig.TagOpen, r, httpsig.Place{})
			return r
		}, refusal.BadJSON},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.engine.OpenSession(context.Background(), c.req())
			wantCode(t, err, c.code)
		})
	}
	if n := w.engine.Stats().Open; n != 0 {
		t.Errorf("%d sessions are open", n)
	}
}

// Promise 9: a node with other code refuses at the first step, in words.
func TestOtherCodeIsRefusedInWords(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/set/a", "one", 201)
	w.stop()
	other := w.svc
	other.Version = "2"
	w.opts = func(o *Options) { o.Runner = exec.New(other, exec.Options{Framework: ledger.Routes()}) }
	w.start()
	_, err := u.send(u.sign("POST", "/set/a", "", "two"))
	r := wantCode(t, err, refusal.WrongFingerprint)
	if r.Fields["fingerprint"] == nil || r.Fields["session_fingerprint"] == nil {
		t.Errorf("the refusal does not name the fingerprints: %v", r.Fields)
	}
	_, err = w.engine.OpenSession(context.Background(), w.openRequest("alice", w.openBody(time.Minute)))
	wantCode(t, err, refusal.WrongFingerprint)
}

// An originator that is not on the ledger's list is told so when a session is opened, not at the commit.
func TestUnlistedNodeRefuses(t *testing.T) {
	w := newWorld(t, nil)
	w.stop()
	w.node, w.dir = key("stranger"), "layer2-of-stranger"
	w.start()
	_, err := w.engine.OpenSession(context.Background(), w.openRequest("alice", w.openBody(time.Minute)))
	wantCode(t, err, refusal.OriginatorUnknown)
}

// The same opening again is the same session; after its end it is refused.
func TestOpenIsIdempotent(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	u := w.user("alice")
	again, err := w.engine.OpenSession(context.Background(), &u.open)
	if err != nil || again.Session != u.id || !again.Repeated {
		t.Fatalf("%+v, %v", again, err)
	}
	u.do("POST", "/set/a", "one", 201)
	if _, err := u.commit(); err != nil {
		t.Fatal(err)
	}
	_, err = w.engine.OpenSession(context.Background(), &u.open)
	wantCode(t, err, refusal.Replayed)
	// Another node, that never had the session, asks the ledger.
	w.stop()
	w.dir = "another"
	w.start()
	_, err = w.engine.OpenSession(context.Background(), &u.open)
	wantCode(t, err, refusal.AlreadySettled)
	s, err := w.engine.Session(context.Background(), u.id)
	if err != nil || s.Status != session.Committed || !s.Elsewhere || s.Height != 2 {
		t.Errorf("status of a session committed elsewhere: %+v, %v", s, err)
	}
	if out, err := u.commit(); err != nil || out.Status != session.Committed || out.Height != 2 {
		t.Errorf("commit of a session committed elsewhere: %+v, %v", out, err)
	}
}

// A session is refused in time, not at its commit, when it would not fit a Layer 1 transaction.
func TestSessionFullInTime(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	u := w.user("alice")
	big := strings.Repeat("v", wire.MaxBody)
	for range 3 {
		u.do("POST", "/set/a", big, 201)
	}
	_, err := u.send(u.sign("POST", "/set/a", "", big))
	wantCode(t, err, refusal.SessionFull)
	u.do("POST", "/set/a", "small", 201) // what fits is still taken
	if out, err := u.commit(); err != nil || out.Steps != 4 {
		t.Fatalf("%+v, %v", out, err)
	}
	if n := len(w.ledger.applied[u.id]); n > wire.MaxTransaction {
		t.Errorf("the transaction has %d bytes", n)
	}
}

// The ledger's parameter max_steps bounds a session.
func TestSessionFullBySteps(t *testing.T) {
	w := newWorld(t, nil)
	p, err := w.engine.parameters()
	if err != nil {
		t.Fatal(err)
	}
	p.MaxSteps = 2
	w.engine.params.Store(&p)
	u := w.user("alice")
	u.do("GET", "/get/a", "", 200)
	u.do("GET", "/get/a", "", 200)
	_, err = u.send(u.sign("GET", "/get/a", "", ""))
	wantCode(t, err, refusal.SessionFull)
}

// A step's time is the larger of the node's clock and the step before it.
func TestStepTimesNeverGoBack(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	a := u.do("GET", "/when", "", 200)
	if a.Time != w.clock.ms.Load() || !strings.Contains(string(a.Body), fmt.Sprint(a.Time)) {
		t.Errorf("time %d, body %s", a.Time, a.Body)
	}
	w.clock.advance(-5 * time.Second)
	if b := u.do("GET", "/when", "", 200); b.Time != a.Time {
		t.Errorf("time went from %d to %d", a.Time, b.Time)
	}
}

// A step of a revoked key is refused as such, and the session ends: it could never be committed.
func TestRevokedKey(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	u := w.user("bob")
	u.do("POST", "/set/a", "one", 201)
	admin := w.user("root")
	admin.do("DELETE", "/tandem/v1/actors/bob", "", 200)
	if _, err := admin.commit(); err != nil {
		t.Fatal(err)
	}
	w.settleDown()
	s := u.status()
	if s.Status != session.Conflicted || s.Conflict.Code != refusal.KeyRevoked || s.Conflict.WinnerActor != "root" {
		t.Errorf("status %+v, conflict %+v", s.Status, s.Conflict)
	}
	_, err := w.engine.OpenSession(context.Background(), w.openRequest("bob", w.openBody(time.Minute)))
	wantCode(t, err, refusal.KeyRevoked)
}

// Overload is a refusal with a hint, never a silent time-out.
func TestOverload(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxOpen, o.MaxInFlight, o.MaxQueue = 2, 3, 2 })
	u := w.user("alice")
	w.user("alice")
	_, err := w.engine.OpenSession(context.Background(), w.openRequest("alice", w.openBody(time.Minute)))
	if r := wantCode(t, err, refusal.Overloaded); r.Fields["retry_after_seconds"] == nil {
		t.Errorf("no hint when to come back: %v", r.Fields)
	}
	w.moods.gate, w.moods.began = make(chan struct{}), make(chan struct{})
	first, done := u.sign("GET", "/slow/a", "", ""), make(chan error, 3)
	go func() { _, err := w.engine.Step(context.Background(), first); done <- err }()
	<-w.moods.began
	o, err := w.engine.find(u.id)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // two wait in the session's queue: the queue is full, and so is the engine
		go func() { _, err := w.engine.Step(context.Background(), first); done <- err }()
	}
	eventually(t, "two requests in the queue", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.waiting == 2
	})
	_, err = w.engine.Step(context.Background(), first)
	wantCode(t, err, refusal.Overloaded)
	w.engine.o.MaxInFlight = 100
	_, err = w.engine.Step(context.Background(), first)
	wantCode(t, err, refusal.SessionBusy)
	close(w.moods.gate)
	for range 3 {
		if err := <-done; err != nil {
			t.Errorf("a waiting request got %v", err)
		}
	}
}

// A handler over its time is refused; the session goes on.
func TestStepTooLong(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Runner = o.Runner.With(exec.Limits{Watchdog: time.Millisecond}) })
	w.moods.gate, w.moods.began = make(chan struct{}), make(chan struct{}, 1)
	u := w.user("alice")
	_, err := u.send(u.sign("GET", "/slow/a", "", ""))
	wantCode(t, err, refusal.StepTooLong)
	if s := u.status(); s.Sequence != 0 || s.Status != session.Open {
		t.Errorf("status %+v", s)
	}
	close(w.moods.gate)
	eventually(t, "the abandoned handler ends", func() bool { return w.engine.o.Runner.Abandoned() == 0 })
}

// After Close every call is refused, and waiting commits hear that they are under way.
func TestClose(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("POST", "/set/a", "one", 201)
	out := make(chan Outcome, 1)
	go func() {
		o, err := w.engine.Commit(context.Background(), u.commitRequest())
		if err != nil {
			t.Error(err)
		}
		out <- o
	}()
	eventually(t, "the commit is under way", func() bool { return w.engine.Stats().Committing == 1 })
	w.ledger.mu.Lock()
	w.ledger.engine = nil
	w.ledger.mu.Unlock()
	began := time.Now()
	if err := w.engine.Close(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d > time.Second {
		t.Errorf("closing took %v", d)
	}
	if o := <-out; o.Status != session.Committing {
		t.Errorf("the waiting commit got %+v", o)
	}
	_, err := w.engine.Step(context.Background(), u.sign("GET", "/get/a", "", ""))
	wantCode(t, err, refusal.ShuttingDown)
	if err := w.engine.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	w.engine = nil
}

// Two nodes fit one process: nothing is global.
func TestTwoEngines(t *testing.T) {
	a := newWorld(t, nil)
	b := newWorld(t, nil)
	a.ledger.auto, b.ledger.auto = true, true
	for _, w := range []*world{a, b} {
		u := w.user("alice")
		u.do("POST", "/add/a", "", 200)
		if out, err := u.commit(); err != nil || out.Height != 2 {
			t.Errorf("%+v, %v", out, err)
		}
	}
}
