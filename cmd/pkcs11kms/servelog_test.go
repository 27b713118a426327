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
	log, err := (&app{stderr: &out}).newLog(logJSON, "info")
	require.NoError(t, err)
	log.With("with", 2*time.Second).LogAttrs(context.Background(), slog.LevelInfo, "m", slog.Duration("took", 1500*time.Microsecond),
		slog.Any("any", time.Minute), slog.Group("g", slog.Duration("in", time.Nanosecond)))
	require.Contains(t, out.String(), `"msg":"m","with":"2s","took":"1.5ms","any":"1m0s","g":{"in":"1ns"}`)
	out.Reset()
	text, err := (&app{stderr: &out}).newLog(logText, "info")
	require.NoError(t, err)
	text.Info("m", "took", 1500*time.Microsecond)
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
