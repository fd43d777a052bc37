package receipt

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cometbft/cometbft/types"

	"tandem/internal/wire"
)

// genesis is what the reader trusts: the chain, its validators and the actors it started with.
type genesis struct {
	chainID    string
	validators *types.ValidatorSet
	actors     map[wire.PublicKey]Actor
}

// genesisText is the part of a genesis file that Verify needs beyond CometBFT's reader.
type genesisText struct {
	Validators []struct {
		PubKey *struct {
			Type  string `json:"type"`
			Value []byte `json:"value"`
		} `json:"pub_key"`
	} `json:"validators"`
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
	// CometBFT's reader does not survive a validator without a key.
	for i, v := range text.Validators {
		if v.PubKey == nil || v.PubKey.Type != "tendermint/PubKeyEd25519" || len(v.PubKey.Value) != 32 {
			return nil, fmt.Errorf("validator %d has no Ed25519 key", i)
		}
	}
	document, err := types.GenesisDocFromJSON(raw)
	if err != nil {
		return nil, err
	}
	g := &genesis{chainID: document.ChainID}
	if g.validators, err = validatorSet(document); err != nil {
		return nil, err
	}
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

func validatorSet(document *types.GenesisDoc) (*types.ValidatorSet, error) {
	if len(document.Validators) == 0 {
		return nil, errors.New("it has no validators")
	}
	list := make([]*types.Validator, len(document.Validators))
	for i, v := range document.Validators {
		if v.Power <= 0 {
			return nil, fmt.Errorf("validator %d has power %d", i, v.Power)
		}
		list[i] = types.NewValidator(v.PubKey, v.Power)
	}
	// NewValidatorSet panics on a duplicate or on too much power; UpdateWithChangeSet returns the error.
	set := types.NewValidatorSet(nil)
	if err := set.UpdateWithChangeSet(list); err != nil {
		return nil, err
	}
	return set, nil
}
