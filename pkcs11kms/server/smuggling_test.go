package server

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// exchangeRaw sends a text on a connection of its own and reads all that comes until the server closes, or the first answer
// when it does not.
func exchangeRaw(t *testing.T, network, address, text string) (answers []*http.Response, closed bool) {
	t.Helper()
	conn, err := net.Dial(network, address)
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprint(conn, text)
	require.NoError(t, err)
	reader := bufio.NewReader(conn)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	for {
		res, err := http.ReadResponse(reader, nil)
		if err != nil {
			return answers, true
		}
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		res.Body = io.NopCloser(bytes.NewReader(body))
		answers = append(answers, res)
		if !res.Close {
			return answers, false
		}
	}
}

// What net/http would answer by itself is logged and counted like everything else.
func TestNothingIsAnsweredPastTheLog(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	api := strings.TrimPrefix(r.url, "http://")
	for i, head := range []string{"OPTIONS * HTTP/1.1\r\nHost: x", "OPTIONS / HTTP/1.1\r\nHost: x", "TRACE / HTTP/1.1\r\nHost: x",
		"GET * HTTP/1.1\r\nHost: x", "CONNECT x:1 HTTP/1.1\r\nHost: x", "PRI * HTTP/2.0"} {
		answers, closed := exchangeRaw(t, "tcp", api, head+"\r\n\r\n")
		require.Len(t, answers, 1, head)
		require.Equal(t, 400, answers[0].StatusCode, head)
		require.Equal(t, "UnknownOperationException", answers[0].Header.Get("X-Amzn-Errortype"), head)
		require.True(t, closed, head)
		f.lines(t, i+1)
	}
	require.EqualValues(t, 6, scrape(t, f, r)[`pkcs11kms_requests_total{operation="unknown",result="UnknownOperationException"}`])
	answers, _ := exchangeRaw(t, "tcp", r.adminAddr.String(), "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.Equal(t, 400, answers[0].StatusCode, "on the admin listener too")
}

// A request whose end a proxy may see elsewhere is the last of its connection: what follows is not taken for another request.
func TestConnectionEndsWithAnAmbiguousBody(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	// Signed by somebody who is known: strangers lose their connection anyway.
	signed := f.request(t, r.url, "ListKeys", "{}")
	signed.ContentLength, signed.Body = -1, http.NoBody
	signed.Header.Del("Authorization")
	f.sign(t, signed, "{}", signing{})
	head := "POST / HTTP/1.1\r\nHost: " + signed.URL.Host + "\r\n"
	for name, values := range signed.Header {
		head += name + ": " + values[0] + "\r\n"
	}
	const second = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, framing := range map[string]string{
		"both":           "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"both, reversed": "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"chunked alone":  "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
	} {
		answers, closed := exchangeRaw(t, "tcp", signed.URL.Host, head+framing+second)
		require.Len(t, answers, 1, name)
		require.Equal(t, 200, answers[0].StatusCode, name)
		require.True(t, closed, name)
	}
	answers, closed := exchangeRaw(t, "tcp", r.adminAddr.String(),
		"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"+second)
	require.Len(t, answers, 1)
	require.True(t, closed)
	require.NotContains(t, f.log.String(), "smuggled")
}

// A web page cannot read the admin pages: neither as itself nor by a name of its own that resolves to this machine.
func TestAdminPagesAreNotForWebPages(t *testing.T) {
	f := newFixture(t, nil)
	path := t.TempDir() + "/admin"
	socket := f.run(t, Listen{Admin: "unix:" + path})
	r := f.run(t, Listen{})
	get := func(network, address, headers string) int {
		answers, closed := exchangeRaw(t, network, address, "GET /metrics HTTP/1.1\r\n"+headers+"\r\n")
		require.Len(t, answers, 1)
		require.True(t, closed)
		return answers[0].StatusCode
	}
	tcp := r.adminAddr.String()
	_, port, err := net.SplitHostPort(tcp)
	require.NoError(t, err)
	for headers, status := range map[string]int{
		"Host: " + tcp + "\r\n":                                200,
		"Host: 127.0.0.1\r\n":                                  200,
		"Host: [::1]:" + port + "\r\n":                         200,
		"Host: [::1]\r\n":                                      200,
		"Host: LocalHost:" + port + "\r\n":                     200,
		"Host: evil.example:" + port + "\r\n":                  403,
		"Host: evil.example\r\n":                               403,
		"Host: localhost.evil.example\r\n":                     403,
		"Host: 127.0.0.1.evil.example\r\n":                     403,
		"Host: localhost\r\nOrigin: http://localhost\r\n":      403,
		"Host: " + tcp + "\r\nOrigin: http://evil.example\r\n": 403,
		"Host: localhost:" + port + "\r\nOrigin: null\r\n":     403,
	} {
		require.Equal(t, status, get("tcp", tcp, headers), headers)
	}
	answers, _ := exchangeRaw(t, "tcp", tcp, "GET /healthz HTTP/1.0\r\n\r\n")
	require.Equal(t, 200, answers[0].StatusCode, "without Host, as load balancers ask")
	require.Equal(t, 200, get("unix", path, "Host: anything\r\n"))
	require.Equal(t, 403, get("unix", path, "Host: anything\r\nOrigin: http://evil.example\r\n"))
	require.Equal(t, path, socket.adminAddr.String())

	recorder := httptest.NewRecorder()
	f.Admin().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "http://evil.example/metrics", nil))
	require.Equal(t, 403, recorder.Code, "in a program with a listener of its own too")
}
