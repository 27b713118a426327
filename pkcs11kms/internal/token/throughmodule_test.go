package token_test

import (
	"context"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// newConfigThrough makes a token that is reached through a module which injects faults below the C interface: they meet what a faulty
// cannot show, such as the module's own state.
func newConfigThrough(t testing.TB) (token.Config, *faultp11.Module) {
	t.Helper()
	cfg, tok := newConfig(t)
	return through(t, cfg, tok)
}

// through puts the module in front of a token.
func through(t testing.TB, cfg token.Config, tok softhsm.TestToken) (token.Config, *faultp11.Module) {
	t.Helper()
	m := faultp11.New(t, tok.Module)
	tok.Module = m.Path
	cfg.URI = tok.URI(tok.PINFile)
	return cfg, m
}

// TestTokenThroughAFaultyModule: a whole life of a Token through C, in which a session fails once.
func TestTokenThroughAFaultyModule(t *testing.T) {
	cfg, m := newConfigThrough(t)
	tok, err := token.Open(context.Background(), cfg)
	require.NoError(t, err)
	key := newKey(t, tok)
	want, err := tok.MAC(context.Background(), key, []byte("message"))
	require.NoError(t, err)
	for _, function := range []string{"C_SignInit", "C_Sign"} {
		rule := m.Fail(function, pkcs11.CKR_DEVICE_ERROR, "times=1")
		mac, err := tok.MAC(t.Context(), key, []byte("message"))
		require.NoError(t, err, function)
		assert.Equal(t, want, mac)
		assert.Equal(t, 1, m.Counters()[function].Faults)
		rule.Remove()
	}
	require.NoError(t, tok.Close())
	n := m.Counters()
	assert.Equal(t, 1, n["C_Login"].Calls)
	assert.Equal(t, n["C_OpenSession"].Calls, n["C_CloseSession"].Calls)
	assert.Empty(t, m.Violations())
}

// Whoever is told that there is nothing to destroy forgets the key: so it is looked for twice, on two sessions, under the lock of changes.
func TestKeyThatIsMissedOnceIsDestroyed(t *testing.T) {
	cfg, m := newConfigThrough(t)
	tok := open(t, cfg)
	key := newKey(t, tok)
	pair, _ := newPair(t, tok, pubkey.P256)
	object, _ := newPair(t, tok, pubkey.P256)
	m.Rule("C_FindObjects empty times=1")
	require.NoError(t, tok.DestroyKey(t.Context(), key.ID(), "test key"))
	m.Rule("C_FindObjects empty times=1") // of the private half
	require.NoError(t, tok.DestroyKeyPair(t.Context(), pair.ID(), "test pair"))
	m.Rule("C_FindObjects empty times=1")
	require.NoError(t, tok.DestroyObject(t.Context(), object.ID()))
	objects, err := tok.Objects(t.Context())
	require.NoError(t, err)
	assert.Empty(t, objects)
	require.ErrorIs(t, tok.DestroyKey(t.Context(), key.ID(), "test key"), token.ErrKeyMissing)

	m.Do("sessions 2") // the one that stays open, and one of the pool
	key = newKey(t, tok)
	m.Rule("C_FindObjects empty times=1")
	require.NoError(t, tok.DestroyKey(t.Context(), key.ID(), "test key"))
}

// A module that gives the handle of a key away which another client has destroyed: to the next object that this process finds or makes, or
// to whatever object is new in the token, although nothing here has looked for it. The key is missing then; it is never used by the
// other's object.
func TestReusedHandlesOfAModule(t *testing.T) {
	for _, handles := range []string{"process", "partition"} {
		for _, kind := range []string{"MAC", "stream", "pair"} {
			t.Run(handles+", "+kind, func(t *testing.T) {
				direct, made := newConfig(t)
				cfg, m := through(t, direct, made)
				m.Do("handles " + handles)
				m.Do("token manufacturer=Acme library=Acme")
				tok, other := open(t, cfg), open(t, direct)
				require.Equal(t, "Acme", tok.Info().Manufacturer)

				old := newKeyOf(t, other, kind)
				require.NoError(t, old.use(tok))
				destroy(t, other, kind, old)
				fresh := newKeyOf(t, other, kind)
				if handles == "process" {
					require.NoError(t, fresh.use(tok))
				}
				require.ErrorIs(t, old.use(tok), token.ErrKeyMissing)
				require.Empty(t, len(old.made), "nothing is answered")
				require.NoError(t, fresh.use(tok), "the new key works")
				require.ErrorIs(t, old.use(tok), token.ErrKeyMissing)
			})
		}
	}
}
