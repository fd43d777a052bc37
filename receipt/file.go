package receipt

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"tandem/internal/signedblock"
	"tandem/internal/wire"
)

// Format is the first member of every receipt file; a new version of the format gets a new one.
const Format = "tandem receipt 1"

// MaxSize bounds a receipt file, in bytes.
const MaxSize = 512 << 20

// file is the receipt file. Its members stand in this order; docs/format/receipt.md describes them.
type file struct {
	Format      string             `json:"format"`
	Header      signedblock.Header `json:"header"`
	Commit      signedblock.Commit `json:"commit"`
	Path        []turn             `json:"path"`
	Transaction []byte             `json:"transaction"`
	Bodies      [][]byte           `json:"bodies"`
}

// turn is one step up the block's Merkle tree: the sibling and the side it stands on. CometBFT's own proofs carry index and total instead,
// which are not bound by the root: a proof for 3 items may pass as one for 4.
type turn struct {
	Side string          `json:"side"` // "left" or "right"
	Hash signedblock.Hex `json:"hash"`
}

// encode returns the only bytes of the receipt: JSON indented by two spaces and one newline at the end.
func (f *file) encode() ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(f); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// decodeFile reads what encode wrote, and only that: it encodes what it read and compares, so unknown and duplicate members, other
// orders, white space, escapes, letter case and number forms all fail.
func decodeFile(raw []byte) (*file, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("%d bytes, more than %d", len(raw), MaxSize)
	}
	var f file
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return nil, err
	}
	if f.Format != Format {
		return nil, fmt.Errorf("the format is %.40q, not %q", f.Format, Format)
	}
	if f.Path == nil || f.Bodies == nil || f.Transaction == nil || f.Commit.Signatures == nil {
		return nil, errors.New("a member is missing")
	}
	for i, body := range f.Bodies {
		if body == nil { // null, where the empty body is ""
			return nil, fmt.Errorf("body %d is missing", i+1)
		}
	}
	again, err := f.encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, raw) {
		return nil, fmt.Errorf("not in canonical form, from byte %d", firstDifference(again, raw))
	}
	return &f, nil
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// maxPath bounds the path: a block of 4 MiB has far fewer than 2^32 transactions.
const maxPath = 32

// root folds the path: CometBFT's tree is RFC 6962's, SHA-256 with 0 before a leaf and 1 before two children, and a
// block's leaves are the hashes of its transactions.
func (f *file) root(transaction wire.Digest) ([]byte, error) {
	if len(f.Path) > maxPath {
		return nil, fmt.Errorf("%d turns, more than %d", len(f.Path), maxPath)
	}
	node := sha256.Sum256(append([]byte{0}, transaction[:]...))
	for i, t := range f.Path {
		if len(t.Hash) != sha256.Size {
			return nil, fmt.Errorf("turn %d has %d bytes of hash", i+1, len(t.Hash))
		}
		buf := append(make([]byte, 0, 1+2*sha256.Size), 1)
		switch t.Side {
		case "left":
			buf = append(append(buf, t.Hash...), node[:]...)
		case "right":
			buf = append(append(buf, node[:]...), t.Hash...)
		default:
			return nil, fmt.Errorf("turn %d has side %.20q", i+1, t.Side)
		}
		node = sha256.Sum256(buf)
	}
	return node[:], nil
}
