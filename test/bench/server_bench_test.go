package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

// envServe makes the test binary a child process that runs one of the two servers, so that their CPU time can be told
// from the load generator's.
const envServe = "PKCS11KMS_BENCH_SERVE"

func TestMain(m *testing.M) {
	switch os.Getenv(envServe) {
	case "api":
		os.Exit(serveAPI())
	case "audited":
		os.Exit(serveAudited())
	case "empty":
		os.Exit(serveEmpty())
	}
	os.Exit(m.Run())
}

// served is the first line that a child prints: where it listens, and what to sign requests with.
type served struct{ Address, AccessKeyID, Secret, KeyID string }

func serveAPI() int {
	tb := &childTB{}
	defer tb.end()
	return serveTo(tb, kmstest.Configure(func(cfg *pkcs11kms.Config) { cfg.SealRecords = true }))
}

// serveTo runs a server of the API for the parent.
func serveTo(tb *childTB, options ...kmstest.Option) int {
	srv := kmstest.NewServer(tb, options...)
	key := kmstest.MustCreateKey(tb, srv.Client(), types.KeySpecHmac256)
	return answerParent(served{srv.URL[len("http://"):], srv.AccessKeyID, srv.SecretAccessKey(), *key.KeyId})
}

// emptyAnswer is as long as the answer to GenerateMac.
var emptyAnswer = bytes.Repeat([]byte{'x'}, len(`{"KeyId":"arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000",`+
	`"Mac":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","MacAlgorithm":"HMAC_SHA_256"}`))

// serveEmpty is the least that a server in Go can do: it reads the body and answers.
func serveEmpty() int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, body); err == nil {
			_, _ = w.Write(emptyAnswer)
		}
	})}
	go func() { _ = server.Serve(listener) }() // until Close
	defer server.Close()
	return answerParent(served{Address: listener.Addr().String()})
}

// answerParent says where the server is, and then for each line of input how much CPU time this process has used. The end
// of the input is the sign to end.
func answerParent(s served) int {
	out := json.NewEncoder(os.Stdout)
	err := out.Encode(s)
	for lines := bufio.NewScanner(os.Stdin); err == nil && lines.Scan(); {
		var use syscall.Rusage
		if err = syscall.Getrusage(syscall.RUSAGE_SELF, &use); err == nil {
			err = out.Encode(time.Duration(use.Utime.Nano() + use.Stime.Nano()))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// childTB stands in for *testing.B in a child.
type childTB struct{ cleanups []func() }

func (tb *childTB) Helper()                   {}
func (tb *childTB) Cleanup(f func())          { tb.cleanups = append(tb.cleanups, f) }
func (tb *childTB) Logf(s string, a ...any)   { fmt.Fprintf(os.Stderr, s+"\n", a...) }
func (tb *childTB) Errorf(s string, a ...any) { tb.Logf(s, a...) }
func (tb *childTB) Skipf(s string, a ...any)  { tb.Fatalf(s, a...) }

func (tb *childTB) Fatalf(s string, a ...any) {
	tb.Logf(s, a...)
	tb.end()
	os.Exit(1)
}

func (tb *childTB) TempDir() string {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (tb *childTB) end() {
	for _, f := range slices.Backward(tb.cleanups) {
		f()
	}
}

// child is a server in a process of its own. It is for the use of one goroutine.
type child struct {
	served
	in  io.Writer
	out *json.Decoder
}

// startChild starts a server, which ends with the benchmark.
func startChild(b *testing.B, which string) *child {
	exe, err := os.Executable()
	require.NoError(b, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envServe+"="+which)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		require.NoError(b, in.Close())
		require.NoError(b, cmd.Wait())
	})
	c := &child{in: in, out: json.NewDecoder(out)}
	require.NoError(b, c.out.Decode(&c.served))
	return c
}

// cpu is the CPU time that the server has used, or nothing where the server is no child.
func (c *child) cpu(b *testing.B) (used time.Duration) {
	if c == nil {
		return 0
	}
	_, err := fmt.Fprintln(c.in)
	require.NoError(b, err)
	require.NoError(b, c.out.Decode(&used))
	return used
}

// messages is how many requests differ, so that nothing in between can know an answer by the request.
const messages = 256

// requests returns GenerateMac of 32 bytes as it goes over the wire, signed now: for five minutes.
func requests(b *testing.B, s served) [][]byte {
	signer, now := v4.NewSigner(), time.Now()
	credentials := aws.Credentials{AccessKeyID: s.AccessKeyID, SecretAccessKey: s.Secret}
	all := make([][]byte, messages)
	for i := range all {
		message := sha256.Sum256([]byte(strconv.Itoa(i)))
		body, err := json.Marshal(map[string]any{"KeyId": s.KeyID, "MacAlgorithm": "HMAC_SHA_256", "Message": message[:]})
		require.NoError(b, err)
		r, err := http.NewRequest(http.MethodPost, "http://"+s.Address+"/", bytes.NewReader(body))
		require.NoError(b, err)
		r.Header.Set("Content-Type", "application/x-amz-json-1.1")
		r.Header.Set("X-Amz-Target", "TrentService.GenerateMac")
		r.Header.Set("Accept-Encoding", "identity")
		hash := sha256.Sum256(body)
		require.NoError(b, signer.SignHTTP(context.Background(), credentials, r, fmt.Sprintf("%x", hash), "kms", region, now))
		var wire bytes.Buffer
		require.NoError(b, r.Write(&wire))
		all[i] = wire.Bytes()
	}
	return all
}

// connection sends requests and reads answers at the least cost: all answers of a server to these requests have the same
// length, so only the first one is parsed.
type connection struct {
	net.Conn
	answer []byte
	took   []time.Duration
}

var okStatus = []byte("HTTP/1.1 200 ")

func connect(b *testing.B, address string, request []byte) *connection {
	tcp, err := net.Dial("tcp", address)
	require.NoError(b, err)
	_, err = tcp.Write(request)
	require.NoError(b, err)
	var seen bytes.Buffer
	answer, err := http.ReadResponse(bufio.NewReader(io.TeeReader(tcp, &seen)), nil)
	require.NoError(b, err)
	body, err := io.ReadAll(answer.Body)
	require.NoError(b, err)
	require.Equal(b, http.StatusOK, answer.StatusCode)
	require.Equal(b, len(emptyAnswer), len(body), "the empty handler answers another number of bytes")
	return &connection{Conn: tcp, answer: make([]byte, seen.Len())}
}

// run sends n requests, one after the other, beginning with the one numbered first.
func (c *connection) run(all [][]byte, first, n int) error {
	for i := range n {
		began := time.Now()
		if _, err := c.Write(all[(first+i)%messages]); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, c.answer); err != nil {
			return err
		}
		if !bytes.HasPrefix(c.answer, okStatus) {
			return errors.New("the server refused a request, or the length of its answers is not constant")
		}
		c.took = append(c.took, time.Since(began))
	}
	return nil
}

// load is what one server is asked for, and what came of it.
type load struct {
	server      *child
	requests    [][]byte
	connections []*connection
	wall, cpu   time.Duration
}

func newLoad(b *testing.B, server *child, all [][]byte, connections int) *load {
	l := &load{server: server, requests: all}
	for range connections {
		c := connect(b, server.Address, all[0])
		b.Cleanup(func() { c.Close() })
		l.connections = append(l.connections, c)
	}
	return l
}

// turn sends n requests over all connections at once.
func (l *load) turn(b *testing.B, n int) {
	before, began := l.server.cpu(b), time.Now()
	var wg sync.WaitGroup
	for i, c := range l.connections {
		share := n / len(l.connections)
		if i < n%len(l.connections) {
			share++
		}
		wg.Go(func() {
			if err := c.run(l.requests, i*messages/len(l.connections), share); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	l.wall += time.Since(began)
	l.cpu += l.server.cpu(b) - before
}

// inTurns sends b.N requests to ours and as many to theirs, so that a change of the machine's pace hits both. What the benchmark itself
// times is ours.
func inTurns(b *testing.B, turns int, ours, theirs *load) {
	b.ResetTimer()
	for turn := range turns {
		n := b.N / turns
		if turn < b.N%turns {
			n++
		}
		ours.turn(b, n)
		b.StopTimer()
		theirs.turn(b, n)
		b.StartTimer()
	}
	b.StopTimer()
}

func (l *load) percentile(p int) float64 {
	var took []time.Duration
	for _, c := range l.connections {
		took = append(took, c.took...)
	}
	slices.Sort(took)
	return float64(took[(len(took)-1)*p/100].Nanoseconds()) / 1e3
}

// BenchmarkServer measures GenerateMac over loopback with signed requests, beside an empty handler of net/http. Servers
// and load share the machine's cores; the CPU time of the servers does not depend on how they share them.
func BenchmarkServer(b *testing.B) {
	api, empty := startChild(b, "api"), startChild(b, "empty")
	for _, connections := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("GenerateMac/32B/%d", connections), func(b *testing.B) {
			all := requests(b, api.served)
			ours, least := newLoad(b, api, all, connections), newLoad(b, empty, all, connections)
			inTurns(b, 8, ours, least)
			report(b, ours, least)
		})
	}
}

func report(b *testing.B, ours, least *load) {
	n := float64(b.N)
	b.ReportMetric(n/ours.wall.Seconds(), "req/s")
	b.ReportMetric(ours.percentile(50), "p50-us")
	b.ReportMetric(ours.percentile(99), "p99-us")
	b.ReportMetric(float64(ours.cpu.Microseconds())/n, "cpu-us/req")
	b.ReportMetric(100*float64(least.wall)/float64(ours.wall), "%-of-empty")
	b.ReportMetric(float64(ours.cpu)/float64(max(least.cpu, 1)), "x-cpu-of-empty")
	b.ReportMetric(ours.percentile(99)/max(least.percentile(99), 1), "x-p99-of-empty")
	b.ReportMetric(float64(least.cpu.Microseconds())/n, "empty-cpu-us/req")
}
