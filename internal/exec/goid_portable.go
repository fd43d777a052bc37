//go:build !amd64 && !arm64

package exec

func current() uintptr { return currentPortable() }
