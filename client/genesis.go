package client

import (
	"encoding/json"
	"errors"
	"fmt"

	"tandem/internal/wire"
)

// genesis is what the client takes from a genesis file.
type genesis struct {
	file        []byte
	chainID     string
	fingerprint wire.Digest
	layer2      map[wire.PublicKey]bool
}

// parseGenesis reads the members of a genesis file that a client needs; the rest is for nodes.
func parseGenesis(file []byte) (*genesis, error) {
	var g struct {
		ChainID  string `json:"chain_id"`
		AppState struct {
			Tandem struct {
				Parameters struct {
					Fingerprint wire.Digest `json:"fingerprint"`
				} `json:"parameters"`
				Layer2 []struct {
					Key wire.PublicKey `json:"key"`
				} `json:"layer2"`
			} `json:"tandem"`
		} `json:"app_state"`
	}
	if err := json.Unmarshal(file, &g); err != nil {
		return nil, err
	}
	if err := wire.CheckChainID(g.ChainID); err != nil {
		return nil, fmt.Errorf("chain_id: %w", err)
	}
	out := &genesis{
		file: file, chainID: g.ChainID, fingerprint: g.AppState.Tandem.Parameters.Fingerprint, layer2: map[wire.PublicKey]bool{},
	}
	for _, node := range g.AppState.Tandem.Layer2 {
		out.layer2[node.Key] = true
	}
	if len(out.layer2) == 0 {
		return nil, errors.New("app_state.tandem.layer2 lists no Layer 2 node")
	}
	return out, nil
}
