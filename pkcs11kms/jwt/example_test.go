package jwt_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	gojwt "github.com/golang-jwt/jwt/v5"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// A producer and a consumer. Whether it is HS256, RS256 or ES256 is decided by the key.
func Example() {
	ctx := context.Background()
	cfg, err := config.LoadDefaultConfig(ctx) // with a pkcs11kms server's URL in AWS_ENDPOINT_URL_KMS
	if err != nil {
		log.Fatal(err)
	}
	client := kms.NewFromConfig(cfg) // or pkcs11kms.New, without a server

	token, err := jwt.Sign(ctx, client, "alias/tokens", gojwt.RegisteredClaims{
		Subject: "alice", ExpiresAt: gojwt.NewNumericDate(time.Now().Add(time.Hour)),
	})
	if err != nil {
		log.Fatal(err)
	}

	verifier, err := jwt.NewVerifier(jwt.VerifierConfig{Client: client, KeyIDs: []string{"alias/tokens", "alias/tokens-previous"}})
	if err != nil {
		log.Fatal(err)
	}
	var claims gojwt.RegisteredClaims
	switch err := verifier.Verify(ctx, token, &claims); {
	case err == nil:
		fmt.Println("hello,", claims.Subject)
	case errors.Is(err, jwt.ErrInvalidToken):
		fmt.Println("refused:", err) // an HTTP server answers 401
	default:
		fmt.Println("not now:", err) // and here 503
	}
}

// A key set from anywhere verifies without KMS.
func ExampleParseKeySet() {
	set, err := jwt.ParseKeySet([]byte(`{"keys": [{"kty": "EC", "kid": "2026-01", "crv": "P-256",
		"x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`))
	if err != nil {
		log.Fatal(err)
	}
	verifier, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set, Claims: []gojwt.ParserOption{gojwt.WithIssuer("https://issuer.example")}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(verifier.Verify(context.Background(), "e30.e30.", nil))
	// Output:
	// the token does not verify: the algorithm does not go with the key: alg "" is none of HS256 to ES512 and EdDSA
}
