package node

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSampleIsTheDefault: the documented sample says every key with its real default.
func TestSampleIsTheDefault(t *testing.T) {
	got, err := Parse("/home", []byte(Sample()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default("/home"), got); diff != "" {
		t.Errorf("the sample is not the default (-default +sample):\n%s", diff)
	}
}

// TestSampleNamesEveryKey: a key that the sample does not have is undocumented.
func TestSampleNamesEveryKey(t *testing.T) {
	dir := t.TempDir()
	if err := Default(dir).Save(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for _, line := range strings.Split(Sample(), "\n") {
		documented[keyOf(line)] = true
	}
	for _, line := range strings.Split(string(text), "\n") {
		if key := keyOf(line); !documented[key] {
			t.Errorf("%q is not in the sample", key)
		}
	}
}

func keyOf(line string) string {
	if strings.HasPrefix(line, "#") {
		return ""
	}
	key, _, _ := strings.Cut(line, "=")
	return strings.TrimSpace(key)
}

func TestConfigSurvivesSaving(t *testing.T) {
	cfg := Default(t.TempDir())
	cfg.Name = "node7"
	cfg.Roles = []string{RoleValidator, RoleLayer2}
	cfg.P2P.Peers = []string{"0123456789012345678901234567890123456789@127.0.0.1:1"}
	cfg.Consensus.Propose = Duration(123 * time.Millisecond)
	cfg.Layer2.Custody, cfg.Layer2.DefaultActor = "custody", "OPR-001"
	if err := cfg.Save(); err != nil {
		t.Fatal(err)
	}
	got, err := Load(cfg.Home)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cfg, got); diff != "" {
		t.Error(diff)
	}
}

// TestConfigRefusesMistakes: strict configuration; every message names what is wrong.
func TestConfigRefusesMistakes(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"colour = \"red\"", "colour"},
		{"[http]\nlisten = \"127.0.0.1:8080\"\nport = 5", "port"},
		{"[htp]\nlisten = \"x\"", "htp"},
		{"roles = [\"miner\"]", "miner"},
		{"roles = [\"layer2\", \"layer2\"]", "twice"},
		{"roles = [\"layer2\"]\n[http]\nlisten = \"\"", "http.listen"},
		{"[http]\nlisten = \"8080\"", "http.listen"},
		{"[http]\nmax_connections = 0", "http.max_connections"},
		{"[http]\ncommit_wait = \"5\"", "duration"},
		{"[http]\ncommit_wait = \"-5s\"", "duration"},
		{"[http]\ncommit_wait = \"26s\"", "http.commit_wait"},
		{"[p2p]\nlisten = \"here\"", "p2p.listen"},
		{"[p2p]\npeers = [\"127.0.0.1:26656\"]", "p2p.peers"},
		{"[rpc]\nlisten = \"0.0.0.0:26657\"", "rpc.listen"},
		{"[rpc]\nlisten = \"localhost:26657\"", "rpc.listen"}, // a name may resolve to anything
		{"[consensus]\nheartbeat = \"1ms\"", "consensus.heartbeat"},
		{"[mempool]\nsize = -1", "mempool.size"},
		{"[state]\nkeep = 1", "state.keep"},
		{"[layer2]\ndefault_actor = \"OPR-001\"", "layer2.default_actor"},
		{"[log]\nlevel = \"loud\"", "log.level"},
		{"[log]\nformat = \"xml\"", "log.format"},
		{"name = ", "line 1"},
		{"name = 5", "name"},
	} {
		_, err := Parse("/home", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want one that says %q", c.text, err, c.want)
		}
	}
}

func TestLoadWithoutHome(t *testing.T) {
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "testnet init") {
		t.Errorf("error %v does not say how to make a home", err)
	}
}

// FuzzParse: no configuration text panics, and what is accepted is accepted again after saving.
func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("roles = [\"validator\"]\n[p2p]\npeers = [\"0123456789012345678901234567890123456789@h:1\"]"))
	f.Add([]byte("[log]\nlevel = \"info\"\n[http]\ncommit_wait = \"1s\""))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := Parse(t.TempDir(), text)
		if err != nil {
			return
		}
		if err := cfg.Save(); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(cfg.Home); err != nil {
			t.Errorf("%q was accepted, but what was saved is not: %v", text, err)
		}
	})
}

func TestKeyFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "key.json")
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	if err := WriteKey(name, key); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v; want 0600", info.Mode(), err)
	}
	got, err := ReadKey(name)
	if err != nil || !got.Equal(key) {
		t.Errorf("read %v, %v", got, err)
	}
	if err := WriteKey(name, key); err == nil {
		t.Error("a key was overwritten")
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"seed": "A`, `"seed": "B`},     // another seed than the did says
		{`"seed": "AAAA`, `"seed": "AA`}, // too short
		{`"did"`, `"dad"`},
		{`{`, `[`},
	} {
		if err := os.WriteFile(name, []byte(strings.Replace(string(text), change[0], change[1], 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKey(name); err == nil {
			t.Errorf("after %q -> %q the file is still read", change[0], change[1])
		}
	}
}
