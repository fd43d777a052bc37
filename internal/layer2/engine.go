// Package layer2 is the session engine: it owns the sessions of a Layer 2 node and drives session (the rules), exec (the
// handlers), the log (the disk) and the ledger (Layer 1).
package layer2

import (
	"context"
	"net/http"

	"tandem/internal/httpsig"
	"tandem/internal/wire"
)

// Engine owns the sessions of this node. All methods are safe for concurrent use; errors that a client should see are
// *refusal.Refusal.
type Engine struct {
	o Options
}

// Open opens (or creates) the log in dir, recovers every session that has not ended by running its steps again on the
// newest state, and starts the engine. A damaged log is an error that says which record of which session, and what to do.
func Open(dir string, o Options) (*Engine, error) { panic("unfinished") }

// Run blocks until ctx is done, then closes the engine.
func (e *Engine) Run(ctx context.Context) error { panic("unfinished") }

// Close stops taking requests, lets those in flight finish (within a second) and closes the log.
func (e *Engine) Close() error { panic("unfinished") }

// OnBlock tells the engine of a committed block. The node calls it in block order, after the state shows the block; it
// does not block on sessions.
func (e *Engine) OnBlock(b Block) { panic("unfinished") }

// OpenSession opens a session from its signed opening request. The same request again gets the same answer.
func (e *Engine) OpenSession(ctx context.Context, req *wire.Request) (*OpenAnswer, error) {
	panic("unfinished")
}

// OpenCustody opens a session for actor ("" is the default actor), signed by this node with the key the actor has
// delegated to it. body is empty, {} or {"expires_at":ms,"supersedes":"id"}, both optional.
func (e *Engine) OpenCustody(ctx context.Context, actor string, body []byte) (*OpenAnswer, error) {
	panic("unfinished")
}

// Step runs a signed step. An application's answer of 400 or more is an Answer with Recorded false, no error.
func (e *Engine) Step(ctx context.Context, p *httpsig.Parsed) (*Answer, error) { panic("unfinished") }

// StepCustody runs an unsigned step in a custody session. actor may be "" (the session's). With a sequence it is
// idempotent: the same request at the same sequence gets the stored answer.
func (e *Engine) StepCustody(ctx context.Context, id wire.SessionID, actor, method, path, query, contentType string, body []byte, sequence *uint64) (*Answer, error) {
	panic("unfinished")
}

// Commit commits a session with its client's signature over the final head, and waits for Layer 1 or ctx, whichever is
// first. On ctx's end it returns Outcome{Status: committing} and no error: nothing is lost. Any number of calls, also at
// once, get the one outcome.
func (e *Engine) Commit(ctx context.Context, p *httpsig.Parsed) (Outcome, error) { panic("unfinished") }

// CommitCustody is Commit for a custody session; actor may be "" (the session's).
func (e *Engine) CommitCustody(ctx context.Context, id wire.SessionID, actor string) (Outcome, error) {
	panic("unfinished")
}

// OneStep opens a custody session, runs the one step and commits it. If the answer is 400 or more nothing is committed
// and Outcome is zero. The answer is not to be given away before the Outcome says committed (or the context ended:
// then Outcome.Status is committing).
func (e *Engine) OneStep(ctx context.Context, actor, method, path, query, contentType string, body []byte) (*Answer, Outcome, error) {
	panic("unfinished")
}

// Abandon ends a session at its client's signed wish: a tandem-step signature over DELETE /tandem/v1/sessions/{id} at the
// session's next sequence and head.
func (e *Engine) Abandon(ctx context.Context, p *httpsig.Parsed) (Session, error) {
	panic("unfinished")
}

// AbandonCustody is Abandon for a custody session; actor may be "" (the session's).
func (e *Engine) AbandonCustody(ctx context.Context, id wire.SessionID, actor string) (Session, error) {
	panic("unfinished")
}

// Session returns a session's status, also of one that has ended, or that was committed through another node.
func (e *Engine) Session(ctx context.Context, id wire.SessionID) (Session, error) {
	panic("unfinished")
}

// Committed returns what a receipt of a session that was committed through this node is built from. Refusals:
// session-not-found (also when it was committed elsewhere or is past retention), not-committed.
func (e *Engine) Committed(ctx context.Context, id wire.SessionID) (Committed, error) {
	panic("unfinished")
}

// WaitHeight returns nil once the newest block the engine knows is at least height; on ctx's end a height-not-reached
// refusal. It serves Tandem-Min-Height: read your writes.
func (e *Engine) WaitHeight(ctx context.Context, height int64) error { panic("unfinished") }

// Height returns the newest block the engine knows.
func (e *Engine) Height() int64 { panic("unfinished") }

// SignAnswer sets the headers of an answer whose body the HTTP layer makes (a commit's outcome, a status): Tandem-*,
// Content-Digest and the node's signature. Of a it uses Session, Sequence, Transcript, Height and Time.
func (e *Engine) SignAnswer(h http.Header, status int, body []byte, a Answer) { panic("unfinished") }

// Stats are counts for /metrics and the status page.
type Stats struct {
	Open, Committing int   // sessions
	InFlight         int   // requests being worked on
	Height           int64 // newest block known
	Steps            uint64
	Reexecuted       uint64 // sessions run again because a block touched what they had read
	Conflicts        uint64
	Faults           uint64 // nondeterministic handlers found
	Submitted        uint64
	Shed             uint64 // refused as overloaded
}

// Stats returns the counts now.
func (e *Engine) Stats() Stats { panic("unfinished") }
