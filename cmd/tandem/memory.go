package main

import (
	"os"
	"runtime/debug"
)

// heapGrowth is by how many percent the heap may grow between two garbage collections. What a node keeps is some ten megabytes,
// what it throws away for one session about one; with Go's 100 percent it spends a fifth of its time collecting (docs/benchmarks.md).
const heapGrowth = 400

// useMemory lets this process use more memory and less time, unless its operator has set GOGC.
func useMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
}
