package receipt

import (
	"encoding/json"
	"fmt"

	"tandem/internal/signedblock"
	"tandem/internal/wire"
)

// genesis is what the reader trusts: the chain, its validators and the actors it started with.
type genesis struct {
	chainID string
	trust   *signedblock.Trust
	actors  map[wire.PublicKey]Actor
}

// genesisText is the part of a genesis file that Verify needs beyond package signedblock.
type genesisText struct {
	AppState struct {
		Tandem struct {
			Actors []struct {
				ID           string   `json:"id"`
				Organisation string   `json:"organisation"`
				Keys         []string `json:"keys"`
				Delegates    []string `json:"delegates"`
			} `json:"actors"`
		} `json:"tandem"`
	} `json:"app_state"`
}

func readGenesis(raw []byte) (*genesis, error) {
	var text genesisText
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, err
	}
	trust, err := signedblock.ReadGenesis(raw)
	if err != nil {
		return nil, err
	}
	g := &genesis{chainID: trust.ChainID, trust: trust}
	g.actors = make(map[wire.PublicKey]Actor)
	for _, a := range text.AppState.Tandem.Actors {
		if err := g.add(a.Keys, Actor{ID: a.ID, Organisation: a.Organisation}); err != nil {
			return nil, err
		}
		if err := g.add(a.Delegates, Actor{ID: a.ID, Organisation: a.Organisation, Delegate: true}); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func (g *genesis) add(keys []string, a Actor) error {
	for _, did := range keys {
		key, err := wire.ParseDID(did)
		if err != nil {
			return fmt.Errorf("actor %q: %w", a.ID, err)
		}
		if _, taken := g.actors[key]; taken {
			return fmt.Errorf("actor %q: the key %s is there twice", a.ID, did)
		}
		a.Key = did
		g.actors[key] = a
	}
	return nil
}

// actor returns what the genesis file says about a key.
func (g *genesis) actor(key wire.PublicKey) Actor {
	if a, ok := g.actors[key]; ok {
		return a
	}
	return Actor{Key: key.DID()}
}
