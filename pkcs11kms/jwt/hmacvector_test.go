package jwt_test

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

// TestHMACVectorOfRFC7515 has A.1's key in a token: nothing but a test puts keys there.
func TestHMACVectorOfRFC7515(t *testing.T) {
	id := bytes.Repeat([]byte{1}, 16)
	srv := kmstest.NewServer(t, kmstest.Configure(func(cfg *pkcs11kms.Config) {
		tok, err := token.Open(t.Context(), token.Config{URI: cfg.Regions[pkcs11kms.DefaultRegion].Token})
		require.NoError(t, err)
		value, err := base64.RawURLEncoding.DecodeString(jwt.A1Key)
		require.NoError(t, err)
		_, err = tok.ImportHMACKey(t.Context(), token.SHA256, id, "RFC 7515 A.1", value)
		require.NoError(t, err)
		require.NoError(t, tok.Close())
	}))
	adopted, _, err := doctor.AdoptKey(t.Context(), inProcess(t, srv.Bridge()), doctor.AdoptOptions{ID: id, KeySpec: types.KeySpecHmac256})
	require.NoError(t, err)
	key, err := jwt.Resolve(t.Context(), srv.Client(), *adopted.KeyId)
	require.NoError(t, err)
	input, signature := jwt.Split(t, jwt.A1Token)
	made, err := jwt.HS256.Sign(input, key)
	require.NoError(t, err)
	require.True(t, bytes.Equal(signature, made))
	require.NoError(t, jwt.HS256.Verify(input, signature, key))
	signature[31] ^= 1
	require.ErrorIs(t, jwt.HS256.Verify(input, signature, key), gojwt.ErrTokenSignatureInvalid)
}

// inProcess is the client of the account's root in the default region.
func inProcess(t *testing.T, bridge *pkcs11kms.Bridge) *pkcs11kms.Client {
	t.Helper()
	client, err := bridge.Client("")
	require.NoError(t, err)
	return client.As(bridge.Root())
}
