package token_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Whoever asks for a key that is missing again and again has the files looked at once a second. The clock is that of a bubble.
func TestMissingKeysCostOneLookASecond(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t)
		missing := tok.HMACKey(token.SHA256, randomBytes(t, 16))
		for range 3 {
			looks := f.count("C_GetTokenInfo")
			for range 3 {
				_, err := tok.MAC(context.Background(), missing, []byte("message"))
				require.ErrorIs(t, err, token.ErrKeyMissing)
			}
			require.Equal(t, looks+1, f.count("C_GetTokenInfo"))
			<-time.After(time.Second)
			synctest.Wait()
		}
	})
}

// A token's file that is empty just now, as on a disk that is full, is no file: no key is called missing by it.
func TestAnEmptyTokenFileMissesNoKey(t *testing.T) {
	tok, _, dir := openWatched(t)
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	file := filepath.Join(dir, "token.object")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(file, 0))
	_, err = tok.MAC(t.Context(), tok.HMACKey(token.SHA256, randomBytes(t, 16)), []byte("message"))
	require.NoError(t, os.WriteFile(file, text, 0o600))
	require.ErrorIs(t, err, token.ErrGone)
	require.ErrorContains(t, err, "is empty")
	requireBack(t, tok, key, want)
}

// Who waits for a token to come back keeps no other process from changing it meanwhile.
func TestChangesWaitForTheDeviceWithoutTheLock(t *testing.T) {
	cfg, _ := newConfig(t)
	cfg.CallTimeout = time.Hour
	f := newFaulty(&cfg)
	tok := open(t, cfg)
	f.on("C_GetSessionInfo", func() error { return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED) })
	require.ErrorIs(t, tok.Healthy(t.Context()), token.ErrGone)
	made := make(chan error, 1)
	go func() {
		_, err := tok.GenerateHMACKey(context.Background(), token.SHA256, []byte("0123456789abcdef"), "later")
		made <- err
	}()
	require.Eventually(t, func() bool { return inStack("token.(*Token).Await") || inStack("token.(*pool).await") }, patience, tick)
	require.False(t, inStack("token.(*pool).await"), "it has the lock and waits for a session")
	f.on("C_GetSessionInfo", nil)
	require.NoError(t, <-made)
}

// What is not there to be destroyed is looked for on a second session, which is closed.
func TestSecondLookLeavesNoSession(t *testing.T) {
	tok, f := openFaulty(t)
	newKey(t, tok) // so that a session lies idle
	opened, closed := f.count("C_OpenSession"), f.count("C_CloseSession")
	require.ErrorIs(t, tok.DestroyKey(t.Context(), randomBytes(t, 16), "label"), token.ErrKeyMissing)
	require.Equal(t, opened+1, f.count("C_OpenSession"))
	require.Equal(t, closed+1, f.count("C_CloseSession"))
}
