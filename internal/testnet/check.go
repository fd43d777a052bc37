package testnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"tandem/internal/httpapi"
	"tandem/receipt"
)

// Check verifies the world: every running node has the same blocks and the same state roots at every height that all
// have and keep, every block's stated root is the root the nodes have, and every session in the ledger has, at the Layer 2 node
// that keeps it, the status committed with the right height and hash, and a receipt that proves it. It waits up to 20 s for
// nodes that are behind. It returns the sessions that are in the ledger.
func (w *Network) Check(ctx context.Context) (sessions []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	height := w.Height()
	var urls []string
	for i, m := range w.members {
		n := m.running()
		if n == nil {
			continue
		}
		if err := n.WaitHeight(ctx, height); err != nil {
			return nil, fmt.Errorf("testnet: check: node %d: %w", i, err)
		}
		urls = append(urls, n.URL())
	}
	return CheckWorld(ctx, urls, height)
}

// CheckWorld is Check for nodes that run anywhere, up to the given height, which all must have.
func CheckWorld(ctx context.Context, urls []string, height int64) (sessions []string, err error) {
	if len(urls) == 0 {
		return nil, errors.New("testnet: check: no node runs")
	}
	genesis, err := fetch(ctx, urls[0]+"/tandem/v1/genesis")
	if err != nil {
		return nil, err
	}
	root := ""
	for h := int64(1); h <= height; h++ {
		var first httpapi.Block
		for i, url := range urls {
			var b httpapi.Block
			if err := fetchJSON(ctx, fmt.Sprintf("%s/tandem/v1/blocks/%d", url, h), &b); err != nil {
				return nil, err
			}
			if i == 0 {
				first = b
			} else if b.Hash != first.Hash || b.AppHash != first.AppHash || b.StateRoot != first.StateRoot {
				return nil, fmt.Errorf("testnet: check: block %d is %+v at %s and %+v at %s", h, first, urls[0], b, url)
			}
		}
		// The header of h+1 carries the root that block h has stated: the block proves its own result.
		if root != "" && first.AppHash != root {
			return nil, fmt.Errorf("testnet: check: block %d says the state before it has root %s, the block before stated %s", h, first.AppHash, root)
		}
		root = first.StateRoot
		for _, tx := range first.Transactions {
			if tx.Session == "" {
				continue
			}
			if !slices.Contains(sessions, tx.Session) { // a session with checkpoints is in several blocks
				sessions = append(sessions, tx.Session)
			}
			if err := checkSession(ctx, urls, genesis, h, tx); err != nil {
				return nil, err
			}
		}
	}
	return sessions, nil
}

// checkSession asks every node about a session in block height. Each Layer 2 node must say committed, and every node that still
// keeps the state to make one has a receipt that proves it: one at least.
func checkSession(ctx context.Context, urls []string, genesis []byte, height int64, tx httpapi.BlockTx) error {
	receipts := 0
	for _, url := range urls {
		var s struct {
			Status      string `json:"status"`
			Height      int64  `json:"height"`
			Transaction string `json:"transaction_hash"`
			Checkpoints []struct {
				Number      uint64 `json:"checkpoint"`
				Height      int64  `json:"height"`
				Transaction string `json:"transaction_hash"`
			} `json:"checkpoints"`
		}
		var status *StatusError
		err := fetchJSON(ctx, url+"/tandem/v1/sessions/"+tx.Session, &s)
		part := ""
		for _, c := range s.Checkpoints {
			if c.Transaction == tx.Hash && c.Height == height {
				part = fmt.Sprintf("?checkpoint=%d", c.Number)
			}
		}
		keepsSessions := true
		switch {
		case errors.As(err, &status) && status.Code == "no-layer2":
			keepsSessions = false
		case err != nil:
			return err
		case part == "" && (s.Status != "committed" || s.Height != height || s.Transaction != tx.Hash):
			return fmt.Errorf("testnet: check: session %s is in block %d as %s, but %s says %+v", tx.Session, height, tx.Hash, url, s)
		}
		raw, err := fetch(ctx, url+"/tandem/v1/sessions/"+tx.Session+"/receipt"+part)
		if errors.As(err, &status) && status.Code == "session-not-found" {
			continue // served by another node, and the state before it is pruned
		}
		if err != nil {
			return err
		}
		proof, err := receipt.Verify(genesis, raw)
		if err != nil {
			return fmt.Errorf("testnet: check: the receipt of session %s from %s: %w", tx.Session, url, err)
		}
		if !keepsSessions && proof.Session == tx.Session && proof.Height > height {
			continue // without session records it knows of the newest part only
		}
		if proof.Height != height || proof.TransactionHash != tx.Hash || proof.Session != tx.Session {
			return fmt.Errorf("testnet: check: the receipt of session %s proves %+v", tx.Session, proof)
		}
		receipts++
	}
	if receipts == 0 {
		return fmt.Errorf("testnet: check: no node has a receipt of session %s in block %d", tx.Session, height)
	}
	return nil
}

// StatusError is an answer that is not 2xx. Code is the problem's, if there is a problem document.
type StatusError struct {
	Method, URL string
	Status      int
	Code        string
	Body        string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: %d %s: %s", e.Method, e.URL, e.Status, e.Code, e.Body)
}

var client = &http.Client{Timeout: 30 * time.Second}

func fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return do(req)
}

func fetchJSON(ctx context.Context, url string, into any) error {
	body, err := fetch(ctx, url)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("testnet: GET %s: %w: %s", url, err, body)
	}
	return nil
}

func do(req *http.Request) ([]byte, error) {
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 != 2 {
		var problem struct{ Code string }
		_ = json.Unmarshal(body, &problem) // an application's answer is no problem document
		return body, &StatusError{Method: req.Method, URL: req.URL.String(), Status: res.StatusCode, Code: problem.Code, Body: string(body)}
	}
	return body, nil
}
