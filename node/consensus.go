package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	abcicli "github.com/cometbft/cometbft/abci/client"
	abcitypes "github.com/cometbft/cometbft/abci/types"
	cometconfig "github.com/cometbft/cometbft/config"
	cometnode "github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/proxy"
	comettypes "github.com/cometbft/cometbft/types"
)

// consensus is the engine of Layer 1 in this process: a CometBFT node, its databases, and the dialling of its peers.
type consensus struct {
	node      *cometnode.Node
	databases *databases
	logger    *slog.Logger
	push      *pusher
	quiet     func() // ends the pushing and waits for its end; nil before start
}

// newConsensus builds the engine and lets it hand the application every stored block that the application has not
// committed (the handshake). Nothing runs yet and no peer is heard before start.
//
// CometBFT's handshake fails or panics when the blocks and the application's state contradict each other. That is this
// node's own state in doubt, a [HaltError]. At a very first start (resuming is false) a failure is one of configuration.
func newConsensus(ctx context.Context, cfg Config, doc *comettypes.GenesisDoc, app abcitypes.Application, validator comettypes.PrivValidator,
	resuming bool, log engineLog) (c *consensus, err error) {
	key, err := cfg.loadNodeKey()
	if err != nil {
		return nil, err
	}
	ec := cfg.engineConfig(doc)
	if err := ec.ValidateBasic(); err != nil {
		return nil, fmt.Errorf("consensus configuration: %w", err)
	}
	dbs := new(databases)
	defer func() {
		if r := recover(); r != nil {
			err = &HaltError{Cause: fmt.Errorf("the stored blocks and the state contradict each other: %v", r)}
		}
		if err != nil {
			dbs.close()
		}
	}()
	push := newPusher(validator)
	n, err := cometnode.NewNodeWithContext(ctx, ec, push, key, clients{proposer{app, push}}, func() (*comettypes.GenesisDoc, error) { return doc, nil },
		dbs.provide, cometnode.DefaultMetricsProvider(&cometconfig.InstrumentationConfig{}), log,
		cometnode.CustomReactors(map[string]p2p.Reactor{"QUIETER": newQuieter(len(doc.Validators), ec.Consensus.PeerGossipSleepDuration/4)}))
	if err != nil && resuming && strings.HasPrefix(err.Error(), "error during handshake") {
		// CometBFT flattens its errors. Blocks are there, or state, or both, and they do not fit together.
		return nil, &HaltError{Cause: err}
	}
	if err != nil {
		return nil, fmt.Errorf("consensus: %w", err)
	}
	if err := push.attach(n); err != nil {
		return nil, fmt.Errorf("consensus: %w", err)
	}
	return &consensus{node: n, databases: dbs, logger: log.to, push: push}, nil
}

// clients hands the application to the engine's four connections. CometBFT's own local client puts one mutex over all
// four, so that a CheckTx waits for a block being executed; layer1.App is safe for concurrent use and needs none.
type clients struct{ app abcitypes.Application }

func (c clients) NewABCIClient() (abcicli.Client, error) {
	return proxy.NewConnSyncLocalClientCreator(c.app).NewABCIClient()
}

// start begins to listen, to dial and to vote. It returns when the engine runs.
func (c *consensus) start() error {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.push.run(ctx)
	}()
	c.quiet = func() { cancel(); <-ended }
	if err := c.node.Start(); err != nil {
		return fmt.Errorf("consensus: %w", err)
	}
	return nil
}

// redial is how often keepPeers looks for peers that are missing.
const redial = 200 * time.Millisecond

// keepPeers dials the named peers until ctx ends. CometBFT's own dialling sleeps up to 3 s before the first try, 5 to 8 s
// between two, and gives up after a day; a validator that comes back would cost its network that long.
//
// Of two nodes that both run this, the one with the smaller id dials at once and the other only when the peer has been
// missing for a while: two that dial each other at the same moment refuse each other as duplicates.
func (c *consensus) keepPeers(ctx context.Context, peers []string) {
	addresses, errs := p2p.NewNetAddressStrings(peers)
	for _, err := range errs {
		c.logger.Warn("a peer's address is of no use", "err", err) // CometBFT refuses to start on malformed ones; this is DNS
	}
	self := c.node.NodeInfo().ID()
	missing := make(map[p2p.ID]int)
	ticker := time.NewTicker(redial)
	defer ticker.Stop()
	for {
		for _, address := range addresses {
			sw := c.node.Switch()
			if address.ID == self || sw.IsDialingOrExistingAddress(address) {
				missing[address.ID] = 0
				continue
			}
			missing[address.ID]++
			n := missing[address.ID]
			// The first ten seconds every time, later every two seconds.
			if (self < address.ID || n > 5) && (n < 50 || n%10 == 0) {
				go func() {
					if err := sw.DialPeerWithAddress(address); err != nil {
						c.logger.Debug("dialling a peer failed", "peer", address, "err", err)
					}
				}()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// stop ends the engine in at most the given time, then closes its databases. An engine whose consensus goroutine has
// failed or hangs is given up: everything that matters is on disk before it is voted for.
func (c *consensus) stop(within time.Duration) error {
	done := make(chan error, 1)
	go func() {
		var err error
		if c.node.IsRunning() {
			err = c.node.Stop()
		}
		if proxyErr := c.node.ProxyApp().Stop(); err == nil {
			err = proxyErr
		}
		if c.quiet != nil { // last: it may wait for the round state
			c.quiet()
		}
		_ = c.node.EventBus().Stop() // already stopped by the node unless it never started
		done <- err
	}()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case err := <-done:
		c.databases.close()
		return err
	case <-timer.C:
		return errors.New("the consensus engine did not stop in time")
	}
}
