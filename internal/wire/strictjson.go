package wire

import (
	"bytes"
	text "encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"tandem/internal/refusal"
)

// StrictJSON decodes exactly one JSON value into the value that into points to. Where encoding/json is lenient it
// refuses, because two programs that read the same bytes must never understand two things: invalid UTF-8, anything
// after the value, a member twice in one object (at any depth, also inside values that into takes raw), a member that
// the struct does not have or that differs from its name in case only, null where the Go type has no nil (and for
// slices), and nesting of objects and arrays deeper than maxDepth (a flat object has depth 1). It does not notice
// missing members.
//
// Every error is a refusal bad-json whose detail names the place, such as $.actors[2].keys. What into holds after an
// error is unspecified. The caller limits the size of data.
func StrictJSON(data []byte, maxDepth int, into any) error {
	if !utf8.Valid(data) {
		return badJSON("$", "not valid UTF-8")
	}
	if !json.Valid(data) { // bounds its own nesting and needs no recursion
		var raw json.RawMessage
		err := json.Unmarshal(data, &raw)
		return badJSON("$", "%v", err)
	}
	t := reflect.TypeOf(into)
	if t == nil || t.Kind() != reflect.Pointer {
		return fmt.Errorf("wire.StrictJSON: into is a %T, not a pointer", into)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	w := jsonWalk{dec: dec, maxDepth: maxDepth}
	if err := w.value(t.Elem(), "$", 0); err != nil {
		return err
	}
	dec = json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return badJSON("$", "%v", err)
	}
	return nil
}

func badJSON(place, format string, args ...any) error {
	return refusal.New(refusal.BadJSON, "%s: %s", place, fmt.Sprintf(format, args...))
}

// jsonWalk goes through a valid JSON text beside the Go type it will be decoded into.
type jsonWalk struct {
	dec      *json.Decoder
	maxDepth int
}

// value walks the next value. t is the type it is meant for; nil when anything goes.
func (w *jsonWalk) value(t reflect.Type, place string, depth int) error {
	tok, err := w.dec.Token()
	if err != nil {
		return badJSON(place, "%v", err)
	}
	t = free(t)
	if tok == nil && t != nil && t.Kind() != reflect.Pointer && t.Kind() != reflect.Map {
		return badJSON(place, "null is not allowed here")
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = free(t.Elem())
	}
	d, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	if depth++; depth > w.maxDepth {
		return badJSON(place, "nested deeper than %d", w.maxDepth)
	}
	if d == '[' {
		return w.array(t, place, depth)
	}
	return w.object(t, place, depth)
}

func (w *jsonWalk) array(t reflect.Type, place string, depth int) error {
	var elem reflect.Type
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		elem = t.Elem()
	}
	for i := 0; w.dec.More(); i++ {
		if t != nil && t.Kind() == reflect.Array && i >= t.Len() {
			return badJSON(place, "more than %d elements", t.Len())
		}
		if err := w.value(elem, place+"["+strconv.Itoa(i)+"]", depth); err != nil {
			return err
		}
	}
	_, err := w.dec.Token() // the closing bracket
	return err
}

func (w *jsonWalk) object(t reflect.Type, place string, depth int) error {
	seen := map[string]bool{}
	var fields map[string]reflect.Type
	if t != nil && t.Kind() == reflect.Struct {
		fields = map[string]reflect.Type{}
		jsonFields(t, fields)
	}
	for w.dec.More() {
		tok, err := w.dec.Token()
		if err != nil {
			return badJSON(place, "%v", err)
		}
		name, ok := tok.(string)
		if !ok {
			return badJSON(place, "a member's name is not a string")
		}
		if seen[name] {
			return badJSON(place, "member %s occurs twice", strconv.QuoteToASCII(name))
		}
		seen[name] = true
		var of reflect.Type
		switch {
		case fields != nil:
			if of, ok = fields[name]; !ok {
				return badJSON(place, "unknown member %s", strconv.QuoteToASCII(name))
			}
		case t != nil && t.Kind() == reflect.Map:
			of = t.Elem()
		}
		if err := w.value(of, place+"."+name, depth); err != nil {
			return err
		}
	}
	_, err := w.dec.Token() // the closing brace
	return err
}

// jsonFields collects the members of a struct as encoding/json names them. Embedded structs without a tag count as
// their own members; the finer rules for equal names at different depths are not needed here.
func jsonFields(t reflect.Type, into map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		if f.Anonymous && name == "" {
			e := f.Type
			if e.Kind() == reflect.Pointer {
				e = e.Elem()
			}
			if e.Kind() == reflect.Struct {
				jsonFields(e, into)
				continue
			}
		}
		if !f.IsExported() || tag == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		into[name] = f.Type
	}
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[text.TextUnmarshaler]()
	rawMessage      = reflect.TypeFor[json.RawMessage]()
)

// free is t, or nil when the type reads its JSON itself (raw messages, own unmarshalers) or takes anything, so that
// member names cannot be compared.
func free(t reflect.Type) reflect.Type {
	switch {
	case t == nil, t == rawMessage, t.Kind() == reflect.Interface:
		return nil
	case t.Kind() == reflect.Pointer:
		return t
	case reflect.PointerTo(t).Implements(jsonUnmarshaler):
		return nil
	case reflect.PointerTo(t).Implements(textUnmarshaler):
		return reflect.TypeFor[string]() // text takes a string, and null would be skipped silently
	}
	return t
}
