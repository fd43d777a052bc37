package layer2

import (
	"errors"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// prewritten is a file system on which Pebble's log files are full of zeros before the first record is written to them. The fsync of
// a file whose blocks are there already, and whose size does not change, has no metadata to write: it takes two thirds of the time,
// and every step waits for one. Pebble does the same with the log files that it has done with and uses again, and so reads a log to
// the first record that is not its own, be that zeros or the rest of an older log; but it has none of those before it has written
// many steps, nor after a restart.
//
// A crash while a file is being filled leaves a log without records, like a crash straight after it was created.
type prewritten struct {
	vfs.FS
	size int // of a new log
}

// logSize is how much of a new log is written in advance: two thousand steps and more, in a few milliseconds.
const logSize = 4 << 20

// Create implements vfs.FS.
func (p prewritten) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := p.FS.Create(name, category)
	if err != nil || !strings.HasSuffix(name, ".log") {
		return f, err
	}
	zeros := make([]byte, min(p.size, 1<<20))
	for at := 0; at < p.size && err == nil; at += len(zeros) {
		_, err = f.WriteAt(zeros, int64(at)) // Write's own offset stays at the beginning
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Unwrap implements vfs.FS.
func (p prewritten) Unwrap() vfs.FS { return p.FS }
