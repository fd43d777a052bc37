package client

import (
	"sync"

	"tandem/internal/refusal"
)

// heights is what the client was told about how far the ledger is: commits are in these blocks. Requests ask for a state at
// least as new (Tandem-Min-Height), so that a read shows what was written.
//
// A lone liar could tell of a block that will not exist for years, and no honest node would ever be new enough. So a height that
// one node alone has told is asked for only as long as no other node denies it: when all others that the client can reach, one
// at least, have answered that they have not got so far, after waiting for it, it is forgotten. What two nodes have told stays.
type heights struct {
	mu    sync.Mutex // guards what follows
	sure  int64      // told by two nodes
	alone int64      // told by one node, higher than sure; 0 if there is none
	by    string     // that node's URL
}

// least is the height that requests ask for.
func (h *heights) least() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return max(h.sure, h.alone)
}

// saw takes in a height that the node at url has told.
func (h *heights) saw(height int64, url string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.alone > 0 && h.by != url {
		h.sure = max(h.sure, min(height, h.alone))
	}
	if height > h.alone {
		h.alone, h.by = height, url
	}
	if h.alone <= h.sure {
		h.alone, h.by = 0, ""
	}
}

// denied forgets the height that one node alone has told, if all the others deny it, and returns what is asked for from here
// on.
func (h *heights) denied(nodes []*asked) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	others := 0
	for _, n := range nodes {
		switch {
		case n.url == h.by:
		case n.short:
			others++
		case !n.failed:
			return max(h.sure, h.alone)
		}
	}
	if others > 0 {
		h.alone, h.by = 0, ""
	}
	return max(h.sure, h.alone)
}

// short notes that a node has not got as far as the call asks, and no longer asks for that if it was one node's word alone.
func (r *round) short(n *asked, p *Problem) {
	if p.Code != string(refusal.HeightNotReached) || r.what.least == 0 {
		return
	}
	n.short = true
	if !r.what.seen {
		return
	}
	if least := max(r.what.floor, r.c.seen.denied(r.nodes)); least < r.what.least {
		r.what.least = least
		for _, n := range r.nodes {
			n.short = false
		}
	}
}
