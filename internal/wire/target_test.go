package wire

import (
	"net/url"
	"os"
	"path"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tandem/internal/refusal"
)

// TestTargets runs testdata/targets.txt: "ok" or "refused", a tab, the raw target, and why.
func TestTargets(t *testing.T) {
	raw, err := os.ReadFile("testdata/targets.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		n++
		fields := strings.Split(line, "\t")
		if len(fields) != 3 {
			t.Fatalf("not three fields: %q", line)
		}
		target := strings.NewReplacer("<TAB>", "\t", "<NUL>", "\x00", "<LF>", "\n", "<DEL>", "\x7f").Replace(fields[1])
		p, q, _ := strings.Cut(target, "?")
		err := CheckTarget(p, q)
		switch fields[0] {
		case "ok":
			if err != nil {
				t.Errorf("%s: %v", line, err)
			}
		case "refused":
			if r, ok := refusal.As(err); !ok || r.Code != refusal.BadTarget {
				t.Errorf("%s: got %v", line, err)
			}
		default:
			t.Fatalf("verdict %q", fields[0])
		}
	}
	if n < 50 {
		t.Errorf("only %d targets", n)
	}
}

// checkAccepted: what passes is read the same way by net/url and path.Clean, so by the router and the handler.
func checkAccepted(t interface {
	Helper()
	Fatalf(string, ...any)
}, rawPath, rawQuery string) {
	t.Helper()
	target := rawPath
	if rawQuery != "" {
		target += "?" + rawQuery
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatalf("%q passes, but net/url says %v", target, err)
	}
	if u.EscapedPath() != rawPath || u.RawQuery != rawQuery || u.Host != "" || u.Fragment != "" {
		t.Fatalf("%q becomes %q ? %q", target, u.EscapedPath(), u.RawQuery)
	}
	clean := path.Clean(u.Path)
	if clean != "/" && strings.HasSuffix(u.Path, "/") {
		clean += "/"
	}
	if clean != u.Path {
		t.Fatalf("%q has the path %q, which cleans to %q", target, u.Path, clean)
	}
	if strings.Count(u.Path, "/") != strings.Count(rawPath, "/") {
		t.Fatalf("%q hides a slash", target)
	}
	for _, c := range []byte(u.Path) {
		if c < 0x20 || c == 0x7f || c == '\\' {
			t.Fatalf("%q hides byte %#x", target, c)
		}
	}
}

func TestTargetsMeanOneThing(t *testing.T) {
	passed := 0
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.SampledFrom([]string{"/", "a", "B", "0", ".", "..", "%2E", "%2F", "%5C", "%20", "%C3%A9", "%c3", "%41", "%25", "%00", "~", "!", ";", "=", "+", "\\", "%", "é", "?", "#", " ", ":", "@", "%7F", "%FF"})
		p := "/" + strings.Join(rapid.SliceOfN(piece, 0, 6).Draw(t, "path"), "")
		q := strings.Join(rapid.SliceOfN(piece, 0, 4).Draw(t, "query"), "")
		if CheckTarget(p, q) == nil {
			passed++
			checkAccepted(t, p, q)
		}
	})
	if passed == 0 {
		t.Error("nothing passed")
	}
}

func TestTargetLength(t *testing.T) {
	p := "/" + strings.Repeat("a", MaxTarget-2)
	if err := CheckTarget(p, ""); err != nil {
		t.Error(err)
	}
	wantCode(t, CheckTarget(p, "b"), refusal.BadTarget)
}

func TestRequestCheck(t *testing.T) {
	for _, m := range []string{"", "get", "GE T", "GÉT", "GET\r\n", "G:"} {
		r := Request{Method: m, Path: "/", ContentType: "text/plain"}
		wantCode(t, r.Check(), refusal.BadRequest)
	}
	for _, ct := range []string{"", " text/plain", "text/plain ", "text/plain;  a=b", "text/\tplain", "text/pl\x00ain", "té"} {
		r := Request{Method: "GET", Path: "/", ContentType: ct}
		wantCode(t, r.Check(), refusal.UnsupportedMediaType)
	}
}
