package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sharing starts a server that shares the port of an address.
func (p *program) sharing(address string, more ...string) *background {
	p.t.Helper()
	return p.serve(append([]string{"--reuse-port", "--listen", address, "--admin-listen", "127.0.0.1:0"}, more...)...)
}

// refuses starts a server that must not come up, and returns what it says.
func (p *program) refuses(args ...string) string {
	p.t.Helper()
	var stderr bytes.Buffer
	cmd := p.command("pkcs11kms", append([]string{"serve"}, args...)...)
	cmd.Stderr = &stderr
	deadline := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer deadline.Stop()
	var exit *exec.ExitError
	require.ErrorAs(p.t, cmd.Run(), &exit)
	require.Equal(p.t, exitEnvironment, exit.ExitCode(), stderr.String())
	return stderr.String()
}

// served counts the requests that a server has answered without an error.
func served(t *testing.T, d *background) int {
	t.Helper()
	_, metrics := get(t, http.DefaultClient, d.admin+"/metrics")
	n := 0
	for _, found := range regexp.MustCompile(`(?m)^pkcs11kms_requests_total\{.*result="OK"\} (\d+)$`).FindAllStringSubmatch(metrics, -1) {
		one, err := strconv.Atoi(found[1])
		require.NoError(t, err)
		n += one
	}
	return n
}

// line is a connection of a client that sends the same request again and again.
type line struct {
	address string
	request []byte
	conn    net.Conn
	answers *bufio.Reader
	sent    int // on this connection
}

func (l *line) end() {
	if l.conn != nil {
		_ = l.conn.Close()
		l.conn = nil
	}
}

// errReset says that a connection was reset, or ended, before there was any answer on it: it came to a server that was just ending.
var errReset = errors.New("a new connection was reset")

// ask sends the request and reads its answer, on a new connection where there is none.
func (l *line) ask() error {
	if l.conn == nil {
		conn, err := net.Dial("tcp", l.address)
		if err != nil {
			return err
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		l.conn, l.answers, l.sent = conn, bufio.NewReader(conn), 0
	}
	_, err := l.conn.Write(l.request)
	var answer *http.Response
	if err == nil {
		answer, err = http.ReadResponse(l.answers, nil)
	}
	if err != nil {
		defer l.end()
		if l.sent == 0 && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrUnexpectedEOF)) {
			return errReset
		}
		return fmt.Errorf("after %d requests on the connection: %w", l.sent, err)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return errors.Join(err, fmt.Errorf("answered %d %s", answer.StatusCode, body))
	}
	l.sent++
	if answer.Close {
		l.end()
	}
	return nil
}

// load is what many clients ask, some on connections that they keep and some on new ones, until it is stopped.
type load struct {
	over           chan struct{}
	clients        sync.WaitGroup
	answered, lost atomic.Int64
}

func startLoad(t *testing.T, address string, request []byte) *load {
	l := &load{over: make(chan struct{})}
	for i := range 12 {
		l.clients.Go(func() {
			one := &line{address: address, request: request}
			defer one.end()
			for {
				select {
				case <-l.over:
					return
				default:
				}
				switch err := one.ask(); {
				case errors.Is(err, errReset):
					l.lost.Add(1)
				case assert.NoError(t, err):
					l.answered.Add(1)
				default:
					return
				}
				if i%3 == 0 {
					one.end()
				}
			}
		})
	}
	return l
}

func (l *load) reaches(t *testing.T, n int64) {
	t.Helper()
	require.Eventually(t, func() bool { return l.answered.Load() >= n }, patience, time.Millisecond)
}

func (l *load) stop() {
	close(l.over)
	l.clients.Wait()
}

// TestServersOnOnePort: both answer; when one is told to stop under load the other goes on, and no request is lost but on connections that
// the system had given to the one that stopped before it could take them.
func TestServersOnOnePort(t *testing.T) {
	p := newProgram(t)
	p.configure("quotas: {rates: off}\n")
	key := p.accessKey()
	first := p.sharing("127.0.0.1:0")
	address := strings.TrimPrefix(first.url, "http://")
	second := p.sharing(address)
	require.Equal(t, first.url, second.url)
	clients := startLoad(t, address, signedRequest(t, first.url, key, "DescribeKey", `{"KeyId":"`+p.key+`"}`))
	require.Eventually(t, func() bool { return served(t, first) > 100 && served(t, second) > 100 }, patience, 10*time.Millisecond)

	began := time.Now()
	code, err := first.stop(syscall.SIGTERM)
	require.NoError(t, err)
	assert.Zero(t, code, first.log)
	assert.Less(t, time.Since(began), 15*time.Second, "it ends before its grace does")
	clients.reaches(t, clients.answered.Load()+500)
	third := p.sharing(address, "--log-requests", "off")
	require.Eventually(t, func() bool { return served(t, third) > 100 }, patience, 10*time.Millisecond)
	clients.stop()
	t.Logf("%d requests answered, %d new connections reset", clients.answered.Load(), clients.lost.Load())
	require.LessOrEqual(t, clients.lost.Load(), int64(3))

	_, err = second.stop(os.Kill)
	require.NoError(t, err)
	fourth := p.sharing(address) // what the killed one has left is in nobody's way
	for _, d := range []*background{third, fourth} {
		code, err = d.stop(syscall.SIGTERM)
		require.NoError(t, err)
		assert.Zero(t, code, d.log)
	}
	p.serve("--listen", address, "--admin-listen", "off") // the port is free
}

// TestServersThatMayNotSharePorts: they say what is in their way and what to do, and those that are there go on.
func TestServersThatMayNotSharePorts(t *testing.T) {
	p, other := newProgram(t), newProgram(t)
	d := p.sharing("127.0.0.1:0")
	address := strings.TrimPrefix(d.url, "http://")
	said := p.refuses("--listen", address, "--admin-listen", "off")
	assert.Regexp(t, `^pkcs11kms: listen tcp4? 127.0.0.1:\d+: bind: address already in use\n`, said)
	assert.Contains(t, said, "hint: servers of this state directory share that port: start this one with --reuse-port, too")
	said = other.refuses("--reuse-port", "--listen", address, "--admin-listen", "off")
	assert.Contains(t, said, "a process that does not share it with this state directory listens on "+address)
	assert.Contains(t, said, "hint: it is a server without --reuse-port, one of another state directory, or another program:")
	assert.Contains(t, other.refuses("--listen", address, "--admin-listen", "off"), "hint: another process listens there: stop it")

	admin := strings.TrimPrefix(d.admin, "http://")
	said = p.refuses("--reuse-port", "--listen", address, "--admin-listen", admin)
	assert.Contains(t, said, "pkcs11kms: the admin listener: listen tcp")
	assert.Contains(t, said, "each server needs an admin listener of its own:\n"+
		"hint: choose another address by --admin-listen; with 127.0.0.1:0 ")

	alone := p.serve(anyPort...)
	said = p.refuses("--reuse-port", "--listen", strings.TrimPrefix(alone.url, "http://"), "--admin-listen", "off")
	assert.Contains(t, said, "hint: it is a server without --reuse-port")
	for _, one := range []*background{d, alone} {
		status, _ := get(t, http.DefaultClient, one.admin+"/readyz")
		assert.Equal(t, http.StatusOK, status)
	}

	p.configure("reuse-port: true\n")
	p.serve("--listen", address, "--admin-listen", "off")
	assert.Contains(t, p.refuses("--reuse-port=false", "--listen", address, "--admin-listen", "off"), "share that port", "flags win")
}

// TestServersShareAPortWithTLS: each has the certificate itself.
func TestServersShareAPortWithTLS(t *testing.T) {
	p := newProgram(t)
	first := p.sharing("127.0.0.1:0", p.certificate("first", 1)...)
	address := strings.TrimPrefix(first.url, "https://")
	p.sharing(address, p.certificate("second", 2)...)
	seen := map[int64]bool{}
	require.Eventually(t, func() bool {
		seen[servedSerial(t, first.url)] = true
		return seen[1] && seen[2]
	}, patience, time.Millisecond)
}
