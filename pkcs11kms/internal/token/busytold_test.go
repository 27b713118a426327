package token_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Whoever gave up waiting for a place among the streams is told that it was busy, and of the context.
func TestWaitForAStreamIsBusy(t *testing.T) {
	tok, _ := openFaulty(t, sessions(1))
	key := newKey(t, tok)
	st, err := tok.NewStream(t.Context(), key)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = tok.NewStream(ctx, key)
	require.ErrorIs(t, err, token.ErrBusy)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, st.Close())
}

// Done tells that a call has come back once its session is closed and its place is free, not before.
func TestDoneWaitsForTheSession(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t)
		key := newKey(t, tok)
		reached, free := f.hang("C_Sign")
		ctx := newManualContext()
		call := sign(ctx, tok, key)
		<-reached
		ctx.end(context.Canceled)
		var hung *token.HungError
		require.ErrorAs(t, <-call, &hung)
		closing, closed := f.hang("C_CloseSession")
		free()
		<-closing
		synctest.Wait()
		select {
		case <-hung.Done():
			assert.Fail(t, "Done is closed while the session is being closed")
		default:
		}
		assert.Equal(t, 1, tok.Stats().Lost)
		closed()
		<-hung.Done()
		assert.Equal(t, token.Stats{Size: 32}, tok.Stats())
	})
}
