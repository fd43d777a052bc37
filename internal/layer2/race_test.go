//go:build race

package layer2

const raceEnabled = true
