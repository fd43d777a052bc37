package plan

import "math"

// nonNegative returns the coefficients x >= 0 for which the rows' sums of x[j]*row[j] are nearest to y, by relative error: a
// measurement of 1 ms counts as much as one of 100. With so few columns all subsets of them are tried: the best
// one whose own least-squares solution is not negative is the answer. Of equally good ones the one with fewer columns wins, the
// earlier columns first; so a single row is explained by the first column alone. All y are above 0.
func nonNegative(rows [][]float64, y []float64) []float64 {
	if len(rows) == 0 {
		return nil
	}
	columns := len(rows[0])
	best, least := make([]float64, columns), math.Inf(1)
	for size := 1; size <= columns; size++ {
		for set := 1; set < 1<<columns; set++ {
			var chosen []int
			for j := range columns {
				if set&(1<<j) != 0 {
					chosen = append(chosen, j)
				}
			}
			if len(chosen) != size {
				continue
			}
			x, ok := leastSquares(rows, y, chosen)
			if !ok {
				continue
			}
			full := make([]float64, columns)
			for i, j := range chosen {
				full[j] = x[i]
			}
			if e := residual(rows, y, full); e < least-1e-9 {
				best, least = full, e
			}
		}
	}
	return best
}

// leastSquares solves the normal equations of the chosen columns, each row weighted by 1/y. ok is false if they have no one
// solution, or one with a negative coefficient.
func leastSquares(rows [][]float64, y []float64, chosen []int) (x []float64, ok bool) {
	n := len(chosen)
	a := make([][]float64, n)
	for i := range a {
		a[i] = make([]float64, n+1)
		for r, row := range rows {
			for j := range chosen {
				a[i][j] += row[chosen[i]] * row[chosen[j]] / (y[r] * y[r])
			}
			a[i][n] += row[chosen[i]] / y[r]
		}
	}
	for i := range n { // Gauss, with the largest pivot
		pivot := i
		for r := i; r < n; r++ {
			if math.Abs(a[r][i]) > math.Abs(a[pivot][i]) {
				pivot = r
			}
		}
		a[i], a[pivot] = a[pivot], a[i]
		var scale float64
		for j := range n {
			scale = max(scale, math.Abs(a[i][j]))
		}
		if math.Abs(a[i][i]) <= 1e-9*scale || a[i][i] == 0 {
			return nil, false
		}
		for r := range n {
			if r == i {
				continue
			}
			factor := a[r][i] / a[i][i]
			for j := i; j <= n; j++ {
				a[r][j] -= factor * a[i][j]
			}
		}
	}
	x = make([]float64, n)
	for i := range n {
		if x[i] = a[i][n] / a[i][i]; !(x[i] >= 0) || math.IsInf(x[i], 0) {
			return nil, false
		}
	}
	return x, true
}

// residual is the sum of squared relative errors.
func residual(rows [][]float64, y, x []float64) float64 {
	var sum float64
	for r, row := range rows {
		e := dot(row, x)/y[r] - 1
		sum += e * e
	}
	return sum
}

func dot(a, b []float64) float64 {
	var sum float64
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}
