package token_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Those who wait for a session are served first come, first served; who comes while others wait gets in line.
func TestThoseWhoWaitAreServedInTheirOrder(t *testing.T) {
	tok, f := openFaulty(t, sessions(1))
	key := newKey(t, tok)
	reached, free := f.hang("C_Sign")
	var want []string
	var calls []<-chan error
	for i := range 20 {
		message := fmt.Sprintf("message %d", i)
		want = append(want, message)
		done := make(chan error, 1)
		go func() {
			_, err := tok.MAC(context.Background(), key, []byte(message))
			done <- err
		}()
		calls = append(calls, done)
		if i == 0 {
			<-reached
			f.set(func() { f.signed = []string{message} }) // without what the probe signed
		}
		require.Eventually(t, func() bool { return tok.Stats().Waiting == i }, patience, tick)
	}
	free()
	for _, c := range calls {
		require.NoError(t, <-c)
	}
	assert.Equal(t, want, f.signed)
}

// The session that was used last is lent first, so that the others stay as few as the load needs.
func TestSessionUsedLastIsLentFirst(t *testing.T) {
	tok, f := openFaulty(t, sessions(12))
	key := newKey(t, tok)
	f.set(func() { f.began = nil })
	var streams []*token.Stream
	for range 3 {
		st, err := tok.NewStream(context.Background(), key)
		require.NoError(t, err)
		streams = append(streams, st)
	}
	for _, i := range []int{2, 0, 1} {
		_, err := streams[i].Sum()
		require.NoError(t, err)
	}
	for range 2 {
		_, err := tok.MAC(context.Background(), key, []byte("message"))
		require.NoError(t, err)
	}
	require.Len(t, f.began, 5)
	assert.Equal(t, []pkcs11.SessionHandle{f.began[1], f.began[1]}, f.began[3:])
}

// A pool that shrank because the token had no session left grows again after a minute, since the shortage may pass. The
// clock is that of a bubble.
func TestShrunkPoolGrowsAgainAfterAMinute(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t, sessions(8))
		key := newKey(t, tok)
		st, err := tok.NewStream(context.Background(), key) // on the session that is open already
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, st.Close()) })
		f.on("C_OpenSession", func() error { return pkcs11.Error(pkcs11.CKR_SESSION_COUNT) })
		shrunk := time.Now()
		_, err = tok.MAC(context.Background(), key, []byte("message"))
		require.ErrorIs(t, err, token.ErrBusy)
		require.Equal(t, 1, tok.Stats().Size)
		f.on("C_OpenSession", nil)
		opened := f.count("C_OpenSession")

		<-time.After(time.Minute - time.Since(shrunk))
		_, err = tok.MAC(context.Background(), key, []byte("message"))
		require.ErrorIs(t, err, token.ErrBusy)
		require.Equal(t, opened, f.count("C_OpenSession"), "the token is not asked again within the minute")
		require.Equal(t, 1, tok.Stats().Size)

		_, err = tok.MAC(context.Background(), key, []byte("message"))
		require.NoError(t, err, "after it the token has sessions again")
		require.Equal(t, 8, tok.Stats().Size)
	})
}

// When a pool has grown again, those who wait already get the new places before those who come.
func TestGrownPoolServesThoseWhoWait(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t, sessions(8))
		key := newKey(t, tok)
		st, err := tok.NewStream(context.Background(), key) // holds the one place that will be left
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, st.Close()) })
		f.fail("C_OpenSession", 1, pkcs11.CKR_SESSION_COUNT)
		_, err = tok.MAC(context.Background(), key, []byte("message"))
		require.ErrorIs(t, err, token.ErrBusy)
		<-time.After(time.Minute - 6*time.Second) // of which the wait of that call took five
		early := sign(context.Background(), tok, key)
		synctest.Wait()
		require.Equal(t, 1, tok.Stats().Waiting)
		<-time.After(2 * time.Second)
		_, free := f.hang("C_Sign")
		late := sign(context.Background(), tok, key)
		synctest.Wait()
		stats := tok.Stats()
		free()
		require.NoError(t, <-late)
		require.NoError(t, <-early)
		require.Zero(t, stats.Waiting, "nobody waits for somebody to give a session back")
		require.Equal(t, 3, stats.InUse)
	})
}
