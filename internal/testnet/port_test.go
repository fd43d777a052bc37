package testnet

import (
	"errors"
	"testing"
)

// A port of our choosing is worth another try, the one that the user named is not.
func TestPortTaken(t *testing.T) {
	ours := errors.New("testnet: node 3: node: consensus: listen tcp 127.0.0.1:28798: bind: address already in use")
	for told, want := range map[string]bool{"": true, "127.0.0.1:8080": true, "127.0.0.1:28798": false} {
		if got := portTaken(ours, told); got != want {
			t.Errorf("told to take %q: %v, want %v", told, got, want)
		}
	}
	if portTaken(errors.New("disk full"), "") {
		t.Error("any error is taken for a port in use")
	}
}
