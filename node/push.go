package node

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"time"

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
// record is synced, because only then the round state has the parts.
type pusher struct {
	comettypes.PrivValidator
	engine  atomic.Pointer[pushed] // nil until attach: before, there is nobody to send to
	waiting chan delivery
}

// pushed is what a pusher needs of a built engine.
type pushed struct {
	peers func() []p2p.Peer
	round interface {
		GetRoundState() *cometcstypes.RoundState
	}
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
	proposal *cometproto.Proposal // nil for a vote
	messages []p2p.Envelope       // in the order to send; of a proposal, filled in when the round state has the parts
	peers    []p2p.Peer           // who cannot take it yet
	until    time.Time
}

func newPusher(validator comettypes.PrivValidator) *pusher {
	return &pusher{PrivValidator: validator, waiting: make(chan delivery, pushQueue)}
}

// attach gives p the engine it is the validator of.
func (p *pusher) attach(n *cometnode.Node) error {
	e := &pushed{peers: func() []p2p.Peer { return n.Switch().Peers().Copy() }}
	// The one exported way to the round state.
	env, err := n.ConfigureRPC()
	if err != nil {
		return err
	}
	var ok bool
	if e.round, ok = env.ConsensusState.(*cometconsensus.State); !ok {
		return fmt.Errorf("the engine's round state is a %T", env.ConsensusState)
	}
	p.engine.Store(e)
	return nil
}

// SignVote implements comettypes.PrivValidator. The consensus goroutine calls it, holding the round state.
func (p *pusher) SignVote(chainID string, vote *cometproto.Vote) error {
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
	if p.engine.Load() != nil {
		signed := *proposal
		p.keep(delivery{height: proposal.Height, round: proposal.Round, proposal: &signed})
	}
	return nil
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
		case d.proposal != nil && at.Round > d.round:
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
			if p.advance(&d) && now.Before(d.until) {
				left = append(left, d)
			}
		}
		clear(kept[len(left):])
		if kept = left; len(kept) > 0 {
			timer.Reset(pushPause)
		}
	}
}

// advance does what can be done for d now and reports whether something is left to do.
func (p *pusher) advance(d *delivery) bool {
	engine := p.engine.Load()
	if d.proposal != nil && d.messages == nil {
		// The consensus goroutine is on its way to put the proposal and the parts it has made into the round state. It
		// releases the round state between any two of its messages, and lets who waits for it in.
		rs := engine.round.GetRoundState()
		if rs.Height != d.height || rs.Round != d.round {
			return false
		}
		if rs.Proposal == nil || rs.ProposalBlockParts == nil || !rs.ProposalBlockParts.BitArray().IsFull() { // IsComplete takes no lock
			return true
		}
		if !bytes.Equal(rs.ProposalBlockParts.Header().Hash, d.proposal.BlockID.PartSetHeader.Hash) {
			return false // it holds another block, from a round before
		}
		d.messages = append(d.messages, p2p.Envelope{ChannelID: cometconsensus.DataChannel,
			Message: &consensusproto.Proposal{Proposal: *d.proposal}})
		for i := range int(rs.ProposalBlockParts.Total()) {
			part, err := rs.ProposalBlockParts.GetPart(i).ToProto()
			if err != nil {
				return false
			}
			d.messages = append(d.messages, p2p.Envelope{ChannelID: cometconsensus.DataChannel,
				Message: &consensusproto.BlockPart{Height: d.height, Round: d.round, Part: *part}})
		}
		d.peers = engine.peers()
	}
	d.send()
	return len(d.peers) > 0
}
