// Package testnet makes whole networks: homes on disk for real processes (Init), and validators and Layer 2 nodes in one
// process over loopback (Start), which tests, the benchmark and `tandem dev` use. Members can be stopped and started
// again on their data, and can be made to lie (Behaviour) by wrapping them from outside; the nodes themselves know nothing
// of it. Check verifies the world: same blocks, same state roots, receipts that prove.
package testnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tandem"
	"tandem/node"
)

// Network is a network whose nodes run in this process. Methods are safe for concurrent use; stopping and starting the
// same node from two goroutines is not.
type Network struct {
	dir     string
	remove  bool // dir is ours
	service tandem.Service
	logger  *slog.Logger
	members []*member
}

// member is one node and what is needed to run it again.
type member struct {
	cfg       node.Config
	behaviour Behaviour

	mu     sync.Mutex
	node   *node.Node         // guarded by mu; nil while stopped
	cancel context.CancelFunc // guarded by mu
	done   chan error         // guarded by mu; receives Run's result
}

// StartOptions describe a network to be run in this process.
type StartOptions struct {
	Options
	// Dir holds the homes. Empty: a temporary directory, removed by Close. A directory that holds a network is resumed: then
	// Options describe nothing any more except Service and HTTP, and all ports are chosen anew.
	Dir string
	// Expect refuses to resume a network whose numbers of nodes are others than in Options.
	Expect bool
	// Logger gets the nodes' logs. Default: discarded.
	Logger *slog.Logger
	// Behaviours make members lie, by node number.
	Behaviours map[int]Behaviour
}

// Start makes or resumes a network, starts all its nodes and waits until each is ready or ctx ends. Free ports are found
// before they are taken; if another program is faster with one of them, Start tries again with others.
func Start(ctx context.Context, o StartOptions) (*Network, error) {
	for try := 1; ; try++ {
		w, err := start(ctx, o)
		if err == nil || try == 3 || !portTaken(err, o.HTTP) {
			return w, err
		}
	}
}

// portTaken reports whether an error is about a port that this package has chosen, not about the one it was told to take.
func portTaken(err error, told string) bool {
	text := err.Error()
	return strings.Contains(text, "address already in use") && (told == "" || !strings.Contains(text, told))
}

func start(ctx context.Context, o StartOptions) (*Network, error) {
	w := &Network{dir: o.Dir, service: o.Service, logger: o.Logger}
	if w.logger == nil {
		w.logger = slog.New(slog.DiscardHandler)
	}
	if w.dir == "" {
		var err error
		if w.dir, err = os.MkdirTemp("", "tandem-"); err != nil {
			return nil, fmt.Errorf("testnet: %w", err)
		}
		w.remove = true
	}
	configs, err := w.homes(o)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	for i, cfg := range configs {
		w.members = append(w.members, &member{cfg: cfg, behaviour: o.Behaviours[i]})
	}
	for i := range w.members {
		if err := w.launch(i); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	if err := w.Ready(ctx); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// homes makes the network's homes or, if there are any, gives them new ports.
func (w *Network) homes(o StartOptions) ([]node.Config, error) {
	if _, err := os.Stat(GenesisFile(w.dir)); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(w.dir, 0o700); err != nil {
			return nil, fmt.Errorf("testnet: %w", err)
		}
		return Init(w.dir, o.Options)
	}
	configs, err := LoadAll(w.dir)
	if err != nil {
		return nil, err
	}
	var validators, layer2 int
	for _, cfg := range configs {
		if cfg.Has(node.RoleValidator) {
			validators++
		}
		if cfg.Has(node.RoleLayer2) {
			layer2++
		}
	}
	if o.Expect && (validators != o.Validators || layer2 != o.Layer2) {
		return nil, fmt.Errorf("testnet: %s holds a network of %d validators and %d layer 2 nodes, not of %d and %d; its numbers are in its genesis file",
			w.dir, validators, layer2, o.Validators, o.Layer2)
	}
	return Move(configs, o.HTTP)
}

// LoadAll reads the configurations of the network in dir, in order.
func LoadAll(dir string) ([]node.Config, error) {
	var configs []node.Config
	for i := 0; ; i++ {
		if _, err := os.Stat(filepath.Join(Home(dir, i), node.ConfigFile)); errors.Is(err, os.ErrNotExist) && i > 0 {
			return configs, nil
		}
		cfg, err := node.Load(Home(dir, i))
		if err != nil {
			return nil, fmt.Errorf("testnet: %w", err)
		}
		configs = append(configs, cfg)
	}
}

// Move gives all nodes of a stopped network new free ports on 127.0.0.1 and tells each where its peers are now. The first
// Layer 2 node gets http, if that is not empty. Nothing is saved: the homes keep the ports they were made with, so a second
// start on homes in use changes nothing for the first, and a crash in the middle leaves nothing half-written.
func Move(configs []node.Config, http string) ([]node.Config, error) {
	free, err := freeAddresses("127.0.0.1", 2*len(configs))
	if err != nil {
		return nil, err
	}
	moved := make(map[string]string)
	for i := range configs {
		moved[configs[i].P2P.Listen] = free[2*i]
		configs[i].P2P.Listen, configs[i].HTTP.Listen = free[2*i], free[2*i+1]
		if configs[i].Has(node.RoleLayer2) && http != "" {
			configs[i].HTTP.Listen, http = http, ""
		}
	}
	for i := range configs {
		for j, peer := range configs[i].P2P.Peers {
			id, old := peer[:40], peer[41:] // Check has seen to the form
			to, ok := moved[old]
			if !ok {
				return nil, fmt.Errorf("testnet: %s names a peer at %s that is no member", configs[i].Name, old)
			}
			configs[i].P2P.Peers[j] = id + "@" + to
		}
	}
	return configs, nil
}

// launch starts node i without waiting for it.
func (w *Network) launch(i int) error {
	m := w.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.node != nil {
		return fmt.Errorf("testnet: node %d runs already", i)
	}
	opts := append([]node.Option{node.WithLogger(w.logger)}, m.behaviour.options()...)
	n, err := node.New(m.cfg, w.service, opts...)
	if err != nil {
		return fmt.Errorf("testnet: node %d: %w", i, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	m.node, m.cancel, m.done = n, cancel, done
	return nil
}

// Ready waits until every running node can be given work.
func (w *Network) Ready(ctx context.Context) error {
	for i, m := range w.members {
		if n := m.running(); n != nil {
			if err := m.ready(ctx, n); err != nil {
				return fmt.Errorf("testnet: node %d: %w", i, err)
			}
		}
	}
	return nil
}

// ready waits for one node, or for the end of its Run.
func (m *member) ready(ctx context.Context, n *node.Node) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.mu.Lock()
	done := m.done
	m.mu.Unlock()
	go func() {
		select {
		case err := <-done:
			done <- err // for Stop
			cancel(err)
		case <-ctx.Done():
		}
	}()
	if err := n.Ready(ctx); err != nil {
		switch cause := context.Cause(ctx); {
		case cause == nil:
		case errors.Is(err, context.Canceled) && !errors.Is(cause, context.Canceled):
			return cause // the node has ended; that the wait for it ended with it tells nobody anything
		default:
			return errors.Join(cause, err)
		}
		return err
	}
	return nil
}

func (m *member) running() *node.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node
}

// Start starts node i again, on its data and with the behaviour it has now. It does not wait: see Ready.
func (w *Network) Start(i int) error { return w.launch(i) }

// Stop stops node i in an orderly way and returns what its Run returned: nil, or a *node.HaltError when it had halted.
func (w *Network) Stop(i int) error {
	m := w.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.node == nil {
		return fmt.Errorf("testnet: node %d does not run", i)
	}
	m.cancel()
	err := <-m.done
	m.node, m.cancel, m.done = nil, nil, nil
	return err
}

// Behave changes how node i behaves from its next start on.
func (w *Network) Behave(i int, b Behaviour) { w.members[i].behaviour = b }

// Halted waits until a node halts or ctx ends, and says which and why. It returns -1 at ctx's end.
func (w *Network) Halted(ctx context.Context) (int, error) {
	type end struct {
		i   int
		err error
	}
	ends := make(chan end, len(w.members))
	for i, m := range w.members {
		m.mu.Lock()
		done := m.done
		m.mu.Unlock()
		if done == nil {
			continue
		}
		go func() {
			select {
			case err := <-done:
				done <- err // for Stop
				if err != nil {
					ends <- end{i, err}
				}
			case <-ctx.Done():
			}
		}()
	}
	select {
	case e := <-ends:
		return e.i, e.err
	case <-ctx.Done():
		return -1, nil
	}
}

// Close stops all nodes, all at once, and removes the directory if it is a temporary one. A node that had halted is an error.
func (w *Network) Close() error {
	errs := make([]error, len(w.members)+1)
	var all sync.WaitGroup
	for i, m := range w.members {
		if m.running() == nil {
			continue
		}
		all.Go(func() {
			if err := w.Stop(i); err != nil {
				errs[i] = fmt.Errorf("node %d: %w", i, err)
			}
		})
	}
	all.Wait()
	if w.remove {
		errs[len(w.members)] = os.RemoveAll(w.dir)
	}
	return errors.Join(errs...)
}

// Dir is the directory with the homes.
func (w *Network) Dir() string { return w.dir }

// Size is the number of nodes, stopped ones included.
func (w *Network) Size() int { return len(w.members) }

// Node returns node i; nil while it is stopped.
func (w *Network) Node(i int) *node.Node { return w.members[i].running() }

// Config returns the configuration of node i.
func (w *Network) Config(i int) node.Config { return w.members[i].cfg }

// URL is where node i serves HTTP, also while it is stopped.
func (w *Network) URL(i int) string {
	if n := w.members[i].running(); n != nil {
		return n.URL()
	}
	return "http://" + w.members[i].cfg.HTTP.Listen
}

// Layer2 returns the numbers of the Layer 2 nodes.
func (w *Network) Layer2() []int {
	var numbers []int
	for i, m := range w.members {
		if m.cfg.Has(node.RoleLayer2) {
			numbers = append(numbers, i)
		}
	}
	return numbers
}

// URLs are where the Layer 2 nodes serve HTTP.
func (w *Network) URLs() []string {
	var urls []string
	for _, i := range w.Layer2() {
		urls = append(urls, w.URL(i))
	}
	return urls
}

// Height is the greatest height that a running node has committed.
func (w *Network) Height() int64 {
	var height int64
	for _, m := range w.members {
		if n := m.running(); n != nil {
			height = max(height, n.Height())
		}
	}
	return height
}

// settleTime bounds how long a Check waits for nodes that are behind.
const settleTime = 20 * time.Second
