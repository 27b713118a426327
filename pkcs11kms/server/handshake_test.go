package server

import (
	"crypto/fips140"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// handshakeLine is a line about a failed TLS handshake.
type handshakeLine struct {
	Level, Msg, Remote, Reason string
	Suppressed                 int
}

func (f *fixture) handshakeLines(t *testing.T) (lines []handshakeLine) {
	t.Helper()
	for text := range strings.Lines(f.log.String()) {
		var line handshakeLine
		require.NoError(t, json.Unmarshal([]byte(text), &line))
		if line.Msg == "TLS handshake failed" {
			lines = append(lines, line)
		}
	}
	return lines
}

// runTLS runs a server that speaks TLS, with its address for dial.
func (f *fixture) runTLS(t *testing.T) *running {
	t.Helper()
	certFile, keyFile := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	writeCertificate(t, certFile, keyFile, 1)
	certificate, err := LoadCertificate(certFile, keyFile)
	require.NoError(t, err)
	r := f.run(t, Listen{Certificate: certificate})
	r.url = strings.TrimPrefix(r.url, "https://")
	return r
}

// Failed TLS handshakes are logged with address and reason, at a limited rate; the next line says how many were left out.
func TestFailedHandshakesAreLogged(t *testing.T) {
	if fips140.Enabled() {
		t.Skip("clients in FIPS 140-3 mode speak no old version of TLS, which is what this server refuses here")
	}
	f := newFixture(t, nil)
	f.transport.handshakes = rate.NewLimiter(0, 2)
	r := f.runTLS(t)
	fail := func() string {
		conn := dial(t, r)
		old := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		require.Error(t, tls.Client(conn, old).Handshake())
		return conn.LocalAddr().String()
	}
	remote := fail()
	require.Eventually(t, func() bool { return len(f.handshakeLines(t)) == 1 }, patience, time.Millisecond)
	line := f.handshakeLines(t)[0]
	require.Equal(t, "WARN", line.Level)
	require.Equal(t, remote, line.Remote)
	require.Contains(t, line.Reason, "unsupported versions")

	plain := dial(t, r)
	fmt.Fprint(plain, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	_, err := io.ReadAll(plain)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(f.handshakeLines(t)) == 2 }, patience, time.Millisecond)
	require.Contains(t, f.handshakeLines(t)[1].Reason, "HTTP request to an HTTPS server")

	for range 7 {
		fail()
	}
	require.Eventually(t, func() bool { return f.transport.suppressed.Load() == 7 }, patience, time.Millisecond)
	f.transport.handshakes.SetBurst(100)
	f.transport.handshakes.SetLimit(rate.Inf)
	fail()
	require.Eventually(t, func() bool { return len(f.handshakeLines(t)) == 3 }, patience, time.Millisecond)
	require.Equal(t, 7, f.handshakeLines(t)[2].Suppressed)
}

// A handshake that does not begin, or does not go on, ends by the limit for headers, and is logged too.
func TestSlowHandshakesAreCutOff(t *testing.T) {
	f := newFixture(t, nil)
	f.limits = limits{header: 10 * time.Millisecond, read: time.Hour, write: time.Hour, idle: time.Hour}
	r := f.runTLS(t)
	for _, sent := range []string{"", "\x16\x03\x01\x00\xf0\x01"} {
		conn := dial(t, r)
		fmt.Fprint(conn, sent)
		requireClosed(t, conn)
	}
	require.Eventually(t, func() bool { return len(f.handshakeLines(t)) == 2 }, patience, time.Millisecond)
	require.Contains(t, f.handshakeLines(t)[0].Reason, "i/o timeout")
}

// Connections in a handshake have places like others, and give them up without a line for each.
func TestHandshakesMakeRoom(t *testing.T) {
	f := newFixture(t, nil)
	f.limits = limits{header: time.Hour, read: time.Hour, write: time.Hour, idle: time.Hour}
	f.allotted = func() allotment { return allotment{api: gateLimits{waiting: 3, admitted: 3}, admin: gateLimits{3, 3}} }
	r := f.runTLS(t)
	first := dial(t, r)
	for range 20 {
		dial(t, r)
	}
	requireClosed(t, first)
	conn := tls.Client(dial(t, r), &tls.Config{InsecureSkipVerify: true})
	list := f.request(t, "https://"+r.url, "ListKeys", "{}")
	status, err := ask(conn, list)
	require.NoError(t, err)
	require.Equal(t, 200, status)
	series := scrape(t, f, r)
	require.EqualValues(t, 1, series[`pkcs11kms_connections{listener="api",state="proved"}`], "found through TLS")
	require.EqualValues(t, 19, series[`pkcs11kms_connections_closed_total{listener="api",reason="unproved"}`])
	require.Empty(t, f.handshakeLines(t))
}
