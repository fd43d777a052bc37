package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"tandem/internal/wire"
)

// What is on disk: see docs/format/state.md, which describes these bytes and says why they are so.
//
// # Why versions are stored side by side
//
// Values are multi-version (MVCC): each write adds a record under (key, height), and a view of height h takes the newest
// record at or below h. The alternative, an undo log over one current value, reads the last version a little faster, but
// writes each old value and page a second time, and a view of an older height must consult two places. Trie pages are
// addressed exactly by (height, place), which the page above names, so a page is found with one point lookup at
// every height. What a block makes superfluous is known while it is staged and listed under its height; pruning deletes
// exactly that list and searches for nothing.
const (
	keyFormat = 'f' // "f": the format of this store
	keyValue  = 'k' // "k" escaped-key 00 01 ^height: a value, or a mark that the key was removed
	keyVerse  = 'm' // "m" height: one version: its root, block time and predecessor
	keyPage   = 'p' // "p" height depth path: a page of the trie
	keyStale  = 's' // "s" height: what the version at height no longer needs of the versions before it
)

const format = "tandem state 1"

// errFormat is what decoding returns for bytes that encoding never wrote.
var errFormat = errors.New("bytes that this program never writes")

func malformed(what string, args ...any) error {
	return fmt.Errorf("%w: %s", errFormat, fmt.Sprintf(what, args...))
}

// comparer orders keys bytewise. What it adds to Pebble's default is Split: it tells Pebble that value records are a key
// and a version, so that bloom filters are over keys and NextPrefix skips a key's older versions.
var comparer = func() *pebble.Comparer {
	c := *pebble.DefaultComparer
	c.Name = "tandem.state.1"
	c.Split = split
	c.ImmediateSuccessor = func(dst, a []byte) []byte {
		dst = append(dst, a...)
		if len(a) > 0 && a[0] == keyValue && bytes.HasSuffix(a, []byte{0, 1}) {
			dst[len(dst)-1] = 2 // behind all versions of this key, before every other key
			return dst
		}
		return append(dst, 0)
	}
	return &c
}()

// split returns the length of a record's key without its version. It is defined for every byte string, since Pebble
// also makes up keys that lie between two records.
func split(record []byte) int {
	if len(record) > 0 && record[0] == keyValue {
		if i := bytes.Index(record, []byte{0, 1}); i >= 0 {
			return i + 2
		}
	}
	return len(record)
}

// appendEscaped appends key so that escaped keys sort as the keys do and none is the beginning of another: 00 becomes
// 00 ff; 00 01 ends it.
func appendEscaped(dst, key []byte) []byte {
	for {
		i := bytes.IndexByte(key, 0)
		if i < 0 {
			return append(append(dst, key...), 0, 1)
		}
		dst = append(append(dst, key[:i]...), 0, 0xff)
		key = key[i+1:]
	}
}

// valueKey returns the record key of the value of key that was written at height; with ceiling heights it is where to
// begin the search for the newest value at or below it.
func valueKey(dst, key []byte, height uint64) []byte {
	dst = appendEscaped(append(dst[:0], keyValue), key)
	return binary.BigEndian.AppendUint64(dst, ^height)
}

// scanBound returns the record key from which on all records of key and of greater keys lie.
func scanBound(key []byte) []byte {
	bound := append([]byte{}, keyValue)
	// Without the end mark: keys that go on behind key are greater than it and so are their records.
	escaped := appendEscaped(nil, key)
	return append(bound, escaped[:len(escaped)-2]...)
}

// parseValueKey returns the raw key and height of a value record's key.
func parseValueKey(record []byte) (key []byte, height uint64, err error) {
	if len(record) < 1+2+8 || record[0] != keyValue {
		return nil, 0, malformed("value record key of %d bytes", len(record))
	}
	body, suffix := record[1:len(record)-10], record[len(record)-10:]
	if suffix[0] != 0 || suffix[1] != 1 {
		return nil, 0, malformed("value record key without end mark")
	}
	key = make([]byte, 0, len(body))
	for i := 0; i < len(body); i++ {
		key = append(key, body[i])
		if body[i] == 0 {
			if i++; i == len(body) || body[i] != 0xff {
				return nil, 0, malformed("value record key with a wrong escape")
			}
		}
	}
	return key, ^binary.BigEndian.Uint64(suffix[2:]), nil
}

// A value record is one byte, present or removed, and then the value.
const (
	markRemoved = 0
	markPresent = 1
)

// parseValue returns the value of a value record; it shares memory with record.
func parseValue(record []byte) (value []byte, ok bool, err error) {
	switch {
	case len(record) > 0 && record[0] == markPresent:
		return record[1:], true, nil
	case len(record) == 1 && record[0] == markRemoved:
		return nil, false, nil
	}
	return nil, false, malformed("value record of %d bytes", len(record))
}

func versionKey(height uint64) []byte { return binary.BigEndian.AppendUint64([]byte{keyVerse}, height) }

func staleKey(height uint64) []byte { return binary.BigEndian.AppendUint64([]byte{keyStale}, height) }

// pageKey returns the record key of a page. Heights come first: pages written together lie together, and newer ones
// behind older ones, which spares Pebble from rewriting old pages again and again.
func pageKey(dst []byte, id pageID) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst[:0], keyPage), id.version)
	return append(append(dst, byte(id.depth/pageBits)), id.path[:(id.depth+7)/8]...)
}

// A node inside a page: a tag byte, 0 for empty or a kind, then for
//
//	leaf   hash (32), height of the value (uvarint), key length (uvarint), key
//	inner  its left and its right subtree; the hash is computed
//	child  hash (32), height of the page (uvarint)
func appendNode(dst []byte, n *node) []byte {
	if n == nil {
		return append(dst, 0)
	}
	dst = append(dst, byte(n.kind))
	switch n.kind {
	case leaf:
		dst = binary.AppendUvarint(append(dst, n.hash[:]...), n.version)
		return append(binary.AppendUvarint(dst, uint64(len(n.key))), n.key...)
	case child:
		return binary.AppendUvarint(append(dst, n.hash[:]...), n.version)
	}
	return appendNode(appendNode(dst, n.left), n.right)
}

// parser takes bytes apart; after the first error it stays in error.
type parser struct {
	rest []byte
	err  error
}

func (p *parser) fail(what string, args ...any) {
	if p.err == nil {
		p.err = malformed(what, args...)
	}
}

func (p *parser) take(n uint64) []byte {
	if p.err != nil || n > uint64(len(p.rest)) {
		p.fail("ends early")
		return nil
	}
	b := p.rest[:n:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) byte() byte {
	if b := p.take(1); b != nil {
		return b[0]
	}
	return 0
}

// uvarint reads a number of at most 63 bits in its shortest form.
func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.rest)
	if p.err != nil || n <= 0 || v > math.MaxInt64 || (n > 1 && p.rest[n-1] == 0) {
		p.fail("wrong number")
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

func (p *parser) uint64() uint64 {
	if b := p.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (p *parser) digest() (d wire.Digest) {
	copy(d[:], p.take(uint64(len(d))))
	return d
}

// bytes reads a length of at most limit and so many bytes.
func (p *parser) bytes(limit uint64) []byte {
	n := p.uvarint()
	if n > limit {
		p.fail("length %d, at most %d", n, limit)
	}
	return p.take(n)
}

// end reports the first error, or that there are bytes left over.
func (p *parser) end() error {
	if len(p.rest) > 0 {
		p.fail("%d bytes too many", len(p.rest))
	}
	return p.err
}

// node reads a node whose root is at the given depth below its page's root. Child nodes stand at pageBits exactly, inner
// nodes above it, and no inner node could be replaced by a leaf or by nothing.
func (p *parser) node(depth int) *node {
	tag := kind(p.byte())
	switch {
	case p.err != nil || tag == 0:
		return nil
	case tag == leaf:
		n := &node{kind: leaf, hash: p.digest(), version: p.uvarint(), key: p.bytes(MaxKey)}
		if len(n.key) == 0 {
			p.fail("leaf without a key")
		}
		return n
	case tag == child && depth == pageBits:
		return &node{kind: child, hash: p.digest(), version: p.uvarint()}
	case tag == inner && depth < pageBits:
		left := p.node(depth + 1)
		right := p.node(depth + 1)
		if p.err == nil {
			if n := combine(left, right); n != nil && n.kind == inner {
				return n
			}
		}
		p.fail("inner node over less than two keys")
	default:
		p.fail("node of kind %d at level %d of a page", tag, depth)
	}
	return nil
}

// parsePage returns the root of a page; its keys share memory with page.
func parsePage(page []byte) (*node, error) {
	p := parser{rest: page}
	n := p.node(0)
	if p.err == nil && (n == nil || n.kind != inner) {
		p.fail("page without an inner node")
	}
	if err := p.end(); err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	return n, nil
}

// version is one committed version.
type version struct {
	height    int64
	blockTime int64
	// previous is the height of the version before this one, or -1.
	previous int64
	root     *node // nil, a leaf or a child
}

func (v *version) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(v.blockTime))
	b = binary.AppendUvarint(b, uint64(v.previous+1))
	return appendNode(b, v.root)
}

// parseVersion returns the version that a version record describes.
func parseVersion(height int64, record []byte) (*version, error) {
	p := parser{rest: record}
	v := &version{height: height, blockTime: int64(p.uint64()), previous: int64(p.uvarint()) - 1}
	v.root = p.node(pageBits) // only what may stand at a page boundary: nothing, a leaf or a child
	if p.err == nil && v.previous >= height {
		p.fail("predecessor %d of version %d", v.previous, height)
	}
	if err := p.end(); err != nil {
		return nil, fmt.Errorf("version %d: %w", height, err)
	}
	return v, nil
}

// stale is what one version makes superfluous: it may go once no version before this one is kept.
type stale struct {
	pages  []pageID
	values []staleValue
}

// staleValue is a value that was replaced, or removed; then the mark of the removal may go as well.
type staleValue struct {
	key     []byte
	height  uint64 // at which the value was written
	removed bool
}

func (s *stale) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(len(s.pages)))
	for _, id := range s.pages {
		b = append(binary.AppendUvarint(b, id.version), byte(id.depth/pageBits))
		b = append(b, id.path[:(id.depth+7)/8]...)
	}
	b = binary.AppendUvarint(b, uint64(len(s.values)))
	for _, v := range s.values {
		flag := byte(0)
		if v.removed {
			flag = 1
		}
		b = append(binary.AppendUvarint(b, v.height), flag)
		b = append(binary.AppendUvarint(b, uint64(len(v.key))), v.key...)
	}
	return b
}

// parseStale returns the list that a stale record holds; its keys share memory with record.
func parseStale(record []byte) (*stale, error) {
	p := parser{rest: record}
	var s stale
	for n := p.uvarint(); n > 0 && p.err == nil; n-- {
		id := pageID{version: p.uvarint()}
		id.depth = int(p.byte()) * pageBits
		if id.depth >= 256 {
			p.fail("page at depth %d", id.depth)
			break
		}
		copy(id.path[:], p.take(uint64(id.depth+7)/8))
		if id.path != prefix(&id.path, id.depth) {
			p.fail("page with a path beyond its depth")
		}
		s.pages = append(s.pages, id)
	}
	for n := p.uvarint(); n > 0 && p.err == nil; n-- {
		v := staleValue{height: p.uvarint()}
		flag := p.byte()
		if v.removed = flag == 1; flag > 1 {
			p.fail("flag %d", flag)
		}
		if v.key = p.bytes(MaxKey); len(v.key) == 0 {
			p.fail("value without a key")
		}
		s.values = append(s.values, v)
	}
	if err := p.end(); err != nil {
		return nil, fmt.Errorf("stale list: %w", err)
	}
	return &s, nil
}
