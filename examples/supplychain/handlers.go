package supplychain

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"

	"tandem"
)

type registerInput struct {
	Body PackageRequest
}

type registerOutput struct {
	Body struct {
		PackageID         string `json:"package_id" example:"PKG-mzxw6ytboi2dgnbqge4dqnzvgq"`
		Supplier          string `json:"supplier" example:"SUP-001"`
		SupplierReference string `json:"supplier_reference" example:"PO-7731-1"`
		Status            Status `json:"status" enum:"registered"`
	} `nameHint:"RegisteredPackage"`
}

// registerPackage records a package that its supplier has signed. The signature is checked here already, so that
// nobody can use up a supplier's reference with a package the supplier never packed.
func registerPackage(ctx context.Context, in *registerInput) (*registerOutput, error) {
	st, req := tandem.StateOf(ctx), in.Body
	supplier, ok := suppliers.Get(st, req.SupplierID)
	if !ok {
		return nil, refuse("unknown-supplier", "there is no supplier %s", req.SupplierID)
	}
	seen := map[[2]string]bool{}
	for _, it := range req.Items {
		if !catalogue.Has(st, it.ItemID) {
			return nil, refuse("unknown-item", "item %s is not in the catalogue", it.ItemID)
		}
		if seen[[2]string{it.ItemID, it.Lot}] {
			return nil, refuse("duplicate-item", "item %s lot %q is listed twice; add up the quantities", it.ItemID, it.Lot)
		}
		seen[[2]string{it.ItemID, it.Lot}] = true
	}
	if !verifySignature(supplier.key(), req, req.Signature) {
		return nil, refuse("supplier-signature-invalid", "the signature is not %s's over this package's content", supplier.ID)
	}
	ref := req.SupplierID + "/" + req.SupplierReference
	if known, ok := references.Get(st, ref); ok {
		p := refuse("duplicate-package", "supplier %s's reference %s is registered as package %s", req.SupplierID, req.SupplierReference, known.PackageID)
		p.PackageID = known.PackageID
		return nil, p
	}
	p := Package{
		ID:                tandem.NewID(ctx, "PKG-"),
		SupplierID:        req.SupplierID,
		SupplierReference: req.SupplierReference,
		Items:             req.Items,
		Signature:         req.Signature,
	}
	references.Put(st, ref, reference{PackageID: p.ID})
	advance(ctx, &p, ActionRegister, StatusRegistered)

	out := &registerOutput{}
	out.Body.PackageID, out.Body.Supplier, out.Body.SupplierReference, out.Body.Status = p.ID, p.SupplierID, p.SupplierReference, p.Status
	return out, nil
}

// PackagePath is the path of a workflow step. Like PageQuery it is exported because huma fills embedded fields only then.
type PackagePath struct {
	ID string `path:"id" minLength:"1" maxLength:"64" doc:"Package id" example:"PKG-mzxw6ytboi2dgnbqge4dqnzvgq"`
}

// ExpectedItem is one line of what the operator should find in a package.
type ExpectedItem struct {
	ItemID   string `json:"item_id" example:"ITM-001"`
	Name     string `json:"name" example:"Lens 50 mm"`
	Quantity int32  `json:"quantity" example:"24"`
	Unit     string `json:"unit" example:"piece"`
	Lot      string `json:"lot,omitempty"`
}

type scanOutput struct {
	Body struct {
		PackageID         string         `json:"package_id"`
		Supplier          string         `json:"supplier" example:"SUP-001"`
		SupplierName      string         `json:"supplier_name" example:"Alpine Optics"`
		SupplierReference string         `json:"supplier_reference" example:"PO-7731-1"`
		ExpectedContents  []ExpectedItem `json:"expected_contents" nullable:"false"`
		SupplierSignature string         `json:"supplier_signature" doc:"What the next step validates, base64"`
		Status            Status         `json:"status" enum:"scanned"`
	} `nameHint:"ScannedPackage"`
}

// scanPackage tells the operator what should be inside.
func scanPackage(ctx context.Context, in *PackagePath) (*scanOutput, error) {
	st := tandem.StateOf(ctx)
	p, err := packageFor(ctx, in.ID, ActionScan)
	if err != nil {
		return nil, err
	}
	supplier, ok := suppliers.Get(st, p.SupplierID)
	if !ok {
		return nil, refuse("unknown-supplier", "there is no supplier %s", p.SupplierID)
	}
	advance(ctx, &p, ActionScan, StatusScanned)

	out := &scanOutput{}
	out.Body.PackageID, out.Body.Supplier, out.Body.SupplierName = p.ID, supplier.ID, supplier.Name
	out.Body.SupplierReference, out.Body.SupplierSignature, out.Body.Status = p.SupplierReference, p.Signature, p.Status
	out.Body.ExpectedContents = make([]ExpectedItem, 0, len(p.Items))
	for _, it := range p.Items {
		kind, _ := catalogue.Get(st, it.ItemID)
		out.Body.ExpectedContents = append(out.Body.ExpectedContents,
			ExpectedItem{ItemID: it.ItemID, Name: kind.Name, Quantity: it.Quantity, Unit: kind.Unit, Lot: it.Lot})
	}
	return out, nil
}

type validateInput struct {
	PackagePath
	Body struct {
		Signature string `json:"signature" minLength:"1" maxLength:"200" doc:"The supplier's signature as read from the package, 64 bytes as base64"`
	} `nameHint:"SignatureToValidate"`
}

type validateOutput struct {
	Body struct {
		PackageID string `json:"package_id"`
		Supplier  string `json:"supplier" example:"SUP-001"`
		Valid     bool   `json:"valid" doc:"Always true: a signature that is not valid is refused"`
		Status    Status `json:"status" enum:"validated"`
	} `nameHint:"ValidatedPackage"`
}

// validatePackage verifies the supplier's Ed25519 signature over the package's content as it stands on the ledger.
func validatePackage(ctx context.Context, in *validateInput) (*validateOutput, error) {
	p, err := packageFor(ctx, in.ID, ActionValidate)
	if err != nil {
		return nil, err
	}
	supplier, ok := suppliers.Get(tandem.StateOf(ctx), p.SupplierID)
	if !ok {
		return nil, refuse("unknown-supplier", "there is no supplier %s", p.SupplierID)
	}
	if !verifySignature(supplier.key(), p.signed(), in.Body.Signature) {
		problem := refuse("supplier-signature-invalid", "the signature is not %s's over the content of package %s", supplier.ID, p.ID)
		problem.PackageID, problem.PackageStatus = p.ID, string(p.Status)
		return nil, problem
	}
	advance(ctx, &p, ActionValidate, StatusValidated)

	out := &validateOutput{}
	out.Body.PackageID, out.Body.Supplier, out.Body.Valid, out.Body.Status = p.ID, supplier.ID, true, p.Status
	return out, nil
}

type qualityInput struct {
	PackagePath
	Body struct {
		Passed bool     `json:"passed" doc:"Whether the package may go on"`
		Issues []string `json:"issues,omitempty" nullable:"false" maxItems:"50" minLength:"1" maxLength:"200" doc:"What the inspector noticed"`
	} `nameHint:"QualityCheck"`
}

type qualityOutput struct {
	Body struct {
		PackageID  string   `json:"package_id"`
		QCRecordID string   `json:"qc_record_id" example:"QCR-mzxw6ytboi2dgnbqge4dqnzvgq"`
		Passed     bool     `json:"passed"`
		Issues     []string `json:"issues" nullable:"false"`
		Status     Status   `json:"status" enum:"passed,failed"`
	} `nameHint:"QualityChecked"`
}

// checkQuality writes the quality-check record. A package that fails goes no further.
func checkQuality(ctx context.Context, in *qualityInput) (*qualityOutput, error) {
	p, err := packageFor(ctx, in.ID, ActionQualityCheck)
	if err != nil {
		return nil, err
	}
	record := QCRecord{
		ID:        tandem.NewID(ctx, "QCR-"),
		PackageID: p.ID,
		Passed:    in.Body.Passed,
		Issues:    append([]string{}, in.Body.Issues...),
		Inspector: tandem.ActorOf(ctx).ID,
		CheckedAt: tandem.Now(ctx),
	}
	qcRecords.Put(tandem.StateOf(ctx), record.ID, record)
	p.QCRecordID = record.ID
	status := StatusFailed
	if record.Passed {
		status = StatusPassed
	}
	advance(ctx, &p, ActionQualityCheck, status)

	out := &qualityOutput{}
	out.Body.PackageID, out.Body.QCRecordID = p.ID, record.ID
	out.Body.Passed, out.Body.Issues, out.Body.Status = record.Passed, record.Issues, p.Status
	return out, nil
}

type labelInput struct {
	PackagePath
	Body struct {
		Destination string `json:"destination" minLength:"1" maxLength:"200" pattern:"^[^\\x00-\\x1f\\x7f]*$" doc:"Where the package goes, one line" example:"Pier 4, Rotterdam"`
		Priority    string `json:"priority" pattern:"^[A-Za-z][A-Za-z0-9_-]{0,31}$" doc:"A word agreed with the courier, such as standard or express" example:"express"`
		CourierID   string `json:"courier_id" minLength:"1" maxLength:"64" doc:"Who carries it" example:"COU-001"`
	} `nameHint:"LabelRequest"`
}

type labelOutput struct {
	Body struct {
		PackageID   string `json:"package_id"`
		LabelID     string `json:"label_id" example:"LBL-mzxw6ytboi2dgnbqge4dqnzvgq"`
		Destination string `json:"destination"`
		Priority    string `json:"priority"`
		CourierID   string `json:"courier_id"`
		CourierName string `json:"courier_name" example:"Swift Parcel"`
		Status      Status `json:"status" enum:"labelled"`
	} `nameHint:"LabelledPackage"`
}

// labelPackage hands a package that passed its quality check to a courier.
func labelPackage(ctx context.Context, in *labelInput) (*labelOutput, error) {
	st := tandem.StateOf(ctx)
	p, err := packageFor(ctx, in.ID, ActionLabel)
	if err != nil {
		return nil, err
	}
	courier, ok := couriers.Get(st, in.Body.CourierID)
	if !ok {
		return nil, refuse("unknown-courier", "there is no courier %s", in.Body.CourierID)
	}
	if !courier.Active {
		return nil, refuse("courier-inactive", "courier %s takes no new packages", courier.ID)
	}
	label := Label{
		ID:          tandem.NewID(ctx, "LBL-"),
		PackageID:   p.ID,
		Destination: in.Body.Destination,
		Priority:    in.Body.Priority,
		CourierID:   courier.ID,
		Operator:    tandem.ActorOf(ctx).ID,
		LabelledAt:  tandem.Now(ctx),
	}
	labels.Put(st, label.ID, label)
	p.LabelID = label.ID
	advance(ctx, &p, ActionLabel, StatusLabelled)

	out := &labelOutput{}
	out.Body.PackageID, out.Body.LabelID, out.Body.Destination = p.ID, label.ID, label.Destination
	out.Body.Priority, out.Body.CourierID, out.Body.CourierName, out.Body.Status = label.Priority, courier.ID, courier.Name, p.Status
	return out, nil
}

// packageFor returns the package if it exists and its status admits the action.
func packageFor(ctx context.Context, id string, a Action) (Package, error) {
	p, ok := packages.Get(tandem.StateOf(ctx), id)
	if !ok {
		return Package{}, refuse("not-found", "there is no package %s", id)
	}
	return p, allow(a, p)
}

// advance moves the package on, writes the step into its history and stores it. A transition that is not in the
// workflow's table is a bug and panics.
func advance(ctx context.Context, p *Package, a Action, to Status) {
	mustLead(a, p.Status, to)
	actor, position := tandem.ActorOf(ctx), tandem.SessionOf(ctx)
	p.Status = to
	p.History = append(p.History, Event{
		Step:         a,
		Actor:        actor.ID,
		Organisation: actor.Organisation,
		At:           tandem.Now(ctx),
		Session:      position.Session,
		Sequence:     position.Sequence,
	})
	packages.Put(tandem.StateOf(ctx), p.ID, *p)
}

// key returns the supplier's public key, which the genesis data was checked to hold.
func (s Supplier) key() ed25519.PublicKey {
	b, err := base64.StdEncoding.Strict().DecodeString(s.PublicKey)
	if err != nil || len(b) != ed25519.PublicKeySize {
		panic("supplychain: supplier " + s.ID + " has no usable public key")
	}
	return b
}
