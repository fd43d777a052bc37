package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"tandem/internal/refusal"
)

// TestReadiness: ready means running, in step with the peers, and blocks keep coming; the reason is always given.
func TestReadiness(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	p := newProgress(15*time.Second, func() time.Time { return now })
	syncing, behind := true, int64(0)
	expect := func(reason string) {
		t.Helper()
		h := p.health()
		if h.Ready != (reason == "") {
			t.Errorf("ready is %v, want %v: %v", h.Ready, reason == "", h.Reasons)
		}
		if reason != "" && !strings.Contains(strings.Join(h.Reasons, ";"), reason) {
			t.Errorf("reasons %v, want %q", h.Reasons, reason)
		}
	}
	expect("starting")
	p.running(func() bool { return syncing }, func() int64 { return behind })
	expect("fetching blocks")
	syncing = false
	expect("no block yet")
	p.block(1, 999_000)
	expect("")
	if h := p.health(); h.Height != 1 || h.LagMillis != 1000 || !h.Consensus || !h.Live {
		t.Errorf("%+v", h)
	}
	now = now.Add(14 * time.Second)
	expect("")
	now = now.Add(2 * time.Second)
	expect("no new block for 16s")
	p.block(2, 1_016_000)
	expect("")
	behind = maxBehind + 1
	expect("behind the network")
	behind = 0
	p.stopping()
	expect("shutting down")
	p.fail(&HaltError{Cause: errors.New("disk on fire")})
	expect("disk on fire")
	if p.health().Live {
		t.Error("a halted node is not live")
	}
}

func TestWaitHeight(t *testing.T) {
	p := newProgress(time.Second, time.Now)
	done := make(chan error, 1)
	go func() { done <- p.wait(t.Context(), 3) }()
	for h := int64(1); h <= 3; h++ {
		p.block(h, h)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, ok := refusal.As(p.wait(ctx, 4))
	if !ok || r.Code != "height-not-reached" {
		t.Errorf("refusal %v, want height-not-reached", r)
	}
}
