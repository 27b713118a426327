package token_test

import (
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// oneSerial gives all tokens one serial, as opencryptoki's and NSS's have.
type oneSerial struct{ token.Module }

func (m oneSerial) GetTokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	info, err := m.Module.GetTokenInfo(slot)
	info.SerialNumber = "123"
	return info, err
}

// Of two tokens of one serial the label tells which is meant; the serial alone means neither.
func TestLocateOneOfTwoTokensOfOneSerial(t *testing.T) {
	cfg, first := newConfig(t)
	second := softhsm.NewToken(t)
	cfg.SetWrap(func(m token.Module) token.Module { return oneSerial{m} })
	uri := token.URI{Serial: "123", ModulePath: first.Module}
	bare := pkcs11.New(first.Module)
	slots := map[uint]bool{}
	for _, tok := range []softhsm.TestToken{first, second} {
		uri.Token = tok.Label
		cfg.URI = uri.String()
		slot, err := token.Locate(t.Context(), cfg)
		require.NoError(t, err)
		keep := open(t, token.Config{URI: tok.URI(tok.PINFile), SoftHSMConf: tok.ConfigFile}) // so that the module stays initialised
		require.Equal(t, slotOf(t, bare, keep.Info().Label), slot)
		slots[slot] = true
	}
	require.Len(t, slots, 2)
	uri.Token = ""
	cfg.URI = uri.String()
	_, err := token.Locate(t.Context(), cfg)
	var refused *token.OpenError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, token.TokenAmbiguous, refused.Reason)
	uri.Token = "none"
	cfg.URI = uri.String()
	_, err = token.Locate(t.Context(), cfg)
	require.ErrorAs(t, err, &refused)
	require.Equal(t, token.TokenMissing, refused.Reason)
}
