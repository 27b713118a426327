package token_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/require"
)

// What becomes of sessions and of the device is told to the operator as it happens, once each.
func TestOperatorIsTold(t *testing.T) {
	var log bytes.Buffer // what writes to it is the callers' own, or awaited by Close
	logged := func(c *token.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }
	tok, f := openFaulty(t, sessions(2), timeout(500*time.Millisecond), logged)
	key := newKey(t, tok)
	told := func() string {
		defer log.Reset()
		return log.String()
	}
	mac := func() error { _, err := tok.MAC(context.Background(), key, []byte("message")); return err }
	require.NoError(t, mac())
	require.Empty(t, told())

	f.fail("C_SignInit", 1, pkcs11.CKR_SESSION_HANDLE_INVALID)
	require.NoError(t, mac())
	require.Regexp(t,
		`^.*level=WARN msg="a session of the token failed; the token itself answers" error="C_SignInit: CKR_SESSION_HANDLE_INVALID"\n$`, told())

	st, err := tok.NewStream(context.Background(), key) // takes the session that is open
	require.NoError(t, err)
	var refused atomic.Bool
	f.on("C_OpenSession", func() error {
		if refused.Swap(true) {
			return nil
		}
		return pkcs11.Error(pkcs11.CKR_SESSION_COUNT)
	})
	waiting := sign(context.Background(), tok, key)
	require.Eventually(t, func() bool { return tok.Stats().Waiting == 1 }, patience, tick)
	require.Regexp(t, `^.*level=WARN msg="the token has no more sessions to give, so the pool goes on with fewer" sessions=1\n$`, told())
	require.NoError(t, st.Close())
	require.NoError(t, <-waiting)
	require.Empty(t, told())

	// Each change of state is one line, however many meet it and however often it is tried to bring the device back.
	f.on("C_GetSessionInfo", func() error { return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED) })
	require.ErrorIs(t, tok.Healthy(context.Background()), token.ErrGone)
	require.ErrorIs(t, mac(), token.ErrGone)
	opened := f.count("C_Initialize")
	require.Eventually(t, func() bool { return f.count("C_Initialize") > opened+2 }, patience, tick)
	f.on("C_GetSessionInfo", nil)
	require.NoError(t, tok.Close()) // which awaits the goroutine
	lines := strings.Split(strings.TrimSpace(told()), "\n")
	require.Regexp(t, `^.*level=ERROR msg="the token is lost" token=\S+ cause="C_GetSessionInfo: CKR_DEVICE_REMOVED"$`, lines[0])
	const notYet = `msg="the token is not there yet" token=\S+ error="C_GetSessionInfo: CKR_DEVICE_REMOVED" waits_for_a_person=false$`
	require.Regexp(t, `^.*level=WARN `+notYet, lines[1])
	for _, line := range lines[2:] {
		require.Regexp(t, `^.*level=WARN msg="the token is back" token=\S+ lost_for=\S+ module_initialised=\d+$`, line)
	}
	require.LessOrEqual(t, len(lines), 3)
}
