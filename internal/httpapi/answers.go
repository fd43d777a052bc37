package httpapi

// Health is what /healthz, /readyz and /metrics show.
type Health struct {
	// Live is false when the process should be restarted (its own state is in doubt, consensus has failed).
	Live bool `json:"live"`
	// Ready is false when the node should be given no work for now.
	Ready bool `json:"ready"`
	// Reasons say why it is not live or not ready, one sentence each.
	Reasons []string `json:"reasons,omitempty"`
	// Height is the newest committed block.
	Height int64 `json:"height"`
	// LagMillis is the age of the newest block by this node's clock.
	LagMillis int64 `json:"lag_ms"`
	// Consensus is true while the consensus engine runs and moves.
	Consensus bool `json:"consensus_alive"`
}

// Block is the answer of GET /tandem/v1/blocks/{height}.
type Block struct {
	Height       int64     `json:"height"`
	Time         string    `json:"time"`         // RFC 3339, UTC, with nanoseconds: the header's
	Hash         string    `json:"hash"`         // header hash, hex
	StateRoot    string    `json:"state_root"`   // the root this block results in, hex; empty if the block states none
	AppHash      string    `json:"app_hash"`     // the header's: the root after the block before
	Proposer     string    `json:"proposer"`     // validator address, hex
	Transactions []BlockTx `json:"transactions"` // in block order
}

// BlockTx names one transaction of a block.
type BlockTx struct {
	Hash    string `json:"hash"` // SHA-256 of the transaction's bytes, hex
	Kind    string `json:"kind"` // "root" or "session"
	Session string `json:"session_id,omitempty"`
}

// Transaction is the answer of GET /tandem/v1/transactions/{hash}.
type Transaction struct {
	Hash    string            `json:"hash"`
	Height  int64             `json:"height"`
	Index   int               `json:"index"` // place in the block
	Kind    string            `json:"kind"`  // "root" or "session"
	Session string            `json:"session_id,omitempty"`
	Actor   string            `json:"actor,omitempty"`
	Key     string            `json:"key,omitempty"` // did:key that signed the session
	Steps   []TransactionStep `json:"steps,omitempty"`
	Bytes   []byte            `json:"bytes"` // the transaction itself, base64
}

// TransactionStep is one step of a committed session.
type TransactionStep struct {
	Sequence   uint64 `json:"sequence"`
	Method     string `json:"method"`
	Target     string `json:"target"`
	Status     int    `json:"status"`
	Response   string `json:"response_digest"`
	Originator string `json:"originator"`
	Time       int64  `json:"time_ms"`
}

// Status is the answer of GET /tandem/v1/status.
type Status struct {
	ChainID     string       `json:"chain_id"`
	Fingerprint string       `json:"fingerprint"` // hex
	Service     string       `json:"service"`
	Version     string       `json:"service_version"`
	Height      int64        `json:"height"`
	Time        int64        `json:"time_ms"` // newest block's
	StateRoot   string       `json:"state_root"`
	Node        string       `json:"node"` // did:key of this node
	Custody     bool         `json:"custody"`
	Layer2      []Layer2Node `json:"layer2"`
	Validators  []Validator  `json:"validators"`
	Quarantine  []Quarantine `json:"quarantine"`
	Software    string       `json:"software,omitempty"`
}

// Layer2Node is a Layer 2 node on the ledger's list.
type Layer2Node struct {
	Key          string `json:"key"` // did:key
	Organisation string `json:"organisation"`
	URL          string `json:"url"`
}

// Validator is a Layer 1 validator.
type Validator struct {
	Address string `json:"address"` // hex
	Key     string `json:"key"`     // base64 Ed25519
	Power   int64  `json:"power"`
}

// Quarantine is a session that made a proposal fail on this node and is left out of its own proposals for a while.
type Quarantine struct {
	Session     string `json:"session_id"`
	Transaction string `json:"transaction_hash"`
	Step        uint64 `json:"step"`
	Field       string `json:"field"`
	Reason      string `json:"reason"`
	Height      int64  `json:"height"`
}
