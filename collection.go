package tandem

import (
	"crypto/sha256"
	"encoding"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
)

const (
	// MaxID is the most bytes an id in a Collection may have; the least is 1.
	MaxID = 256
	// DefaultLimit and MaxLimit are the number of items List returns if Query.Limit is not positive, and at most.
	DefaultLimit = 50
	MaxLimit     = 1000

	maxName       = 64  // bytes in the name of a collection or an index
	maxIndexValue = 256 // bytes of an index value that stand in a key as they are; longer ones as their hash
)

// ErrCursor is wrapped by List's error for a cursor that List did not make for the same query. The cursor comes from
// the user, so a handler answers 400.
var ErrCursor = errors.New("the cursor does not belong to this list")

// Index names a secondary index and says under which values an item is found: none, one or several. Of must be a
// function of the item alone.
type Index[T any] struct {
	Name string
	Of   func(item T) []string
}

// By is an Index with exactly one value for each item.
func By[T any](name string, of func(item T) string) Index[T] {
	return Index[T]{Name: name, Of: func(item T) []string { return []string{of(item)} }}
}

// Collection keeps items of one type in the State, each under an id, as JSON with the fields in the order of the
// struct, and keeps its indexes in step. Ids may have any bytes, 1 to MaxID of them; items are listed in ascending
// order of their ids' bytes.
//
// A collection holds no items itself: make it once, as a package variable, and pass each handler's State to it. It owns
// all keys that start with its name and '/'. It is safe for concurrent use with different States.
//
//	var packages = tandem.NewCollection("packages", tandem.By("status", func(p Package) string { return p.Status }))
//
// To add or change an index later means to rewrite the items, since only Put and Delete maintain it.
type Collection[T any] struct {
	name    string
	indexes []Index[T]
}

// Query says what List returns.
type Query struct {
	// Index and Value select the items that the index has under the value; an empty Index selects all.
	Index, Value string
	// After is the Next of the page before, or empty to begin.
	After string
	// Limit is the number of items to return; see DefaultLimit and MaxLimit.
	Limit int
}

// Page is a part of a list, ready to be sent as JSON.
type Page[T any] struct {
	// Items are in ascending order of their ids; never nil.
	Items []T `json:"items"`
	// IDs are the ids of Items.
	IDs []string `json:"-"`
	// Next is the cursor to continue with; empty if there is nothing more. It stays valid while items come and go.
	Next string `json:"next,omitempty"`
}

// NewCollection returns the collection of that name: 1 to 64 bytes of a-z, 0-9, '-' and '_', as for its indexes. It
// panics on what is a mistake in the program: bad or repeated names, or a type whose JSON is not fully determined by
// its value or loses part of it. Refused are, anywhere in T: maps (an ordered list of pairs says the same), floats (use
// integers of a small unit), interfaces, channels, functions, complex numbers, structs of which JSON keeps nothing. Types
// with their own MarshalJSON or MarshalText, such as time.Time or *big.Int, are trusted.
func NewCollection[T any](name string, indexes ...Index[T]) *Collection[T] {
	if !goodName(name) {
		panic(fmt.Sprintf("tandem: collection name %q: want 1 to %d of a-z 0-9 - _", name, maxName))
	}
	if why := refuseType(reflect.TypeFor[T](), nil); why != "" {
		panic(fmt.Sprintf("tandem: collection %q of %v: %s", name, reflect.TypeFor[T](), why))
	}
	for i, x := range indexes {
		if !goodName(x.Name) || x.Of == nil {
			panic(fmt.Sprintf("tandem: collection %q: index %q needs a function and a name of 1 to %d of a-z 0-9 - _",
				name, x.Name, maxName))
		}
		if slices.ContainsFunc(indexes[:i], func(y Index[T]) bool { return x.Name == y.Name }) {
			panic(fmt.Sprintf("tandem: collection %q has two indexes %q", name, x.Name))
		}
	}
	return &Collection[T]{name: name, indexes: slices.Clone(indexes)}
}

// Get returns the item with this id. An id that cannot exist (empty, or over MaxID bytes) is not found.
func (c *Collection[T]) Get(st State, id string) (item T, ok bool) {
	if !goodID(id) {
		return item, false
	}
	b, ok := st.Get(c.recordKey(id))
	if !ok {
		return item, false
	}
	return c.decode(id, b), true
}

// Has reports whether there is an item with this id.
func (c *Collection[T]) Has(st State, id string) bool {
	if !goodID(id) {
		return false
	}
	_, ok := st.Get(c.recordKey(id))
	return ok
}

// Put stores the item under the id, in place of an older one, and brings the indexes in step. It panics (that is, the
// step fails with a 500) if the id is empty or longer than MaxID, so check an id that comes from a user.
func (c *Collection[T]) Put(st State, id string, item T) {
	if !goodID(id) {
		panic(fmt.Sprintf("tandem: collection %q: id of %d bytes; an id has 1 to %d", c.name, len(id), MaxID))
	}
	b, err := json.Marshal(item)
	if err != nil {
		panic(fmt.Sprintf("tandem: collection %q: item %q: %v", c.name, id, err))
	}
	key := c.recordKey(id)
	var old [][]byte
	if len(c.indexes) > 0 {
		if before, ok := st.Get(key); ok {
			old = c.indexKeys(id, c.decode(id, before))
		}
	}
	st.Set(key, b)
	now := c.indexKeys(id, c.decode(id, b)) // as it will be read again, so that Delete finds the same keys
	for _, k := range old {
		if _, keep := slices.BinarySearchFunc(now, k, slices.Compare); !keep {
			st.Delete(k)
		}
	}
	for _, k := range now {
		if _, have := slices.BinarySearchFunc(old, k, slices.Compare); !have {
			st.Set(k, present)
		}
	}
}

// Delete removes the item with this id and reports whether there was one.
func (c *Collection[T]) Delete(st State, id string) bool {
	if !goodID(id) {
		return false
	}
	key := c.recordKey(id)
	b, ok := st.Get(key)
	if !ok {
		return false
	}
	for _, k := range c.indexKeys(id, c.decode(id, b)) {
		st.Delete(k)
	}
	st.Delete(key)
	return true
}

// All yields every id and item in ascending order of ids, as they were when the loop began.
func (c *Collection[T]) All(st State) iter.Seq2[string, T] {
	return c.walk(st, "", "", "")
}

// Where yields the items that the index has under the value, as All does. It panics if there is no such index.
func (c *Collection[T]) Where(st State, index, value string) iter.Seq2[string, T] {
	c.mustIndex(index)
	return c.walk(st, index, value, "")
}

// List returns a page of items. It reads no more of the state than the page and one entry. The only error wraps
// ErrCursor; an index that does not exist is a mistake in the program, and panics.
func (c *Collection[T]) List(st State, q Query) (Page[T], error) {
	if q.Index != "" {
		c.mustIndex(q.Index)
	}
	after, err := c.openCursor(q)
	if err != nil {
		return Page[T]{}, err
	}
	limit := q.Limit
	if limit <= 0 {
		limit = DefaultLimit
	}
	limit = min(limit, MaxLimit)
	page := Page[T]{Items: []T{}}
	for id, item := range c.walk(st, q.Index, q.Value, after) {
		if len(page.Items) == limit {
			page.Next = c.cursor(q, page.IDs[limit-1])
			break
		}
		page.IDs, page.Items = append(page.IDs, id), append(page.Items, item)
	}
	return page, nil
}

// walk yields the items whose ids come after the given one.
func (c *Collection[T]) walk(st State, index, value, after string) iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		prefix := c.recordKey("")
		if index != "" {
			prefix = c.indexKey(index, value, "")
		}
		start := slices.Clone(prefix)
		if after != "" {
			start = append(append(start, after...), 0)
		}
		for k, b := range st.Scan(start, prefixEnd(prefix)) {
			id := string(k[len(prefix):])
			if index != "" {
				var ok bool
				if b, ok = st.Get(c.recordKey(id)); !ok {
					continue // deleted by the loop's own body
				}
			}
			if !yield(id, c.decode(id, b)) {
				return
			}
		}
	}
}

// present is the value of an index entry; its key says everything.
var present = []byte{1}

// The keys of a collection. The id comes last and as it is: the part before it is free of ambiguity, so two different
// ids never share a key and the keys are in the order of the ids. An index value ends in a mark that no value contains.
//
//	packages/r/ID                   the item
//	packages/i/status/VALUE·ID      an index entry
func (c *Collection[T]) recordKey(id string) []byte {
	return append([]byte(c.name+"/r/"), id...)
}

func (c *Collection[T]) indexKey(index, value, id string) []byte {
	b := []byte(c.name + "/i/" + index + "/")
	if len(value) > maxIndexValue {
		sum := sha256.Sum256([]byte(value))
		b = append(append(b, 0, 2), sum[:]...)
	} else {
		for i := range len(value) {
			if b = append(b, value[i]); value[i] == 0 {
				b = append(b, 0xff)
			}
		}
	}
	return append(append(b, 0, 1), id...)
}

// indexKeys returns the keys of all index entries of an item, sorted, each once.
func (c *Collection[T]) indexKeys(id string, item T) [][]byte {
	var keys [][]byte
	for _, x := range c.indexes {
		for _, value := range x.Of(item) {
			keys = append(keys, c.indexKey(x.Name, value, id))
		}
	}
	slices.SortFunc(keys, slices.Compare)
	return slices.CompactFunc(keys, slices.Equal)
}

func (c *Collection[T]) decode(id string, b []byte) (item T) {
	if err := json.Unmarshal(b, &item); err != nil {
		panic(fmt.Sprintf("tandem: collection %q: item %q in the state does not fit %v: %v", c.name, id,
			reflect.TypeFor[T](), err))
	}
	return item
}

func (c *Collection[T]) mustIndex(name string) {
	if !slices.ContainsFunc(c.indexes, func(x Index[T]) bool { return x.Name == name }) {
		panic(fmt.Sprintf("tandem: collection %q has no index %q", c.name, name))
	}
}

// A cursor is base64url of 8 bytes that bind it to its query, and the last id of the page.
func (c *Collection[T]) cursor(q Query, last string) string {
	tag := c.cursorTag(q)
	return base64.RawURLEncoding.EncodeToString(append(tag[:], last...))
}

func (c *Collection[T]) openCursor(q Query) (after string, err error) {
	if q.After == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(q.After)
	tag := c.cursorTag(q)
	if err != nil || len(b) <= len(tag) || [8]byte(b[:8]) != tag || !goodID(string(b[8:])) ||
		strings.ContainsAny(q.After, "\r\n") {
		return "", fmt.Errorf("collection %q: %w", c.name, ErrCursor)
	}
	return string(b[8:]), nil
}

func (c *Collection[T]) cursorTag(q Query) [8]byte {
	var b []byte
	for _, s := range []string{"tandem cursor v1", c.name, q.Index, q.Value} {
		b = append(binary.BigEndian.AppendUint64(b, uint64(len(s))), s...)
	}
	sum := sha256.Sum256(b)
	return [8]byte(sum[:8])
}

// prefixEnd returns the first key after all keys with this prefix.
func prefixEnd(prefix []byte) []byte {
	end := slices.Clone(prefix)
	end[len(end)-1]++ // a collection's prefixes end in '/' or 1, never in 0xff
	return end
}

func goodID(id string) bool { return len(id) >= 1 && len(id) <= MaxID }

func goodName(s string) bool {
	return len(s) >= 1 && len(s) <= maxName && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// refuseType says why a type cannot be kept, or "".
func refuseType(t reflect.Type, seen []reflect.Type) string {
	if slices.Contains(seen, t) {
		return ""
	}
	seen = append(seen, t)
	for _, m := range []reflect.Type{jsonMarshaler, textMarshaler} {
		if t.Kind() != reflect.Interface && t.Implements(m) {
			return ""
		}
	}
	switch t.Kind() {
	case reflect.Map:
		return fmt.Sprintf("%v is a map; keep an ordered list, or one item for each entry", t)
	case reflect.Float32, reflect.Float64:
		return fmt.Sprintf("%v is a float; keep an integer of a small enough unit", t)
	case reflect.Interface:
		return fmt.Sprintf("%v is an interface; name the type", t)
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.Uintptr, reflect.UnsafePointer:
		return fmt.Sprintf("%v has no JSON", t)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return refuseType(t.Elem(), seen)
	case reflect.Struct:
		kept := 0
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Tag.Get("json") == "-" || !f.IsExported() && !f.Anonymous {
				continue
			}
			kept++
			if why := refuseType(f.Type, seen); why != "" {
				return fmt.Sprintf("field %s: %s", f.Name, why)
			}
		}
		if kept == 0 && t.NumField() > 0 {
			return fmt.Sprintf("%v has no field that JSON keeps; does only a pointer to it have MarshalJSON?", t)
		}
	}
	return ""
}
