package jwt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	gojwt "github.com/golang-jwt/jwt/v5"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/strictjson"
)

// VerifierConfig configures a Verifier. Either Client and KeyIDs, or KeySet are required.
type VerifierConfig struct {
	Client Client
	// KeyIDs name the keys whose tokens are taken, in the forms of SignerConfig.KeyID. An alias stands for the key to which it
	// points at the time: for a rotation name two, such as alias/tokens and alias/tokens-previous. Names that stand for no key
	// which is in use and allowed are passed over.
	KeyIDs []string
	// KeySet holds public keys in place of Client and KeyIDs: no KMS is asked then.
	// Keys of it that cannot be used are passed over, see Verifier.Ignored; a set without any other is ErrNoUsableKey.
	KeySet *KeySet
	// AllowMissingKid takes tokens whose header has no kid, where exactly one key of the KeySet has their alg; and it takes
	// keys without a kid, which are passed over otherwise.
	AllowMissingKid bool
	// AskKMS has KMS verify each signature (kms:Verify), as it does for each MAC anyhow. Otherwise signatures are verified
	// here, with the public key: without a round trip, but a key that was disabled still verifies for MaxAge.
	AskKMS bool
	// MaxAge is how long keys and aliases count as KMS told them. Default: five minutes. After that KMS must be
	// reached, or nothing verifies. For an unknown kid KMS is asked earlier, but at most every ten seconds.
	MaxAge time.Duration
	// Now is the clock, also for the claims. Default: time.Now.
	Now func() time.Time
	// Claims are golang-jwt's options about claims, such as WithIssuer, WithAudience, WithLeeway, WithExpirationRequired.
	// Without any, exp and nbf are checked where they are there. Options about parsing have no effect.
	Claims []gojwt.ParserOption
}

// Verifier verifies tokens of certain keys. Consumers with KeyIDs need kms:DescribeKey and, by the kind of key,
// kms:VerifyMac or kms:GetPublicKey (with AskKMS: kms:Verify). It is safe for concurrent use.
type Verifier struct {
	keys    keySource
	claims  *gojwt.Validator
	noKid   fixedKeys // for tokens without a kid; nil if those are not allowed
	ignored []IgnoredKey
}

// keySource finds the key of a kid, or returns an error that is ErrInvalidToken and ErrUnknownKey when there is none. Where
// several keys have the kid, it is the one that the method goes with.
type keySource interface {
	find(ctx context.Context, kid string, m *Method) (*Key, error)
}

// Ignored returns the keys of VerifierConfig.KeySet that are not used: those of KeySet.Ignored, and others of which the same is
// true. The caller must not change it.
func (v *Verifier) Ignored() []IgnoredKey { return v.ignored }

// NewVerifier makes a Verifier. KMS is not asked yet.
func NewVerifier(cfg VerifierConfig) (*Verifier, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxAge <= 0 {
		cfg.MaxAge = 5 * time.Minute
	}
	v := &Verifier{claims: gojwt.NewValidator(append([]gojwt.ParserOption{gojwt.WithTimeFunc(cfg.Now)}, cfg.Claims...)...)}
	switch {
	case cfg.KeySet != nil && (cfg.Client != nil || len(cfg.KeyIDs) > 0 || cfg.AskKMS):
		return nil, errors.New("making a verifier: KeySet goes neither with Client and KeyIDs nor with AskKMS")
	case cfg.KeySet != nil:
		keys, ignored, err := newFixedKeys(cfg.KeySet, cfg.AllowMissingKid)
		if err != nil {
			return nil, fmt.Errorf("making a verifier: %w", err)
		}
		v.keys, v.ignored = keys, ignored
		if cfg.AllowMissingKid {
			v.noKid = keys
		}
	case cfg.AllowMissingKid:
		return nil, errors.New("making a verifier: AllowMissingKid goes with KeySet alone")
	case cfg.Client == nil || len(cfg.KeyIDs) == 0:
		return nil, errors.New("making a verifier: Client and KeyIDs, or KeySet are required")
	default:
		v.keys = newRing(cfg)
	}
	return v, nil
}

// Verify verifies a token and reads its claims into what claims points to, as encoding/json does, with json.Number for
// numbers in interfaces; a *json.RawMessage gets the text as it was signed, and nil nothing. When claims have a method
// Validate() error, its error counts. Nothing is written before the signature, exp and nbf were checked.
//
// A token that does not verify is ErrInvalidToken; every other error says that it could not be examined. Neither shows the
// token or its claims.
func (v *Verifier) Verify(ctx context.Context, token string, claims any) error {
	p, err := parse(token)
	if err != nil {
		return err
	}
	method, key, err := v.keyOf(ctx, p)
	if err != nil {
		return err
	}
	if err := verifySignature(method, key.WithContext(ctx), p); err != nil {
		return err
	}
	var all gojwt.MapClaims
	if err := strictjson.Decode(p.claims, &all); err != nil {
		return invalidf(gojwt.ErrTokenMalformed, "its payload is %s", err)
	}
	if err := v.claims.Validate(all); err != nil {
		return invalid(fmt.Errorf("%w: %w", gojwt.ErrTokenInvalidClaims, err))
	}
	return readClaims(p.claims, claims)
}

// keyOf finds the one key and the method with which a token may be verified.
func (v *Verifier) keyOf(ctx context.Context, p *parsed) (*Method, *Key, error) {
	method, err := MethodNamed(p.alg)
	if err != nil {
		return nil, nil, invalid(err)
	}
	key, err := v.namedKey(ctx, p, method)
	if err != nil {
		return nil, nil, err
	}
	if err := key.allows(method); err != nil {
		return nil, nil, invalid(err)
	}
	return method, key, nil
}

func (v *Verifier) namedKey(ctx context.Context, p *parsed, method *Method) (*Key, error) {
	switch {
	case p.kid != "":
		return v.keys.find(ctx, p.kid, method)
	case !p.hasKid && v.noKid != nil:
		return v.noKid.only(method)
	}
	return nil, invalidf(ErrUnknownKey, "it has none")
}

// verifySignature tells a signature that is not valid from one that could not be examined.
func verifySignature(method *Method, key *Key, p *parsed) error {
	err := method.Verify(p.input, p.signature, key)
	switch {
	case err == nil:
		return nil
	case unusable(err):
		return invalid(fmt.Errorf("%w: %w", ErrUnknownKey, err)) // as it is once the keys are asked for again
	case errors.Is(err, gojwt.ErrTokenSignatureInvalid), errors.Is(err, ErrTooLong):
		return invalid(err)
	}
	return err
}

func readClaims(doc []byte, claims any) error {
	switch target := claims.(type) {
	case nil:
		return nil
	case *json.RawMessage:
		*target = append((*target)[:0], doc...)
		return nil
	}
	if err := strictjson.Decode(doc, claims); err != nil {
		return invalidf(gojwt.ErrTokenInvalidClaims, "%s", err)
	}
	if own, ok := claims.(interface{ Validate() error }); ok {
		if err := own.Validate(); err != nil {
			return invalid(fmt.Errorf("%w: %w", gojwt.ErrTokenInvalidClaims, err))
		}
	}
	return nil
}

// Keyfunc returns what golang-jwt's Parse and ParseWithClaims take: it holds the token to all that Verify does about form,
// kid and alg, and has the signature verified by a Method in place of golang-jwt's own. ctx is for that. Whether KMS could
// not be reached or the signature is wrong, golang-jwt says ErrTokenSignatureInvalid beside the error; Verify tells them
// apart.
func (v *Verifier) Keyfunc(ctx context.Context) gojwt.Keyfunc {
	return func(token *gojwt.Token) (any, error) {
		p, err := parse(token.Raw)
		if err != nil {
			return nil, err
		}
		method, key, err := v.keyOf(ctx, p)
		if err != nil {
			return nil, err
		}
		token.Method = method
		return key.WithContext(ctx), nil
	}
}
