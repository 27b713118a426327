package token_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/require"
)

// Who waits to ask the device when Close begins is told so at once: the session that the device is asked on does not come free
// any more. The clock is that of a bubble.
func TestThoseWhoWaitToAskTheDeviceLearnOfClose(t *testing.T) {
	for name, call := range map[string]func(*token.Token, *token.Key) error{
		"check":            func(tok *token.Token, _ *token.Key) error { return tok.Healthy(context.Background()) },
		"call that failed": func(tok *token.Token, key *token.Key) error { return <-sign(context.Background(), tok, key) },
		"key that is missing": func(tok *token.Token, _ *token.Key) error {
			return tok.DestroyKey(context.Background(), []byte("none"), "none")
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				cfg, _ := newConfig(t)
				f := newFaulty(&cfg)
				tok, err := token.Open(context.Background(), cfg)
				require.NoError(t, err)
				key := newKey(t, tok)
				reached, free := f.hang("C_GenerateRandom")
				earlier := make(chan error, 1)
				go func() { earlier <- tok.Healthy(context.Background()) }()
				<-reached
				f.fail("C_SignInit", 1, pkcs11.CKR_DEVICE_ERROR)
				waits := make(chan error, 1)
				go func() { waits <- call(tok, key) }()
				synctest.Wait()
				closed := make(chan error, 1)
				go func() { closed <- tok.Close() }()
				require.ErrorIs(t, <-waits, token.ErrClosed)
				free()
				require.NoError(t, <-earlier, "a call that has begun is finished")
				require.NoError(t, <-closed)
			})
		})
	}
}

// The session that keeps the login is closed when all others are: opencryptoki crashes when the last two are closed at once.
func TestTheSessionThatKeepsTheLoginIsClosedLast(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		cfg, _ := newConfig(t)
		f := newFaulty(&cfg)
		tok, err := token.Open(context.Background(), cfg)
		require.NoError(t, err)
		key := newKey(t, tok)
		ctx, cancel := context.WithCancel(context.Background()) // so that the session has a goroutine
		require.NoError(t, <-sign(ctx, tok, key))
		cancel()
		before := f.count("C_CloseSession")
		reached, free := f.hang("C_CloseSession")
		closed := make(chan error, 1)
		go func() { closed <- tok.Close() }()
		<-reached
		synctest.Wait()
		require.Equal(t, before+1, f.count("C_CloseSession"), "another session is closed meanwhile")
		free()
		require.NoError(t, <-closed)
		require.Equal(t, before+2, f.count("C_CloseSession"))
	})
}
