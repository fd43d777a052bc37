// Package client opens sessions, calls steps, commits and verifies; it refuses an answer it cannot check.
package client

import (
	"context"
	"crypto/ed25519"
	"net/http"
	"time"
)

// Key is an actor's Ed25519 key pair.
type Key struct{ private ed25519.PrivateKey }

// Config configures New.
type Config struct {
	// URLs are the base URLs of Layer 2 nodes, tried in order. At least one.
	URLs []string
	// Key signs; the zero Key makes a client that can only read.
	Key Key
	// Genesis is the genesis file; with it the client knows which originators to believe. Optional.
	Genesis []byte
	// HTTP is the transport; nil for a client with sane timeouts.
	HTTP *http.Client
}

// Client talks to a network. Safe for concurrent use.
type Client struct{ cfg Config }

// New checks cfg and returns a Client. It makes no request.
func New(cfg Config) (*Client, error) { return &Client{cfg: cfg}, nil }

// Answer is a checked answer of a service handler (4xx answers of handlers included).
type Answer struct {
	Status          int
	Header          http.Header // the recorded headers
	Body            []byte
	Session         string
	Sequence        uint64 // 0 for committed reads and for answers that were not recorded
	Transcript      string
	Height          int64
	Time            time.Time
	Originator      string // did:key
	Endorsed        int    // k of n Layer 2 nodes have this step on disk
	Of              int
	Recorded        bool
	TransactionHash string // one-step sessions only
}

// Outcome is what became of a commit.
type Outcome struct {
	Status          string `json:"status"` // committed or committing
	Height          int64  `json:"height,omitempty"`
	TransactionHash string `json:"transaction_hash,omitempty"`
}

// Session is an open session; for one goroutine at a time.
type Session struct{}

// Open opens a session.
func (c *Client) Open(ctx context.Context, opts ...OpenOption) (*Session, error) { return nil, nil }

// OpenOption changes how a session is opened.
type OpenOption func(*openOptions)

type openOptions struct{}

// ID is the session id.
func (s *Session) ID() string { return "" }

// Call makes the next step.
func (s *Session) Call(ctx context.Context, method, target, contentType string, body []byte) (*Answer, error) {
	return nil, nil
}

// Commit commits the session to Layer 1 and waits for it.
func (s *Session) Commit(ctx context.Context) (Outcome, error) { return Outcome{}, nil }

// Abandon ends the session without commit.
func (s *Session) Abandon(ctx context.Context) error { return nil }

// Marshal returns the session's state as JSON, for Resume.
func (s *Session) Marshal() ([]byte, error) { return nil, nil }

// Resume continues a session that Marshal saved.
func (c *Client) Resume(saved []byte) (*Session, error) { return nil, nil }

// Get reads committed state.
func (c *Client) Get(ctx context.Context, target string) (*Answer, error) { return nil, nil }

// Do opens a session, makes one step, commits it.
func (c *Client) Do(ctx context.Context, method, target, contentType string, body []byte) (*Answer, Outcome, error) {
	return nil, Outcome{}, nil
}

// Receipt fetches the receipt of a committed session.
func (c *Client) Receipt(ctx context.Context, session string) ([]byte, error) { return nil, nil }
