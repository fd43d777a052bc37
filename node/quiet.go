package node

import (
	"sync"
	"time"

	cometconsensus "github.com/cometbft/cometbft/consensus"
	"github.com/cometbft/cometbft/libs/bits"
	"github.com/cometbft/cometbft/p2p"
	consensusproto "github.com/cometbft/cometbft/proto/tendermint/consensus"
	cometproto "github.com/cometbft/cometbft/proto/tendermint/types"
)

// quieter makes the engine's peers say in one message what they would say in many. CometBFT's reactor tells every peer of
// every vote that it has added, one message each: with n nodes and 2n votes a block that is 2n³ messages, 9,000 with
// sixteen validators, most of what a block costs there. All they are for is that the peer's polling does not send what is
// there already. Here they are collected for a while and sent as one set of bits, a message that the reactor has for the
// same purpose. The steps within a round, which nobody waits for either, are collected too, and only the last is sent.
//
// What is agreed on does not change, nor does what must be sent at once: proposals, parts, votes, and the height and round
// that this node is at pass. A peer that knows later what this node has may send it a second time, which costs a message.
//
// It is a reactor without channels: the switch lets each reactor replace a new peer by another.
type quieter struct {
	p2p.BaseReactor
	validators int
	hold       time.Duration
}

func newQuieter(validators int, hold time.Duration) *quieter {
	q := &quieter{validators: validators, hold: hold}
	q.BaseReactor = *p2p.NewBaseReactor("quieter", q)
	return q
}

// InitPeer implements p2p.Reactor.
func (q *quieter) InitPeer(peer p2p.Peer) p2p.Peer {
	return &quietPeer{Peer: peer, validators: q.validators, hold: q.hold}
}

// quietPeer is a peer to which some messages are sent later and together. Safe for concurrent use.
type quietPeer struct {
	p2p.Peer
	validators int
	hold       time.Duration

	mu     sync.Mutex
	armed  bool                         // release is on its way; guarded by mu, as all below
	height int64                        // where the peer knows this node to be
	round  int32                        //
	step   *consensusproto.NewRoundStep // the last step in that round, if the peer has not been told; nil otherwise
	votes  []*voteBits                  // of this height and the one before
}

// voteBits says which votes of one kind this node has. It only grows, so that a message that is lost or comes late harms
// nothing.
type voteBits struct {
	height int64
	round  int32
	kind   cometproto.SignedMsgType
	have   *bits.BitArray
	told   bool // nothing was added since it was sent last
}

// Send implements p2p.Peer.
func (q *quietPeer) Send(e p2p.Envelope) bool { return q.take(e) || q.Peer.Send(e) }

// TrySend implements p2p.Peer.
func (q *quietPeer) TrySend(e p2p.Envelope) bool { return q.take(e) || q.Peer.TrySend(e) }

// take reports whether the message will be sent later.
func (q *quietPeer) take(e p2p.Envelope) bool {
	switch m := e.Message.(type) {
	case *consensusproto.HasVote:
		q.mu.Lock()
		defer q.mu.Unlock()
		if m.Height < q.height-1 || m.Index < 0 || int(m.Index) >= q.validators {
			return true // of no use to anybody any more
		}
		b := q.votesOf(m)
		b.have.SetIndex(int(m.Index), true)
		b.told = false
	case *consensusproto.NewRoundStep:
		q.mu.Lock()
		defer q.mu.Unlock()
		if m.Height != q.height || m.Round != q.round {
			if m.Height < q.height || m.Height == q.height && m.Round < q.round {
				return true // overtaken: the reactor sends each on a goroutine of its own
			}
			q.enter(m.Height, m.Round)
			return false
		}
		if q.step == nil || q.step.Step < m.Step {
			q.step = m
		}
	default:
		return false
	}
	q.arm()
	return true
}

// enter notes that the peer is told of a new height or round. The caller holds mu.
func (q *quietPeer) enter(height int64, round int32) {
	q.height, q.round, q.step = height, round, nil
	kept := q.votes[:0]
	for _, b := range q.votes {
		if b.height >= height-1 {
			kept = append(kept, b)
		}
	}
	clear(q.votes[len(kept):])
	q.votes = kept
}

// votesOf finds the bits that a message is about. The caller holds mu.
func (q *quietPeer) votesOf(m *consensusproto.HasVote) *voteBits {
	for _, b := range q.votes {
		if b.height == m.Height && b.round == m.Round && b.kind == m.Type {
			return b
		}
	}
	b := &voteBits{height: m.Height, round: m.Round, kind: m.Type, have: bits.NewBitArray(q.validators)}
	q.votes = append(q.votes, b)
	return b
}

// arm sees to it that what is kept is sent. The caller holds mu.
func (q *quietPeer) arm() {
	if !q.armed {
		q.armed = true
		time.AfterFunc(q.hold, q.release)
	}
}

// release sends what is kept. What the peer's queue has no room for is kept longer.
func (q *quietPeer) release() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.armed = false
	if !q.IsRunning() {
		return
	}
	full := false
	if q.step != nil {
		if q.Peer.TrySend(p2p.Envelope{ChannelID: cometconsensus.StateChannel, Message: q.step}) {
			q.step = nil
		} else {
			full = true
		}
	}
	for _, b := range q.votes {
		if b.told {
			continue
		}
		// The reactor's own message names a block, to be compared with the votes for it; this one is about votes for any.
		m := &consensusproto.VoteSetBits{Height: b.height, Round: b.round, Type: b.kind, Votes: *b.have.ToProto()}
		if b.told = q.Peer.TrySend(p2p.Envelope{ChannelID: cometconsensus.VoteSetBitsChannel, Message: m}); !b.told {
			full = true
		}
	}
	if full {
		q.arm()
	}
}
