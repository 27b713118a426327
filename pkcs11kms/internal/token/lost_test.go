package token_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lostValues are what modules answer when the device, or one session, is lost.
var lostValues = []uint{
	pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_SESSION_HANDLE_INVALID,
	pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_GENERAL_ERROR,
	pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_OPERATION_ACTIVE,
}

func TestOneBrokenSessionDoesNotCondemnTheToken(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	want, err := tok.MAC(context.Background(), key, []byte("message"))
	require.NoError(t, err)
	for _, function := range []string{"C_SignInit", "C_Sign"} {
		for _, rv := range lostValues {
			before, closed := f.count(function), f.count("C_CloseSession")
			f.fail(function, 1, rv)
			got, err := tok.MAC(context.Background(), key, []byte("message"))
			require.NoErrorf(t, err, "%s 0x%X", function, rv)
			requireSame(t, want, got, "MAC")
			assert.Equal(t, before+2, f.count(function), "repeated once")
			require.Eventually(t, func() bool { return f.count("C_CloseSession") > closed }, patience, tick, "the broken session is thrown away")
		}
	}
	assert.NoError(t, tok.Healthy(context.Background()))
}

func TestAnErrorThatStaysIsReturned(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	f.fail("C_Sign", 2, pkcs11.CKR_GENERAL_ERROR)
	_, err := tok.MAC(context.Background(), key, []byte("message"))
	var e *token.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, "C_Sign: CKR_GENERAL_ERROR", e.Error())
	assert.NotErrorIs(t, err, token.ErrGone, "the device answers")
	_, err = tok.MAC(context.Background(), key, []byte("message"))
	assert.NoError(t, err)
}

func TestGeneratingIsNeverRepeated(t *testing.T) {
	tok, f := openFaulty(t)
	before := f.count("C_GenerateKey")
	f.fail("C_GenerateKey", 1, pkcs11.CKR_DEVICE_ERROR)
	_, err := tok.GenerateHMACKey(context.Background(), token.SHA256, randomBytes(t, 16), "once")
	requireRV(t, err, "C_GenerateKey", pkcs11.CKR_DEVICE_ERROR)
	assert.Equal(t, before+1, f.count("C_GenerateKey"))
}

// While the device is lost, nobody but the goroutine that brings it back calls the module, and calls are answered with the loss. When
// the device is there again, so is the token, with keys and sessions of the new connection.
func TestLostDeviceComesBack(t *testing.T) {
	for _, rv := range []uint{pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED} {
		tok, f := openFaulty(t, timeout(time.Second))
		key := newKey(t, tok)
		st, err := tok.NewStream(context.Background(), key)
		require.NoError(t, err)
		want, err := tok.MAC(context.Background(), key, []byte("message"))
		require.NoError(t, err)
		require.NoError(t, sumError(st)) // so that two sessions lie idle
		st, err = tok.NewStream(context.Background(), key)
		require.NoError(t, err)
		for _, function := range []string{"C_SignInit", "C_OpenSession", "C_GetSessionInfo"} {
			f.on(function, func() error { return pkcs11.Error(rv) })
		}
		_, err = tok.MAC(context.Background(), key, []byte("message"))
		require.ErrorIs(t, err, token.ErrGone)
		var e *token.Error
		require.ErrorAs(t, err, &e, "the cause is kept")
		assert.Equal(t, rv, e.RV)
		requireSameState(t, false, tok)

		signed := f.count("C_SignInit")
		_, err = tok.MAC(context.Background(), key, []byte("message"))
		assert.ErrorIs(t, err, token.ErrGone, "an outage that is older than the call timeout is not waited for")
		assert.ErrorIs(t, tok.Healthy(context.Background()), token.ErrGone)
		_, err = tok.NewStream(context.Background(), key)
		assert.ErrorIs(t, err, token.ErrGone)
		assert.Equal(t, signed, f.count("C_SignInit"))

		for _, function := range []string{"C_SignInit", "C_OpenSession", "C_GetSessionInfo"} {
			f.on(function, nil)
		}
		require.Eventually(t, func() bool { return tok.Healthy(context.Background()) == nil }, patience, tick)
		got, err := tok.MAC(context.Background(), key, []byte("message"))
		require.NoError(t, err)
		requireSame(t, want, got, "MAC")
		_, err = st.Write([]byte("data"))
		assert.ErrorIs(t, err, token.ErrGone, "a stream does not outlive its connection")
		requireSameState(t, true, tok)
		require.Eventually(t, func() bool { return tok.Stats().InUse == 0 }, patience, tick)
		require.NoError(t, tok.Close())
	}
}

// requireSameState checks that a token says that it is up, or lost for the first time.
func requireSameState(t *testing.T, up bool, tok *token.Token) {
	t.Helper()
	s := tok.State()
	require.Equal(t, up, s.Up)
	require.EqualValues(t, 1, s.Losses)
	require.False(t, s.Since.IsZero())
	if up {
		require.NoError(t, s.Err)
		return
	}
	require.ErrorIs(t, s.Err, token.ErrGone)
}

// What must not be repeated is answered with the loss as well.
func TestLostDeviceWhileAKeyIsMade(t *testing.T) {
	tok, f := openFaulty(t)
	for _, function := range []string{"C_GenerateKey", "C_OpenSession", "C_GetSessionInfo"} {
		f.on(function, func() error { return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED) })
	}
	_, err := tok.GenerateHMACKey(context.Background(), token.SHA256, randomBytes(t, 16), "lost")
	require.ErrorIs(t, err, token.ErrGone)
}

// Whoever closes all sessions ends the login of all. The token logs in again, and until then it calls no key missing.
func TestLoggedOutComesBack(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	tok := open(t, cfg)
	key := newKey(t, tok)
	bare := pkcs11.New(tok.Info().ModulePath)
	finalized := f.count("C_Finalize")
	for name, call := range map[string]func() error{
		"MAC":      func() error { _, err := tok.MAC(t.Context(), key, []byte("message")); return err },
		"Describe": func() error { _, err := tok.Describe(t.Context(), key.ID()); return err },
		"Healthy":  func() error { return tok.HealthyMAC(t.Context(), key) },
	} {
		require.NoError(t, bare.CloseAllSessions(slotOf(t, bare, tok.Info().Label)))
		require.Eventually(t, func() bool {
			err := call()
			require.NotErrorIs(t, err, token.ErrKeyMissing, name)
			return err == nil
		}, patience, tick, name)
	}
	require.Equal(t, finalized, f.count("C_Finalize"), "new sessions and a login are enough")
}

func TestKeeperSessionIsReplaced(t *testing.T) {
	tok, f := openFaulty(t)
	newKey(t, tok) // so that another session keeps the login
	f.fail("C_GetSessionInfo", 1, pkcs11.CKR_SESSION_HANDLE_INVALID)
	f.set(func() { f.asked = nil })
	opened, closed := f.count("C_OpenSession"), f.count("C_CloseSession")
	require.NoError(t, tok.Healthy(context.Background()))
	assert.Equal(t, opened+1, f.count("C_OpenSession"))
	assert.Equal(t, closed+1, f.count("C_CloseSession"), "the broken one takes none of the token's sessions any more")
	require.NoError(t, tok.Healthy(context.Background()))
	assert.Equal(t, opened+1, f.count("C_OpenSession"))
	require.Len(t, f.asked, 3)
	assert.NotEqual(t, f.asked[0], f.asked[1])
	assert.Equal(t, f.asked[1], f.asked[2], "the broken one is not asked again")
}

// Who finds the device lost while looking after it tells everybody.
func TestHealthyFindsTheLoss(t *testing.T) {
	for _, rv := range []uint{pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT} {
		tok, f := openFaulty(t, timeout(time.Second))
		key := newKey(t, tok)
		opened := f.count("C_OpenSession")
		f.on("C_GetSessionInfo", func() error { return pkcs11.Error(rv) })
		require.ErrorIs(t, tok.Healthy(context.Background()), token.ErrGone)
		assert.LessOrEqual(t, opened+2, f.count("C_OpenSession"), "it is asked on two more sessions")
		_, err := tok.MAC(context.Background(), key, []byte("message"))
		require.ErrorIs(t, err, token.ErrGone)
		require.NoError(t, tok.Close()) // which ends the attempts to bring it back
	}
	tok, f := openFaulty(t)
	f.on("C_GetSessionInfo", func() error { return pkcs11.Error(pkcs11.CKR_SESSION_HANDLE_INVALID) })
	opened, closed := f.count("C_OpenSession"), f.count("C_CloseSession")
	require.ErrorIs(t, tok.Healthy(context.Background()), token.ErrGone)
	assert.LessOrEqual(t, opened+2, f.count("C_OpenSession"))
	assert.LessOrEqual(t, closed+2, f.count("C_CloseSession"), "a fresh session that is no better is not kept")
}

// Some tokens have no random numbers to give: that is no loss. Whatever else goes wrong with them is.
func TestHealthOfATokenWithoutRandomNumbers(t *testing.T) {
	tok, f := openFaulty(t)
	for _, rv := range []uint{pkcs11.CKR_RANDOM_NO_RNG, pkcs11.CKR_FUNCTION_NOT_SUPPORTED} {
		f.fail("C_GenerateRandom", 1, rv)
		require.NoError(t, tok.Healthy(context.Background()))
	}
	f.on("C_GenerateRandom", func() error { return pkcs11.Error(pkcs11.CKR_DEVICE_ERROR) })
	require.ErrorIs(t, tok.Healthy(context.Background()), token.ErrGone)
}

// While the device cannot be asked, nobody knows that it is lost: a call's answer is that it is busy. That of a check is so only
// while others are answered; else it hangs.
func TestDeviceThatCannotBeAskedIsNotCondemned(t *testing.T) {
	tok, f, _ := openShort(t)
	key := newKey(t, tok)
	reached, free := f.hang("C_GetSessionInfo")
	defer free()
	var hung *token.HungError
	require.ErrorAs(t, tok.Healthy(t.Context()), &hung)
	<-reached
	asked := f.count("C_GetSessionInfo")
	assert.ErrorAs(t, tok.Healthy(t.Context()), new(*token.HungError), "nobody is answered meanwhile")
	_, err := tok.MAC(context.Background(), key, []byte("message"))
	require.NoError(t, err)
	answered := make(chan error, 1)
	check := func() { answered <- tok.Healthy(t.Context()) }
	go check()
	require.Eventually(t, func() bool { // calls of others are answered while the check waits
		_, err := tok.MAC(context.Background(), key, []byte("message"))
		require.NoError(t, err)
		select {
		case err := <-answered:
			if errors.Is(err, token.ErrBusy) {
				return true
			}
			go check() // a slow machine has answered none in its time
		default:
		}
		return false
	}, patience, tick)
	f.fail("C_Sign", 1, pkcs11.CKR_GENERAL_ERROR)
	_, err = tok.MAC(context.Background(), key, []byte("message"))
	assert.ErrorIs(t, err, token.ErrBusy)
	assert.NotErrorIs(t, err, token.ErrGone)
	assert.Equal(t, asked, f.count("C_GetSessionInfo"), "the session is in use")
	free()
	<-hung.Done()
	_, err = tok.MAC(context.Background(), key, []byte("message"))
	assert.NoError(t, err)
}

// Those who wait for a session when the device is lost wait for it to come back, and are served then.
func TestThoseWhoWaitAreServedWhenTheDeviceIsBack(t *testing.T) {
	tok, f := openFaulty(t, sessions(1), timeout(time.Hour))
	key := newKey(t, tok)
	st, err := tok.NewStream(context.Background(), key) // holds the only session
	require.NoError(t, err)
	waiting := sign(context.Background(), tok, key)
	require.Eventually(t, func() bool { return tok.Stats().Waiting == 1 }, patience, tick)
	f.on("C_GetSessionInfo", func() error { return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED) })
	require.ErrorIs(t, tok.Healthy(context.Background()), token.ErrGone)
	later := sign(context.Background(), tok, key)
	require.Eventually(t, func() bool { return tok.Stats().Waiting == 2 }, patience, tick)
	brief, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	err = <-sign(brief, tok, key)
	require.ErrorIs(t, err, token.ErrGone, "whose context ends is told what was waited for")
	f.on("C_GetSessionInfo", nil)
	require.NoError(t, <-waiting)
	require.NoError(t, <-later)
	assert.ErrorIs(t, sumError(st), token.ErrGone)
}

func TestHealthyDoesNotNeedThePool(t *testing.T) {
	tok, f := openFaulty(t, func(c *token.Config) { c.MaxSessions = 1 })
	key := newKey(t, tok)
	reached, free := f.hang("C_Sign")
	done := make(chan error, 1)
	go func() {
		_, err := tok.MAC(context.Background(), key, []byte("message"))
		done <- err
	}()
	<-reached
	assert.NoError(t, tok.Healthy(t.Context()))
	free()
	require.NoError(t, <-done)
}

func TestHungHealthCheckGivesTheSessionBack(t *testing.T) {
	tok, f := openFaulty(t)
	reached, free := f.hang("C_GenerateRandom")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tok.Healthy(ctx) }()
	<-reached
	cancel()
	err := <-done
	var hung *token.HungError
	require.ErrorAs(t, err, &hung)
	free()
	<-hung.Done()
	assert.NoError(t, tok.Healthy(t.Context()))
}

// A token that was lost and then closed is closed.
func TestCloseOfALostToken(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	tok, err := token.Open(context.Background(), cfg)
	require.NoError(t, err)
	key := newKey(t, tok)
	f.on("C_GetSessionInfo", func() error { return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED) })
	require.ErrorIs(t, tok.Healthy(context.Background()), token.ErrGone)
	require.NoError(t, tok.Close())
	_, err = tok.MAC(context.Background(), key, []byte("message"))
	assert.ErrorIs(t, err, token.ErrClosed)
	assert.ErrorIs(t, tok.Healthy(context.Background()), token.ErrClosed)
}

// Sessions that break under load cost nobody an answer but those whose second try breaks as well.
func TestSessionsThatBreakUnderLoad(t *testing.T) {
	tok, f := openFaulty(t, func(c *token.Config) { c.MaxSessions = 4 })
	key := newKey(t, tok)
	want, err := tok.MAC(context.Background(), key, []byte("message"))
	require.NoError(t, err)
	var calls atomic.Int64
	f.on("C_SignInit", func() error {
		if calls.Add(1)%5 == 0 {
			return pkcs11.Error(pkcs11.CKR_SESSION_HANDLE_INVALID)
		}
		return nil
	})
	var all sync.WaitGroup
	for _, ctx := range []context.Context{context.Background(), t.Context()} {
		for range 4 {
			all.Go(func() {
				for range 50 {
					got, err := tok.MAC(ctx, key, []byte("message"))
					var e *token.Error
					if !errors.As(err, &e) && !assert.ObjectsAreEqual(want, got) {
						t.Error(err)
					}
					if errors.Is(err, token.ErrGone) {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
	f.on("C_SignInit", nil)
	_, err = tok.MAC(context.Background(), key, []byte("message"))
	require.NoError(t, err)
}

func TestStreamOnALostDevice(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	var streams []*token.Stream
	for range 2 {
		st, err := tok.NewStream(t.Context(), key)
		require.NoError(t, err)
		streams = append(streams, st)
	}
	for _, function := range []string{"C_SignUpdate", "C_OpenSession", "C_GetSessionInfo"} {
		f.on(function, func() error { return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED) })
	}
	updates := f.count("C_SignUpdate")
	for _, st := range streams {
		_, err := st.Write([]byte("data"))
		assert.ErrorIs(t, err, token.ErrGone)
		_, err = st.Sum()
		assert.ErrorIs(t, err, token.ErrGone)
	}
	assert.Equal(t, updates+1, f.count("C_SignUpdate"), "the second stream knows")
}

func sumError(st *token.Stream) error {
	_, err := st.Sum()
	return err
}
