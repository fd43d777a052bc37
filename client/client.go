// Package client talks to a Tandem network for an actor: it opens sessions, makes steps, commits, and believes nothing
// it can check.
//
// Every step is signed over the transcript head, that is over every request and response of the session so far. The
// client recomputes the head from what it received, so a node that shows one answer and records another is caught at
// once: such an answer is an *AnswerError and never reaches the caller as an Answer. What the client cannot check by
// itself, that the answers follow from the ledger's state, Layer 1 checks when the session is committed, and a receipt
// proves that it did.
//
// Three kinds of outcome are kept apart. An *Answer is what the service said, also if it said 4xx. A *Problem is what the
// network said instead: a refusal, a conflict or an outage, told apart by Kind. An *AnswerError is a node caught
// answering falsely. Any other error means the outcome is unknown; call again.
//
// Calling again is always safe: a signed request is sent again as the same bytes, to the same node or another, and a
// node gives the stored answer to what it has seen. The client never signs a second request for a position of a session
// whose outcome it does not know.
//
// A Client is safe for concurrent use. A Session belongs to one goroutine at a time; its methods take turns if not.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"tandem/internal/wire"
	"tandem/receipt"
)

// Config configures New.
type Config struct {
	// URLs are the base URLs of Layer 2 nodes, such as "http://127.0.0.1:8080". At least one. The client stays with a node
	// that answers and goes on to the next one when it does not. It learns the other nodes of the network when it opens a
	// session.
	URLs []string
	// Key signs. With the zero Key the client can only read.
	Key Key
	// Genesis is the network's genesis file. With it the client believes only nodes on its Layer 2 list, and only its
	// chain. Without it the chain id is taken from the first node asked, and any originator is believed; commits are
	// proved by receipts all the same.
	Genesis []byte
	// HTTP sends the requests. nil: a client of our own with timeouts. Redirects are never followed: a 3xx is an answer.
	HTTP *http.Client
	// Patience bounds how long one call tries again, over all nodes, if its context has no earlier end. 0: 30 s.
	Patience time.Duration
	// Hedge is how long one node is waited for before another is asked as well; a commit waits twice as long. A node that
	// refuses connections is left at once. Where answers take long anyway it is longer, up to 1.8 s. 0: 700 ms.
	Hedge time.Duration
	// RequireEndorsements refuses recorded steps that fewer Layer 2 nodes than this, the originator counted, have provably
	// endorsed: *EndorsementError, after asking again for a while. 0 and 1: the originator is enough.
	RequireEndorsements int
	// Checkpoint says when sessions commit what they have and stay open. The zero value: only when asked.
	Checkpoint Checkpointing
	// Clock gives signatures their time. nil: time.Now.
	Clock func() time.Time
}

// Client talks to a network.
type Client struct {
	nodes      ring
	key        Key
	genesis    *genesis // nil if there is none
	http       *http.Client
	layer2     atomic.Pointer[map[wire.PublicKey]bool] // the nodes to believe; nil: any
	patience   time.Duration
	hedge      time.Duration
	pace       pace
	require    int // endorsements of a step
	checkpoint Checkpointing
	clock      func() time.Time
	network    atomic.Pointer[network] // what the last status said; see about
	seen       heights
}

// New checks cfg. It makes no request.
func New(cfg Config) (*Client, error) {
	c := &Client{key: cfg.Key, patience: cfg.Patience, clock: cfg.Clock, hedge: cfg.Hedge, require: cfg.RequireEndorsements, checkpoint: cfg.Checkpoint}
	if len(cfg.URLs) == 0 {
		return nil, errors.New("client: no URL of a Layer 2 node")
	}
	for _, text := range cfg.URLs {
		base, err := baseURL(text)
		if err != nil {
			return nil, err
		}
		c.nodes.add(base)
	}
	if cfg.Genesis != nil {
		g, err := parseGenesis(cfg.Genesis)
		if err != nil {
			return nil, fmt.Errorf("client: genesis: %w", err)
		}
		c.genesis = g
		c.layer2.Store(&g.layer2)
	}
	if c.hedge <= 0 {
		c.hedge = defaultHedge
	}
	if c.patience <= 0 {
		c.patience = 30 * time.Second
	}
	if c.clock == nil {
		c.clock = time.Now
	}
	c.http = newHTTP(cfg.HTTP)
	return c, nil
}

// Key returns the key that the client signs with.
func (c *Client) Key() Key { return c.key }

// URL returns the base URL of the node that the next request goes to first.
func (c *Client) URL() string { return c.nodes.inOrder()[0] }

// Answer is an answer of the service that passed all checks.
type Answer struct {
	// Status, Header and Body are what the handler answered; of its headers, the recorded ones.
	Status int
	Header http.Header
	Body   []byte
	// Session is the session's id; "" for a read of committed state.
	Session string
	// Sequence and Transcript are the session's position after the step; before it, if the step is not Recorded.
	Sequence   uint64
	Transcript string
	// Recorded is true for a status below 400 in a session: the step is part of it. An answer of 400 or more is not.
	Recorded bool
	// Height is the height of the state that the handler saw.
	Height int64
	// Time is the step's agreed time; for a read, the newest block's.
	Time time.Time
	// Hint names other open sessions that have written what this step read or wrote, and may get in its way if they are
	// committed first (docs/http.md, Tandem-Hint). It is advice that nobody signs; "" if there is none, and on a retry.
	Hint string
	// Originator is the did:key of the node that answered; "" for a read.
	Originator string
	// Endorsed of Of Layer 2 nodes have run the step, agree and have it on disk: Endorsed is the number of Endorsers; Of is what
	// the node says. 0 of 0 for what is not recorded.
	Endorsed, Of int
	// Endorsers are those nodes, whose signatures were verified, the originator first.
	Endorsers []Endorser

	proof proof
}

// Outcome is what became of a commit.
type Outcome struct {
	// Status is "committed", "checkpoint" if the session stays open, or "committing" as long as Layer 1 has not decided.
	Status string `json:"status"`
	// Height is the block's; 0 unless committed.
	Height int64 `json:"height,omitempty"`
	// TransactionHash is the SHA-256 of the Layer 1 transaction, 64 hex digits.
	TransactionHash string `json:"transaction_hash,omitempty"`
	// Time is the block's in milliseconds since 1970; 0 unless known.
	Time int64 `json:"time_ms,omitempty"`
	// Checkpoint is the checkpoint's number, from 1; 0 if the session is closed, or nothing is in a block yet.
	Checkpoint uint64 `json:"checkpoint,omitempty"`
}

// Committed reports whether the session is in a block.
func (o Outcome) Committed() bool { return o.Status == statusCommitted }

// Status is what a node says about itself and the network.
type Status struct {
	ChainID     string       `json:"chain_id"`
	Fingerprint string       `json:"fingerprint"`
	Service     string       `json:"service"`
	Version     string       `json:"service_version"`
	Height      int64        `json:"height"`
	Time        int64        `json:"time_ms"`
	StateRoot   string       `json:"state_root"`
	Node        string       `json:"node"`
	Custody     bool         `json:"custody"`
	Layer2      []Layer2Node `json:"layer2"`
	Validators  []Validator  `json:"validators"`
	Quarantine  []Quarantine `json:"quarantine"`
}

// Layer2Node is a Layer 2 node on the ledger's list.
type Layer2Node struct {
	Key          string `json:"key"`
	Organisation string `json:"organisation"`
	URL          string `json:"url"`
}

// Validator is a Layer 1 validator.
type Validator struct {
	Address string `json:"address"`
	Key     string `json:"key"`
	Power   int64  `json:"power"`
}

// Quarantine is a session that the node's validator leaves out of its proposals for a while, and why.
type Quarantine struct {
	Session     string `json:"session_id"`
	Transaction string `json:"transaction_hash"`
	Step        uint64 `json:"step"`
	Field       string `json:"field"`
	Reason      string `json:"reason"`
	Height      int64  `json:"height"`
}

// Status asks a node about itself and the network. With a genesis file, a node of another chain is an *AnswerError.
func (c *Client) Status(ctx context.Context) (Status, error) {
	rep, err := c.fetch(ctx, "/tandem/v1/status")
	if err != nil {
		return Status{}, err
	}
	var s Status
	if err := json.Unmarshal(rep.body, &s); err != nil {
		return Status{}, rep.lie("body", "the status as JSON", err.Error())
	}
	if c.genesis != nil && s.ChainID != c.genesis.chainID {
		return Status{}, rep.lie("chain_id", c.genesis.chainID, s.ChainID)
	}
	c.learn(s.Layer2)
	return s, nil
}

// network is what an opening request says of the chain and the service.
type network struct {
	chainID, fingerprint string
	until                time.Time // then nodes are asked again, for the list of nodes may have changed
}

// statusLife is how long what a status said of the network is taken for known. Neither chain nor fingerprint ever changes;
// should they be others all the same, the opening is refused, and the next one asks.
const statusLife = 30 * time.Second

// about returns the network's chain and fingerprint. It asks a node if that was long ago.
func (c *Client) about(ctx context.Context) (network, error) {
	now := c.clock()
	if n := c.network.Load(); n != nil && now.Before(n.until) && now.After(n.until.Add(-2*statusLife)) {
		return *n, nil
	}
	s, err := c.Status(ctx)
	if err != nil {
		return network{}, err
	}
	n := network{s.ChainID, s.Fingerprint, now.Add(statusLife)}
	c.network.Store(&n)
	return n, nil
}

// Get reads committed state: the service's answer to GET target outside any session. It shows at least the newest
// commit that this client was told of, unless one node alone has told of it and all others deny that there is such a block. What a node answers to a read cannot be checked without the state; read inside
// a session and commit it to have Layer 1 check it.
func (c *Client) Get(ctx context.Context, target string) (*Answer, error) {
	if err := checkTarget(target); err != nil {
		return nil, err
	}
	rep, err := c.exchange(ctx, call{method: http.MethodGet, target: target, least: c.seen.least(), seen: true})
	if err != nil {
		return nil, err
	}
	height, ok := rep.number("Tandem-Height")
	if p := rep.problem(); p != nil && !(ok && p.Answered()) {
		return nil, p // no handler was asked
	}
	if !ok {
		return nil, rep.lie("height", "Tandem-Height", rep.header.Get("Tandem-Height"))
	}
	if least := c.seen.least(); height < least {
		return nil, rep.lie("height", fmt.Sprintf("at least %d", least), fmt.Sprint(height))
	}
	at, _ := rep.number("Tandem-Time")
	return &Answer{
		Status: rep.status, Header: recordedHeader(rep.header), Body: rep.body, Height: height, Time: time.UnixMilli(at).UTC(),
	}, nil
}

// Do makes one step in a session of its own and commits it. If the service answers 400 or more nothing is committed: the
// Outcome is zero and the session is given up. On an error after the step, the session is returned too, so that the
// commit can be tried again.
func (c *Client) Do(ctx context.Context, method, target, contentType string, body []byte) (*Answer, Outcome, *Session, error) {
	s, err := c.Open(ctx)
	if err != nil {
		return nil, Outcome{}, nil, err
	}
	a, err := s.Call(ctx, method, target, contentType, body)
	if err != nil {
		return nil, Outcome{}, s, err
	}
	if !a.Recorded {
		return a, Outcome{}, s, s.Abandon(ctx)
	}
	o, err := s.Commit(ctx)
	return a, o, s, err
}

// Receipt fetches the receipt file of a committed session and, with a genesis file, verifies it; a receipt that does not
// verify is an *AnswerError.
func (c *Client) Receipt(ctx context.Context, session string) ([]byte, error) {
	id, err := wire.ParseSessionID(session)
	if err != nil {
		return nil, err
	}
	rep, err := c.fetch(ctx, "/tandem/v1/sessions/"+id.String()+"/receipt")
	if err != nil {
		return nil, err
	}
	if c.genesis != nil {
		if _, err := receipt.Verify(c.genesis.file, rep.body); err != nil {
			return nil, rep.lie("receipt", "one that verifies", err.Error())
		}
	}
	return rep.body, nil
}

// Verify checks a receipt against a genesis file, offline.
func Verify(genesis, file []byte) (*receipt.Proof, error) { return receipt.Verify(genesis, file) }

// Genesis fetches the genesis file from a node. Whoever wants to trust nobody takes it from elsewhere.
func (c *Client) Genesis(ctx context.Context) ([]byte, error) {
	rep, err := c.fetch(ctx, "/tandem/v1/genesis")
	if err != nil {
		return nil, err
	}
	return rep.body, nil
}

// Block fetches what a node says about the block at height, as JSON.
func (c *Client) Block(ctx context.Context, height int64) (json.RawMessage, error) {
	return c.raw(ctx, fmt.Sprintf("/tandem/v1/blocks/%d", height))
}

// Transaction fetches what a node says about the Layer 1 transaction with this hash, as JSON.
func (c *Client) Transaction(ctx context.Context, hash string) (json.RawMessage, error) {
	d, err := wire.ParseDigest(strings.ToLower(hash))
	if err != nil {
		return nil, err
	}
	return c.raw(ctx, "/tandem/v1/transactions/"+d.String())
}

// SessionStatus fetches what a node says about a session, as JSON.
func (c *Client) SessionStatus(ctx context.Context, session string) (json.RawMessage, error) {
	id, err := wire.ParseSessionID(session)
	if err != nil {
		return nil, err
	}
	return c.raw(ctx, "/tandem/v1/sessions/"+id.String())
}

func (c *Client) raw(ctx context.Context, target string) (json.RawMessage, error) {
	rep, err := c.fetch(ctx, target)
	if err != nil {
		return nil, err
	}
	if !json.Valid(rep.body) {
		return nil, rep.lie("body", "JSON", "something else")
	}
	return rep.body, nil
}

// fetch gets one of the framework's own resources; anything but 200 is an error.
func (c *Client) fetch(ctx context.Context, target string) (*reply, error) {
	rep, err := c.exchange(ctx, call{method: http.MethodGet, target: target})
	if err != nil {
		return nil, err
	}
	if p := rep.problem(); p != nil {
		return nil, p
	}
	if rep.status != http.StatusOK {
		return nil, rep.lie("status", "200", fmt.Sprint(rep.status))
	}
	return rep, nil
}

// checkTarget refuses a request target that nodes refuse, before it is signed.
func checkTarget(target string) error {
	path, query, marked := strings.Cut(target, "?")
	if marked && query == "" {
		return fmt.Errorf("target %q ends in a bare '?'", target)
	}
	return wire.CheckTarget(path, query)
}
