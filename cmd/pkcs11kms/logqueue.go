package main

import (
	"io"
	"sync"
	"time"
)

// The bounds of what waits to be written to the log, and how long the end of the program waits for it.
const (
	maxLogLines  = 4096
	maxLogBytes  = 4 << 20
	logEndsAfter = time.Second
)

// logQueue takes the lines of the log and writes them in a goroutine of its own: whoever reads the log may stand still, and must not make
// a request wait. What there is no room for is dropped, counted, and said when there is room again. Each Write is one line. Safe for
// concurrent use.
type logQueue struct {
	to   io.Writer
	said func(dropped int) []byte // the line that tells of lines that were dropped

	mu      sync.Mutex // guards the rest
	lines   [][]byte
	bytes   int
	missed  int   // lines that were dropped since the last one that was written
	dropped int64 // all of them
	ended   bool
	changed *sync.Cond
	done    chan struct{} // closed when everything is written after the end
}

func newLogQueue(to io.Writer, said func(dropped int) []byte) *logQueue {
	q := &logQueue{to: to, said: said, done: make(chan struct{})}
	q.changed = sync.NewCond(&q.mu)
	go q.run()
	return q
}

// Write takes a line, or drops it. It never fails and never waits.
func (q *logQueue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended || len(q.lines) == maxLogLines || q.bytes+len(line) > maxLogBytes {
		q.missed++
		q.dropped++
		return len(line), nil
	}
	q.lines = append(q.lines, append([]byte(nil), line...))
	q.bytes += len(line)
	q.changed.Signal()
	return len(line), nil
}

// Dropped counts the lines that were dropped.
func (q *logQueue) Dropped() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// end takes no line any more, and waits for what is there to be written, for so long at most.
func (q *logQueue) end(wait time.Duration) {
	q.mu.Lock()
	q.ended = true
	q.changed.Signal()
	q.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-q.done:
	case <-timer.C:
	}
}

// run writes until the end. A log that cannot be written has nobody to be told.
func (q *logQueue) run() {
	defer close(q.done)
	for {
		lines, missed := q.take()
		if lines == nil && missed == 0 {
			return
		}
		for _, line := range lines {
			_, _ = q.to.Write(line)
		}
		if missed > 0 {
			_, _ = q.to.Write(q.said(missed))
		}
	}
}

// take waits for lines, and returns them with how many were dropped behind them; nothing after the end.
func (q *logQueue) take() (lines [][]byte, missed int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.lines) == 0 && q.missed == 0 && !q.ended {
		q.changed.Wait()
	}
	lines, missed = q.lines, q.missed
	q.lines, q.bytes, q.missed = nil, 0, 0
	return lines, missed
}
