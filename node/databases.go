package node

import (
	"sync"

	dbm "github.com/cometbft/cometbft-db"
	cometconfig "github.com/cometbft/cometbft/config"
)

// databases opens the engine's databases and remembers them, so that they can be closed when the engine's constructor
// fails half way: within one process a second try would otherwise find them locked.
type databases struct {
	mu   sync.Mutex
	open []dbm.DB // guarded by mu
}

func (d *databases) provide(ctx *cometconfig.DBContext) (dbm.DB, error) {
	db, err := cometconfig.DefaultDBProvider(ctx)
	if err != nil {
		return nil, err
	}
	db = &lateDB{DB: db}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = append(d.open, db)
	return db, nil
}

func (d *databases) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, db := range d.open {
		_ = db.Close() // what was written with sync is on disk; nothing else matters any more
	}
	d.open = nil
}

// lateDB is a database that readers may come too late to: they find nothing. CometBFT v0.40 closes its databases while
// goroutines that gossip to peers still sleep; when such a one wakes and reads, the block store panics on the error of a
// closed database and takes the whole process along. Finding nothing is an answer those goroutines know.
//
// Writes to a closed database fail as ever: nobody may believe that something was stored.
type lateDB struct {
	dbm.DB
	mu     sync.RWMutex // held for reading during each read
	closed bool         // guarded by mu
}

func (d *lateDB) Get(key []byte) ([]byte, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return nil, nil
	}
	return d.DB.Get(key)
}

func (d *lateDB) Has(key []byte) (bool, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return false, nil
	}
	return d.DB.Has(key)
}

// Close may be called more than once.
func (d *lateDB) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	return d.DB.Close()
}
