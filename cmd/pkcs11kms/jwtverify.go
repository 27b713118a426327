package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// tokenCheck is what jwt verify was asked for.
type tokenCheck struct {
	keyIDs         []string
	document       *string // a JWK Set in place of keyIDs
	missingKid     bool    // take tokens and keys without a kid
	showIgnored    bool
	audiences      []string
	issuer, leeway *string
}

func (a *app) jwtVerifyCommand() *cobra.Command {
	cmd := verb(groupTokens, "verify --key-id ID [--key-id ID...] TOKEN|-", "Verify a token and print its claims",
		"The token must be one of the keys named, or with --jwks of a JWK Set. Its kid chooses among those and never\n"+
			"another. For - the token is read from standard input, where it does not show in the list of processes.\n"+
			"A token that does not verify is refused with the exit code 1; its content is not shown.\n"+
			"Keys of a JWK Set that cannot be used here do not disturb the others: --show-ignored tells which and why.",
		"pkcs11kms jwt sign --key-id alias/tokens --claims '{\"sub\":\"alice\"}' --expires-in 1h | pkcs11kms jwt verify --key-id alias/tokens -",
		"pkcs11kms jwt sign --key-id alias/signer --claims '{\"sub\":\"alice\"}' --expires-in 1h "+
			"| pkcs11kms jwt verify --jwks file://jwks.json -",
		"pkcs11kms jwt sign --key-id alias/tokens --claims '{\"aud\":\"api\",\"iss\":\"us\"}' --expires-in 1h "+
			"| pkcs11kms jwt verify --key-id alias/tokens \\\n"+
			"    --audience api --issuer us --leeway 30s -")
	cmd.Args = oneToken
	var c tokenCheck
	in := newInput(cmd)
	in.list(&c.keyIDs, "key-id", tokenKeyUsage+" of a key whose tokens are taken; may be repeated")
	in.text(&c.document, "jwks", "in place of --key-id: a JWK Set, or file://PATH; no KMS is asked")
	in.boolean(func(on bool) { c.missingKid = on }, "allow-missing-kid",
		"with --jwks: take a token without kid where one key of the set has its alg, and keys without kid")
	in.boolean(func(on bool) { c.showIgnored = on }, "show-ignored", "with --jwks: tell which keys of the set are not used, and why")
	in.list(&c.audiences, "audience", "refuse tokens whose aud does not have it; repeated, one of them")
	in.text(&c.issuer, "issuer", "refuse tokens with another iss, or none")
	in.text(&c.leeway, "leeway", "how far clocks may differ, such as 30s; at most 1h (default: 0s)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := in.parse(); err != nil {
			return err
		}
		return a.checkToken(cmd.Context(), c, args[0])
	}
	return cmd
}

func (a *app) checkToken(ctx context.Context, c tokenCheck, argument string) error {
	switch {
	case (len(c.keyIDs) == 0) == (c.document == nil):
		return usagef("exactly one of --key-id and --jwks is required")
	case c.document == nil && c.missingKid:
		return usagef("--allow-missing-kid goes with --jwks alone: without a kid nothing tells which key of KMS is meant")
	case c.document == nil && c.showIgnored:
		return usagef("--show-ignored goes with --jwks alone")
	}
	claims, err := c.claims()
	if err != nil {
		return err
	}
	token, err := a.readToken(ctx, argument)
	if err != nil {
		return err
	}
	if c.document != nil {
		return a.verifyByKeySet(ctx, c, claims, token)
	}
	return a.withClient(ctx, func(client api) error {
		verifier, err := jwt.NewVerifier(jwt.VerifierConfig{Client: namedCalls{client}, KeyIDs: c.keyIDs, Claims: claims})
		if err != nil {
			return err
		}
		return a.verifyToken(ctx, verifier, token)
	})
}

// mostLeeway bounds --leeway: who needs more has a clock to set.
const mostLeeway = time.Hour

// claims are what the token's claims must be, besides in time.
func (c *tokenCheck) claims() (options []gojwt.ParserOption, err error) {
	if c.audiences != nil { // which may be an empty JSON list
		if len(c.audiences) == 0 || slices.Contains(c.audiences, "") {
			return nil, usagef("argument --audience: is empty")
		}
		options = append(options, gojwt.WithAudience(c.audiences...))
	}
	if c.issuer != nil {
		if *c.issuer == "" {
			return nil, usagef("argument --issuer: is empty")
		}
		options = append(options, gojwt.WithIssuer(*c.issuer))
	}
	if c.leeway != nil {
		leeway, err := time.ParseDuration(*c.leeway)
		if err != nil || leeway < 0 || leeway > mostLeeway {
			return nil, usagef("argument --leeway: %q is no time from 0s to 1h", *c.leeway)
		}
		options = append(options, gojwt.WithLeeway(leeway))
	}
	return options, nil
}

func oneToken(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef("one token is required, or - for standard input; there are %d", len(args))
	}
	return nil
}

// readToken returns the argument, or standard input without the line end.
func (a *app) readToken(ctx context.Context, argument string) (string, error) {
	if argument != standardInput {
		return argument, nil
	}
	const more = 16 // than a token has, for line ends; of a longer one it shows that it is too long
	text, err := io.ReadAll(io.LimitReader(interruptible(ctx, a.stdin), jwt.MaxTokenBytes+more))
	if err != nil {
		return "", &unreadableError{standardInput, err}
	}
	return strings.TrimSpace(string(text)), nil
}

func (a *app) verifyByKeySet(ctx context.Context, c tokenCheck, claims []gojwt.ParserOption, token string) error {
	if a.endpoint != "" {
		return usagef("--endpoint-url does not go with --jwks, for which no server is asked")
	}
	set, err := jwt.ParseKeySet([]byte(*c.document))
	if err != nil {
		return usagef("argument --jwks: %w", err)
	}
	verifier, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set, AllowMissingKid: c.missingKid, Claims: claims})
	if err != nil {
		return usagef("argument --jwks: %w", err)
	}
	ignored := verifier.Ignored()
	if c.showIgnored {
		for _, key := range ignored {
			fmt.Fprintf(a.stderr, "ignored: %s\n", oneLine(key.String()))
		}
	}
	err = a.verifyToken(ctx, verifier, token)
	if errors.Is(err, jwt.ErrUnknownKey) && len(ignored) > 0 && !c.showIgnored {
		return &environmentError{err, fmt.Sprintf("%d of the set's %d keys are not used: --show-ignored tells why",
			len(ignored), len(set.Keys)+len(set.Ignored))}
	}
	return err
}

func (a *app) verifyToken(ctx context.Context, verifier *jwt.Verifier, token string) error {
	var claims json.RawMessage
	if err := verifier.Verify(ctx, token, &claims); err != nil {
		return err
	}
	return a.printJSON("Claims", claims)
}
