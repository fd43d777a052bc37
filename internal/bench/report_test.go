package bench

import (
	"bytes"
	"strings"
	"testing"
)

// Heads stand above their numbers; a configuration is a name.
func TestReportTable(t *testing.T) {
	r := Report{Title: "t", Sections: []Section{{Heading: "h", Tables: []Table{{
		Head: []string{"configuration", "median", "note"}, Rows: [][]string{{"4-1", "1.5", ""}, {"10-2", "-0.5", "noisy"}},
	}}}}}
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`<th scope="col">configuration</th><th scope="col" class="n">median</th><th scope="col">note</th>`,
		`<td>4-1</td><td class="n">1.5</td><td></td>`, `<td>10-2</td><td class="n">-0.5</td><td>noisy</td>`,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report lacks %s", want)
		}
	}
}
