package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// isTerminal tells whether a person reads what is written.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progress is a bar on a terminal; elsewhere it prints nothing.
type progress struct {
	w     io.Writer
	on    bool
	drawn time.Time
	width int
}

const barWidth = 30

func newProgress(w io.Writer) *progress { return &progress{w: w, on: isTerminal(w)} }

// show draws the bar at a fraction of 1, at most ten times a second.
func (p *progress) show(fraction float64, text string) {
	if !p.on || (time.Since(p.drawn) < 100*time.Millisecond && fraction < 1) {
		return
	}
	p.drawn = time.Now()
	n := int(min(max(fraction, 0), 1) * barWidth)
	line := fmt.Sprintf("[%s%s] %s", strings.Repeat("#", n), strings.Repeat(".", barWidth-n), text)
	fmt.Fprintf(p.w, "\r%s%s", line, strings.Repeat(" ", max(p.width-len(line), 0)))
	p.width = len(line)
}

// end removes the bar.
func (p *progress) end() {
	if p.on && p.width > 0 {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.width))
	}
}
