package supplychain

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// signedBy returns the body of a package after an edit, signed by a demo key.
func signedBy(t *testing.T, name string, edit func(*PackageRequest)) string {
	t.Helper()
	p := PackageRequest{SupplierID: "SUP-001", SupplierReference: "PO-9", Items: []Item{{ItemID: "ITM-001", Quantity: 1}}}
	edit(&p)
	if err := p.Sign(DemoKey(name)); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// unchanged checks that a refusal left the state as it was.
func unchanged(t *testing.T, w *world, send func() answer) answer {
	t.Helper()
	before := clone(w.state)
	a := send()
	if !before.Equal(clone(w.state)) {
		t.Errorf("%s changed the state though it was refused", a.what)
	}
	return a
}

func TestRegisterRefusals(t *testing.T) {
	good := demoPackage(t, "PO-1")
	for name, c := range map[string]struct{ body, code, detail string }{
		"no body":               {"", "bad-json", ""},
		"not JSON":              {"{", "bad-json", "not JSON"},
		"two values":            {good + good, "bad-json", "not JSON"},
		"not UTF-8":             {strings.Replace(good, "PO-1", "PO-\xff", 1), "bad-json", "UTF-8"},
		"key twice":             {strings.Replace(good, "{", `{"supplier_id":"SUP-002",`, 1), "bad-json", "supplier_id"},
		"key twice, other case": {strings.Replace(good, "{", `{"Supplier_ID":"SUP-002",`, 1), "bad-json", "twice"},
		"key twice, nested":     {strings.Replace(good, `{"item_id"`, `{"quantity":1,"item_id"`, 1), "bad-json", "quantity"},
		"too deep":              {strings.Repeat("[", 17) + strings.Repeat("]", 17), "bad-json", "deeper than 16"},
		"far too deep":          {strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), "bad-json", "not JSON"},
		"too large":             {`{"a":"` + strings.Repeat("x", maxBody) + `"}`, "body-too-large", "262144"},
		"not an object":         {`[]`, "invalid-request", ""},
		"null":                  {`null`, "invalid-request", ""},
		"unknown member":        {strings.Replace(good, "{", `{"colour":"red",`, 1), "invalid-request", ""},
		"missing member":        {`{}`, "invalid-request", ""},
		"no items":              {strings.Replace(good, `"items":[`, `"items":[],"x":[`, 1), "invalid-request", ""},
		"items null":            {`{"supplier_id":"SUP-001","supplier_reference":"x","items":null,"supplier_signature":"` + strings.Repeat("A", 86) + `=="}`, "invalid-request", ""},
		"quantity zero":         {signedBy(t, "SUP-001", func(p *PackageRequest) { p.Items[0].Quantity = 0 }), "invalid-request", ""},
		"quantity negative":     {signedBy(t, "SUP-001", func(p *PackageRequest) { p.Items[0].Quantity = -1 }), "invalid-request", ""},
		"quantity fraction":     {strings.Replace(good, `"quantity":24`, `"quantity":24.5`, 1), "invalid-request", ""},
		"quantity huge":         {strings.Replace(good, `"quantity":24`, `"quantity":1e300`, 1), "invalid-request", ""},
		"reference with space":  {strings.Replace(good, "PO-1", "PO 1", 1), "invalid-request", ""},
		"signature short":       {regexp.MustCompile(`supplier_signature":"..`).ReplaceAllString(good, `supplier_signature":"`), "invalid-request", ""},
		"unknown supplier":      {signedBy(t, "SUP-999", func(p *PackageRequest) { p.SupplierID = "SUP-999" }), "unknown-supplier", "SUP-999"},
		"unknown item":          {signedBy(t, "SUP-001", func(p *PackageRequest) { p.Items[0].ItemID = "ITM-999" }), "unknown-item", "ITM-999"},
		"item twice":            {signedBy(t, "SUP-001", func(p *PackageRequest) { p.Items = append(p.Items, p.Items[0]) }), "duplicate-item", "ITM-001"},
		"signed by another":     {signedBy(t, "SUP-002", func(*PackageRequest) {}), "supplier-signature-invalid", "SUP-001"},
		"quantity altered":      {strings.Replace(good, `"quantity":24`, `"quantity":25`, 1), "supplier-signature-invalid", ""},
		"reference altered":     {strings.Replace(good, "PO-1", "PO-2", 1), "supplier-signature-invalid", ""},
		"signature of zeros":    {signatureReplaced(good, make([]byte, 64)), "supplier-signature-invalid", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := unchanged(t, w, func() answer { return w.do("POST", "/packages", c.body) }).refused(c.code)
			if !strings.Contains(p.Detail, c.detail) {
				t.Errorf("detail %q does not mention %q", p.Detail, c.detail)
			}
			if c.code == "invalid-request" && len(p.Errors) == 0 {
				t.Error("the refusal does not say what is wrong")
			}
		})
	}
}

func signatureReplaced(body string, signature []byte) string {
	return regexp.MustCompile(`supplier_signature":"[^"]*"`).
		ReplaceAllString(body, `supplier_signature":"`+base64.StdEncoding.EncodeToString(signature)+`"`)
}

// A lot tells two lines of one item apart.
func TestLots(t *testing.T) {
	w := newWorld(t)
	body := signedBy(t, "SUP-001", func(p *PackageRequest) {
		p.Items = []Item{{"ITM-001", 1, "L-1"}, {"ITM-001", 2, "L-2"}, {"ITM-001", 3, ""}}
	})
	w.do("POST", "/packages", body).want(http.StatusCreated)
}

// The same signed package posted twice is a 409 that names the first, also after it has moved on, from another actor
// and in another session; another supplier may use the same reference.
func TestSamePackageTwice(t *testing.T) {
	w := newWorld(t)
	id, _ := w.at(StatusPassed, "PO-1")
	w.session = "session-two"
	p := unchanged(t, w, func() answer { return w.as("OPR-002", "POST", "/packages", demoPackage(t, "PO-1")) }).refused("duplicate-package")
	if p.PackageID != id {
		t.Errorf("the refusal names %q, want %q", p.PackageID, id)
	}
	other := signedBy(t, "SUP-002", func(p *PackageRequest) { p.SupplierID, p.SupplierReference = "SUP-002", "PO-1" })
	w.do("POST", "/packages", other).want(http.StatusCreated)
}

func TestValidateRefusals(t *testing.T) {
	content, err := PackageRequest{SupplierID: "SUP-001", SupplierReference: "PO-1",
		Items: []Item{{ItemID: "ITM-001", Quantity: 24}, {ItemID: "ITM-003", Quantity: 6}}}.Content()
	if err != nil {
		t.Fatal(err)
	}
	sig := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	right := ed25519.Sign(DemoKey("SUP-001"), content)
	for name, c := range map[string]struct{ signature, code string }{
		"any text":         {"looks fine to me", "supplier-signature-invalid"},
		"empty":            {"", "invalid-request"},
		"another supplier": {sig(ed25519.Sign(DemoKey("SUP-002"), content)), "supplier-signature-invalid"},
		"one bit flipped":  {sig(append([]byte{right[0] ^ 1}, right[1:]...)), "supplier-signature-invalid"},
		"another package":  {sig(ed25519.Sign(DemoKey("SUP-001"), append(content, "item ITM-002 1\n"...))), "supplier-signature-invalid"},
		"truncated":        {sig(right[:63]), "supplier-signature-invalid"},
		"very long":        {strings.Repeat("A", 201), "invalid-request"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			id, _ := w.at(StatusScanned, "PO-1")
			p := unchanged(t, w, func() answer {
				return w.do("POST", "/packages/"+id+"/validate", fmt.Sprintf(`{"signature":%q}`, c.signature))
			}).refused(c.code)
			if c.code == "supplier-signature-invalid" && (p.PackageID != id || !strings.Contains(p.Detail, "SUP-001")) {
				t.Errorf("the refusal does not say whose signature of what: %+v", p)
			}
			w.do("POST", "/packages/"+id+"/validate", fmt.Sprintf(`{"signature":%q}`, sig(right))).want(http.StatusOK)
		})
	}
}

func TestQualityCheckRefusals(t *testing.T) {
	for name, body := range map[string]string{
		"passed missing":  `{"issues":[]}`,
		"passed as text":  `{"passed":"true"}`,
		"issue empty":     `{"passed":true,"issues":[""]}`,
		"issue long":      `{"passed":true,"issues":["` + strings.Repeat("x", 201) + `"]}`,
		"too many issues": `{"passed":true,"issues":["x"` + strings.Repeat(`,"x"`, 50) + `]}`,
		"inspector given": `{"passed":true,"inspector":"QCI-001"}`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			id, _ := w.at(StatusValidated, "PO-1")
			unchanged(t, w, func() answer { return w.do("POST", "/packages/"+id+"/quality-check", body) }).refused("invalid-request")
		})
	}
}

func TestLabelRefusals(t *testing.T) {
	for name, c := range map[string]struct{ body, code string }{
		"unknown courier":   {strings.Replace(goodLabel, "COU-001", "COU-999", 1), "unknown-courier"},
		"inactive courier":  {strings.Replace(goodLabel, "COU-001", "COU-003", 1), "courier-inactive"},
		"no destination":    {strings.Replace(goodLabel, "Pier 4, Rotterdam", "", 1), "invalid-request"},
		"two-line address":  {strings.Replace(goodLabel, "Pier 4, ", `Pier 4\n`, 1), "invalid-request"},
		"priority sentence": {strings.Replace(goodLabel, "express", "as fast as you can!", 1), "invalid-request"},
		"no body":           {"", "bad-json"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			id, _ := w.at(StatusPassed, "PO-1")
			unchanged(t, w, func() answer { return w.do("POST", "/packages/"+id+"/label", c.body) }).refused(c.code)
		})
	}
}

// What is not there is a 404 that says what is missing; a step on it changes nothing.
func TestNotFound(t *testing.T) {
	w := newWorld(t)
	for _, target := range []string{"/packages/PKG-x", "/suppliers/SUP-999", "/couriers/COU-999", "/catalogue/ITM-999", "/qc-records/QCR-x", "/labels/LBL-x"} {
		if p := w.do("GET", target, "").refused("not-found"); !strings.Contains(p.Detail, target[strings.LastIndex(target, "/")+1:]) {
			t.Errorf("%s: detail %q", target, p.Detail)
		}
	}
	for _, a := range []Action{ActionScan, ActionValidate, ActionQualityCheck, ActionLabel} {
		unchanged(t, w, func() answer {
			return w.do("POST", "/packages/PKG-x/"+string(a), bodyFor(a, "c2lnbmVk", true))
		}).refused("not-found")
	}
}

// A body is JSON if its type says so, if curl's default says it is a form, and if nothing is said; otherwise 415.
func TestMediaTypes(t *testing.T) {
	for media, ok := range map[string]bool{
		"application/json":                  true,
		"application/json; charset=utf-8":   true,
		"Application/JSON;charset=UTF-8":    true,
		"application/x-www-form-urlencoded": true,
		"":                                  true,
		"application/json; charset=latin1":  false,
		"application/cbor":                  false,
		"application/problem+json":          false,
		"text/plain":                        false,
		"multipart/form-data; boundary=x":   false,
		"json":                              false,
		";":                                 false,
	} {
		w := newWorld(t)
		got := w.as("OPR-001", "POST", "/packages", demoPackage(t, "PO-1"), "Content-Type", media)
		if ok {
			got.want(http.StatusCreated)
		} else {
			got.refused("unsupported-media-type")
		}
	}
}

// A step without a body takes none, or {}.
func TestUnexpectedBody(t *testing.T) {
	for body, code := range map[string]string{"": "", "{}": "", " { } \n": "", `{"a":1}`: "unexpected-body", "[]": "unexpected-body",
		"{": "bad-json", `{"a":1,"a":1}`: "bad-json", "null": "unexpected-body"} {
		w := newWorld(t)
		id, _ := w.registered("PO-1")
		got := w.do("POST", "/packages/"+id+"/scan", body)
		if code == "" {
			got.want(http.StatusOK)
		} else {
			got.refused(code)
		}
	}
}

// The catalogue of problems has no code that no test and no handler uses, and huma's error lists come out sorted.
func TestViolationsAreSortedAndBounded(t *testing.T) {
	w := newWorld(t)
	id, _ := w.at(StatusValidated, "PO-1")
	var members []string
	for i := range 40 {
		members = append(members, fmt.Sprintf("%q:%q", fmt.Sprintf("m%02d", i), strings.Repeat("long ", 400)))
	}
	p := w.do("POST", "/packages/"+id+"/quality-check", "{"+strings.Join(members, ",")+"}").refused("invalid-request")
	if len(p.Errors) != maxViolations || !strings.Contains(p.Detail, "first 20 of 41") {
		t.Errorf("%d violations, detail %q", len(p.Errors), p.Detail)
	}
	if !slices.IsSortedFunc(p.Errors, func(a, b Violation) int {
		return strings.Compare(a.Location+"\x00"+a.Message, b.Location+"\x00"+b.Message)
	}) {
		t.Errorf("violations are not sorted: %+v", p.Errors)
	}
}

func TestEveryProblemIsUsed(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".go") && !strings.HasSuffix(f.Name(), "_test.go") {
			b, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			source.Write(b)
		}
	}
	for code, entry := range problems {
		if strings.Count(source.String(), fmt.Sprintf("%q", code)) < 2 {
			t.Errorf("problem %s is used by no handler", code)
		}
		if entry.title == "" || http.StatusText(entry.status) == "" {
			t.Errorf("problem %s is incomplete", code)
		}
	}
}

// Lists: filters, pages without gaps or doubles, cursors that fit their list only.
func TestLists(t *testing.T) {
	w := newWorld(t)
	byStatus := map[Status][]string{}
	for i, status := range []Status{StatusRegistered, StatusScanned, StatusRegistered, StatusFailed, StatusLabelled, StatusPassed, StatusLabelled} {
		id, _ := w.at(status, fmt.Sprintf("PO-%d", i))
		byStatus[status] = append(byStatus[status], id)
	}
	other := signedBy(t, "SUP-002", func(p *PackageRequest) { p.SupplierID = "SUP-002" })
	theirs := w.do("POST", "/packages", other).want(http.StatusCreated).text("package_id")
	byStatus[StatusRegistered] = append(byStatus[StatusRegistered], theirs)

	type pageOf struct {
		Items []struct {
			PackageID string `json:"package_id"`
			Status    Status `json:"status"`
		} `json:"items"`
		Next string `json:"next"`
	}
	walk := func(target string, limit int) (ids []string, pages int) {
		cursor := ""
		for {
			var p pageOf
			w.do("GET", fmt.Sprintf("%s&limit=%d&cursor=%s", target, limit, cursor), "").want(http.StatusOK).into(&p)
			pages++
			for _, it := range p.Items {
				ids = append(ids, it.PackageID)
			}
			if cursor = p.Next; cursor == "" {
				return ids, pages
			}
		}
	}
	sorted := func(ids ...string) []string { slices.Sort(ids); return ids }
	var all []string
	for status, ids := range byStatus {
		all = append(all, ids...)
		got, _ := walk("/packages?status="+string(status), 1)
		if !slices.Equal(got, sorted(slices.Clone(ids)...)) {
			t.Errorf("status %s: %v, want %v", status, got, ids)
		}
	}
	for limit, pages := range map[int]int{1: 8, 3: 3, 8: 1, 100: 1} {
		got, n := walk("/packages?", limit)
		if !slices.Equal(got, sorted(all...)) || n != pages {
			t.Errorf("limit %d: %d pages of %v, want %d", limit, n, got, pages)
		}
	}
	if got, _ := walk("/packages?supplier_id=SUP-002", 5); !slices.Equal(got, []string{theirs}) {
		t.Errorf("supplier filter: %v", got)
	}
	if got, _ := walk("/packages?supplier_id=SUP-001&status=labelled", 1); !slices.Equal(got, sorted(slices.Clone(byStatus[StatusLabelled])...)) {
		t.Errorf("both filters: %v", got)
	}
	labelled, failed := byStatus[StatusLabelled][0], byStatus[StatusFailed][0]
	for target, want := range map[string]int{
		"/suppliers":                     3,
		"/catalogue":                     7,
		"/couriers":                      3,
		"/couriers?active=true":          2,
		"/couriers?active=false":         1,
		"/labels":                        2,
		"/labels?package_id=" + labelled: 1,
		"/labels?courier_id=COU-001":     2,
		"/labels?courier_id=COU-001&priority=express":       2,
		"/labels?priority=express":                          2,
		"/labels?priority=standard":                         0,
		"/labels?courier_id=COU-002":                        0,
		"/qc-records":                                       4,
		"/qc-records?passed=false":                          1,
		"/qc-records?passed=true":                           3,
		"/qc-records?package_id=" + failed:                  1,
		"/qc-records?package_id=" + failed + "&passed=true": 0,
	} {
		var p struct{ Items []json.RawMessage }
		w.do("GET", target, "").want(http.StatusOK).into(&p)
		if len(p.Items) != want || p.Items == nil {
			t.Errorf("%s: %d items, want %d", target, len(p.Items), want)
		}
	}
	var first pageOf
	w.do("GET", "/packages?limit=1", "").into(&first)
	for _, target := range []string{"/packages?status=labelled&cursor=" + first.Next, "/labels?cursor=" + first.Next, "/packages?cursor=AAAA", "/packages?cursor=%21"} {
		w.do("GET", target, "").refused("bad-cursor")
	}
	for _, target := range []string{"/packages?limit=0", "/packages?limit=101", "/packages?limit=ten", "/packages?status=lost", "/packages?colour=red",
		"/couriers?active=maybe", "/labels?package_id=x&courier_id=y"} {
		w.do("GET", target, "").refused("invalid-request")
	}
}

// The steps of a list are read at the agreed time, not at the machine's.
func TestTimesAreAgreed(t *testing.T) {
	w := newWorld(t)
	id, _ := w.registered("PO-1")
	var p Package
	w.do("GET", "/packages/"+id, "").into(&p)
	if want := start.Add(time.Second); !p.History[0].At.Equal(want) {
		t.Errorf("registered at %v, want %v", p.History[0].At, want)
	}
}
