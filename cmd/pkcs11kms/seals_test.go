package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What a server that is killed has recorded since its last seal is told as unsealed, and nothing else is; the next one seals it.
func TestAKilledServerLeavesUnsealedRecords(t *testing.T) {
	p := newProgram(t)
	key := p.accessKey()
	server := p.serve(anyPort...)
	requests := &line{address: strings.TrimPrefix(server.url, "http://"), request: signedRequest(t, server.url, key, "ListKeys", "{}")}
	require.NoError(t, requests.ask())
	require.NoError(t, server.cmd.Process.Signal(syscall.SIGHUP)) // begins a new file, and so makes a seal
	require.Eventually(t, func() bool {
		return p.must("audit", "search", "--event-name", "SealAuditLog", "--query", "length(Events)") != "0\n"
	}, patience, time.Millisecond)
	const later = 5
	for range later {
		require.NoError(t, requests.ask())
	}
	_, err := server.stop(os.Kill)
	require.NoError(t, err)
	requests.end()

	said := p.must("audit", "verify")
	require.Regexp(t, `(?m)^sealed: \d+ valid seal`, said)
	require.Regexp(t, `(?m)^unsealed: [1-5] records? of chain [0-9a-f]{16} since 20.*Z, from record \d+ on$`, said)
	require.Equal(t, 1, strings.Count(said, "unsealed:"), said)
	require.Regexp(t, `(?m)^valid: 1 chain,`, said)

	server = p.serve(anyPort...)
	code, err := server.stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code)
	said = p.must("audit", "verify")
	require.NotContains(t, said, "unsealed")
	require.Contains(t, said, "\nvalid: ")
}
