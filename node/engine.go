package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	cometconfig "github.com/cometbft/cometbft/config"
	cometjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	comettypes "github.com/cometbft/cometbft/types"

	"tandem/internal/wire"
)

// Files in a node's home beside the configuration and what it names.
const (
	// NodeKeyFile names the node to its peers.
	NodeKeyFile = "node_key.json"
	// ValidatorKeyFile is the key that votes. It must never run in two processes.
	ValidatorKeyFile = "validator_key.json"
	// engineDir holds the consensus engine's databases and write-ahead log, and what the validator has signed last.
	engineDir = "data"
	// signStateFile keeps the last height, round and step that were signed: the protection against signing twice.
	signStateFile = "data/priv_validator_state.json"
	// stateDir is the state store's.
	stateDir = "state"
	// indexDir is that of the index from transaction hashes to blocks; it can be removed at any time.
	indexDir = "index"
	// layer2Dir is the session engine's.
	layer2Dir = "layer2"
)

// tuning is what is chosen by the number of validators.
type tuning struct {
	propose, vote, gossip, flush time.Duration
	linger                       time.Duration // how long a proposer without sessions waits for one
}

// tuned fills in what the configuration leaves to us. Sources: our own runs (docs/benchmarks.md, docs/operations.md "Timeouts").
// What a node signs is pushed to its peers (see pusher), so polling is only the way for what a push did not deliver, and for
// relaying between nodes that are no direct peers; its price is CPU, with the square of the number of nodes on one machine.
// A dead or lying proposer costs its height the propose timeout and one precommit timeout; each round adds the delta, so
// that slow machines converge instead of voting each other down for ever.
func (c ConsensusConfig) tuned(validators int) tuning {
	t := tuning{
		propose: 240*time.Millisecond + time.Duration(validators)*35*time.Millisecond,
		vote:    40*time.Millisecond + time.Duration(validators)*5*time.Millisecond,
		flush:   100 * time.Microsecond,
	}
	switch {
	case validators <= 4:
		t.gossip = 20 * time.Millisecond
	case validators <= 10:
		t.gossip = 100 * time.Millisecond
	default:
		t.gossip = 250 * time.Millisecond // shorter than a commit, it sends what has just been pushed a second time
	}
	if c.Propose > 0 {
		t.propose = time.Duration(c.Propose)
	}
	if c.GossipSleep > 0 {
		t.gossip = time.Duration(c.GossipSleep)
	}
	t.linger = t.propose / 5 // the others wait for a proposal all the while
	return t
}

// engineConfig translates c for CometBFT v0.40.
func (c Config) engineConfig(genesis *comettypes.GenesisDoc) *cometconfig.Config {
	validators := len(genesis.Validators)
	tune := c.Consensus.tuned(validators)
	e := cometconfig.DefaultConfig()
	e.SetRoot(c.Home)
	e.Moniker = c.Name
	e.Genesis = c.path(c.Genesis)
	e.NodeKey = NodeKeyFile
	e.PrivValidatorKey = ValidatorKeyFile
	e.PrivValidatorState = signStateFile
	e.DBBackend = string(dbm.GoLevelDBBackend) // pure Go; as fast here as pebble (MEASURED.md), which would need a build tag
	e.DBPath = engineDir
	e.FilterPeers = false

	e.RPC.ListenAddress = "" // off
	if c.RPC.Listen != "" {
		e.RPC.ListenAddress = "tcp://" + c.RPC.Listen
	}
	e.RPC.Unsafe = false
	e.RPC.GRPCListenAddress = ""
	e.RPC.PprofListenAddress = ""

	e.P2P.ListenAddress = "tcp://" + c.P2P.Listen
	e.P2P.PersistentPeers = strings.Join(c.P2P.Peers, ",")
	ids := make([]string, len(c.P2P.Peers))
	for i, peer := range c.P2P.Peers {
		ids[i], _, _ = strings.Cut(peer, "@")
	}
	e.P2P.UnconditionalPeerIDs = strings.Join(ids, ",")
	e.P2P.MaxNumInboundPeers = c.P2P.MaxInbound
	e.P2P.MaxNumOutboundPeers = len(ids)
	e.P2P.PexReactor = false
	e.P2P.AddrBook = filepath.Join(engineDir, "addrbook.json")
	e.P2P.AddrBookStrict = false
	e.P2P.AllowDuplicateIP = true
	e.P2P.FlushThrottleTimeout = tune.flush
	e.P2P.MaxPacketMsgPayloadSize = 64 << 10
	e.P2P.SendRate = 500 << 20
	e.P2P.RecvRate = 500 << 20
	e.P2P.HandshakeTimeout = 10 * time.Second
	e.P2P.DialTimeout = 3 * time.Second

	e.Mempool.Type = cometconfig.MempoolTypeFlood
	e.Mempool.Recheck = true
	e.Mempool.Size = c.Mempool.Size
	e.Mempool.MaxTxsBytes = c.Mempool.Bytes
	e.Mempool.CacheSize = 2 * c.Mempool.Size
	e.Mempool.MaxTxBytes = wire.MaxTransaction

	e.Consensus.WalPath = filepath.Join(engineDir, "cs.wal", "wal")
	e.Consensus.TimeoutPropose = tune.propose
	e.Consensus.TimeoutProposeDelta = tune.propose
	e.Consensus.TimeoutPrevote = tune.vote
	e.Consensus.TimeoutPrevoteDelta = tune.vote
	e.Consensus.TimeoutPrecommit = tune.vote
	e.Consensus.TimeoutPrecommitDelta = tune.vote
	e.Consensus.TimeoutCommit = 0
	e.Consensus.SkipTimeoutCommit = true
	e.Consensus.CreateEmptyBlocks = true
	e.Consensus.CreateEmptyBlocksInterval = time.Duration(c.Consensus.Heartbeat)
	e.Consensus.PeerGossipSleepDuration = tune.gossip
	e.Consensus.PeerQueryMaj23SleepDuration = 500 * time.Millisecond

	e.StateSync.Enable = false
	e.Storage.DiscardABCIResponses = false // needed to replay the last block after a crash
	e.TxIndex.Indexer = "null"
	e.Instrumentation.Prometheus = false
	return e
}

// loadNodeKey reads the key that names the node to its peers.
func (c Config) loadNodeKey() (*p2p.NodeKey, error) {
	key, err := p2p.LoadNodeKey(c.path(NodeKeyFile))
	if err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	return key, nil
}

// loadValidator reads the validator's key and what it has signed last. A node without the role gets a key that nobody
// knows and that is never used. CometBFT's own loader ends the process on a bad file; this one says what is wrong.
//
// The sign state is made when the key has none yet and no block has been stored. A validator whose sign state is lost
// while its blocks are there is refused: it could sign a second time for a height it has voted on. A sign state that
// CometBFT's own signer has written is taken over.
func (c Config) loadValidator() (comettypes.PrivValidator, error) {
	if !c.Has(RoleValidator) {
		return comettypes.NewMockPV(), nil
	}
	keyFile, stateFile := c.path(ValidatorKeyFile), c.path(signStateFile)
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("validator key: %w", err)
	}
	var key privval.FilePVKey
	if err := cometjson.Unmarshal(text, &key); err != nil || key.PrivKey == nil {
		return nil, fmt.Errorf("validator key: %s: not a key file (%v)", keyFile, err)
	}
	text, err = os.ReadFile(stateFile)
	var validator *signer
	var last privval.FilePVLastSignState
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, statErr := os.Stat(filepath.Join(c.Home, engineDir, "blockstore.db")); statErr == nil {
			return nil, fmt.Errorf("validator: %s is missing though blocks are stored: without it this validator could vote twice", stateFile)
		}
		validator, err = createSigner(key.PrivKey, stateFile, last)
	case err != nil:
	case bytes.Contains(text, []byte(`"signbytes"`)) && cometjson.Unmarshal(text, &last) == nil: // CometBFT's, after a signature
		validator, err = createSigner(key.PrivKey, stateFile, last)
	default:
		validator, err = openSigner(key.PrivKey, stateFile)
	}
	if err != nil {
		return nil, fmt.Errorf("validator: %s: %w", stateFile, err)
	}
	return validator, nil
}

// loadGenesis reads the genesis file: its bytes as they are, and CometBFT's view of it.
func (c Config) loadGenesis() ([]byte, *comettypes.GenesisDoc, error) {
	text, err := os.ReadFile(c.path(c.Genesis))
	if err != nil {
		return nil, nil, fmt.Errorf("genesis: %w", err)
	}
	doc, err := comettypes.GenesisDocFromJSON(text)
	if err != nil {
		return nil, nil, fmt.Errorf("genesis: %s: %w", c.path(c.Genesis), err)
	}
	if len(doc.AppState) == 0 || !json.Valid(doc.AppState) {
		return nil, nil, fmt.Errorf("genesis: %s: it has no app_state", c.path(c.Genesis))
	}
	return text, doc, nil
}
