package testnet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tandem/internal/testnet"
	"tandem/node"
)

// binary builds cmd/tandem once, as it is shipped: without cgo.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tandem-binary-")
	if err != nil {
		return "", err
	}
	binaryDir = dir
	name := filepath.Join(dir, "tandem")
	build := exec.Command("go", "build", "-o", name, "tandem/cmd/tandem")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return name, nil
})

var binaryDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if binaryDir != "" {
		_ = os.RemoveAll(binaryDir)
	}
	os.Exit(code)
}

// processes is a network whose nodes are processes of their own.
type processes struct {
	t      testing.TB
	dir    string
	binary string
	nodes  []*process
}

type process struct {
	cfg  node.Config
	log  string
	mu   sync.Mutex
	cmd  *exec.Cmd  // guarded by mu; nil while it does not run
	done chan error // guarded by mu; holds the exit once
}

// initProcesses writes a network's homes with the binary itself.
func initProcesses(t testing.TB, validators, layer2 int) *processes {
	t.Helper()
	name, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	p := &processes{t: t, dir: t.TempDir(), binary: name}
	out, err := exec.Command(name, "testnet", "init", "--validators", fmt.Sprint(validators), "--layer2", fmt.Sprint(layer2),
		"--out", p.dir, "--base-port", "0", "--custody", "--json").Output()
	if err != nil {
		t.Fatalf("testnet init: %v: %s", err, out)
	}
	var said struct {
		Nodes []struct{ Home, HTTP string }
	}
	if err := json.Unmarshal(out, &said); err != nil || len(said.Nodes) != validators+layer2 {
		t.Fatalf("testnet init printed %s (%v)", out, err)
	}
	configs, err := testnet.LoadAll(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range configs {
		p.nodes = append(p.nodes, &process{cfg: cfg, log: filepath.Join(cfg.Home, "log")})
	}
	t.Cleanup(func() {
		for _, n := range p.nodes {
			n.kill()
		}
		if t.Failed() {
			for _, n := range p.nodes {
				text, _ := os.ReadFile(n.log)
				t.Logf("log of %s:\n%s", n.cfg.Name, text[max(0, len(text)-3000):])
			}
		}
	})
	return p
}

func (p *processes) start(i int) {
	p.t.Helper()
	n := p.nodes[i]
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(p.binary, "start", "--home", n.cfg.Home)
	cmd.Stderr, cmd.Stdout = log, log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	n.mu.Lock()
	n.cmd, n.done = cmd, done
	n.mu.Unlock()
}

// kill is kill -9.
func (n *process) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		_ = n.cmd.Process.Kill() // it may have ended
		<-n.done
		n.cmd = nil
	}
}

// ended waits for the process's end and returns its exit code.
func (n *process) ended(ctx context.Context) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.done:
		code := n.cmd.ProcessState.ExitCode()
		n.cmd = nil
		return code, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (n *process) url() string { return "http://" + n.cfg.HTTP.Listen }

func (p *processes) urls() []string {
	var urls []string
	for _, n := range p.nodes {
		urls = append(urls, n.url())
	}
	return urls
}

// ready waits until every node says it is; a process boundary leaves nothing but asking.
func (p *processes) ready(ctx context.Context) {
	p.t.Helper()
	for _, n := range p.nodes {
		if err := until(ctx, func() (bool, error) {
			a, err := web{n.url()}.call(ctx, "GET", "/readyz", "", nil)
			if err == nil && a.Status != 200 {
				err = errors.New(a.String())
			}
			return err == nil, err
		}); err != nil {
			p.t.Fatalf("%s is not ready: %v", n.cfg.Name, err)
		}
	}
}

// height is the greatest that any node shows.
func (p *processes) height(ctx context.Context) int64 {
	p.t.Helper()
	var height int64
	for _, n := range p.nodes {
		var s struct{ Height int64 }
		a, err := web{n.url()}.want(ctx, 200, "GET", "/tandem/v1/status", "", nil)
		if err = errors.Join(err, json.Unmarshal(a.Body, &s)); err != nil {
			p.t.Fatal(err)
		}
		height = max(height, s.Height)
	}
	return height
}

// check waits until all nodes have the newest height and verifies the world; want must be in the ledger once each.
func (p *processes) check(ctx context.Context, want []string) {
	p.t.Helper()
	height := p.height(ctx)
	for _, n := range p.nodes {
		if err := until(ctx, func() (bool, error) {
			a, err := web{n.url()}.call(ctx, "GET", fmt.Sprintf("/tandem/v1/blocks/%d", height), "", nil)
			return err == nil && a.Status == 200, err
		}); err != nil {
			p.t.Fatalf("%s does not reach height %d: %v", n.cfg.Name, height, err)
		}
	}
	sessions, err := testnet.CheckWorld(ctx, p.urls(), height)
	if err != nil {
		p.t.Fatal(err)
	}
	count := make(map[string]int)
	for _, s := range sessions {
		count[s]++
		if count[s] > 1 {
			p.t.Errorf("session %s is in the ledger %d times", s, count[s])
		}
	}
	for _, s := range want {
		if count[s] != 1 {
			p.t.Errorf("session %s was acknowledged as committed and is in the ledger %d times", s, count[s])
		}
	}
}

// load keeps making workflows until ctx ends. What was acknowledged is collected: committed sessions, and sessions whose steps
// were all acknowledged while the commit was not.
type load struct {
	mu        sync.Mutex
	committed []string
	prepared  map[string]bool
}

func (l *load) run(ctx context.Context, w web) {
	for ctx.Err() == nil {
		session, _, err := w.prepare(ctx)
		if err != nil { // a node is down; nothing was promised
			pause(ctx, 50*time.Millisecond)
			continue
		}
		l.mu.Lock()
		l.prepared[session] = true
		l.mu.Unlock()
		if _, err := w.commit(ctx, session); err != nil {
			continue // outcome unknown: it stays among the prepared
		}
		l.mu.Lock()
		l.committed = append(l.committed, session)
		delete(l.prepared, session)
		l.mu.Unlock()
	}
}

// pause lets time pass: the moment of a fault, or the wait between two tries of a client. Nothing is waited for with it.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.committed)
}

// TestKillNine: DESIGN, "kill -9 of every process at random moments under load, restart, same state root everywhere". No
// acknowledged commit is lost or made twice, and no acknowledged step: sessions that were ready to be committed when
// their node was killed can be committed after its return.
func TestKillNine(t *testing.T) {
	t.Parallel()
	p := initProcesses(t, 4, 1)
	ctx := within(t, 3*time.Minute)
	for i := range p.nodes {
		p.start(i)
	}
	p.ready(ctx)

	const seed = 20261123
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	layer2 := web{p.nodes[4].url()}
	l := &load{prepared: make(map[string]bool)}
	working, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() { l.run(working, layer2) })
	}
	moment := func(most time.Duration) { pause(ctx, time.Duration(random.Int64N(int64(most)))) }
	begin := time.Now()
	for round := range 8 {
		before := l.count()
		if err := until(ctx, func() (bool, error) { return l.count() > before, nil }); err != nil {
			t.Fatalf("round %d: no commit: %v", round, err)
		}
		moment(300 * time.Millisecond)
		victims := []int{random.IntN(5)}
		switch {
		case round == 3:
			victims = []int{4} // the Layer 2 node for sure
		case round == 6:
			victims = []int{0, 1, 2, 3, 4} // all at once
		}
		t.Logf("round %d: kill -9 of %v, %s since the last", round, victims, time.Since(begin).Round(time.Millisecond))
		begin = time.Now()
		for _, i := range victims {
			p.nodes[i].kill()
		}
		moment(300 * time.Millisecond)
		for _, i := range victims {
			p.start(i)
		}
	}
	t.Logf("all started again after %s", time.Since(begin).Round(time.Millisecond))
	p.ready(ctx)
	t.Logf("all ready after %s", time.Since(begin).Round(time.Millisecond))
	stop()
	workers.Wait()
	for session := range l.prepared {
		a, err := layer2.commit(ctx, session)
		if err != nil {
			t.Errorf("session %s, whose steps were acknowledged: %v (%s)", session, err, a)
			continue
		}
		l.committed = append(l.committed, session)
	}
	t.Logf("%d sessions committed after %s", len(l.committed), time.Since(begin).Round(time.Millisecond))
	p.check(ctx, l.committed)
	t.Logf("verified after %s", time.Since(begin).Round(time.Millisecond))

	// SIGTERM ends each within 5 s, in order: exit code 0.
	for _, n := range p.nodes {
		if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	end, cancel := context.WithTimeout(t.Context(), node.StopTime)
	defer cancel()
	for _, n := range p.nodes {
		if code, err := n.ended(end); err != nil || code != 0 {
			t.Errorf("%s after SIGTERM: exit %d, %v", n.cfg.Name, code, err)
		}
	}
}

// TestExit70: a node that cannot write what it must, or whose stores contradict each other, ends with exit code 70 and says why.
func TestExit70(t *testing.T) {
	t.Parallel()
	p := initProcesses(t, 1, 0)
	ctx := within(t, time.Minute)
	n := p.nodes[0]
	p.start(0)
	p.ready(ctx)
	// A running validator can no longer note down what it signs, so it must not sign. CometBFT calls that a consensus
	// failure and would go on as a corpse.
	state := filepath.Join(n.cfg.Home, "data", "priv_validator_state.json")
	if err := errors.Join(os.Rename(state, state+".old"), os.MkdirAll(filepath.Join(state, "full"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if code, err := n.ended(ctx); err != nil || code != 70 {
		t.Errorf("a validator that cannot note down its votes: exit %d, %v; want 70", code, err)
	}
	n.says(t, "consensus engine has failed")

	// It can again, but its blocks are gone: the state is ahead of them.
	if err := errors.Join(os.RemoveAll(state), os.Rename(state+".old", state)); err != nil {
		t.Fatal(err)
	}
	for _, db := range []string{"blockstore.db", "state.db"} {
		if err := os.RemoveAll(filepath.Join(n.cfg.Home, "data", db)); err != nil {
			t.Fatal(err)
		}
	}
	p.start(0)
	if code, err := n.ended(ctx); err != nil || code != 70 {
		t.Errorf("a node whose blocks are gone: exit %d, %v; want 70", code, err)
	}
	n.says(t, "in doubt")
}

func (n *process) says(t testing.TB, words string) {
	t.Helper()
	text, err := os.ReadFile(n.log)
	if err != nil || !strings.Contains(string(text), words) {
		t.Errorf("%s did not say %q (%v):\n%s", n.cfg.Name, words, err, text)
	}
}

// TestDev: one line on standard output, quiet otherwise; the network is kept with --home and resumed; a port in use is said in words.
func TestDev(t *testing.T) {
	t.Parallel()
	name, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(t.TempDir(), "network")
	temp := t.TempDir()
	ctx := within(t, time.Minute)
	dev := func(args ...string) (*exec.Cmd, *bytes.Buffer, web) {
		cmd := exec.CommandContext(ctx, name, append([]string{"dev", "--http", "127.0.0.1:0"}, args...)...)
		cmd.Env = append(os.Environ(), "TMPDIR="+temp)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		stderr := new(bytes.Buffer)
		cmd.Stderr = stderr
		begin := time.Now()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 200)
		n, err := out.Read(line)
		url, ok := strings.CutPrefix(string(line[:n]), "ready ")
		if !ok || err != nil {
			t.Fatalf("standard output %q, %v\n%s", line[:n], err, stderr)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("ready after %s, promised are 10 s", took)
		}
		return cmd, stderr, web{strings.TrimSpace(url)}
	}
	stop := func(cmd *exec.Cmd) {
		t.Helper()
		begin := time.Now()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
		if took := time.Since(begin); took > node.StopTime {
			t.Errorf("SIGTERM took %s", took)
		}
	}

	cmd, _, w := dev("--home", home)
	session, committed := w.workflow(t, ctx)
	open, pkg, err := w.prepare(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stop(cmd)
	cmd, _, w = dev("--home", home)
	a, err := w.commit(ctx, session)
	if err != nil || a.Height != committed.Height || a.Hash != committed.Hash {
		t.Errorf("after the return the commit is %s, it was %s (%v)", a, committed, err)
	}
	if a, err := w.want(ctx, 200, "GET", "/packages/"+pkg, open, nil); err != nil {
		t.Errorf("the open session after the return: %s, %v", a, err)
	}
	if _, err := w.commit(ctx, open); err != nil {
		t.Error(err)
	}
	stop(cmd)

	cmd, stderr, w := dev("--layer2", "2")
	clash := exec.CommandContext(ctx, name, "dev", "--http", strings.TrimPrefix(w.url, "http://"))
	said, err := clash.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(said), "address already in use") {
		t.Errorf("a port in use: %v, %s", err, said)
	}
	stop(cmd)
	if n := strings.Count(stderr.String(), "[layer2]"); n != 2 {
		t.Errorf("standard error names %d Layer 2 nodes, want 2:\n%s", n, stderr)
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) != 0 {
		t.Errorf("dev left %v in the temporary directory (%v)", left, err)
	}
}
