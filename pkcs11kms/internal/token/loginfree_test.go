package token_test

import (
	"errors"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// A token that needs no login is used without one, by sessions that stay public, and is brought back so.
func TestTokenThatNeedsNoLogin(t *testing.T) {
	for name, withPIN := range map[string]bool{"with a PIN": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			cfg, m := newConfigThrough(t)
			uri, err := token.ParseURI(cfg.URI)
			require.NoError(t, err)
			m.AtStart("login-free " + uri.PINFile)
			if !withPIN {
				uri.PINFile = ""
				cfg.URI = uri.String()
			}
			tok := open(t, cfg)
			require.NoError(t, tok.Capabilities().For(token.SHA256).Err())
			key := newKey(t, tok)
			use := func() error { _, err := tok.MAC(t.Context(), key, []byte("message")); return err }
			require.NoError(t, use())
			require.NoError(t, tok.Healthy(t.Context()))
			_, err = tok.MAC(t.Context(), tok.HMACKey(token.SHA256, []byte("none")), []byte("message"))
			require.ErrorIs(t, err, token.ErrKeyMissing)
			m.Do("lose device")
			require.Eventually(t, func() bool { return use() == nil }, patience, tick)
			require.NoError(t, tok.Healthy(t.Context()))
			assert.EqualValues(t, 1, tok.State().Losses)
			if !withPIN {
				assert.Zero(t, m.Counters()["C_Login"].Calls)
			}
		})
	}
}

// stayPublic is a module whose sessions stay public, whatever C_Login says.
type stayPublic struct{ token.Module }

func (m stayPublic) GetSessionInfo(s pkcs11.SessionHandle) (pkcs11.SessionInfo, error) {
	info, err := m.Module.GetSessionInfo(s)
	info.State = pkcs11.CKS_RW_PUBLIC_SESSION
	return info, err
}

// A token that says that it needs a login is none that can be used without.
func TestTokenThatNeedsALoginIsNotUsedByPublicSessions(t *testing.T) {
	cfg, _ := newConfig(t)
	cfg.SetWrap(func(m token.Module) token.Module { return stayPublic{m} })
	_, err := token.Open(t.Context(), cfg)
	requireRV(t, err, "C_GetSessionInfo", pkcs11.CKR_USER_NOT_LOGGED_IN)
}

// One that says so, and is logged in to all the same, may not lose its login: the keys could not be seen.
func TestALoginThatWasNotNeededIsKept(t *testing.T) {
	cfg, m := newConfigThrough(t)
	m.AtStart("token flags=-CKF_LOGIN_REQUIRED")
	tok := open(t, cfg)
	newKey(t, tok)
	assert.Equal(t, 1, m.Counters()["C_Login"].Calls)
	m.Do("lose sessions")
	require.Eventually(t, func() bool { return tok.Healthy(t.Context()) == nil }, patience, tick)
	assert.Equal(t, 2, m.Counters()["C_Login"].Calls)
}

// Others are not used without a PIN.
func TestTokenThatNeedsALogin(t *testing.T) {
	cfg, _ := newConfigThrough(t)
	uri, err := token.ParseURI(cfg.URI)
	require.NoError(t, err)
	uri.PINFile = ""
	cfg.URI = uri.String()
	_, err = token.Open(t.Context(), cfg)
	var refused *token.OpenError
	require.True(t, errors.As(err, &refused))
	require.Equal(t, token.PINSource, refused.Reason)
}
