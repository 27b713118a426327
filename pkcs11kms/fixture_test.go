package pkcs11kms

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

const (
	testAccount = "111122223333"
	testRegion  = "us-west-2"
	unknownID   = "1234abcd-12ab-34cd-56ef-1234567890ab"
)

// newConfig makes a token and an empty store for one test.
func newConfig(t testing.TB) testConfig {
	cfg, _ := newConfigAndToken(t)
	return cfg
}

func newConfigAndToken(t testing.TB) (testConfig, softhsm.TestToken) {
	tok := softhsm.NewToken(t)
	path := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, sqlite.Create(path))
	return testConfig{StorePath: path, Config: Config{
		Audit:         audit.Discard,
		AccountID:     testAccount,
		DefaultRegion: testRegion,
		Regions:       map[string]Region{testRegion: {Token: tok.URI(tok.PINFile)}},
		Quotas:        Quotas{NoRates: true},
		Logger:        slog.New(slog.NewTextHandler(logTo{t}, nil)),
	}}, tok
}

// testConfig is a Config whose Bridges open the store anew, as those of several processes do. Where Store is set, all work on
// that one, and the test closes it.
type testConfig struct {
	Config
	StorePath string
}

// withStore returns the Config of one Bridge.
func (c testConfig) withStore(ctx context.Context) (ready Config, err error) {
	ready = c.Config
	if ready.Store == nil {
		ready.CloseStore = true
		ready.Store, err = sqlite.Open(ctx, c.StorePath, sqlite.Options{Logger: c.Logger})
	}
	return ready, err
}

func openAt(ctx context.Context, cfg testConfig) (*Bridge, error) {
	ready, err := cfg.withStore(ctx)
	if err != nil {
		return nil, err
	}
	return Open(ctx, ready)
}

func newAt(ctx context.Context, cfg testConfig) (*Client, error) {
	ready, err := cfg.withStore(ctx)
	if err != nil {
		return nil, err
	}
	return New(ctx, ready)
}

// logTo shows a log only where the test fails.
type logTo struct{ t testing.TB }

func (l logTo) Write(p []byte) (int, error) {
	l.t.Log(string(p))
	return len(p), nil
}

// openClient opens a client that is closed at the end of the test, and sees to it that no session is left in use.
func openClient(t testing.TB, cfg testConfig) *Client {
	c, err := newAt(t.Context(), cfg)
	require.NoError(t, err)
	<-c.bridge.core.Keys.Settled() // tests set the clock, which no first pass may see half-way
	t.Cleanup(func() {
		defer func() { assert.NoError(t, c.Close()) }() // also where sessions are missing
		requireSessionsBack(t, c)
	})
	return c
}

func newClient(t testing.TB) *Client { return openClient(t, newConfig(t)) }

func mustCreate(t testing.TB, c *Client, spec types.KeySpec) *types.KeyMetadata {
	usage := types.KeyUsageTypeGenerateVerifyMac
	if keyring.MACSpecOf(spec) == nil {
		usage = types.KeyUsageTypeSignVerify
	}
	out, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
	require.NoError(t, err)
	return out.KeyMetadata
}

func generate(ctx context.Context, c *Client, keyID *string, message []byte) ([]byte, error) {
	out, err := c.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: keyID, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: message})
	if err != nil {
		return nil, err
	}
	return out.Mac, nil
}

func verify(ctx context.Context, c *Client, keyID *string, message, mac []byte) error {
	_, err := c.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: keyID, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: message, Mac: mac})
	return err
}

// requireAPIError asserts code and message; the message "" means that there is none at all.
func requireAPIError(t testing.TB, err error, code, message string) {
	t.Helper()
	require.Equal(t, message, requireCode(t, err, code).ErrorMessage())
}

// requireCode asserts the code alone, for tests that are not about the message.
func requireCode(t testing.TB, err error, code string) smithy.APIError {
	t.Helper()
	var api smithy.APIError
	require.ErrorAs(t, err, &api)
	require.Equal(t, code, api.ErrorCode(), err)
	return api
}

func ptr(s string) *string { return aws.String(s) }

func errorAs[T error](err error, target *T) bool { return errors.As(err, target) }

// requireSessionsBack asserts that the pool is whole. A session with an operation on it is closed by its own goroutine.
func requireSessionsBack(t testing.TB, c *Client) {
	require.Eventually(t, func() bool { return c.region.Token.Stats().InUse == 0 }, 10*time.Second, time.Millisecond,
		"sessions in use after the test")
}

func storedKey(t *testing.T, c *Client, id *string) (keystore.Key, uint64) {
	t.Helper()
	rec, err := c.bridge.core.Store.Get(t.Context(), keystore.KeyRef(testRegion, testAccount, *id))
	require.NoError(t, err)
	record, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	return record, rec.Version
}

func put(t *testing.T, c *Client, change keystore.Change) {
	t.Helper()
	_, err := c.bridge.core.Cache.Commit(t.Context(), change)
	require.NoError(t, err)
}

// asRoot administrates users, roles and access keys as the account's root.
func asRoot(b *Bridge) *iam.Client { return b.IAM().As(b.Root()) }

// objectsOf are the objects of a token, but for the binding key of its region, which every token has.
func objectsOf(t *testing.T, tok *token.Token) []token.Object {
	t.Helper()
	all, err := tok.Objects(t.Context())
	require.NoError(t, err)
	return slices.DeleteFunc(all, func(o token.Object) bool { return o.Label == keyring.BindingKey })
}
