package httpsig

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/yaronf/httpsign"
	"pgregory.net/rapid"

	"tandem/internal/refusal"
	"tandem/internal/wire"
)

func seedKey(n byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32)) }

func wantCode(t *testing.T, err error, code refusal.Code) {
	t.Helper()
	if r, ok := refusal.As(err); !ok || r.Code != code {
		t.Errorf("got %v, want code %s", err, code)
	}
}

// genParsed draws a signed request of any purpose with any target and body that the profile allows.
func genParsed() *rapid.Generator[*Parsed] {
	return rapid.Custom(func(t *rapid.T) *Parsed {
		segment := rapid.StringMatching(`[A-Za-z0-9:@!$&'()*+,;=_~-]{1,8}(%20|%C3%A9|%25|%3F)?`)
		p := &Parsed{Tag: rapid.SampledFrom([]string{TagOpen, TagStep, TagCommit}).Draw(t, "tag")}
		p.Request = wire.Request{
			Method:      rapid.SampledFrom([]string{"GET", "POST", "PUT", "PATCH", "DELETE"}).Draw(t, "method"),
			Path:        "/" + strings.Join(rapid.SliceOfN(segment, 0, 4).Draw(t, "path"), "/"),
			ContentType: rapid.SampledFrom([]string{"application/json", "text/plain; charset=utf-8", `multipart/form-data; boundary="a b"`}).Draw(t, "type"),
			Body:        rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "body"),
			Created:     rapid.Int64Range(0, wire.MaxTime/1000).Draw(t, "created"),
		}
		if p.Tag != TagOpen {
			p.Request.Query = rapid.StringMatching(`([a-z]=[A-Za-z0-9/?]{0,5}(%2F|%20)?&?){0,3}`).Draw(t, "query")
			p.Place = Place{Sequence: rapid.Uint64Range(0, wire.MaxSteps+1).Draw(t, "sequence"), Transcript: wire.Sum([]byte(rapid.String().Draw(t, "head")))}
			copy(p.Place.Session[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "session"))
		}
		Sign(seedKey(rapid.Byte().Draw(t, "key")), p.Tag, &p.Request, p.Place)
		return p
	})
}

// overTheWire sends p as a client would and reads it as a server does, so that net/http's own reading is part of the test.
func overTheWire(t interface{ Fatal(...any) }, p *Parsed) (*http.Request, []byte) {
	out, err := ToHTTP("http://127.0.0.1:8080/", p)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := out.Write(&b); err != nil {
		t.Fatal(err)
	}
	return readWire(t, b.String())
}

func readWire(t interface{ Fatal(...any) }, raw string) (*http.Request, []byte) {
	in, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(in.Body)
	if err != nil {
		t.Fatal(err)
	}
	return in, body
}

// TestRequestRoundTrip: what ToHTTP sends, FromHTTP reads back as the same value.
func TestRequestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := genParsed().Draw(t, "request")
		got, err := FromHTTP(overTheWire(t, p))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, got, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(Parsed{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestBaseBindsEverything: two requests have one base only if all their fields, tags and places are equal; so a
// signature fits nothing else.
func TestBaseBindsEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := genParsed().Draw(t, "a")
		b := *a
		change := rapid.SampledFrom([]string{"tag", "method", "path", "query", "type", "body", "created", "key", "session", "sequence", "transcript", "move ? between path and query"}).Draw(t, "change")
		switch change {
		case "tag":
			b.Tag = map[string]string{TagOpen: TagStep, TagStep: TagCommit, TagCommit: TagStep}[a.Tag]
		case "method":
			b.Request.Method += "X"
		case "path":
			b.Request.Path += "x"
		case "query":
			b.Request.Query += "x"
		case "type":
			b.Request.ContentType += "x"
		case "body":
			b.Request.Body = append(bytes.Clone(b.Request.Body), 0)
		case "created":
			b.Request.Created ^= 1
		case "key":
			b.Request.Key = wire.PublicKeyOf(ed25519.NewKeyFromSeed([]byte("a seed not of one byte repeated..")[:32]))
		case "session":
			b.Place.Session[15] ^= 1
		case "sequence":
			b.Place.Sequence++
		case "transcript":
			b.Place.Transcript[0] ^= 1
		default:
			b.Request.Path, b.Request.Query = a.Request.Path+"?"+a.Request.Query, ""
		}
		bound := a.Tag != TagOpen || !strings.Contains("query session sequence transcript", change)
		if a.Tag == TagOpen && change == "move ? between path and query" {
			bound = true
		}
		if same := bytes.Equal(Base(a.Tag, &a.Request, a.Place), Base(b.Tag, &b.Request, b.Place)); same == bound {
			t.Fatalf("%s of a %s: bound is %v", change, a.Tag, !same)
		}
		if err := Verify(b.Tag, &b.Request, b.Place); bound && err == nil {
			t.Fatalf("the signature holds after a change of %s", change)
		}
	})
}

// TestUnsigned: a request with neither header is unsigned, whatever else it carries.
func TestUnsigned(t *testing.T) {
	r := httptest.NewRequest("POST", "/packages?", strings.NewReader("{}"))
	r.Header.Set(HeaderSession, "x")
	if p, err := FromHTTP(r, []byte("{}")); p != nil || err != nil {
		t.Error(p, err)
	}
}

func goodStep() *Parsed {
	p := &Parsed{Tag: TagStep, Place: Place{Session: wire.SessionID{1, 2}, Sequence: 3, Transcript: wire.Sum([]byte("head"))}}
	p.Request = wire.Request{Method: "POST", Path: "/packages/PKG-1/scan", Query: "a=b", ContentType: "application/json", Body: []byte(`{"a":1}`), Created: 1767225600}
	Sign(seedKey(1), p.Tag, &p.Request, p.Place)
	return p
}

func goodOpen() *Parsed {
	p := &Parsed{Tag: TagOpen, Request: wire.Request{Method: "POST", Path: "/tandem/v1/sessions", ContentType: "application/json", Body: []byte(`{"a":1}`), Created: 1767225600}}
	Sign(seedKey(1), p.Tag, &p.Request, p.Place)
	return p
}

// TestHostileRequests: each variant of a good request is refused with the code that says what is wrong.
func TestHostileRequests(t *testing.T) {
	input := func(old, new string) func(*http.Request) {
		return func(r *http.Request) {
			was := r.Header.Get(HeaderSignatureInput)
			if !strings.Contains(was, old) {
				panic(old + " is not in " + was)
			}
			r.Header.Set(HeaderSignatureInput, strings.Replace(was, old, new, 1))
		}
	}
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	edit := func(name, old, new string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, strings.Replace(r.Header.Get(name), old, new, 1)) }
	}
	drop := func(name string) func(*http.Request) { return func(r *http.Request) { r.Header.Del(name) } }
	twice := func(name string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Add(name, r.Header.Get(name)) }
	}
	did := wire.PublicKeyOf(seedKey(1)).DID()
	identity := wire.PublicKey{1}.DID()
	for name, c := range map[string]struct {
		change func(*http.Request)
		code   refusal.Code
	}{
		"no Signature":          {drop(HeaderSignature), refusal.SignatureMalformed},
		"no Signature-Input":    {drop(HeaderSignatureInput), refusal.SignatureMalformed},
		"no Content-Digest":     {drop(HeaderContentDigest), refusal.SignatureMalformed},
		"no Content-Type":       {drop(HeaderContentType), refusal.SignatureMalformed},
		"no Tandem-Session":     {drop(HeaderSession), refusal.SignatureMalformed},
		"no Tandem-Sequence":    {drop(HeaderSequence), refusal.SignatureMalformed},
		"no Tandem-Transcript":  {drop(HeaderTranscript), refusal.SignatureMalformed},
		"two Signature":         {twice(HeaderSignature), refusal.SignatureMalformed},
		"two Signature-Input":   {twice(HeaderSignatureInput), refusal.SignatureMalformed},
		"two Content-Digest":    {twice(HeaderContentDigest), refusal.SignatureMalformed},
		"two Content-Type":      {twice(HeaderContentType), refusal.SignatureMalformed},
		"two Tandem-Session":    {twice(HeaderSession), refusal.SignatureMalformed},
		"two Tandem-Sequence":   {twice(HeaderSequence), refusal.SignatureMalformed},
		"two Tandem-Transcript": {twice(HeaderTranscript), refusal.SignatureMalformed},
		"empty Signature":       {set(HeaderSignature, ""), refusal.SignatureMalformed},
		"empty Signature-Input": {set(HeaderSignatureInput, ""), refusal.SignatureMalformed},
		"no structured field":   {set(HeaderSignatureInput, "tandem=((("), refusal.SignatureMalformed},
		"an item, not a list":   {set(HeaderSignatureInput, `tandem="x"`), refusal.SignatureMalformed},
		"other label":           {input("tandem=", "sig1="), refusal.SignatureMalformed},
		"second label": {func(r *http.Request) {
			r.Header.Set(HeaderSignatureInput, r.Header.Get(HeaderSignatureInput)+`, b=("@method")`)
		}, refusal.SignatureMalformed},
		"label twice": {func(r *http.Request) {
			s := r.Header.Get(HeaderSignatureInput)
			r.Header.Set(HeaderSignatureInput, s+", "+s)
		}, refusal.SignatureMalformed},
		"label in Signature twice":      {func(r *http.Request) { s := r.Header.Get(HeaderSignature); r.Header.Set(HeaderSignature, s+", "+s) }, refusal.SignatureMalformed},
		"other label in Signature":      {edit(HeaderSignature, "tandem=", "sig1="), refusal.SignatureMalformed},
		"component missing":             {input(` "@query"`, ``), refusal.SignatureMalformed},
		"component added":               {input(`"@query"`, `"@query" "date"`), refusal.SignatureMalformed},
		"component twice":               {input(`"@query"`, `"@query" "@query"`), refusal.SignatureMalformed},
		"components in other order":     {input(`"@method" "@path"`, `"@path" "@method"`), refusal.SignatureMalformed},
		"component with a parameter":    {input(`"@query"`, `"@query";req`), refusal.SignatureMalformed},
		"component in upper case":       {input(`"content-type"`, `"Content-Type"`), refusal.SignatureMalformed},
		"component is a token":          {input(`"content-type"`, `content-type`), refusal.SignatureMalformed},
		"no components":                 {set(HeaderSignatureInput, `tandem=();created=1767225600;keyid="`+did+`";alg="ed25519";tag="tandem-step"`), refusal.SignatureMalformed},
		"two spaces between components": {input(`"@method" "@path"`, `"@method"  "@path"`), refusal.SignatureMalformed},
		"space after the bracket":       {input(`("@method"`, `( "@method"`), refusal.SignatureMalformed},
		"space before a parameter":      {input(`;keyid`, `; keyid`), refusal.SignatureMalformed},
		"no created":                    {input(`;created=1767225600`, ``), refusal.SignatureMalformed},
		"created is a string":           {input(`created=1767225600`, `created="1767225600"`), refusal.SignatureMalformed},
		"created is a decimal":          {input(`created=1767225600`, `created=1767225600.0`), refusal.SignatureMalformed},
		"created is a date":             {input(`created=1767225600`, `created=@1767225600`), refusal.SignatureMalformed},
		"created with leading zero":     {input(`created=1767225600`, `created=01767225600`), refusal.SignatureMalformed},
		"created before 1970":           {input(`created=1767225600`, `created=-1`), refusal.SignatureMalformed},
		"created is negative zero":      {input(`created=1767225600`, `created=-0`), refusal.SignatureMalformed},
		"created after 9999":            {input(`created=1767225600`, `created=253402300800`), refusal.SignatureMalformed},
		"created twice":                 {input(`;created=1767225600`, `;created=1;created=1767225600`), refusal.SignatureMalformed},
		"other created":                 {input(`created=1767225600`, `created=1767225601`), refusal.SignatureInvalid},
		"no keyid":                      {input(`;keyid="`+did+`"`, ``), refusal.SignatureMalformed},
		"keyid is a token":              {input(`"`+did+`"`, did), refusal.SignatureMalformed},
		"keyid is no did":               {input(did, "key-1"), refusal.SignatureMalformed},
		"other keyid":                   {input(did, wire.PublicKeyOf(seedKey(2)).DID()), refusal.SignatureInvalid},
		"small-order key":               {input(did, identity), refusal.KeyWeak},
		"key not on the curve":          {input(did, wire.PublicKey{2}.DID()), refusal.KeyWeak},
		"no alg":                        {input(`;alg="ed25519"`, ``), refusal.SignatureMalformed},
		"other alg":                     {input(`alg="ed25519"`, `alg="hmac-sha256"`), refusal.SignatureMalformed},
		"alg in upper case":             {input(`alg="ed25519"`, `alg="Ed25519"`), refusal.SignatureMalformed},
		"no tag":                        {input(`;tag="tandem-step"`, ``), refusal.SignatureMalformed},
		"tag is a token":                {input(`tag="tandem-step"`, `tag=tandem-step`), refusal.SignatureMalformed},
		"unknown tag":                   {input(`tag="tandem-step"`, `tag="tandem-transfer"`), refusal.WrongTag},
		"tag of an answer":              {input(`tag="tandem-step"`, `tag="tandem-answer"`), refusal.WrongTag},
		"tag of a commit":               {input(`tag="tandem-step"`, `tag="tandem-commit"`), refusal.SignatureInvalid},
		"tag of an open":                {input(`tag="tandem-step"`, `tag="tandem-open"`), refusal.SignatureMalformed},
		"parameters in other order":     {input(`alg="ed25519";tag="tandem-step"`, `tag="tandem-step";alg="ed25519"`), refusal.SignatureMalformed},
		"parameter added":               {input(`;tag=`, `;nonce="x";tag=`), refusal.SignatureMalformed},
		"parameter expires": {func(r *http.Request) {
			r.Header.Set(HeaderSignatureInput, r.Header.Get(HeaderSignatureInput)+";expires=1")
		}, refusal.SignatureMalformed},
		"signature is short":                 {set(HeaderSignature, "tandem=:AAAA:"), refusal.SignatureMalformed},
		"signature is 65 bytes":              {set(HeaderSignature, "tandem=:"+base64.StdEncoding.EncodeToString(make([]byte, 65))+":"), refusal.SignatureMalformed},
		"signature without padding":          {edit(HeaderSignature, "==:", ":"), refusal.SignatureMalformed},
		"signature with bits in the padding": {edit(HeaderSignature, "==:", "!!:"), refusal.SignatureMalformed},
		"signature in URL alphabet": {func(r *http.Request) {
			r.Header.Set(HeaderSignature, "tandem=:"+base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{255}, 64))+":")
		}, refusal.SignatureMalformed},
		"signature is a string":      {set(HeaderSignature, `tandem="AAAA"`), refusal.SignatureMalformed},
		"signature with a parameter": {func(r *http.Request) { r.Header.Set(HeaderSignature, r.Header.Get(HeaderSignature)+";a") }, refusal.SignatureMalformed},
		"signature of zeros":         {set(HeaderSignature, "tandem=:"+base64.StdEncoding.EncodeToString(make([]byte, 64))+":"), refusal.SignatureInvalid},
		"other body":                 {func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{"a":2}`)) }, refusal.WrongDigest},
		"no body":                    {func(r *http.Request) { r.Body = http.NoBody }, refusal.WrongDigest},
		"digest of another body":     {set(HeaderContentDigest, ContentDigest(wire.Sum(nil))), refusal.WrongDigest},
		"body and digest of another": {func(r *http.Request) {
			r.Header.Set(HeaderContentDigest, ContentDigest(wire.Sum([]byte("x"))))
			r.Body = io.NopCloser(strings.NewReader("x"))
		}, refusal.SignatureInvalid},
		"digest with sha-512": {edit(HeaderContentDigest, "sha-256", "sha-512"), refusal.WrongDigest},
		"second digest": {func(r *http.Request) {
			r.Header.Set(HeaderContentDigest, r.Header.Get(HeaderContentDigest)+", sha-512=:AAAA:")
		}, refusal.WrongDigest},
		"digest in upper case":                 {edit(HeaderContentDigest, "sha-256", "SHA-256"), refusal.WrongDigest},
		"digest is empty":                      {set(HeaderContentDigest, ""), refusal.WrongDigest},
		"body over the limit":                  {func(r *http.Request) { r.Body = io.NopCloser(bytes.NewReader(make([]byte, wire.MaxBody+1))) }, refusal.BodyTooLarge},
		"other method":                         {func(r *http.Request) { r.Method = "PUT" }, refusal.SignatureInvalid},
		"method in lower case":                 {func(r *http.Request) { r.Method = "post" }, refusal.BadRequest},
		"other path":                           {func(r *http.Request) { r.RequestURI = "/packages/PKG-2/scan?a=b" }, refusal.SignatureInvalid},
		"other query":                          {func(r *http.Request) { r.RequestURI = "/packages/PKG-1/scan?a=c" }, refusal.SignatureInvalid},
		"no query":                             {func(r *http.Request) { r.RequestURI = "/packages/PKG-1/scan" }, refusal.SignatureInvalid},
		"bare question mark":                   {func(r *http.Request) { r.RequestURI = "/packages/PKG-1/scan?" }, refusal.BadTarget},
		"encoded slash":                        {func(r *http.Request) { r.RequestURI = "/packages/PKG-1%2Fscan?a=b" }, refusal.BadTarget},
		"dot segment":                          {func(r *http.Request) { r.RequestURI = "/packages/x/../PKG-1/scan?a=b" }, refusal.BadTarget},
		"absolute form":                        {func(r *http.Request) { r.RequestURI = "http://h/packages/PKG-1/scan?a=b" }, refusal.BadTarget},
		"asterisk form":                        {func(r *http.Request) { r.RequestURI = "*" }, refusal.BadTarget},
		"no target":                            {func(r *http.Request) { r.RequestURI = "" }, refusal.BadTarget},
		"target over the limit":                {func(r *http.Request) { r.RequestURI = "/" + strings.Repeat("a", wire.MaxTarget) }, refusal.BadTarget},
		"other content type":                   {set(HeaderContentType, "text/plain"), refusal.SignatureInvalid},
		"empty content type":                   {set(HeaderContentType, ""), refusal.UnsupportedMediaType},
		"long content type":                    {set(HeaderContentType, strings.Repeat("a", wire.MaxContentType+1)), refusal.HeaderTooLarge},
		"content type with a line fold":        {set(HeaderContentType, "application/json;\r\n charset=utf-8"), refusal.SignatureMalformed},
		"content type with a tab":              {set(HeaderContentType, "application/json;\tcharset=utf-8"), refusal.SignatureMalformed},
		"content type with a space at its end": {set(HeaderContentType, "application/json "), refusal.SignatureMalformed},
		"content type not ASCII":               {set(HeaderContentType, "application/jsön"), refusal.SignatureMalformed},
		"other session":                        {set(HeaderSession, wire.SessionID{9}.String()), refusal.SignatureInvalid},
		"session in upper case":                {func(r *http.Request) { r.Header.Set(HeaderSession, strings.ToUpper(r.Header.Get(HeaderSession))) }, refusal.SignatureMalformed},
		"session is no id":                     {set(HeaderSession, "x"), refusal.SignatureMalformed},
		"other sequence":                       {set(HeaderSequence, "4"), refusal.SignatureInvalid},
		"sequence with leading zero":           {set(HeaderSequence, "03"), refusal.SignatureMalformed},
		"sequence with a sign":                 {set(HeaderSequence, "+3"), refusal.SignatureMalformed},
		"sequence with spaces":                 {set(HeaderSequence, " 3"), refusal.SignatureMalformed},
		"sequence out of range":                {set(HeaderSequence, "4098"), refusal.SignatureMalformed},
		"sequence over 64 bits":                {set(HeaderSequence, "18446744073709551619"), refusal.SignatureMalformed},
		"sequences in a list":                  {set(HeaderSequence, "3, 3"), refusal.SignatureMalformed},
		"other transcript":                     {set(HeaderTranscript, wire.Sum(nil).String()), refusal.SignatureInvalid},
		"transcript in upper case":             {func(r *http.Request) { r.Header.Set(HeaderTranscript, strings.ToUpper(r.Header.Get(HeaderTranscript))) }, refusal.SignatureMalformed},
		"transcript is short":                  {set(HeaderTranscript, "00"), refusal.SignatureMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := overTheWire(t, goodStep())
			r.Body = io.NopCloser(strings.NewReader(`{"a":1}`))
			c.change(r)
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			_, err = FromHTTP(r, body)
			wantCode(t, err, c.code)
		})
	}
	if _, err := FromHTTP(overTheWire(t, goodStep())); err != nil {
		t.Error(err)
	}
}

// TestHostileOpens: an opening request carries nothing that its signature does not cover.
func TestHostileOpens(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*http.Request)
		code   refusal.Code
	}{
		"query":      {func(r *http.Request) { r.RequestURI += "?a=b" }, refusal.BadTarget},
		"session":    {func(r *http.Request) { r.Header.Set(HeaderSession, wire.SessionID{}.String()) }, refusal.SignatureMalformed},
		"sequence":   {func(r *http.Request) { r.Header.Set(HeaderSequence, "0") }, refusal.SignatureMalformed},
		"transcript": {func(r *http.Request) { r.Header.Set(HeaderTranscript, wire.Digest{}.String()) }, refusal.SignatureMalformed},
		"as a step": {func(r *http.Request) {
			r.Header.Set(HeaderSignatureInput, strings.Replace(r.Header.Get(HeaderSignatureInput), TagOpen, TagStep, 1))
		}, refusal.SignatureMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			r, body := overTheWire(t, goodOpen())
			c.change(r)
			_, err := FromHTTP(r, body)
			wantCode(t, err, c.code)
		})
	}
	if _, err := FromHTTP(overTheWire(t, goodOpen())); err != nil {
		t.Error(err)
	}
}

// TestEveryByteCounts: a signed request with any one byte of its method, target, covered headers or body changed is refused.
func TestEveryByteCounts(t *testing.T) {
	for _, p := range []*Parsed{goodStep(), goodOpen()} {
		r, body := overTheWire(t, p)
		check := func(what string, i int) {
			t.Helper()
			if _, err := FromHTTP(r, body); err == nil {
				t.Errorf("%s: byte %d of %s does not count", p.Tag, i, what)
			}
		}
		each := func(s string, try func(i int, changed string)) {
			for i := range len(s) {
				for _, mask := range []byte{1, 0x20, 0x80} {
					b := []byte(s)
					b[i] ^= mask
					try(i, string(b))
				}
				try(i, s[:i]+s[i+1:])
				try(i, s[:i]+" "+s[i:])
				try(i, s[:i]+s[i:i+1]+s[i:])
			}
		}
		for name, values := range r.Header {
			if name == "User-Agent" || name == "Content-Length" {
				continue
			}
			each(values[0], func(i int, changed string) {
				r.Header[name] = []string{changed}
				check(name, i)
			})
			r.Header[name] = values
		}
		method, target := r.Method, r.RequestURI
		each(method, func(i int, changed string) { r.Method = changed; check("the method", i) })
		r.Method = method
		each(target, func(i int, changed string) { r.RequestURI = changed; check("the target", i) })
		r.RequestURI = target
		whole := body
		each(string(whole), func(i int, changed string) { body = []byte(changed); check("the body", i) })
		body = whole
		if _, err := FromHTTP(r, body); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFoldedHeaders: what net/http does with line folds and repeated headers on the wire never turns a malformed request into
// another one that verifies.
func TestFoldedHeaders(t *testing.T) {
	out, err := ToHTTP("http://h", goodStep())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := out.Write(&b); err != nil {
		t.Fatal(err)
	}
	good := b.String()
	want, err := FromHTTP(readWire(t, good))
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"tab":         strings.Replace(good, `"@method" "@path"`, "\"@method\"\t\"@path\"", 1),
		"fold + tab":  strings.Replace(good, `"@method" "@path"`, "\"@method\" \r\n\t \"@path\"", 1),
		"lower case":  strings.Replace(good, "Signature-Input:", "signature-input:", 1),
		"spaces":      strings.Replace(good, "Signature-Input: ", "Signature-Input:    ", 1),
		"repeated":    strings.Replace(good, "Tandem-Sequence: 3\r\n", "Tandem-Sequence: 3\r\ntandem-sequence: 3\r\n", 1),
		"other first": strings.Replace(good, "Tandem-Sequence: 3\r\n", "Tandem-Sequence: 2\r\nTandem-Sequence: 3\r\n", 1),
	} {
		in, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			continue // refused before it comes to us
		}
		body, err := io.ReadAll(in.Body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := FromHTTP(in, body)
		if err == nil && !cmp.Equal(want, got, cmpopts.IgnoreUnexported(Parsed{})) {
			t.Errorf("%s: became another request", name)
		}
		if err == nil && name != "lower case" && name != "spaces" && name != "fold + tab" {
			t.Errorf("%s: verifies", name)
		}
	}
}

// TestToHTTPRefuses: what the profile does not allow is not sent.
func TestToHTTPRefuses(t *testing.T) {
	p := goodStep()
	p.Request.Path = "/a/../b"
	_, err := ToHTTP("http://h", p)
	wantCode(t, err, refusal.BadTarget)
	p = goodStep()
	if _, err = ToHTTP("http://h/prefix", p); err == nil {
		t.Error("a base with a path, which the signature does not cover, is taken")
	}
	if _, err := ToHTTP("::", goodStep()); err == nil {
		t.Error("a base that is no URL is taken")
	}
}

// oracle is yaronf/httpsign set up for the profile's components.
func oracleFields(tag string) httpsign.Fields {
	if tag == TagOpen {
		return httpsign.Headers("@method", "@path", "content-type", "content-digest")
	}
	return httpsign.Headers("@method", "@path", "@query", "content-type", "content-digest", "tandem-session", "tandem-sequence", "tandem-transcript")
}

// TestOracleVerifiesOurs: another implementation of RFC 9421 accepts what we sign, and refuses it after a change.
func TestOracleVerifiesOurs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := genParsed().Draw(t, "request")
		key := p.Request.Key
		config := httpsign.NewVerifyConfig().SetVerifyCreated(false).SetKeyID(key.DID()).SetAllowedAlgs([]string{"ed25519"}).SetAllowedTags([]string{p.Tag})
		verifier, err := httpsign.NewEd25519Verifier(key[:], config, oracleFields(p.Tag))
		if err != nil {
			t.Fatal(err)
		}
		r, body := overTheWire(t, p)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if err := httpsign.VerifyRequest(Label, *verifier, r); err != nil {
			t.Fatalf("%v\n%s", err, Base(p.Tag, &p.Request, p.Place))
		}
		name := rapid.SampledFrom([]string{HeaderContentType, HeaderContentDigest}).Draw(t, "header")
		r.Header.Set(name, r.Header.Get(name)+"x")
		if err := httpsign.VerifyRequest(Label, *verifier, r); err == nil {
			t.Fatalf("the oracle does not see a change of %s", name)
		}
	})
}

// TestWeVerifyOracles: a signature that the other implementation makes over our components fits our base, with its own
// order of parameters in the last line; the profile then refuses it for that order alone.
func TestWeVerifyOracles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := genParsed().Draw(t, "request")
		priv := seedKey(7)
		key := wire.PublicKeyOf(priv)
		signer, err := httpsign.NewEd25519Signer(priv, httpsign.NewSignConfig().SetTag(p.Tag).SetKeyID(key.DID()), oracleFields(p.Tag))
		if err != nil {
			t.Fatal(err)
		}
		r, body := overTheWire(t, p)
		r.Body = io.NopCloser(bytes.NewReader(body))
		input, value, err := httpsign.SignRequest(Label, *signer, r)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := readSignatureValue(value)
		if err != nil {
			t.Fatal(err)
		}
		marker := `"@signature-params": `
		ours, _, _ := strings.Cut(string(Base(p.Tag, &p.Request, p.Place)), marker)
		base := ours + marker + strings.TrimPrefix(input, Label+"=")
		if err := wire.VerifySignature(key, []byte(base), signature); err != nil {
			t.Fatalf("%v\n%s", err, base)
		}
		r.Header.Set(HeaderSignatureInput, input)
		r.Header.Set(HeaderSignature, value)
		if _, err := FromHTTP(r, body); !refusal.Has(err, refusal.SignatureMalformed) {
			t.Fatalf("%v", err)
		}
	})
}

// TestRFC9421B26 checks appendix B.2.6, "Signing a Request Using ed25519": our primitives sign and verify its base.
func TestRFC9421B26(t *testing.T) {
	decode := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	priv := ed25519.NewKeyFromSeed(decode("n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU"))
	key := wire.PublicKey(decode("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"))
	if wire.PublicKeyOf(priv) != key {
		t.Fatal("test-key-ed25519 of appendix B.1.4 is not a pair")
	}
	if err := wire.CheckKey(key); err != nil {
		t.Error(err)
	}
	const params = `("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"`
	var base []byte
	base = line(base, `"date": `, "Tue, 20 Apr 2021 02:07:55 GMT")
	base = line(base, `"@method": `, "POST")
	base = line(base, `"@path": `, "/foo")
	base = line(base, `"@authority": `, "example.com")
	base = line(base, `"content-type": `, "application/json")
	base = line(base, `"content-length": `, "18")
	base = append(append(base, `"@signature-params": `...), params...)
	const signed = "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
	signature, err := readSignatureValue(Label + "=:" + signed + ":")
	if err != nil {
		t.Fatal(err)
	}
	if err := wire.VerifySignature(key, base, signature); err != nil {
		t.Error(err)
	}
	if got := wire.Signature(ed25519.Sign(priv, base)); got != signature {
		t.Errorf("we sign %x", got)
	}
	base[0] ^= 1
	wantCode(t, wire.VerifySignature(key, base, signature), refusal.SignatureInvalid)

	r := httptest.NewRequest("POST", "/foo", nil)
	r.Header.Set(HeaderContentType, "application/json")
	r.Header.Set(HeaderSignatureInput, "sig-b26="+params)
	r.Header.Set(HeaderSignature, "sig-b26=:"+signed+":")
	_, err = FromHTTP(r, nil)
	wantCode(t, err, refusal.SignatureMalformed) // it is right, but not in the profile
}

// TestRFC9530 checks appendix A of RFC 9530: the digests of its examples.
func TestRFC9530(t *testing.T) {
	for body, want := range map[string]string{
		"{\"hello\": \"world\"}":   "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
		"{\"hello\": \"world\"}\n": "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:",
		"":                         "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
	} {
		if got := ContentDigest(wire.Sum([]byte(body))); got != want {
			t.Errorf("%q: %s, want %s", body, got, want)
		}
	}
}
