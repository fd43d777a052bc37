package node

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// Config says what one node is and how it runs. It is the file config.toml in the node's home directory; Load refuses
// keys it does not know, so that a typing mistake is an error and not a silent default. [Sample] documents every key.
type Config struct {
	// Home is the directory that holds everything of the node. It is not in the file: it is where the file lies.
	Home string `toml:"-"`
	// Name is shown to peers and in logs. Default "node".
	Name string `toml:"name"`
	// Roles are RoleValidator, RoleLayer2, both or none (a node that only follows the ledger and serves reads).
	Roles []string `toml:"roles"`
	// Genesis is the genesis file, relative to Home. Default "genesis.json".
	Genesis string `toml:"genesis"`

	HTTP      HTTPConfig      `toml:"http"`
	P2P       P2PConfig       `toml:"p2p"`
	Consensus ConsensusConfig `toml:"consensus"`
	Mempool   MempoolConfig   `toml:"mempool"`
	State     StateConfig     `toml:"state"`
	Exec      ExecConfig      `toml:"exec"`
	Layer2    Layer2Config    `toml:"layer2"`
	RPC       RPCConfig       `toml:"rpc"`
	Log       LogConfig       `toml:"log"`
}

// The roles a node may have. A role is a key: a validator has a validator key in the genesis, a Layer 2 node's key is on the
// ledger's list of Layer 2 nodes.
const (
	RoleValidator = "validator"
	RoleLayer2    = "layer2"
)

// HTTPConfig is the node's HTTP surface.
type HTTPConfig struct {
	// Listen is host:port. Empty: the node serves no HTTP. Port 0 takes a free one, see [Node.URL].
	Listen string `toml:"listen"`
	// MaxConnections bounds the connections open at once. Default 4096.
	MaxConnections int `toml:"max_connections"`
	// CommitWait is how long a commit waits for Layer 1 before it answers 202. Default 10s.
	CommitWait Duration `toml:"commit_wait"`
}

// P2PConfig is the connection of the nodes of one network with each other.
type P2PConfig struct {
	// Listen is host:port for the consensus engine's connections. Default "127.0.0.1:26656".
	Listen string `toml:"listen"`
	// Peers are id@host:port, one for each other node. There is no peer discovery: who is not named is not dialled.
	Peers []string `toml:"peers"`
	// MaxInbound bounds connections from nodes that are not named in Peers. Default 40.
	MaxInbound int `toml:"max_inbound"`
}

// ConsensusConfig tunes Layer 1. All validators should have the same values. Zero durations are chosen by the number
// of validators, see [ConsensusConfig.tuned].
type ConsensusConfig struct {
	// Propose is how long a validator waits for a proposal before it votes for none. Default by number of validators. A
	// proposer that has no session to propose waits a fifth of it for one.
	Propose Duration `toml:"propose"`
	// GossipSleep is the pause between two looks for what a peer lacks. Default by number of validators.
	GossipSleep Duration `toml:"gossip_sleep"`
	// Heartbeat is the longest time without a block. Default 5s; 1s to 1m.
	Heartbeat Duration `toml:"heartbeat"`
}

// MempoolConfig bounds the transactions that wait for a block.
type MempoolConfig struct {
	// Size is the number of transactions. Default 10000.
	Size int `toml:"size"`
	// Bytes is their total size. Default 256 MiB.
	Bytes int64 `toml:"bytes"`
	// PerActor bounds the transactions of one actor. Default 0: Layer 1's own default.
	PerActor int `toml:"per_actor"`
}

// StateConfig is about the ledger's state on this node's disk.
type StateConfig struct {
	// Keep is the number of past versions kept for reads and proofs. Default 1000; at least 10.
	Keep int `toml:"keep"`
}

// ExecConfig bounds the running of handlers. The deterministic limits are on the ledger; this is the clock that may
// only drop or reject, never accept.
type ExecConfig struct {
	// Watchdog is the longest a step may run. Default 2s; 0 switches it off.
	Watchdog Duration `toml:"watchdog"`
}

// Layer2Config is about the session engine.
type Layer2Config struct {
	// Key is the file with the node's Layer 2 key, relative to Home. Default "layer2_key.json".
	Key string `toml:"key"`
	// Custody is a directory, relative to Home, with one key file <actor id>.json for each actor that has delegated a key
	// to this node. Unsigned requests are signed with them. Empty (the default): no custody, unsigned requests are refused.
	Custody string `toml:"custody"`
	// DefaultActor acts for unsigned requests that name no actor. Default none.
	DefaultActor string `toml:"default_actor"`
	// PeerListen is host:port for the other Layer 2 nodes, which find this node by its address on the ledger's list. Empty
	// (the default): this node works alone, and answers are endorsed by it alone.
	PeerListen string `toml:"peer_listen"`
	// Need is how many Layer 2 nodes, this one included, have to endorse a step before it is answered without waiting
	// longer. Default 2; bounded by the number of nodes on the list.
	Need int `toml:"need"`
	// Wait is how long a step waits for that many before it is answered with fewer. Default 50ms.
	Wait Duration `toml:"wait"`
	// MaxWorking is how many steps and openings are worked on at once; MaxWait how long others wait for their turn before they are
	// shed with 503. Defaults 0, which is 12 for each processor, and 25ms.
	MaxWorking int      `toml:"max_working"`
	MaxWait    Duration `toml:"max_wait"`
	// CheckpointSteps and CheckpointSeconds say when a custody session commits what it has and stays open: after so many steps that
	// no block holds, or so many seconds after the oldest of them. Sessions that their clients sign are not meant. Default 0: never.
	CheckpointSteps   int `toml:"checkpoint_steps"`
	CheckpointSeconds int `toml:"checkpoint_seconds"`
}

// RPCConfig is the consensus engine's own RPC server, for operators who look into the engine.
type RPCConfig struct {
	// Listen is host:port on a loopback address. Empty (the default): off. Unsafe routes are never served.
	Listen string `toml:"listen"`
}

// LogConfig is about the log on standard error.
type LogConfig struct {
	// Level is debug, info, warn or error. Default "info".
	Level string `toml:"level"`
	// Format is text or json. Default "text".
	Format string `toml:"format"`
}

// Duration is a time.Duration written as in Go: "250ms", "5s", "1m".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no duration such as \"250ms\" or \"5s\"", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Default returns the configuration that an empty file in home means.
func Default(home string) Config {
	return Config{
		Home:    home,
		Name:    "node",
		Roles:   []string{},
		Genesis: "genesis.json",
		HTTP: HTTPConfig{
			Listen:         "127.0.0.1:8080",
			MaxConnections: 4096,
			CommitWait:     Duration(10 * time.Second),
		},
		P2P: P2PConfig{
			Listen:     "127.0.0.1:26656",
			Peers:      []string{},
			MaxInbound: 40,
		},
		Consensus: ConsensusConfig{Heartbeat: Duration(5 * time.Second)},
		Mempool:   MempoolConfig{Size: 10_000, Bytes: 256 << 20},
		State:     StateConfig{Keep: 1000},
		Exec:      ExecConfig{Watchdog: Duration(2 * time.Second)},
		Layer2:    Layer2Config{Key: "layer2_key.json", Need: 2, Wait: Duration(50 * time.Millisecond), MaxWait: Duration(25 * time.Millisecond)},
		Log:       LogConfig{Level: "info", Format: "text"},
	}
}

// ConfigFile is the name of the configuration file in a node's home.
const ConfigFile = "config.toml"

// Load reads the configuration of the node in home. Missing keys have their defaults, unknown ones are an error.
func Load(home string) (Config, error) {
	name := filepath.Join(home, ConfigFile)
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return Config{}, fmt.Errorf("node: %s is no node's home: it has no %s (tandem testnet init writes one)", home, ConfigFile)
	}
	if err != nil {
		return Config{}, fmt.Errorf("node: %w", err)
	}
	cfg, err := Parse(home, text)
	if err != nil {
		return Config{}, fmt.Errorf("node: %s: %w", name, err)
	}
	return cfg, nil
}

// Parse reads the text of a configuration file that lies in home, and checks it.
func Parse(home string, text []byte) (Config, error) {
	cfg := Default(home)
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&cfg)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		return Config{}, fmt.Errorf("unknown key:\n%s", unknown.String())
	case errors.As(err, &wrong):
		line, column := wrong.Position()
		return Config{}, fmt.Errorf("line %d, column %d: %w\n%s", line, column, err, wrong.String())
	case err != nil:
		return Config{}, err
	}
	return cfg, cfg.Check()
}

// Save writes the configuration, without comments, to its file.
func (c Config) Save() error {
	text, err := toml.Marshal(c)
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	head := "# Configuration of a Tandem node. `tandem config` prints every key with its meaning and default.\n"
	return writeFile(filepath.Join(c.Home, ConfigFile), append([]byte(head), text...), 0o644)
}

// Has reports whether the node has the role.
func (c Config) Has(role string) bool { return slices.Contains(c.Roles, role) }

// Check returns the first thing that is wrong with c, in words that name the key.
func (c Config) Check() error {
	for i, role := range c.Roles {
		if role != RoleValidator && role != RoleLayer2 {
			return fmt.Errorf("roles: %q is neither %q nor %q", role, RoleValidator, RoleLayer2)
		}
		if slices.Contains(c.Roles[:i], role) {
			return fmt.Errorf("roles: %q twice", role)
		}
	}
	if c.HTTP.Listen != "" {
		if _, _, err := net.SplitHostPort(c.HTTP.Listen); err != nil {
			return fmt.Errorf("http.listen: %q is not host:port", c.HTTP.Listen)
		}
	}
	if c.Has(RoleLayer2) && c.HTTP.Listen == "" {
		return errors.New("http.listen: a layer2 node without HTTP would serve nobody")
	}
	if _, _, err := net.SplitHostPort(c.P2P.Listen); err != nil {
		return fmt.Errorf("p2p.listen: %q is not host:port", c.P2P.Listen)
	}
	for _, peer := range c.P2P.Peers {
		id, address, ok := strings.Cut(peer, "@")
		if _, _, err := net.SplitHostPort(address); !ok || err != nil || len(id) != 40 {
			return fmt.Errorf("p2p.peers: %q is not id@host:port with 40 hexadecimal digits of id", peer)
		}
	}
	if c.RPC.Listen != "" {
		host, _, err := net.SplitHostPort(c.RPC.Listen)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return fmt.Errorf("rpc.listen: %q is not port and loopback address; the engine's RPC has no access control", c.RPC.Listen)
		}
	}
	if c.Layer2.PeerListen != "" {
		if _, _, err := net.SplitHostPort(c.Layer2.PeerListen); err != nil {
			return fmt.Errorf("layer2.peer_listen: %q is not host:port", c.Layer2.PeerListen)
		}
	}
	if c.Layer2.DefaultActor != "" && c.Layer2.Custody == "" {
		return errors.New("layer2.default_actor: needs layer2.custody")
	}
	for _, bound := range []struct {
		key          string
		v, low, high int64
	}{
		{"http.max_connections", int64(c.HTTP.MaxConnections), 1, 1 << 20},
		{"p2p.max_inbound", int64(c.P2P.MaxInbound), 0, 1 << 16},
		{"mempool.size", int64(c.Mempool.Size), 1, 1 << 20},
		{"mempool.bytes", c.Mempool.Bytes, 1 << 20, 1 << 40},
		{"mempool.per_actor", int64(c.Mempool.PerActor), 0, 1 << 20},
		{"layer2.need", int64(c.Layer2.Need), 1, 64},
		{"layer2.max_working", int64(c.Layer2.MaxWorking), 0, 1 << 16},
		{"state.keep", int64(c.State.Keep), 10, 1 << 40},
	} {
		if bound.v < bound.low || bound.v > bound.high {
			return fmt.Errorf("%s: %d is not between %d and %d", bound.key, bound.v, bound.low, bound.high)
		}
	}
	for _, bound := range []struct {
		key       string
		v         Duration
		low, high time.Duration
	}{
		{"http.commit_wait", c.HTTP.CommitWait, 100 * time.Millisecond, 25 * time.Second},
		{"consensus.propose", c.Consensus.Propose, 0, time.Minute},
		{"consensus.gossip_sleep", c.Consensus.GossipSleep, 0, time.Second},
		{"consensus.heartbeat", c.Consensus.Heartbeat, time.Second, time.Minute},
		{"layer2.max_wait", c.Layer2.MaxWait, time.Millisecond, 10 * time.Second},
		{"layer2.wait", c.Layer2.Wait, time.Millisecond, 10 * time.Second},
		{"exec.watchdog", c.Exec.Watchdog, 0, time.Minute},
	} {
		if v := time.Duration(bound.v); v < bound.low || v > bound.high {
			return fmt.Errorf("%s: %s is not between %s and %s", bound.key, v, bound.low, bound.high)
		}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		return fmt.Errorf("log.level: %q is none of debug, info, warn, error", c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		return fmt.Errorf("log.format: %q is neither text nor json", c.Log.Format)
	}
	return nil
}

// path returns name as it lies in the node's home.
func (c Config) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.Home, name)
}

//go:embed sample.toml
var sample string

// Sample is a configuration file with every key, its meaning and its default. Parsing it gives [Default].
func Sample() string { return sample }
