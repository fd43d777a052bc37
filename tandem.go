// Package tandem makes a plain net/http service Byzantine fault tolerant without making its users wait.
//
// A service author writes ordinary handlers against this package and nothing else. The same handlers run twice: at
// once on Layer 2, which answers and keeps the steps of a user's session together, and again on every validator of
// Layer 1 when the session is committed. Layer 1 commits a session only if the replay gives, byte for byte, the
// responses the user saw. So a handler must be a function of what it is given: the request (method, path, query,
// content type, body), the State, and what this package reads from the context. No clock, no randomness, no
// goroutines, no map order, no environment.
package tandem

import (
	"encoding/json"
	"iter"
	"time"
)

// Service is what all nodes of a network run: a name, a version and a service registry.
type Service struct {
	// Name and Version identify the code; both are part of the fingerprint.
	Name, Version string
	// Registry maps method and path pattern to handlers.
	Registry *Registry
	// Genesis writes the service's first state from the genesis file's "service" member (raw JSON, may be nil).
	// It runs once, on every node, in the first block. It may be nil.
	Genesis func(st State, seed json.RawMessage) error
}

// State is the world a handler may read and change: an ordered map of bytes. Changes are visible to the handler at
// once and to others when the step is recorded. It belongs to the goroutine that runs the handler: use from another
// goroutine fails the step. Keys are 1 to 1,024 bytes, values at most 1 MiB; more fails the step with a 500.
type State interface {
	// Get returns the value of key. The caller must not change it.
	Get(key []byte) (value []byte, ok bool)
	// Set stores a copy of value under key.
	Set(key, value []byte)
	// Delete removes key; a key that is not there is no error.
	Delete(key []byte)
	// Scan yields the entries with start <= key < end in key order; a nil end means to the last key. The handler may
	// write while it scans; the scan shows the state as it was when it started.
	Scan(start, end []byte) iter.Seq2[[]byte, []byte]
}

// Actor is the verified signer of a request.
type Actor struct {
	// ID names the actor on the ledger, such as "OPR-001". Empty for an unsigned read of committed state.
	ID string
	// Organisation is the organisation that answers for the actor.
	Organisation string
	// Roles are sorted.
	Roles []string
}

// Has reports whether the actor holds the role.
func (a Actor) Has(role string) bool {
	for _, r := range a.Roles {
		if r == role {
			return true
		}
	}
	return false
}

// Position says where in which session a step stands.
type Position struct {
	// Session is the session id, 26 characters of base32; empty outside a session.
	Session string
	// Sequence counts a session's steps from 1; 0 outside a session.
	Sequence uint64
}

// Step is everything a handler can learn beside its request. The framework puts it into the request's context; a
// service's own tests may do so too.
type Step struct {
	State    State
	Now      time.Time
	Actor    Actor
	Position Position

	ids uint64 // calls of NewID so far; atomic, because a wrong handler may call it from several goroutines
}
