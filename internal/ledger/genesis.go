package ledger

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"slices"

	"tandem"
	"tandem/internal/refusal"
	"tandem/internal/state"
	"tandem/internal/wire"
)

// Genesis is the application part ("app_state") of a network's genesis file; docs/format/genesis.md is its reference.
// All nodes start from the same one, and who has the file can check receipts without any node.
type Genesis struct {
	// ChainID is not part of app_state: it is the genesis file's chain_id. Whoever reads the file sets it before Apply.
	ChainID string `json:"-"`
	// Tandem holds the framework's first records.
	Tandem GenesisRecords `json:"tandem"`
	// Service is the service's seed, for tandem.Service.Genesis; nil when there is none.
	Service json.RawMessage `json:"service,omitempty"`
}

// GenesisRecords are the framework's first records.
type GenesisRecords struct {
	Parameters GenesisParameters `json:"parameters"`
	Actors     []GenesisActor    `json:"actors"`
	Layer2     []GenesisNode     `json:"layer2"`
}

// GenesisParameters are Parameters without the chain id. All members must be given: a genesis file leaves nothing to
// a program's defaults.
type GenesisParameters struct {
	ServiceName      string      `json:"service_name"`
	ServiceVersion   string      `json:"service_version"`
	Fingerprint      wire.Digest `json:"fingerprint"`
	MaxSessionMillis int64       `json:"max_session_ms"`
	MaxSteps         uint64      `json:"max_steps"`
	StepOperations   uint64      `json:"step_operations"`
	StepBytes        uint64      `json:"step_bytes"`
}

// GenesisActor is an actor with its keys. Delegates are keys the actor lends to nodes (custody).
type GenesisActor struct {
	ID           string           `json:"id"`
	Organisation string           `json:"organisation"`
	Roles        []string         `json:"roles,omitempty"`
	Keys         []wire.PublicKey `json:"keys,omitempty"`
	Delegates    []wire.PublicKey `json:"delegates,omitempty"`
}

// GenesisNode is an entry of the Layer 2 list.
type GenesisNode struct {
	Key          wire.PublicKey `json:"key"`
	Organisation string         `json:"organisation"`
	Address      string         `json:"address,omitempty"` // host:port, for its peers
	URL          string         `json:"url,omitempty"`     // for clients
}

// Bounds of the parameters.
const (
	MaxSessionLife = 31 * 24 * 3600 * 1000 // milliseconds; longest max_session_ms
	MaxOperations  = 1 << 30               // largest step_operations
	MaxStepBytes   = 1 << 34               // largest step_bytes
)

// maxGenesisDepth bounds nesting; the service's seed counts too.
const maxGenesisDepth = 64

// DefaultParameters are the parameters that `tandem testnet init` writes for a service: sessions of at most one hour
// and 1,024 steps, 100,000 state operations and 64 MiB moved per step.
func DefaultParameters(svc tandem.Service, fingerprint wire.Digest) GenesisParameters {
	return GenesisParameters{
		ServiceName: svc.Name, ServiceVersion: svc.Version, Fingerprint: fingerprint,
		MaxSessionMillis: 3600 * 1000, MaxSteps: 1024, StepOperations: 100_000, StepBytes: 64 << 20,
	}
}

// ParseGenesis reads app_state strictly (see wire.StrictJSON) and checks everything that can be checked without the
// service. Refusals: bad-json, genesis-invalid.
func ParseGenesis(appState []byte) (Genesis, error) {
	var g Genesis
	if err := wire.StrictJSON(appState, maxGenesisDepth, &g); err != nil {
		return Genesis{}, err
	}
	if err := g.check(); err != nil {
		return Genesis{}, err
	}
	return g, nil
}

// JSON is app_state as a file holds it, indented. Refusal: genesis-invalid.
func (g Genesis) JSON() ([]byte, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	if g.Tandem.Actors == nil {
		g.Tandem.Actors = []GenesisActor{}
	}
	if g.Tandem.Layer2 == nil {
		g.Tandem.Layer2 = []GenesisNode{}
	}
	b, err := encodeJSON(g, "  ")
	if err != nil {
		return nil, refusal.New(refusal.GenesisInvalid, "%v", err) // a seed that is not JSON
	}
	return b, nil
}

// check holds the genesis to the rules that the framework routes enforce later.
func (g Genesis) check() error {
	p := g.Tandem.Parameters
	for _, c := range []struct {
		what string
		ok   bool
	}{
		{"service_name must not be empty", p.ServiceName != "" && len(p.ServiceName) <= MaxText},
		{"service_version must not be empty", p.ServiceVersion != "" && len(p.ServiceVersion) <= MaxText},
		{"fingerprint is missing", !p.Fingerprint.IsZero()},
		{fmt.Sprintf("max_session_ms must be 1000 to %d", MaxSessionLife), p.MaxSessionMillis >= 1000 && p.MaxSessionMillis <= MaxSessionLife},
		{fmt.Sprintf("max_steps must be 1 to %d", wire.MaxSteps), p.MaxSteps >= 1 && p.MaxSteps <= wire.MaxSteps},
		{fmt.Sprintf("step_operations must be 1 to %d", MaxOperations), p.StepOperations >= 1 && p.StepOperations <= MaxOperations},
		{fmt.Sprintf("step_bytes must be 1 to %d", int64(MaxStepBytes)), p.StepBytes >= 1 && p.StepBytes <= MaxStepBytes},
	} {
		if !c.ok {
			return refusal.New(refusal.GenesisInvalid, "tandem.parameters: %s", c.what)
		}
	}
	actors := map[string]bool{}
	keys := map[wire.PublicKey]string{}
	for i, a := range g.Tandem.Actors {
		where := fmt.Sprintf("tandem.actors[%d]", i)
		if err := checkActor(a.ID, a.Organisation, a.Roles, len(a.Keys)+len(a.Delegates)); err != nil {
			return refusal.New(refusal.GenesisInvalid, "%s: %s", where, detail(err))
		}
		if actors[a.ID] {
			return refusal.New(refusal.GenesisInvalid, "%s: actor %s occurs twice", where, a.ID)
		}
		actors[a.ID] = true
		for _, k := range slices.Concat(a.Keys, a.Delegates) {
			if err := wire.CheckKey(k); err != nil {
				return refusal.New(refusal.GenesisInvalid, "%s: key %s: %s", where, k.DID(), detail(err))
			}
			if other, ok := keys[k]; ok {
				return refusal.New(refusal.GenesisInvalid, "%s: key %s belongs to %s already", where, k.DID(), other)
			}
			keys[k] = a.ID
		}
	}
	if n := len(g.Tandem.Layer2); n > MaxLayer2 {
		return refusal.New(refusal.GenesisInvalid, "tandem.layer2: %d nodes, at most %d are allowed", n, MaxLayer2)
	}
	nodes := map[wire.PublicKey]bool{}
	for i, n := range g.Tandem.Layer2 {
		where := fmt.Sprintf("tandem.layer2[%d]", i)
		if err := wire.CheckKey(n.Key); err != nil {
			return refusal.New(refusal.GenesisInvalid, "%s: key %s: %s", where, n.Key.DID(), detail(err))
		}
		if nodes[n.Key] {
			return refusal.New(refusal.GenesisInvalid, "%s: key %s occurs twice", where, n.Key.DID())
		}
		nodes[n.Key] = true
		if err := cmp.Or(checkText("organisation", n.Organisation), checkText("address", n.Address), checkText("url", n.URL)); err != nil {
			return refusal.New(refusal.GenesisInvalid, "%s: %s", where, detail(err))
		}
	}
	return nil
}

// checkActor refuses an actor that must not be registered: bad-request.
func checkActor(id, organisation string, roles []string, keys int) error {
	if err := checkName("actor id", id, MaxActorID); err != nil {
		return err
	}
	if err := checkText("organisation", organisation); err != nil {
		return err
	}
	if len(roles) > MaxRoles {
		return refusal.New(refusal.BadRequest, "an actor has at most %d roles", MaxRoles)
	}
	for i, role := range roles {
		if err := checkName("role", role, MaxRole); err != nil {
			return err
		}
		if role == RoleDelegate {
			return refusal.New(refusal.BadRequest, "the role %q is reserved", role)
		}
		if slices.Contains(roles[:i], role) {
			return refusal.New(refusal.BadRequest, "the role %q occurs twice", role)
		}
	}
	if keys > MaxKeys {
		return refusal.New(refusal.BadRequest, "an actor has at most %d keys", MaxKeys)
	}
	return nil
}

// detail is a refusal's detail without its code, for use inside another refusal.
func detail(err error) string {
	if r, ok := refusal.As(err); ok {
		return r.Detail
	}
	return err.Error()
}

// Apply writes the genesis into the state of a new ledger: the framework's records, then whatever the service's
// Genesis writes. g.ChainID must be set. It refuses a genesis for another service or version by name
// (genesis-invalid); comparing fingerprints is up to the caller, who knows what the nodes run. Other errors come from
// the service's Genesis or the state.
func Apply(g Genesis, svc tandem.Service, w *state.Overlay) error {
	if err := wire.CheckChainID(g.ChainID); err != nil {
		return refusal.New(refusal.GenesisInvalid, "chain_id: %s", detail(err))
	}
	if err := g.check(); err != nil {
		return err
	}
	p := g.Tandem.Parameters
	if p.ServiceName != svc.Name || p.ServiceVersion != svc.Version {
		return refusal.New(refusal.GenesisInvalid, "the genesis file is for service %q version %q, this program runs service %q version %q",
			p.ServiceName, p.ServiceVersion, svc.Name, svc.Version)
	}
	write(w, []byte(parametersKey), parametersRecord{
		ChainID: g.ChainID, ServiceName: p.ServiceName, ServiceVersion: p.ServiceVersion, Fingerprint: p.Fingerprint,
		MaxSessionMillis: p.MaxSessionMillis, MaxSteps: p.MaxSteps, StepOperations: p.StepOperations, StepBytes: p.StepBytes,
	})
	for _, a := range g.Tandem.Actors {
		register(w, a.ID, a.Organisation, a.Roles, a.Keys, a.Delegates)
	}
	for _, n := range g.Tandem.Layer2 {
		write(w, layer2Key(n.Key), nodeRecord{Organisation: n.Organisation, Address: n.Address, URL: n.URL})
	}
	return seed(g, svc, w)
}

// register writes a new actor and its keys, which were checked before.
func register(w Writer, id, organisation string, roles []string, keys, delegates []wire.PublicKey) {
	sorted := slices.Clone(roles)
	slices.Sort(sorted)
	all := slices.Concat(keys, delegates)
	write(w, actorKey(id), actorRecord{Organisation: organisation, Roles: sorted, Keys: all})
	for i, k := range all {
		write(w, keyKey(k), keyRecord{Actor: id, Delegate: i >= len(keys)})
	}
}

// seed runs the service's Genesis on the service's part of the state.
func seed(g Genesis, svc tandem.Service, w *state.Overlay) error {
	if svc.Genesis == nil {
		if len(g.Service) > 0 && !bytes.Equal(bytes.TrimSpace(g.Service), []byte("null")) {
			return refusal.New(refusal.GenesisInvalid, "the genesis file has a \"service\" member, but service %q takes no seed", svc.Name)
		}
		return nil
	}
	raw, err := canonicalSeed(g.Service)
	if err != nil {
		return refusal.New(refusal.GenesisInvalid, "service: %v", err)
	}
	st := &seedState{w: w}
	if err := svc.Genesis(st, raw); err != nil {
		return refusal.New(refusal.GenesisInvalid, "service %q does not take its seed: %v", svc.Name, err)
	}
	return st.err
}

// canonicalSeed gives equal seeds equal bytes: members sorted, no white space, one spelling for each string. Genesis files
// are rewritten on their way (indented, or with '<' escaped, as CometBFT does), and a service may keep the bytes it gets.
func canonicalSeed(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var v any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	b, err := encodeJSON(v, "")
	return bytes.TrimSuffix(b, []byte("\n")), err
}

// encodeJSON is JSON without HTML escapes, ending in a newline.
func encodeJSON(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	err := enc.Encode(v)
	return b.Bytes(), err
}

// seedState is the service's part of the state while genesis is applied. It remembers the first error, since
// tandem.State has no place for one.
type seedState struct {
	w   *state.Overlay
	err error
}

func (s *seedState) key(key []byte) []byte {
	if len(key) == 0 || len(key) > tandem.MaxKey {
		s.fail(refusal.New(refusal.GenesisInvalid, "the service's seed uses a key of %d bytes; 1 to %d are allowed", len(key), tandem.MaxKey))
	}
	return append([]byte(ServicePrefix), key...)
}

func (s *seedState) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

func (s *seedState) Get(key []byte) ([]byte, bool) {
	v, ok, err := s.w.Get(s.key(key))
	if err != nil {
		s.fail(err)
		return nil, false
	}
	return v, ok
}

func (s *seedState) Set(key, value []byte) {
	if len(value) > tandem.MaxValue {
		s.fail(refusal.New(refusal.GenesisInvalid, "the service's seed sets a value of %d bytes; at most %d are allowed", len(value), tandem.MaxValue))
		return
	}
	s.w.Set(s.key(key), bytes.Clone(value))
}

func (s *seedState) Delete(key []byte) { s.w.Delete(s.key(key)) }

func (s *seedState) Scan(start, end []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		from := append([]byte(ServicePrefix), start...)
		to := prefixEnd([]byte(ServicePrefix))
		if end != nil {
			to = append([]byte(ServicePrefix), end...)
		}
		for e, err := range s.w.Scan(from, to) {
			if err != nil {
				s.fail(err)
				return
			}
			if !yield(e.Key[len(ServicePrefix):], e.Value) {
				return
			}
		}
	}
}
