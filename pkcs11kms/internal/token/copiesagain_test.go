package token_test

import (
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// A key that could not be copied while the session that stays open was in use, or while there was no room, is copied at a later use.
func TestCopyThatCouldNotBeMadeIsMadeLater(t *testing.T) {
	tok, m := openThrough(t)
	key := newKey(t, tok)
	m.Do("on C_GetSessionInfo hang times=1")
	checked := make(chan error, 1)
	go func() { checked <- tok.Healthy(t.Context()) }()
	m.Await("C_GetSessionInfo", func(c faultp11.Counters) bool { return c.Hanging == 1 })
	useTwice(t, tok, key)
	require.Zero(t, tok.Stats().Copies)
	m.Do("release C_GetSessionInfo")
	require.NoError(t, <-checked)
	useTwice(t, tok, key)
	require.Equal(t, 1, tok.Stats().Copies)

	tok.LimitCopies(1, time.Hour)
	second := newKey(t, tok)
	useTwice(t, tok, second)
	require.Equal(t, 1, tok.Stats().Copies)
	tok.LimitCopies(2, time.Hour)
	useTwice(t, tok, second)
	require.Equal(t, 2, tok.Stats().Copies)
}

// A copy that could not be made for what may pass is no reason to make none.
func TestCopyThatFailsOnce(t *testing.T) {
	tok, m := openThrough(t)
	m.Do("on C_CopyObject fail CKR_DEVICE_MEMORY times=1")
	useTwice(t, tok, newKey(t, tok))
	require.Zero(t, tok.Stats().Copies)
	useTwice(t, tok, newKey(t, tok))
	require.Equal(t, 1, tok.Stats().Copies)
}

// However a token says that it makes no copies, it is asked once, and that is told.
func TestTokensThatMakeNoCopiesAreAskedOnce(t *testing.T) {
	for _, rv := range []string{"CKR_ACTION_PROHIBITED", "CKR_OBJECT_HANDLE_INVALID", "CKR_ATTRIBUTE_READ_ONLY", "CKR_TEMPLATE_INCONSISTENT"} {
		t.Run(rv, func(t *testing.T) {
			lines := &linesOfLog{}
			tok, m := openThrough(t, func(cfg *token.Config) { cfg.Logger = lines.atInfo() })
			m.Do("on C_CopyObject fail " + rv)
			for range 2 {
				useTwice(t, tok, newKey(t, tok))
			}
			require.Equal(t, 1, m.Counters()["C_CopyObject"].Calls)
			require.Contains(t, lines.String(), "the token makes no session copies of its keys")
		})
	}
}

// While the token is lost there are no copies.
func TestCopiesEndWithTheConnection(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	want := useTwice(t, tok, key)
	require.Equal(t, 1, tok.Stats().Copies)
	f.on("C_GetSessionInfo", func() error { return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED) })
	require.ErrorIs(t, tok.Healthy(t.Context()), token.ErrGone)
	require.Zero(t, tok.Stats().Copies)
	f.on("C_GetSessionInfo", nil)
	requireBack(t, tok, key, want)
}
