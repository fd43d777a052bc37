package exec

import "runtime"

// currentPortable is current for machines without an assembler version: the number in "goroutine 123 [running]:".
func currentPortable() uintptr {
	var buf [40]byte
	line := buf[:runtime.Stack(buf[:], false)]
	var id uintptr
	for _, c := range line[min(len(line), len("goroutine ")):] {
		if c < '0' || c > '9' {
			break
		}
		id = id*10 + uintptr(c-'0')
	}
	return id
}
