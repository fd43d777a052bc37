package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"tandem"
	"tandem/client"
	"tandem/examples/supplychain"
)

// The names of the standard contenders.
const (
	InSession        = "session"           // Tandem, two layers
	OneLayer         = "one-layer"         // Tandem, each step committed on Layer 1
	OnPostgres       = "postgresql"        // the same handlers as an ordinary service
	OnEngine         = "cometbft"          // a session commit's bytes through a trivial application, changing its hash
	OnEngineConstant = "cometbft-constant" // the same with a constant application hash
	AtTheFloor       = "floor"             // HTTP, one signature, one fsync
)

// ContestOptions describe the standard comparison.
type ContestOptions struct {
	// Network is the one Tandem runs on; its Dir is also where the others keep their data, so that all use one disk.
	Network NetworkOptions
	// Postgres is the directory with PostgreSQL's programs. Empty: found by FindPostgres.
	Postgres string
	// Leave names contenders that are not wanted.
	Leave []string
}

// Contest is a set of contenders that are up, with what they run on.
type Contest struct {
	Contenders []Contender
	// Skipped says why a contender is not among them: its name, and words with the remedy.
	Skipped map[string]string
	// CommitSize is the size in bytes of the Layer 1 transaction of a session of this workflow.
	CommitSize int
	// PostgresVersion is the server's major version; empty if there is none.
	PostgresVersion string

	close []func() error
}

// Close stops everything, in the opposite order of its start.
func (t *Contest) Close() error {
	var errs []error
	for i := len(t.close) - 1; i >= 0; i-- {
		errs = append(errs, t.close[i]())
	}
	t.close = nil
	return errors.Join(errs...)
}

// StartContest starts all that is to be compared: Tandem's network, a PostgreSQL server with the same handlers behind
// net/http, the bare engine, and the floor's server. What this machine lacks is skipped and said.
func StartContest(ctx context.Context, o ContestOptions) (t *Contest, err error) {
	t = &Contest{Skipped: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
			t = nil
		}
	}()
	wanted := func(name string) bool {
		for _, leave := range o.Leave {
			if leave == name {
				return false
			}
		}
		return true
	}
	network, err := Launch(ctx, o.Network)
	if err != nil {
		return t, err
	}
	t.close = append(t.close, network.Close)
	c, err := network.Client(nil)
	if err != nil {
		return t, err
	}
	if t.CommitSize, err = commitSize(ctx, c); err != nil {
		return t, err
	}
	t.add(wanted, TandemInSession(c))
	t.add(wanted, TandemOneLayer(c))
	if wanted(OnPostgres) {
		if err := t.startPostgres(ctx, o); errors.Is(err, ErrNoPostgres) {
			t.Skipped[OnPostgres] = err.Error()
		} else if err != nil {
			return t, err
		}
	}
	if wanted(OnEngine) || wanted(OnEngineConstant) {
		engine, err := LaunchBareEngine(ctx, o.Network.Validators, o.Network.Layer2, o.Network.Dir)
		if err != nil {
			return t, err
		}
		t.close = append(t.close, engine.Close)
		t.add(wanted, engine.Contender(OnEngine, t.CommitSize, true))
		t.add(wanted, engine.Contender(OnEngineConstant, t.CommitSize, false))
	}
	if wanted(AtTheFloor) {
		floor, err := StartFloor(supplychain.Service(), supplychain.DemoGenesis(), demoActors()[0], t.CommitSize, o.Network.Dir)
		if err != nil {
			return t, err
		}
		t.close = append(t.close, floor.Close)
		t.add(wanted, Contender{AtTheFloor, "HTTP round trip, one Ed25519 signature made and verified, fsync of the same bytes", floor.Carry})
	}
	return t, nil
}

func (t *Contest) add(wanted func(string) bool, c Contender) {
	if wanted(c.Name) {
		t.Contenders = append(t.Contenders, c)
	}
}

// startPostgres starts the server and the ordinary service on it.
func (t *Contest) startPostgres(ctx context.Context, o ContestOptions) error {
	bin := o.Postgres
	if bin == "" {
		var err error
		if bin, err = FindPostgres(); err != nil {
			return err
		}
	}
	server, err := StartPostgres(ctx, bin, o.Network.Dir)
	if err != nil {
		return err
	}
	t.close, t.PostgresVersion = append(t.close, server.Close), server.Version()
	service, err := StartSQLService(ctx, server.Address(), supplychain.Service(), supplychain.DemoGenesis(), demoActors())
	if err != nil {
		return err
	}
	t.close = append(t.close, service.Close)
	t.Contenders = append(t.Contenders, Contender{OnPostgres,
		"the same handlers behind net/http on PostgreSQL " + server.Version() + ": one serializable transaction a request, no signatures", service.Carry})
	return nil
}

// demoActors are the demo's actors as handlers see them; the first may do the whole workflow.
func demoActors() []tandem.Actor {
	var all []tandem.Actor
	for _, a := range supplychain.DemoActors() {
		all = append(all, tandem.Actor{ID: a.ID, Organisation: a.Organisation, Roles: a.Roles})
	}
	return all
}

// commitSize carries one package through and asks for the size of the transaction it became.
func commitSize(ctx context.Context, c *client.Client) (int, error) {
	session, err := Carry(ctx, c, NewReference(), nil)
	if err != nil {
		return 0, fmt.Errorf("bench: the first workflow: %w", err)
	}
	text, err := c.Transaction(ctx, session.Outcome().TransactionHash)
	if err != nil {
		return 0, fmt.Errorf("bench: the first workflow's transaction: %w", err)
	}
	var about struct {
		Bytes []byte `json:"bytes"`
	}
	if err := json.Unmarshal(text, &about); err != nil || len(about.Bytes) == 0 {
		return 0, fmt.Errorf("bench: the first workflow's transaction: no bytes in %.200s (%v)", text, err)
	}
	return len(about.Bytes), nil
}

// TandemInSession is Tandem as it is meant to be used: the steps in a session on Layer 2, then one commit.
func TandemInSession(c *client.Client) Contender {
	return Contender{InSession, "Tandem: the steps in a session, each signed, endorsed and on disk, then one commit on Layer 1",
		func(ctx context.Context, note func(Sample)) error {
			_, err := Carry(ctx, c, NewReference(), note)
			return err
		}}
}

// TandemOneLayer commits each step on Layer 1 before the next, on the same network with the same client.
func TandemOneLayer(c *client.Client) Contender {
	return Contender{OneLayer, "Tandem in one-layer mode, as DeWS works: each step is a session of its own, committed on Layer 1 before the next",
		func(ctx context.Context, note func(Sample)) error { return CarryOneLayer(ctx, c, NewReference(), note) }}
}

// Contender is the engine's part of a comparison: one operation, "commit", of a transaction of size bytes.
func (e *BareEngine) Contender(name string, size int, change bool) Contender {
	hash := "a constant application hash"
	if change {
		hash = "an application hash that changes, as Tandem's does"
	}
	return Contender{name, fmt.Sprintf("bare CometBFT: %d bytes through a trivial application, same nodes and configuration, %s", size, hash),
		func(ctx context.Context, note func(Sample)) error {
			watch := stopwatch{time.Now(), note}
			return watch.time("commit", L1, func(a *Sample) (err error) {
				a.Height, err = e.Commit(ctx, size, change)
				return err
			})
		}}
}

// Carry carries a new package through the workflow as an ordinary client does. There is nothing to open and to commit: each
// request is a transaction of its own.
func (s *SQLService) Carry(ctx context.Context, note func(Sample)) error {
	watch := stopwatch{time.Now(), note}
	return task(NewReference(), func(name, target string, body []byte) (answer []byte, err error) {
		err = watch.time(name, "", func(*Sample) error {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+target, bytes.NewReader(body))
			if err != nil {
				return err
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set(actorHeader, demoActors()[0].ID)
			answer, err = post(s.client, r)
			return err
		})
		return answer, err
	})
}
