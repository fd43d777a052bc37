package distance

import (
	"slices"
	"time"

	"tandem/internal/bench/link"
)

// Placement is a network on a map: who is where.
type Placement struct {
	Validators, Layer2 int
	// Sites names the place of each node, validators first, and last that of the client.
	Sites []string

	conditions [][]link.Conditions // from, to; by index in Sites
}

// Client is the client's index in Sites.
func (p Placement) Client() int { return p.Validators + p.Layer2 }

// Between are the conditions from one node to another, by index in Sites.
func (p Placement) Between(from, to int) link.Conditions { return p.conditions[from][to] }

func (p Placement) delay(from, to int) time.Duration { return p.conditions[from][to].Delay }

func (p Placement) roundTrip(a, b int) time.Duration { return p.delay(a, b) + p.delay(b, a) }

// Farthest is the longest one-way delay between two nodes, jitter included; the client is none.
func (p Placement) Farthest() time.Duration {
	var far time.Duration
	for i := range p.Client() {
		for j := range p.Client() {
			far = max(far, p.conditions[i][j].Delay+p.conditions[i][j].Jitter)
		}
	}
	return far
}

// Together is the same network with all its nodes in one place; the client stays as far away as it is.
func (p Placement) Together() Placement {
	t := p
	t.conditions = make([][]link.Conditions, len(p.conditions))
	for i, row := range p.conditions {
		t.conditions[i] = make([]link.Conditions, len(row))
		for j, c := range row {
			if i == p.Client() || j == p.Client() {
				t.conditions[i][j] = c
			}
		}
	}
	return t
}

// Home is the Layer 2 node nearest to the client: the one it works with. The placement has at least one.
func (p Placement) Home() int {
	best := p.Validators
	for i := p.Validators + 1; i < p.Client(); i++ {
		if p.roundTrip(p.Client(), i) < p.roundTrip(p.Client(), best) {
			best = i
		}
	}
	return best
}

// StepFloor is what a step through the client's Layer 2 node cannot go below: the round trip to that node and, if more
// than one has to endorse, the round trip from it to as many of the others as are needed, the nearest first (they are asked
// at the same time). need counts the node itself; a larger one than there are nodes means all.
func (p Placement) StepFloor(need int) time.Duration {
	home := p.Home()
	var others []time.Duration
	for i := p.Validators; i < p.Client(); i++ {
		if i != home {
			others = append(others, p.roundTrip(home, i))
		}
	}
	slices.Sort(others)
	floor := p.roundTrip(p.Client(), home)
	if n := min(need-1, len(others)); n > 0 {
		floor += others[n-1]
	}
	return floor
}

// CommitFloor is what a commit through the client's Layer 2 node cannot go below when that validator proposes:
//
//	client -> Layer 2 node          the signed commit
//	Layer 2 node -> proposer        the transaction
//	proposer -> validators          the proposal with its block
//	validators -> validators        prevotes; each validator waits for more than two thirds
//	validators -> Layer 2 node      precommits; the node waits for more than two thirds
//	Layer 2 node -> client          the answer
//
// Jitter, loss and bandwidth are left out. Where all nodes are one delay d apart this is 4d between the nodes.
func (p Placement) CommitFloor(proposer int) time.Duration {
	home, n := p.Home(), p.Validators
	quorum := 2*n/3 + 1
	proposed := make([]time.Duration, n) // when each has the proposal, and prevotes
	for v := range n {
		proposed[v] = p.delay(home, proposer) + p.delay(proposer, v)
	}
	known := make([]time.Duration, n) // when the Layer 2 node has each one's precommit
	votes := make([]time.Duration, n)
	for v := range n {
		for u := range n {
			votes[u] = proposed[u] + p.delay(u, v)
		}
		slices.Sort(votes)
		known[v] = max(votes[quorum-1], proposed[v]) + p.delay(v, home)
	}
	slices.Sort(known)
	return p.roundTrip(p.Client(), home) + known[quorum-1]
}

// MeanCommitFloor is the mean over all proposers, who take turns.
func (p Placement) MeanCommitFloor() time.Duration {
	var sum time.Duration
	for v := range p.Validators {
		sum += p.CommitFloor(v)
	}
	return sum / time.Duration(p.Validators)
}
