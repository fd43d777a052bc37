package state

import "sync"

// cacheNodes is how many trie nodes one generation of the page cache holds, about 100 bytes each: at most two
// generations of 26 MB. The whole trie of 100,000 keys fits, and the upper pages of any larger one.
const cacheNodes = 256 << 10

// pageCache keeps decoded pages, which are immutable. It has two generations: what is used moves into the young one;
// when that is full the old one is dropped and the young one grows old. So pages near the root, used all the time, stay.
// Pages that a commit replaces leave at once: only proofs of older heights may want them, and read them from disk.
type pageCache struct {
	mu         sync.Mutex // guards all below; never held during I/O
	young, old map[pageID]cachedPage
	nodes      int // in young
}

type cachedPage struct {
	root  *node
	nodes int
}

func (c *pageCache) get(id pageID) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.young[id]; ok {
		return p.root
	}
	p, ok := c.old[id]
	if !ok {
		return nil
	}
	delete(c.old, id)
	c.insert(id, p)
	return p.root
}

// drop forgets pages.
func (c *pageCache) drop(ids []pageID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		if p, there := c.young[id]; there {
			c.nodes -= p.nodes
			delete(c.young, id)
		}
		delete(c.old, id)
	}
}

func (c *pageCache) put(id pageID, root *node) {
	p := cachedPage{root, countNodes(root)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.insert(id, p)
}

// insert requires mu.
func (c *pageCache) insert(id pageID, p cachedPage) {
	if c.young == nil || c.nodes+p.nodes > cacheNodes {
		c.old, c.young, c.nodes = c.young, map[pageID]cachedPage{}, 0
	}
	if _, there := c.young[id]; !there {
		c.nodes += p.nodes
	}
	c.young[id] = p
}

// countNodes counts the nodes of one page.
func countNodes(n *node) int {
	if n == nil {
		return 0
	}
	if n.kind != inner {
		return 1
	}
	return 1 + countNodes(n.left) + countNodes(n.right)
}
