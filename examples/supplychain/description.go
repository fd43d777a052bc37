package supplychain

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed docs.html
var docsPage string

// addDescription registers GET /openapi.json and GET /docs. Both answers are made once, here, from the operations that
// are registered, and are the same bytes on every node.
func addDescription(api huma.API) {
	described := api.Adapter().(*adapter)
	reg, spec := described.registry, api.OpenAPI()
	// huma adds its own error model to every description; all refusals here are Problems.
	delete(spec.Components.Schemas.Map(), "ErrorModel")
	delete(spec.Components.Schemas.Map(), "ErrorDetail")
	raw, err := json.Marshal(spec)
	if err != nil {
		panic("supplychain: the description has no JSON: " + err.Error())
	}
	reg.HandleFunc("GET /openapi.json", fixed("application/openapi+json", append(raw, '\n')))

	var page bytes.Buffer
	if err := template.Must(template.New("docs").Funcs(template.FuncMap{"prose": prose}).Parse(docsPage)).Execute(&page, readable(spec, described.operations)); err != nil {
		panic("supplychain: the description has no page: " + err.Error())
	}
	reg.HandleFunc("GET /docs", fixed("text/html; charset=utf-8", page.Bytes()))
}

// fixed answers the same bytes to everyone.
func fixed(contentType string, body []byte) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(body)
	}
}

// prose escapes text for the page and sets what stands between backquotes as code.
func prose(text string) template.HTML {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		part = template.HTMLEscapeString(part)
		if i%2 == 1 {
			part = "<code>" + part + "</code>"
		}
		b.WriteString(part)
	}
	return template.HTML(b.String())
}

// The readable page is made of these: the description without references, in the order of the routes.
type (
	docPage struct {
		Title, Version, Text string
		Groups               []docGroup
	}
	docGroup struct {
		Name   string
		Routes []docRoute
	}
	docRoute struct {
		ID, Method, Path, Summary, Text, Role string
		Params                                []docField
		Body                                  []docField
		Example                               string
		Answers                               []docAnswer
	}
	docAnswer struct {
		Status, Meaning string
		Fields          []docField
		Refusal         bool
	}
	docField struct {
		Name, Type, Text string
		Required         bool
	}
)

// readable turns the operations, in the order they were registered, into the page.
func readable(api *huma.OpenAPI, operations []*huma.Operation) docPage {
	page := docPage{Title: api.Info.Title, Version: api.Info.Version, Text: api.Info.Description}
	place := map[string]int{}
	for _, op := range operations {
		name := strings.Join(op.Tags, ", ")
		i, ok := place[name]
		if !ok {
			i = len(page.Groups)
			place[name] = i
			page.Groups = append(page.Groups, docGroup{Name: name})
		}
		page.Groups[i].Routes = append(page.Groups[i].Routes, readableRoute(api, op))
	}
	return page
}

func readableRoute(api *huma.OpenAPI, op *huma.Operation) docRoute {
	role, _ := op.Extensions["x-role"].(string)
	route := docRoute{ID: op.OperationID, Method: op.Method, Path: op.Path, Summary: op.Summary, Text: op.Description, Role: role}
	for _, p := range op.Parameters {
		route.Params = append(route.Params, docField{Name: p.Name, Type: p.In + " " + typeName(api, p.Schema),
			Text: cmp.Or(p.Description, p.Schema.Description), Required: p.Required})
	}
	if op.RequestBody != nil {
		if media := op.RequestBody.Content["application/json"]; media != nil {
			route.Body = fields(api, "", media.Schema)
			if b, err := json.MarshalIndent(example(api, media.Schema), "", "  "); err == nil {
				route.Example = string(b)
			}
		}
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		r := op.Responses[status]
		answer := docAnswer{Status: status, Meaning: r.Description, Refusal: status >= "4"}
		if media := r.Content["application/json"]; media != nil && !answer.Refusal {
			answer.Fields = fields(api, "", media.Schema)
		}
		route.Answers = append(route.Answers, answer)
	}
	return route
}

// fields lists an object's members, those of nested objects after their parent with a dotted name.
func fields(api *huma.OpenAPI, prefix string, s *huma.Schema) []docField {
	s = resolve(api, s)
	var all []docField
	for _, name := range members(s) {
		m := resolve(api, s.Properties[name])
		all = append(all, docField{Name: prefix + name, Type: typeName(api, s.Properties[name]),
			Text: cmp.Or(s.Properties[name].Description, m.Description), Required: slices.Contains(s.Required, name)})
		switch {
		case m.Type == huma.TypeArray && resolve(api, m.Items).Type == huma.TypeObject:
			all = append(all, fields(api, prefix+name+"[].", m.Items)...)
		case m.Type == huma.TypeObject:
			all = append(all, fields(api, prefix+name+".", m)...)
		}
	}
	return all
}

// members names an object's members: the required ones as declared, then the others in alphabetical order.
func members(s *huma.Schema) []string {
	names := slices.Clone(s.Required)
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func typeName(api *huma.OpenAPI, s *huma.Schema) string {
	s = resolve(api, s)
	switch {
	case s.Type == huma.TypeArray:
		return "list of " + typeName(api, s.Items)
	case len(s.Enum) > 0:
		var words []string
		for _, e := range s.Enum {
			words = append(words, fmt.Sprint(e))
		}
		return strings.Join(words, " | ")
	case s.Format == "date-time":
		return "time"
	}
	return s.Type
}

// example makes an example value of a schema from the examples of its members.
func example(api *huma.OpenAPI, s *huma.Schema) any {
	s = resolve(api, s)
	switch {
	case len(s.Examples) > 0:
		return s.Examples[0]
	case s.Type == huma.TypeArray:
		if resolve(api, s.Items).Type == huma.TypeObject {
			return []any{example(api, s.Items)}
		}
		return []any{}
	case s.Type == huma.TypeObject:
		object := map[string]any{}
		for _, name := range s.Required {
			object[name] = example(api, s.Properties[name])
		}
		return object
	case s.Type == huma.TypeBoolean:
		return true
	case s.Type == huma.TypeInteger:
		return 1
	}
	return "..."
}

func resolve(api *huma.OpenAPI, s *huma.Schema) *huma.Schema {
	for s.Ref != "" {
		s = api.Components.Schemas.SchemaFromRef(s.Ref)
	}
	return s
}
