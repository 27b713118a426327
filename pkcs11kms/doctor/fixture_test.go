package doctor

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
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
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/core"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/refcount"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/softhsm"
)

const (
	testAccount = "111122223333"
	testRegion  = "us-west-2"
	unknownID   = "1234abcd-12ab-34cd-56ef-1234567890ab"
)

// newConfig makes a token and an empty store for one test.
func newConfig(t *testing.T) statedir.Config {
	cfg, _ := newConfigAndToken(t)
	return cfg
}

func newConfigAndToken(t *testing.T) (statedir.Config, softhsm.TestToken) {
	tok := softhsm.NewToken(t)
	path := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, sqlite.Create(path))
	return statedir.Config{StorePath: path, Config: pkcs11kms.Config{
		AccountID:     testAccount,
		DefaultRegion: testRegion,
		Regions:       map[string]pkcs11kms.Region{testRegion: {Token: tok.URI(tok.PINFile)}},
		Quotas:        pkcs11kms.Quotas{NoRates: true},
		Logger:        slog.New(slog.NewTextHandler(t.Output(), nil)),
		Audit:         audit.Discard,
	}}, tok
}

// client is a client of the account's root with what is behind it.
type client struct {
	*pkcs11kms.Client
	bridge *pkcs11kms.Bridge
	inside *core.Core
}

func (c *client) token() *token.Token { return c.inside.Keys.Region(testRegion).Token }

func openBridge(ctx context.Context, cfg statedir.Config) (*pkcs11kms.Bridge, error) {
	if cfg.Store != nil {
		return pkcs11kms.Open(ctx, cfg.Config)
	}
	return statedir.Open(ctx, cfg)
}

// openClient opens a client that is closed at the end of the test, if not before.
func openClient(t *testing.T, cfg statedir.Config) *client {
	t.Helper()
	b, err := openBridge(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) }) // closing twice does nothing
	c, err := b.Client(testRegion)
	require.NoError(t, err)
	return &client{c.As(b.Root()), b, b.Core()}
}

func newClient(t *testing.T) *client { return openClient(t, newConfig(t)) }

// examine is Examine of a store at its path, or of the one that is given, which stays open.
func examine(ctx context.Context, cfg statedir.Config) *Report {
	if cfg.Store != nil {
		return Examine(ctx, cfg.Config, "store", func(context.Context) (keystore.Store, error) { return unclosed{cfg.Store}, nil })
	}
	return Examine(ctx, cfg.Config, cfg.StorePath, cfg.OpenStore)
}

type unclosed struct{ keystore.Store }

func (unclosed) Close() error { return nil }

// hookedStore is a real store in front of which faults can be put.
type hookedStore struct {
	keystore.Store
	mu            sync.Mutex                    // guards the hooks
	before, after func([]keystore.Change) error // an error is the answer; before: and nothing is done
	got           func(keystore.Ref) error      // after a Get: an error is the answer
}

func (s *hookedStore) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	rec, err := s.Store.Get(ctx, ref)
	s.mu.Lock()
	got := s.got
	s.mu.Unlock()
	if err == nil && got != nil {
		err = got(ref)
	}
	return rec, err
}

// onGet sets the hook of Get; nil takes it away.
func (s *hookedStore) onGet(got func(keystore.Ref) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = got
}

func (s *hookedStore) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	s.mu.Lock()
	before, after := s.before, s.after
	s.mu.Unlock()
	if before != nil {
		if err := before(changes); err != nil {
			return 0, err
		}
	}
	version, err := s.Store.Commit(ctx, changes...)
	if err == nil && after != nil {
		err = after(changes)
	}
	return version, err
}

func (s *hookedStore) hook(before, after func([]keystore.Change) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

// withFaults is a client whose store can be made to fail; cfg opens it by its path.
func withFaults(t *testing.T) (c *client, store *hookedStore, cfg statedir.Config) {
	cfg = newConfig(t)
	store = &hookedStore{Store: openedStore(t, cfg.StorePath)}
	faulty := cfg
	faulty.Store, faulty.StorePath = store, ""
	return openClient(t, faulty), store, cfg
}

func openedStore(t *testing.T, path string) keystore.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

var errDisk = errors.New("the disk is full")

// failWhen fails commits that put a key into the state.
func failWhen(state keystore.KeyState) func([]keystore.Change) error {
	return func(changes []keystore.Change) error {
		for _, change := range changes {
			record, err := keystore.DecodeKey(keystore.Record{Ref: change.Ref, Value: change.Value})
			if err == nil && record.State == state {
				return errDisk
			}
		}
		return nil
	}
}

// halfMade is the record of a key that an instance works on.
func halfMade(instance string, state keystore.KeyState) keystore.Key {
	return keystore.Key{Region: testRegion, Account: testAccount, ID: unknownID, State: state, Spec: "HMAC_256",
		Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", CKAID: []byte("sixteen bytes of"), Instance: instance}
}

// dieOver writes half-made records as an instance that then dies.
func dieOver(t *testing.T, path string, records ...keystore.Key) {
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	for _, record := range records {
		record.Instance = s.Instance()
		_, err = s.Commit(t.Context(), record.Put(0))
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())
}

// requireNothingHalfMade asserts that no record is unfinished and that the token holds just the objects of so many keys.
func requireNothingHalfMade(t *testing.T, c *client, keys int) {
	t.Helper()
	require.Eventually(t, func() bool {
		recs, err := c.inside.Store.Lookup(t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 10)
		return err == nil && len(recs) == 0
	}, 20*time.Second, 10*time.Millisecond)
	objects, err := c.token().Objects(t.Context())
	require.NoError(t, err)
	require.Len(t, objects, keys+1, "and the region's binding key")
}

func mustCreate(t *testing.T, c *client, spec types.KeySpec) *types.KeyMetadata {
	t.Helper()
	usage := types.KeyUsageTypeSignVerify
	if slices.Contains([]types.KeySpec{types.KeySpecHmac224, types.KeySpecHmac256, types.KeySpecHmac384, types.KeySpecHmac512}, spec) {
		usage = types.KeyUsageTypeGenerateVerifyMac
	}
	out, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
	require.NoError(t, err)
	return out.KeyMetadata
}

func generate(ctx context.Context, c *client, keyID *string, message []byte) ([]byte, error) {
	out, err := c.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: keyID, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: message})
	if err != nil {
		return nil, err
	}
	return out.Mac, nil
}

func createAlias(t *testing.T, c *client, name string, keyID *string) {
	t.Helper()
	_, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: keyID})
	require.NoError(t, err)
}

// aliasesOf returns the names of all aliases.
func aliasesOf(t *testing.T, c *client) (names []string) {
	t.Helper()
	out, err := c.ListAliases(t.Context(), nil)
	require.NoError(t, err)
	for _, a := range out.Aliases {
		names = append(names, *a.AliasName)
	}
	return names
}

func describe(t *testing.T, c *client, keyID *string) *types.KeyMetadata {
	t.Helper()
	out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: keyID})
	require.NoError(t, err)
	return out.KeyMetadata
}

func schedule(t *testing.T, c *client, keyID *string, days int32) {
	t.Helper()
	_, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: keyID, PendingWindowInDays: aws.Int32(days)})
	require.NoError(t, err)
}

var hmac256 = &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac}

// requireNoDiscrepancies asserts that the records agree.
func requireNoDiscrepancies(t *testing.T, c *client) {
	t.Helper()
	found, err := refcount.Find(t.Context(), c.inside.Store, testAccount, c.bridge.Regions())
	require.NoError(t, err)
	require.Empty(t, found)
}

// storedKey reads the record of a key.
func storedKey(t *testing.T, c *client, id *string) (keystore.Key, uint64) {
	t.Helper()
	rec, err := c.inside.Store.Get(t.Context(), keystore.KeyRef(testRegion, testAccount, *id))
	require.NoError(t, err)
	record, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	return record, rec.Version
}

func put(t *testing.T, c *client, change keystore.Change) {
	t.Helper()
	_, err := c.inside.Cache.Commit(t.Context(), change)
	require.NoError(t, err)
}

func keyCount(t *testing.T, c *client) int {
	t.Helper()
	counter, _, err := records.ReadCounter(t.Context(), c.inside.Store, testRegion, testAccount, keystore.CounterKeys)
	require.NoError(t, err)
	return counter.N
}

// requireAPIError asserts code and message.
func requireAPIError(t *testing.T, err error, code, message string) {
	t.Helper()
	var api smithy.APIError
	require.ErrorAs(t, err, &api)
	require.Equal(t, code, api.ErrorCode())
	require.Equal(t, message, api.ErrorMessage())
}

func requireRefused(t *testing.T, err error, text string) {
	t.Helper()
	var refused *pkcs11kms.RefusedError
	require.ErrorAs(t, err, &refused)
	require.ErrorContains(t, err, text)
	require.NotEmpty(t, refused.Hint())
}
