package pkcs11kms

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// openSealed opens a client whose audit log is sealed each millisecond.
func openSealed(t *testing.T, cfg testConfig) (c *Client, log *audit.Log, dir string) {
	dir = filepath.Join(t.TempDir(), "audit")
	log, err := audit.Open(dir, audit.Options{SealInterval: time.Millisecond})
	require.NoError(t, err)
	cfg.Audit, cfg.CloseAudit = log, true
	return openClient(t, cfg), log, dir
}

func list(t *testing.T, c *Client) {
	t.Helper()
	_, err := c.ListKeys(t.Context(), &kms.ListKeysInput{})
	require.NoError(t, err)
}

// The audit log of a Bridge is sealed by a key of its own in the token: an elliptic one, else an RSA one, else an HMAC key, whose seals
// only the token verifies.
func TestWhatTheAuditLogIsSealedBy(t *testing.T) {
	const keyPair = "on C_GenerateKeyPair fail CKR_MECHANISM_INVALID"
	for spec, commands := range map[types.KeySpec][]string{
		types.KeySpecEccNistP256: nil,
		types.KeySpecRsa2048:     {keyPair + " mechanism=CKM_EC_KEY_PAIR_GEN"},
		types.KeySpecHmac256:     {keyPair},
	} {
		t.Run(string(spec), func(t *testing.T) {
			cfg, _ := newVendorsConfig(t, commands...)
			c, log, dir := openSealed(t, cfg)
			list(t, c)
			require.Eventually(t, func() bool { return log.Stats().Seals > 0 }, time.Minute, time.Millisecond)
			made, err := c.bridge.core.Keys.Epochs(t.Context(), keyring.AuditKey)
			require.NoError(t, err)
			require.Len(t, made, 1)
			require.Equal(t, string(spec), made[0].Record.Spec)
			keys, err := keyring.AuditPublicKeys(t.Context(), c.bridge.core.Store, cfg.regionNames())
			require.NoError(t, err)
			text := keys[1]
			check := func(text []byte, s audit.Signature) error { return c.bridge.core.CheckSeal(t.Context(), text, s) }
			if spec == types.KeySpecHmac256 {
				require.Empty(t, text)
			} else {
				keys, err := audit.ParseSealKeys([]byte(text))
				require.NoError(t, err)
				check = keys.Check
			}
			known := audit.Known{Check: check, MustBeSealed: true}
			v, err := audit.VerifyDir(dir, known)
			require.NoError(t, err)
			require.Empty(t, v.Problems)
			known.Check = func(text []byte, s audit.Signature) error { return check(append(text, 'x'), s) }
			v, err = audit.VerifyDir(dir, known)
			require.NoError(t, err)
			require.NotEmpty(t, v.Problems)
		})
	}
}

// A process that comes later seals by the same key; one that does one thing and ends does not seal. What was sealed is known to the store.
func TestTheSealsOfProcesses(t *testing.T) {
	cfg := newConfig(t)
	first, _, dir := openSealed(t, cfg)
	list(t, first)
	require.NoError(t, first.Close())
	short := cfg
	short.ShortLived = true
	command, log, _ := openSealed(t, short)
	list(t, command)
	require.NoError(t, command.Close())
	require.Zero(t, log.Stats().Seals)
	second, log, other := openSealed(t, cfg)
	list(t, second)
	require.Eventually(t, func() bool { return log.Stats().Seals > 0 }, time.Minute, time.Millisecond)
	public, err := keyring.AuditPublicKeys(t.Context(), second.bridge.core.Store, cfg.regionNames())
	require.NoError(t, err)
	keys, err := audit.ParseSealKeys([]byte(public[1]))
	require.NoError(t, err)
	for _, dir := range []string{dir, other} {
		v, err := audit.VerifyDir(dir, audit.Known{Check: keys.Check, MustBeSealed: true})
		require.NoError(t, err)
		require.Empty(t, v.Problems)
		require.Len(t, v.Heads, 1)
		head := v.Heads[0]
		require.Eventually(t, func() bool {
			counter, _, err := records.ReadCounter(t.Context(), second.bridge.core.Store, "", "", keystore.CounterSealed+head.Chain)
			require.NoError(t, err)
			return counter.N >= int(head.Seq)-1
		}, time.Minute, time.Millisecond)
	}
}

// A token that is gone keeps the log from being sealed, and nobody from being answered for that; when it comes back the log is sealed.
func TestNoSealsWithoutToken(t *testing.T) {
	cfg, m := newVendorsConfig(t)
	c, log, _ := openSealed(t, cfg)
	list(t, c)
	require.Eventually(t, func() bool { return log.Stats().Seals > 0 }, time.Minute, time.Millisecond)
	rule := m.Rule("C_SignInit,C_Sign fail CKR_FUNCTION_FAILED")
	require.Eventually(t, func() bool {
		list(t, c)
		return log.Stats().SealFailures > 0
	}, time.Minute, time.Millisecond)
	require.Contains(t, c.bridge.Warning(), "the audit log cannot be sealed")
	rule.Remove()
	require.Eventually(t, func() bool { return c.bridge.Warning() == "" }, time.Minute, time.Millisecond)
}
