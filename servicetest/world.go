package servicetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tandem"
	"tandem/internal/exec"
	"tandem/internal/refusal"
	"tandem/internal/state"
)

// world is one state with what the last step did to it.
type world struct {
	runner *exec.Runner
	state  *state.Overlay
	seed   *tandem.MapState

	result exec.Result
	err    error
}

// take runs the step. Every world gets copies of what handlers might change.
func (w *world) take(s exec.Step, read bool) {
	request := *s.Request
	request.Body = bytes.Clone(request.Body)
	s.Request = &request
	if read {
		w.result, w.err = w.runner.Read(background, w.state, s)
	} else {
		w.result, w.err = w.runner.Run(background, w.state, s)
	}
}

// servicePrefix is where exec shows a service its state.
const servicePrefix = "a/"

// genesis brings all worlds to the service's first state.
func (t *Tester) genesis(svc tandem.Service, raw json.RawMessage) {
	t.tb.Helper()
	seed := func(w *world) {
		w.seed = tandem.NewMapState()
		defer func() {
			if v := recover(); v != nil {
				w.err = fmt.Errorf("panic: %v", v)
			}
		}()
		if svc.Genesis != nil {
			w.err = svc.Genesis(w.seed, bytes.Clone(raw))
		}
	}
	first := t.worlds[0]
	if seed(first); first.err != nil {
		t.tb.Fatalf("servicetest: the service's Genesis: %v", first.err)
	}
	t.others(seed)
	for _, w := range t.worlds {
		if w.err != nil || !w.seed.Equal(first.seed) {
			t.tb.Fatalf("servicetest: the service's Genesis is not deterministic: %s", seedDifference(first, w))
		}
		w.state = state.NewOverlay(nothing{})
		for k, v := range w.seed.Scan(nil, nil) {
			w.state.Set(append([]byte(servicePrefix), k...), v)
		}
	}
}

func seedDifference(a, b *world) string {
	if b.err != nil {
		return fmt.Sprintf("one run gives no error, another %v", b.err)
	}
	return fmt.Sprintf("one run writes %s, another %s", firstOnly(a.seed, b.seed), firstOnly(b.seed, a.seed))
}

// firstOnly shows the first entry of a that b does not have.
func firstOnly(a, b *tandem.MapState) string {
	for k, v := range a.Scan(nil, nil) {
		if other, ok := b.Get(k); !ok || !bytes.Equal(v, other) {
			return fmt.Sprintf("%q = %q", k, excerpt(string(v), 0))
		}
	}
	return "nothing else"
}

// nothing is the state below all worlds.
type nothing struct{}

func (nothing) Get([]byte) ([]byte, bool, error) { return nil, false, nil }

func (nothing) Scan(start, end []byte) iter.Seq2[state.Entry, error] {
	return func(func(state.Entry, error) bool) {}
}

// jump is how much later than the first the last runs are, or a little more; see later.
const jump = 424*24*time.Hour + 7*time.Hour + 13*time.Minute + 17*time.Second + 123456789*time.Nanosecond

// others does something in all worlds but the first: in one part at once, with the clock in the year 2000, where a bubble
// of testing/synctest begins; in the rest one after the other, with the clock at jump from now.
func (t *Tester) others(do func(*world)) {
	rest := t.worlds[1:]
	together, after := rest[:t.together()], rest[t.together():]
	both := func(pass func()) {
		var wg sync.WaitGroup
		for _, w := range together {
			wg.Go(func() { do(w) })
		}
		wg.Wait()
		pass()
		for _, w := range after {
			do(w)
		}
	}
	if t.bubble == nil {
		both(func() {})
		return
	}
	late := later(time.Now())
	synctest.Test(t.bubble, func(*testing.T) {
		both(func() { <-time.After(time.Until(late)) })
	})
}

// later is a time more than a year after now that has no hour, minute or second in common with now, nor with midnight, at
// which a bubble's clock begins: whatever part of the clock a handler looks at, the three differ.
func later(now time.Time) time.Time {
	late := now.Add(jump).Round(0)
	for {
		h, m, s := late.UTC().Clock()
		nh, nm, ns := now.UTC().Clock()
		if h != 0 && m != 0 && s != 0 && h != nh && m != nm && s != ns {
			return late
		}
		late = late.Add(time.Hour + time.Minute + time.Second)
	}
}

// together is how many worlds run at once.
func (t *Tester) together() int { return (len(t.worlds) - 1) / 2 }

// disagreement is a field in which two worlds differ, and the values.
type disagreement struct{ field, a, b string }

func difference(a, b *world) *disagreement {
	if b.err != nil {
		if r, ok := refusal.As(b.err); ok {
			return &disagreement{"whether it ends", "it ends", r.Detail}
		}
		return &disagreement{"whether it can be run", "it can", b.err.Error()}
	}
	if field, same := exec.Compare(a.result.Response, b.result); !same {
		d := &disagreement{field: field}
		switch name, header := strings.CutPrefix(field, "header "); {
		case header:
			d.a, d.b = headerOf(a, name), headerOf(b, name)
		case field == "status":
			d.a, d.b = statusOf(a), statusOf(b)
		default:
			x, y := string(a.result.Body), string(b.result.Body)
			at := common(x, y)
			d.a, d.b = excerpt(x, at), excerpt(y, at)
		}
		return d
	}
	if d := writesDiffer(a.state.Changes(), b.state.Changes()); d != nil {
		return d
	}
	if x, y := a.result, b.result; x.Operations != y.Operations || x.Bytes != y.Bytes {
		return &disagreement{"what they read and write of the state",
			fmt.Sprintf("%d operations, %d bytes", x.Operations, x.Bytes), fmt.Sprintf("%d operations, %d bytes", y.Operations, y.Bytes)}
	}
	return nil
}

func statusOf(w *world) string {
	if w.result.Cause != nil {
		return w.result.Cause.Error()
	}
	return fmt.Sprint(w.result.Response.Status, " ", excerpt(string(w.result.Body), 0))
}

func headerOf(w *world, name string) string {
	for _, h := range w.result.Response.Headers {
		if h.Name == name {
			return h.Value
		}
	}
	return "(not set)"
}

// writesDiffer names the first key that two sorted lists of changes treat differently.
func writesDiffer(a, b []state.Change) *disagreement {
	show := func(list []state.Change, key []byte) string {
		i, ok := slices.BinarySearchFunc(list, key, func(c state.Change, k []byte) int { return bytes.Compare(c.Key, k) })
		switch {
		case !ok:
			return "(not written)"
		case list[i].Delete:
			return "(deleted)"
		}
		return excerpt(string(list[i].Value), 0)
	}
	for _, list := range [][]state.Change{a, b} {
		for _, c := range list {
			if x, y := show(a, c.Key), show(b, c.Key); x != y || !slices.EqualFunc(find(a, c.Key), find(b, c.Key), same) {
				return &disagreement{fmt.Sprintf("the write to key %q", strings.TrimPrefix(string(c.Key), servicePrefix)), x, y}
			}
		}
	}
	return nil
}

func find(list []state.Change, key []byte) []state.Change {
	i, ok := slices.BinarySearchFunc(list, key, func(c state.Change, k []byte) int { return bytes.Compare(c.Key, k) })
	if !ok {
		return nil
	}
	return list[i : i+1]
}

func same(a, b state.Change) bool { return a.Delete == b.Delete && bytes.Equal(a.Value, b.Value) }

// common is the length of the common beginning.
func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// excerpt shows the text around a place.
func excerpt(s string, at int) string {
	const before, after = 40, 120
	from, to := max(0, at-before), min(len(s), at+after)
	shown := strconv.Quote(s[from:to])
	if from > 0 {
		shown = "..." + shown
	}
	if to < len(s) {
		shown += "..."
	}
	return shown
}

// suspects says what a difference in a field points to.
func (t *Tester) suspects(field string) string {
	n := t.together()
	first, early, late := t.worlds[:1], t.worlds[1:1+n], t.worlds[1+n:]
	agree := func(group []*world) bool {
		return !slices.ContainsFunc(group[1:], func(w *world) bool { return difference(group[0], w) != nil })
	}
	if t.bubble != nil && n > 1 && len(late) > 1 && agree(early) && agree(late) && difference(early[0], late[0]) != nil &&
		difference(first[0], late[0]) != nil {
		return "It follows the clock: use tandem.Now instead of time.Now."
	}
	if strings.HasPrefix(field, "what they read") {
		return "Suspect what is kept outside the State between steps, such as a cache in a package variable."
	}
	return "Suspect random numbers, the order of a map, goroutines, select, package variables, addresses (%p, %v of a pointer), the clock."
}

// labels numbers the profiler labels, for the whole process.
var labels atomic.Uint64

// labelled calls do and returns the stacks of goroutines that it left behind, or "". Goroutines inherit the profiler
// labels of those that start them, which is how they are told from the rest of the program.
func labelled(do func()) string {
	const key = "tandem-servicetest"
	value := strconv.FormatUint(labels.Add(1), 10)
	done := make(chan struct{})
	go pprof.Do(background, pprof.Labels(key, value), func(context.Context) {
		defer close(done)
		do()
	})
	<-done
	label := fmt.Sprintf("%q:%q", key, value)
	// A goroutine that is just ending is none left behind; where the machine is busy it may take its time over that.
	for end := time.Now().Add(time.Second); ; runtime.Gosched() {
		left := withLabel(label)
		if left == "" || time.Now().After(end) {
			return left
		}
	}
}

// withLabel returns the stack of a goroutine with the label.
func withLabel(label string) string {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		return ""
	}
	for part := range strings.SplitSeq(b.String(), "\n\n") {
		if i := strings.Index(part, "# labels: "); i >= 0 {
			line, stack, _ := strings.Cut(part[i:], "\n")
			if strings.Contains(line, label) {
				return stack
			}
		}
	}
	return ""
}
