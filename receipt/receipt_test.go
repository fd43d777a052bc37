package receipt

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cometbft/cometbft/crypto/merkle"
	"github.com/cometbft/cometbft/types"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tandem/internal/httpsig"
	"tandem/internal/signedblock"
	"tandem/internal/wire"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestBuildVerify: a receipt that a node builds verifies with the genesis file alone, and says who, what and when.
func TestBuildVerify(t *testing.T) {
	c := newChain(t, 10, 10, 10, 10)
	b := c.block(5)
	raw := mustBuild(t, c, b)
	p, err := Verify(c.genesis, raw)
	if err != nil {
		t.Fatal(err)
	}
	s, _ := c.session(testChain)
	want := &Proof{
		ChainID: testChain, Height: 7, Time: b.header.Time, BlockHash: strings.ToLower(b.header.Hash().String()),
		TransactionHash: fmt.Sprintf("%x", b.txs[b.index].Hash()), Session: httpsig.SessionID(&s.Open).String(),
		Transcript: s.Head().String(), Fingerprint: wire.Sum([]byte("the example's service")).String(),
		Actor:   Actor{Key: wire.PublicKeyOf(c.client).DID(), ID: "OPR-001", Organisation: "Warehouse Ltd"},
		Signers: 3, Validators: 4, Power: 30, TotalPower: 40,
		Checkpoint: 1, Final: true, FirstStep: 1, LastStep: 3,
	}
	node := wire.PublicKeyOf(c.node).DID()
	header := []Header{{"Content-Type", "application/json"}}
	at := func(seconds int64) time.Time { return time.UnixMilli((testCreated+seconds)*1000 + 7).UTC() }
	want.Steps = []Step{
		{1, "POST", "/packages/PKG-001/scan", "application/json", []byte("{}"), 200, header, []byte(`{"package_id":"PKG-001","supplier":"SUP-001"}`), at(2), node},
		{2, "GET", "/packages?supplier=SUP-001", "application/json", []byte{}, 200, header, []byte(`{"packages":["PKG-001"]}`), at(5), node},
		{3, "DELETE", "/packages/PKG-001/label", "application/json", []byte{}, 200, header, []byte{}, at(6), node},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
	var summary bytes.Buffer
	if err := p.WriteSummary(&summary); err != nil {
		t.Fatal(err)
	}
	golden(t, "receipt.json", raw)
	golden(t, "genesis.json", append(slices.Clone(c.genesis), '\n'))
	golden(t, "summary.txt", summary.Bytes())

	// The golden files themselves verify: what older versions wrote stays readable.
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata", "golden", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if _, err := Verify(read("genesis.json"), read("receipt.json")); err != nil {
		t.Error(err)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (rewrite with -update): %s", name, diff)
	}
}

// TestEveryByteCounts checks promise 8: any changed byte of the file fails. Each byte is flipped, set to other characters
// that JSON would take, doubled, deleted and preceded by white space.
func TestEveryByteCounts(t *testing.T) {
	c := newChain(t, 10, 10, 10, 10)
	raw := mustBuild(t, c, c.block(5))
	g, err := readGenesis(c.genesis)
	if err != nil {
		t.Fatal(err)
	}
	fails := func(i int, what string, changed []byte) {
		if bytes.Equal(changed, raw) {
			return
		}
		f, err := decodeFile(changed)
		if err != nil {
			return
		}
		if _, err := verify(g, f); err == nil {
			t.Errorf("byte %d (%q) %s: the receipt verifies", i, raw[i], what)
		}
	}
	for i := range raw {
		for _, other := range []byte{raw[i] ^ 1, raw[i] ^ 0x20, raw[i] ^ 0x80, '0'} {
			changed := bytes.Clone(raw)
			changed[i] = other
			fails(i, fmt.Sprintf("changed to %q", other), changed)
		}
		for _, insert := range []byte{' ', raw[i]} {
			fails(i, fmt.Sprintf("after %q", insert), slices.Insert(bytes.Clone(raw), i, insert))
		}
		fails(i, "deleted", slices.Delete(bytes.Clone(raw), i, i+1))
	}
	fails(len(raw)-1, "followed by a line end", append(bytes.Clone(raw), '\n'))
	fails(len(raw)-1, "followed by itself", append(bytes.Clone(raw), raw...))
	for n := range raw {
		fails(n, "cut off", raw[:n])
	}
}

// TestEveryFieldCounts: any field changed, and the file written in canonical form again, fails: each leaf gets other values, each list
// loses, repeats and swaps elements.
func TestEveryFieldCounts(t *testing.T) {
	c := newChain(t, 10, 10, 10, 10)
	raw := mustBuild(t, c, c.block(5))
	leaves := 0
	var walk func(f *file, v reflect.Value, path string)
	try := func(f *file, path string) {
		t.Helper()
		changed, err := f.encode()
		if err != nil {
			return
		}
		if bytes.Equal(changed, raw) {
			t.Errorf("%s: not changed", path)
		}
		if _, err := Verify(c.genesis, changed); err == nil {
			t.Errorf("%s: changed, but the receipt verifies", path)
		}
	}
	set := func(f *file, v reflect.Value, other any, path string) {
		was := reflect.New(v.Type()).Elem()
		was.Set(v)
		leaves++
		v.Set(reflect.ValueOf(other).Convert(v.Type()))
		try(f, path)
		v.Set(was)
	}
	walk = func(f *file, v reflect.Value, path string) {
		switch value := v.Interface().(type) {
		case time.Time:
			set(f, v, value.Add(1), path)
			set(f, v, value.Add(-time.Hour), path)
			return
		case []byte, signedblock.Hex:
			b := v.Bytes()
			if len(b) == 0 {
				set(f, v, []byte{0}, path)
				return
			}
			for _, i := range []int{0, len(b) / 2, len(b) - 1} {
				other := bytes.Clone(b)
				other[i] ^= 1
				set(f, v, other, path)
			}
			set(f, v, b[1:], path)
			set(f, v, append(bytes.Clone(b), 0), path)
			set(f, v, []byte{}, path)
			return
		}
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				walk(f, v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(f, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
			}
			if n := v.Len(); n > 0 {
				set(f, v, v.Slice(0, n-1).Interface(), path+" without the last")
				set(f, v, v.Slice(1, n).Interface(), path+" without the first")
				set(f, v, reflect.AppendSlice(reflect.MakeSlice(v.Type(), 0, n+1), reflect.Append(v.Slice(0, n), v.Index(n-1))).Interface(), path+" with the last twice")
				if n > 1 && !reflect.DeepEqual(v.Index(0).Interface(), v.Index(1).Interface()) {
					swapped := reflect.AppendSlice(reflect.MakeSlice(v.Type(), 0, n), v)
					first := reflect.ValueOf(v.Index(0).Interface())
					swapped.Index(0).Set(v.Index(1))
					swapped.Index(1).Set(first)
					set(f, v, swapped.Interface(), path+" swapped")
				}
			}
			set(f, v, reflect.MakeSlice(v.Type(), 0, 0).Interface(), path+" emptied")
		case reflect.String:
			set(f, v, v.String()+"x", path)
			set(f, v, "", path)
			if v.String() == "left" || v.String() == "right" {
				set(f, v, map[string]string{"left": "right", "right": "left"}[v.String()], path)
			}
		case reflect.Uint32, reflect.Uint64:
			set(f, v, v.Uint()+1, path)
			set(f, v, uint32(0), path)
		case reflect.Int32, reflect.Int64:
			set(f, v, v.Int()+1, path)
			set(f, v, v.Int()-1, path)
			set(f, v, -v.Int(), path)
		default:
			t.Fatalf("%s: a %s", path, v.Kind())
		}
	}
	f, err := decodeFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	walk(f, reflect.ValueOf(f).Elem(), "receipt")
	if again, err := f.encode(); err != nil || !bytes.Equal(again, raw) {
		t.Fatal("the walk did not restore the file")
	}
	if leaves < 100 {
		t.Errorf("only %d changes", leaves)
	}
}

// rebuild writes a receipt without Build's own check, to see Verify refuse it.
func rebuild(t *testing.T, c *chain, b *block, change func(*file)) []byte {
	t.Helper()
	kept, err := (&signedblock.Trust{Validators: c.set}).CommitOf(b.commit)
	if err != nil {
		t.Fatal(err)
	}
	f := &file{Format: Format, Header: signedblock.HeaderOf(&b.header), Commit: kept, Path: pathOf(b.txs, b.index), Transaction: b.txs[b.index], Bodies: b.bodies}
	if change != nil {
		change(f)
	}
	raw, err := f.encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestForgedReceipts: each is well formed and canonical, and breaks one link of the chain of reasons.
func TestForgedReceipts(t *testing.T) {
	for name, c := range map[string]struct {
		make func(t *testing.T, c *chain) []byte
		want string
	}{
		"two of four validators": {func(t *testing.T, c *chain) []byte {
			b := c.block(4)
			b.commit.Signatures[1], b.commit.Signatures[3] = types.NewCommitSigAbsent(), types.NewCommitSigAbsent()
			return rebuild(t, c, b, nil)
		}, "signatures"},
		"no signatures": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(4), func(f *file) { f.Commit.Signatures = []signedblock.Signature{} })
		}, "signatures"},
		"one signature three times": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(4), func(f *file) {
				s := f.Commit.Signatures[0]
				f.Commit.Signatures = []signedblock.Signature{s, s, s}
			})
		}, "order"},
		"one signature under three names": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(4), func(f *file) {
				for i := range f.Commit.Signatures {
					f.Commit.Signatures[i].Signature = f.Commit.Signatures[0].Signature
					f.Commit.Signatures[i].Time = f.Commit.Signatures[0].Time
				}
			})
		}, "signature"},
		"signatures in other order": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(4), func(f *file) { slices.Reverse(f.Commit.Signatures) })
		}, "order"},
		"more signatures than needed": {func(t *testing.T, c *chain) []byte {
			b := c.block(4)
			return rebuild(t, c, b, func(f *file) {
				f.Commit.Signatures = nil
				for _, s := range b.commit.Signatures {
					f.Commit.Signatures = append(f.Commit.Signatures, signedblock.Signature{Validator: signedblock.Hex(s.ValidatorAddress), Time: s.Timestamp, Signature: s.Signature})
				}
			})
		}, "more than is needed"},
		"one bad signature among enough good": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(4), func(f *file) { f.Commit.Signatures[1].Signature[5] ^= 1 })
		}, "signature"},
		"votes for nil": {func(t *testing.T, c *chain) []byte {
			b := c.block(4)
			return rebuild(t, c, b, func(f *file) {
				for i := range f.Commit.Signatures {
					index, v := c.set.GetByAddress([]byte(f.Commit.Signatures[i].Validator))
					s := c.vote(b, v, types.BlockID{}, int(index))
					f.Commit.Signatures[i] = signedblock.Signature{Validator: signedblock.Hex(s.ValidatorAddress), Time: s.Timestamp, Signature: s.Signature}
				}
			})
		}, "signature"},
		"other validators": {func(t *testing.T, c *chain) []byte {
			other := newChain(t, 10, 10, 10, 10, 10)
			return rebuild(t, other, other.block(4), nil)
		}, "other validators"},
		"other validators who name ours": {func(t *testing.T, c *chain) []byte {
			other := newChain(t, 10, 10, 10, 10, 10)
			b := other.block(4)
			b.header.ValidatorsHash = c.set.Hash()
			other.sign(b)
			return rebuild(t, other, b, nil)
		}, "signature"},
		"a stranger among the validators": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(4), func(f *file) { f.Commit.Signatures[0].Validator = bytes.Repeat([]byte{7}, 20) })
		}, "no validator"},
		"another chain": {func(t *testing.T, c *chain) []byte {
			b := c.block(4)
			b.header.ChainID = "tandem-other"
			c.sign(b)
			return rebuild(t, c, b, nil)
		}, "of chain"},
		"votes of another chain": {func(t *testing.T, c *chain) []byte {
			b := c.block(4)
			b.header.ChainID = "tandem-other"
			c.sign(b)
			return rebuild(t, c, b, func(f *file) { f.Header.ChainID = testChain })
		}, "signature"},
		"another header than was signed": {func(t *testing.T, c *chain) []byte {
			b := c.block(4)
			b.header.Time = b.header.Time.Add(time.Hour)
			return rebuild(t, c, b, nil)
		}, "signature"},
		"a transaction of another block": {func(t *testing.T, c *chain) []byte {
			b, other := c.block(4), c.block(9)
			b.header.DataHash = other.txs[2:].Hash()
			c.sign(b)
			return rebuild(t, c, b, nil)
		}, "not in block"},
		"a path that leaves out a turn": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(5), func(f *file) { f.Path = f.Path[1:] })
		}, "not in block"},
		"a path with a short hash": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(5), func(f *file) { f.Path[0].Hash = f.Path[0].Hash[:31] })
		}, "31 bytes of hash"},
		"an endless path": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(5), func(f *file) { f.Path = make([]turn, 1000) })
		}, "1000 turns"},
		"an inner node as the transaction": {func(t *testing.T, c *chain) []byte {
			// The classic second preimage: leaves and inner nodes are hashed differently, so it fails.
			return rebuild(t, c, c.block(5), func(f *file) {
				hash := wire.Sum(f.Transaction)
				f.Transaction = append(append([]byte{1}, hash[:]...), f.Path[0].Hash...)
				f.Path = f.Path[1:]
			})
		}, "not in block"},
		"a root statement": {func(t *testing.T, c *chain) []byte {
			b := c.block(4)
			b.index, b.bodies = 0, [][]byte{}
			return rebuild(t, c, b, nil)
		}, "transaction"},
		"a session for another chain": {func(t *testing.T, c *chain) []byte {
			b := c.block(4)
			s, bodies := c.session("tandem-other")
			b.txs[b.index], b.bodies = s.Encode(), bodies
			c.seal(b)
			return rebuild(t, c, b, nil)
		}, "opened for chain"},
		"a session with a bad signature, in a block": {func(t *testing.T, c *chain) []byte {
			b := c.block(4)
			s, bodies := c.session(testChain)
			s.Transactions[1].Request.Body = []byte("x")
			b.txs[b.index], b.bodies = s.Encode(), bodies
			c.seal(b)
			return rebuild(t, c, b, nil)
		}, "signature-invalid"},
		"a session that is not canonical, in a block": {func(t *testing.T, c *chain) []byte {
			b := c.block(4)
			b.txs[b.index] = append(b.txs[b.index], 0)
			c.seal(b)
			return rebuild(t, c, b, nil)
		}, "non-canonical"},
		"another answer": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(4), func(f *file) { f.Bodies[0] = []byte(`{"package_id":"PKG-002"}`) })
		}, "response bodies"},
		"one body less": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(4), func(f *file) { f.Bodies = f.Bodies[:2] })
		}, "response bodies"},
		"bodies swapped": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(4), func(f *file) { f.Bodies[0], f.Bodies[1] = f.Bodies[1], f.Bodies[0] })
		}, "response bodies"},
		"another format": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(4), func(f *file) { f.Format = "tandem receipt 2" })
		}, "format"},
		"null for an empty body": {func(t *testing.T, c *chain) []byte {
			return rebuild(t, c, c.block(4), func(f *file) { f.Bodies[2] = nil })
		}, "body 3"},
		"empty":           {func(*testing.T, *chain) []byte { return nil }, "receipt file"},
		"no JSON":         {func(*testing.T, *chain) []byte { return []byte("receipt") }, "receipt file"},
		"empty object":    {func(*testing.T, *chain) []byte { return []byte("{}\n") }, "format"},
		"only the format": {func(*testing.T, *chain) []byte { return []byte(`{"format":"tandem receipt 1"}`) }, "missing"},
		"deep": {func(*testing.T, *chain) []byte {
			return []byte(`{"format":` + strings.Repeat("[", 20000))
		}, "receipt file"},
	} {
		t.Run(name, func(t *testing.T) {
			chain := newChain(t, 10, 10, 10, 10)
			p, err := Verify(chain.genesis, c.make(t, chain))
			if err == nil || p != nil {
				t.Fatalf("verifies: %+v", p)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v does not say %q", err, c.want)
			}
		})
	}
}

// TestPath: the path of every transaction in blocks of all small sizes leads to the data hash, and agrees with CometBFT's own
// proof; from no other transaction does it.
func TestPath(t *testing.T) {
	for n := 1; n <= 40; n++ {
		var txs types.Txs
		var hashes [][]byte
		for i := range n {
			txs = append(txs, fmt.Appendf(nil, "transaction %d of %d", i, n))
			hashes = append(hashes, txs[i].Hash())
		}
		root, proofs := merkle.ProofsFromByteSlices(hashes)
		for i := range n {
			f := &file{Path: pathOf(txs, i)}
			got, err := f.root(wire.Sum(txs[i]))
			if err != nil || !bytes.Equal(got, txs.Hash()) || !bytes.Equal(root, txs.Hash()) {
				t.Fatalf("%d of %d: %x %v", i, n, got, err)
			}
			if err := proofs[i].Verify(root, hashes[i]); err != nil {
				t.Fatal(err)
			}
			if got, _ := f.root(wire.Sum(txs[(i+1)%n])); n > 1 && bytes.Equal(got, root) {
				t.Fatalf("%d of %d: the path serves another transaction", i, n)
			}
		}
	}
}

// TestCometProofsAreMalleable is why receipts hold turns instead of CometBFT's proofs: there, the total is not bound. If this fails,
// CometBFT binds it now, and the reason is gone.
func TestCometProofsAreMalleable(t *testing.T) {
	root, proofs := merkle.ProofsFromByteSlices([][]byte{[]byte("a"), []byte("b"), []byte("c")})
	proofs[0].Total = 4
	if err := proofs[0].Verify(root, []byte("a")); err != nil {
		t.Error(err)
	}
}

// TestAnyPowers: with validators of any powers and any that signed, Build succeeds exactly when more than two thirds of the power
// signed, every signature that it keeps is needed, and the result verifies.
func TestAnyPowers(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		powers := rapid.SliceOfN(rapid.Int64Range(1, 30), 1, 8).Draw(r, "powers")
		c := newChain(t, powers...)
		b := c.block(rapid.IntRange(2, 6).Draw(r, "transactions"))
		var power int64
		for i, v := range c.set.Validators {
			switch rapid.SampledFrom([]string{"signs", "signs", "signs", "absent", "nil"}).Draw(r, "vote") {
			case "absent":
				b.commit.Signatures[i] = types.NewCommitSigAbsent()
			case "nil":
				b.commit.Signatures[i] = c.vote(b, v, types.BlockID{}, i)
			default:
				power += v.VotingPower
			}
		}
		raw, err := Build(b.parts(c))
		if want := 3*power > 2*c.set.TotalVotingPower(); (err == nil) != want {
			r.Fatalf("power %d of %d: %v", power, c.set.TotalVotingPower(), err)
		}
		if err != nil {
			return
		}
		p, err := Verify(c.genesis, raw)
		if err != nil {
			r.Fatal(err)
		}
		f, err := decodeFile(raw)
		if err != nil {
			r.Fatal(err)
		}
		for i := range f.Commit.Signatures {
			less := *f
			less.Commit.Signatures = slices.Delete(slices.Clone(f.Commit.Signatures), i, i+1)
			changed, err := less.encode()
			if err != nil {
				r.Fatal(err)
			}
			if _, err := Verify(c.genesis, changed); err == nil {
				r.Fatalf("signature %d of %d is not needed", i+1, p.Signers)
			}
		}
	})
}

// TestBuildRefuses: Build hands out nothing that does not verify.
func TestBuildRefuses(t *testing.T) {
	c := newChain(t, 10, 10, 10, 10)
	for name, change := range map[string]func(*Parts){
		"no header":         func(p *Parts) { p.Header = nil },
		"no commit":         func(p *Parts) { p.Commit = nil },
		"index below":       func(p *Parts) { p.Index = -1 },
		"index above":       func(p *Parts) { p.Index = len(p.Txs) },
		"the root":          func(p *Parts) { p.Index = 0 },
		"no genesis":        func(p *Parts) { p.Genesis = nil },
		"other genesis":     func(p *Parts) { p.Genesis = newChain(t, 10, 10, 10, 11).genesis },
		"no bodies":         func(p *Parts) { p.Bodies = nil },
		"other body":        func(p *Parts) { p.Bodies[1] = []byte("x") },
		"short commit":      func(p *Parts) { p.Commit.Signatures = p.Commit.Signatures[:3] },
		"commit of another": func(p *Parts) { p.Commit.Round++ },
		"other block":       func(p *Parts) { p.Txs = p.Txs[1:]; p.Index-- },
	} {
		t.Run(name, func(t *testing.T) {
			parts := c.block(4).parts(c)
			change(&parts)
			if raw, err := Build(parts); err == nil || raw != nil {
				t.Errorf("%s", raw)
			}
		})
	}
}

// TestWho: an actor's own key, a key delegated to a node, and a key that the genesis file does not know.
func TestWho(t *testing.T) {
	c := newChain(t, 10, 10, 10, 10)
	c.client = c.node
	p, err := Verify(c.genesis, mustBuild(t, c, c.block(3)))
	if err != nil || p.Actor.ID != "OPR-001" || !p.Actor.Delegate {
		t.Error(p, err)
	}
	c = newChain(t, 10, 10, 10, 10)
	c.genesis = bytes.Replace(c.genesis, []byte(wire.PublicKeyOf(c.client).DID()), []byte("did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"), 1)
	p, err = Verify(c.genesis, mustBuild(t, c, c.block(3)))
	if err != nil || p.Actor != (Actor{Key: wire.PublicKeyOf(c.client).DID()}) {
		t.Error(p, err)
	}
	var b bytes.Buffer
	if err := p.WriteSummary(&b); err != nil || !strings.Contains(b.String(), "does not name") {
		t.Error(b.String(), err)
	}
}

// TestSummaryIsHarmless: what users and genesis files name cannot write to the reader's terminal or fake a line.
func TestSummaryIsHarmless(t *testing.T) {
	p := &Proof{ChainID: "a\x1b[2J", Actor: Actor{ID: "OPR\nsigned by 9 of 9", Organisation: "é\u202e"}, Steps: []Step{{Target: "/a\r\n", Method: "GET"}}}
	var b bytes.Buffer
	if err := p.WriteSummary(&b); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\r\u202e") || strings.Count(b.String(), "signed by") != 2 || strings.Contains(b.String(), "\nsigned by 9") {
		t.Errorf("%q", b.String())
	}
}

// TestGenesisFiles: a genesis file that cannot be trusted to mean one thing is refused, and none makes the reader panic.
func TestGenesisFiles(t *testing.T) {
	c := newChain(t, 10, 10, 10, 10)
	raw := mustBuild(t, c, c.block(3))
	text := string(c.genesis)
	var document struct {
		Validators []json.RawMessage `json:"validators"`
	}
	if err := json.Unmarshal(c.genesis, &document); err != nil {
		t.Fatal(err)
	}
	key := wire.PublicKeyOf(c.client).DID()
	for name, bad := range map[string]string{
		"empty":            "",
		"no object":        "[]",
		"null":             "null",
		"no validators":    `{"genesis_time":"2026-01-01T00:00:00Z","chain_id":"tandem-example","initial_height":"1","app_hash":""}`,
		"validator null":   strings.Replace(text, `"pub_key": {`, `"pub_key": null, "x": {`, 1),
		"power 0":          strings.Replace(text, `"power": "10"`, `"power": "0"`, 1),
		"power negative":   strings.Replace(text, `"power": "10"`, `"power": "-1"`, 1),
		"power overflow":   strings.Replace(text, `"power": "10"`, `"power": "9223372036854775807"`, 4),
		"validator twice":  strings.Replace(text, `"validators": [`, `"validators": [`+string(document.Validators[0])+`,`, 1),
		"one power more":   strings.Replace(text, `"power": "10"`, `"power": "11"`, 1),
		"other chain":      strings.Replace(text, testChain, "tandem-other", 1),
		"other curve":      strings.Replace(text, "tendermint/PubKeyEd25519", "tendermint/PubKeySecp256k1", 1),
		"weak actor key":   strings.Replace(text, key, wire.PublicKey{1}.DID(), 1),
		"actor key twice":  strings.Replace(text, `"`+key+`"`, `"`+key+`","`+key+`"`, 1),
		"actor key no did": strings.Replace(text, key, "key-1", 1),
	} {
		t.Run(name, func(t *testing.T) {
			if bad == text {
				t.Fatal("not changed")
			}
			if p, err := Verify([]byte(bad), raw); err == nil {
				t.Errorf("verifies: %+v", p)
			}
		})
	}
}

// FuzzVerify: no receipt and no genesis file makes Verify panic, and only the receipt that was built verifies.
func FuzzVerify(f *testing.F) {
	c := newChain(f, 10, 10, 10, 10)
	raw := mustBuild(f, c, c.block(3))
	f.Add(raw, true)
	f.Add(c.genesis, false)
	f.Add([]byte(`{"format":"tandem receipt 1","header":{},"commit":{"signatures":[]},"path":[],"transaction":"","bodies":[]}`), true)
	f.Add([]byte(`{"validators":[{"pub_key":{"type":"tendermint/PubKeyEd25519","value":null}}]}`), false)
	f.Fuzz(func(t *testing.T, b []byte, isReceipt bool) {
		if !isReceipt {
			_, _ = Verify(b, raw)
			return
		}
		if _, err := Verify(c.genesis, b); err == nil && !bytes.Equal(b, raw) {
			t.Errorf("%s", b)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	c := newChain(b, 10, 10, 10, 10)
	raw := mustBuild(b, c, c.block(5))
	b.SetBytes(int64(len(raw)))
	for range b.N {
		if _, err := Verify(c.genesis, raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	c := newChain(b, 10, 10, 10, 10)
	block := c.block(100)
	for range b.N {
		mustBuild(b, c, block)
	}
}
