// Package httpapi is a node's HTTP surface: the one place where bytes from the network become steps, sessions, commits
// and questions to the ledger, and where outcomes become HTTP answers.
//
// The way of a request: NewServer's limits (time, headers, connections) -> checkRequest on the raw target and headers,
// before anything is routed, so that what was signed, what is routed and what a handler sees is one and the same ->
// a place among the requests in flight -> the framework's own routes, which win over a service's, or a service route:
//
//	with Tandem-Session              a step, signed or in custody
//	GET, HEAD, OPTIONS without it    a read of committed state
//	anything else without it         a session of one step, in custody, committed before it is answered
//
// Three kinds of outcome are never mixed. A handler's answer is sent as it was recorded, with the headers that say
// where it stands, signed by the originator. A refusal, a conflict and an outage are problem documents (RFC 9457) from
// the one catalogue in refusal; an outage carries Retry-After. What this package itself gets wrong is "internal", in
// the log with its cause.
package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"tandem"
	"tandem/internal/events"
	"tandem/internal/exec"
	"tandem/internal/httpsig"
	"tandem/internal/layer2"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Engine is what this package needs of the Layer 2 engine; see layer2.Engine, which implements it, for what the methods
// promise. All are safe for concurrent use and return *refusal.Refusal for what a client should see.
type Engine interface {
	OpenSession(ctx context.Context, req *wire.Request) (*layer2.OpenAnswer, error)
	OpenCustody(ctx context.Context, actor string, body []byte) (*layer2.OpenAnswer, error)
	Admit(ctx context.Context, arrived time.Time) (working context.Context, done func(), err error)
	Step(ctx context.Context, p *httpsig.Parsed) (*layer2.Answer, error)
	StepCustody(ctx context.Context, id wire.SessionID, actor, method, path, query, contentType string, body []byte, sequence *uint64) (*layer2.Answer, error)
	Commit(ctx context.Context, p *httpsig.Parsed) (layer2.Outcome, error)
	CommitCustody(ctx context.Context, id wire.SessionID, actor string) (layer2.Outcome, error)
	CheckpointCustody(ctx context.Context, id wire.SessionID, actor string) (layer2.Outcome, error)
	OneStep(ctx context.Context, actor, method, path, query, contentType string, body []byte) (*layer2.Answer, layer2.Outcome, error)
	Abandon(ctx context.Context, p *httpsig.Parsed) (layer2.Session, error)
	AbandonCustody(ctx context.Context, id wire.SessionID, actor string) (layer2.Session, error)
	Upload(ctx context.Context, t wire.Transcript) (layer2.Session, error)
	Session(ctx context.Context, id wire.SessionID) (layer2.Session, error)
	Preview(ctx context.Context, id wire.SessionID) (layer2.Preview, error)
	Audit(ctx context.Context, id wire.SessionID) (layer2.Audit, error)
	Evidence(ctx context.Context, id wire.SessionID, kind string) ([]byte, error)
	Accuse(ctx context.Context, a wire.Accusation) ([]byte, error)
	SignAnswer(h http.Header, status int, body []byte, a layer2.Answer)
	WaitHeight(ctx context.Context, height int64) error
	Stats() layer2.Stats
}

// Runner is what this package needs of exec.Runner: to know a route, and to read committed state through a handler.
type Runner interface {
	// Lookup reports whether a handler is registered for method and raw path, and if not, for which methods there is one.
	Lookup(method, path string) (allowed []string, ok bool)
	// Read runs a handler that may not write.
	Read(ctx context.Context, base state.Reader, s exec.Step) (exec.Result, error)
}

// Ledger answers questions about what Layer 1 has committed. The node implements it over CometBFT's stores and the
// state. Its methods are safe for concurrent use and return *refusal.Refusal for what does not exist.
type Ledger interface {
	// Block returns the block at height; block-not-found if there is none (yet).
	Block(ctx context.Context, height int64) (Block, error)
	// Transaction returns the Layer 1 transaction with this hash; transaction-not-found if there is none.
	Transaction(ctx context.Context, hash wire.Digest) (Transaction, error)
	// Receipt returns the receipt file of a session's commit number part, counted from 1 (all but the last may be checkpoints), or of
	// the newest with part 0; session-not-found or not-committed if there is none.
	Receipt(ctx context.Context, id wire.SessionID, part uint64) ([]byte, error)
	// Genesis returns the genesis file, byte for byte.
	Genesis() []byte
	// Status describes the node and the network as this node sees it now.
	Status(ctx context.Context) (Status, error)
	// View returns the newest committed state.
	View() (*state.View, error)
	// Time returns the newest block's time, milliseconds since 1970.
	Time() int64
	// WaitHeight returns nil as soon as the newest committed block is at least height; on ctx's end a height-not-reached
	// refusal or ctx's error. Used by nodes without an engine.
	WaitHeight(ctx context.Context, height int64) error
}

// Readiness tells whether the node is alive and whether it should be given work.
type Readiness interface {
	// Health is cheap and never blocks.
	Health() Health
}

// Options configure New.
type Options struct {
	// Engine is the Layer 2 engine; nil on a node that has no Layer 2 role, which then refuses sessions with no-layer2.
	Engine Engine
	// Ledger, Runner and Health are required.
	Ledger Ledger
	Runner Runner
	Health Readiness
	// Service is looked at once, for patterns that this package claims. Its Registry may be nil.
	Service tandem.Service
	// ChainID and Fingerprint are told to those who open sessions.
	ChainID     string
	Fingerprint wire.Digest
	// Origins are the web origins ("https://host") whose pages may send unsigned requests, beside the node's own.
	Origins []string
	// Hosts are the host names (without port) under which a node that listens on a loopback address may be called
	// without a signature, beside localhost and loopback addresses. Others are refused, because a web page can make
	// its own name point to 127.0.0.1 (DNS rebinding).
	Hosts []string
	// CommitWait bounds how long a commit waits for Layer 1 before it is answered with 202. Default 10 s, at most 25 s.
	CommitWait time.Duration
	// HeightWait bounds how long a request with Tandem-Min-Height waits. Default 2 s, at most 25 s.
	HeightWait time.Duration
	// MaxInFlight bounds the requests worked on at once; one more is refused with overloaded. Default 4,096.
	MaxInFlight int
	// Events is what GET /tandem/v1/events shows; nil: nothing. Its owner closes it when the node stops, which ends the streams.
	Events *events.Log
	// MaxStreams bounds the streams of events; one more is refused with overloaded. Default 256.
	MaxStreams int
	// Heartbeat is how often a stream without events says that it is alive. Default 15 s.
	Heartbeat time.Duration
	// StreamStuck is how long a reader of a stream may leave what it was sent untouched before it is dropped. Default 10 s.
	StreamStuck time.Duration
	// Clock only measures. Default time.Now.
	Clock func() time.Time
	// Logger is for operators. Default: discards.
	Logger *slog.Logger
}

// Defaults and bounds of Options.
const (
	defaultCommitWait = 10 * time.Second
	defaultHeightWait = 2 * time.Second
	defaultInFlight   = 4096
	maxWait           = ReadTimeout - 5*time.Second // see ReadTimeout
	asyncWait         = time.Millisecond            // when the client will not wait: the engine hands over to Layer 1 in any case
)

// api is the handler that New returns.
type api struct {
	o        Options
	log      *slog.Logger
	routes   tandem.Registry // the framework's own routes
	cross    *http.CrossOriginProtection
	inFlight chan struct{} // a place per request being worked on
	metrics  *metrics
	streams  atomic.Int64 // open streams of events
}

// New returns the node's HTTP handler. A mistake of the program is an error: a missing option, an origin that is none, a
// service that registers a pattern this package claims (/tandem/, /healthz, /readyz, /metrics).
func New(o Options) (http.Handler, error) {
	a := &api{o: o}
	if err := a.prepare(); err != nil {
		return nil, err
	}
	a.routes.HandleFunc("POST /tandem/v1/sessions", a.open)
	a.routes.HandleFunc("GET /tandem/v1/sessions/{id}", a.session)
	a.routes.HandleFunc("PUT /tandem/v1/sessions/{id}", a.upload)
	a.routes.HandleFunc("DELETE /tandem/v1/sessions/{id}", a.abandon)
	a.routes.HandleFunc("POST /tandem/v1/sessions/{id}/commit", a.commit)
	a.routes.HandleFunc("GET /tandem/v1/sessions/{id}/receipt", a.receipt)
	a.routes.HandleFunc("GET /tandem/v1/sessions/{id}/conflict", a.conflict)
	a.routes.HandleFunc("GET /tandem/v1/sessions/{id}/audit", a.audit)
	a.routes.HandleFunc("GET /tandem/v1/sessions/{id}/evidence", a.evidence)
	a.routes.HandleFunc("POST /tandem/v1/sessions/{id}/evidence", a.accuse)
	a.routes.HandleFunc("GET /tandem/v1/events", a.events)
	a.routes.HandleFunc("GET /tandem/v1/blocks/{height}", a.block)
	a.routes.HandleFunc("GET /tandem/v1/transactions/{hash}", a.transaction)
	a.routes.HandleFunc("GET /tandem/v1/status", a.status)
	a.routes.HandleFunc("GET /tandem/v1/genesis", a.genesis)
	a.routes.HandleFunc("GET /tandem/v1/errors", a.errors)
	a.routes.HandleFunc("GET /healthz", a.healthz)
	a.routes.HandleFunc("GET /readyz", a.readyz)
	a.routes.Handle("GET /metrics", a.metrics.handler())
	return a, nil
}
