package session

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expected output in testdata/*.txt")

// The transcripts in testdata: commands with what the machine asks for, as in etcd/raft. A file is blocks of
//
//	command key=value ...
//	----
//	expected output
//
// with an empty line after each, comments (#) between them.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(b))
			if *rewrite {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(b) {
				t.Errorf("got:\n%s", firstDifference(string(b), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range g {
		if i >= len(w) || w[i] != g[i] {
			return fmt.Sprintf("line %d: %q\n(run the test with -rewrite and read the diff)", i+1, g[i])
		}
	}
	return "fewer lines than expected"
}

// play runs a transcript and returns it with the output that the machine gives.
func play(t *testing.T, in string) string {
	var out strings.Builder
	var m *Machine
	var records []Record
	var commands []string
	s := bufio.NewScanner(strings.NewReader(in))
	expected := false
	flush := func() {
		if len(commands) == 0 {
			return
		}
		out.WriteString("----\n")
		for _, c := range commands {
			text := command(t, c, &m, &records)
			if text == "" {
				text = "nothing\n"
			}
			out.WriteString(text)
		}
		commands = nil
	}
	for s.Scan() {
		line := s.Text()
		switch {
		case line == "----":
			flush()
			expected = true
		case line == "":
			expected = false
			out.WriteString("\n")
		case expected:
		case strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
		default:
			out.WriteString(line + "\n")
			commands = append(commands, line)
		}
	}
	return out.String()
}

func digest(name string) wire.Digest {
	if name == "" {
		return wire.Digest{}
	}
	return wire.Sum([]byte(name))
}

func node(name string) wire.PublicKey { return wire.PublicKey(digest("node " + name)) }

// command runs one line. Heads have names: T0, T1, ... for the heads after each step; others are made up.
func command(t *testing.T, line string, m **Machine, records *[]Record) string {
	fields := strings.Fields(line)
	args := map[string]string{}
	for _, f := range fields[1:] {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			t.Fatalf("%q: %q is no key=value", line, f)
		}
		args[k] = v
	}
	num := func(k string) int64 {
		n, err := strconv.ParseInt(args[k], 10, 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return n
	}
	seq := func() uint64 { return uint64(num("seq")) }
	var msg Message
	switch fields[0] {
	case "new":
		var p Policy
		for _, n := range strings.Split(args["nodes"], ",") {
			p.Nodes = append(p.Nodes, node(n))
		}
		p.Need = int(num("need"))
		*m = New(node(args["self"]), p, digest("T0"), num("expires"))
		*records = nil
		return describe(*m)
	case "restart":
		n := New((*m).self, (*m).policy, digest("T0"), (*m).expires)
		for _, r := range *records {
			if err := n.Restore(r); err != nil {
				return "damaged: " + err.Error() + "\n"
			}
		}
		*m = n
		return describe(n)
	case "state":
		return describe(*m)
	case "refusals":
		var b strings.Builder
		for _, r := range (*m).Refusals() {
			fmt.Fprintf(&b, "%s in state %s: %s\n", r.Message, r.State, r.Code)
		}
		return b.String()
	case "step":
		msg = StepRequested{Sequence: seq(), Transcript: digest(args["head"]), Request: digest(args["request"])}
	case "executed":
		msg = Executed{Sequence: seq(), Request: digest(args["request"]), Head: digest(args["head"]), Time: num("time")}
	case "endorsed":
		msg = Endorsed{Sequence: seq(), Node: node(args["node"]), Head: digest(args["head"])}
	case "dissented":
		msg = Dissented{Sequence: seq(), Node: node(args["node"]), Reason: refusal.Code(args["reason"])}
	case "replicated":
		msg = Replicated{Sequence: seq(), Previous: digest(args["previous"]), Request: digest(args["request"]), Head: digest(args["head"])}
	case "reproduced":
		msg = Reproduced{Sequence: seq(), Request: digest(args["request"]), Head: digest(args["head"]), Time: num("time"), Originator: node(args["originator"])}
	case "policy":
		var p Policy
		for _, n := range strings.Split(args["nodes"], ",") {
			p.Nodes = append(p.Nodes, node(n))
		}
		p.Need = int(num("need"))
		msg = PolicyChanged{p}
	case "wait-over":
		msg = WaitOver{Sequence: seq()}
	case "commit":
		msg = CommitRequested{Sequence: seq(), Transcript: digest(args["head"]), Request: digest(args["request"])}
	case "rechecked":
		msg = Rechecked{Request: digest(args["request"])}
	case "checkpoint":
		msg = CheckpointRequested{Sequence: seq(), Transcript: digest(args["head"]), Request: digest(args["request"])}
	case "checkpoint-rechecked":
		msg = CheckpointRechecked{Request: digest(args["request"])}
	case "checkpoint-settled":
		msg = CheckpointSettled{Number: uint64(num("number")), Steps: uint64(num("steps")), Head: digest(args["head"]), Height: num("height"), Transaction: digest(args["tx"])}
	case "faulted":
		msg = Faulted{Reason: refusal.Code(args["reason"])}
	case "conflict":
		msg = ConflictFound{Height: num("height")}
	case "settled":
		msg = Settled{Height: num("height"), Transaction: digest(args["tx"])}
	case "block-time":
		msg = BlockTime{Time: num("time")}
	case "abandon":
		msg = AbandonRequested{Sequence: seq(), Transcript: digest(args["head"])}
	default:
		t.Fatalf("unknown command %q", line)
	}
	return step(*m, msg, records)
}

// write is what a node's disk makes of a record: a step has one place, and a variant that takes it leaves the other beside it.
func write(disk []Record, r Record) []Record {
	swap, ok := r.(ReplaceRecord)
	if !ok {
		return append(disk, r)
	}
	disk = slices.DeleteFunc(disk, func(r Record) bool {
		v, ok := r.(VariantRecord)
		return ok && v.Head == swap.Step.Head
	})
	for i, r := range disk {
		if s, ok := r.(StepRecord); ok && s.Sequence == swap.Step.Sequence {
			disk[i] = swap.Step
		}
	}
	return append(disk, VariantRecord(swap.Kept))
}

// step feeds a message and describes the actions; a panic is a bug of our own code, and shown as one.
func step(m *Machine, msg Message, records *[]Record) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprintf("PANIC %v\n", p)
		}
	}()
	var b strings.Builder
	for _, a := range m.Step(msg) {
		switch a := a.(type) {
		case Persist:
			*records = write(*records, a.Record)
			fmt.Fprintf(&b, "persist %s\n", record(a.Record))
		case Refuse:
			fmt.Fprintf(&b, "refuse %s\n", a.Refusal.Error())
		case Reply:
			fmt.Fprintf(&b, "reply to step %d: %d of %d endorse it\n", a.Sequence, a.Endorsements, a.Of)
		case Tell:
			fmt.Fprintf(&b, "tell %s\n", a.State)
		case Halt:
			fmt.Fprintf(&b, "HALT %s\n", a.Reason)
		default:
			fmt.Fprintf(&b, "%s\n", strings.ToLower(strings.TrimSuffix(strings.ReplaceAll(strings.TrimPrefix(fmt.Sprintf("%T %v", a, a), "session."), "{}", ""), " ")))
		}
	}
	return b.String()
}

func record(r Record) string {
	switch r := r.(type) {
	case StepRecord:
		return fmt.Sprintf("step %d at %d", r.Sequence, r.Time)
	case ReplaceRecord:
		return fmt.Sprintf("step %d at %d in the place of the one at %d, which is kept", r.Step.Sequence, r.Step.Time, r.Kept.Time)
	case EvidenceRecord:
		return fmt.Sprintf("evidence about step %d", r.Sequence)
	case CheckpointRecord:
		return fmt.Sprintf("checkpoint of %d steps height %d", r.Steps, r.Height)
	case CommitRecord:
		return "commit"
	case FaultRecord:
		return "fault " + string(r.Reason)
	case EndRecord:
		return fmt.Sprintf("end %s height %d", r.State, r.Height)
	}
	return "?"
}

func describe(m *Machine) string {
	head := "?"
	for i := range 20 {
		if name := fmt.Sprintf("T%d", i); digest(name) == m.Head() {
			head = name
		}
	}
	s := fmt.Sprintf("%s, %d steps, head %s", m.State(), m.Len(), head)
	if n := len(m.Variants()); n > 0 {
		s += fmt.Sprintf(", %d kept beside it", n)
	}
	if m.Fault() != "" {
		s += ", fault " + string(m.Fault())
	}
	return s + "\n"
}

// Habit 11: the transitions stand in a table; the table is what docs/sessions.md shows.
func TestTransitionTable(t *testing.T) {
	doc, err := os.ReadFile("../../docs/sessions.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[2]State]bool{}
	for _, tr := range Transitions() {
		if seen[[2]State{tr.From, tr.To}] {
			t.Errorf("%s -> %s stands twice", tr.From, tr.To)
		}
		seen[[2]State{tr.From, tr.To}] = true
		row := fmt.Sprintf("| %s | %s | %s |", tr.From, tr.To, tr.Why)
		if !strings.Contains(string(doc), row) {
			t.Errorf("docs/sessions.md lacks the row %s", row)
		}
	}
	if n := strings.Count(string(doc), "\n| open |") + strings.Count(string(doc), "\n| committing |") + strings.Count(string(doc), "\n| conflicted |") +
		strings.Count(string(doc), "\n| abandoned |") + strings.Count(string(doc), "\n| expired |"); n != len(Transitions()) {
		t.Errorf("docs/sessions.md has %d rows of transitions, the table %d", n, len(Transitions()))
	}
	for _, from := range []State{Committed, Expired} {
		for to := Open; to <= Expired; to++ {
			if legal(from, to) {
				t.Errorf("%s is an end, but %s -> %s is legal", from, from, to)
			}
		}
	}
}

func TestStateNames(t *testing.T) {
	for s := Open; s <= Expired; s++ {
		back, ok := ParseState(s.String())
		if !ok || back != s {
			t.Errorf("%d is %q is %v", s, s, back)
		}
	}
	for _, bad := range []string{"", "closed", "Open"} {
		if _, ok := ParseState(bad); ok {
			t.Errorf("%q is a state", bad)
		}
	}
}

func TestPolicyIsChecked(t *testing.T) {
	a, b := node("a"), node("b")
	for name, p := range map[string]Policy{
		"nobody": {nil, 1}, "self missing": {[]wire.PublicKey{b}, 1}, "need 0": {[]wire.PublicKey{a}, 0}, "need 2 of 1": {[]wire.PublicKey{a}, 2},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: accepted", name)
				}
			}()
			New(a, p, wire.Digest{}, 0)
		}()
	}
}

// Random messages, with the driver's part played honestly: exactly one outcome, the heads chain, no step is lost, a restart
// changes nothing, and the machine never panics at what comes from outside.
func TestRandomMessages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(t, "nodes")
		var p Policy
		for i := range n {
			p.Nodes = append(p.Nodes, node(strconv.Itoa(i)))
		}
		p.Need = rapid.IntRange(1, n).Draw(t, "need")
		self := p.Nodes[rapid.IntRange(0, n-1).Draw(t, "self")]
		m := New(self, p, digest("T0"), 1000)
		var records []Record
		var replied []uint64       // in order
		var heads []wire.Digest    // of acknowledged steps
		var outcome, final State   // first outcome, and what Layer 1 made of it
		var settledBy *wire.Digest // transaction
		execute := uint64(0)
		run := func(msg Message) {
			for _, a := range m.Step(msg) {
				switch a := a.(type) {
				case Persist:
					records = append(records, a.Record)
					if e, ok := a.Record.(EndRecord); ok {
						if outcome == 0 {
							outcome = e.State
						} else if e.State != Committed {
							t.Fatalf("a second outcome: %s after %s", e.State, outcome)
						}
						if final == Committed {
							t.Fatalf("committed twice")
						}
						final = e.State
					}
				case Execute:
					execute = a.Sequence
				case Reply:
					if a.Endorsements < 1 || a.Endorsements > a.Of || slices.Contains(replied, a.Sequence) {
						t.Fatalf("reply %+v after %v", a, replied)
					}
					if a.Sequence != uint64(len(replied))+1 {
						t.Fatalf("step %d is answered after %v", a.Sequence, replied)
					}
					replied = append(replied, a.Sequence)
					heads = append(heads, m.HeadAt(a.Sequence))
				case Halt:
					if settledBy == nil && m.State() != Expired {
						t.Fatalf("halt: %s", a.Reason)
					}
				}
			}
		}
		seqs := rapid.Uint64Range(0, 6)
		head := func(t *rapid.T) wire.Digest {
			if rapid.Bool().Draw(t, "right head") {
				return m.Head()
			}
			return digest(rapid.SampledFrom([]string{"T0", "T1", "T2", "x"}).Draw(t, "head"))
		}
		place := func(t *rapid.T) uint64 {
			if rapid.Bool().Draw(t, "right place") {
				return m.Len() + 1
			}
			return seqs.Draw(t, "seq")
		}
		request := func(t *rapid.T) wire.Digest {
			return digest(rapid.SampledFrom([]string{"r", "s", "t"}).Draw(t, "request"))
		}
		t.Repeat(map[string]func(*rapid.T){
			"step": func(t *rapid.T) {
				execute = 0
				r := request(t)
				run(StepRequested{place(t), head(t), r})
				if execute != 0 && rapid.IntRange(0, 3).Draw(t, "recorded") > 0 { // else: an answer that is not recorded
					h := digest(fmt.Sprintf("head %d", execute))
					run(Executed{Sequence: execute, Request: r, Head: h, Time: m.Time() + 1})
					run(Endorsed{execute, self, h})
				}
			},
			"endorse": func(t *rapid.T) {
				s := seqs.Draw(t, "seq")
				h := digest(fmt.Sprintf("head %d", s))
				run(Endorsed{s, node(strconv.Itoa(rapid.IntRange(0, 5).Draw(t, "node"))), h})
			},
			"endorse another": func(t *rapid.T) { run(Endorsed{seqs.Draw(t, "seq"), p.Nodes[0], digest("lie")}) },
			"dissent": func(t *rapid.T) {
				if who := p.Nodes[rapid.IntRange(0, n-1).Draw(t, "node")]; who != self {
					run(Dissented{seqs.Draw(t, "seq"), who, refusal.HeightNotReached})
				}
			},
			"wait over": func(t *rapid.T) { run(WaitOver{seqs.Draw(t, "seq")}) },
			"commit": func(t *rapid.T) {
				r := request(t)
				for _, a := range m.Step(CommitRequested{place(t), head(t), r}) {
					if _, ok := a.(Recheck); ok {
						switch rapid.IntRange(0, 2).Draw(t, "recheck") {
						case 0:
							run(Rechecked{r})
						case 1:
							run(ConflictFound{7})
						default:
							run(Faulted{refusal.Nondeterministic})
						}
					}
				}
			},
			"conflict": func(t *rapid.T) {
				if !m.State().Ended() {
					run(ConflictFound{3})
				}
			},
			"quarantined": func(*rapid.T) { run(Faulted{refusal.Nondeterministic}) },
			"settled": func(t *rapid.T) {
				tx := digest(rapid.SampledFrom([]string{"tx", "tx", "tx", "other"}).Draw(t, "tx"))
				was := m.State()
				run(Settled{9, tx})
				if settledBy == nil && was != Expired {
					settledBy = &tx
				}
			},
			"time":    func(t *rapid.T) { run(BlockTime{rapid.Int64Range(0, 1100).Draw(t, "time")}) },
			"abandon": func(t *rapid.T) { run(AbandonRequested{place(t), head(t)}) },
			"restart": func(t *rapid.T) {
				again := New(self, p, digest("T0"), 1000)
				for _, r := range records {
					if err := again.Restore(r); err != nil {
						t.Fatalf("restore: %v", err)
					}
				}
				if again.State() != m.State() || again.Head() != m.Head() || again.Len() != m.Len() || again.Fault() != m.Fault() || again.End() != m.End() {
					t.Fatalf("before the restart %s, %d steps; after it %s, %d steps", m.State(), m.Len(), again.State(), again.Len())
				}
				if uint64(len(replied)) == m.Len() {
					m = again
				}
			},
			"": func(t *rapid.T) {
				for i, h := range heads { // no acknowledged step is lost or replaced
					if m.HeadAt(uint64(i)+1) != h {
						t.Fatalf("step %d is another one", i+1)
					}
				}
				if outcome != 0 && m.State() != final {
					t.Fatalf("the outcome was %s, the state is %s", final, m.State())
				}
				if len(m.Refusals()) > 16 {
					t.Fatal("refusals are kept for ever")
				}
			},
		})
	})
}

// BenchmarkMachineStep is what the pure machine does for one step of a session: the request, the handler's answer, the local
// disk, and with three nodes the endorsements of the two others. A new session every 100 steps.
func BenchmarkMachineStep(b *testing.B) {
	for _, nodes := range []int{1, 3} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			policy := Policy{Need: min(2, nodes)}
			for i := range nodes {
				policy.Nodes = append(policy.Nodes, node(fmt.Sprint(i)))
			}
			var m *Machine
			b.ReportAllocs()
			for i := range b.N {
				if i%100 == 0 {
					m = New(policy.Nodes[0], policy, digest("open"), 1_000_000)
				}
				sequence, head := m.Len()+1, wire.Digest{byte(i), byte(i >> 8), byte(i >> 16)}
				if _, ok := m.Step(StepRequested{sequence, m.Head(), head})[0].(Execute); !ok {
					b.Fatal("the step is not to be run")
				}
				m.Step(Executed{sequence, head, head, 1000})
				var last []Action
				for _, n := range policy.Nodes {
					last = append(last, m.Step(Endorsed{sequence, n, head})...)
				}
				if k, n := m.Endorsements(sequence); k != nodes || n != nodes || len(last) == 0 {
					b.Fatalf("endorsed by %d of %d, %v", k, n, last)
				}
			}
		})
	}
}
