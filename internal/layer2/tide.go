package layer2

import "time"

// tide bounds the steps that are under way in a crowd by what their answers take, since how many are too many depends on the
// machine, on what else it does and on the service: fewer as soon as they take longer than they should, one more at a time while they do
// not and others wait. Not counted is what no node can help: the time in which other nodes' endorsements come if nobody has to wait,
// which is the distance. Guarded by places.mu.
type tide struct {
	limit, least, most float64

	window  time.Time     // since when the following is counted
	sum     time.Duration // what the answers took
	n       int           // answers
	reached bool          // the limit kept somebody out

	near      [2]time.Duration // the shortest wait for endorsements in the epoch before and in this one; 0: nobody waited
	nearSince time.Time        // when this epoch began
}

// slack is what an answer may take on the average, besides the distance to the other nodes. A hundredth of them take some three
// times as long, and others' work on the way between node and client comes to it.
const slack = 8 * time.Millisecond

// tideWindow is how long answers are counted, and tideAnswers how many there must be, before the limit changes. nearEpoch is how long the
// shortest wait for endorsements is remembered, at least.
const (
	tideWindow  = 20 * time.Millisecond
	tideAnswers = 8
	nearEpoch   = 10 * time.Second
)

// answered takes in an answer.
func (t *tide) answered(now time.Time, took time.Duration) {
	if now.Sub(t.window) > time.Second { // what was so long ago tells nothing
		t.window, t.sum, t.n, t.reached = now, 0, 0, false
	}
	t.sum += min(max(0, took-t.distance()), 8*slack)
	t.n++
	if t.n < tideAnswers || now.Sub(t.window) < tideWindow {
		return
	}
	mean := t.sum / time.Duration(t.n)
	switch {
	case mean > slack:
		t.limit = max(t.least, t.limit*max(0.7, float64(slack)/float64(mean)))
	case t.reached:
		t.limit = min(t.most, t.limit+max(1, t.limit/16))
	}
	t.window, t.sum, t.n, t.reached = now, 0, 0, false
}

// vouched takes in how long a step waited for endorsements.
func (t *tide) vouched(now time.Time, took time.Duration) {
	switch age := now.Sub(t.nearSince); {
	case age > 2*nearEpoch:
		t.near, t.nearSince = [2]time.Duration{}, now
	case age > nearEpoch:
		t.near, t.nearSince = [2]time.Duration{t.near[1], 0}, now
	}
	if t.near[1] == 0 || took < t.near[1] {
		t.near[1] = max(took, 1)
	}
}

// distance is the time in which endorsements come.
func (t *tide) distance() time.Duration {
	if t.near[0] > 0 {
		return min(t.near[0], t.near[1])
	}
	return t.near[1]
}
