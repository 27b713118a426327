package token_test

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"hash"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patience bounds the waits for something that must happen; no test waits for it to pass.
const (
	patience = 30 * time.Second
	tick     = time.Millisecond
)

// newConfig makes a token for the test and returns how to open it.
func newConfig(t testing.TB) (token.Config, softhsm.TestToken) {
	t.Helper()
	tok := softhsm.NewToken(t)
	return token.Config{URI: tok.URI(tok.PINFile), SoftHSMConf: tok.ConfigFile}, tok
}

// open opens a token and checks at the end of the test that every session has come back.
func open(t testing.TB, cfg token.Config) *token.Token {
	t.Helper()
	tok, err := token.Open(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		requireWhole(t, tok)
		assert.NoError(t, tok.Close())
	})
	return tok
}

// requireWhole waits until no session is in use: streams that end with their context give theirs back a moment later.
func requireWhole(t testing.TB, tok *token.Token) {
	t.Helper()
	require.Eventually(t, func() bool { return tok.Stats().InUse == 0 }, patience, tick, "a session was not given back")
	stats := tok.Stats()
	assert.Zero(t, stats.Waiting)
	assert.Zero(t, stats.Lost)
	assert.LessOrEqual(t, stats.Open, stats.Size)
}

// newToken makes and opens a token for the test.
func newToken(t testing.TB) *token.Token {
	t.Helper()
	cfg, _ := newConfig(t)
	return open(t, cfg)
}

// inBubble runs a test on the clock of a bubble, see testing/synctest. The module is loaded before, since its locks are for
// the whole process and must not belong to a bubble.
func inBubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	cfg, _ := newConfig(t)
	tok, err := token.Open(context.Background(), cfg)
	require.NoError(t, err)
	require.NoError(t, tok.Close())
	synctest.Test(t, test)
}

func randomBytes(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, err := rand.Read(b)
	require.NoError(t, err)
	return b
}

// newHash is Go's implementation of a hash, the second opinion on every MAC.
func newHash(h token.Hash) func() hash.Hash {
	return map[token.Hash]func() hash.Hash{
		token.SHA224: sha256.New224, token.SHA256: sha256.New, token.SHA384: sha512.New384, token.SHA512: sha512.New,
	}[h]
}

func goMAC(h token.Hash, key, message []byte) []byte {
	m := hmac.New(newHash(h), key)
	m.Write(message)
	return m.Sum(nil)
}

// requireSame compares secrets without printing them.
func requireSame(t testing.TB, want, got []byte, what string) {
	t.Helper()
	require.Truef(t, subtle.ConstantTimeCompare(want, got) == 1, "%s differs (%d and %d bytes)", what, len(want), len(got))
}

func TestOpenDescribesTheToken(t *testing.T) {
	cfg, provisioned := newConfig(t)
	tok := open(t, cfg)
	info := tok.Info()
	assert.Equal(t, provisioned.Label, info.Label)
	assert.Equal(t, provisioned.Serial, info.Serial)
	assert.Contains(t, info.Manufacturer, "SoftHSM")
	assert.Equal(t, provisioned.Module, info.ModulePath)
	assert.NotEmpty(t, info.Model)
	assert.NotEmpty(t, info.LibraryDescription)
	assert.NotEmpty(t, info.FirmwareVersion)
	assert.False(t, info.HostInitialized)
	assert.NoError(t, tok.Healthy(context.Background()))
	assert.Equal(t, 32, tok.Stats().Size)
}

func TestProbeFindsWhatSoftHSMDoes(t *testing.T) {
	caps := newToken(t).Capabilities()
	require.Len(t, caps.HMAC, 4)
	for _, h := range token.Hashes() {
		assert.NoError(t, caps.For(h).Err(), h)
	}
	assert.EqualError(t, caps.For(token.Hash(9)).Err(), "not a hash function of this package")
	assert.True(t, caps.AllowedMechanisms)
	assert.True(t, caps.ValueReadRefused)
	assert.True(t, caps.Streams)
	assert.Equal(t, 16, caps.IDBytes)
	assert.Equal(t, 32, caps.MaxSessions)
}
