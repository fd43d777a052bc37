package node

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	cometconsensus "github.com/cometbft/cometbft/consensus"
	cometcstypes "github.com/cometbft/cometbft/consensus/types"
	"github.com/cometbft/cometbft/p2p"
	consensusproto "github.com/cometbft/cometbft/proto/tendermint/consensus"
	cometproto "github.com/cometbft/cometbft/proto/tendermint/types"
)

const quietHold = 10 * time.Millisecond

func quietly(peer *pushPeer) p2p.Peer {
	return newQuieter(4, quietHold).InitPeer(peer)
}

// afterHold returns when what is kept now has been sent, in the time of the test's bubble.
func afterHold() {
	<-time.After(2 * quietHold)
	synctest.Wait()
}

func stateMessage(m p2p.Envelope) p2p.Envelope {
	m.ChannelID = cometconsensus.StateChannel
	return m
}

func stepAt(height int64, round int32, step cometcstypes.RoundStepType) p2p.Envelope {
	return stateMessage(p2p.Envelope{Message: &consensusproto.NewRoundStep{Height: height, Round: round, Step: uint32(step)}})
}

func hasVote(height int64, round int32, kind cometproto.SignedMsgType, index int32) p2p.Envelope {
	return stateMessage(p2p.Envelope{Message: &consensusproto.HasVote{Height: height, Round: round, Type: kind, Index: index}})
}

// TestQuietPeerCollects: what nobody waits for is sent together after the hold, the last step and all votes, and only once.
func TestQuietPeerCollects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := newPushPeer(7, 0)
		peer := quietly(to)
		if !peer.Send(stepAt(7, 0, cometcstypes.RoundStepNewHeight)) || len(to.sent()) != 1 {
			t.Fatal("the height is not told at once")
		}
		for _, index := range []int32{0, 2} {
			if !peer.TrySend(hasVote(7, 0, cometproto.PrevoteType, index)) {
				t.Fatal("refused")
			}
		}
		peer.TrySend(hasVote(7, 0, cometproto.PrecommitType, 1))
		peer.Send(stepAt(7, 0, cometcstypes.RoundStepPrevote))
		peer.Send(stepAt(7, 0, cometcstypes.RoundStepPropose)) // overtaken by the one before
		if got := to.sent(); len(got) != 1 {
			t.Fatalf("sent at once: %v", got[1:])
		}
		afterHold()
		got := to.sent()[1:]
		if len(got) != 3 {
			t.Fatalf("sent %v, want a step and two sets of votes", got)
		}
		if m, ok := got[0].Message.(*consensusproto.NewRoundStep); !ok || m.Step != uint32(cometcstypes.RoundStepPrevote) {
			t.Errorf("sent %v, want the last step", got[0])
		}
		for i, want := range []struct {
			kind cometproto.SignedMsgType
			have []int32
		}{{cometproto.PrevoteType, []int32{0, 2}}, {cometproto.PrecommitType, []int32{1}}} {
			if kind, have := votesIn(t, got[1+i]); kind != want.kind || !slices.Equal(have, want.have) {
				t.Errorf("sent %v %v, want %v %v", kind, have, want.kind, want.have)
			}
		}
		// One more: the message tells of all again, so that an earlier one may be lost.
		peer.TrySend(hasVote(7, 0, cometproto.PrevoteType, 3))
		afterHold()
		got = to.sent()[4:]
		if len(got) != 1 {
			t.Fatalf("sent %v", got)
		}
		if _, have := votesIn(t, got[0]); !slices.Equal(have, []int32{0, 2, 3}) {
			t.Errorf("votes %v", have)
		}
	})
}

func votesIn(t *testing.T, e p2p.Envelope) (kind cometproto.SignedMsgType, have []int32) {
	t.Helper()
	m, ok := e.Message.(*consensusproto.VoteSetBits)
	if !ok || e.ChannelID != cometconsensus.VoteSetBitsChannel {
		t.Fatalf("sent %v", e)
	}
	// What the other side's reactor makes of it.
	read, err := cometconsensus.MsgFromProto(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := read.ValidateBasic(); err != nil {
		t.Fatalf("a peer would hang up on it: %v", err)
	}
	bits := read.(*cometconsensus.VoteSetBitsMessage).Votes
	if bits.Size() != 4 {
		t.Errorf("%d bits for 4 validators", bits.Size())
	}
	for i := range bits.Size() {
		if bits.GetIndex(i) {
			have = append(have, int32(i))
		}
	}
	return m.Type, have
}

// TestQuietPeerPasses: heights, rounds and whatever is part of the agreement go at once; what a new height has made useless
// is never sent.
func TestQuietPeerPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := newPushPeer(7, 0)
		peer := quietly(to)
		vote := p2p.Envelope{ChannelID: cometconsensus.VoteChannel, Message: &consensusproto.Vote{Vote: &cometproto.Vote{Height: 7}}}
		valid := stateMessage(p2p.Envelope{Message: &consensusproto.NewValidBlock{Height: 7}})
		maj := stateMessage(p2p.Envelope{Message: &consensusproto.VoteSetMaj23{Height: 7}})
		at := []p2p.Envelope{stepAt(7, 0, 1), vote, valid, maj, stepAt(7, 1, 2), stepAt(9, 0, 1)}
		peer.TrySend(hasVote(7, 1, cometproto.PrevoteType, 0))
		for _, e := range at {
			if !peer.TrySend(e) {
				t.Fatalf("%v was refused", e)
			}
		}
		peer.Send(stepAt(8, 0, 3)) // overtaken
		peer.TrySend(hasVote(7, 1, cometproto.PrevoteType, 0))
		peer.TrySend(hasVote(9, 0, cometproto.PrevoteType, 4)) // there are four validators, 0 to 3
		afterHold()
		if got := to.sent(); !slices.EqualFunc(got, at, func(a, b p2p.Envelope) bool { return a.Message == b.Message }) {
			t.Errorf("sent %v", got)
		}
	})
}

// TestQuietPeerTriesAgain: what does not fit into the peer's queue is sent later.
func TestQuietPeerTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := newPushPeer(7, 0)
		peer := quietly(to)
		peer.Send(stepAt(7, 0, 1))
		to.fill(true)
		peer.TrySend(hasVote(7, 0, cometproto.PrevoteType, 1))
		peer.Send(stepAt(7, 0, cometcstypes.RoundStepPrevote))
		afterHold()
		if got := to.sent(); len(got) != 1 {
			t.Fatalf("sent %v", got)
		}
		to.fill(false)
		afterHold()
		if got := to.sent(); len(got) != 3 {
			t.Errorf("sent %v", got)
		}
	})
}
