package test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// served is a server in a process of its own. Its log may be read once it has ended.
type served struct {
	cmd         *exec.Cmd
	api         string // HOST:PORT
	tls         bool
	admin       string // HOST:PORT, or the path of a socket
	adminSocket bool
	log         *bytes.Buffer
	drained     sync.WaitGroup // of standard output
}

// startServed starts a server, by a command that becomes it, on a state directory. It is killed when it has not been stopped in time.
func startServed(t *testing.T, d *stateDir, cmd *exec.Cmd, limit time.Duration) *served {
	t.Helper()
	s := &served{cmd: cmd, log: &bytes.Buffer{}}
	cmd.Env = d.command().Env
	cmd.Stderr = s.log
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	end := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		end.Stop()
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill() // the test failed
			_ = cmd.Wait()
		}
		if t.Failed() {
			lines := slices.DeleteFunc(strings.Split(s.log.String(), "\n"), func(line string) bool {
				return strings.Contains(line, "msg=request ") || strings.Contains(line, "token does not serve the key")
			})
			t.Logf("%v; the end of its log:\n%s", cmd.ProcessState, strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
	})
	lines := bufio.NewReader(out)
	first, err := lines.ReadString('\n')
	if err != nil {
		_ = cmd.Wait() // says nothing that the log does not
		require.NoError(t, err, "%s", s.log)
	}
	s.drained.Go(func() { _, _ = io.Copy(io.Discard, lines) })
	words := strings.Fields(first)
	require.Len(t, words, 4, first)
	var plain bool
	s.api, plain = strings.CutPrefix(words[1], "http://")
	s.api, s.tls = strings.TrimPrefix(s.api, "https://"), !plain
	s.admin, s.adminSocket = strings.CutPrefix(words[3], "unix:")
	s.admin = strings.TrimPrefix(s.admin, "http://")
	return s
}

// stop ends the server, which must have been the one that was started, and well to the end.
func (s *served) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	s.drained.Wait()
	require.NoError(t, s.cmd.Wait(), "%s", s.log)
}

// page asks for an admin page on a connection of its own.
func (s *served) page(ctx context.Context, path string) (status int, body string, err error) {
	transport := &http.Transport{DisableKeepAlives: true}
	host := s.admin
	if s.adminSocket {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.admin)
		}
		host = "localhost"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		return 0, "", err
	}
	res, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return 0, "", err
	}
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), errors.Join(err, res.Body.Close())
}
