package testnet_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"tandem/examples/supplychain"
)

// web talks to one node like curl does: unsigned, in custody. Errors are for the caller, so that load can meet dying nodes.
type web struct{ url string }

// answer is an HTTP answer with what every framework answer may have.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
	Code   string // of a problem document

	SessionID string `json:"session_id"`
	PackageID string `json:"package_id"`
	Signature string `json:"supplier_signature"`
	State     string `json:"status"` // of a session
	Height    int64  `json:"height"`
	Hash      string `json:"transaction_hash"`
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.Status, a.Body) }

var httpClient = &http.Client{Timeout: 40 * time.Second}

// call sends one request; session may be empty, body a string, []byte or something for JSON.
func (w web) call(ctx context.Context, method, path, session string, body any) (answer, error) {
	var a answer
	var raw []byte
	switch b := body.(type) {
	case nil:
	case []byte:
		raw = b
	case string:
		raw = []byte(b)
	default:
		var err error
		if raw, err = json.Marshal(b); err != nil {
			return a, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, bytes.NewReader(raw))
	if err != nil {
		return a, err
	}
	if len(raw) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	if session != "" {
		req.Header.Set("Tandem-Session", session)
	}
	res, err := httpClient.Do(req)
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	a.Status, a.Header = res.StatusCode, res.Header
	if a.Body, err = io.ReadAll(res.Body); err != nil {
		return a, err
	}
	_ = json.Unmarshal(a.Body, &a) // what has another form leaves the fields empty
	a.Status = res.StatusCode
	return a, nil
}

// want is call with an expected status; another one is an error.
func (w web) want(ctx context.Context, status int, method, path, session string, body any) (answer, error) {
	a, err := w.call(ctx, method, path, session, body)
	if err == nil && a.Status != status {
		err = fmt.Errorf("%s %s: %s, want %d", method, path, a, status)
	}
	return a, err
}

// reference makes a supplier reference that was never used.
func reference() string { return "T-" + rand.Text() }

// prepare opens a session and makes the whole workflow's steps but the commit. It returns session and package.
func (w web) prepare(ctx context.Context) (session, pkg string, err error) {
	open, err := w.want(ctx, 201, "POST", "/tandem/v1/sessions", "", "{}")
	if err != nil {
		return "", "", err
	}
	session = open.SessionID
	body, err := supplychain.DemoPackage(reference())
	if err != nil {
		return "", "", err
	}
	created, err := w.want(ctx, 201, "POST", "/packages", session, body)
	if err != nil {
		return session, "", err
	}
	pkg = created.PackageID
	scan, err := w.want(ctx, 200, "POST", "/packages/"+pkg+"/scan", session, "{}")
	if err != nil {
		return session, pkg, err
	}
	for _, step := range []struct {
		path string
		body any
	}{
		{"validate", map[string]any{"signature": scan.Signature}},
		{"quality-check", map[string]any{"passed": true, "issues": []string{}}},
		{"label", map[string]any{"destination": "Lisbon", "priority": "standard", "courier_id": "COU-001"}},
	} {
		a, err := w.call(ctx, "POST", "/packages/"+pkg+"/"+step.path, session, step.body)
		if err == nil && a.Status/100 != 2 {
			err = fmt.Errorf("%s: %s", step.path, a)
		}
		if err != nil {
			return session, pkg, err
		}
	}
	return session, pkg, nil
}

// commit commits a session and waits until it is in a block, asking again while the answer is 202.
func (w web) commit(ctx context.Context, session string) (answer, error) {
	for {
		a, err := w.call(ctx, "POST", "/tandem/v1/sessions/"+session+"/commit", "", "{}")
		switch {
		case err != nil:
			return a, err
		case a.Status == 200 && a.State == "committed":
			return a, nil
		case a.Status != 202:
			return a, fmt.Errorf("commit: %s", a)
		case ctx.Err() != nil:
			return a, ctx.Err()
		}
	}
}

// workflow is prepare and commit; it fails the test on any error.
func (w web) workflow(t testing.TB, ctx context.Context) (session string, committed answer) {
	t.Helper()
	session, _, err := w.prepare(ctx)
	if err != nil {
		t.Fatal(err)
	}
	committed, err = w.commit(ctx, session)
	if err != nil {
		t.Fatal(err)
	}
	return session, committed
}

// until polls a condition every 20 ms; it is for what has no event across a process boundary.
func until(ctx context.Context, ok func() (bool, error)) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		done, err := ok()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-ticker.C:
		}
	}
}
