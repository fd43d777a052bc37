package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"tandem/client"
	"tandem/internal/bench"
	"tandem/internal/testnet"
	"tandem/node"
)

var update = flag.Bool("update", false, "rewrite docs/cli.md")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tandem": main, "jq": jq, "curl": curl})
}

// jq stands in for jq -r .NAME, which is all that our documentation asks of it, where jq is not installed.
func jq() {
	var object map[string]any
	if len(os.Args) != 3 || os.Args[1] != "-r" || json.NewDecoder(os.Stdin).Decode(&object) != nil {
		os.Exit(2)
	}
	fmt.Println(object[strings.TrimPrefix(os.Args[2], ".")])
}

// curl stands in for as much of curl as our documentation asks of it: -s, -sf, -X, -H, -d and a URL.
func curl() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	method, url, body, header, failing := "", "", "", http.Header{}, false
	for args := os.Args[1:]; len(args) > 0; args = args[1:] {
		switch args[0] {
		case "-s":
		case "-sf":
			failing = true
		case "-X", "-H", "-d":
			if len(args) < 2 {
				fail(fmt.Errorf("curl: %s what?", args[0]))
			}
			switch args[0] {
			case "-X":
				method = args[1]
			case "-H":
				name, value, _ := strings.Cut(args[1], ": ")
				header.Set(name, value)
			case "-d":
				body = args[1]
				header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			args = args[1:]
		default:
			url = args[0]
		}
	}
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	fail(err)
	request.Header = header
	answer, err := http.DefaultClient.Do(request)
	fail(err)
	if failing && answer.StatusCode >= 400 {
		fail(errors.New(answer.Status))
	}
	_, err = io.Copy(os.Stdout, answer.Body)
	fail(err)
}

// Commands that need no network: each script in testdata/script is a transcript.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: home(), Cmds: commands})
}

// Commands against a live network of four validators and one Layer 2 node in this process.
func TestLiveScripts(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o := bench.DemoNetwork(4, 1)
	o.Custody, o.DefaultActor = true, "OPR-001"
	network, err := testnet.Start(ctx, testnet.StartOptions{Options: o})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the scripts, which run in parallel
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/live",
		Setup: home("TANDEM_URL="+network.URLs()[0], "GENESIS="+testnet.GenesisFile(network.Dir())),
		Cmds:  commands,
	})
}

func forger(ts *testscript.TestScript, _ bool, _ []string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	network, err := testnet.Start(ctx, testnet.StartOptions{Options: bench.DemoNetwork(1, 3), Dir: ts.MkAbs("forged")})
	ts.Check(err)
	ts.Defer(func() { _ = network.Close() })
	var genesis struct {
		ChainID string `json:"chain_id"`
	}
	raw, err := os.ReadFile(testnet.GenesisFile(network.Dir()))
	ts.Check(err)
	ts.Check(json.Unmarshal(raw, &genesis))
	var keys []ed25519.PrivateKey
	for i, name := range []string{"FORGERKEY", "ACCOMPLICEKEY"} {
		cfg := network.Config(network.Layer2()[i])
		key, err := node.ReadKey(filepath.Join(cfg.Home, cfg.Layer2.Key))
		ts.Check(err)
		did, err := client.KeyFromSeed(key.Seed())
		ts.Check(err)
		ts.Setenv(name, did.DID())
		keys = append(keys, key)
	}
	behind, err := url.Parse(network.URL(network.Layer2()[0]))
	ts.Check(err)
	lie := testnet.ForgeAnswer(keys[0], testnet.Endorsing(genesis.ChainID, keys[1]))
	front := httptest.NewServer(lie.Front(httputil.NewSingleHostReverseProxy(behind)))
	ts.Defer(front.Close)
	ts.Setenv("FORGER", front.URL)
	ts.Setenv("HONEST", network.URL(network.Layer2()[2]))
	ts.Setenv("FORGED", testnet.GenesisFile(network.Dir()))
}

// home gives each script a client's home of its own.
func home(vars ...string) func(*testscript.Env) error {
	return func(env *testscript.Env) error {
		env.Vars = append(env.Vars, "TANDEM_HOME="+filepath.Join(env.WorkDir, "home"))
		docs, err := filepath.Abs("../../docs")
		env.Vars = append(append(env.Vars, "DOCS="+docs, "REPOSITORY="+filepath.Dir(docs)), vars...)
		return err
	}
}

// freePorts returns the first of 100 loopback ports that are free now, below those that systems give to outgoing connections.
func freePorts(ts *testscript.TestScript) int {
	free := func(base int) bool {
		for port := base; port < base+100; port++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				return false
			}
			ts.Check(l.Close())
		}
		return true
	}
	for base := 11000 + os.Getpid()%100*100; base < 32000; base += 100 {
		if free(base) {
			return base
		}
	}
	ts.Fatalf("no 100 free ports")
	return 0
}

// commands are what the scripts can do beside testscript's own.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	// capture NAME REGEXP FILE sets a variable to the regular expression's first group.
	"capture": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) != 3 {
			ts.Fatalf("usage: capture NAME REGEXP FILE")
		}
		text := ts.ReadFile(args[2])
		m := regexp.MustCompile(args[1]).FindStringSubmatch(text)
		if len(m) < 2 {
			ts.Fatalf("%s has no match of %s: %s", args[2], args[1], text)
		}
		ts.Setenv(args[0], m[1])
	},
	// flip FILE OLD=NEW replaces the first OLD in a file.
	"flip": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) != 2 {
			ts.Fatalf("usage: flip FILE OLD=NEW")
		}
		old, replacement, _ := strings.Cut(args[1], "=")
		text := ts.ReadFile(args[0])
		if !strings.Contains(text, old) {
			ts.Fatalf("%s does not contain %q", args[0], old)
		}
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, old, replacement, 1)), 0o644))
	},
	// snippet PAGE FILE writes the first example of an HTML page to a file.
	"snippet": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) != 2 {
			ts.Fatalf("usage: snippet PAGE FILE")
		}
		_, rest, _ := strings.Cut(ts.ReadFile(args[0]), "<pre>")
		text, _, ok := strings.Cut(rest, "</pre>")
		if !ok {
			ts.Fatalf("%s has no example", args[0])
		}
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(html.UnescapeString(text)+"\n"), 0o644))
	},
	// blocks PAGE NAME writes the shell examples of a Markdown page to NAME1.sh, NAME2.sh, ..., for the network under test:
	// with its address, and without building the binary, which is on the path already.
	"blocks": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) != 2 {
			ts.Fatalf("usage: blocks PAGE NAME")
		}
		parts := strings.Split(ts.ReadFile(args[0]), "```sh\n")
		if len(parts) < 2 {
			ts.Fatalf("%s has no shell examples", args[0])
		}
		for i, part := range parts[1:] {
			text, _, ok := strings.Cut(part, "```")
			if !ok {
				ts.Fatalf("%s: example %d does not end", args[0], i+1)
			}
			var lines []string
			for line := range strings.Lines(strings.ReplaceAll(text, "http://127.0.0.1:8080", ts.Getenv("TANDEM_URL"))) {
				if !strings.HasPrefix(line, "go build ") {
					lines = append(lines, line)
				}
			}
			script := strings.Join(lines, "")
			if strings.Contains(script, "--base-port 9000") {
				base := freePorts(ts)
				script = regexp.MustCompile(`\b90[0-9]{2}\b`).ReplaceAllStringFunc(script, func(port string) string {
					n, err := strconv.Atoi(port)
					ts.Check(err)
					return strconv.Itoa(base + n - 9000)
				})
			}
			ts.Check(os.WriteFile(ts.MkAbs(fmt.Sprintf("%s%d.sh", args[1], i+1)), []byte(script), 0o644))
		}
	},
	// forger starts a network of three Layer 2 nodes, before one of which a liar sits that signs invented answers with the node's
	// key and has them endorsed with the second one's, and sets FORGER, HONEST (addresses), FORGERKEY, ACCOMPLICEKEY (did:key) and
	// FORGED (the network's genesis file).
	"forger": forger,
	// exits CODE COMMAND... checks the exact exit code of a tandem command line.
	"exits": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) < 2 {
			ts.Fatalf("usage: exits CODE COMMAND")
		}
		err := ts.Exec(args[1], args[2:]...)
		code := "0"
		if err != nil {
			code = strings.TrimPrefix(err.Error(), "exit status ")
		}
		if code != args[0] {
			ts.Fatalf("%s exited with %s, want %s", strings.Join(args[1:], " "), code, args[0])
		}
	},
}

// docs/cli.md is what the command tree says about itself.
func TestManualIsCurrent(t *testing.T) {
	var b bytes.Buffer
	root, _ := newRootCommand()
	if err := writeManual(&b, root); err != nil {
		t.Fatal(err)
	}
	const path = "../../docs/cli.md"
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("docs/cli.md is not what the program says (go test ./cmd/tandem -update rewrites it):\n%s", cmp.Diff(string(want), b.String()))
	}
}

// Every command explains itself, and its flags do.
func TestEveryCommandIsDocumented(t *testing.T) {
	root, _ := newRootCommand()
	for _, cmd := range tree(root) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short description %q", cmd.CommandPath(), cmd.Short)
		}
		for _, f := range flagsOf(cmd) {
			if f.Usage == "" {
				t.Errorf("%s: flag --%s has no description", cmd.CommandPath(), f.Name)
			}
		}
	}
}
