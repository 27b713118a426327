package doctor

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// throughModule makes a configuration whose token is reached through a module that can be told what the token calls itself, and what it
// refuses.
func throughModule(t *testing.T) (statedir.Config, *faultp11.Module, softhsm.TestToken) {
	t.Helper()
	cfg, tok := newConfigAndToken(t)
	m := faultp11.New(t, tok.Module)
	tok.Module = m.Path
	uri := token.URI{Token: tok.Label, ModulePath: tok.Module, PINFile: tok.PINFile}
	cfg.Regions[testRegion] = pkcs11kms.Region{Token: uri.String()}
	return cfg, m, tok
}

// bind uses a region for the first time: it has one key afterwards.
func bind(t *testing.T, cfg statedir.Config) (bound keystore.Region, keyID string) {
	t.Helper()
	c := openClient(t, cfg)
	keyID = *mustCreate(t, c, types.KeySpecHmac256).KeyId
	require.NoError(t, c.bridge.Close())
	return boundTo(t, cfg), keyID
}

// inStore works on the store of a configuration that nobody has open.
func inStore(t *testing.T, cfg statedir.Config, work func(keystore.Store)) {
	t.Helper()
	store, err := cfg.OpenStore(t.Context())
	require.NoError(t, err)
	work(store)
	require.NoError(t, store.Close())
}

func boundTo(t *testing.T, cfg statedir.Config) (bound keystore.Region) {
	t.Helper()
	inStore(t, cfg, func(store keystore.Store) {
		var err error
		bound, err = keyring.BoundTo(t.Context(), store, testRegion)
		require.NoError(t, err)
	})
	return bound
}

// inToken works on the token of a configuration, past everything that this program keeps.
func inToken(t *testing.T, cfg statedir.Config, work func(*token.Token)) {
	t.Helper()
	tok, err := token.Open(t.Context(), cfg.TokenConfig(testRegion))
	require.NoError(t, err)
	work(tok)
	require.NoError(t, tok.Close())
}

func objectsIn(t *testing.T, cfg statedir.Config) (objects []token.Object) {
	t.Helper()
	inToken(t, cfg, func(tok *token.Token) {
		var err error
		objects, err = tok.Objects(t.Context())
		require.NoError(t, err)
	})
	return objects
}

func ofBinding(objects []token.Object) (n int) {
	for _, o := range objects {
		if o.Label == keyring.BindingKey {
			n++
		}
	}
	return n
}

// useKey makes a MAC by a key through a Bridge of its own.
func useKey(t *testing.T, cfg statedir.Config, keyID string) error {
	t.Helper()
	b, err := openBridge(t.Context(), cfg)
	if err != nil {
		return err
	}
	defer func() { assert.NoError(t, b.Close()) }()
	c, err := b.Client(testRegion)
	require.NoError(t, err)
	_, err = c.As(b.Root()).GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: aws.String(keyID),
		MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: []byte("message")})
	return err
}

func agreeing(asked *Rebinding, answer bool) func(Rebinding) (bool, error) {
	return func(r Rebinding) (bool, error) {
		*asked = r
		return answer, nil
	}
}

// What can become of a token, or of what its region's URI names, so that it does not prove to be the one that holds the keys.
var strangers = map[string]struct {
	become  func(*testing.T, statedir.Config, keystore.Region)
	text    string // of the error
	present int    // keys of which the object is there
}{
	"restored from a copy of before the binding key": {func(t *testing.T, cfg statedir.Config, bound keystore.Region) {
		inToken(t, cfg, func(tok *token.Token) {
			require.NoError(t, tok.DestroyKey(t.Context(), bound.Binding.CKAID, keyring.BindingKey))
		})
	}, "is not in it", 1},
	"a key of the same CKA_ID": {func(t *testing.T, cfg statedir.Config, bound keystore.Region) {
		inToken(t, cfg, func(tok *token.Token) {
			require.NoError(t, tok.DestroyKey(t.Context(), bound.Binding.CKAID, keyring.BindingKey))
			_, err := tok.GenerateHMACKey(t.Context(), token.SHA256, bound.Binding.CKAID, keyring.BindingKey)
			require.NoError(t, err)
		})
	}, "answers otherwise than the one that was made for the region", 1},
	"two objects of the CKA_ID": {func(t *testing.T, cfg statedir.Config, bound keystore.Region) {
		inToken(t, cfg, func(tok *token.Token) {
			_, err := tok.GenerateHMACKey(t.Context(), token.SHA256, bound.Binding.CKAID, "somebody else's")
			require.NoError(t, err)
		})
	}, "cannot be used: looking for CKA_ID", 1},
	"initialised anew, under the label of before": {func(t *testing.T, cfg statedir.Config, bound keystore.Region) {
		other := softhsm.NewToken(t)
		m := faultp11.New(t, other.Module)
		m.AtStart("on C_GetTokenInfo fail CKR_TOKEN_NOT_RECOGNIZED token=" + bound.Label)
		m.AtStart("token label=" + bound.Label)
		uri := token.URI{Token: bound.Label, ModulePath: m.Path, PINFile: other.PINFile}
		cfg.Regions[testRegion] = pkcs11kms.Region{Token: uri.String()}
	}, "the token that held them called itself", 0},
	"another token of all the same names": {func(t *testing.T, cfg statedir.Config, bound keystore.Region) {
		other := softhsm.NewToken(t)
		m := faultp11.New(t, other.Module)
		m.AtStart("on C_GetTokenInfo fail CKR_TOKEN_NOT_RECOGNIZED token=" + bound.Label)
		m.AtStart("token label=" + bound.Label + " serial=" + bound.Serial)
		uri := token.URI{Token: bound.Label, Serial: bound.Serial, ModulePath: m.Path, PINFile: other.PINFile}
		cfg.Regions[testRegion] = pkcs11kms.Region{Token: uri.String()}
	}, "is not in it", 0},
	"another token of other names": {func(t *testing.T, cfg statedir.Config, bound keystore.Region) {
		other := softhsm.NewToken(t)
		cfg.Regions[testRegion] = pkcs11kms.Region{Token: other.URI(other.PINFile)}
	}, "has neither the label nor the serial of the one that is expected", 0},
}

// A token that does not prove to be the one that holds the region's keys is used by nobody but doctor, who says what differs and how to
// mend it, and nothing is made in it. Repair is no remedy. When somebody says that it is to hold them from now on, it does, and proves
// itself.
func TestTokensThatDoNotProve(t *testing.T) {
	for name, c := range strangers {
		t.Run(name, func(t *testing.T) {
			cfg, _, _ := throughModule(t)
			bound, keyID := bind(t, cfg)
			c.become(t, cfg, bound)
			before := objectsIn(t, cfg)
			for range 2 {
				err := useKey(t, cfg, keyID)
				require.ErrorContains(t, err, c.text)
				require.ErrorIs(t, err, token.ErrAnotherToken)
				var hinted interface{ Hint() string }
				require.ErrorAs(t, err, &hinted)
				require.Contains(t, hinted.Hint(), "pkcs11kms doctor --rebind us-west-2")
			}
			r := examine(t.Context(), cfg)
			require.False(t, r.OK())
			found := r.find("token", testRegion)
			said := found[len(found)-1]
			require.Equal(t, StatusError, said.Status)
			require.Contains(t, said.Text, c.text)
			require.Contains(t, said.Hint, "pkcs11kms doctor --rebind us-west-2")
			if r.Regions[0].Token != nil {
				require.Equal(t, BindingRefused, r.Regions[0].Token.Binding)
				require.Contains(t, said.Hint, map[int]string{0: "0 of the region's 1 keys", 1: "1 of the region's 1 keys"}[c.present])
			}

			var asked Rebinding
			err := RebindRegion(t.Context(), cfg.Config, cfg.OpenStore, testRegion, agreeing(&asked, false))
			require.ErrorContains(t, err, "region us-west-2 is left as it is")
			require.ErrorAs(t, err, new(*pkcs11kms.RefusedError))
			require.Equal(t, 1, asked.Keys)
			require.Equal(t, c.present, asked.Present)
			require.Contains(t, asked.Was, bound.Serial)
			require.ElementsMatch(t, before, objectsIn(t, cfg), "nothing is made, and nothing is destroyed")
			require.Equal(t, bound, boundTo(t, cfg))

			require.NoError(t, RebindRegion(t.Context(), cfg.Config, cfg.OpenStore, testRegion, agreeing(&asked, true)))
			require.Subset(t, objectsIn(t, cfg), before)
			require.Len(t, objectsIn(t, cfg), len(before)+1, "a new binding key, and nothing else")
			require.Equal(t, c.present == 1, useKey(t, cfg, keyID) == nil)
			r = examine(t.Context(), cfg)
			require.Equal(t, c.present == 1, r.OK(), "%+v", r.Checks)
			require.Equal(t, BindingProved, r.Regions[0].Token.Binding)
			err = RebindRegion(t.Context(), cfg.Config, cfg.OpenStore, testRegion, agreeing(&asked, true))
			require.ErrorContains(t, err, "the region is bound to this token already")
		})
	}
}

// A token that nobody has logged in to before is not sent the PIN when it has neither the label nor the serial of the region's.
func TestNoPINForAnotherToken(t *testing.T) {
	cfg, _, _ := throughModule(t)
	_, keyID := bind(t, cfg)
	other := softhsm.NewToken(t)
	m := faultp11.New(t, other.Module)
	other.Module = m.Path
	m.AtStart("reset")
	cfg.Regions[testRegion] = pkcs11kms.Region{Token: other.URI(other.PINFile)}
	require.Error(t, useKey(t, cfg, keyID))
	require.False(t, examine(t.Context(), cfg).OK())
	require.Zero(t, m.Counters()["C_Login"].Calls)
}

// The same token under other names, as after an update of its firmware, or a copy of it in another device: it is used, which is worth a
// warning, and the store takes the names over.
func TestRenamedTokens(t *testing.T) {
	cfg, m, tok := throughModule(t)
	bound, keyID := bind(t, cfg)
	for _, names := range []string{"model=SoftHSM%20v3 firmware=9.1", "serial=0123456789abcdef model=SoftHSM%20v3"} {
		m.Do("token " + names)
		r := examine(t.Context(), cfg)
		require.True(t, r.OK(), "%+v", r.Checks)
		found := r.find("token", testRegion)
		require.Equal(t, StatusWarning, found[len(found)-1].Status)
		require.Contains(t, found[len(found)-1].Text, "calls itself otherwise than before: it was "+keyring.NamesIn(bound).String())
		require.Equal(t, bound, boundTo(t, cfg), "doctor only looks")

		require.NoError(t, useKey(t, cfg, keyID))
		now := boundTo(t, cfg)
		require.NotEqual(t, bound, now)
		require.Equal(t, bound.Binding, now.Binding)
		require.Equal(t, "SoftHSM v3", now.Model)
		for _, check := range examine(t.Context(), cfg).Checks {
			require.Equal(t, StatusOK, check.Status, "%+v", check)
		}
		bound = now
	}
	require.Equal(t, "0123456789abcdef", bound.Serial)

	// It was renamed, and is named by its new label now: the URI has nothing of the old names, so somebody has to say it.
	m.Do("token label=relabelled serial=fedcba9876543210")
	uri := token.URI{Token: "relabelled", ModulePath: m.Path, PINFile: tok.PINFile}
	cfg.Regions[testRegion] = pkcs11kms.Region{Token: uri.String()}
	require.ErrorIs(t, useKey(t, cfg, keyID), token.ErrAnotherToken)
	var asked Rebinding
	require.NoError(t, RebindRegion(t.Context(), cfg.Config, cfg.OpenStore, testRegion, agreeing(&asked, true)))
	require.Empty(t, asked.Problem, "it proves to be the same")
	require.Equal(t, 1, asked.Present)
	require.NoError(t, useKey(t, cfg, keyID))
	require.Equal(t, "relabelled", boundTo(t, cfg).Label)
	require.Equal(t, bound.Binding, boundTo(t, cfg).Binding, "by the key of before")
}
