package bench

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Charts are SVG. The same input gives the same bytes. Colours are those of Okabe and Ito, which people with any kind of colour
// blindness tell apart; what is a reference is dashed and hollow too, so that a print in black and white can be read. The
// legend stands beside the chart and covers nothing.

// Series is a line of a LineChart.
type Series struct {
	Name string
	// X and Y are the points; X nil: at the chart's Categories, in order. A Y that is NaN breaks the line, as does what a logarithmic
	// axis has no place for.
	X, Y []float64
	// Reference marks figures of somebody else, drawn dashed with hollow marks.
	Reference bool
	// Color is the number of a colour, from 0. A reference takes the number of what it is a reference for.
	Color int
	// Width is the line's in points; 0: 2. Where lines lie upon each other, a wide one drawn first shows below a narrow one.
	Width float64
}

// LineChart shows how something grows.
type LineChart struct {
	Title, X, Y string // X and Y label the axes, with the unit
	// Categories name the places on the x axis; nil: the x axis is a number.
	Categories []string
	// LogX and LogY make the axes logarithmic; only values above 0 are drawn then.
	LogX, LogY bool
	Series     []Series
}

// StackChart shows what a whole consists of, one bar for each Bar.
type StackChart struct {
	Title, Y string
	Parts    []string // from the bottom up
	Bars     []Bar
	// Reference is drawn to the right with an axis of its own, if it has bars; its Parts must be the same.
	Reference      []Bar
	ReferenceTitle string
}

// Bar is one bar of a StackChart: a value for each part.
type Bar struct {
	Name   string
	Values []float64
}

// BoxChart shows distributions side by side: median, quartiles, whiskers to the last value within one and a half times the
// distance of the quartiles, and what lies outside as points.
type BoxChart struct {
	Title, Y string
	LogY     bool
	// Groups name the places on the x axis, Boxes stand there beside each other.
	Groups []string
	Boxes  []Boxes
	// References are values to compare with, one for each group; NaN: none.
	References []Series
}

// Boxes are the boxes of one kind, one for each group; a group without values has none.
type Boxes struct {
	Name   string
	Values [][]float64
	Color  int
}

// The size of all charts.
const (
	chartWidth  = 10.5 * vg.Inch
	chartHeight = 4.8 * vg.Inch
)

var palette = []color.Color{
	color.RGBA{0x00, 0x72, 0xB2, 0xFF}, color.RGBA{0xD5, 0x5E, 0x00, 0xFF}, color.RGBA{0x00, 0x9E, 0x73, 0xFF}, color.RGBA{0xCC, 0x79, 0xA7, 0xFF},
	color.RGBA{0xE6, 0x9F, 0x00, 0xFF}, color.RGBA{0x56, 0xB4, 0xE9, 0xFF}, color.RGBA{0x77, 0x77, 0x77, 0xFF}, color.RGBA{0x00, 0x00, 0x00, 0xFF},
}

func paint(i int) color.Color { return palette[((i%len(palette))+len(palette))%len(palette)] }

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

// panel is a plot with its title and the y axis's label, which stands above the axis, where it can be read without turning
// one's head. (gonum's own place for it takes room from the plot if the axis is logarithmic.)
type panel struct {
	*plot.Plot
	title, y string
}

// newPanel is an empty plot in the style of all charts.
func newPanel(title, x, y string) panel {
	p := panel{plot.New(), title, y}
	p.X.Label.Text = x
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font, axis.Tick.Label.Font = sans(11), sans(10)
		axis.Label.Padding, axis.Padding = 5, 4
	}
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = color.Gray{0xDD}
	p.Add(grid)
	return p
}

// draw draws the plot with what stands above it.
func (p panel) draw(c draw.Canvas) {
	text := func(size, below vg.Length, words string) {
		style := draw.TextStyle{Color: color.Black, Font: sans(size), YAlign: draw.YTop, Handler: plot.DefaultTextHandler}
		c.FillText(style, vg.Point{X: c.Min.X, Y: c.Max.Y - below}, words)
	}
	text(14, 0, p.title)
	text(11, 22, p.y)
	p.Draw(draw.Crop(c, 0, 0, 0, -42))
}

// newLegend is an empty legend in the style of all charts.
func newLegend() plot.Legend {
	l := plot.NewLegend()
	l.Top, l.Left, l.Padding, l.ThumbnailWidth, l.TextStyle.Font = true, true, 6, 26, sans(10.5)
	return l
}

// legendSlack is room for fonts that are wider than the one texts are measured with.
const legendSlack = 1.2

// compose draws plots side by side and the legend to the right of them all.
func compose(legend plot.Legend, panels ...panel) ([]byte, error) {
	canvas := vgsvg.New(chartWidth, chartHeight)
	whole := draw.New(canvas)
	canvas.SetColor(color.White)
	canvas.Fill(whole.Rectangle.Path())
	all := draw.Crop(whole, 10, -10, 8, -8)
	box := legend.Rectangle(all)
	width := (box.Max.X - box.Min.X) * legendSlack
	legend.Draw(draw.Crop(all, all.Max.X-all.Min.X-width, 0, 0, -42))
	rest := draw.Crop(all, 0, -width-16, 0, 0)
	const gap = 18
	each := (rest.Max.X - rest.Min.X + gap) / vg.Length(len(panels))
	for i, p := range panels {
		left := each * vg.Length(i)
		p.draw(draw.Crop(rest, left, left+each-gap-(rest.Max.X-rest.Min.X), 0, 0))
	}
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("bench: chart: %w", err)
	}
	// The font's widths are those of Arial and Helvetica, which stand in for it where it is not installed.
	return bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:'Liberation Sans',Arial,Helvetica,sans-serif;")), nil
}

// SVG draws the chart.
func (c LineChart) SVG() ([]byte, error) {
	p, legend := newPanel(c.Title, c.X, c.Y), newLegend()
	y := newExtent(c.LogY)
	x := newExtent(c.LogX)
	for _, s := range c.Series {
		pieces, err := s.pieces(c.LogX, c.LogY)
		if err != nil {
			return nil, err
		}
		for i, points := range pieces {
			for _, at := range points {
				x.add(at.X)
				y.add(at.Y)
			}
			line, marks, err := s.draw(points)
			if err != nil {
				return nil, err
			}
			p.Add(line, marks)
			if i == 0 {
				legend.Add(s.Name, line, marks)
			}
		}
	}
	y.set(&p.Y)
	if c.Categories != nil {
		nominal(p.Plot, c.Categories)
	} else {
		x.set(&p.X)
	}
	return compose(legend, p)
}

// pieces are what is drawn of a series: rows of points without a gap.
func (s Series) pieces(logX, logY bool) ([]plotter.XYs, error) {
	if s.X != nil && len(s.X) != len(s.Y) {
		return nil, fmt.Errorf("bench: chart: series %q has %d x and %d y", s.Name, len(s.X), len(s.Y))
	}
	var pieces []plotter.XYs
	gap := true
	for i, y := range s.Y {
		x := float64(i)
		if s.X != nil {
			x = s.X[i]
		}
		if !drawable(y, logY) || !drawable(x, logX) {
			gap = true
			continue
		}
		if gap {
			pieces, gap = append(pieces, nil), false
		}
		last := &pieces[len(pieces)-1]
		*last = append(*last, plotter.XY{X: x, Y: y})
	}
	return pieces, nil
}

// drawable reports whether a number has a place on an axis.
func drawable(v float64, logarithmic bool) bool {
	return !math.IsNaN(v) && !math.IsInf(v, 0) && (v > 0 || !logarithmic)
}

func (s Series) draw(points plotter.XYs) (*plotter.Line, *plotter.Scatter, error) {
	line, marks, err := plotter.NewLinePoints(points)
	if err != nil {
		return nil, nil, fmt.Errorf("bench: chart: series %q: %w", s.Name, err)
	}
	width := s.Width
	if width <= 0 {
		width = 2
	}
	line.Color, line.Width = paint(s.Color), vg.Length(width)
	marks.Color, marks.Shape, marks.Radius = paint(s.Color), draw.CircleGlyph{}, vg.Length(2+0.75*width)
	if s.Reference {
		line.Width, line.Dashes, marks.Shape, marks.Radius = 1.3, []vg.Length{5, 3}, draw.RingGlyph{}, 3.5
	}
	return line, marks, nil
}

// SVG draws the chart.
func (c StackChart) SVG() ([]byte, error) {
	legend := newLegend()
	measured, err := c.stack(c.Title, c.Bars, &legend)
	if err != nil {
		return nil, err
	}
	if len(c.Reference) == 0 {
		return compose(legend, measured)
	}
	reference, err := c.stack(c.ReferenceTitle, c.Reference, nil)
	if err != nil {
		return nil, err
	}
	return compose(legend, measured, reference)
}

// stack draws bars; legend is nil if it is filled already.
func (c StackChart) stack(title string, bars []Bar, legend *plot.Legend) (panel, error) {
	p := newPanel(title, "", c.Y)
	if len(bars) == 0 {
		return p, errors.New("bench: chart: no bars")
	}
	y := newExtent(false)
	names := make([]string, len(bars))
	panels := vg.Length(1)
	if len(c.Reference) > 0 {
		panels = 2
	}
	width := min(0.6*0.75*chartWidth/panels/vg.Length(len(bars)), 40)
	var below *plotter.BarChart
	var thumbs []plot.Thumbnailer
	for part := range c.Parts {
		values := make(plotter.Values, len(bars))
		for i, b := range bars {
			if len(b.Values) != len(c.Parts) {
				return p, fmt.Errorf("bench: chart: bar %q has %d values for %d parts", b.Name, len(b.Values), len(c.Parts))
			}
			names[i], values[i] = b.Name, b.Values[part]
		}
		layer, err := plotter.NewBarChart(values, width)
		if err != nil {
			return p, fmt.Errorf("bench: chart: %w", err)
		}
		layer.Color, layer.LineStyle.Width, layer.LineStyle.Color = paint(part), 0.5, color.White
		if below != nil {
			layer.StackOn(below)
		}
		below = layer
		p.Add(layer)
		thumbs = append(thumbs, layer)
	}
	if legend != nil {
		for part := len(c.Parts) - 1; part >= 0; part-- { // as they lie upon each other
			legend.Add(c.Parts[part], thumbs[part])
		}
	}
	for _, b := range bars {
		var sum float64
		for _, v := range b.Values {
			sum += v
		}
		y.add(sum)
	}
	y.set(&p.Y)
	nominal(p.Plot, names)
	return p, nil
}

// SVG draws the chart.
func (c BoxChart) SVG() ([]byte, error) {
	p, legend := newPanel(c.Title, "", c.Y), newLegend()
	y := newExtent(c.LogY)
	slot := 0.8 / float64(max(len(c.Boxes), 1)) // of the distance of two groups
	width := min(vg.Length(slot*0.8)*0.75*chartWidth/vg.Length(max(len(c.Groups), 1)), 34)
	for k, boxes := range c.Boxes {
		drawn := false
		for g, values := range boxes.Values {
			var some plotter.Values
			for _, v := range values {
				if drawable(v, c.LogY) {
					some = append(some, v)
					y.add(v)
				}
			}
			if len(some) == 0 {
				continue
			}
			at := float64(g) + slot*(float64(k)-float64(len(c.Boxes)-1)/2)
			box, err := plotter.NewBoxPlot(width, at, some)
			if err != nil {
				return nil, fmt.Errorf("bench: chart: %w", err)
			}
			box.FillColor, box.GlyphStyle.Color, box.GlyphStyle.Radius = paint(boxes.Color), paint(boxes.Color), 1.5
			box.GlyphStyle.Shape = draw.CircleGlyph{}
			box.MedianStyle.Width, box.MedianStyle.Color = 2, color.White
			box.WhiskerStyle.Dashes = nil
			p.Add(box)
			drawn = true
		}
		if drawn {
			legend.Add(boxes.Name, patch{paint(boxes.Color)})
		}
	}
	for _, s := range c.References {
		pieces, err := s.pieces(false, c.LogY)
		if err != nil {
			return nil, err
		}
		for i, at := range slices.Concat(pieces...) { // a dash over each group, since there is nothing between two groups
			y.add(at.Y)
			line, _, err := s.draw(plotter.XYs{{X: at.X - 0.45, Y: at.Y}, {X: at.X + 0.45, Y: at.Y}})
			if err != nil {
				return nil, err
			}
			p.Add(line)
			if i == 0 {
				legend.Add(s.Name, line)
			}
		}
	}
	y.set(&p.Y)
	nominal(p.Plot, c.Groups)
	return compose(legend, p)
}

// patch is a legend's square of one colour.
type patch struct{ color color.Color }

// Thumbnail draws it.
func (a patch) Thumbnail(c *draw.Canvas) {
	c.FillPolygon(a.color, []vg.Point{c.Min, {X: c.Min.X, Y: c.Max.Y}, c.Max, {X: c.Max.X, Y: c.Min.Y}})
}

// nominal names the places 0, 1, ... on the x axis.
func nominal(p *plot.Plot, names []string) {
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.5, float64(len(names))-0.5
	p.X.Tick.Label.Font = sans(10)
	p.X.Padding = 4
}

// extent is what an axis has to show.
type extent struct {
	logarithmic bool
	low, high   float64
}

func newExtent(logarithmic bool) extent {
	return extent{logarithmic, math.Inf(1), math.Inf(-1)}
}

func (e *extent) add(v float64) { e.low, e.high = min(e.low, v), max(e.high, v) }

// set gives the axis its range and marks: from 0 up, or from one round number to another on a logarithmic one.
func (e *extent) set(axis *plot.Axis) {
	if e.low > e.high { // nothing is drawn
		e.low, e.high = 1, 10
	}
	if !e.logarithmic {
		axis.Min, axis.Max = min(0, e.low), e.high*1.06
		if axis.Max <= axis.Min {
			axis.Max = axis.Min + 1
		}
		return
	}
	axis.Scale = plot.LogScale{}
	var ticks []plot.Tick
	steps := []float64{1, 2, 5}
	if e.high/e.low > 5000 {
		steps = []float64{1} // the numbers would not fit
	}
	decade := math.Floor(math.Log10(e.low))
	axis.Min, axis.Max = 0, 0
	for d := decade; axis.Max == 0; d++ {
		for _, step := range steps {
			at := step * math.Pow(10, d)
			if at <= e.low {
				axis.Min, ticks = at, nil
			}
			ticks = append(ticks, plot.Tick{Value: at, Label: roundNumber(at)})
			if at >= e.high && at > axis.Min {
				axis.Max = at
				break
			}
		}
	}
	axis.Tick.Marker = plot.ConstantTicks(ticks)
}

// roundNumber writes the number at a mark of a logarithmic axis.
func roundNumber(v float64) string {
	if v < 1e-4 || v > 1e6 {
		return strconv.FormatFloat(v, 'g', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', max(0, -int(math.Floor(math.Log10(v*1.0001)))), 64)
}
