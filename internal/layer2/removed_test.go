package layer2

import (
	"context"
	"fmt"
	"testing"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// A node that is taken off the Layer 2 list originates nothing new, but the sessions that it has open are not lost: what
// it originated before stays good, and they can be committed.
func TestRemovedNode(t *testing.T) {
	w := newWorld(t, nil)
	root := w.user("root")
	framework := func(method, path, body string, status int) {
		t.Helper()
		req := wire.Request{Method: method, Path: path, ContentType: "application/json", Body: []byte(body), Created: w.clock.ms.Load() / 1000}
		p := &httpsig.Parsed{Tag: httpsig.TagStep, Request: req, Place: httpsig.Place{Session: root.id, Sequence: root.n + 1, Transcript: root.head}}
		httpsig.Sign(root.priv, httpsig.TagStep, &p.Request, p.Place)
		if a, err := root.send(p); err != nil || a.Status != status {
			t.Fatalf("%s %s: %+v, %v", method, path, a, err)
		}
	}
	framework("POST", "/tandem/v1/layer2", fmt.Sprintf(`{"key":%q,"organisation":"other"}`, wire.PublicKeyOf(key("second")).DID()), 201)
	framework("DELETE", "/tandem/v1/layer2/"+wire.PublicKeyOf(w.node).DID(), "", 200)
	alice := w.user("alice")
	alice.do("POST", "/set/a", "one", 201)
	commit := func(u *user) {
		t.Helper()
		if out, err := w.engine.Commit(ended(), u.commitRequest()); err != nil || out.Status != session.Committing {
			t.Fatalf("%+v, %v", out, err)
		}
		eventually(t, "submitted", func() bool {
			w.ledger.mu.Lock()
			defer w.ledger.mu.Unlock()
			return len(w.ledger.pool) > 0
		})
		w.ledger.cut()
		eventually(t, "committed", func() bool { return u.status().Status == session.Committed })
	}
	commit(root)
	w.settleDown()
	if s := alice.status(); s.Status != session.Open {
		t.Fatalf("the session of a removed node is %+v", s)
	}
	_, err := alice.send(alice.sign("POST", "/set/b", "", "two"))
	wantCode(t, err, refusal.OriginatorUnknown)
	_, err = w.engine.OpenSession(context.Background(), w.openRequest("bob", w.openBody(600e9)))
	wantCode(t, err, refusal.OriginatorUnknown)
	commit(alice)
}
