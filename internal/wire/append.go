package wire

import "encoding/binary"

// The encodings of what every step hashes several times, on every node, written out. They are the CBOR library's, byte for byte,
// at a tenth of the cost; a test compares the two. The shorter-lived messages are left to the library.

// appender is a value that writes its own canonical encoding behind b.
type appender interface{ appendTo(b []byte) []byte }

// The major types of CBOR in the place they have in a head (RFC 8949 section 3.1).
const (
	majorUnsigned = 0 << 5
	majorNegative = 1 << 5
	majorBytes    = 2 << 5
	majorText     = 3 << 5
	majorArray    = 4 << 5
)

// appendHead writes a major type with its argument in the shortest form (RFC 8949 section 4.2.1).
func appendHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

func appendInt(b []byte, n int64) []byte {
	if n < 0 {
		return appendHead(b, majorNegative, uint64(-1-n))
	}
	return appendHead(b, majorUnsigned, uint64(n))
}

func appendText(b []byte, s string) []byte {
	return append(appendHead(b, majorText, uint64(len(s))), s...)
}

func appendBytes(b, s []byte) []byte {
	return append(appendHead(b, majorBytes, uint64(len(s))), s...)
}

// What an encoding has at most beside its texts, bodies and headers: headSize a head, requestSize a request, smallSize all others.
const (
	headSize    = 9
	requestSize = 160
	smallSize   = 64
)

func (r *Request) sizeBound() int {
	return requestSize + len(r.Method) + len(r.Path) + len(r.Query) + len(r.ContentType) + len(r.Body)
}

func (r *Response) sizeBound() int {
	n := smallSize
	for i := range r.Headers {
		n += 3*headSize + len(r.Headers[i].Name) + len(r.Headers[i].Value)
	}
	return n
}

func (r *Request) appendTo(b []byte) []byte {
	b = appendHead(b, majorArray, 8)
	b = appendText(b, r.Method)
	b = appendText(b, r.Path)
	b = appendText(b, r.Query)
	b = appendText(b, r.ContentType)
	b = appendBytes(b, r.Body)
	b = appendInt(b, r.Created)
	b = appendBytes(b, r.Key[:])
	return appendBytes(b, r.Signature[:])
}

func (r *Response) appendTo(b []byte) []byte {
	b = appendHead(b, majorArray, 3)
	b = appendInt(b, int64(r.Status))
	b = appendHead(b, majorArray, uint64(len(r.Headers)))
	for i := range r.Headers {
		b = appendHead(b, majorArray, 2)
		b = appendText(b, r.Headers[i].Name)
		b = appendText(b, r.Headers[i].Value)
	}
	return appendBytes(b, r.Body[:])
}

func (t *Transaction) appendTo(b []byte) []byte {
	b = appendHead(b, majorArray, 5)
	b = appendHead(b, majorUnsigned, t.Sequence)
	b = t.Request.appendTo(b)
	b = t.Response.appendTo(b)
	b = appendBytes(b, t.Originator[:])
	return appendInt(b, t.Time)
}

func (s *Start) appendTo(b []byte) []byte {
	b = appendHead(b, majorArray, 3)
	b = appendHead(b, majorUnsigned, s.Checkpoints)
	b = appendHead(b, majorUnsigned, s.Sequence)
	return appendBytes(b, s.Head[:])
}

func (c *sessionRecord) appendTo(b []byte) []byte {
	b = appendHead(b, majorArray, 5)
	b = appendHead(b, majorUnsigned, uint64(c.Kind))
	b = c.Open.appendTo(b)
	b = c.Start.appendTo(b)
	b = appendHead(b, majorArray, uint64(len(c.Transactions)))
	for i := range c.Transactions {
		b = c.Transactions[i].appendTo(b)
	}
	return c.Commit.appendTo(b)
}

func (c *sessionRecord) sizeBound() int {
	n := smallSize + c.Open.sizeBound() + c.Commit.sizeBound()
	for i := range c.Transactions {
		n += smallSize + c.Transactions[i].Request.sizeBound() + c.Transactions[i].Response.sizeBound()
	}
	return n
}
