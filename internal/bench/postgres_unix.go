//go:build unix

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// servant returns what makes a command run as somebody who may run PostgreSQL, and gives them dir. A signal from the
// terminal does not reach the command: it is the bench that stops it, after what uses it.
func servant(dir string) (as func(*exec.Cmd), err error) {
	var credential *syscall.Credential
	if os.Geteuid() == 0 {
		who, err := user.Lookup("postgres")
		if err != nil {
			who, err = user.Lookup("nobody")
		}
		if err != nil {
			return nil, fmt.Errorf("it does not run as root, and there is neither a user postgres nor nobody to run it as: %w", err)
		}
		uid, err := strconv.ParseUint(who.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(who.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			return nil, err
		}
		credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return func(cmd *exec.Cmd) {
		cmd.SysProcAttr = apart()
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		}
		cmd.SysProcAttr.Credential = credential
		cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+dir)
	}, nil
}
