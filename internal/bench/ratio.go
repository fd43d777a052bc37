package bench

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Two names stand for several operations of one workflow: StepMean is the mean of its steps, so that it moves if any of them
// does, WholeWorkflow everything from the first request's start to the last answer.
const (
	StepMean      = "step"
	WholeWorkflow = "workflow"
)

// Ratio is how much longer one contender takes for an operation than another: the median over the rounds of the ratio
// within a round. Both halves of each ratio were measured within a second or so of each other, so that a machine that is
// slow for a minute, or for everybody, changes it little.
type Ratio struct {
	// Of took Median times what To took for Operation.
	Of        string `json:"of"`
	To        string `json:"to"`
	Operation string `json:"operation"`
	// Rounds is the number of rounds in which both succeeded; 0: nothing is known.
	Rounds int     `json:"rounds"`
	Median float64 `json:"median"`
	// Low and High enclose the true median with a probability of at least 95 %, whatever the distribution (the sign test's
	// interval, from order statistics). With fewer than six rounds there is no such interval; they are then least and most.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// lap is one contender's turn in one round.
type lap struct {
	config string
	round  int
}

// Laps holds what each operation took in each turn of each contender. Turns in which anything failed are left out.
type Laps map[lap]map[string]time.Duration

// LapsOf sorts samples by turn and adds StepMean and WholeWorkflow to each.
func LapsOf(samples []Sample) Laps {
	laps := Laps{}
	failed := map[lap]bool{}
	start, end := map[lap]time.Time{}, map[lap]time.Time{}
	for _, a := range samples {
		at := lap{a.Config, a.Iteration}
		if a.Err != "" {
			failed[at] = true
			continue
		}
		if laps[at] == nil {
			laps[at], start[at] = map[string]time.Duration{}, a.Start
		}
		laps[at][a.Operation] = a.Latency
		if a.Start.Before(start[at]) {
			start[at] = a.Start
		}
		if done := a.Start.Add(a.Latency); done.After(end[at]) {
			end[at] = done
		}
	}
	for at, took := range laps {
		if failed[at] {
			delete(laps, at)
			continue
		}
		var steps []time.Duration
		for name, t := range took {
			if IsStep(name) {
				steps = append(steps, t)
			}
		}
		if len(steps) > 0 {
			var sum time.Duration
			for _, t := range steps {
				sum += t
			}
			took[StepMean] = sum / time.Duration(len(steps))
			took[WholeWorkflow] = end[at].Sub(start[at])
		}
	}
	return laps
}

// Took are the durations of one operation of one contender, in the order of rounds.
func (l Laps) Took(config, operation string) []time.Duration {
	var rounds []int
	for at := range l {
		if at.config == config {
			rounds = append(rounds, at.round)
		}
	}
	slices.Sort(rounds)
	var all []time.Duration
	for _, round := range rounds {
		if t, ok := l[lap{config, round}][operation]; ok {
			all = append(all, t)
		}
	}
	return all
}

// Ratios are one contender's durations divided by another's in the same round, sorted, of the rounds in which both succeeded.
func (l Laps) Ratios(of, to, operation string) []float64 {
	var all []float64
	for at, took := range l {
		if at.config != of {
			continue
		}
		a, ok := took[operation]
		b, also := l[lap{to, at.round}][operation]
		if ok && also && b > 0 {
			all = append(all, float64(a)/float64(b))
		}
	}
	slices.Sort(all)
	return all
}

// Ratio compares two contenders in one operation, round by round.
func (l Laps) Ratio(of, to, operation string) Ratio {
	all := l.Ratios(of, to, operation)
	r := Ratio{Of: of, To: to, Operation: operation, Rounds: len(all)}
	if len(all) == 0 {
		return r
	}
	middle := len(all) / 2
	if r.Median = all[middle]; len(all)%2 == 0 {
		r.Median = (all[middle-1] + all[middle]) / 2
	}
	cut := signTest(len(all))
	r.Low, r.High = all[cut], all[len(all)-1-cut]
	return r
}

// signTest returns how many of n sorted values may be cut off at each end so that the rest encloses the median of what
// they are drawn from with a probability of at least 95 %: the largest k with P(Binomial(n, 1/2) <= k) <= 0.025, or 0.
func signTest(n int) (k int) {
	if n > 1000 { // powers of two would underflow, and the normal distribution is as good
		return int(float64(n)/2-1.96*math.Sqrt(float64(n))/2) - 1
	}
	p := math.Exp2(-float64(n)) // P(X = k)
	for sum := p; sum <= 0.025; k++ {
		p *= float64(n-k) / float64(k+1)
		sum += p
	}
	return max(k-1, 0) // k values of X are improbable enough: 0 to k-1
}

// Bound is what a ratio must be at most or at least.
type Bound struct {
	Of, To string
	// Operations are each held to the bound.
	Operations []string
	// AtMost and AtLeast bound the median ratio; 0: not bounded on that side.
	AtMost, AtLeast float64
}

// Verdict says whether a ratio keeps its bound.
type Verdict struct {
	Ratio
	AtMost  float64 `json:"at_most,omitempty"`
	AtLeast float64 `json:"at_least,omitempty"`
	// Checked is false if there was nothing to compare. Kept is false only if the ratio breaks the bound by more than
	// noise explains.
	Checked bool `json:"checked"`
	Kept    bool `json:"kept"`
	// Words are for people.
	Words string `json:"words"`
}

// Check holds the ratios to the bounds. A bound is broken when the whole interval of the ratio lies on its wrong side: so a
// machine with other work does not break it by chance, and a program that has become slower breaks it in each run.
func Check(laps Laps, bounds []Bound) []Verdict {
	var all []Verdict
	for _, b := range bounds {
		for _, operation := range b.Operations {
			all = append(all, b.check(laps.Ratio(b.Of, b.To, operation)))
		}
	}
	return all
}

func (b Bound) check(r Ratio) Verdict {
	v := Verdict{Ratio: r, AtMost: b.AtMost, AtLeast: b.AtLeast, Checked: r.Rounds > 0 && (b.AtMost > 0 || b.AtLeast > 0), Kept: true}
	interval := fmt.Sprintf("%.2f (%.2f to %.2f in %d rounds)", r.Median, r.Low, r.High, r.Rounds)
	switch {
	case !v.Checked && r.Rounds == 0:
		v.Words = "not checked: there is no round in which both succeeded"
	case !v.Checked:
		v.Words = "no bound"
	case b.AtMost > 0 && r.Low > b.AtMost:
		v.Kept = false
		v.Words = fmt.Sprintf("%s of %s takes %s times %s's; at most %.2f is allowed", r.Operation, r.Of, interval, r.To, b.AtMost)
	case b.AtLeast > 0 && r.High < b.AtLeast:
		v.Kept = false
		v.Words = fmt.Sprintf("%s of %s takes %s times %s's; at least %.2f is expected", r.Operation, r.Of, interval, r.To, b.AtLeast)
	case b.AtMost > 0 && r.Median > b.AtMost, b.AtLeast > 0 && r.Median < b.AtLeast:
		v.Words = "within the noise of the bound; more rounds would tell"
	default:
		v.Words = "kept"
	}
	return v
}

// Broken are the verdicts that break their bounds.
func Broken(all []Verdict) []Verdict {
	return slices.DeleteFunc(slices.Clone(all), func(v Verdict) bool { return v.Kept })
}
