package client

import (
	"encoding/json"
	"errors"
	"fmt"

	"tandem/internal/httpsig"
	"tandem/internal/wire"
)

// savedVersion is the version of the saved form.
const savedVersion = 2

// saved is a session as a file: JSON, the signed parts as the bytes of docs/format. It holds no secret, but what was
// asked and when; keep it from others all the same.
type saved struct {
	Version int           `json:"version"`
	Session string        `json:"session_id"` // for people; it follows from Open
	Key     string        `json:"key"`
	Status  string        `json:"status"`
	Opened  bool          `json:"opened"` // a node has answered the opening request
	Height  int64         `json:"height"`
	Open    []byte        `json:"open"`
	Steps   [][]byte      `json:"steps"`
	Proofs  []savedProof  `json:"proofs"` // one for each step
	Nodes   []string      `json:"nodes"`  // URLs known, the one to stay with first
	Pending *savedPending `json:"pending,omitempty"`
	Outcome *Outcome      `json:"outcome,omitempty"`
}

// savedPending is the pending request.
type savedPending struct {
	Tag     string `json:"tag"`
	Request []byte `json:"request"`
	Refused bool   `json:"refused,omitempty"`
}

// Marshal returns the session as JSON, for Resume: by this client or one with the same key, in this process or another.
func (s *Session) Marshal() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marshal()
}

func (s *Session) marshal() ([]byte, error) {
	f := saved{
		Version: savedVersion, Session: s.id.String(), Key: s.open.Key.DID(), Status: s.status, Opened: s.opened, Height: s.height,
		Open: s.open.Encode(), Steps: [][]byte{}, Proofs: []savedProof{}, Nodes: s.c.URLs(),
	}
	for _, tx := range s.steps {
		f.Steps = append(f.Steps, tx.Encode())
	}
	for _, p := range s.proofs {
		f.Proofs = append(f.Proofs, p.saved())
	}
	if p := s.pending; p != nil {
		f.Pending = &savedPending{Tag: p.parsed.Tag, Request: p.parsed.Request.Encode(), Refused: p.refused}
	}
	if s.outcome != (Outcome{}) {
		f.Outcome = &s.outcome
	}
	text, err := json.MarshalIndent(f, "", "  ")
	return append(text, '\n'), err
}

// keep hands the session's state to the caller's save, if there is one.
func (s *Session) keep() error {
	if s.save == nil {
		return nil
	}
	text, err := s.marshal()
	if err == nil {
		err = s.save(text)
	}
	if err != nil {
		return fmt.Errorf("saving the session: %w", err)
	}
	return nil
}

// Resume takes up a session that Marshal saved. All in it is checked again: signatures, transcript, positions. The
// client's key must be the one that opened the session. Of the options only WithSave has a meaning.
func (c *Client) Resume(text []byte, opts ...OpenOption) (*Session, error) {
	var o openOptions
	for _, opt := range opts {
		opt(&o)
	}
	s, err := c.resume(text)
	if err != nil {
		return nil, fmt.Errorf("saved session: %w", err)
	}
	s.save = o.save
	return s, nil
}

func (c *Client) resume(text []byte) (*Session, error) {
	var f saved
	if err := wire.StrictJSON(text, 6, &f); err != nil {
		return nil, err
	}
	if f.Version != savedVersion {
		return nil, fmt.Errorf("version %d, this program knows %d", f.Version, savedVersion)
	}
	s := &Session{c: c, status: f.Status, opened: f.Opened, height: f.Height}
	switch s.status {
	case statusOpen, statusCommitting, statusCommitted, statusConflicted, statusAbandoned, statusExpired:
	default:
		return nil, fmt.Errorf("unknown status %q", f.Status)
	}
	var err error
	if s.open, err = wire.DecodeRequest(f.Open); err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	if err := httpsig.Verify(httpsig.TagOpen, &s.open, httpsig.Place{}); err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	if s.body, err = wire.ParseOpenBody(s.open.Body); err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	if c.genesis != nil && c.genesis.chainID != s.body.ChainID {
		return nil, fmt.Errorf("it belongs to chain %s, not %s", s.body.ChainID, c.genesis.chainID)
	}
	if did := s.open.Key.DID(); !c.key.IsZero() && did != c.key.DID() {
		return nil, fmt.Errorf("it was opened with the key %s, not %s", did, c.key.DID())
	}
	s.id = httpsig.SessionID(&s.open)
	if f.Session != s.id.String() {
		return nil, fmt.Errorf("its id is %s, not %s", s.id, f.Session)
	}
	s.head = wire.TranscriptStart(s.open)
	if len(f.Proofs) != len(f.Steps) {
		return nil, fmt.Errorf("%d steps, but %d proofs", len(f.Steps), len(f.Proofs))
	}
	for i, encoded := range f.Steps {
		if err := s.retake(uint64(i)+1, encoded); err != nil {
			return nil, fmt.Errorf("step %d: %w", i+1, err)
		}
		if err := s.retakeProof(f.Proofs[i]); err != nil {
			return nil, fmt.Errorf("step %d: proof: %w", i+1, err)
		}
	}
	for _, url := range f.Nodes {
		c.nodes.add(url)
	}
	if f.Outcome != nil {
		s.outcome = *f.Outcome
	}
	return s, s.retakePending(f.Pending)
}

// retake appends a saved step.
func (s *Session) retake(sequence uint64, encoded []byte) error {
	tx, err := wire.DecodeTransaction(encoded)
	if err != nil {
		return err
	}
	if tx.Sequence != sequence || tx.Request.Key != s.open.Key || tx.Time < s.lastTime() {
		return errors.New("it does not continue the session")
	}
	if err := httpsig.Verify(httpsig.TagStep, &tx.Request, s.next()); err != nil {
		return err
	}
	s.steps = append(s.steps, tx)
	s.head = wire.TranscriptNext(s.head, tx)
	return nil
}

// retakePending takes up the pending request.
func (s *Session) retakePending(f *savedPending) error {
	if f == nil {
		return nil
	}
	if f.Tag != httpsig.TagStep && f.Tag != httpsig.TagCommit {
		return fmt.Errorf("pending: unknown tag %q", f.Tag)
	}
	r, err := wire.DecodeRequest(f.Request)
	if err != nil {
		return fmt.Errorf("pending: %w", err)
	}
	if r.Key != s.open.Key {
		return errors.New("pending: signed with another key")
	}
	if err := httpsig.Verify(f.Tag, &r, s.next()); err != nil {
		return fmt.Errorf("pending: %w", err)
	}
	s.pending = &pending{parsed: httpsig.Parsed{Tag: f.Tag, Request: r, Place: s.next()}, refused: f.Refused}
	return nil
}
