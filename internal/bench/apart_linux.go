package bench

import "syscall"

// apart gives a node's process a group of its own, so that Ctrl-C at the terminal reaches only this program, which then ends
// the nodes itself; and has the kernel end the node if this program is killed. (The kernel looks at the thread that started the node; Go ends a thread
// only with a goroutine that is locked to it, and nothing here locks one.)
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
