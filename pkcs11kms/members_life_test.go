package pkcs11kms

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

// life shows the members of the operations on a key's life. Each works on a key of its own.
func (r *memberRig) life() map[string]map[string]func(*testing.T) {
	c := r.c
	fresh := func(t *testing.T) *string { return mustCreate(t, c, types.KeySpecHmac256).KeyId }
	unknown := ptr(unknownID)
	type shown = map[string]func(*testing.T)
	notFound := fails[*types.NotFoundException]
	marker := fails[*types.InvalidMarkerException]
	return map[string]map[string]func(*testing.T){
		"CancelKeyDeletion": shown{"KeyId": notFound(func(t *testing.T) error {
			_, err := c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: unknown})
			return err
		})},
		"CreateAlias": shown{
			"AliasName": func(t *testing.T) {
				createAlias(t, c, "alias/members-name", r.key.KeyId)
				require.Contains(t, aliasesOf(t, c, r.key.KeyId), "alias/members-name")
			},
			"TargetKeyId": notFound(func(t *testing.T) error {
				_, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: ptr("alias/x"), TargetKeyId: unknown})
				return err
			}),
		},
		"DeleteAlias": shown{"AliasName": func(t *testing.T) {
			createAlias(t, c, "alias/members-delete", r.key.KeyId)
			_, err := c.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: ptr("alias/members-delete")})
			require.NoError(t, err)
			require.NotContains(t, aliasesOf(t, c, r.key.KeyId), "alias/members-delete")
		}},
		"UpdateAlias": shown{
			"AliasName": notFound(func(t *testing.T) error {
				_, err := c.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: ptr("alias/none"), TargetKeyId: r.key.KeyId})
				return err
			}),
			"TargetKeyId": func(t *testing.T) {
				to := fresh(t)
				createAlias(t, c, "alias/members-update", r.key.KeyId)
				_, err := c.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: ptr("alias/members-update"), TargetKeyId: to})
				require.NoError(t, err)
				require.Equal(t, []string{"alias/members-update"}, aliasesOf(t, c, to))
			},
		},
		"ListAliases": shown{
			"KeyId": func(t *testing.T) { require.Empty(t, aliasesOf(t, c, fresh(t))) },
			"Limit": func(t *testing.T) {
				id := fresh(t)
				createAlias(t, c, "alias/members-limit-1", id)
				createAlias(t, c, "alias/members-limit-2", id)
				out, err := c.ListAliases(t.Context(), &kms.ListAliasesInput{KeyId: id, Limit: aws.Int32(1)})
				require.NoError(t, err)
				require.Len(t, out.Aliases, 1)
				require.True(t, out.Truncated)
			},
			"Marker": marker(func(t *testing.T) error {
				_, err := c.ListAliases(t.Context(), &kms.ListAliasesInput{Marker: ptr("x")})
				return err
			}),
		},
		"TagResource": shown{
			"KeyId": notFound(func(t *testing.T) error {
				_, err := c.TagResource(t.Context(), &kms.TagResourceInput{KeyId: unknown, Tags: []types.Tag{}})
				return err
			}),
			"Tags": func(t *testing.T) {
				id := fresh(t)
				tag(t, c, id, "b", "2", "a", "1")
				require.Equal(t, []string{"a=1", "b=2"}, tagsOf(t, c, id))
			},
		},
		"UntagResource": shown{
			"KeyId": notFound(func(t *testing.T) error {
				_, err := c.UntagResource(t.Context(), &kms.UntagResourceInput{KeyId: unknown, TagKeys: []string{"a"}})
				return err
			}),
			"TagKeys": func(t *testing.T) {
				id := fresh(t)
				tag(t, c, id, "a", "1", "b", "2")
				_, err := c.UntagResource(t.Context(), &kms.UntagResourceInput{KeyId: id, TagKeys: []string{"a", "none"}})
				require.NoError(t, err)
				require.Equal(t, []string{"b=2"}, tagsOf(t, c, id))
			},
		},
		"ListResourceTags": shown{
			"KeyId": notFound(func(t *testing.T) error {
				_, err := c.ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: unknown})
				return err
			}),
			"Limit": func(t *testing.T) {
				id := fresh(t)
				tag(t, c, id, "a", "1", "b", "2")
				out, err := c.ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: id, Limit: aws.Int32(1)})
				require.NoError(t, err)
				require.Len(t, out.Tags, 1)
				require.True(t, out.Truncated)
			},
			"Marker": marker(func(t *testing.T) error {
				_, err := c.ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: r.key.KeyId, Marker: ptr("x")})
				return err
			}),
		},
		"UpdateKeyDescription": shown{
			"KeyId": notFound(func(t *testing.T) error {
				_, err := c.UpdateKeyDescription(t.Context(), &kms.UpdateKeyDescriptionInput{KeyId: unknown, Description: ptr("")})
				return err
			}),
			"Description": func(t *testing.T) {
				id := fresh(t)
				_, err := c.UpdateKeyDescription(t.Context(), &kms.UpdateKeyDescriptionInput{KeyId: id, Description: ptr("new")})
				require.NoError(t, err)
				require.Equal(t, "new", *describe(t, c, id).Description)
			},
		},
		"ScheduleKeyDeletion": shown{
			"KeyId": notFound(func(t *testing.T) error {
				_, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: unknown})
				return err
			}),
			"PendingWindowInDays": func(t *testing.T) {
				out, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: fresh(t), PendingWindowInDays: aws.Int32(9)})
				require.NoError(t, err)
				require.EqualValues(t, 9, *out.PendingWindowInDays)
			},
		},
		"GetKeyPolicy": shown{
			"KeyId": notFound(func(t *testing.T) error {
				_, err := c.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: unknown})
				return err
			}),
			"PolicyName": notFound(func(t *testing.T) error {
				_, err := c.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: r.key.KeyId, PolicyName: ptr("other")})
				return err
			}),
		},
		"ListKeyPolicies": shown{
			"KeyId": notFound(func(t *testing.T) error {
				_, err := c.ListKeyPolicies(t.Context(), &kms.ListKeyPoliciesInput{KeyId: unknown})
				return err
			}),
			"Limit": func(t *testing.T) {
				_, err := c.ListKeyPolicies(t.Context(), &kms.ListKeyPoliciesInput{KeyId: r.key.KeyId, Limit: aws.Int32(0)})
				require.ErrorContains(t, err, "'limit'")
			},
			"Marker": marker(func(t *testing.T) error {
				_, err := c.ListKeyPolicies(t.Context(), &kms.ListKeyPoliciesInput{KeyId: r.key.KeyId, Marker: ptr("x")})
				return err
			}),
		},
		"PutKeyPolicy": r.putKeyPolicy(),
		"GetKeyRotationStatus": shown{"KeyId": func(t *testing.T) {
			out, err := c.GetKeyRotationStatus(t.Context(), &kms.GetKeyRotationStatusInput{KeyId: r.key.Arn})
			require.NoError(t, err)
			require.Equal(t, &kms.GetKeyRotationStatusOutput{KeyId: r.key.KeyId}, out)
		}},
		"GenerateRandom": r.generateRandom(),
	}
}

func (r *memberRig) putKeyPolicy() map[string]func(*testing.T) {
	put := func(change func(*kms.PutKeyPolicyInput)) func(*testing.T) error {
		return func(t *testing.T) error {
			in := &kms.PutKeyPolicyInput{KeyId: r.key.KeyId, Policy: ptr(defaultPolicyOf(r.c.caller))}
			change(in)
			_, err := r.c.PutKeyPolicy(t.Context(), in)
			return err
		}
	}
	return map[string]func(*testing.T){
		"KeyId":      fails[*types.NotFoundException](put(func(in *kms.PutKeyPolicyInput) { in.KeyId = ptr(unknownID) })),
		"PolicyName": fails[*types.NotFoundException](put(func(in *kms.PutKeyPolicyInput) { in.PolicyName = ptr("other") })),
		"Policy": func(t *testing.T) {
			require.NoError(t, put(func(in *kms.PutKeyPolicyInput) { in.Policy = ptr(keyPolicy()) })(t))
			require.Equal(t, keyPolicy(), policyOf(t, r.c, r.key.KeyId))
		},
		"BypassPolicyLockoutSafetyCheck": func(t *testing.T) {
			key := mustCreate(t, r.c, types.KeySpecHmac256)
			lockout := func(in *kms.PutKeyPolicyInput) { in.KeyId, in.Policy = key.KeyId, ptr(lockoutPolicy) }
			requireAPIError(t, put(lockout)(t), "MalformedPolicyDocumentException", lockoutText)
			require.NoError(t, put(func(in *kms.PutKeyPolicyInput) { lockout(in); in.BypassPolicyLockoutSafetyCheck = true })(t))
		},
	}
}

func (r *memberRig) generateRandom() map[string]func(*testing.T) {
	ask := func(change func(*kms.GenerateRandomInput)) func(*testing.T) error {
		return func(t *testing.T) error {
			in := &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(16)}
			change(in)
			_, err := r.c.GenerateRandom(t.Context(), in)
			return err
		}
	}
	return map[string]func(*testing.T){
		"NumberOfBytes": func(t *testing.T) {
			out, err := r.c.GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(1024)})
			require.NoError(t, err)
			require.Len(t, out.Plaintext, 1024)
			requireAPIError(t, ask(func(in *kms.GenerateRandomInput) { in.NumberOfBytes = nil })(t), "ValidationException",
				"NumberOfBytes is required.")
			requireAPIError(t, ask(func(in *kms.GenerateRandomInput) { in.NumberOfBytes = aws.Int32(1025) })(t), "ValidationException",
				"1 validation error detected: Value '1025' at 'numberOfBytes' failed to satisfy constraint: "+
					"Member must have value less than or equal to 1024")
		},
		"CustomKeyStoreId": fails[*types.UnsupportedOperationException](ask(func(in *kms.GenerateRandomInput) {
			in.CustomKeyStoreId = ptr("c")
		})),
		"Recipient": fails[*types.UnsupportedOperationException](ask(func(in *kms.GenerateRandomInput) {
			in.Recipient = &types.RecipientInfo{}
		})),
	}
}
