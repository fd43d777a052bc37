package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tandem/internal/bench/distance"
	"tandem/internal/bench/link"
	"tandem/internal/testnet"
	"tandem/node"
)

// mesh is a link in every connection of a network, so that distances can be set while it runs:
//
//   - consensus: node i is told the address of its link to node j in place of j's own, for every j. Whoever of the two dials, the
//     connection goes through a link, and its far side's bytes come back through it. There is one connection for each pair:
//     the engine refuses a second one by the peer's id, and there is no discovery that could tell a node another address.
//   - client to Layer 2 node: the ledger lists the link's address, and the node listens elsewhere.
//   - Layer 2 node to Layer 2 node: the same. All the others dial the one address of the ledger's list, so that these links cannot
//     tell who dials: they have to be alike (see fits).
//
// It is wired up through NetworkOptions.Configure. Its fields belong to the goroutine that launches and measures.
type mesh struct {
	validators, layer2 int
	seed               uint64
	links              []*meshLink
	urls               []string // of the Layer 2 nodes as the client and the ledger know them: of their links
	err                error    // the first that went wrong in configure
}

// meshLink is one link: from a node, or the client, to a node. from is -1 where it is any of the other Layer 2 nodes.
type meshLink struct {
	from, to int
	kind     string // "consensus", "client" or "layer2"
	*link.Link
}

const anyLayer2 = -1

// configure is a NetworkOptions.Configure: it puts links before node i's peers and, of a Layer 2 node, before itself. A network
// that is begun anew begins with node 0.
func (m *mesh) configure(i int, cfg *node.Config) {
	if i == 0 {
		m.err = m.Close()
		m.links, m.urls = nil, nil
	}
	if m.err == nil {
		m.err = m.wire(i, cfg)
	}
}

func (m *mesh) wire(i int, cfg *node.Config) error {
	if len(cfg.P2P.Peers) != m.validators+m.layer2-1 {
		return fmt.Errorf("bench: node %d names %d peers, not all others", i, len(cfg.P2P.Peers))
	}
	for at, peer := range cfg.P2P.Peers {
		to := at // peers stand in the order of the nodes, without the node itself
		if to >= i {
			to++
		}
		id, address, _ := strings.Cut(peer, "@")
		l, err := m.add(i, to, "consensus", "", address)
		if err != nil {
			return err
		}
		cfg.P2P.Peers[at] = id + "@" + l.Address()
	}
	if !cfg.Has(node.RoleLayer2) {
		return nil
	}
	inner, err := testnet.FreeAddresses(2)
	if err != nil {
		return err
	}
	outer := cfg.HTTP.Listen
	if _, err := m.add(m.validators+m.layer2, i, "client", outer, inner[0]); err != nil {
		return err
	}
	cfg.HTTP.Listen = inner[0]
	m.urls = append(m.urls, "http://"+outer)
	if m.layer2 > 1 {
		if _, err := m.add(anyLayer2, i, "layer2", cfg.Layer2.PeerListen, inner[1]); err != nil {
			return err
		}
		cfg.Layer2.PeerListen = inner[1]
	}
	return nil
}

// add starts a link, without distance at first.
func (m *mesh) add(from, to int, kind, listen, target string) (*link.Link, error) {
	l, err := link.Listen(link.Options{Listen: listen, Target: target, Seed: m.seed + uint64(len(m.links))<<32})
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	m.links = append(m.links, &meshLink{from, to, kind, l})
	return l, nil
}

// fits reports whether the links between Layer 2 nodes can emulate a placement: to each, the ways from all others are alike.
func fits(p distance.Placement) error {
	for to := p.Validators; to < p.Client(); to++ {
		first := anyLayer2
		for from := p.Validators; from < p.Client(); from++ {
			switch {
			case from == to:
			case first == anyLayer2:
				first = from
			case p.Between(from, to) != p.Between(first, to) || p.Between(to, from) != p.Between(to, first):
				return fmt.Errorf("bench: %s is not equally far from %s and %s: all Layer 2 nodes dial a node at its one address on the ledger's list, "+
					"so this emulation needs Layer 2 nodes that are equally far from each other (or two of them)", p.Sites[to], p.Sites[from], p.Sites[first])
			}
		}
	}
	return nil
}

// place gives all links the distances of a placement, which fits.
func (m *mesh) place(p distance.Placement) error {
	for _, s := range m.links {
		from := s.from
		if from == anyLayer2 {
			from = p.Validators
			if from == s.to {
				from++
			}
		}
		if err := s.Set(p.Between(from, s.to), p.Between(s.to, from)); err != nil {
			return err
		}
	}
	return nil
}

// connected returns an error that names two nodes which have no connection through a link, if there are any.
func (m *mesh) connected() error {
	open := map[[2]int]bool{}
	for _, s := range m.links {
		if s.kind == "consensus" && s.Traffic().Open > 0 {
			open[[2]int{min(s.from, s.to), max(s.from, s.to)}] = true
		}
		if s.kind == "layer2" && s.Traffic().Open < int64(m.layer2-1) {
			return fmt.Errorf("bench: %d of the %d other Layer 2 nodes are connected with node %d through its link", s.Traffic().Open, m.layer2-1, s.to)
		}
	}
	for i := range m.validators + m.layer2 {
		for j := range i {
			if !open[[2]int{j, i}] {
				return fmt.Errorf("bench: nodes %d and %d are not connected through a link", j, i)
			}
		}
	}
	return nil
}

// awaitConnected waits until all pairs of nodes are connected through links, each pair by one connection: a second one, that
// the engine has refused, is closed a moment after it was opened.
func (m *mesh) awaitConnected(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		err := m.connected()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-look.C:
		}
	}
}

// connectWait is how long nodes that say they are ready may still take to find each other: the engine dials every 0.2 s.
const connectWait = 30 * time.Second

// lost is how many segments the links have lost so far.
func (m *mesh) lost() int64 {
	var n int64
	for _, s := range m.links {
		n += s.Traffic().Lost
	}
	return n
}

// check makes sure that the links lead to where the nodes listen.
func (m *mesh) check(configs []node.Config) error {
	if m.err != nil {
		return m.err
	}
	for _, s := range m.links {
		cfg := configs[s.to]
		if !slices.Contains([]string{cfg.P2P.Listen, cfg.HTTP.Listen, cfg.Layer2.PeerListen}, s.Target()) {
			return fmt.Errorf("bench: the link to node %d leads to %s, where it does not listen", s.to, s.Target())
		}
	}
	return nil
}

// Close ends all links.
func (m *mesh) Close() error {
	var errs []error
	for _, s := range m.links {
		errs = append(errs, s.Link.Close())
	}
	return errors.Join(errs...)
}
