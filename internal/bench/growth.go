package bench

import (
	"errors"
	"fmt"
	"math"
)

// Point is one measurement of how a cost depends on a size.
type Point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

// Growth says how a cost grows with a size: the power law y = c * x^Exponent that fits the points best, by least squares
// of log y on log x, so that a factor counts the same wherever on the axis it stands.
type Growth struct {
	Points      int     `json:"points"`
	Exponent    float64 `json:"exponent"`
	Coefficient float64 `json:"coefficient"`
	// R2 is the share of the variance of log y that the law explains, 0 to 1. Of a cost that hardly changes it says
	// nothing: what is left is noise.
	R2 float64 `json:"r2"`
	// Ratio is the last point's y over the first's: what a user pays for going from one end to the other.
	Ratio float64 `json:"ratio"`
	Words string  `json:"words"`
}

// errNoGrowth says that there is nothing to fit.
var errNoGrowth = errors.New("bench: growth needs two points of different size, all above 0")

// FitGrowth fits a power law to points, which are in ascending order of x. All must be above 0.
func FitGrowth(points []Point) (Growth, error) {
	n := float64(len(points))
	var mx, my float64
	for _, p := range points {
		if !(p.X > 0 && p.Y > 0) || math.IsInf(p.X, 1) || math.IsInf(p.Y, 1) {
			return Growth{}, errNoGrowth
		}
		mx += math.Log(p.X) / n
		my += math.Log(p.Y) / n
	}
	var xx, xy, yy float64
	for _, p := range points {
		dx, dy := math.Log(p.X)-mx, math.Log(p.Y)-my
		xx += dx * dx
		xy += dx * dy
		yy += dy * dy
	}
	if len(points) < 2 || xx < 1e-12 {
		return Growth{}, errNoGrowth
	}
	g := Growth{Points: len(points), Exponent: xy / xx, Ratio: points[len(points)-1].Y / points[0].Y}
	g.Coefficient = math.Exp(my - g.Exponent*mx)
	if yy > 1e-12 {
		g.R2 = xy * xy / (xx * yy)
	}
	g.Words = inWords(g.Exponent, points)
	return g, nil
}

// inWords names an exponent. What the law makes of the whole axis decides whether a cost counts as constant: over four
// decades an exponent of 0.05 is a factor of 1.6.
func inWords(e float64, points []Point) string {
	over := math.Exp(e * math.Log(points[len(points)-1].X/points[0].X))
	switch {
	case over > 0.9 && over < 1.1:
		return "constant"
	case math.Abs(e-1) <= 0.1:
		return "~ n (linear)"
	case math.Abs(e-2) <= 0.1:
		return "~ n^2 (quadratic)"
	case math.Abs(e) < 0.1:
		return fmt.Sprintf("~ n^%.2f (%.2fx over the axis)", e, over)
	}
	return fmt.Sprintf("~ n^%.1f", e)
}
