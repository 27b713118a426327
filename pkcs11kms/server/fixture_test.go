package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/softhsm"
)

const (
	testAccount = "111122223333"
	testRegion  = "us-west-2"
)

// patience bounds every wait for something that must happen, however slow the machine is.
const patience = 30 * time.Second

// fixture is a Bridge on a real token with an access key, and a Server on it.
type fixture struct {
	*Server
	cfg    pkcs11kms.Config
	key    iam.AccessKey
	pin    string
	log    *logBuffer
	client *http.Client
}

// newFixture makes a Server whose Bridge change may configure. Its log can be read.
func newFixture(t testing.TB, change func(*pkcs11kms.Config, *Options)) *fixture {
	t.Helper()
	tok := softhsm.NewToken(t)
	f := &fixture{pin: tok.PIN(), log: &logBuffer{}, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	logger := slog.New(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f.cfg = pkcs11kms.Config{
		Audit:         audit.Discard,
		AccountID:     testAccount,
		DefaultRegion: testRegion,
		Regions:       map[string]pkcs11kms.Region{testRegion: {Token: tok.URI(tok.PINFile)}},
		Store:         newStore(t),
		Logger:        logger,
		Quotas:        pkcs11kms.Quotas{NoRates: true}, // tests make requests faster than any account may
	}
	options := Options{Logger: logger}
	if change != nil {
		change(&f.cfg, &options)
	}
	bridge, err := pkcs11kms.Open(t.Context(), f.cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		f.client.CloseIdleConnections()
		assert.NoError(t, bridge.Close())
	})
	f.key, err = bridge.IAM().As(bridge.Root()).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	f.Server = New(bridge, options)
	return f
}

func newStore(t testing.TB) keystore.Store {
	path := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, sqlite.Create(path))
	store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	return store
}

// running is a Server in Run.
type running struct {
	url, admin string
	adminAddr  net.Addr
	stop       context.CancelFunc
	ended      chan struct{} // closed when Run has returned err
	err        error
}

// run begins Run on loopback, or as l says. The test fails unless Run ends without error, at the latest with the test.
func (f *fixture) run(t testing.TB, l Listen) *running {
	t.Helper()
	if l.API == "" {
		l.API = "127.0.0.1:0"
	}
	if l.Admin == "" {
		l.Admin = "127.0.0.1:0"
	}
	scheme := "http://"
	if l.Certificate != nil {
		scheme = "https://"
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	r := &running{stop: stop, ended: make(chan struct{})}
	ready := make(chan struct{})
	l.Ready = func(api, admin net.Addr) {
		r.url, r.admin, r.adminAddr = scheme+api.String(), "http://"+admin.String(), admin
		close(ready)
	}
	go func() {
		defer close(r.ended)
		r.err = f.Run(ctx, l)
	}()
	select {
	case <-ready:
	case <-r.ended:
		stop()
		require.NoError(t, r.err)
	}
	t.Cleanup(func() {
		f.client.CloseIdleConnections()
		stop()
		<-r.ended
		assert.NoError(t, r.err)
	})
	return r
}

// sdk is a client of the AWS SDK that tries once.
func (f *fixture) sdk(r *running) *kms.Client {
	return kms.New(kms.Options{
		Region: testRegion, BaseEndpoint: aws.String(r.url), HTTPClient: f.client, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(f.key.ID, f.key.Secret, ""),
	})
}

// library is the root's client in process.
func (f *fixture) library(t testing.TB) *pkcs11kms.Client {
	c, err := f.bridge.Client("")
	require.NoError(t, err)
	return c.As(f.bridge.Root())
}

func (f *fixture) mustCreate(t testing.TB, spec types.KeySpec) *types.KeyMetadata {
	out, err := f.library(t).CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	require.NoError(t, err)
	return out.KeyMetadata
}

// request makes a signed request as an SDK would send it.
func (f *fixture) request(t testing.TB, url, operation, body string) *http.Request {
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", keyManagement.codec.contentType)
	r.Header.Set("X-Amz-Target", targetPrefix+operation)
	f.sign(t, r, body, signing{})
	return r
}

// signing says how to sign; the zero value signs rightly.
type signing struct {
	id, secret, token, region, service string
	at                                 time.Time
}

func (f *fixture) sign(t testing.TB, r *http.Request, body string, s signing) {
	who := aws.Credentials{AccessKeyID: either(s.id, f.key.ID), SecretAccessKey: either(s.secret, f.key.Secret), SessionToken: s.token}
	if s.at.IsZero() {
		s.at = time.Now()
	}
	sum := sha256.Sum256([]byte(body))
	err := v4.NewSigner().SignHTTP(context.Background(), who, r, hex.EncodeToString(sum[:]), either(s.service, "kms"),
		either(s.region, testRegion), s.at)
	require.NoError(t, err)
}

func either(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// reply is an answer that has been read.
type reply struct {
	*http.Response
	body string
}

func (f *fixture) send(t testing.TB, r *http.Request) reply {
	t.Helper()
	res, err := f.client.Do(r)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return reply{res, string(body)}
}

// get asks the admin pages.
func (f *fixture) get(t testing.TB, url string) reply {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	require.NoError(t, err)
	return f.send(t, r)
}

// logBuffer is a log that tests read while it is written. Safe for concurrent use.
type logBuffer struct {
	discard bool // set before use

	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	if l.discard {
		return len(p), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
}

// requests returns the lines about requests.
func (l *logBuffer) requests() []string {
	var lines []string
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, `"msg":"request"`) {
			lines = append(lines, line)
		}
	}
	return lines
}
