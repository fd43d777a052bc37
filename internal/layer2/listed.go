package layer2

import "tandem/internal/ledger"

// mayOriginate refuses to begin anything on a node that was taken off the Layer 2 list, in which the session could not take
// a step.
func (e *Engine) mayOriginate() error {
	v, err := e.o.Ledger.View()
	if err == nil {
		err = ledger.Originator(v, e.self)
	}
	if err != nil {
		return e.stateRefusal(err)
	}
	return nil
}
