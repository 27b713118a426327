package pkcs11kms

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// ownChange is a change that a user asks for. The key is the user's, and alias/theirs leads to it.
type ownChange func(t *testing.T, c *Client, keyID *string) error

// ownChanges are calls of every operation that changes something. What stands behind a blank tells two calls of one operation apart.
var ownChanges = map[string]ownChange{
	"CreateKey": func(t *testing.T, c *Client, _ *string) error {
		_, err := createHMAC256(t.Context(), c)
		return err
	},
	"ScheduleKeyDeletion": func(t *testing.T, c *Client, id *string) error {
		_, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: id})
		return err
	},
	"CancelKeyDeletion": func(t *testing.T, c *Client, id *string) error {
		_, err := c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: id})
		return err
	},
	"EnableKey":  func(t *testing.T, c *Client, id *string) error { return toggle(t.Context(), c, id, true) },
	"DisableKey": func(t *testing.T, c *Client, id *string) error { return toggle(t.Context(), c, id, false) },
	"UpdateKeyDescription": func(t *testing.T, c *Client, id *string) error {
		_, err := c.UpdateKeyDescription(t.Context(), &kms.UpdateKeyDescriptionInput{KeyId: id, Description: ptr("new")})
		return err
	},
	"PutKeyPolicy": func(t *testing.T, c *Client, id *string) error {
		document := keyPolicy(grant("Allow", "*", "kms:GenerateMac"))
		_, err := c.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: id, Policy: &document, BypassPolicyLockoutSafetyCheck: true})
		return err
	},
	"TagResource": func(t *testing.T, c *Client, id *string) error {
		_, err := c.TagResource(t.Context(), &kms.TagResourceInput{KeyId: id, Tags: []types.Tag{{TagKey: ptr("new"), TagValue: ptr("tag")}}})
		return err
	},
	"UntagResource": func(t *testing.T, c *Client, id *string) error {
		_, err := c.UntagResource(t.Context(), &kms.UntagResourceInput{KeyId: id, TagKeys: []string{"team"}})
		return err
	},
	"CreateAlias": func(t *testing.T, c *Client, id *string) error {
		_, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: ptr("alias/new"), TargetKeyId: id})
		return err
	},
	"CreateGrant": func(t *testing.T, c *Client, id *string) error {
		_, err := c.CreateGrant(t.Context(), grantInput(id, c, opDescribe))
		return err
	},
	"RevokeGrant": func(t *testing.T, c *Client, id *string) error {
		return revoke(c, id, ptr(slices.Collect(maps.Keys(grantsOn(t, c.As(c.bridge.Root()), id)))[0]))
	},
	"RetireGrant": func(t *testing.T, c *Client, id *string) error {
		return retire(c, kms.RetireGrantInput{KeyId: id, GrantId: ptr(slices.Collect(maps.Keys(grantsOn(t, c.As(c.bridge.Root()), id)))[0])})
	},
	"UpdateAlias from another key": updateAlias("alias/other"),
	"UpdateAlias to the same key":  updateAlias("alias/theirs"),
	"DeleteAlias": func(t *testing.T, c *Client, _ *string) error {
		_, err := c.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: ptr("alias/theirs")})
		return err
	},
}

func updateAlias(name string) ownChange {
	return func(t *testing.T, c *Client, id *string) error {
		_, err := c.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: &name, TargetKeyId: id})
		return err
	}
}

// A change is not made for a caller from whom the permission is taken between the decision and the Commit.
func TestPermissionThatEndsBeforeTheCommit(t *testing.T) {
	for name, change := range ownChanges {
		t.Run(name, func(t *testing.T) {
			first, second, store, _ := twoProcesses(t)
			key, other := mustCreate(t, first, types.KeySpecHmac256), mustCreate(t, first, types.KeySpecHmac256)
			createAlias(t, first, "alias/theirs", key.KeyId)
			createAlias(t, first, "alias/other", other.KeyId)
			tag(t, first, key.KeyId, "team", "blue")
			mustGrant(t, first, grantInput(key.KeyId, first, opMAC))
			switch name {
			case "CancelKeyDeletion":
				schedule(t, first, key.KeyId, 7)
			case "EnableKey":
				require.NoError(t, toggle(t.Context(), first, key.KeyId, false))
			}
			operation, _, _ := strings.Cut(name, " ")
			user := userName(operation)
			client := as(t, first, user, allow("*", "kms:"+operation))
			before := seenByAll(t, first, key.KeyId)
			var once sync.Once
			store.hook(func([]keystore.Change) (err error) {
				once.Do(func() { err = asRoot(second.bridge).DeletePrincipalPolicy(t.Context(), user, "p0") })
				return err
			}, nil)
			defer store.hook(nil, nil)
			requireCode(t, change(t, client, key.KeyId), "AccessDeniedException")
			require.Equal(t, before, seenByAll(t, first, key.KeyId))
			requireNothingHalfMade(t, first, 2)
		})
	}
}

// seenByAll is whatever the API shows of a key, and of all aliases.
func seenByAll(t *testing.T, c *Client, keyID *string) []any {
	t.Helper()
	tags, err := c.ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: keyID})
	require.NoError(t, err)
	aliases, err := c.ListAliases(t.Context(), nil)
	require.NoError(t, err)
	return []any{describe(t, c, keyID), policyOf(t, c, keyID), tags.Tags, aliases.Aliases, grantsOn(t, c, keyID)}
}
