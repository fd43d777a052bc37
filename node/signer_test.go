package node

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cometbft/cometbft/crypto/ed25519"
	cometjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/privval"
	cometproto "github.com/cometbft/cometbft/proto/tendermint/types"
	comettypes "github.com/cometbft/cometbft/types"
)

func newSigner(t *testing.T) (*signer, ed25519.PrivKey, string) {
	t.Helper()
	key, name := ed25519.GenPrivKey(), filepath.Join(t.TempDir(), "signed")
	s, err := createSigner(key, name, privval.FilePVLastSignState{})
	if err != nil {
		t.Fatal(err)
	}
	return s, key, name
}

func testVote(kind cometproto.SignedMsgType, height int64, round int32, block byte, at time.Time) *cometproto.Vote {
	return &cometproto.Vote{Type: kind, Height: height, Round: round, BlockID: blockID(block), Timestamp: at}
}

// TestSignerDecidesAsCometBFT: on random sequences of votes and proposals, with restarts in between, the signer signs what
// privval.FilePV signs, gives the same signature and time, and refuses what it refuses.
func TestSignerDecidesAsCometBFT(t *testing.T) {
	s, key, name := newSigner(t)
	dir := t.TempDir()
	oracle := privval.NewFilePV(key, filepath.Join(dir, "key"), filepath.Join(dir, "state"))
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	begin := time.Date(2026, 11, 27, 10, 0, 0, 0, time.UTC)
	var signed, again, refused int
	for i := range 3000 {
		height, round := int64(1+i/300+random.IntN(2)), int32(random.IntN(2))
		block, at := byte(1+random.IntN(2)), begin.Add(time.Duration(random.IntN(3))*time.Second)
		var a, b interface{ Marshal() ([]byte, error) }
		var errA, errB error
		var reused bool
		place := s.last.Height
		switch random.IntN(3) {
		case 0:
			p := cometproto.Proposal{Type: cometproto.ProposalType, Height: height, Round: round, PolRound: -1, BlockID: blockID(block), Timestamp: at}
			q := p
			errA, errB = s.SignProposal("chain", &p), oracle.SignProposal("chain", &q)
			a, b, reused = &p, &q, !p.Timestamp.Equal(at)
		case 1:
			v, w := testVote(cometproto.PrevoteType, height, round, block, at), testVote(cometproto.PrevoteType, height, round, block, at)
			errA, errB = s.SignVote("chain", v), oracle.SignVote("chain", w)
			a, b, reused = v, w, !v.Timestamp.Equal(at)
		default:
			v, w := testVote(cometproto.PrecommitType, height, round, block, at), testVote(cometproto.PrecommitType, height, round, block, at)
			errA, errB = s.SignVote("chain", v), oracle.SignVote("chain", w)
			w.ExtensionSignature = nil // of no use where extensions are off
			a, b, reused = v, w, !v.Timestamp.Equal(at)
		}
		if (errA == nil) != (errB == nil) {
			t.Fatalf("signing %d, after height %d: %v, CometBFT: %v", i, place, errA, errB)
		}
		x, errX := a.Marshal()
		y, errY := b.Marshal()
		if errX != nil || errY != nil || errA == nil && !bytes.Equal(x, y) {
			t.Fatalf("signing %d: %x, CometBFT %x", i, x, y)
		}
		switch {
		case errA != nil:
			refused++
		case reused:
			again++
		default:
			signed++
		}
		if random.IntN(20) == 0 {
			var err error
			if err = s.close(); err == nil {
				s, err = openSigner(key, name)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if signed < 30 || again < 10 || refused < 300 {
		t.Errorf("signed %d, signed again %d, refused %d: the test hardly tests", signed, again, refused)
	}
}

// TestSignerSurvivesTornSlot: whatever a crash leaves of the record under way, the place of the last signature given away
// is known; and when nothing whole is left the validator is refused.
func TestSignerSurvivesTornSlot(t *testing.T) {
	s, key, name := newSigner(t)
	now := time.Now()
	for h := int64(5); h <= 6; h++ {
		if err := s.SignVote("chain", testVote(cometproto.PrevoteType, h, 0, 1, now)); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SignVote("chain", testVote(cometproto.PrevoteType, 7, 0, 1, now)); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const slot = signSlot // the second: records 0 (new), 1 (height 5), 2 (6), 3 (7)
	if bytes.Equal(whole[slot:], after[slot:]) || !bytes.Equal(whole[:slot], after[:slot]) {
		t.Fatal("record 3 did not go into the second slot")
	}
	for cut := 0; cut <= signSlot; cut++ {
		torn := append(bytes.Clone(after[:slot+cut]), whole[slot+cut:]...)
		if err := os.WriteFile(name, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := openSigner(key, name)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if h := r.last.Height; h != 6 && h != 7 {
			t.Fatalf("cut at %d: the last height is %d", cut, h)
		}
		if err := r.SignVote("chain", testVote(cometproto.PrevoteType, 6, 0, 2, now)); err == nil {
			t.Fatalf("cut at %d: a second vote at height 6 was signed", cut)
		}
		if err := r.close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, broken := range [][]byte{nil, after[:signSlot], bytes.Repeat([]byte{' '}, 2*signSlot), append(after, 'x'),
		append(bytes.Clone(after[slot:]), after[:slot]...)} {
		if err := os.WriteFile(name, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openSigner(key, name); err == nil {
			t.Errorf("a file of %d bytes without a whole record was accepted", len(broken))
		}
	}
}

// TestSignerNotesBeforeItSigns: a signature that cannot be noted down is not given away, and the engine hears of it.
func TestSignerNotesBeforeItSigns(t *testing.T) {
	for what, spoil := range map[string]func(s *signer, name string) error{
		"moved away": func(_ *signer, name string) error { return os.Rename(name, name+".old") },
		"replaced": func(_ *signer, name string) error {
			text, err := os.ReadFile(name)
			if err == nil {
				err = os.Rename(name, name+".old")
			}
			if err == nil {
				err = os.WriteFile(name, text, 0o600)
			}
			return err
		},
		"not writable": func(s *signer, name string) error {
			f, err := os.Open(name)
			s.file = f
			return err
		},
	} {
		s, _, name := newSigner(t)
		if err := spoil(s, name); err != nil {
			t.Fatal(err)
		}
		v := testVote(cometproto.PrevoteType, 1, 0, 1, time.Now())
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", what)
				}
			}()
			_ = s.SignVote("chain", v)
		}()
		if v.Signature != nil {
			t.Errorf("%s: a signature was given away", what)
		}
	}
	s, _, _ := newSigner(t)
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if err := s.SignVote("chain", testVote(cometproto.PrevoteType, 1, 0, 1, time.Now())); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("after its end: %v", err)
	}
}

// TestSignerTakesOver: the file that CometBFT's signer has written is read once and then kept in the new form.
func TestSignerTakesOver(t *testing.T) {
	cfg, _, _ := home(t, t.TempDir())
	name := filepath.Join(cfg.Home, signStateFile)
	text, err := os.ReadFile(filepath.Join(cfg.Home, ValidatorKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	var key privval.FilePVKey
	if err := cometjson.Unmarshal(text, &key); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(cfg.Home, engineDir, "blockstore.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	at := time.Now().UTC()
	old := testVote(cometproto.PrecommitType, 9, 1, 1, at)
	if err := privval.NewFilePV(key.PrivKey, "", name).SignVote("chain", old); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		v, err := cfg.loadValidator()
		if err != nil {
			t.Fatal(err)
		}
		if err := v.SignVote("chain", testVote(cometproto.PrecommitType, 9, 1, 2, at)); err == nil {
			t.Error("a second, different vote was signed")
		}
		same := testVote(cometproto.PrecommitType, 9, 1, 1, at.Add(time.Second))
		if err := v.SignVote("chain", same); err != nil || !bytes.Equal(same.Signature, old.Signature) || !same.Timestamp.Equal(old.Timestamp) {
			t.Errorf("the same vote again: %v, %v", same, err)
		}
		if !key.PubKey.VerifySignature(comettypes.VoteSignBytes("chain", same), same.Signature) {
			t.Error("the signature does not verify")
		}
	}
	if info, err := os.Stat(name); err != nil || info.Size() != 2*signSlot {
		t.Errorf("%v, %v", info, err)
	}
	for _, empty := range []string{"{}", "null", `{"height":"3"}`} {
		if err := os.WriteFile(name, []byte(empty), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := cfg.loadValidator(); err == nil {
			t.Errorf("%s was taken for a sign state", empty)
		}
	}
}
