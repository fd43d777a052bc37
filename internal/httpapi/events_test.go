package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"tandem/internal/events"
	"tandem/internal/wire"
)

// sse is one block of a stream: an event, or only a place or a comment.
type sse struct {
	id, kind, data string
	comment        bool
	retry          bool
}

// reading is a stream being read.
type reading struct {
	t    testing.TB
	res  *http.Response
	in   *bufio.Reader
	last string // the id that a browser would come back with
}

// listen opens a stream; headers are pairs.
func (w *world) listen(query string, headers ...string) *reading {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	w.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", w.url+"/tandem/v1/events"+query, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(r)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = res.Body.Close() })
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Cache-Control") != "no-store" {
		body, _ := io.ReadAll(res.Body)
		w.t.Fatalf("the stream begins with %d %v %s", res.StatusCode, res.Header, body)
	}
	s := &reading{t: w.t, res: res, in: bufio.NewReader(res.Body)}
	if first, err := s.block(); err != nil || !first.retry || first.id == "" { // it stands before anything is published after this
		w.t.Fatalf("the stream begins with %+v, %v", first, err)
	} else if first.kind != "" {
		s.in = bufio.NewReader(io.MultiReader(strings.NewReader(first.text()), s.in))
	}
	return s
}

func (b sse) text() string {
	return "id: " + b.id + "\nevent: " + b.kind + "\ndata: " + b.data + "\n\n"
}

// block reads up to the next empty line.
func (s *reading) block() (b sse, err error) {
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return b, err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case line == "\n":
			if b.id != "" {
				s.last = b.id
			}
			return b, nil
		case name == "":
			b.comment = true
		case name == "id":
			b.id = value
		case name == "event":
			b.kind = value
		case name == "data":
			b.data = value
		case name == "retry":
			b.retry = true
		default:
			s.t.Errorf("the stream holds the line %q", line)
		}
	}
}

// event reads the next event, past heartbeats.
func (s *reading) event() sse {
	s.t.Helper()
	for {
		b, err := s.block()
		if err != nil {
			s.t.Fatalf("the stream ended: %v", err)
		}
		if b.kind != "" {
			return b
		}
	}
}

func (s *reading) close() { _ = s.res.Body.Close() }

func eventful(t testing.TB, keep int, change ...func(*Options)) (*world, *events.Log) {
	t.Helper()
	log := events.New(events.Options{Node: "0000abcd", Epoch: 5, Keep: keep})
	w := newWorld(t, append([]func(*Options){func(o *Options) { o.Events = log }}, change...)...)
	t.Cleanup(log.Close) // before the server closes
	return w, log
}

func numbered(kind events.Kind, session, actor string, n int) events.Event {
	return events.Event{Kind: kind, Session: session, Actor: actor, Data: fmt.Appendf(nil, `{"n":%d}`, n)}
}

// "resume with Last-Event-ID without gap or duplicate within a kept window": a reader that comes and goes.
func TestEventsResume(t *testing.T) {
	w, log := eventful(t, 100)
	log.Publish(numbered(events.Block, "", "", 0)) // before anybody listens
	s := w.listen("")
	n := 0
	for round := range 5 {
		for i := range 7 {
			log.Publish(numbered(events.Block, "", "", round*7+i+1))
		}
		for range 3 + round%2*8 { // fewer or more than were published this round, never more than there are
			if n == (round+1)*7 {
				break
			}
			n++
			if b := s.event(); b.data != fmt.Sprintf(`{"n":%d}`, n) || b.kind != "block" || b.id != fmt.Sprintf("0000abcd.5.%d", n+1) {
				t.Fatalf("event %d is %+v", n, b)
			}
		}
		s.close()
		if round%2 == 0 {
			s = w.listen("?after=0", "Last-Event-ID", s.last) // the header wins
		} else {
			s = w.listen("?after=" + s.last)
		}
	}
	if b := w.listen("?after=0").event(); b.data != `{"n":0}` {
		t.Errorf("all that is kept begins with %+v", b)
	}
}

// "says so honestly": what is kept no more, another run, another node.
func TestEventsGap(t *testing.T) {
	w, log := eventful(t, 4)
	for i := range 10 {
		log.Publish(numbered(events.Block, "", "", i+1))
	}
	for _, last := range []string{"0000abcd.5.3", "0000abcd.4.9", "11112222.5.9", "0000abcd.5.900"} {
		s := w.listen("?kind=conflict", "Last-Event-ID", last) // a gap is told whatever the filter
		b := s.event()
		var data map[string]string
		if err := json.Unmarshal([]byte(b.data), &data); err != nil || b.kind != "gap" || b.id != "0000abcd.5.6" || data["after"] != last {
			t.Errorf("after %s: %+v, %v", last, b, err)
		}
		s.close()
		s = w.listen("", "Last-Event-ID", b.id)
		if b := s.event(); b.data != `{"n":7}` {
			t.Errorf("after the gap: %+v", b)
		}
		s.close()
	}
	s := w.listen("", "Last-Event-ID", "0000abcd.5.6")
	if b := s.event(); b.kind != "block" || b.data != `{"n":7}` {
		t.Errorf("just within the window: %+v", b)
	}
}

func TestEventFilters(t *testing.T) {
	w, log := eventful(t, 100)
	one, two := wire.SessionID{1}.String(), wire.SessionID{2}.String()
	log.Publish(numbered(events.Block, "", "", 1))
	log.Publish(numbered(events.Session, one, "alice", 2))
	log.Publish(numbered(events.Session, two, "bob", 3))
	log.Publish(numbered(events.Conflict, two, "bob", 4))
	log.Publish(numbered(events.Node, "", "", 5))
	log.Publish(numbered(events.Block, one, "bob", 6))
	for query, want := range map[string]string{
		"":                                  "123456",
		"&session=" + one:                   "26",
		"&actor=bob":                        "346",
		"&kind=block":                       "16",
		"&kind=conflict,node":               "45",
		"&kind=conflict&kind=node":          "45",
		"&session=" + two + "&kind=session": "3",
		"&actor=bob&kind=block":             "6",
	} {
		s, got := w.listen("?after=0"+query), ""
		for range want {
			b := s.event()
			got += strings.Trim(b.data, `{"n:}`)
		}
		if got != want {
			t.Errorf("%s: events %s, want %s", query, got, want)
		}
		s.close()
	}
}

func TestEventsRefused(t *testing.T) {
	w, _ := eventful(t, 10)
	for _, query := range []string{
		"?kind=gap", "?kind=", "?kind=blocks", "?session=x", "?after=7", "?after=0000abcd.5.01", "?since=1", "?after=0&after=0", "?actor=a&actor=b",
	} {
		w.problem(query, w.do("GET", "/tandem/v1/events"+query, ""), 400, "bad-request")
	}
	w.problem("header", w.do("GET", "/tandem/v1/events", "", "Last-Event-ID", "nonsense"), 400, "bad-request")
	w.problem("method", w.do("POST", "/tandem/v1/events", "{}"), 405, "method-not-allowed")
	if rep := w.do("HEAD", "/tandem/v1/events", ""); rep.status != 200 || rep.text != "" || rep.header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD: %d %v", rep.status, rep.header)
	}
	without := newWorld(t)
	without.problem("no log", without.do("GET", "/tandem/v1/events", ""), 404, "not-found")
}

// A stream without events says that it is alive, and moves the place from which its reader would come back past events
// that the filter keeps from it.
func TestEventsHeartbeat(t *testing.T) {
	w, log := eventful(t, 4, func(o *Options) { o.Heartbeat = time.Millisecond })
	s := w.listen("?kind=conflict")
	for i := range 20 {
		log.Publish(numbered(events.Block, "", "", i))
	}
	for s.last != "0000abcd.5.20" {
		if b, err := s.block(); err != nil || !b.comment && b.kind != "gap" {
			t.Fatalf("instead of a heartbeat: %+v, %v", b, err)
		} else if b.kind == "gap" { // it was overtaken before its first look: honest too
			return
		}
	}
}

// The number of streams is bounded, a place is free again when its reader has gone, and streams end when the node stops.
func TestStreamsAreBounded(t *testing.T) {
	w, log := eventful(t, 10, func(o *Options) { o.MaxStreams = 2; o.Heartbeat = time.Millisecond })
	one, two := w.listen(""), w.listen("")
	w.problem("third", w.do("GET", "/tandem/v1/events", ""), 503, "overloaded")
	one.close()
	for rep := w.do("HEAD", "/tandem/v1/events", ""); rep.status != 200; rep = w.do("HEAD", "/tandem/v1/events", "") {
		if two.t.Context().Err() != nil {
			t.Fatal("the place is not given free")
		}
	}
	log.Publish(numbered(events.Node, "", "", 1))
	log.Close()
	if b := two.event(); b.kind != "node" { // what was published before the end arrives
		t.Errorf("the last event: %+v", b)
	}
	for {
		if _, err := two.block(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// A reader that takes nothing is dropped, and has held up nobody.
func TestStuckReaderIsDropped(t *testing.T) {
	w, log := eventful(t, 100_000, func(o *Options) { o.MaxStreams = 1; o.StreamStuck = 2 * time.Second })
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET /tandem/v1/events?after=0 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("HTTP/1.1 200"))
	if _, err := io.ReadFull(c, line); err != nil || string(line) != "HTTP/1.1 200" { // it has the place
		t.Fatalf("%q, %v", line, err)
	}
	big := events.Event{Kind: events.Block, Data: []byte(`"` + strings.Repeat("x", 8000) + `"`)}
	for range 2000 { // 16 MB: more than the sockets hold
		log.Publish(big)
	}
	if rep := w.do("HEAD", "/tandem/v1/events", ""); rep.status != 503 { // not GET: if it were answered, it would not end
		t.Errorf("%d while the one place is taken", rep.status)
	}
	for w.do("HEAD", "/tandem/v1/events", "").status != 200 {
		if t.Context().Err() != nil {
			t.Fatal("the stuck reader is not dropped")
		}
	}
}

// A stream outlives the deadlines of an ordinary request.
func TestStreamHasNoDeadline(t *testing.T) {
	log := events.New(events.Options{Node: "0000abcd", Epoch: 5})
	l := newLayer1(t, service())
	h, err := New(Options{Ledger: l, Runner: l.runner, Health: &health{}, Events: log, Heartbeat: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(h)
	srv.ReadTimeout, srv.WriteTimeout = 20*time.Millisecond, 20*time.Millisecond
	w := &world{t: t, addr: serve(t, srv, 0)}
	w.url = "http://" + w.addr
	t.Cleanup(log.Close)
	s := w.listen("")
	began := time.Now()
	for time.Since(began) < 200*time.Millisecond {
		if _, err := s.block(); err != nil {
			t.Fatalf("the stream ended after %v: %v", time.Since(began), err)
		}
	}
}

// GET .../conflict over HTTP: of a session that is fine, of one that was overtaken, of none.
func TestConflictPreview(t *testing.T) {
	w := newWorld(t)
	loser, winner := w.open(), w.open()
	if rep := w.do("PUT", "/notes/a", "mine", "Tandem-Session", loser); rep.status != 201 {
		t.Fatal(rep.text)
	}
	if rep := w.do("GET", "/notes/b", "", "Tandem-Session", loser); rep.status != 404 {
		t.Fatal(rep.text)
	}
	path := "/tandem/v1/sessions/" + loser + "/conflict"
	rep := w.do("GET", path, "")
	if rep.status != 200 || rep.json["conflict"] != false || rep.json["status"] != "open" || rep.json["first_difference"] != nil || len(rep.json["steps"].([]any)) != 1 {
		t.Errorf("of a session that is fine: %d %s", rep.status, rep.text)
	}
	if rep := w.do("PUT", "/notes/a", "theirs", "Tandem-Session", winner); rep.status != 201 || !strings.HasPrefix(rep.header.Get("Tandem-Hint"), `"`+loser+`";by=write;key="a/note/a"`) {
		t.Fatalf("%d %s, hint %q", rep.status, rep.text, rep.header.Get("Tandem-Hint"))
	}
	if rep := w.do("GET", "/notes/a", "", "Tandem-Session", w.open()); rep.status != 404 { // not committed
		t.Fatal(rep.text)
	}
	if rep := w.do("GET", path, ""); rep.status != 200 || rep.json["conflict"] != false {
		t.Errorf("%d %s", rep.status, rep.text)
	}
	w.problem("no session", w.do("GET", "/tandem/v1/sessions/"+wire.SessionID{9}.String()+"/conflict", ""), 404, "session-not-found")
	w.problem("no id", w.do("GET", "/tandem/v1/sessions/x/conflict", ""), 404, "session-not-found")
	w.problem("method", w.do("POST", path, "{}"), 405, "method-not-allowed")
}
