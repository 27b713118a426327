package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// longFile is the size from which on a file is worth a progress bar.
const longFile = 64 << 20

// silent is the progress of what is over before anybody could look.
type silent struct{}

func (silent) Write(p []byte) (int, error) { return len(p), nil }
func (silent) Close() error                { return nil }

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progress returns the bar for a file, to which its content is written too. It is shown on a terminal only, and only
// where the file is long or its end unknown; somebody who types the input needs none.
func (a *app) progress(name string, size int64) io.WriteCloser {
	if !isTerminal(a.stderr) || size >= 0 && size < longFile || name == standardInput && isTerminal(a.stdin) {
		return silent{}
	}
	return newBar(a.stderr, name, size)
}

// bar is a progress bar that never stands in the way: a file that grew beyond its size, or a terminal that went away,
// is no reason to fail.
type bar struct{ *progressbar.ProgressBar }

func (b bar) Write(p []byte) (int, error) {
	_, _ = b.ProgressBar.Write(p)
	return len(p), nil
}

func newBar(w io.Writer, name string, size int64) bar {
	if name == standardInput {
		name = "standard input"
	} else {
		name = fmt.Sprintf("%q", name) // a file's name may hold a terminal's control sequences
	}
	return bar{progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(name),
		progressbar.OptionShowBytes(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetSpinnerChangeInterval(0), // drawn as data comes, without a goroutine of its own
		progressbar.OptionClearOnFinish(),
	)}
}

// indexing returns what is told of the indexes of the audit log that are made, or nil: a bar shows it on a terminal, where it takes long.
func (a *app) indexing() func(read, of int64) {
	if !isTerminal(a.stderr) {
		return nil
	}
	shown := sync.OnceValue(func() bar { return newBar(a.stderr, "indexes of the audit log", -1) })
	return func(read, of int64) {
		if of >= longFile {
			shown().ChangeMax64(of)
			_ = shown().Set64(read) // a terminal that went away is no reason to fail
		}
	}
}

// meter shows how much of a time has passed, and what has come of it so far, on one line.
type meter struct{ bar *progressbar.ProgressBar }

func newMeter(w io.Writer, total time.Duration) meter {
	return meter{progressbar.NewOptions64(total.Milliseconds(),
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetWidth(20),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionSetElapsedTime(false),
		progressbar.OptionClearOnFinish(),
	)}
}

// show never stands in the way: a terminal that went away is no reason to fail.
func (m meter) show(elapsed time.Duration, text string) {
	m.bar.Describe(text)
	_ = m.bar.Set64(elapsed.Milliseconds())
}

func (m meter) close() { _ = m.bar.Clear() }

// counterBar shows how many of something are done, on a terminal only.
type counterBar struct{ shown *progressbar.ProgressBar }

func (a *app) counter(what string) counterBar {
	if !isTerminal(a.stderr) {
		return counterBar{}
	}
	return counterBar{progressbar.NewOptions(-1, progressbar.OptionSetWriter(a.stderr), progressbar.OptionSetDescription(what),
		progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetSpinnerChangeInterval(0),
		progressbar.OptionClearOnFinish())}
}

func (c counterBar) set(n int) {
	if c.shown != nil {
		_ = c.shown.Set(n) // a terminal that went away is no reason to fail
	}
}

func (c counterBar) done() {
	if c.shown != nil {
		_ = c.shown.Finish()
	}
}
