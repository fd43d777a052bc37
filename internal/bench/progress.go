package bench

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Progress shows how far a phase of a measurement is: a bar on a terminal, one line at the start anywhere else.
type Progress struct{ bar *progressbar.ProgressBar }

// NewProgress begins a phase of total steps; what names it.
func NewProgress(w io.Writer, total int, what string) *Progress {
	visible := IsTerminal(w)
	if !visible {
		fmt.Fprintf(w, "%s (%d) ...\n", what, total)
	}
	return &Progress{progressbar.NewOptions(total, progressbar.OptionSetWriter(w), progressbar.OptionSetVisibility(visible),
		progressbar.OptionSetDescription(what), progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish())}
}

// Add says that n more steps are done.
func (p *Progress) Add(n int) { _ = p.bar.Add(n) } // a bar that cannot be drawn is no reason to stop measuring

// Done ends the phase, also before all its steps are done, and clears the bar.
func (p *Progress) Done() { _ = p.bar.Exit() }

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
