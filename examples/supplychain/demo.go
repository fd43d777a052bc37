package supplychain

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
)

// demoSeed is published here on purpose: every key derived from it is known to everyone. A network whose genesis
// registers demo keys proves nothing about who acted; it exists to be tried out.
const demoSeed = "tandem supplychain demo seed, published, never use it for anything real\x00"

// DemoKey derives the private key of a demo actor or demo supplier from the published seed: the SHA-256 of the seed
// text and the name is the Ed25519 seed. The same name gives the same key everywhere. FOR DEMONSTRATIONS ONLY.
func DemoKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(demoSeed + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// DemoActor is someone who may act on a demo network, with the private key that everyone can derive.
type DemoActor struct {
	ID           string
	Organisation string
	Roles        []string // sorted
	Key          ed25519.PrivateKey
}

// DemoActors returns the actors that `tandem dev` and `tandem testnet init` write into their genesis. The first one,
// OPR-001, can do the whole workflow. Each call returns fresh slices.
func DemoActors() []DemoActor {
	return []DemoActor{
		demoActor("OPR-001", "Northern Warehouse", RoleOperator, RoleQuality),
		demoActor("OPR-002", "Harbour Warehouse", RoleOperator),
		demoActor("QCI-001", "Independent Quality Ltd", RoleQuality),
		demoActor("CRR-001", "Swift Parcel", RoleCourier),
		demoActor("ADM-001", "Consortium Office", RoleAdmin),
	}
}

func demoActor(id, organisation string, roles ...string) DemoActor {
	return DemoActor{ID: id, Organisation: organisation, Roles: roles, Key: DemoKey(id)}
}

// DemoPackage returns the body of a POST /packages: a package of supplier SUP-001 under the given supplier reference
// (1 to 64 characters of A-Z a-z 0-9 . _ -), signed with that supplier's demo key. The same reference gives the same
// bytes, and a reference can be registered once, so a caller who wants a new package brings a new reference.
func DemoPackage(reference string) ([]byte, error) {
	p := PackageRequest{
		SupplierID:        "SUP-001",
		SupplierReference: reference,
		Items: []Item{
			{ItemID: "ITM-001", Quantity: 24},
			{ItemID: "ITM-003", Quantity: 6},
		},
	}
	if err := p.Sign(DemoKey(p.SupplierID)); err != nil {
		return nil, err
	}
	return json.Marshal(p)
}

// DemoGenesis returns the seed that Service's Genesis takes: the suppliers, catalogue and couriers of the demo.
func DemoGenesis() json.RawMessage { return append(json.RawMessage(nil), demoGenesis...) }
