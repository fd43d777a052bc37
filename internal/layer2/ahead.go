package layer2

import (
	"runtime"

	"tandem/internal/exec"
	"tandem/internal/httpsig"
	"tandem/internal/session"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Running a step ahead.
//
// An originator tells its peers of a signed request when it begins to run it (begun), and they verify the request's signature and run
// its handler while the originator does. When the step itself comes, all that is left to do for it is to compare. Nothing follows
// from having run ahead: no record, no vote, no word to anybody. What was run is used only for the very step that it was run for
// (request, place, time, originator), and only if the session still stands where it stood, on the same state; if not, the step goes
// the way of one that was never told of. So a lie in such a message costs its receiver a run, as a lie about a step does.

// ahead is the session's next step, its signature verified, run on a child of the session's overlay.
type ahead struct {
	request    wire.Digest
	sequence   uint64
	previous   wire.Digest
	time       int64
	originator wire.PublicKey

	overlay *state.Overlay // the child's parent
	base    int64          // height of the state under it
	child   *state.Overlay
	result  exec.Result
	asked   []question
}

// tellBegun tells the peers that this node begins to run a step. A node with much to do does not: its peers have much to do as well, and
// then it is the work that takes time, not the waiting for each other.
func (o *owner) tellBegun(req *wire.Request, sequence uint64, time int64) {
	if len(o.policy.Nodes) < 2 || o.e.inFlight.Load() > int64(runtime.GOMAXPROCS(0)) {
		return
	}
	o.e.cluster.sendAll(wire.PeerBegun{
		Session: o.id, Previous: o.machine.Head(), Sequence: sequence, Request: *req, Time: time, Height: o.base,
	}.Encode())
}

// begun runs a step ahead that a peer has begun to run, if it would be the next one here.
func (o *owner) begun(from wire.PublicKey, m wire.PeerBegun) {
	o.ahead = nil
	if o.refused != nil || o.machine.State() != session.Open || o.machine.Fault() != "" || o.machine.Behind() != nil ||
		m.Sequence != o.machine.Len()+1 || m.Previous != o.machine.Head() || o.e.Height() < m.Height {
		return
	}
	place := httpsig.Place{Session: o.id, Sequence: m.Sequence, Transcript: m.Previous}
	if o.timely(&m.Request, m.Time) != nil || m.Time < o.machine.Time() || o.mayStep(&m.Request) != nil ||
		o.signedBy(httpsig.TagStep, &m.Request, place) != nil || o.refresh(false) != nil || o.machine.State() != session.Open {
		return
	}
	a := &ahead{
		request: m.Request.Digest(), sequence: m.Sequence, previous: m.Previous, time: m.Time, originator: from,
		overlay: o.overlay, base: o.base, child: o.overlay.Child(),
	}
	o.source.take()
	result, refused, err := o.run(a.child, &m.Request, m.Sequence, m.Time, from)
	a.asked = o.source.take()
	if err == nil && refused == nil && result.Recorded {
		a.result = result
		o.ahead = a
	}
}

// ranAhead reports whether this step was run ahead, its request verified, and may be used.
func (o *owner) ranAhead(r *wire.Recorded, previous wire.Digest) bool {
	a, tx := o.ahead, &r.Transaction
	return a != nil && a.sequence == tx.Sequence && a.previous == previous && a.time == tx.Time && a.originator == tx.Originator &&
		a.sequence == o.machine.Len()+1 && a.previous == o.machine.Head() &&
		a.overlay == o.overlay && a.base == o.base && a.base >= r.Height && a.request == tx.Request.Digest()
}
