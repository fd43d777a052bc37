package bench

import "syscall"

// apart gives a node's process a group of its own, so that Ctrl-C at the terminal reaches only this program, which then ends
// the nodes itself; and has the kernel end the node if this program is killed.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
