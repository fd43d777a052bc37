package layer2

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// A peer writes a step while it verifies the originator's signature on it. If that is bad, no crash leaves the step behind, and nothing
// of it stands in the way of the true one.
func TestStepWithBadSealIsNotKept(t *testing.T) {
	var on atomic.Bool
	var mu sync.Mutex
	var disks []*vfs.MemFS // as a power cut before each write would leave them
	m := newMany(t, 2, func(i int, o *Options) {
		mem := o.FS.(*vfs.MemFS)
		if i == 1 {
			o.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if on.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
					mu.Lock()
					defer mu.Unlock()
					disks = append(disks, mem.CrashClone(vfs.CrashCloneCfg{}))
				}
				return nil
			}))
		}
	})
	u := m.nodes[0].user("alice")
	m.has(1, u)
	m.cut(0, 1)
	a := u.do("POST", "/add/a", "", 200)
	_, good, err := httpsig.VerifySealed(a.Signed, a.Status, a.Body)
	if err != nil {
		t.Fatal(err)
	}
	step := wire.PeerStep{Session: u.id, Previous: u.last.Place.Transcript, Head: u.head, Step: wire.Recorded{Height: a.Height, Seal: good, Transaction: wire.Transaction{
		Sequence: 1, Request: u.last.Request, Response: wire.Response{Status: a.Status, Headers: a.Headers, Body: wire.Sum(a.Body)}, Originator: a.Originator, Time: a.Time,
	}}}
	forged := step
	forged.Step.Seal.Signature[0] ^= 1

	peer := m.nodes[1]
	on.Store(true)
	peer.engine.cluster.Receive(m.nodes[0].key(), forged.Encode())
	peer.settleDown()
	on.Store(false)
	none := func(when string) {
		t.Helper()
		if s, err := peer.engine.session(u.id); err != nil || s.Sequence != 0 || s.Status != session.Open {
			t.Fatalf("%s: the session is %+v, %v", when, s, err)
		}
		if _, ok, err := peer.engine.journal.get(keyNumbered(u.id, partStep, 1)); ok || err != nil {
			t.Fatalf("%s: the step is on disk, %v", when, err)
		}
	}
	none("before a crash")
	if got := peer.engine.counts.replicated.Load(); got != 0 {
		t.Fatalf("%d steps were endorsed", got)
	}
	caught := 0
	for _, disk := range disks {
		j, err := openJournal(peer.dir, disk.CrashClone(vfs.CrashCloneCfg{}), discard, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		_, ok, err := j.get(keyNumbered(u.id, partStep, 1))
		if err != nil || j.close() != nil {
			t.Fatal(err)
		}
		if ok {
			caught++
		}
		m.down(1)
		peer.fs = disk
		m.up(1)
		none("after a crash")
	}
	if caught == 0 {
		t.Fatalf("in none of %d crashes the step was on disk: nothing was tested", len(disks))
	}
	m.heal(0, 1)
	m.has(1, u)
	again, err := u.at(peer).send(&u.last)
	if err != nil || again.Seal != good {
		t.Fatalf("the true step, sent again: %+v, %v", again, err)
	}
}

// A power cut that comes after a step was written and before its endorsement was, signed, costs nothing: the same is signed again.
func TestEndorsementIsSignedAgain(t *testing.T) {
	m := newMany(t, 2, nil)
	u := m.nodes[0].user("alice")
	first := u.do("POST", "/add/a", "", 200)
	endorsed(t, first, 2, 2)
	peer := m.nodes[1]
	peer.settleDown()
	if err := peer.engine.journal.flush(); err != nil {
		t.Fatal(err)
	}
	key := keyNumbered(u.id, partVotes, 1)
	if err := peer.engine.journal.append(op{key, encodeRecord(votesRecord{
		Head: u.head, Endorsements: []wire.Endorsement{{Node: peer.key(), Height: first.Endorsers[0].Height}},
	})}); err != nil {
		t.Fatal(err)
	}
	m.kill(1)
	m.up(1)
	again, err := u.at(peer).send(&u.last)
	if err != nil || !again.Repeated || len(again.Endorsers) != 1 || again.Endorsers[0] != first.Endorsers[0] {
		t.Fatalf("after the crash: %+v, %v", again, err)
	}
}

// What an originator has not signed is held against nobody: neither as a dissent about the response nor as evidence.
func TestBadSealComesFirst(t *testing.T) {
	m := newMany(t, 2, nil)
	u := m.nodes[0].user("alice")
	m.has(1, u)
	m.cut(0, 1)
	a := u.do("GET", "/luck/a", "", 200) // answers otherwise at the peer
	step := wire.PeerStep{Session: u.id, Previous: u.last.Place.Transcript, Head: u.head, Step: wire.Recorded{Height: a.Height, Seal: a.Seal, Transaction: wire.Transaction{
		Sequence: 1, Request: u.last.Request, Response: wire.Response{Status: a.Status, Headers: a.Headers, Body: wire.Sum(a.Body)}, Originator: a.Originator, Time: a.Time,
	}}}
	step.Step.Seal.Signature[0] ^= 1
	peer := m.nodes[1]
	peer.engine.cluster.Receive(m.nodes[0].key(), step.Encode())
	peer.settleDown()
	trail, err := peer.engine.Audit(context.Background(), u.id)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range trail.Entries {
		if e.Event == auditDissent {
			if e.Code != string(refusal.SignatureInvalid) {
				t.Errorf("dissents with %s", e.Code)
			}
			return
		}
	}
	t.Errorf("no dissent: %+v", trail.Entries)
}
