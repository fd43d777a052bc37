package ledger

import (
	"bytes"
	"iter"
	"net/http"
	"slices"

	"tandem"
	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// MaxLayer2 bounds the Layer 2 nodes that are listed at the same time; removed ones do not count.
const MaxLayer2 = 32

// NodeView is how the routes show an entry of the Layer 2 list.
type NodeView struct {
	Key          string `json:"key"` // did:key
	Organisation string `json:"organisation"`
	Address      string `json:"address"`
	URL          string `json:"url"`
	Removed      bool   `json:"removed"`
}

// NodeList is the Layer 2 list, sorted by key, removed entries included.
type NodeList struct {
	Nodes []NodeView `json:"nodes"`
}

// layer2Routes adds the routes of the Layer 2 list; see [Routes].
//
// The entry of a removed node stays: what it originated before must still be understood, and its key can only come back
// under the organisation that answered for it before. A listed key is entered again to change its address.
func layer2Routes(reg *tandem.Registry) {
	reg.Handle("POST /tandem/v1/layer2", route(postNode))
	reg.Handle("GET /tandem/v1/layer2", route(listNodes))
	reg.Handle("DELETE /tandem/v1/layer2/{did}", route(removeNode))
}

// Originated checks that key is or was on the Layer 2 list: a step that it has originated is good, also after it was
// removed. Replay does not trust the originator for anything but the choice of the step's time, which the block bounds,
// so a removal need not cost users the sessions they have open; that the node originates nothing new is for [Originator].
// Refusal: originator-unknown.
func Originated(r Reader, key wire.PublicKey) error {
	_, ok, err := NodeOf(r, key)
	if err == nil && !ok {
		err = refusal.New(refusal.OriginatorUnknown, "%s was never on the list of Layer 2 nodes", key.DID()).With("originator", key.DID())
	}
	return err
}

// NodeOf reads an entry of the Layer 2 list; removed ones are found too.
func NodeOf(r Reader, key wire.PublicKey) (Node, bool, error) {
	var rec nodeRecord
	ok, err := read(r, layer2Key(key), &rec)
	if err != nil || !ok {
		return Node{}, false, err
	}
	return Node{Key: key, Organisation: rec.Organisation, Address: rec.Address, URL: rec.URL, Removed: rec.Removed}, true, nil
}

func postNode(c call) (int, any, error) {
	if err := c.admin(); err != nil {
		return 0, nil, err
	}
	var in struct {
		Key          string `json:"key"`
		Organisation string `json:"organisation"`
		Address      string `json:"address"`
		URL          string `json:"url"`
	}
	if err := c.body(&in); err != nil {
		return 0, nil, err
	}
	key, err := wire.ParseDID(in.Key)
	if err != nil {
		return 0, nil, keyRefusal(in.Key, err)
	}
	if err := checkNode(in.Organisation, in.Address, in.URL); err != nil {
		return 0, nil, err
	}
	old, known, err := NodeOf(c.st, key)
	if err != nil {
		return 0, nil, err
	}
	if known && old.Organisation != in.Organisation {
		return 0, nil, refusal.New(refusal.KeyTaken, "the key %s is or was %q's, and stays so", in.Key, old.Organisation).With("key", in.Key)
	}
	if !known || old.Removed {
		listed, err := c.listed()
		if err != nil {
			return 0, nil, err
		}
		if listed >= MaxLayer2 {
			return 0, nil, refusal.New(refusal.BadRequest, "at most %d Layer 2 nodes are listed at the same time", MaxLayer2)
		}
	}
	write(c.st, layer2Key(key), nodeRecord{Organisation: in.Organisation, Address: in.Address, URL: in.URL})
	status := http.StatusCreated
	if known && !old.Removed {
		status = http.StatusOK // the entry was there; its address may have changed
	}
	return status, viewOf(Node{Key: key, Organisation: in.Organisation, Address: in.Address, URL: in.URL}), nil
}

func listNodes(c call) (int, any, error) {
	nodes, err := Layer2(c.st)
	if err != nil {
		return 0, nil, err
	}
	list := NodeList{Nodes: []NodeView{}}
	for _, n := range nodes {
		list.Nodes = append(list.Nodes, viewOf(n))
	}
	return http.StatusOK, list, nil
}

func removeNode(c call) (int, any, error) {
	if err := c.admin(); err != nil {
		return 0, nil, err
	}
	did := c.r.PathValue("did")
	key, err := wire.ParseDID(did)
	if err != nil {
		return 0, nil, keyRefusal(did, err)
	}
	n, ok, err := NodeOf(c.st, key)
	if err != nil {
		return 0, nil, err
	}
	if !ok {
		return 0, nil, refusal.New(refusal.NotFound, "%s is not on the list of Layer 2 nodes", key.DID())
	}
	if !n.Removed {
		listed, err := c.listed()
		if err != nil {
			return 0, nil, err
		}
		if listed == 1 {
			return 0, nil, refusal.New(refusal.Forbidden, "%s is the last Layer 2 node: without one nobody could add another", key.DID())
		}
		n.Removed = true
		write(c.st, layer2Key(key), nodeRecord{Organisation: n.Organisation, Address: n.Address, URL: n.URL, Removed: true})
	}
	return http.StatusOK, viewOf(n), nil
}

// listed counts the nodes that are on the list now.
func (c call) listed() (int, error) {
	nodes, err := Layer2(c.st)
	if err != nil {
		return 0, err
	}
	nodes = slices.DeleteFunc(nodes, func(n Node) bool { return n.Removed })
	return len(nodes), nil
}

// checkNode refuses what must not stand in an entry: bad-request.
func checkNode(organisation, address, url string) error {
	if organisation == "" {
		return refusal.New(refusal.BadRequest, "a Layer 2 node needs an organisation that answers for it")
	}
	if err := checkText("organisation", organisation); err != nil {
		return err
	}
	if err := checkText("address", address); err != nil {
		return err
	}
	return checkText("url", url)
}

func viewOf(n Node) NodeView {
	return NodeView{Key: n.Key.DID(), Organisation: n.Organisation, Address: n.Address, URL: n.URL, Removed: n.Removed}
}

// Scan implements state.Reader inside a handler.
func (f frameworkState) Scan(start, end []byte) iter.Seq2[state.Entry, error] {
	return func(yield func(state.Entry, error) bool) {
		for k, v := range f.st.Scan(bytes.TrimPrefix(start, []byte(Prefix)), bytes.TrimPrefix(end, []byte(Prefix))) {
			if !yield(state.Entry{Key: append([]byte(Prefix), k...), Value: v}, nil) {
				return
			}
		}
	}
}
