package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem/client"
)

// Size is a configuration as the paper names it: numbers of validators and of Layer 2 nodes, "4-1".
type Size struct{ Validators, Layer2 int }

func (s Size) String() string { return fmt.Sprintf("%d-%d", s.Validators, s.Layer2) }

// ParseSizes reads names such as "4-1"; each may come once.
func ParseSizes(names []string) ([]Size, error) {
	var sizes []Size
	for _, name := range names {
		validators, layer2, _ := strings.Cut(name, "-")
		v, err1 := strconv.Atoi(validators)
		l, err2 := strconv.Atoi(layer2)
		size := Size{v, l}
		if err1 != nil || err2 != nil || size.String() != name || v < 1 || l < 1 || v+l > 64 {
			return nil, fmt.Errorf("%q is no configuration such as 4-1: validators, then Layer 2 nodes, at least one of each, at most 64 together", name)
		}
		if slices.Contains(sizes, size) {
			return nil, fmt.Errorf("%s twice", name)
		}
		sizes = append(sizes, size)
	}
	if len(sizes) == 0 {
		return nil, errors.New("no configuration")
	}
	return sizes, nil
}

// PaperOptions say what Paper measures.
type PaperOptions struct {
	Sizes []Size
	// Runs is the number of measured workflows on each network; OneLayer the number of workflows without Layer 2's sessions,
	// spread evenly between them (0: none); Warmup the number before, which is not counted.
	Runs, OneLayer, Warmup int
	// Out is the directory that the results are written into. Resume goes on with what is there.
	Out    string
	Resume bool
	// InProcess, Data and Binary are NetworkOptions' InProcess, Dir and Binary.
	InProcess    bool
	Data, Binary string
	// Progress shows how far it is.
	Progress io.Writer
	// Measured, if not nil, is called after each whole workflow.
	Measured func(Size, int)
}

// The files of a result.
const (
	summaryFile  = "summary.json"
	requestsFile = "requests.csv"
	oneLayerFile = "requests-one-layer.csv"
	reportFile   = "report.html"
)

// paperRun is a measurement under way.
type paperRun struct {
	o        PaperOptions
	summary  PaperSummary
	samples  []Sample // in sessions
	oneLayer []Sample // one layer
}

// Paper measures the paper's evaluation: on each network the workflow, again and again, one request after the other; and writes
// the samples while it measures, and the summary, the charts and the report at the end, also when ctx ends before all is measured: then the
// summary says that it was interrupted, and the workflow under way, which is not whole, is left out. A network that fails is
// noted in its part of the summary, and the others are measured. The error is about files and options, or ctx's end.
func Paper(ctx context.Context, o PaperOptions) (*PaperSummary, error) {
	r := &paperRun{o: o}
	if err := r.open(); err != nil {
		return nil, err
	}
	for i, size := range o.Sizes {
		if ctx.Err() != nil {
			break
		}
		if err := r.measure(ctx, size, fmt.Sprintf("%s, network %d of %d", size, i+1, len(o.Sizes))); err != nil {
			return nil, err
		}
		r.summary.Interrupted = true // until the next network is whole
		if err := r.writeSummary(); err != nil {
			return nil, err
		}
	}
	r.summary.Interrupted = ctx.Err() != nil
	if err := errors.Join(r.writeSummary(), r.writeFigures()); err != nil {
		return nil, err
	}
	return &r.summary, nil
}

// open makes the output directory, or reads what is there.
func (r *paperRun) open() error {
	if err := os.MkdirAll(r.o.Out, 0o755); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	machine := ThisMachine(r.o.Data)
	fresh := PaperSummary{
		Machine: machine, Processes: !r.o.InProcess, Runs: r.o.Runs, OneLayerRuns: r.o.OneLayer, Warmup: r.o.Warmup,
		Configs: map[string]*PaperConfig{},
	}
	text, err := os.ReadFile(r.path(summaryFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		r.summary = fresh
		r.summary.Interrupted = true
		for _, name := range []string{requestsFile, oneLayerFile} {
			if err := r.rewrite(name, nil); err != nil {
				return err
			}
		}
		return r.writeSummary()
	case err != nil:
		return fmt.Errorf("bench: %w", err)
	case !r.o.Resume:
		return fmt.Errorf("bench: %s holds a measurement already: go on with it (--resume) or choose another directory", r.o.Out)
	}
	if err := json.Unmarshal(text, &r.summary); err != nil {
		return fmt.Errorf("bench: %s: %w", r.path(summaryFile), err)
	}
	was := r.summary.Machine
	if r.summary.Processes == r.o.InProcess {
		return fmt.Errorf("bench: %s was measured with nodes %s; both kinds in one result would mean nothing", r.o.Out, kindOfNodes(r.summary.Processes))
	}
	if was.Version != machine.Version || was.Revision != machine.Revision || was.Modified != machine.Modified {
		return fmt.Errorf("bench: %s was measured with version %s %s; this is %s %s: measure anew in another directory", r.o.Out, was.Version, was.Revision, machine.Version, machine.Revision)
	}
	for name, config := range r.summary.Configs {
		if config == nil {
			return fmt.Errorf("bench: %s: configuration %s is empty", r.path(summaryFile), name)
		}
	}
	r.summary.Runs, r.summary.OneLayerRuns, r.summary.Warmup = fresh.Runs, fresh.OneLayerRuns, fresh.Warmup
	r.summary.Interrupted = true
	if r.samples, err = r.readWhole(requestsFile, func(a Sample) bool { return a.Operation == "commit" }); err != nil {
		return err
	}
	r.oneLayer, err = r.readWhole(oneLayerFile, func(a Sample) bool { return a.Operation == "label" })
	return err
}

func (r *paperRun) path(name string) string { return filepath.Join(r.o.Out, name) }

// readWhole reads the workflows that are whole: ended by their last operation, or by a failure. What a killed program has
// left of another is removed from the file.
func (r *paperRun) readWhole(name string, last func(Sample) bool) ([]Sample, error) {
	text, err := os.ReadFile(r.path(name))
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	samples, err := ReadSamples(bytes.NewReader(text[:bytes.LastIndexByte(text, '\n')+1])) // without half a row
	if err != nil {
		return nil, fmt.Errorf("%w (in %s)", err, r.path(name))
	}
	type key struct {
		config    string
		iteration int
	}
	whole := map[key]bool{}
	for _, a := range samples {
		if last(a) || a.Err != "" {
			whole[key{a.Config, a.Iteration}] = true
		}
	}
	samples = slices.DeleteFunc(samples, func(a Sample) bool { return !whole[key{a.Config, a.Iteration}] })
	return samples, r.rewrite(name, samples)
}

// rewrite writes a file of samples anew.
func (r *paperRun) rewrite(name string, samples []Sample) error {
	var text bytes.Buffer
	w, err := NewWriter(&text, true)
	if err != nil {
		return err
	}
	if err := w.Write(samples...); err != nil {
		return err
	}
	return replaceFile(r.path(name), text.Bytes())
}

// replaceFile writes a file so that a crash leaves the old one or the new one.
func replaceFile(name string, text []byte) error {
	if err := os.WriteFile(name+".new", text, 0o644); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// missing are the numbers from 1 to n of which the configuration has no workflow yet.
func missing(samples []Sample, config string, n int) []int {
	have := map[int]bool{}
	for _, a := range samples {
		if a.Config == config {
			have[a.Iteration] = true
		}
	}
	var numbers []int
	for i := 1; i <= n; i++ {
		if !have[i] {
			numbers = append(numbers, i)
		}
	}
	return numbers
}

// inARow ends the measurement of a network on which nothing works any more.
const inARow = 5

// measure measures one network, as far as it is not measured already. What goes wrong on the network is noted, not returned.
func (r *paperRun) measure(ctx context.Context, size Size, phase string) error {
	todo, todoOne := missing(r.samples, size.String(), r.o.Runs), missing(r.oneLayer, size.String(), r.o.OneLayer)
	config := r.summary.Configs[size.String()]
	if config == nil {
		config = &PaperConfig{Validators: size.Validators, Layer2: size.Layer2}
		r.summary.Configs[size.String()] = config
	}
	if len(todo)+len(todoOne) == 0 {
		return nil
	}
	config.Error, config.Date, config.Load = "", time.Now().UTC().Truncate(time.Second), Load()
	bar := NewProgress(r.o.Progress, r.o.Warmup+len(todo)+len(todoOne), phase)
	defer bar.Done()
	network, err := Launch(ctx, NetworkOptions{Validators: size.Validators, Layer2: size.Layer2, InProcess: r.o.InProcess, Dir: r.o.Data, Binary: r.o.Binary})
	if err != nil {
		if ctx.Err() == nil {
			config.Error = err.Error()
		}
		return nil
	}
	run := configRun{paperRun: r, size: size, config: config, network: network, bar: bar}
	err = run.all(ctx, todo, todoOne)
	if failed := network.Failed(); failed != nil {
		config.Error = failed.Error()
	}
	config.LoadEnd = Load()
	return errors.Join(err, network.Close())
}

// configRun is the measurement of one network.
type configRun struct {
	*paperRun
	size    Size
	config  *PaperConfig
	network *Network
	client  *client.Client
	bar     *Progress
	failing int // workflows that failed since the last that did not
}

// errNothingWorks ends the measurement of a network.
var errNothingWorks = fmt.Errorf("%d workflows in a row failed; the rest was not measured", inARow)

func (c *configRun) all(ctx context.Context, todo, todoOne []int) (err error) {
	if c.client, err = c.network.Client(nil); err != nil {
		return err
	}
	err = c.warm(ctx)
	per := (len(todo) + len(todoOne)) / max(len(todoOne), 1) // workflows for each that is of one layer
	for err == nil && len(todo)+len(todoOne) > 0 {
		batch := todo[:min(max(per-1, 1), len(todo))]
		todo = todo[len(batch):]
		if err = c.inSessions(ctx, batch); err == nil && len(todoOne) > 0 {
			err = c.withoutLayer2(ctx, todoOne[0])
			todoOne = todoOne[1:]
		}
	}
	switch {
	case ctx.Err() != nil: // what is whole is kept
		return nil
	case errors.Is(err, errNothingWorks):
		c.config.Error = err.Error()
		return nil
	}
	return err
}

// warm runs workflows that are not counted: connections are made, code and caches are warm, the first blocks exist.
func (c *configRun) warm(ctx context.Context) error {
	for range c.o.Warmup {
		_, err := Carry(ctx, c.client, NewReference(), nil)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := c.note(err); err != nil {
			return err
		}
		c.bar.Add(1)
	}
	return nil
}

// note counts failures in a row.
func (c *configRun) note(err error) error {
	if c.failing++; err == nil {
		c.failing = 0
	}
	if c.failing >= inARow {
		return errNothingWorks
	}
	return nil
}

// inSessions measures workflows in sessions, and what the nodes use meanwhile.
func (c *configRun) inSessions(ctx context.Context, numbers []int) error {
	before, err := c.network.Usage()
	if err != nil {
		before = nil // no /proc here, or a node has ended: latencies are measured all the same
	}
	for _, i := range numbers {
		var rows []Sample
		_, failed := Carry(ctx, c.client, NewReference(), func(a Sample) { rows = append(rows, a) })
		if err := c.keep(ctx, requestsFile, &c.samples, i, rows); err != nil {
			return err
		}
		if err := c.note(failed); err != nil {
			return err
		}
	}
	if after, err := c.network.Usage(); err == nil && before != nil {
		c.config.use(Since(before, after), len(numbers))
	}
	return nil
}

// withoutLayer2 measures a workflow on one layer.
func (c *configRun) withoutLayer2(ctx context.Context, i int) error {
	var rows []Sample
	failed := CarryOneLayer(ctx, c.client, NewReference(), func(a Sample) { rows = append(rows, a) })
	if err := c.keep(ctx, oneLayerFile, &c.oneLayer, i, rows); err != nil {
		return err
	}
	return c.note(failed)
}

// keep keeps the rows of a workflow that ended by itself, and writes them; one that ctx's end has cut off is not whole.
func (c *configRun) keep(ctx context.Context, name string, samples *[]Sample, i int, rows []Sample) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for k := range rows {
		rows[k].Config, rows[k].Iteration = c.size.String(), i
	}
	*samples = append(*samples, rows...)
	f, err := os.OpenFile(c.path(name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	w, err := NewWriter(f, false)
	if err == nil {
		err = w.Write(rows...)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("bench: %s: %w", c.path(name), err)
	}
	c.bar.Add(1)
	if c.o.Measured != nil {
		c.o.Measured(c.size, i)
	}
	return nil
}
