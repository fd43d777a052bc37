package session

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"tandem/internal/wire"
)

// simulated is a machine, its disk, and who was answered with what by it.
type simulated struct {
	m    *Machine
	disk []Record
	had  []wire.Digest // variants of the last step that it has had on disk
}

func (s *simulated) step(msg Message) (last Action) {
	for _, a := range s.m.Step(msg) {
		if p, ok := a.(Persist); ok {
			s.disk = write(s.disk, p.Record)
		}
		last = a
	}
	return last
}

// take is Reproduced as the driver does it.
func (s *simulated) take(v StepRecord) {
	s.step(Reproduced(v))
	s.step(Endorsed{Sequence: v.Sequence, Node: s.m.self, Head: v.Head})
	s.had = append(s.had, v.Head)
}

// Nodes that originate one signed step each, in whatever order they hear of each other, crash and hear again: they come to
// stand at one variant, none of what they have had on disk is lost, and whichever the client signs over next can be gone on from at
// every node and is the only one that survives.
func TestVariantsConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 5).Draw(t, "nodes")
		p := Policy{Need: 2}
		for i := range n {
			p.Nodes = append(p.Nodes, node(strconv.Itoa(i)))
		}
		nodes := make([]*simulated, n)
		all := map[wire.Digest]StepRecord{}
		r1 := digest("r1")
		for i := range nodes {
			nodes[i] = &simulated{m: New(p.Nodes[i], p, digest("T0"), 1000)}
			if i > 1 && rapid.Bool().Draw(t, "hears of it first") {
				continue
			}
			s := nodes[i]
			v := StepRecord{1, r1, digest(fmt.Sprintf("variant %d %d", i, rapid.Int().Draw(t, "salt"))), int64(100 + i), p.Nodes[i]}
			s.step(StepRequested{1, digest("T0"), r1})
			s.step(Executed{Sequence: 1, Request: r1, Head: v.Head, Time: v.Time})
			s.step(Endorsed{1, v.Originator, v.Head})
			s.step(WaitOver{1})
			s.had = append(s.had, v.Head)
			all[v.Head] = v
		}
		// hear delivers what one node stands at to another, and reports whether that has moved.
		hear := func(to, from int) bool {
			a, b := nodes[to], nodes[from]
			if b.m.Len() == 0 {
				return false
			}
			v := all[b.m.Head()]
			last := a.step(Replicated{Sequence: 1, Previous: digest("T0"), Request: r1, Head: v.Head})
			switch last.(type) {
			case Execute, Supplant:
				if rapid.IntRange(0, 9).Draw(t, "cannot be run now") == 0 {
					return true // later
				}
				was := a.m.Len()
				a.take(v)
				return was == 0 || a.m.Head() == v.Head
			}
			return false
		}
		restart := func(s *simulated) {
			again := New(s.m.self, p, digest("T0"), 1000)
			for _, r := range s.disk {
				if err := again.Restore(r); err != nil {
					t.Fatalf("restore: %v", err)
				}
			}
			if again.Len() != s.m.Len() || again.Head() != s.m.Head() || !slices.Equal(again.Variants(), s.m.Variants()) {
				t.Fatalf("a restart changes %v %v into %v %v", s.m.Head(), s.m.Variants(), again.Head(), again.Variants())
			}
			s.m = again
		}
		for range rapid.IntRange(0, 30).Draw(t, "messages") {
			hear(rapid.IntRange(0, n-1).Draw(t, "to"), rapid.IntRange(0, n-1).Draw(t, "from"))
			if s := nodes[rapid.IntRange(0, n-1).Draw(t, "who")]; rapid.IntRange(0, 4).Draw(t, "crash") == 0 {
				restart(s)
			}
		}
		for moved := true; moved; { // everybody hears everybody
			moved = false
			for to := range nodes {
				for from := range nodes {
					moved = to != from && hear(to, from) || moved
				}
			}
		}
		var least *wire.Digest
		for h := range all {
			if least == nil || bytes.Compare(h[:], least[:]) < 0 {
				least = &h
			}
		}
		for i, s := range nodes {
			if s.m.Head() != *least {
				t.Fatalf("node %d stands at %s, the smallest is %s", i, s.m.Head(), *least)
			}
			for _, h := range s.had {
				if h != s.m.Head() && !slices.Contains(s.m.Variants(), h) {
					t.Fatalf("node %d has lost variant %s", i, h)
				}
			}
		}
		// The client has used one of them, and signs over it.
		var heads []wire.Digest
		for h := range all {
			heads = append(heads, h)
		}
		slices.SortFunc(heads, func(a, b wire.Digest) int { return bytes.Compare(a[:], b[:]) })
		chosen := all[rapid.SampledFrom(heads).Draw(t, "chosen")]
		r2 := digest("r2")
		v2 := StepRecord{2, r2, digest("second"), 200, p.Nodes[0]}
		for i, s := range nodes {
			switch a := s.step(StepRequested{2, chosen.Head, r2}).(type) {
			case Choose:
				if a.Head != chosen.Head || a.Sequence != 1 {
					t.Fatalf("%+v", a)
				}
				s.take(chosen)
			case Seek: // it comes from another node, or from the client, with the signature over it
				if slices.Contains(s.had, chosen.Head) {
					t.Fatalf("node %d has had %s and does not find it", i, chosen.Head)
				}
				s.take(chosen)
			case Execute:
			default:
				t.Fatalf("node %d: %T", i, a)
			}
			if _, ok := s.step(StepRequested{2, chosen.Head, r2}).(Execute); !ok {
				t.Fatalf("node %d does not go on from the client's choice", i)
			}
			for _, h := range heads { // and nothing moves it any more
				if h != chosen.Head {
					s.step(Replicated{Sequence: 1, Previous: digest("T0"), Request: r1, Head: h})
				}
			}
			s.take(v2)
			restart(s)
			if s.m.Len() != 2 || s.m.HeadAt(1) != chosen.Head || len(s.m.Variants()) != 0 {
				t.Fatalf("node %d has %d steps, %s first, and %d variants", i, s.m.Len(), s.m.HeadAt(1), len(s.m.Variants()))
			}
		}
	})
}

// A node that keeps as many variants as it may moves to no other by itself, but always to the client's choice.
func TestVariantsAreBounded(t *testing.T) {
	p := Policy{Nodes: []wire.PublicKey{node("a"), node("b")}, Need: 2}
	m := New(node("a"), p, digest("T0"), 1000)
	head := func(i byte) wire.Digest { return wire.Digest{255 - i} } // ever smaller
	m.Step(StepRequested{1, digest("T0"), digest("r")})
	m.Step(Executed{1, digest("r"), head(0), 100})
	m.Step(Endorsed{1, node("a"), head(0)})
	for i := byte(1); i < 20; i++ {
		if a := m.Step(Replicated{1, digest("T0"), digest("r"), head(i)}); len(a) == 1 {
			if _, ok := a[0].(Supplant); ok {
				m.Step(Reproduced{1, digest("r"), head(i), 100, node("b")})
			}
		}
	}
	if len(m.Variants()) != MaxVariants || m.Head() != head(MaxVariants) {
		t.Fatalf("%d variants, %s", len(m.Variants()), m.Head())
	}
	if a := m.Step(StepRequested{2, head(3), digest("s")}); len(a) != 1 || a[0] != (Choose{1, head(3)}) {
		t.Fatalf("%+v", a)
	}
}
