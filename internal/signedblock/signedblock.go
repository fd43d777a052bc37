// Package signedblock is a block's header with the validators' signatures on it, as a JSON file can carry it: enough to
// prove, to anyone who has the genesis file, that more than two thirds of the validators' power signed this block. The
// header's hash covers all its members, among them the root of the block's transactions and, as the app hash, the root of
// the state that the blocks before it have led to. Receipts and evidence files hold one.
//
// It has one form: no more signatures than needed, in the order of the validator set, every member bound by the header's hash
// or by a signature. The validator set is the genesis file's; a block of another set is refused.
package signedblock

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	cmtversion "github.com/cometbft/cometbft/proto/tendermint/version"
	"github.com/cometbft/cometbft/types"
)

// Trust is what the reader trusts: the chain and its validators.
type Trust struct {
	ChainID    string
	Validators *types.ValidatorSet
}

// ReadGenesis takes them from a genesis file.
func ReadGenesis(raw []byte) (*Trust, error) {
	var text struct {
		Validators []struct {
			PubKey *struct {
				Type  string `json:"type"`
				Value []byte `json:"value"`
			} `json:"pub_key"`
		} `json:"validators"`
	}
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
	t := &Trust{ChainID: document.ChainID}
	if t.Validators, err = validatorSet(document); err != nil {
		return nil, err
	}
	return t, nil
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

// Signed says who signed a block.
type Signed struct {
	Signers, Validators int
	Power, TotalPower   int64
}

// Verify checks that more than two thirds of the trusted validators' power signed the header, and returns it. No
// signature is left over.
func (t *Trust) Verify(h *Header, c *Commit) (*types.Header, Signed, error) {
	header, err := h.toComet()
	if err != nil {
		return nil, Signed{}, fmt.Errorf("block header: %w", err)
	}
	if header.ChainID != t.ChainID {
		return nil, Signed{}, fmt.Errorf("block header: of chain %q, not of the genesis file's %q", header.ChainID, t.ChainID)
	}
	if !bytes.Equal(header.ValidatorsHash, t.Validators.Hash()) {
		return nil, Signed{}, fmt.Errorf("block header: of a block of other validators (hash %s) than the genesis file's (%x)", header.ValidatorsHash, t.Validators.Hash())
	}
	full, err := c.toComet(header, t.Validators)
	if err != nil {
		return nil, Signed{}, fmt.Errorf("signatures: %w", err)
	}
	if err := types.VerifyCommit(t.ChainID, t.Validators, full.BlockID, header.Height, full); err != nil {
		return nil, Signed{}, fmt.Errorf("signatures: %w", err)
	}
	if err := minimal(t.Validators, full); err != nil {
		return nil, Signed{}, fmt.Errorf("signatures: %w", err)
	}
	return header, Signed{len(c.Signatures), t.Validators.Size(), signedPower(t.Validators, full), t.Validators.TotalVotingPower()}, nil
}

// Header is the CometBFT block header; its hash covers every member.
type Header struct {
	BlockVersion       uint64    `json:"block_version"`
	AppVersion         uint64    `json:"app_version"`
	ChainID            string    `json:"chain_id"`
	Height             int64     `json:"height"`
	Time               time.Time `json:"time"`
	LastBlockHash      Hex       `json:"last_block_hash"`
	LastBlockParts     Parts     `json:"last_block_parts"`
	LastCommitHash     Hex       `json:"last_commit_hash"`
	DataHash           Hex       `json:"data_hash"`
	ValidatorsHash     Hex       `json:"validators_hash"`
	NextValidatorsHash Hex       `json:"next_validators_hash"`
	ConsensusHash      Hex       `json:"consensus_hash"`
	AppHash            Hex       `json:"app_hash"`
	LastResultsHash    Hex       `json:"last_results_hash"`
	EvidenceHash       Hex       `json:"evidence_hash"`
	ProposerAddress    Hex       `json:"proposer_address"`
}

// Parts names the parts that a block was gossiped in; validators sign it along with the block's hash.
type Parts struct {
	Total uint32 `json:"total"`
	Hash  Hex    `json:"hash"`
}

// Commit is the validators' word on the block. Its height and block hash are the header's.
type Commit struct {
	Round      int32       `json:"round"`
	Parts      Parts       `json:"parts"`
	Signatures []Signature `json:"signatures"` // in the order of the validator set, no more than needed
}

// Signature is one validator's vote.
type Signature struct {
	Validator Hex       `json:"validator"` // address
	Time      time.Time `json:"time"`      // the vote's
	Signature []byte    `json:"signature"`
}

// Hex is bytes that are lower-case hex in JSON.
type Hex []byte

// MarshalText writes lower-case hex.
func (h Hex) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// UnmarshalText reads hex; that it was lower case is seen when the file is encoded again.
func (h *Hex) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	*h = raw
	return err
}

// CommitOf keeps as many of the signatures on a block as are needed, each of them needed; it leaves out the last ones of the validator
// set first. c is the commit for that block: the next block's LastCommit, or the commit that a node saw.
func (t *Trust) CommitOf(c *types.Commit) (Commit, error) {
	validators := t.Validators
	if len(c.Signatures) != validators.Size() {
		return Commit{}, fmt.Errorf("a commit of %d votes for %d validators", len(c.Signatures), validators.Size())
	}
	power, total := signedPower(validators, c), validators.TotalVotingPower()
	keep := make([]bool, len(c.Signatures))
	for i := len(c.Signatures) - 1; i >= 0; i-- {
		if c.Signatures[i].BlockIDFlag != types.BlockIDFlagCommit {
			continue
		}
		if own := validators.Validators[i].VotingPower; enough(power-own, total) {
			power -= own
		} else {
			keep[i] = true
		}
	}
	out := Commit{
		Round:      c.Round,
		Parts:      Parts{Total: c.BlockID.PartSetHeader.Total, Hash: Hex(c.BlockID.PartSetHeader.Hash)},
		Signatures: []Signature{},
	}
	for i, s := range c.Signatures {
		if keep[i] {
			out.Signatures = append(out.Signatures, Signature{Validator: Hex(s.ValidatorAddress), Time: s.Timestamp.UTC(), Signature: s.Signature})
		}
	}
	return out, nil
}

// HeaderOf takes over a block's header.
func HeaderOf(h *types.Header) Header {
	return Header{
		BlockVersion: h.Version.Block, AppVersion: h.Version.App,
		ChainID: h.ChainID, Height: h.Height, Time: h.Time.UTC(),
		LastBlockHash:  Hex(h.LastBlockID.Hash),
		LastBlockParts: Parts{Total: h.LastBlockID.PartSetHeader.Total, Hash: Hex(h.LastBlockID.PartSetHeader.Hash)},
		LastCommitHash: Hex(h.LastCommitHash), DataHash: Hex(h.DataHash),
		ValidatorsHash: Hex(h.ValidatorsHash), NextValidatorsHash: Hex(h.NextValidatorsHash),
		ConsensusHash: Hex(h.ConsensusHash), AppHash: Hex(h.AppHash), LastResultsHash: Hex(h.LastResultsHash),
		EvidenceHash: Hex(h.EvidenceHash), ProposerAddress: Hex(h.ProposerAddress),
	}
}

func (h *Header) toComet() (*types.Header, error) {
	out := &types.Header{
		Version: cmtversion.Consensus{Block: h.BlockVersion, App: h.AppVersion},
		ChainID: h.ChainID, Height: h.Height, Time: h.Time,
		LastBlockID: types.BlockID{
			Hash:          []byte(h.LastBlockHash),
			PartSetHeader: types.PartSetHeader{Total: h.LastBlockParts.Total, Hash: []byte(h.LastBlockParts.Hash)},
		},
		LastCommitHash: []byte(h.LastCommitHash), DataHash: []byte(h.DataHash),
		ValidatorsHash: []byte(h.ValidatorsHash), NextValidatorsHash: []byte(h.NextValidatorsHash),
		ConsensusHash: []byte(h.ConsensusHash), AppHash: []byte(h.AppHash), LastResultsHash: []byte(h.LastResultsHash),
		EvidenceHash: []byte(h.EvidenceHash), ProposerAddress: []byte(h.ProposerAddress),
	}
	if err := out.ValidateBasic(); err != nil {
		return nil, err
	}
	if len(out.Hash()) != sha256.Size {
		return nil, errors.New("it has no hash")
	}
	return out, nil
}

// toComet builds the commit that CometBFT's verifier takes: one entry per validator, absent where there is no
// signature. Addresses are compared here, because nothing signs them.
func (c *Commit) toComet(h *types.Header, validators *types.ValidatorSet) (*types.Commit, error) {
	out := &types.Commit{
		Height: h.Height, Round: c.Round,
		BlockID:    types.BlockID{Hash: h.Hash(), PartSetHeader: types.PartSetHeader{Total: c.Parts.Total, Hash: []byte(c.Parts.Hash)}},
		Signatures: make([]types.CommitSig, validators.Size()),
	}
	for i := range out.Signatures {
		out.Signatures[i] = types.NewCommitSigAbsent()
	}
	last := int32(-1)
	for _, s := range c.Signatures {
		index, validator := validators.GetByAddress([]byte(s.Validator))
		if validator == nil {
			return nil, fmt.Errorf("%x is no validator of the genesis file", []byte(s.Validator))
		}
		if index <= last {
			return nil, errors.New("they are not in the order of the validator set")
		}
		last = index
		out.Signatures[index] = types.CommitSig{
			BlockIDFlag: types.BlockIDFlagCommit, ValidatorAddress: validator.Address, Timestamp: s.Time, Signature: s.Signature,
		}
	}
	if err := out.ValidateBasic(); err != nil {
		return nil, err
	}
	return out, out.BlockID.ValidateBasic()
}

// signedPower adds up the power of the validators that signed the block.
func signedPower(validators *types.ValidatorSet, c *types.Commit) int64 {
	var power int64
	for i, s := range c.Signatures {
		if s.BlockIDFlag == types.BlockIDFlagCommit {
			power += validators.Validators[i].VotingPower
		}
	}
	return power
}

// enough is CometBFT's rule, more than two thirds, in the same arithmetic.
func enough(power, total int64) bool { return power > total*2/3 }

// minimal refuses a commit that holds a signature it does not need: then leaving that signature out would be a change to the file that
// goes unnoticed.
func minimal(validators *types.ValidatorSet, c *types.Commit) error {
	power, total := signedPower(validators, c), validators.TotalVotingPower()
	for i, s := range c.Signatures {
		if s.BlockIDFlag == types.BlockIDFlagCommit && enough(power-validators.Validators[i].VotingPower, total) {
			return fmt.Errorf("that of %s is more than is needed", validators.Validators[i].Address)
		}
	}
	return nil
}
