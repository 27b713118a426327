package keyring

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// lateConfig is for a region that init has made, on a token that can be away, and waits for it.
func lateConfig(t *testing.T) (Config, *faultp11.Module) {
	cfg, tok := newConfig(t), softhsm.NewToken(t)
	m := faultp11.New(t, tok.Module)
	tok.Module = m.Path
	cfg.Regions = []string{bindingRegion}
	cfg.Token = func(string) token.Config {
		return token.Config{URI: tok.URI(tok.PINFile), Wait: true, CallTimeout: 500 * time.Millisecond}
	}
	config := cfg.Token(bindingRegion)
	config.Wait = false
	opened, err := OpenToken(t.Context(), cfg.Store, bindingRegion, config)
	require.NoError(t, err)
	require.NoError(t, opened.Close())
	return cfg, m
}

// openAway opens a Ring whose token is away, and brings it back.
func openAway(t *testing.T, cfg Config, m *faultp11.Module) *Ring {
	t.Helper()
	m.Do("down")
	r := open(t, cfg)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	require.False(t, r.Region(bindingRegion).Token.State().Up)
	m.Do("up")
	require.Eventually(t, func() bool { return r.Region(bindingRegion).Token.State().Up }, 20*time.Second, time.Millisecond)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	<-r.Settled()
	stop()
	<-done
	return r
}

// A token that was away at the start is bound, and its new names are kept, when it has come.
func TestTokensThatComeLate(t *testing.T) {
	cfg, m := lateConfig(t)
	r := openAway(t, cfg, m)
	bound, err := BoundTo(t.Context(), cfg.Store, bindingRegion)
	require.NoError(t, err)
	require.NotNil(t, bound.Binding)
	require.Equal(t, 1, bindingKeys(t, r))
	require.NoError(t, r.Close())

	m.Do("token model=SoftHSM%20v3")
	r = openAway(t, cfg, m)
	renamed, err := BoundTo(t.Context(), cfg.Store, bindingRegion)
	require.NoError(t, err)
	require.Equal(t, "SoftHSM v3", renamed.Model)
	require.Equal(t, bound.Binding, renamed.Binding)
	require.Equal(t, 1, bindingKeys(t, r))
}

// While a token is away nothing is written down for it: who would make a key is told so, and leaves nothing to the janitor.
func TestNothingIsBegunInATokenThatIsAway(t *testing.T) {
	cfg, m := lateConfig(t)
	m.Do("down")
	r := open(t, cfg)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	in := r.Region(bindingRegion)
	_, err := r.Make(t.Context(), in, MACSpecOf("HMAC_256"), keystore.Key{Region: in.Name, Account: cfg.Account, ID: "key",
		CKAID: keystore.HexBytes("0123456789abcdef")}, nil)
	require.ErrorIs(t, err, token.ErrGone)
	left, err := cfg.Store.Lookup(t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 1)
	require.NoError(t, err)
	require.Empty(t, left)
}

// Who waits for a token does not wait for the right one while another is there: that ends the start, as without waiting.
func TestNobodyWaitsBesideAnotherToken(t *testing.T) {
	cfg, _ := lateConfig(t)
	require.NoError(t, open(t, cfg).Close())
	bound, version, err := readRegion(t.Context(), cfg.Store, bindingRegion)
	require.NoError(t, err)
	bound.Binding.Proof = keystore.HexBytes("another token's")
	_, err = cfg.Store.Commit(t.Context(), bound.Put(version))
	require.NoError(t, err)
	_, err = Open(t.Context(), cfg, records.New(cfg.Store, cfg.Log, cfg.Now))
	require.ErrorIs(t, err, token.ErrAnotherToken)
	var unproven *BindingError
	require.ErrorAs(t, err, &unproven)
}
