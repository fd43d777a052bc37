package supplychain

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/queryparam"

	"tandem"
)

// maxBody is the largest body, in bytes, that a handler reads; the framework admits no larger one.
const maxBody = 256 << 10

// newAPI returns a huma API on the registry that is a function of what is signed: huma sees the method, path, query,
// body and content type of a request and nothing else of it. Its own documentation routes, its $schema links (they
// carry the host), its content negotiation and its read deadlines are off.
func newAPI(reg *tandem.Registry, info *huma.Info) huma.API {
	config := huma.DefaultConfig(info.Title, info.Version)
	config.Info = info
	config.CreateHooks = nil
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", ""
	config.RejectUnknownQueryParameters = true
	config.Formats = map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat}
	config.Transformers = []huma.Transformer{func(_ huma.Context, _ string, v any) (any, error) {
		if m, ok := v.(*huma.ErrorModel); ok {
			return fromHuma(m), nil
		}
		return v, nil
	}}
	return huma.NewAPI(config, &adapter{registry: reg})
}

// operation describes a route beyond what its Go types say.
type operation struct {
	method, path  string
	id            string // operationId
	tag           string
	summary, text string
	role          string // role the actor needs; empty: anyone may
	created       bool   // answers 201
	refusals      []int  // statuses of its refusals, beside those every route has
}

// register adds a typed handler as a route and to the OpenAPI description.
func register[I, O any](api huma.API, op operation, handler func(context.Context, *I) (*O, error)) {
	o := huma.Operation{
		OperationID:     op.id,
		Method:          op.method,
		Path:            op.path,
		Summary:         op.summary,
		Description:     op.text,
		Tags:            []string{op.tag},
		MaxBodyBytes:    maxBody + 1,
		BodyReadTimeout: -1,
		Responses:       map[string]*huma.Response{},
	}
	if op.created {
		o.DefaultStatus = http.StatusCreated
	}
	statuses := slices.Concat(op.refusals, []int{http.StatusUnprocessableEntity})
	if op.method == http.MethodPost {
		statuses = append(statuses, http.StatusBadRequest, http.StatusUnsupportedMediaType, http.StatusRequestEntityTooLarge)
	}
	if op.role != "" {
		statuses = append(statuses, http.StatusForbidden)
		o.Metadata = map[string]any{"role": op.role}
		o.Extensions = map[string]any{"x-role": op.role}
	}
	schema := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
	for _, status := range statuses {
		o.Responses[strconv.Itoa(status)] = &huma.Response{
			Description: http.StatusText(status),
			Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: schema}},
		}
	}
	huma.Register(api, o, handler)
}

// adapter puts huma's operations into a service registry.
type adapter struct {
	registry   *tandem.Registry
	operations []*huma.Operation // in the order they were registered
}

// ServeHTTP is part of huma's interface.
func (a *adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.registry.ServeHTTP(w, r) }

// Handle registers an operation behind the checks that hold for all: role, media type, size, strict JSON.
func (a *adapter) Handle(op *huma.Operation, handler func(huma.Context)) {
	a.operations = append(a.operations, op)
	role, _ := op.Metadata["role"].(string)
	a.registry.HandleFunc(op.Method+" "+op.Path, func(w http.ResponseWriter, r *http.Request) {
		if problem := admit(role, r); problem != nil {
			problem.write(w)
			return
		}
		body, problem := readBody(op.RequestBody != nil, r)
		if problem != nil {
			problem.write(w)
			return
		}
		handler(&signedRequest{op: op, r: r, w: w, body: body})
	})
}

// admit refuses an actor without the role.
func admit(role string, r *http.Request) *Problem {
	if role == "" {
		return nil
	}
	actor := tandem.ActorOf(r.Context())
	if actor.Has(role) {
		return nil
	}
	who := "an unsigned request"
	if actor.ID != "" {
		who = "actor " + actor.ID
	}
	return refuse("role-required", "%s does not have the role %q", who, role)
}

// readBody reads and checks a body. Where none is expected, an empty one and {} are fine.
func readBody(expected bool, r *http.Request) ([]byte, *Problem) {
	if r.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, refuse("bad-json", "the body cannot be read")
	case len(body) > maxBody:
		return nil, refuse("body-too-large", "the body has more than %d bytes", maxBody)
	case len(body) == 0:
		return nil, nil
	case !jsonMedia(r.Header.Get("Content-Type")):
		return nil, refuse("unsupported-media-type", "the body's type is %q, not application/json", clip(r.Header.Get("Content-Type")))
	}
	if why := strictJSON(body); why != "" {
		return nil, refuse("bad-json", "%s", why)
	}
	if expected {
		return body, nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil || compact.String() != "{}" {
		return nil, refuse("unexpected-body", "send no body, or {}")
	}
	return nil, nil
}

// jsonMedia reports whether a body of this media type is read as JSON. curl -d calls everything a form unless told
// otherwise, and this service takes no forms, so that name is accepted too.
func jsonMedia(contentType string) bool {
	if contentType == "" {
		return true
	}
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil || media != "application/json" && media != "application/x-www-form-urlencoded" {
		return false
	}
	charset, ok := params["charset"]
	return !ok || strings.EqualFold(charset, "utf-8")
}

// signedRequest is huma's view of a request, narrowed to what a user signs.
type signedRequest struct {
	op     *huma.Operation
	r      *http.Request
	w      http.ResponseWriter
	body   []byte
	status int
}

// Operation, Context, Method, URL, Param, Query and BodyReader give what is signed.
func (c *signedRequest) Operation() *huma.Operation { return c.op }
func (c *signedRequest) Context() context.Context   { return c.r.Context() }
func (c *signedRequest) Method() string             { return c.r.Method }
func (c *signedRequest) URL() url.URL               { return *c.r.URL }
func (c *signedRequest) Param(name string) string   { return c.r.PathValue(name) }
func (c *signedRequest) Query(name string) string   { return queryparam.Get(c.r.URL.RawQuery, name) }
func (c *signedRequest) BodyReader() io.Reader      { return bytes.NewReader(c.body) }

// Header and EachHeader know one header: the body has passed as JSON.
func (c *signedRequest) Header(name string) string {
	if name == "Content-Type" && len(c.body) > 0 {
		return "application/json"
	}
	return ""
}

// EachHeader yields no header.
func (c *signedRequest) EachHeader(func(name, value string)) {}

// Host, RemoteAddr, TLS, Version, GetMultipartForm and SetReadDeadline hide what is not signed.
func (c *signedRequest) Host() string                               { return "" }
func (c *signedRequest) RemoteAddr() string                         { return "" }
func (c *signedRequest) TLS() *tls.ConnectionState                  { return nil }
func (c *signedRequest) Version() huma.ProtoVersion                 { return huma.ProtoVersion{} }
func (c *signedRequest) GetMultipartForm() (*multipart.Form, error) { return nil, http.ErrNotMultipart }
func (c *signedRequest) SetReadDeadline(time.Time) error            { return nil }

// SetStatus, Status, AppendHeader, SetHeader and BodyWriter write the response.
func (c *signedRequest) SetStatus(code int)              { c.status = code; c.w.WriteHeader(code) }
func (c *signedRequest) Status() int                     { return c.status }
func (c *signedRequest) AppendHeader(name, value string) { c.w.Header().Add(name, value) }
func (c *signedRequest) SetHeader(name, value string)    { c.w.Header().Set(name, value) }
func (c *signedRequest) BodyWriter() io.Writer           { return c.w }
