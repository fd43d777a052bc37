package wire

import (
	"bytes"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func genRecorded(from uint64) *rapid.Generator[[]Recorded] {
	return rapid.Custom(func(t *rapid.T) []Recorded {
		steps := make([]Recorded, rapid.IntRange(0, 3).Draw(t, "steps"))
		for i := range steps {
			steps[i] = Recorded{Transaction: genTransaction().Draw(t, "tx"), Height: rapid.Int64Min(0).Draw(t, "height"),
				Seal: Seal{Created: rapid.Int64Range(0, MaxTime/1000).Draw(t, "created"), Signature: fill[Signature](t, "seal")}}
			steps[i].Transaction.Sequence = from + uint64(i)
		}
		return steps
	})
}

// drawPeer draws a message of any kind and its encoding.
func drawPeer(t *rapid.T) (any, []byte) {
	id, head := fill[SessionID](t, "session"), fill[Digest](t, "head")
	sequence, height := rapid.Uint64Range(1, MaxSteps).Draw(t, "sequence"), rapid.Int64Min(0).Draw(t, "height")
	opened := PeerOpened{Open: genRequest().Draw(t, "open"), Height: height, Time: rapid.Int64Range(0, MaxTime).Draw(t, "time")}
	ended := PeerEnded{Session: id, Sequence: sequence, Head: head, Request: genRequest().Draw(t, "end")}
	switch PeerKind(rapid.IntRange(1, 10).Draw(t, "kind")) {
	case KindOpened:
		return opened, opened.Encode()
	case KindStep:
		tx := genTransaction().Draw(t, "tx")
		m := PeerStep{Session: id, Previous: fill[Digest](t, "previous"), Head: head, Step: Recorded{Transaction: tx, Height: height, Seal: Seal{Signature: fill[Signature](t, "seal")}}}
		return m, m.Encode()
	case KindEndorse:
		m := PeerEndorse{Session: id, Sequence: sequence, Head: head, Height: height, Signature: fill[Signature](t, "signature")}
		return m, m.Encode()
	case KindDissent:
		m := PeerDissent{Session: id, Sequence: sequence, Head: head, Reason: rapid.StringN(0, 10, MaxReason).Draw(t, "reason"), Height: height,
			Mine: fill[Digest](t, "mine"), Response: fill[Digest](t, "response"), Detail: rapid.StringN(0, 20, MaxDetail).Draw(t, "detail")}
		return m, m.Encode()
	case KindFetch:
		m := PeerFetch{Session: id, From: rapid.Uint64Range(0, MaxSteps).Draw(t, "from")}
		return m, m.Encode()
	case KindTranscript:
		m := PeerTranscript{Opened: opened, From: 7, Steps: genRecorded(7).Draw(t, "steps")}
		if rapid.Bool().Draw(t, "ended") {
			m.Ended = &ended
		}
		return m, m.Encode()
	case KindMissing:
		m := PeerMissing{Session: id}
		return m, m.Encode()
	case KindEnded:
		return ended, ended.Encode()
	case KindSessions:
		m := PeerSessions{}
		for range rapid.IntRange(0, 3).Draw(t, "tips") {
			m.Sessions = append(m.Sessions, Tip{Session: fill[SessionID](t, "tip"), Steps: rapid.Uint64Range(0, MaxSteps).Draw(t, "n"), Head: head})
		}
		return m, m.Encode()
	}
	m := PeerHeight{Height: height}
	return m, m.Encode()
}

// encodePeer encodes what DecodePeer returned.
func encodePeer(m any) []byte { return m.(interface{ Encode() []byte }).Encode() }

// What is sent is what is received, of every kind.
func TestPeerRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, b := drawPeer(t)
		got, err := DecodePeer(b)
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		if reflect.TypeOf(got) != reflect.TypeOf(m) || !bytes.Equal(encodePeer(got), b) {
			t.Fatalf("%#v came back as %#v", m, got)
		}
		i := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
		if _, err := DecodePeer(b[:i]); err == nil {
			t.Fatalf("%d of %d bytes of a %T decode", i, len(b), m)
		}
		if _, err := DecodePeer(append(bytes.Clone(b), 0)); err == nil {
			t.Fatalf("a byte behind a %T is not noticed", m)
		}
	})
}

func TestTranscriptRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := Transcript{Open: genRequest().Draw(t, "open"), Steps: genRecorded(1).Draw(t, "steps")}
		got, err := DecodeTranscript(x.Encode())
		if err != nil || !bytes.Equal(got.Encode(), x.Encode()) {
			t.Fatal(err)
		}
		if len(x.Steps) > 0 {
			x.Steps[len(x.Steps)-1].Transaction.Sequence++
			if _, err := DecodeTranscript(x.Encode()); err == nil {
				t.Fatal("a gap is not noticed")
			}
		}
	})
}

func TestAccusationRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := Accusation{Open: genRequest().Draw(t, "open"), Steps: genRecorded(1).Draw(t, "steps")}
		if rapid.Bool().Draw(t, "endorsed") {
			x.Endorsement = &Endorsement{Node: keyFromSeed(1), Height: rapid.Int64Min(0).Draw(t, "height"), Signature: fill[Signature](t, "signature")}
		}
		got, err := DecodeAccusation(x.Encode())
		if len(x.Steps) == 0 {
			if err == nil {
				t.Fatal("an accusation about no step passes")
			}
			return
		}
		if err != nil || !bytes.Equal(got.Encode(), x.Encode()) || (got.Endorsement == nil) != (x.Endorsement == nil) {
			t.Fatal(err)
		}
	})
	two := accusationRecord{Open: seedRequest(), Steps: []Recorded{{Transaction: seedTransaction()}}, Endorsements: make([]Endorsement, 2)}
	if _, err := DecodeAccusation(encode(two)); err == nil {
		t.Error("two endorsements pass")
	}
}

func FuzzDecodeAccusation(f *testing.F) {
	x := Accusation{Open: seedRequest(), Steps: []Recorded{{Transaction: seedTransaction(), Height: 5}}}
	y := x
	y.Endorsement = &Endorsement{Node: keyFromSeed(1), Height: 5}
	fuzz(f, func(b []byte) ([]byte, error) { a, err := DecodeAccusation(b); return a.Encode(), err }, x.Encode(), y.Encode())
}

// TestEndorsement: an endorsement is for one chain, session, sequence, head and height.
func TestEndorsement(t *testing.T) {
	id, head := SessionID{1}, Sum([]byte("head"))
	base := EndorsementBytes("chain", id, 3, head, 7)
	for name, other := range map[string][]byte{
		"chain": EndorsementBytes("chain2", id, 3, head, 7), "session": EndorsementBytes("chain", SessionID{2}, 3, head, 7),
		"sequence": EndorsementBytes("chain", id, 4, head, 7), "head": EndorsementBytes("chain", id, 3, Sum(nil), 7),
		"height": EndorsementBytes("chain", id, 3, head, 8),
	} {
		if bytes.Equal(base, other) {
			t.Errorf("another %s, the same bytes", name)
		}
	}
	if err := (Endorsement{Node: keyFromSeed(1), Height: 7}).Verify("chain", id, 3, head); err == nil {
		t.Error("an endorsement without a signature passes")
	}
}

func peerSeeds() [][]byte {
	id, head := SessionID{1}, Sum(nil)
	r := Recorded{Transaction: seedTransaction(), Height: 5, Seal: Seal{Created: 1767225600}}
	ended := PeerEnded{Session: id, Sequence: 2, Head: head, Request: seedRequest()}
	opened := PeerOpened{Open: seedRequest(), Height: 1, Time: 1767225600123}
	return [][]byte{
		opened.Encode(), PeerStep{Session: id, Head: head, Step: r}.Encode(), PeerEndorse{Session: id, Sequence: 1, Head: head}.Encode(),
		PeerDissent{Session: id, Sequence: 1, Reason: "lagging"}.Encode(), PeerFetch{Session: id, From: 1}.Encode(),
		PeerTranscript{Opened: opened, From: 1, Steps: []Recorded{r}, Ended: &ended}.Encode(), PeerMissing{Session: id}.Encode(),
		ended.Encode(), PeerSessions{Sessions: []Tip{{Session: id, Steps: 1, Head: head}}}.Encode(), PeerHeight{Height: 1}.Encode(),
	}
}

func FuzzDecodePeer(f *testing.F) {
	fuzz(f, func(b []byte) ([]byte, error) {
		m, err := DecodePeer(bytes.Clone(b))
		if err != nil {
			return nil, err
		}
		return encodePeer(m), nil
	}, peerSeeds()...)
}

func FuzzDecodeTranscript(f *testing.F) {
	r := Recorded{Transaction: seedTransaction(), Height: 5}
	fuzz(f, again(DecodeTranscript), Transcript{Open: seedRequest(), Steps: []Recorded{r}}.Encode())
}
