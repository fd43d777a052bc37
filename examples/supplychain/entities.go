package supplychain

import (
	"time"

	"tandem"
)

// Supplier packs and signs packages. Suppliers come with the genesis data.
type Supplier struct {
	ID        string `json:"supplier_id" example:"SUP-001"`
	Name      string `json:"name" example:"Alpine Optics"`
	Country   string `json:"country" doc:"ISO 3166 two-letter code" example:"CH"`
	PublicKey string `json:"public_key" doc:"Ed25519 public key, 32 bytes as base64"`
}

// CatalogueItem is a kind of goods. The catalogue comes with the genesis data.
type CatalogueItem struct {
	ID          string `json:"item_id" example:"ITM-001"`
	Name        string `json:"name" example:"Lens 50 mm"`
	Unit        string `json:"unit" example:"piece"`
	WeightGrams int64  `json:"weight_grams" doc:"Weight of one unit" example:"310"`
}

// Courier carries labelled packages. Couriers come with the genesis data.
type Courier struct {
	ID     string `json:"courier_id" example:"COU-001"`
	Name   string `json:"name" example:"Swift Parcel"`
	Active bool   `json:"active" doc:"An inactive courier takes no new packages"`
}

// Package is a package on its way through the warehouse.
type Package struct {
	ID                string  `json:"package_id" example:"PKG-mzxw6ytboi2dgnbqge4dqnzvgq"`
	SupplierID        string  `json:"supplier_id" example:"SUP-001"`
	SupplierReference string  `json:"supplier_reference" example:"PO-7731-1"`
	Items             []Item  `json:"items" nullable:"false"`
	Signature         string  `json:"supplier_signature" doc:"The supplier's Ed25519 signature, base64"`
	Status            Status  `json:"status" enum:"registered,scanned,validated,passed,failed,labelled" doc:"Where the package stands"`
	QCRecordID        string  `json:"qc_record_id,omitempty"`
	LabelID           string  `json:"label_id,omitempty"`
	History           []Event `json:"history" nullable:"false" doc:"Who did what, oldest first"`
}

// signed returns what the supplier signed.
func (p Package) signed() PackageRequest {
	return PackageRequest{SupplierID: p.SupplierID, SupplierReference: p.SupplierReference, Items: p.Items, Signature: p.Signature}
}

// Event is one step of a package's history: the verified signer and the place in the signer's session.
type Event struct {
	Step         Action    `json:"step" enum:"register,scan,validate,quality-check,label"`
	Actor        string    `json:"actor" example:"OPR-001"`
	Organisation string    `json:"organisation" example:"Northern Warehouse"`
	At           time.Time `json:"at" doc:"The step's agreed time"`
	Session      string    `json:"session,omitempty" doc:"Session id"`
	Sequence     uint64    `json:"sequence,omitempty" doc:"Place in the session, from 1"`
}

// QCRecord is the result of a quality check.
type QCRecord struct {
	ID        string    `json:"qc_record_id" example:"QCR-mzxw6ytboi2dgnbqge4dqnzvgq"`
	PackageID string    `json:"package_id"`
	Passed    bool      `json:"passed"`
	Issues    []string  `json:"issues" nullable:"false"`
	Inspector string    `json:"inspector" doc:"Actor who checked" example:"OPR-001"`
	CheckedAt time.Time `json:"checked_at"`
}

// Label says where a package goes and who carries it.
type Label struct {
	ID          string    `json:"label_id" example:"LBL-mzxw6ytboi2dgnbqge4dqnzvgq"`
	PackageID   string    `json:"package_id"`
	Destination string    `json:"destination" example:"Pier 4, Rotterdam"`
	Priority    string    `json:"priority" example:"express"`
	CourierID   string    `json:"courier_id" example:"COU-001"`
	Operator    string    `json:"operator" doc:"Actor who labelled" example:"OPR-001"`
	LabelledAt  time.Time `json:"labelled_at"`
}

// reference remembers which package carries a supplier's reference, so that a signed package is registered once.
type reference struct {
	PackageID string `json:"package_id"`
}

// The collections of the service. Reading one record reads one key, so two sessions meet only where they touch the
// same package, record or list.
var (
	suppliers = tandem.NewCollection[Supplier]("suppliers")
	catalogue = tandem.NewCollection[CatalogueItem]("catalogue")
	couriers  = tandem.NewCollection("couriers",
		tandem.By("active", func(c Courier) string { return yesNo(c.Active) }))
	packages = tandem.NewCollection("packages",
		tandem.By("supplier", func(p Package) string { return p.SupplierID }),
		tandem.By("status", func(p Package) string { return string(p.Status) }),
		tandem.By("supplier-status", func(p Package) string { return p.SupplierID + " " + string(p.Status) }))
	references = tandem.NewCollection[reference]("references")
	qcRecords  = tandem.NewCollection("qc-records",
		tandem.By("package", func(q QCRecord) string { return q.PackageID }),
		tandem.By("passed", func(q QCRecord) string { return yesNo(q.Passed) }),
		tandem.By("package-passed", func(q QCRecord) string { return q.PackageID + " " + yesNo(q.Passed) }))
	labels = tandem.NewCollection("labels",
		tandem.By("package", func(l Label) string { return l.PackageID }),
		tandem.By("courier", func(l Label) string { return l.CourierID }),
		tandem.By("priority", func(l Label) string { return l.Priority }),
		tandem.By("courier-priority", func(l Label) string { return l.CourierID + " " + l.Priority }))
)

func yesNo(b bool) string {
	if b {
		return "true"
	}
	return "false"
}
