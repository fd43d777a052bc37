// Package node makes a running node of a service and a configuration.
//
// A node is one process's worth of: CometBFT as the Layer 1 engine, the ledger's state, the Layer 1 application, on Layer 2
// nodes the session engine, and the HTTP surface. A layer is a role: a validator's key is in the genesis file; a Layer 2
// node is a full node of the same chain, so that it checks every block itself.
//
//	func main() {
//		cfg, err := node.Load("/var/lib/tandem")
//		...
//		n, err := node.New(cfg, supplychain.Service())
//		...
//		err = n.Run(ctx) // until ctx ends; *HaltError means exit code 70
//	}
//
// What happens at a start, in this order, and why: the state store opens (its last version is whole, whatever happened); the
// consensus engine hands the application the blocks it has not committed (at most one after a crash); only then the session
// engine opens, on the newest state, and runs its sessions' steps again; from then on every block's event reaches it, in
// order, through a queue; last the engine starts to hear peers and HTTP is served. So no block falls between.
//
// A stop goes the other way: not ready, HTTP drained, sessions closed, consensus stopped, stores closed; at most [StopTime].
package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	abcitypes "github.com/cometbft/cometbft/abci/types"
	comettypes "github.com/cometbft/cometbft/types"

	"tandem"
	"tandem/internal/events"
	"tandem/internal/exec"
	"tandem/internal/httpapi"
	"tandem/internal/layer1"
	"tandem/internal/layer2"
	"tandem/internal/ledger"
	"tandem/internal/peer"
	"tandem/internal/state"
)

// StopTime bounds the time from the end of Run's context to Run's return.
const StopTime = 5 * time.Second

// Parts of StopTime: what each phase may take at most before it is cut short.
const (
	drainTime     = 1 * time.Second // HTTP requests in flight; waiting commits are answered 202
	consensusStop = 2 * time.Second
)

// Option changes how New builds a node.
type Option func(*Node)

// WithLogger sets where the node logs. Default: standard error, as the configuration's [log] says.
func WithLogger(l *slog.Logger) Option { return func(n *Node) { n.logger = l } }

// WithHalt sets what is called, once and at once, on the goroutine that found the node's own state in doubt, before
// anything else goes on: a program ends its process there with [ExitHalt]. Without it Run returns the *HaltError.
func WithHalt(f func(*HaltError)) Option { return func(n *Node) { n.onHalt = f } }

// WithApplication wraps the Layer 1 application, for instruments, and for tests that need a liar. What it returns is what
// the consensus engine talks to.
func WithApplication(wrap func(abcitypes.Application) abcitypes.Application) Option {
	return func(n *Node) { n.wrapApp = wrap }
}

// WithValidator wraps what signs votes and proposals, for signers in hardware, and for tests that need a liar.
func WithValidator(wrap func(comettypes.PrivValidator) comettypes.PrivValidator) Option {
	return func(n *Node) { n.wrapValidator = wrap }
}

// Node is one node. Run may be called once. The other methods are safe for concurrent use.
type Node struct {
	cfg           Config
	svc           tandem.Service
	logger        *slog.Logger
	onHalt        func(*HaltError)
	wrapApp       func(abcitypes.Application) abcitypes.Application
	wrapValidator func(comettypes.PrivValidator) comettypes.PrivValidator

	genesis   []byte // the file's bytes
	doc       *comettypes.GenesisDoc
	start     ledger.Genesis
	validator comettypes.PrivValidator
	signer    *signer            // what validator wraps; nil without the role
	key       ed25519.PrivateKey // Layer 2 key; nil without the role
	custody   map[string]ed25519.PrivateKey
	listener  net.Listener // nil if no HTTP is served
	runner    *exec.Runner
	progress  *progress

	halted   chan struct{} // closed at the first halt
	haltOnce sync.Once
	halt     *HaltError // set before halted is closed

	mu  sync.Mutex
	ran bool   // guarded by mu: Run or Close has been called
	up  *parts // guarded by mu: what runs; nil before Run has opened it and after it has been closed
}

// parts are what Run opens and closes.
type parts struct {
	store      *state.Store
	app        *layer1.App
	consensus  *consensus
	engine     *layer2.Engine // nil without the Layer 2 role
	index      *index
	queue      *blockQueue
	rehearsals rehearsals
	events     *events.Log
	server     *http.Server // nil if no HTTP is served
}

// New checks the configuration, reads the node's files and takes its HTTP address. Nothing else is opened before Run; a
// node that is not run must be closed.
func New(cfg Config, svc tandem.Service, opts ...Option) (*Node, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("node: configuration: %w", err)
	}
	n := &Node{
		cfg: cfg, svc: svc,
		halted:   make(chan struct{}),
		progress: newProgress(3*time.Duration(cfg.Consensus.Heartbeat), time.Now),
	}
	for _, opt := range opts {
		opt(n)
	}
	if n.logger == nil {
		n.logger = cfg.logTo(os.Stderr)
	}
	n.logger = n.logger.With("node", cfg.Name)
	if err := n.load(); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	if cfg.HTTP.Listen != "" {
		l, err := net.Listen("tcp", cfg.HTTP.Listen)
		if err != nil {
			return nil, fmt.Errorf("node: http.listen: %w", err)
		}
		n.listener = httpapi.Listen(l, cfg.HTTP.MaxConnections)
	}
	return n, nil
}

// load reads what a node needs from its home and compares the service with the one the ledger was made for.
func (n *Node) load() error {
	var err error
	if n.genesis, n.doc, err = n.cfg.loadGenesis(); err != nil {
		return err
	}
	if n.start, err = ledger.ParseGenesis(n.doc.AppState); err != nil {
		return fmt.Errorf("genesis: app_state: %w", err)
	}
	n.start.ChainID = n.doc.ChainID
	p := n.start.Tandem.Parameters
	n.runner = exec.New(n.svc, exec.Options{
		Limits:    exec.Limits{Operations: p.StepOperations, Bytes: p.StepBytes, Watchdog: time.Duration(n.cfg.Exec.Watchdog)},
		Framework: ledger.Routes(),
		Logger:    n.logger.With("part", "exec"),
	})
	if got := n.runner.Fingerprint(); got != p.Fingerprint {
		return fmt.Errorf("this program runs %s %s with fingerprint %s, the ledger was made for %s %s with fingerprint %s: "+
			"its answers could differ from the other nodes', so it does not start; use the program the network runs",
			n.svc.Name, n.svc.Version, got, p.ServiceName, p.ServiceVersion, p.Fingerprint)
	}
	if err := os.MkdirAll(n.cfg.path(engineDir), 0o700); err != nil {
		return err
	}
	if n.validator, err = n.cfg.loadValidator(); err != nil {
		return err
	}
	n.signer, _ = n.validator.(*signer)
	if n.wrapValidator != nil {
		n.validator = n.wrapValidator(n.validator)
	}
	if !n.cfg.Has(RoleLayer2) {
		return nil
	}
	if n.key, err = ReadKey(n.cfg.path(n.cfg.Layer2.Key)); err != nil {
		return err
	}
	n.custody, err = n.cfg.loadCustody()
	return err
}

// URL is where the node serves HTTP, such as "http://127.0.0.1:8080"; "" if it serves none.
func (n *Node) URL() string {
	if n.listener == nil {
		return ""
	}
	return "http://" + n.listener.Addr().String()
}

// Close gives back what New has taken, of a node that is not run.
func (n *Node) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ran {
		return nil
	}
	n.ran = true
	n.stopSigning()
	if n.listener == nil {
		return nil
	}
	return n.listener.Close()
}

func (n *Node) stopSigning() {
	if n.signer != nil {
		_ = n.signer.close() // every record is synced when it is written
	}
}

// Run opens everything, runs the node until ctx ends or the node halts, and closes everything. It returns nil after an
// orderly stop, a *HaltError after a halt.
func (n *Node) Run(ctx context.Context) error {
	n.mu.Lock()
	if n.ran {
		n.mu.Unlock()
		return errors.New("node: a node runs once")
	}
	n.ran = true
	n.mu.Unlock()
	defer n.stopSigning() // last: an engine that was given up must not sign beside the next one on this home

	p, err := n.open(ctx)
	if err != nil {
		if n.listener != nil {
			err = errors.Join(err, n.listener.Close())
		}
		var halt *HaltError
		if errors.As(err, &halt) {
			n.fail(halt.Cause)
			return halt
		}
		return fmt.Errorf("node: %w", err)
	}
	n.mu.Lock()
	n.up = p
	n.mu.Unlock()
	err = n.serve(ctx, p)
	n.mu.Lock()
	n.up = nil
	n.mu.Unlock()
	return err
}

// open opens the parts from the disk up to HTTP; see the package comment for the order. On an error it closes what it
// has opened.
func (n *Node) open(ctx context.Context) (p *parts, err error) {
	p = &parts{queue: newBlockQueue(), rehearsals: newRehearsals()}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.store, err = state.Open(n.cfg.path(stateDir), state.Options{Keep: n.cfg.State.Keep, Logger: n.logger.With("part", "state")}); err != nil {
		return p, fmt.Errorf("state: %w", err)
	}
	p.app = layer1.New(layer1.Options{
		Store: p.store, Service: n.svc, Runner: n.runner, Logger: n.logger.With("part", "layer1"),
		OnBlock: func(b layer1.Block) {
			n.progress.block(b.Height, b.Time)
			p.queue.push(b)
		},
		Admitted:        p.rehearsals.put,
		Halt:            n.fail,
		MempoolPerActor: n.cfg.Mempool.PerActor,
		Watchdog:        n.cfg.watchdog(),
		Linger:          n.cfg.Consensus.tuned(len(n.doc.Validators)).linger,
	})
	height, _, blockTime := p.store.Version()
	if height > 0 {
		n.progress.block(height, blockTime)
	}
	var app abcitypes.Application = p.app
	if n.wrapApp != nil {
		app = n.wrapApp(app)
	}
	log := engineLog{to: n.logger.With("part", "cometbft"), failed: n.fail}
	if p.consensus, err = newConsensus(ctx, n.cfg, n.doc, app, n.validator, height > 0, log); err != nil {
		return p, err
	}
	if p.index, err = openIndex(n.cfg.path(indexDir), p.consensus.node.BlockStore(), n.logger); err != nil {
		return p, err
	}
	height, _, _ = p.store.Version() // the handshake may have brought a block
	if err := p.index.catchUp(height); err != nil {
		return p, err
	}
	if p.events, err = n.openEvents(); err != nil {
		return p, err
	}
	l := &chain{node: n, parts: p, replaying: make(chan struct{}, 1)}
	if n.cfg.Has(RoleLayer2) {
		peers, err := n.peers()
		if err != nil {
			return p, fmt.Errorf("layer 2: %w", err)
		}
		p.engine, err = layer2.Open(n.cfg.path(layer2Dir), layer2.Options{
			Ledger: l, Runner: n.runner, Key: n.key, ChainID: n.doc.ChainID,
			Custody: n.custody, DefaultActor: n.cfg.Layer2.DefaultActor,
			Peers: peers, Need: n.cfg.Layer2.Need, Wait: time.Duration(n.cfg.Layer2.Wait),
			MaxWorking: n.cfg.Layer2.MaxWorking, MaxWait: time.Duration(n.cfg.Layer2.MaxWait),
			CheckpointSteps: uint64(max(0, n.cfg.Layer2.CheckpointSteps)), CheckpointEvery: time.Duration(n.cfg.Layer2.CheckpointSeconds) * time.Second,
			Logger: n.logger.With("part", "layer2"),
			Halt:   n.fail, Events: p.events, Proofs: proofs{p.store, l},
		})
		if err != nil {
			if t, ok := peers.(io.Closer); ok { // nobody runs it, who would close it
				err = errors.Join(err, t.Close())
			}
			return p, fmt.Errorf("layer 2: %w", err)
		}
	}
	if n.listener == nil {
		return p, nil
	}
	o := httpapi.Options{
		Ledger: l, Runner: n.runner, Health: l, Service: n.svc, ChainID: n.doc.ChainID, Fingerprint: n.runner.Fingerprint(),
		CommitWait: time.Duration(n.cfg.HTTP.CommitWait), Logger: n.logger.With("part", "http"), Events: p.events,
	}
	if p.engine != nil {
		o.Engine = p.engine
	}
	handler, err := httpapi.New(o)
	if err != nil {
		return p, fmt.Errorf("http: %w", err)
	}
	p.server = httpapi.NewServer(handler)
	return p, nil
}

// peers is the transport to the other Layer 2 nodes; nil if the node works alone. The session engine runs it.
func (n *Node) peers() (layer2.Peers, error) {
	if n.cfg.Layer2.PeerListen == "" {
		return nil, nil
	}
	return peer.NewGRPC(peer.Options{Key: n.key, Listen: n.cfg.Layer2.PeerListen, Logger: n.logger.With("part", "peer")})
}

// serve runs the opened parts until ctx ends or something fails, then stops them in phases.
func (n *Node) serve(ctx context.Context, p *parts) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup // every goroutine below; docs/threads.md lists them
	failed := make(chan error, 4)
	start := func(name string, f func(context.Context) error) {
		running.Add(1)
		go func() {
			defer running.Done()
			if err := f(ctx); err != nil {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		}()
	}
	start("blocks", func(ctx context.Context) error { return n.deliver(ctx, p) })
	start("watch", func(ctx context.Context) error { return n.watch(ctx, p.events) })
	start("rehearse", func(ctx context.Context) error { return p.rehearsals.run(ctx, p.app) })
	err := p.consensus.start()
	if err == nil {
		start("peers", func(ctx context.Context) error { p.consensus.keepPeers(ctx, n.cfg.P2P.Peers); return nil })
		n.progress.running(p.consensus.syncing, p.consensus.behind)
		requests, abort := context.WithCancel(context.Background())
		defer abort()
		if p.server != nil {
			p.server.BaseContext = func(net.Listener) context.Context { return requests }
			start("http", func(context.Context) error {
				if err := p.server.Serve(n.listener); !errors.Is(err, http.ErrServerClosed) {
					return err
				}
				return nil
			})
		}
		n.logger.Info("node runs", "url", n.URL(), "chain", n.doc.ChainID, "roles", n.cfg.Roles)
		select {
		case <-ctx.Done():
		case <-n.halted:
		case err = <-failed:
		}
		n.progress.stopping()
		n.tellStop(p.events)
		if p.server != nil { // phase 1: no new requests; those in flight are cut short, which answers waiting commits with 202
			drain, stop := context.WithTimeout(context.Background(), drainTime)
			abort()
			if p.server.Shutdown(drain) != nil {
				_ = p.server.Close()
			}
			stop()
		}
	}
	cancel()
	running.Wait() // after this nobody but consensus touches the parts
	if closeErr := p.close(); err == nil {
		err = closeErr
	}
	select {
	case <-n.halted:
		return n.halt
	default:
	}
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	n.logger.Info("node stopped")
	return nil
}

// close closes the parts that are open, top down.
func (p *parts) close() error {
	var errs []error
	if p.engine != nil { // phase 2: sessions
		errs = append(errs, p.engine.Close())
	}
	if p.consensus != nil { // phase 3: consensus
		if err := p.consensus.stop(consensusStop); err != nil {
			// It may still be inside the application. Everything durable is: the stores are left as after a crash.
			return errors.Join(append(errs, err)...)
		}
	}
	if p.index != nil { // phase 4: stores
		errs = append(errs, p.index.close())
	}
	if p.store != nil {
		errs = append(errs, p.store.Close())
	}
	return errors.Join(errs...)
}

// fail halts the node: its own state is in doubt. It may be called from any goroutine, any number of times.
func (n *Node) fail(cause error) {
	n.haltOnce.Do(func() {
		n.halt = &HaltError{Cause: cause}
		n.progress.fail(n.halt)
		n.logger.Error("node halts: its own state is in doubt", "err", cause)
		if n.onHalt != nil {
			n.onHalt(n.halt)
		}
		close(n.halted)
	})
}

// running returns the open parts, or an error while there are none.
func (n *Node) running() (*parts, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.up == nil {
		return nil, errors.New("node: it does not run")
	}
	return n.up, nil
}

// Ready waits until the node can be given work: it runs, follows the ledger, and there is a block.
func (n *Node) Ready(ctx context.Context) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		h := n.progress.health()
		if h.Ready {
			return nil
		}
		select {
		case <-n.halted:
			return n.halt
		case <-ctx.Done():
			return fmt.Errorf("node: not ready: %v: %w", h.Reasons, ctx.Err())
		case <-ticker.C:
		}
	}
}

// Height is the newest committed block's height on this node; 0 before the first.
func (n *Node) Height() int64 {
	height, _ := n.progress.now()
	return height
}

// WaitHeight returns nil once this node has committed block height, or an error at ctx's end.
func (n *Node) WaitHeight(ctx context.Context, height int64) error {
	return n.progress.wait(ctx, height)
}

// Submit puts an encoded Layer 1 transaction straight into this node's mempool, for tools that have a signed session
// commit and no Layer 2 node. The error is what CheckTx or the mempool says.
func (n *Node) Submit(ctx context.Context, tx []byte) error {
	p, err := n.running()
	if err != nil {
		return err
	}
	return p.consensus.submit(ctx, tx)
}

// State is the newest version of the ledger's state on this node's disk: its height and its root in hex.
func (n *Node) State() (height int64, root string, err error) {
	p, err := n.running()
	if err != nil {
		return 0, "", err
	}
	height, digest, _ := p.store.Version()
	return height, digest.String(), nil
}

// watchdog is the configured one as layer1 takes it, where negative means none.
func (c Config) watchdog() time.Duration {
	if c.Exec.Watchdog == 0 {
		return -1
	}
	return time.Duration(c.Exec.Watchdog)
}

// logTo returns the logger that the configuration asks for.
func (c Config) logTo(w *os.File) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		level = slog.LevelInfo // Check has refused anything else
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
