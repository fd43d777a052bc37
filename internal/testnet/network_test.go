package testnet_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"tandem/examples/supplychain"
	"tandem/internal/testnet"
)

// within is a context that bounds one step of a test.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// logWriter sends the nodes' logs to the test's.
type logWriter struct{ t testing.TB }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// demo describes a network of the supply-chain service with custody.
func demo(validators, layer2 int) testnet.StartOptions {
	o := testnet.StartOptions{Options: testnet.Options{
		Validators: validators, Layer2: layer2, Service: supplychain.Service(), Seed: supplychain.DemoGenesis(),
		Custody: true, DefaultActor: "OPR-001",
	}}
	for _, a := range supplychain.DemoActors() {
		o.Actors = append(o.Actors, testnet.Actor{ID: a.ID, Organisation: a.Organisation, Roles: a.Roles, Key: a.Key})
	}
	return o
}

// start starts a network and verifies, at the test's end, that it stops in an orderly way.
func start(t testing.TB, o testnet.StartOptions) *testnet.Network {
	t.Helper()
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	o.Dir = t.TempDir()
	w, err := testnet.Start(within(t, time.Minute), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestValidatorsAlone(t *testing.T) {
	t0 := time.Now()
	w := start(t, demo(4, 0))
	t.Log(time.Since(t0), w.Height())
	if _, err := w.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
}
