// Package supplychain is the supply-chain service of the paper as an author would write it.
package supplychain

import "tandem"

// Service returns the supply-chain service, ready to be run by a node or tested with net/http/httptest.
func Service() tandem.Service {
	return tandem.Service{Name: "supplychain", Version: "1", Registry: &tandem.Registry{}, Genesis: seed}
}
