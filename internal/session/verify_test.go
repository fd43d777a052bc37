package session

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// author makes session commits the way a client and a node do together. Its hooks change a part before it is signed, so that
// what is wrong is wrong with a good signature over it.
type author struct {
	client, node ed25519.PrivateKey
	created      int64
	steps        int

	onOpen   func(*wire.Request)
	onStep   func(sequence int, r *wire.Request, p *httpsig.Place, tx *wire.Transaction) // before signing; tx.Request is set after
	onCommit func(*wire.Request, *httpsig.Place)
}

func newAuthor() *author {
	return &author{
		client: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)), node: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32)),
		created: 1767225600, steps: 3,
	}
}

func (a *author) write() *wire.SessionCommit {
	c := &wire.SessionCommit{}
	body := wire.OpenBody{ChainID: "tandem-test", Fingerprint: wire.Sum([]byte("service")), ExpiresAt: (a.created + 3600) * 1000}
	c.Open = wire.Request{Method: "POST", Path: PathOpen, ContentType: "application/json", Body: body.JSON(), Created: a.created}
	if a.onOpen != nil {
		a.onOpen(&c.Open)
	}
	httpsig.Sign(a.client, httpsig.TagOpen, &c.Open, httpsig.Place{})
	id, head := httpsig.SessionID(&c.Open), wire.TranscriptStart(c.Open)
	for k := 1; k <= a.steps; k++ {
		r := wire.Request{Method: "POST", Path: fmt.Sprintf("/packages/PKG-%d/scan", k), Query: "a=b", ContentType: "application/json", Body: []byte("{}"), Created: a.created + int64(k)}
		place := httpsig.Place{Session: id, Sequence: uint64(k), Transcript: head}
		tx := wire.Transaction{
			Sequence: uint64(k), Originator: wire.PublicKeyOf(a.node), Time: r.Created*1000 + 5,
			Response: wire.Response{Status: 200, Headers: []wire.Header{{Name: "Content-Type", Value: "application/json"}}, Body: wire.Sum(fmt.Appendf(nil, "answer %d", k))},
		}
		if a.onStep != nil {
			a.onStep(k, &r, &place, &tx)
		}
		httpsig.Sign(a.client, httpsig.TagStep, &r, place)
		tx.Request = r
		c.Transactions = append(c.Transactions, tx)
		head = wire.TranscriptNext(head, tx)
	}
	c.Commit = wire.Request{Method: "POST", Path: PathCommit(id), ContentType: "application/json", Body: []byte("{}"), Created: a.created + 60}
	place := httpsig.Place{Session: id, Sequence: uint64(a.steps) + 1, Transcript: head}
	if a.onCommit != nil {
		a.onCommit(&c.Commit, &place)
	}
	httpsig.Sign(a.client, httpsig.TagCommit, &c.Commit, place)
	return c
}

func wantRefusal(t *testing.T, err error, code refusal.Code, step uint64, field string) {
	t.Helper()
	r, ok := refusal.As(err)
	if !ok || r.Code != code {
		t.Errorf("got %v, want code %s", err, code)
		return
	}
	var gotStep uint64
	if s, ok := r.Fields["step"].(uint64); ok {
		gotStep = s
	}
	if gotStep != step || r.Fields["field"] != field || r.Fields["session"] == "" || r.Fields["session"] == nil {
		t.Errorf("%v: fields %v, want step %d and field %q", err, r.Fields, step, field)
	}
}

// TestVerifyAccepts: what client and node make together verifies, whatever the number of steps, and says the right things.
func TestVerifyAccepts(t *testing.T) {
	for steps := range 5 {
		a := newAuthor()
		a.steps = steps
		c := a.write()
		p, err := Verify(c)
		if err != nil {
			t.Fatal(err)
		}
		if p.ID != httpsig.SessionID(&c.Open) || p.Key != wire.PublicKeyOf(a.client) || p.Head != c.Head() ||
			p.Open.ChainID != "tandem-test" || p.Expires != (a.created+3600)*1000 {
			t.Errorf("%+v", p)
		}
		again, err := VerifyAgain(c)
		if err != nil || again != p {
			t.Errorf("VerifyAgain: %+v %v", again, err)
		}
		open, err := VerifyOpen(&c.Open)
		if err != nil || open.ID != p.ID || open.Head != wire.TranscriptStart(c.Open) || open.Open != p.Open || open.Key != p.Key {
			t.Errorf("VerifyOpen: %+v %v", open, err)
		}
	}
}

// TestEveryByteOfASessionCounts checks promise 2: a Layer 2 node cannot alter a single byte of what the user signed, saw or agreed to.
func TestEveryByteOfASessionCounts(t *testing.T) {
	c := newAuthor().write()
	good := c.Encode()
	for i := range good {
		for _, mask := range []byte{1, 0x80} {
			b := bytes.Clone(good)
			b[i] ^= mask
			changed, err := wire.DecodeSessionCommit(b)
			if err != nil {
				continue
			}
			if _, err := Verify(&changed); err == nil {
				t.Fatalf("byte %d ^ %#x of the session commit does not count", i, mask)
			}
		}
	}
}

// TestForgeries checks promise 2 on whole steps: a node cannot drop, repeat, reorder, insert or borrow a step, nor commit
// what the user did not sign.
func TestForgeries(t *testing.T) {
	longer := newAuthor()
	longer.steps = 4
	other := newAuthor()
	other.onOpen = func(r *wire.Request) { r.Created-- }
	stranger := newAuthor()
	stranger.client = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))
	renumber := func(c *wire.SessionCommit) {
		for i := range c.Transactions {
			c.Transactions[i].Sequence = uint64(i) + 1
		}
	}
	for name, c := range map[string]struct {
		change func(c *wire.SessionCommit)
		code   refusal.Code
		step   uint64
		field  string
	}{
		"drop the last step":  {func(c *wire.SessionCommit) { c.Transactions = c.Transactions[:2] }, refusal.SignatureInvalid, 0, "commit.signature"},
		"drop the first step": {func(c *wire.SessionCommit) { c.Transactions = c.Transactions[1:] }, refusal.WrongSequence, 1, "sequence"},
		"drop and renumber":   {func(c *wire.SessionCommit) { c.Transactions = c.Transactions[1:]; renumber(c) }, refusal.SignatureInvalid, 1, "request.signature"},
		"drop all steps":      {func(c *wire.SessionCommit) { c.Transactions = nil }, refusal.SignatureInvalid, 0, "commit.signature"},
		"repeat a step":       {func(c *wire.SessionCommit) { c.Transactions = append(c.Transactions, c.Transactions[2]) }, refusal.WrongSequence, 4, "sequence"},
		"repeat and renumber": {func(c *wire.SessionCommit) { c.Transactions = append(c.Transactions, c.Transactions[2]); renumber(c) }, refusal.SignatureInvalid, 4, "request.signature"},
		"add a signed step":   {func(c *wire.SessionCommit) { c.Transactions = append(c.Transactions, longer.write().Transactions[3]) }, refusal.SignatureInvalid, 0, "commit.signature"},
		"swap two steps": {func(c *wire.SessionCommit) {
			c.Transactions[0], c.Transactions[1] = c.Transactions[1], c.Transactions[0]
		}, refusal.WrongSequence, 1, "sequence"},
		"swap two requests": {func(c *wire.SessionCommit) {
			c.Transactions[0].Request, c.Transactions[1].Request = c.Transactions[1].Request, c.Transactions[0].Request
		}, refusal.SignatureInvalid, 1, "request.signature"},
		"change an answer":     {func(c *wire.SessionCommit) { c.Transactions[1].Response.Body[0] ^= 1 }, refusal.SignatureInvalid, 3, "request.signature"},
		"change the last":      {func(c *wire.SessionCommit) { c.Transactions[2].Response.Status = 201 }, refusal.SignatureInvalid, 0, "commit.signature"},
		"change an originator": {func(c *wire.SessionCommit) { c.Transactions[0].Originator[0] ^= 1 }, refusal.SignatureInvalid, 2, "request.signature"},
		"change a time":        {func(c *wire.SessionCommit) { c.Transactions[0].Time++ }, refusal.SignatureInvalid, 2, "request.signature"},
		"opening of another":   {func(c *wire.SessionCommit) { c.Open = other.write().Open }, refusal.SignatureInvalid, 1, "request.signature"},
		"step of another":      {func(c *wire.SessionCommit) { c.Transactions[1] = other.write().Transactions[1] }, refusal.SignatureInvalid, 2, "request.signature"},
		"commit of another":    {func(c *wire.SessionCommit) { c.Commit = other.write().Commit }, refusal.WrongSession, 0, "commit.path"},
		"commit of longer":     {func(c *wire.SessionCommit) { c.Commit = longer.write().Commit }, refusal.SignatureInvalid, 0, "commit.signature"},
		"step of a stranger":   {func(c *wire.SessionCommit) { c.Transactions[1].Request = stranger.write().Transactions[1].Request }, refusal.SignatureInvalid, 2, "request.key"},
		"commit by a stranger": {func(c *wire.SessionCommit) {
			httpsig.Sign(stranger.client, httpsig.TagCommit, &c.Commit, httpsig.Place{})
		}, refusal.SignatureInvalid, 0, "commit.key"},
		"step as the commit": {func(c *wire.SessionCommit) {
			httpsig.Sign(newAuthor().client, httpsig.TagStep, &c.Commit, httpsig.Place{Session: httpsig.SessionID(&c.Open), Sequence: 4, Transcript: c.Head()})
		}, refusal.SignatureInvalid, 0, "commit.signature"},
		"no signatures at all":  {func(c *wire.SessionCommit) { c.Open.Signature = wire.Signature{} }, refusal.SignatureInvalid, 0, "open.signature"},
		"too many steps":        {func(c *wire.SessionCommit) { c.Transactions = make([]wire.Transaction, wire.MaxSteps+1) }, refusal.SessionFull, 0, "transactions"},
		"empty session commit":  {func(c *wire.SessionCommit) { *c = wire.SessionCommit{} }, refusal.BadRequest, 0, "open"},
		"answer is an error":    {func(c *wire.SessionCommit) { c.Transactions[1].Response.Status = 404 }, refusal.NonCanonical, 2, "response.status"},
		"answer is provisional": {func(c *wire.SessionCommit) { c.Transactions[1].Response.Status = 103 }, refusal.NonCanonical, 2, "response.status"},
		"answer out of form":    {func(c *wire.SessionCommit) { c.Transactions[1].Response.Headers[0].Name = "x" }, refusal.NonCanonical, 2, "response"},
	} {
		t.Run(name, func(t *testing.T) {
			commit := newAuthor().write()
			c.change(commit)
			_, err := Verify(commit)
			wantRefusal(t, err, c.code, c.step, c.field)
		})
	}
}

// TestSignedNonsense: what a user signs, but must not be committed, is refused by name.
func TestSignedNonsense(t *testing.T) {
	weak := wire.PublicKey{1}
	for name, c := range map[string]struct {
		change func(a *author)
		code   refusal.Code
		step   uint64
		field  string
	}{
		"open elsewhere":      {func(a *author) { a.onOpen = func(r *wire.Request) { r.Path = "/tandem/v1/session" } }, refusal.BadTarget, 0, "open.path"},
		"open with GET":       {func(a *author) { a.onOpen = func(r *wire.Request) { r.Method = "GET" } }, refusal.BadTarget, 0, "open.path"},
		"open with a query":   {func(a *author) { a.onOpen = func(r *wire.Request) { r.Query = "a" } }, refusal.BadTarget, 0, "open.path"},
		"open with a space":   {func(a *author) { a.onOpen = func(r *wire.Request) { r.Body = append(r.Body, ' ') } }, refusal.BadJSON, 0, "open.body"},
		"open with {}":        {func(a *author) { a.onOpen = func(r *wire.Request) { r.Body = []byte("{}") } }, refusal.BadJSON, 0, "open.body"},
		"open without a type": {func(a *author) { a.onOpen = func(r *wire.Request) { r.ContentType = "" } }, refusal.UnsupportedMediaType, 0, "open"},
		"step to a dot path": {func(a *author) {
			a.onStep = func(k int, r *wire.Request, _ *httpsig.Place, _ *wire.Transaction) { r.Path = "/a/../b" }
		}, refusal.BadTarget, 1, "request"},
		"step with an encoded slash": {func(a *author) {
			a.onStep = at(2, func(r *wire.Request, _ *httpsig.Place, _ *wire.Transaction) { r.Path = "/a%2Fb" })
		}, refusal.BadTarget, 2, "request"},
		"step in lower case": {func(a *author) {
			a.onStep = at(2, func(r *wire.Request, _ *httpsig.Place, _ *wire.Transaction) { r.Method = "post" })
		}, refusal.BadRequest, 2, "request"},
		"step with a huge body": {func(a *author) {
			a.onStep = at(3, func(r *wire.Request, _ *httpsig.Place, _ *wire.Transaction) { r.Body = make([]byte, wire.MaxBody+1) })
		}, refusal.BodyTooLarge, 3, "request"},
		"step signed for another sequence": {func(a *author) {
			a.onStep = at(2, func(_ *wire.Request, p *httpsig.Place, _ *wire.Transaction) { p.Sequence = 3 })
		}, refusal.SignatureInvalid, 2, "request.signature"},
		"step signed for another session": {func(a *author) {
			a.onStep = at(2, func(_ *wire.Request, p *httpsig.Place, _ *wire.Transaction) { p.Session[0] ^= 1 })
		}, refusal.SignatureInvalid, 2, "request.signature"},
		"step signed over another head": {func(a *author) {
			a.onStep = at(2, func(_ *wire.Request, p *httpsig.Place, _ *wire.Transaction) { p.Transcript[0] ^= 1 })
		}, refusal.SignatureInvalid, 2, "request.signature"},
		"time goes back": {func(a *author) {
			a.onStep = at(2, func(_ *wire.Request, _ *httpsig.Place, tx *wire.Transaction) { tx.Time -= 2000 })
		}, refusal.WrongTime, 2, "time"},
		"time before 1970": {func(a *author) {
			a.created = 0
			a.onStep = at(1, func(_ *wire.Request, _ *httpsig.Place, tx *wire.Transaction) { tx.Time = -1 })
		}, refusal.WrongTime, 1, "time"},
		"time after 9999": {func(a *author) {
			a.created = 253402300000 - 3700
			a.onStep = at(3, func(_ *wire.Request, _ *httpsig.Place, tx *wire.Transaction) { tx.Time = wire.MaxTime + 1 })
		}, refusal.WrongTime, 3, "time"},
		"created long before the time": {func(a *author) {
			a.onStep = at(1, func(r *wire.Request, _ *httpsig.Place, tx *wire.Transaction) {
				tx.Time = (r.Created+MaxSkewSeconds)*1000 + 1
			})
		}, refusal.WrongTime, 1, "time"},
		"created long after the time": {func(a *author) {
			a.onStep = at(1, func(r *wire.Request, _ *httpsig.Place, tx *wire.Transaction) {
				tx.Time = (r.Created-MaxSkewSeconds)*1000 - 1
			})
		}, refusal.WrongTime, 1, "time"},
		"commit elsewhere":     {func(a *author) { a.onCommit = func(r *wire.Request, _ *httpsig.Place) { r.Path = "/packages" } }, refusal.WrongSession, 0, "commit.path"},
		"commit with a slash":  {func(a *author) { a.onCommit = func(r *wire.Request, _ *httpsig.Place) { r.Path += "/" } }, refusal.WrongSession, 0, "commit.path"},
		"commit with PUT":      {func(a *author) { a.onCommit = func(r *wire.Request, _ *httpsig.Place) { r.Method = "PUT" } }, refusal.WrongSession, 0, "commit.path"},
		"commit with a query":  {func(a *author) { a.onCommit = func(r *wire.Request, _ *httpsig.Place) { r.Query = "a" } }, refusal.WrongSession, 0, "commit.path"},
		"commit with a body":   {func(a *author) { a.onCommit = func(r *wire.Request, _ *httpsig.Place) { r.Body = []byte(`{"a":1}`) } }, refusal.BadRequest, 0, "commit.body"},
		"commit too early":     {func(a *author) { a.onCommit = func(_ *wire.Request, p *httpsig.Place) { p.Sequence-- } }, refusal.SignatureInvalid, 0, "commit.signature"},
		"commit of other head": {func(a *author) { a.onCommit = func(_ *wire.Request, p *httpsig.Place) { p.Transcript[31] ^= 1 } }, refusal.SignatureInvalid, 0, "commit.signature"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthor()
			c.change(a)
			commit := a.write()
			_, err := Verify(commit)
			wantRefusal(t, err, c.code, c.step, c.field)
			if !strings.HasSuffix(c.field, ".signature") {
				_, err = VerifyAgain(commit)
				wantRefusal(t, err, c.code, c.step, c.field)
			}
		})
	}
	t.Run("small-order key", func(t *testing.T) {
		// Signatures by the identity key need no private key: R is the identity, S is 0.
		c := newAuthor().write()
		c.Open.Key = weak
		c.Open.Signature = wire.Signature{1}
		_, err := Verify(c)
		wantRefusal(t, err, refusal.KeyWeak, 0, "open.key")
	})
}

func at(sequence int, change func(*wire.Request, *httpsig.Place, *wire.Transaction)) func(int, *wire.Request, *httpsig.Place, *wire.Transaction) {
	return func(k int, r *wire.Request, p *httpsig.Place, tx *wire.Transaction) {
		if k == sequence {
			change(r, p, tx)
		}
	}
}

// TestBoundaryTimes: exactly 300 s of skew, and two steps at one time, pass.
func TestBoundaryTimes(t *testing.T) {
	for _, skew := range []int64{-MaxSkewSeconds, 0, MaxSkewSeconds} {
		a := newAuthor()
		a.onStep = func(k int, r *wire.Request, _ *httpsig.Place, tx *wire.Transaction) {
			r.Created = a.created
			tx.Time = (a.created + skew) * 1000
		}
		if _, err := Verify(a.write()); err != nil {
			t.Error(err)
		}
	}
}

// TestVerifyIsTotal: on any session commit at all, built from parts of good ones, Verify answers without panicking, and what it takes
// is one of the good ones.
func TestVerifyIsTotal(t *testing.T) {
	a, b := newAuthor().write(), newAuthor()
	b.onOpen = func(r *wire.Request) { r.Created-- }
	pool := []*wire.SessionCommit{a, b.write()}
	rapid.Check(t, func(t *rapid.T) {
		pick := func(label string) *wire.SessionCommit { return pool[rapid.IntRange(0, 1).Draw(t, label)] }
		c := wire.SessionCommit{Open: pick("open").Open, Commit: pick("commit").Commit}
		for range rapid.IntRange(0, 4).Draw(t, "n") {
			c.Transactions = append(c.Transactions, pick("of").Transactions[rapid.IntRange(0, 2).Draw(t, "step")])
		}
		_, err := Verify(&c)
		good := slices.ContainsFunc(pool, func(p *wire.SessionCommit) bool { return bytes.Equal(p.Encode(), c.Encode()) })
		if (err == nil) != good {
			t.Fatalf("good is %v, but %v", good, err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	for _, steps := range []int{1, 6, 100} {
		a := newAuthor()
		a.steps = steps
		c := a.write()
		b.Run(fmt.Sprintf("steps=%d", steps), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if _, err := Verify(c); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("again/steps=%d", steps), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if _, err := VerifyAgain(c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
