package server

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// That a server cannot accept connections any more is an error in its log, and once it can again it serves on.
func TestConnectionsThatCannotBeAcceptedAreAnError(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	address, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(r.url, "http://"))
	require.NoError(t, err)
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Close(client)) })

	var before unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	restore := func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before)) }
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}))
	defer restore()
	require.NoError(t, unix.Connect(client, &unix.SockaddrInet4{Port: address.Port, Addr: [4]byte(address.IP.To4())}))
	var line string
	require.Eventually(t, func() bool {
		for text := range strings.Lines(f.log.String()) {
			if strings.Contains(text, "Accept error") {
				line = text
			}
		}
		return line != ""
	}, patience, time.Millisecond)
	require.Contains(t, line, `"level":"ERROR"`)
	require.Contains(t, line, "too many open files")
	restore()
	require.Equal(t, 200, f.send(t, f.request(t, r.url, "ListKeys", "{}")).StatusCode)
}
