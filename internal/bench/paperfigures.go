package bench

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// paperFigures are what the paper reports for a configuration, means in ms (docs/benchmarks.md names the source).
type paperFigures struct{ layer2, commit, operationAndCommit, workflow float64 }

// thePaper is the paper's evaluation: containers on one machine, 100 workflows for each configuration.
var thePaper = map[Size]paperFigures{
	{4, 1}:  {58.3, 240.4, 298.7, 590.2},
	{7, 1}:  {77.6, 304.8, 382.4, 770.1},
	{10, 1}: {157.8, 414.3, 572.0, 1360.9},
	{13, 1}: {176.9, 424.8, 601.6, 1486.0},
	{16, 1}: {183.2, 449.8, 633.0, 1548.8},
	{4, 2}:  {203.1, 229.0, 432.1, 1447.4},
	{7, 2}:  {275.6, 307.9, 583.5, 1961.4},
	{10, 2}: {315.4, 376.7, 692.2, 2269.4},
	{13, 2}: {346.7, 406.9, 753.6, 2487.3},
	{16, 2}: {400.4, 457.1, 857.6, 2859.7},
}

// paperOneLayer is how many times as long the paper says that its workflow takes on one layer. It gives no more than this number.
const paperOneLayer = 2.4

// PaperSizes are the paper's configurations, in its order.
func PaperSizes() []Size {
	return slices.SortedFunc(maps.Keys(thePaper), Size.compare)
}

func (s Size) compare(t Size) int {
	return cmp.Or(cmp.Compare(s.Layer2, t.Layer2), cmp.Compare(s.Validators, t.Validators))
}

// chartFile is a chart and where it goes.
type chartFile struct {
	name, caption string
	svg           []byte
}

// sizes are the configurations of which something was measured, in the paper's order.
func (s *PaperSummary) sizes() []Size {
	var sizes []Size
	for _, c := range s.Configs {
		if c.Workflows > 0 {
			sizes = append(sizes, Size{c.Validators, c.Layer2})
		}
	}
	slices.SortFunc(sizes, Size.compare)
	return sizes
}

func (s *PaperSummary) at(size Size) *PaperConfig { return s.Configs[size.String()] }

// withLayer2 are those of the sizes that have so many Layer 2 nodes.
func withLayer2(sizes []Size, n int) []Size {
	return slices.DeleteFunc(slices.Clone(sizes), func(s Size) bool { return s.Layer2 != n })
}

// gaps puts the zero Size between networks with different numbers of Layer 2 nodes: a gap in the lines.
func gaps(sizes []Size) []Size {
	var all []Size
	for i, s := range sizes {
		if i > 0 && s.Layer2 != sizes[i-1].Layer2 {
			all = append(all, Size{})
		}
		all = append(all, s)
	}
	return all
}

// names are the categories of a chart; a gap has none.
func names(sizes []Size) []string {
	all := make([]string, len(sizes))
	for i, s := range sizes {
		if s != (Size{}) {
			all[i] = s.String()
		}
	}
	return all
}

// each is a value for each size; NaN, which is not drawn, at a gap and for what was not measured.
func each(sizes []Size, value func(Size) float64) []float64 {
	all := make([]float64, len(sizes))
	for i, s := range sizes {
		all[i] = math.NaN()
		if s == (Size{}) {
			continue
		}
		if v := value(s); v > 0 {
			all[i] = v
		}
	}
	return all
}

// ofPaper is a value of the paper's for each size.
func ofPaper(sizes []Size, value func(paperFigures) float64) []float64 {
	return each(sizes, func(s Size) float64 {
		if f, ok := thePaper[s]; ok {
			return value(f)
		}
		return 0
	})
}

const (
	onConfigurations = "configuration: validators - Layer 2 nodes"
	meanLog          = "mean latency, ms (logarithmic)"
)

// charts draws the paper's figures from what was measured.
func (r *paperRun) charts() ([]chartFile, error) {
	s := &r.summary
	sizes := s.sizes()
	var files []chartFile
	add := func(name, caption string, chart interface{ SVG() ([]byte, error) }) error {
		svg, err := chart.SVG()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		files = append(files, chartFile{name, caption, svg})
		return nil
	}
	if len(sizes) == 0 {
		return nil, nil
	}
	var counts []int
	for _, size := range sizes {
		if !slices.Contains(counts, size.Layer2) {
			counts = append(counts, size.Layer2)
		}
	}
	for _, n := range counts {
		some := withLayer2(sizes, n)
		if err := add(fmt.Sprintf("latency-%d.svg", n),
			fmt.Sprintf("Latency against configuration with %s. Solid: measured here, means. Dashed: the paper's means, on its machine.", nodes(n)),
			s.latencyChart(some, n)); err != nil {
			return nil, err
		}
	}
	if err := add("endpoints.svg", "What a workflow consists of: the mean of each operation. The paper's bars (right, a scale of their own) show each of its six "+
		"Layer 2 operations as their mean, which is all that it reports.", s.endpointChart(sizes)); err != nil {
		return nil, err
	}
	for _, n := range counts {
		some := withLayer2(sizes, n)
		if err := add(fmt.Sprintf("distribution-%d.svg", n),
			fmt.Sprintf("Each operation's latencies with %s: median, quartiles, whiskers to the last value within 1.5 times their distance, and the rest as points. "+
				"Dashed: the paper's means.", nodes(n)), r.distributionChart(some, n)); err != nil {
			return nil, err
		}
	}
	if err := add("commit-against-layer2.svg", "The commit on Layer 1 against the mean Layer 2 operation. The distance between the two lines is what a user is spared at each step.",
		s.commitChart(sizes)); err != nil {
		return nil, err
	}
	for _, size := range sizes {
		if len(s.at(size).OneLayer) > 0 {
			return files, add("layers.svg", "The whole workflow in a session (two layers) and with every step committed on Layer 1 (one layer), medians. Dashed: the paper's workflow, "+
				"and 2.4 times that, which is what it says of one layer.", s.layerChart(sizes))
		}
	}
	return files, nil
}

func nodes(n int) string {
	switch n {
	case 1:
		return "one Layer 2 node"
	case 2:
		return "two Layer 2 nodes"
	}
	return fmt.Sprintf("%d Layer 2 nodes", n)
}

func (s *PaperSummary) latencyChart(sizes []Size, layer2 int) LineChart {
	chart := LineChart{
		Title: fmt.Sprintf("Latency against configuration, %s", nodes(layer2)), X: onConfigurations, Y: meanLog,
		Categories: names(sizes), LogY: true,
	}
	lines := []struct {
		name  string
		here  func(*PaperConfig) float64
		paper func(paperFigures) float64
	}{
		{"whole workflow", func(c *PaperConfig) float64 { return c.Operations["workflow"].Mean }, func(f paperFigures) float64 { return f.workflow }},
		{"L2 operation + commit", func(c *PaperConfig) float64 { return c.OperationAndCommit }, func(f paperFigures) float64 { return f.operationAndCommit }},
		{"commit (L1)", func(c *PaperConfig) float64 { return c.Operations["commit"].Mean }, func(f paperFigures) float64 { return f.commit }},
		{"L2 operation", func(c *PaperConfig) float64 { return c.Operations["layer2"].Mean }, func(f paperFigures) float64 { return f.layer2 }},
	}
	for i, l := range lines {
		chart.Series = append(chart.Series, Series{Name: l.name, Color: i, Width: []float64{5, 3.5, 2, 2}[i], Y: each(sizes, func(z Size) float64 { return l.here(s.at(z)) })})
	}
	for i, l := range lines {
		chart.Series = append(chart.Series, Series{Name: "paper: " + l.name, Color: i, Reference: true, Y: ofPaper(sizes, l.paper)})
	}
	return chart
}

func (s *PaperSummary) endpointChart(sizes []Size) StackChart {
	chart := StackChart{Title: "Measured here", Y: "mean latency, ms", ReferenceTitle: "The paper"}
	for _, o := range Operations {
		chart.Parts = append(chart.Parts, o.Name)
	}
	for _, size := range sizes {
		bar, paper := Bar{Name: size.String()}, Bar{Name: size.String()}
		f, known := thePaper[size]
		for _, o := range Operations {
			bar.Values = append(bar.Values, s.at(size).Operations[o.Name].Mean)
			if o.Layer == L1 {
				paper.Values = append(paper.Values, f.commit)
			} else {
				paper.Values = append(paper.Values, f.layer2)
			}
		}
		chart.Bars = append(chart.Bars, bar)
		if known {
			chart.Reference = append(chart.Reference, paper)
		}
	}
	return chart
}

func (r *paperRun) distributionChart(sizes []Size, layer2 int) BoxChart {
	chart := BoxChart{Title: fmt.Sprintf("Latency of each operation, %s", nodes(layer2)), Y: "latency, ms (logarithmic)", LogY: true}
	for _, o := range Operations {
		chart.Groups = append(chart.Groups, o.Name)
	}
	for i, size := range sizes {
		boxes := Boxes{Name: size.String(), Color: i}
		samples := of(r.samples, size.String())
		for _, o := range Operations {
			var values []float64
			for _, took := range Latencies(samples, func(a Sample) bool { return a.Operation == o.Name }) {
				values = append(values, Millis(took))
			}
			boxes.Values = append(boxes.Values, values)
		}
		chart.Boxes = append(chart.Boxes, boxes)
	}
	ends := sizes
	if len(sizes) > 1 {
		ends = []Size{sizes[0], sizes[len(sizes)-1]}
	}
	for _, size := range ends {
		f, ok := thePaper[size]
		if !ok {
			continue
		}
		line := Series{Name: "paper: " + size.String(), Reference: true, Color: slices.Index(sizes, size)}
		for _, o := range Operations {
			if o.Layer == L1 {
				line.Y = append(line.Y, f.commit)
			} else {
				line.Y = append(line.Y, f.layer2)
			}
		}
		chart.References = append(chart.References, line)
	}
	return chart
}

func (s *PaperSummary) commitChart(sizes []Size) LineChart {
	sizes = gaps(sizes)
	return LineChart{
		Title: "L1 commit against L2 average", X: onConfigurations, Y: meanLog, Categories: names(sizes), LogY: true,
		Series: []Series{
			{Name: "commit (L1)", Color: 2, Y: each(sizes, func(z Size) float64 { return s.at(z).Operations["commit"].Mean })},
			{Name: "L2 operation", Color: 3, Y: each(sizes, func(z Size) float64 { return s.at(z).Operations["layer2"].Mean })},
			{Name: "paper: commit (L1)", Color: 2, Reference: true, Y: ofPaper(sizes, func(f paperFigures) float64 { return f.commit })},
			{Name: "paper: L2 operation", Color: 3, Reference: true, Y: ofPaper(sizes, func(f paperFigures) float64 { return f.layer2 })},
		},
	}
}

func (s *PaperSummary) layerChart(sizes []Size) LineChart {
	sizes = gaps(sizes)
	return LineChart{
		Title: "One layer against two, whole workflow", X: onConfigurations, Y: "median duration, ms (logarithmic)", Categories: names(sizes), LogY: true,
		Series: []Series{
			{Name: "one layer", Color: 1, Y: each(sizes, func(z Size) float64 { return s.at(z).OneLayer["workflow"].Median })},
			{Name: "two layers", Color: 0, Y: each(sizes, func(z Size) float64 { return s.at(z).WorkflowMedian })},
			{Name: "paper: one layer (2.4 times)", Color: 1, Reference: true, Y: ofPaper(sizes, func(f paperFigures) float64 { return paperOneLayer * f.workflow })},
			{Name: "paper: two layers", Color: 0, Reference: true, Y: ofPaper(sizes, func(f paperFigures) float64 { return f.workflow })},
		},
	}
}
