package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"tandem/internal/events"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// Defaults of a stream of events.
const (
	defaultStreams   = 256
	defaultHeartbeat = 15 * time.Second // below the 30 s after which many proxies cut a silent connection
	defaultStuck     = 10 * time.Second
	retryMillis      = "1000" // how long a browser waits before it comes back
)

// events serves GET /tandem/v1/events: server-sent events (WHATWG HTML, 9.2) of this node, from now on or behind the id
// that the reader comes back with. Each reader has its own place in the log; one that does not take what it is sent is
// dropped after a while, one that falls out of the log is told of the gap and dropped. It then comes back with the id that
// it was given last.
func (a *api) events(w http.ResponseWriter, r *http.Request) {
	log := a.o.Events
	if log == nil {
		a.fail(w, r, refusal.New(refusal.NotFound, "this node keeps no events"))
		return
	}
	ask, err := readAsk(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if a.streams.Add(1) > int64(a.o.MaxStreams) {
		a.streams.Add(-1)
		a.fail(w, r, refusal.New(refusal.Overloaded, "%d streams of events are open, this node's limit", a.o.MaxStreams).With("retry_after_seconds", 5))
		return
	}
	defer a.streams.Add(-1)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return
	}
	s := &stream{w: w, control: http.NewResponseController(w), stuck: a.o.StreamStuck}
	// The server's deadlines are for answers that end. Every write gets one of its own; nothing is read any more.
	if err := s.control.SetReadDeadline(time.Time{}); err != nil {
		a.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusOK)
	s.run(r.Context(), log, ask, a.o.Heartbeat)
}

// asked is what a reader of events asks for.
type asked struct {
	filter events.Filter
	after  *events.ID // nil: from now on
	kept   bool       // everything that is kept
}

// readAsk reads the query and Last-Event-ID. The header wins over after: a browser comes back with the URL it was given
// at first. Error: bad-request.
func readAsk(r *http.Request) (asked, error) {
	var a asked
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return a, refusal.New(refusal.BadRequest, "the query cannot be read")
	}
	for name, values := range query {
		if len(values) > 1 && name != "kind" {
			return a, refusal.New(refusal.BadRequest, "%s occurs %d times", shorten(name), len(values))
		}
		switch name {
		case "session":
			id, err := wire.ParseSessionID(values[0])
			if err != nil {
				return a, refusal.New(refusal.BadRequest, "%q is no session id", shorten(values[0]))
			}
			a.filter.Session = id.String()
		case "actor":
			a.filter.Actor = values[0]
		case "kind":
			for text := range strings.SplitSeq(strings.Join(values, ","), ",") {
				kind := events.Kind(text)
				if !slices.Contains(events.Kinds(), kind) {
					return a, refusal.New(refusal.BadRequest, "there are no events of kind %q", shorten(text)).With("kinds", events.Kinds())
				}
				a.filter.Kinds = append(a.filter.Kinds, kind)
			}
		case "after":
		default:
			return a, refusal.New(refusal.BadRequest, "there is no parameter %q; session, actor, kind and after are known", shorten(name))
		}
	}
	after := query.Get("after")
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		after = last
	}
	if a.kept = after == "0"; after == "" || a.kept {
		return a, nil
	}
	id, err := events.ParseID(after)
	if err != nil {
		return a, refusal.New(refusal.BadRequest, "%q is no event id; leave it out for what comes from now on, or 0 for all that is kept", shorten(after))
	}
	a.after = &id
	return a, nil
}

// stream is one reader's connection.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	stuck   time.Duration
	out     bytes.Buffer
}

// run sends events until the reader goes, is stuck or has fallen behind, or the node stops.
func (s *stream) run(ctx context.Context, log *events.Log, ask asked, heartbeat time.Duration) {
	reader, gap := log.Read(ask.filter), false
	switch {
	case ask.kept:
		reader = log.ReadKept(ask.filter)
	case ask.after != nil:
		reader, gap = log.ReadAfter(ask.filter, *ask.after)
	}
	s.out.WriteString("retry: " + retryMillis + "\n")
	if gap {
		s.gap(ask.after.String(), reader.Cursor())
	} else {
		s.place(reader.Cursor())
	}
	for s.flush() == nil {
		wait, cancel := context.WithTimeout(ctx, heartbeat)
		from := reader.Cursor()
		found, err := reader.Next(wait)
		cancel()
		switch {
		case err == nil:
			for i := range found {
				if s.event(&found[i]) != nil {
					return
				}
			}
		case errors.Is(err, events.ErrGap):
			s.gap(from.String(), reader.Cursor())
			_ = s.flush()
			return
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			s.out.WriteString(": heartbeat\n")
			s.place(reader.Cursor())
		default:
			return
		}
	}
}

// place moves the id that the reader will come back with, without an event: past events that its filter kept from it.
func (s *stream) place(id events.ID) { s.out.WriteString("id: " + id.String() + "\n\n") }

// event sends one event, or keeps it for the next flush while there is little to send.
func (s *stream) event(e *events.Event) error {
	s.out.WriteString("id: " + e.ID.String() + "\nevent: " + string(e.Kind) + "\ndata: ")
	s.out.Write(e.Data) // JSON from json.Marshal: one line
	s.out.WriteString("\n\n")
	if s.out.Len() < 32<<10 {
		return nil
	}
	return s.flush()
}

// gap tells the reader that it may have missed events after the id that it had. at is where it goes on.
func (s *stream) gap(after string, at events.ID) {
	body, _ := json.Marshal(map[string]string{"after": after, "detail": "events after this one may be missing: read the state anew"})
	_ = s.event(&events.Event{ID: at, Kind: events.Gap, Data: body})
}

// flush sends what is written, within the time that a reader has.
func (s *stream) flush() error {
	if s.out.Len() == 0 {
		return nil
	}
	if err := s.control.SetWriteDeadline(time.Now().Add(s.stuck)); err != nil {
		return err
	}
	_, err := s.w.Write(s.out.Bytes())
	s.out.Reset()
	if err != nil {
		return err
	}
	return s.control.Flush()
}
