package httpapi

import (
	"net/http"
	"strconv"
	"strings"

	"tandem/internal/refusal"
	"tandem/internal/session"
	"tandem/internal/wire"
)

// forever marks what can never change: what is in a block, and the genesis file.
func forever(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
}

// block serves GET /tandem/v1/blocks/{height}.
func (a *api) block(w http.ResponseWriter, r *http.Request) {
	height, err := decimal("height", r.PathValue("height"))
	if err == nil {
		err = a.awaitHeight(r)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	b, err := a.o.Ledger.Block(r.Context(), height)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if b.Transactions == nil {
		b.Transactions = []BlockTx{}
	}
	forever(w)
	a.writeJSON(w, r, http.StatusOK, b)
}

// transaction serves GET /tandem/v1/transactions/{hash}. CometBFT's tools print hashes in upper case; both are taken.
func (a *api) transaction(w http.ResponseWriter, r *http.Request) {
	hash, err := wire.ParseDigest(strings.ToLower(r.PathValue("hash")))
	if err != nil {
		a.fail(w, r, refusal.New(refusal.BadRequest, "%q is no transaction hash: 64 hex digits", shorten(r.PathValue("hash"))))
		return
	}
	if err := a.awaitHeight(r); err != nil {
		a.fail(w, r, err)
		return
	}
	t, err := a.o.Ledger.Transaction(r.Context(), hash)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	forever(w)
	a.writeJSON(w, r, http.StatusOK, t)
}

// receipt serves GET /tandem/v1/sessions/{id}/receipt.
func (a *api) receipt(w http.ResponseWriter, r *http.Request) {
	id, err := sessionID(r.PathValue("id"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	part, name := uint64(0), "receipt-"+id.String()
	if text := r.URL.Query().Get("checkpoint"); text != "" {
		if part, err = strconv.ParseUint(text, 10, 32); err != nil || part == 0 {
			a.fail(w, r, refusal.New(refusal.BadRequest, "checkpoint is a number from 1, not %q", shorten(text)))
			return
		}
		name += "-" + strconv.FormatUint(part, 10)
	}
	file, err := a.o.Ledger.Receipt(r.Context(), id, part)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if part > 0 || a.closed(r, id) {
		forever(w)
	}
	w.Header().Set("Content-Disposition", `attachment; filename="`+name+`.json"`)
	a.writeBytes(w, r, http.StatusOK, "application/json", file)
}

// closed reports whether the session is committed for good, so that its newest receipt stays the newest.
func (a *api) closed(r *http.Request, id wire.SessionID) bool {
	if a.o.Engine == nil {
		return false
	}
	s, err := a.o.Engine.Session(r.Context(), id)
	return err == nil && s.Status == session.Committed
}

// status serves GET /tandem/v1/status.
func (a *api) status(w http.ResponseWriter, r *http.Request) {
	if err := a.awaitHeight(r); err != nil {
		a.fail(w, r, err)
		return
	}
	s, err := a.o.Ledger.Status(r.Context())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if s.Layer2 == nil {
		s.Layer2 = []Layer2Node{}
	}
	if s.Validators == nil {
		s.Validators = []Validator{}
	}
	if s.Quarantine == nil {
		s.Quarantine = []Quarantine{}
	}
	a.writeJSON(w, r, http.StatusOK, s)
}

// genesis serves GET /tandem/v1/genesis.
func (a *api) genesis(w http.ResponseWriter, r *http.Request) {
	forever(w)
	a.writeBytes(w, r, http.StatusOK, "application/json", a.o.Ledger.Genesis())
}

// catalogueEntry is one entry of GET /tandem/v1/errors.
type catalogueEntry struct {
	Type   string `json:"type"`
	Code   string `json:"code"`
	Status int    `json:"status"`
	Kind   string `json:"kind"`
	Title  string `json:"title"`
	Cause  string `json:"cause"`
	Remedy string `json:"remedy"`
}

// errors serves GET /tandem/v1/errors: the catalogue that docs/errors.md prints.
func (a *api) errors(w http.ResponseWriter, r *http.Request) {
	entries := []catalogueEntry{}
	for _, e := range refusal.Catalogue() {
		entries = append(entries, catalogueEntry{
			Type: refusal.TypePrefix + string(e.Code), Code: string(e.Code), Status: e.Status, Kind: string(e.Kind),
			Title: e.Title, Cause: e.Cause, Remedy: e.Remedy,
		})
	}
	a.writeJSON(w, r, http.StatusOK, struct {
		Errors []catalogueEntry `json:"errors"`
	}{entries})
}

// healthz serves GET /healthz: 200 while the process should be left running.
func (a *api) healthz(w http.ResponseWriter, r *http.Request) {
	h := a.o.Health.Health()
	status := http.StatusOK
	if !h.Live {
		status = http.StatusServiceUnavailable
	}
	a.writeJSON(w, r, status, h)
}

// readyz serves GET /readyz: 200 while the node should be given work.
func (a *api) readyz(w http.ResponseWriter, r *http.Request) {
	h := a.o.Health.Health()
	status := http.StatusOK
	if !h.Live || !h.Ready {
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	a.writeJSON(w, r, status, h)
}
