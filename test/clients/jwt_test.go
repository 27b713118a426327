package clients

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

var jwtOutput = regexp.MustCompile(`^token: (\S+)\nverified: alice\ntampered token refused\n$`)

// TestJWT runs the example, and checks its token apart from it.
func TestJWT(t *testing.T) {
	srv := kmstest.NewServer(t)
	var stdout, stderr bytes.Buffer
	cmd := process(t, environment(t, srv.Env()...), boto3.find(t), "jwt_hs256.py")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), stderr.String())
	require.Empty(t, stderr.String())
	found := jwtOutput.FindStringSubmatch(stdout.String())
	require.NotNil(t, found, "the example printed something else")

	parts := strings.Split(found[1], ".")
	require.Len(t, parts, 3)
	var header struct{ Alg, Typ, Kid string }
	require.NoError(t, json.Unmarshal(fromBase64URL(t, parts[0]), &header))
	require.Equal(t, "HS256", header.Alg)
	require.Equal(t, "JWT", header.Typ)
	var claims struct {
		Sub   string
		Admin bool
	}
	require.NoError(t, json.Unmarshal(fromBase64URL(t, parts[1]), &claims))
	require.Equal(t, "alice", claims.Sub)
	require.False(t, claims.Admin)
	verified, err := inProcess(t, srv).VerifyMac(t.Context(), &kms.VerifyMacInput{
		KeyId: &header.Kid, MacAlgorithm: "HMAC_SHA_256", Message: []byte(parts[0] + "." + parts[1]), Mac: fromBase64URL(t, parts[2]),
	})
	require.NoError(t, err)
	require.True(t, verified.MacValid)
}

func fromBase64URL(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	require.NoError(t, err)
	return b
}
