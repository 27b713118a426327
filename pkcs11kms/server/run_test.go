package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// blockable makes a fixture whose calls of ListKeys wait in the store once held, until release is closed.
func blockable(t *testing.T) (f *fixture, hold func() (entered <-chan struct{}, release chan struct{})) {
	store := &faultyStore{}
	f = newFixture(t, func(cfg *pkcs11kms.Config, _ *Options) {
		store.Store = cfg.Store
		cfg.Store = store
	})
	return f, func() (<-chan struct{}, chan struct{}) {
		entered, release := make(chan struct{}, 100), make(chan struct{})
		store.hook(func() {
			entered <- struct{}{}
			<-release
		})
		return entered, release
	}
}

// sendLater sends in a goroutine; the status comes through the channel, or 0.
func (f *fixture) sendLater(r *http.Request) <-chan int {
	status := make(chan int, 1)
	go func() {
		res, err := f.client.Do(r)
		if err != nil {
			status <- 0
			return
		}
		_, err = io.Copy(io.Discard, res.Body)
		if err = errors.Join(err, res.Body.Close()); err != nil {
			res.StatusCode = 0
		}
		status <- res.StatusCode
	}()
	return status
}

func TestStopFinishesWhatIsUnderWay(t *testing.T) {
	f, hold := blockable(t)
	r := f.run(t, Listen{Grace: patience})
	require.Equal(t, 200, f.send(t, f.request(t, r.url, "ListKeys", "{}")).StatusCode)
	entered, release := hold()
	status := f.sendLater(f.request(t, r.url, "ListKeys", "{}"))
	<-entered
	r.stop()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	}, patience, 1e6, "new connections are refused")
	select {
	case <-r.ended:
		require.Fail(t, "Run returned before the request was finished")
	default:
	}
	close(release)
	require.Equal(t, 200, <-status)
	<-r.ended
	require.NoError(t, r.err)
}

// What does not finish within Grace is cut off, and Run says so.
func TestStopDoesNotWaitForEver(t *testing.T) {
	f, hold := blockable(t)
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- f.Run(ctx,
			Listen{API: "127.0.0.1:0", Grace: time.Millisecond, Ready: func(api, _ net.Addr) { ready <- "http://" + api.String() }})
	}()
	url := <-ready
	entered, release := hold()
	status := f.sendLater(f.request(t, url, "ListKeys", "{}"))
	<-entered
	stop()
	require.Equal(t, 0, <-status)
	require.ErrorContains(t, <-ended, "requests under way were cut off after 1ms")
	close(release)
}

func TestHeadersTooLarge(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	conn := dial(t, r)
	go func() { // the server answers before it has read everything
		_, _ = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nX-Padding: %s\r\n\r\n", strings.Repeat("x", 2*maxHeader))
	}()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, res.StatusCode)
}

// An operation that takes longer than it may is answered, and the answer asks to try again.
func TestCallTimeout(t *testing.T) {
	f := newFixture(t, func(_ *pkcs11kms.Config, o *Options) { o.CallTimeout = time.Nanosecond })
	r := f.run(t, Listen{})
	got := f.send(t, f.request(t, r.url, "ListKeys", "{}"))
	require.Equal(t, `{"__type":"DependencyTimeoutException","message":"The operation did not end in time."}`, got.body)
	require.Equal(t, 500, got.StatusCode)
}

// hurried is a real store that notes how much time the last commit had.
type hurried struct {
	keystore.Store
	left atomic.Int64
}

func (h *hurried) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	deadline, _ := ctx.Deadline()
	h.left.Store(int64(time.Until(deadline)))
	return h.Store.Commit(ctx, changes...)
}

// The making of a key may take longer than other operations: tokens search for the primes of a long RSA key.
func TestKeysMayTakeLonger(t *testing.T) {
	store := &hurried{}
	f := newFixture(t, func(cfg *pkcs11kms.Config, o *Options) {
		store.Store = cfg.Store
		cfg.Store, o.CallTimeout = store, 20*time.Minute
	})
	r := f.run(t, Listen{})
	for op, want := range map[string]time.Duration{"CreateKey": 21 * time.Minute, "CreateAlias": 20 * time.Minute} {
		body := `{"KeySpec":"ECC_NIST_P256","KeyUsage":"SIGN_VERIFY"}`
		if op == "CreateAlias" {
			body = `{"AliasName":"alias/a","TargetKeyId":"` + *f.mustCreate(t, types.KeySpecHmac256).KeyId + `"}`
		}
		began := time.Now()
		require.Equal(t, http.StatusOK, f.send(t, f.request(t, r.url, op, body)).StatusCode, op)
		left := time.Duration(store.left.Load())
		require.LessOrEqual(t, left, want, op)
		require.Greater(t, left, want-time.Since(began), op)
	}
}

// A client that goes away is no error of the server's.
func TestClientGoesAway(t *testing.T) {
	store := &faultyStore{}
	f := newFixture(t, func(cfg *pkcs11kms.Config, _ *Options) {
		store.Store = cfg.Store
		cfg.Store = store
	})
	gone, leave := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(gone, http.MethodPost, "/", strings.NewReader("{}"))
	r.Header = f.request(t, "http://"+r.Host+"/", "ListKeys", "{}").Header
	r.Header.Set("Content-Length", "2") // as net/http hands it over
	store.hook(leave)
	f.ServeHTTP(httptest.NewRecorder(), r)
	line := f.lines(t, 1)[0]
	require.Equal(t, "INFO", line.Level, line.Reason)
	require.Equal(t, "RequestCanceled", line.Error)
	require.Equal(t, statusClientGone, line.Status)
}

// ended returns a context that has ended, with which Run does no more than it must.
func ended() context.Context {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	return ctx
}

func TestPlaintextIsRefusedWhereOthersCanListen(t *testing.T) {
	f := newFixture(t, nil)
	for _, l := range []Listen{
		{API: "0.0.0.0:0"}, {API: ":0"}, {API: "[::]:0"}, {API: "192.0.2.1:0"}, {API: "example.com:0"},
		{API: "127.0.0.1:0", Admin: "0.0.0.0:0"}, {API: "127.0.0.1:0", Admin: "0.0.0.0:0", AllowPlaintext: true},
		// By its form, before a name is looked up or anything is listened to.
		{API: "127.0.0.1:0", Admin: "192.0.2.1:0"}, {API: "127.0.0.1:0", Admin: "example.com:0"},
	} {
		require.ErrorIs(t, f.Run(ended(), l), ErrPlaintext, "%+v", l)
	}
	for _, l := range []Listen{
		{API: "127.0.0.1:0"}, {API: "localhost:0"}, {API: "127.1.2.3:0", Admin: "localhost:0"}, {API: "0.0.0.0:0", AllowPlaintext: true},
	} {
		require.NoError(t, f.Run(ended(), l), "%+v", l)
	}
}

func TestAddressInUse(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	address := strings.TrimPrefix(r.url, "http://")
	require.ErrorIs(t, f.Run(ended(), Listen{API: address}), syscall.EADDRINUSE)
	require.ErrorIs(t, f.Run(ended(), Listen{API: "127.0.0.1:0", Admin: address}), syscall.EADDRINUSE)
	require.Error(t, f.Run(ended(), Listen{API: "127.0.0.1"}))
}

func TestAdminOnUnixSocket(t *testing.T) {
	f := newFixture(t, nil)
	path := filepath.Join(t.TempDir(), "admin.sock")
	stale, err := net.Listen("unix", path)
	require.NoError(t, err)
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, stale.Close())
	require.FileExists(t, path)

	r := f.run(t, Listen{Admin: "unix:" + path})
	require.Equal(t, path, r.adminAddr.String())
	info, err := os.Lstat(path)
	require.NoError(t, err)
	require.Equal(t, fs.ModeSocket|0o600, info.Mode())
	require.Equal(t, "ready\n", getOnSocket(t, path, "/healthz"))

	err = f.Run(ended(), Listen{API: "127.0.0.1:0", Admin: "unix:" + path})
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.ErrorContains(t, err, "another process")
	require.Equal(t, "ready\n", getOnSocket(t, path, "/healthz"), "the one that is alive stays")
	r.stop()
	<-r.ended
	require.NoFileExists(t, path)

	require.NoError(t, os.WriteFile(path, []byte("precious"), 0o600))
	require.ErrorIs(t, f.Run(ended(), Listen{API: "127.0.0.1:0", Admin: "unix:" + path}), syscall.EADDRINUSE)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "precious", string(content), "a file that is no socket stays")
	require.Error(t, f.Run(ended(), Listen{API: "127.0.0.1:0", Admin: "unix:" + path + "/none/admin.sock"}))
}

func getOnSocket(t *testing.T, path, page string) string {
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n", page)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(body)
}

// A name is whatever the hosts file makes of it, so what counts is the address that came of it.
func TestWhatIsBoundCounts(t *testing.T) {
	for name, l := range map[string]Listen{
		"without TLS":      {},
		"on loopback only": {LoopbackOnly: true, AllowPlaintext: true},
	} {
		_, err := l.listen("0.0.0.0:0", l.AllowPlaintext, listen)
		require.ErrorIs(t, err, ErrPlaintext, name)
		listener, err := l.listen("localhost:0", l.AllowPlaintext, listen)
		require.NoError(t, err, name)
		require.NoError(t, listener.Close())
	}
	listener, err := Listen{AllowPlaintext: true}.listen("0.0.0.0:0", true, listen)
	require.NoError(t, err)
	require.Equal(t, "0.0.0.0", listener.Addr().(*net.TCPAddr).IP.String(), "not IPv6 as well")
	require.NoError(t, listener.Close())
}
