package testnet_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"tandem/client"
	"tandem/examples/supplychain"
	"tandem/internal/refusal"
	"tandem/internal/testnet"
)

// committedCall makes one call in a session of its own, at one node, and commits it; the answer must have this status.
func committedCall(t *testing.T, c *client.Client, method, target, body string, status int) {
	t.Helper()
	s, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Call(t.Context(), method, target, "", []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != status {
		t.Fatalf("%s %s: %d %s, want %d", method, target, a.Status, a.Body, status)
	}
	if !a.Recorded {
		return
	}
	if _, err := s.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Layer 2 list, with processes: an administrator takes a node off it while sessions are open, and puts it on again. Nobody
// else may. A removed node opens nothing; the others go on without it at once, and with it when it is back.
func TestLayer2ListOfProcesses(t *testing.T) {
	p := initProcesses(t, 1, 3)
	ctx := within(t, 5*time.Minute)
	for i := range p.nodes {
		p.start(i)
	}
	p.ready(ctx)
	genesis, err := os.ReadFile(testnet.GenesisFile(p.dir))
	if err != nil {
		t.Fatal(err)
	}
	adminKey, err := client.KeyFromSeed(supplychain.DemoKey("ADM-001").Seed())
	if err != nil {
		t.Fatal(err)
	}
	staying, leaving := p.nodes[1], p.nodes[3]
	admin, err := client.New(client.Config{URLs: []string{staying.url()}, Key: adminKey, Genesis: genesis})
	if err != nil {
		t.Fatal(err)
	}
	operator := operatorAt(t, p.dir, staying.url())
	status, err := operator.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var entry client.Layer2Node
	for _, n := range status.Layer2 {
		if n.URL == leaving.url() {
			entry = n
		}
	}
	text, err := json.Marshal(map[string]string{"key": entry.Key, "organisation": entry.Organisation, "address": leaving.cfg.Layer2.PeerListen, "url": entry.URL})
	if err != nil {
		t.Fatal(err)
	}
	// of makes steps until the answer says that there are so many nodes, with as many endorsements.
	of := func(s *client.Session, nodes int) {
		t.Helper()
		for {
			a, err := s.Call(ctx, "GET", "/couriers", "", nil)
			if err != nil {
				t.Fatalf("waiting for %d nodes: %v", nodes, err)
			}
			if a.Of == nodes && a.Endorsed >= min(nodes, 2) {
				return
			}
		}
	}
	before, err := operator.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	of(before, 3)
	committedCall(t, operator, "DELETE", "/tandem/v1/layer2/"+entry.Key, "", 403)
	committedCall(t, operator, "POST", "/tandem/v1/layer2", string(text), 403)
	committedCall(t, admin, "DELETE", "/tandem/v1/layer2/"+entry.Key, "", 200)
	of(before, 2)
	// It hears of its removal with the block; until then it may open one more.
	var refused *client.Problem
	gone := operatorAt(t, p.dir, leaving.url())
	for refused == nil {
		if _, err := gone.Open(ctx); err != nil && !errors.As(err, &refused) {
			t.Fatal(err)
		}
	}
	if refused.Code != string(refusal.OriginatorUnknown) {
		t.Errorf("a removed node: %v", refused)
	}
	committedCall(t, admin, "POST", "/tandem/v1/layer2", string(text), 201)
	of(before, 3)
	if o, err := before.Commit(ctx); err != nil || !o.Committed() {
		t.Fatal(fmt.Sprint(o, err))
	}
}
