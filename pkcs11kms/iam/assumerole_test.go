package iam

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

const (
	trustsNobody = `{"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Principal": "*", "Action": "sts:AssumeRole"}}`
	trustsAll    = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:*"}}`
	aliceARN     = "arn:aws:iam::" + testAccount + ":user/Alice"
	producerARN  = "arn:aws:iam::" + testAccount + ":role/JwtProducer"
)

// trusts is a trust policy for a principal and some actions.
func trusts(principal string, actions ...string) string {
	if len(actions) == 0 {
		actions = []string{"sts:AssumeRole"}
	}
	return `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"AWS": "` + principal + `"}, "Action": ["` +
		strings.Join(actions, `", "`) + `"]}}`
}

// inOther is the rig seen from the other account.
func (r *rig) inOther() *rig {
	other := *r
	other.Client = r.As(r.dir.Root(otherAccount))
	return &other
}

// notAuthorized is how AWS STS refuses.
func notAuthorized(c *Client, action, roleARN string) string {
	return "User: " + c.caller.arn + " is not authorized to perform: " + action + " on resource: " + roleARN
}

func mustRole(t *testing.T, c *Client, name, trust string) Principal {
	t.Helper()
	made, err := c.CreatePrincipal(t.Context(), PrincipalName{keystore.PrincipalRole, name}, PrincipalOptions{TrustPolicy: trust})
	require.NoError(t, err)
	return made
}

func assume(t *testing.T, c *Client, roleARN, session string) AssumedRole {
	t.Helper()
	made, err := c.AssumeRole(t.Context(), AssumeRoleInput{RoleARN: roleARN, SessionName: session})
	require.NoError(t, err)
	return made
}

// session is the caller of credentials, as a request that is signed with them has it.
func (r *rig) session(t *testing.T, made AssumedRole) Caller {
	t.Helper()
	key, caller, err := r.dir.SessionKey(t.Context(), made.AccessKeyID, made.SessionToken, "20260102", testRegion, "kms")
	require.NoError(t, err)
	require.Equal(t, sigv4.SigningKey(made.SecretAccessKey, "20260102", testRegion, "kms"), key)
	return caller
}

// A session is who AWS STS says that it is, and its access key signs what its secret signs.
func TestAssumeRole(t *testing.T) {
	r := newRig(t)
	user := r.as(t, "Alice", "")
	role, err := r.CreatePrincipal(t.Context(), producer, PrincipalOptions{Path: "/jwt/", TrustPolicy: trusts(aliceARN)})
	require.NoError(t, err)
	before := time.Now().Truncate(time.Second)
	made := assume(t, user, role.ARN, "job-1@x")
	require.Equal(t, role.ID+":job-1@x", made.ID)
	require.Equal(t, "arn:aws:sts::"+testAccount+":assumed-role/JwtProducer/job-1@x", made.ARN)
	require.Regexp(t, `^ASIA[A-Z2-7]{16}$`, made.AccessKeyID)
	require.Regexp(t, `^[A-Za-z0-9+/]{40}$`, made.SecretAccessKey)
	require.Nil(t, made.PackedPolicySize)
	require.Nil(t, made.SourceIdentity)
	require.WithinRange(t, made.Expiration, before.Add(time.Hour), time.Now().Add(time.Hour))

	caller := r.session(t, made)
	require.Equal(t, made.ARN, caller.ARN())
	require.Equal(t, made.ID, caller.ID())
	require.True(t, caller.IsSession())
	who, err := r.As(caller).GetCallerIdentity(t.Context())
	require.NoError(t, err)
	require.Equal(t, CallerIdentity{UserID: made.ID, Account: testAccount, ARN: made.ARN}, who)

	event := r.log.recorded[len(r.log.recorded)-2]
	require.Equal(t, "AssumeRole", event.Operation)
	require.Equal(t, role.ARN, event.Resource)
	require.NotContains(t, fmt.Sprint(event.Output, event.Input), made.SecretAccessKey)
	require.NotContains(t, fmt.Sprint(event.Output, event.Input), made.SessionToken)
	require.Contains(t, fmt.Sprint(event.Output), made.AccessKeyID)
	require.Equal(t, role.ARN, r.log.recorded[len(r.log.recorded)-1].Session.RoleARN)
}

// Whom a role trusts: by the facts of AWS STS.
func TestTrust(t *testing.T) {
	r := newRig(t)
	allow := allowed("sts:AssumeRole", "*")
	named, permitted := r.as(t, "Alice", ""), r.as(t, "Permitted", allow)
	denied := r.as(t, "Denied", strings.Replace(allow, "Allow", "Deny", 1))
	foreign, foreignPermitted := r.inOther().as(t, "Foreign", ""), r.inOther().as(t, "ForeignPermitted", allow)
	arnOf := func(c *Client) string { return c.caller.arn }
	chained := r.As(r.session(t, assume(t, named, mustRole(t, r.Client, "First", trusts(aliceARN)).ARN, "one")))
	root := "arn:aws:iam::" + testAccount + ":root"
	for name, test := range map[string]struct {
		trust  string
		caller *Client
		want   bool
	}{
		"named":                             {trusts(arnOf(named)), named, true},
		"another is named":                  {trusts(arnOf(permitted)), named, false},
		"another is named, and may":         {trusts(arnOf(named)), permitted, false},
		"everybody of the account":          {trustsAll, named, true},
		"the account alone":                 {trusts(root), named, false},
		"the account by its number":         {trusts(testAccount), named, false},
		"the account, and may":              {trusts(root), permitted, true},
		"the number of the account and may": {trusts(testAccount), permitted, true},
		"named, and denied":                 {trusts(arnOf(denied)), denied, false},
		"nobody, and may":                   {trustsNobody, permitted, false},
		"no trust policy, and may":          {"", permitted, false},
		"of another account":                {trusts(arnOf(foreign)), foreign, false},
		"of another account, and may":       {trusts(arnOf(foreignPermitted)), foreignPermitted, true},
		"everybody, of another account":     {trustsAll, foreign, false},
		"everybody, another account, may":   {trustsAll, foreignPermitted, true},
		"the other account, and may":        {trusts(otherAccount), foreignPermitted, true},
		"own account, and may":              {trusts(testAccount), foreignPermitted, false},
		"another action":                    {trusts(arnOf(named), "sts:TagSession"), named, false},
		"a session by its role":             {trusts("arn:aws:iam::" + testAccount + ":role/First"), chained, true},
		"a session":                         {trusts(chained.caller.arn), chained, true},
		"another session":                   {trusts(strings.Replace(chained.caller.arn, "/one", "/two", 1)), chained, false},
		"the root":                          {trustsAll, r.Client, false},
	} {
		role := mustRole(t, r.Client, "Role", test.trust)
		made, err := test.caller.AssumeRole(t.Context(), AssumeRoleInput{RoleARN: role.ARN, SessionName: "job"})
		switch {
		case test.want:
			assert.NoError(t, err, name)
			assert.NotEmpty(t, made.SessionToken, name)
		case test.caller == r.Client:
			requireAPIError(t, err, "AccessDenied", "Roles may not be assumed by root accounts.")
		default:
			assert.Equal(t, "AccessDenied", errorCode(err), name)
			assert.ErrorContains(t, err, notAuthorized(test.caller, "sts:AssumeRole", role.ARN), name)
			assert.NotContains(t, err.Error(), "because")
			assert.Zero(t, made)
		}
		require.NoError(t, r.DeletePrincipal(t.Context(), role.PrincipalName))
	}
	_, err := permitted.AssumeRole(t.Context(), AssumeRoleInput{RoleARN: "arn:aws:iam::" + testAccount + ":role/None", SessionName: "job"})
	requireAPIError(t, err, "AccessDenied", notAuthorized(permitted, "sts:AssumeRole", "arn:aws:iam::"+testAccount+":role/None"))
	_, err = r.dir.Client().AssumeRole(t.Context(), AssumeRoleInput{RoleARN: "arn:aws:iam::" + testAccount + ":role/None", SessionName: "job"})
	require.Equal(t, "AccessDenied", errorCode(err), "nobody")
}

// A session of another account's role is told to both accounts; who may not assume it is told to nobody but his own.
func TestBothAccountsHearOfASession(t *testing.T) {
	r := newRig(t)
	caller := r.inOther().as(t, "Foreign", allowed("sts:AssumeRole", "*"))
	role := mustRole(t, r.Client, producer.Name, trusts(otherAccount))
	assume(t, caller, role.ARN, "job")
	last := func() audit.Event { return r.log.recorded[len(r.log.recorded)-1] }
	event := last()
	require.Equal(t, otherAccount, event.Account)
	owners, shared := event.ForOwner()
	require.True(t, shared)
	require.Contains(t, string(audit.AppendRecord(nil, &owners, time.Now())), `"recipientAccountId":"`+testAccount+`"`)
	require.NoError(t, r.UpdateTrustPolicy(t.Context(), producer.Name, trustsNobody))
	_, err := caller.AssumeRole(t.Context(), AssumeRoleInput{RoleARN: role.ARN, SessionName: "job"})
	require.Equal(t, "AccessDenied", errorCode(err))
	event = last()
	_, shared = event.ForOwner()
	require.False(t, shared)
}

// A trust policy that programs before have kept lets nobody in until it is set again; a namesake of whom a role trusts is a stranger.
func TestTrustIsOfWhomItWasGivenTo(t *testing.T) {
	r := newRig(t)
	user := r.as(t, "Alice", allowed("sts:*", "*"))
	role := mustRole(t, r.Client, producer.Name, "")
	record, version, err := r.dir.find(t.Context(), testAccount, producer)
	require.NoError(t, err)
	record.Trust = trustsAll
	_, err = r.cfg.Cache.Commit(t.Context(), record.Put(version))
	require.NoError(t, err)
	found, err := r.GetPrincipal(t.Context(), producer)
	require.NoError(t, err)
	require.Equal(t, trustsAll, found.TrustPolicy)
	_, err = user.AssumeRole(t.Context(), AssumeRoleInput{RoleARN: role.ARN, SessionName: "job"})
	require.Equal(t, "AccessDenied", errorCode(err))
	require.NoError(t, r.UpdateTrustPolicy(t.Context(), producer.Name, trusts(aliceARN)))
	assume(t, user, role.ARN, "job")

	require.NoError(t, r.DeletePrincipalPolicy(t.Context(), alice, "p"))
	require.NoError(t, r.DeletePrincipal(t.Context(), alice))
	namesake := r.as(t, "Alice", allowed("sts:*", "*"))
	_, err = namesake.AssumeRole(t.Context(), AssumeRoleInput{RoleARN: role.ARN, SessionName: "job"})
	require.Equal(t, "AccessDenied", errorCode(err))
	found, err = r.GetPrincipal(t.Context(), producer)
	require.NoError(t, err)
	require.Contains(t, found.TrustPolicy, user.caller.id)
	require.NoError(t, r.UpdateTrustPolicy(t.Context(), producer.Name, trusts(namesake.caller.id)))
	found, err = r.GetPrincipal(t.Context(), producer)
	require.NoError(t, err)
	require.Equal(t, trusts(aliceARN), found.TrustPolicy)
}

// What AWS IAM refuses as a trust policy, with its texts.
func TestTrustPoliciesThatAreNone(t *testing.T) {
	r := newRig(t)
	mustCreatePrincipal(t, r.Client, producer)
	statement := func(more string) string {
		return `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", ` + more + `}}`
	}
	const invalid = "Invalid principal in policy: "
	for document, want := range map[string]string{
		`{`: "This policy contains invalid Json",
		statement(`"Principal": "*", "Action": "kms:Sign"`):                        "AssumeRole policy may only specify STS AssumeRole actions.",
		statement(`"Principal": "*", "Action": "*"`):                               "AssumeRole policy may only specify STS AssumeRole actions.",
		statement(`"Principal": "*", "Action": "sts:GetCallerIdentity"`):           "AssumeRole policy may only specify STS AssumeRole actions.",
		statement(`"Principal": "*", "NotAction": "sts:TagSession"`):               "AssumeRole policy may only specify STS AssumeRole actions.",
		statement(`"Principal": "*", "Action": "sts:AssumeRole", "Resource": "*"`): "Has prohibited field Resource",
		trusts("arn:aws:iam::" + testAccount + ":user/None"):                       invalid + `"AWS":"arn:aws:iam::111122223333:user/None"`,
		trusts("arn:aws:iam::999999999999:user/None"):                              invalid + `"AWS":"arn:aws:iam::999999999999:user/None"`,
		trusts("arn:aws:iam::" + testAccount + ":group/G"):                         invalid + `"AWS":"arn:aws:iam::111122223333:group/G"`,
		statement(`"Principal": {"Federated": "A b"}, "Action": "sts:AssumeRole"`): invalid + `"Federated":"A b"`,
	} {
		requireAPIError(t, r.UpdateTrustPolicy(t.Context(), producer.Name, document), "MalformedPolicyDocument", want)
	}
	for _, document := range []string{statement(`"Action": "sts:AssumeRole"`), statement(`"Principal": "*"`),
		statement(`"NotPrincipal": {"AWS": "` + testAccount + `"}, "Action": "sts:AssumeRole"`), `{"Version": "2012-10-17"}`,
		statement(`"Principal": "*", "Action": "sts:AssumeRole", "Condition": {"StringEquals": {"kms:KeySpec": "x"}}`)} {
		require.Equal(t, "MalformedPolicyDocument", errorCode(r.UpdateTrustPolicy(t.Context(), producer.Name, document)), document)
	}
	for _, document := range []string{statement(`"Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"`),
		statement(`"Principal": {"Federated": "arn:aws:iam::` + testAccount + `:oidc-provider/oidc.example.org/id/1"},
			"Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"oidc.example.org/id/1:sub": "x"}}`),
		trusts("999999999999"), statement(`"Principal": "*", "Action": "sts:*"`)} {
		require.NoError(t, r.UpdateTrustPolicy(t.Context(), producer.Name, document), document)
	}
}

// Each condition key of a request for a session has its value, in the trust policy as in the caller's own.
func TestConditionsOfTrust(t *testing.T) {
	r := newRig(t)
	user := r.as(t, "Alice", "")
	mustRole(t, r.Client, producer.Name, "")
	require.NoError(t, r.TagPrincipal(t.Context(), producer, []keystore.Tag{{Key: "Stage", Value: "prod"}}))
	in := AssumeRoleInput{RoleARN: producerARN, SessionName: "job", ExternalID: aws.String("their-id"), SourceIdentity: aws.String("bob"),
		Tags: []keystore.Tag{{Key: "Team", Value: "id"}, {Key: "Cost", Value: "7"}}, TransitiveTagKeys: []string{"team"}}
	for condition, want := range map[string]bool{
		`"StringEquals": {"sts:ExternalId": "their-id"}`:                                                              true,
		`"StringEquals": {"sts:ExternalId": "other"}`:                                                                 false,
		`"StringEquals": {"sts:RoleSessionName": "job"}`:                                                              true,
		`"StringEquals": {"sts:SourceIdentity": "bob"}`:                                                               true,
		`"StringEquals": {"aws:SourceIdentity": "bob"}`:                                                               false,
		`"StringEquals": {"aws:RequestTag/team": "id"}`:                                                               true,
		`"ForAllValues:StringEquals": {"aws:TagKeys": ["Team", "Cost"]}`:                                              true,
		`"ForAllValues:StringEquals": {"aws:TagKeys": ["Team"]}`:                                                      false,
		`"ForAllValues:StringEquals": {"sts:TransitiveTagKeys": ["team"]}`:                                            true,
		`"StringEquals": {"aws:ResourceTag/Stage": "prod"}`:                                                           true,
		`"StringEquals": {"iam:ResourceTag/Stage": "prod"}`:                                                           true,
		`"StringEquals": {"aws:PrincipalType": "User"}`:                                                               true,
		`"StringEquals": {"aws:username": "Alice"}`:                                                                   true,
		`"StringEquals": {"sts:RoleSessionName": "${aws:username}"}`:                                                  false,
		`"StringLike": {"sts:RoleSessionName": "j*"}, "StringEquals": {"aws:ResourceAccount": "` + testAccount + `"}`: true,
	} {
		require.NoError(t, r.UpdateTrustPolicy(t.Context(), producer.Name, `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", `+
			`"Principal": {"AWS": "`+aliceARN+`"}, "Action": "sts:*", "Condition": {`+condition+`}}}`))
		_, err := user.AssumeRole(t.Context(), in)
		assert.Equal(t, want, err == nil, "%s: %v", condition, err)
	}
}

// What a session is given beside needs a permission of its own.
func TestTagsAndSourceIdentityAreAllowedByThemselves(t *testing.T) {
	r := newRig(t)
	user := r.as(t, "Alice", "")
	mustRole(t, r.Client, producer.Name, trusts(aliceARN))
	tagged := AssumeRoleInput{RoleARN: producerARN, SessionName: "job", Tags: []keystore.Tag{{Key: "Team", Value: "id"}}}
	known := AssumeRoleInput{RoleARN: producerARN, SessionName: "job", SourceIdentity: aws.String("bob")}
	for action, in := range map[string]AssumeRoleInput{"sts:TagSession": tagged, "sts:SetSourceIdentity": known} {
		require.NoError(t, r.UpdateTrustPolicy(t.Context(), producer.Name, trusts(aliceARN)))
		_, err := user.AssumeRole(t.Context(), in)
		requireAPIError(t, err, "AccessDenied", "User: "+aliceARN+" is not authorized to perform: "+action+" on resource: "+producerARN)
		require.NoError(t, r.UpdateTrustPolicy(t.Context(), producer.Name, trusts(aliceARN, "sts:AssumeRole", action)))
		_, err = user.AssumeRole(t.Context(), in)
		require.NoError(t, err)
	}
}

// The texts of AWS STS for what it refuses, in its order.
func TestAssumeRoleRefusals(t *testing.T) {
	r := newRig(t)
	user := r.as(t, "Alice", "")
	mustRole(t, r.Client, producer.Name, trustsAll)
	tags := []keystore.Tag{{Key: "Team", Value: "id"}}
	for name, test := range map[string]struct {
		change func(*AssumeRoleInput)
		code   string
		text   string
	}{
		"session name": {func(in *AssumeRoleInput) { in.SessionName = "a/b" }, "ValidationError",
			"1 validation error detected: Value 'a/b' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression"},
		"short session name":      {func(in *AssumeRoleInput) { in.SessionName = "a" }, "ValidationError", "at 'roleSessionName'"},
		"session name of a colon": {func(in *AssumeRoleInput) { in.SessionName = "a:b" }, "ValidationError", "at 'roleSessionName'"},
		"long session name": {func(in *AssumeRoleInput) { in.SessionName = strings.Repeat("x", 65) }, "ValidationError",
			"less than or equal to 64"},
		"short duration": {func(in *AssumeRoleInput) { in.DurationSeconds = aws.Int32(899) }, "ValidationError",
			"Value '899' at 'durationSeconds' failed to satisfy constraint: Member must have value greater than or equal to 900"},
		"long duration": {func(in *AssumeRoleInput) { in.DurationSeconds = aws.Int32(43201) }, "ValidationError", "less than or equal to 43200"},
		"longer than the role": {func(in *AssumeRoleInput) { in.DurationSeconds = aws.Int32(43200) }, "ValidationError",
			"The requested DurationSeconds exceeds the MaxSessionDuration set for this role."},
		"no ARN": {func(in *AssumeRoleInput) { in.RoleARN = "role/JwtProducer/nothing" }, "ValidationError",
			"role/JwtProducer/nothing is invalid"},
		"a user": {func(in *AssumeRoleInput) { in.RoleARN = aliceARN }, "ValidationError", aliceARN + " is invalid"},
		"policies of AWS": {func(in *AssumeRoleInput) { in.PolicyARNs = []string{"arn:aws:iam::aws:policy/x"} }, "ValidationError",
			"Policy arn:aws:iam::aws:policy/x does not exist or is not attachable."},
		"no policy's ARN": {func(in *AssumeRoleInput) { in.PolicyARNs = []string{"arn:aws:iam::111122223333:role/x"} }, "ValidationError",
			"ARN arn:aws:iam::111122223333:role/x is not valid."},
		"11 policies":     {func(in *AssumeRoleInput) { in.PolicyARNs = make([]string, 11) }, "ValidationError", "at 'policyArns'"},
		"no policy":       {func(in *AssumeRoleInput) { in.Policy = aws.String("{}") }, "MalformedPolicyDocument", "no Statement"},
		"an empty policy": {func(in *AssumeRoleInput) { in.Policy = aws.String("") }, "ValidationError", "at 'policy'"},
		"a trust policy": {func(in *AssumeRoleInput) { in.Policy = aws.String(trustsAll) }, "MalformedPolicyDocument",
			"a Principal in an identity policy"},
		"long policy":     {func(in *AssumeRoleInput) { in.Policy = aws.String(strings.Repeat("x", 2049)) }, "ValidationError", "at 'policy'"},
		"external id":     {func(in *AssumeRoleInput) { in.ExternalID = aws.String("a b") }, "ValidationError", "at 'externalId'"},
		"source identity": {func(in *AssumeRoleInput) { in.SourceIdentity = aws.String("x") }, "ValidationError", "at 'sourceIdentity'"},
		"tag without key": {func(in *AssumeRoleInput) { in.Tags = []keystore.Tag{{Value: "v"}} }, "ValidationError", "at 'tags.1.member.key'"},
		"a tag of AWS": {func(in *AssumeRoleInput) { in.Tags = []keystore.Tag{{Key: "aws:x"}} }, "InvalidParameterValue",
			"aws: prefixed tag key"},
		"51 tags": {func(in *AssumeRoleInput) { in.Tags = make([]keystore.Tag, 51) }, "ValidationError", "at 'tags'"},
		"51 keys": {func(in *AssumeRoleInput) { in.TransitiveTagKeys = make([]string, 51) }, "ValidationError", "at 'transitiveTagKeys'"},
		"a key that is no tag": {func(in *AssumeRoleInput) { in.Tags, in.TransitiveTagKeys = tags, []string{"Other"} }, "InvalidParameterValue",
			"The specified transitive tag key must be included in the requested tags."},
		"a tag twice": {func(in *AssumeRoleInput) { in.Tags = append(tags, keystore.Tag{Key: "TEAM"}) }, "InvalidParameterValue",
			"Duplicate tag keys found. Please note that Tag keys are case insensitive."},
	} {
		in := AssumeRoleInput{RoleARN: producerARN, SessionName: "job"}
		test.change(&in)
		_, err := user.AssumeRole(t.Context(), in)
		assert.Equal(t, test.code, errorCode(err), name)
		assert.ErrorContains(t, err, test.text, name)
	}
	_, err := user.AssumeRole(t.Context(), AssumeRoleInput{RoleARN: producerARN, SessionName: "job",
		Policy: aws.String(allowed("kms:*", strings.Repeat("ü", 1800)))})
	require.Equal(t, "MalformedPolicyDocument", errorCode(err))
	many := make([]keystore.Tag, 50)
	for i := range many {
		many[i] = keystore.Tag{Key: fmt.Sprintf("%02d%s", i, strings.Repeat("k", 100)), Value: strings.Repeat("v", 250)}
	}
	_, err = user.AssumeRole(t.Context(), AssumeRoleInput{RoleARN: producerARN, SessionName: "job", Tags: many})
	require.Equal(t, "PackedPolicyTooLarge", errorCode(err))
	require.Regexp(t, `^api error PackedPolicyTooLarge: Packed policy consumes [1-9][0-9]{2}% of allotted space$`, err.Error())
	made, err := user.AssumeRole(t.Context(), AssumeRoleInput{RoleARN: producerARN, SessionName: "job",
		Policy: aws.String(allowed("kms:*", "arn:aws:kms:*:*:"+strings.Repeat("x", 1900)))})
	require.NoError(t, err, "a policy of nearly the greatest size")
	require.Greater(t, *made.PackedPolicySize, int32(60))
	require.LessOrEqual(t, *made.PackedPolicySize, int32(100))
}

// A chain of sessions: an hour each, transitive tags and the source identity go on, others do not.
func TestRoleChaining(t *testing.T) {
	r := newRig(t)
	user := r.as(t, "Alice", "")
	mustRole(t, r.Client, "First", trustsAll)
	mustRole(t, r.Client, "Second", trustsAll)
	first := "arn:aws:iam::" + testAccount + ":role/First"
	made, err := user.AssumeRole(t.Context(), AssumeRoleInput{RoleARN: first, SessionName: "one", SourceIdentity: aws.String("bob"),
		Tags: []keystore.Tag{{Key: "Team", Value: "id"}, {Key: "Cost", Value: "7"}}, TransitiveTagKeys: []string{"team"}})
	require.NoError(t, err)
	require.Equal(t, "bob", *made.SourceIdentity)
	one := r.As(r.session(t, made))
	second := AssumeRoleInput{RoleARN: "arn:aws:iam::" + testAccount + ":role/Second", SessionName: "two"}
	refused := func(change func(*AssumeRoleInput), code, text string) {
		t.Helper()
		in := second
		change(&in)
		_, err := one.AssumeRole(t.Context(), in)
		requireAPIError(t, err, code, text)
	}
	refused(func(in *AssumeRoleInput) { in.SourceIdentity = aws.String("eve") }, "ValidationError",
		"The source identity is already set for this assume role session")
	refused(func(in *AssumeRoleInput) { in.Tags = []keystore.Tag{{Key: "TEAM", Value: "x"}} }, "InvalidParameterValue",
		"One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from the calling session.")
	require.NoError(t, r.UpdateTrustPolicy(t.Context(), "Second", trusts("*")))
	refused(func(*AssumeRoleInput) {}, "AccessDenied", notAuthorized(one, "sts:SetSourceIdentity", second.RoleARN))
	require.NoError(t, r.UpdateTrustPolicy(t.Context(), "Second", trustsAll))
	made, err = one.AssumeRole(t.Context(), second)
	require.NoError(t, err)
	require.Equal(t, "bob", *made.SourceIdentity)
	two := r.session(t, made)
	who, err := r.dir.Identify(t.Context(), two)
	require.NoError(t, err)
	value := func(name string) string {
		values, _ := who.Condition(name, time.Now())
		return strings.Join(values, " | ")
	}
	require.Equal(t, "id", value("principaltag/team"))
	require.Empty(t, value("principaltag/cost"))
	require.Equal(t, "bob", value("sourceidentity"))
	require.Equal(t, second.RoleARN, value("principalarn"))
	require.Equal(t, "AssumedRole", value("principaltype"))
	require.Equal(t, made.ID, value("userid"))
	require.Empty(t, value("username"))
	require.NotEmpty(t, value("tokenissuetime"))
	require.Equal(t, "false", value("multifactorauthpresent"))
	require.Contains(t, fmt.Sprint(r.log.recorded[len(r.log.recorded)-1].Input), "incomingTransitiveTags:map[Team:id]")
}

// A session's tags count before its role's, whatever their case; its role's count otherwise.
func TestSessionTagsOverride(t *testing.T) {
	r := newRig(t)
	mustRole(t, r.Client, producer.Name, trustsAll)
	require.NoError(t, r.TagPrincipal(t.Context(), producer, []keystore.Tag{{Key: "team", Value: "role"}, {Key: "Stage", Value: "prod"}}))
	made, err := r.as(t, "Alice", "").AssumeRole(t.Context(), AssumeRoleInput{RoleARN: producerARN, SessionName: "job",
		Tags: []keystore.Tag{{Key: "TEAM", Value: "session"}}})
	require.NoError(t, err)
	who, err := r.dir.Identify(t.Context(), r.session(t, made))
	require.NoError(t, err)
	values, _ := who.Condition("principaltag/team", time.Now())
	require.Equal(t, []string{"session"}, values)
	values, _ = who.Condition("principaltag/stage", time.Now())
	require.Equal(t, []string{"prod"}, values)
}

// A session does what its role's policies allow, as they are now, and no more than its session policy.
func TestWhatASessionMay(t *testing.T) {
	r := newRig(t)
	mustRole(t, r.Client, producer.Name, trustsAll)
	user := r.as(t, "Alice", "")
	all := r.As(r.session(t, assume(t, user, producerARN, "all")))
	limited, err := user.AssumeRole(t.Context(), AssumeRoleInput{RoleARN: producerARN, SessionName: "some",
		Policy: aws.String(allowed("iam:GetUser", "*"))})
	require.NoError(t, err)
	some := r.As(r.session(t, limited))
	get := func(c *Client) error { return second(c.GetPrincipal(t.Context(), alice)) }
	list := func(c *Client) error { return second(c.ListPrincipals(t.Context(), keystore.PrincipalUser, "")) }
	require.Equal(t, "AccessDenied", errorCode(get(all)))
	require.Equal(t, "AccessDenied", errorCode(get(some)))
	require.NoError(t, r.PutPrincipalPolicy(t.Context(), producer, "own", allowed("iam:*", "*")))
	require.NoError(t, get(all))
	require.NoError(t, list(all))
	require.NoError(t, get(some))
	requireAPIError(t, list(some), "AccessDenied",
		notAuthorized(some, "iam:ListUsers", "*")+" because no session policy allows the iam:ListUsers action")

	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	require.NoError(t, r.PutPrincipalPolicy(t.Context(), producer, "older", `{"Version": "2012-10-17", "Statement": {"Effect": "Deny", `+
		`"Action": "*", "Resource": "*", "Condition": {"DateLessThan": {"aws:TokenIssueTime": "`+later+`"}}}}`))
	require.Equal(t, "AccessDenied", errorCode(get(all)), "sessions that began before were ended")
	require.NoError(t, r.DeletePrincipalPolicy(t.Context(), producer, "older"))
	require.NoError(t, get(all))

	require.NoError(t, r.DeletePrincipalPolicy(t.Context(), producer, "own"))
	require.NoError(t, r.DeletePrincipal(t.Context(), producer))
	require.Equal(t, "AccessDenied", errorCode(get(all)))
	mustRole(t, r.Client, producer.Name, trustsAll)
	require.NoError(t, r.PutPrincipalPolicy(t.Context(), producer, "own", allowed("iam:*", "*")))
	require.Equal(t, "AccessDenied", errorCode(get(all)), "a namesake of the role")
	_, _, err = r.dir.SessionKey(t.Context(), limited.AccessKeyID, limited.SessionToken, "20260102", testRegion, "kms")
	require.ErrorIs(t, err, ErrUnknownAccessKey)
}

// Managed policies bound a session as its own policy does, as they are at each call; where one is gone the session may do nothing.
func TestManagedSessionPolicies(t *testing.T) {
	r := newRig(t)
	mustRole(t, r.Client, producer.Name, trustsAll)
	require.NoError(t, r.PutPrincipalPolicy(t.Context(), producer, "own", allowed("iam:*", "*")))
	user := r.as(t, "Alice", "")
	some, err := r.CreatePolicy(t.Context(), "some", allowed("iam:GetUser", "*"), PolicyOptions{})
	require.NoError(t, err)
	in := AssumeRoleInput{RoleARN: producerARN, SessionName: "job", PolicyARNs: []string{some.ARN, some.ARN}}
	made, err := user.AssumeRole(t.Context(), in)
	require.NoError(t, err)
	require.NotNil(t, made.PackedPolicySize)
	job := r.As(r.session(t, made))
	get := func() error { return second(job.GetPrincipal(t.Context(), alice)) }
	list := func() error { return second(job.ListPrincipals(t.Context(), keystore.PrincipalUser, "")) }
	require.NoError(t, get())
	require.Equal(t, "AccessDenied", errorCode(list()))
	_, err = r.CreatePolicyVersion(t.Context(), some.ARN, allowed("iam:List*", "*"), true)
	require.NoError(t, err)
	require.NoError(t, list())
	require.Equal(t, "AccessDenied", errorCode(get()))
	in.Policy = aws.String(allowed("iam:GetUser", "*"))
	made, err = user.AssumeRole(t.Context(), in)
	require.NoError(t, err)
	both := r.As(r.session(t, made))
	require.NoError(t, second(both.GetPrincipal(t.Context(), alice)), "one of the session policies is enough")
	require.NoError(t, second(both.ListPrincipals(t.Context(), keystore.PrincipalUser, "")))

	require.NoError(t, r.DeletePolicyVersion(t.Context(), some.ARN, "v1"))
	require.NoError(t, r.DeletePolicy(t.Context(), some.ARN))
	require.Equal(t, "AccessDenied", errorCode(get()))
	require.Equal(t, "AccessDenied", errorCode(list()))
	require.Equal(t, "AccessDenied", errorCode(second(both.GetPrincipal(t.Context(), alice))))
	_, err = r.CreatePolicy(t.Context(), "some", allowed("iam:*", "*"), PolicyOptions{})
	require.NoError(t, err)
	require.Equal(t, "AccessDenied", errorCode(list()), "a namesake of the policy")
}

// Sessions are asked for by name where the service has operations on a user or on whoever asks.
func TestASessionIsNoUser(t *testing.T) {
	r := newRig(t)
	mustRole(t, r.Client, producer.Name, trustsAll)
	name, err := r.As(r.session(t, assume(t, r.as(t, "Alice", ""), producerARN, "job"))).Name(t.Context())
	require.NoError(t, err)
	require.Equal(t, producer, name)
}
