package supplychain

import (
	"bytes"
	"crypto/ed25519"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"tandem"
)

// demoGenesis is the genesis data of the demo network. The suppliers' keys in it are those of DemoKey.
//
//go:embed genesis.json
var demoGenesis []byte

// Genesis is the service's part of the genesis file.
type Genesis struct {
	Suppliers []Supplier      `json:"suppliers"`
	Catalogue []CatalogueItem `json:"catalogue"`
	Couriers  []Courier       `json:"couriers"`
}

// ParseGenesis reads genesis data strictly: unknown and repeated keys, bad ids, ids used twice and keys that are not
// Ed25519 keys of full strength are errors.
func ParseGenesis(raw []byte) (Genesis, error) {
	var g Genesis
	if why := strictJSON(raw); why != "" {
		return g, errors.New("supplychain genesis: " + why)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&g); err != nil {
		return g, fmt.Errorf("supplychain genesis: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return g, errors.New("supplychain genesis: more than one value")
	}
	seen := map[string]bool{}
	check := func(kind, id string) error {
		if !idPattern.MatchString(id) {
			return fmt.Errorf("supplychain genesis: %s id %q is not an id such as SUP-001", kind, id)
		}
		if seen[kind+id] {
			return fmt.Errorf("supplychain genesis: %s %s stands there twice", kind, id)
		}
		seen[kind+id] = true
		return nil
	}
	for _, s := range g.Suppliers {
		if err := check("supplier", s.ID); err != nil {
			return g, err
		}
		key, err := base64.StdEncoding.Strict().DecodeString(s.PublicKey)
		if err != nil || len(key) != ed25519.PublicKeySize || weakKey(key) {
			return g, fmt.Errorf("supplychain genesis: supplier %s: public_key is not an Ed25519 key of full strength in base64", s.ID)
		}
	}
	for _, c := range g.Catalogue {
		if err := check("catalogue item", c.ID); err != nil {
			return g, err
		}
		if c.WeightGrams < 0 {
			return g, fmt.Errorf("supplychain genesis: catalogue item %s has a negative weight", c.ID)
		}
	}
	for _, c := range g.Couriers {
		if err := check("courier", c.ID); err != nil {
			return g, err
		}
	}
	return g, nil
}

// seed writes the first state. Without genesis data the service starts empty: it then knows no supplier and registers
// no package.
func seed(st tandem.State, raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	g, err := ParseGenesis(raw)
	if err != nil {
		return err
	}
	for _, s := range g.Suppliers {
		suppliers.Put(st, s.ID, s)
	}
	for _, c := range g.Catalogue {
		catalogue.Put(st, c.ID, c)
	}
	for _, c := range g.Couriers {
		couriers.Put(st, c.ID, c)
	}
	return nil
}

// weakKey reports whether a public key is one of the few points of small order, for which anybody can make signatures:
// for such a key the constant signature (R = identity, S = 0) verifies at least one message in eight. Other keys accept
// it with negligible probability.
func weakKey(key ed25519.PublicKey) bool {
	forged := make([]byte, ed25519.SignatureSize)
	forged[0] = 1 // the identity's encoding
	for n := range 64 {
		if ed25519.Verify(key, []byte{byte(n)}, forged) {
			return true
		}
	}
	return false
}
