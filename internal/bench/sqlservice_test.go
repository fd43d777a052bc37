package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"tandem"
	"tandem/examples/supplychain"
)

// postgres starts a server for a test; nil, and a line in the log, on a machine that has none.
func postgres(t *testing.T) *Postgres {
	t.Helper()
	bin, err := FindPostgres()
	if errors.Is(err, ErrNoPostgres) {
		t.Logf("not tested: %v", err)
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	parent, err := os.MkdirTemp("", "pg") // t.TempDir has a parent that another user cannot enter, and a long name
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(parent, 0o711); err != nil {
		t.Fatal(err)
	}
	p, err := StartPostgres(t.Context(), bin, parent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
			t.Errorf("Close leaves %v (%v)", left, err)
		}
		if err := os.Remove(parent); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestFindPostgres(t *testing.T) {
	root := t.TempDir()
	t.Setenv("PATH", t.TempDir())
	_, err := findPostgres(root)
	if !errors.Is(err, ErrNoPostgres) || !strings.Contains(err.Error(), "apt-get install postgresql") {
		t.Errorf("without a server: %v, which names no remedy", err)
	}
	for _, version := range []string{"9.6", "15", "17"} {
		bin := filepath.Join(root, version, "bin")
		if err := os.MkdirAll(bin, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"postgres", "initdb"} {
			if name == "initdb" && version == "17" {
				continue // only half of it is installed
			}
			if err := os.WriteFile(filepath.Join(bin, name), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if bin, err := findPostgres(root); err != nil || bin != filepath.Join(root, "15", "bin") {
		t.Errorf("found %q, %v; want version 15", bin, err)
	}
}

// counting is a service that shows what a State over SQL has to get right.
func counting() tandem.Service {
	var reg tandem.Registry
	key := []byte("count")
	reg.HandleFunc("POST /count", func(w http.ResponseWriter, r *http.Request) {
		st := tandem.StateOf(r.Context())
		old, _ := st.Get(key)
		n, _ := strconv.Atoi(string(old)) // nothing is 0
		st.Set(key, strconv.AppendInt(nil, int64(n+1), 10))
		_, _ = fmt.Fprint(w, n+1)
	})
	reg.HandleFunc("POST /refuse", func(w http.ResponseWriter, r *http.Request) {
		tandem.StateOf(r.Context()).Set(key, []byte("9999"))
		http.Error(w, "no", http.StatusConflict)
	})
	return tandem.Service{Name: "counting", Version: "1", Registry: &reg}
}

// One server serves all tests of the ordinary service, one after the other: making a database takes seconds.
func TestSQLService(t *testing.T) {
	p := postgres(t)
	if p == nil {
		return
	}
	for name, test := range map[string]func(*testing.T, *Postgres){
		"serializable": isSerializable, "like a MapState": likeMapState, "carries": carries,
	} {
		t.Run(name, func(t *testing.T) { test(t, p) })
	}
}

// served starts a service on the server; at the test's end it and its table are gone.
func served(t *testing.T, p *Postgres, service tandem.Service, seed []byte) *SQLService {
	t.Helper()
	s, err := StartSQLService(t.Context(), p.Address(), service, seed, demoActors())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := s.pool.Exec(context.Background(), "drop table state")
		if err = errors.Join(err, s.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Steps at the same time do not lose each other's writes: what PostgreSQL gives up is run again. A refused one leaves nothing.
func isSerializable(t *testing.T, p *Postgres) {
	s := served(t, p, counting(), nil)
	ask := func(target string) (string, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+target, nil)
		if err != nil {
			return "", err
		}
		body, err := post(s.client, r)
		return string(body), err
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for range 10 {
				if _, err := ask("/count"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if _, err := ask("/refuse"); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("the refusal is %v", err)
	}
	if got, err := ask("/count"); err != nil || got != "31" {
		t.Errorf("after 30 steps and a refused one the next count is %q, %v", got, err)
	}
}

// A State over SQL is a State: the same random operations on it and on a MapState find the same, within a transaction and after it.
func likeMapState(t *testing.T, p *Postgres) {
	s := served(t, p, supplychain.Service(), supplychain.DemoGenesis())
	const seed = 4
	random := rand.New(rand.NewPCG(seed, seed))
	key := func() []byte { // few of them, so that they meet; bytes that text would not take
		return append([]byte{0xff}, bytes.Repeat([]byte{byte(random.IntN(4) * 80)}, 1+random.IntN(3))...)
	}
	want := tandem.NewMapState()
	for transaction := range 40 {
		keep := random.IntN(4) > 0
		trial := tandem.NewMapState()
		for k, v := range want.Scan(nil, nil) {
			trial.Set(k, v)
		}
		err := s.transaction(t.Context(), func(st *sqlState) (bool, error) {
			for range random.IntN(12) {
				k := key()
				switch random.IntN(4) {
				case 0:
					v := []byte(strconv.Itoa(random.IntN(100)))
					st.Set(k, v)
					trial.Set(k, v)
				case 1:
					st.Delete(k)
					trial.Delete(k)
				case 2:
					a, okA := st.Get(k)
					b, okB := trial.Get(k)
					if okA != okB || !bytes.Equal(a, b) {
						t.Errorf("seed %d, transaction %d: get %x: %q %v, want %q %v", seed, transaction, k, a, okA, b, okB)
					}
				default:
					start, end := []byte{0xff}, key()
					if random.IntN(3) == 0 {
						end = nil
					}
					if a, b := entries(st, start, end), entries(trial, start, end); !slices.Equal(a, b) {
						t.Errorf("seed %d, transaction %d: scan to %x: %v, want %v", seed, transaction, end, a, b)
					}
				}
			}
			return keep, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if keep {
			want = trial
		}
	}
}

func entries(st tandem.State, start, end []byte) (all []string) {
	for k, v := range st.Scan(start, end) {
		all = append(all, fmt.Sprintf("%x=%s", k, v))
	}
	return all
}

// The supply chain's handlers answer on PostgreSQL as they do in a test, problem documents included.
func carries(t *testing.T, p *Postgres) {
	s := served(t, p, supplychain.Service(), supplychain.DemoGenesis())
	var names []string
	for range 2 {
		if err := s.Carry(t.Context(), func(a Sample) { names = append(names, a.Operation+a.Err) }); err != nil {
			t.Fatal(err)
		}
	}
	if want := append(steps(), steps()...); !slices.Equal(names, want) {
		t.Errorf("operations %v, want %v", names, want)
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s.URL()+"/packages/PKG-none/scan", nil)
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	var problem struct{ Code string }
	if err := json.NewDecoder(w.Body).Decode(&problem); err != nil || w.StatusCode != http.StatusForbidden || problem.Code != "role-required" {
		t.Errorf("an unknown actor gets %d %+v (%v)", w.StatusCode, problem, err)
	}
}
