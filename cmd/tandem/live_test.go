package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tandem/internal/bench"
	"tandem/internal/refusal"
	"tandem/internal/testnet"
)

// liveNetwork starts a demo network of four validators and one Layer 2 node.
func liveNetwork(t *testing.T) *testnet.Network {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	network, err := testnet.Start(ctx, testnet.StartOptions{Options: bench.DemoNetwork(4, 1), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	return network
}

// person runs command lines in this process, with a home of their own.
type person struct {
	t    *testing.T
	home string
	url  string
}

// does runs a command line that must exit with the code, and returns what it printed.
func (p *person) does(code int, args ...string) (stdout, stderr string) {
	p.t.Helper()
	var out, errs bytes.Buffer
	args = append(args, "--home", p.home, "--url", p.url)
	if got := execute(p.t.Context(), args, strings.NewReader(""), &out, &errs); got != code {
		p.t.Fatalf("tandem %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// With two of four validators down Layer 1 stands still: steps still answer, a commit says that it waits, and the same
// command completes it when the validators are back.
func TestCommitWaitsForLayer1(t *testing.T) {
	network := liveNetwork(t)
	p := &person{t: t, home: t.TempDir(), url: network.URLs()[0]}
	p.does(exitOK, "session", "open", "--demo-key", "OPR-001")
	down := []int{0, 1}
	for _, i := range down {
		if err := network.Stop(i); err != nil {
			t.Fatal(err)
		}
	}
	p.does(exitOK, "call", "GET", "/suppliers", "--session", "current")
	_, stderr := p.does(exitFailed, "session", "commit", "--wait", "1s")
	if !strings.Contains(stderr, "Layer 1 has not put it into a block") {
		t.Errorf("the commit does not say that it waits: %s", stderr)
	}
	if out, _ := p.does(exitOK, "session", "show"); !strings.Contains(out, `"status": "committing"`) {
		t.Errorf("the session is not committing: %s", out)
	}
	for _, i := range down {
		if err := network.Start(i); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := p.does(exitOK, "session", "commit", "--wait", "60s")
	if !strings.HasPrefix(out, "committed height ") {
		t.Errorf("the commit printed %q", out)
	}
}

// A step that a node refused does not stand in the way of the next command line.
func TestNextCallAfterARefusal(t *testing.T) {
	network := liveNetwork(t)
	node, err := url.Parse(network.URLs()[0])
	if err != nil {
		t.Fatal(err)
	}
	var refusing atomic.Bool
	through := httputil.NewSingleHostReverseProxy(node)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refusing.Load() && r.Header.Get("Tandem-Session") != "" {
			refusal.New(refusal.BodyTooLarge, "not today").Write(w)
			return
		}
		through.ServeHTTP(w, r)
	}))
	defer front.Close()
	p := &person{t: t, home: t.TempDir(), url: front.URL}
	p.does(exitOK, "session", "open", "--demo-key", "OPR-001")
	refusing.Store(true)
	_, stderr := p.does(exitFailed, "call", "GET", "/suppliers", "--session", "current", "--wait", "300ms")
	if !strings.Contains(stderr, "not today") {
		t.Errorf("the refusal is not told: %s", stderr)
	}
	refusing.Store(false)
	p.does(exitOK, "call", "GET", "/couriers", "--session", "current")
	p.does(exitOK, "session", "commit")
	if out, _ := p.does(exitOK, "session", "show"); !strings.Contains(out, `"sequence": 1,`) || strings.Contains(out, "/suppliers") {
		t.Errorf("the refused step is part of the session: %s", out)
	}
}
