package iam

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// AssumeRoleInput is what AWS STS takes for AssumeRole, but for multi-factor authentication and contexts, which are not here.
type AssumeRoleInput struct {
	RoleARN           string
	SessionName       string         // 2 to 64 characters of letters, digits and _+=,.@-
	DurationSeconds   *int32         // 900 to what the role allows; nil: 3600
	Policy            *string        // a session policy: what the session may do at most
	PolicyARNs        []string       // managed policies of the role's account, which bound the session as well: at most ten
	Tags              []keystore.Tag // session tags: at most 50
	TransitiveTagKeys []string       // of Tags: those that go into the sessions that this one begins
	ExternalID        *string
	SourceIdentity    *string

	provider string // the ARN of the OIDC provider by whose token the session begins; empty: by a caller
}

// AssumedRole is a session that has begun, with its credentials.
type AssumedRole struct {
	ID, ARN string // AROA...:NAME, arn:aws:sts::ACCOUNT:assumed-role/ROLE/NAME

	AccessKeyID, SecretAccessKey, SessionToken string
	Expiration                                 time.Time // UTC, whole seconds

	PackedPolicySize *int32  // how much of its greatest size the token has, in percent; nil without a session policy
	SourceIdentity   *string // nil: none
}

// shown is a session as the audit log shows what was made: without its secret and its token.
func (a AssumedRole) shown() map[string]any {
	out := map[string]any{
		"credentials":     map[string]any{"accessKeyId": a.AccessKeyID, "expiration": a.Expiration},
		"assumedRoleUser": map[string]any{"assumedRoleId": a.ID, "arn": a.ARN},
	}
	if a.SourceIdentity != nil {
		out["sourceIdentity"] = *a.SourceIdentity
	}
	if a.PackedPolicySize != nil {
		out["packedPolicySize"] = *a.PackedPolicySize
	}
	return out
}

const (
	defaultDuration = 3600 // seconds
	chainedDuration = 3600 // the most that a session of a role can have of another role
)

// AssumeRole begins a session of a role, if the role trusts the caller: by its trust policy alone, where that names the caller and both are
// of one account; else the caller's own policies must allow sts:AssumeRole as well. The account's root may not. Session tags need
// sts:TagSession, a source identity sts:SetSourceIdentity, in the same way. Nothing is stored; the session ends by itself, and with its
// role. (AWS STS, AssumeRole)
func (c *Client) AssumeRole(ctx context.Context, in AssumeRoleInput) (made AssumedRole, err error) {
	req := request{input: in.input(c.caller), form: c.checkAssumeRole(in), given: in.conditions(c.caller), actions: in.actions(c.caller),
		find: func(ctx context.Context) (subject, error, error) {
			return c.dir.roleToAssume(ctx, c.caller, in.RoleARN)
		}}
	err = c.perform(ctx, ops.AssumeRole, req, func(ctx context.Context, x *call, s subject) error {
		if made, err = x.assumeRole(ctx, in, s.record); err == nil {
			x.output = made.shown()
		}
		return err
	})
	return answered(made, err)
}

// actions are what a call must be allowed beside sts:AssumeRole.
func (in AssumeRoleInput) actions(caller Caller) (actions []*ops.Operation) {
	if len(in.Tags) > 0 {
		actions = append(actions, ops.TagSession)
	}
	if in.sourceIdentity(caller) != "" {
		actions = append(actions, ops.SetSourceIdentity)
	}
	return actions
}

// sourceIdentity is that of the session to begin: what was asked for, or what the caller's own session has.
func (in AssumeRoleInput) sourceIdentity(caller Caller) string {
	if caller.session != nil && caller.session.SourceIdentity != "" {
		return caller.session.SourceIdentity
	}
	return aws.ToString(in.SourceIdentity)
}

// duration is how many seconds are asked for.
func (in AssumeRoleInput) duration() int32 {
	if in.DurationSeconds == nil {
		return defaultDuration
	}
	return *in.DurationSeconds
}

// input is what the audit log shows: not the external id, which two parties share.
func (in AssumeRoleInput) input(caller Caller) input {
	shown := input{"roleArn": in.RoleARN, "roleSessionName": in.SessionName, "durationSeconds": in.duration()}
	if in.Policy != nil {
		shown["policy"] = *in.Policy
	}
	if in.PolicyARNs != nil {
		shown["policyArns"] = in.PolicyARNs
	}
	if in.SourceIdentity != nil {
		shown["sourceIdentity"] = *in.SourceIdentity
	}
	if in.Tags != nil {
		shown["tags"] = in.Tags
	}
	if in.TransitiveTagKeys != nil {
		shown["transitiveTagKeys"] = in.TransitiveTagKeys
	}
	if inherited := caller.transitiveTags(); len(inherited) > 0 {
		incoming := map[string]any{}
		for _, tag := range inherited {
			incoming[tag.Key] = tag.Value
		}
		shown["incomingTransitiveTags"] = incoming
	}
	return shown
}

// transitiveTags are the tags of the caller's session that go into each session that it begins.
func (c Caller) transitiveTags() (tags []sessionTag) {
	if c.session == nil {
		return nil
	}
	for _, tag := range c.session.Tags {
		if tag.Transitive {
			tags = append(tags, tag)
		}
	}
	return tags
}

// conditions are the condition keys of the input.
func (in AssumeRoleInput) conditions(caller Caller) map[string][]string {
	given := RequestTags(in.Tags)
	given["sts:rolesessionname"] = []string{in.SessionName}
	if in.ExternalID != nil {
		given["sts:externalid"] = []string{*in.ExternalID}
	}
	if identity := in.sourceIdentity(caller); identity != "" {
		given["sts:sourceidentity"] = []string{identity}
	}
	if len(in.TransitiveTagKeys) > 0 {
		given["sts:transitivetagkeys"] = in.TransitiveTagKeys
	}
	return given
}

// roleToAssume finds the role of an ARN, as it is in the store now, with its trust policy. One that there is not is answered as one that
// trusts nobody.
func (d *Directory) roleToAssume(ctx context.Context, caller Caller, arn string) (s subject, missing, err error) {
	s = subject{arn: arn, assumed: true}
	record, err := d.principalByARN(ctx, arn)
	if errors.Is(err, keystore.ErrNotFound) || err == nil && record.Type != keystore.PrincipalRole {
		return s, denied(caller, ops.AssumeRole, arn, policy.Decision{}), nil
	}
	if err != nil {
		return s, nil, err
	}
	s.record = record
	if record.TrustPolicy != "" {
		s.trust, err = policy.ParseTrustPolicy(record.TrustPolicy)
	}
	return s, nil, err
}

// trusts decides on a role that the caller wants to assume, for each action that this takes.
func (c *call) trusts(ctx context.Context, s subject) error {
	who, err := c.dir.Identify(ctx, c.caller)
	if err != nil {
		return err
	}
	judged := who.Judged()
	judged.Trust = s.trust
	for _, op := range append([]*ops.Operation{c.op}, c.req.actions...) {
		d := policy.Evaluate(policy.Request{
			Principal: who.Principal(), Action: op.ActionName(), Resource: s.arn, Account: s.record.Account,
			Context: &conditions{call: c, who: &who, tags: s.record.Tags, account: s.record.Account},
		}, judged)
		if s.trust == nil || !d.Allowed {
			return denied(c.caller, op, s.arn, d)
		}
	}
	return nil
}

// assumeRole begins the session, of a role that trusts the caller.
func (c *call) assumeRole(ctx context.Context, in AssumeRoleInput, role keystore.Principal) (AssumedRole, error) {
	switch duration := in.duration(); {
	case time.Duration(duration)*time.Second > role.LongestSession():
		return AssumedRole{}, failure(validationError, "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	case duration > chainedDuration && c.caller.session != nil:
		return AssumedRole{}, failure(validationError,
			"The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.")
	}
	now, err := c.presentTime(ctx)
	if err != nil {
		return AssumedRole{}, err
	}
	claims := sessionClaims{
		AccessKeyID: sessionKeyPrefix + randomBase32(16), Account: role.Account, RoleID: role.ID, Name: in.SessionName,
		Issued: now.Unix(), Expires: now.Unix() + int64(in.duration()), SourceIdentity: in.sourceIdentity(c.caller), Provider: in.provider,
		Policy: aws.ToString(in.Policy), Tags: append(in.sessionTags(), c.caller.transitiveTags()...),
	}
	if claims.Managed, err = c.sessionManaged(ctx, role.Account, in.PolicyARNs); err != nil {
		return AssumedRole{}, err
	}
	token, secret, err := c.dir.sealSession(ctx, claims)
	if tooLarge, ok := errors.AsType[errTokenTooLarge](err); ok {
		return AssumedRole{}, failure(packedPolicyTooLarge, "Packed policy consumes %d%% of allotted space", tooLarge.percent)
	}
	if err != nil {
		return AssumedRole{}, err
	}
	made := AssumedRole{
		ID: sessionID(role.ID, in.SessionName), ARN: c.dir.sessionARN(role.Account, role.Name, in.SessionName),
		AccessKeyID: claims.AccessKeyID, SecretAccessKey: secret, SessionToken: token, Expiration: time.Unix(claims.Expires, 0).UTC(),
	}
	if in.Policy != nil || in.PolicyARNs != nil {
		made.PackedPolicySize = aws.Int32(int32(percentOf(token)))
	}
	if claims.SourceIdentity != "" {
		made.SourceIdentity = &claims.SourceIdentity
	}
	return made, nil
}

// sessionManaged finds the managed policies of the role's account that are to be session policies.
func (c *call) sessionManaged(ctx context.Context, account string, arns []string) (found []keystore.Attached, err error) {
	inAccount := &Client{dir: c.dir, caller: c.dir.Root(account)}
	for _, arn := range arns {
		record, _, err := inAccount.findPolicy(ctx, arn)
		if errors.Is(err, keystore.ErrNotFound) {
			return nil, failure(validationError, "Policy %s does not exist or is not attachable.", arn)
		}
		if err != nil {
			return nil, err
		}
		if at, has := keystore.FindAttached(found, record.ID); !has {
			found = slices.Insert(found, at, keystore.Attached{ID: record.ID, Revision: record.Revision})
		}
	}
	return found, nil
}

// clockTolerance is how far the clock may be behind what the store has seen when a session begins.
const clockTolerance = time.Minute

// presentTime is the time of the clock, if it has not gone back: a session of then would last for as long again as it is behind.
func (c *call) presentTime(ctx context.Context) (time.Time, error) {
	now := c.Now()
	latest, err := c.dir.sessionTime(ctx)
	if err == nil && now.Before(latest.Add(-clockTolerance)) {
		err = fmt.Errorf("the clock shows %s, but the store has seen %s: no session begins", now.UTC().Format(time.RFC3339),
			latest.UTC().Format(time.RFC3339))
	}
	return now, err
}

// sessionTags are the tags that are asked for.
func (in AssumeRoleInput) sessionTags() []sessionTag {
	tags := make([]sessionTag, len(in.Tags))
	for i, tag := range in.Tags {
		transitive := slices.ContainsFunc(in.TransitiveTagKeys, func(key string) bool { return strings.EqualFold(key, tag.Key) })
		tags[i] = sessionTag{tag.Key, tag.Value, transitive}
	}
	return tags
}

// sealSession makes the token of claims, and its secret access key.
func (d *Directory) sealSession(ctx context.Context, claims sessionClaims) (token, secret string, err error) {
	epoch, _, err := d.cfg.Newest(ctx)
	if err != nil {
		return "", "", err
	}
	key, _, err := d.tokenKey(ctx, epoch)
	if err != nil {
		return "", "", err
	}
	if token, err = key.seal(epoch, claims); err != nil {
		return "", "", err
	}
	raw, _, err := tokenEpoch(token)
	return token, secretOfSession(key.derive("secret", raw)), err
}
