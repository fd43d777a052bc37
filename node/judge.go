package node

import (
	"tandem"
	"tandem/evidence"
	"tandem/internal/judge"
)

// Judge runs a service's handlers for evidence.VerifyWith, offline: whether a Layer 2 node's answer is what the service gives
// on the state that the node has signed. The program must be the network's own, as for a node: evidence about sessions that
// were opened for another fingerprint it cannot judge. It is safe for concurrent use.
func Judge(svc tandem.Service) evidence.Judge { return judge.New(svc) }
