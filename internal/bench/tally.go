package bench

import (
	"slices"
	"sync"
	"time"
)

// Ending is what became of a session of a load. Each session has exactly one, so that what was sent is the sum of them.
type Ending string

// The endings.
const (
	// Committed: a block holds it and its client was told.
	Committed Ending = "committed"
	// Conflicted: another session that worked on the same things came first.
	Conflicted Ending = "conflicted"
	// Shed: the node had too much to do and said so.
	Shed Ending = "shed"
	// Failed: anything else, such as no answer in time.
	Failed Ending = "failed"
)

// sessionOperation names the whole session among the operations: from its intended start to the answer to its commit.
const sessionOperation = "session"

// maxReasons bounds the different reasons that are kept; the rest is counted under the last of them.
const maxReasons = 12

// Reason is why sessions did not end committed.
type Reason struct {
	Ending Ending `json:"ending"`
	Kind   string `json:"kind"` // short and the same for the same cause, such as a refusal's code
	First  string `json:"first"`
	Count  int    `json:"count"`
}

// Second is one second of a level, counted from its start, warm-up included. What ends in it is counted, whenever it began.
type Second struct {
	Second     int     `json:"second"`
	Measured   bool    `json:"measured"` // it lies within the measured window
	Started    int     `json:"started"`
	Committed  int     `json:"committed"`
	Conflicted int     `json:"conflicted"`
	Shed       int     `json:"shed"`
	Failed     int     `json:"failed"`
	Steps      int     `json:"steps"`          // operations answered, opening and commit among them
	P50        float64 `json:"session_p50_ms"` // of the sessions committed in it
	P99        float64 `json:"session_p99_ms"`

	took []time.Duration
}

// tally counts what happens during one level. Two questions need two rules. What became of the sessions that were meant to
// start within the measured window, however long they took: those are the counts and the latencies. How much got done
// within the window: those are the rates. In an overloaded open loop only the second is a throughput.
type tally struct {
	begin time.Time // the level's start

	mu       sync.Mutex // guards everything below
	from, to time.Time  // the measured window [from, to); zero as long as it is not known
	sent     int
	endings  map[Ending]int
	shed     int // requests
	took     map[string]*Histogram
	late     *Histogram // sent after the intended moment by so much
	reasons  []Reason
	done     int // sessions committed within the window
	steps    int // operations answered within the window
	seconds  []Second
	underway int
	most     int // sessions under way at once
}

func newTally(begin time.Time) *tally {
	return &tally{begin: begin, endings: map[Ending]int{}, took: map[string]*Histogram{}, late: NewHistogram()}
}

// window says what is measured from now on.
func (t *tally) window(from, to time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.from, t.to = from, to
}

// measured returns the window.
func (t *tally) measured() (from, to time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.from, t.to
}

// over reports whether a moment lies behind the measured window.
func (t *tally) over(at time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.to.IsZero() && !at.Before(t.to)
}

// cut ends the window now, if it has not ended: the level is interrupted.
func (t *tally) cut(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.from.IsZero() || now.Before(t.from) {
		t.from = now
	}
	if t.to.IsZero() || now.Before(t.to) {
		t.to = now
	}
}

// within reports whether a moment lies in the measured window. The caller holds mu.
func (t *tally) within(at time.Time) bool {
	return !t.from.IsZero() && !at.Before(t.from) && at.Before(t.to)
}

// second returns the second of a moment. The caller holds mu.
func (t *tally) second(at time.Time) *Second {
	n := max(0, int(at.Sub(t.begin)/time.Second))
	for len(t.seconds) <= n {
		t.seconds = append(t.seconds, Second{Second: len(t.seconds)})
	}
	return &t.seconds[n]
}

// started counts a session that is sent now and was meant to be sent at the intended moment, and reports whether it is one of
// those that are measured.
func (t *tally) started(intended, now time.Time) (measured bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.second(now).Started++
	t.underway++
	t.most = max(t.most, t.underway)
	if measured = t.within(intended); measured {
		t.sent++
		t.late.Record(now.Sub(intended))
	}
	return measured
}

// answered counts an operation of a session that is measured or not. began is when it was meant to begin: the session's intended
// start for the first one, the answer to the one before for the others.
func (t *tally) answered(measured bool, operation string, began, ended time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.second(ended).Steps++
	if t.within(ended) {
		t.steps++
	}
	if measured {
		t.record(operation, ended.Sub(began))
	}
}

func (t *tally) record(operation string, took time.Duration) {
	l := t.took[operation]
	if l == nil {
		l = NewHistogram()
		t.took[operation] = l
	}
	l.Record(took)
}

// ended counts a session's end.
func (t *tally) ended(measured bool, intended, now time.Time, e Ending, kind, text string, shedRequests int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.underway--
	s := t.second(now)
	switch e {
	case Committed:
		s.Committed++
		s.took = append(s.took, now.Sub(intended))
		if t.within(now) {
			t.done++
		}
	case Conflicted:
		s.Conflicted++
	case Shed:
		s.Shed++
	case Failed:
		s.Failed++
	}
	if !measured {
		return
	}
	t.endings[e]++
	t.shed += shedRequests
	if e == Committed {
		t.record(sessionOperation, now.Sub(intended))
		return
	}
	t.because(e, kind, text)
}

// never counts a session whose moment came and that was not sent, because too many others were under way.
func (t *tally) never(intended time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.within(intended) {
		return
	}
	t.sent++
	t.endings[Failed]++
	t.because(Failed, "not-sent", "its moment came, but too many sessions were under way until the time to drain was over")
}

func (t *tally) because(e Ending, kind, text string) {
	i := slices.IndexFunc(t.reasons, func(r Reason) bool { return r.Ending == e && r.Kind == kind })
	if i < 0 && len(t.reasons) >= maxReasons {
		i = len(t.reasons) - 1
		t.reasons[i].Kind = "other"
	}
	if i < 0 {
		t.reasons = append(t.reasons, Reason{Ending: e, Kind: kind, First: text})
		i = len(t.reasons) - 1
	}
	t.reasons[i].Count++
}
