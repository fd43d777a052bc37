package supplychain

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"tandem"
)

// PageQuery is how every list is paged.
type PageQuery struct {
	Cursor string `query:"cursor" maxLength:"600" doc:"The next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"Entries on a page"`
}

// list answers one page.
type list[T any] struct {
	Body struct {
		Items []T    `json:"items" nullable:"false" doc:"In the order of their ids"`
		Next  string `json:"next,omitempty" doc:"Cursor of the next page, absent on the last"`
	}
}

// one answers one record.
type one[T any] struct {
	Body T
}

// page reads a page of a collection; an empty index selects all.
func page[T any](ctx context.Context, c *tandem.Collection[T], index, value string, q PageQuery) (*list[T], error) {
	found, err := c.List(tandem.StateOf(ctx), tandem.Query{Index: index, Value: value, After: q.Cursor, Limit: q.Limit})
	if err != nil {
		return nil, refuse("bad-cursor", "this cursor was not made by this list with these filters")
	}
	out := &list[T]{}
	out.Body.Items, out.Body.Next = found.Items, found.Next
	return out, nil
}

// get reads one record.
func get[T any](ctx context.Context, c *tandem.Collection[T], what, id string) (*one[T], error) {
	item, ok := c.Get(tandem.StateOf(ctx), id)
	if !ok {
		return nil, refuse("not-found", "there is no %s %s", what, id)
	}
	return &one[T]{Body: item}, nil
}

// idPath is the path of one record.
type idPath struct {
	ID string `path:"id" minLength:"1" maxLength:"64" doc:"Id of the record"`
}

type packagesQuery struct {
	PageQuery
	Supplier string `query:"supplier_id" maxLength:"64" doc:"Only this supplier's" example:"SUP-001"`
	Status   string `query:"status" enum:"registered,scanned,validated,passed,failed,labelled" doc:"Only those that stand here"`
}

func listPackages(ctx context.Context, in *packagesQuery) (*list[Package], error) {
	switch {
	case in.Supplier != "" && in.Status != "":
		return page(ctx, packages, "supplier-status", in.Supplier+" "+in.Status, in.PageQuery)
	case in.Supplier != "":
		return page(ctx, packages, "supplier", in.Supplier, in.PageQuery)
	case in.Status != "":
		return page(ctx, packages, "status", in.Status, in.PageQuery)
	}
	return page(ctx, packages, "", "", in.PageQuery)
}

func getPackage(ctx context.Context, in *idPath) (*one[Package], error) {
	return get(ctx, packages, "package", in.ID)
}

func listSuppliers(ctx context.Context, in *PageQuery) (*list[Supplier], error) {
	return page(ctx, suppliers, "", "", *in)
}

func getSupplier(ctx context.Context, in *idPath) (*one[Supplier], error) {
	return get(ctx, suppliers, "supplier", in.ID)
}

func listCatalogue(ctx context.Context, in *PageQuery) (*list[CatalogueItem], error) {
	return page(ctx, catalogue, "", "", *in)
}

func getCatalogueItem(ctx context.Context, in *idPath) (*one[CatalogueItem], error) {
	return get(ctx, catalogue, "catalogue item", in.ID)
}

type couriersQuery struct {
	PageQuery
	Active string `query:"active" enum:"true,false" doc:"Only those who take new packages, or who do not"`
}

func listCouriers(ctx context.Context, in *couriersQuery) (*list[Courier], error) {
	if in.Active != "" {
		return page(ctx, couriers, "active", in.Active, in.PageQuery)
	}
	return page(ctx, couriers, "", "", in.PageQuery)
}

func getCourier(ctx context.Context, in *idPath) (*one[Courier], error) {
	return get(ctx, couriers, "courier", in.ID)
}

type qcQuery struct {
	PageQuery
	Package string `query:"package_id" maxLength:"64" doc:"Only this package's"`
	Passed  string `query:"passed" enum:"true,false" doc:"Only those passed, or failed"`
}

func listQCRecords(ctx context.Context, in *qcQuery) (*list[QCRecord], error) {
	switch {
	case in.Package != "" && in.Passed != "":
		return page(ctx, qcRecords, "package-passed", in.Package+" "+in.Passed, in.PageQuery)
	case in.Package != "":
		return page(ctx, qcRecords, "package", in.Package, in.PageQuery)
	case in.Passed != "":
		return page(ctx, qcRecords, "passed", in.Passed, in.PageQuery)
	}
	return page(ctx, qcRecords, "", "", in.PageQuery)
}

func getQCRecord(ctx context.Context, in *idPath) (*one[QCRecord], error) {
	return get(ctx, qcRecords, "quality-check record", in.ID)
}

type labelsQuery struct {
	PageQuery
	Package string `query:"package_id" maxLength:"64" doc:"Only this package's; no other filter beside it"`
	Courier string `query:"courier_id" maxLength:"64" doc:"Only this courier's" example:"COU-001"`
	// Priority is a word as in the label.
	Priority string `query:"priority" maxLength:"32" doc:"Only this priority" example:"express"`
}

func listLabels(ctx context.Context, in *labelsQuery) (*list[Label], error) {
	switch {
	case in.Package != "" && (in.Courier != "" || in.Priority != ""):
		return nil, refuse("invalid-request", "a package has one label: package_id goes with no other filter")
	case in.Package != "":
		return page(ctx, labels, "package", in.Package, in.PageQuery)
	case in.Courier != "" && in.Priority != "":
		return page(ctx, labels, "courier-priority", in.Courier+" "+in.Priority, in.PageQuery)
	case in.Courier != "":
		return page(ctx, labels, "courier", in.Courier, in.PageQuery)
	case in.Priority != "":
		return page(ctx, labels, "priority", in.Priority, in.PageQuery)
	}
	return page(ctx, labels, "", "", in.PageQuery)
}

func getLabel(ctx context.Context, in *idPath) (*one[Label], error) {
	return get(ctx, labels, "label", in.ID)
}

// addRead registers the list and the single read of one kind of record.
func addRead[L, P, T any](api huma.API, plural, singular, title string,
	all func(context.Context, *L) (*list[T], error), single func(context.Context, *P) (*one[T], error)) {
	register(api, operation{
		method: http.MethodGet, path: "/" + plural, id: "list-" + plural, tag: title,
		summary: title + ", a page at a time", refusals: []int{http.StatusBadRequest},
	}, all)
	register(api, operation{
		method: http.MethodGet, path: "/" + plural + "/{id}", id: "get-" + singular, tag: title,
		summary: title + ": one by its id", refusals: []int{http.StatusNotFound},
	}, single)
}
