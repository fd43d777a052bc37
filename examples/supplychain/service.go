// Package supplychain is the supply chain of the paper as a Tandem service: a supplier signs and sends packages, a
// warehouse operator scans, validates, checks and labels them, a courier takes them away.
//
// It shows what an author writes. The handlers are plain Go functions over huma types; the world they see is the request
// and the State, so they give the same bytes on every node. Beside them stand the parts any such service has: the
// entities and their collections (entities.go), the workflow as a table of legal transitions (workflow.go), the genesis
// data (genesis.go), the refusals (problem.go), and a wrapper that makes huma deterministic (adapter.go). Nothing here
// knows about sessions, layers or consensus.
package supplychain

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"tandem"
)

// Service returns the service, ready to be run by a node or called in a test with net/http/httptest. Each call builds
// its own registry.
func Service() tandem.Service {
	reg := &tandem.Registry{}
	api := newAPI(reg, &huma.Info{Title: "Supply chain", Version: "1", Description: description})
	addSteps(api)
	addReads(api)
	addDescription(api)
	return tandem.Service{Name: "supplychain", Version: "1", Registry: reg, Genesis: seed}
}

const description = `Packages on their way from a supplier through a warehouse to a courier. A package is registered, scanned, ` +
	`validated, quality-checked and labelled, in this order. Send the steps of one task inside a Tandem session: open it with ` +
	`` + "`POST /tandem/v1/sessions`, put its id into the `Tandem-Session` header of each step, and end it with `POST " +
	"/tandem/v1/sessions/ID/commit`. A request that writes without that header is a session of its own."

// addSteps registers the routes that change something.
func addSteps(api huma.API) {
	const tag = "Workflow"
	register(api, operation{
		method: http.MethodPost, path: "/packages", id: "register-package", tag: tag, created: true, role: RoleOperator,
		summary: "Register a package",
		text: "Records a package that its supplier has packed and signed. The signature covers these lines of text, each " +
			"ended by a line feed: `tandem-supplychain package v1`, `supplier ID`, `reference REFERENCE`, and for each item in " +
			"order `item ID QUANTITY`, followed by a space and the lot where there is one.",
		refusals: []int{http.StatusConflict},
	}, registerPackage)
	register(api, operation{
		method: http.MethodPost, path: "/packages/{id}/scan", id: "scan-package", tag: tag, role: RoleOperator,
		summary:  "Scan a package",
		text:     "Tells what should be inside and how the supplier signed it.",
		refusals: []int{http.StatusNotFound, http.StatusConflict},
	}, scanPackage)
	register(api, operation{
		method: http.MethodPost, path: "/packages/{id}/validate", id: "validate-package", tag: tag, role: RoleOperator,
		summary:  "Validate the supplier's signature",
		text:     "Verifies the given signature with the supplier's Ed25519 key over the package's content on the ledger.",
		refusals: []int{http.StatusNotFound, http.StatusConflict},
	}, validatePackage)
	register(api, operation{
		method: http.MethodPost, path: "/packages/{id}/quality-check", id: "check-quality", tag: tag, role: RoleQuality,
		summary:  "Record a quality check",
		text:     "Once for each package. A package that fails goes no further.",
		refusals: []int{http.StatusNotFound, http.StatusConflict},
	}, checkQuality)
	register(api, operation{
		method: http.MethodPost, path: "/packages/{id}/label", id: "label-package", tag: tag, role: RoleOperator,
		summary:  "Label a package",
		text:     "Hands a package that passed its quality check to a courier.",
		refusals: []int{http.StatusNotFound, http.StatusConflict},
	}, labelPackage)
}

// addReads registers the routes that only read.
func addReads(api huma.API) {
	addRead(api, "packages", "package", "Packages", listPackages, getPackage)
	addRead(api, "suppliers", "supplier", "Suppliers", listSuppliers, getSupplier)
	addRead(api, "couriers", "courier", "Couriers", listCouriers, getCourier)
	addRead(api, "catalogue", "catalogue-item", "Catalogue", listCatalogue, getCatalogueItem)
	addRead(api, "qc-records", "qc-record", "Quality-check records", listQCRecords, getQCRecord)
	addRead(api, "labels", "label", "Labels", listLabels, getLabel)
}
