package node

import (
	"os"
	"syscall"
)

// syncData waits until what was written to f, whose size has not changed, is on disk.
func syncData(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return err
		}
	}
}
