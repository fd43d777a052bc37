package receipt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/cometbft/cometbft/crypto"
	cometed25519 "github.com/cometbft/cometbft/crypto/ed25519"
	cmtjson "github.com/cometbft/cometbft/libs/json"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	cmtversion "github.com/cometbft/cometbft/proto/tendermint/version"
	"github.com/cometbft/cometbft/types"
	"github.com/cometbft/cometbft/version"

	"tandem/internal/httpsig"
	"tandem/internal/session"
	"tandem/internal/wire"
)

const (
	testChain   = "tandem-example"
	testCreated = 1767225600 // 2026-01-01T00:00:00Z
)

// chain is a ledger without a network: validators whose keys the test holds, a genesis file, and the means to sign any block.
type chain struct {
	keys    map[string]crypto.PrivKey // by address
	set     *types.ValidatorSet
	genesis []byte
	client  ed25519.PrivateKey
	node    ed25519.PrivateKey
}

func newChain(t testing.TB, powers ...int64) *chain {
	c := &chain{
		keys:   map[string]crypto.PrivKey{},
		client: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)),
		node:   ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32)),
	}
	document := types.GenesisDoc{
		GenesisTime: time.Unix(testCreated-60, 0).UTC(), ChainID: testChain, InitialHeight: 1,
		ConsensusParams: types.DefaultConsensusParams(), AppHash: []byte{},
		AppState: json.RawMessage(`{"tandem":{"actors":[{"id":"OPR-001","organisation":"Warehouse Ltd","roles":["operator"],"keys":["` +
			wire.PublicKeyOf(c.client).DID() + `"],"delegates":["` + wire.PublicKeyOf(c.node).DID() + `"]}],"layer2":[]},"service":{}}`),
	}
	var list []*types.Validator
	for i, power := range powers {
		key := cometed25519.GenPrivKeyFromSecret(fmt.Appendf(nil, "validator %d", i))
		c.keys[key.PubKey().Address().String()] = key
		document.Validators = append(document.Validators, types.GenesisValidator{Address: key.PubKey().Address(), PubKey: key.PubKey(), Power: power, Name: fmt.Sprintf("node%d", i)})
		list = append(list, types.NewValidator(key.PubKey(), power))
	}
	c.set = types.NewValidatorSet(list)
	var err error
	if c.genesis, err = cmtjson.MarshalIndent(&document, "", "  "); err != nil {
		t.Fatal(err)
	}
	return c
}

// block is one block with everything that a node keeps of it.
type block struct {
	header types.Header
	commit *types.Commit
	txs    types.Txs
	index  int
	bodies [][]byte
}

func (b *block) parts(c *chain) Parts {
	return Parts{Genesis: c.genesis, Header: &b.header, Commit: b.commit, Txs: b.txs, Index: b.index, Bodies: b.bodies}
}

// block makes a block at height 7 with a root statement and n-1 sessions, of which the test's is the last but one.
func (c *chain) block(n int) *block {
	sessionCommit, bodies := c.session(testChain)
	b := &block{bodies: bodies, index: max(n-2, 1)}
	for i := range max(n, 2) {
		b.txs = append(b.txs, fmt.Appendf(nil, "transaction %d", i))
	}
	b.txs[0] = wire.RootStatement{Height: 7, Root: wire.Sum([]byte("state"))}.Encode()
	b.txs[b.index] = sessionCommit.Encode()
	c.seal(b)
	return b
}

// seal makes the header for b's transactions and has all validators sign it.
func (c *chain) seal(b *block) {
	hash := func(s string) []byte { d := wire.Sum([]byte(s)); return d[:] }
	b.header = types.Header{
		Version: cmtversion.Consensus{Block: version.BlockProtocol, App: 1},
		ChainID: testChain, Height: 7, Time: time.Unix(testCreated+70, 123456789).UTC(),
		LastBlockID:    types.BlockID{Hash: hash("block 6"), PartSetHeader: types.PartSetHeader{Total: 1, Hash: hash("parts 6")}},
		LastCommitHash: hash("commit 6"), DataHash: b.txs.Hash(),
		ValidatorsHash: c.set.Hash(), NextValidatorsHash: c.set.Hash(), ConsensusHash: hash("parameters"),
		AppHash: hash("state 6"), LastResultsHash: hash("results 6"), EvidenceHash: hash("no evidence"),
		ProposerAddress: c.set.Validators[0].Address,
	}
	c.sign(b)
}

// sign makes the commit: every validator signs the header as it is.
func (c *chain) sign(b *block) {
	id := types.BlockID{Hash: b.header.Hash(), PartSetHeader: types.PartSetHeader{Total: 1, Hash: b.txs.Hash()}}
	b.commit = &types.Commit{Height: b.header.Height, Round: 1, BlockID: id}
	for i, v := range c.set.Validators {
		b.commit.Signatures = append(b.commit.Signatures, c.vote(b, v, id, i))
	}
}

// vote makes the i-th validator's vote; a zero id makes a vote for nil.
func (c *chain) vote(b *block, v *types.Validator, id types.BlockID, i int) types.CommitSig {
	at := b.header.Time.Add(time.Duration(i+1) * time.Millisecond)
	vote := &cmtproto.Vote{Type: cmtproto.PrecommitType, Height: b.header.Height, Round: 1, BlockID: id.ToProto(), Timestamp: at}
	signature, err := c.keys[v.Address.String()].Sign(types.VoteSignBytes(b.header.ChainID, vote))
	if err != nil {
		panic(err)
	}
	flag := types.BlockIDFlagCommit
	if id.IsZero() {
		flag = types.BlockIDFlagNil
	}
	return types.CommitSig{BlockIDFlag: flag, ValidatorAddress: v.Address, Timestamp: at, Signature: signature}
}

// session makes the example session of internal/wire: a scan, a read, a commit.
func (c *chain) session(chainID string) (wire.SessionCommit, [][]byte) {
	var s wire.SessionCommit
	body := wire.OpenBody{ChainID: chainID, Fingerprint: wire.Sum([]byte("the example's service")), ExpiresAt: (testCreated + 3600) * 1000}
	for i := range body.Nonce {
		body.Nonce[i] = byte(i)
	}
	s.Open = wire.Request{Method: "POST", Path: session.PathOpen, ContentType: "application/json", Body: body.JSON(), Created: testCreated}
	httpsig.Sign(c.client, httpsig.TagOpen, &s.Open, httpsig.Place{})
	place := httpsig.Place{Session: httpsig.SessionID(&s.Open), Sequence: 1, Transcript: wire.TranscriptStart(s.Open)}
	bodies := [][]byte{[]byte(`{"package_id":"PKG-001","supplier":"SUP-001"}`), []byte(`{"packages":["PKG-001"]}`), {}}
	for i, r := range []wire.Request{
		{Method: "POST", Path: "/packages/PKG-001/scan", ContentType: "application/json", Body: []byte("{}"), Created: testCreated + 2},
		{Method: "GET", Path: "/packages", Query: "supplier=SUP-001", ContentType: "application/json", Created: testCreated + 5},
		{Method: "DELETE", Path: "/packages/PKG-001/label", ContentType: "application/json", Created: testCreated + 6},
	} {
		httpsig.Sign(c.client, httpsig.TagStep, &r, place)
		tx := wire.Transaction{
			Sequence: place.Sequence, Request: r, Originator: wire.PublicKeyOf(c.node), Time: r.Created*1000 + 7,
			Response: wire.Response{Status: 200, Headers: []wire.Header{{Name: "Content-Type", Value: "application/json"}}, Body: wire.Sum(bodies[i])},
		}
		s.Transactions = append(s.Transactions, tx)
		place.Sequence, place.Transcript = place.Sequence+1, wire.TranscriptNext(place.Transcript, tx)
	}
	s.Commit = wire.Request{Method: "POST", Path: session.PathCommit(place.Session), ContentType: "application/json", Body: []byte("{}"), Created: testCreated + 9}
	httpsig.Sign(c.client, httpsig.TagCommit, &s.Commit, place)
	return s, bodies
}

func mustBuild(t testing.TB, c *chain, b *block) []byte {
	t.Helper()
	raw, err := Build(b.parts(c))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
