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

// Of two tokens of one serial the label tells which is meant. Every name counts, an empty one too.
func TestLocateOneOfTwoTokensOfOneSerial(t *testing.T) {
	cfg, first := newConfig(t)
	second := softhsm.NewToken(t)
	cfg.SetWrap(func(m token.Module) token.Module { return oneSerial{m} })
	bare := pkcs11.New(first.Module)
	slots := map[uint]bool{}
	var want token.Names
	for _, tok := range []softhsm.TestToken{first, second} {
		keep := open(t, token.Config{URI: tok.URI(tok.PINFile), SoftHSMConf: tok.ConfigFile}) // so that the module stays initialised
		want = keep.Info().Names()
		want.Serial = "123"
		slot, err := token.Locate(t.Context(), cfg, want)
		require.NoError(t, err)
		require.Equal(t, slotOf(t, bare, want.Label), slot)
		slots[slot] = true
	}
	require.Len(t, slots, 2)
	for _, change := range []func(*token.Names){
		func(i *token.Names) { i.Label = "" }, func(i *token.Names) { i.Serial = "" }, func(i *token.Names) { i.Manufacturer = "" },
		func(i *token.Names) { i.Model = "" }, func(i *token.Names) { i.Label += "x" },
	} {
		other := want
		change(&other)
		_, err := token.Locate(t.Context(), cfg, other)
		var refused *token.OpenError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, token.TokenMissing, refused.Reason)
	}
}

// twins gives all tokens the names of one.
type twins struct {
	token.Module
	of token.Names
}

func (m twins) GetTokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	info, err := m.Module.GetTokenInfo(slot)
	info.Label, info.SerialNumber, info.ManufacturerID, info.Model = m.of.Label, m.of.Serial, m.of.Manufacturer, m.of.Model
	return info, err
}

// Where nothing tells two tokens apart, neither is taken.
func TestLocateOneOfTwins(t *testing.T) {
	cfg, _ := newConfig(t)
	softhsm.NewToken(t)
	want := token.Names{Label: "twin", Serial: "1", Manufacturer: "m", Model: "m"}
	cfg.SetWrap(func(m token.Module) token.Module { return twins{m, want} })
	_, err := token.Locate(t.Context(), cfg, want)
	var refused *token.OpenError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, token.TokenAmbiguous, refused.Reason)
}
