package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"tandem/internal/wire"
)

// Format is the first member of every evidence file; a new version of the format gets a new one.
const Format = "tandem evidence 1"

// MaxSize bounds an evidence file, in bytes: a session as large as one commit may be, and the whole of a state of MaxState
// bytes, in base64.
const MaxSize = 8 << 20

// MaxState bounds the whole state that an evidence file may hold, in bytes.
const MaxState = 4 << 20

// file is the evidence file. Its members stand in this order; docs/format/evidence.md describes them.
type file struct {
	Format   string    `json:"format"`
	Kind     Kind      `json:"kind"`
	Open     []byte    `json:"open"`     // the opening request, encoded
	Sequence uint64    `json:"sequence"` // 0 for what a node signed: the transactions say it
	Requests []request `json:"requests"`
	Answers  []answer  `json:"answers"`
}

// request is a client's signed request.
type request struct {
	Tag        string      `json:"tag"`
	Transcript wire.Digest `json:"transcript"` // that it signs over
	Request    []byte      `json:"request"`    // encoded
}

// answer is a step that a node has sealed.
type answer struct {
	Previous    wire.Digest `json:"previous"`    // transcript head before the step
	Transaction []byte      `json:"transaction"` // encoded
	Height      int64       `json:"height"`
	Created     int64       `json:"created"` // the seal's, seconds since 1970
	Signature   []byte      `json:"signature"`
}

// encode returns the only bytes of the file: JSON indented by two spaces and one newline at the end.
func (f *file) encode() ([]byte, error) { return encode(f) }

func encode(f any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(f); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// sort puts what was signed into its one order.
func (f *file) sort() {
	slices.SortFunc(f.Requests, compareRequests)
	slices.SortFunc(f.Answers, compareAnswers)
}

func compareRequests(a, b request) int {
	if c := bytes.Compare(a.Transcript[:], b.Transcript[:]); c != 0 {
		return c
	}
	return bytes.Compare(a.Request, b.Request)
}

func compareAnswers(a, b answer) int { return bytes.Compare(a.Transaction, b.Transaction) }

// kindOf reads the kind; whoever decodes the file as that kind checks the rest.
func kindOf(raw []byte) (Kind, error) {
	if len(raw) > MaxSize {
		return "", fmt.Errorf("%d bytes, more than %d", len(raw), MaxSize)
	}
	var f struct {
		Format string `json:"format"`
		Kind   Kind   `json:"kind"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return "", err
	}
	if f.Format != Format {
		return "", fmt.Errorf("the format is %.40q, not %q", f.Format, Format)
	}
	return f.Kind, nil
}

// decode reads what encode wrote, and only that: it encodes what it read and compares, so unknown and duplicate members, other
// orders, white space, escapes, letter case and number forms all fail. A missing member is for the caller to find.
func decode(raw []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	again, err := encode(into)
	if err == nil && !bytes.Equal(again, raw) {
		err = errors.New("not in canonical form")
	}
	return err
}

// decodeFile reads a file of the kinds that need no run.
func decodeFile(raw []byte) (*file, error) {
	var f file
	if err := decode(raw, &f); err != nil {
		return nil, err
	}
	if f.Format != Format {
		return nil, fmt.Errorf("the format is %.40q, not %q", f.Format, Format)
	}
	switch f.Kind {
	case TwoHistories, TwoRequests, TwoAnswers, ForgedRequest:
	default:
		return nil, fmt.Errorf("the kind %.40q is not known", f.Kind)
	}
	if f.Open == nil || f.Requests == nil || f.Answers == nil {
		return nil, errors.New("a member is missing")
	}
	if !slices.IsSortedFunc(f.Requests, compareRequests) || !slices.IsSortedFunc(f.Answers, compareAnswers) {
		return nil, errors.New("the signed parts are not in order")
	}
	return &f, nil
}

// genesis is what the reader trusts: the chain, and who was on it at the start.
type genesis struct {
	chainID string
	names   map[string]Culprit // by role and key
}

func readGenesis(raw []byte) (*genesis, error) {
	var text struct {
		ChainID  string `json:"chain_id"`
		AppState struct {
			Tandem struct {
				Actors []struct {
					ID           string   `json:"id"`
					Organisation string   `json:"organisation"`
					Keys         []string `json:"keys"`
					Delegates    []string `json:"delegates"`
				} `json:"actors"`
				Layer2 []struct {
					Key          string `json:"key"`
					Organisation string `json:"organisation"`
				} `json:"layer2"`
			} `json:"tandem"`
		} `json:"app_state"`
	}
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, err
	}
	if text.ChainID == "" {
		return nil, errors.New("it names no chain")
	}
	g := &genesis{chainID: text.ChainID, names: map[string]Culprit{}}
	for _, a := range text.AppState.Tandem.Actors {
		for _, key := range slices.Concat(a.Keys, a.Delegates) {
			g.names["client "+key] = Culprit{ID: a.ID, Organisation: a.Organisation}
		}
	}
	for _, n := range text.AppState.Tandem.Layer2 {
		g.names["layer-2 node "+n.Key] = Culprit{Organisation: n.Organisation}
	}
	return g, nil
}

// name fills in what the genesis file says about the culprit.
func (g *genesis) name(c *Culprit) {
	known := g.names[c.Role+" "+c.Key]
	c.ID, c.Organisation = known.ID, known.Organisation
}
