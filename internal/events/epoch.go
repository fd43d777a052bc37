package events

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// NextEpoch returns the epoch of this run of a node and remembers it in the file at path, so that the next run gets a
// higher one: the clock in milliseconds, or one more than last time if the clock was put back. If the file is lost with
// the disk the clock alone decides; an id of an earlier run may then be taken for a gap, never for a place in this run.
//
// A crash before the rename leaves the old file, and nobody has seen the new epoch yet. A file that cannot be read as a
// number counts as none: nothing but the order of ids depends on it.
func NextEpoch(path string, now time.Time) (uint64, error) {
	epoch := uint64(max(now.UnixMilli(), 1))
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("events: read the last epoch: %w", err)
	}
	if last, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 63); err == nil && last >= epoch {
		epoch = last + 1
	}
	if err := replace(path, strconv.AppendUint(nil, epoch, 10)); err != nil {
		return 0, fmt.Errorf("events: remember the epoch: %w", err)
	}
	return epoch, nil
}

// replace writes a file so that it holds the old or the new text, whatever happens.
func replace(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
