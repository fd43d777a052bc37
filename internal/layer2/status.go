package layer2

import (
	"context"

	"tandem/internal/httpsig"
	"tandem/internal/ledger"
	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// Session returns a session's status, also of one that has ended, or that was committed through another node. Its signed
// requests and answers are not part of it. Refusal: session-not-found.
func (e *Engine) Session(ctx context.Context, id wire.SessionID) (Session, error) {
	leave, err := e.enter()
	if err != nil {
		return Session{}, err
	}
	defer leave()
	return e.session(id)
}

// session is Session without the count of requests.
func (e *Engine) session(id wire.SessionID) (Session, error) {
	o, err := e.find(id)
	if err != nil {
		return e.sessionElsewhere(id, err)
	}
	return ask(o, o.status)
}

func (e *Engine) sessionElsewhere(id wire.SessionID, notFound error) (Session, error) {
	v, err := e.o.Ledger.View()
	if err != nil {
		return Session{}, notFound
	}
	s, ok, err := ledger.SettledOf(v, id)
	if err != nil || !ok {
		return Session{}, notFound
	}
	status := session.Committed
	if !s.Final {
		status = session.Open
	}
	return Session{
		ID: id.String(), Status: status, Settled: s.Steps, Actor: s.Actor, Sequence: s.Steps, Transcript: s.Head.String(),
		Height: s.Height, Transaction: s.Transaction.String(), Time: s.Time, Elsewhere: true, Steps: []Step{},
	}, nil
}

func (o *owner) status() (Session, error) {
	if o.refused != nil {
		return Session{}, o.refused
	}
	s := Session{
		ID: o.id.String(), Status: o.machine.State(), Actor: o.actor, Key: o.open.Key.DID(), Sequence: o.machine.Len(),
		Transcript: o.machine.Head().String(), ExpiresAt: o.body.ExpiresAt, Steps: []Step{},
	}
	s.Settled, s.Checkpoints = o.machine.Start().Sequence, o.checkpoints()
	if o.body.Supersedes != nil {
		s.Supersedes = o.body.Supersedes.String()
	}
	switch s.Status {
	case session.Committing:
		s.Transaction = o.hash.String()
	case session.Committed:
		s.Height, s.Transaction, s.Time = o.ended.Height, o.ended.Transaction.String(), o.ended.Time
		s.Elsewhere = !o.ended.Ours
	case session.Conflicted:
		s.Conflict = o.conflict
	}
	if o.machine.Fault() != "" {
		s.Fault = o.explain(refusal.New(o.machine.Fault(), "the session cannot be committed"))
		s.FaultText = s.Fault.Error()
	}
	err := o.eachStored(func(st *stored) error {
		r := &st.tx.Request
		target := r.Path
		if r.Query != "" {
			target += "?" + r.Query
		}
		k, n := o.machine.Endorsements(st.tx.Sequence)
		s.Steps = append(s.Steps, Step{
			Sequence: st.tx.Sequence, Method: r.Method, Target: target, Status: st.tx.Response.Status,
			Request: r.Digest().String(), Response: st.tx.Response.Body.String(), Originator: st.tx.Originator.DID(),
			Time: st.tx.Time, Height: st.height, Endorsements: k, Of: n,
		})
		return nil
	})
	if err == nil && s.Elsewhere { // with steps that this node does not have: what the ledger says is what is so
		if v, at := o.e.o.Ledger.View(); at == nil {
			if r, ok, at := ledger.SettledOf(v, o.id); at == nil && ok && r.Head != o.machine.Head() {
				s.Sequence, s.Transcript, s.Steps = r.Steps, r.Head.String(), []Step{}
			}
		}
	}
	return s, err
}

// Abandon ends a session at its client's signed wish: a tandem-step signature over DELETE /tandem/v1/sessions/{id} at the
// session's next sequence and head. It returns the session's status. Abandoning twice is no error.
func (e *Engine) Abandon(ctx context.Context, p *httpsig.Parsed) (Session, error) {
	leave, err := e.enter()
	if err != nil {
		return Session{}, err
	}
	defer leave()
	if p.Tag != httpsig.TagStep {
		return Session{}, refusal.New(refusal.WrongTag, "abandoning is signed with the tag %s, not %.64q", httpsig.TagStep, p.Tag)
	}
	o, err := e.findAnywhere(ctx, p.Place.Session)
	if err != nil {
		return Session{}, err
	}
	if want := session.PathOpen + "/" + o.id.String(); p.Request.Method != "DELETE" || p.Request.Path != want || p.Request.Query != "" {
		return Session{}, refusal.New(refusal.WrongSession, "abandoning this session is DELETE %s, not %s %.100s", want, p.Request.Method, p.Request.Path)
	}
	if err := o.signed(p); err != nil {
		return Session{}, err
	}
	return ask(o, func() (Session, error) {
		if o.machine != nil && o.machine.State() == session.Open {
			if err := fresh(p.Request.Created, o.e.now()); err != nil {
				return Session{}, err
			}
		}
		return o.abandon(p.Place, &p.Request)
	})
}

// AbandonCustody is Abandon for a custody session; actor may be "" (the session's).
func (e *Engine) AbandonCustody(ctx context.Context, id wire.SessionID, actor string) (Session, error) {
	leave, err := e.enter()
	if err != nil {
		return Session{}, err
	}
	defer leave()
	o, err := e.find(id)
	if err != nil {
		return Session{}, err
	}
	c, err := o.custodian(actor)
	if err != nil {
		return Session{}, err
	}
	return ask(o, func() (Session, error) {
		place := httpsig.Place{Session: id, Sequence: o.machine.Len() + 1, Transcript: o.machine.Head()}
		req := &wire.Request{
			Method: "DELETE", Path: session.PathOpen + "/" + id.String(), ContentType: "application/json", Created: e.now() / 1000,
		}
		httpsig.Sign(c.key, httpsig.TagStep, req, place)
		return o.abandon(place, req)
	})
}

func (o *owner) abandon(place httpsig.Place, req *wire.Request) (Session, error) {
	if o.refused != nil {
		return Session{}, o.refused
	}
	o.followPolicy()
	acts := o.machine.Step(session.AbandonRequested{Sequence: place.Sequence, Transcript: place.Transcript})
	if len(acts) > 0 {
		if _, ok := acts[0].(session.Persist); ok {
			o.leaving = req
		}
	}
	rest, err := o.do(acts, o.payload)
	if err != nil {
		return Session{}, err
	}
	for _, a := range rest {
		switch a := a.(type) {
		case session.Choose:
			if err := o.choose(a); err != nil {
				return Session{}, err
			}
			return o.abandon(place, req)
		case session.Seek:
			return Session{}, o.behind(place)
		}
	}
	if o.leaving == req {
		o.e.cluster.sendAll(o.endMessage(req).Encode())
	}
	return o.status()
}
