// Package ledger is the part of the state that belongs to the framework: who may act (actors and their keys), which
// nodes may originate answers (the Layer 2 list), which sessions are settled, and the parameters everybody replays
// with. All of it lives under the key prefix "t/", beside the service's own records under "a/", in the same tree and
// under the same root.
//
// The package defines the records and reads and writes them; it decides nothing about transactions (layer1 does).
// Records get into the state in three ways: from the genesis file ([Apply]), as the effects of a committed session
// ([Settle]), and by the framework routes ([Routes]), which are ordinary handlers, run as ordinary steps: registering
// an actor is a session like any other, with a receipt.
//
// Rules that hold for ever: a key belongs to one actor, also after it is revoked; an actor's id is used once; a
// session is settled once. Keys are checked when they are registered (wire.CheckKey), so that a signature under a
// registered key proves something.
//
// An error from a read function is either a *refusal.Refusal (the content asked about is not acceptable: an unknown
// key, say) or a fault of the state itself, which puts the node's own copy in doubt; callers tell them apart with
// refusal.As. The package has no state of its own and is safe for concurrent use as far as the Reader is.
package ledger

import (
	"bytes"
	"slices"
	"strings"

	"tandem"
	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Prefix begins the key of every record of the framework.
const Prefix = "t/"

// ServicePrefix begins the key of every record of the service.
const ServicePrefix = "a/"

// RoleAdmin lets an actor register and revoke actors and keys.
const RoleAdmin = "admin"

// RoleDelegate is added to an actor's roles when the signing key is a delegate: a key the actor has lent to a node so
// that it signs for the actor (custody). Nobody can hold the role otherwise. Framework routes that change something
// refuse delegates, so that a node with a delegated key cannot give itself more.
const RoleDelegate = "tandem-delegate"

// Limits of the records.
const (
	MaxActorID = 64  // bytes in an actor's id: letters, digits, '-', '_', '.', not starting with '.'
	MaxRoles   = 32  // roles of one actor
	MaxRole    = 64  // bytes in a role: as an id
	MaxKeys    = 256 // keys of one actor, revoked ones included
	MaxText    = 256 // bytes in an organisation's name or a node's address
)

// Actor is a person, device or organisation that signs requests.
type Actor struct {
	ID           string
	Organisation string           // who answers for the actor
	Roles        []string         // sorted, unique
	Keys         []wire.PublicKey // in the order of registration, revoked ones included
	Revoked      bool             // none of the keys is good any more, for ever
}

// Key says whose a public key is. Key records are never removed.
type Key struct {
	Actor    string
	Delegate bool // lent to a node for custody
	Revoked  bool
}

// Node is an entry of the Layer 2 list: a node whose key may stand as the originator of a step.
type Node struct {
	Key          wire.PublicKey
	Organisation string
	Address      string // host:port, where its peers reach it; may be empty
	URL          string // where clients reach it; may be empty
	Removed      bool   // answers nothing any more; kept so that old sessions can be understood
}

// Settled is the record of what was committed of a session, as its newest commit left it. Once it is Final, nothing more of
// the session can be committed.
type Settled struct {
	Height      int64       // of the block of the newest commit
	Actor       string      // who signed it
	Transaction wire.Digest // hash of the newest commit's Layer 1 transaction, as CometBFT computes it
	Head        wire.Digest // transcript head after the steps
	Steps       uint64      // of all commits together
	Time        int64       // of the block, milliseconds since 1970
	Checkpoints uint64      // how many commits there were, the final one not counted
	StepTime    int64       // of the last step, milliseconds since 1970; 0 without steps
	Final       bool        // the session is closed; otherwise the newest commit was a checkpoint
}

// Next is the point from which the session's next commit goes on.
func (s Settled) Next() wire.Start {
	return wire.Start{Checkpoints: s.Checkpoints, Sequence: s.Steps, Head: s.Head}
}

// Parameters are what every node replays with. They are set at genesis and constant.
type Parameters struct {
	ChainID          string
	ServiceName      string
	ServiceVersion   string
	Fingerprint      wire.Digest
	MaxSessionMillis int64  // longest life of a session: expires_at minus the time of its first step, and age of a step in a block
	MaxSteps         uint64 // steps in one session, at most wire.MaxSteps
	StepOperations   uint64 // state operations in one step
	StepBytes        uint64 // bytes moved to and from the state in one step
}

// Reader is what the read functions need; every state.Reader is one.
type Reader interface {
	Get(key []byte) (value []byte, ok bool, err error)
}

// Writer is what the write functions need; a *state.Overlay is one.
type Writer interface {
	Reader
	Set(key, value []byte)
}

// ActorOf is the actor that a signature under key speaks for. Refusals: key-not-registered, key-revoked (also when the
// actor was revoked).
func ActorOf(r Reader, key wire.PublicKey) (tandem.Actor, error) {
	k, ok, err := KeyOf(r, key)
	if err != nil {
		return tandem.Actor{}, err
	}
	if !ok {
		return tandem.Actor{}, refusal.New(refusal.KeyNotRegistered, "no actor holds the key %s", key.DID()).With("key", key.DID())
	}
	if k.Revoked {
		return tandem.Actor{}, refusal.New(refusal.KeyRevoked, "the key %s of actor %s was revoked", key.DID(), k.Actor).With("key", key.DID())
	}
	a, ok, err := ActorByID(r, k.Actor)
	if err != nil {
		return tandem.Actor{}, err
	}
	if !ok {
		return tandem.Actor{}, corrupt(keyKey(key), "belongs to actor %q, who does not exist", k.Actor)
	}
	if a.Revoked {
		return tandem.Actor{}, refusal.New(refusal.KeyRevoked, "the actor %s, who holds the key %s, was revoked", k.Actor, key.DID()).With("key", key.DID())
	}
	roles := slices.Clone(a.Roles)
	if k.Delegate {
		i, _ := slices.BinarySearch(roles, RoleDelegate)
		roles = slices.Insert(roles, i, RoleDelegate)
	}
	return tandem.Actor{ID: a.ID, Organisation: a.Organisation, Roles: roles}, nil
}

// ActorByID reads an actor's record; revoked actors are found too.
func ActorByID(r Reader, id string) (Actor, bool, error) {
	if checkName("actor id", id, MaxActorID) != nil {
		return Actor{}, false, nil
	}
	var rec actorRecord
	ok, err := read(r, actorKey(id), &rec)
	if err != nil || !ok {
		return Actor{}, false, err
	}
	return Actor{ID: id, Organisation: rec.Organisation, Roles: rec.Roles, Keys: rec.Keys, Revoked: rec.Revoked}, true, nil
}

// KeyOf reads a key's record; revoked keys are found too.
func KeyOf(r Reader, key wire.PublicKey) (Key, bool, error) {
	var rec keyRecord
	ok, err := read(r, keyKey(key), &rec)
	if err != nil || !ok {
		return Key{}, false, err
	}
	return Key{Actor: rec.Actor, Delegate: rec.Delegate, Revoked: rec.Revoked}, true, nil
}

// Originator checks that key is on the Layer 2 list and not removed. Refusal: originator-unknown.
func Originator(r Reader, key wire.PublicKey) error {
	var rec nodeRecord
	ok, err := read(r, layer2Key(key), &rec)
	if err != nil {
		return err
	}
	if !ok || rec.Removed {
		return refusal.New(refusal.OriginatorUnknown, "%s is not on the list of Layer 2 nodes", key.DID()).With("originator", key.DID())
	}
	return nil
}

// Layer2 is the list of Layer 2 nodes, removed ones included, sorted by key.
func Layer2(r state.Reader) ([]Node, error) {
	var nodes []Node
	start := []byte(layer2Prefix)
	for e, err := range r.Scan(start, prefixEnd(start)) {
		if err != nil {
			return nil, err
		}
		var rec nodeRecord
		if len(e.Key) != len(layer2Prefix)+len(wire.PublicKey{}) {
			return nil, corrupt(e.Key, "is no key of a Layer 2 node")
		}
		if err := decode(e.Key, e.Value, &rec); err != nil {
			return nil, err
		}
		nodes = append(nodes, Node{
			Key: wire.PublicKey(e.Key[len(layer2Prefix):]), Organisation: rec.Organisation, Address: rec.Address, URL: rec.URL, Removed: rec.Removed,
		})
	}
	return nodes, nil
}

// IsLayer2 reports whether a key of the state belongs to the Layer 2 list.
func IsLayer2(key []byte) bool { return bytes.HasPrefix(key, []byte(layer2Prefix)) }

// SettledOf reads a session's settled record; ok is false when nothing of the session was committed.
func SettledOf(r Reader, id wire.SessionID) (Settled, bool, error) {
	var rec settledRecord
	ok, err := read(r, settledKey(id), &rec)
	if err != nil || !ok {
		return Settled{}, false, err
	}
	return Settled{
		Height: rec.Height, Actor: rec.Actor, Transaction: rec.Transaction, Head: rec.Head, Steps: rec.Steps, Time: rec.Time,
		Checkpoints: rec.Checkpoints, StepTime: rec.StepTime, Final: rec.Final,
	}, true, nil
}

// SupersededBy is the committed session of the same actor that superseded session id. Only an actor's own sessions
// can supersede: a session id is no secret, and nobody may close another's session by naming it.
func SupersededBy(r Reader, id wire.SessionID, actor string) (wire.SessionID, bool, error) {
	var rec supersededRecord
	ok, err := read(r, supersededKey(id, actor), &rec)
	if err != nil || !ok {
		return wire.SessionID{}, false, err
	}
	return rec.By, true, nil
}

// Settle records what was committed of a session, and the session it supersedes (nil for none) as superseded by it.
func Settle(w Writer, id wire.SessionID, s Settled, supersedes *wire.SessionID) {
	write(w, settledKey(id), settledRecord{
		Height: s.Height, Actor: s.Actor, Transaction: s.Transaction, Head: s.Head, Steps: s.Steps, Time: s.Time,
		Checkpoints: s.Checkpoints, StepTime: s.StepTime, Final: s.Final,
	})
	if supersedes != nil {
		write(w, supersededKey(*supersedes, s.Actor), supersededRecord{By: id})
	}
}

// ParametersOf reads the parameters. That there are none is a fault of the state: genesis writes them.
func ParametersOf(r Reader) (Parameters, error) {
	var rec parametersRecord
	ok, err := read(r, []byte(parametersKey), &rec)
	if err != nil {
		return Parameters{}, err
	}
	if !ok {
		return Parameters{}, corrupt([]byte(parametersKey), "is missing; was genesis applied?")
	}
	return Parameters{
		ChainID: rec.ChainID, ServiceName: rec.ServiceName, ServiceVersion: rec.ServiceVersion, Fingerprint: rec.Fingerprint,
		MaxSessionMillis: rec.MaxSessionMillis, MaxSteps: rec.MaxSteps, StepOperations: rec.StepOperations, StepBytes: rec.StepBytes,
	}, nil
}

// checkName refuses what is no id or role.
func checkName(what, s string, limit int) error {
	if s == "" || len(s) > limit {
		return refusal.New(refusal.BadRequest, "%s %.80q: must have 1 to %d characters", what, s, limit)
	}
	if s[0] == '.' {
		return refusal.New(refusal.BadRequest, "%s %q: must not begin with '.'", what, s)
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return refusal.New(refusal.BadRequest, "%s %q: only letters, digits, '-', '_' and '.'", what, s)
		}
	}
	return nil
}

// checkText refuses text that is too long or holds control characters.
func checkText(what, s string) error {
	if len(s) > MaxText {
		return refusal.New(refusal.BadRequest, "%s: at most %d bytes", what, MaxText)
	}
	if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\uFFFD' }) {
		return refusal.New(refusal.BadRequest, "%s %q: control characters are not allowed", what, s)
	}
	return nil
}
