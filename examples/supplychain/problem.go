package supplychain

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// Problem is the body of every refusal: an RFC 9457 problem document.
type Problem struct {
	Type          string      `json:"type" doc:"urn:tandem:supplychain: and the code" example:"urn:tandem:supplychain:wrong-step"`
	Title         string      `json:"title" example:"The package is not ready for this step"`
	Status        int         `json:"status" example:"409"`
	Detail        string      `json:"detail" doc:"What happened, for people"`
	Code          string      `json:"code" doc:"What happened, for programs" example:"wrong-step"`
	PackageID     string      `json:"package_id,omitempty"`
	PackageStatus string      `json:"package_status,omitempty"`
	Errors        []Violation `json:"errors,omitempty" nullable:"false" doc:"What is wrong with the request, sorted"`
}

// Violation is one thing wrong with a request.
type Violation struct {
	Location string `json:"location" example:"body.items[0].quantity"`
	Message  string `json:"message" example:"expected number >= 1"`
}

// Error, GetStatus and ContentType make a Problem an error that huma answers with as it is.
func (p *Problem) Error() string             { return p.Detail }
func (p *Problem) GetStatus() int            { return p.Status }
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// problems is the catalogue of refusals: the status and title of each code.
var problems = map[string]struct {
	status int
	title  string
}{
	"bad-cursor":                 {http.StatusBadRequest, "The cursor does not belong to this list"},
	"bad-json":                   {http.StatusBadRequest, "The body is not acceptable JSON"},
	"body-too-large":             {http.StatusRequestEntityTooLarge, "The body is too large"},
	"courier-inactive":           {http.StatusUnprocessableEntity, "The courier takes no new packages"},
	"duplicate-item":             {http.StatusUnprocessableEntity, "The package lists an item twice"},
	"duplicate-package":          {http.StatusConflict, "The package is registered already"},
	"internal":                   {http.StatusInternalServerError, "The service failed"},
	"invalid-request":            {http.StatusUnprocessableEntity, "The request does not fit its description"},
	"not-found":                  {http.StatusNotFound, "There is no such thing"},
	"quality-check-failed":       {http.StatusConflict, "The package failed its quality check"},
	"role-required":              {http.StatusForbidden, "The actor lacks the role for this step"},
	"supplier-signature-invalid": {http.StatusUnprocessableEntity, "The signature is not the supplier's"},
	"unexpected-body":            {http.StatusUnprocessableEntity, "This request takes no body"},
	"unknown-courier":            {http.StatusUnprocessableEntity, "The courier is unknown"},
	"unknown-item":               {http.StatusUnprocessableEntity, "The item is not in the catalogue"},
	"unknown-supplier":           {http.StatusUnprocessableEntity, "The supplier is unknown"},
	"unsupported-media-type":     {http.StatusUnsupportedMediaType, "The body must be application/json"},
	"wrong-step":                 {http.StatusConflict, "The package is not ready for this step"},
}

// refuse makes the problem of a code from the catalogue. A code that is not in it is a bug and panics.
func refuse(code, format string, args ...any) *Problem {
	entry, ok := problems[code]
	if !ok {
		panic("supplychain: no problem " + code)
	}
	return &Problem{
		Type:   "urn:tandem:supplychain:" + code,
		Title:  entry.title,
		Status: entry.status,
		Detail: fmt.Sprintf(format, args...),
		Code:   code,
	}
}

// write sends the problem.
func (p *Problem) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and numbers always have a JSON form
	}
	_, _ = w.Write(append(body, '\n'))
}

// maxViolations is how many things wrong with one request are listed.
const maxViolations = 20

// fromHuma turns huma's own refusal into a Problem. Huma walks maps, so the order of its errors differs from run to
// run: they are sorted here, freed of doubles, and the offending values, which the sender knows, left out.
func fromHuma(m *huma.ErrorModel) *Problem {
	code := "invalid-request"
	switch {
	case m.Status == http.StatusBadRequest:
		code = "bad-json"
	case m.Status == http.StatusRequestEntityTooLarge:
		code = "body-too-large"
	case m.Status == http.StatusUnsupportedMediaType:
		code = "unsupported-media-type"
	case m.Status >= http.StatusInternalServerError:
		code = "internal"
	}
	p := refuse(code, "%s", m.Detail)
	for _, e := range m.Errors {
		p.Errors = append(p.Errors, Violation{Location: clip(e.Location), Message: clip(e.Message)})
	}
	slices.SortFunc(p.Errors, func(a, b Violation) int {
		if c := strings.Compare(a.Location, b.Location); c != 0 {
			return c
		}
		return strings.Compare(a.Message, b.Message)
	})
	p.Errors = slices.Compact(p.Errors)
	if n := len(p.Errors); n > maxViolations {
		p.Detail = fmt.Sprintf("%s (the first %d of %d)", p.Detail, maxViolations, n)
		p.Errors = p.Errors[:maxViolations]
	}
	return p
}

// clip bounds what is repeated from a request, in bytes, at a character boundary.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
