package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/fairshare"
)

// slowBody sends the head of a request with a body of 29 KB by somebody who knows an access key id and not its secret, and
// the first bytes of the body.
func (f *fixture) slowBody(t *testing.T, r *running, sent int) net.Conn {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, r.url, strings.NewReader(strings.Repeat(" ", 29<<10)))
	require.NoError(t, err)
	req.Header.Set("X-Amz-Target", targetPrefix+"PutKeyPolicy")
	f.sign(t, req, "", signing{secret: "guessed, not known"})
	head, err := httputil.DumpRequestOut(req, false)
	require.NoError(t, err)
	conn := dial(t, r)
	_, err = fmt.Fprint(conn, string(head), strings.Repeat(" ", sent))
	require.NoError(t, err)
	return conn
}

// ownerPolicy is what a key's owner may set.
const ownerPolicy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + testAccount +
	`"},"Action":"kms:*","Resource":"*"}]}`

// largePolicy is the request of a key's owner, of 29 KB.
func (f *fixture) largePolicy(t *testing.T, r *running) *http.Request {
	key := f.mustCreate(t, types.KeySpecHmac256)
	policy := strings.ReplaceAll(ownerPolicy, `"`, `\"`) + strings.Repeat(" ", 29<<10)
	return f.request(t, r.url, "PutKeyPolicy", `{"KeyId":"`+*key.KeyId+`","Policy":"`+policy+`"}`)
}

// Bodies that are announced and do not come keep nobody out, however many: places are for bytes that have come.
func TestAnnouncedBodiesTakeNothing(t *testing.T) {
	f := newFixture(t, nil)
	f.limits.read = time.Hour
	r := f.run(t, Listen{})
	for i := range 140 {
		f.slowBody(t, r, i%2*(firstBody+1))
	}
	// The slow ones are there: each has its handler.
	require.Eventually(t, func() bool { return f.bodies.unproved.Used() >= 70*firstBody }, patience, time.Millisecond)
	got := f.send(t, f.largePolicy(t, r))
	require.Equal(t, 200, got.StatusCode, got.body)
}

// When the memory for bodies is used up by those who have proved nothing, the one that was read longest gives way with an
// answer that says so, and not the owner of the access key.
func TestSlowBodiesGiveWay(t *testing.T) {
	f := newFixture(t, nil)
	f.limits.read = time.Hour
	f.bodies.unproved = fairshare.New(5 * firstBody)
	r := f.run(t, Listen{})
	slow := f.slowBody(t, r, firstBody+1)
	require.Eventually(t, func() bool { return f.bodies.unproved.Used() == 2*firstBody }, patience, time.Millisecond)
	got := f.send(t, f.largePolicy(t, r))
	require.Equal(t, 200, got.StatusCode, got.body)

	res, err := http.ReadResponse(bufio.NewReader(slow), nil)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, 400, res.StatusCode)
	require.Equal(t, `{"__type":"ThrottlingException","message":"`+errManyBodies.Message+`"}`, string(body))
	require.True(t, res.Close)
	require.Zero(t, f.bodies.unproved.Used())
}

// A connection on which a request was signed rightly shares nothing with those that have proved nothing, and needs no new
// proof by a smaller request.
func TestProvedConnectionsHaveTheirOwnMemory(t *testing.T) {
	f := newFixture(t, nil)
	f.limits.read = time.Hour
	f.bodies.unproved = fairshare.New(2*firstBody - 1)
	r := f.run(t, Listen{})
	policy := f.largePolicy(t, r)
	refused := f.send(t, f.request(t, r.url, "ListKeys", "{"+strings.Repeat(" ", 29<<10)+"}"))
	require.Equal(t, 400, refused.StatusCode)
	require.Contains(t, refused.body, `"ThrottlingException"`)
	require.Equal(t, 200, f.send(t, f.request(t, r.url, "ListKeys", "{}")).StatusCode)
	got := f.send(t, policy)
	require.Equal(t, 200, got.StatusCode, got.body)
}

// One peer with much gives way before another with little.
func TestPeersShareTheMemoryForBodies(t *testing.T) {
	f := newFixture(t, nil)
	f.bodies.unproved = fairshare.New(4 * firstBody)
	elsewhere := fairshare.PeerOf("192.0.2.7:1")
	lost := ""
	f.bodies.unproved.Join(elsewhere, firstBody, func() { lost += "first " })
	f.bodies.unproved.Join(elsewhere, 2*firstBody, func() { lost += "second " })
	r := f.run(t, Listen{})
	got := f.send(t, f.request(t, r.url, "ListKeys", "{"+strings.Repeat(" ", firstBody)+"}"))
	require.Equal(t, 200, got.StatusCode, got.body)
	require.Equal(t, "first ", lost)
}
