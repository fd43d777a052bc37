package testnet

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	cometed25519 "github.com/cometbft/cometbft/crypto/ed25519"
	cometjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	comettypes "github.com/cometbft/cometbft/types"

	"tandem"
	"tandem/internal/layer1"
	"tandem/internal/ledger"
	"tandem/internal/wire"
	"tandem/node"
)

// Options describe a network.
type Options struct {
	// Validators and Layer2 are the numbers of nodes of each role. At least one validator; Layer2 may be 0.
	Validators, Layer2 int
	// Service is what all nodes run, Seed what its Genesis gets (JSON; may be nil).
	Service tandem.Service
	Seed    json.RawMessage
	// Actors are registered in the genesis.
	Actors []Actor
	// Custody lets the Layer 2 nodes sign for every actor, each with a key of its own that the actor has delegated to it.
	// DefaultActor is then whom unsigned requests act as.
	Custody      bool
	DefaultActor string
	// Parameters of the ledger. Zero: ledger.DefaultParameters.
	Parameters ledger.GenesisParameters
	// BasePort gives node i the ports BasePort+10i (consensus), BasePort+10i+1 (HTTP) and BasePort+10i+2 (other Layer 2 nodes). 0: free ports.
	BasePort int
	// HTTP is the address of the first Layer 2 node; empty: by BasePort. The others take free ports.
	HTTP string
	// Host is where the nodes listen and find each other. Default 127.0.0.1.
	Host string
	// Change, if not nil, may change the configuration of node i before it is written.
	Change func(i int, cfg *node.Config)
}

// Actor is someone on the ledger. Only the public half of Key goes into the genesis.
type Actor struct {
	ID, Organisation string
	Roles            []string
	Key              ed25519.PrivateKey
}

// Home is the directory of node i of the network in dir. Validators come first, then Layer 2 nodes.
func Home(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("node%d", i)) }

// GenesisFile is the network's genesis file in dir: what a client needs to verify receipts. Every home has a copy.
func GenesisFile(dir string) string { return filepath.Join(dir, "genesis.json") }

// Init writes a network into dir, which must not hold one: for each node a home with its configuration and keys, and the
// genesis file. It returns the configurations, validators first.
func Init(dir string, o Options) ([]node.Config, error) {
	n := o.Validators + o.Layer2
	if o.Validators < 1 || o.Layer2 < 0 || n > 256 {
		return nil, fmt.Errorf("testnet: %d validators and %d layer 2 nodes are no network (at least 1 validator, at most 256 nodes)", o.Validators, o.Layer2)
	}
	if o.Service.Registry == nil {
		return nil, errors.New("testnet: no service")
	}
	if _, err := os.Lstat(GenesisFile(dir)); err == nil {
		return nil, fmt.Errorf("testnet: there is a network in %s already", dir)
	}
	ports, err := o.ports(n)
	if err != nil {
		return nil, err
	}
	nodes := make([]identity, n)
	for i := range nodes {
		if nodes[i], err = newIdentity(Home(dir, i), i, ports[i], o); err != nil {
			return nil, fmt.Errorf("testnet: %w", err)
		}
	}
	genesis, err := o.genesis(nodes)
	if err != nil {
		return nil, fmt.Errorf("testnet: %w", err)
	}
	configs := make([]node.Config, n)
	for i := range nodes {
		for j := range nodes {
			if j != i {
				nodes[i].cfg.P2P.Peers = append(nodes[i].cfg.P2P.Peers, fmt.Sprintf("%s@%s", nodes[j].id, nodes[j].cfg.P2P.Listen))
			}
		}
		if o.Change != nil {
			o.Change(i, &nodes[i].cfg)
		}
		if err := os.WriteFile(filepath.Join(nodes[i].cfg.Home, "genesis.json"), genesis, 0o644); err != nil {
			return nil, fmt.Errorf("testnet: %w", err)
		}
		if err := nodes[i].cfg.Save(); err != nil {
			return nil, fmt.Errorf("testnet: %w", err)
		}
		configs[i] = nodes[i].cfg
	}
	// Last: with this file there is a network.
	if err := os.WriteFile(GenesisFile(dir), genesis, 0o644); err != nil {
		return nil, fmt.Errorf("testnet: %w", err)
	}
	return configs, nil
}

// identity is a node in the making.
type identity struct {
	cfg       node.Config
	id        p2p.ID
	validator comettypes.GenesisValidator // zero for a Layer 2 node
	layer2    wire.PublicKey              // zero for a validator
	delegates map[string]wire.PublicKey   // by actor id
}

func newIdentity(home string, i int, at ports, o Options) (identity, error) {
	cfg := node.Default(home)
	cfg.Name = filepath.Base(home)
	cfg.P2P.Listen, cfg.HTTP.Listen = at.p2p, at.http
	id := identity{delegates: map[string]wire.PublicKey{}}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return id, err
	}
	peer := p2p.NodeKey{PrivKey: cometed25519.GenPrivKey()}
	if err := peer.SaveAs(filepath.Join(home, node.NodeKeyFile)); err != nil {
		return id, err
	}
	id.id = peer.ID()
	if i < o.Validators {
		cfg.Roles = []string{node.RoleValidator}
		key := privval.GenFilePV("", "").Key
		text, err := cometjson.MarshalIndent(key, "", "  ")
		if err != nil {
			return id, err
		}
		if err := os.WriteFile(filepath.Join(home, node.ValidatorKeyFile), text, 0o600); err != nil {
			return id, err
		}
		id.validator = comettypes.GenesisValidator{Address: key.Address, PubKey: key.PubKey, Power: 10, Name: cfg.Name}
		id.cfg = cfg
		return id, nil
	}
	cfg.Roles = []string{node.RoleLayer2}
	key, err := newKey(filepath.Join(home, cfg.Layer2.Key))
	if err != nil {
		return id, err
	}
	id.layer2 = key
	cfg.Layer2.PeerListen = at.peer
	if o.Custody {
		cfg.Layer2.Custody, cfg.Layer2.DefaultActor = "custody", o.DefaultActor
		if err := os.Mkdir(filepath.Join(home, "custody"), 0o700); err != nil {
			return id, err
		}
		for _, a := range o.Actors {
			if id.delegates[a.ID], err = newKey(filepath.Join(home, "custody", a.ID+".json")); err != nil {
				return id, err
			}
		}
	}
	id.cfg = cfg
	return id, nil
}

func newKey(file string) (wire.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return wire.PublicKey{}, err
	}
	return wire.PublicKey(public), node.WriteKey(file, private)
}

// genesis makes the genesis file: CometBFT's document with the ledger's first records as app_state.
func (o Options) genesis(nodes []identity) ([]byte, error) {
	p := o.Parameters
	if p.ServiceName == "" {
		p = ledger.DefaultParameters(o.Service, wire.Digest(o.Service.Fingerprint()))
	}
	var random [6]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	g := ledger.Genesis{
		ChainID: "tandem-" + hex.EncodeToString(random[:]),
		Tandem:  ledger.GenesisRecords{Parameters: p},
		Service: o.Seed,
	}
	for _, a := range o.Actors {
		actor := ledger.GenesisActor{ID: a.ID, Organisation: a.Organisation, Roles: a.Roles,
			Keys: []wire.PublicKey{wire.PublicKey(a.Key.Public().(ed25519.PublicKey))}}
		for _, n := range nodes {
			if key, ok := n.delegates[a.ID]; ok {
				actor.Delegates = append(actor.Delegates, key)
			}
		}
		g.Tandem.Actors = append(g.Tandem.Actors, actor)
	}
	doc := comettypes.GenesisDoc{
		ChainID:         g.ChainID,
		GenesisTime:     time.Now().UTC().Truncate(time.Millisecond),
		ConsensusParams: layer1.ConsensusParams(),
	}
	for _, n := range nodes {
		if n.validator.PubKey != nil {
			doc.Validators = append(doc.Validators, n.validator)
			continue
		}
		g.Tandem.Layer2 = append(g.Tandem.Layer2, ledger.GenesisNode{Key: n.layer2, Organisation: n.cfg.Name, Address: n.cfg.Layer2.PeerListen, URL: "http://" + n.cfg.HTTP.Listen})
	}
	var err error
	if doc.AppState, err = g.JSON(); err != nil {
		return nil, err
	}
	if err := doc.ValidateAndComplete(); err != nil {
		return nil, err
	}
	return cometjson.MarshalIndent(doc, "", "  ")
}

// ports are the addresses of a node; peer is only a Layer 2 node's.
type ports struct{ p2p, http, peer string }

func (o Options) ports(n int) ([]ports, error) {
	host := o.Host
	if host == "" {
		host = "127.0.0.1"
	}
	all := make([]ports, n)
	if o.BasePort > 0 {
		for i := range all {
			all[i] = ports{
				net.JoinHostPort(host, strconv.Itoa(o.BasePort+10*i)), net.JoinHostPort(host, strconv.Itoa(o.BasePort+10*i+1)),
				net.JoinHostPort(host, strconv.Itoa(o.BasePort+10*i+2)),
			}
		}
	} else {
		free, err := freeAddresses(host, 3*n)
		if err != nil {
			return nil, err
		}
		for i := range all {
			all[i] = ports{free[3*i], free[3*i+1], free[3*i+2]}
		}
	}
	if o.HTTP != "" && o.Layer2 > 0 {
		all[o.Validators].http = o.HTTP
	}
	return all, nil
}

// The range free ports are taken from: below the range from which Linux takes the local ports of outgoing connections. A
// port in that range could be taken by any connection while its node is stopped, even by a peer that dials the
// stopped node and then finds itself connected to itself.
const lowPort, highPort = 10_000, 32_000

// FreeAddresses returns n addresses on 127.0.0.1 whose ports nobody uses now, for what is to be started beside a network. Another
// program may be faster in taking one.
func FreeAddresses(n int) ([]string, error) { return freeAddresses("127.0.0.1", n) }

// freeAddresses returns n addresses whose ports are free now. All are held until all are found, so that they differ.
func freeAddresses(host string, n int) ([]string, error) {
	addresses := make([]string, 0, n)
	for try := 0; len(addresses) < n; try++ {
		if try > 50*n {
			return nil, fmt.Errorf("testnet: no %d free ports on %s", n, host)
		}
		port, err := rand.Int(rand.Reader, big.NewInt(highPort-lowPort))
		if err != nil {
			return nil, err
		}
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.FormatInt(lowPort+port.Int64(), 10)))
		if err != nil {
			continue
		}
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}
