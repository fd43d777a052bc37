package layer2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"tandem/internal/refusal"
	"tandem/internal/session"
)

// Promise 3: an acknowledged step survives; the session goes on after a restart where it stood.
func TestRestart(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.auto = true
	u, v := w.user("alice"), w.user("bob")
	for range 3 {
		u.do("POST", "/add/a", "", 200)
	}
	v.do("POST", "/add/b", "", 200)
	before := u.status()
	w.crash()
	after := u.status()
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("before: %+v\nafter: %+v", before, after)
	}
	if s := w.engine.Stats(); s.Open != 2 {
		t.Errorf("%d sessions are open, want 2", s.Open)
	}
	if a := u.do("POST", "/add/a", "", 200); !strings.Contains(string(a.Body), `"count":4`) {
		t.Errorf("the fourth step answers %s", a.Body)
	}
	if out, err := u.commit(); err != nil || out.Steps != 4 || w.value("a") != "xxxx" {
		t.Errorf("%+v, %v, value %q", out, err, w.value("a"))
	}
}

// Sessions are run again at the start on the newest state; one that answers otherwise is conflicted, and named.
func TestConflictAtTheStart(t *testing.T) {
	w := newWorld(t, nil)
	u, v := w.user("alice"), w.user("alice")
	u.do("GET", "/get/a", "", 200)
	v.do("GET", "/get/b", "", 200)
	w.stop()
	w.ledger.write("a", "changed while the node was down")
	w.start()
	if s := u.status(); s.Status != session.Conflicted || s.Conflict.Step != 1 || len(s.Conflict.Keys) != 1 || s.Conflict.Keys[0] != "a/kv/a" {
		t.Errorf("%+v, %+v", s, s.Conflict)
	}
	if s := v.status(); s.Status != session.Open {
		t.Errorf("%+v", s)
	}
	v.do("GET", "/get/b", "", 200)
	w.ledger.write("b", "x") // the index knows what was read before the restart
	w.settleDown()
	if s := v.status(); s.Status != session.Conflicted {
		t.Errorf("%+v", s)
	}
}

// A handler that is not deterministic is told from a conflict after a restart too.
func TestNondeterminismAtTheStart(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("alice")
	u.do("GET", "/luck/a", "", 200)
	w.crash()
	if s := u.status(); s.Status != session.Open || s.Fault == nil || s.Fault.Code != refusal.Nondeterministic {
		t.Errorf("%+v", s)
	}
}

// A node whose ledger has fallen behind its sessions does not judge them until it has caught up.
func TestLedgerBehind(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.write("a", "one")
	u := w.user("alice")
	u.do("GET", "/get/a", "", 200)
	w.stop()
	w.ledger = newFakeLedger(t, w.svc, w.clock, w.node) // as after the loss of the ledger's data: the chain is fetched again
	w.start()
	if s := u.status(); s.Status != session.Open {
		t.Fatalf("%+v", s)
	}
	_, err := u.send(u.sign("GET", "/get/a", "", ""))
	wantCode(t, err, refusal.HeightNotReached)
	w.ledger.write("a", "one")
	u.do("GET", "/get/a", "", 200)
}

// Expiry that came while the node was down.
func TestExpiredAtTheStart(t *testing.T) {
	w := newWorld(t, nil)
	u := w.userWith("alice", w.openBody(time.Minute))
	u.do("GET", "/get/a", "", 200)
	w.stop()
	w.clock.advance(2 * time.Minute)
	w.ledger.write("b", "")
	w.start()
	if s := u.status(); s.Status != session.Expired {
		t.Errorf("%+v", s)
	}
}

// A log of another node or chain is refused in words.
func TestForeignLog(t *testing.T) {
	w := newWorld(t, nil)
	w.stop()
	w.opts = func(o *Options) { o.ChainID = "other" }
	var d *Damage
	if err := w.tryStart(); !errors.As(err, &d) || !strings.Contains(err.Error(), "other") || d.Remedy == "" {
		t.Errorf("got %v", err)
	}
}

// Old sessions are let go of beyond the number that is kept, oldest first.
func TestRetention(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.RetainEnded = 2 })
	w.ledger.auto = true
	var users []*user
	for range 5 {
		u := w.user("alice")
		u.do("POST", "/add/a", "", 200)
		if _, err := u.commit(); err != nil {
			t.Fatal(err)
		}
		users = append(users, u)
	}
	w.engine.prune()
	for i, u := range users {
		_, err := w.engine.Committed(context.Background(), u.id, 0)
		if kept := err == nil; kept != (i >= 3) {
			t.Errorf("session %d: %v", i, err)
		}
		if s := u.status(); s.Status != session.Committed || s.Elsewhere != (i < 3) {
			t.Errorf("status of session %d: %+v", i, s)
		}
	}
	w.crash()
	if n := w.engine.kept.Load(); n != 2 {
		t.Errorf("after a restart %d ended sessions are counted, want 2", n)
	}
}

// A damaged record is named, with its session and a remedy, and the log is not opened shortened.
func TestDamagedRecord(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(u *user, db *pebble.DB)
		says   string
	}{
		"bit in a step": {func(u *user, db *pebble.DB) {
			k := keyNumbered(u.id, partStep, 2)
			b, closer, err := db.Get(k)
			if err != nil {
				u.w.t.Fatal(err)
			}
			v := append([]byte{}, b...)
			_ = closer.Close()
			v[len(v)/2] ^= 1
			set(u.w.t, db, k, v)
		}, "step 2 of session"},
		"missing step": {func(u *user, db *pebble.DB) { set(u.w.t, db, keyNumbered(u.id, partStep, 2), nil) }, "step 3 of session"},
		"missing opening": {func(u *user, db *pebble.DB) { set(u.w.t, db, keyPart(u.id, partOpen), nil) },
			"step 1 of session"},
		"steps swapped": {func(u *user, db *pebble.DB) {
			b, closer, err := db.Get(keyNumbered(u.id, partStep, 1))
			if err != nil {
				u.w.t.Fatal(err)
			}
			v := append([]byte{}, b...)
			_ = closer.Close()
			set(u.w.t, db, keyNumbered(u.id, partStep, 2), v)
		}, "step 2 of session"},
		"resealed": {func(u *user, db *pebble.DB) { // a well-formed record that does not belong there
			o := encodeRecord(openRecord{Request: u.open.Encode()[1:]})
			set(u.w.t, db, keyPart(u.id, partOpen), seal(keyPart(u.id, partOpen), o))
		}, "opening of session"},
		"future version": {func(u *user, db *pebble.DB) {
			k := keyPart(u.id, partOpen)
			body := []byte{9, 'x'}
			set(u.w.t, db, k, binary.BigEndian.AppendUint32(body, sealSum(k, body)))
		}, "version 9"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			u := w.user("alice")
			for range 3 {
				u.do("POST", "/add/a", "", 200)
			}
			w.stop()
			db, err := pebble.Open(w.dir, &pebble.Options{FS: w.fs, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
			if err != nil {
				t.Fatal(err)
			}
			c.damage(u, db)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			var d *Damage
			err = w.tryStart()
			if !errors.As(err, &d) || d.Remedy == "" || !strings.Contains(err.Error(), u.id.String()) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func set(t tb, db *pebble.DB, k, v []byte) {
	t.Helper()
	var err error
	if v == nil {
		err = db.Delete(k, pebble.Sync)
	} else {
		err = db.Set(k, v, pebble.Sync)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}

// A truncated or bit-flipped file of the log: the engine either refuses to start, in words, or has every step that was
// acknowledged; it never starts with fewer.
func TestDamagedFiles(t *testing.T) {
	for n := range 4 {
		clean := n%2 == 0
		disk := vfs.NewCrashableMem()
		var under vfs.FS = disk
		w := newWorld(t, func(o *Options) {
			o.FS = under
			if n >= 2 {
				o.FS = prewritten{under, 8 << 10} // filled to a part
			}
		})
		w.halted = make(chan error, 1000) // damage that only a running engine comes upon
		u := w.user("alice")
		for range 4 {
			u.do("POST", "/add/a", "", 200)
		}
		dir := t.TempDir()
		mem := disk
		if clean {
			w.stop()
			if err := w.tryStart(); err != nil { // puts what was in Pebble's log into a table
				t.Fatal(err)
			}
			w.stop()
		} else {
			mem = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
			w.stop()
		}
		if _, err := vfs.Clone(mem, vfs.Default, w.dir, dir); err != nil {
			t.Fatal(err)
		}
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		refused := 0
		for _, f := range files {
			b, err := os.ReadFile(dir + "/" + f.Name())
			if err != nil {
				t.Fatal(err)
			}
			if len(b) == 0 || f.Name() == "LOCK" {
				continue
			}
			for _, at := range []int{0, len(b) / 4, len(b) / 2, len(b) * 3 / 4, len(b) - 1} {
				for _, cut := range []bool{true, false} {
					bad := append([]byte{}, b...)
					if cut {
						bad = bad[:at]
					} else {
						bad[at] ^= 0x10
					}
					fs := vfs.NewMem()
					if _, err := vfs.Clone(vfs.Default, fs, dir, w.dir); err != nil {
						t.Fatal(err)
					}
					putFile(t, fs, w.dir+"/"+f.Name(), bad)
					under = fs
					if err := w.tryStart(); err != nil {
						refused++
						if !strings.Contains(err.Error(), remedy) {
							t.Errorf("%s (cut %v) at %d of %d, clean %v: the refusal does not say what to do: %v", f.Name(), cut, at, len(b), clean, err)
						}
						continue
					}
					s, err := w.engine.Session(context.Background(), u.id)
					if err == nil && s.Sequence != 4 {
						t.Errorf("%s (cut %v) at %d of %d, clean %v: the log was opened with %d steps of 4", f.Name(), cut, at, len(b), clean, s.Sequence)
					}
					if refusal.Has(err, refusal.SessionNotFound) {
						t.Errorf("%s (cut %v) at %d of %d, clean %v: the log was opened without the session", f.Name(), cut, at, len(b), clean)
					}
					w.stop()
				}
			}
		}
		if refused == 0 {
			t.Error("no damage was noticed at all")
		}
		for len(w.halted) > 0 {
			if err := <-w.halted; !strings.Contains(err.Error(), remedy) {
				t.Errorf("clean %v: the halt does not say what to do: %v", clean, err)
			}
		}
	}
}

func putFile(t tb, fs vfs.FS, path string, b []byte) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}
