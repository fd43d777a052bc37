package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Event is something that happened at a node; docs/format/events.md describes the kinds and their data.
type Event struct {
	// ID is the event's place at its node; EventFilter.After takes it.
	ID string
	// Kind is block, session, conflict, node or gap. After a gap, events may be missing: read the state anew.
	Kind string
	// Session and Actor are whom it is about; empty if nobody.
	Session, Actor string
	// Data is one JSON object.
	Data json.RawMessage
	// URL is the node that told of it. What a node tells is not signed: it is news, not proof.
	URL string
}

// EventFilter chooses events. An empty field lets all through.
type EventFilter struct {
	Session string
	Actor   string
	Kinds   []string
	// After is the ID of an event: only what came after it at that node. "0": everything that the node keeps. Empty: from now on.
	After string
}

// Bounds of a stream of events.
const (
	silence   = 45 * time.Second // without a line the connection is taken for dead; nodes send a heartbeat every 15 s
	eventLine = 1 << 20          // bytes of a line
)

// Events follows what happens at a node, for as long as ctx lasts and the caller goes on. A broken connection is made again,
// and goes on behind the last event: nothing is missed and nothing comes twice, or there is an event of kind gap. If the node
// does not come back, another one is followed, after a gap, from then on. An error ends the sequence: ctx's, a *Problem, or
// *UnreachableError if no node could be followed for as long as the client's patience.
func (c *Client) Events(ctx context.Context, f EventFilter) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		s := &following{c: c, filter: f, last: f.After}
		s.yield = func(e Event) bool {
			s.over = !yield(e, nil)
			return !s.over
		}
		backoff, tried, alive := firstBackoff, 0, time.Now()
		for {
			nodes := c.nodes.inOrder()
			at := s.url
			if at == "" {
				at = nodes[0]
			}
			connected, err := s.follow(ctx, at)
			if s.over {
				return
			}
			if ctx.Err() != nil {
				yield(Event{}, ctx.Err())
				return
			}
			if connected {
				backoff, tried, alive = firstBackoff, 0, time.Now()
			} else if tried++; refused(err) || time.Since(alive) > c.patience {
				if !refused(err) {
					err = &UnreachableError{Attempts: tried, Err: err}
				}
				yield(Event{}, err)
				return
			} else if len(nodes) > 1 && tried > 1 { // the node that was followed had a second try
				i := slices.Index(nodes, at)
				at = nodes[(i+1)%len(nodes)]
			}
			s.url = at
			if sleep(ctx, backoff) != nil {
				yield(Event{}, ctx.Err())
				return
			}
			if !connected {
				backoff = min(2*backoff, lastBackoff)
			}
		}
	}
}

// refused reports whether a node's answer will be the same next time.
func refused(err error) bool {
	p, ok := err.(*Problem)
	return ok && !p.Outage()
}

// following is a stream being followed, over several connections.
type following struct {
	c      *Client
	filter EventFilter
	url    string // the node to follow next; empty at first
	told   string // the node that gave last; empty: the caller did
	last   string
	yield  func(Event) bool
	over   bool // the caller has had enough
}

// follow follows a node until the connection ends.
func (s *following) follow(ctx context.Context, at string) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alive := time.AfterFunc(silence, cancel)
	defer alive.Stop()
	query := url.Values{}
	for name, value := range map[string]string{"session": s.filter.Session, "actor": s.filter.Actor, "kind": strings.Join(s.filter.Kinds, ",")} {
		if value != "" {
			query.Set(name, value)
		}
	}
	moved := s.told != "" && s.told != at // another node's ids mean nothing there
	if s.last != "" && !moved {
		query.Set("after", s.last)
	}
	target := at + "/tandem/v1/events"
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return false, err
	}
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("User-Agent", "tandem-client")
	h := *s.c.http
	h.Timeout = 0 // a stream has no end
	res, err := h.Do(r)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
		if p := (&reply{url: at, status: res.StatusCode, header: res.Header, body: body}).problem(); p != nil {
			return false, p
		}
		return false, fmt.Errorf("%s answered %d", at, res.StatusCode)
	}
	if kind := res.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		return false, fmt.Errorf("%s answered with %q, not with a stream of events", at, clip(kind))
	}
	if moved && !s.yield(Event{Kind: "gap", URL: at, Data: json.RawMessage(`{"detail":"another node is followed from here on"}`)}) {
		return true, nil
	}
	s.told = at
	return true, s.read(at, res.Body, func() { alive.Reset(silence) })
}

// read takes events off a connection. An id without an event moves the place to come back to.
func (s *following) read(at string, body io.Reader, alive func()) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, eventLine)
	var e Event
	for lines.Scan() {
		alive()
		line := lines.Text()
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if e.ID != "" {
				s.last = e.ID
			}
			if e.Data != nil && json.Valid(e.Data) {
				var about struct {
					Session string `json:"session_id"`
					Actor   string `json:"actor"`
				}
				_ = json.Unmarshal(e.Data, &about) // what is not an object is about nobody
				e.Session, e.Actor, e.URL = about.Session, about.Actor, at
				if !s.yield(e) {
					return nil
				}
			}
			e = Event{}
		case name == "id":
			e.ID = value
		case name == "event":
			e.Kind = value
		case name == "data":
			e.Data = json.RawMessage(value)
		}
	}
	return lines.Err()
}
