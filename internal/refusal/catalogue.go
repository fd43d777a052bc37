package refusal

import (
	"slices"
	"strings"
)

// Kind says what sort of outcome a code is; callers treat the kinds differently and nodes never mix them.
type Kind string

const (
	// KindRefusal: the request is not acceptable as it stands; repeating it unchanged cannot help.
	KindRefusal Kind = "refusal"
	// KindConflict: somebody or something else came first; look at the present state and decide anew.
	KindConflict Kind = "conflict"
	// KindOutage: the node cannot do it now; the same request may succeed later or elsewhere.
	KindOutage Kind = "outage"
	// KindAnswer: the framework answered in a handler's place; the answer is part of the replay, equal on every node.
	KindAnswer Kind = "answer"
)

// Entry is one line of the catalogue.
type Entry struct {
	Code   Code
	Status int // HTTP status of the problem document
	Kind   Kind
	Title  string // what it is, the same every time (RFC 9457 "title")
	Cause  string // why it happens
	Remedy string // what the caller or operator can do
}

// The codes of the catalogue.
const (
	ActorExists          Code = "actor-exists"
	ActorUnknown         Code = "actor-unknown"
	AlreadySettled       Code = "already-settled"
	BadJSON              Code = "bad-json"
	BadRequest           Code = "bad-request"
	BadTarget            Code = "bad-target"
	BlockNotFound        Code = "block-not-found"
	BodyTooLarge         Code = "body-too-large"
	BudgetExceeded       Code = "budget-exceeded"
	Conflict             Code = "conflict"
	CrossOrigin          Code = "cross-origin"
	CustodyDisabled      Code = "custody-disabled"
	CustodyElsewhere     Code = "custody-elsewhere"
	Equivocation         Code = "equivocation"
	Forbidden            Code = "forbidden"
	GenesisInvalid       Code = "genesis-invalid"
	HandlerGoroutine     Code = "handler-goroutine"
	HandlerPanic         Code = "handler-panic"
	HeaderTooLarge       Code = "header-too-large"
	HeightNotReached     Code = "height-not-reached"
	Internal             Code = "internal"
	KeyNotRegistered     Code = "key-not-registered"
	KeyRevoked           Code = "key-revoked"
	KeyTaken             Code = "key-taken"
	KeyWeak              Code = "key-weak"
	Layer1Unavailable    Code = "layer1-unavailable"
	LengthRequired       Code = "length-required"
	MempoolFull          Code = "mempool-full"
	MethodNotAllowed     Code = "method-not-allowed"
	NoEvidence           Code = "no-evidence"
	NoLayer2             Code = "no-layer2"
	NonCanonical         Code = "non-canonical"
	Nondeterministic     Code = "nondeterministic-handler"
	NotCommitted         Code = "not-committed"
	NotFound             Code = "not-found"
	OriginatorUnknown    Code = "originator-unknown"
	Overloaded           Code = "overloaded"
	PositionTaken        Code = "position-taken"
	Quarantined          Code = "quarantined"
	Replayed             Code = "replayed"
	ResponseDiffers      Code = "response-differs"
	ResponseInvalid      Code = "response-invalid"
	ResponseTooLarge     Code = "response-too-large"
	SessionBusy          Code = "session-busy"
	SessionClosed        Code = "session-closed"
	SessionExpired       Code = "session-expired"
	SessionFull          Code = "session-full"
	SessionNotFound      Code = "session-not-found"
	SessionTooLarge      Code = "session-too-large"
	SessionTooLong       Code = "session-too-long"
	ShuttingDown         Code = "shutting-down"
	SignatureInvalid     Code = "signature-invalid"
	SignatureMalformed   Code = "signature-malformed"
	SignatureRequired    Code = "signature-required"
	StaleSignature       Code = "stale-signature"
	StepTooLong          Code = "step-too-long"
	Superseded           Code = "superseded"
	TransactionNotFound  Code = "transaction-not-found"
	TransactionTooLarge  Code = "transaction-too-large"
	TranscriptMissing    Code = "transcript-missing"
	UnknownKind          Code = "unknown-kind"
	UnsupportedMediaType Code = "unsupported-media-type"
	WriteInRead          Code = "write-in-read"
	WrongChain           Code = "wrong-chain"
	WrongDigest          Code = "wrong-digest"
	WrongFingerprint     Code = "wrong-fingerprint"
	WrongSequence        Code = "wrong-sequence"
	WrongSession         Code = "wrong-session"
	WrongStart           Code = "wrong-start"
	WrongTag             Code = "wrong-tag"
	WrongTime            Code = "wrong-time"
	WrongTranscript      Code = "wrong-transcript"
)

// Catalogue is every code there is, sorted by code. The caller owns the slice.
func Catalogue() []Entry { return slices.Clone(catalogue[:]) }

// Lookup finds a code's entry.
func Lookup(code Code) (Entry, bool) {
	i, ok := slices.BinarySearchFunc(catalogue[:], code, func(e Entry, c Code) int {
		return strings.Compare(string(e.Code), string(c))
	})
	if !ok {
		return Entry{}, false
	}
	return catalogue[i], true
}

// catalogue is sorted by code; a test holds it to that.
var catalogue = [...]Entry{
	{ActorExists, 409, KindAnswer, "The actor already exists",
		"An actor with this id is on the ledger; ids are used once, also those of revoked actors.",
		"Choose another id, or add keys to the existing actor."},
	{ActorUnknown, 403, KindRefusal, "No such actor",
		"No actor of this id is registered on the ledger, or it was revoked.",
		"Check the id; an actor with the role \"admin\" registers actors with POST /tandem/v1/actors."},
	{AlreadySettled, 409, KindConflict, "The session is settled already",
		"The session is in a block, or was superseded by one that is; a session is settled at most once.",
		"Read the session's status and receipt; open a new session for further work."},
	{BadJSON, 400, KindRefusal, "The body is not the JSON expected here",
		"Malformed JSON, an unknown, duplicate or differently cased member, a wrong type, more than one value, or nesting too deep.",
		"Compare the body with the route's description and send it again; in a session nothing was recorded."},
	{BadRequest, 400, KindRefusal, "The request is malformed",
		"A header, parameter or body does not have the form this route takes.",
		"See the detail; correct the request and send it again."},
	{BadTarget, 400, KindRefusal, "The request target is not in its one form",
		"The path holds an encoded slash or backslash, a dot segment, an empty segment, a needless or lower-case percent-encoding, or bytes outside ASCII; signatures cover raw targets, so each resource has one spelling.",
		"Send the path normalised: no dot or empty segments, only needed percent-encodings, with upper-case digits."},
	{BlockNotFound, 404, KindRefusal, "No such block",
		"This node has no block of this height: it is in the future, or was pruned.",
		"Ask for a height up to the one in /tandem/v1/status, or ask a node that keeps more history."},
	{BodyTooLarge, 413, KindRefusal, "The body is too large",
		"A request body may have 256 KiB; a transcript, or a part of one, 2 MiB.",
		"Split the operation into several steps of one session; they are committed together."},
	{BudgetExceeded, 500, KindAnswer, "The handler used more than a step may",
		"The handler did more state operations, or moved more bytes, than the ledger's parameters allow one step. The count is the same on all nodes; nothing was written.",
		"Split the work into several steps, scan smaller ranges, or have the parameters raised at genesis."},
	{Conflict, 409, KindConflict, "Another session came first",
		"A session that was committed meanwhile changed what this session had read, and a step would now answer otherwise.",
		"Look at the fields for the step and keys concerned; open a session that supersedes this one and repeat the steps, or abandon it."},
	{CrossOrigin, 403, KindRefusal, "Cross-origin request refused",
		"A browser sent this request on behalf of another site's page.",
		"Call from the node's own pages or from a program; the operator can allow an origin in the configuration."},
	{CustodyDisabled, 401, KindRefusal, "Unsigned requests are not accepted here",
		"The request carries no signature, and this node holds no delegated key to sign for its caller (custody).",
		"Sign the request (see docs/format/signatures.md or the Go client), or call a node that offers custody for this actor."},
	{CustodyElsewhere, 401, KindRefusal, "Another node signs for this session",
		"The session was opened in custody, with a delegated key that this node does not hold: it cannot sign the session's requests.",
		"Send the request to a node that holds the key: \"nodes\" lists those that have signed for the session. If none is left, open another session."},
	{Equivocation, 409, KindRefusal, "Another signed step stands at this place",
		"The same key signed two different requests for one position of a session. Both are kept as evidence; the first stands.",
		"Read the session's status for the step that stands and continue after it; never sign a position twice."},
	{Forbidden, 403, KindAnswer, "The actor may not do this",
		"The route asks for a role or an identity that the signer of the request does not have.",
		"Sign with a key of an actor that has the role named in the detail."},
	{GenesisInvalid, 400, KindRefusal, "The genesis file is not valid",
		"The application part of genesis.json does not have the form docs/format/genesis.md describes, or names another service than this program runs.",
		"Correct the file; all nodes must start from the same bytes."},
	{HandlerGoroutine, 500, KindAnswer, "The handler used its state from another goroutine",
		"State belongs to the goroutine that runs the handler; use from others could differ between nodes. Nothing was written.",
		"This is a fault in the service: do the work in the handler's own goroutine."},
	{HandlerPanic, 500, KindAnswer, "The handler panicked",
		"The service's handler failed on this request. Nothing was written; the panic is in the node's log.",
		"This is a fault in the service: report it to its author with the request."},
	{HeaderTooLarge, 431, KindRefusal, "The header section is too large",
		"The request's header fields exceed this node's limit.",
		"Send fewer or shorter header fields; only the signature and the Tandem-* fields are needed."},
	{HeightNotReached, 503, KindOutage, "This node has not reached the height asked for",
		"The request names a minimum height (Tandem-Min-Height) that this node's copy of the ledger did not reach in time.",
		"Try again shortly, or ask another node; /readyz tells how far behind a node is."},
	{Internal, 500, KindOutage, "Internal error",
		"The node failed in a way that has no code of its own; the cause is in its log.",
		"Try again or use another node; its operator should read the log."},
	{KeyNotRegistered, 403, KindRefusal, "The key is not registered",
		"No actor on the ledger holds the key that signed the request.",
		"Have the key registered: POST /tandem/v1/actors/{id}/keys, signed by the actor or by one with the role \"admin\"."},
	{KeyRevoked, 403, KindRefusal, "The key was revoked",
		"The key, or the actor that holds it, was revoked on the ledger; that is for ever.",
		"Sign with another key of the actor, or register a new one."},
	{KeyTaken, 409, KindAnswer, "The key is taken",
		"The key was registered before; a key belongs to one actor for ever, even after it is revoked.",
		"Generate a new key and register that one."},
	{KeyWeak, 400, KindRefusal, "The key is not a safe Ed25519 key",
		"The public key is of small order, not canonically encoded, or not a point of the curve; signatures under it prove nothing.",
		"Generate a proper key: tandem keys new."},
	{Layer1Unavailable, 503, KindOutage, "Layer 1 does not take commits now",
		"Too few validators can be reached, or consensus makes no progress. The session and its steps are safe on Layer 2.",
		"Wait and send the commit again; it is safe to repeat. /readyz and /tandem/v1/status tell when blocks advance."},
	{LengthRequired, 411, KindRefusal, "A body needs its length",
		"The request uses Transfer-Encoding (chunked or other). Two ways to say where a body ends can be read in two ways, so bodies come with Content-Length only.",
		"Send the body with a Content-Length; curl's -d and most libraries do so when the body is in memory."},
	{MempoolFull, 503, KindOutage, "Too many commits are waiting",
		"The actor has as many sessions waiting for a block at this node as one actor may have.",
		"Wait until some are committed, then commit again; it is safe to repeat."},
	{MethodNotAllowed, 405, KindAnswer, "The method is not allowed here",
		"The path exists but has no handler for this method.",
		"Use one of the methods in the Allow header."},
	{NoEvidence, 422, KindRefusal, "It makes no evidence",
		"The accused node has told the truth: run again on the state that it has signed for, the steps answer as recorded. Or this node cannot show that it has not; the detail says which.",
		"If the answers agree there is nothing to do; else ask another node, one that keeps more."},
	{NoLayer2, 503, KindOutage, "This node is no Layer 2 node",
		"Sessions and steps are served by nodes with the Layer 2 role; this one only validates and reads.",
		"Call a Layer 2 node; GET /tandem/v1/status lists them with their URLs."},
	{NonCanonical, 400, KindRefusal, "The bytes are not in canonical form",
		"The encoding differs from the one form docs/format allows, or breaks one of its limits; bytes that are hashed and signed must have one form only.",
		"Encode with the client library, or see docs/format."},
	{Nondeterministic, 500, KindAnswer, "The handler is not deterministic",
		"The same request on the same state gave different answers: the handler depends on a clock, on randomness, on map order, or on something else outside its request and state.",
		"This is a fault in the service: its author finds the cause with servicetest; use tandem.Now and tandem.NewID."},
	{NotCommitted, 404, KindRefusal, "The session is not committed",
		"A receipt exists only once the session is in a block.",
		"Commit the session, or wait for a commit under way; its status tells."},
	{NotFound, 404, KindAnswer, "Not found",
		"Nothing is registered or stored under this path.",
		"Check the path; /openapi.json and docs/ list the routes."},
	{OriginatorUnknown, 403, KindRefusal, "The originator is not a Layer 2 node",
		"A step of the session was answered by a key that is not on the ledger's list of Layer 2 nodes.",
		"Repeat the steps in a new session at a node of the network; report the node that answered."},
	{Overloaded, 503, KindOutage, "The node is overloaded",
		"More requests or sessions are under way than this node's limits allow.",
		"Try again after the time in Retry-After, or use another node."},
	{PositionTaken, 409, KindConflict, "Another variant of the step is here",
		"The same signed request was answered by two nodes, each at a time of its own. The client's next signature chooses one.",
		"Go on from the answer you have; a node that has the other variant then takes yours over."},
	{Quarantined, 503, KindOutage, "The session is in quarantine",
		"The session's replay failed at this validator a short while ago, so it leaves the session out of its proposals for some blocks. The fields name step and field.",
		"Wait, or open a session that supersedes this one; if it happens again the handler of the step named is not deterministic."},
	{Replayed, 409, KindConflict, "The request was used before",
		"An opening request with this signature has opened a session already.",
		"Make a new opening request with a fresh nonce, or continue the session it opened."},
	{ResponseDiffers, 409, KindConflict, "The replay gave another response",
		"On the ledger's present state a step of the session does not give the response that was recorded: another session was committed first, a node answered falsely, or the handler is not deterministic.",
		"See the fields for the step and what differs; open a session that supersedes this one and repeat the steps. If no other session came first, \"tandem evidence make\" finds out which nodes have lied."},
	{ResponseInvalid, 500, KindAnswer, "The handler's response cannot be recorded",
		"The handler answered with a status outside 200 to 599, or with a header that is not plain ASCII text or was set twice. Nothing was written.",
		"This is a fault in the service: see docs/service.md for what a response may hold."},
	{ResponseTooLarge, 500, KindAnswer, "The handler's response is too large",
		"A response may have 256 KiB. Nothing was written.",
		"Return lists in pages; this is the service's to change."},
	{SessionBusy, 409, KindConflict, "The session is busy",
		"Another request of this session is being worked on, or its commit is under way.",
		"Wait for that answer; a session's steps go one after the other."},
	{SessionClosed, 409, KindRefusal, "The session is closed",
		"The session is committed, conflicted, abandoned or expired and takes no more steps.",
		"Read its status; open a new session, which may supersede this one if it is not committed."},
	{SessionExpired, 409, KindRefusal, "The session has expired",
		"The ledger's time has passed the session's expires_at; it can never be committed.",
		"Open a new session and repeat the steps; ask for a later expires_at if the work takes long."},
	{SessionFull, 409, KindRefusal, "The session is full",
		"A session has at most the number of steps in the ledger's parameters, and must fit one transaction of 1 MiB.",
		"Commit this session and go on in a new one."},
	{SessionNotFound, 404, KindRefusal, "No such session",
		"This node does not know the session: the id is wrong, or the session was opened at a node that is not reachable.",
		"Check the id; upload the transcript (PUT /tandem/v1/sessions/{id}), or ask another node."},
	{SessionTooLarge, 409, KindRefusal, "The session is too large for a block",
		"The session's requests and responses do not fit one Layer 1 transaction of 1 MiB together with what a block needs.",
		"Commit work in smaller sessions."},
	{SessionTooLong, 409, KindRefusal, "The session would live too long",
		"expires_at lies further ahead than the ledger's parameters let a session live.",
		"Open the session with an earlier expires_at."},
	{ShuttingDown, 503, KindOutage, "The node is shutting down",
		"The node takes no new work while it stops; acknowledged steps are on disk.",
		"Use another node, or try again when it is back."},
	{SignatureInvalid, 401, KindRefusal, "The signature does not verify",
		"The signature does not match the signed components: something was changed after signing, or another key was used.",
		"Sign exactly the components docs/format/signatures.md lists, with the key named in keyid."},
	{SignatureMalformed, 401, KindRefusal, "The signature headers are malformed",
		"Signature or Signature-Input is not of the one profile Tandem accepts (RFC 9421; fixed components, label and parameters).",
		"See docs/format/signatures.md; one signature labelled \"tandem\" with created, keyid, alg and tag."},
	{SignatureRequired, 401, KindRefusal, "A signature is required",
		"This request acts for an actor and must be signed by one of the actor's keys.",
		"Sign the request (see docs/format/signatures.md or the Go client)."},
	{StaleSignature, 401, KindRefusal, "The signature's time is not acceptable",
		"The signature's \"created\" is too old or lies in the future by this node's clock.",
		"Set the caller's clock right and sign again."},
	{StepTooLong, 503, KindOutage, "The step takes too long",
		"The handler did not come to an end in the time this node grants a step. Nothing was recorded.",
		"Try again; if it stays so, the handler needs to do less in one step."},
	{Superseded, 409, KindConflict, "The session was superseded",
		"Another session that names this one in \"supersedes\" was committed first; of the two only one can be.",
		"Nothing is lost: read the superseding session, named in the fields."},
	{TransactionNotFound, 404, KindRefusal, "No such transaction",
		"This node knows no committed transaction of this hash.",
		"Check the hash; a session's status gives it once the session is committed."},
	{TransactionTooLarge, 413, KindRefusal, "The transaction is too large",
		"A Layer 1 transaction may have 1 MiB.",
		"Commit work in smaller sessions."},
	{TranscriptMissing, 409, KindConflict, "Steps of the session are missing at this node",
		"The request signs over steps that this node does not have, and no node that it can reach has them.",
		"Upload the transcript: PUT /tandem/v1/sessions/{id}; then send the request again."},
	{UnknownKind, 400, KindRefusal, "Unknown kind of transaction",
		"The bytes are no session commit. Clients send sessions; root statements come only from a block's proposer.",
		"Send a session commit in the form of docs/format/session-commit.md."},
	{UnsupportedMediaType, 415, KindRefusal, "The media type is not supported",
		"The request's Content-Type is not one this route takes.",
		"Send application/json; transcripts are application/cbor."},
	{WriteInRead, 500, KindAnswer, "The handler wrote in a read",
		"A request without a session that only reads (GET, HEAD) ran on committed state, and its handler tried to change the state.",
		"Send the request in a session; as a service author, write only in handlers of other methods."},
	{WrongChain, 400, KindRefusal, "The request is for another ledger",
		"The chain id in the opening request is not this ledger's.",
		"Open the session with the chain_id in /tandem/v1/status."},
	{WrongDigest, 400, KindRefusal, "The digest does not match the content",
		"Content-Digest is not the SHA-256 digest of the body that arrived (RFC 9530).",
		"Compute Content-Digest over the exact bytes sent; a proxy must not change bodies."},
	{WrongFingerprint, 409, KindRefusal, "The nodes run other code",
		"The service fingerprint in the request or session is not the one in the ledger's state: name, version, routes, module or Go version differ.",
		"Compare the fingerprints in the fields; run the same build on all nodes, and open sessions with the fingerprint in /tandem/v1/status."},
	{WrongSequence, 409, KindRefusal, "Wrong place in the session",
		"The step's sequence number is not the session's next.",
		"Read the session's status for the next sequence and transcript head, then sign again."},
	{WrongSession, 400, KindRefusal, "The request belongs to another session",
		"A signed request names another session than the one it was sent with, or the id does not follow from the opening request.",
		"Sign with the id that the opening request gives."},
	{WrongStart, 409, KindRefusal, "The commit does not go on where the ledger's record of the session ends",
		"A session is committed in parts (checkpoints), in order; this part goes on from another point than the newest one in a block ended at.",
		"Nothing is lost: the node builds the part again from where the ledger is and submits it again."},
	{WrongTag, 401, KindRefusal, "The signature is for another purpose",
		"The signature's tag is not the one this request needs (tandem-open, tandem-step, tandem-commit).",
		"Sign for this purpose; a signature made for one purpose is good for no other."},
	{WrongTime, 409, KindRefusal, "A step's time is not acceptable",
		"Step times must not go back, may be at most 60 s ahead of the block and no older than a session may live.",
		"Check the clock of the Layer 2 node that answered; repeat the steps in a new session."},
	{WrongTranscript, 409, KindRefusal, "Wrong transcript head",
		"The request signs over another history of the session than the one this node has.",
		"Recompute the transcript head from the answers seen; if it still differs, a node answered falsely: keep its signed answer as evidence."},
}
