package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

func (a *app) jwtCommand() *cobra.Command {
	cmd := operations("jwt", groupTokens, "Make and verify JSON Web Tokens with keys",
		"HMAC keys make HS256 to HS512, RSA keys RS256 to RS512 and PS256 to PS512, the curves P-256, P-384 and P-521\n"+
			"ES256, ES384 and ES512, and Ed25519 keys EdDSA. The kid of a token is the id of the key that signed it, so\n"+
			"tokens outlive the rotation of an alias.",
		"pkcs11kms jwt sign --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --claims '{\"sub\":\"alice\"}' --expires-in 1h")
	cmd.AddGroup(&cobra.Group{ID: groupTokens, Title: "Tokens:"})
	cmd.AddCommand(a.jwtSignCommand(), a.jwtVerifyCommand(), a.jwtKeySetCommand())
	return cmd
}

const tokenKeyUsage = "the key id, key ARN, alias or alias ARN"

// forever is the value of --expires-in for a token that does not expire.
const forever = "never"

func (a *app) jwtSignCommand() *cobra.Command {
	cmd := verb(groupTokens, "sign --key-id ID --claims JSON [--expires-in DURATION] [flags]", "Make a token",
		"Prints the token. The claims are one JSON object, whose numbers keep their form. --expires-in adds exp, and iat\n"+
			"unless it is there. A token without exp is valid for as long as its key: that must be asked for by\n"+
			"--expires-in "+forever+", unless the claims have an exp of their own. Times that no token can mean are refused:\n"+
			"an exp that has passed, or one in milliseconds.",
		"pkcs11kms jwt sign --key-id alias/tokens --claims '{\"sub\":\"alice\"}' --expires-in 1h",
		"pkcs11kms jwt sign --key-id alias/tokens --claims file://claims.json --expires-in 15m --header '{\"typ\":\"at+jwt\"}'")
	cmd.Annotations = map[string]string{takesEndpoint: ""} // the output is the token alone
	var keyID, claims, expires, header *string
	var algorithm string
	var anyTimes bool
	in := newInput(cmd)
	in.text(&keyID, "key-id", tokenKeyUsage+" (required)")
	in.text(&claims, "claims", "a JSON object, or file://PATH (required)")
	in.text(&expires, "expires-in", "how long the token is valid, such as 90s, 15m or 24h, or "+forever)
	enum(in, &algorithm, "algorithm", "such as PS256 (default: the one of the key's spec; RS256 for RSA)", algorithms())
	in.text(&header, "header", "further members of the header, a JSON object")
	in.boolean(func(on bool) { anyTimes = on }, "allow-any-times", "sign an exp that has passed, and times beyond the year 9999")
	in.require("key-id", "claims")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := in.parse(); err != nil {
			return err
		}
		cfg := jwt.SignerConfig{KeyID: aws.ToString(keyID), AllowAnyTimes: anyTimes}
		if err := signerOf(&cfg, *claims, expires, algorithm, header); err != nil {
			return err
		}
		return a.withClient(cmd.Context(), func(client api) error {
			cfg.Client = namedCalls{client}
			signer, err := jwt.NewSigner(cfg)
			if err != nil {
				return &usageError{err: err}
			}
			token, err := signer.Sign(cmd.Context(), json.RawMessage(*claims))
			switch {
			case errors.Is(err, jwt.ErrTimes):
				return &usageError{err: err, hint: "to sign it all the same, add --allow-any-times"}
			case errors.Is(err, jwt.ErrClaims):
				return &usageError{err: err}
			case err != nil:
				return err
			}
			return a.printf("%s\n", token)
		})
	}
	return cmd
}

func algorithms() (names []string) {
	for _, m := range jwt.Methods() {
		names = append(names, m.Alg())
	}
	return names
}

// signerOf fills the configuration from the flags; absent ones are nil.
func signerOf(cfg *jwt.SignerConfig, claims string, expires *string, algorithm string, header *string) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(claims), &members); err != nil || members == nil {
		return usagef("argument --claims: is no JSON object")
	}
	_, hasEnd := members["exp"]
	switch {
	case expires == nil && !hasEnd:
		return &usageError{err: errors.New("neither --expires-in is given nor do the claims have an exp"),
			hint: "say how long the token is valid, such as --expires-in 1h, or --expires-in " + forever}
	case expires != nil && *expires != forever:
		lifetime, err := time.ParseDuration(*expires)
		if err != nil || lifetime < time.Second || lifetime%time.Second != 0 {
			return usagef("argument --expires-in: %q is no time like 90s, 15m or 24h, nor %s", *expires, forever)
		}
		cfg.Lifetime = lifetime
	}
	if algorithm != "" {
		method, err := jwt.MethodNamed(algorithm)
		if err != nil {
			return usagef("argument --algorithm: %w", err)
		}
		cfg.Method = method
	}
	if header != nil {
		var members map[string]json.RawMessage
		if err := json.Unmarshal([]byte(*header), &members); err != nil || members == nil {
			return usagef("argument --header: is no JSON object")
		}
		cfg.Header = map[string]any{}
		for name, value := range members {
			cfg.Header[name] = value
		}
	}
	return nil
}

func (a *app) jwtKeySetCommand() *cobra.Command {
	cmd := verb(groupTokens, "jwks --key-id ID [--key-id ID...]", "Print public keys as a JWK Set",
		"The JWK Set (RFC 7517) is what other programs need to verify tokens without this service. HMAC keys are refused:\n"+
			"who can verify their tokens can make them.",
		"pkcs11kms jwt jwks --key-id 1234abcd-12ab-34cd-56ef-1234567890ab > jwks.json")
	var keyIDs []string
	in := newInput(cmd)
	in.list(&keyIDs, "key-id", tokenKeyUsage+"; may be repeated (required)")
	in.require("key-id")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := in.parse(); err != nil {
			return err
		}
		return a.withClient(cmd.Context(), func(client api) error {
			set, err := jwt.PublicKeySet(cmd.Context(), namedCalls{client}, keyIDs...)
			if err != nil {
				return err
			}
			text, err := json.Marshal(set)
			if err != nil {
				return err
			}
			return a.printJSON("JWKSet", text)
		})
	}
	return cmd
}

// refusedToken tells an error of a token, or of a key that tokens cannot have.
func refusedToken(err error) bool {
	return errors.Is(err, jwt.ErrInvalidToken) || errors.Is(err, jwt.ErrAlgorithm) || errors.Is(err, jwt.ErrTooLong)
}

// namedCalls is a client whose errors name the operation.
type namedCalls struct{ api }

func (n namedCalls) DescribeKey(ctx context.Context, in *kms.DescribeKeyInput, _ ...func(*kms.Options)) (*kms.DescribeKeyOutput, error) {
	return call(ctx, n.api, "DescribeKey", api.DescribeKey, in)
}

func (n namedCalls) GenerateMac(ctx context.Context, in *kms.GenerateMacInput, _ ...func(*kms.Options)) (*kms.GenerateMacOutput, error) {
	return call(ctx, n.api, "GenerateMac", api.GenerateMac, in)
}

func (n namedCalls) VerifyMac(ctx context.Context, in *kms.VerifyMacInput, _ ...func(*kms.Options)) (*kms.VerifyMacOutput, error) {
	return call(ctx, n.api, "VerifyMac", api.VerifyMac, in)
}

func (n namedCalls) Sign(ctx context.Context, in *kms.SignInput, _ ...func(*kms.Options)) (*kms.SignOutput, error) {
	return call(ctx, n.api, "Sign", api.Sign, in)
}

func (n namedCalls) Verify(ctx context.Context, in *kms.VerifyInput, _ ...func(*kms.Options)) (*kms.VerifyOutput, error) {
	return call(ctx, n.api, "Verify", api.Verify, in)
}

func (n namedCalls) GetPublicKey(ctx context.Context, in *kms.GetPublicKeyInput, _ ...func(*kms.Options)) (*kms.GetPublicKeyOutput, error) {
	return call(ctx, n.api, "GetPublicKey", api.GetPublicKey, in)
}
