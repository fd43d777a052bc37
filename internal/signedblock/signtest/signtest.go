// Package signtest is a ledger's signatures without a network, for tests: validators whose keys the test holds, the part
// of a genesis file that names them, and a signed header for any height and app hash. Equal arguments give equal bytes, so
// golden files can hold what it makes.
package signtest

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/cometbft/cometbft/crypto"
	cometed25519 "github.com/cometbft/cometbft/crypto/ed25519"
	cmtjson "github.com/cometbft/cometbft/libs/json"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	cmtversion "github.com/cometbft/cometbft/proto/tendermint/version"
	"github.com/cometbft/cometbft/types"
	"github.com/cometbft/cometbft/version"

	"tandem/internal/wire"
)

// created is when the ledger began.
const created = 1_700_000_000

// Validators sign blocks of one chain.
type Validators struct {
	chainID string
	keys    map[string]crypto.PrivKey // by address
	set     *types.ValidatorSet
	listed  []types.GenesisValidator
}

// New makes as many validators of equal power.
func New(chainID string, count int) *Validators {
	v := &Validators{chainID: chainID, keys: map[string]crypto.PrivKey{}}
	var list []*types.Validator
	for i := range count {
		key := cometed25519.GenPrivKeyFromSecret(fmt.Appendf(nil, "validator %d of %s", i, chainID))
		v.keys[key.PubKey().Address().String()] = key
		v.listed = append(v.listed, types.GenesisValidator{Address: key.PubKey().Address(), PubKey: key.PubKey(), Power: 10, Name: fmt.Sprintf("node%d", i)})
		list = append(list, types.NewValidator(key.PubKey(), 10))
	}
	v.set = types.NewValidatorSet(list)
	return v
}

// Genesis is a genesis file with this application state.
func (v *Validators) Genesis(appState []byte) []byte {
	document := types.GenesisDoc{
		GenesisTime: time.Unix(created, 0).UTC(), ChainID: v.chainID, InitialHeight: 1,
		ConsensusParams: types.DefaultConsensusParams(), AppHash: []byte{}, AppState: json.RawMessage(appState), Validators: v.listed,
	}
	raw, err := cmtjson.Marshal(&document)
	if err != nil {
		panic(err)
	}
	return raw
}

// Block makes the header of a block at height whose app hash is root, signed by all.
func (v *Validators) Block(height int64, root wire.Digest) (*types.Header, *types.Commit) {
	hash := func(what string) []byte { d := wire.Sum(fmt.Appendf(nil, "%s %d", what, height)); return d[:] }
	at := time.Unix(created+height, 0).UTC()
	header := &types.Header{
		Version: cmtversion.Consensus{Block: version.BlockProtocol, App: 1}, ChainID: v.chainID, Height: height, Time: at,
		LastBlockID:    types.BlockID{Hash: hash("block before"), PartSetHeader: types.PartSetHeader{Total: 1, Hash: hash("parts before")}},
		LastCommitHash: hash("commit before"), DataHash: hash("transactions"), ValidatorsHash: v.set.Hash(), NextValidatorsHash: v.set.Hash(),
		ConsensusHash: hash("parameters"), AppHash: root[:], LastResultsHash: hash("results"), EvidenceHash: hash("no evidence"),
		ProposerAddress: v.set.Validators[0].Address,
	}
	id := types.BlockID{Hash: header.Hash(), PartSetHeader: types.PartSetHeader{Total: 1, Hash: hash("parts")}}
	commit := &types.Commit{Height: height, Round: 0, BlockID: id}
	for i, validator := range v.set.Validators {
		voted := at.Add(time.Duration(i+1) * time.Millisecond)
		vote := &cmtproto.Vote{Type: cmtproto.PrecommitType, Height: height, BlockID: id.ToProto(), Timestamp: voted}
		signature, err := v.keys[validator.Address.String()].Sign(types.VoteSignBytes(v.chainID, vote))
		if err != nil {
			panic(err)
		}
		commit.Signatures = append(commit.Signatures, types.CommitSig{
			BlockIDFlag: types.BlockIDFlagCommit, ValidatorAddress: validator.Address, Timestamp: voted, Signature: signature,
		})
	}
	return header, commit
}
