package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tandem"
	"tandem/client"
	"tandem/examples/supplychain"
	"tandem/internal/testnet"
	"tandem/node"
)

// NetworkOptions describe a network that Launch makes for a measurement. The data of all nodes is on disk.
type NetworkOptions struct {
	// Validators and Layer2 are the numbers of nodes of each role, at least one of each, at most 256 together.
	Validators, Layer2 int
	// InProcess runs all nodes in this process. Default: each node is a process of its own.
	InProcess bool
	// Dir is where the network's homes are made, in a directory of their own that Close removes. Empty: the system's folder
	// for temporary files ($TMPDIR), which should be on the kind of disk that is to be measured.
	Dir string
	// Binary is the program whose `start --home DIR` runs a node. Empty: this program.
	Binary string
	// Logger gets the nodes' logs if they run in this process. nil: discarded. Processes log warnings into files in their homes.
	Logger *slog.Logger
	// Prepare may change how the network is made: actors, the ledger's parameters, custody. nil: nothing is changed.
	Prepare func(*testnet.Options)
	// Configure has the last word on the configuration of node i, validators first, before it starts. nil: nothing is changed.
	Configure func(i int, cfg *node.Config)
	// Service is what the nodes run; only in one process, since Binary brings its own. Zero: the supply chain.
	Service tandem.Service
}

// Network is a running network. Its methods are safe for concurrent use.
type Network struct {
	dir     string
	genesis []byte
	configs []node.Config
	inside  *testnet.Network // nil for processes
	nodes   []*process       // empty in one process
	close   sync.Once
	closed  error // what the first Close said; guarded by close
}

// launchWait bounds the start of a network; 16 validators on two cores take about ten seconds.
const launchWait = 3 * time.Minute

// Launch makes a network in a new directory, starts it and waits until every node says that it is ready. If ctx ends or a
// node does not come up, everything that was started is ended and removed, and the error has the end of that node's log.
func Launch(ctx context.Context, o NetworkOptions) (*Network, error) {
	if o.Validators < 1 || o.Layer2 < 1 {
		return nil, fmt.Errorf("bench: %d validators and %d layer 2 nodes: at least one of each", o.Validators, o.Layer2)
	}
	if o.Service.Registry == nil {
		o.Service = supplychain.Service()
	} else if !o.InProcess {
		return nil, errors.New("bench: a service of one's own runs only in this process")
	}
	within, cancel := context.WithTimeout(ctx, launchWait)
	defer cancel()
	for try := 1; ; try++ {
		n, err := launch(within, o)
		// Free ports are found before they are taken: another program may be faster.
		if err == nil || try == 3 || within.Err() != nil || !strings.Contains(err.Error(), "address already in use") {
			return n, err
		}
	}
}

// launch tries once.
func launch(ctx context.Context, o NetworkOptions) (n *Network, err error) {
	n = &Network{}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
			n = nil
		}
	}()
	if n.dir, err = os.MkdirTemp(o.Dir, "tandem-bench-"); err != nil {
		return n, fmt.Errorf("bench: %w", err)
	}
	make := DemoNetwork(o.Validators, o.Layer2)
	make.Service = o.Service
	if o.Prepare != nil {
		o.Prepare(&make)
	}
	change := make.Change
	make.Change = func(i int, cfg *node.Config) {
		cfg.Log.Level = "warn"
		if change != nil {
			change(i, cfg)
		}
		if o.Configure != nil {
			o.Configure(i, cfg)
		}
	}
	homes := filepath.Join(n.dir, "network")
	if o.InProcess {
		if n.inside, err = testnet.Start(ctx, testnet.StartOptions{Options: make, Dir: homes, Logger: o.Logger}); err != nil {
			return n, err
		}
		for i := range n.inside.Size() {
			n.configs = append(n.configs, n.inside.Config(i))
		}
	} else {
		if err = os.Mkdir(homes, 0o700); err != nil {
			return n, fmt.Errorf("bench: %w", err)
		}
		if n.configs, err = testnet.Init(homes, make); err != nil {
			return n, err
		}
		if err = n.startProcesses(ctx, o.Binary); err != nil {
			return n, err
		}
	}
	n.genesis, err = os.ReadFile(testnet.GenesisFile(homes))
	return n, err
}

// DemoNetwork describes a network of the supply-chain service with the demo's actors and seed.
func DemoNetwork(validators, layer2 int) testnet.Options {
	o := testnet.Options{
		Validators: validators, Layer2: layer2,
		Service: supplychain.Service(), Seed: supplychain.DemoGenesis(),
	}
	for _, a := range supplychain.DemoActors() {
		o.Actors = append(o.Actors, testnet.Actor{ID: a.ID, Organisation: a.Organisation, Roles: a.Roles, Key: a.Key})
	}
	return o
}

// process is a node that is a process of its own.
type process struct {
	cfg  node.Config
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed at its end
	err  error         // how it ended; written before done is closed
}

// startProcesses starts all nodes and waits until each is ready.
func (n *Network) startProcesses(ctx context.Context, binary string) error {
	if binary == "" {
		var err error
		if binary, err = os.Executable(); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
	}
	for _, cfg := range n.configs {
		p := &process{cfg: cfg, log: filepath.Join(cfg.Home, "log"), done: make(chan struct{})}
		if err := p.start(binary); err != nil {
			return fmt.Errorf("bench: %s: %w", cfg.Name, err)
		}
		n.nodes = append(n.nodes, p)
	}
	for _, p := range n.nodes {
		if err := p.ready(ctx); err != nil {
			return fmt.Errorf("bench: %s: %w", p.cfg.Name, err)
		}
	}
	return nil
}

// start starts the process and a goroutine that waits for its end.
func (p *process) start(binary string) error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(binary, "start", "--home", p.cfg.Home)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = apart()
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return nil
}

// ready asks the node until it says that it is ready; a process boundary leaves nothing but asking.
func (p *process) ready(ctx context.Context) error {
	ask := time.NewTicker(20 * time.Millisecond)
	defer ask.Stop()
	for {
		if says(ctx, "http://"+p.cfg.HTTP.Listen+"/readyz") {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended while starting (%v): %s", p.err, p.logEnd())
		case <-ctx.Done():
			return fmt.Errorf("it is not ready: %w: %s", context.Cause(ctx), p.logEnd())
		case <-ask.C:
		}
	}
}

// says reports whether a GET is answered with 200 within a second.
func says(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err == nil && answer.StatusCode == http.StatusOK
}

// logEnd is the end of what the node has logged.
func (p *process) logEnd() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-1500):]))
}

// URLs are where the Layer 2 nodes serve HTTP.
func (n *Network) URLs() []string {
	var urls []string
	for _, cfg := range n.configs {
		if cfg.Has(node.RoleLayer2) {
			urls = append(urls, "http://"+cfg.HTTP.Listen)
		}
	}
	return urls
}

// Genesis is the network's genesis file.
func (n *Network) Genesis() []byte { return n.genesis }

// Configs are the nodes' configurations, validators first.
func (n *Network) Configs() []node.Config { return n.configs }

// Client returns a client of the demo actor OPR-001, who may do the whole workflow: it signs each request, and checks each
// answer against the genesis file. change may alter its configuration; nil leaves it. Each client has connections of its own.
func (n *Network) Client(change func(*client.Config)) (*client.Client, error) {
	key, err := client.KeyFromSeed(supplychain.DemoKey("OPR-001").Seed())
	if err != nil {
		return nil, err
	}
	cfg := client.Config{URLs: n.URLs(), Key: key, Genesis: n.genesis}
	if change != nil {
		change(&cfg)
	}
	return client.New(cfg)
}

// Failed returns why a node has ended, if one has; nil otherwise.
func (n *Network) Failed() error {
	for _, p := range n.nodes {
		select {
		case <-p.done:
			return fmt.Errorf("bench: %s has ended (%v): %s", p.cfg.Name, p.err, p.logEnd())
		default:
		}
	}
	return nil
}

// Close ends all nodes and removes the network's directory. A second call does nothing and says what the first did.
// Processes are killed: nothing of theirs is wanted any more.
func (n *Network) Close() error {
	n.close.Do(func() {
		var errs []error
		if n.inside != nil {
			errs = append(errs, n.inside.Close())
		}
		for _, p := range n.nodes {
			_ = p.cmd.Process.Kill() // it may have ended
		}
		for _, p := range n.nodes {
			<-p.done
		}
		if n.dir != "" {
			errs = append(errs, os.RemoveAll(n.dir))
		}
		n.closed = errors.Join(errs...)
	})
	return n.closed
}
