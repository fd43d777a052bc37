//go:build !unix

package bench

import (
	"errors"
	"os/exec"
)

// servant: a server that is reachable through a Unix socket only needs a system that has them.
func servant(string) (as func(*exec.Cmd), err error) {
	return nil, errors.New("the bench starts it on Unix systems only")
}
