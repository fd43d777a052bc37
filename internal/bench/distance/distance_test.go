package distance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tandem/internal/bench/link"
)

const ms = time.Millisecond

func uniform(t interface{ Fatal(...any) }, apart, near time.Duration) *Map {
	m, err := Uniform(link.Conditions{Delay: apart}, link.Conditions{Delay: near})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestContinents reads the embedded map: its nodes are where its comments say.
func TestContinents(t *testing.T) {
	p := Continents().Place(4, 2)
	if got := fmt.Sprint(p.Sites); got != "[frankfurt virginia singapore sao-paulo frankfurt frankfurt frankfurt]" {
		t.Error(got)
	}
	for _, c := range []struct {
		from, to int
		want     time.Duration
	}{{0, 1, 46 * ms}, {1, 0, 46 * ms}, {2, 3, 162 * ms}, {0, 4, ms}, {4, 5, ms}, {6, 4, ms}, {6, 3, 102 * ms}, {4, 4, 0}} {
		if got := p.Between(c.from, c.to).Delay; got != c.want {
			t.Errorf("from %d to %d: %s, not %s", c.from, c.to, got, c.want)
		}
	}
	if p.Farthest() != 163*ms || p.StepFloor(1) != 2*ms || p.StepFloor(2) != 4*ms || p.StepFloor(9) != 4*ms {
		t.Error(p.Farthest(), p.StepFloor(1), p.StepFloor(2), p.StepFloor(9))
	}
}

// TestUniformFloors checks the floors against what one counts by hand: with all nodes d apart, a commit takes the transaction,
// the proposal, the prevotes and the precommits, one d each; a step takes none, or a round trip for each further endorsement.
func TestUniformFloors(t *testing.T) {
	for _, n := range []int{2, 3, 4, 7, 10, 16, 31} {
		p := uniform(t, 50*ms, ms).Place(n, 1)
		for proposer := range n {
			if got := p.CommitFloor(proposer); got != 202*ms {
				t.Errorf("%d validators, proposer %d: %s", n, proposer, got)
			}
		}
		if p.MeanCommitFloor() != 202*ms || p.StepFloor(1) != 2*ms || p.StepFloor(2) != 2*ms {
			t.Errorf("%d validators: %s, %s", n, p.MeanCommitFloor(), p.StepFloor(2))
		}
	}
	if p := uniform(t, 50*ms, ms).Place(4, 3); p.StepFloor(2) != 102*ms || p.StepFloor(3) != 102*ms || p.StepFloor(1) != 2*ms {
		t.Error(p.StepFloor(1), p.StepFloor(2), p.StepFloor(3))
	}
	// One validator agrees with itself: there and back.
	if got := uniform(t, 50*ms, 0).Place(1, 1).CommitFloor(0); got != 100*ms {
		t.Error(got)
	}
}

// TestQuorumLeavesTheFarOneOut: with three validators together and one far away, only its own proposals pay for it.
func TestQuorumLeavesTheFarOneOut(t *testing.T) {
	m, err := Parse([]byte(`
client = "here"
validators = ["here", "here", "here", "moon"]
layer2 = ["here"]
near = {delay = "1ms"}
[[link]]
between = ["here", "moon"]
delay = "1300ms"
back = "1400ms"
`))
	if err != nil {
		t.Fatal(err)
	}
	p := m.Place(4, 1)
	for proposer, want := range []time.Duration{6 * ms, 6 * ms, 6 * ms, (2 + 1300 + 1400 + 1 + 1) * ms} {
		if got := p.CommitFloor(proposer); got != want {
			t.Errorf("proposer %d: %s, not %s", proposer, got, want)
		}
	}
}

// TestFloorsAreMonotone: with all distances equal, more validators or more distance never lower a floor, and more endorsements
// never make a step faster.
func TestFloorsAreMonotone(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		d := time.Duration(rapid.IntRange(0, 1000).Draw(r, "delay")) * ms
		n, k := rapid.IntRange(1, 30).Draw(r, "validators"), rapid.IntRange(1, 5).Draw(r, "layer2")
		need := rapid.IntRange(1, 6).Draw(r, "need")
		p, more, farther := uniform(r, d, ms).Place(n, k), uniform(r, d, ms).Place(n+1, k), uniform(r, d+ms, ms).Place(n, k)
		if more.MeanCommitFloor() < p.MeanCommitFloor() || farther.MeanCommitFloor() < p.MeanCommitFloor() {
			r.Fatalf("commit floors: %s, one more validator %s, farther apart %s", p.MeanCommitFloor(), more.MeanCommitFloor(), farther.MeanCommitFloor())
		}
		if p.StepFloor(need+1) < p.StepFloor(need) || farther.StepFloor(need) < p.StepFloor(need) {
			r.Fatalf("step floors of %d-%d", n, k)
		}
	})
}

func TestParseRefuses(t *testing.T) {
	const head = "client = \"a\"\nvalidators = [\"a\", \"b\"]\nlayer2 = [\"a\"]\n"
	for name, c := range map[string]struct{ text, want string }{
		"empty":             {"", "at least one each"},
		"no TOML":           {"client = ", "line 1"},
		"unknown key":       {head + "speed = 1\n", "unknown key"},
		"unknown in a link": {head + "[[link]]\nbetween = [\"a\", \"b\"]\ndelays = \"1ms\"\n", "unknown key"},
		"missing pair":      {head, "no link between a and b"},
		"twice":             {head + strings.Repeat("[[link]]\nbetween = [\"b\", \"a\"]\n", 2), "twice"},
		"one site":          {head + "[[link]]\nbetween = [\"a\", \"a\"]\n", "two sites"},
		"three sites":       {head + "[[link]]\nbetween = [\"a\", \"b\", \"c\"]\n", "two sites"},
		"no duration":       {head + "[[link]]\nbetween = [\"a\", \"b\"]\ndelay = \"46\"\n", "no duration"},
		"negative":          {head + "[[link]]\nbetween = [\"a\", \"b\"]\ndelay = \"-1ms\"\n", "no duration"},
		"jitter":            {head + "[[link]]\nbetween = [\"a\", \"b\"]\njitter = \"1ms\"\n", "jitter"},
		"loss":              {head + "[[link]]\nbetween = [\"a\", \"b\"]\nloss = 0.7\n", "loss"},
		"bandwidth":         {head + "[[link]]\nbetween = [\"a\", \"b\"]\nmbit = -1.0\n", "mbit"},
		"not a number":      {head + "[[link]]\nbetween = [\"a\", \"b\"]\nmbit = nan\n", "mbit"},
		"near":              {head + "near = {delay = \"11s\"}\n", "[near]"},
		"nameless":          {"client = \"a\"\nvalidators = [\"\"]\nlayer2 = [\"a\"]\n", "without a name"},
	} {
		if _, err := Parse([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Uniform(link.Conditions{Delay: -1}, link.Conditions{}); err == nil {
		t.Error("a negative distance")
	}
}

// FuzzParse: whatever a file holds, it is refused or is a map on which networks can be placed, with sound conditions.
func FuzzParse(f *testing.F) {
	f.Add([]byte(continents))
	f.Add([]byte("client = \"a\"\nvalidators = [\"a\"]\nlayer2 = [\"a\"]\n[near]\ndelay = \"3ms\"\nmbit = 0.5\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Parse(text)
		if err != nil {
			return
		}
		p := m.Place(5, 2)
		for i := range p.Sites {
			for j := range p.Sites {
				if err := p.Between(i, j).Check(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if p.StepFloor(2) < 0 || p.MeanCommitFloor() < 0 {
			t.Fatal("a negative floor")
		}
	})
}
