package tandem

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"sync/atomic"
	"time"
)

// stepKey is the context key of the step.
type stepKey struct{}

// WithStep returns a context that carries the step. The framework does this for each run of a handler; a service's own
// tests do it to call handlers with net/http/httptest alone.
func WithStep(ctx context.Context, s *Step) context.Context {
	return context.WithValue(ctx, stepKey{}, s)
}

// StateOf returns the state that the step may read and change. Like Now, ActorOf, SessionOf and NewID it panics if the
// context carries no step.
func StateOf(ctx context.Context) State {
	s := stepOf(ctx, "StateOf")
	if s.State == nil {
		panic("tandem.StateOf: the step has no State; in a test set Step.State, for instance to NewMapState()")
	}
	return s.State
}

// Now returns the step's agreed time, in UTC with milliseconds: the same on all nodes, however often the step is run.
// Handlers use it instead of time.Now.
func Now(ctx context.Context) time.Time {
	return stepOf(ctx, "Now").Now
}

// ActorOf returns the verified signer of the request.
func ActorOf(ctx context.Context) Actor {
	return stepOf(ctx, "ActorOf").Actor
}

// SessionOf returns the step's session and its place in it.
func SessionOf(ctx context.Context) Position {
	return stepOf(ctx, "SessionOf").Position
}

// ids is the alphabet of NewID: base32 (RFC 4648), lower case.
var ids = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID returns a new identifier: the prefix and 26 characters of a-z2-7 (128 bits) derived from the session, the
// step's sequence and the number of calls before. It differs for each call and is the same on every node and in every
// replay of the step. It is not secret: who knows the session id can compute it.
func NewID(ctx context.Context, prefix string) string {
	s := stepOf(ctx, "NewID")
	n := atomic.AddUint64(&s.ids, 1)
	b := append([]byte(nil), "tandem id v1\x00"...)
	b = binary.BigEndian.AppendUint64(b, s.Position.Sequence)
	b = binary.BigEndian.AppendUint64(b, n)
	b = append(b, s.Position.Session...) // last, so that no length is needed
	sum := sha256.Sum256(b)
	return prefix + ids.EncodeToString(sum[:16])
}

func stepOf(ctx context.Context, caller string) *Step {
	s, _ := ctx.Value(stepKey{}).(*Step)
	if s == nil {
		panic("tandem." + caller + ": this context carries no step. Inside a handler pass r.Context(); " +
			"in a test make one with tandem.WithStep(ctx, &tandem.Step{State: tandem.NewMapState()})")
	}
	return s
}
