package pkcs11kms

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/refcount"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

var (
	alice    = iam.PrincipalName{Type: keystore.PrincipalUser, Name: "Alice"}
	producer = iam.PrincipalName{Type: keystore.PrincipalRole, Name: "JwtProducer"}
	nobodys  = iam.PrincipalName{}
)

func mustCreatePrincipal(t testing.TB, b *Bridge, name iam.PrincipalName) iam.Principal {
	t.Helper()
	p, err := asRoot(b).CreatePrincipal(t.Context(), name, iam.PrincipalOptions{})
	require.NoError(t, err)
	return p
}

func mustCreateAccessKey(t testing.TB, b *Bridge, owner iam.PrincipalName) iam.AccessKey {
	t.Helper()
	key, err := asRoot(b).CreateAccessKey(t.Context(), owner)
	require.NoError(t, err)
	return key
}

// dropPrincipal takes the record away as no operation does while there are access keys.
func dropPrincipal(t testing.TB, b *Bridge, id string) {
	t.Helper()
	rec, err := b.core.Store.Get(t.Context(), keystore.PrincipalRef(testAccount, id))
	require.NoError(t, err)
	_, err = b.core.Store.Commit(t.Context(), keystore.Change{Op: keystore.Delete, Ref: rec.Ref, Expect: rec.Version})
	require.NoError(t, err)
}

func errorCode(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

func TestCallersByARN(t *testing.T) {
	b := newClient(t).bridge
	user, err := asRoot(b).CreatePrincipal(t.Context(), alice, iam.PrincipalOptions{Path: "/jwt/eu/"})
	require.NoError(t, err)
	role := mustCreatePrincipal(t, b, producer)
	require.Equal(t, "arn:aws:iam::111122223333:user/jwt/eu/Alice", user.ARN)
	require.Equal(t, "arn:aws:iam::111122223333:role/JwtProducer", role.ARN)

	callers := map[Caller]bool{{}: true}
	for _, arn := range []string{b.Root().ARN(), user.ARN, role.ARN} {
		caller, err := b.Caller(t.Context(), arn)
		require.NoError(t, err)
		require.Equal(t, arn, caller.ARN())
		require.Equal(t, arn == b.Root().ARN(), caller.IsRoot())
		callers[caller] = true
	}
	require.Len(t, callers, 4, "all are different")
	root, err := b.Caller(t.Context(), b.Root().ARN())
	require.NoError(t, err)
	require.Equal(t, b.Root(), root)

	for _, arn := range []string{"", "Alice", user.ID, "arn:aws:iam::111122223333:user/Alice", "arn:aws:iam::111122223333:user/jwt/eu/alice",
		"arn:aws:iam::111122223333:user/jwt/eu/", "arn:aws:iam::111122223333:role/jwt/eu/Alice", "arn:aws:iam::444455556666:user/jwt/eu/Alice",
		"arn:aws-cn:iam::111122223333:user/jwt/eu/Alice", "arn:aws:iam::444455556666:root", "arn:aws:iam::111122223333:user/*", "*"} {
		_, err := b.Caller(t.Context(), arn)
		requireAPIError(t, err, "NoSuchEntity", "The principal with ARN "+arn+" cannot be found.")
		_, ok, err := b.core.Identities.ARNToID(t.Context(), arn)
		require.NoError(t, err)
		require.False(t, ok, arn)
	}
}

// The case of a name counts when it is asked for: what is deleted, allowed or denied is what was meant.
func TestPrincipalsAreFoundByTheirNamesAsTheyAre(t *testing.T) {
	c := newClient(t)
	b, admin := c.bridge, asRoot(c.bridge)
	mustCreatePrincipal(t, b, alice)
	other := iam.PrincipalName{Type: alice.Type, Name: "alice"}
	for what, call := range map[string]func() error{
		"GetPrincipal":    func() error { _, err := admin.GetPrincipal(t.Context(), other); return err },
		"DeletePrincipal": func() error { return admin.DeletePrincipal(t.Context(), other) },
		"PutPrincipalPolicy": func() error {
			return admin.PutPrincipalPolicy(t.Context(), other, "all", allow("*", "kms:*"))
		},
		"TagPrincipal":    func() error { return admin.TagPrincipal(t.Context(), other, nil) },
		"CreateAccessKey": func() error { _, err := admin.CreateAccessKey(t.Context(), other); return err },
	} {
		requireAPIError(t, call(), "NoSuchEntity", "The user with name alice cannot be found.")
		_, err := admin.GetPrincipal(t.Context(), alice)
		require.NoError(t, err, what)
	}
	_, err := admin.GetPrincipal(t.Context(), iam.PrincipalName{Type: keystore.PrincipalRole, Name: alice.Name})
	requireAPIError(t, err, "NoSuchEntity", "The role with name Alice cannot be found.")

	arn := "arn:aws:iam::111122223333:user/alice"
	_, err = b.Caller(t.Context(), arn)
	requireAPIError(t, err, "NoSuchEntity", "The principal with ARN "+arn+" cannot be found.")
	key := mustCreate(t, c, types.KeySpecHmac256)
	document := `{"Statement":[{"Effect":"Allow","Principal":{"AWS":"` + arn + `"},"Action":"kms:*","Resource":"*"}]}`
	_, err = c.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: key.KeyId, Policy: &document})
	requireAPIErrorLike(t, err, "MalformedPolicyDocumentException",
		invalidPrincipalsText+" Statement[0].Principal.AWS: invalid principal *user/alice*")
}

// What is bound to a principal is bound to its unique id.
func TestBindings(t *testing.T) {
	cfg := newConfig(t)
	b, other := openClient(t, cfg).bridge, openClient(t, cfg).bridge
	user := mustCreatePrincipal(t, b, alice)
	id, ok, err := b.core.Identities.ARNToID(t.Context(), user.ARN)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, user.ID, id)
	arn, ok, err := b.core.Identities.IDToARN(t.Context(), testAccount, id)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, user.ARN, arn)
	_, ok, err = b.core.Identities.ARNToID(t.Context(), b.Root().ARN())
	require.NoError(t, err)
	require.False(t, ok, "the root has no id of this kind")
	for _, b := range []*Bridge{b, other} {
		_, ok, err := b.core.Identities.IDToARN(t.Context(), testAccount, id)
		require.NoError(t, err)
		require.True(t, ok)
	}

	require.NoError(t, asRoot(b).DeletePrincipal(t.Context(), alice))
	_, ok, err = b.core.Identities.IDToARN(t.Context(), testAccount, id)
	require.NoError(t, err)
	require.False(t, ok, "at once in this process")
	require.Eventually(t, func() bool {
		_, ok, err := other.core.Identities.IDToARN(t.Context(), testAccount, id)
		return err == nil && !ok
	}, 10*time.Second, 10*time.Millisecond)

	again := mustCreatePrincipal(t, b, alice)
	require.NotEqual(t, user.ID, again.ID)
	_, ok, err = b.core.Identities.IDToARN(t.Context(), testAccount, user.ID)
	require.NoError(t, err)
	require.False(t, ok, "a namesake is another principal")
}

func TestAccessKeysOfPrincipals(t *testing.T) {
	cfg := newConfig(t)
	b, other := openClient(t, cfg).bridge, openClient(t, cfg).bridge
	for _, name := range []iam.PrincipalName{alice, producer} {
		p := mustCreatePrincipal(t, b, name)
		first, second := mustCreateAccessKey(t, b, name), mustCreateAccessKey(t, b, name)
		require.Equal(t, name, first.Owner)
		_, err := asRoot(b).CreateAccessKey(t.Context(), name)
		kind := map[keystore.PrincipalType]string{"user": "User", "role": "Role"}[name.Type]
		requireAPIError(t, err, "LimitExceeded", "Cannot exceed quota for AccessKeysPer"+kind+": 2")
		for _, process := range []*Bridge{b, other} {
			signing, caller, err := process.SigningKey(t.Context(), first.ID, testDate, testRegion, "kms")
			require.NoError(t, err)
			require.True(t, signing == sigv4.SigningKey(first.Secret, testDate, testRegion, "kms"))
			byARN, err := process.Caller(t.Context(), p.ARN)
			require.NoError(t, err)
			require.Equal(t, byARN, caller)
		}
		list, err := asRoot(b).ListAccessKeys(t.Context(), name)
		require.NoError(t, err)
		require.Len(t, list, 2)
		require.Equal(t, name, list[0].Owner)

		require.NoError(t, asRoot(b).UpdateAccessKey(t.Context(), name, first.ID, keystore.AccessKeyInactive))
		requireUnknown(t, b, first.ID)
		require.NoError(t, asRoot(b).UpdateAccessKey(t.Context(), nobodys, first.ID, keystore.AccessKeyActive), "without a name")
		requireAPIError(t, asRoot(b).DeletePrincipal(t.Context(), name), "DeleteConflict", "Cannot delete entity, must delete access keys first.")
		require.NoError(t, asRoot(b).DeleteAccessKey(t.Context(), name, first.ID))
		require.Equal(t, "NoSuchEntity", errorCode(asRoot(b).DeleteAccessKey(t.Context(), name, first.ID)))
		third := mustCreateAccessKey(t, b, name)
		require.NoError(t, asRoot(b).DeleteAccessKey(t.Context(), name, second.ID))
		require.NoError(t, asRoot(b).DeleteAccessKey(t.Context(), nobodys, third.ID))
		require.NoError(t, asRoot(b).DeletePrincipal(t.Context(), name))
	}
	list, err := asRoot(b).ListAccessKeys(t.Context(), nobodys)
	require.NoError(t, err)
	require.Empty(t, list, "the root has none")
}

func TestAccessKeysOfOthers(t *testing.T) {
	b := newClient(t).bridge
	mustCreatePrincipal(t, b, alice)
	mustCreatePrincipal(t, b, producer)
	alices, roots := mustCreateAccessKey(t, b, alice), mustCreateAccessKey(t, b, nobodys)
	for _, id := range []string{alices.ID, roots.ID, "AKIAAAAAAAAAAAAAAAAA"} {
		gone := "The Access Key with id " + id + " cannot be found."
		requireAPIError(t, asRoot(b).DeleteAccessKey(t.Context(), producer, id), "NoSuchEntity", gone)
		requireAPIError(t, asRoot(b).UpdateAccessKey(t.Context(), producer, id, keystore.AccessKeyInactive), "NoSuchEntity", gone)
	}
	bob := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "Bob"}
	for _, err := range []error{asRoot(b).DeleteAccessKey(t.Context(), bob, alices.ID),
		second(asRoot(b).CreateAccessKey(t.Context(), bob)), second(asRoot(b).ListAccessKeys(t.Context(), bob))} {
		requireAPIError(t, err, "NoSuchEntity", "The user with name Bob cannot be found.")
	}
}

func second[T any](_ T, err error) error { return err }

// The owner is looked at on every use of an access key, and a namesake does not inherit it.
func TestAccessKeysEndWithTheirOwner(t *testing.T) {
	cfg := newConfig(t)
	b, other := openClient(t, cfg).bridge, openClient(t, cfg).bridge
	p := mustCreatePrincipal(t, b, producer)
	key := mustCreateAccessKey(t, b, producer)
	_, caller, err := other.SigningKey(t.Context(), key.ID, testDate, testRegion, "kms")
	require.NoError(t, err)

	dropPrincipal(t, b, p.ID)
	require.Eventually(t, func() bool {
		_, _, err := other.SigningKey(t.Context(), key.ID, testDate, testRegion, "kms")
		return errors.Is(err, iam.ErrUnknownAccessKey)
	}, 10*time.Second, 10*time.Millisecond)
	mustCreatePrincipal(t, b, producer)
	requireUnknown(t, b, key.ID)
	requireUnknown(t, other, key.ID)
	namesake, err := b.Caller(t.Context(), p.ARN)
	require.NoError(t, err)
	require.NotEqual(t, caller, namesake)
	require.Equal(t, caller.ARN(), namesake.ARN())
	who, err := b.core.Identities.Identify(t.Context(), caller)
	require.NoError(t, err)
	require.Zero(t, who.Principal(), "nobody")
	require.Equal(t, "NoSuchEntity", errorCode(asRoot(b).DeleteAccessKey(t.Context(), producer, key.ID)), "not the namesake's")
	require.NoError(t, asRoot(b).DeleteAccessKey(t.Context(), nobodys, key.ID))
}

// Of many who make one name, in two processes, one wins.
func TestOneNameIsMadeOnce(t *testing.T) {
	cfg := newConfig(t)
	bridges := []*Bridge{openClient(t, cfg).bridge, openClient(t, cfg).bridge}
	for range 5 {
		errs := make([]error, 6)
		var wg sync.WaitGroup
		for i := range errs {
			name := iam.PrincipalName{Type: alice.Type, Name: []string{"Alice", "ALICE", "alice"}[i%3]}
			wg.Go(func() {
				errs[i] = second(asRoot(bridges[i%2]).CreatePrincipal(t.Context(), name, iam.PrincipalOptions{}))
			})
		}
		wg.Wait()
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
				continue
			}
			assert.Equal(t, "EntityAlreadyExists", errorCode(err), "%v", err)
		}
		require.Equal(t, 1, made)
		list, err := asRoot(bridges[0]).ListPrincipals(t.Context(), alice.Type, "")
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.NoError(t, asRoot(bridges[1]).DeletePrincipal(t.Context(), list[0].PrincipalName))
	}
	requireNoDiscrepancies(t, bridges[0])
}

func requireNoDiscrepancies(t *testing.T, b *Bridge) {
	t.Helper()
	found, err := refcount.Find(t.Context(), b.core.Store, b.cfg.AccountID, b.Regions())
	require.NoError(t, err)
	require.Empty(t, found)
}

// Making an access key and deleting its owner cannot pass each other, and the quota holds for all processes at once.
func TestAccessKeysAgainstDeletion(t *testing.T) {
	cfg := newConfig(t)
	bridges := []*Bridge{openClient(t, cfg).bridge, openClient(t, cfg).bridge}
	b := bridges[0]
	for range 10 {
		p := mustCreatePrincipal(t, b, alice)
		var wg sync.WaitGroup
		made := make([]error, 4)
		for i := range made {
			wg.Go(func() { made[i] = second(asRoot(bridges[i%2]).CreateAccessKey(t.Context(), alice)) })
		}
		var deleted error
		wg.Go(func() { deleted = asRoot(bridges[1]).DeletePrincipal(t.Context(), alice) })
		wg.Wait()
		recs, err := b.core.Store.Lookup(t.Context(), keystore.IndexAccessKeyOwner, keystore.OwnerValue(testAccount, p.ID), keystore.Ref{}, 10)
		require.NoError(t, err)
		if deleted == nil {
			require.Empty(t, recs)
			for _, err := range made {
				require.Equal(t, "NoSuchEntity", errorCode(err), "%v", err)
			}
			continue
		}
		require.Equal(t, "DeleteConflict", errorCode(deleted), "%v", deleted)
		require.Len(t, recs, 2)
		requireNoDiscrepancies(t, b)
		for _, rec := range recs {
			require.NoError(t, asRoot(b).DeleteAccessKey(t.Context(), alice, rec.Ref.ID))
		}
		require.NoError(t, asRoot(b).DeletePrincipal(t.Context(), alice))
	}
	requireNoDiscrepancies(t, b)
}
