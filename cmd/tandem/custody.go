package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"tandem/client"
	"tandem/internal/refusal"
)

// custody speaks to a network as plain curl does: unsigned requests that a Layer 2 node signs with a key the actor has
// delegated to it. Nothing is checked here; whoever wants to check signs for himself.
type custody struct {
	urls    []string
	actor   string // "" is the node's default actor
	session string // "" is no session
	http    *http.Client
}

// maxAnswer bounds what is read of an answer, in bytes. A receipt of a long session is the largest.
const maxAnswer = 512 << 20

func newCustody(urls []string, actor string, wait time.Duration) *custody {
	return &custody{urls: urls, actor: actor, http: &http.Client{
		Timeout:       wait,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// send sends one request. A node that cannot be reached is passed over only if the request is a read: another node
// knows nothing of a session in custody here.
func (c *custody) send(ctx context.Context, method, target, contentType string, body []byte) (*http.Response, []byte, error) {
	var last error
	for _, url := range c.urls {
		r, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(url, "/")+target, bytes.NewReader(body))
		if err != nil {
			return nil, nil, err
		}
		if len(body) > 0 {
			r.Header.Set("Content-Type", contentType)
		}
		if c.actor != "" {
			r.Header.Set("Tandem-Actor", c.actor)
		}
		if c.session != "" {
			r.Header.Set("Tandem-Session", c.session)
		}
		if strings.HasSuffix(target, "/commit") {
			r.Header.Set("Prefer", "respond-async")
		}
		answer, err := c.http.Do(r)
		if err == nil {
			defer answer.Body.Close()
			var b []byte
			if b, err = io.ReadAll(io.LimitReader(answer.Body, maxAnswer)); err == nil {
				return answer, b, problemOf(answer, b)
			}
		}
		last = err
		if method != http.MethodGet || ctx.Err() != nil {
			break
		}
	}
	return nil, nil, fmt.Errorf("no answer from %s: %w", strings.Join(c.urls, ", "), last)
}

// problemOf returns the framework's refusal in an answer; a handler's own problem document is an answer, not a refusal.
func problemOf(answer *http.Response, body []byte) error {
	if answer.StatusCode < 400 || !strings.HasPrefix(answer.Header.Get("Content-Type"), refusal.ContentType) {
		return nil
	}
	r, ok := refusal.ParseProblem(body)
	if !ok {
		return nil
	}
	if entry, known := refusal.Lookup(r.Code); known && entry.Kind == refusal.KindAnswer {
		return nil
	}
	return r
}

// open opens a session that the node signs.
func (c *custody) open(ctx context.Context, life time.Duration) error {
	body := []byte("{}")
	if life > 0 {
		body = fmt.Appendf(nil, `{"expires_at":%d}`, time.Now().Add(life).UnixMilli())
	}
	answer, b, err := c.send(ctx, http.MethodPost, "/tandem/v1/sessions", "application/json", body)
	if err != nil {
		return err
	}
	var opened struct {
		Session string `json:"session_id"`
	}
	if err := json.Unmarshal(b, &opened); err != nil || answer.StatusCode != http.StatusCreated || !sessionName.MatchString(opened.Session) {
		return fmt.Errorf("opening a session: unexpected answer %s: %.200q", answer.Status, b)
	}
	c.session = opened.Session
	return nil
}

// one makes a request outside any session: a read, or a session of one step that the node commits before it answers. If
// Layer 1 does not decide in time, the outcome is committing and the answer says so.
func (c *custody) one(ctx context.Context, method, target, contentType string, body []byte) (*client.Answer, client.Outcome, error) {
	a, err := c.Call(ctx, method, target, contentType, body)
	if err != nil {
		return nil, client.Outcome{}, err
	}
	var o client.Outcome
	switch hash := a.Header.Get("Tandem-Transaction"); {
	case hash != "":
		o = client.Outcome{Status: "committed", TransactionHash: hash, Height: number(a.Header, "Tandem-Committed-Height")}
	case a.Status == http.StatusAccepted && json.Unmarshal(a.Body, &o) == nil && o.Status != "":
		return a, o, fmt.Errorf("the outcome is not known yet: session %s is %s", a.Session, o.Status)
	}
	return a, o, nil
}

// Call makes a step of the session.
func (c *custody) Call(ctx context.Context, method, target, contentType string, body []byte) (*client.Answer, error) {
	answer, b, err := c.send(ctx, method, target, contentType, body)
	if err != nil {
		return nil, err
	}
	h := answer.Header
	a := &client.Answer{
		Status:     answer.StatusCode,
		Header:     h,
		Body:       b,
		Session:    h.Get("Tandem-Session"),
		Sequence:   uint64(number(h, "Tandem-Sequence")),
		Transcript: h.Get("Tandem-Transcript"),
		Recorded:   answer.StatusCode < 400 && h.Get("Tandem-Session") != "",
		Height:     number(h, "Tandem-Height"),
		Originator: h.Get("Tandem-Originator"),
	}
	if at := number(h, "Tandem-Time"); at > 0 {
		a.Time = time.UnixMilli(at).UTC()
	}
	k, n, _ := strings.Cut(h.Get("Tandem-Endorsements"), "/")
	a.Endorsed, _ = strconv.Atoi(k)
	a.Of, _ = strconv.Atoi(n)
	return a, nil
}

func number(h http.Header, name string) int64 {
	n, _ := strconv.ParseInt(h.Get(name), 10, 64)
	return n
}

// CommitAsync hands the session to Layer 1, or asks again what became of that.
func (c *custody) CommitAsync(ctx context.Context) (client.Outcome, error) {
	return c.commit(ctx, "{}")
}

// CheckpointAsync hands what the session has to Layer 1, or asks again what became of that; the session stays open.
func (c *custody) CheckpointAsync(ctx context.Context) (client.Outcome, error) {
	return c.commit(ctx, `{"final":false}`)
}

func (c *custody) commit(ctx context.Context, body string) (client.Outcome, error) {
	answer, b, err := c.send(ctx, http.MethodPost, "/tandem/v1/sessions/"+c.session+"/commit", "application/json", []byte(body))
	if err != nil {
		return client.Outcome{}, err
	}
	var o client.Outcome
	if err := json.Unmarshal(b, &o); err != nil || o.Status == "" {
		return o, fmt.Errorf("committing: unexpected answer %s: %.200q", answer.Status, b)
	}
	return o, nil
}

// Abandon ends the session without commit.
func (c *custody) Abandon(ctx context.Context) error {
	answer, b, err := c.send(ctx, http.MethodDelete, "/tandem/v1/sessions/"+c.session, "", nil)
	if err == nil && answer.StatusCode >= 300 {
		err = fmt.Errorf("abandoning: unexpected answer %s: %.200q", answer.Status, b)
	}
	return err
}

// fetch reads one of the framework's resources from the first node that answers.
func fetch(ctx context.Context, urls []string, wait time.Duration, target string) ([]byte, error) {
	answer, b, err := newCustody(urls, "", wait).send(ctx, http.MethodGet, target, "", nil)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, errors.New(target + ": unexpected answer " + answer.Status)
	}
	return b, nil
}
