package node

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"tandem/internal/events"
	"tandem/internal/layer1"
	"tandem/internal/layer2"
)

// epochFile remembers the newest epoch of event ids, so that ids rise over restarts. Without it the clock decides.
const epochFile = "events-epoch"

// openEvents makes the log of what happens at this node. Its ids begin with the first 8 digits of the node's id.
func (n *Node) openEvents() (*events.Log, error) {
	key, err := n.cfg.loadNodeKey()
	if err != nil {
		return nil, err
	}
	epoch, err := events.NextEpoch(n.cfg.path(epochFile), time.Now())
	if err != nil {
		return nil, err
	}
	return events.New(events.Options{Node: string(key.ID())[:8], Epoch: epoch}), nil
}

// stateNotice is the data of an event of kind node.
type stateNotice struct {
	Node    string   `json:"node"` // its name
	State   string   `json:"state"`
	Reasons []string `json:"reasons,omitempty"` // why it is not ready
	Height  int64    `json:"height"`
}

func (n *Node) tell(log *events.Log, state string) {
	h := n.progress.health()
	notice := stateNotice{Node: n.cfg.Name, State: state, Height: h.Height}
	if state != "ready" {
		notice.Reasons = h.Reasons
	}
	data, err := json.Marshal(notice)
	if err != nil {
		return // strings and a number always encode
	}
	log.Publish(events.Event{Kind: events.Node, Data: data})
}

// watchEvery is how often the watch goroutine looks at the node's health.
const watchEvery = 200 * time.Millisecond

// watch tells of this node's states: that it starts, and each time that it becomes ready or is not ready any more, or for
// other reasons. tellStop says that it stops.
func (n *Node) watch(ctx context.Context, log *events.Log) error {
	n.tell(log, "starting")
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	was := "starting"
	var reasons []string
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		h := n.progress.health()
		is := "not-ready"
		if h.Ready {
			is = "ready"
		} else if was == "starting" {
			continue
		}
		if is != was || !h.Ready && len(h.Reasons) != len(reasons) {
			n.tell(log, is)
		}
		was, reasons = is, slices.Clone(h.Reasons)
	}
}

// tellStop is the last event: the streams end after it.
func (n *Node) tellStop(log *events.Log) {
	n.tell(log, "stopping")
	log.Close()
}

// tellBlock tells of a block before the sessions that it settles hear of it.
func (p *parts) tellBlock(b layer1.Block) { p.events.Publish(layer2.BlockEvent(forLayer2(b))) }
