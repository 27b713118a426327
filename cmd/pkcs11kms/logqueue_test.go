package main

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stuck is a reader of the log that stands still until it is let go.
type stuck struct {
	reached, gate chan struct{}
	once          sync.Once

	mu  sync.Mutex // guards got
	got bytes.Buffer
}

func newStuck() *stuck { return &stuck{reached: make(chan struct{}), gate: make(chan struct{})} }

func (s *stuck) Write(line []byte) (int, error) {
	s.once.Do(func() { close(s.reached) })
	<-s.gate
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(line)
}

func (s *stuck) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Split(strings.TrimSuffix(s.got.String(), "\n"), "\n")
}

func told(dropped int) []byte { return fmt.Appendf(nil, "dropped %d\n", dropped) }

func writeLines(t *testing.T, q *logQueue, n int, line string) {
	t.Helper()
	for i := range n {
		written, err := fmt.Fprintf(q, line, i)
		require.NoError(t, err)
		require.Positive(t, written)
	}
}

// A reader that stands still makes nobody wait; what there is room for comes in order, the rest is counted and said.
func TestStuckLogMakesNobodyWait(t *testing.T) {
	for name, test := range map[string]struct {
		line       string
		kept, lost int
	}{
		"lines": {"line %d\n", 4096, 10},
		"bytes": {strings.Repeat("x", 1<<20-1) + "%d", 4, 3}, // a MiB each
	} {
		t.Run(name, func(t *testing.T) {
			to := newStuck()
			q := newLogQueue(to, told)
			writeLines(t, q, 1, "first %d\n")
			<-to.reached // and holds that one
			writeLines(t, q, test.kept+test.lost, test.line)
			require.EqualValues(t, test.lost, q.Dropped())
			close(to.gate)
			q.end(time.Hour)
			lines := to.lines()
			require.Equal(t, "first 0", lines[0])
			require.Equal(t, fmt.Sprintf("dropped %d", test.lost), strings.TrimLeft(lines[len(lines)-1], "x0123456789"))
			if name == "lines" {
				require.Len(t, lines, 1+test.kept+1)
				for i := range test.kept {
					require.Equal(t, fmt.Sprint("line ", i), lines[1+i])
				}
			}
		})
	}
}

// What is there at the end is written; a reader that stands still is not waited for, and what comes after the end is dropped.
func TestEndOfTheLog(t *testing.T) {
	var to bytes.Buffer
	q := newLogQueue(&to, told)
	writeLines(t, q, 100, "line %d\n")
	q.end(time.Hour)
	require.Equal(t, 100, strings.Count(to.String(), "\n"))
	writeLines(t, q, 1, "late %d\n")
	require.EqualValues(t, 1, q.Dropped())

	standing := newStuck()
	q = newLogQueue(standing, told)
	writeLines(t, q, 1, "line %d\n")
	q.end(time.Millisecond)
	close(standing.gate)
	<-q.done
	require.Equal(t, []string{"line 0"}, standing.lines())
}

// Many write at once.
func TestLogOfMany(t *testing.T) {
	var to bytes.Buffer
	q := newLogQueue(&to, told)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 100 {
				_, err := fmt.Fprintf(q, "line %d\n", i)
				assert.NoError(t, err)
			}
		})
	}
	all.Wait()
	q.end(time.Hour)
	require.Equal(t, 800, strings.Count(to.String(), "\n"))
}
