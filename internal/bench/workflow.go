package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tandem/client"
	"tandem/examples/supplychain"
)

// Operation is one request of the workflow.
type Operation struct {
	Name  string
	Layer string // L1 or L2: where it is answered from
	Step  bool   // a handler runs; opening and committing are no steps
}

// Operations are the paper's workflow, in order. "create" makes the package, so that the workflow can be repeated.
var Operations = []Operation{
	{"open", L2, false},
	{"create", L2, true},
	{"scan", L2, true},
	{"validate", L2, true},
	{"quality-check", L2, true},
	{"label", L2, true},
	{"commit", L1, false},
}

// IsStep reports whether an operation of that name runs a handler.
func IsStep(name string) bool {
	for _, o := range Operations {
		if o.Name == name {
			return o.Step
		}
	}
	return false
}

// NewReference is a supplier's reference that nobody has used; each package needs its own.
func NewReference() string { return "DEMO-" + rand.Text() }

// task is what a package's way through the workflow consists of: each call takes a step and gives its answer's body. The two ways
// to take a step, in a session (Carry) and on Layer 1 alone (CarryOneLayer), share it.
func task(reference string, step func(name, target string, body []byte) ([]byte, error)) error {
	body, err := supplychain.DemoPackage(reference)
	if err != nil {
		return err
	}
	answer, err := step("create", "/packages", body)
	if err != nil {
		return err
	}
	var created struct {
		PackageID string `json:"package_id"`
	}
	if err := json.Unmarshal(answer, &created); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	path := "/packages/" + created.PackageID
	if answer, err = step("scan", path+"/scan", nil); err != nil {
		return err
	}
	var scanned struct {
		SupplierSignature string `json:"supplier_signature"`
	}
	if err := json.Unmarshal(answer, &scanned); err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	if body, err = json.Marshal(map[string]string{"signature": scanned.SupplierSignature}); err != nil {
		return err
	}
	if _, err := step("validate", path+"/validate", body); err != nil {
		return err
	}
	if _, err := step("quality-check", path+"/quality-check", []byte(`{"passed":true,"issues":[]}`)); err != nil {
		return err
	}
	_, err = step("label", path+"/label", []byte(`{"destination":"Pier 4, Rotterdam","priority":"express","courier_id":"COU-001"}`))
	return err
}

// stopwatch times the operations of one workflow. All starts are the first one's wall time plus what a monotonic clock says, so
// that a clock that is set in between changes no duration.
type stopwatch struct {
	began time.Time
	note  func(Sample)
}

// time runs one operation and notes it; a failure is noted too.
func (w *stopwatch) time(name, layer string, operation func(*Sample) error) error {
	a := Sample{Operation: name, Layer: layer, Start: w.began.Add(time.Since(w.began))}
	before := time.Now()
	err := operation(&a)
	a.Latency = time.Since(before)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
		a.Err = err.Error()
	}
	if w.note != nil {
		w.note(a)
	}
	return err
}

// Carry carries a new package with this reference through the workflow in one session, with a client that signs each request
// and checks each answer, and calls note (if not nil) after each operation, failed ones included; Config and Iteration are the
// caller's to fill in. It stops at the first failure. The session is nil only if it could not be opened.
func Carry(ctx context.Context, c *client.Client, reference string, note func(Sample)) (*client.Session, error) {
	w := stopwatch{time.Now(), note}
	var session *client.Session
	err := w.time("open", L2, func(a *Sample) (err error) {
		if session, err = c.Open(ctx); err == nil {
			a.Detail = "session " + session.ID()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = task(reference, func(name, target string, body []byte) (answer []byte, err error) {
		err = w.time(name, L2, func(a *Sample) error {
			got, err := session.Call(ctx, "POST", target, "application/json", body)
			if err != nil {
				return err
			}
			a.Height, a.Endorsements, a.Of = got.Height, got.Endorsed, got.Of
			a.Detail = fmt.Sprintf("%d, endorsed by %d of %d on height %d", got.Status, got.Endorsed, got.Of, got.Height)
			answer = got.Body
			return recorded(got)
		})
		return answer, err
	})
	if err != nil {
		return session, err
	}
	return session, w.time("commit", L1, func(a *Sample) error {
		outcome, err := session.Commit(ctx)
		if err != nil {
			return err
		}
		a.Height = outcome.Height
		a.Detail = fmt.Sprintf("height %d, transaction %s", outcome.Height, outcome.TransactionHash)
		return committed(session, outcome)
	})
}

// recorded makes an error of an answer that is no step.
func recorded(a *client.Answer) error {
	if !a.Recorded {
		return &ServiceError{Status: a.Status, Body: a.Body}
	}
	return nil
}

// ServiceError says that the service itself refused a step of the workflow: its answer is no step of the session.
type ServiceError struct {
	Status int // 400 or more
	Body   []byte
}

// Error is one line for people.
func (e *ServiceError) Error() string {
	return fmt.Sprintf("the service answered %d: %s", e.Status, e.Body)
}

// committed makes an error of an outcome that is none yet.
func committed(session *client.Session, o client.Outcome) error {
	if session == nil {
		return errors.New("no session")
	}
	if !o.Committed() {
		return fmt.Errorf("session %s is still %s", session.ID(), o.Status)
	}
	return nil
}
