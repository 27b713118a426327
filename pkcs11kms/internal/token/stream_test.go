package token_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStreamEqualsGo(t *testing.T) {
	tok := newToken(t)
	for name, ctx := range contexts(t) {
		for _, h := range token.Hashes() {
			value := randomBytes(t, h.KeyBytes())
			key, err := tok.ImportHMACKey(ctx, h, randomBytes(t, 16), "imported", value)
			require.NoError(t, err)
			for _, parts := range [][]int{{}, {0}, {1}, {1, 0, 2, 3}, {4096}, {65536}, {65537}, {100, 200_000, 7}} {
				st, err := tok.NewStream(ctx, key)
				require.NoError(t, err)
				var message []byte
				for _, n := range parts {
					part := randomBytes(t, n)
					message = append(message, part...)
					written, err := st.Write(part)
					require.NoError(t, err)
					assert.Equal(t, n, written)
				}
				tag, err := st.Sum()
				require.NoErrorf(t, err, "%s %v %v", name, h, parts)
				requireSame(t, goMAC(h, value, message), tag, "MAC of a stream")
			}
		}
	}
	assert.Equal(t, 1, tok.Stats().Open, "the session is used again after Sum")
}

func TestStreamEndsOnce(t *testing.T) {
	tok := newToken(t)
	key := newKey(t, tok)
	st, err := tok.NewStream(t.Context(), key)
	require.NoError(t, err)
	first, err := st.Sum()
	require.NoError(t, err)
	tag := bytes.Clone(first)
	for range 2 {
		first[0]++ // which is the caller's own
		again, err := st.Sum()
		require.NoError(t, err)
		requireSame(t, tag, again, "Sum after its result was changed")
		first = again
	}
	for _, late := range []string{"late", ""} {
		_, err = st.Write([]byte(late))
		assert.ErrorIs(t, err, token.ErrClosed)
	}
	assert.NoError(t, st.Close())
	assert.NoError(t, st.Close())

	st, err = tok.NewStream(t.Context(), key)
	require.NoError(t, err)
	assert.NoError(t, st.Close())
	assert.NoError(t, st.Close())
	for _, late := range []string{"late", ""} {
		_, err = st.Write([]byte(late))
		assert.ErrorIs(t, err, token.ErrClosed)
	}
	_, err = st.Sum()
	assert.ErrorIs(t, err, token.ErrClosed)
}

// A stream that is given up leaves its operation active, so its session is thrown away.
func TestSessionOfAGivenUpStreamIsClosed(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	st, err := tok.NewStream(context.Background(), key)
	require.NoError(t, err)
	closed := f.count("C_CloseSession")
	require.NoError(t, st.Close())
	require.Eventually(t, func() bool { return f.count("C_CloseSession") == closed+1 && tok.Stats().Open == 0 }, patience, tick)
	_, err = tok.MAC(context.Background(), key, []byte("message"))
	require.NoError(t, err)
}

// A long Write is many calls, so that each has the time of one: none gets more than 64 KiB.
func TestLongWriteIsManyCalls(t *testing.T) {
	tok, f := openFaulty(t)
	st, err := tok.NewStream(t.Context(), newKey(t, tok))
	require.NoError(t, err)
	for n, calls := range map[int]int{65536: 1, 65537: 2, 200_000: 4} {
		before := f.count("C_SignUpdate")
		_, err = st.Write(make([]byte, n))
		require.NoError(t, err)
		assert.Equal(t, before+calls, f.count("C_SignUpdate"), "%d bytes", n)
	}
	require.NoError(t, st.Close())
}

func TestStreamEndsWithItsContext(t *testing.T) {
	tok := newToken(t)
	key := newKey(t, tok)
	ctx, cancel := context.WithCancel(context.Background())
	st, err := tok.NewStream(ctx, key)
	require.NoError(t, err)
	_, err = st.Write([]byte("begun"))
	require.NoError(t, err)
	assert.Equal(t, 1, tok.Stats().InUse)
	cancel()
	requireWhole(t, tok)
	_, err = st.Write([]byte("late"))
	assert.ErrorIs(t, err, context.Canceled)
	_, err = st.Sum()
	assert.ErrorIs(t, err, context.Canceled)
	_, err = tok.NewStream(ctx, key)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestDroppedStreamGivesItsSessionBack(t *testing.T) {
	tok := newToken(t)
	key := newKey(t, tok)
	for name, ctx := range contexts(t) {
		func() {
			st, err := tok.NewStream(ctx, key)
			require.NoError(t, err)
			_, err = st.Write([]byte("and then forgotten"))
			require.NoError(t, err)
		}()
		require.Eventually(t, func() bool {
			runtime.GC()
			return tok.Stats().InUse == 0
		}, patience, tick, name)
	}
}

// A quarter of the pool is for streams, and one session of a small one.
func TestStreamsHaveAQuarterOfThePool(t *testing.T) {
	for size, most := range map[int]int{1: 1, 3: 1, 7: 1, 8: 2, 11: 2} {
		tok, _ := openFaulty(t, sessions(size), timeout(100*time.Millisecond))
		key := newKey(t, tok)
		var open []*token.Stream
		for range most {
			st, err := tok.NewStream(context.Background(), key)
			require.NoError(t, err, "%d sessions", size)
			open = append(open, st)
		}
		_, err := tok.NewStream(context.Background(), key)
		require.ErrorIs(t, err, token.ErrBusy, "%d sessions", size)
		for _, st := range open {
			require.NoError(t, st.Close())
		}
	}
}

func TestStreamsLeaveRoomForMACs(t *testing.T) {
	tok, _ := openFaulty(t, sessions(8), timeout(50*time.Millisecond))
	key := newKey(t, tok)
	var open []*token.Stream
	for range 2 {
		st, err := tok.NewStream(context.Background(), key)
		require.NoError(t, err)
		open = append(open, st)
	}
	_, err := tok.NewStream(context.Background(), key)
	require.ErrorIs(t, err, token.ErrBusy)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = tok.NewStream(ctx, key)
	require.ErrorIs(t, err, context.Canceled)
	_, err = tok.MAC(context.Background(), key, []byte("message"))
	require.NoError(t, err)
	require.NoError(t, open[0].Close())
	st, err := tok.NewStream(context.Background(), key)
	require.NoError(t, err)
	require.NoError(t, st.Close())
	require.NoError(t, open[1].Close())
}

// Streams whose contexts end before, in and after each of their calls lose no session and no place among streams.
func TestStreamContextEndsAtAnyMoment(t *testing.T) {
	tok, _ := openFaulty(t, sessions(8))
	key := newKey(t, tok)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				ctx, cancel := context.WithCancel(context.Background())
				go cancel()
				st, err := tok.NewStream(ctx, key)
				if err == nil {
					_, err = st.Write([]byte("data"))
				}
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	requireWhole(t, tok)
	for range 2 { // as many as there may be
		st, err := tok.NewStream(t.Context(), key)
		require.NoError(t, err)
		defer func() { assert.NoError(t, st.Close()) }()
	}
}

func TestStreamThatCannotBegin(t *testing.T) {
	tok, f := openFaulty(t, sessions(4))
	key := newKey(t, tok)
	for range 3 { // more often than there are places for streams
		f.fail("C_SignInit", 1, pkcs11.CKR_MECHANISM_INVALID)
		st, err := tok.NewStream(t.Context(), key)
		var e *token.Error
		require.ErrorAs(t, err, &e)
		assert.Nil(t, st)
		requireWhole(t, tok)
	}
	st, err := tok.NewStream(t.Context(), key)
	require.NoError(t, err)
	require.NoError(t, st.Close())
}

func TestStreamErrorEndsIt(t *testing.T) {
	for _, function := range []string{"C_SignUpdate", "C_SignFinal"} {
		for _, rv := range []uint{pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_DEVICE_ERROR} {
			tok, f := openFaulty(t)
			st, err := tok.NewStream(t.Context(), newKey(t, tok))
			require.NoError(t, err)
			closed := f.count("C_CloseSession")
			f.fail(function, 1, rv)
			_, writeErr := st.Write([]byte("data"))
			_, sumErr := st.Sum()
			require.Eventually(t, func() bool { return f.count("C_CloseSession") > closed }, patience, tick, "its operation is active still")
			requireRV(t, sumErr, function, rv)
			assert.NotErrorIs(t, sumErr, token.ErrGone, "the device answers")
			assert.Equal(t, function == "C_SignUpdate", writeErr != nil)
			requireWhole(t, tok)
		}
	}
}

func TestHungStreamIsAnsweredInTime(t *testing.T) {
	tok, f := openFaulty(t, sessions(4)) // of which one is for streams
	key := newKey(t, tok)
	ctx, cancel := context.WithCancel(context.Background())
	st, err := tok.NewStream(ctx, key)
	require.NoError(t, err)
	reached, free := f.hang("C_SignUpdate")
	defer free()
	done := make(chan error, 1)
	go func() {
		_, err := st.Write([]byte("data"))
		done <- err
	}()
	<-reached
	cancel()
	err = <-done
	var hung *token.HungError
	require.ErrorAs(t, err, &hung)
	assert.Equal(t, 1, tok.Stats().Lost)
	free()
	<-hung.Done()
	assert.Zero(t, tok.Stats().InUse)
	assert.NoError(t, st.Close())
	next, err := tok.NewStream(context.Background(), key)
	require.NoError(t, err, "the place among the streams is free again")
	require.NoError(t, next.Close())
}

func TestStreamOfManyGoroutines(t *testing.T) {
	tok := newToken(t)
	value := randomBytes(t, 32)
	key, err := tok.ImportHMACKey(t.Context(), token.SHA256, randomBytes(t, 16), "imported", value)
	require.NoError(t, err)
	st, err := tok.NewStream(t.Context(), key)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := st.Write([]byte("same"))
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	tag, err := st.Sum()
	require.NoError(t, err)
	requireSame(t, goMAC(token.SHA256, value, []byte("samesamesamesamesamesamesamesame")), tag, "MAC")
}

func TestStreamIsRefusedWhereItCrashes(t *testing.T) {
	tok, _ := openFaulty(t, func(*token.Config) {})
	require.True(t, tok.Capabilities().Streams)
	require.NoError(t, tok.Close()) // what is known of the library is read when it is initialised
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	f.manufacturer, f.library = "IBM", "IBM"
	other := open(t, cfg)
	assert.False(t, other.Capabilities().Streams)
	_, err := other.NewStream(t.Context(), newKey(t, other))
	assert.ErrorIs(t, err, token.ErrStreamRefused)
	assert.Zero(t, f.count("C_SignFinal"))
}

func TestCloseEndsStreams(t *testing.T) {
	cfg, _ := newConfig(t)
	tok, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	st, err := tok.NewStream(context.Background(), newKey(t, tok))
	require.NoError(t, err)
	require.NoError(t, tok.Close())
	_, err = st.Write([]byte("late"))
	assert.ErrorIs(t, err, token.ErrClosed)
	_, err = st.Sum()
	assert.ErrorIs(t, err, token.ErrClosed)
	assert.Zero(t, tok.Stats().InUse)
}
