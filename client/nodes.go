package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"tandem/internal/wire"
)

// maxNodes bounds the nodes that a client knows; what a node's status says beyond that is not taken in.
const maxNodes = 64

// ring is the nodes that a client knows, and the one that it stays with as long as that one answers.
type ring struct {
	mu      sync.Mutex // guards both
	urls    []string
	current int
}

// baseURL checks and normalises the base URL of a node.
func baseURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("client: %q is no base URL such as https://node.example:8080", text)
	}
	return u.Scheme + "://" + u.Host, nil
}

// add takes in a node's URL; what is no base URL is left out.
func (r *ring) add(text string) {
	base, err := baseURL(text)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.urls) < maxNodes && !slices.Contains(r.urls, base) {
		r.urls = append(r.urls, base)
	}
}

// inOrder returns all nodes, the one to stay with first.
func (r *ring) inOrder() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(slices.Clone(r.urls[r.current:]), r.urls[:r.current]...)
}

// stay makes the node the one to ask first.
func (r *ring) stay(url string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.urls, url); i >= 0 {
		r.current = i
	}
}

// leave makes the node after this one the one to ask first, if this one was.
func (r *ring) leave(url string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.urls[r.current] == url {
		r.current = (r.current + 1) % len(r.urls)
	}
}

// URLs returns the base URLs of the Layer 2 nodes that the client knows, configured and learned, the one that it stays with
// first.
func (c *Client) URLs() []string { return c.nodes.inOrder() }

// learn takes in the URLs of the nodes that a node lists, if they are nodes that the client believes. A URL is only where
// to ask: what is answered there has to be signed by a node on the list all the same.
func (c *Client) learn(list []Layer2Node) {
	for _, n := range list {
		if key, err := wire.ParseDID(n.Key); err == nil && c.believes(key) && n.URL != "" {
			c.nodes.add(n.URL)
		}
	}
}

// believes reports whether a node with this key is on the Layer 2 list. Without a genesis file there is no list to hold
// it against.
func (c *Client) believes(key wire.PublicKey) bool {
	list := c.layer2.Load()
	return list == nil || (*list)[key]
}

// Layer2 reads the Layer 2 list of the ledger, has Layer 1 prove it, and believes the nodes on it from then on, in place of
// those it believed before. It costs a session: the list is read as a step, committed, and its receipt verified against
// the genesis file, so no Layer 2 node needs to be believed. A program calls it when it starts with an old genesis file,
// or when an answer was refused because its node is unknown. Nodes that were removed are not returned and not believed.
func (c *Client) Layer2(ctx context.Context) ([]Layer2Node, error) {
	if c.genesis == nil {
		return nil, fmt.Errorf("client: no genesis file to prove the Layer 2 list with")
	}
	s, err := c.Open(ctx, func(o *openOptions) { o.anyNode, o.life = true, time.Minute })
	if err != nil {
		return nil, err
	}
	a, err := s.Call(ctx, http.MethodGet, "/tandem/v1/layer2", "", nil)
	if err != nil {
		return nil, err
	}
	if a.Status != http.StatusOK {
		return nil, fmt.Errorf("client: GET /tandem/v1/layer2 was answered %d", a.Status)
	}
	if _, err := s.Commit(ctx); err != nil {
		return nil, err
	}
	if _, _, err := s.Receipt(ctx, nil); err != nil { // proves the transcript, and with it this answer
		return nil, err
	}
	var list struct {
		Nodes []struct {
			Layer2Node
			Removed bool `json:"removed"`
		} `json:"nodes"`
	}
	if err := json.Unmarshal(a.Body, &list); err != nil {
		return nil, fmt.Errorf("client: the Layer 2 list: %w", err)
	}
	believed := map[wire.PublicKey]bool{}
	var out []Layer2Node
	for _, n := range list.Nodes {
		key, err := wire.ParseDID(n.Key)
		if err != nil {
			return nil, fmt.Errorf("client: the Layer 2 list: %w", err)
		}
		if !n.Removed {
			believed[key] = true
			out = append(out, n.Layer2Node)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("client: the Layer 2 list is empty")
	}
	c.layer2.Store(&believed)
	c.learn(out)
	return out, nil
}
