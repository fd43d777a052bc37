package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	abcitypes "github.com/cometbft/cometbft/abci/types"
	cometconsensus "github.com/cometbft/cometbft/consensus"
	cometcstypes "github.com/cometbft/cometbft/consensus/types"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/p2p/mock"
	consensusproto "github.com/cometbft/cometbft/proto/tendermint/consensus"
	cometproto "github.com/cometbft/cometbft/proto/tendermint/types"
	comettypes "github.com/cometbft/cometbft/types"
)

// TestPushDoesNotWaitForPolling: with a pause of two seconds between two looks at what a peer lacks, commits still take
// the time of their messages.
func TestPushDoesNotWaitForPolling(t *testing.T) {
	const pause, commits = 2 * time.Second, 6
	members := engines(t, 4, func(c *Config) { c.Consensus.GossipSleep = Duration(pause) })
	for _, m := range members { // all have seen a block: they are connected
		if err := members[0].submit(t.Context(), []byte("first")); err != nil {
			t.Fatal(err)
		}
		m.awaitHeight(t, 2)
	}
	begin := time.Now()
	for i := range commits {
		members[i%4].commitAgain(t, fmt.Sprint("pushed ", i))
	}
	// Polled, each of the two blocks of a commit waits three times, on average for a second.
	if took := time.Since(begin); took > commits*pause {
		t.Errorf("%d commits took %s: they waited for polling", commits, took)
	}
}

// awaitHeight waits until m has committed the height.
func (m *member) awaitHeight(t *testing.T, height int64) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		select {
		case b := <-m.app.blocks:
			if b.height >= height {
				return
			}
		case <-deadline:
			t.Fatalf("no block %d within 60 s", height)
		}
	}
}

// commitAgain is commit, submitting until it is in a block.
func (m *member) commitAgain(t *testing.T, tx string) {
	t.Helper()
	for len(m.app.blocks) > 0 {
		<-m.app.blocks
	}
	retry := time.NewTicker(300 * time.Millisecond)
	defer retry.Stop()
	deadline := time.After(60 * time.Second)
	for {
		if err := m.submit(t.Context(), []byte(tx)); err != nil {
			t.Fatal(err)
		}
		select {
		case b := <-m.app.blocks:
			if b.txs > 0 {
				return
			}
		case <-retry.C:
		case <-deadline:
			t.Fatal("no commit within 60 s")
		}
	}
}

// pushPeer is a connected peer that notes what it is sent.
type pushPeer struct {
	*mock.Peer
	state *cometconsensus.PeerState

	mu   sync.Mutex
	full bool           // guarded by mu
	got  []p2p.Envelope // guarded by mu
	new  chan struct{}
}

func newPushPeer(height int64, round int32) *pushPeer {
	p := &pushPeer{Peer: mock.NewPeer(nil), new: make(chan struct{}, 100)}
	p.state = cometconsensus.NewPeerState(p)
	p.Set(comettypes.PeerStateKey, p.state)
	p.at(height, round)
	return p
}

func (p *pushPeer) at(height int64, round int32) {
	p.state.ApplyNewRoundStepMessage(&cometconsensus.NewRoundStepMessage{Height: height, Round: round, Step: cometcstypes.RoundStepPropose})
}

// fill says whether the peer's queue is full.
func (p *pushPeer) fill(full bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.full = full
}

func (p *pushPeer) Send(e p2p.Envelope) bool { return p.TrySend(e) }

func (p *pushPeer) TrySend(e p2p.Envelope) bool {
	p.mu.Lock()
	if p.full {
		p.mu.Unlock()
		return false
	}
	p.got = append(p.got, e)
	p.mu.Unlock()
	p.new <- struct{}{}
	return true
}

func (p *pushPeer) sent() []p2p.Envelope {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

func (p *pushPeer) await(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-p.new:
		case <-time.After(10 * time.Second):
			t.Fatalf("nothing was sent within 10 s; before: %v", p.sent())
		}
	}
}

// pushing returns a running pusher with the peers, the round state it sees and its signer.
func pushing(t *testing.T, validator comettypes.PrivValidator, peers ...*pushPeer) (*pusher, *cometcstypes.RoundState) {
	t.Helper()
	p, rs := newPusher(validator), &cometcstypes.RoundState{}
	var list []p2p.Peer
	for _, peer := range peers {
		list = append(list, peer)
	}
	p.engine.Store(&pushed{peers: func() []p2p.Peer { return slices.Clone(list) }, round: rs})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return p, rs
}

func blockID(b byte) cometproto.BlockID {
	hash := make([]byte, 32)
	hash[0] = b
	return cometproto.BlockID{Hash: hash, PartSetHeader: cometproto.PartSetHeader{Total: 1, Hash: hash}}
}

// TestPushVote: a vote goes at once to who can take it, without the extension's signature, which is refused where
// extensions are off; to who is one block behind it goes when that peer has caught up; never to who is past it, far behind
// or not in consensus.
func TestPushVote(t *testing.T) {
	here, behind, past, far, syncing := newPushPeer(7, 0), newPushPeer(6, 2), newPushPeer(8, 0), newPushPeer(3, 0), newPushPeer(0, 0)
	p, _ := pushing(t, comettypes.NewMockPV(), here, behind, past, far, syncing)
	v := &cometproto.Vote{Type: cometproto.PrecommitType, Height: 7, BlockID: blockID(1), Timestamp: time.Now()}
	if err := p.SignVote("chain", v); err != nil {
		t.Fatal(err)
	}
	if got := here.sent(); len(got) != 1 {
		t.Fatalf("the peer at the vote's height was sent %v before SignVote returned", got)
	}
	if len(v.ExtensionSignature) == 0 {
		t.Error("the engine's own vote has lost its extension signature")
	}
	if got := behind.sent(); len(got) > 0 {
		t.Fatalf("a peer that would have thrown it away was sent %v", got)
	}
	behind.at(7, 0)
	behind.await(t, 1)
	for _, peer := range []*pushPeer{here, behind} {
		e := peer.sent()[0]
		sent := e.Message.(*consensusproto.Vote).Vote
		if e.ChannelID != cometconsensus.VoteChannel || string(sent.Signature) != string(v.Signature) || sent.Height != 7 {
			t.Errorf("sent %v", e)
		}
		if sent.Extension != nil || sent.ExtensionSignature != nil {
			t.Error("the extension's signature was sent")
		}
	}
	for _, peer := range []*pushPeer{past, far, syncing} {
		if got := peer.sent(); len(got) > 0 {
			t.Errorf("a peer that has no use for it was sent %v", got)
		}
	}
}

// TestPushNothingUnsigned: double-sign protection and every other refusal of the signer stand, and nothing leaves.
func TestPushNothingUnsigned(t *testing.T) {
	peer := newPushPeer(7, 0)
	cfg, _, _ := home(t, t.TempDir())
	validator, err := cfg.loadValidator()
	if err != nil {
		t.Fatal(err)
	}
	p, _ := pushing(t, validator, peer)
	vote := func(id cometproto.BlockID) error {
		return p.SignVote("chain", &cometproto.Vote{Type: cometproto.PrevoteType, Height: 7, BlockID: id, Timestamp: time.Now()})
	}
	if err := vote(blockID(1)); err != nil {
		t.Fatal(err)
	}
	if err := vote(blockID(2)); err == nil {
		t.Error("a second, different vote was signed")
	}
	proposal := &cometproto.Proposal{Type: cometproto.ProposalType, Height: 6, PolRound: -1, BlockID: blockID(3), Timestamp: time.Now()}
	if err := p.SignProposal("chain", proposal); err == nil {
		t.Error("a proposal for a height before the last vote's was signed")
	}
	if got := peer.sent(); len(got) != 1 {
		t.Errorf("sent %v, want the first vote only", got)
	}
}

// TestPushProposal: the proposal goes before its parts, on one channel, once the round state has both; a full queue ends
// it there, the rest is polling's. A round that has gone on takes it along.
func TestPushProposal(t *testing.T) {
	here, full, ahead := newPushPeer(7, 0), newPushPeer(7, 0), newPushPeer(7, 1)
	full.fill(true)
	p, rs := pushing(t, comettypes.NewMockPV(), here, full, ahead)
	parts := comettypes.NewPartSetFromData(make([]byte, 3*comettypes.BlockPartSizeBytes), comettypes.BlockPartSizeBytes)
	header := parts.Header()
	proposal := comettypes.NewProposal(7, 0, -1, comettypes.BlockID{Hash: header.Hash, PartSetHeader: header})
	signed := proposal.ToProto()
	rs.Height = 7
	if err := p.SignProposal("chain", signed); err != nil {
		t.Fatal(err)
	}
	asked := proposer{abcitypes.NewBaseApplication(), p}
	ask := func() {
		if _, err := asked.ProcessProposal(t.Context(), &abcitypes.RequestProcessProposal{}); err != nil {
			t.Fatal(err)
		}
	}
	ask() // about another's
	if got := here.sent(); len(got) > 0 {
		t.Fatalf("sent %v before the round state had it", got)
	}
	rs.Proposal, rs.ProposalBlockParts = proposal, parts
	ask()
	got := here.sent()
	if len(got) != 4 {
		t.Fatalf("sent %d messages when the engine asked about its own proposal, want it and three parts", len(got))
	}
	if ask(); len(here.sent()) != 4 {
		t.Error("the proposal was sent twice")
	}
	if sent, ok := got[0].Message.(*consensusproto.Proposal); !ok || string(sent.Proposal.Signature) != string(signed.Signature) {
		t.Errorf("first came %v, not the proposal", got[0])
	}
	for i, e := range got[1:] {
		part, ok := e.Message.(*consensusproto.BlockPart)
		if !ok || e.ChannelID != cometconsensus.DataChannel || part.Height != 7 || int(part.Part.Index) != i {
			t.Errorf("message %d is %T of part %v", i+1, e.Message, part)
		}
	}
	for _, peer := range []*pushPeer{full, ahead} {
		if got := peer.sent(); len(got) > 0 {
			t.Errorf("sent %d messages", len(got))
		}
	}

	signed = comettypes.NewProposal(7, 1, -1, proposal.BlockID).ToProto()
	if err := p.SignProposal("chain", signed); err != nil { // the round state is at round 0: that round is over or not ours
		t.Fatal(err)
	}
	v := &cometproto.Vote{Type: cometproto.PrevoteType, Height: 7, Round: 1, BlockID: blockID(1)}
	if err := p.SignVote("chain", v); err != nil {
		t.Fatal(err)
	}
	here.at(7, 1)
	here.await(t, 5) // the last is the vote; the proposal would have stood before it in the queue
	if got := here.sent(); len(got) != 5 {
		t.Errorf("sent %d messages, want the vote of round 1 and no proposal", len(got)-4)
	}
}

// TestPushKeepsNothing: what is not wanted within pushPatience is given up, and a signer may fail or go on while nobody runs
// the pusher: it never waits.
func TestPushKeepsNothing(t *testing.T) {
	p := newPusher(comettypes.NewMockPV())
	p.engine.Store(&pushed{peers: func() []p2p.Peer { return []p2p.Peer{newPushPeer(6, 0)} }, round: &cometcstypes.RoundState{}})
	for i := range 3 * pushQueue {
		if err := p.SignVote("chain", &cometproto.Vote{Type: cometproto.PrevoteType, Height: 7, Round: int32(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.waiting); n != pushQueue {
		t.Errorf("%d deliveries wait, want %d", n, pushQueue)
	}
	p.PrivValidator = comettypes.NewErroringMockPV()
	if err := p.SignVote("chain", &cometproto.Vote{}); !errors.Is(err, comettypes.ErroringMockPVErr) {
		t.Errorf("the signer's error became %v", err)
	}
}
