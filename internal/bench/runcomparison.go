package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ComparisonOptions describe a whole comparison.
type ComparisonOptions struct {
	ContestOptions
	CompareOptions
	Bounds Bounds
	// Out is a directory for the files; it is made. Empty: none are written.
	Out string
}

// The files of a comparison in its directory, beside one SVG for each figure.
const (
	comparisonSamples = "samples.csv"
	comparisonSummary = "summary.json"
	comparisonPage    = "comparison.html"
)

// RunComparison starts what is compared, measures, stops it and writes the files. If ctx ends while it measures, the
// comparison of the rounds so far is returned, and written, together with ctx's error.
func RunComparison(ctx context.Context, o ComparisonOptions) (c Comparison, err error) {
	machine := ThisMachine(o.Network.Dir)
	note := func(Sample) error { return nil }
	if o.Out != "" {
		if err := os.MkdirAll(o.Out, 0o755); err != nil {
			return c, fmt.Errorf("bench: %w", err)
		}
		f, err := os.Create(filepath.Join(o.Out, comparisonSamples))
		if err != nil {
			return c, fmt.Errorf("bench: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		rows, err := NewWriter(f, true)
		if err != nil {
			return c, fmt.Errorf("bench: %w", err)
		}
		note = func(a Sample) error { return rows.Write(a) }
	}
	contest, err := StartContest(ctx, o.ContestOptions)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, contest.Close()) }()
	if len(contest.Contenders) == 0 {
		return c, errors.New("bench: nothing is left to compare")
	}
	var lost error // a sample that could not be written
	inner := o.CompareOptions.Note
	o.CompareOptions.Note = func(a Sample) {
		lost = errors.Join(lost, note(a))
		if inner != nil {
			inner(a)
		}
	}
	samples, measureErr := Compare(ctx, contest.Contenders, o.CompareOptions)
	if len(samples) == 0 {
		return c, measureErr
	}
	c = NewComparison(machine, o.ContestOptions, contest, samples, o.Bounds)
	return c, errors.Join(measureErr, lost, c.writeFiles(o.Out))
}

// writeFiles writes everything but the samples.
func (c Comparison) writeFiles(dir string) error {
	if dir == "" {
		return nil
	}
	summary, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	report, err := c.Report()
	if err != nil {
		return err
	}
	var page bytes.Buffer
	if err := report.Write(&page); err != nil {
		return err
	}
	figures, err := c.Figures()
	if err != nil {
		return err
	}
	write := func(name string, content []byte) {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), content, 0o644))
	}
	write(comparisonSummary, append(summary, '\n'))
	write(comparisonPage, page.Bytes())
	for _, f := range figures {
		write(f.Name+".svg", f.SVG)
	}
	return err
}
