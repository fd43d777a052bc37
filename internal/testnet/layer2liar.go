package testnet

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/layer2"
	"tandem/internal/peer"
	"tandem/internal/wire"
)

// Layer 2 nodes that lie. A node of the list has a key that others believe, so a liar signs whatever it likes with it; what
// it does not have is the client's key. Each lie wraps what a node is made of: how it talks to its peers (Peers), or its
// HTTP surface (Front).

// Layer2Lie makes a Layer 2 node lie. Peers and Front may be nil: honest there.
type Layer2Lie struct {
	Name  string
	Peers func(layer2.Peers) layer2.Peers
	Front func(http.Handler) http.Handler
}

// talk is a wrapped transport: outgoing and incoming say what becomes of a message. A nil function leaves all as it is; a
// nil result drops the message.
type talk struct {
	layer2.Peers
	outgoing func(to wire.PublicKey, m any, raw []byte) []byte
	incoming func(t *talk, from wire.PublicKey, m any, raw []byte) []byte
}

func (t *talk) Send(to wire.PublicKey, message []byte) error {
	if t.outgoing != nil {
		m, err := wire.DecodePeer(message)
		if err != nil {
			return err
		}
		if message = t.outgoing(to, m, message); message == nil {
			return nil // it says that it has sent it
		}
	}
	return t.Peers.Send(to, message)
}

func (t *talk) Run(ctx context.Context, r peer.Receiver) error {
	if t.incoming != nil {
		r = &listening{r, t}
	}
	return t.Peers.Run(ctx, r)
}

type listening struct {
	peer.Receiver
	t *talk
}

func (l *listening) Receive(from wire.PublicKey, message []byte) {
	if m, err := wire.DecodePeer(message); err == nil {
		if message = l.t.incoming(l.t, from, m, message); message == nil {
			return
		}
	}
	l.Receiver.Receive(from, message)
}

func outgoing(f func(to wire.PublicKey, m any, raw []byte) []byte) func(layer2.Peers) layer2.Peers {
	return func(p layer2.Peers) layer2.Peers { return &talk{Peers: p, outgoing: f} }
}

func incoming(f func(t *talk, from wire.PublicKey, m any, raw []byte) []byte) func(layer2.Peers) layer2.Peers {
	return func(p layer2.Peers) layer2.Peers { return &talk{Peers: p, incoming: f} }
}

// NoReplication answers clients without telling any peer of it.
func NoReplication() Layer2Lie {
	return Layer2Lie{Name: "answers without replicating", Peers: outgoing(func(_ wire.PublicKey, m any, raw []byte) []byte {
		switch m.(type) {
		case wire.PeerOpened, wire.PeerStep, wire.PeerTranscript, wire.PeerEnded, wire.PeerSessions:
			return nil
		}
		return raw
	})}
}

// EndorseAll endorses every step at once, whatever it is, without running or keeping it.
func EndorseAll(chainID string, key ed25519.PrivateKey) Layer2Lie {
	return Layer2Lie{Name: "endorses everything", Peers: incoming(func(t *talk, from wire.PublicKey, m any, raw []byte) []byte {
		step, ok := m.(wire.PeerStep)
		if !ok {
			return raw
		}
		_ = t.Peers.Send(from, endorsement(chainID, key, step, step.Head).Encode())
		return nil
	})}
}

func endorsement(chainID string, key ed25519.PrivateKey, step wire.PeerStep, head wire.Digest) wire.PeerEndorse {
	e := wire.PeerEndorse{Session: step.Session, Sequence: step.Step.Transaction.Sequence, Head: head, Height: step.Step.Height}
	e.Signature = wire.Sign(key, wire.EndorsementBytes(chainID, e.Session, e.Sequence, e.Head, e.Height))
	return e
}

// DissentAll endorses nothing and gives an invented reason.
func DissentAll() Layer2Lie {
	return Layer2Lie{Name: "dissents always", Peers: incoming(func(t *talk, from wire.PublicKey, m any, raw []byte) []byte {
		step, ok := m.(wire.PeerStep)
		if !ok {
			return raw
		}
		_ = t.Peers.Send(from, wire.PeerDissent{
			Session: step.Session, Sequence: step.Step.Transaction.Sequence, Head: step.Head, Reason: "response-differs",
			Height: step.Step.Height, Mine: wire.Sum([]byte("mine")), Response: wire.Sum([]byte("another")), Detail: "it answers otherwise here",
		}.Encode())
		return nil
	})}
}

// ReplayEndorsements answers every step with the first endorsement that it ever made: of another step, relabelled.
func ReplayEndorsements(chainID string, key ed25519.PrivateKey) Layer2Lie {
	var mu sync.Mutex
	var first *wire.PeerEndorse
	return Layer2Lie{Name: "replays old endorsements", Peers: incoming(func(t *talk, from wire.PublicKey, m any, raw []byte) []byte {
		step, ok := m.(wire.PeerStep)
		if !ok {
			return raw
		}
		mu.Lock()
		defer mu.Unlock()
		if first == nil {
			e := endorsement(chainID, key, step, step.Head)
			first = &e
			_ = t.Peers.Send(from, e.Encode())
			return nil
		}
		_ = t.Peers.Send(from, first.Encode()) // as it was
		e := *first
		e.Session, e.Sequence, e.Head, e.Height = step.Session, step.Step.Transaction.Sequence, step.Head, step.Step.Height
		_ = t.Peers.Send(from, e.Encode()) // under another name
		return nil
	})}
}

// AlterSteps tells its peers of other requests, other answers or other times than there were, in turn.
func AlterSteps() Layer2Lie {
	var mu sync.Mutex
	n := 0
	return Layer2Lie{Name: "alters steps", Peers: outgoing(func(_ wire.PublicKey, m any, raw []byte) []byte {
		step, ok := m.(wire.PeerStep)
		if !ok {
			return raw
		}
		mu.Lock()
		defer mu.Unlock()
		n++
		tx := &step.Step.Transaction
		switch n % 3 {
		case 0:
			tx.Request.Body = append(bytes.Clone(tx.Request.Body), 'x')
		case 1:
			tx.Response.Body[0] ^= 1
			step.Head = wire.TranscriptNext(step.Previous, *tx)
		case 2:
			tx.Time += 1000
		}
		return step.Encode()
	})}
}

// Garbage sends, beside what it should, what is no message, half of one, and messages about sessions that do not exist.
func Garbage(seed uint64) Layer2Lie {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 7))
	return Layer2Lie{Name: "sends garbage", Peers: func(p layer2.Peers) layer2.Peers {
		return &talk{Peers: p, outgoing: func(to wire.PublicKey, m any, raw []byte) []byte {
			mu.Lock()
			defer mu.Unlock()
			bad := make([]byte, 1+random.IntN(200))
			for i := range bad {
				bad[i] = byte(random.Uint32())
			}
			_ = p.Send(to, bad)
			_ = p.Send(to, bytes.Clone(raw[:random.IntN(len(raw))]))
			_ = p.Send(to, wire.PeerFetch{Session: wire.SessionID{1, bad[0]}}.Encode())
			_ = p.Send(to, wire.PeerMissing{Session: wire.SessionID{bad[0]}}.Encode())
			return raw
		}}
	}}
}

// front makes a Front of a function that gets the request, its body, and a way to ask the honest node.
func front(f func(w http.ResponseWriter, r *http.Request, body []byte, honest func(body []byte) *httptest.ResponseRecorder)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept") == "text/event-stream" {
				next.ServeHTTP(w, r)
				return
			}
			body, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			f(w, r, body, func(body []byte) *httptest.ResponseRecorder {
				r := r.Clone(r.Context())
				r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
				out := httptest.NewRecorder()
				next.ServeHTTP(out, r)
				return out
			})
		})
	}
}

// pass sends an answer on, with another body.
func pass(w http.ResponseWriter, res *httptest.ResponseRecorder, body []byte) {
	for k, v := range res.Header() {
		w.Header()[k] = v
	}
	w.Header().Del("Content-Length")
	w.WriteHeader(res.Code)
	_, _ = w.Write(body)
}

// recordedStep reports whether an answer is that of a recorded step.
func recordedStep(r *http.Request, res *httptest.ResponseRecorder) bool {
	return r.Header.Get(httpsig.HeaderSession) != "" && r.Method != http.MethodDelete && res.Code < 400 && res.Header().Get("Tandem-Endorsements") != ""
}

// ForgeBody changes the body of every answer to a step, and nothing else: the node's signature stays what it was.
func ForgeBody() Layer2Lie {
	return Layer2Lie{Name: "forges a body", Front: front(func(w http.ResponseWriter, r *http.Request, body []byte, honest func([]byte) *httptest.ResponseRecorder) {
		res := honest(body)
		text := bytes.Clone(res.Body.Bytes())
		if recordedStep(r, res) && len(text) > 0 {
			text[len(text)/2] ^= 1
		}
		pass(w, res, text)
	})}
}

// Accomplice endorses a step that a liar has invented.
type Accomplice func(wire.PeerStep) (wire.Endorsement, bool)

// Endorsing is an accomplice that signs whatever it is given, as [EndorseAll] does.
func Endorsing(chainID string, key ed25519.PrivateKey) Accomplice {
	return func(step wire.PeerStep) (wire.Endorsement, bool) {
		e := endorsement(chainID, key, step, step.Head)
		return wire.Endorsement{Node: wire.PublicKeyOf(key), Height: e.Height, Signature: e.Signature}, true
	}
}

// ForgeEndorsed is [ForgeAnswer] with an accomplice: each invented step is sent to it as to any peer, and what it endorses goes
// out with the answer.
func ForgeEndorsed(key ed25519.PrivateKey, accomplice wire.PublicKey) Layer2Lie {
	var mu sync.Mutex
	var link layer2.Peers
	endorsed := make(chan wire.PeerEndorse, 64)
	lie := ForgeAnswer(key, func(step wire.PeerStep) (wire.Endorsement, bool) {
		mu.Lock()
		defer mu.Unlock()
		if link == nil || link.Send(accomplice, step.Encode()) != nil {
			return wire.Endorsement{}, false
		}
		late := time.After(5 * time.Second)
		for {
			select {
			case e := <-endorsed:
				if e.Head == step.Head {
					return wire.Endorsement{Node: accomplice, Height: e.Height, Signature: e.Signature}, true
				}
			case <-late:
				return wire.Endorsement{}, false
			}
		}
	})
	lie.Name = "forges an endorsed answer"
	lie.Peers = func(p layer2.Peers) layer2.Peers {
		mu.Lock()
		defer mu.Unlock()
		link = p
		return &talk{Peers: p, incoming: func(_ *talk, from wire.PublicKey, m any, raw []byte) []byte {
			e, ok := m.(wire.PeerEndorse)
			if !ok || from != accomplice {
				return raw
			}
			select {
			case endorsed <- e:
			default:
			}
			return nil
		}}
	}
	return lie
}

// ForgeAnswer answers every step with an invented body and signs it, with a transcript head to match: nothing that a client
// can find wrong by itself. Accomplices endorse it. The honest node inside never hears of the step: it is withheld.
func ForgeAnswer(key ed25519.PrivateKey, accomplices ...Accomplice) Layer2Lie {
	return Layer2Lie{Name: "forges a signed answer", Front: front(func(w http.ResponseWriter, r *http.Request, body []byte, honest func([]byte) *httptest.ResponseRecorder) {
		p, err := httpsig.FromHTTP(r, body)
		if err != nil || p == nil || p.Tag != httpsig.TagStep || r.Method == http.MethodDelete {
			res := honest(body)
			pass(w, res, res.Body.Bytes())
			return
		}
		lie := []byte(`{"n":1000000}`)
		height, err := strconv.ParseInt(r.Header.Get("Tandem-Min-Height"), 10, 64) // what the client has seen: not to be doubted
		if err != nil {
			height = 1
		}
		tx := wire.Transaction{
			Sequence: p.Place.Sequence, Request: p.Request, Originator: wire.PublicKeyOf(key), Time: p.Request.Created*1000 + 999,
			Response: wire.Response{Status: 200, Headers: []wire.Header{{Name: "Content-Type", Value: "application/json"}}, Body: wire.Sum(lie)},
		}
		head := wire.TranscriptNext(p.Place.Transcript, tx)
		w.Header().Set("Content-Type", "application/json")
		httpsig.SignAnswer(key, p.Request.Created, httpsig.Answer{
			Status: 200, Body: wire.Sum(lie), Session: p.Place.Session, Sequence: p.Place.Sequence, Transcript: head, Height: height, Time: tx.Time,
		}, w.Header())
		step := wire.PeerStep{
			Session: p.Place.Session, Previous: p.Place.Transcript, Head: head, Step: wire.Recorded{Transaction: tx, Height: height},
		}
		var endorsers []wire.Endorsement
		for _, accomplice := range accomplices {
			if e, ok := accomplice(step); ok {
				endorsers = append(endorsers, e)
			}
		}
		httpsig.SetEndorsements(w.Header(), endorsers)
		w.Header().Set("Tandem-Endorsements", fmt.Sprintf("%d/3", 1+len(endorsers)))
		_, _ = w.Write(lie)
	})}
}

// AlterRequest changes the body of every signed request before the node sees it.
func AlterRequest() Layer2Lie {
	return Layer2Lie{Name: "alters a request", Front: front(func(w http.ResponseWriter, r *http.Request, body []byte, honest func([]byte) *httptest.ResponseRecorder) {
		if r.Header.Get(httpsig.HeaderSession) != "" {
			body = append(bytes.Clone(body), ' ')
		}
		res := honest(body)
		pass(w, res, res.Body.Bytes())
	})}
}

// ForgeCommit answers every commit with a signed "committed" that is not so, and does not pass it on.
func ForgeCommit(key ed25519.PrivateKey) Layer2Lie {
	return Layer2Lie{Name: "forges a commit", Front: front(func(w http.ResponseWriter, r *http.Request, body []byte, honest func([]byte) *httptest.ResponseRecorder) {
		p, err := httpsig.FromHTTP(r, body)
		if err != nil || p == nil || p.Tag != httpsig.TagCommit {
			res := honest(body)
			pass(w, res, res.Body.Bytes())
			return
		}
		lie := []byte(`{"status":"committed","height":2,"transaction_hash":"` + wire.Sum(body).String() + `"}`)
		w.Header().Set("Content-Type", "application/json")
		httpsig.SignAnswer(key, p.Request.Created, httpsig.Answer{
			Status: 200, Body: wire.Sum(lie), Session: p.Place.Session, Sequence: p.Place.Sequence - 1, Transcript: p.Place.Transcript,
			Height: 2, Time: p.Request.Created * 1000,
		}, w.Header())
		_, _ = w.Write(lie)
	})}
}

// CrashAfterAck calls crash once the answer to the n-th step was sent.
func CrashAfterAck(n int, crash func()) Layer2Lie {
	var mu sync.Mutex
	return Layer2Lie{Name: "crashes after ack", Front: front(func(w http.ResponseWriter, r *http.Request, body []byte, honest func([]byte) *httptest.ResponseRecorder) {
		res := honest(body)
		pass(w, res, res.Body.Bytes())
		if !recordedStep(r, res) {
			return
		}
		mu.Lock()
		n--
		now := n == 0
		mu.Unlock()
		if now {
			if f, ok := w.(http.Flusher); ok {
				f.Flush()
			}
			go crash()
		}
	})}
}
