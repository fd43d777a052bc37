package node

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	abcitypes "github.com/cometbft/cometbft/abci/types"
	cometconsensus "github.com/cometbft/cometbft/consensus"
	cometcstypes "github.com/cometbft/cometbft/consensus/types"
	cometnode "github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	consensusproto "github.com/cometbft/cometbft/proto/tendermint/consensus"
	cometproto "github.com/cometbft/cometbft/proto/tendermint/types"
	comettypes "github.com/cometbft/cometbft/types"
)

// pusher sends this node's own proposal, its block's parts and its votes to every connected peer at the moment they exist.
// CometBFT's reactor looks every PeerGossipSleepDuration what each peer lacks; three such waits lie in one commit.
//
// It changes nothing that is agreed: it wraps what signs (so double-sign protection is the wrapped validator's, and has its
// state on disk before anything leaves), sends only what has been signed, as the reactor's own messages on the reactor's own
// channels, and never waits for a peer. What is not delivered, because a peer's queue is full, because a peer is too far
// behind or is no direct peer, the reactor's polling delivers later: the peers' states are left as they are, so that polling
// knows nothing of it.
//
// A vote leaves before this node's write-ahead log has it. That is safe: the log is synced up to what the vote rests on
// before it is signed, and after a crash the same vote is signed again from the sign state. A proposal leaves after its
// record is synced, because only then the round state has the parts: when the engine asks the application about its own
// proposal, which is before it writes and signs its vote on it.
type pusher struct {
	comettypes.PrivValidator
	engine   atomic.Pointer[pushed] // nil until attach: before, there is nobody to send to
	waiting  chan delivery
	proposal *cometproto.Proposal // signed and not sent yet; owned by the consensus goroutine
}

// pushed is what a pusher needs of a built engine.
type pushed struct {
	peers func() []p2p.Peer
	// round is the engine's own round state, not a copy: only for the consensus goroutine, in a call from it.
	round *cometcstypes.RoundState
}

const (
	// pushPatience is how long what a peer cannot take yet (it is still committing the block before) is kept for it.
	pushPatience = 250 * time.Millisecond
	// pushPause is how often the peers' progress is looked at while something is kept.
	pushPause = 200 * time.Microsecond
	// pushQueue is how many deliveries may wait; a height has three of our own.
	pushQueue = 64
)

// delivery is what one height and round has for the peers that have not got it yet.
type delivery struct {
	height   int64
	round    int32
	proposal bool           // a proposal with its parts, not a vote
	messages []p2p.Envelope // in the order to send
	peers    []p2p.Peer     // who cannot take it yet
	until    time.Time
}

func newPusher(validator comettypes.PrivValidator) *pusher {
	return &pusher{PrivValidator: validator, waiting: make(chan delivery, pushQueue)}
}

// attach gives p the engine it is the validator of.
func (p *pusher) attach(n *cometnode.Node) error {
	// The one exported way to the round state.
	env, err := n.ConfigureRPC()
	if err != nil {
		return err
	}
	state, ok := env.ConsensusState.(*cometconsensus.State)
	if !ok {
		return fmt.Errorf("the engine's round state is a %T", env.ConsensusState)
	}
	p.engine.Store(&pushed{peers: func() []p2p.Peer { return n.Switch().Peers().Copy() }, round: &state.RoundState})
	return nil
}

// SignVote implements comettypes.PrivValidator. The consensus goroutine calls it, holding the round state.
func (p *pusher) SignVote(chainID string, vote *cometproto.Vote) error {
	p.propose() // unless the engine has not asked the application, being locked on the block
	if err := p.PrivValidator.SignVote(chainID, vote); err != nil {
		return err
	}
	// The signer signs an extension with every precommit; where extensions are off, as here, a vote that has one is refused.
	signed := *vote
	signed.Extension, signed.ExtensionSignature = nil, nil
	p.hand(delivery{height: vote.Height, round: vote.Round,
		messages: []p2p.Envelope{{ChannelID: cometconsensus.VoteChannel, Message: &consensusproto.Vote{Vote: &signed}}}})
	return nil
}

// SignProposal implements comettypes.PrivValidator. The consensus goroutine calls it, holding the round state.
func (p *pusher) SignProposal(chainID string, proposal *cometproto.Proposal) error {
	if err := p.PrivValidator.SignProposal(chainID, proposal); err != nil {
		return err
	}
	signed := *proposal
	p.proposal = &signed
	return nil
}

// propose sends the proposal that was signed last, if the round state has all of its parts now. The consensus goroutine calls
// it, holding the round state. It was asked for by another goroutine once, which had to wait for the round state until this
// node had voted: 2 ms and more, with all others waiting.
func (p *pusher) propose() {
	engine, proposal := p.engine.Load(), p.proposal
	if engine == nil || proposal == nil {
		return
	}
	rs := engine.round
	if rs.Height == proposal.Height && rs.Round == proposal.Round &&
		(rs.Proposal == nil || rs.ProposalBlockParts == nil || !rs.ProposalBlockParts.IsComplete()) {
		return // not yet
	}
	p.proposal = nil
	if rs.Height != proposal.Height || rs.Round != proposal.Round ||
		!bytes.Equal(rs.ProposalBlockParts.Header().Hash, proposal.BlockID.PartSetHeader.Hash) {
		return // its round is over, or the round state holds another block, from a round before
	}
	d := delivery{height: proposal.Height, round: proposal.Round, proposal: true}
	d.messages = append(d.messages, p2p.Envelope{ChannelID: cometconsensus.DataChannel,
		Message: &consensusproto.Proposal{Proposal: *proposal}})
	for i := range int(rs.ProposalBlockParts.Total()) {
		part, err := rs.ProposalBlockParts.GetPart(i).ToProto()
		if err != nil {
			return
		}
		d.messages = append(d.messages, p2p.Envelope{ChannelID: cometconsensus.DataChannel,
			Message: &consensusproto.BlockPart{Height: d.height, Round: d.round, Part: *part}})
	}
	p.hand(d)
}

// proposer is the application as the engine of a validator calls it. ProcessProposal is where the engine, on the consensus
// goroutine, first shows that its own proposal is complete.
type proposer struct {
	abcitypes.Application
	push *pusher
}

// ProcessProposal implements abcitypes.Application.
func (a proposer) ProcessProposal(ctx context.Context, r *abcitypes.RequestProcessProposal) (*abcitypes.ResponseProcessProposal, error) {
	a.push.propose()
	return a.Application.ProcessProposal(ctx, r)
}

// hand sends d to every peer that can take it and keeps it for the others.
func (p *pusher) hand(d delivery) {
	engine := p.engine.Load()
	if engine == nil {
		return
	}
	d.peers = engine.peers()
	if d.send(); len(d.peers) > 0 {
		p.keep(d)
	}
}

func (p *pusher) keep(d delivery) {
	d.until = time.Now().Add(pushPatience)
	select {
	case p.waiting <- d:
	default: // polling has it
	}
}

// send sends d to those of its peers that can take it and leaves in d.peers those that may soon.
func (d *delivery) send() {
	later := d.peers[:0]
	for _, peer := range d.peers {
		state, ok := peer.Get(comettypes.PeerStateKey).(*cometconsensus.PeerState)
		if !ok || !peer.IsRunning() {
			continue
		}
		at := state.GetRoundState()
		switch {
		case at.Height == 0 || at.Height > d.height || at.Height < d.height-1:
			// Not in consensus, past it, or too far behind.
		case at.Height < d.height || at.Round < d.round:
			later = append(later, peer)
		case d.proposal && at.Round > d.round:
			// A proposal counts in its round only.
		default:
			for _, m := range d.messages {
				if !peer.TrySend(m) {
					break
				}
			}
		}
	}
	d.peers = later
}

// run delivers what is kept, until ctx ends.
func (p *pusher) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var kept []delivery
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-p.waiting:
			kept = append(kept, d)
		case <-timer.C:
		}
		now, left := time.Now(), kept[:0]
		for _, d := range kept {
			if d.send(); len(d.peers) > 0 && now.Before(d.until) {
				left = append(left, d)
			}
		}
		clear(kept[len(left):])
		if kept = left; len(kept) > 0 {
			timer.Reset(pushPause)
		}
	}
}
