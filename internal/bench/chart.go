package bench

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"math"
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
	// X and Y are the points; X nil: at the chart's Categories, in order. A Y that is NaN is left out.
	X, Y []float64
	// Reference marks figures of somebody else, drawn dashed with hollow marks.
	Reference bool
	// Color is the number of a colour, from 0. A reference takes the number of what it is a reference for.
	Color int
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
	color.RGBA{0xE6, 0x9F, 0x00, 0xFF}, color.RGBA{0x56, 0xB4, 0xE9, 0xFF}, color.RGBA{0x00, 0x00, 0x00, 0xFF}, color.RGBA{0x99, 0x99, 0x99, 0xFF},
}

func paint(i int) color.Color { return palette[((i%len(palette))+len(palette))%len(palette)] }

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

// newPlot is an empty plot in the style of all charts.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.TextStyle.Font, p.Title.Padding = sans(14), 10
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

// newLegend is an empty legend in the style of all charts.
func newLegend() plot.Legend {
	l := plot.NewLegend()
	l.Top, l.Left, l.Padding, l.ThumbnailWidth, l.TextStyle.Font = true, true, 6, 26, sans(10.5)
	return l
}

// compose draws plots side by side and the legend to the right of them all.
func compose(legend plot.Legend, plots ...*plot.Plot) ([]byte, error) {
	canvas := vgsvg.New(chartWidth, chartHeight)
	all := draw.Crop(draw.New(canvas), 8, -8, 8, -8)
	canvas.SetColor(color.White)
	canvas.Fill(all.Rectangle.Path())
	box := legend.Rectangle(all)
	width := box.Max.X - box.Min.X + 10
	legend.Draw(draw.Crop(all, all.Max.X-all.Min.X-width, 0, 0, -30))
	rest := draw.Crop(all, 0, -width-14, 0, 0)
	each := (rest.Max.X - rest.Min.X) / vg.Length(len(plots))
	for i, p := range plots {
		p.Draw(draw.Crop(rest, each*vg.Length(i), -each*vg.Length(len(plots)-1-i), 0, 0))
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
	p, legend := newPlot(c.Title, c.X, c.Y), newLegend()
	y := newExtent(c.LogY)
	x := newExtent(c.LogX)
	for _, s := range c.Series {
		points, err := s.points(c.LogX, c.LogY)
		if err != nil {
			return nil, err
		}
		if len(points) == 0 {
			continue
		}
		for _, at := range points {
			x.add(at.X)
			y.add(at.Y)
		}
		line, marks, err := s.draw(points)
		if err != nil {
			return nil, err
		}
		p.Add(line, marks)
		legend.Add(s.Name, line, marks)
	}
	y.set(&p.Y)
	if c.Categories != nil {
		nominal(p, c.Categories)
	} else {
		x.set(&p.X)
	}
	return compose(legend, p)
}

// points are what is drawn of a series.
func (s Series) points(logX, logY bool) (plotter.XYs, error) {
	if s.X != nil && len(s.X) != len(s.Y) {
		return nil, fmt.Errorf("bench: chart: series %q has %d x and %d y", s.Name, len(s.X), len(s.Y))
	}
	var points plotter.XYs
	for i, y := range s.Y {
		x := float64(i)
		if s.X != nil {
			x = s.X[i]
		}
		if !drawable(y, logY) || !drawable(x, logX) {
			continue
		}
		points = append(points, plotter.XY{X: x, Y: y})
	}
	return points, nil
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
	line.Color, line.Width = paint(s.Color), 2
	marks.Color, marks.Shape, marks.Radius = paint(s.Color), draw.CircleGlyph{}, 3.5
	if s.Reference {
		line.Width, line.Dashes, marks.Shape = 1.3, []vg.Length{5, 3}, draw.RingGlyph{}
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
func (c StackChart) stack(title string, bars []Bar, legend *plot.Legend) (*plot.Plot, error) {
	p := newPlot(title, "", c.Y)
	if len(bars) == 0 {
		return nil, errors.New("bench: chart: no bars")
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
				return nil, fmt.Errorf("bench: chart: bar %q has %d values for %d parts", b.Name, len(b.Values), len(c.Parts))
			}
			names[i], values[i] = b.Name, b.Values[part]
		}
		layer, err := plotter.NewBarChart(values, width)
		if err != nil {
			return nil, fmt.Errorf("bench: chart: %w", err)
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
	nominal(p, names)
	return p, nil
}

// SVG draws the chart.
func (c BoxChart) SVG() ([]byte, error) {
	p, legend := newPlot(c.Title, "", c.Y), newLegend()
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
		points, err := s.points(false, c.LogY)
		if err != nil {
			return nil, err
		}
		if len(points) == 0 {
			continue
		}
		for _, at := range points {
			y.add(at.Y)
		}
		line, marks, err := s.draw(points)
		if err != nil {
			return nil, err
		}
		p.Add(line, marks)
		legend.Add(s.Name, line, marks)
	}
	y.set(&p.Y)
	nominal(p, c.Groups)
	return compose(legend, p)
}

// patch is a legend's square of one colour.
type patch struct{ color color.Color }

// Thumbnail draws it.
func (a patch) Thumbnail(c *draw.Canvas) {
	c.FillPolygon(a.color, []vg.Point{c.Min, {X: c.Min.X, Y: c.Max.Y}, c.Max, {X: c.Max.X, Y: c.Min.Y}})
}

// nominal names the places 0, 1, ... on the x axis; many or long names stand aslant.
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
			ticks = append(ticks, plot.Tick{Value: at, Label: strconv.FormatFloat(at, 'g', 4, 64)})
			if at >= e.high && at > axis.Min {
				axis.Max = at
				break
			}
		}
	}
	axis.Tick.Marker = plot.ConstantTicks(ticks)
}
