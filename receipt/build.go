package receipt

import (
	"errors"
	"fmt"

	"github.com/cometbft/cometbft/crypto/merkle"
	"github.com/cometbft/cometbft/types"

	"tandem/internal/signedblock"
)

// Parts is what a node takes from its stores to make a receipt.
type Parts struct {
	// Genesis is the network's genesis file.
	Genesis []byte
	// Header is the block's header.
	Header *types.Header
	// Commit is the validators' commit for that block: the next block's LastCommit, or the commit that the node saw.
	Commit *types.Commit
	// Txs are all transactions of the block, Index that of the session commit among them.
	Txs   types.Txs
	Index int
	// Bodies are the response bodies of the session's steps, in order.
	Bodies [][]byte
}

// Build makes the receipt file. It leaves out the signatures that are not needed (the last ones of the validator set
// first) and verifies the result, so it never returns a receipt that does not prove what it should.
func Build(p Parts) ([]byte, error) {
	if p.Header == nil || p.Commit == nil {
		return nil, errors.New("receipt: no header or no commit")
	}
	if p.Index < 0 || p.Index >= len(p.Txs) {
		return nil, fmt.Errorf("receipt: no transaction %d among %d", p.Index, len(p.Txs))
	}
	g, err := readGenesis(p.Genesis)
	if err != nil {
		return nil, fmt.Errorf("receipt: genesis file: %w", err)
	}
	c, err := g.trust.CommitOf(p.Commit)
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	f := &file{
		Format: Format, Header: signedblock.HeaderOf(p.Header), Commit: c, Path: pathOf(p.Txs, p.Index),
		Transaction: append([]byte{}, p.Txs[p.Index]...), Bodies: make([][]byte, len(p.Bodies)),
	}
	for i, b := range p.Bodies {
		f.Bodies[i] = append([]byte{}, b...)
	}
	raw, err := f.encode()
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	// The bytes, not the value: what is handed out is what was checked.
	again, err := decodeFile(raw)
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	if _, err := verify(g, again); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return raw, nil
}

// pathOf turns CometBFT's proof into turns: the siblings from the leaf up, and the side each stands on, which follows from index and total.
func pathOf(txs types.Txs, index int) []turn {
	hashes := make([][]byte, len(txs))
	for i, tx := range txs {
		hashes[i] = tx.Hash()
	}
	_, proofs := merkle.ProofsFromByteSlices(hashes)
	aunts := proofs[index].Aunts
	path := make([]turn, len(aunts))
	total := len(txs)
	for level := len(aunts) - 1; level >= 0; level-- {
		left := split(total)
		if index < left {
			path[level] = turn{Side: "right", Hash: aunts[level]}
			total = left
		} else {
			path[level] = turn{Side: "left", Hash: aunts[level]}
			index, total = index-left, total-left
		}
	}
	return path
}

// split is the number of leaves in the left half of a tree of n > 1: the largest power of two below n (RFC 6962 section 2.1).
func split(n int) int {
	k := 1
	for 2*k < n {
		k *= 2
	}
	return k
}
