package testnet_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"tandem/client"
	"tandem/examples/supplychain"
	"tandem/internal/testnet"
)

// Issue 3, part 7, end to end: a session in three checkpoints and a final commit, each with a receipt that proves offline which steps
// it holds; afterwards every node has the same state.
func TestCheckpoints(t *testing.T) {
	w := start(t, demo(2, 2))
	ctx := within(t, 2*time.Minute)
	url := w.URLs()[0]
	c := operatorOf(t, w, client.Checkpointing{})
	s, err := c.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	call := func() {
		t.Helper()
		if a, err := s.Call(ctx, http.MethodGet, "/packages", "", nil); err != nil || !a.Recorded {
			t.Fatalf("%+v %v", a, err)
		}
	}
	last := uint64(0)
	for k := uint64(1); k <= 3; k++ {
		call()
		call()
		o, err := s.Checkpoint(ctx)
		if err != nil || o.Status != "checkpoint" || o.Checkpoint != k || o.Committed() {
			t.Fatalf("checkpoint %d: %+v, %v", k, o, err)
		}
		if again, err := s.Checkpoint(ctx); err != nil || again != o {
			t.Errorf("asked again: %+v, %v", again, err)
		}
	}
	call()
	if o, err := s.Commit(ctx); err != nil || !o.Committed() {
		t.Fatalf("%+v, %v", o, err)
	}
	for k := uint64(1); k <= 4; k++ {
		_, proof, err := s.CheckpointReceipt(ctx, k, nil)
		if err != nil || proof.FirstStep != last+1 || proof.Final != (k == 4) {
			t.Fatalf("receipt %d: %+v, %v", k, proof, err)
		}
		last = proof.LastStep
	}
	if _, proof, err := s.Receipt(ctx, nil); err != nil || proof.Checkpoint != 4 || last != 7 {
		t.Errorf("%+v, %v, %d steps", proof, err, last)
	}
	answer, err := http.Get(url + "/tandem/v1/sessions/" + s.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	var about struct {
		Status      string `json:"status"`
		Settled     uint64 `json:"settled_steps"`
		Checkpoints []struct {
			Height int64  `json:"height"`
			Hash   string `json:"transaction_hash"`
			Steps  uint64 `json:"steps"`
		} `json:"checkpoints"`
	}
	if err := json.Unmarshal(body, &about); err != nil || about.Status != "committed" || len(about.Checkpoints) != 3 || about.Settled != 6 || about.Checkpoints[2].Steps != 6 {
		t.Errorf("%s, %v", body, err)
	}
	sessions, err := w.Check(ctx)
	if err != nil || len(sessions) != 1 {
		t.Errorf("%v, %v", sessions, err)
	}
}

// The client library's policy: every so many steps, without asking; and custody by the node's.
func TestClientCheckpointPolicy(t *testing.T) {
	w := start(t, demo(1, 1))
	ctx := within(t, 2*time.Minute)
	c := operatorOf(t, w, client.Checkpointing{Steps: 2})
	s, err := c.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := s.Call(ctx, http.MethodGet, "/packages", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	if o, err := s.Commit(ctx); err != nil || !o.Committed() {
		t.Fatalf("%+v, %v", o, err)
	}
	answer, err := http.Get(w.URLs()[0] + "/tandem/v1/sessions/" + s.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var about struct {
		Settled uint64 `json:"settled_steps"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&about); err != nil || about.Settled < 2 {
		t.Errorf("%+v, %v", about, err)
	}
}

// operatorOf is a client of the first node that signs for a demo actor.
func operatorOf(t *testing.T, w *testnet.Network, policy client.Checkpointing) *client.Client {
	t.Helper()
	key, err := client.KeyFromSeed(supplychain.DemoKey("OPR-001").Seed())
	if err != nil {
		t.Fatal(err)
	}
	genesis, err := os.ReadFile(testnet.GenesisFile(w.Dir()))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{URLs: w.URLs()[:1], Key: key, Genesis: genesis, Checkpoint: policy})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
