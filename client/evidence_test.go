package client

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"tandem/evidence"
	"tandem/internal/httpsig"
	"tandem/internal/wire"
)

// A node that answers one request twice, differently, is convicted by what the client keeps: also when the first answer
// was not believed. A node that repeats its answer is not.
func TestEvidenceOfTwoAnswers(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	s := mustOpen(t, newClient(t, n))
	mustCall(t, s, "/first")
	before := s.head
	var mu sync.Mutex
	var request wire.Request
	n.handler = func(r *wire.Request) (int, []wire.Header, []byte) {
		mu.Lock()
		defer mu.Unlock()
		request = *r
		return 200, nil, nil
	}
	count := 0
	n.tamper = func(tag string, sequence uint64, a *answer) {
		mu.Lock()
		defer mu.Unlock()
		if tag != httpsig.TagStep || sequence != 2 {
			return
		}
		count = min(count+1, 2) // the third answer is the second again
		a.body = fmt.Appendf(nil, "answer %d", count)
		a.about.Transcript = wire.TranscriptNext(before, wire.Transaction{
			Sequence: 2, Request: request, Originator: wire.PublicKeyOf(n.key), Time: a.about.Time,
			Response: wire.Response{Status: a.status, Body: wire.Sum(a.body)},
		})
		a.after = func(_ *int, h http.Header, body []byte) []byte {
			h.Set("Tandem-Endorsements", "9/9") // claims what it cannot prove
			return body
		}
	}
	for range 3 {
		if _, err := s.Call(t.Context(), "POST", "/second", "", []byte(`{}`)); err == nil {
			t.Fatal("a false answer was believed")
		}
	}
	files := s.Evidence()
	if len(files) == 0 {
		t.Fatal("no evidence was kept")
	}
	for _, file := range files {
		f, err := evidence.Verify(n.genesis(), file)
		if err != nil || f.Kind != evidence.TwoAnswers || f.Culprit.Key != wire.PublicKeyOf(n.key).DID() || f.Sequence != 2 {
			t.Errorf("found %+v, %v", f, err)
		}
	}
}

// Retries of a node that behaves leave no evidence.
func TestNoEvidenceOfRepeatedAnswer(t *testing.T) {
	n := startNode(t, newSessions(), 1)
	n.lose = func(count int) bool { return count == 2 } // the answer is lost on the way
	s := mustOpen(t, newClient(t, n))
	mustCall(t, s, "/first")
	mustCall(t, s, "/second")
	if files := s.Evidence(); len(files) != 0 {
		t.Errorf("evidence against a node that behaves: %s", files[0])
	}
}
