package layer1

import (
	"fmt"
	"strings"
	"testing"

	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// DESIGN "Layer 1 rules": what Check looks at, each by a session that is good but for one thing.
func TestCheckRefuses(t *testing.T) {
	w := newWorld(t, 1)
	defer w.close()
	n := w.nodes[0]
	good := func() *draftSession { return w.draft("ann", post("/add/a", ""), post("/put/b", "x")) }
	if err := w.try(n, good().bytes(t)); err != nil {
		t.Fatalf("the good session is refused: %v", err)
	}
	resigned := func(change func(d *draftSession)) []byte {
		d := good()
		change(d)
		return d.bytes(t)
	}
	changed := func(change func(c *wire.SessionCommit)) []byte {
		c := good().commit(t)
		change(c)
		return c.Encode()
	}
	other := key("nobody")
	for _, c := range []struct {
		name string
		tx   []byte
		code refusal.Code
		step uint64
	}{
		{"empty", nil, refusal.UnknownKind, 0},
		{"garbage", []byte("garbage"), refusal.UnknownKind, 0},
		{"root statement", wire.RootStatement{Height: 1}.Encode(), refusal.UnknownKind, 0},
		{"truncated", good().bytes(t)[:100], refusal.NonCanonical, 0},
		{"trailing byte", append(good().bytes(t), 0), refusal.NonCanonical, 0},
		{"oversized", make([]byte, wire.MaxTransaction+1), refusal.TransactionTooLarge, 0},
		{"too many steps", resigned(func(d *draftSession) {
			for range 64 {
				d.calls = append(d.calls, post("/put/x", ""))
			}
		}), refusal.SessionFull, 0},
		{"other chain", resigned(func(d *draftSession) { d.open.ChainID = "other" }), refusal.WrongChain, 0},
		{"other code", resigned(func(d *draftSession) { d.open.Fingerprint[0] ^= 1 }), refusal.WrongFingerprint, 0},
		{"open body with white space", changed(func(c *wire.SessionCommit) {
			c.Open.Body = []byte(strings.Replace(string(c.Open.Body), ",", ", ", 1))
			httpsig.Sign(key("ann"), httpsig.TagOpen, &c.Open, httpsig.Place{})
		}), refusal.BadJSON, 0},
		{"expired", resigned(func(d *draftSession) { d.open.ExpiresAt = w.time + 999 }), refusal.SessionExpired, 0},
		{"key nobody registered", resigned(func(d *draftSession) { d.priv = other }), refusal.KeyNotRegistered, 0},
		{"unknown originator", resigned(func(d *draftSession) { d.originator = other }), refusal.OriginatorUnknown, 1},
		{"step from the future", resigned(func(d *draftSession) { d.stepTime = w.time + 1000 + MaxAheadMillis + 1 }), refusal.WrongTime, 1},
		{"step too old", resigned(func(d *draftSession) { d.stepTime = w.time + 1000 - 3600_000 - 1 }), refusal.WrongTime, 1},
		{"times go back", changed(func(c *wire.SessionCommit) { c.Transactions[1].Time = c.Transactions[0].Time - 1 }), refusal.WrongTime, 2},
		{"request altered", changed(func(c *wire.SessionCommit) { c.Transactions[1].Request.Body = []byte("y") }), refusal.SignatureInvalid, 2},
		{"response altered after signing", changed(func(c *wire.SessionCommit) { c.Transactions[0].Response.Body[0] ^= 1 }), refusal.SignatureInvalid, 2},
		{"originator altered", changed(func(c *wire.SessionCommit) { c.Transactions[0].Originator = wire.PublicKeyOf(other) }), refusal.SignatureInvalid, 2},
		{"step dropped", changed(func(c *wire.SessionCommit) { c.Transactions = c.Transactions[:1] }), refusal.SignatureInvalid, 0},
		{"steps swapped", changed(func(c *wire.SessionCommit) {
			c.Transactions[0], c.Transactions[1] = c.Transactions[1], c.Transactions[0]
		}), refusal.WrongSequence, 1},
		{"commit signature", changed(func(c *wire.SessionCommit) { c.Commit.Signature[3] ^= 1 }), refusal.SignatureInvalid, 0},
		{"open signature", changed(func(c *wire.SessionCommit) { c.Open.Signature[3] ^= 1 }), refusal.SignatureInvalid, 0},
		{"answer falsified before signing", resigned(func(d *draftSession) {
			d.tamper = func(step int, r *wire.Response) {
				if step == 2 {
					r.Status = 202
				}
			}
		}), refusal.ResponseDiffers, 2},
		{"body falsified before signing", resigned(func(d *draftSession) {
			d.tamper = func(step int, r *wire.Response) { r.Body[0] ^= 1 }
		}), refusal.ResponseDiffers, 1},
		{"recorded error", resigned(func(d *draftSession) { d.calls[0] = post("/nowhere", "") }), refusal.NonCanonical, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := w.wantCode(w.try(n, c.tx), c.code)
			if step, _ := r.Fields["step"].(uint64); step != c.step {
				t.Errorf("%v names step %d, want %d", r, step, c.step)
			}
			if again := w.try(n, c.tx); again == nil || again.Error() != r.Error() {
				t.Errorf("the second time (remembered): %v, the first %v", again, r)
			}
			// Whatever Check refuses, a proposal leaves out and no validator accepts.
			if made := w.prepare(n, c.tx); len(made) != 1 {
				t.Errorf("Prepare took it")
			}
		})
	}
}

// The bounds are inclusive: the last good moment still commits.
func TestCheckBounds(t *testing.T) {
	w := newWorld(t, 1)
	defer w.close()
	for name, change := range map[string]func(d *draftSession){
		"expires with the block":  func(d *draftSession) { d.open.ExpiresAt = w.time + 1000 },
		"60 s ahead":              func(d *draftSession) { d.stepTime = w.time + 1000 + MaxAheadMillis },
		"as old as a session":     func(d *draftSession) { d.stepTime = w.time + 1000 - 3600_000 },
		"no steps":                func(d *draftSession) { d.calls = nil },
		"as many steps as may be": func(d *draftSession) { d.calls = make64() },
	} {
		d := w.draft("ann", post("/add/a", ""))
		change(d)
		if err := w.try(w.nodes[0], d.bytes(t)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func make64() []call {
	calls := make([]call, 64)
	for i := range calls {
		calls[i] = post("/put/x", fmt.Sprint(i))
	}
	return calls
}

// Promise 4: at most one commit per session, however it is submitted: in one block, in a later one, under another
// transaction hash.
func TestSettledOnce(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	d := w.draft("ann", post("/add/a", ""))
	c := d.commit(t)
	tx := c.Encode()
	// The same session with a commit signed for another content type has another hash, and the same id.
	c.Commit.Body = nil
	httpsig.Sign(d.priv, httpsig.TagCommit, &c.Commit, httpsig.Place{Session: httpsig.SessionID(&c.Open), Sequence: 2, Transcript: c.Head()})
	twin := c.Encode()
	if made := w.block(tx, tx, twin); len(made) != 2 {
		t.Fatalf("%d transactions in the block, want root statement and one session", len(made))
	}
	r := w.wantCode(w.try(w.nodes[0], twin), refusal.AlreadySettled)
	if r.Fields["height"] != int64(1) {
		t.Errorf("fields %v", r.Fields)
	}
	if made := w.block(tx, twin); len(made) != 1 {
		t.Errorf("committed again")
	}
}

// A session and those that supersede it: one gets into the ledger. Another actor's session supersedes nothing.
func TestSupersedes(t *testing.T) {
	superseding := func(w *world, actor string, old []byte, k string) []byte {
		d := w.draft(actor, post("/put/"+k, "new"))
		id := idOf(t, old)
		d.open.Supersedes = &id
		return d.bytes(t)
	}
	t.Run("new first", func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.close()
		old := w.session("ann", post("/put/a", "old"))
		successor, second := superseding(w, "ann", old, "b"), superseding(w, "ann", old, "c")
		if made := w.block(successor, old, second); len(made) != 2 {
			t.Fatalf("%d sessions committed, want 1", len(made)-1)
		}
		r := w.wantCode(w.try(w.nodes[0], old), refusal.Superseded)
		if r.Fields["by"] != idOf(t, successor).String() {
			t.Errorf("fields %v", r.Fields)
		}
		w.wantCode(w.try(w.nodes[0], second), refusal.Superseded)
		by, ok, err := ledger.SupersededBy(w.nodes[1].store.Latest(), idOf(t, old), "ann")
		if err != nil || !ok || by != idOf(t, successor) {
			t.Errorf("SupersededBy %v %v %v", by, ok, err)
		}
	})
	t.Run("old first", func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.close()
		old := w.session("ann", post("/put/a", "old"))
		successor := superseding(w, "ann", old, "b")
		if made := w.block(old, successor); len(made) != 2 {
			t.Fatalf("%d sessions committed, want 1", len(made)-1)
		}
		w.wantCode(w.try(w.nodes[0], successor), refusal.AlreadySettled)
	})
	t.Run("of another actor", func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.close()
		old := w.session("ann", post("/put/a", "old"))
		if made := w.block(superseding(w, "eve", old, "b"), old); len(made) != 3 {
			t.Errorf("%d sessions committed: eve's keeps ann's out of the ledger", len(made)-1)
		}
	})
}

// Keys are judged on the state after the transactions before them in the block.
func TestKeysFollowTheBlock(t *testing.T) {
	w := newWorld(t, 2)
	defer w.close()
	did := wire.PublicKeyOf(key("ann")).DID()
	anns := w.session("ann", post("/add/a", ""))
	late := w.session("ann", post("/add/b", ""))
	revoke := w.session("root", call{"DELETE", "/tandem/v1/actors/ann/keys/" + did, ""})
	if made := w.block(anns, revoke, late); len(made) != 3 {
		t.Fatalf("%d sessions, want the one before the revocation and the revocation", len(made)-1)
	}
	w.wantCode(w.try(w.nodes[1], late), refusal.KeyRevoked)
	w.wantCode(asError(w.checkTx(w.nodes[1], late)), refusal.KeyRevoked)

	// A key that is registered in a block may sign a session further back in the same block.
	fresh := key("fresh")
	register := w.session("bob", post("/tandem/v1/actors/bob/keys", `{"key":"`+wire.PublicKeyOf(fresh).DID()+`","delegate":false}`))
	d := w.draft("bob", post("/add/c", ""))
	d.priv = fresh
	d.actor = "bob"
	first := d.bytes(t)
	if made := w.block(first, register); len(made) != 2 {
		t.Errorf("a key works before it is registered")
	}
	if made := w.block(first); len(made) != 2 {
		t.Errorf("a registered key does not work")
	}
	// A session that revokes its own key runs to its end; the next one does not begin.
	own := w.session("eve", call{"DELETE", "/tandem/v1/actors/eve", ""}, post("/add/d", ""))
	if made := w.block(own); len(made) != 2 {
		t.Errorf("a session cannot revoke its own actor")
	}
	w.wantCode(w.try(w.nodes[0], w.session("eve", post("/add/e", ""))), refusal.KeyRevoked)
}

func asError(r *refusal.Refusal) error {
	if r == nil {
		return nil
	}
	return r
}

// Verified gives what verifying anew gives, holds its limit, and forgets the oldest.
func TestVerified(t *testing.T) {
	w := newWorld(t, 1)
	defer w.close()
	var txs [][]byte
	for range 5 {
		txs = append(txs, w.session("ann", post("/put/a", strings.Repeat("x", 1000))))
	}
	v := NewVerified(3 * len(txs[0]))
	var none *Verified
	for _, tx := range txs {
		e, err := v.open(tx)
		if err != nil {
			t.Fatal(err)
		}
		p, err := v.verify(e)
		if err != nil {
			t.Fatal(err)
		}
		e2, err := none.open(tx)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := none.verify(e2); err != nil || q.Head != p.Head || q.ID != p.ID {
			t.Errorf("%v against %v, %v", p, q, err)
		}
	}
	if v.size > v.limit || v.recent.Len() != 3 || len(v.byHash) != 3 {
		t.Errorf("%d bytes, %d entries", v.size, v.recent.Len())
	}
	if v.find(wire.Sum(txs[0])) != nil || v.find(wire.Sum(txs[4])) == nil {
		t.Error("not the oldest was forgotten")
	}
}

// For any bytes Check answers with a coded refusal or accepts; it never panics, and what it refuses leaves no trace.
func FuzzCheck(f *testing.F) {
	w := newWorld(f, 1)
	f.Cleanup(w.close)
	good := w.session("ann", post("/add/a", ""), post("/put/b", "x"))
	f.Add(good)
	f.Add(wire.RootStatement{Height: 1}.Encode())
	f.Add([]byte{0x84, 2})
	f.Add([]byte{})
	for i := 0; i < len(good); i += 97 {
		b := append([]byte(nil), good...)
		b[i] ^= 0x55
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, tx []byte) {
		w.t = t
		if err := w.try(w.nodes[0], tx); err != nil {
			if _, ok := refusal.As(err); !ok {
				t.Fatalf("an error without a code: %v", err)
			}
		}
	})
}
