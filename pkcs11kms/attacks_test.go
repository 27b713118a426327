package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// What a caller might try to get around a policy.

// statements is a policy of the current version.
func statements(list ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(list, ",") + `]}`
}

// can is a statement of a user's policy.
func can(effect, action, condition string) string {
	return `{"Effect":"` + effect + `","Action":"` + action + `","Resource":"*","Condition":{` + condition + `}}`
}

func tagsIn(pairs ...string) (tags []types.Tag) {
	for i := 0; i < len(pairs); i += 2 {
		tags = append(tags, types.Tag{TagKey: &pairs[i], TagValue: &pairs[i+1]})
	}
	return tags
}

func tagWith(t *testing.T, c *Client, keyID *string, pairs ...string) error {
	_, err := c.TagResource(t.Context(), &kms.TagResourceInput{KeyId: keyID, Tags: tagsIn(pairs...)})
	return err
}

// Two tags whose keys differ in case alone are one condition key with two values, which nothing on one value can judge.
func TestTagsThatDifferInCase(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	blue := as(t, c, userName("blue"), statements(can("Allow", "kms:TagResource", `"StringEquals":{"aws:RequestTag/Team":"blue"}`)))
	require.ErrorContains(t, tagWith(t, blue, key.KeyId, "Team", "red", "team", "blue"), "AccessDeniedException")
	require.NoError(t, tagWith(t, blue, key.KeyId, "Team", "blue"))

	guarded := as(t, c, userName("guarded"), allow("*", "kms:TagResource"),
		statements(can("Deny", "kms:TagResource", `"StringEquals":{"aws:RequestTag/Stage":"prod"}`)))
	require.ErrorContains(t, tagWith(t, guarded, key.KeyId, "Stage", "prod", "stage", ""), "AccessDeniedException")

	shadowed := as(t, c, userName("shadowed"), allow("*", "kms:GenerateMac"),
		statements(can("Deny", "kms:GenerateMac", `"StringEquals":{"aws:ResourceTag/stage":"prod"}`)))
	for _, pairs := range [][]string{{"stage", "prod", "STAGE", "x"}, {"Stage", "prod", "stage", "x"}} {
		// in the order of their keys one or the other is last
		key := mustCreate(t, c, types.KeySpecHmac256)
		tag(t, c, key.KeyId, pairs...)
		_, err := generate(t.Context(), shadowed, key.KeyId, []byte("m"))
		require.ErrorContains(t, err, "AccessDeniedException", pairs)
	}
}

// Letters that only some rules of folding take for others mean the same in the request and on the key.
func TestTagsOfOtherAlphabets(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	user := as(t, c, userName("u"), statements(can("Allow", "kms:TagResource", `"Null":{"aws:RequestTag/Stage":"true"}`),
		can("Allow", "kms:GenerateMac", `"StringEquals":{"aws:ResourceTag/Stage":"test"}`)))
	require.ErrorContains(t, tagWith(t, user, key.KeyId, "stage", "test"), "AccessDeniedException")
	require.NoError(t, tagWith(t, user, key.KeyId, "\u017ftage", "test"), "a long s is another letter")
	_, err := generate(t.Context(), user, key.KeyId, []byte("m"))
	require.ErrorContains(t, err, "AccessDeniedException")

	tag(t, c, key.KeyId, "G\u0130ZL\u0130", "evet")
	other := as(t, c, userName("o"), allow("*", "kms:GenerateMac"),
		statements(can("Deny", "kms:*", `"StringEquals":{"aws:ResourceTag/G\u0130ZL\u0130":"evet"}`)))
	_, err = generate(t.Context(), other, key.KeyId, []byte("m"))
	require.ErrorContains(t, err, "AccessDeniedException")
}

// More tags than a key may have are refused before anything is done for each of them.
func TestManyTags(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	pairs := make([]string, 0, 60_000)
	for i := range cap(pairs) / 2 {
		pairs = append(pairs, fmt.Sprint(i), "")
	}
	requireAPIError(t, tagWith(t, c, key.KeyId, pairs...), "TagException", "Too many tags")
}

// A stream that was begun by an alias is judged as a call by the alias, to its end.
func TestStreamByAlias(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/app", key.KeyId)
	byAlias := `"StringEquals":{"kms:RequestAlias":"alias/app"}`
	user := as(t, c, userName("u"), statements(can("Allow", "kms:GenerateMac", byAlias)))
	stream := func() *MACStream {
		s, err := user.NewMAC(t.Context(), "alias/app", types.MacAlgorithmSpecHmacSha256)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	_, err := stream().Sum()
	require.NoError(t, err)
	s := stream()
	putPolicy(t, c, key.KeyId,
		keyPolicy(`{"Effect":"Deny","Principal":"*","Action":"kms:GenerateMac","Resource":"*","Condition":{`+byAlias+`}}`))
	_, err = s.Sum()
	require.ErrorContains(t, err, "AccessDeniedException")
}

// A stream stays with the key that it was begun with, wherever its alias leads to meanwhile.
func TestStreamByAnAliasThatMoves(t *testing.T) {
	c := newClient(t)
	first, second := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/app", first.KeyId)
	stream := func() *MACStream {
		s, err := c.NewMAC(t.Context(), "alias/app", types.MacAlgorithmSpecHmacSha256)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	goesOn, ends := stream(), stream()
	_, err := c.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: ptr("alias/app"), TargetKeyId: second.KeyId})
	require.NoError(t, err)
	require.NoError(t, toggle(t.Context(), c, second.KeyId, false))
	_, err = goesOn.Sum()
	require.NoError(t, err, "the key that is disabled is another")
	require.NoError(t, toggle(t.Context(), c, second.KeyId, true))
	require.NoError(t, toggle(t.Context(), c, first.KeyId, false))
	_, err = ends.Sum()
	requireAPIError(t, err, "DisabledException", *first.Arn+" is disabled.")
}

// Who was removed is nobody: what a key policy allows to it, or to everybody, it has no more.
func TestRemovedPrincipalHasNothingOfAKeyPolicy(t *testing.T) {
	c := newClient(t)
	for _, name := range []iam.PrincipalName{userName("leaver"), roleName("leaver")} {
		user := as(t, c, name)
		named, open := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
		putPolicy(t, c, named.KeyId, keyPolicy(grant("Allow", user.caller.ARN(), "kms:GenerateMac")))
		putPolicy(t, c, open.KeyId, keyPolicy(`{"Effect":"Allow","Principal":"*","Action":"kms:GenerateMac","Resource":"*"}`))
		for _, key := range []*string{named.KeyId, open.KeyId} {
			_, err := generate(t.Context(), user, key, []byte("m"))
			require.NoError(t, err)
		}
		require.NoError(t, asRoot(c.bridge).DeletePrincipal(t.Context(), name))
		for _, key := range []*string{named.KeyId, open.KeyId} {
			_, err := generate(t.Context(), user, key, []byte("m"))
			require.ErrorContains(t, err, "AccessDeniedException")
		}
	}
}

// aliasless is a real store that cannot tell the aliases of a key while it fails.
type aliasless struct {
	keystore.Store
	failing error
}

func (s *aliasless) Lookup(ctx context.Context, index keystore.Index, value string,
	after keystore.Ref, limit int) ([]keystore.Record, error) {
	if index == keystore.IndexAliasTarget && s.failing != nil {
		return nil, s.failing
	}
	return s.Store.Lookup(ctx, index, value, after, limit)
}

// What a condition asks about and cannot be told makes no decision: neither an Allow nor, for want of a Deny, a success.
func TestConditionThatCannotBeToldDecidesNothing(t *testing.T) {
	cfg := newConfig(t)
	real, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, real.Close()) })
	store := &aliasless{Store: real}
	cfg.Store, cfg.StorePath = store, ""
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/secret", key.KeyId)
	secret := `"ForAnyValue:StringEquals":{"kms:ResourceAliases":"alias/secret"}`
	denied := as(t, c, userName("denied"), allow("*", "kms:GenerateMac"), statements(can("Deny", "kms:GenerateMac", secret)))
	allowed := as(t, c, userName("allowed"), statements(can("Allow", "kms:GenerateMac", secret)))
	negated := as(t, c, userName("negated"),
		statements(can("Allow", "kms:GenerateMac", `"ForAllValues:StringNotEquals":{"kms:ResourceAliases":"alias/secret"}`)))
	use := func(user *Client) error { _, err := generate(t.Context(), user, key.KeyId, []byte("m")); return err }
	require.NoError(t, use(allowed))
	for _, user := range []*Client{denied, negated} {
		require.ErrorContains(t, use(user), "AccessDeniedException")
	}
	store.failing = errors.New("the disk is gone")
	for _, user := range []*Client{denied, allowed, negated} {
		var internal *types.KMSInternalException
		require.ErrorAs(t, use(user), &internal, user.caller.ARN())
	}
	store.failing = nil
	require.NoError(t, use(allowed))
}

// The lockout check is about the next PutKeyPolicy, and not about the CreateKey that it is made in.
func TestLockoutAtCreation(t *testing.T) {
	c := newClient(t)
	create := func(condition string) error {
		document := statements(`{"Effect":"Allow","Principal":{"AWS":"` + c.caller.ARN() + `"},"Action":"kms:*","Resource":"*",
			"Condition":{` + condition + `}}`)
		_, err := c.CreateKey(t.Context(),
			&kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC", Policy: &document, Tags: tagsIn("a", "b")})
		return err
	}
	for _, condition := range []string{`"StringEquals":{"aws:RequestTag/a":"b"}`, `"ForAnyValue:StringEquals":{"aws:TagKeys":"a"}`,
		`"Null":{"aws:ResourceTag/a":"true"}`, `"Bool":{"kms:BypassPolicyLockoutSafetyCheck":"true"}`} {
		requireAPIError(t, create(condition), "MalformedPolicyDocumentException", lockoutText)
	}
	require.NoError(t, create(`"StringEquals":{"aws:ResourceTag/a":"b","kms:KeySpec":"HMAC_256","kms:KeyUsage":"GENERATE_VERIFY_MAC"}`))
}

// interruptedStore is a real store in which something else happens right before the next commit.
type interruptedStore struct {
	keystore.Store
	meanwhile func()
}

func (s *interruptedStore) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	if meanwhile := s.meanwhile; meanwhile != nil {
		s.meanwhile = nil
		meanwhile()
	}
	return s.Store.Commit(ctx, changes...)
}

// A caller that is removed between the decision and the commit changes nothing any more.
func TestRemovedBeforeTheCommit(t *testing.T) {
	cfg := newConfig(t)
	real, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, real.Close()) })
	store := &interruptedStore{Store: real}
	cfg.Store, cfg.StorePath = store, ""
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/app", key.KeyId)
	for i, call := range map[string]func(*Client) error{
		"PutKeyPolicy": func(u *Client) error {
			document := statements(grant("Allow", u.caller.ARN(), "kms:*"))
			_, err := u.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: key.KeyId, Policy: &document})
			return err
		},
		"DisableKey": func(u *Client) error { return toggle(t.Context(), u, key.KeyId, false) },
		"DeleteAlias": func(u *Client) error {
			_, err := u.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: ptr("alias/app")})
			return err
		},
		"ScheduleKeyDeletion": func(u *Client) error {
			_, err := u.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: key.KeyId})
			return err
		},
		"CreateKey": func(u *Client) error {
			_, err := u.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC"})
			return err
		},
	} {
		name := userName(i)
		user := as(t, c, name, allow("*", "kms:*"))
		store.meanwhile = func() {
			require.NoError(t, asRoot(c.bridge).DeletePrincipalPolicy(t.Context(), name, "p0"))
			require.NoError(t, asRoot(c.bridge).DeletePrincipal(t.Context(), name))
		}
		require.ErrorContains(t, call(user), "AccessDeniedException", i)
	}
	require.Equal(t, types.KeyStateEnabled, describe(t, c, key.KeyId).KeyState)
	require.Equal(t, defaultPolicyOf(c.caller), policyOf(t, c, key.KeyId))
	require.Equal(t, []string{"alias/app"}, aliasesOf(t, c, key.KeyId))
	out, err := c.ListKeys(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, out.Keys, 1)
}

// The text of a refusal depends on the caller's own policies alone, for a caller whom they allow nothing.
func TestTextOfRefusalsRevealsNothing(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	putPolicy(t, c, key.KeyId, statements(`{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*",
		"Condition":{"StringEquals":{"aws:PrincipalType":"Account"}}}`))
	user := as(t, c, userName("u"), allow("*", "kms:*"), statements(`{"Effect":"Deny","Action":"*","Resource":"*",
		"Condition":{"NotIpAddress":{"aws:SourceIp":"10.0.0.0/8"}}}`))
	text := func(id string) string {
		_, err := user.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
		require.ErrorContains(t, err, "AccessDeniedException")
		return strings.ReplaceAll(err.Error(), id, "ID")
	}
	require.Equal(t, text(unknownID), text(*key.KeyId))
}

// A peer without an address is still a peer: what is asked of connections is asked of it.
func TestConnectionsWithoutAnAddress(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	user := as(t, c, userName("u"), allow("*", "kms:*"))
	putPolicy(t, c, key.KeyId, keyPolicy(`{"Effect":"Deny","Principal":"*","Action":"kms:GenerateMac","Resource":"*",
		"Condition":{"Bool":{"aws:SecureTransport":"false"}}}`))
	for _, conn := range []Connection{{}, {SourceIP: netip.MustParseAddr("10.0.0.1")}} {
		_, err := generate(t.Context(), user.As(user.caller.From(conn)), key.KeyId, []byte("m"))
		require.ErrorContains(t, err, "AccessDeniedException")
	}
	_, err := generate(t.Context(), user, key.KeyId, []byte("m"))
	require.NoError(t, err, "in process")
}

// A user agent that is too long to be compared allows nothing, and denies.
func TestLongUserAgent(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	long := Connection{UserAgent: strings.Repeat("a", 1024+1)}
	for _, policies := range [][]string{{statements(can("Allow", "kms:*", `"StringLike":{"aws:UserAgent":"a*"}`))},
		{allow("*", "kms:*"), statements(can("Deny", "kms:*", `"StringLike":{"aws:UserAgent":"b*"}`))}} {
		user := as(t, c, userName(fmt.Sprint("u", len(policies))), policies...)
		_, err := generate(t.Context(), user.As(user.caller.From(long)), key.KeyId, []byte("m"))
		require.ErrorContains(t, err, "AccessDeniedException")
	}
}

// The root of one Bridge is nobody for another.
func TestForeignRoot(t *testing.T) {
	c := newClient(t)
	cfg := newConfig(t)
	cfg.AccountID = "444455556666"
	foreign := c.As(openClient(t, cfg).bridge.Root())
	_, err := foreign.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC"})
	requireDenied(t, err, foreign, "CreateKey", "*", noIdentity("CreateKey"))
}

// What is refused again and again is not parsed again and again.
func TestPoliciesAreCompiledOnce(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	putPolicy(t, c, key.KeyId, keyPolicy())
	ref := keystore.KeyRef(testRegion, testAccount, *key.KeyId)
	first, err := c.bridge.key(t.Context(), ref, true)
	require.NoError(t, err)
	again, err := c.bridge.key(t.Context(), ref, true)
	require.NoError(t, err)
	require.Same(t, first, again)
}
