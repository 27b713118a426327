package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestDurationsOfTheJSONLogHaveAUnit: whoever reads a line sees how long something took, wherever in the line it stands.
func TestDurationsOfTheJSONLogHaveAUnit(t *testing.T) {
	var out bytes.Buffer
	log, queue, err := (&app{stderr: &out}).newLog(logJSON, "info")
	require.NoError(t, err)
	log.With("with", 2*time.Second).LogAttrs(context.Background(), slog.LevelInfo, "m", slog.Duration("took", 1500*time.Microsecond),
		slog.Any("any", time.Minute), slog.Group("g", slog.Duration("in", time.Nanosecond)))
	queue.end(time.Hour)
	require.Contains(t, out.String(), `"msg":"m","with":"2s","took":"1.5ms","any":"1m0s","g":{"in":"1ns"}`)
	out.Reset()
	text, queue, err := (&app{stderr: &out}).newLog(logText, "info")
	require.NoError(t, err)
	text.Info("m", "took", 1500*time.Microsecond)
	queue.end(time.Hour)
	require.Contains(t, out.String(), "took=1.5ms")

	d := newProgram(t).serve(append(anyPort, "--log-format", "json")...)
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	_, _ = get(t, client, d.url)
	_, err = d.stop(syscall.SIGTERM)
	require.NoError(t, err)
	found := false
	for line := range strings.Lines(d.log.String()) {
		var request struct{ Msg, Took string }
		require.NoError(t, json.Unmarshal([]byte(line), &request), line)
		if request.Msg == "request" {
			took, err := time.ParseDuration(request.Took)
			require.NoError(t, err)
			require.Positive(t, took)
			found = true
		}
	}
	require.True(t, found, d.log.String())
}

// A log that nobody reads makes no request wait, and the metric and the log itself tell what was lost.
func TestServerWithALogThatIsNotRead(t *testing.T) {
	to := newStuck()
	log, queue, err := (&app{stderr: to}).newLog(logJSON, "info")
	require.NoError(t, err)
	log.Info("held")
	<-to.reached
	for range maxLogLines + 7 {
		log.Info("a line")
	}
	require.EqualValues(t, 7, queue.Dropped())
	close(to.gate)
	queue.end(time.Hour)
	lines := to.lines()
	var last struct {
		Level, Msg string
		Lines      int
	}
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last))
	require.Equal(t, 7, last.Lines)
	require.Equal(t, "ERROR", last.Level)
	require.Contains(t, last.Msg, "dropped")
}

// TestConnectionsDoNotWaitForTheLog: whoever reads the log of a server stands still, and every request is answered all the same, one after
// the other on one connection, which a line that waits would hold. What there is no room for is counted.
func TestConnectionsDoNotWaitForTheLog(t *testing.T) {
	p := newProgram(t)
	log := filepath.Join(p.dir, "log")
	require.NoError(t, unix.Mkfifo(log, 0o600))
	unread, err := os.OpenFile(log, os.O_RDWR, 0)
	require.NoError(t, err)
	defer unread.Close()
	_, err = unix.FcntlInt(unread.Fd(), unix.F_SETPIPE_SZ, 4096)
	require.NoError(t, err)
	key := p.accessKey()
	p.configure("quotas: {rates: off}\n")
	d, err := launch(p.command("sh", append([]string{"-c", `exec pkcs11kms serve "$@" 2>log`, "sh"}, anyPort...)...))
	require.NoError(t, err)
	defer func() {
		_, err := d.stop(os.Kill) // the end of its log would wait
		require.NoError(t, err)
	}()
	request := signedRequest(t, d.url, key, "DescribeKey", `{"KeyId":"`+p.key+`"}`)
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	answers := bufio.NewReader(conn)
	dropped := regexp.MustCompile(`(?m)^pkcs11kms_log_lines_dropped_total [1-9]`)
	for range 100 {
		for range 500 {
			_, err := conn.Write(request)
			require.NoError(t, err)
			answer, err := http.ReadResponse(answers, nil)
			require.NoError(t, err)
			body, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, answer.StatusCode, "%s", body)
		}
		if _, metrics := get(t, http.DefaultClient, d.admin+"/metrics"); dropped.MatchString(metrics) {
			return
		}
	}
	require.Fail(t, "no line was dropped")
}

// signedRequest returns what a client sends for an operation, which may be sent again for some minutes.
func signedRequest(t *testing.T, url string, key devAccessKey, operation, body string) []byte {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "TrentService."+operation)
	sum := sha256.Sum256([]byte(body))
	require.NoError(t, v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: key.id, SecretAccessKey: key.secret}, r,
		hex.EncodeToString(sum[:]), "kms", "us-east-1", time.Now()))
	var sent bytes.Buffer
	require.NoError(t, r.Write(&sent))
	return sent.Bytes()
}
