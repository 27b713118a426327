package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDurationsOfTheJSONLogHaveAUnit: whoever reads a line sees how long something took, wherever in the line it stands.
func TestDurationsOfTheJSONLogHaveAUnit(t *testing.T) {
	var out bytes.Buffer
	log, queue, err := (&app{stderr: &out}).newLog(logJSON, "info")
	require.NoError(t, err)
	log.With("with", 2*time.Second).LogAttrs(context.Background(), slog.LevelInfo, "m", slog.Duration("took", 1500*time.Microsecond),
		slog.Any("any", time.Minute), slog.Group("g", slog.Duration("in", time.Nanosecond)))
	queue.end(time.Hour)
	require.Contains(t, out.String(), `"msg":"m","with":"2s","took":"1.5ms","any":"1m0s","g":{"in":"1ns"}`)
	out.Reset()
	text, queue, err := (&app{stderr: &out}).newLog(logText, "info")
	require.NoError(t, err)
	text.Info("m", "took", 1500*time.Microsecond)
	queue.end(time.Hour)
	require.Contains(t, out.String(), "took=1.5ms")

	d := newProgram(t).serve(append(anyPort, "--log-format", "json")...)
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	_, _ = get(t, client, d.url)
	_, err = d.stop(syscall.SIGTERM)
	require.NoError(t, err)
	found := false
	for line := range strings.Lines(d.log.String()) {
		var request struct{ Msg, Took string }
		require.NoError(t, json.Unmarshal([]byte(line), &request), line)
		if request.Msg == "request" {
			took, err := time.ParseDuration(request.Took)
			require.NoError(t, err)
			require.Positive(t, took)
			found = true
		}
	}
	require.True(t, found, d.log.String())
}

// A log that nobody reads makes no request wait, and the metric and the log itself tell what was lost.
func TestServerWithALogThatIsNotRead(t *testing.T) {
	to := newStuck()
	log, queue, err := (&app{stderr: to}).newLog(logJSON, "info")
	require.NoError(t, err)
	log.Info("held")
	<-to.reached
	for range maxLogLines + 7 {
		log.Info("a line")
	}
	require.EqualValues(t, 7, queue.Dropped())
	close(to.gate)
	queue.end(time.Hour)
	lines := to.lines()
	var last struct {
		Level, Msg string
		Lines      int
	}
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last))
	require.Equal(t, 7, last.Lines)
	require.Equal(t, "ERROR", last.Level)
	require.Contains(t, last.Msg, "dropped")
}
