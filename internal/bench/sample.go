package bench

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Layers of a sample.
const (
	L1 = "L1" // the client waited for a block
	L2 = "L2" // a Layer 2 node answered
)

// Sample is one operation of a workflow that was measured: a request and its answer, or its failure.
type Sample struct {
	// Config says on what it was measured, such as "4-1": four validators and one Layer 2 node.
	Config string
	// Iteration is the workflow's number, from 1.
	Iteration int
	// Operation is a name of Operations; Layer is L1 or L2.
	Operation, Layer string
	// Start is when the client began with the request, Latency how long it took until the checked answer (or the failure) was there.
	Start   time.Time
	Latency time.Duration
	// Height is the block that holds it (L1), or that the answering node had seen (L2); 0 if unknown.
	Height int64
	// Endorsements is how many Layer 2 nodes have provably endorsed a step, of Of there are; 0 for what is no step. Of is not in the CSV.
	Endorsements, Of int
	// Err is why it failed; empty if it did not. A failed operation is a row too.
	Err string
	// Detail tells a person more; it is not in the CSV.
	Detail string
}

// csvHead names the columns of the CSV.
var csvHead = []string{"config", "iteration", "step", "layer", "start", "latency_ns", "height", "endorsements", "error"}

// Writer writes samples as CSV, one row each. It is not safe for concurrent use.
type Writer struct{ w *csv.Writer }

// NewWriter returns a Writer; with head it writes the line of column names first, as a new file needs it.
func NewWriter(w io.Writer, head bool) (*Writer, error) {
	s := &Writer{csv.NewWriter(w)}
	if head {
		if err := s.w.Write(csvHead); err != nil {
			return nil, err
		}
	}
	return s, s.flush()
}

// Write writes samples and flushes them.
func (s *Writer) Write(samples ...Sample) error {
	for _, a := range samples {
		if err := s.w.Write([]string{
			a.Config, strconv.Itoa(a.Iteration), a.Operation, a.Layer, a.Start.UTC().Format(time.RFC3339Nano),
			strconv.FormatInt(a.Latency.Nanoseconds(), 10), strconv.FormatInt(a.Height, 10), strconv.Itoa(a.Endorsements),
			strings.Join(strings.Fields(a.Err), " "), // a row is a line
		}); err != nil {
			return err
		}
	}
	return s.flush()
}

func (s *Writer) flush() error {
	s.w.Flush()
	return s.w.Error()
}

// ReadSamples reads what a Writer wrote. A row of another form is an error that names its line.
func ReadSamples(r io.Reader) ([]Sample, error) {
	in := csv.NewReader(r)
	in.FieldsPerRecord = len(csvHead)
	var samples []Sample
	for line := 1; ; line++ {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			return samples, nil
		}
		if err != nil {
			return nil, fmt.Errorf("bench: samples: %w", err)
		}
		if line == 1 && row[0] == csvHead[0] {
			continue
		}
		a, err := parseSample(row)
		if err != nil {
			at, _ := in.FieldPos(0)
			return nil, fmt.Errorf("bench: samples: line %d: %w", at, err)
		}
		samples = append(samples, a)
	}
}

func parseSample(row []string) (Sample, error) {
	a := Sample{Config: row[0], Operation: row[2], Layer: row[3], Err: row[8]}
	var errs [5]error
	var latency int64
	a.Iteration, errs[0] = strconv.Atoi(row[1])
	a.Start, errs[1] = time.Parse(time.RFC3339Nano, row[4])
	latency, errs[2] = strconv.ParseInt(row[5], 10, 64)
	a.Height, errs[3] = strconv.ParseInt(row[6], 10, 64)
	a.Endorsements, errs[4] = strconv.Atoi(row[7])
	a.Latency = time.Duration(latency)
	return a, errors.Join(errs[:]...)
}
