package doctor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// serviceKey reads the record of the service key of access keys, and its version.
func serviceKey(t *testing.T, c *client) (keystore.Key, uint64) {
	t.Helper()
	rec, err := c.inside.Store.Get(t.Context(), keystore.KeyRef(testRegion, "", keyring.SecretsKey))
	require.NoError(t, err)
	record, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	return record, rec.Version
}

// accessKeys makes access keys of the root, of which one is deleted again.
func accessKeys(t *testing.T, c *client) (root *iam.Client, old iam.AccessKey) {
	t.Helper()
	root = c.inside.Identities.Client().As(c.inside.Identities.Root(testAccount))
	old, err := root.CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	deleted, err := root.CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	require.NoError(t, root.DeleteAccessKey(t.Context(), iam.PrincipalName{}, deleted.ID))
	return root, old
}

// accepts tells whether requests that are signed by an access key are let in.
func accepts(t *testing.T, c *client, key iam.AccessKey) bool {
	t.Helper()
	const date = "20260102"
	signing, _, err := c.bridge.SigningKey(t.Context(), key.ID, date, testRegion, "kms")
	assert.NoError(t, err)
	return signing == sigv4.SigningKey(key.Secret, date, testRegion, "kms")
}

// requireAccepted has a server let somebody in, and keep what it has made of the secret.
func requireAccepted(t *testing.T, server *client, key iam.AccessKey) {
	t.Helper()
	require.NoError(t, server.inside.Cache.Confirm(t.Context()), "or the change that made the access key would have it read once more")
	require.True(t, accepts(t, server, key))
}

func requireSoundServiceKey(t *testing.T, cfg statedir.Config) {
	t.Helper()
	checks := examine(t.Context(), cfg).find("key", keyring.SecretsKey)
	require.Len(t, checks, 1)
	require.Equal(t, StatusOK, checks[0].Status, "%+v", checks)
}

// requireRenewed asserts that doctor tells of a service key that is of no use, that a repair makes it anew and names the access keys that
// are void by that, and that a server that was there all the while takes none of them any more.
func requireRenewed(t *testing.T, cfg statedir.Config, c, server *client, old iam.AccessKey, fault string) {
	t.Helper()
	checks := examine(t.Context(), cfg).find("key", keyring.SecretsKey)
	require.Len(t, checks, 1)
	require.Equal(t, StatusError, checks[0].Status)
	require.Contains(t, checks[0].Text, fault)
	require.Contains(t, checks[0].Hint, "doctor --repair")

	require.True(t, accepts(t, server, old), "what was made of its secret before is kept")
	done, err := Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.Len(t, done, 2)
	require.Contains(t, done[0], "made the key pkcs11kms/service/access-keys anew, which ")
	require.Contains(t, done[0], fault)
	require.Equal(t, "the secret of the access key "+old.ID+" of the root of account "+testAccount+
		" is void by that: make another one, and delete this", done[1])
	require.False(t, accepts(t, c, old))
	require.Eventually(t, func() bool { return !accepts(t, server, old) }, 30*time.Second, 10*time.Millisecond)

	requireSoundServiceKey(t, cfg)
	root := server.inside.Identities.Client().As(server.inside.Identities.Root(testAccount))
	made, err := root.CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	require.NotEqual(t, old.Secret, made.Secret)
	require.True(t, accepts(t, c, made))
	done, err = Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.Empty(t, done, "the key is there")
}

// The service key that makes the secrets of access keys is gone from the token.
func TestRepairMakesTheServiceKeyAnew(t *testing.T) {
	cfg := newConfig(t)
	c, server := openClient(t, cfg), openClient(t, cfg)
	_, old := accessKeys(t, c)
	requireAccepted(t, server, old)
	done, err := Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.Empty(t, done, "the key is there")
	service, _ := serviceKey(t, c)
	require.NoError(t, c.token().DestroyKey(t.Context(), service.CKAID, service.ID))
	requireRenewed(t, cfg, c, server, old, "has no object in the token")
}

// Another key has taken its place: nobody is let in by the secrets that were given out.
func TestRepairOfAServiceKeyThatIsAnother(t *testing.T) {
	for fault, hash := range map[string]token.Hash{"of another type or length": token.SHA512, "its MACs are others": token.SHA256} {
		t.Run(fault, func(t *testing.T) {
			cfg := newConfig(t)
			c, server := openClient(t, cfg), openClient(t, cfg)
			_, old := accessKeys(t, c)
			requireAccepted(t, server, old)
			service, _ := serviceKey(t, c)
			require.NoError(t, c.token().DestroyKey(t.Context(), service.CKAID, service.ID))
			_, err := c.token().GenerateHMACKey(t.Context(), hash, service.CKAID, service.ID)
			require.NoError(t, err)
			requireRenewed(t, cfg, c, server, old, "is another object than the one that was made: "+fault)
			_, err = c.token().Describe(t.Context(), service.CKAID)
			require.NoError(t, err, "the other one is left alone")
		})
	}
}

// A service key that was made before proofs were kept is believed.
func TestServiceKeyWithoutAProof(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	accessKeys(t, c)
	service, version := serviceKey(t, c)
	require.Len(t, service.Proof, 32)
	service.Proof = nil
	put(t, c, service.Put(version))
	requireSoundServiceKey(t, cfg)
	done, err := Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.Empty(t, done)
}

// A repair that died in between has left no record of the service key: the access keys are named by the next one.
func TestRepairOfAServiceKeyWithoutARecord(t *testing.T) {
	cfg := newConfig(t)
	c, server := openClient(t, cfg), openClient(t, cfg)
	done, err := Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.Empty(t, done, "without access keys there is no need of one")
	_, old := accessKeys(t, c)
	requireAccepted(t, server, old)
	service, version := serviceKey(t, c)
	put(t, c, keystore.Change{Op: keystore.Delete, Ref: service.Ref(), Expect: version})
	checks := examine(t.Context(), cfg).find("key", keyring.SecretsKey)
	require.Len(t, checks, 1)
	require.Equal(t, StatusError, checks[0].Status)
	done, err = Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.Len(t, done, 2)
	require.Contains(t, done[1], old.ID)
	require.Eventually(t, func() bool { return !accepts(t, server, old) }, 30*time.Second, 10*time.Millisecond)
	requireSoundServiceKey(t, cfg)
}

// A pair stands in for it where the token makes no HMAC keys.
func TestRepairOfAServiceKeyThatIsAPair(t *testing.T) {
	for fault, spoil := range map[string]func(*testing.T, *client, keystore.Key){
		"has no object in the token": func(*testing.T, *client, keystore.Key) {},
		"its signatures are not valid by the public key of the record": func(t *testing.T, c *client, service keystore.Key) {
			_, _, err := c.token().GenerateKeyPair(t.Context(), pubkey.RSA2048, service.CKAID, service.ID)
			require.NoError(t, err)
		},
	} {
		t.Run(fault, func(t *testing.T) {
			cfg, _ := newVendorsConfig(t, "on C_GenerateKey fail CKR_MECHANISM_INVALID")
			c, server := openClient(t, cfg), openClient(t, cfg)
			_, old := accessKeys(t, c)
			requireAccepted(t, server, old)
			service, _ := serviceKey(t, c)
			require.NoError(t, c.token().DestroyKeyPair(t.Context(), service.CKAID, service.ID))
			spoil(t, c, service)
			requireRenewed(t, cfg, c, server, old, fault)
			again, _ := serviceKey(t, c)
			require.Equal(t, service.Spec, again.Spec)
		})
	}
}

// What passes does not make the secrets of all access keys void.
func TestServiceKeyIsKeptOverWhatPasses(t *testing.T) {
	for name, when := range map[string]struct {
		token, passing string
		failing        bool
	}{
		"one wrong signature":  {"on C_GenerateKey fail CKR_MECHANISM_INVALID", "on C_Sign flip times=1", false},
		"one wrong MAC":        {"clear", "on C_Sign flip times=1", false},
		"no MAC":               {"clear", "on C_SignInit fail CKR_HOST_MEMORY", true},
		"no signature":         {"on C_GenerateKey fail CKR_MECHANISM_INVALID", "on C_SignInit fail CKR_HOST_MEMORY", true},
		"no answer of the key": {"clear", "on C_FindObjectsInit fail CKR_HOST_MEMORY", true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, m := newVendorsConfig(t, when.token)
			c := openClient(t, cfg)
			_, old := accessKeys(t, c)
			before, _ := serviceKey(t, c)
			m.Do(when.passing)
			done, err := Repair(t.Context(), c.Client)
			require.Equal(t, when.failing, err != nil, "%v", err)
			require.Empty(t, done)
			m.Do("clear")
			after, _ := serviceKey(t, c)
			require.Equal(t, before, after)
			require.True(t, accepts(t, c, old))
			requireSoundServiceKey(t, cfg)
		})
	}
}
