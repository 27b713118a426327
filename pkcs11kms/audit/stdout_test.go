package audit

import (
	"bufio"
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// lockedLog is a log that is read while it is written.
type lockedLog struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lockedLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(line)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lockedLog) has(text string) bool { return strings.Contains(l.String(), text) }

func (l *lockedLog) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Standard output gets the lines of the file. One who does not read makes nobody wait, and gets what comes when he reads.
func TestStdout(t *testing.T) {
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	defer reader.Close()
	defer writer.Close()
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{Stdout: writer, queued: 1000})
	recordUses(t, l, 0, 3000)
	require.Positive(t, sinkStats(l).Dropped)
	got := map[uint64]string{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			place, err := linkOf(lines.Bytes())
			if err != nil {
				got[1<<62] = lines.Text()
				continue
			}
			got[place.seq] = lines.Text()
		}
	}()
	require.Eventually(t, func() bool { return sinkStats(l).Queued == 0 }, time.Minute, time.Millisecond)
	recordUses(t, l, 3000, 3100)
	require.NoError(t, l.Close())
	require.NoError(t, writer.Close())
	<-done
	require.Positive(t, requireAccounted(t, dir, "stdout", got))
	require.NotEmpty(t, got[l.place.seq])
}

// The end of a log waits for no reader, and one that has gone ends nothing; the chain tells what he has not got.
func TestStdoutWithoutAReader(t *testing.T) {
	for _, gone := range []bool{false, true} {
		reader, writer, err := os.Pipe()
		require.NoError(t, err)
		dir := filepath.Join(t.TempDir(), "audit")
		l := mustOpen(t, dir, Options{Stdout: writer})
		if gone {
			require.NoError(t, reader.Close())
		}
		recordUses(t, l, 0, 1000)
		if gone {
			require.Eventually(t, func() bool { return !sinkStats(l).Up }, time.Minute, time.Millisecond)
		}
		require.NoError(t, l.Close())
		_, gaps := written(t, dir, "stdout")
		require.True(t, covered(gaps, 1000))
		require.NoError(t, writer.Close())
		_ = reader.Close() // or again
	}
}
