package testnet_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"tandem/client"
	"tandem/examples/supplychain"
	"tandem/internal/testnet"
)

var killsFlag = flag.Int("kills", 7, "originators that TestOriginatorKilled kills; the long run is 100")

// continued bounds how long a client takes to go on at another node.
const continued = 2 * time.Second

// operatorAt makes a client of the demonstration's operator that asks the given nodes in this order and wants two endorsements.
func operatorAt(t testing.TB, dir string, urls ...string) *client.Client {
	t.Helper()
	genesis, err := os.ReadFile(testnet.GenesisFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	key, err := client.KeyFromSeed(supplychain.DemoKey("OPR-001").Seed())
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{URLs: urls, Key: key, Genesis: genesis, RequireEndorsements: min(2, len(urls))})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// workflow is the demonstration's session, step by step; between is called before each step, and before the commit, with its
// number from 1, and makes the call that it is given.
func workflow(ctx context.Context, s *client.Session, between func(position int, call func() error) error) error {
	body, err := supplychain.DemoPackage(reference())
	if err != nil {
		return err
	}
	pkg, signature := "", ""
	step := func(position int, target string, body func() string, take func(a *client.Answer) error) error {
		return between(position, func() error {
			a, err := s.Call(ctx, "POST", target, "", []byte(body()))
			if err != nil {
				return err
			}
			if a.Status/100 != 2 {
				return fmt.Errorf("%s: %d %s", target, a.Status, a.Body)
			}
			return take(a)
		})
	}
	nothing := func(*client.Answer) error { return nil }
	text := func(s string) func() string { return func() string { return s } }
	if err := step(1, "/packages", text(string(body)), func(a *client.Answer) error { return field(a.Body, "package_id", &pkg) }); err != nil {
		return err
	}
	if err := step(2, "/packages/"+pkg+"/scan", text("{}"), func(a *client.Answer) error { return field(a.Body, "supplier_signature", &signature) }); err != nil {
		return err
	}
	for i, st := range [][2]string{
		{"validate", fmt.Sprintf(`{"signature":%q}`, signature)},
		{"quality-check", `{"passed":true,"issues":[]}`},
		{"label", `{"destination":"Lisbon","priority":"standard","courier_id":"COU-001"}`},
	} {
		if err := step(3+i, "/packages/"+pkg+"/"+st[0], text(st[1]), nothing); err != nil {
			return err
		}
	}
	if err := between(6, func() error { _, err := s.CommitAsync(ctx); return err }); err != nil {
		return err
	}
	return between(7, func() error { _, err := s.Commit(ctx); return err })
}

// TestOriginatorKilled: kill -9 of the originator at each step of the workflow, before the request or while it runs, every
// second time with its session log deleted. The client goes on at another node within two seconds and the session is
// committed. The killed node comes back and has what it missed: it may be the next to go on with.
func TestOriginatorKilled(t *testing.T) {
	p := initProcesses(t, 1, 3)
	ctx := within(t, 10*time.Minute)
	for i := range p.nodes {
		p.start(i)
	}
	p.ready(ctx)
	layer2 := p.nodes[1:]
	var took []time.Duration
	good := 0
	for run := range *killsFlag {
		position, deleted, racing := 1+run%7, run%2 == 1, run/2%2 == 1
		var urls []string
		for i := range layer2 {
			urls = append(urls, layer2[(run+i)%3].url())
		}
		c := operatorAt(t, p.dir, urls...)
		s, err := c.Open(ctx)
		if err != nil {
			t.Fatalf("run %d: open: %v", run, err)
		}
		victim := -1
		var death sync.WaitGroup
		kill := func() {
			victim = slices.IndexFunc(p.nodes, func(n *process) bool { return n.url() == c.URL() })
			death.Go(func() {
				p.nodes[victim].kill()
				if deleted {
					if err := os.RemoveAll(filepath.Join(p.nodes[victim].cfg.Home, "layer2")); err != nil {
						t.Error(err)
					}
				}
			})
			if !racing {
				death.Wait()
			}
		}
		var slowest time.Duration
		err = workflow(ctx, s, func(at int, call func() error) error {
			if at == position {
				kill()
			}
			begin := time.Now()
			err := call()
			if at == position {
				slowest = time.Since(begin)
			}
			if err != nil {
				return fmt.Errorf("position %d: %w", at, err)
			}
			return nil
		})
		death.Wait()
		if err != nil {
			t.Errorf("run %d: kill -9 at position %d (log deleted: %v, while it runs: %v): %v", run, position, deleted, racing, err)
		} else {
			good++
			// At once: in the long run every node loses its disk, and with it the bodies that receipts are made of.
			if _, _, err := s.Receipt(ctx, nil); err != nil {
				t.Errorf("run %d: receipt: %v", run, err)
			}
			took = append(took, slowest)
			if slowest > continued {
				t.Errorf("run %d: kill -9 at position %d (log deleted: %v, while it runs: %v): went on after %s", run, position, deleted, racing, slowest)
			}
		}
		p.start(victim)
		p.ready(ctx)
	}
	slices.Sort(took)
	if len(took) > 0 {
		t.Logf("%d of %d sessions committed; the step at the kill took %s in the median, %s at most", good, *killsFlag, took[len(took)/2], took[len(took)-1])
	}
	t.Run("one key", func(t *testing.T) { oneKey(t, ctx, p) })
}

// oneKey: two clients with one key and 50 parallel sessions, at different nodes: no ordering error.
func oneKey(t *testing.T, ctx context.Context, p *processes) {
	var mu sync.Mutex
	var sessions []string
	var all sync.WaitGroup
	for i := range 2 {
		c := operatorAt(t, p.dir, p.nodes[1+i].url())
		for range 25 {
			all.Go(func() {
				s, err := c.Open(ctx)
				if err == nil {
					err = workflow(ctx, s, func(_ int, call func() error) error { return call() })
				}
				var problem *client.Problem
				if errors.As(err, &problem) {
					t.Errorf("%s: %v", problem.Code, err)
				} else if err != nil {
					t.Error(err)
				}
				if err == nil {
					if _, _, err := s.Receipt(ctx, nil); err != nil {
						t.Error(err)
					}
					mu.Lock()
					sessions = append(sessions, s.ID())
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	if len(sessions) != 50 {
		t.Errorf("%d of 50 sessions were committed", len(sessions))
	}
}

// field takes a text member out of a JSON body.
func field(body []byte, name string, into *string) error {
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		return err
	}
	text, ok := m[name].(string)
	if !ok || text == "" {
		return fmt.Errorf("no %s in %s", name, body)
	}
	*into = text
	return nil
}
