package test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// flood is what attackers do until it is over: each opens connections as fast as it can and keeps the last ones open, so that
// the server always has more of them than it has places.
type flood struct {
	server   *floodedServer
	lasted   chan struct{} // closed when a listener that has had enough connections is left alone
	over     chan struct{}
	workers  sync.WaitGroup
	held     int    // connections that each attacker keeps open
	accessID string // of an access key whose secret the attackers do not know

	api, admin atomic.Int64 // connections opened
}

const (
	floodWorkers = 8   // on each listener
	floodHeld    = 700 // connections that each keeps open at most
)

func (s *floodedServer) flood(t *testing.T, accessID string) *flood {
	// This process needs descriptors too: at most half of them are for attacks.
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	held := min(floodHeld, int(limit.Cur)/2/(2*floodWorkers))
	f := &flood{server: s, lasted: make(chan struct{}), over: make(chan struct{}), accessID: accessID, held: held}
	for worker := range floodWorkers {
		f.workers.Go(func() { f.attack("tcp", s.api, worker, &f.api, f.onAPI) })
		network := "tcp"
		if s.adminSocket {
			network = "unix"
		}
		f.workers.Go(func() { f.attack(network, s.admin, worker, &f.admin, f.onAdmin) })
	}
	return f
}

// stop ends the flood and gives its descriptors back.
func (f *flood) stop() {
	close(f.over)
	f.workers.Wait()
}

func (f *flood) attack(network, address string, worker int, opened *atomic.Int64, say func(net.Conn, int)) {
	held := make([]net.Conn, f.held)
	defer func() {
		for _, conn := range held {
			drop(conn)
		}
	}()
	for i := 0; ; i++ {
		select {
		case <-f.over:
			return
		case <-f.lasted: // a unix socket takes a hundred times what a TCP port does, and the machine with it
			if opened.Load() >= manyConnections {
				return
			}
		default:
		}
		dialer := net.Dialer{Timeout: time.Second}
		if network == "tcp" { // one address has too few ports
			dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 1, byte(worker), byte(1+i%200))}
		}
		conn, err := dialer.Dial(network, address)
		if err != nil {
			continue
		}
		opened.Add(1)
		say(conn, i)
		slot := &held[i%f.held]
		drop(*slot)
		*slot = conn
	}
}

// drop closes a connection at once, without leaving its port occupied.
func drop(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	if conn != nil {
		_ = conn.Close()
	}
}

// onAPI does on a connection what costs an attacker little: nothing, half a header, a large body that does not come, in the
// name of an access key whose secret is not known, or half a handshake.
func (f *flood) onAPI(conn net.Conn, i int) {
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	switch {
	case i%3 == 0:
	case f.server.tls:
		_, _ = conn.Write([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
	case i%3 == 1:
		_, _ = fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nX-Padding: ", strings.Repeat("x", 4<<10))
	default:
		now := time.Now().UTC()
		_, _ = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: TrentService.PutKeyPolicy\r\nX-Amz-Date: %s\r\n"+
			"Authorization: AWS4-HMAC-SHA256 Credential=%s/%s/us-east-1/kms/aws4_request, SignedHeaders=host;x-amz-date;x-amz-target, "+
			"Signature=%064x\r\nContent-Length: 100000\r\n\r\n%s",
			now.Format("20060102T150405Z"), f.accessID, now.Format("20060102"), 1, strings.Repeat(" ", 9<<10))
	}
}

// onAdmin asks and takes no answer, or does not ask.
func (f *flood) onAdmin(conn net.Conn, i int) {
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	switch i % 3 {
	case 0:
		_, _ = fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
	case 1:
		_, _ = fmt.Fprint(conn, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n")
	}
}

// genuine is a client with the right secret, or an operator's probe. It counts what becomes of its requests.
type genuine struct {
	name                     string
	ask                      func(context.Context) error
	served, refused, unknown atomic.Int64
	slowest                  time.Duration // for the use of the goroutine that asks
}

// keepAsking asks again and again until over is closed.
func (g *genuine) keepAsking(t *testing.T, over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		default:
		}
		began := time.Now()
		err := g.ask(context.Background())
		g.slowest = max(g.slowest, time.Since(began))
		switch {
		case err == nil:
			g.served.Add(1)
		case refusedByLimit(err):
			g.refused.Add(1)
		default:
			if g.unknown.Add(1) <= 3 {
				assert.NoError(t, err, g.name)
			}
		}
	}
}

// errAdminLimit is a probe's answer that says that the admin listener has as many requests as it has places (docs/server.md).
var errAdminLimit = errors.New("too many requests to the admin listener")

// refusedByLimit reports whether an error is one that a limit causes: ThrottlingException, the admin listener's 503, the end of
// a connection on which nothing was done, or a socket on which more connections wait than the system keeps (connect(2), EAGAIN).
func refusedByLimit(err error) bool {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode() == "ThrottlingException"
	}
	for _, limit := range []error{errAdminLimit, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, syscall.EAGAIN} {
		if errors.Is(err, limit) {
			return true
		}
	}
	// net/http has no exported error for a connection that ended before the request was written to it.
	return strings.HasSuffix(err.Error(), "http: server closed idle connection")
}

// sdk returns a client of the AWS SDK that keeps its connection, or makes a new one for each request.
func (s *served) sdk(id, secret string, keep bool, attempts int) (*kms.Client, func()) {
	transport := &http.Transport{DisableKeepAlives: !keep, MaxConnsPerHost: 1, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	scheme := "http://"
	if s.tls {
		scheme = "https://"
	}
	return kms.New(kms.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(scheme + s.api), HTTPClient: &http.Client{Transport: transport},
		RetryMaxAttempts: attempts, Credentials: credentials.NewStaticCredentialsProvider(id, secret, ""),
	}), transport.CloseIdleConnections
}

// probe asks an admin page on a connection of its own.
func (s *served) probe(page string) func(context.Context) error {
	return func(ctx context.Context) error {
		status, body, err := s.page(ctx, page)
		switch {
		case err != nil || status == http.StatusOK:
			return err
		case status == http.StatusServiceUnavailable && strings.HasPrefix(body, "too many requests are under way"):
			return errAdminLimit
		}
		return fmt.Errorf("%s: %d: %s", page, status, body)
	}
}
