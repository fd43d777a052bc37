package plan

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// What a session takes on the ledger, about: measured on the paper's workflow. A commit is one transaction of at most 1 MiB, a block has
// at most 4 MiB.
const (
	stepOverhead    = 330 // bytes of a step beside its request body: path, signature, digests, originator, times
	sessionOverhead = 700 // opening and commit
	maxTransaction  = 1 << 20
	maxBlock        = 4 << 20
)

// busy is the share of the processors that a plan fills at most: beyond it waiting grows fast.
const busy = 0.7

// Recommend answers a workload. m is what the model was fitted to.
func Recommend(m Measured, w Workload) (*Plan, error) {
	f, err := Fit(m)
	if err != nil {
		return nil, err
	}
	if w, err = w.complete(f); err != nil {
		return nil, err
	}
	p := &Plan{Validators: Validators(w.Faults), Need: w.Disks + 1, Layer2: w.Disks + 1 + w.Down, Meets: true, Sources: m.Sources, Formulas: f.Formulas()}
	p.Chosen = f.predict(w, p.Validators, p.Layer2, p.Need)
	p.reason(w)
	p.settings(w)
	p.judge(f, w)
	p.Warnings = append(p.Warnings, m.Warnings...)
	p.around(f, w)
	var alone int
	p.Accuracy, alone = LeaveOneOut(m)
	switch mean, most := Summarise(p.Accuracy); {
	case len(p.Accuracy) == 0:
		p.warn("the model was never compared with a measurement it had not seen: too few are given")
	case mean > 25:
		p.warn("on measurements that it had not seen the model is off by %.0f %% in the mean and %.0f %% at most", mean, most)
	}
	if alone > 0 {
		p.warn("%d measurements are the only ones of their kind: nothing says how far off predictions of that kind are", alone)
	}
	return p, nil
}

func (p *Plan) warn(format string, args ...any) {
	p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...))
}

func (p *Plan) because(format string, args ...any) {
	p.Reasons = append(p.Reasons, fmt.Sprintf(format, args...))
}

// reason says why each number is what it is.
func (p *Plan) reason(w Workload) {
	if w.Faults == 0 {
		p.because("1 validator: no faulty validator is to be survived (f=0). It decides alone: nothing here is Byzantine fault tolerant; f=1 needs 4.")
	} else {
		p.because("%d validators: f=%d of them may be down or lie, and 3f+1=%d are needed: a block needs more than two thirds of the votes, and %d honest ones are %d of %d.",
			p.Validators, w.Faults, p.Validators, p.Validators-w.Faults, p.Validators-w.Faults, p.Validators)
	}
	if w.Disks == 0 {
		p.because("1 endorsement of a step: no lost Layer 2 disk is to be survived by the nodes alone. The client holds every signed request and answer and can hand the session to another node, as long as it still has them.")
	} else {
		p.because("%d endorsements of a step: %d Layer 2 disks (d) may be lost, so that one more, d+1=%d, have to hold each answered step.", p.Need, w.Disks, p.Need)
	}
	if w.Down == 0 {
		p.because("%d Layer 2 nodes: as many as endorse. While one of them is down, steps are answered with fewer endorsements (--layer2-down plans for that).", p.Layer2)
	} else {
		p.because("%d Layer 2 nodes: %d that endorse, and %d that may be down meanwhile.", p.Layer2, p.Need, w.Down)
	}
	p.because("No more of either: every node runs every session, so that more nodes survive more and carry no more load, and each adds to the latency of a commit.")
}

// settings are what the distances and numbers ask of the configuration.
func (p *Plan) settings(w Workload) {
	place := w.Map.Place(p.Validators, p.Layer2)
	set := func(key, value, format string, args ...any) {
		p.Settings = append(p.Settings, Setting{key, value, fmt.Sprintf(format, args...)})
	}
	if p.Need != 2 {
		set("layer2.need", fmt.Sprint(p.Need), "the default is 2")
	}
	client := place.Between(place.Client(), place.Home()).Delay + place.Between(place.Home(), place.Client()).Delay
	if endorse := place.StepFloor(p.Need) - client; endorse > 25*time.Millisecond {
		set("layer2.wait", (endorse + 50*time.Millisecond).String(), "an endorsement is %s away; by default a step is answered without it after 50ms", endorse)
	}
	if far := place.Farthest(); far >= 25*time.Millisecond {
		propose := 240*time.Millisecond + time.Duration(p.Validators)*35*time.Millisecond + 2*far
		set("consensus.propose", propose.Round(time.Millisecond).String(), "a proposal may come two of the longest delays (%s) late", far)
	}
	if p.Need > 1 {
		set("RequireEndorsements (client)", fmt.Sprint(p.Need), "so that the client itself refuses an answer that fewer nodes have on disk")
	}
}

// judge compares the prediction with the limits, and the sizes with what the ledger takes.
func (p *Plan) judge(f *Model, w Workload) {
	fail := func(format string, args ...any) { p.Meets = false; p.warn(format, args...) }
	c := p.Chosen
	for _, l := range []struct {
		name          string
		is, limit, by float64
	}{{"step", c.Step, w.MaxStep, c.StepDistance}, {"commit", c.Commit, w.MaxCommit, c.CommitDistance}, {"workflow", c.Workflow, w.MaxWorkflow, float64(w.Steps+1)*c.StepDistance + c.CommitDistance}} {
		if l.limit > 0 && l.is > l.limit {
			fail("a %s takes %.1f ms, more than the limit of %.1f; distance alone takes %.1f: only fewer faults to survive or shorter distances change that", l.name, l.is, l.limit, l.by)
		}
	}
	switch {
	case c.Sessions == 0:
		p.warn("processor time was not measured: nothing is said of the throughput (give a summary of `tandem bench paper` with nodes as processes, or of `tandem bench load`)")
	case c.Utilisation > busy:
		fail("%.4g sessions per second are %.0f %% of what %s can do with %d cores (%.4g): about %d cores are needed for %.0f %%; more nodes do not help",
			w.Rate, 100*c.Utilisation, c.Bound, w.Cores, c.Sessions, int(math.Ceil(float64(w.Cores)*c.Utilisation/busy)), 100*busy)
	case c.Utilisation > 0.5:
		p.warn("at %.0f %% of the processors' capacity latencies are above what is predicted here, which is for a network at ease", 100*c.Utilisation)
	}
	if c.Sessions > 0 && f.sharedLoads == 0 {
		p.warn("throughput is from workflows that ran one at a time: sessions that share blocks cost less, so it is probably higher; a summary of `tandem bench load` tells")
	}
	bytes := sessionOverhead + w.Steps*(w.Body+stepOverhead)
	if bytes > maxTransaction {
		parts := (bytes + maxTransaction*9/10 - 1) / (maxTransaction * 9 / 10)
		fail("a session of %d steps of %d bytes is about %.1f MiB, and a commit holds at most 1 MiB: it takes %d checkpoints (client: Config.Checkpoint), each with a commit's latency",
			w.Steps, w.Body, float64(bytes)/(1<<20), parts)
	}
	p.because("Ledger: a session is about %d bytes, so that %.4g sessions per second make each node's disk grow by about %.2g GB a day.", bytes, w.Rate, w.Rate*float64(bytes)*86400/1e9)
	// A block follows another no sooner than a commit's distance; with an empty one between, every second one is full at most.
	if period := max(c.Commit, 1) * 2 / 1000; w.Rate*float64(bytes)*period > maxBlock {
		fail("the sessions that come during two blocks (%.1f s) are more than a block's 4 MiB", period)
	}
	for _, b := range c.Beyond {
		p.warn("beyond what was measured: %s", b)
	}
}

// around predicts other configurations: the paper's, and the neighbours of the chosen one.
func (p *Plan) around(f *Model, w Workload) {
	type size struct{ n, k int }
	list := []size{{p.Validators, p.Layer2}}
	for _, n := range []int{1, 4, 7, 10, 13, 16} {
		list = append(list, size{n, p.Layer2})
	}
	for k := 1; k <= max(3, p.Layer2+1); k++ {
		list = append(list, size{p.Validators, k})
	}
	slices.SortFunc(list, func(a, b size) int {
		if a.n != b.n {
			return a.n - b.n
		}
		return a.k - b.k
	})
	for _, s := range slices.Compact(list) {
		need := min(p.Need, s.k)
		a := Alternative{Prediction: f.predict(w, s.n, s.k, need), Faults: Survives(s.n), Disks: need - 1}
		switch {
		case s.n == p.Validators && s.k == p.Layer2:
			a.Note = "recommended"
		case a.Faults < w.Faults:
			a.Note = fmt.Sprintf("survives %d faulty validators, not %d", a.Faults, w.Faults)
		case s.k < p.Need:
			a.Note = fmt.Sprintf("a step is on %d disks, not %d", s.k, p.Need)
		case s.k < p.Layer2:
			a.Note = fmt.Sprintf("with %d Layer 2 nodes down a step is on fewer than %d disks", w.Down, p.Need)
		case s.n > p.Validators:
			a.Note = fmt.Sprintf("survives %d faulty validators, more than asked", a.Faults)
		default:
			a.Note = "more Layer 2 nodes than asked"
		}
		p.Around = append(p.Around, a)
	}
}

// Formulas states the model with its constants.
func (f *Model) Formulas() []string {
	out := []string{
		"n validators, k Layer 2 nodes, e endorsements of a step, s steps in a session, c processors of the measured machine; times in ms, medians of a network at ease",
		fmt.Sprintf("step, all nodes on one machine = %.3f + %.4f n (n+k) + %.3f (k-1) + distance(step)", f.step[0], f.step[1], f.step[2]),
		fmt.Sprintf("step, a machine for each node = %.3f (as with %d validators on one) + %.3f [e > 1] + distance(step)", f.alone(), f.fewest, f.step[2]),
		"distance(step) = round trip client - Layer 2 node, and for e > 1 the round trip to the (e-1)th nearest other Layer 2 node",
		fmt.Sprintf("commit, all nodes on one machine = %.3f + %.3f (n+k) + %.4f n (n+k) + distance(commit)", f.commit[0], f.commit[1], f.commit[2]),
		fmt.Sprintf("commit, a machine for each node = %.3f + c (%.3f + %.4f n) + distance(commit), c = %d", f.commit[0], f.commit[1], f.commit[2], f.cores),
		fmt.Sprintf("distance(commit) = round trip of the client + (1 + %.3f) x the ways of transaction, proposal, prevotes and precommits, two thirds of the votes each time, mean over the proposers (4 d where all are d apart)", f.added),
		fmt.Sprintf("workflow = open + s step + commit, open = %.2f x the step's machine part + distance(step); on one layer s (open + step + commit)", f.open),
	}
	if f.validatorCPU > 0 {
		out = append(out, fmt.Sprintf("sessions per second = 1000 x processors / (%.2f x processor time), the time being max(1, s/5) x (%.2f for a validator, %.2f for a Layer 2 node), of all nodes that share the processors; planned for %.0f %% of it",
			f.sharing, f.validatorCPU, f.layer2CPU, 100*busy))
	}
	return out
}
