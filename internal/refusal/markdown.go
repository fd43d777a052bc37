package refusal

import (
	"cmp"
	"fmt"
	"io"
	"strings"
)

// WriteMarkdown prints the catalogue as the page docs/errors.md, which is what `tandem errors` prints. It returns the
// first error of w.
func WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Errors

Printed by ` + "`tandem errors`" + `; do not edit by hand.

When a node does not do what a request asks, it answers with an RFC 9457 problem document (` + "`" + ContentType + "`" + `):
` + "`type`" + ` is ` + "`" + TypePrefix + `CODE` + "`" + `, and beside the standard members there are ` + "`code`, `cause`, `remedy`" + ` and, where they help, fields such as
` + "`session`, `step`, `field`, `height`" + `. Programs should compare ` + "`code`" + `; texts may improve. A service's own handlers answer
their errors as they like: only the codes below come from Tandem.

| kind | meaning |
|---|---|
| refusal | the request is not acceptable as it stands; repeating it unchanged does not help |
| conflict | something else came first; look at the present state and decide anew |
| outage | not now, or not here; the same request may succeed later or at another node |
| answer | the framework answered in a handler's place, the same on every node |

| code | status | kind | title |
|---|---|---|---|
`)
	for _, e := range catalogue {
		fmt.Fprintf(&b, "| [%s](#%s) | %d | %s | %s |\n", e.Code, e.Code, e.Status, e.Kind, e.Title)
	}
	for _, e := range catalogue {
		fmt.Fprintf(&b, "\n## %s\n\n%s (%d, %s).\n\n- Cause: %s\n- Remedy: %s\n",
			e.Code, e.Title, e.Status, e.Kind, cmp.Or(e.Cause, "unknown"), cmp.Or(e.Remedy, "none"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
