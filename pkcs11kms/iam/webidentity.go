package iam

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// WebIdentityInput is what AWS STS takes for AssumeRoleWithWebIdentity, but for ProviderId, which is of logins without OpenID Connect.
type WebIdentityInput struct {
	RoleARN         string
	SessionName     string   // as of AssumeRoleInput, like the rest
	Token           string   // of the issuer, at most 16 KiB
	DurationSeconds *int32   // nil: 3600
	Policy          *string  // a session policy
	PolicyARNs      []string // managed policies of the role's account
}

// WebIdentityRole is a session that has begun, and what its token said.
type WebIdentityRole struct {
	AssumedRole
	Subject, Provider, Audience string // sub, iss, and the one of the provider's client ids that the token is for
}

func (w WebIdentityRole) shown() map[string]any {
	out := w.AssumedRole.shown()
	out["subjectFromWebIdentityToken"], out["provider"], out["audience"] = w.Subject, w.Provider, w.Audience
	return out
}

const (
	invalidIdentityToken = "InvalidIdentityToken"
	expiredToken         = "ExpiredTokenException"

	maxWebToken   = 16 << 10
	maxWebSubject = 512
	maxWebAMR     = 16
	webLeeway     = time.Minute // how far the clock of the issuer may be ahead
)

// webMethods are the algorithms of tokens that are taken.
var webMethods = []*jwt.Method{jwt.RS256, jwt.RS384, jwt.RS512, jwt.ES256, jwt.ES384, jwt.ES512}

func noJWT() error {
	return failure(invalidIdentityToken, "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")
}

func noVerificationKey() error {
	return failure(invalidIdentityToken, "Couldn't retrieve verification key from your identity provider,  please reference "+
		"AssumeRoleWithWebIdentity documentation for requirements")
}

func notByWebIdentity() error {
	return failure(accessDenied, "Not authorized to perform %s", ops.AssumeRoleWithWebIdentity.ActionName())
}

// webClaims are the claims of a token that count.
type webClaims struct {
	iss, sub, azp string
	aud, amr      []string
	exp, iat, nbf int64 // seconds since 1970; nbf 0: none
}

var secondsPattern = regexp.MustCompile(`^[0-9]{1,12}$`)

// readWebClaims reads the claims of a token, whose names are exact. ok is false when one is missing or has another form.
func readWebClaims(text json.RawMessage) (c webClaims, ok bool) {
	var members map[string]json.RawMessage // which a struct would read whatever their case
	if json.Unmarshal(text, &members) != nil {
		return c, false
	}
	ok = true
	str := func(name string) (value string) {
		raw, given := members[name]
		if given && (raw[0] != '"' || json.Unmarshal(raw, &value) != nil) {
			ok = false
		}
		return value
	}
	list := func(name string) (values []string) {
		raw, given := members[name]
		switch {
		case !given:
		case raw[0] == '"':
			return []string{str(name)}
		case raw[0] != '[' || bytes.Contains(raw, []byte("null")) || json.Unmarshal(raw, &values) != nil:
			ok = false
		}
		return values
	}
	seconds := func(name string, required bool) int64 {
		raw, given := members[name]
		if given && !secondsPattern.Match(raw) || !given && required {
			ok = false
		}
		n, _ := strconv.ParseInt(string(raw), 10, 64)
		return n
	}
	c = webClaims{iss: str("iss"), sub: str("sub"), azp: str("azp"), aud: list("aud"), amr: list("amr"),
		exp: seconds("exp", true), iat: seconds("iat", true), nbf: seconds("nbf", false)}
	return c, ok && c.iss != "" && c.sub != "" && len(c.sub) <= maxWebSubject && len(c.amr) <= maxWebAMR
}

// audience is the client id of the provider that a token is for: azp where it has that, or one of aud.
func (c webClaims) audience(provider keystore.OIDCProvider) (string, bool) {
	candidates := c.aud
	if c.azp != "" {
		candidates = []string{c.azp}
	}
	at := slices.IndexFunc(candidates, func(one string) bool { return one != "" && slices.Contains(provider.ClientIDs, one) })
	if at < 0 {
		return "", false
	}
	return candidates[at], true
}

// current compares the times of a token.
func (c webClaims) current(now time.Time) error {
	latest := now.Add(webLeeway).Unix()
	switch {
	case now.Unix() >= c.exp:
		return failure(expiredToken, "Token expired: current date/time %d must be before the expiration date/time %d", now.Unix(), c.exp)
	case c.iat > latest || c.nbf > latest:
		return failure(invalidIdentityToken, "The ID Token provided is not valid yet.")
	}
	return nil
}

// webCall is one call of AssumeRoleWithWebIdentity.
type webCall struct {
	call
	in          WebIdentityInput
	account     string // of the role
	provider    keystore.OIDCProvider
	providerARN string
	claims      webClaims // proved
	audience    string
}

// AssumeRoleWithWebIdentity begins a session of a role for whoever has a token of an OIDC provider of the role's account, if the role
// trusts the provider: it needs no caller. Tokens are RS256 to RS512 or ES256 to ES512, by a key of the provider's JWK Set, for one of its
// client ids. Nothing is recorded of a token that nobody is proved to have signed, and the HSM is not asked. (AWS STS,
// AssumeRoleWithWebIdentity)
func (c *Client) AssumeRoleWithWebIdentity(ctx context.Context, in WebIdentityInput) (made WebIdentityRole, err error) {
	nobody := Caller{conn: c.caller.conn, connected: c.caller.connected}
	x := &webCall{in: in, call: call{Client: c.As(nobody), op: ops.AssumeRoleWithWebIdentity}}
	x.req.input = in.assume("").input(nobody)
	if err := x.check(); err != nil {
		return made, err
	}
	if err := x.prove(ctx); err != nil {
		return made, err
	}
	if !x.dir.cfg.NoRates && !x.dir.rates.Take(x.account, "", x.op.Rate, x.Now()) {
		return made, apierr.RateExceeded()
	}
	made, err = x.begin(ctx)
	e := x.event(made, err)
	if failure := x.dir.cfg.Audit.Record(ctx, e); failure != nil {
		err = failure
	}
	return answered(made, err)
}

// assume is the same as AssumeRole has it.
func (in WebIdentityInput) assume(provider string) AssumeRoleInput {
	return AssumeRoleInput{RoleARN: in.RoleARN, SessionName: in.SessionName, DurationSeconds: in.DurationSeconds, Policy: in.Policy,
		PolicyARNs: in.PolicyARNs, provider: provider}
}

// check checks what needs nothing but the input.
func (c *webCall) check() error {
	var v form.Violations
	v.Hidden("webIdentityToken", c.in.Token, 4, 20000, nil)
	if err := cmp.Or(invalid(v), c.checkAssumeRole(c.in.assume(""))); err != nil {
		return err
	}
	if len(c.in.Token) > maxWebToken {
		return noJWT()
	}
	return nil
}

// prove finds the provider that a token names, in the role's account, and verifies the token's signature.
func (c *webCall) prove(ctx context.Context) error {
	text, err := jwt.Claimed(c.in.Token)
	if err != nil {
		return noJWT()
	}
	claimed, ok := readWebClaims(text)
	if !ok {
		return noJWT()
	}
	if err := c.findProvider(ctx, claimed.iss); err != nil {
		return err
	}
	set, err := jwt.ParseKeySet([]byte(c.provider.Keys))
	if err != nil {
		return noVerificationKey()
	}
	proved, err := set.Open(c.in.Token, webMethods...)
	switch {
	case errors.Is(err, jwt.ErrUnknownKey):
		return noVerificationKey()
	case errors.Is(err, jwt.ErrInvalidToken):
		return noJWT()
	case err != nil:
		return err
	}
	if c.claims, ok = readWebClaims(proved); !ok || c.claims.iss != "https://"+c.provider.URL {
		return noJWT()
	}
	return nil
}

func (c *webCall) findProvider(ctx context.Context, issuer string) error {
	unknown := func() error {
		shown := issuer
		if url, ok := strings.CutPrefix(issuer, "https://"); !ok || !keystore.IsProviderURL(url) {
			shown = "this issuer" // nothing of it is proved
		}
		return failure(invalidIdentityToken, "No OpenIDConnect provider found in your account for %s", shown)
	}
	c.account = AccountOfARN(c.in.RoleARN)
	there, err := c.dir.answersFor(ctx, c.account)
	if err != nil {
		return err
	}
	url, ok := strings.CutPrefix(issuer, "https://")
	if !there || !ok {
		return unknown()
	}
	c.provider, _, err = c.dir.provider(ctx, c.account, url)
	if errors.Is(err, keystore.ErrNotFound) {
		return unknown()
	}
	c.providerARN = c.dir.providerARN(c.account, c.provider.URL)
	return err
}

// begin begins the session of whoever has the token, which is proved.
func (c *webCall) begin(ctx context.Context) (made WebIdentityRole, err error) {
	now, err := c.dir.sessionTime(ctx)
	if err != nil {
		return made, err
	}
	if err := c.claims.current(now); err != nil {
		return made, err
	}
	var ok bool
	if c.audience, ok = c.claims.audience(c.provider); !ok {
		return made, failure(invalidIdentityToken, "Incorrect token audience")
	}
	s, missing, err := c.dir.roleToAssume(ctx, c.caller, c.in.RoleARN)
	if err != nil {
		return made, err
	}
	if missing != nil || s.trust == nil {
		return made, notByWebIdentity()
	}
	d := policy.Evaluate(policy.Request{Principal: policy.Principal{Federated: c.providerARN}, Action: c.op.ActionName(), Resource: s.arn,
		Account: s.record.Account, Context: &webContext{c, s.record}}, policy.Policies{Trust: s.trust})
	if !d.Allowed {
		return made, notByWebIdentity()
	}
	session, err := c.assumeRole(ctx, c.in.assume(c.providerARN), s.record)
	return WebIdentityRole{session, c.claims.sub, c.claims.iss, c.audience}, err
}

// event is what the audit log is told: who the token is of, and never the token.
func (c *webCall) event(made WebIdentityRole, err error) audit.Event {
	e := audit.Event{Service: c.op.Service, Operation: c.op.Name, ReadOnly: c.op.Read, Region: c.dir.cfg.Regions[0],
		Resource: c.in.RoleARN, Input: map[string]any(c.req.input), Recorded: c.op.Record, Responded: c.op.Respond, Err: err}
	c.caller.Describe(&e)
	e.Account = c.account
	e.WebIdentity = &audit.WebIdentity{Issuer: c.claims.iss, Audience: c.audience, Subject: c.claims.sub, Provider: c.providerARN}
	if err == nil {
		e.Output = made.shown()
	}
	return e
}

// webContext has the condition keys of a call: what the token says, by the provider's name, and what is known of the role, the time and the
// connection. There is no principal of which anything could be told.
type webContext struct {
	*webCall
	role keystore.Principal
}

// Values implements policy.Context.
func (x *webContext) Values(name string) ([]string, bool) {
	if claim, ok := strings.CutPrefix(name, strings.ToLower(x.provider.URL)+":"); ok {
		return x.claim(claim)
	}
	for _, prefix := range []string{"aws:resourcetag/", "iam:resourcetag/"} {
		if tag, ok := strings.CutPrefix(name, prefix); ok {
			return TagValues(x.role.Tags, tag)
		}
	}
	switch name {
	case "sts:rolesessionname":
		return one(x.in.SessionName)
	case "aws:federatedprovider":
		return one(x.providerARN)
	case "aws:resourceaccount":
		return one(x.role.Account)
	case "aws:currenttime":
		return one(x.Now().UTC().Format(time.RFC3339))
	case "aws:epochtime":
		return one(strconv.FormatInt(x.Now().Unix(), 10))
	}
	if rest, ok := strings.CutPrefix(name, "aws:"); ok {
		return x.caller.condition(rest)
	}
	return nil, false
}

func (x *webContext) claim(name string) ([]string, bool) {
	switch name {
	case "sub":
		return one(x.claims.sub)
	case "aud":
		return one(x.audience)
	case "amr":
		return x.claims.amr, len(x.claims.amr) > 0
	}
	return nil, false
}
