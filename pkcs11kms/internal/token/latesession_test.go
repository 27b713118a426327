package token_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// A session that leaves the pool closes on a goroutine that nobody waits for, so that the module may have been initialised anew by then:
// the session's number is another session's, which stays open.
func TestALateCloseSparesTheSessionsOfTheNewModule(t *testing.T) {
	tok, f, dir := openWatched(t)
	key := newKey(t, tok)
	leave := tok.TakeFree()
	loseSight(t, tok, key, dir)
	mac := func() error { _, err := tok.MAC(context.Background(), key, []byte("message")); return err }
	require.Eventually(t, func() bool { return mac() == nil }, patience, tick)
	require.Equal(t, 1, f.count("C_Finalize"), "the module was initialised anew")
	closed, opened := f.count("C_CloseSession"), f.count("C_OpenSession")

	leave()
	assert.Equal(t, closed, f.count("C_CloseSession"))
	require.NoError(t, mac())
	require.NoError(t, tok.HealthyMAC(t.Context(), key))
	assert.Equal(t, opened, f.count("C_OpenSession"), "every session of the new module goes on")
}

// A session on which the MAC of a stream was begun by another object's handle is thrown away at once. Whoever got it next would meet
// the operation, and take it for a failure of the token: all sessions that lie idle would go.
func TestASessionBegunByAReusedHandleLeavesThePool(t *testing.T) {
	var log bytes.Buffer
	cfg, _ := newConfig(t)
	other := open(t, cfg)
	f, r := newFaulty(&cfg), &recycling{manufacturer: "A vendor that is not known"}
	cfg.SetWrap(func(m token.Module) token.Module {
		f.Module, r.Module = m, f
		return r
	})
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	tok := open(t, cfg)
	k, another := newKeyOf(t, other, "stream"), newKeyOf(t, other, "stream")
	idle, err := tok.NewStream(t.Context(), tok.HMACKey(token.SHA256, another.id))
	require.NoError(t, err)
	require.NoError(t, k.use(tok))
	want, given := k.made, r.last()
	theirs := r.realOf(t, another.id)
	_, err = idle.Sum()
	require.NoError(t, err)
	require.Equal(t, token.Stats{Size: 32, Open: 2}, tok.Stats())
	opened := f.count("C_OpenSession")

	r.swap(given, theirs)
	require.NoError(t, k.use(tok))
	requireSame(t, want, k.made, "MAC")
	require.Eventually(t, func() bool { return tok.Stats() == token.Stats{Size: 32, Open: 1} }, patience, tick)
	assert.Equal(t, opened, f.count("C_OpenSession"), "the session that lay idle beside it serves")
	assert.Empty(t, log.String())
}
