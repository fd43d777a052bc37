package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/client"
	"tandem/internal/refusal"
	"tandem/node"
)

func TestReadData(t *testing.T) {
	stdin := strings.NewReader("from stdin")
	for data, want := range map[string]string{"": "", "{}": "{}", "@-": "from stdin", "@testdata/live/own.txtar": "# Without --url"} {
		got, err := readData(data, stdin)
		if err != nil || !strings.HasPrefix(string(got), want) {
			t.Errorf("%q: %q, %v", data, got, err)
		}
	}
	if _, err := readData("@no/such/file", stdin); err == nil {
		t.Error("a missing file is read")
	}
	if _, err := readData("@-", io.LimitReader(endless{}, 2<<20)); err == nil {
		t.Error("a huge body is read")
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// What is refused is explained with code, cause and remedy; a halt ends with 70; what the user interrupts says so.
func TestExplain(t *testing.T) {
	for _, c := range []struct {
		err  error
		want []string
	}{
		{errors.New("plain"), []string{"tandem: plain\n"}},
		{fmt.Errorf("open: %w", refusal.New(refusal.KeyNotRegistered, "no actor has it").With("key", "did:key:z")),
			[]string{"tandem: open: key-not-registered: no actor has it\n", "\n  code:   key-not-registered\n", "\n  cause:  ", "\n  remedy: ", "\n  key: \"did:key:z\"\n"}},
		{fmt.Errorf("scan: %w", &client.Problem{Code: "new-code", Detail: "why", Fields: map[string]any{"b": 2, "a": strings.Repeat("x", 1000)}}),
			[]string{"tandem: scan: new-code: why\n", "  code:   new-code\n  a: \"xxx", "x...\n  b: 2\n"}},
		{fmt.Errorf("call: %w", context.Canceled), []string{"tandem: interrupted\n"}},
	} {
		var b bytes.Buffer
		explain(&b, c.err)
		for _, want := range c.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%v is explained as %q, which lacks %q", c.err, b.String(), want)
			}
		}
	}
}

func TestExitCodes(t *testing.T) {
	if exitHalt != 70 {
		t.Errorf("a halt exits with %d", exitHalt)
	}
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, exitOK},
		{errors.New("x"), exitFailed},
		{fmt.Errorf("x: %w", misused("y")), exitUsage},
		{fmt.Errorf("node 3: %w", &node.HaltError{Cause: errors.New("disk")}), exitHalt},
	} {
		if got := exitCode(c.err, true); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
		if c.err != nil && exitCode(c.err, false) != exitUsage {
			t.Errorf("%v before the command ran is no usage error", c.err)
		}
	}
}

// Two processes cannot go on with one session at once.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "session.lock")
	unlock, err := lockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockFile(path); err == nil {
		t.Fatal("the lock was given twice")
	}
	unlock()
	again, err := lockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// A step in custody goes to one node: if that does not answer, another one is not asked, since the outcome is unknown.
// A read is.
func TestCustodyAsksAnotherNodeForReadsOnly(t *testing.T) {
	var asked []string
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method)
		w.Header().Set("Tandem-Height", "7")
		fmt.Fprint(w, "{}")
	}))
	defer good.Close()
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hijacked, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = hijacked.Close()
		}
	}))
	defer bad.Close()
	c := newCustody([]string{bad.URL, good.URL}, "", 5*time.Second)
	if _, _, err := c.one(t.Context(), "POST", "/packages", "application/json", []byte("{}")); err == nil {
		t.Error("a write without an answer succeeded")
	}
	a, _, err := c.one(t.Context(), "GET", "/packages", "", nil)
	if err != nil || a.Height != 7 {
		t.Errorf("read: %+v, %v", a, err)
	}
	if strings.Join(asked, " ") != "GET" {
		t.Errorf("the second node was asked for %v", asked)
	}
}
