package server

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/softhsm"
)

func TestHealthPages(t *testing.T) {
	broken := &faultyStore{}
	f := newFixture(t, func(cfg *pkcs11kms.Config, _ *Options) {
		broken.Store = cfg.Store
		cfg.Store = broken
	})
	r := f.run(t, Listen{})
	require.Equal(t, "ok\n", f.get(t, r.admin+"/livez").body)
	require.Equal(t, "ready\n", f.get(t, r.admin+"/healthz").body)
	require.Equal(t, "ready\n", f.get(t, r.admin+"/readyz").body)

	broken.fail(errors.New("disk I/O error"))
	var red reply
	require.Eventually(t, func() bool {
		red = f.get(t, r.admin+"/readyz")
		return red.StatusCode == http.StatusServiceUnavailable
	}, patience, 1e6)
	require.Equal(t, "not ready: store: store-failed: disk I/O error\n", red.body)
	require.Equal(t, 503, f.get(t, r.admin+"/healthz").StatusCode, "healthz exercises what a request does")
	require.Equal(t, 200, f.get(t, r.admin+"/livez").StatusCode, "the process itself is well")
	require.Contains(t, f.log.String(), `"msg":"not ready"`)
	broken.fail(nil)
	require.Eventually(t, func() bool { return f.get(t, r.admin+"/readyz").StatusCode == http.StatusOK }, patience, 1e6)

	for path, status := range map[string]int{"/": 404, "/keys": 404, "/healthz/x": 404} {
		require.Equal(t, status, f.get(t, r.admin+path).StatusCode, path)
	}
	post, err := http.NewRequest(http.MethodPost, r.admin+"/readyz", nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusMethodNotAllowed, f.send(t, post).StatusCode)
	require.Contains(t, f.get(t, r.url+"/healthz").body, "UnknownOperationException", "the API listener has no such pages")
}

// A server whose token has gone is red, and its answers ask the client to try again.
func TestReadyzWithoutToken(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	key := f.mustCreate(t, types.KeySpecHmac256)
	body := `{"KeyId":"` + *key.KeyId + `","MacAlgorithm":"HMAC_SHA_256","Message":"AAAA"}`
	require.Equal(t, 200, f.send(t, f.request(t, r.url, "GenerateMac", body)).StatusCode)
	require.Equal(t, 200, f.get(t, r.admin+"/readyz").StatusCode)
	f.loseToken(t)
	require.Eventually(t, func() bool { return f.get(t, r.admin+"/readyz").StatusCode == 503 }, patience, 1e6)
	got := f.send(t, f.request(t, r.url, "GenerateMac", body))
	// 503 when the signing key has to be made anew, which the token does: nobody is authenticated then.
	require.Contains(t, []int{500, 503}, got.StatusCode)
	require.Regexp(t, `"(ServiceUnavailableException|KeyUnavailableException)"`, got.body)
}

// loseToken takes the module and the token's files away. The files are back before the Bridge closes.
func (f *fixture) loseToken(t *testing.T) {
	_, pinFile, _ := strings.Cut(f.cfg.Regions[testRegion].Token, "pin-source=file:")
	tokens := filepath.Join(filepath.Dir(pinFile), "tokens")
	require.NoError(t, os.Rename(tokens, tokens+".away"))
	t.Cleanup(func() { assert.NoError(t, os.Rename(tokens+".away", tokens)) })
	path, err := softhsm.Find()
	require.NoError(t, err)
	module := pkcs11.New(path)
	require.NotNil(t, module)
	require.NoError(t, module.Finalize())
}

// Probes are answered from a check at most a second old, one check at a time.
func TestReadinessIsCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var checks atomic.Int64
		var failing error
		r := newReadiness(func(ctx context.Context) error {
			checks.Add(1)
			time.Sleep(100 * time.Millisecond) // of the bubble's clock
			return errors.Join(failing, ctx.Err())
		}, slog.New(slog.DiscardHandler))
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { assert.NoError(t, r.get(t.Context())) })
		}
		wg.Wait()
		require.EqualValues(t, 1, checks.Load())
		failing = errors.New("gone")
		time.Sleep(readyAge)
		require.NoError(t, r.get(t.Context()), "exactly as old as may be")
		time.Sleep(time.Nanosecond)
		require.ErrorIs(t, r.get(t.Context()), failing)
		require.EqualValues(t, 2, checks.Load())
		failing = nil
		require.Error(t, r.get(t.Context()), "a failure is remembered too")
		time.Sleep(2 * readyAge)
		gone, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		require.NoError(t, r.get(gone), "a check goes on when its asker has gone: others wait for it")
	})
}

// A check that hangs is given up.
func TestReadinessPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReadiness(func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}, slog.New(slog.DiscardHandler))
		began := time.Now()
		require.ErrorIs(t, r.get(t.Context()), context.DeadlineExceeded)
		require.Equal(t, readyTimeout, time.Since(began))
	})
}

var sample = regexp.MustCompile(`^([a-z_:][a-z0-9_:]*(?:\{(?:[a-z_]+="[^"\\]*",?)*\})?) (\S+)$`)

// scrape returns the samples of /metrics by name and labels.
func scrape(t *testing.T, f *fixture, r *running) map[string]float64 {
	t.Helper()
	page := f.get(t, r.admin+"/metrics")
	require.Equal(t, 200, page.StatusCode)
	require.Contains(t, page.Header.Get("Content-Type"), "text/plain")
	series := map[string]float64{}
	for lines := bufio.NewScanner(strings.NewReader(page.body)); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		m := sample.FindStringSubmatch(lines.Text())
		require.NotNil(t, m, lines.Text())
		value, err := strconv.ParseFloat(m[2], 64)
		require.NoError(t, err)
		require.NotContains(t, series, m[1])
		series[m[1]] = value
	}
	return series
}

func TestMetrics(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	f.mustCreate(t, types.KeySpecHmac256)
	f.mustCreate(t, types.KeySpecHmac512)
	for range 3 {
		f.send(t, f.request(t, r.url, "ListKeys", "{}"))
	}
	f.send(t, f.request(t, r.url, "DescribeKey", "{}"))
	for _, name := range []string{"Made\nup", "B", "C", "D"} { // what clients make up is no label
		req := f.request(t, r.url, "ListKeys", "{}")
		req.Header.Set("X-Amz-Target", targetPrefix+strings.ReplaceAll(name, "\n", " "))
		f.send(t, req)
	}
	f.lines(t, 8)
	series := scrape(t, f, r)
	for name, want := range map[string]float64{
		`pkcs11kms_requests_total{operation="ListKeys",result="OK"}`:                       3,
		`pkcs11kms_requests_total{operation="DescribeKey",result="ValidationException"}`:   1,
		`pkcs11kms_requests_total{operation="unknown",result="UnknownOperationException"}`: 4,
		`pkcs11kms_request_duration_seconds_count{operation="ListKeys"}`:                   3,
		`pkcs11kms_request_duration_seconds_bucket{operation="ListKeys",le="+Inf"}`:        3,
		`pkcs11kms_sessions{region="us-west-2",state="size"}`:                              32,
		`pkcs11kms_sessions{region="us-west-2",state="in_use"}`:                            0,
		`pkcs11kms_cached_records_displaced_total`:                                         0,
		`pkcs11kms_sessions{region="us-west-2",state="waiting"}`:                           0,
		`pkcs11kms_sessions{region="us-west-2",state="lost"}`:                              0,
		`pkcs11kms_keys{region="us-west-2"}`:                                               2,
	} {
		require.Contains(t, series, name)
		require.Equal(t, want, series[name], name)
	}
	require.Positive(t, series[`pkcs11kms_sessions{region="us-west-2",state="open"}`])
	require.Contains(t, series, `pkcs11kms_cached_records`)
	for series[`pkcs11kms_cached_records`] == 0 { // a look at the store may just have dropped what this test has changed
		f.send(t, f.request(t, r.url, "ListKeys", "{}"))
		series = scrape(t, f, r)
	}
	for _, name := range []string{"go_goroutines", "go_threads", "process_open_fds"} {
		require.Positive(t, series[name], name)
	}
	for _, class := range []string{"busy", "gone", "missing", "hung", "other"} {
		require.Contains(t, series, `pkcs11kms_token_errors_total{class="`+class+`"}`)
	}
	for name := range series {
		require.NotContains(t, name, "Made")
	}
}

// A scrape tells what it can when the store does not answer.
func TestMetricsWithoutStore(t *testing.T) {
	broken := &faultyStore{}
	f := newFixture(t, func(cfg *pkcs11kms.Config, _ *Options) {
		broken.Store = cfg.Store
		cfg.Store = broken
	})
	r := f.run(t, Listen{})
	broken.fail(errors.New("disk I/O error"))
	series := scrape(t, f, r)
	require.NotContains(t, series, `pkcs11kms_keys{region="us-west-2"}`)
	require.Contains(t, series, `pkcs11kms_sessions{region="us-west-2",state="open"}`)
}

// What a log has dropped is told where the log can drop.
func TestMetricOfDroppedLogLines(t *testing.T) {
	f := newFixture(t, nil)
	for want, o := range map[string]Options{"pkcs11kms_log_lines_dropped_total 7\n": {LogDropped: func() int64 { return 7 }}, "": {}} {
		page := httptest.NewRecorder()
		New(f.bridge, o).Admin().ServeHTTP(page, httptest.NewRequest(http.MethodGet, "http://127.0.0.1/metrics", nil))
		require.Equal(t, http.StatusOK, page.Code)
		require.Equal(t, want != "", strings.Contains(page.Body.String(), "log_lines_dropped"))
		require.Contains(t, page.Body.String(), want)
	}
}
