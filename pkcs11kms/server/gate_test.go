package server

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// limited runs a server whose listeners have few places, and long times for slow clients, so that places are all that counts.
func (f *fixture) limited(t *testing.T, api, admin gateLimits) *running {
	t.Helper()
	f.limits = limits{header: time.Hour, read: time.Hour, write: time.Hour, idle: time.Hour}
	f.adminLimits = f.limits
	f.allotted = func() allotment { return allotment{api: api, admin: admin} }
	return f.run(t, Listen{})
}

// ask sends a request on a connection of its own and returns the status.
func ask(conn net.Conn, r *http.Request) (int, error) {
	k := exchangeKind{request: r}
	if err := k.again().Write(conn); err != nil {
		return 0, err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, errors.Join(err, res.Body.Close())
}

// requireClosed waits for the server to close a connection without a word.
func requireClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	n, err := conn.Read(make([]byte, 1))
	require.Zero(t, n)
	require.True(t, errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET), "%v", err)
}

// Whoever says nothing makes room for whoever comes, the oldest first; whoever has proved an identity stays.
func TestUnprovedConnectionsMakeRoom(t *testing.T) {
	f := newFixture(t, nil)
	r := f.limited(t, gateLimits{waiting: 3, admitted: 3}, gateLimits{waiting: 3, admitted: 3})
	list := f.request(t, r.url, "ListKeys", "{}")
	proved := dial(t, r)
	status, err := ask(proved, list)
	require.NoError(t, err)
	require.Equal(t, 200, status)
	silent := make([]net.Conn, 20)
	for i := range silent {
		silent[i] = dial(t, r)
	}
	for _, conn := range silent[:17] {
		requireClosed(t, conn)
	}
	for _, conn := range append([]net.Conn{proved, dial(t, r)}, silent[18:]...) {
		status, err := ask(conn, list)
		require.NoError(t, err)
		require.Equal(t, 200, status)
	}
	series := scrape(t, f, r)
	require.EqualValues(t, 18, series[`pkcs11kms_connections_closed_total{listener="api",reason="unproved"}`])
	require.EqualValues(t, 1, series[`pkcs11kms_connections_closed_total{listener="api",reason="idle"}`], "the fourth that is proved")
	require.EqualValues(t, 3, series[`pkcs11kms_connections{listener="api",state="proved"}`])
	require.EqualValues(t, 0, series[`pkcs11kms_connections{listener="api",state="unproved"}`])
	require.Contains(t, f.log.String(), `"msg":"too many connections: closed one","listener":"api","reason":"unproved"`)
}

// A connection that is idle makes room for another; one with a request under way does not, and when there are only such,
// the newcomer is told.
func TestRequestsUnderWayAreNotCutOff(t *testing.T) {
	f, hold := blockable(t)
	r := f.limited(t, gateLimits{waiting: 5, admitted: 2}, gateLimits{waiting: 5, admitted: 5})
	list := f.request(t, r.url, "ListKeys", "{}")
	idle := dial(t, r)
	_, err := ask(idle, list)
	require.NoError(t, err)
	entered, release := hold()
	begin := func() (result chan error) {
		result = make(chan error, 1)
		go func() {
			for {
				conn, err := net.Dial("tcp", list.URL.Host)
				if err != nil {
					result <- err
					return
				}
				status, err := ask(conn, list)
				_ = conn.Close()
				if status != 400 { // throttled, as long as the idle one is not known to be idle
					result <- errors.Join(err, statusError(status))
					return
				}
			}
		}()
		<-entered
		return result
	}
	first, second := begin(), begin()
	requireClosed(t, idle)
	refused := f.send(t, list)
	require.Equal(t, 400, refused.StatusCode)
	require.Equal(t, `{"__type":"ThrottlingException","message":"`+errNoConnection.Message+`"}`, refused.body)
	close(release)
	require.NoError(t, <-first)
	require.NoError(t, <-second)
	require.Positive(t, scrape(t, f, r)[`pkcs11kms_connections_closed_total{listener="api",reason="busy"}`])
}

func statusError(status int) error {
	if status != http.StatusOK {
		return fmt.Errorf("status %d", status)
	}
	return nil
}

// The admin listener keeps no connection for another question, and silent ones make room.
func TestAdminConnectionsMakeRoom(t *testing.T) {
	for _, listen := range []Listen{{}, {Admin: "unix:" + t.TempDir() + "/admin"}} {
		f := newFixture(t, nil)
		f.adminLimits = limits{header: time.Hour, read: time.Hour, write: time.Hour, idle: time.Hour}
		f.allotted = func() allotment { return allotment{api: gateLimits{9, 9}, admin: gateLimits{waiting: 4, admitted: 2}} }
		r := f.run(t, listen)
		connect := func() net.Conn {
			conn, err := net.Dial(r.adminAddr.Network(), r.adminAddr.String())
			require.NoError(t, err)
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		}
		var silent []net.Conn
		for range 100 {
			silent = append(silent, connect())
		}
		for range 5 { // more than are answered at once
			conn := connect()
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
			fmt.Fprint(conn, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
			text, err := io.ReadAll(conn) // until the server closes
			require.NoError(t, err)
			require.Contains(t, string(text), "200 OK")
		}
		for _, conn := range silent[:96] {
			requireClosed(t, conn)
		}
	}
}

// An admin page that takes long is answered, whatever comes meanwhile, and more than there are places for are refused.
func TestAdminRequestsUnderWayAreNotCutOff(t *testing.T) {
	f, hold := blockable(t)
	r := f.limited(t, gateLimits{waiting: 5, admitted: 5}, gateLimits{waiting: 3, admitted: 2})
	entered, release := hold()
	scrape := func() <-chan int {
		req, err := http.NewRequest(http.MethodGet, r.admin+"/metrics", nil)
		require.NoError(t, err)
		return f.sendLater(req)
	}
	first, second := scrape(), scrape()
	<-entered // the first; the other waits for it
	require.Eventually(t, func() bool {
		return f.get(t, r.admin+"/livez").StatusCode == http.StatusServiceUnavailable
	}, patience, time.Millisecond)
	for range 20 {
		conn, err := net.Dial("tcp", r.adminAddr.String())
		require.NoError(t, err)
		defer conn.Close()
	}
	require.Equal(t, http.StatusServiceUnavailable, f.get(t, r.admin+"/livez").StatusCode)
	close(release)
	require.Equal(t, 200, <-first)
	require.Equal(t, 200, <-second)
	require.Eventually(t, func() bool { return f.get(t, r.admin+"/livez").StatusCode == 200 }, patience, time.Millisecond)
}

// Silent clients of the admin listener lose their connections soon, by its own limits.
func TestAdminLimitsAreShort(t *testing.T) {
	require.Equal(t, limits{header: 2 * time.Second, read: 2 * time.Second, write: 5 * time.Second, idle: time.Second}, defaultAdminLimits)
	f := newFixture(t, nil)
	f.limits = limits{header: time.Hour, read: time.Hour, write: time.Hour, idle: time.Hour}
	f.adminLimits = limits{header: 10 * time.Millisecond, read: time.Hour, write: time.Hour, idle: time.Hour}
	r := f.run(t, Listen{})
	for _, sent := range []string{"", "GET /livez HTTP/1.1\r\nHost: localhost\r\n"} {
		conn, err := net.Dial("tcp", r.adminAddr.String())
		require.NoError(t, err)
		fmt.Fprint(conn, sent)
		requireClosed(t, conn)
		require.NoError(t, conn.Close())
	}
}

// What all listeners may hold together leaves the descriptors that everything else needs.
func TestDescriptorsAreReserved(t *testing.T) {
	for _, tc := range []struct{ descriptors, sessions, spare int }{
		{65536, 32, 320}, {20000, 32, 320}, {4096, 1000, 2048}, {1024, 32, 320}, {256, 32, 128}, {64, 32, 32},
	} {
		a := allot(tc.descriptors, tc.sessions)
		for _, n := range []int{a.api.waiting, a.api.admitted, a.admin.waiting, a.admin.admitted} {
			require.Positive(t, n, "%+v", tc)
		}
		sum := a.api.waiting + a.api.admitted + a.admin.waiting + a.admin.admitted
		require.LessOrEqual(t, sum, tc.descriptors-tc.spare, "%+v", tc)
		require.LessOrEqual(t, a.api.waiting, a.api.admitted, "%+v: those who proved nothing get the smaller half", tc)
	}
	require.Equal(t, allotment{api: gateLimits{4096, 16384}, admin: gateLimits{256, 64}}, allot(65536, 32))
}

// A module may have a descriptor open for each session, so many sessions leave fewer connections. Few descriptors are logged.
func TestDescriptorsOfSessions(t *testing.T) {
	f := newFixture(t, func(cfg *pkcs11kms.Config, _ *Options) { cfg.MaxSessions = descriptorLimit() / 2 })
	require.Equal(t, allot(descriptorLimit(), descriptorLimit()/2), f.allot())
	require.Contains(t, f.log.String(), `"level":"WARN","msg":"few descriptors: raise the limit of open files`)
}

// Connections come, prove themselves, are closed by either side and make room, all at once: the counts return to nothing and
// no place is lost.
func TestPlacesAreNotLost(t *testing.T) {
	const workers, rounds = 16, 60
	f := newFixture(t, nil)
	r := f.limited(t, gateLimits{waiting: 6, admitted: 5}, gateLimits{waiting: 5, admitted: 5})
	list := f.request(t, r.url, "ListKeys", "{}")
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			for i := range rounds {
				conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
				if !assert.NoError(t, err) {
					return
				}
				switch (worker + i) % 4 {
				case 0: // says nothing
				case 1:
					_, _ = fmt.Fprint(conn, "GET / HTTP/1.1\r\n") // may be closed already
				default:
					if status, err := ask(conn, list); err == nil {
						assert.Contains(t, []int{200, 400}, status)
					}
				}
				assert.NoError(t, conn.Close())
			}
		})
	}
	wg.Wait()
	require.Eventually(t, func() bool {
		series := scrape(t, f, r)
		return series[`pkcs11kms_connections{listener="api",state="unproved"}`] == 0 &&
			series[`pkcs11kms_connections{listener="api",state="proved"}`] == 0
	}, patience, time.Millisecond)
	require.Equal(t, 200, f.send(t, list).StatusCode)
}
