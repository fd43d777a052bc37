package layer1

import (
	"container/list"
	"crypto/sha256"
	"sync"

	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// VerifiedBytes is how many bytes of transactions a Verified remembers.
const VerifiedBytes = 64 << 20

// Verified remembers transactions whose signatures were verified, by the hash of their bytes, so that a node does it
// once although it meets a transaction in CheckTx, in rechecks, in proposals and in the block. What it remembers depends
// on the bytes alone, so it changes no result. The least recently used are forgotten first. It is safe for concurrent
// use; nil remembers nothing.
type Verified struct {
	mu     sync.Mutex
	limit  int
	size   int                           // bytes of the transactions held; guarded by mu
	byHash map[wire.Digest]*list.Element // of *entry; guarded by mu
	recent *list.List                    // most recent first; guarded by mu
}

// NewVerified returns a memory for about limit bytes of transactions.
func NewVerified(limit int) *Verified {
	return &Verified{limit: limit, byHash: map[wire.Digest]*list.Element{}, recent: list.New()}
}

// entry is a decoded transaction. It is immutable once it is in a Verified.
type entry struct {
	hash   wire.Digest // SHA-256 of the bytes: CometBFT's transaction hash
	size   int
	commit *wire.SessionCommit
	body   wire.OpenBody
	id     wire.SessionID

	verified bool // proven and err are known
	proven   session.Proven
	err      error
}

// open decodes a transaction, or finds it decoded. Refusals: transaction-too-large, unknown-kind, and those of
// wire.DecodeSessionCommit and wire.ParseOpenBody.
func (v *Verified) open(tx []byte) (*entry, error) {
	if len(tx) > wire.MaxTransaction {
		return nil, refusal.New(refusal.TransactionTooLarge, "the transaction has %d bytes, at most %d are allowed", len(tx), wire.MaxTransaction)
	}
	hash := wire.Digest(sha256.Sum256(tx))
	if e := v.find(hash); e != nil {
		return e, nil
	}
	kind, err := wire.Kind(tx)
	if err != nil || kind != wire.KindSession {
		return nil, refusal.New(refusal.UnknownKind, "a transaction must be a session commit")
	}
	c, err := wire.DecodeSessionCommit(tx)
	if err != nil {
		return nil, err
	}
	id := httpsig.SessionID(&c.Open)
	body, err := wire.ParseOpenBody(c.Open.Body)
	if err != nil {
		if r, ok := refusal.As(err); ok {
			return nil, r.With("session", id.String()).With("field", "open.body")
		}
		return nil, err
	}
	return &entry{hash: hash, size: len(tx), commit: &c, body: body, id: id}, nil
}

// verify is session.Verify, once per transaction.
func (v *Verified) verify(e *entry) (session.Proven, error) {
	if e.verified {
		return e.proven, e.err
	}
	known := *e // e may be seen by nobody else yet, but is not changed all the same
	known.verified = true
	known.proven, known.err = session.Verify(e.commit)
	v.keep(&known)
	return known.proven, known.err
}

func (v *Verified) find(hash wire.Digest) *entry {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	at, ok := v.byHash[hash]
	if !ok {
		return nil
	}
	v.recent.MoveToFront(at)
	return at.Value.(*entry)
}

func (v *Verified) keep(e *entry) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.byHash[e.hash]; ok {
		return // another goroutine was faster with the same
	}
	v.byHash[e.hash] = v.recent.PushFront(e)
	v.size += e.size
	for v.size > v.limit && v.recent.Len() > 1 {
		last := v.recent.Back()
		old := v.recent.Remove(last).(*entry)
		delete(v.byHash, old.hash)
		v.size -= old.size
	}
}
