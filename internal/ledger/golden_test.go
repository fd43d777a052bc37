package ledger

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tandem/internal/state"
	"tandem/internal/wire"
)

var update = flag.Bool("update", false, "rewrite testdata/records.txt")

// The bytes of every record, as a file: state roots depend on them, so they must never change.
func TestGoldenRecords(t *testing.T) {
	fill := func(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }
	k := wire.PublicKey(fill(0x11, 32))
	node := wire.PublicKey(fill(0x22, 32))
	id, old := wire.SessionID(fill(0x33, 16)), wire.SessionID(fill(0x44, 16))
	o := state.NewOverlay(records{})
	write(o, []byte(parametersKey), parametersRecord{
		ChainID: "tandem-1", ServiceName: "supplychain", ServiceVersion: "1", Fingerprint: wire.Digest(fill(0xaa, 32)),
		MaxSessionMillis: 3600000, MaxSteps: 1024, StepOperations: 100000, StepBytes: 67108864,
	})
	register(o, "OPR-001", "Warehouse Ltd", []string{"operator", "admin"}, []wire.PublicKey{k}, []wire.PublicKey{node})
	write(o, layer2Key(node), nodeRecord{Organisation: "Warehouse Ltd", Address: "10.0.0.1:9000", URL: "https://l2.warehouse.example"})
	Settle(o, id, Settled{
		Height: 42, Actor: "OPR-001", Transaction: wire.Digest(fill(0xbb, 32)), Head: wire.Digest(fill(0xcc, 32)), Steps: 6, Time: 1700000000123,
		Checkpoints: 2, StepTime: 1700000000007, Final: true,
	}, &old)
	var b strings.Builder
	for _, c := range o.Changes() {
		fmt.Fprintf(&b, "%x %x\n", c.Key, c.Value)
	}
	file := filepath.Join("testdata", "records.txt")
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("records differ from %s:\n%s", file, b.String())
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "format", "ledger.md"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(want)) {
		if _, value, _ := strings.Cut(strings.TrimSpace(line), " "); !bytes.Contains(page, []byte(value)) {
			t.Errorf("docs/format/ledger.md does not show %s", value)
		}
	}
	for _, m := range regexp.MustCompile("`([0-9a-f]{8,})`").FindAllStringSubmatch(string(page), -1) {
		if _, err := hex.DecodeString(m[1]); err != nil || !strings.Contains(string(want), m[1]) {
			t.Errorf("docs/format/ledger.md shows %s, which is no record", m[1])
		}
	}
}

// The example in docs/format/genesis.md is a genesis.
func TestGenesisPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "format", "genesis.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```json\n(.*?)```").FindSubmatch(page)
	if m == nil {
		t.Fatal("no example")
	}
	g, err := ParseGenesis(m[1])
	if err != nil {
		t.Fatalf("the example is refused: %v", err)
	}
	if len(g.Tandem.Actors) == 0 || len(g.Tandem.Layer2) == 0 || len(g.Service) == 0 {
		t.Errorf("the example shows too little: %+v", g)
	}
	b, err := g.JSON()
	if err != nil || string(b) != string(m[1]) {
		t.Errorf("the example is not as the program writes it:\n%s", b)
	}
}
