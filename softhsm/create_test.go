package softhsm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ThalesIgnite/crypto11"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

func TestCreateTokens(t *testing.T) {
	c := setup(t)
	one, two := create(t, c, "one"), create(t, c, "two")
	assert.NotEqual(t, one.Serial, two.Serial)
	assert.Regexp(t, `^[0-9a-f]{16}$`, one.Serial)
	module, err := softhsm.Find()
	require.NoError(t, err)
	assert.Equal(t, softhsm.Token{Module: module, Label: "one", Serial: one.Serial, ConfigFile: c.File}, one)
	assert.Equal(t, map[string]string{"one": one.Serial, "two": two.Serial}, labels(t, initialize(t)))
}

func TestTokenFilesAreTheOwnersOnly(t *testing.T) {
	c := setup(t)
	create(t, c, "private")
	files := 0
	require.NoError(t, filepath.WalkDir(c.TokenDir, func(path string, d os.DirEntry, err error) error {
		files++
		assert.Zero(t, mode(t, path)&0o077, path)
		return err
	}))
	assert.Greater(t, files, 2)
}

func TestTakenLabel(t *testing.T) {
	c := setup(t)
	tok := create(t, c, "taken")
	_, err := c.CreateToken("taken", softhsm.RandomPIN(), softhsm.RandomPIN())
	require.ErrorIs(t, err, softhsm.ErrTokenExists)
	assert.Contains(t, err.Error(), `"taken"`)
	assert.NotEmpty(t, hint(t, err))
	assert.Equal(t, map[string]string{"taken": tok.Serial}, labels(t, initialize(t)))
}

func TestLabels(t *testing.T) {
	c := setup(t)
	good := []string{"a", strings.Repeat("x", 32), strings.Repeat("é", 16), " leading", "a;b?c&d%", "日本"}
	want := map[string]string{}
	for _, label := range good {
		want[label] = create(t, c, label).Serial
	}
	for _, label := range []string{"", strings.Repeat("x", 33), strings.Repeat("é", 17), "trailing ", "a\x00b", "a\nb", "\xff"} {
		_, err := c.CreateToken(label, softhsm.RandomPIN(), softhsm.RandomPIN())
		require.Error(t, err, "%q", label)
		assert.NotEmpty(t, hint(t, err))
	}
	assert.Equal(t, want, labels(t, initialize(t)))
}

func TestPINs(t *testing.T) {
	c := setup(t)
	good := softhsm.RandomPIN()
	for _, bad := range []string{"", "0-3", strings.Repeat("7", 256)} {
		for _, pins := range [][2]string{{bad, good}, {good, bad}} {
			_, err := c.CreateToken("pins", pins[0], pins[1])
			require.Error(t, err)
			assert.Contains(t, hint(t, err), "4 to 255")
			if bad != "" {
				assert.False(t, strings.Contains(err.Error(), bad), "the error tells the PIN")
			}
		}
	}
	_, err := c.CreateToken("shortest", "0-34", "5-78")
	require.NoError(t, err)
	_, err = c.CreateToken("longest", strings.Repeat("o", 255), strings.Repeat("u", 255))
	require.NoError(t, err)
	ctx := initialize(t)
	login(t, ctx, "shortest", pkcs11.CKU_USER, "5-78")
	login(t, ctx, "longest", pkcs11.CKU_SO, strings.Repeat("o", 255))
}

func login(t *testing.T, ctx *pkcs11.Ctx, label string, user uint, pin string) {
	t.Helper()
	session, err := ctx.OpenSession(slotOf(t, ctx, label), pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	require.NoError(t, err)
	require.NoError(t, ctx.Login(session, user, pin))
	require.NoError(t, ctx.CloseSession(session))
}

func slotOf(t *testing.T, ctx *pkcs11.Ctx, label string) uint {
	t.Helper()
	slots, err := ctx.GetSlotList(true)
	require.NoError(t, err)
	for _, id := range slots {
		if info, err := ctx.GetTokenInfo(id); err == nil && info.Label == label {
			return id
		}
	}
	require.Fail(t, "no such token", label)
	return 0
}

func TestInitializedModuleIsLeftInitialized(t *testing.T) {
	c := setup(t)
	require.NoError(t, c.Use())
	ctx := initialize(t)
	before := labels(t, ctx)
	assert.Empty(t, before)

	soPIN, pin := softhsm.RandomPIN(), softhsm.RandomPIN()
	tok, err := c.CreateToken("while running", soPIN, pin)
	require.NoError(t, err)
	_, err = ctx.GetInfo()
	require.NoError(t, err, "still initialised")
	assert.Equal(t, map[string]string{"while running": tok.Serial}, labels(t, ctx))
	login(t, ctx, "while running", pkcs11.CKU_USER, pin)
	// C_InitToken answers CKR_SESSION_EXISTS when a session is open.
	assert.NoError(t, ctx.InitToken(slotOf(t, ctx, "while running"), soPIN, "while running"), "a session was left open")
}

func TestModuleIsFinalizedAgain(t *testing.T) {
	c := setup(t)
	create(t, c, "finalized")
	path, err := softhsm.Find()
	require.NoError(t, err)
	_, err = pkcs11.New(path).GetInfo()
	require.ErrorIs(t, err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED))

	_, err = c.CreateToken("finalized", softhsm.RandomPIN(), softhsm.RandomPIN())
	require.Error(t, err)
	_, err = pkcs11.New(path).GetInfo()
	require.ErrorIs(t, err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED), "after an error too")
}

func TestCrypto11AfterCreateToken(t *testing.T) {
	tok := softhsm.NewToken(t)
	for range 2 {
		ctx, err := crypto11.Configure(&crypto11.Config{Path: tok.Module, TokenSerial: tok.Serial, Pin: tok.PIN()})
		require.NoError(t, err)
		key, err := ctx.GenerateSecretKey([]byte(softhsm.RandomPIN()), 256, crypto11.CipherGeneric)
		require.NoError(t, err)
		mac, err := key.NewHMAC(pkcs11.CKM_SHA256_HMAC, 0)
		require.NoError(t, err)
		_, err = mac.Write([]byte("message"))
		require.NoError(t, err)
		assert.Len(t, mac.Sum(nil), 32)
		require.NoError(t, ctx.Close())
		softhsm.NewToken(t)
	}
}

func TestDamagedTokenIsNoObstacle(t *testing.T) {
	c := setup(t)
	tok := create(t, c, "whole")
	damaged := filepath.Join(c.TokenDir, "00000000-0000-0000-0000-000000000000")
	require.NoError(t, os.Mkdir(damaged, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(damaged, "token.object"), nil, 0o600))
	next := create(t, c, "next")
	shown := labels(t, initialize(t))
	assert.Equal(t, tok.Serial, shown["whole"])
	assert.Equal(t, next.Serial, shown["next"])
}

func TestUnreadableConfiguration(t *testing.T) {
	c := setup(t)
	require.NoError(t, os.Remove(c.File))
	_, err := c.CreateToken("label", softhsm.RandomPIN(), softhsm.RandomPIN())
	require.ErrorContains(t, err, c.File)

	require.NoError(t, os.RemoveAll(c.Dir))
	_, err = c.CreateToken("label", softhsm.RandomPIN(), softhsm.RandomPIN())
	require.ErrorContains(t, err, c.TokenDir)
}
