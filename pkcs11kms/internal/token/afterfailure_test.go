package token_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A session is kept after a refusal that began nothing, and thrown away after any other failure: an operation may still be
// active on it, which the next call would meet. What may pass is asked again, on another session then.
func TestSessionAfterAFailure(t *testing.T) {
	tok, f := openFaulty(t, noCopies)
	key := newKey(t, tok)
	id := randomBytes(t, 16)
	mac := func() error { _, err := tok.MAC(t.Context(), key, []byte("message")); return err }
	random := func() error { _, err := tok.Random(t.Context(), 8); return err }
	generate := func() error { _, err := tok.GenerateHMACKey(t.Context(), token.SHA256, id, "failed"); return err }
	describe := func() error { _, err := tok.Describe(t.Context(), key.ID()); return err }
	for _, c := range []struct {
		function string
		rv       uint
		call     func() error
		kept     bool
		times    int // how often it is asked
	}{
		{"C_SignInit", pkcs11.CKR_MECHANISM_INVALID, mac, true, 1},
		{"C_SignInit", pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, mac, true, 1},
		{"C_SignInit", pkcs11.CKR_FUNCTION_CANCELED, mac, false, 2},
		{"C_SignInit", pkcs11.CKR_HOST_MEMORY, mac, false, 2},
		{"C_Sign", pkcs11.CKR_BUFFER_TOO_SMALL, mac, false, 2}, // which leaves the operation active
		{"C_Sign", pkcs11.CKR_MECHANISM_INVALID, mac, false, 1},
		{"C_Sign", pkcs11.CKR_KEY_SIZE_RANGE, mac, false, 1},
		{"C_Sign", pkcs11.CKR_DATA_INVALID, mac, false, 1},
		{"C_GenerateRandom", pkcs11.CKR_FUNCTION_NOT_SUPPORTED, random, false, 1},
		{"C_GenerateKey", pkcs11.CKR_TEMPLATE_INCONSISTENT, generate, true, 1},
		{"C_GenerateKey", pkcs11.CKR_DEVICE_MEMORY, generate, true, 1},
		{"C_GenerateKey", pkcs11.CKR_HOST_MEMORY, generate, false, 1},
		{"C_FindObjectsInit", pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, describe, true, 1},
		{"C_FindObjects", pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, describe, false, 1},
		{"C_FindObjectsFinal", pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, describe, false, 1},
	} {
		t.Run(fmt.Sprintf("%s 0x%X", c.function, c.rv), func(t *testing.T) {
			require.NoError(t, mac()) // so that a session lies idle
			require.Eventually(t, func() bool { return tok.Stats().Open == 1 }, patience, tick)
			opened, closed := f.count("C_OpenSession"), f.count("C_CloseSession")
			f.fail(c.function, 9, c.rv)
			asked := f.count(c.function)
			requireRV(t, c.call(), c.function, c.rv)
			assert.Equal(t, asked+c.times, f.count(c.function))
			f.on(c.function, nil)
			require.NoError(t, mac())
			gone := c.times
			if c.kept {
				gone = 0
			}
			assert.Equal(t, opened+gone, f.count("C_OpenSession"))
			require.Eventually(t, func() bool { return f.count("C_CloseSession") == closed+gone }, patience, tick)
		})
	}
}

// What is said of the token's objects is no failure of the session.
func TestSessionIsKeptAfterAnAnswerAboutObjects(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	twice := randomBytes(t, 16)
	for range 2 {
		_, err := tok.GenerateHMACKey(t.Context(), token.SHA256, twice, "twice")
		require.NoError(t, err)
	}
	opened := f.count("C_OpenSession")
	_, err := tok.Describe(t.Context(), randomBytes(t, 16))
	require.ErrorIs(t, err, token.ErrKeyMissing)
	_, err = tok.MAC(t.Context(), tok.HMACKey(token.SHA256, twice), []byte("message"))
	require.ErrorIs(t, err, token.ErrKeyAmbiguous)
	require.ErrorIs(t, tok.DestroyKey(t.Context(), key.ID(), "another label"), token.ErrKeyForeign)
	_, err = tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	assert.Equal(t, opened+1, f.count("C_OpenSession"), "but for a second look at what was seen twice")
}

// When one session turns out to be dead while the token answers, those that lie idle are dropped: they are likely to be of
// the same age and fate, and each would cost a call its second try.
func TestIdleSessionsOfTheSameFateAreDropped(t *testing.T) {
	tok, f := openFaulty(t, sessions(12))
	key := newKey(t, tok)
	var streams []*token.Stream
	for range 3 {
		st, err := tok.NewStream(context.Background(), key)
		require.NoError(t, err)
		streams = append(streams, st)
	}
	for _, st := range streams {
		_, err := st.Sum()
		require.NoError(t, err)
	}
	require.Equal(t, 3, tok.Stats().Open)
	closed := f.count("C_CloseSession")
	f.fail("C_SignInit", 1, pkcs11.CKR_SESSION_HANDLE_INVALID)
	_, err := tok.MAC(context.Background(), key, []byte("message"))
	require.NoError(t, err)
	assert.Equal(t, 1, tok.Stats().Open, "the fresh one")
	assert.Equal(t, closed+3, f.count("C_CloseSession"))
}

// lateContext ends, and lets its caller know why only when everything else has come to rest: so a call that is answered
// while its caller is about to give up is answered in the last moment. It works in a bubble of synctest.
type lateContext struct {
	*manualContext
	last func() // runs when the caller asks why
}

func (c lateContext) Err() error {
	err := c.manualContext.Err()
	if err != nil {
		c.last()
		synctest.Wait()
	}
	return err
}

// An answer that comes in the last moment counts, and its session stays in the pool.
func TestAnswerInTheLastMoment(t *testing.T) {
	for name, call := range map[string]func(context.Context, *token.Token, *token.Key) error{
		"C_Sign":           func(ctx context.Context, tok *token.Token, key *token.Key) error { return <-sign(ctx, tok, key) },
		"C_GetSessionInfo": func(ctx context.Context, tok *token.Token, _ *token.Key) error { return tok.Healthy(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				tok, f := openFaulty(t, noCopies)
				key := newKey(t, tok)
				for range 2 { // the second time shows what the first has left behind
					opened := f.count("C_OpenSession")
					reached, free := f.hang(name)
					ctx := lateContext{newManualContext(), free}
					answer := make(chan error, 1)
					go func() { answer <- call(ctx, tok, key) }()
					<-reached
					synctest.Wait() // the caller waits for the answer or the end of its context
					ctx.end(context.Canceled)
					require.NoError(t, <-answer)
					assert.Equal(t, token.Stats{Size: 32, Open: 1}, tok.Stats())
					assert.Equal(t, opened, f.count("C_OpenSession"))
				}
			})
		})
	}
}

// A session that is granted in the last moment, when its caller is about to give up, is not lost.
func TestGrantInTheLastMoment(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t, sessions(1))
		key := newKey(t, tok)
		reached, free := f.hang("C_Sign")
		first := sign(context.Background(), tok, key)
		<-reached
		ctx := lateContext{newManualContext(), free}
		waiting := sign(ctx, tok, key)
		synctest.Wait()
		require.Equal(t, 1, tok.Stats().Waiting)
		ctx.end(context.Canceled)
		require.NoError(t, <-first)
		require.ErrorIs(t, <-waiting, context.Canceled)
		assert.Equal(t, token.Stats{Size: 1, Open: 1}, tok.Stats())
		_, err := tok.MAC(context.Background(), key, []byte("message"))
		require.NoError(t, err)
	})
}

// Who is about to give up when the token is closed is told of that.
func TestCloseInTheLastMoment(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		cfg, _ := newConfig(t)
		f := newFaulty(&cfg)
		cfg.MaxSessions = 1
		tok, err := token.Open(context.Background(), cfg)
		require.NoError(t, err)
		key := newKey(t, tok)
		reached, free := f.hang("C_Sign")
		first := sign(context.Background(), tok, key)
		<-reached
		closed := make(chan error, 1)
		ctx := lateContext{newManualContext(), func() { go func() { closed <- tok.Close() }() }}
		waiting := sign(ctx, tok, key)
		synctest.Wait()
		ctx.end(context.Canceled)
		require.ErrorIs(t, <-waiting, token.ErrClosed)
		free()
		require.NoError(t, <-first)
		require.NoError(t, <-closed)
	})
}
