package server

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

func newQueryFixture(t *testing.T) (*fixture, *running) {
	f := newFixture(t, func(_ *pkcs11kms.Config, o *Options) { o.Services = Services() })
	return f, f.run(t, Listen{})
}

// form makes a signed request of the query protocol.
func (f *fixture) form(t *testing.T, address string, s signing, parameters ...string) *http.Request {
	t.Helper()
	var pairs []string
	for i := 0; i < len(parameters); i += 2 {
		pairs = append(pairs, url.QueryEscape(parameters[i])+"="+url.QueryEscape(parameters[i+1]))
	}
	body := strings.Join(pairs, "&")
	r, err := http.NewRequest(http.MethodPost, address, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", formType+"; charset=utf-8")
	f.sign(t, r, body, s)
	return r
}

// ask sends a call of IAM and returns status and answer.
func (f *fixture) ask(t *testing.T, r *running, action string, parameters ...string) (int, string) {
	t.Helper()
	got := f.send(t, f.form(t, r.url, signing{service: "iam", region: globalRegion},
		append([]string{"Action", action, "Version", "2010-05-08"}, parameters...)...))
	require.Equal(t, "text/xml", got.Header.Get("Content-Type"))
	require.Contains(t, got.body, "<RequestId>"+got.Header.Get("X-Amzn-Requestid")+"</RequestId>")
	return got.StatusCode, got.body
}

const trustText = `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}`

// Every operation of the table that a service has is served, and nothing else.
func TestTheTableOfTheQueryServicesIsServed(t *testing.T) {
	for _, service := range []*service{identities, securityTokens} {
		rows := map[string]bool{}
		for op := range ops.All {
			if op.Service == service.signingName && op.Answer != ops.ActionOnly {
				rows[op.Name] = true
				require.NotNil(t, service.operations[op.Name], "%s has a row and is not served", op.Name)
			}
		}
		for name := range service.operations {
			require.True(t, rows[name], "%s is served and has no row", name)
		}
	}
}

// A user's life, in the shapes of AWS IAM.
func TestUsersOverTheWire(t *testing.T) {
	f, r := newQueryFixture(t)
	must := func(want, action string, parameters ...string) {
		t.Helper()
		status, got := f.ask(t, r, action, parameters...)
		require.Equal(t, http.StatusOK, status, got)
		begin := "<" + action + `Response xmlns="https://iam.amazonaws.com/doc/2010-05-08/">`
		if want != "" {
			want = "<" + action + "Result>" + want + "</" + action + "Result>"
		}
		require.Regexp(t, pattern(begin+want+"<ResponseMetadata><RequestId>{{uuid}}</RequestId></ResponseMetadata></"+action+"Response>"), got)
	}
	const alice = `<Path>/team/</Path><UserName>Alice</UserName><UserId>{{user}}</UserId>` +
		`<Arn>arn:aws:iam::111122223333:user/team/Alice</Arn>` +
		`<CreateDate>{{time}}</CreateDate>`
	const tags = `<Tags><member><Key>Team</Key><Value></Value></member></Tags>`
	must("<User>"+alice+tags+"</User>", "CreateUser", "UserName", "Alice", "Path", "/team/",
		"Tags.member.1.Key", "Team", "Tags.member.1.Value", "")
	must("<User>"+alice+tags+"</User>", "GetUser", "UserName", "Alice")
	must("<Users><member>"+alice+"</member></Users><IsTruncated>false</IsTruncated>", "ListUsers", "PathPrefix", "/team/")
	must("<Users></Users><IsTruncated>false</IsTruncated>", "ListUsers", "PathPrefix", "/other/")
	const document = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "arn:aws:kms:*:*:key/a+b"}}`
	must("", "PutUserPolicy", "UserName", "Alice", "PolicyName", "own", "PolicyDocument", document)
	must("<UserName>Alice</UserName><PolicyName>own</PolicyName><PolicyDocument>%7B%22Version%22%3A%20%222012-10-17%22%2C%20%22Statement%22"+
		"%3A%20%7B%22Effect%22%3A%20%22Allow%22%2C%20%22Action%22%3A%20%22kms%3A%2A%22%2C%20%22Resource%22%3A%20%22arn%3Aaws%3Akms%3A%2A"+
		"%3A%2A%3Akey%2Fa%2Bb%22%7D%7D</PolicyDocument>", "GetUserPolicy", "UserName", "Alice", "PolicyName", "own")
	must("<PolicyNames><member>own</member></PolicyNames><IsTruncated>false</IsTruncated>", "ListUserPolicies", "UserName", "Alice")
	must("<AttachedPolicies></AttachedPolicies><IsTruncated>false</IsTruncated>", "ListAttachedUserPolicies", "UserName", "Alice")
	must("<Groups></Groups><IsTruncated>false</IsTruncated>", "ListGroupsForUser", "UserName", "Alice")
	for action, list := range map[string]string{"ListMFADevices": "MFADevices", "ListSigningCertificates": "Certificates",
		"ListSSHPublicKeys": "SSHPublicKeys"} {
		must("<"+list+"></"+list+"><IsTruncated>false</IsTruncated>", action, "UserName", "Alice")
	}
	must("<ServiceSpecificCredentials></ServiceSpecificCredentials>", "ListServiceSpecificCredentials", "UserName", "Alice")
	status, got := f.ask(t, r, "GetLoginProfile", "UserName", "Alice")
	require.Equal(t, http.StatusNotFound, status)
	require.Contains(t, got, "<Code>NoSuchEntity</Code><Message>Login Profile for User Alice cannot be found.</Message>")
	must("", "TagUser", "UserName", "Alice", "Tags.member.1.Key", "Stage", "Tags.member.1.Value", "test")
	must("", "UntagUser", "UserName", "Alice", "TagKeys.member.1", "team")
	must("<Tags><member><Key>Stage</Key><Value>test</Value></member></Tags><IsTruncated>false</IsTruncated>",
		"ListUserTags", "UserName", "Alice")
	must("<AccessKey><UserName>Alice</UserName><AccessKeyId>{{key}}</AccessKeyId><Status>Active</Status>"+
		"<SecretAccessKey>{{secret}}</SecretAccessKey><CreateDate>{{time}}</CreateDate></AccessKey>", "CreateAccessKey", "UserName", "Alice")
	keys, err := f.bridge.IAM().As(f.bridge.Root()).ListAccessKeys(t.Context(), iam.PrincipalName{Type: keystore.PrincipalUser, Name: "Alice"})
	require.NoError(t, err)
	must("", "UpdateAccessKey", "UserName", "Alice", "AccessKeyId", keys[0].ID, "Status", "Inactive")
	must("<AccessKeyMetadata><member><UserName>Alice</UserName><AccessKeyId>"+keys[0].ID+"</AccessKeyId><Status>Inactive</Status>"+
		"<CreateDate>{{time}}</CreateDate></member></AccessKeyMetadata><IsTruncated>false</IsTruncated>", "ListAccessKeys", "UserName", "Alice")
	must("<UserName>Alice</UserName><AccessKeyLastUsed><ServiceName>N/A</ServiceName><Region>N/A</Region></AccessKeyLastUsed>",
		"GetAccessKeyLastUsed", "AccessKeyId", keys[0].ID)
	must("", "DeleteAccessKey", "UserName", "Alice", "AccessKeyId", keys[0].ID)
	must("", "DeleteUserPolicy", "UserName", "Alice", "PolicyName", "own")
	must("", "DeleteUser", "UserName", "Alice")
	must("<User><UserId>111122223333</UserId><Arn>arn:aws:iam::111122223333:root</Arn></User>", "GetUser")
}

// A role's life.
func TestRolesOverTheWire(t *testing.T) {
	f, r := newQueryFixture(t)
	must := func(action string, parameters ...string) string {
		t.Helper()
		status, got := f.ask(t, r, action, parameters...)
		require.Equal(t, http.StatusOK, status, got)
		return got
	}
	made := must("CreateRole", "RoleName", "Maker", "AssumeRolePolicyDocument", trustText, "Description", "makes",
		"MaxSessionDuration", "3600")
	require.Contains(t, made, "<AssumeRolePolicyDocument>%7B%22Version%22%3A%20%222012-10-17%22")
	require.NotContains(t, made, "MaxSessionDuration")
	found := must("GetRole", "RoleName", "Maker")
	require.Contains(t, found, "<Description>makes</Description><MaxSessionDuration>3600</MaxSessionDuration>"+
		"<RoleLastUsed></RoleLastUsed></Role>")
	require.Contains(t, must("UpdateRole", "RoleName", "Maker", "MaxSessionDuration", "7200"), "<UpdateRoleResult></UpdateRoleResult>")
	require.Contains(t, must("GetRole", "RoleName", "Maker"), "<Description>makes</Description><MaxSessionDuration>7200</MaxSessionDuration>")
	must("TagRole", "RoleName", "Maker", "Tags.member.1.Key", "k", "Tags.member.1.Value", "v")
	require.NotContains(t, must("ListRoles"), "Tags")
	require.Contains(t, must("ListRoleTags", "RoleName", "Maker"), "<Key>k</Key>")
	must("UntagRole", "RoleName", "Maker", "TagKeys.member.1", "k")
	must("UpdateAssumeRolePolicy", "RoleName", "Maker", "PolicyDocument", strings.Replace(trustText, "Allow", "Deny", 1))
	require.Contains(t, must("GetRole", "RoleName", "Maker"), "%22Effect%22%3A%20%22Deny%22")
	must("PutRolePolicy", "RoleName", "Maker", "PolicyName", "own", "PolicyDocument",
		`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:GenerateMac", "Resource": "*"}}`)
	require.Contains(t, must("ListRolePolicies", "RoleName", "Maker"), "<member>own</member>")
	require.Contains(t, must("GetRolePolicy", "RoleName", "Maker", "PolicyName", "own"), "kms%3AGenerateMac")
	must("ListAttachedRolePolicies", "RoleName", "Maker")
	must("ListInstanceProfilesForRole", "RoleName", "Maker")
	must("DeleteRolePolicy", "RoleName", "Maker", "PolicyName", "own")
	must("DeleteRole", "RoleName", "Maker")
}

// The life of a group and of a managed policy, in the shapes of AWS IAM.
func TestGroupsAndPoliciesOverTheWire(t *testing.T) {
	f, r := newQueryFixture(t)
	must := func(want, action string, parameters ...string) {
		t.Helper()
		status, got := f.ask(t, r, action, parameters...)
		require.Equal(t, http.StatusOK, status, got)
		if want != "" {
			want = "<" + action + "Result>" + want + "</" + action + "Result>"
		}
		require.Regexp(t, pattern("<"+action+`Response xmlns="https://iam.amazonaws.com/doc/2010-05-08/">`+want+
			"<ResponseMetadata><RequestId>{{uuid}}</RequestId></ResponseMetadata></"+action+"Response>"), got)
	}
	const group = `<Path>/ops/</Path><GroupName>Ops</GroupName><GroupId>{{group}}</GroupId>` +
		`<Arn>arn:aws:iam::111122223333:group/ops/Ops</Arn><CreateDate>{{time}}</CreateDate>`
	const more = `<IsTruncated>false</IsTruncated>`
	must("<Group>"+group+"</Group>", "CreateGroup", "GroupName", "Ops", "Path", "/ops/")
	must("<Groups><member>"+group+"</member></Groups>"+more, "ListGroups", "PathPrefix", "/ops/")
	status, got := f.ask(t, r, "CreateUser", "UserName", "Alice")
	require.Equal(t, http.StatusOK, status, got)
	must("", "AddUserToGroup", "GroupName", "Ops", "UserName", "Alice")
	must("<Group>"+group+"</Group><Users><member><Path>/</Path><UserName>Alice</UserName><UserId>{{user}}</UserId>"+
		"<Arn>arn:aws:iam::111122223333:user/Alice</Arn><CreateDate>{{time}}</CreateDate></member></Users>"+more, "GetGroup", "GroupName", "Ops")
	must("<Groups><member>"+group+"</member></Groups>"+more, "ListGroupsForUser", "UserName", "Alice")

	const document = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*"}}`
	const escapedDocument = "%7B%22Version%22%3A%20%222012-10-17%22%2C%20%22Statement%22%3A%20%7B%22Effect%22%3A%20%22Allow" +
		"%22%2C%20%22Action%22%3A%20%22kms%3AListKeys%22%2C%20%22Resource%22%3A%20%22%2A%22%7D%7D"
	const arn = "arn:aws:iam::111122223333:policy/List"
	shown := func(attached, rest string) string {
		return "<PolicyName>List</PolicyName><PolicyId>{{policy}}</PolicyId><Arn>" + arn + "</Arn><Path>/</Path>" +
			"<DefaultVersionId>v1</DefaultVersionId><AttachmentCount>" + attached + "</AttachmentCount>" +
			"<PermissionsBoundaryUsageCount>0</PermissionsBoundaryUsageCount>" +
			"<IsAttachable>true</IsAttachable>" + rest
	}
	const times = "<CreateDate>{{time}}</CreateDate><UpdateDate>{{time}}</UpdateDate>"
	must("<Policy>"+shown("0", times)+"</Policy>", "CreatePolicy", "PolicyName", "List", "PolicyDocument", document, "Description", "lists")
	must("", "AttachGroupPolicy", "GroupName", "Ops", "PolicyArn", arn)
	must("<Policy>"+shown("1", "<Description>lists</Description>"+times+"<Tags></Tags>")+"</Policy>", "GetPolicy", "PolicyArn", arn)
	must("<Policies><member>"+shown("1", times)+"</member></Policies>"+more, "ListPolicies", "Scope", "Local", "OnlyAttached", "true")
	must("<Policies></Policies>"+more, "ListPolicies", "Scope", "AWS")
	must("<AttachedPolicies><member><PolicyName>List</PolicyName><PolicyArn>"+arn+"</PolicyArn></member></AttachedPolicies>"+more,
		"ListAttachedGroupPolicies", "GroupName", "Ops")
	must("<PolicyGroups><member><GroupName>Ops</GroupName><GroupId>{{group}}</GroupId></member></PolicyGroups><PolicyUsers></PolicyUsers>"+
		"<PolicyRoles></PolicyRoles>"+more, "ListEntitiesForPolicy", "PolicyArn", arn)
	must("<PolicyVersion><VersionId>v2</VersionId><IsDefaultVersion>false</IsDefaultVersion><CreateDate>{{time}}</CreateDate></PolicyVersion>",
		"CreatePolicyVersion", "PolicyArn", arn, "PolicyDocument", document)
	version := func(id, isDefault string) string {
		return "<VersionId>" + id + "</VersionId><IsDefaultVersion>" + isDefault + "</IsDefaultVersion><CreateDate>{{time}}</CreateDate>"
	}
	must("<PolicyVersion><Document>"+escapedDocument+"</Document>"+version("v1", "true")+"</PolicyVersion>",
		"GetPolicyVersion", "PolicyArn", arn, "VersionId", "v1")
	must("<Versions><member>"+version("v2", "false")+"</member><member>"+version("v1", "true")+"</member></Versions>"+more,
		"ListPolicyVersions", "PolicyArn", arn)
	must("<Versions><member>"+version("v2", "false")+"</member></Versions><IsTruncated>true</IsTruncated><Marker>MDA</Marker>",
		"ListPolicyVersions", "PolicyArn", arn, "MaxItems", "1")
	must("<Versions><member>"+version("v1", "true")+"</member></Versions>"+more, "ListPolicyVersions", "PolicyArn", arn, "Marker", "MDA")
	must("", "SetDefaultPolicyVersion", "PolicyArn", arn, "VersionId", "v2")
	must("", "DeletePolicyVersion", "PolicyArn", arn, "VersionId", "v1")
	must("", "TagPolicy", "PolicyArn", arn, "Tags.member.1.Key", "Team", "Tags.member.1.Value", "id")
	must("<Tags><member><Key>Team</Key><Value>id</Value></member></Tags>"+more, "ListPolicyTags", "PolicyArn", arn)
	must("", "UntagPolicy", "PolicyArn", arn, "TagKeys.member.1", "Team")

	must("", "PutGroupPolicy", "GroupName", "Ops", "PolicyName", "own", "PolicyDocument", document)
	must("<GroupName>Ops</GroupName><PolicyName>own</PolicyName><PolicyDocument>"+escapedDocument+"</PolicyDocument>",
		"GetGroupPolicy", "GroupName", "Ops", "PolicyName", "own")
	must("<PolicyNames><member>own</member></PolicyNames>"+more, "ListGroupPolicies", "GroupName", "Ops")
	for _, name := range []string{"User", "Role"} {
		if name == "Role" {
			status, got := f.ask(t, r, "CreateRole", "RoleName", "Alice", "AssumeRolePolicyDocument", trustText)
			require.Equal(t, http.StatusOK, status, got)
		}
		must("", "Attach"+name+"Policy", name+"Name", "Alice", "PolicyArn", arn)
		must("<AttachedPolicies></AttachedPolicies>"+more, "ListAttached"+name+"Policies", name+"Name", "Alice", "PathPrefix", "/x/")
		must("", "Detach"+name+"Policy", name+"Name", "Alice", "PolicyArn", arn)
	}
	for _, tc := range [][]string{
		{"409", "DeletePolicy", "PolicyArn", arn}, {"409", "DeleteGroup", "GroupName", "Ops"},
		{"404", "GetPolicy", "PolicyArn", "arn:aws:iam::aws:policy/AdministratorAccess"},
		{"400", "GetPolicy", "PolicyArn", "arn:aws:iam::1:role/x"},
		{"400", "ListPolicies", "Scope", "x"}, {"400", "ListEntitiesForPolicy", "PolicyArn", arn, "EntityFilter", "x"},
		{"400", "ListPolicies", "Marker", "?"}, {"400", "CreatePolicy", "PolicyName", "x", "PolicyDocument", "{"},
	} {
		status, got := f.ask(t, r, tc[1], tc[2:]...)
		require.Equal(t, tc[0], strconv.Itoa(status), "%v: %s", tc, got)
	}
	must("", "DeleteGroupPolicy", "GroupName", "Ops", "PolicyName", "own")
	must("", "DetachGroupPolicy", "GroupName", "Ops", "PolicyArn", arn)
	must("", "RemoveUserFromGroup", "GroupName", "Ops", "UserName", "Alice")
	must("", "DeleteGroup", "GroupName", "Ops")
	must("", "DeletePolicy", "PolicyArn", arn)
}

// What is refused, with the codes, statuses and texts of AWS.
func TestRefusalsOfTheQueryProtocol(t *testing.T) {
	f, r := newQueryFixture(t)
	root := f.bridge.IAM().As(f.bridge.Root())
	for _, name := range []iam.PrincipalName{user("Bob"), role("Maker")} {
		_, err := root.CreatePrincipal(t.Context(), name, iam.PrincipalOptions{})
		require.NoError(t, err)
	}
	bob, err := root.CreateAccessKey(t.Context(), user("Bob"))
	require.NoError(t, err)
	maker, err := root.CreateAccessKey(t.Context(), role("Maker"))
	require.NoError(t, err)
	good := signing{service: "iam", region: globalRegion}
	as := func(key iam.AccessKey) signing {
		return signing{service: "iam", region: globalRegion, id: key.ID, secret: key.Secret}
	}
	for name, tc := range map[string]struct {
		signed     signing
		status     int
		code, text string
		parameters []string
	}{
		"unknown action": {good, 400, "InvalidAction",
			"Could not find operation Fly for version 2010-05-08",
			[]string{"Action", "Fly"}},
		"of the other": {good, 400, "InvalidAction",
			"Could not find operation GetCallerIdentity",
			[]string{"Action", "GetCallerIdentity"}},
		"missing name": {good, 400, "ValidationError",
			"1 validation error detected: Value null at 'userName' failed to satisfy constraint: Member must not be null",
			[]string{"Action", "DeleteUser"}},
		"missing tag key": {good, 400, "ValidationError",
			"at 'tags.1.member.key' failed",
			[]string{"Action", "TagUser", "UserName", "Bob", "Tags.member.1.Value", "v"}},
		"no number": {good, 400, "MalformedInput",
			"",
			[]string{"Action", "ListUsers", "MaxItems", "x"}},
		"too many": {good, 400, "ValidationError",
			"at 'maxItems' failed to satisfy constraint: Member must have value less than or equal to 1000",
			[]string{"Action", "ListUsers", "MaxItems", "1001"}},
		"no marker": {good, 400, "ValidationError",
			"Invalid Marker.",
			[]string{"Action", "ListUsers", "Marker", "?"}},
		"nobody there": {good, 404, "NoSuchEntity",
			"The user with name None cannot be found.",
			[]string{"Action", "GetUser", "UserName", "None"}},
		"there already": {good, 409, "EntityAlreadyExists",
			"User with name Bob already exists.",
			[]string{"Action", "CreateUser", "UserName", "Bob"}},
		"has access keys": {good, 409, "DeleteConflict",
			"Cannot delete entity, must delete access keys first.",
			[]string{"Action", "DeleteUser", "UserName", "Bob"}},
		"no sessions": {good, 400, "ValidationError",
			"at 'maxSessionDuration' failed to satisfy constraint: Member must have value greater than or equal to 3600",
			[]string{"Action", "CreateRole", "RoleName", "R", "AssumeRolePolicyDocument", trustText, "MaxSessionDuration", "0"}},
		"boundary": {good, 400, "ValidationError",
			"no permissions boundaries",
			[]string{"Action", "CreateUser", "UserName", "U", "PermissionsBoundary", "arn:aws:iam::aws:policy/A"}},
		"denied": {as(bob), 403, "AccessDenied",
			"User: arn:aws:iam::111122223333:user/Bob is not authorized to perform: iam:ListUsers on resource: " +
				"* because no identity-based policy allows the iam:ListUsers action",
			[]string{"Action", "ListUsers"}},
		"a role's own name": {as(maker), 400, "ValidationError",
			"Must specify userName when calling with non-User credentials",
			[]string{"Action", "GetUser"}},
		"unknown key": {signing{service: "iam", region: globalRegion, id: "AKIAAAAAAAAAAAAAAAAA"}, 403, "InvalidClientTokenId",
			"The security token included in the request is invalid.",
			[]string{"Action", "ListUsers"}},
		"session token": {signing{service: "iam", region: globalRegion, token: "t"}, 403, "InvalidClientTokenId",
			"The security token included in the request is invalid.",
			[]string{"Action", "ListUsers"}},
		"wrong secret": {signing{service: "iam", region: globalRegion, secret: "s"}, 403, "SignatureDoesNotMatch",
			"The request signature we calculated does not match",
			[]string{"Action", "ListUsers"}},
		"old": {signing{service: "iam", region: globalRegion, at: time.Now().Add(-time.Hour)}, 403, "SignatureDoesNotMatch",
			"Signature expired: ",
			[]string{"Action", "ListUsers"}},
		"another region": {signing{service: "iam", region: "eu-west-1"}, 403, "SignatureDoesNotMatch",
			"Credential should be scoped to a valid region.",
			[]string{"Action", "ListUsers"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := f.send(t, f.form(t, r.url, tc.signed, append([]string{"Version", "2010-05-08"}, tc.parameters...)...))
			require.Equal(t, tc.status, got.StatusCode, got.body)
			require.Contains(t, got.body, `<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><Error><Type>Sender</Type><Code>`+
				tc.code+`</Code>`)
			if tc.text == "" {
				require.NotContains(t, got.body, "<Message>")
			}
			require.Contains(t, strings.ReplaceAll(got.body, "&#39;", "'"), tc.text)
			require.Equal(t, "text/xml", got.Header.Get("Content-Type"))
		})
	}
}

// The region may be the one that clients of a service without regions sign for, or the client's own.
func TestCallerIdentityOverTheWire(t *testing.T) {
	f, r := newQueryFixture(t)
	for _, region := range []string{globalRegion, testRegion} {
		got := f.send(t, f.form(t, r.url, signing{service: "sts", region: region}, "Action", "GetCallerIdentity", "Version", "2011-06-15"))
		require.Equal(t, http.StatusOK, got.StatusCode, got.body)
		require.Contains(t, got.body, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>`+
			`<Arn>arn:aws:iam::111122223333:root</Arn><UserId>111122223333</UserId><Account>111122223333</Account></GetCallerIdentityResult>`)
	}
}

// What is signed for a region that is not configured is for no key of this server: only a service without regions takes it.
func TestOnlyServicesWithoutRegionsTakeTheGlobalOne(t *testing.T) {
	f, r := newQueryFixture(t)
	req := f.request(t, r.url, "ListKeys", "{}")
	f.sign(t, req, "{}", signing{region: globalRegion})
	got := f.send(t, req)
	require.Equal(t, http.StatusBadRequest, got.StatusCode)
	require.Contains(t, got.body, "Credential should be scoped to a valid region. This endpoint answers for "+testRegion+". ")
}

// Lists come in pages, which what is made and deleted meanwhile does not move.
func TestPagesOverTheWire(t *testing.T) {
	f, r := newQueryFixture(t)
	root := f.bridge.IAM().As(f.bridge.Root())
	for _, name := range []string{"a", "B", "c", "D", "e"} {
		_, err := root.CreatePrincipal(t.Context(), user(name), iam.PrincipalOptions{})
		require.NoError(t, err)
	}
	var seen []string
	for marker := ""; ; {
		parameters := []string{"MaxItems", "2"}
		if marker != "" {
			parameters = append(parameters, "Marker", marker)
		}
		_, got := f.ask(t, r, "ListUsers", parameters...)
		for _, part := range strings.Split(got, "<UserName>")[1:] {
			seen = append(seen, part[:1])
		}
		_, rest, more := strings.Cut(got, "<IsTruncated>true</IsTruncated><Marker>")
		if !more {
			break
		}
		marker, _, _ = strings.Cut(rest, "<")
		require.NoError(t, root.DeletePrincipal(t.Context(), user(seen[len(seen)-1])))
	}
	require.Equal(t, []string{"a", "B", "c", "D", "e"}, seen)
}

// A server answers no service that it was not told to.
func TestServicesAreOffUnlessNamed(t *testing.T) {
	f := newFixture(t, func(_ *pkcs11kms.Config, o *Options) { o.Services = []string{"kms", "sts"} })
	r := f.run(t, Listen{})
	got := f.send(t, f.form(t, r.url, signing{service: "iam", region: testRegion}, "Action", "ListUsers", "Version", "2010-05-08"))
	require.Equal(t, http.StatusBadRequest, got.StatusCode)
	require.Contains(t, got.body, "<Code>InvalidAction</Code><Message>This endpoint answers AWS KMS only: ListUsers of iam is not here. "+
		"Its operator can add the service to services in config.yaml.</Message>")
	got = f.send(t, f.form(t, r.url, signing{service: "sts", region: testRegion}, "Action", "GetCallerIdentity", "Version", "2011-06-15"))
	require.Equal(t, http.StatusOK, got.StatusCode)
}
