package node

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	cometconsensus "github.com/cometbft/cometbft/consensus"
	cometcrypto "github.com/cometbft/cometbft/crypto"
	"github.com/cometbft/cometbft/p2p"
	comettypes "github.com/cometbft/cometbft/types"

	"tandem/internal/httpapi"
	"tandem/internal/httpsig"
	"tandem/internal/layer2"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/signedblock"
	"tandem/internal/state"
	"tandem/internal/wire"
	"tandem/receipt"
)

// chain answers, from this node's own stores, what the session engine and the HTTP surface ask about the ledger: it
// implements layer2.Ledger, httpapi.Ledger and httpapi.Readiness. Safe for concurrent use.
type chain struct {
	node      *Node
	parts     *parts
	replaying chan struct{} // holds a token while a block is replayed for a receipt
}

// Submit implements layer2.Ledger.
func (c *chain) Submit(ctx context.Context, tx []byte) error {
	return c.parts.consensus.submit(ctx, tx)
}

// View returns the newest committed state.
func (c *chain) View() (*state.View, error) { return c.parts.store.Latest(), nil }

// Time returns the newest block's time, milliseconds since 1970; the genesis time before the first.
func (c *chain) Time() int64 {
	if height, blockTime := c.node.progress.now(); height > 0 {
		return blockTime
	}
	return c.node.doc.GenesisTime.UnixMilli()
}

// Quarantined implements layer2.Ledger: why this node's own Layer 1 application set a transaction aside.
func (c *chain) Quarantined(tx wire.Digest) (*refusal.Refusal, bool) {
	return c.parts.app.QuarantineOf(tx)
}

// Genesis returns the genesis file, byte for byte.
func (c *chain) Genesis() []byte { return c.node.genesis }

// WaitHeight implements httpapi.Ledger.
func (c *chain) WaitHeight(ctx context.Context, height int64) error {
	return c.node.progress.wait(ctx, height)
}

// Health implements httpapi.Readiness.
func (c *chain) Health() httpapi.Health { return c.node.progress.health() }

// block loads a block that this node has executed. The block store is ahead of the application by the block that is
// being executed; what is not executed yet is not there yet.
func (c *chain) block(height int64) (*comettypes.Block, error) {
	if now, _ := c.node.progress.now(); height >= 1 && height <= now {
		if b := c.parts.consensus.node.BlockStore().LoadBlock(height); b != nil {
			return b, nil
		}
	}
	return nil, refusal.New("block-not-found", "this node has no block %d", height).With("height", height)
}

// Block implements httpapi.Ledger.
func (c *chain) Block(_ context.Context, height int64) (httpapi.Block, error) {
	b, err := c.block(height)
	if err != nil {
		return httpapi.Block{}, err
	}
	out := httpapi.Block{
		Height:       b.Height,
		Time:         b.Time.UTC().Format(time.RFC3339Nano),
		Hash:         hex.EncodeToString(b.Hash()),
		AppHash:      hex.EncodeToString(b.AppHash),
		Proposer:     hex.EncodeToString(b.ProposerAddress),
		Transactions: []httpapi.BlockTx{},
	}
	for _, tx := range b.Txs {
		t := httpapi.BlockTx{Hash: wire.Sum(tx).String()}
		kind, _ := wire.Kind(tx) // what is in a block is well formed
		switch kind {
		case wire.KindRoot:
			t.Kind = "root"
			if r, err := wire.DecodeRootStatement(tx); err == nil {
				out.StateRoot = r.Root.String()
			}
		case wire.KindSession:
			t.Kind = "session"
			if s, err := wire.DecodeSessionCommit(tx); err == nil {
				t.Session = sessionID(&s).String()
			}
		}
		out.Transactions = append(out.Transactions, t)
	}
	return out, nil
}

// Transaction implements httpapi.Ledger.
func (c *chain) Transaction(_ context.Context, hash wire.Digest) (httpapi.Transaction, error) {
	notFound := refusal.New("transaction-not-found", "this node knows no block with transaction %s", hash)
	height, place, ok, err := c.parts.index.find(hash)
	if err != nil {
		return httpapi.Transaction{}, err
	}
	if !ok {
		return httpapi.Transaction{}, notFound
	}
	b, err := c.block(height)
	if err != nil || place >= len(b.Txs) || wire.Sum(b.Txs[place]) != hash {
		return httpapi.Transaction{}, notFound
	}
	tx := b.Txs[place]
	out := httpapi.Transaction{Hash: hash.String(), Height: height, Index: place, Bytes: tx}
	if kind, _ := wire.Kind(tx); kind == wire.KindRoot {
		out.Kind = "root"
		return out, nil
	}
	out.Kind = "session"
	s, err := wire.DecodeSessionCommit(tx)
	if err != nil {
		return httpapi.Transaction{}, fmt.Errorf("block %d, transaction %d: %w", height, place, err)
	}
	id := sessionID(&s)
	out.Session, out.Key = id.String(), s.Open.Key.DID()
	settled, ok, err := ledger.SettledOf(c.parts.store.Latest(), id)
	if err != nil {
		return httpapi.Transaction{}, err
	}
	if ok {
		out.Actor = settled.Actor
	}
	for _, t := range s.Transactions {
		target := t.Request.Path
		if t.Request.Query != "" {
			target += "?" + t.Request.Query
		}
		out.Steps = append(out.Steps, httpapi.TransactionStep{
			Sequence: t.Sequence, Method: t.Request.Method, Target: target, Status: t.Response.Status,
			Response: t.Response.Body.String(), Originator: t.Originator.DID(), Time: t.Time,
		})
	}
	return out, nil
}

// Receipt implements httpapi.Ledger: the proof that the session, or a part of it, was committed; part 0 is the newest. A session in
// no block is not-committed if this node's engine knows it and session-not-found if nobody does. The ledger's record tells
// where the newest part is; older ones only the node that served the session still finds.
func (c *chain) Receipt(ctx context.Context, id wire.SessionID, part uint64) ([]byte, error) {
	settled, ok, err := ledger.SettledOf(c.parts.store.Latest(), id)
	if err != nil {
		return nil, err
	}
	var done layer2.Committed
	err = refusal.New(refusal.SessionNotFound, "no block holds session %s", id).With("session", id.String())
	if c.parts.engine != nil {
		done, err = c.parts.engine.Committed(ctx, id, part)
	}
	height, hash := done.Height, wire.Sum(done.Transaction)
	if err != nil {
		newest := settled.Checkpoints
		if settled.Final {
			newest++
		}
		if !ok || part != 0 && part != newest {
			return nil, err
		}
		height, hash = settled.Height, settled.Transaction
	}
	b, err := c.block(height)
	if err != nil {
		return nil, err
	}
	index := slices.IndexFunc(b.Txs, func(tx comettypes.Tx) bool { return wire.Sum(tx) == hash })
	if index < 0 {
		return nil, fmt.Errorf("block %d does not hold transaction %s of session %s, though the state says so", height, hash, id)
	}
	bodies := done.Bodies
	if bodies == nil {
		if bodies, err = c.committedBodies(ctx, b, index); err != nil {
			return nil, err
		}
	}
	commit, err := c.commit(height)
	if err != nil {
		return nil, err
	}
	return receipt.Build(receipt.Parts{Genesis: c.node.genesis, Header: &b.Header, Commit: commit, Txs: b.Txs, Index: index, Bodies: bodies})
}

// proofs implements layer2.Proofs.
type proofs struct {
	*state.Store
	c *chain
}

// Genesis returns the genesis file.
func (p proofs) Genesis() []byte { return p.c.node.genesis }

// SignedBlock returns a block's header and as many of the signatures on it as prove it.
func (p proofs) SignedBlock(height int64) (signedblock.Header, signedblock.Commit, error) {
	b, err := p.c.block(height)
	if err != nil {
		return signedblock.Header{}, signedblock.Commit{}, layer2.ErrNoBlock
	}
	c, err := p.c.commit(height)
	if err != nil {
		return signedblock.Header{}, signedblock.Commit{}, err
	}
	trust, err := signedblock.ReadGenesis(p.c.node.genesis)
	if err != nil {
		return signedblock.Header{}, signedblock.Commit{}, err
	}
	commit, err := trust.CommitOf(c)
	return signedblock.HeaderOf(&b.Header), commit, err
}

// commit returns the validators' signatures on a block.
func (c *chain) commit(height int64) (*comettypes.Commit, error) {
	blocks := c.parts.consensus.node.BlockStore()
	commit := blocks.LoadBlockCommit(height) // the next block's, the same on all nodes
	if commit == nil {
		commit = blocks.LoadSeenCommit(height)
	}
	if commit == nil {
		return nil, fmt.Errorf("block %d: this node has no commit for it", height)
	}
	return commit, nil
}

// Status implements httpapi.Ledger.
func (c *chain) Status(context.Context) (httpapi.Status, error) {
	height, root, blockTime := c.parts.store.Version()
	view := c.parts.store.Latest()
	p := c.node.start.Tandem.Parameters
	out := httpapi.Status{
		ChainID:     c.node.doc.ChainID,
		Fingerprint: c.node.runner.Fingerprint().String(),
		Service:     p.ServiceName, Version: p.ServiceVersion,
		Height: height, Time: blockTime, StateRoot: root.String(),
		Node:       c.identity(),
		Custody:    len(c.node.custody) > 0,
		Layer2:     []httpapi.Layer2Node{},
		Validators: []httpapi.Validator{},
		Quarantine: []httpapi.Quarantine{},
		Software:   software(),
	}
	if height > 0 {
		nodes, err := ledger.Layer2(view)
		if err != nil {
			return httpapi.Status{}, err
		}
		for _, n := range nodes {
			if !n.Removed {
				out.Layer2 = append(out.Layer2, httpapi.Layer2Node{Key: n.Key.DID(), Organisation: n.Organisation, URL: n.URL})
			}
		}
	}
	for _, v := range c.node.doc.Validators {
		out.Validators = append(out.Validators, httpapi.Validator{
			Address: hex.EncodeToString(v.Address), Key: base64.StdEncoding.EncodeToString(v.PubKey.Bytes()), Power: v.Power,
		})
	}
	for _, q := range c.parts.app.Quarantined() {
		out.Quarantine = append(out.Quarantine, httpapi.Quarantine{
			Session: q.Session.String(), Transaction: q.Transaction.String(), Step: q.Step, Field: q.Field,
			Reason: string(q.Reason) + ": " + q.Detail, Height: q.Height,
		})
	}
	return out, nil
}

// identity is the did:key of the node: its Layer 2 key if it has one, else the key that names it to its peers.
func (c *chain) identity() string {
	if c.node.key != nil {
		return publicKey(c.node.key).DID()
	}
	key, err := c.node.cfg.loadNodeKey()
	if err != nil {
		return ""
	}
	return didOf(key.PubKey())
}

func didOf(key cometcrypto.PubKey) string {
	var k wire.PublicKey
	copy(k[:], key.Bytes())
	return k.DID()
}

// software is the module's version as the build has stamped it.
func software() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Path + " " + info.Main.Version + " " + info.GoVersion
	}
	return ""
}

// syncing reports whether the engine is fetching blocks instead of taking part.
func (c *consensus) syncing() bool { return c.node.ConsensusReactor().WaitSync() }

// behind returns how many blocks the most advanced peer claims to have beyond this node's. Peers may lie: half of them
// must agree.
func (c *consensus) behind() int64 {
	own := c.node.BlockStore().Height()
	var ahead []int64
	c.node.Switch().Peers().ForEach(func(peer p2p.Peer) {
		if ps, ok := peer.Get(comettypes.PeerStateKey).(*cometconsensus.PeerState); ok {
			ahead = append(ahead, ps.GetHeight()-1-own)
		}
	})
	if len(ahead) == 0 {
		return 0
	}
	slices.Sort(ahead)
	return max(ahead[len(ahead)/2], 0)
}

func sessionID(s *wire.SessionCommit) wire.SessionID { return httpsig.SessionID(&s.Open) }
