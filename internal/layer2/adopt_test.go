package layer2

import (
	"context"
	"testing"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// transcript is the session as the client has it: what it would upload.
func (u *user) transcript(answers []*Answer, sent []*httpsig.Parsed) wire.Transcript {
	t := wire.Transcript{Open: u.open}
	for i, a := range answers {
		_, seal, err := httpsig.VerifySealed(a.Signed, a.Status, a.Body)
		if err != nil {
			u.w.t.Fatal(err)
		}
		t.Steps = append(t.Steps, wire.Recorded{Height: a.Height, Seal: seal, Transaction: wire.Transaction{
			Sequence: a.Sequence, Request: sent[i].Request, Originator: a.Originator, Time: a.Time,
			Response: wire.Response{Status: a.Status, Headers: a.Headers, Body: wire.Sum(a.Body)},
		}})
	}
	return t
}

// TestUpload: issue 3, part 4: if no node has the session, the client uploads it and goes on.
func TestUpload(t *testing.T) {
	m := newMany(t, 2, nil)
	m.cut(0, 1)
	u := m.nodes[0].user("alice")
	var answers []*Answer
	var sent []*httpsig.Parsed
	for range 3 {
		answers = append(answers, u.do("POST", "/add/a", "", 200))
		last := u.last
		sent = append(sent, &last)
	}
	m.kill(0)
	u.at(m.nodes[1])
	wantCode(t, second(u.send(&u.last)), refusal.SessionNotFound)
	whole := u.transcript(answers, sent)
	b := whole.Encode()
	decoded, err := wire.DecodeTranscript(b)
	if err != nil {
		t.Fatal(err)
	}
	part := decoded
	part.Steps = part.Steps[:1]
	for _, up := range []wire.Transcript{part, decoded, decoded} {
		s, err := m.nodes[1].engine.Upload(context.Background(), up)
		if err != nil || s.Sequence < uint64(len(up.Steps)) {
			t.Fatalf("upload: %+v %v", s, err)
		}
	}
	if a, err := u.send(&u.last); err != nil || !a.Repeated || a.Originator != m.nodes[0].key() {
		t.Fatalf("%+v %v", a, err)
	}
	u.do("POST", "/add/a", "", 200)
	if out, err := u.commit(); err != nil || out.Status != session.Committed || out.Steps != 4 {
		t.Fatalf("%+v %v", out, err)
	}
	if _, err := m.nodes[1].engine.Upload(context.Background(), decoded); err != nil {
		t.Errorf("uploading a committed session: %v", err)
	}
}

// Nothing of an uploaded transcript is believed.
func TestUploadForged(t *testing.T) {
	other := wire.PublicKeyOf(key("node 1"))
	for name, c := range map[string]struct {
		change func(*wire.Transcript)
		code   refusal.Code
	}{
		"time":       {func(t *wire.Transcript) { t.Steps[0].Transaction.Time++ }, refusal.SignatureInvalid},
		"body":       {func(t *wire.Transcript) { t.Steps[1].Transaction.Response.Body[0]++ }, refusal.SignatureInvalid},
		"height":     {func(t *wire.Transcript) { t.Steps[0].Height++ }, refusal.SignatureInvalid},
		"request":    {func(t *wire.Transcript) { t.Steps[0].Transaction.Request.Body = []byte("x") }, refusal.SignatureInvalid},
		"originator": {func(t *wire.Transcript) { t.Steps[0].Transaction.Originator = other }, refusal.SignatureInvalid},
		"opening":    {func(t *wire.Transcript) { t.Open.Created++ }, refusal.SignatureInvalid},
		"dropped": {func(t *wire.Transcript) {
			t.Steps = t.Steps[1:]
			t.Steps[0].Transaction.Sequence = 1
		}, refusal.SignatureInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMany(t, 2, nil)
			m.cut(0, 1)
			u := m.nodes[0].user("alice")
			var answers []*Answer
			var sent []*httpsig.Parsed
			for range 2 {
				answers = append(answers, u.do("POST", "/add/a", "", 200))
				last := u.last
				sent = append(sent, &last)
			}
			forged, err := wire.DecodeTranscript(u.transcript(answers, sent).Encode())
			if err != nil {
				t.Fatal(err)
			}
			c.change(&forged)
			wantCode(t, second(m.nodes[1].engine.Upload(context.Background(), forged)), c.code)
		})
	}
}

// Steps that a node lacks and no other has: the client is told to upload, does, and goes on.
func TestTranscriptMissing(t *testing.T) {
	m := newMany(t, 3, nil)
	u := m.nodes[0].user("alice")
	for i := range m.nodes {
		m.has(i, u)
	}
	m.cut(0, 1)
	m.cut(0, 2)
	a := u.do("POST", "/add/a", "", 200)
	step := u.last
	u.at(m.nodes[1])
	next := u.sign("POST", "/add/a", "", "")
	wantCode(t, second(u.send(next)), refusal.TranscriptMissing)
	if _, err := m.nodes[1].engine.Upload(context.Background(), u.transcript([]*Answer{a}, []*httpsig.Parsed{&step})); err != nil {
		t.Fatal(err)
	}
	if _, err := u.send(next); err != nil {
		t.Fatal(err)
	}
	m.has(2, u)
}

// The other variant of the last step is replaced by an uploaded one if that is the smaller, otherwise only after the client has
// signed over it.
func TestUploadOfTheChosenVariant(t *testing.T) {
	m := newMany(t, 2, nil)
	u := m.nodes[0].user("alice")
	m.has(1, u)
	m.cut(0, 1)
	p := u.sign("POST", "/add/a", "", "")
	a, err := m.nodes[0].engine.Step(context.Background(), p)
	if err != nil || u.accept(p, a) != nil {
		t.Fatal(err)
	}
	m.clock.advance(time.Millisecond)
	b, err := m.nodes[1].engine.Step(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	up := u.transcript([]*Answer{a}, []*httpsig.Parsed{p})
	u.at(m.nodes[1])
	next := u.sign("POST", "/add/a", "", "")
	if smaller(a.Transcript, b.Transcript) {
		if s, err := m.nodes[1].engine.Upload(context.Background(), up); err != nil || s.Transcript != a.Transcript.String() {
			t.Fatalf("%+v %v", s, err)
		}
	} else {
		wantCode(t, second(m.nodes[1].engine.Upload(context.Background(), up)), refusal.PositionTaken)
		wantCode(t, second(u.send(next)), refusal.TranscriptMissing)
	}
	if _, err := m.nodes[1].engine.Upload(context.Background(), up); err != nil {
		t.Fatal(err)
	}
	if b, err := u.send(next); err != nil || string(b.Body) != `{"by":"alice","count":2}` {
		t.Fatalf("%+v %v", b, err)
	}
	m.kill(1) // the replaced step is what is on disk
	m.up(1)
	m.has(1, u)
}
