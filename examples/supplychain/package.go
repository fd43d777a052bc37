package supplychain

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Roles an actor needs. Reading needs none.
const (
	RoleOperator = "operator" // registers, scans, validates and labels packages
	RoleQuality  = "quality"  // writes quality-check records
	RoleCourier  = "courier"  // carries packages; reads only in this example
	RoleAdmin    = "admin"    // keeps actors and keys (a role of the framework); does no warehouse work
)

// Item is one line of a package's contents.
type Item struct {
	ItemID   string `json:"item_id" pattern:"^[A-Z]{2,5}-[0-9A-Z]{1,24}$" doc:"Catalogue number" example:"ITM-001"`
	Quantity int32  `json:"quantity" minimum:"1" maximum:"1000000" doc:"Number of catalogue units" example:"24"`
	Lot      string `json:"lot,omitempty" pattern:"^[0-9A-Za-z._-]{1,32}$" doc:"The supplier's lot number, if there is one" example:"L-2041"`
}

// PackageRequest is the body of POST /packages: what the supplier packed, under the supplier's own reference, signed
// by the supplier.
type PackageRequest struct {
	SupplierID        string `json:"supplier_id" pattern:"^[A-Z]{2,5}-[0-9A-Z]{1,24}$" doc:"Who packed it" example:"SUP-001"`
	SupplierReference string `json:"supplier_reference" pattern:"^[0-9A-Za-z._-]{1,64}$" doc:"The supplier's own number for this package; a supplier uses each only once" example:"PO-7731-1"`
	Items             []Item `json:"items" minItems:"1" maxItems:"100" nullable:"false" doc:"What is inside; each item and lot once"`
	Signature         string `json:"supplier_signature" pattern:"^[A-Za-z0-9+/]{86}==$" doc:"The supplier's Ed25519 signature over the package's canonical content, 64 bytes as base64"`
}

// The same grammar as the tags above, for callers who do not come through HTTP. None of them admits a space or a line
// feed, so the canonical content can be parsed in one way only.
var (
	idPattern        = regexp.MustCompile(`^[A-Z]{2,5}-[0-9A-Z]{1,24}$`)
	referencePattern = regexp.MustCompile(`^[0-9A-Za-z._-]{1,64}$`)
	lotPattern       = regexp.MustCompile(`^[0-9A-Za-z._-]{1,32}$`)
)

// Content returns the bytes a supplier signs: lines of text, each ended by a line feed, in this order:
//
//	tandem-supplychain package v1
//	supplier SUP-001
//	reference PO-7731-1
//	item ITM-001 24
//	item ITM-003 6 L-2041
//
// with one item line per item in the order of the request, the lot only where there is one. The reference makes two
// packages with the same contents different, so that a signature is good for one package only.
func (p PackageRequest) Content() ([]byte, error) {
	if !idPattern.MatchString(p.SupplierID) {
		return nil, fmt.Errorf("supplier_id %q is not an id such as SUP-001", p.SupplierID)
	}
	if !referencePattern.MatchString(p.SupplierReference) {
		return nil, fmt.Errorf("supplier_reference %q is not 1 to 64 characters of A-Z a-z 0-9 . _ -", p.SupplierReference)
	}
	if len(p.Items) == 0 {
		return nil, errors.New("a package has at least one item")
	}
	var b strings.Builder
	b.WriteString("tandem-supplychain package v1\nsupplier " + p.SupplierID + "\nreference " + p.SupplierReference + "\n")
	for _, it := range p.Items {
		if !idPattern.MatchString(it.ItemID) {
			return nil, fmt.Errorf("item_id %q is not an id such as ITM-001", it.ItemID)
		}
		b.WriteString("item " + it.ItemID + " " + strconv.Itoa(int(it.Quantity)))
		if it.Lot != "" {
			if !lotPattern.MatchString(it.Lot) {
				return nil, fmt.Errorf("lot %q is not 1 to 32 characters of A-Z a-z 0-9 . _ -", it.Lot)
			}
			b.WriteString(" " + it.Lot)
		}
		b.WriteByte('\n')
	}
	return []byte(b.String()), nil
}

// Sign sets the supplier's signature. The error says which field cannot be part of a package.
func (p *PackageRequest) Sign(key ed25519.PrivateKey) error {
	content, err := p.Content()
	if err != nil {
		return err
	}
	p.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(key, content))
	return nil
}

// verifySignature reports whether signature (64 bytes as base64) is the supplier's over the package's content.
func verifySignature(key ed25519.PublicKey, p PackageRequest, signature string) bool {
	content, err := p.Content()
	if err != nil {
		return false
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(signature)
	return err == nil && len(sig) == ed25519.SignatureSize && ed25519.Verify(key, content, sig)
}
