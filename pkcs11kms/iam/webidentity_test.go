package iam

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	mathrand "math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

const (
	issuer      = "https://oidc.example.org/id/A"
	issuerARN   = "arn:aws:iam::" + testAccount + ":oidc-provider/oidc.example.org/id/A"
	podSubject  = "system:serviceaccount:jwt:producer"
	podAudience = "kms"
)

// cluster is an issuer: a key for each kind of signature, by the kid.
type cluster struct {
	keys map[string]crypto.Signer
	jwks string
}

var newCluster = sync.OnceValue(func() *cluster {
	c := &cluster{keys: map[string]crypto.Signer{}}
	set := jwt.KeySet{}
	b64 := base64.RawURLEncoding.EncodeToString
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	c.keys["rsa"] = rsaKey
	set.Keys = append(set.Keys, jwt.JWK{Kty: "RSA", Kid: "rsa", Use: "sig", N: b64(rsaKey.N.Bytes()),
		E: b64(big.NewInt(int64(rsaKey.E)).Bytes())})
	for kid, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			panic(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			panic(err)
		}
		half := len(point) / 2
		c.keys[kid] = key
		set.Keys = append(set.Keys, jwt.JWK{Kty: "EC", Kid: kid, Crv: curve.Params().Name, X: b64(point[1 : 1+half]), Y: b64(point[1+half:])})
	}
	text, err := json.Marshal(set)
	if err != nil {
		panic(err)
	}
	c.jwks = string(text)
	return c
})

// podClaims are those of a token of Kubernetes.
func podClaims() gojwt.MapClaims {
	now := time.Now().Unix()
	return gojwt.MapClaims{"iss": issuer, "sub": podSubject, "aud": []string{"other", podAudience}, "exp": now + 600, "iat": now, "nbf": now,
		"kubernetes.io": map[string]any{"namespace": "jwt"}}
}

func (c *cluster) sign(t *testing.T, method gojwt.SigningMethod, kid string, claims gojwt.MapClaims, key any) string {
	t.Helper()
	token := gojwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	if key == nil {
		key = c.keys[kid]
	}
	text, err := token.SignedString(key)
	require.NoError(t, err)
	return text
}

func (c *cluster) token(t *testing.T, change func(gojwt.MapClaims)) string {
	t.Helper()
	claims := podClaims()
	if change != nil {
		change(claims)
	}
	return c.sign(t, gojwt.SigningMethodES256, "p256", claims, nil)
}

const trustsPods = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"Federated": "` + issuerARN + `"},
	"Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"oidc.example.org/id/A:sub": "` + podSubject + `",
	"oidc.example.org/id/A:aud": "` + podAudience + `"}}}}`

// webRig has a provider, a role that trusts it, and counts the calls of the HSM.
func webRig(t *testing.T) (r *rig, c *cluster, ask func(token string) (WebIdentityRole, error), macs *int) {
	r, c, macs = newRig(t), newCluster(), new(int)
	cfg, mac := r.cfg, r.cfg.MAC
	cfg.MAC = func(ctx context.Context, epoch uint32, message []byte) ([]byte, error) {
		*macs++
		return mac(ctx, epoch, message)
	}
	r.dir = New(cfg)
	r.Client = r.dir.Client().As(r.dir.Root(testAccount))
	_, err := r.CreateOpenIDConnectProvider(t.Context(), issuer, ProviderOptions{ClientIDs: []string{podAudience}, Keys: c.jwks})
	require.NoError(t, err)
	mustRole(t, r.Client, producer.Name, trustsPods)
	*r.log = recorder{}
	nobody := r.As(Caller{}.From(Connection{SourceIP: netip.MustParseAddr("192.0.2.7"), UserAgent: "pod", RequestID: "req"}))
	return r, c, func(token string) (WebIdentityRole, error) {
		return nobody.AssumeRoleWithWebIdentity(t.Context(), WebIdentityInput{RoleARN: producerARN, SessionName: "pod", Token: token})
	}, macs
}

func TestAssumeRoleWithWebIdentity(t *testing.T) {
	r, c, ask, macs := webRig(t)
	for alg, kid := range map[string]string{"RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "ES256": "p256", "ES384": "p384",
		"ES512": "p521"} {
		made, err := ask(c.sign(t, gojwt.GetSigningMethod(alg), kid, podClaims(), nil))
		require.NoError(t, err, alg)
		require.Equal(t, [4]string{podSubject, issuer, podAudience, "arn:aws:sts::" + testAccount + ":assumed-role/JwtProducer/pod"},
			[4]string{made.Subject, made.Provider, made.Audience, made.ARN})
		require.Nil(t, made.PackedPolicySize)
	}
	require.Equal(t, 1, *macs, "the token key is made once")
	made, err := ask(c.token(t, func(claims gojwt.MapClaims) { claims["azp"], claims["aud"] = podAudience, "somebody" }))
	require.NoError(t, err)
	session := r.session(t, made.AssumedRole)
	who, err := r.dir.Identify(t.Context(), session)
	require.NoError(t, err)
	provider, _ := who.Condition("federatedprovider", time.Now())
	require.Equal(t, []string{issuerARN}, provider)

	e := r.log.recorded[len(r.log.recorded)-1]
	require.Empty(t, r.log.intended)
	var record map[string]any
	text := audit.AppendRecord(nil, &e, time.Now())
	require.NoError(t, json.Unmarshal(text, &record))
	require.Equal(t, map[string]any{"type": "WebIdentityUser", "principalId": issuer + ":" + podAudience + ":" + podSubject,
		"userName": podSubject, "identityProvider": issuerARN}, record["userIdentity"])
	require.Equal(t, testAccount, record["recipientAccountId"])
	require.Equal(t, "192.0.2.7", record["sourceIPAddress"])
	require.NotContains(t, string(text), made.SecretAccessKey)
	require.NotContains(t, string(text), made.SessionToken)

	nobody := r.As(Caller{})
	in := WebIdentityInput{RoleARN: producerARN, SessionName: "pod", Token: c.token(t, nil), DurationSeconds: aws.Int32(7200)}
	_, err = nobody.AssumeRoleWithWebIdentity(t.Context(), in)
	requireAPIError(t, err, "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	in.DurationSeconds, in.Policy = aws.Int32(900), aws.String(allowed("iam:GetUser", "*"))
	made, err = nobody.AssumeRoleWithWebIdentity(t.Context(), in)
	require.NoError(t, err)
	require.NotNil(t, made.PackedPolicySize)
	require.WithinDuration(t, time.Now().Add(15*time.Minute), made.Expiration, 5*time.Second)
	r.log.unrecorded = fmt.Errorf("the log is full")
	made, err = nobody.AssumeRoleWithWebIdentity(t.Context(), in)
	require.ErrorIs(t, err, r.log.unrecorded)
	require.Empty(t, made, "what is not recorded is not answered")
}

// Whoever has proved nothing is refused without a call of the HSM and without a record; no answer repeats a token.
func TestForgedWebIdentities(t *testing.T) {
	r, c, ask, macs := webRig(t)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	public, err := x509.MarshalPKIXPublicKey(c.keys["rsa"].Public())
	require.NoError(t, err)
	modulus := c.keys["rsa"].Public().(*rsa.PublicKey).N.Bytes()
	const noKey, noToken, noProvider = "Couldn't retrieve verification key from your identity provider,  please", "is not a valid JWT.",
		"No OpenIDConnect provider found in your account for "
	with := func(name string, value any) string {
		return c.token(t, func(claims gojwt.MapClaims) {
			if claims[name] = value; value == nil {
				delete(claims, name)
			}
		})
	}
	good := c.token(t, nil)
	parts := strings.Split(good, ".")
	for name, test := range map[string]struct{ token, want string }{
		"another key":              {c.sign(t, gojwt.SigningMethodES256, "p256", podClaims(), other), noToken},
		"an unknown kid":           {c.sign(t, gojwt.SigningMethodES256, "x", podClaims(), other), noKey},
		"no kid":                   {c.sign(t, gojwt.SigningMethodES256, "", podClaims(), c.keys["p256"]), noKey},
		"the kid of another key":   {c.sign(t, gojwt.SigningMethodES256, "rsa", podClaims(), c.keys["p256"]), noToken},
		"the kid of another curve": {c.sign(t, gojwt.SigningMethodES256, "p384", podClaims(), c.keys["p256"]), noToken},
		"none":                     {c.sign(t, gojwt.SigningMethodNone, "p256", podClaims(), gojwt.UnsafeAllowNoneSignatureType), noToken},
		"HS256 by the public key":  {c.sign(t, gojwt.SigningMethodHS256, "rsa", podClaims(), public), noToken},
		"HS256 by the modulus":     {c.sign(t, gojwt.SigningMethodHS256, "rsa", podClaims(), modulus), noToken},
		"PS256":                    {c.sign(t, gojwt.SigningMethodPS256, "rsa", podClaims(), nil), noToken},
		"no signature":             {parts[0] + "." + parts[1] + ".", noToken},
		"two parts":                {parts[0] + "." + parts[1], noToken},
		"another issuer":           {with("iss", "https://oidc.example.org/id/B"), noProvider + "https://oidc.example.org/id/B"},
		"a slash more":             {with("iss", issuer+"/"), noProvider + "this issuer"},
		"another case":             {with("iss", "https://OIDC.example.org/id/A"), noProvider + "this issuer"},
		"another case of the path": {with("iss", "https://oidc.example.org/id/a"), noProvider + "https://oidc.example.org/id/a"},
		"http":                     {with("iss", "http://oidc.example.org/id/A"), noProvider + "this issuer"},
		"without a scheme":         {with("iss", "oidc.example.org/id/A"), noProvider + "this issuer"},
		"no issuer":                {with("iss", nil), noToken},
		"no subject":               {with("sub", nil), noToken},
		"a long subject":           {with("sub", strings.Repeat("s", 513)), noToken},
		"a number as the subject":  {with("sub", 5), noToken},
		"no exp":                   {with("exp", nil), noToken},
		"a fraction":               {with("exp", float64(time.Now().Unix())+600.5), noToken},
		"exp as text":              {with("exp", "9999999999"), noToken},
		"no iat":                   {with("iat", nil), noToken},
		"too long":                 {with("more", strings.Repeat("x", 12500)), noToken},
		"an access token":          {"ya29.abcdef", noToken},
	} {
		_, err := ask(test.token)
		require.Equal(t, "InvalidIdentityToken", errorCode(err), "%s: %v", name, err)
		require.ErrorContains(t, err, test.want, name)
	}
	for range 1000 {
		raw := []byte(good)
		at := mathrand.IntN(len(raw))
		if raw[at] ^= byte(1 << mathrand.IntN(7)); raw[at] == good[at] {
			continue
		}
		_, err := ask(string(raw))
		require.Contains(t, []string{"InvalidIdentityToken", "ValidationError"}, errorCode(err), string(raw))
		require.NotContains(t, err.Error(), parts[1][:20])
	}
	require.NoError(t, second(r.CreateOpenIDConnectProvider(t.Context(), "https://oidc.example.org/empty", ProviderOptions{})))
	*r.log = recorder{}
	_, err = ask(with("iss", "https://oidc.example.org/empty"))
	require.ErrorContains(t, err, noKey, "a provider without keys")
	for _, token := range []string{"", "abc", strings.Repeat("x", 20001)} {
		_, err = ask(token)
		require.Equal(t, "ValidationError", errorCode(err))
		require.ErrorContains(t, err, "at 'webIdentityToken' failed to satisfy constraint")
	}
	_, err = r.As(Caller{}).AssumeRoleWithWebIdentity(t.Context(), WebIdentityInput{RoleARN: strings.Replace(producerARN, testAccount,
		otherAccount, 1), SessionName: "pod", Token: good})
	require.ErrorContains(t, err, noProvider+issuer, "the role's account has no such provider")
	require.Zero(t, *macs)
	require.Empty(t, r.log.recorded)
	require.NoError(t, second(ask(good)))
}

// Tokens that the issuer has signed and that will not do are refused in the words of AWS STS, and recorded without the token.
func TestRefusedWebIdentities(t *testing.T) {
	r, c, ask, macs := webRig(t)
	mustRole(t, r.Client, "Closed", "")
	now := time.Now().Unix()
	*r.log = recorder{}
	for name, test := range map[string]struct {
		claims gojwt.MapClaims
		code   string
		text   string
	}{
		"expired": {gojwt.MapClaims{"exp": now - 1}, "ExpiredTokenException", "Token expired: current date/time "},
		"expires now": {gojwt.MapClaims{"exp": now}, "ExpiredTokenException",
			fmt.Sprintf(" must be before the expiration date/time %d", now)},
		"not yet":          {gojwt.MapClaims{"nbf": now + 300}, "InvalidIdentityToken", "not valid yet"},
		"issued later":     {gojwt.MapClaims{"iat": now + 300}, "InvalidIdentityToken", "not valid yet"},
		"another audience": {gojwt.MapClaims{"aud": "x"}, "InvalidIdentityToken", "Incorrect token audience"},
		"no audience":      {gojwt.MapClaims{"aud": []string{}}, "InvalidIdentityToken", "Incorrect token audience"},
		"another azp":      {gojwt.MapClaims{"azp": "x"}, "InvalidIdentityToken", "Incorrect token audience"},
		"another subject":  {gojwt.MapClaims{"sub": podSubject + "2"}, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"},
	} {
		before := len(r.log.recorded)
		token := c.token(t, func(claims gojwt.MapClaims) { maps.Copy(claims, test.claims) })
		_, err := ask(token)
		assert.Equal(t, test.code, errorCode(err), "%s: %v", name, err)
		assert.ErrorContains(t, err, test.text, name)
		require.Len(t, r.log.recorded, before+1, name)
		text := string(audit.AppendRecord(nil, &r.log.recorded[before], time.Now()))
		assert.Contains(t, text, `"errorCode":"`+test.code, name)
		for _, part := range strings.Split(token, ".") {
			assert.NotContains(t, text, part, name)
		}
	}
	for _, role := range []string{"Closed", "None"} {
		_, err := r.As(Caller{}).AssumeRoleWithWebIdentity(t.Context(), WebIdentityInput{RoleARN: "arn:aws:iam::" + testAccount + ":role/" + role,
			SessionName: "pod", Token: c.token(t, nil)})
		requireAPIError(t, err, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
	}
	require.Zero(t, *macs, "nobody was let in")
	require.NoError(t, r.RemoveClientID(t.Context(), issuerARN, podAudience))
	_, err := ask(c.token(t, nil))
	require.ErrorContains(t, err, "Incorrect token audience")
	require.NoError(t, r.AddClientID(t.Context(), issuerARN, podAudience))
	require.NoError(t, second(ask(c.token(t, nil))))
	other := strings.Replace(c.jwks, `"kid":"p256"`, `"kid":"gone"`, 1)
	require.NoError(t, r.UpdateProviderKeys(t.Context(), issuerARN, other))
	_, err = ask(c.token(t, nil))
	require.ErrorContains(t, err, "Couldn't retrieve verification key")
	require.NoError(t, r.DeleteOpenIDConnectProvider(t.Context(), issuerARN))
	_, err = ask(c.token(t, nil))
	require.ErrorContains(t, err, "No OpenIDConnect provider found in your account for "+issuer)
}

// Who calls by a token cannot assume by AssumeRole, and who has a role cannot by a token's trust.
func TestWebIdentityIsNoPrincipal(t *testing.T) {
	r, c, ask, _ := webRig(t)
	_, err := r.as(t, "Alice", allowed("sts:*", "*")).AssumeRole(t.Context(), AssumeRoleInput{RoleARN: producerARN, SessionName: "job"})
	require.Equal(t, "AccessDenied", errorCode(err))
	for _, trust := range []string{trusts("*"), trustsAll, strings.Replace(trustsPods, issuerARN, issuerARN+"B", 1)} {
		require.NoError(t, r.UpdateTrustPolicy(t.Context(), producer.Name, trust))
		_, err := ask(c.token(t, nil))
		require.Equal(t, "AccessDenied", errorCode(err), trust)
	}
}

// The operations of providers: what is refused, and what is kept of keys.
func TestOpenIDConnectProviders(t *testing.T) {
	r, c := newRig(t), newCluster()
	for _, url := range []string{"http://a.b", "https://a", "https://A.b", "https://a.b/", "https://a.b:443", "https://a.b?x",
		"https://a.b/c d",
		"https://user@a.b", "a.b"} {
		_, err := r.CreateOpenIDConnectProvider(t.Context(), url, ProviderOptions{})
		requireAPIError(t, err, "ValidationError", "Invalid Open ID Connect Provider URL")
	}
	private := `{"keys":[{"kty":"EC","kid":"x","crv":"P-256","x":"AA","y":"AA","d":"c2VjcmV0"},` + c.jwks[len(`{"keys":[`):]
	made, err := r.CreateOpenIDConnectProvider(t.Context(), issuer, ProviderOptions{ClientIDs: []string{"b", "a", "b"}, Keys: private,
		Tags: []keystore.Tag{{Key: "Stage", Value: "test"}}})
	require.NoError(t, err)
	require.Equal(t, issuerARN, made.ARN)
	require.Equal(t, []string{"a", "b"}, made.ClientIDs)
	require.NotContains(t, made.Keys, "c2VjcmV0", "a private key is not kept")
	_, err = r.CreateOpenIDConnectProvider(t.Context(), issuer, ProviderOptions{})
	requireAPIError(t, err, "EntityAlreadyExists", "Provider with url "+issuer+" already exists.")
	for _, keys := range []string{"{", "{}", `{"keys":[]}`, `{"keys":[{"kty":"oct","k":"AAAA"}]}`} {
		require.Equal(t, "InvalidInput", errorCode(r.UpdateProviderKeys(t.Context(), issuerARN, keys)), keys)
	}
	require.Equal(t, "InvalidInput", errorCode(r.UpdateProviderKeys(t.Context(), issuerARN, "")))
	require.Equal(t, "LimitExceeded", errorCode(r.UpdateProviderKeys(t.Context(), issuerARN, strings.Repeat(" ", 65537))))
	may := r.as(t, "Alice", allowed("iam:*", "*"))
	err = may.UpdateProviderKeys(t.Context(), issuerARN, c.jwks)
	require.ErrorContains(t, err, "pkcs11kms:UpdateOpenIDConnectProviderKeys")
	require.Equal(t, "AccessDenied", errorCode(err))
	require.NoError(t, r.UpdateProviderKeys(t.Context(), issuerARN, c.jwks))
	for i := range 98 {
		require.NoError(t, r.AddClientID(t.Context(), issuerARN, fmt.Sprint("client", i)))
	}
	requireAPIError(t, r.AddClientID(t.Context(), issuerARN, "more"), "LimitExceeded",
		"Cannot exceed quota for ClientIdsPerOpenIdConnectProvider: 100")
	for i := range 99 {
		require.NoError(t, second(r.CreateOpenIDConnectProvider(t.Context(), fmt.Sprintf("https://more.example.org/%02d", i), ProviderOptions{})))
	}
	_, err = r.CreateOpenIDConnectProvider(t.Context(), "https://a.b", ProviderOptions{})
	requireAPIError(t, err, "LimitExceeded", "Cannot exceed quota for OpenIdConnectProvidersPerAccount: 100")
	arns, err := r.ListOpenIDConnectProviders(t.Context())
	require.NoError(t, err)
	require.Len(t, arns, 100)
	other := r.As(r.dir.Root(otherAccount))
	_, err = other.GetOpenIDConnectProvider(t.Context(), issuerARN)
	requireAPIError(t, err, "NoSuchEntity", "OpenIDConnect Provider not found for arn "+issuerARN)
	arns, err = other.ListOpenIDConnectProviders(t.Context())
	require.NoError(t, err)
	require.Empty(t, arns)
	foreign := strings.Replace(issuerARN, testAccount, otherAccount, 1)
	_, err = r.GetOpenIDConnectProvider(t.Context(), foreign)
	requireAPIError(t, err, "NoSuchEntity", "OpenIDConnect Provider not found for arn "+foreign)
	require.NoError(t, r.DeleteOpenIDConnectProvider(t.Context(), issuerARN))
	requireAPIError(t, r.DeleteOpenIDConnectProvider(t.Context(), issuerARN), "NoSuchEntity",
		"OpenId connect Provider "+issuerARN+" cannot be found.")
	require.Equal(t, "ValidationError", errorCode(r.DeleteOpenIDConnectProvider(t.Context(), "arn:aws:iam::1:x")))
}
