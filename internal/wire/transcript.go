package wire

import (
	"crypto/sha256"
	"encoding/binary"
)

// The domain tags keep a hash made for one purpose from meaning anything for another. Each is a prefix of what is hashed.
const (
	domainStart    = "tandem transcript start 1\x00"
	domainNext     = "tandem transcript next 1\x00"
	domainRequest  = "tandem request 1\x00"
	domainResponse = "tandem response 1\x00"
)

// Digest returns the SHA-256 of a domain tag and the encoding, signature included. It is what makes two signed requests
// the same one.
func (r Request) Digest() Digest {
	return sha256.Sum256(r.appendTo(append(make([]byte, 0, len(domainRequest)+r.sizeBound()), domainRequest...)))
}

// Digest returns the SHA-256 of a domain tag and the encoding.
func (r Response) Digest() Digest {
	return sha256.Sum256(r.appendTo(append(make([]byte, 0, len(domainResponse)+r.sizeBound()), domainResponse...)))
}

// TranscriptStart returns T_0, the transcript head of a session without steps: SHA-256 over a domain tag and the
// digest of the opening request with its signature.
func TranscriptStart(open Request) Digest {
	d := open.Digest()
	return tagged(domainStart, d[:])
}

// TranscriptNext returns T_k from T_(k-1) and the k-th transaction: SHA-256 over a domain tag, T_(k-1), the digests of request
// and response, the originator and the time (milliseconds, 8 bytes, big endian).
func TranscriptNext(prev Digest, tx Transaction) Digest {
	return TranscriptStep(prev, tx.Request.Digest(), tx.Response.Digest(), tx.Originator, tx.Time)
}

// TranscriptStep is [TranscriptNext] for a caller that holds the digests already, such as a client that has the answer
// but never builds a Transaction.
func TranscriptStep(prev, request, response Digest, originator PublicKey, time int64) Digest {
	b := make([]byte, 0, 160)
	b = append(b, prev[:]...)
	b = append(b, request[:]...)
	b = append(b, response[:]...)
	b = append(b, originator[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(time))
	return tagged(domainNext, b)
}

// Head returns the transcript head after all of the session commit's transactions.
func (c *SessionCommit) Head() Digest {
	head := c.Start.Head
	if c.Start.Sequence == 0 {
		head = TranscriptStart(c.Open)
	}
	for i := range c.Transactions {
		head = TranscriptNext(head, c.Transactions[i])
	}
	return head
}

func tagged(domain string, b []byte) Digest {
	buf := make([]byte, 0, len(domain)+len(b))
	buf = append(append(buf, domain...), b...)
	return sha256.Sum256(buf)
}
