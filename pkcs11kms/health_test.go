package pkcs11kms

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/softhsm"
)

// reasonsOf returns what Health finds, as "subject reason".
func reasonsOf(t *testing.T, c *Client) (found []string) {
	t.Helper()
	err := c.Health(t.Context())
	if err == nil {
		return nil
	}
	health, ok := errors.AsType[*HealthError](err)
	require.True(t, ok, err)
	for _, p := range health.Problems {
		require.Contains(t, HealthReasons, p.Reason)
		require.NotEmpty(t, p.Err.Error())
		found = append(found, p.Subject+" "+p.Reason)
	}
	return found
}

// Nothing is written by health checks while Commits succeed; after one has failed a write is tried until one succeeds, and
// not once more.
func TestWritesAreTriedAfterAFailedCommitOnly(t *testing.T) {
	c, store, _ := withFaults(t)
	var trials atomic.Int64
	failing := errors.New("injected")
	count := func(changes []keystore.Change) error {
		if changes[0].Ref.ID == records.WriteTrialCounter {
			trials.Add(1)
		}
		return nil
	}
	store.hook(count, nil)
	mustCreate(t, c, types.KeySpecHmac256)
	for range 10 {
		require.Empty(t, reasonsOf(t, c))
	}
	require.Zero(t, trials.Load())

	for name, err := range map[string]error{"conflict": keystore.ErrConflict, "exists": keystore.ErrExists, "canceled": context.Canceled} {
		store.hook(func([]keystore.Change) error { return err }, nil)
		_, _ = c.bridge.core.Cache.Commit(t.Context(), keystore.Counter{Name: "x"}.Put(0))
		require.Empty(t, reasonsOf(t, c), name)
	}
	require.Zero(t, trials.Load())

	store.hook(func(changes []keystore.Change) error { _ = count(changes); return failing }, nil)
	_, err := createHMAC256(t.Context(), c)
	require.ErrorIs(t, err, failing)
	require.Equal(t, []string{"store store-failed"}, reasonsOf(t, c))
	require.Eventually(t, func() bool { return trials.Load() >= 2 }, 30*time.Second, time.Millisecond)
	require.Equal(t, []string{"store store-failed"}, reasonsOf(t, c))
	store.hook(count, nil)
	require.Eventually(t, func() bool { return reasonsOf(t, c) == nil }, 30*time.Second, time.Millisecond)
	after := trials.Load()
	for range 10 {
		require.Empty(t, reasonsOf(t, c))
		mustCreate(t, c, types.KeySpecHmac256)
	}
	require.Equal(t, after, trials.Load())
}

// A Commit that waited in vain while others' came through tells of load, not of a store that cannot be changed.
func TestAStoreUnderLoadIsNoBusyStore(t *testing.T) {
	c, store, _ := withFaults(t)
	var trials atomic.Int64
	store.hook(func(changes []keystore.Change) error {
		switch changes[0].Ref.ID {
		case records.WriteTrialCounter:
			trials.Add(1)
		case "waits in vain":
			_, err := c.bridge.core.Cache.Commit(t.Context(), keystore.Counter{Name: "comes through"}.Put(0))
			require.NoError(t, err)
			return keystore.ErrBusy
		case "behind a stopped process":
			return keystore.ErrBusy
		}
		return nil
	}, nil)
	_, err := c.bridge.core.Cache.Commit(t.Context(), keystore.Counter{Name: "waits in vain"}.Put(0))
	require.ErrorIs(t, err, keystore.ErrBusy)
	require.Empty(t, reasonsOf(t, c))
	require.Zero(t, trials.Load())
	_, err = c.bridge.core.Cache.Commit(t.Context(), keystore.Counter{Name: "behind a stopped process"}.Put(0))
	require.ErrorIs(t, err, keystore.ErrBusy)
	require.Eventually(t, func() bool { return trials.Load() == 1 }, 30*time.Second, time.Millisecond)
	require.Empty(t, reasonsOf(t, c), "the attempt has succeeded")
}

// tokenDirectory is where SoftHSM keeps a test's token.
func tokenDirectory(t *testing.T, tok softhsm.TestToken) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(filepath.Dir(tok.ConfigFile), "tokens", "*"))
	require.NoError(t, err)
	for _, dir := range all {
		if strings.HasSuffix(strings.ReplaceAll(dir, "-", ""), tok.Serial) {
			return dir
		}
	}
	t.Fatal("no directory of the token")
	return ""
}

// objectFiles are the files of the token's objects, in no order.
func objectFiles(t *testing.T, tok softhsm.TestToken) (files []string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(tokenDirectory(t, tok), "*.object"))
	require.NoError(t, err)
	for _, file := range all {
		if filepath.Base(file) != "token.object" {
			files = append(files, file)
		}
	}
	return files
}

func trySign(ctx context.Context, c *Client, keyID *string) ([]byte, error) {
	out, err := c.Sign(ctx, &kms.SignInput{KeyId: keyID, Message: []byte("m"), SigningAlgorithm: ecdsaSHA256})
	if err != nil {
		return nil, err
	}
	return out.Signature, nil
}

// An object that is cut off anywhere makes its key unavailable, never a wrong MAC and never an error of ours.
func TestADamagedObjectIsAnUnavailableKey(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	c, err := newAt(t.Context(), cfg)
	require.NoError(t, err)
	keys := map[types.KeySpec]*types.KeyMetadata{}
	wholes := map[types.KeySpec][]byte{}
	files := map[types.KeySpec]string{}
	known := map[string]bool{}
	for _, spec := range []types.KeySpec{types.KeySpecHmac256, types.KeySpecEccNistP256} {
		keys[spec] = mustCreate(t, c, spec)
		for _, file := range objectFiles(t, tok) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			if !known[file] && len(text) > len(wholes[spec]) { // of a pair the private half is the longer
				files[spec], wholes[spec] = file, text
			}
		}
		for _, file := range objectFiles(t, tok) {
			known[file] = true
		}
	}
	mac, err := generate(t.Context(), c, keys[types.KeySpecHmac256].KeyId, []byte("m"))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	for spec, whole := range wholes {
		for size := 0; size < len(whole); size += 1 + len(whole)/24 {
			require.NoError(t, os.WriteFile(files[spec], whole[:size], 0o600))
			c, err := newAt(t.Context(), cfg)
			require.NoError(t, err)
			key := keys[spec]
			var got []byte
			if spec == types.KeySpecHmac256 {
				got, err = generate(t.Context(), c, key.KeyId, []byte("m"))
			} else {
				got, err = trySign(t.Context(), c, key.KeyId)
			}
			if err == nil { // nothing that is needed was lost
				if spec == types.KeySpecHmac256 {
					require.True(t, string(mac) == string(got), "%d bytes: another MAC", size)
				} else {
					require.NoError(t, verifySignature(t, c, key.KeyId, ecdsaSHA256, []byte("m"), got), size)
				}
			} else {
				unavailable, ok := errors.AsType[*types.KeyUnavailableException](err)
				require.True(t, ok, "%v, %d bytes: %v", spec, size, err)
				require.Equal(t, *key.Arn+" is unavailable.", unavailable.ErrorMessage())
			}
			require.NoError(t, c.Close())
		}
		require.NoError(t, os.WriteFile(files[spec], whole, 0o600))
	}
}

// The check is a MAC by the service key; where there is none, a MAC or signature by an enabled key, so that the damage of
// one key is not taken for the token's.
func TestHealthUsesAKeyOfOurs(t *testing.T) {
	for name, serviceKey := range map[string]bool{"service key": true, "keys of callers": false} {
		t.Run(name, func(t *testing.T) {
			cfg, tok := newConfigAndToken(t)
			c := openClient(t, cfg)
			require.Empty(t, reasonsOf(t, c), "a token without a key")
			if serviceKey {
				_, err := asRoot(c.bridge).CreateAccessKey(t.Context(), iam.PrincipalName{})
				require.NoError(t, err)
			} else {
				mustCreate(t, c, types.KeySpecEccNistP256)
			}
			require.Empty(t, reasonsOf(t, c))
			own := objectFiles(t, tok)
			var whole *types.KeyMetadata
			if !serviceKey {
				whole = mustCreate(t, c, types.KeySpecEccNistP256)
				require.Empty(t, reasonsOf(t, c))
			}
			for _, file := range own {
				require.NoError(t, os.Remove(file))
			}
			mustCreate(t, c, types.KeySpecHmac224) // so that SoftHSM looks at its directory
			if serviceKey {
				require.Equal(t, []string{testRegion + " key-missing"}, reasonsOf(t, c), "without it nobody can be authenticated")
				return
			}
			require.Empty(t, reasonsOf(t, c), "another key works")
			_, err := trySign(t.Context(), c, whole.KeyId)
			require.NoError(t, err)
		})
	}
}

// A store that cannot be locked is the API's ThrottlingException.
func TestABusyStoreIsThrottled(t *testing.T) {
	c, store, _ := withFaults(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	store.hook(func([]keystore.Change) error { return keystore.ErrBusy }, nil)
	_, err := createHMAC256(t.Context(), c)
	var api smithy.APIError
	require.ErrorAs(t, err, &api)
	assert.Equal(t, "ThrottlingException", api.ErrorCode())
	require.ErrorIs(t, err, keystore.ErrBusy)
	_, err = generate(t.Context(), c, key.KeyId, []byte("m"))
	require.NoError(t, err)
	store.hook(nil, nil)
}
