//go:build amd64 || arm64

package exec

// current identifies the goroutine that calls it: two calls give the same number if and only if they come from the
// same goroutine, for as long as that goroutine lives. The number means nothing else and is never shown.
//
// It is the address of the runtime's record of the goroutine, which does not move. Taken from the thread-local register
// it costs about 1 ns; the portable way, to read the number that runtime.Stack prints, costs about 1 us, more than
// most state operations (BenchmarkCurrent, BenchmarkCurrentPortable).
func current() uintptr
