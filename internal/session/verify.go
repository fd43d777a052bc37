package session

import (
	"tandem/internal/httpsig"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// Routes that a session's own requests are sent to. PathOpen is the opening request's whole path; a commit's is
// PathCommit of the session's id.
const PathOpen = "/tandem/v1/sessions"

// PathCommit returns the only path that a commit of the session may be signed for.
func PathCommit(id wire.SessionID) string { return PathOpen + "/" + id.String() + "/commit" }

// MaxSkewSeconds is how far a step's "created" (the client's clock) may be from its time (the originator's clock).
const MaxSkewSeconds = 300

// Proven is what a session commit proves by itself, without any state: which session, opened how, by which key, ending at which
// transcript head.
type Proven struct {
	ID      wire.SessionID
	Open    wire.OpenBody
	Key     wire.PublicKey // signed the opening, every step and the commit
	Start   wire.Start     // what of the session was committed before, according to this commit
	Steps   uint64         // of the whole session, up to the commit
	Final   bool           // the commit closes the session; otherwise it is a checkpoint
	Head    wire.Digest    // the transcript head that the commit signs
	Expires int64          // milliseconds since 1970, Open.ExpiresAt
}

// Verify checks everything about a session commit that needs no state: the opening request and its canonical body, the
// session id derived from it, one sound key for all requests, sequences from Start on, every target, the transcript chain from Start on,
// step times that never go back and stay within [MaxSkewSeconds] of what the client signed, responses that can have been recorded, the commit's
// place after the last step and its target, and every signature. A session without steps can be committed, but a checkpoint holds at
// least one. That Start is where the commits before it ended is Layer 1's to compare; see the argument in checkpoint.go.
//
// Errors are refusals that name session, step (from 1) and field where they apply: bad-request, bad-json, bad-target,
// body-too-large, header-too-large, unsupported-media-type, session-full, key-weak, wrong-session, wrong-sequence, wrong-time,
// non-canonical, signature-invalid, signature-malformed. A wrong transcript or place shows as signature-invalid, because the place is not
// in the bytes: each signature is verified at the place it must have been made for.
//
// It is pure; it costs about 50 microseconds per step, nearly all of it for the signatures.
func Verify(c *wire.SessionCommit) (Proven, error) { return verify(c, true) }

// VerifyAgain is [Verify] without the signatures and the soundness of the key: for a caller that remembers (by the hash
// of the very bytes) that Verify passed before. Nobody else may use it.
func VerifyAgain(c *wire.SessionCommit) (Proven, error) { return verify(c, false) }

func verify(c *wire.SessionCommit, signatures bool) (Proven, error) {
	proven, err := verifyOpen(&c.Open, signatures)
	if err != nil {
		return Proven{}, err
	}
	v := verifier{Proven: proven, signatures: signatures}
	if err := c.Start.Check(); err != nil {
		return Proven{}, v.refuse(err, 0, "start")
	}
	v.Start, v.Steps, v.Head = c.Start, c.Start.Sequence+uint64(len(c.Transactions)), c.Start.Head
	if c.Start.Sequence == 0 {
		v.Head = wire.TranscriptStart(c.Open)
	}
	if n := len(c.Transactions); n > wire.MaxSteps {
		return Proven{}, v.refuse(refusal.New(refusal.SessionFull, "the session commit has %d steps, more than %d", n, wire.MaxSteps), 0, "transactions")
	}
	previous := int64(0)
	for i := range c.Transactions {
		tx := &c.Transactions[i]
		if err := v.step(tx, c.Start.Sequence+uint64(i)+1, previous); err != nil {
			return Proven{}, err
		}
		previous = tx.Time
		v.Head = wire.TranscriptNext(v.Head, *tx)
	}
	if err := v.commit(&c.Commit, len(c.Transactions)); err != nil {
		return Proven{}, err
	}
	return v.Proven, nil
}

// VerifyOpen checks an opening request by itself: method, path, canonical body, key and signature. Proven.Head is T_0.
// Errors as for [Verify]. Chain id, fingerprint and expiry are the caller's to compare.
func VerifyOpen(open *wire.Request) (Proven, error) {
	p, err := verifyOpen(open, true)
	if err == nil {
		p.Head = wire.TranscriptStart(*open)
	}
	return p, err
}

func verifyOpen(open *wire.Request, signatures bool) (Proven, error) {
	v := verifier{Proven: Proven{ID: httpsig.SessionID(open), Key: open.Key}, signatures: signatures}
	if err := open.Check(); err != nil {
		return Proven{}, v.refuse(err, 0, "open")
	}
	if open.Method != "POST" || open.Path != PathOpen || open.Query != "" {
		return Proven{}, v.refuse(refusal.New(refusal.BadTarget, "an opening request is POST %s, not %s %.100s", PathOpen, open.Method, open.Path), 0, "open.path")
	}
	body, err := wire.ParseOpenBody(open.Body)
	if err != nil {
		return Proven{}, v.refuse(err, 0, "open.body")
	}
	v.Open, v.Expires = body, body.ExpiresAt
	if signatures {
		if err := wire.CheckKey(open.Key); err != nil {
			return Proven{}, v.refuse(err, 0, "open.key")
		}
		if err := httpsig.Verify(httpsig.TagOpen, open, httpsig.Place{}); err != nil {
			return Proven{}, v.refuse(err, 0, "open.signature")
		}
	}
	return v.Proven, nil
}

// verifier walks one session commit; Head is the transcript head so far.
type verifier struct {
	Proven
	signatures bool
}

// step checks the transaction that must stand at sequence; previous is the time of the one before, 0 for the first.
func (v *verifier) step(tx *wire.Transaction, sequence uint64, previous int64) error {
	if tx.Sequence != sequence {
		return v.refuse(refusal.New(refusal.WrongSequence, "sequence %d stands where %d belongs", tx.Sequence, sequence), sequence, "sequence")
	}
	if err := tx.Request.Check(); err != nil {
		return v.refuse(err, sequence, "request")
	}
	if err := tx.Response.Check(); err != nil {
		return v.refuse(err, sequence, "response")
	}
	if s := tx.Response.Status; s < 200 || s >= 400 {
		return v.refuse(refusal.New(refusal.NonCanonical, "an answer with status %d is never recorded", s), sequence, "response.status")
	}
	if err := v.times(tx, previous); err != nil {
		return v.refuse(err, sequence, "time")
	}
	place := httpsig.Place{Session: v.ID, Sequence: sequence, Transcript: v.Head}
	return v.signed(httpsig.TagStep, &tx.Request, place, sequence, "request")
}

func (v *verifier) times(tx *wire.Transaction, previous int64) error {
	if tx.Time < previous || tx.Time < 0 || tx.Time > wire.MaxTime {
		return refusal.New(refusal.WrongTime, "time %d is before the step before it, at %d, or out of range", tx.Time, previous)
	}
	if skew := tx.Time - tx.Request.Created*1000; skew > MaxSkewSeconds*1000 || skew < -MaxSkewSeconds*1000 {
		return refusal.New(refusal.WrongTime, "time %d is more than %d s away from created, %d", tx.Time, MaxSkewSeconds, tx.Request.Created)
	}
	return nil
}

func (v *verifier) commit(commit *wire.Request, steps int) error {
	if err := commit.Check(); err != nil {
		return v.refuse(err, 0, "commit")
	}
	if want := PathCommit(v.ID); commit.Method != "POST" || commit.Path != want || commit.Query != "" {
		return v.refuse(refusal.New(refusal.WrongSession, "a commit of this session is POST %s, not %s %.100s", want, commit.Method, commit.Path), 0, "commit.path")
	}
	final, err := ParseCommitBody(commit.Body)
	if err == nil && !final && steps == 0 {
		err = refusal.New(refusal.BadRequest, "a checkpoint holds at least one step")
	}
	if err != nil {
		return v.refuse(err, 0, "commit.body")
	}
	v.Final = final
	return v.signed(httpsig.TagCommit, commit, httpsig.Place{Session: v.ID, Sequence: v.Steps + 1, Transcript: v.Head}, 0, "commit")
}

func (v *verifier) signed(tag string, r *wire.Request, place httpsig.Place, step uint64, field string) error {
	if r.Key != v.Key {
		return v.refuse(refusal.New(refusal.SignatureInvalid, "signed by %s in a session that %s opened", r.Key, v.Key), step, field+".key")
	}
	if !v.signatures {
		return nil
	}
	if err := httpsig.Verify(tag, r, place); err != nil {
		return v.refuse(err, step, field+".signature")
	}
	return nil
}

// refuse adds to a refusal where it applies; step 0 is none.
func (v *verifier) refuse(err error, step uint64, field string) error {
	r, ok := refusal.As(err)
	if !ok {
		return err
	}
	r = r.With("session", v.ID.String()).With("field", field)
	if step > 0 {
		r = r.With("step", step)
	}
	return r
}
