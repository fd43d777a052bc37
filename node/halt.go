package node

import "fmt"

// ExitHalt is the exit code of a process whose node has halted.
const ExitHalt = 70

// HaltError says that the node has stopped because its own state is in doubt: the disk failed or contradicts itself, or
// the consensus engine has failed. Going on could fork this node from the others or make it vote twice, so nothing is
// tried again: an operator has to look. A process ends with [ExitHalt] on it.
type HaltError struct{ Cause error }

func (e *HaltError) Error() string {
	return fmt.Sprintf("node halted, its own state is in doubt: %v", e.Cause)
}

func (e *HaltError) Unwrap() error { return e.Cause }
