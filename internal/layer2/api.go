package layer2

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"net/http"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"tandem/internal/exec"
	"tandem/internal/ledger"
	"tandem/internal/peer"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Ledger is what the engine needs of Layer 1. The node implements it over CometBFT and the state. All methods are safe
// for concurrent use.
type Ledger interface {
	// Submit puts a transaction into the mempool. It returns nil if the mempool holds it already, a *refusal.Refusal if
	// CheckTx refuses it, any other error if Layer 1 cannot be reached (then it may have arrived nevertheless).
	Submit(ctx context.Context, tx []byte) error
	// View returns the newest committed state.
	View() (*state.View, error)
	// Time returns the newest block's time, milliseconds since 1970.
	Time() int64
	// Quarantined reports why this node's validator role set a transaction aside, if it did.
	Quarantined(tx wire.Digest) (*refusal.Refusal, bool)
}

// Block tells the engine what a block has settled and changed.
type Block struct {
	Height   int64
	Time     int64 // milliseconds since 1970
	Sessions []Settled
	Changes  []state.Change // sorted by key; what the block as a whole has changed
}

// Settled is a session in a block.
type Settled struct {
	ID          wire.SessionID
	Transaction wire.Digest // SHA-256 of the Layer 1 transaction
	Actor       string      // the actor's id on the ledger
	Part        uint64      // which of the session's commits it is, from 1
	Steps       uint64      // of the session, up to this commit
	Head        wire.Digest // transcript head after them
	Final       bool        // the session is closed; otherwise this was a checkpoint
	// Keys are the keys that this session wrote, if the ledger tells them apart; nil otherwise. They only serve to name
	// the winner of a conflict when a block holds several sessions.
	Keys [][]byte
}

// Options configure Open. Ledger, Runner, Key and ChainID are required.
type Options struct {
	Ledger  Ledger
	Runner  *exec.Runner
	Key     ed25519.PrivateKey // the node's; signs answers, names the originator
	ChainID string
	// Clock is the node's clock; default time.Now. It gives steps their times and judges signatures' age; it never
	// decides an outcome.
	Clock func() time.Time
	// Custody holds the keys that actors have delegated to this node on the ledger, by actor id. Nil: unsigned requests are refused.
	Custody map[string]ed25519.PrivateKey
	// DefaultActor is whom an unsigned request that names nobody acts as; empty: such a request is refused.
	DefaultActor string
	// Events is told of what happens to sessions; nil: nobody is.
	Events Publisher
	// Proofs lets the node prove that a peer's answer is false; nil: such an answer is refused, and nothing is kept of it.
	Proofs Proofs
	// Peers carries messages to the other Layer 2 nodes of the ledger's list; nil: this node works alone, whatever the
	// list says. The engine runs it.
	Peers Peers
	// Need is how many Layer 2 nodes, this one included, have to endorse a step before it is answered without waiting
	// longer; bounded by the number of nodes. Default 2.
	Need int
	// Wait is how long a step waits for that many before it is answered with fewer. Default 50 ms.
	Wait   time.Duration
	Logger *slog.Logger // default: discards
	FS     vfs.FS       // default: the disk
	// Halt is called once, from an own goroutine, when the engine's own state is in doubt (its disk fails, its ledger
	// contradicts itself). The node then ends the process with exit code 70. Default: logs.
	Halt func(error)

	// SessionLife is the life of custody sessions that name no expires_at. Default 15 minutes.
	SessionLife time.Duration
	// MaxOpen bounds the sessions that are not ended; more are refused with overloaded. Default 20,000.
	MaxOpen int
	// MaxInFlight bounds the steps, commits and openings worked on at once; more are refused with overloaded. Default 1,024.
	MaxInFlight int
	// MaxWorking bounds the steps and openings that Admit lets in at once; default 12 for each processor. MaxWait is how long more wait
	// for a place before they are refused with overloaded; default 25 ms.
	MaxWorking int
	MaxWait    time.Duration
	// MaxQueue bounds the requests that wait for one session; more are refused with session-busy. Default 64.
	MaxQueue int
	// CheckpointSteps and CheckpointEvery say when a custody session commits what it has and stays open: after so many steps, or when
	// a step has waited so long. 0: never. Sessions that their clients sign are not meant: each checkpoint needs a signature.
	CheckpointSteps uint64
	CheckpointEvery time.Duration
	// RetainEnded is how many ended sessions stay on disk with their bodies (receipts need them). Default 100,000.
	RetainEnded int
	// ResubmitBlocks and ResubmitEvery say when a committing session that is in no block yet is submitted again: after so many
	// blocks or so much time, whichever is first. Defaults 3 blocks, 2 s.
	ResubmitBlocks int64
	ResubmitEvery  time.Duration
}

// Answer is an endorsed answer to a step: what the handler said, and where in the session it stands.
type Answer struct {
	Status  int
	Headers []wire.Header // the recorded ones
	Body    []byte
	// Session, Sequence and Transcript are the session's position after the step. If the step was not recorded
	// (Status >= 400), they are the position before it.
	Session    wire.SessionID
	Sequence   uint64
	Transcript wire.Digest
	// Height is the height of the state the step was run on.
	Height     int64
	Time       int64 // milliseconds since 1970: the step's agreed time
	Originator wire.PublicKey
	// Endorsements of Of Layer 2 nodes have run the step, agree and have it on disk. Both are 0 for an answer that is not recorded.
	Endorsements, Of int
	// Endorsers are the nodes that endorse the step beside its originator, whose endorsement is the answer's signature. So
	// Endorsements counts one more, as long as all of them are on the ledger's list.
	Endorsers []Endorser
	// Seal is the originator's signature of a recorded answer.
	Seal wire.Seal
	// Recorded is false for Status >= 400: such an answer is no step of the session.
	Recorded bool
	// Repeated says that the answer was stored before: this was a retry.
	Repeated bool
	// Hints name other open sessions that the step met; advice, not part of the signed answer, and not repeated.
	Hints []Hint
	// Signed holds all HTTP headers of the answer: the recorded ones, Tandem-*, Content-Digest, Signature-Input,
	// Signature. It is owned by the caller.
	Signed http.Header
}

// Endorser is a node's endorsement of a step: it has run it on the state at Height, got the same response and has it on
// disk. wire.EndorsementBytes says what Signature is over.
type Endorser = wire.Endorsement

// Peers carries messages between the Layer 2 nodes; package peer has two.
type Peers interface {
	Send(to wire.PublicKey, message []byte) error
	SetPeers(nodes []ledger.Node)
	Run(ctx context.Context, r peer.Receiver) error
}

// OpenAnswer is the answer to an opening: 201, with the session's id in Answer.Session and in the body.
type OpenAnswer struct {
	Answer
	ExpiresAt int64  // milliseconds since 1970
	Actor     string // id on the ledger
	Key       wire.PublicKey
}

// Outcome is what became of a commit. Status is committed, or committing when the context ended first (nothing is lost:
// Layer 1 has it or will get it). Everything else is an error: *refusal.Refusal.
type Outcome struct {
	Session         wire.SessionID
	Status          session.State
	Height          int64       // of the block; 0 unless committed
	TransactionHash wire.Digest // SHA-256 of the Layer 1 transaction; also known while committing
	Time            int64       // of the block, milliseconds since 1970; 0 unless known
	Steps           uint64      // of the session, up to this commit
	Transcript      wire.Digest // after them
	Checkpoint      uint64      // the checkpoint's number, from 1, if the session stays open; else 0
}

// Session is the status of a session; its JSON is the answer of GET /tandem/v1/sessions/{id}.
type Session struct {
	ID          string           `json:"session_id"`
	Status      session.State    `json:"status"`
	Actor       string           `json:"actor,omitempty"`
	Key         string           `json:"key,omitempty"` // did:key
	Sequence    uint64           `json:"sequence"`      // recorded steps
	Transcript  string           `json:"transcript"`    // head
	ExpiresAt   int64            `json:"expires_at,omitempty"`
	Supersedes  string           `json:"supersedes,omitempty"`
	Height      int64            `json:"height,omitempty"`           // of the block, once committed
	Transaction string           `json:"transaction_hash,omitempty"` // once committing
	Time        int64            `json:"block_time_ms,omitempty"`    // once committed
	Elsewhere   bool             `json:"elsewhere,omitempty"`        // committed through other nodes: this one has no steps to show
	Conflict    *Conflict        `json:"conflict,omitempty"`
	Fault       *refusal.Refusal `json:"-"` // why it cannot be committed although it is open, such as nondeterministic-handler
	FaultText   string           `json:"fault,omitempty"`
	// Settled is how many of the steps blocks hold already by Checkpoints, while the session goes on.
	Settled     uint64       `json:"settled_steps,omitempty"`
	Checkpoints []Checkpoint `json:"checkpoints,omitempty"`
	Steps       []Step       `json:"steps"`
}

// Step is one recorded step of a session's status.
type Step struct {
	Sequence     uint64 `json:"sequence"`
	Method       string `json:"method"`
	Target       string `json:"target"` // path and query, as signed
	Status       int    `json:"status"`
	Request      string `json:"request_digest"`
	Response     string `json:"response_digest"` // of the body
	Originator   string `json:"originator"`
	Time         int64  `json:"time_ms"`
	Height       int64  `json:"height"`
	Endorsements int    `json:"endorsements"`
	Of           int    `json:"of"`
}

// Conflict says why a session can no longer be committed as it stands.
type Conflict struct {
	Code   refusal.Code `json:"code"`  // conflict, superseded, key-revoked, ...
	Step   uint64       `json:"step"`  // first step that would answer otherwise; 0 if it is not about a step
	Field  string       `json:"field"` // what differs: status, headers, body, actor
	Keys   []string     `json:"keys"`  // keys that changed, as text or 0x hex; at most 16
	Height int64        `json:"height"`
	// Winner is who changed it; empty if unknown (it happened while this node was down). Candidates says how many
	// sessions of the block may have been it.
	Winner      string `json:"winner_session,omitempty"`
	WinnerActor string `json:"winner_actor,omitempty"`
	Candidates  int    `json:"winner_candidates,omitempty"`
	// Old is the recorded response, New what it would be now.
	OldStatus int         `json:"old_status,omitempty"`
	NewStatus int         `json:"new_status,omitempty"`
	OldDigest wire.Digest `json:"old_digest"`
	NewDigest wire.Digest `json:"new_digest"`
	OldBody   []byte      `json:"old_body,omitempty"` // at most 64 KiB
	NewBody   []byte      `json:"new_body,omitempty"` // at most 64 KiB
	Detail    string      `json:"detail"`
}

// Committed is what a receipt is built from.
type Committed struct {
	Height      int64
	Transaction []byte   // the SessionCommit's bytes
	Bodies      [][]byte // response bodies, in step order
}
