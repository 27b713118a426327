package kmstest_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
	"github.com/pkcs11kms/bridge/pkcs11kms/server"
)

var (
	_ kmstest.TB         = (testing.TB)(nil)
	_ kmstest.KeyCreator = (*kms.Client)(nil)
	_ kmstest.KeyCreator = (*pkcs11kms.Client)(nil)
)

// macs is what the two faces have in common here.
type macs interface {
	kmstest.KeyCreator
	ListKeys(context.Context, *kms.ListKeysInput, ...func(*kms.Options)) (*kms.ListKeysOutput, error)
	GenerateMac(context.Context, *kms.GenerateMacInput, ...func(*kms.Options)) (*kms.GenerateMacOutput, error)
	VerifyMac(context.Context, *kms.VerifyMacInput, ...func(*kms.Options)) (*kms.VerifyMacOutput, error)
}

// requireWorks makes one key in an empty account and uses it.
func requireWorks(t *testing.T, api macs) *types.KeyMetadata {
	t.Helper()
	key := kmstest.MustCreateKey(t, api, types.KeySpecHmac384)
	message := []byte(t.Name())
	made, err := api.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: key.KeyId, MacAlgorithm: "HMAC_SHA_384", Message: message})
	require.NoError(t, err)
	verified, err := api.VerifyMac(t.Context(),
		&kms.VerifyMacInput{KeyId: key.Arn, MacAlgorithm: "HMAC_SHA_384", Message: message, Mac: made.Mac})
	require.NoError(t, err)
	require.True(t, verified.MacValid)
	list, err := api.ListKeys(t.Context(), &kms.ListKeysInput{})
	require.NoError(t, err)
	require.Len(t, list.Keys, 1, "each test has a store of its own")
	return key
}

// Servers and clients of parallel tests come and go at the same time, on one module.
func TestParallel(t *testing.T) {
	for i := range 4 {
		t.Run(fmt.Sprint("server ", i), func(t *testing.T) {
			t.Parallel()
			srv := kmstest.NewServer(t)
			key := requireWorks(t, srv.Client())
			inProcess, err := srv.Bridge().Client(srv.Region)
			require.NoError(t, err)
			_, err = inProcess.As(srv.Bridge().Root()).DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
			require.NoError(t, err)
		})
		t.Run(fmt.Sprint("client ", i), func(t *testing.T) {
			t.Parallel()
			requireWorks(t, kmstest.NewClient(t))
		})
	}
}

func TestOptions(t *testing.T) {
	var log bytes.Buffer
	clock := func() time.Time { return time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC) }
	srv := kmstest.NewServer(t,
		kmstest.Region("ap-south-1"),
		kmstest.Configure(func(c *pkcs11kms.Config) { c.AccountID, c.Now = "111122223333", clock }),
		kmstest.ConfigureServer(func(o *server.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) }))
	key := requireWorks(t, srv.Client())
	require.Equal(t, "arn:aws:kms:ap-south-1:111122223333:key/"+*key.KeyId, *key.Arn)
	require.True(t, key.CreationDate.Equal(clock()))
	require.Equal(t, "ap-south-1", srv.Region)
	require.NoError(t, srv.Close())
	require.Contains(t, log.String(), "operation=CreateKey")
}

// TestRates: what a test does in a moment is over every rate of AWS KMS, which hold only for tests that ask for them.
func TestRates(t *testing.T) {
	const requests = 50
	stopped := func() time.Time { return time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC) }
	enable := func(opts ...kmstest.Option) (err error) {
		c := kmstest.NewClient(t, append(opts, kmstest.Configure(func(c *pkcs11kms.Config) { c.Now = stopped }))...)
		key := kmstest.MustCreateKey(t, c, types.KeySpecHmac256)
		for range requests {
			if _, err = c.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: key.KeyId}); err != nil {
				return err
			}
		}
		return nil
	}
	require.NoError(t, enable())
	require.ErrorContains(t, enable(kmstest.Configure(func(c *pkcs11kms.Config) { c.Quotas.NoRates = false })), "ThrottlingException")
}

func TestStoreOfTheCaller(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own.db")
	require.NoError(t, sqlite.Create(path))
	store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	c := kmstest.NewClient(t, kmstest.Configure(func(c *pkcs11kms.Config) { c.Store = store }))
	key := requireWorks(t, c)
	_, err = store.Get(t.Context(), keystore.KeyRef(c.Region(), pkcs11kms.DefaultAccountID, *key.KeyId))
	require.NoError(t, err)
}

func TestAdminPages(t *testing.T) {
	srv := kmstest.NewServer(t)
	for _, page := range []string{"/healthz", "/readyz", "/metrics"} {
		answer, err := http.Get(srv.AdminURL + page)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, http.StatusOK, answer.StatusCode, page)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestEnv(t *testing.T) {
	srv := kmstest.NewServer(t)
	values := map[string]string{}
	for _, pair := range srv.Env() {
		name, value, _ := strings.Cut(pair, "=")
		values[name] = value
	}
	require.Equal(t, srv.URL, values["AWS_ENDPOINT_URL_KMS"])
	require.Equal(t, srv.AccessKeyID, values["AWS_ACCESS_KEY_ID"])
	require.True(t, srv.SecretAccessKey() == values["AWS_SECRET_ACCESS_KEY"] && len(srv.SecretAccessKey()) == 40)
	require.Equal(t, srv.Region, values["AWS_REGION"])
	require.NotContains(t, fmt.Sprintf("%+v", srv), srv.SecretAccessKey(), "an assertion that prints the struct")
}

// What a test began ends with it: the port, the files and the goroutines.
func TestNothingIsLeft(t *testing.T) {
	none := func() bool { return len(goroutines()) == 0 }
	require.Eventually(t, none, 10*time.Second, time.Millisecond, "of earlier tests")
	var url, home string
	t.Run("server", func(t *testing.T) {
		srv := kmstest.NewServer(t, kmstest.Configure(func(c *pkcs11kms.Config) { home = pinFile(c) }))
		requireWorks(t, srv.Client())
		url = srv.URL
		require.FileExists(t, home)
		require.NotEmpty(t, goroutines())
	})
	_, err := http.Get(url)
	require.Error(t, err, "nobody listens")
	require.NoFileExists(t, home)
	require.Eventually(t, none, 10*time.Second, time.Millisecond)
}

var ours = regexp.MustCompile(`bridge/(pkcs11kms|pkcs11kms/server|pkcs11kms/internal/\w+|pkcs11kms/kmstest|keystore/\w+)\.|` +
	`net/http\.\(\*(conn|persistConn|Server)\)`)

// goroutines returns the stacks of those that run code of ours, or of HTTP, for this process.
func goroutines() []string {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	var found []string
	for stack := range strings.SplitSeq(string(all), "\n\n") {
		if ours.MatchString(stack) {
			found = append(found, stack)
		}
	}
	return found
}

func pinFile(c *pkcs11kms.Config) string {
	_, path, _ := strings.Cut(c.Regions[c.DefaultRegion].Token, "pin-source=file:")
	return path
}

func TestCloseEarly(t *testing.T) {
	srv := kmstest.NewServer(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { assert.NoError(t, srv.Close()) })
	}
	wg.Wait()
	_, err := srv.Client().ListKeys(t.Context(), nil, func(o *kms.Options) { o.RetryMaxAttempts = 1 })
	require.Error(t, err)
	require.NoError(t, srv.Bridge().Health(t.Context()), "the Bridge stays open")
}

// failed is what a failing TB panics with.
type failed string

// strictTB is a TB whose failures can be looked at.
type strictTB struct{ testing.TB }

func (strictTB) Fatalf(format string, args ...any) { panic(failed(fmt.Sprintf(format, args...))) }

func TestFailuresEndTheTest(t *testing.T) {
	failure := func(f func()) (text string) {
		defer func() { text = string(recover().(failed)) }()
		f()
		return ""
	}
	require.Contains(t, failure(func() {
		kmstest.NewServer(strictTB{t}, kmstest.Region("nowhere"))
	}), `region name "nowhere"`)
	require.Contains(t, failure(func() {
		kmstest.NewClient(strictTB{t}, kmstest.Configure(func(c *pkcs11kms.Config) { c.Regions = nil }))
	}), "no region is configured")
	c := kmstest.NewClient(t)
	require.Contains(t, failure(func() { kmstest.MustCreateKey(strictTB{t}, c, types.KeySpecSymmetricDefault) }), "ValidationException")
	require.Equal(t, types.KeyUsageTypeSignVerify, kmstest.MustCreateKey(t, c, types.KeySpecEccNistP256).KeyUsage)
	requireWorks(t, kmstest.NewClient(t)) // a failure gives the lock back
}
