//go:build !linux

package bench

import "syscall"

// apart: only Linux ends a process with its parent; elsewhere nodes share the terminal's group and end with Ctrl-C.
func apart() *syscall.SysProcAttr { return nil }
