package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/server"
)

// get asks an admin listener, by TCP or by its socket.
func get(t *testing.T, client *http.Client, url string) (status int, body string) {
	t.Helper()
	response, err := client.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(text)
}

// TestServe starts the server as a service manager does and stops it by the signal that one sends.
func TestServe(t *testing.T) {
	p := newProgram(t)
	notices := listenForNotices(t)
	d := p.serve(append(anyPort, "--log-format", "json")...)
	assert.Equal(t, "READY=1", notices.next())
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	for path, want := range map[string]string{"/livez": "ok\n", "/healthz": "ready\n", "/readyz": "ready\n"} {
		status, body := get(t, client, d.admin+path)
		assert.Equal(t, http.StatusOK, status, path)
		assert.Equal(t, want, body, path)
	}
	_, metrics := get(t, client, d.admin+"/metrics")
	assert.Contains(t, metrics, `pkcs11kms_keys{region="us-east-1"} 1`)
	status, _ := get(t, client, d.url)
	assert.Equal(t, http.StatusBadRequest, status, "the API is for signed requests")

	code, err := d.stop(syscall.SIGTERM)
	require.NoError(t, err)
	assert.Zero(t, code)
	assert.Equal(t, "STOPPING=1", notices.next())
	assert.Equal(t, "ready "+d.url+" admin "+d.admin+"\n", d.out.String())
	for line := range strings.Lines(d.log.String()) {
		assert.Regexp(t, `^\{"time":".*"\}\n$`, line)
	}
	assert.Equal(t, 1, strings.Count(d.log.String(), `"msg":"request"`), "one line for the one request to the API")
	assert.Contains(t, d.log.String(), `"msg":"stopped"`)
	assert.Equal(t, 1, strings.Count(d.log.String(), "the audit log is on this machine only"))
}

// TestRatesOfServers: a server holds the rates of the service, a development server has none. Of the operation asked here
// an account has one in four seconds; the refusal of a key that the token made is what it answers otherwise.
func TestRatesOfServers(t *testing.T) {
	const refused, throttled = "UnsupportedOperationException", "ThrottlingException"
	p := newProgram(t)
	key := p.accessKey()
	ask := func(d *background) (code string) {
		client := kms.New(kms.Options{Region: "us-east-1", BaseEndpoint: &d.url, RetryMaxAttempts: 1,
			Credentials: credentials.NewStaticCredentialsProvider(key.id, key.secret, "")})
		_, err := client.GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{KeyId: &p.key,
			WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa2048})
		var api smithy.APIError
		if !errors.As(err, &api) {
			return fmt.Sprint("no answer: ", err)
		}
		return api.ErrorCode()
	}
	production := p.serve(anyPort...)
	require.Equal(t, refused, ask(production))
	require.Eventually(t, func() bool { return ask(production) == throttled }, patience, time.Millisecond)
	development := p.serve(append(anyPort, "--dev")...)
	for range 10 {
		require.Equal(t, refused, ask(development))
	}
}

// notices is the service manager's end of sd_notify.
type notices struct {
	t    *testing.T
	conn *net.UnixConn
}

// listenForNotices takes the notices of the processes that the test starts.
func listenForNotices(t *testing.T) notices {
	t.Helper()
	dir, err := os.MkdirTemp("", "kms") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	path := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, conn.Close()) })
	t.Setenv("NOTIFY_SOCKET", path)
	return notices{t, conn}
}

func (n notices) next() string {
	n.t.Helper()
	require.NoError(n.t, n.conn.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1024)
	size, err := n.conn.Read(buf)
	require.NoError(n.t, err)
	return string(buf[:size])
}

func servedSerial(t *testing.T, url string) int64 {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// TestReload changes the certificate under a running server: to another, to rubbish, which changes nothing, and away.
func TestReload(t *testing.T) {
	p := newProgram(t)
	notices := listenForNotices(t)
	files := p.certificate("server", 1)
	d := p.serve(append(anyPort, files...)...)
	assert.Equal(t, "READY=1", notices.next())
	require.Equal(t, int64(1), servedSerial(t, d.url))
	assert.True(t, strings.HasPrefix(d.admin, "http://"), "on loopback the admin listener needs no certificate")

	hangUp := func() {
		t.Helper()
		require.NoError(t, d.cmd.Process.Signal(syscall.SIGHUP))
		assert.Regexp(t, `^RELOADING=1\nMONOTONIC_USEC=\d+$`, notices.next())
		assert.Equal(t, "READY=1", notices.next())
	}
	p.certificate("server", 2)
	hangUp()
	assert.Equal(t, int64(2), servedSerial(t, d.url))
	require.NoError(t, os.WriteFile(files[1], []byte("rubbish"), 0o600))
	hangUp()
	assert.Equal(t, int64(2), servedSerial(t, d.url))
	require.NoError(t, os.Remove(files[1]))
	hangUp()
	assert.Equal(t, int64(2), servedSerial(t, d.url))
	p.certificate("server", 3)
	hangUp()
	assert.Equal(t, int64(3), servedSerial(t, d.url))

	code, err := d.stop(os.Interrupt)
	require.NoError(t, err)
	assert.Zero(t, code)
	assert.Equal(t, 2, strings.Count(d.log.String(), `level=ERROR msg="nothing reloaded"`))
	assert.Equal(t, 2, strings.Count(d.log.String(), `msg="reloaded the TLS certificate"`))
}

// TestHangupWithoutACertificate: systemctl reload must not end a server.
func TestHangupWithoutACertificate(t *testing.T) {
	p := newProgram(t)
	d := p.serve(anyPort...)
	require.NoError(t, d.cmd.Process.Signal(syscall.SIGHUP))
	logged := func() bool { return strings.Contains(d.log.String(), "no TLS certificate is configured") }
	require.Eventually(t, logged, patience, time.Millisecond)
	code, err := d.stop(syscall.SIGTERM)
	require.NoError(t, err)
	assert.Zero(t, code)
}

// TestSignalAfterTheStateDirectoryMoved: the signal is obeyed, and what is wrong is no interrupt.
func TestSignalAfterTheStateDirectoryMoved(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		p := newProgram(t)
		d := p.serve(anyPort...)
		require.NoError(t, os.Rename(filepath.Join(p.dir, "kms"), filepath.Join(p.dir, "moved")))
		code, err := d.stop(sig)
		require.NoError(t, err)
		assert.Equal(t, 3, code, d.log)
		assert.NotContains(t, d.log.String(), "interrupted")
		assert.Contains(t, d.log.String(), "closing the state directory")
	}
}

// TestHangupOfADevelopmentServer: with its terminal gone nobody would stop it.
// TestHangupEndsADevelopmentServer: it is the hangup that ends it, and not what comes a minute later for a server that stays.
func TestHangupEndsADevelopmentServer(t *testing.T) {
	// Under nohup the signal is ignored, which a child would inherit. Of a signal that is caught it gets the default.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	p := newProgram(t)
	d := p.serve(append(anyPort, "--dev")...)
	_, err := d.stop(syscall.SIGHUP)
	require.NoError(t, err)
	status := d.cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, status.Signaled())
	assert.Equal(t, syscall.SIGHUP, status.Signal())
}

// TestAdminSocket has health and metrics on a unix socket, which a second start after a crash takes over.
func TestAdminSocket(t *testing.T) {
	p := newProgram(t)
	dir, err := os.MkdirTemp("", "kms")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	path := filepath.Join(dir, "admin")
	args := []string{"--listen", "127.0.0.1:0", "--admin-listen", "unix:" + path}
	killed := p.serve(args...)
	assert.Equal(t, "unix:"+path, killed.admin)
	_, err = killed.stop(os.Kill)
	require.NoError(t, err)
	require.FileExists(t, path)

	d := p.serve(args...)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}}}
	defer client.CloseIdleConnections()
	status, _ := get(t, client, "http://admin/healthz")
	assert.Equal(t, http.StatusOK, status)
	code, err := d.stop(syscall.SIGTERM)
	require.NoError(t, err)
	assert.Zero(t, code)
}

func TestWithoutAnAdminListener(t *testing.T) {
	p := newProgram(t)
	d := p.serve("--listen", "127.0.0.1:0", "--admin-listen", "off")
	assert.Empty(t, d.admin)
	assert.Equal(t, "ready "+d.url+"\n", d.out.String())
}

func TestListenError(t *testing.T) {
	listen := func(err error) error { return &net.OpError{Op: "listen", Net: "tcp", Err: err} }
	for _, tc := range []struct {
		err  error
		hint string
	}{
		{nil, ""},
		{errors.New("other"), ""},
		{listen(os.NewSyscallError("bind", syscall.EADDRINUSE)), "stop it, or choose other addresses"},
		{listen(os.NewSyscallError("bind", syscall.EACCES)), "choose a port from 1024 on"},
		{listen(os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)), "choose addresses of this machine"},
		{fmt.Errorf("%w: x", server.ErrPlaintext), "--tls-cert FILE"},
	} {
		err := listenError(tc.err)
		require.ErrorIs(t, err, tc.err)
		if tc.hint == "" {
			assert.Empty(t, hintOf(err))
		} else {
			assert.Contains(t, hintOf(err), tc.hint)
		}
	}
}

func TestOnLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:1": true, "127.1.2.3:1": true, "[::1]:1": true, "localhost:1": true, "unix:/run/admin": true,
		"0.0.0.0:1": false, "[::]:1": false, ":1": false, "10.0.0.1:1": false, "example.org:1": false, "127.0.0.1": false, "": false,
	} {
		assert.Equal(t, want, server.IsLocal(address), address)
	}
}

// TestOutcome: the signal that was asked to stop the server is no error, what happened besides is.
func TestOutcome(t *testing.T) {
	s := &serving{log: slog.New(slog.DiscardHandler)}
	other := errors.New("other")
	assert.NoError(t, s.outcome(context.Canceled, nil))
	assert.Equal(t, exitError(exitEnvironment), s.outcome(context.Canceled, other), "requests were cut off")
	assert.ErrorIs(t, s.outcome(other, nil), other)
	assert.ErrorIs(t, s.outcome(nil, other), other)
	assert.NoError(t, s.outcome(nil, nil))

	ctx, cancel := context.WithCancel(t.Context())
	assert.Equal(t, other, stopped(ctx, other))
	cancel()
	assert.NoError(t, stopped(ctx, other), "the start was called off")
}

func TestServerLog(t *testing.T) {
	for _, tc := range []struct {
		format, level string
		debug         bool
		want          string
	}{
		{"text", "info", false, `^time=\S+ level=INFO msg=b\ntime=\S+ level=WARN msg=c\n$`},
		{"text", "warn", false, `^time=\S+ level=WARN msg=c\n$`},
		{"text", "error", true, `^time=\S+ level=DEBUG msg=a\n`},
		{"json", "debug", false, `^\{"time":"\S+","level":"DEBUG","msg":"a"\}\n`},
		{"xml", "info", false, ""},
		{"text", "INFO", false, ""},
		{"text", "warn+1", false, ""},
		{"text", "", false, ""},
	} {
		var out bytes.Buffer
		a := &app{stderr: &out, debug: tc.debug}
		log, queue, err := a.newLog(tc.format, tc.level)
		if tc.want == "" {
			var usage *usageError
			assert.ErrorAs(t, err, &usage, "%+v", tc)
			continue
		}
		require.NoError(t, err)
		log.Debug("a")
		log.Info("b")
		log.Warn("c")
		queue.end(time.Hour)
		assert.Regexp(t, tc.want, out.String())
	}
}
