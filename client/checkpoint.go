package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"tandem/internal/httpsig"
	"tandem/internal/session"
	"tandem/internal/wire"
	"tandem/receipt"
)

// statusCheckpoint is the status of an Outcome whose session stays open.
const statusCheckpoint = "checkpoint"

// Checkpointing says when a session that this client signs commits what it has and goes on, by itself. Both are looked at after each
// step; a checkpoint that cannot be handed over then is tried again after the next one. The zero value: never.
type Checkpointing struct {
	// Steps that are in no checkpoint yet.
	Steps int
	// Interval since the oldest of these steps, by Config.Clock.
	Interval time.Duration
}

// Checkpoint commits the steps so far, leaves the session open and waits until a block holds them. The Outcome's Status is
// then "checkpoint" and Checkpoint its number. If ctx or the client's patience ends first, the error says what was missing; nothing
// is lost, and the session can go on: the next checkpoint or commit holds these steps too. A conflict is a *Problem.
func (s *Session) Checkpoint(ctx context.Context) (Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checkpoint(ctx, false)
}

// CheckpointAsync hands the steps so far to Layer 1, leaves the session open and does not wait for a block.
func (s *Session) CheckpointAsync(ctx context.Context) (Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checkpoint(ctx, true)
}

func (s *Session) checkpoint(ctx context.Context, async bool) (Outcome, error) {
	if err := s.usable(); err != nil {
		return Outcome{}, err
	}
	if len(s.steps) == 0 {
		return Outcome{}, errors.New("client: a checkpoint holds at least one step")
	}
	if s.pending != nil && !s.pending.checkpoint() {
		return Outcome{}, s.pendingError()
	}
	if s.pending == nil {
		s.sign(httpsig.TagCommit, wire.Request{
			Method: http.MethodPost, Path: "/tandem/v1/sessions/" + s.id.String() + "/commit", ContentType: "application/json",
			Body: []byte(session.BodyCheckpoint), Created: s.c.clock().Unix(),
		})
		if err := s.keep(); err != nil {
			s.pending = nil // nothing was sent
			return Outcome{}, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.c.patience)
	defer cancel()
	for {
		what := s.request(&s.pending.parsed)
		what.async, what.wait = async, !async
		rep, err := s.c.exchange(ctx, what)
		if err != nil {
			return Outcome{}, err
		}
		o, err := s.checkpointed(ctx, rep)
		if err != nil {
			return o, err
		}
		if async || o.Status == statusCheckpoint {
			s.pending, s.held, s.oldest = nil, len(s.steps), time.Time{}
			return o, s.keep()
		}
		if err := sleep(ctx, max(rep.pause()/4, firstBackoff)); err != nil {
			return o, fmt.Errorf("the checkpoint is in no block yet: %w", err)
		}
	}
}

// checkpointed takes in the answer to a checkpoint.
func (s *Session) checkpointed(ctx context.Context, rep *reply) (Outcome, error) {
	if p := rep.problem(); p != nil {
		if status, ok := s.ask(ctx, p); ok && over(status) {
			return s.outcome, either(s.ended(status), p)
		}
		s.pending = nil // it takes no position: nothing stands in the way of another
		return Outcome{}, either(s.keep(), p)
	}
	a, err := s.checkSigned(rep)
	if err != nil {
		return Outcome{}, err
	}
	if a.Transcript != s.head {
		return Outcome{}, rep.lie("transcript", s.head.String(), a.Transcript.String())
	}
	if a.Sequence != uint64(len(s.steps)) {
		return Outcome{}, rep.lie("sequence", strconv.Itoa(len(s.steps)), strconv.FormatUint(a.Sequence, 10))
	}
	var o Outcome
	if err := json.Unmarshal(rep.body, &o); err != nil {
		return Outcome{}, rep.lie("body", "the checkpoint's outcome as JSON", err.Error())
	}
	switch {
	case rep.status == http.StatusOK && o.Status == statusCheckpoint && o.Height > 0 && o.Checkpoint > 0:
		s.c.seen.saw(o.Height, rep.url)
		return o, nil
	case rep.status == http.StatusAccepted && o.Status == statusCommitting:
		return o, nil
	}
	return Outcome{}, rep.lie("status", "200 checkpoint or 202 committing", fmt.Sprintf("%d %s", rep.status, o.Status))
}

// checkpoint reports whether the pending request is one. Its outcome need not be known before the session goes on.
func (p *pending) checkpoint() bool {
	return p != nil && p.parsed.Tag == httpsig.TagCommit && string(p.parsed.Request.Body) == session.BodyCheckpoint
}

// byPolicy makes a checkpoint if it is time to. The step that was just made is answered in any case.
func (s *Session) byPolicy(ctx context.Context) {
	now := s.c.clock()
	if s.oldest.IsZero() {
		s.oldest = now
	}
	p := s.c.checkpoint
	if p.Steps > 0 && len(s.steps)-s.held >= p.Steps || p.Interval > 0 && now.Sub(s.oldest) >= p.Interval {
		if _, err := s.checkpoint(ctx, true); err != nil && s.pending.checkpoint() {
			s.pending = nil
		}
	}
}

// CheckpointReceipt fetches the receipt of the session's checkpoint number n, from 1 (the final commit counts as the last), and verifies
// that it is about exactly the requests and answers that this client saw. genesis is the genesis file; nil is the client's own.
func (s *Session) CheckpointReceipt(ctx context.Context, n uint64, genesis []byte) ([]byte, *receipt.Proof, error) {
	if genesis == nil && s.c.genesis != nil {
		genesis = s.c.genesis.file
	}
	if genesis == nil {
		return nil, nil, errors.New("client: no genesis file to verify the receipt with")
	}
	rep, err := s.c.fetch(ctx, "/tandem/v1/sessions/"+s.id.String()+"/receipt?checkpoint="+strconv.FormatUint(n, 10))
	if err != nil {
		return nil, nil, err
	}
	proof, err := receipt.Verify(genesis, rep.body)
	if err != nil {
		return nil, nil, rep.lie("receipt", "one of this session that verifies", err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if proof.Session != s.id.String() || proof.Checkpoint != n || proof.LastStep > uint64(len(s.steps)) || proof.Transcript != s.headAt(proof.LastStep).String() {
		return nil, nil, rep.lie("receipt", fmt.Sprintf("of checkpoint %d of what was seen", n), fmt.Sprintf("of checkpoint %d of session %s with transcript %s", proof.Checkpoint, proof.Session, proof.Transcript))
	}
	return rep.body, proof, nil
}

// headAt is the transcript head after a step.
func (s *Session) headAt(sequence uint64) wire.Digest {
	head := wire.TranscriptStart(s.open)
	for _, tx := range s.steps[:sequence] {
		head = wire.TranscriptNext(head, tx)
	}
	return head
}
