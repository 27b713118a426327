package pkcs11kms

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// keysLog keeps what a log says of keys: the messages, each with the key's id and CKA_ID as far as it names them.
type keysLog struct {
	slog.Handler
	mu  sync.Mutex // guards all
	all [][]string
}

func (l *keysLog) Enabled(context.Context, slog.Level) bool { return true }

func (l *keysLog) Handle(_ context.Context, r slog.Record) error {
	line := []string{r.Message}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "key" || a.Key == "cka_id" {
			line = append(line, a.Value.String())
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(line) > 1 {
		l.all = append(l.all, line)
	}
	return nil
}

func (l *keysLog) lines() [][]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// After the commit from which there is no way back, and before the end, the record is of a key that is being deleted and nothing
// else: without a date, without aliases, and none of its aliases is there. What is destroyed and when it is gone stands in the log.
func TestDeletionBetweenItsSteps(t *testing.T) {
	cfg, clk, log := newConfig(t), newClock(), &keysLog{}
	real, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, real.Close()) })
	store := &faultyStore{Store: real, path: cfg.StorePath}
	cfg.Store, cfg.StorePath, cfg.Now, cfg.Logger = store, "", clk.Now, slog.New(log)
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	for _, alias := range []string{"alias/a", "alias/b", "alias/c"} {
		createAlias(t, c, alias, key.KeyId)
	}
	schedule(t, c, key.KeyId, 7)
	clk.Advance(7 * day)
	ref := keystore.KeyRef(testRegion, testAccount, *key.KeyId)
	store.hook(func(changes []keystore.Change) error { // the record does not go
		if slices.ContainsFunc(changes, func(c keystore.Change) bool { return c.Op == keystore.Delete && c.Ref == ref }) {
			return errDisk
		}
		return nil
	}, nil)
	require.ErrorIs(t, c.bridge.core.Keys.DestroyDue(t.Context()), errDisk)
	rec, err := store.Get(t.Context(), ref)
	require.NoError(t, err)
	record, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	require.Equal(t, keystore.Deleting, record.State)
	require.Equal(t, store.Instance(), record.Instance)
	require.Zero(t, record.Aliases)
	require.Zero(t, record.DeletionDate)
	require.Empty(t, aliasesOf(t, c, nil))
	require.Equal(t, [][]string{{"destroying a key whose deletion date has come", *key.KeyId, record.CKAID.String()}}, log.lines())

	store.hook(nil, nil)
	finished, err := c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{*key.KeyId}, finished)
	require.Equal(t, []string{"removed a key that was half made or half deleted", *key.KeyId}, log.lines()[1])
	requireNothingHalfMade(t, c, 0)
	requireNoDiscrepancies(t, c.bridge)
}

// An account that has more keys than its quota, which may have been lowered, can have them deleted.
func TestDeletionAboveTheQuota(t *testing.T) {
	cfg, clk := newConfig(t), newClock()
	cfg.Now = clk.Now
	c := openClient(t, cfg)
	var keys []*types.KeyMetadata
	for range 3 {
		keys = append(keys, mustCreate(t, c, types.KeySpecHmac256))
	}
	cfg.Quotas.Keys = 1
	c = openClient(t, cfg)
	_, err := createHMAC256(t.Context(), c)
	requireCode(t, err, "LimitExceededException")
	schedule(t, c, keys[0].KeyId, 7)
	clk.Advance(7 * day)
	require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
	requireNothingHalfMade(t, c, 2)
	requireNoDiscrepancies(t, c.bridge)
}

// A key that is made has no maker any more, whose end would concern it.
func TestKeyThatIsMadeHasNoMaker(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	rec, err := c.bridge.core.Store.Get(t.Context(), keystore.KeyRef(testRegion, testAccount, *key.KeyId))
	require.NoError(t, err)
	record, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	require.Equal(t, keystore.Enabled, record.State)
	require.Empty(t, record.Instance)
}

// A key whose deletion is cancelled has no date any more.
func TestCancelledDeletionLeavesNoDate(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	schedule(t, c, key.KeyId, 7)
	_, err := c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: key.KeyId})
	require.NoError(t, err)
	rec, err := c.bridge.core.Store.Get(t.Context(), keystore.KeyRef(testRegion, testAccount, *key.KeyId))
	require.NoError(t, err)
	record, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	require.Equal(t, keystore.Disabled, record.State)
	require.Zero(t, record.DeletionDate)
}
