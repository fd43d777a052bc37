package ledger

import (
	"bytes"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"tandem/internal/wire"
)

// The keys of the records; docs/format/ledger.md is their reference.
const (
	parametersKey    = Prefix + "parameters"
	actorPrefix      = Prefix + "actor/"
	keyPrefix        = Prefix + "key/"
	layer2Prefix     = Prefix + "layer2/"
	settledPrefix    = Prefix + "session/"
	supersededPrefix = Prefix + "superseded/"
)

func actorKey(id string) []byte           { return []byte(actorPrefix + id) }
func keyKey(k wire.PublicKey) []byte      { return append([]byte(keyPrefix), k[:]...) }
func layer2Key(k wire.PublicKey) []byte   { return append([]byte(layer2Prefix), k[:]...) }
func settledKey(id wire.SessionID) []byte { return append([]byte(settledPrefix), id[:]...) }
func supersededKey(id wire.SessionID, actor string) []byte {
	return append(append([]byte(supersededPrefix), id[:]...), actor...)
}

// SettledKey is the state key of a session's settled record, for proofs and for watching it.
func SettledKey(id wire.SessionID) []byte { return settledKey(id) }

// The records: CBOR arrays, in this order. A field is only ever added together with a new key prefix.
type (
	actorRecord struct {
		_            struct{} `cbor:",toarray"`
		Organisation string
		Roles        []string
		Keys         []wire.PublicKey
		Revoked      bool
	}
	keyRecord struct {
		_        struct{} `cbor:",toarray"`
		Actor    string
		Delegate bool
		Revoked  bool
	}
	nodeRecord struct {
		_            struct{} `cbor:",toarray"`
		Organisation string
		Address      string
		URL          string
		Removed      bool
	}
	settledRecord struct {
		_           struct{} `cbor:",toarray"`
		Height      int64
		Actor       string
		Transaction wire.Digest
		Head        wire.Digest
		Steps       uint64
		Time        int64
		Checkpoints uint64
		StepTime    int64
		Final       bool
	}
	supersededRecord struct {
		_  struct{} `cbor:",toarray"`
		By wire.SessionID
	}
	parametersRecord struct {
		_                struct{} `cbor:",toarray"`
		ChainID          string
		ServiceName      string
		ServiceVersion   string
		Fingerprint      wire.Digest
		MaxSessionMillis int64
		MaxSteps         uint64
		StepOperations   uint64
		StepBytes        uint64
	}
)

// The modes are built once and never change.
var (
	encMode = must(encOptions().EncMode())
	decMode = must(cbor.DecOptions{
		MaxNestedLevels:  4,
		MaxArrayElements: 1024,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		UTF8:             cbor.UTF8RejectInvalid,
	}.DecMode())
)

func encOptions() cbor.EncOptions {
	o := cbor.CoreDetEncOptions()
	o.NilContainers = cbor.NilContainerAsEmpty
	o.TagsMd = cbor.TagsForbidden
	return o
}

func must[T any](v T, err error) T {
	if err != nil {
		panic("ledger: " + err.Error()) // constant options: a mistake in the program
	}
	return v
}

// read gets and decodes a record; ok is false when there is none.
func read[T any](r Reader, key []byte, into *T) (ok bool, err error) {
	b, ok, err := r.Get(key)
	if err != nil || !ok {
		return false, err
	}
	if err := decode(key, b, into); err != nil {
		return false, err
	}
	return true, nil
}

// decode reads a record and holds it to the one encoding.
func decode[T any](key, b []byte, into *T) error {
	if err := decMode.Unmarshal(b, into); err != nil {
		return corrupt(key, "does not decode: %v", err)
	}
	if !bytes.Equal(encode(*into), b) {
		return corrupt(key, "is not in canonical form")
	}
	return nil
}

func write[T any](w Writer, key []byte, rec T) { w.Set(key, encode(rec)) }

func encode(v any) []byte {
	b, err := encMode.Marshal(v)
	if err != nil {
		panic("ledger: " + err.Error()) // the records hold nothing that CBOR cannot
	}
	return b
}

// corrupt is a fault of the state: only the framework writes these records, so a bad one means a damaged store.
func corrupt(key []byte, format string, args ...any) error {
	return fmt.Errorf("ledger: state record %q %s", key, fmt.Sprintf(format, args...))
}

// prefixEnd is the first key after all keys that begin with prefix, whose last byte must not be 0xff.
func prefixEnd(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	end[len(end)-1]++
	return end
}
