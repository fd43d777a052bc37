package testnet_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"tandem/client"
	"tandem/examples/supplychain"
	"tandem/internal/testnet"
)

// operator returns the key of the demo actor OPR-001.
func operator(t testing.TB) client.Key {
	t.Helper()
	for _, a := range supplychain.DemoActors() {
		if a.ID == "OPR-001" {
			k, err := client.KeyFromSeed(ed25519.PrivateKey(a.Key).Seed())
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
	}
	t.Fatal("no such actor")
	return client.Key{}
}

// user makes a client that knows one node by configuration; the others it has to learn.
func user(t testing.TB, dir string, urls ...string) *client.Client {
	t.Helper()
	genesis, err := os.ReadFile(testnet.GenesisFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	c, err := client.New(client.Config{URLs: urls, Key: operator(t), Genesis: genesis, HTTP: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return c
}

// workflowSteps is the number of steps of carry.
const workflowSteps = 5

// carry carries a package through the workflow in one session. Before the nth step (from 0), and before the commit (n =
// workflowSteps), it calls before(n). It returns the session, committed.
func carry(ctx context.Context, c *client.Client, before func(n int), seen func(n int, a *client.Answer)) (*client.Session, error) {
	s, err := c.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	body, err := supplychain.DemoPackage(reference())
	if err != nil {
		return nil, err
	}
	n := 0
	step := func(target string, body []byte) (*client.Answer, error) {
		before(n)
		a, err := s.Call(ctx, "POST", target, "", body)
		if err == nil && !a.Recorded {
			err = fmt.Errorf("answered %d: %s", a.Status, a.Body)
		}
		if err != nil {
			return nil, fmt.Errorf("step %d, %s: %w", n+1, target, err)
		}
		seen(n, a)
		n++
		return a, nil
	}
	created, err := step("/packages", body)
	if err != nil {
		return s, err
	}
	var pkg struct {
		ID string `json:"package_id"`
	}
	if err := json.Unmarshal(created.Body, &pkg); err != nil {
		return s, err
	}
	path := "/packages/" + pkg.ID
	scan, err := step(path+"/scan", nil)
	if err != nil {
		return s, err
	}
	var scanned struct {
		Signature string `json:"supplier_signature"`
	}
	if err := json.Unmarshal(scan.Body, &scanned); err != nil {
		return s, err
	}
	signature, err := json.Marshal(map[string]string{"signature": scanned.Signature})
	if err != nil {
		return s, err
	}
	for _, next := range []struct {
		name string
		body []byte
	}{
		{"validate", signature},
		{"quality-check", []byte(`{"passed":true,"issues":[]}`)},
		{"label", []byte(`{"destination":"Lisbon","priority":"standard","courier_id":"COU-001"}`)},
	} {
		if _, err := step(path+"/"+next.name, next.body); err != nil {
			return s, err
		}
	}
	before(n)
	o, err := s.Commit(ctx)
	if err == nil && !o.Committed() {
		err = fmt.Errorf("it is %s", o.Status)
	}
	if err != nil {
		return s, fmt.Errorf("commit: %w", err)
	}
	return s, nil
}

// wipe deletes all that a stopped node has written: its disk is lost, its keys are kept elsewhere.
func wipe(t testing.TB, home string) {
	t.Helper()
	for _, dir := range []string{"data", "state", "index", "layer2", "events"} {
		if err := os.RemoveAll(filepath.Join(home, dir)); err != nil {
			t.Fatal(err)
		}
	}
}

// silent is a carry's hook that does nothing.
func silent(int, *client.Answer) {}

// TestOriginatorStops: at each position of the workflow the node that serves the session goes, every second time with its
// disk; the client goes on at another node, every step it has seen is in the block, and the receipt proves it.
func TestOriginatorStops(t *testing.T) {
	w := start(t, demo(1, 3))
	ctx := within(t, 4*time.Minute)
	nodes := w.Layer2()
	for position := range workflowSteps + 1 {
		victim := nodes[position%len(nodes)]
		c := user(t, w.Dir(), w.URL(victim))
		var began time.Time
		endorsed := 0
		s, err := carry(ctx, c, func(n int) {
			if n != position {
				return
			}
			if err := w.Stop(victim); err != nil {
				t.Fatal(err)
			}
			if position%2 == 1 {
				wipe(t, w.Config(victim).Home)
			}
			began = time.Now()
		}, func(n int, a *client.Answer) {
			if n == position {
				t.Logf("position %d: went on after %v at %s", position, time.Since(began).Round(time.Millisecond), a.Originator)
			}
			if len(a.Endorsers) != a.Endorsed {
				t.Errorf("step %d: %d endorsements, %d endorsers", n+1, a.Endorsed, len(a.Endorsers))
			}
			endorsed = max(endorsed, a.Endorsed)
		})
		if err != nil {
			t.Fatalf("position %d: %v", position, err)
		}
		if endorsed < 2 {
			t.Errorf("position %d: no step was endorsed by two nodes", position)
		}
		if _, proof, err := s.Receipt(ctx, nil); err != nil || len(proof.Steps) != workflowSteps {
			t.Errorf("position %d: receipt: %v", position, err)
		}
		if err := w.Start(victim); err != nil {
			t.Fatal(err)
		}
		if err := w.Ready(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTranscriptOutlivesItsNodes: the only node that has the session loses its disk while the others were away; the client has the
// transcript and uploads it.
func TestTranscriptOutlivesItsNodes(t *testing.T) {
	w := start(t, demo(1, 2))
	ctx := within(t, 2*time.Minute)
	nodes := w.Layer2()
	c := user(t, w.Dir(), w.URLs()...)
	s, err := carry(ctx, c, func(n int) {
		switch n {
		case 0: // from here on only the first node works
			if err := w.Stop(nodes[1]); err != nil {
				t.Fatal(err)
			}
			wipe(t, w.Config(nodes[1]).Home)
		case 3: // and from here on only the second, which has never heard of the session
			if err := w.Stop(nodes[0]); err != nil {
				t.Fatal(err)
			}
			wipe(t, w.Config(nodes[0]).Home)
			if err := w.Start(nodes[1]); err != nil {
				t.Fatal(err)
			}
			if err := w.Ready(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}, silent)
	if err != nil {
		t.Fatal(err)
	}
	if _, proof, err := s.Receipt(ctx, nil); err != nil || len(proof.Steps) != workflowSteps {
		t.Errorf("receipt: %v", err)
	}
}

// TestFiftyParallelSessions: two clients with one key, 50 sessions at once over three nodes: no ordering error.
func TestFiftyParallelSessions(t *testing.T) {
	w := start(t, demo(1, 3))
	ctx := within(t, 3*time.Minute)
	urls := w.URLs()
	clients := []*client.Client{user(t, w.Dir(), urls[0], urls[1], urls[2]), user(t, w.Dir(), urls[1], urls[2], urls[0])}
	var mu sync.Mutex
	committed := map[string]bool{}
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			s, err := carry(ctx, clients[i%2], func(int) {}, silent)
			if err != nil {
				var p *client.Problem
				errors.As(err, &p)
				t.Errorf("session %d: %v (%+v)", i, err, p)
				return
			}
			mu.Lock()
			committed[s.ID()] = true
			mu.Unlock()
		})
	}
	all.Wait()
	if len(committed) != 50 {
		t.Errorf("%d of 50 sessions were committed", len(committed))
	}
}

// TestProvedLayer2List: the list of nodes to believe is read from the ledger in a session whose receipt proves it.
func TestProvedLayer2List(t *testing.T) {
	w := start(t, demo(1, 2))
	ctx := within(t, time.Minute)
	c := user(t, w.Dir(), w.URLs()[0])
	list, err := c.Layer2(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || len(c.URLs()) != 2 {
		t.Errorf("%d nodes on the list, %d URLs known", len(list), len(c.URLs()))
	}
	if _, err := carry(ctx, c, func(int) {}, silent); err != nil {
		t.Error(err)
	}
}

// TestKillNineOfTheOriginator: real processes. The node that serves a session is killed with SIGKILL in each step of the
// workflow, half of the times with its disk deleted, and the session is committed all the same.
func TestKillNineOfTheOriginator(t *testing.T) {
	p := initProcesses(t, 1, 3)
	ctx := within(t, 4*time.Minute)
	for i := range p.nodes {
		p.start(i)
	}
	p.ready(ctx)
	for position := range workflowSteps + 1 {
		victim := 1 + position%3
		n := p.nodes[victim]
		c := user(t, p.dir, n.url())
		var began time.Time
		s, err := carry(ctx, c, func(at int) {
			if at != position {
				return
			}
			n.kill()
			if position%2 == 0 {
				wipe(t, n.cfg.Home)
			}
			began = time.Now()
		}, func(at int, a *client.Answer) {
			if at == position {
				t.Logf("position %d: went on after %v", position, time.Since(began).Round(time.Millisecond))
			}
		})
		if err != nil {
			t.Fatalf("position %d: %v", position, err)
		}
		if _, proof, err := s.Receipt(ctx, nil); err != nil || len(proof.Steps) != workflowSteps {
			t.Errorf("position %d: receipt: %v", position, err)
		}
		p.start(victim)
		p.ready(ctx)
	}
}
