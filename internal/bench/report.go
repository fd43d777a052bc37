package bench

import (
	"bytes"
	"errors"
	"fmt"
	"html/template"
	"io"
	"regexp"
	"slices"
)

// Report is one HTML file that holds all of a measurement: it needs no network, no script and no other file.
type Report struct {
	Title string
	// Lead are paragraphs that stand first: what was measured and how it ended.
	Lead []string
	// Machine says where; Method how, one paragraph each.
	Machine  Machine
	Method   []string
	Sections []Section
}

// Section is a part of a report.
type Section struct {
	Heading string
	Text    []string // paragraphs
	Tables  []Table
	Figures []Figure
}

// Table is a table of a report. Cells that begin with a digit stand to the right, and so do the heads above them; names of
// configurations are no numbers.
type Table struct {
	Caption string
	Head    []string
	Rows    [][]string
}

// Numbers reports whether the cells below a head are numbers.
func (t Table) Numbers(column int) bool {
	return slices.ContainsFunc(t.Rows, func(row []string) bool { return column < len(row) && number(row[column]) })
}

// Figure is a chart of a report.
type Figure struct {
	SVG     []byte
	Caption string
}

// Write writes the report as HTML.
func (r Report) Write(w io.Writer) error {
	if err := reportTemplate.Execute(w, r); err != nil {
		return fmt.Errorf("bench: report: %w", err)
	}
	return nil
}

// inline is a chart as it stands inside HTML: without the XML declaration and what else comes before it.
func inline(svg []byte) (template.HTML, error) {
	i := bytes.Index(svg, []byte("<svg"))
	if i < 0 {
		return "", errors.New("bench: report: no SVG")
	}
	return template.HTML(svg[i:]), nil // our own drawing, whose texts are escaped
}

// number reports whether a cell is one.
func number(cell string) bool {
	return cell != "" && (cell[0] >= '0' && cell[0] <= '9' || cell[0] == '-' && len(cell) > 1) && !configuration.MatchString(cell)
}

// configuration is the name of a network: validators - Layer 2 nodes.
var configuration = regexp.MustCompile(`^[0-9]+-[0-9]+$`)

func gibibytes(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{"inline": inline, "number": number, "gibibytes": gibibytes}).Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>
body { font: 15px/1.5 Arial, Helvetica, sans-serif; color: #1a1a1a; background: #fff; max-width: 1080px; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
p { max-width: 75ch; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px; display: block; overflow-x: auto; }
caption { text-align: left; font-weight: bold; padding: 4px 0; }
th, td { border-bottom: 1px solid #ddd; padding: 3px 10px 3px 0; text-align: left; }
td, th[scope=row] { white-space: nowrap; } th { vertical-align: bottom; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.2rem 0; } figure svg { max-width: 100%; height: auto; } figcaption { color: #444; font-size: 13px; max-width: 90ch; }
</style>
</head>
<body>
<h1>{{.Title}}</h1>
{{range .Lead}}<p>{{.}}</p>
{{end}}{{range .Sections}}<h2>{{.Heading}}</h2>
{{range .Text}}<p>{{.}}</p>
{{end}}{{range .Figures}}<figure>
{{inline .SVG}}<figcaption>{{.Caption}}</figcaption>
</figure>
{{end}}{{range .Tables}}<table>
{{if .Caption}}<caption>{{.Caption}}</caption>
{{end}}<thead><tr>{{$t := .}}{{range $i, $h := .Head}}<th scope="col"{{if $t.Numbers $i}} class="n"{{end}}>{{$h}}</th>{{end}}</tr></thead>
<tbody>
{{range .Rows}}<tr>{{range .}}<td{{if number .}} class="n"{{end}}>{{.}}</td>{{end}}</tr>
{{end}}</tbody>
</table>
{{end}}{{end}}<h2>Machine and versions</h2>
{{with .Machine}}<table>
<tbody>
<tr><th scope="row">date</th><td>{{.Date.Format "2006-01-02 15:04:05 UTC"}}</td></tr>
<tr><th scope="row">processor</th><td>{{.Cores}} cores{{if .CPU}}, {{.CPU}}{{end}}</td></tr>
{{if .Memory}}<tr><th scope="row">memory</th><td>{{gibibytes .Memory}}</td></tr>
{{end}}{{if .Kernel}}<tr><th scope="row">kernel</th><td>{{.Kernel}}</td></tr>
{{end}}{{if .FileSystem}}<tr><th scope="row">file system of the nodes' data</th><td>{{.FileSystem}}</td></tr>
{{end}}<tr><th scope="row">load average at the start</th><td>{{.Load}}</td></tr>
<tr><th scope="row">Tandem</th><td>{{.Version}}{{if .Revision}}, revision {{.Revision}}{{if .Modified}}, with changes{{end}}{{end}}</td></tr>
<tr><th scope="row">Go</th><td>{{.Go}} {{.Platform}}</td></tr>
{{if .CometBFT}}<tr><th scope="row">CometBFT</th><td>{{.CometBFT}}</td></tr>
{{end}}</tbody>
</table>
{{end}}<h2>Method</h2>
{{range .Method}}<p>{{.}}</p>
{{end}}</body>
</html>
`))
