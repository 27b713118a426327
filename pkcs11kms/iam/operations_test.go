package iam

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

const allowMAC = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:GenerateMac", "Resource": "*"}}`

func TestPrincipalLife(t *testing.T) {
	b := newRig(t)
	for name, options := range map[PrincipalName]PrincipalOptions{
		alice:    {Path: "/jwt/", Tags: []keystore.Tag{{Key: "Stage", Value: "test"}}},
		producer: {Path: "/jwt/", Description: "signs", TrustPolicy: trustsNobody, MaxSessionDuration: 7200},
	} {
		made, err := b.CreatePrincipal(t.Context(), name, options)
		require.NoError(t, err)
		require.Equal(t, name, made.PrincipalName)
		require.Equal(t, options, made.PrincipalOptions)
		require.Regexp(t, map[keystore.PrincipalType]string{"user": `^AIDA[A-Z2-7]{17}$`, "role": `^AROA[A-Z2-7]{17}$`}[name.Type], made.ID)
		read, err := b.GetPrincipal(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, made, read)

		_, err = b.CreatePrincipal(t.Context(), PrincipalName{name.Type, strings.ToUpper(name.Name)}, PrincipalOptions{})
		requireAPIError(t, err, "EntityAlreadyExists", kindOf(name.Type).entity+" with name "+strings.ToUpper(name.Name)+" already exists.")
		require.NoError(t, b.PutPrincipalPolicy(t.Context(), name, "mac", allowMAC))
		requireAPIError(t, b.DeletePrincipal(t.Context(), name), "DeleteConflict", "Cannot delete entity, must delete policies first.")
		require.NoError(t, b.DeletePrincipalPolicy(t.Context(), name, "mac"))
		require.NoError(t, b.DeletePrincipal(t.Context(), name))

		gone := fmt.Sprintf("The %s with name %s cannot be found.", name.Type, name.Name)
		requireAPIError(t, b.DeletePrincipal(t.Context(), name), "NoSuchEntity", gone)
		requireAPIError(t, second(b.GetPrincipal(t.Context(), name)), "NoSuchEntity", gone)
		requireAPIError(t, b.PutPrincipalPolicy(t.Context(), name, "mac", allowMAC), "NoSuchEntity", gone)
		requireAPIError(t, second(b.GetPrincipalPolicy(t.Context(), name, "mac")), "NoSuchEntity", gone)
		requireAPIError(t, second(b.ListPrincipalPolicies(t.Context(), name)), "NoSuchEntity", gone)
		requireAPIError(t, b.DeletePrincipalPolicy(t.Context(), name, "mac"), "NoSuchEntity", gone)
		requireAPIError(t, b.TagPrincipal(t.Context(), name, nil), "NoSuchEntity", gone)
		requireAPIError(t, b.UntagPrincipal(t.Context(), name, nil), "NoSuchEntity", gone)
	}
}

// A role's sessions last an hour unless it says more; what UpdateRole is not told stays.
func TestUpdateRole(t *testing.T) {
	b := newRig(t)
	mustCreatePrincipal(t, b.Client, producer)
	want := func(description string, seconds int32) {
		t.Helper()
		found, err := b.GetPrincipal(t.Context(), producer)
		require.NoError(t, err)
		require.Equal(t, [2]any{description, seconds}, [2]any{found.Description, found.MaxSessionDuration})
	}
	want("", 3600)
	for _, step := range []struct {
		to          RoleUpdate
		description string
		seconds     int32
	}{
		{RoleUpdate{MaxSessionDuration: new(int32(43200))}, "", 43200},
		{RoleUpdate{Description: new("signs")}, "signs", 43200},
		{RoleUpdate{}, "signs", 43200},
		{RoleUpdate{Description: new(""), MaxSessionDuration: new(int32(3600))}, "", 3600},
	} {
		require.NoError(t, b.UpdateRole(t.Context(), producer.Name, step.to))
		want(step.description, step.seconds)
	}
	for seconds, side := range map[int32]string{0: "greater", 3599: "greater", -1: "greater", 43201: "less"} {
		bound := map[string]int{"greater": 3600, "less": 43200}[side]
		requireAPIError(t, b.UpdateRole(t.Context(), producer.Name, RoleUpdate{MaxSessionDuration: &seconds}), "ValidationError",
			fmt.Sprintf("1 validation error detected: Value at 'maxSessionDuration' failed to satisfy constraint: "+
				"Member must have value %s than or equal to %d", side, bound))
	}
	want("", 3600)
	requireAPIError(t, b.UpdateRole(t.Context(), "None", RoleUpdate{}), "NoSuchEntity", "The role with name None cannot be found.")
}

func TestListPrincipals(t *testing.T) {
	b := newRig(t)
	for _, name := range []string{"carol", "Bob", "alice"} {
		for _, kind := range []keystore.PrincipalType{keystore.PrincipalUser, keystore.PrincipalRole} {
			_, err := b.CreatePrincipal(t.Context(), PrincipalName{kind, name}, PrincipalOptions{Path: "/" + name[:1] + "/"})
			require.NoError(t, err)
		}
	}
	for prefix, want := range map[string][]string{"": {"alice", "Bob", "carol"}, "/": {"alice", "Bob", "carol"}, "/B/": {"Bob"}, "/B": {"Bob"},
		"/b": {}, "/a/x": {}} {
		list, err := b.ListPrincipals(t.Context(), keystore.PrincipalRole, prefix)
		require.NoError(t, err)
		names := []string{}
		for _, p := range list {
			require.Equal(t, keystore.PrincipalRole, p.Type)
			names = append(names, p.Name)
		}
		require.Equal(t, want, names, "prefix %q", prefix)
	}
	_, err := b.ListPrincipals(t.Context(), keystore.PrincipalRole, "x")
	require.Equal(t, "ValidationError", errorCode(err))
}

func TestFormOfPrincipals(t *testing.T) {
	b := newRig(t)
	long := strings.Repeat("x", 64)
	for name, want := range map[string]string{
		"": "1 validation error detected: Value '' at 'userName' failed to satisfy constraint: " +
			"Member must have length greater than or equal to 1",
		long + "x": "1 validation error detected: Value '" + long +
			"x' at 'userName' failed to satisfy constraint: Member must have length less than or equal to 64",
		"a/b":       "The specified value for userName is invalid. It must contain only alphanumeric characters and/or the following: +=,.@_-",
		"a b":       "The specified value for userName is invalid. It must contain only alphanumeric characters and/or the following: +=,.@_-",
		"a\n":       "The specified value for userName is invalid. It must contain only alphanumeric characters and/or the following: +=,.@_-",
		"é":         "The specified value for userName is invalid. It must contain only alphanumeric characters and/or the following: +=,.@_-",
		long:        "",
		"a_+=,.@-9": "",
	} {
		_, err := b.CreatePrincipal(t.Context(), PrincipalName{keystore.PrincipalUser, name}, PrincipalOptions{})
		if want == "" {
			require.NoError(t, err)
			continue
		}
		requireAPIError(t, err, "ValidationError", want)
	}
	for _, name := range []PrincipalName{{}, {"planet", "g"}} {
		require.Equal(t, "ValidationError", errorCode(second(b.CreatePrincipal(t.Context(), name, PrincipalOptions{}))))
	}
	for name, test := range map[string]struct {
		options PrincipalOptions
		code    string
		text    string
	}{
		"path":           {PrincipalOptions{Path: "x/"}, "ValidationError", "must begin and end with /"},
		"open path":      {PrincipalOptions{Path: "/x"}, "ValidationError", "must begin and end with /"},
		"path of blanks": {PrincipalOptions{Path: "/a b/"}, "ValidationError", "must begin and end with /"},
		"long path":      {PrincipalOptions{Path: "/" + strings.Repeat("x", 511) + "/"}, "ValidationError", "less than or equal to 512"},
		"description":    {PrincipalOptions{Description: strings.Repeat("x", 1001)}, "ValidationError", "less than or equal to 1000"},
		"short sessions": {PrincipalOptions{MaxSessionDuration: 3599}, "ValidationError", "greater than or equal to 3600"},
		"long sessions":  {PrincipalOptions{MaxSessionDuration: 43201}, "ValidationError", "less than or equal to 43200"},
		"no JSON":        {PrincipalOptions{TrustPolicy: "{"}, "MalformedPolicyDocument", "This policy contains invalid Json"},
		"null":           {PrincipalOptions{TrustPolicy: "null"}, "MalformedPolicyDocument", "This policy contains invalid Json"},
		"long trust": {PrincipalOptions{TrustPolicy: `"` + strings.Repeat("x", 2047) + `"`}, "LimitExceeded",
			"Cannot exceed quota for ACLSizePerRole: 2048"},
		"duplicate tags":  {PrincipalOptions{Tags: []keystore.Tag{{Key: "a"}, {Key: "A"}}}, "InvalidInput", "Duplicate tag keys found."},
		"reserved tag":    {PrincipalOptions{Tags: []keystore.Tag{{Key: "AWS:x"}}}, "InvalidInput", "aws: prefixed tag key names"},
		"tag without key": {PrincipalOptions{Tags: []keystore.Tag{{}}}, "ValidationError", "'tags.1.member.key'"},
		"tag of no text":  {PrincipalOptions{Tags: []keystore.Tag{{Key: "a", Value: "\xff"}}}, "ValidationError", "valid UTF-8"},
	} {
		_, err := b.CreatePrincipal(t.Context(), producer, test.options)
		require.Equal(t, test.code, errorCode(err), "%s: %v", name, err)
		require.ErrorContains(t, err, test.text, name)
	}
	for _, ofARole := range []PrincipalOptions{{TrustPolicy: "{}"}, {MaxSessionDuration: 3600}} {
		_, err := b.CreatePrincipal(t.Context(), alice, ofARole)
		require.Equal(t, "ValidationError", errorCode(err), "of a user")
	}
}

func TestPrincipalQuotas(t *testing.T) {
	b := newRig(t)
	for name, quota := range map[PrincipalName]string{alice: "UsersPerAccount: 5000", producer: "RolesPerAccount: 1000"} {
		kind := kindOf(name.Type)
		_, err := b.cfg.Store.Commit(t.Context(), keystore.Counter{Account: testAccount, Name: name.Type.Counter(), N: kind.limit - 1}.Put(0))
		require.NoError(t, err)
		mustCreatePrincipal(t, b.Client, name)
		_, err = b.CreatePrincipal(t.Context(), PrincipalName{name.Type, "another"}, PrincipalOptions{})
		requireAPIError(t, err, "LimitExceeded", "Cannot exceed quota for "+quota)
		require.NoError(t, b.DeletePrincipal(t.Context(), name))
		mustCreatePrincipal(t, b.Client, PrincipalName{name.Type, "another"})
	}
}

func TestInlinePolicies(t *testing.T) {
	b := newRig(t)
	p := mustCreatePrincipal(t, b.Client, producer)
	spaced := " " + strings.ReplaceAll(allowMAC, ": ", " :\n\t")
	require.NoError(t, b.PutPrincipalPolicy(t.Context(), producer, "b", allowMAC))
	require.NoError(t, b.PutPrincipalPolicy(t.Context(), producer, "a", allowMAC))
	require.NoError(t, b.PutPrincipalPolicy(t.Context(), producer, "c", allowMAC))
	require.NoError(t, b.PutPrincipalPolicy(t.Context(), producer, "a", spaced), "in the place of the other")
	names, err := b.ListPrincipalPolicies(t.Context(), producer)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c"}, names)
	text, err := b.GetPrincipalPolicy(t.Context(), producer, "a")
	require.NoError(t, err)
	require.Equal(t, spaced, text, "as it was given")

	who, err := b.dir.Caller(t.Context(), p.ARN)
	require.NoError(t, err)
	compiled, err := b.dir.Identify(t.Context(), who)
	require.NoError(t, err)
	require.Len(t, compiled.Policies, 3)
	require.Equal(t, "a", compiled.Policies[0].Name)
	require.Equal(t, spaced, compiled.Policies[0].Document.Text())
	require.NoError(t, b.DeletePrincipalPolicy(t.Context(), producer, "b"))
	requireAPIError(t, b.DeletePrincipalPolicy(t.Context(), producer, "b"), "NoSuchEntity", "The role policy with name b cannot be found.")
	requireAPIError(t, second(b.GetPrincipalPolicy(t.Context(), producer, "b")), "NoSuchEntity",
		"The role policy with name b cannot be found.")
	compiled, err = b.dir.Identify(t.Context(), who)
	require.NoError(t, err)
	require.Len(t, compiled.Policies, 2, "at once in this process")

	const ofAKey = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}}`
	for document, code := range map[string]string{
		"":                          "ValidationError",
		"ab":                        "MalformedPolicyDocument",
		ofAKey:                      "MalformedPolicyDocument",
		"\u20ac":                    "ValidationError",
		strings.Repeat(" ", 131073): "ValidationError",
	} {
		assert.Equal(t, code, errorCode(b.PutPrincipalPolicy(t.Context(), producer, "x", document)), "%.100q", document)
	}
	for _, name := range []string{"", "a/b", strings.Repeat("x", 129)} {
		assert.Equal(t, "ValidationError", errorCode(b.PutPrincipalPolicy(t.Context(), producer, name, allowMAC)))
		assert.Equal(t, "ValidationError", errorCode(second(b.GetPrincipalPolicy(t.Context(), producer, name))))
		assert.Equal(t, "ValidationError", errorCode(b.DeletePrincipalPolicy(t.Context(), producer, name)))
	}
}

// ofWeight is a policy of so many characters besides blanks.
func ofWeight(n int) string {
	const start, end = `{"Version": "2012-10-17", "Statement": {"Sid": "`, `", "Effect": "Allow", "Action": "kms:*", "Resource": "*"}}`
	return start + strings.Repeat("x", n-policyLength(start+end)) + end
}

func TestInlinePolicySizes(t *testing.T) {
	b := newRig(t)
	for name, most := range map[PrincipalName]int{alice: 2048, producer: 10240} {
		mustCreatePrincipal(t, b.Client, name)
		first, rest := ofWeight(1000), ofWeight(most-1000)
		require.Equal(t, 1000, policyLength(first))
		require.NoError(t, b.PutPrincipalPolicy(t.Context(), name, "first", first))
		require.NoError(t, b.PutPrincipalPolicy(t.Context(), name, "rest", strings.ReplaceAll(rest, ": ", ":    ")), "blanks do not count")
		tooMuch := fmt.Sprintf("Maximum policy size of %d bytes exceeded for %s %s", most, name.Type, name.Name)
		requireAPIError(t, b.PutPrincipalPolicy(t.Context(), name, "first", ofWeight(1001)), "LimitExceeded", tooMuch)
		require.NoError(t, b.PutPrincipalPolicy(t.Context(), name, "first", ofWeight(999)))
		blanks := strings.Repeat(" ", 120_000)
		require.NoError(t, b.PutPrincipalPolicy(t.Context(), name, "rest", allowMAC+blanks))
		require.NoError(t, b.PutPrincipalPolicy(t.Context(), name, "more", allowMAC+blanks))
		require.Equal(t, "LimitExceeded", errorCode(b.PutPrincipalPolicy(t.Context(), name, "most", allowMAC+blanks)), "a record has a limit too")
	}
}

func TestPrincipalTags(t *testing.T) {
	b := newRig(t)
	mustCreatePrincipal(t, b.Client, alice)
	tag := func(key, value string) keystore.Tag { return keystore.Tag{Key: key, Value: value} }
	tags := func() []keystore.Tag {
		p, err := b.GetPrincipal(t.Context(), alice)
		require.NoError(t, err)
		return p.Tags
	}
	require.NoError(t, b.TagPrincipal(t.Context(), alice, []keystore.Tag{tag("Stage", "test"), tag("Cost", "")}))
	require.Equal(t, []keystore.Tag{tag("Cost", ""), tag("Stage", "test")}, tags())
	require.NoError(t, b.TagPrincipal(t.Context(), alice, []keystore.Tag{tag("stage", "live")}))
	require.Equal(t, []keystore.Tag{tag("Cost", ""), tag("stage", "live")}, tags(), "keys have no case")
	require.NoError(t, b.UntagPrincipal(t.Context(), alice, []string{"STAGE", "none"}))
	require.Equal(t, []keystore.Tag{tag("Cost", "")}, tags())
	require.NoError(t, b.UntagPrincipal(t.Context(), alice, []string{"cost"}))
	require.Empty(t, tags())

	var many []keystore.Tag
	for i := range maxTags {
		many = append(many, tag(fmt.Sprint("k", i), "v"))
	}
	require.NoError(t, b.TagPrincipal(t.Context(), alice, many))
	requireAPIError(t, b.TagPrincipal(t.Context(), alice, []keystore.Tag{tag("one", "more")}), "LimitExceeded",
		"Cannot exceed quota for TagsPerUser: 50")
	require.NoError(t, b.TagPrincipal(t.Context(), alice, []keystore.Tag{tag("K7", "another")}))
	require.Equal(t, "ValidationError", errorCode(b.TagPrincipal(t.Context(), alice, append(many, tag("one", "more")))))
	for _, bad := range []keystore.Tag{tag("", ""), tag("a*", ""), tag("a", "*"), tag(strings.Repeat("x", 129), ""),
		tag("a", strings.Repeat("x", 257))} {
		require.Equal(t, "ValidationError", errorCode(b.TagPrincipal(t.Context(), alice, []keystore.Tag{bad})), "%v", bad)
	}
}
