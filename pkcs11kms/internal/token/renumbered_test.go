package token_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// renumbered is a module in which another token can take the place of the real one: of the same label, with another serial number.
type renumbered struct {
	token.Module
	serial atomic.Pointer[string] // nil: the real one
}

func (r *renumbered) GetTokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	info, err := r.Module.GetTokenInfo(slot)
	if serial := r.serial.Load(); serial != nil {
		info.SerialNumber = *serial
	}
	return info, err
}

// A module that is initialised anew to find a token's objects is asked for the token that was opened, whatever the URI would fit.
func TestARestartIsNoWayToAnotherToken(t *testing.T) {
	cfg, made := newConfig(t)
	dir := directory(t, made)
	cfg.URI = strings.Replace(cfg.URI, ";serial="+made.Serial, "", 1)
	require.NotContains(t, cfg.URI, "serial")
	r := &renumbered{}
	cfg.SetWrap(func(m token.Module) token.Module {
		r.Module = m
		return r
	})
	tok := open(t, cfg)
	key := newKey(t, tok)
	loseSight(t, tok, key, dir)
	another := "0123456789abcdef"
	r.serial.Store(&another)
	mac := func() error { _, err := tok.MAC(t.Context(), key, []byte("message")); return err }
	require.Eventually(t, func() bool {
		var refused *token.OpenError
		err := mac()
		require.ErrorIs(t, err, token.ErrGone)
		return errors.As(err, &refused) && refused.Reason == token.SerialMismatch
	}, patience, tick)
	r.serial.Store(nil)
	require.Eventually(t, func() bool { return mac() == nil }, patience, tick)
}
