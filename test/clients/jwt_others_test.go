package clients

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

// otherCommand and otherAnswer are what js/jose.mjs and pyjwt.py understand.
type (
	otherCommand struct {
		Make   *otherToken `json:"make,omitempty"`
		Verify *otherToken `json:"verify,omitempty"`
	}
	otherToken struct {
		Alg    string          `json:"alg"`
		Kid    string          `json:"kid,omitempty"`
		Claims members         `json:"claims,omitempty"`
		Token  string          `json:"token,omitempty"`
		KeySet json.RawMessage `json:"keySet,omitempty"`
		Secret string          `json:"secret,omitempty"`
	}
	otherAnswer struct {
		Token   string          `json:"token"`
		KeySet  json.RawMessage `json:"keySet"`
		Claims  members         `json:"claims"`
		Refused string          `json:"refused"`
	}
)

// onEachJWTLibrary runs a test with each library that is not ours.
func onEachJWTLibrary(t *testing.T, test func(t *testing.T, ask func(otherCommand) otherAnswer)) {
	for name, start := range map[string]func(*testing.T) func(otherCommand) (otherAnswer, error){
		"jose": func(t *testing.T) func(otherCommand) (otherAnswer, error) {
			return converse[otherCommand, otherAnswer](t, node.find(t), javaScript(t, "jose.mjs"))
		},
		"PyJWT": func(t *testing.T) func(otherCommand) (otherAnswer, error) {
			return converse[otherCommand, otherAnswer](t, pyJWT.find(t), "pyjwt.py")
		},
	} {
		t.Run(name, func(t *testing.T) {
			library := start(t)
			test(t, func(c otherCommand) otherAnswer {
				got, err := library(c)
				require.NoError(t, err)
				return got
			})
		})
	}
}

// tamperedTokens are near a token: other claims, another signature, none.
func tamperedTokens(t *testing.T, token string) []string {
	t.Helper()
	parts := strings.Split(token, ".")
	signature := fromBase64URL(t, parts[2])
	signature[len(signature)/2] ^= 1
	other := base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"bob"}`))
	return []string{parts[0] + "." + other + "." + parts[2], parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(signature),
		parts[0] + "." + parts[1] + "."}
}

// signingSpecs are the key specs of the algorithms with a public key.
var signingSpecs = map[string]types.KeySpec{
	"RS256": "RSA_2048", "RS384": "RSA_2048", "RS512": "RSA_2048", "PS256": "RSA_2048", "PS384": "RSA_2048", "PS512": "RSA_2048",
	"ES256": "ECC_NIST_P256", "ES384": "ECC_NIST_P384", "ES512": "ECC_NIST_P521",
	"EdDSA": "ECC_NIST_EDWARDS25519",
}

// TestJWTsForOthers: they verify what keys in the token signed, by the JWK Set, and nothing near it.
func TestJWTsForOthers(t *testing.T) {
	srv := newServer(t)
	client := srv.Client()
	keys := map[types.KeySpec]string{}
	var ids []string
	for _, spec := range signingSpecs {
		if keys[spec] == "" {
			made, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: "SIGN_VERIFY"})
			require.NoError(t, err)
			keys[spec] = *made.KeyMetadata.KeyId
			ids = append(ids, keys[spec])
		}
	}
	set, err := jwt.PublicKeySet(t.Context(), client, ids...)
	require.NoError(t, err)
	document, err := json.Marshal(set)
	require.NoError(t, err)
	onEachJWTLibrary(t, func(t *testing.T, ask func(otherCommand) otherAnswer) {
		for alg, spec := range signingSpecs {
			method, err := jwt.MethodNamed(alg)
			require.NoError(t, err)
			signer, err := jwt.NewSigner(jwt.SignerConfig{Client: client, KeyID: keys[spec], Method: method})
			require.NoError(t, err)
			token, err := signer.Sign(t.Context(), members{"sub": "alice"})
			require.NoError(t, err)
			got := ask(otherCommand{Verify: &otherToken{Alg: alg, Token: token, KeySet: document}})
			require.Equal(t, otherAnswer{Claims: members{"sub": "alice"}}, got, alg)
			for _, changed := range tamperedTokens(t, token) {
				require.NotEmpty(t, ask(otherCommand{Verify: &otherToken{Alg: alg, Token: changed, KeySet: document}}).Refused, alg)
			}
		}
	})
}

// TestJWTsOfOthers: what they signed with a key pair of their own verifies here by their JWK Set, and nothing near it does.
func TestJWTsOfOthers(t *testing.T) {
	onEachJWTLibrary(t, func(t *testing.T, ask func(otherCommand) otherAnswer) {
		for alg := range signingSpecs {
			made := ask(otherCommand{Make: &otherToken{Alg: alg, Kid: "2026-01", Claims: members{"sub": "alice", "exp": 33333333333}}})
			set, err := jwt.ParseKeySet(made.KeySet)
			require.NoError(t, err, alg)
			v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set})
			require.NoError(t, err)
			var claims struct{ Sub string }
			require.NoError(t, v.Verify(t.Context(), made.Token, &claims), alg)
			require.Equal(t, "alice", claims.Sub)
			for _, changed := range tamperedTokens(t, made.Token) {
				require.ErrorIs(t, v.Verify(t.Context(), changed, nil), jwt.ErrInvalidToken, alg)
			}
		}
	})
}

// TestMACsOfOthers: HMAC keys do not leave their token, so the same key is put there by another PKCS#11 client and adopted.
func TestMACsOfOthers(t *testing.T) {
	secrets, ids := map[string][]byte{}, map[string]string{}
	for alg, length := range map[string]int{"HS256": 32, "HS384": 48, "HS512": 64} {
		secrets[alg] = make([]byte, length)
		_, _ = rand.Read(secrets[alg]) // never fails
	}
	srv := newServer(t, kmstest.Configure(func(cfg *pkcs11kms.Config) {
		putSecrets(t, cfg.Regions[pkcs11kms.DefaultRegion].Token, secrets)
	}))
	for alg, spec := range map[string]types.KeySpec{"HS256": "HMAC_256", "HS384": "HMAC_384", "HS512": "HMAC_512"} {
		adopted, _, err := doctor.AdoptKey(t.Context(), inProcess(t, srv), doctor.AdoptOptions{Label: alg, KeySpec: spec})
		require.NoError(t, err)
		ids[alg] = *adopted.KeyId
	}
	onEachJWTLibrary(t, func(t *testing.T, ask func(otherCommand) otherAnswer) {
		for alg, id := range ids {
			secret := base64.RawURLEncoding.EncodeToString(secrets[alg])
			made := ask(otherCommand{Make: &otherToken{Alg: alg, Kid: id, Claims: members{"sub": "alice"}, Secret: secret}})
			v, err := jwt.NewVerifier(jwt.VerifierConfig{Client: srv.Client(), KeyIDs: []string{id}})
			require.NoError(t, err)
			require.NoError(t, v.Verify(t.Context(), made.Token, nil), alg)
			for _, changed := range tamperedTokens(t, made.Token) {
				require.ErrorIs(t, v.Verify(t.Context(), changed, nil), jwt.ErrInvalidToken, alg)
			}
			token, err := jwt.Sign(t.Context(), srv.Client(), id, members{"sub": "alice"})
			require.NoError(t, err)
			require.Equal(t, otherAnswer{Claims: members{"sub": "alice"}},
				ask(otherCommand{Verify: &otherToken{Alg: alg, Token: token, Secret: secret}}))
			for _, changed := range tamperedTokens(t, token) {
				require.NotEmpty(t, ask(otherCommand{Verify: &otherToken{Alg: alg, Token: changed, Secret: secret}}).Refused, alg)
			}
		}
	})
}

// putSecrets writes secret keys into the token of a PKCS#11 URI, by their labels. Nobody else has the module open.
func putSecrets(t *testing.T, uri string, secrets map[string][]byte) {
	t.Helper()
	value := func(name string) string {
		_, rest, ok := strings.Cut(uri, name+"=")
		require.True(t, ok)
		return strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune(";?&", r) })[0]
	}
	pin, err := os.ReadFile(strings.TrimPrefix(value("pin-source"), "file:"))
	require.NoError(t, err)
	module := pkcs11.New(value("module-path"))
	require.NotNil(t, module)
	defer module.Destroy()
	require.NoError(t, module.Initialize())
	defer module.Finalize()
	slots, err := module.GetSlotList(true)
	require.NoError(t, err)
	for _, slot := range slots {
		info, err := module.GetTokenInfo(slot)
		require.NoError(t, err)
		if info.Label != value("token") {
			continue
		}
		session, err := module.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		require.NoError(t, err)
		require.NoError(t, module.Login(session, pkcs11.CKU_USER, strings.TrimSpace(string(pin))))
		for label, secret := range secrets {
			_, err := module.CreateObject(session, []*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
				pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
				pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, label), pkcs11.NewAttribute(pkcs11.CKA_VALUE, secret),
			})
			require.NoError(t, err)
		}
		return
	}
	t.Fatal("the token is not there")
}
