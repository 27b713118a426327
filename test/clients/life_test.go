package clients

import (
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"
)

// call is an operation and how it ends.
type call struct {
	operation  string
	input      members
	code, text string // of the refusal; both empty: it succeeds without output
}

// expect runs the calls in turn, each as a test of its own.
func (c client) expect(t *testing.T, to target, calls ...call) {
	t.Helper()
	for _, call := range calls {
		t.Run(call.operation, func(t *testing.T) {
			got := c.do(t, to, call.operation, call.input)
			switch {
			case call.code != "":
				require.False(t, got.Unknown)
				c.refused(t, got, call.code, call.text)
			default:
				require.Equal(t, answer{Output: got.Output}, got)
				require.Empty(t, got.Output)
			}
		})
	}
}

// TestRotationByAlias: callers by the alias use the new key at once, and what the old one made is verified by its id.
func TestRotationByAlias(t *testing.T) {
	srv := newServer(t)
	to := targetOf(srv)
	onEachClient(t, func(t *testing.T, c client) {
		before, after := newKey(t, inProcess(t, srv), "HMAC_256"), newKey(t, inProcess(t, srv), "HMAC_256")
		alias := "alias/" + t.Name()
		use := func(key string) members {
			return members{"KeyId": key, "MacAlgorithm": "HMAC_SHA_256", "Message": base64Of(message)}
		}
		c.expect(t, to, call{"CreateAlias", members{"AliasName": alias, "TargetKeyId": before}, "", ""})
		made := c.must(t, to, "GenerateMac", use(alias))
		require.Equal(t, before, made["KeyId"])
		c.expect(t, to, call{"UpdateAlias", members{"AliasName": alias, "TargetKeyId": after}, "", ""})
		require.Equal(t, after, c.must(t, to, "GenerateMac", use(alias))["KeyId"])
		verify := use(before)
		verify["Mac"] = made["Mac"]
		require.Equal(t, true, c.must(t, to, "VerifyMac", verify)["MacValid"])

		arn := "arn:aws:kms:" + srv.Region + ":000000000000:" + alias
		verify = use(arn)
		verify["Mac"] = made["Mac"]
		c.expect(t, to,
			call{"VerifyMac", verify, "KMSInvalidMacException", ""},
			call{"CreateAlias", members{"AliasName": alias, "TargetKeyId": before}, "AlreadyExistsException",
				"An alias with the name " + arn + " already exists"},
			call{"CreateAlias", members{"AliasName": "alias/aws/kms", "TargetKeyId": before}, "NotAuthorizedException", ""},
			call{"CreateAlias", members{"AliasName": "name", "TargetKeyId": before}, "ValidationException", "Alias must start with the prefix"},
			call{"DisableKey", members{"KeyId": alias}, "NotFoundException", ""},
			call{"DeleteAlias", members{"AliasName": alias}, "", ""},
			call{"GenerateMac", use(alias), "NotFoundException", "Alias " + arn + " is not found."},
			call{"UpdateAlias", members{"AliasName": alias, "TargetKeyId": after}, "NotFoundException", "Alias " + arn + " is not found."})
	})
}

// TestTagsAndDescription: what is written is read again, text beyond ASCII too.
func TestTagsAndDescription(t *testing.T) {
	srv := newServer(t)
	to := targetOf(srv)
	onEachClient(t, func(t *testing.T, c client) {
		key := newKey(t, inProcess(t, srv), "HMAC_256")
		tag := func(key, value string) members { return members{"TagKey": key, "TagValue": value} }
		list := func() any { return c.must(t, to, "ListResourceTags", members{"KeyId": key, "Limit": 50})["Tags"] }
		c.expect(t, to,
			call{"TagResource", members{"KeyId": key,
				"Tags": []members{tag("Zweck: erster", "ключ"), tag("Stage", ""), tag("Owner", "a")}}, "", ""},
			call{"TagResource", members{"KeyId": key, "Tags": []members{tag("Owner", "b")}}, "", ""})
		require.Equal(t, []any{tag("Owner", "b"), tag("Stage", ""), tag("Zweck: erster", "ключ")}, list())
		c.expect(t, to,
			call{"UntagResource", members{"KeyId": key, "TagKeys": []string{"Stage", "Zweck: erster", "none"}}, "", ""},
			call{"TagResource", members{"KeyId": key, "Tags": []members{tag("a", "1"), tag("a", "2")}}, "TagException", "Duplicate tag keys"},
			call{"TagResource", members{"KeyId": key, "Tags": []members{tag("aws:a", "1")}}, "TagException",
				"Tags beginning with aws: are reserved"},
			call{"UpdateKeyDescription", members{"KeyId": key, "Description": "für " + t.Name()}, "", ""})
		require.Equal(t, []any{tag("Owner", "b")}, list())
		require.Equal(t, "für "+t.Name(), metadata(t, c.must(t, to, "DescribeKey", members{"KeyId": key}))["Description"])
	})
}

// TestDeletion schedules the deletion of a key and takes it back.
func TestDeletion(t *testing.T) {
	srv := newServer(t)
	to := targetOf(srv)
	onEachClient(t, func(t *testing.T, c client) {
		key := newKey(t, inProcess(t, srv), "HMAC_256")
		pending := key + " is pending deletion."
		use := members{"KeyId": key, "MacAlgorithm": "HMAC_SHA_256", "Message": base64Of(message)}
		c.expect(t, to, call{"ScheduleKeyDeletion", members{"KeyId": key, "PendingWindowInDays": 31}, "ValidationException", ""})
		scheduled := c.must(t, to, "ScheduleKeyDeletion", members{"KeyId": key, "PendingWindowInDays": 7})
		require.Equal(t, key, scheduled["KeyId"])
		require.Equal(t, "PendingDeletion", scheduled["KeyState"])
		require.EqualValues(t, 7, scheduled["PendingWindowInDays"])
		require.NotEmpty(t, scheduled["DeletionDate"])
		described := metadata(t, c.must(t, to, "DescribeKey", members{"KeyId": key}))
		require.Equal(t, "PendingDeletion", described["KeyState"])
		require.Equal(t, scheduled["DeletionDate"], described["DeletionDate"])
		c.expect(t, to,
			call{"GenerateMac", use, "KMSInvalidStateException", pending},
			call{"ScheduleKeyDeletion", members{"KeyId": key}, "KMSInvalidStateException", pending},
			call{"CreateAlias", members{"AliasName": "alias/late", "TargetKeyId": key}, "KMSInvalidStateException", pending})
		require.Equal(t, members{"KeyId": key}, c.must(t, to, "CancelKeyDeletion", members{"KeyId": key}))
		described = metadata(t, c.must(t, to, "DescribeKey", members{"KeyId": key}))
		require.Equal(t, "Disabled", described["KeyState"])
		require.Nil(t, described["DeletionDate"])
		c.expect(t, to,
			call{"CancelKeyDeletion", members{"KeyId": key}, "KMSInvalidStateException", key + " is not pending deletion."},
			call{"EnableKey", members{"KeyId": key}, "", ""})
		c.must(t, to, "GenerateMac", use)
	})
}

// TestKeyPolicies: the default policy is read, and may be put back. Older clients ask for the name of the policy.
func TestKeyPolicies(t *testing.T) {
	srv := newServer(t)
	to := targetOf(srv)
	key := newKey(t, inProcess(t, srv), "HMAC_256")
	// Nobody changes it: every client puts back what is there.
	want, err := inProcess(t, srv).GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: &key})
	require.NoError(t, err)
	onEachClient(t, func(t *testing.T, c client) {
		policy, ok := c.must(t, to, "GetKeyPolicy", members{"KeyId": key, "PolicyName": "default"})["Policy"].(string)
		require.True(t, ok)
		require.Equal(t, *want.Policy, policy)
		var document struct{ Id string }
		require.NoError(t, json.Unmarshal([]byte(policy), &document))
		require.Equal(t, "key-default-1", document.Id)
		require.Equal(t, []any{"default"}, c.must(t, to, "ListKeyPolicies", members{"KeyId": key})["PolicyNames"])
		put := func(policy string) members { return members{"KeyId": key, "PolicyName": "default", "Policy": policy} }
		c.expect(t, to,
			call{"PutKeyPolicy", put(policy), "", ""},
			call{"PutKeyPolicy", put(`{"Version":"2012-10-17","Statement":[]}`), "MalformedPolicyDocumentException", "no Statement"},
			call{"PutKeyPolicy", put("{"), "MalformedPolicyDocumentException", ""},
			call{"GetKeyPolicy", members{"KeyId": key, "PolicyName": "other"}, "NotFoundException", "No such policy exists"})
	})
}

// TestRandom: as many bytes as were asked for, and others each time.
func TestRandom(t *testing.T) {
	srv := newServer(t)
	to := targetOf(srv)
	onEachClient(t, func(t *testing.T, c client) {
		seen := map[string]bool{}
		for range 2 {
			text, ok := c.must(t, to, "GenerateRandom", members{"NumberOfBytes": 32})["Plaintext"].(string)
			require.True(t, ok)
			random, err := base64.StdEncoding.Strict().DecodeString(text)
			require.NoError(t, err)
			require.Len(t, random, 32)
			seen[text] = true
		}
		require.True(t, len(seen) == 2, "the same bytes twice")
		c.expect(t, to, call{"GenerateRandom", members{"NumberOfBytes": 1025}, "ValidationException",
			"Member must have value less than or equal to 1024"})
	})
}
