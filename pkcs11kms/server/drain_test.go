package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// answerOn sends a request on a connection, and returns its answer.
func answerOn(t *testing.T, f *fixture, r *running, conn net.Conn) *http.Response {
	t.Helper()
	require.NoError(t, f.request(t, r.url, "ListKeys", "{}").Write(conn))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	_, err = io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	return res
}

// refusesConnections waits until nobody listens any more.
func (r *running) refusesConnections(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	}, patience, time.Millisecond)
}

// TestDrain: a client that sends requests all the time learns that the server ends by an answer, and never by a connection that is closed
// under a request. When all have gone nothing is waited for.
func TestDrain(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{Drain: time.Hour})
	first, second := dial(t, r), dial(t, r)
	for _, conn := range []net.Conn{first, second} {
		for range 2 {
			require.False(t, answerOn(t, f, r, conn).Close)
		}
	}
	r.stop()
	r.refusesConnections(t)
	require.Equal(t, 200, f.get(t, r.admin+"/livez").StatusCode, "the admin listener goes on")
	require.True(t, answerOn(t, f, r, first).Close)
	select {
	case <-r.ended:
		require.Fail(t, "Run returned before the second client was told")
	case <-time.After(100 * time.Millisecond):
	}
	require.True(t, answerOn(t, f, r, second).Close)
	<-r.ended
	require.NoError(t, r.err)
}

// TestDrainEnds: clients that send nothing are not waited for any longer.
func TestDrainEnds(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{Drain: 50 * time.Millisecond})
	conn := dial(t, r)
	require.False(t, answerOn(t, f, r, conn).Close)
	r.stop()
	<-r.ended
	require.NoError(t, r.err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	_, err := conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

// neverAccepting is a socket that is ended with everything still in the system's hands.
type neverAccepting struct {
	*net.TCPListener
	closed chan struct{}
	once   sync.Once
}

func (l *neverAccepting) Accept() (net.Conn, error) {
	<-l.closed
	return l.TCPListener.Accept()
}

func (l *neverAccepting) Close() error {
	err := l.TCPListener.Close()
	l.once.Do(func() { close(l.closed) })
	return err
}

// TestDrainTakesWhatTheSystemHasAccepted: it would be reset.
func TestDrainTakesWhatTheSystemHasAccepted(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{Drain: time.Hour, ListenAPI: func(_ context.Context, network, address string) (net.Listener, error) {
		listener, err := net.Listen(network, address)
		if err != nil {
			return nil, err
		}
		return &neverAccepting{TCPListener: listener.(*net.TCPListener), closed: make(chan struct{})}, nil
	}})
	conns := []net.Conn{dial(t, r), dial(t, r), dial(t, r)}
	for _, conn := range conns {
		require.NoError(t, f.request(t, r.url, "ListKeys", "{}").Write(conn))
	}
	r.stop()
	for _, conn := range conns {
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
	}
	<-r.ended
	require.NoError(t, r.err)
}

// TestAdminListenerIsOpenedFirst: who cannot be an admin listener takes no connection to the API, which others may share.
func TestAdminListenerIsOpenedFirst(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	err := f.Run(ended(), Listen{API: "127.0.0.1:0", Admin: strings.TrimPrefix(r.admin, "http://"),
		ListenAPI: func(context.Context, string, string) (net.Listener, error) {
			require.Fail(t, "the API is listened for")
			return nil, nil
		}})
	require.ErrorIs(t, err, ErrAdmin)
	require.ErrorIs(t, err, syscall.EADDRINUSE)

	refused := errors.New("not here")
	err = f.Run(ended(), Listen{API: "0.0.0.0:1", AllowPlaintext: true, Admin: "127.0.0.1:0",
		ListenAPI: func(_ context.Context, network, address string) (net.Listener, error) {
			require.Equal(t, []string{"tcp4", "0.0.0.0:1"}, []string{network, address})
			return nil, refused
		}})
	require.ErrorIs(t, err, refused)
	require.NotErrorIs(t, err, ErrAdmin)
}
