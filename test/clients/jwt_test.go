package clients

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

var jwtOutput = regexp.MustCompile(`^token: (\S+)\nverified: alice\ntampered token refused\n$`)

// TestJWT runs the example, and checks its token apart from it.
func TestJWT(t *testing.T) {
	srv := newServer(t)
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

// TestJWTRotation: the RS256 example signs by an alias that the aws CLI moves to another key.
func TestJWTRotation(t *testing.T) {
	srv := newServer(t)
	env := environment(t, append(srv.Env(), "PYTHONDONTWRITEBYTECODE=1")...)
	cli := func(args ...string) string {
		args = append([]string{"kms", "--endpoint-url", srv.URL, "--output", "text"}, args...)
		out, err := process(t, env, awsCLI.find(t), args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return strings.TrimSpace(string(out))
	}
	example := func(stdin string, args ...string) (string, error) {
		cmd := process(t, env, boto3.find(t), append([]string{"jwt_rs256.py"}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	sign := func() string {
		token, err := example("", "sign", "alias/tokens")
		require.NoError(t, err, "%s", token)
		return token
	}
	newPair := func() string {
		return cli("create-key", "--key-spec", "RSA_2048", "--key-usage", "SIGN_VERIFY", "--query", "KeyMetadata.KeyId")
	}
	target := func() string {
		return cli("list-aliases", "--query", "Aliases[?AliasName=='alias/tokens'].TargetKeyId")
	}

	old, next := newPair(), newPair()
	cli("create-alias", "--alias-name", "alias/tokens", "--target-key-id", old)
	require.Equal(t, old, target())
	before := sign()
	cli("update-alias", "--alias-name", "alias/tokens", "--target-key-id", next)
	require.Equal(t, next, target())
	after := sign()

	v, err := jwt.NewVerifier(jwt.VerifierConfig{Client: srv.Client(), KeyIDs: []string{old, "alias/tokens"}})
	require.NoError(t, err)
	for _, token := range []string{before, after} {
		out, err := example(token, "verify", old, next)
		require.NoError(t, err, "%s", out)
		require.Equal(t, "verified: alice", out)
		require.NoError(t, v.Verify(t.Context(), token, nil))
		for _, changed := range tamperedTokens(t, token)[:2] {
			out, err = example(changed, "verify", old, next)
			require.Error(t, err)
			require.Equal(t, "refused: KMSInvalidSignatureException", out)
		}
	}
	out, err := example(before, "verify", next)
	require.Error(t, err)
	require.Equal(t, "refused: ValueError", out, "a kid that was not named")
}

// TestJWTPermissions: docs/jwt.md tells what to allow whom, which is what each of them asks for.
func TestJWTPermissions(t *testing.T) {
	document, err := os.ReadFile(filepath.Join("..", "..", "docs", "jwt.md"))
	require.NoError(t, err)
	documented := func(who string) []string {
		row := regexp.MustCompile(`(?m)^\| ` + who + ` \| (.*?)(?:, or with | \|$)`).FindSubmatch(document)
		require.NotNil(t, row, who)
		var names []string
		for _, name := range regexp.MustCompile("`kms:(\\w+)`").FindAllSubmatch(row[1], -1) {
			names = append(names, string(name[1]))
		}
		return names
	}
	for kind, spec := range map[string]types.KeySpec{"HMAC key": "HMAC_256", "key pair": "ECC_NIST_P256"} {
		srv := newServer(t)
		usage := types.KeyUsageTypeSignVerify
		if kind == "HMAC key" {
			usage = types.KeyUsageTypeGenerateVerifyMac
		}
		made, err := inProcess(t, srv).CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
		require.NoError(t, err)
		key, before := *made.KeyMetadata.KeyId, map[string]int{}
		asked := func() (names []string) {
			for _, name := range []string{"DescribeKey", "GenerateMac", "VerifyMac", "Sign", "Verify", "GetPublicKey", "ListKeys", "ListAliases"} {
				count := answered(t, srv, name)
				if count > before[name] {
					names = append(names, name)
				}
				before[name] = count
			}
			return names
		}
		token, err := jwt.Sign(t.Context(), srv.Client(), key, members{"sub": "alice"})
		require.NoError(t, err)
		require.ElementsMatch(t, documented("producer, "+kind), asked())
		v, err := jwt.NewVerifier(jwt.VerifierConfig{Client: srv.Client(), KeyIDs: []string{key}})
		require.NoError(t, err)
		require.NoError(t, v.Verify(t.Context(), token, nil))
		require.ElementsMatch(t, documented("consumer, "+kind), asked())
	}
}
