// Package jwt makes and verifies JSON Web Tokens (RFC 7519) with keys of AWS KMS: of a pkcs11kms.Client, where they never
// leave the PKCS#11 token, or of the AWS SDK's *kms.Client alike.
//
//	token, err := jwt.Sign(ctx, client, "alias/tokens", map[string]any{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()})
//
//	verifier, err := jwt.NewVerifier(jwt.VerifierConfig{Client: client, KeyIDs: []string{"alias/tokens", "alias/tokens-previous"}})
//	var claims struct{ Sub string `json:"sub"` }
//	err = verifier.Verify(ctx, token, &claims) // errors.Is(err, jwt.ErrInvalidToken): refuse it
//
// Algorithms are those of RFC 7518 with these key specs:
//
//	HS256, HS384, HS512   HMAC_256, HMAC_384, HMAC_512   GenerateMac, VerifyMac
//	RS256, RS384, RS512   RSA_2048, RSA_3072, RSA_4096   Sign; public key or Verify
//	PS256, PS384, PS512   RSA_2048, RSA_3072, RSA_4096   Sign; public key or Verify
//	ES256, ES384, ES512   ECC_NIST_P256, _P384, _P521    Sign; public key or Verify
//	EdDSA (RFC 8037)      ECC_NIST_EDWARDS25519          Sign; public key or Verify
//
// # Which key
//
// The kid of a token is the id of the KMS key that signed it, never an alias: so a token still verifies when the alias has
// moved to another key. A Verifier takes tokens of the keys that it was told and of no others. What a kid says is compared
// with the ids of those keys; it is never used to ask for a key.
//
// # What is refused
//
// An alg that does not go with the key's spec, "none", a kid that is missing or unknown, critical headers (crit), anything
// but three parts of unpadded base64url, JSON that two readers could understand differently, and tokens longer than
// MaxTokenBytes.
//
// # Together with golang-jwt
//
// The signing methods of this package are those of github.com/golang-jwt/jwt/v5, with a *Key as the key: see Method,
// Resolve and Verifier.Keyfunc.
package jwt
