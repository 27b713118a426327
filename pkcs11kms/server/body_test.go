package server

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// stream hides the length of a body, so that it is sent in chunks.
type stream struct{ io.Reader }

func TestBodyLimit(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	const tooLarge = `{"__type":"RequestEntityTooLargeException","message":"The request body is larger than 1048576 bytes."}`
	padded := func(n int) string { return "{}" + strings.Repeat(" ", n-2) }
	for name, tc := range map[string]struct {
		body    string
		chunked bool
		status  int
	}{
		"announced, at the limit":   {padded(maxBody), false, 200},
		"announced, over the limit": {padded(maxBody + 1), false, 413},
		"chunked, at the limit":     {padded(maxBody), true, 200},
		"chunked, over the limit":   {padded(maxBody + 1), true, 413},
		"chunked, far over it":      {padded(8 * maxBody), true, 413},
	} {
		t.Run(name, func(t *testing.T) {
			req := f.request(t, r.url, "ListKeys", tc.body)
			if tc.chunked {
				// The signer signs content-length, which a chunked request does not have.
				req.Body, req.ContentLength = io.NopCloser(stream{strings.NewReader(tc.body)}), -1
				req.Header.Del("Authorization")
				f.sign(t, req, tc.body, signing{})
			}
			got := f.send(t, req)
			require.Equal(t, tc.status, got.StatusCode, got.body)
			if tc.status != http.StatusOK {
				require.Equal(t, tooLarge, got.body)
			}
			requireCommonHeaders(t, got)
		})
	}
}

// A body that is announced as too large is refused before any of it is sent.
func TestTooLargeBodyIsNotRead(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	conn := dial(t, r)
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: TrentService.ListKeys\r\nContent-Length: %d\r\n\r\n", maxBody+1)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
	require.NoError(t, res.Body.Close())
}

func TestBodyShorterThanAnnounced(t *testing.T) {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{}")))
	require.NoError(t, err)
	_, err = bodyReader().readBody(r, &exchange{})
	require.ErrorIs(t, err, errShortBody)
	require.Equal(t, answer{400, "SerializationException", errShortBody.Message}, answerTo(err))
}

// bodyReader is a server that can do nothing but read bodies.
func bodyReader() *Server { return &Server{bodies: newBodies()} }

// Whoever does not sign is refused before a byte of the body is read.
func TestBodyOfAStrangerIsNotRead(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	conn := dial(t, r)
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: TrentService.ListKeys\r\nContent-Length: 1000000\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err, "without having sent the body")
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Contains(t, string(body), `{"__type":"MissingAuthenticationTokenException",`)
	require.True(t, res.Close, "and the connection is not kept")
}

// Bodies of every size around the first buffer arrive whole.
func TestBodySizes(t *testing.T) {
	for _, n := range []int{0, 1, firstBody - 1, firstBody, firstBody + 1, firstBody + bytes.MinRead, 3*firstBody + 7, maxBody} {
		want := bytes.Repeat([]byte("abc"), n/3+1)[:n]
		for _, chunked := range []bool{false, true} {
			r, err := http.NewRequest(http.MethodPost, "/", bytes.NewReader(want))
			require.NoError(t, err)
			if chunked {
				r.ContentLength = -1
			}
			if r.Body == nil {
				r.Body = http.NoBody
			}
			got, err := bodyReader().readBody(r, &exchange{})
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got), "%d bytes, chunked %v", n, chunked)
		}
	}
}

func dial(t testing.TB, r *running) net.Conn {
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // the server may have closed it
	return conn
}
