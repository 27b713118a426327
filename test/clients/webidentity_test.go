package clients

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

const (
	podRoleARN = "arn:aws:iam::000000000000:role/Pod"
	podIssuer  = "oidc.eks.us-west-2.amazonaws.com/id/EXAMPLED539D4633E53DE1B716D3041E"
	podSubject = "system:serviceaccount:jwt:producer"
)

// newPod makes a provider, and a role that trusts a service account of its cluster; it returns the file that a pod has its token in.
func newPod(t *testing.T, srv *kmstest.Server) (path string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	point, err := key.PublicKey.Bytes()
	require.NoError(t, err)
	b64 := base64.RawURLEncoding.EncodeToString
	jwks, err := json.Marshal(jwt.KeySet{Keys: []jwt.JWK{{Kty: "EC", Kid: "k", Crv: "P-256", X: b64(point[1:33]), Y: b64(point[33:])}}})
	require.NoError(t, err)
	root := srv.Bridge().IAM().As(srv.Bridge().Root())
	provider, err := root.CreateOpenIDConnectProvider(t.Context(), "https://"+podIssuer,
		iam.ProviderOptions{ClientIDs: []string{"sts.amazonaws.com"}, Keys: string(jwks)})
	require.NoError(t, err)
	pod := iam.PrincipalName{Type: keystore.PrincipalRole, Name: "Pod"}
	_, err = root.CreatePrincipal(t.Context(), pod, iam.PrincipalOptions{TrustPolicy: `{"Version": "2012-10-17", "Statement": {
		"Effect": "Allow", "Principal": {"Federated": "` + provider.ARN + `"}, "Action": "sts:AssumeRoleWithWebIdentity",
		"Condition": {"StringEquals": {"` + podIssuer + `:sub": "` + podSubject + `", "` + podIssuer + `:aud": "sts.amazonaws.com"}}}}`})
	require.NoError(t, err)
	require.NoError(t, root.PutPrincipalPolicy(t.Context(), pod, "own",
		`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:GenerateMac", "Resource": "*"}}`))
	now := time.Now().Unix()
	token := gojwt.NewWithClaims(gojwt.SigningMethodES256, gojwt.MapClaims{"iss": "https://" + podIssuer, "sub": podSubject,
		"aud": []string{"sts.amazonaws.com"}, "iat": now, "nbf": now, "exp": now + 3600})
	token.Header["kid"] = "k"
	text, err := token.SignedString(key)
	require.NoError(t, err)
	path = filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestWebIdentityByBoto3(t *testing.T) {
	srv := newServer(t)
	path := newPod(t, srv)
	script, err := filepath.Abs("webidentity.py")
	require.NoError(t, err)
	env := environment(t, "AWS_WEB_IDENTITY_TOKEN_FILE="+path, "AWS_ROLE_ARN="+podRoleARN, "AWS_ROLE_SESSION_NAME=pod",
		"AWS_REGION="+srv.Region, "AWS_DEFAULT_REGION="+srv.Region, "ENDPOINT="+srv.URL, "AWS_ENDPOINT_URL_STS="+srv.URL)
	require.JSONEq(t, `{"arn": "arn:aws:sts::000000000000:assumed-role/Pod/pod", "mac": 32, "subject": "`+podSubject+`",
		"provider": "https://`+podIssuer+`", "audience": "sts.amazonaws.com", "altered": 400, "none": 400}`,
		string(run(t, env, boto3.find(t), script, newKey(t, inProcess(t, srv), types.KeySpecHmac256))))
}

func TestWebIdentityByTheGoSDK(t *testing.T) {
	srv := newServer(t)
	path := newPod(t, srv)
	connections := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(connections.CloseIdleConnections)
	cfg := aws.Config{Region: srv.Region, BaseEndpoint: &srv.URL, HTTPClient: connections}
	cfg.Credentials = aws.NewCredentialsCache(stscreds.NewWebIdentityRoleProvider(sts.NewFromConfig(cfg), podRoleARN,
		stscreds.IdentityTokenFile(path)))
	key := newKey(t, inProcess(t, srv), types.KeySpecHmac256)
	out, err := kms.NewFromConfig(cfg).GenerateMac(t.Context(),
		&kms.GenerateMacInput{KeyId: &key, Message: []byte("m"), MacAlgorithm: types.MacAlgorithmSpecHmacSha256})
	require.NoError(t, err)
	assert.Len(t, out.Mac, 32)
	_, err = kms.NewFromConfig(cfg).DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key})
	require.ErrorContains(t, err, "assumed-role/Pod/")
}
