package bench

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A node that has more to do than it can sheds requests: it answers 503 with Retry-After and does nothing else about
// them. The client library would wait and ask again until its patience ends, which is right for a user and wrong for a
// load: the request would count as one slow one, and the load as less than it was meant to be. So a session whose request
// is shed is given up at once, and counted as shed: not as committed late, and not as a failure.

// errShed is why the context of such a session ends.
var errShed = errors.New("the node sheds load (503 with Retry-After)")

// shedding belongs to one session.
type shedding struct {
	giveUp context.CancelCauseFunc

	mu       sync.Mutex
	requests int           // guarded by mu: how many were shed
	pause    time.Duration // guarded by mu: how long the node wants to be left alone
}

type sheddingKey struct{}

// watchShedding returns a context for one session's requests. A client whose transport is a shedWatcher ends it with errShed
// as soon as one of them is shed. done frees it.
func watchShedding(ctx context.Context) (_ context.Context, s *shedding, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	s = &shedding{giveUp: cancel}
	return context.WithValue(ctx, sheddingKey{}, s), s, func() { cancel(nil) }
}

// told returns what has become known.
func (s *shedding) told() (requests int, pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests, s.pause
}

// shedWatcher is a transport that notices shed requests.
type shedWatcher struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (w shedWatcher) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := w.next.RoundTrip(r)
	if err != nil || res.StatusCode != http.StatusServiceUnavailable {
		return res, err
	}
	seconds, parse := strconv.ParseUint(res.Header.Get("Retry-After"), 10, 16)
	if s, ok := r.Context().Value(sheddingKey{}).(*shedding); ok && parse == nil {
		s.mu.Lock()
		s.requests++
		s.pause = max(s.pause, time.Duration(seconds)*time.Second)
		s.mu.Unlock()
		s.giveUp(errShed)
	}
	return res, nil
}
